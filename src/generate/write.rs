//! Rendered files onto a host, or into a directory that stands for one. Owns exactly the files
//! that its manifest lists; a file that is foreign or was edited by hand is refused, all such
//! files together, before anything is written. What the programs do with them is not its business.

use super::diff::{self, DiffText};
use super::{MARKER, OutputFile, extra};
use crate::kernel::files::write_atomic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

/// Which files are ours, and what we wrote into them. From the root of the host.
pub const MANIFEST: &str = "/var/lib/lxmesh/manifest.json";
/// Whoever knows the hash of a file, and all of the file but the password in it, can try passwords.
const MANIFEST_MODE: u32 = 0o600;
const DPKG_STATUS: &str = "/var/lib/dpkg/status";

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Unchanged,
    Created,
    Replaced,
    /// Replaced although it was not ours; the old one is kept there.
    Forced {
        kept: PathBuf,
    },
    /// No longer rendered.
    Removed,
    /// No longer rendered, but edited by hand since: left where it is.
    Left,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Unchanged => f.write_str("unchanged"),
            Fate::Created => f.write_str("created"),
            Fate::Replaced => f.write_str("replaced"),
            Fate::Forced { kept } => write!(f, "replaced, the old one is {}", kept.display()),
            Fate::Removed => f.write_str("removed"),
            Fate::Left => f.write_str("left, because it was edited by hand"),
        }
    }
}

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{}", refusals(.0))]
    Refused(Vec<Refusal>),
    #[error("cannot {action} {}: {source}\n  remedy: run as root, on a file system that can be written", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot understand {}: {source}\n  remedy: remove it; then files that are there already need `lxmesh-gen adopt`", .path.display())]
    Manifest {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{} is none of the files that the host file stands for on this host\n  remedy: `lxmesh-gen render` lists them", .0.display())]
    NotRendered(PathBuf),
}

/// A file that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub path: PathBuf,
    /// What it is, as the end of a sentence.
    pub reason: &'static str,
    /// From the file that is there to the one that would be; empty if that is no regular file.
    pub diff: String,
}

fn refusals(all: &[Refusal]) -> String {
    let mut text = String::new();
    for Refusal { path, reason, diff } in all {
        text += &format!("will not overwrite {}: it {reason}\n{diff}", path.display());
    }
    let of_frr = all
        .iter()
        .any(|refusal| refusal.path.starts_with("/etc/frr"));
    let also = match of_frr {
        true => format!(
            "; lines of your own for FRR go to {} and {}",
            extra::FRR,
            extra::FRR_DAEMONS
        ),
        false => String::new(),
    };
    text + &format!(
        "  remedy: move the changes to the host file, then `lxmesh-gen adopt FILE` for each; a copy is kept{also}"
    )
}

/// Paths from the host's root, and the SHA-256 of what may be in each: one, or two while writing.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    files: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl Manifest {
    fn knows(&self, path: &Path, bytes: &[u8]) -> bool {
        self.files
            .get(path)
            .is_some_and(|hashes| hashes.contains(&hash(bytes)))
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// One file that is, or should be, ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// From the root of the host.
    pub path: PathBuf,
    /// What is there; `None` if nothing is.
    pub before: Option<Vec<u8>>,
    /// What should be there; `None` if it is no longer rendered.
    pub after: Option<OutputFile>,
    /// What writing would make of it.
    pub fate: Fate,
}

impl Surveyed {
    /// True if writing would change the file.
    pub fn changes(&self) -> bool {
        !matches!(self.fate, Fate::Unchanged | Fate::Left)
    }
}

/// What writing would do to each file, sorted by path; changes nothing. All files that are in the
/// way are one error, unless `force`.
pub fn survey(
    root: &Path,
    outputs: &[OutputFile],
    force: bool,
) -> Result<Vec<Surveyed>, WriteError> {
    survey_by(root, outputs, force, &read_manifest(root)?)
}

fn survey_by(
    root: &Path,
    outputs: &[OutputFile],
    force: bool,
    manifest: &Manifest,
) -> Result<Vec<Surveyed>, WriteError> {
    let pristine = Pristine::read(root)?;
    let mut surveyed = Vec::new();
    let mut refused = Vec::new();
    for output in outputs {
        let (found, before) = look(root, output, manifest, &pristine)?;
        let fate = match found {
            Found::Same => Fate::Unchanged,
            Found::Nothing => Fate::Created,
            Found::Ours => Fate::Replaced,
            Found::Theirs(_) if force => Fate::Forced {
                kept: free_name(root, &output.path),
            },
            Found::Theirs(reason) => {
                refused.push(Refusal {
                    path: output.path.clone(),
                    reason,
                    diff: before.map_or_else(String::new, |bytes| {
                        diff::unified(DiffText {
                            path: &output.path,
                            before: Some(&bytes),
                            after: Some(output.contents.as_bytes()),
                        })
                    }),
                });
                continue;
            }
        };
        surveyed.push(Surveyed {
            path: output.path.clone(),
            before,
            after: Some(output.clone()),
            fate,
        });
    }
    if !refused.is_empty() {
        return Err(WriteError::Refused(refused));
    }
    let rendered: BTreeSet<&PathBuf> = outputs.iter().map(|output| &output.path).collect();
    for stale in manifest
        .files
        .keys()
        .filter(|path| !rendered.contains(path))
    {
        surveyed.extend(look_at_stale(root, stale, manifest)?);
    }
    surveyed.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(surveyed)
}

/// Writes the files under `root`, removes ours that are no longer among them, and says what
/// became of each, sorted by path. Doing it twice changes nothing.
pub fn write(
    root: &Path,
    outputs: &[OutputFile],
    force: bool,
) -> Result<Vec<(PathBuf, Fate)>, WriteError> {
    let manifest = read_manifest(root)?;
    let surveyed = survey_by(root, outputs, force, &manifest)?;
    write_surveyed(root, &surveyed, &mut || ())?;
    Ok(surveyed
        .into_iter()
        .map(|one| (one.path, one.fate))
        .collect())
}

/// Makes what a survey says. `before_each` is called before each change of a file.
pub fn write_surveyed(
    root: &Path,
    surveyed: &[Surveyed],
    before_each: &mut dyn FnMut(),
) -> Result<(), WriteError> {
    let manifest = read_manifest(root)?;
    let outputs = || surveyed.iter().filter_map(|one| one.after.as_ref());
    let done = Manifest {
        version: 1,
        files: outputs()
            .map(|output| {
                (
                    output.path.clone(),
                    BTreeSet::from([hash(output.contents.as_bytes())]),
                )
            })
            .collect(),
    };
    // Killed half-way, the next run knows both the old and the new contents as ours.
    let mut during = Manifest {
        version: 1,
        files: manifest.files.clone(),
    };
    for (path, hashes) in &done.files {
        during
            .files
            .entry(path.clone())
            .or_default()
            .extend(hashes.iter().cloned());
    }
    before_each();
    write_manifest(root, &during)?;
    for one in surveyed.iter().filter(|one| one.changes()) {
        before_each();
        let path = under(root, &one.path);
        match (&one.fate, &one.after) {
            (Fate::Forced { kept }, after) => {
                let kept = under(root, kept);
                fs::rename(&path, &kept).map_err(failed("keep a copy of", &path))?;
                if let Some(output) = after {
                    close_like(&kept, output)?;
                }
            }
            (_, None) => fs::remove_file(&path).map_err(failed("remove", &path))?,
            _ => {}
        }
        if let Some(output) = &one.after {
            put(&path, output)?;
        }
    }
    before_each();
    write_manifest(root, &done)
}

/// Makes a file that is in the way ours, so that it is replaced from now on: its content becomes
/// known, and a copy is kept beside it. Returns the copy's path, from the root of the host.
pub fn adopt(root: &Path, outputs: &[OutputFile], path: &Path) -> Result<PathBuf, WriteError> {
    let Some(output) = outputs.iter().find(|output| output.path == path) else {
        return Err(WriteError::NotRendered(path.into()));
    };
    let at = under(root, path);
    let bytes = fs::read(&at).map_err(failed("read", &at))?;
    let kept = free_name(root, path);
    let copy = under(root, &kept);
    let mode = fs::metadata(&at)
        .map_err(failed("look at", &at))?
        .permissions()
        .mode();
    let mode = mode & 0o7777 & !closed_to(output);
    write_atomic(&copy, &bytes, mode).map_err(failed("write", &copy))?;
    let mut manifest = read_manifest(root)?;
    manifest.version = 1;
    let known = manifest.files.entry(path.into()).or_default();
    known.insert(hash(&bytes));
    write_manifest(root, &manifest)?;
    Ok(kept)
}

/// What others may not do with a file: what is closed to them may have a secret in it, and so may
/// the one that was there before.
fn closed_to(output: &OutputFile) -> u32 {
    const OTHERS: u32 = 0o007;
    match output.mode & OTHERS {
        0 => OTHERS,
        _ => 0,
    }
}

/// Closes a kept file, not what a symbolic link leads to.
fn close_like(kept: &Path, output: &OutputFile) -> Result<(), WriteError> {
    let metadata = fs::symlink_metadata(kept).map_err(failed("look at", kept))?;
    let mode = metadata.permissions().mode() & 0o7777;
    let closed = mode & !closed_to(output);
    if !metadata.is_file() || mode == closed {
        return Ok(());
    }
    fs::set_permissions(kept, fs::Permissions::from_mode(closed)).map_err(failed("close", kept))
}

/// What is at an output's path.
enum Found {
    Nothing,
    Same,
    Ours,
    Theirs(&'static str),
}

fn look(
    root: &Path,
    output: &OutputFile,
    manifest: &Manifest,
    pristine: &Pristine,
) -> Result<(Found, Option<Vec<u8>>), WriteError> {
    let path = under(root, &output.path);
    let kind = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Found::Nothing, None)),
        Err(error) => return Err(failed("look at", &path)(error)),
    };
    if !kind.is_file() {
        return Ok((Found::Theirs("is not a regular file"), None));
    }
    let bytes = fs::read(&path).map_err(failed("read", &path))?;
    let first_line = bytes
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let marked = String::from_utf8_lossy(first_line).contains(MARKER);
    let found = if bytes == output.contents.as_bytes() {
        Found::Same
    } else if manifest.knows(&output.path, &bytes) || pristine.contains(&output.path, &bytes) {
        Found::Ours
    } else if marked {
        Found::Theirs("was edited by hand")
    } else {
        Found::Theirs("was not written by lxmesh-gen")
    };
    Ok((found, Some(bytes)))
}

/// Configuration files as their Debian packages brought them, which nobody has edited.
struct Pristine(BTreeMap<PathBuf, String>);

impl Pristine {
    fn read(root: &Path) -> Result<Self, WriteError> {
        let path = under(root, Path::new(DPKG_STATUS));
        let status = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        // deb822: " PATH MD5" in the field Conffiles.
        let line = |line: &str| {
            let (path, sum) = line.strip_prefix(" /")?.split_once(' ')?;
            (sum.len() == 32).then(|| (Path::new("/").join(path), sum.to_string()))
        };
        Ok(Pristine(status.lines().filter_map(line).collect()))
    }

    fn contains(&self, path: &Path, bytes: &[u8]) -> bool {
        let sum = |bytes: &[u8]| -> String {
            md5::Md5::digest(bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        };
        self.0.get(path).is_some_and(|known| *known == sum(bytes))
    }
}

/// `None` if the file is gone already.
fn look_at_stale(
    root: &Path,
    stale: &Path,
    manifest: &Manifest,
) -> Result<Option<Surveyed>, WriteError> {
    let path = under(root, stale);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    let fate = match manifest.knows(stale, &bytes) {
        true => Fate::Removed,
        false => Fate::Left,
    };
    Ok(Some(Surveyed {
        path: stale.into(),
        before: Some(bytes),
        after: None,
        fate,
    }))
}

fn put(path: &Path, output: &OutputFile) -> Result<(), WriteError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed("make the directory", directory))?;
    // FRR's directory is FRR's, and so are its files.
    let owner = fs::symlink_metadata(path)
        .or_else(|_| fs::metadata(directory))
        .map_err(failed("look at", directory))?;
    write_atomic(path, output.contents.as_bytes(), output.mode).map_err(failed("write", path))?;
    let written = fs::metadata(path).map_err(failed("look at", path))?;
    if (owner.uid(), owner.gid()) == (written.uid(), written.gid()) {
        return Ok(());
    }
    chown(path, Some(owner.uid()), Some(owner.gid())).map_err(failed("give its owner", path))
}

fn read_manifest(root: &Path) -> Result<Manifest, WriteError> {
    let path = under(root, Path::new(MANIFEST));
    match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|source| WriteError::Manifest { path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Manifest::default()),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

fn write_manifest(root: &Path, manifest: &Manifest) -> Result<(), WriteError> {
    let path = under(root, Path::new(MANIFEST));
    let text = serde_json::to_string_pretty(manifest).expect("paths come from UTF-8 text");
    let text = format!("{text}\n");
    let closed = |metadata: fs::Metadata| metadata.permissions().mode() & 0o7777 == MANIFEST_MODE;
    if fs::read(&path).is_ok_and(|bytes| bytes == text.as_bytes())
        && fs::metadata(&path).is_ok_and(closed)
    {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(root);
    fs::create_dir_all(directory).map_err(failed("make the directory", directory))?;
    write_atomic(&path, text.as_bytes(), MANIFEST_MODE).map_err(failed("write", &path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.to_path_buf();
    move |source| WriteError::Io {
        action,
        path,
        source,
    }
}

/// The path on this machine of a path from the host's root.
pub fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Where the file that is in the way goes; its ending keeps every program from reading it.
fn free_name(root: &Path, path: &Path) -> PathBuf {
    let name = |number: u32| {
        let suffix = if number == 0 {
            String::new()
        } else {
            format!(".{number}")
        };
        PathBuf::from(format!("{}.before-lxmesh{suffix}", path.display()))
    };
    (0..)
        .map(name)
        .find(|name| fs::symlink_metadata(under(root, name)).is_err())
        .expect("an endless range has a free name")
}
