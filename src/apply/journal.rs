//! What an apply needs to be undone or finished, on disk before the first change: the lock, the
//! snapshot, the journal, the host file that was kept last. All in one directory of root's.
//!
//! | file | what |
//! |---|---|
//! | `lock` | held by whoever changes anything; the kernel drops it with the process |
//! | `snapshot.json` | every file that changes, before and after; written before the journal |
//! | `journal.json` | there from `prepared` until the apply is finished or undone |
//! | `applied.toml` | the host file that was kept last |
//! | `refused.toml` | the host file of the apply that was undone last |

use super::fault;
use super::health::Health;
use crate::generate::write::{MANIFEST, Surveyed, under};
use crate::kernel::files::{read_if_exists, write_atomic};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// From the root of the host.
pub const STATE_DIRECTORY: &str = "/var/lib/lxmesh-gen";
/// Larger files there are not ours.
const MAX_BYTES: u64 = 64 << 20;

/// What cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}\n  remedy: run as root, on a file system that can be written", .path.display())]
pub struct StateError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_path_buf();
    move |source| StateError {
        action,
        path,
        source,
    }
}

/// How far an apply has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The snapshot is there; nothing has changed.
    Prepared,
    /// Files and programs are anything between old and new.
    Writing,
    /// Files and programs are new; not kept yet.
    Activated,
    /// Kept; only the journal is left to be removed.
    Confirmed,
}

/// The journal: small, rewritten at every stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Names this apply.
    pub id: String,
    pub stage: Stage,
    /// Until when somebody may confirm it.
    pub deadline: Option<Deadline>,
}

/// A moment of one boot of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    boot: String,
    /// Seconds since then, suspended ones included.
    uptime_s: u64,
}

/// What was before an apply, and what it makes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub entries: Vec<Entry>,
    /// Directories that the apply makes, from the root of the host, the innermost last.
    pub directories: Vec<PathBuf>,
    /// Where the host file is, if it is this host's own.
    pub host_path: Option<PathBuf>,
    /// The host file that was kept last, if one was.
    pub host_before: Option<String>,
    pub host_after: String,
    /// How the fabric was.
    pub health: Health,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// From the root of the host.
    pub path: PathBuf,
    pub before: Option<Stored>,
    pub after: Option<String>,
}

/// A file's content, mode and owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    bytes: Bytes,
    mode: u32,
    owner: (u32, u32),
}

/// Text where it is text, so that a person can read the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Bytes {
    Text(String),
    Raw(Vec<u8>),
}

impl Stored {
    fn read(path: &Path) -> Result<Option<Self>, StateError> {
        let Some(bytes) = read_if_exists(path, MAX_BYTES).map_err(failed("read", path))? else {
            return Ok(None);
        };
        let metadata = fs::metadata(path).map_err(failed("look at", path))?;
        Ok(Some(Stored {
            bytes: match String::from_utf8(bytes) {
                Ok(text) => Bytes::Text(text),
                Err(error) => Bytes::Raw(error.into_bytes()),
            },
            mode: metadata.permissions().mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
        }))
    }

    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Text(text) => text.as_bytes(),
            Bytes::Raw(bytes) => bytes,
        }
    }

    /// What stands in the file, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// The directory, locked by this process.
pub struct State {
    root: PathBuf,
    directory: PathBuf,
    _lock: File,
}

impl State {
    /// Makes the directory if it is not there, and takes the lock; `None` if another process has
    /// it and `wait` is false.
    pub fn open(root: &Path, wait: bool) -> Result<Option<Self>, StateError> {
        let directory = under(root, Path::new(STATE_DIRECTORY));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(failed("make the directory", &directory))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        let operation = match wait {
            true => FlockOperation::LockExclusive,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        match flock(&lock, operation) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(failed("lock", &path)(errno.into())),
        }
        Ok(Some(State {
            root: root.into(),
            directory,
            _lock: lock,
        }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn read_json<T: serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, StateError> {
        let path = self.path(name);
        let bytes = read_if_exists(&path, MAX_BYTES).map_err(failed("read", &path))?;
        let parse = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes)
                .map_err(|error| failed("understand", &path)(error.into()))
        };
        bytes.map(parse).transpose()
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), StateError> {
        let text = serde_json::to_vec(value).expect("our own types have keys that are text");
        self.write(name, &text)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        fault::point();
        let path = self.path(name);
        write_atomic(&path, bytes, 0o600).map_err(failed("write", &path))
    }

    fn remove(&self, name: &str) -> Result<(), StateError> {
        fault::point();
        remove_if_there(&self.path(name))
    }

    /// The apply that is not finished, if there is one.
    pub fn journal(&self) -> Result<Option<Journal>, StateError> {
        self.read_json("journal.json")
    }

    pub fn set_journal(&self, journal: &Journal) -> Result<(), StateError> {
        self.write_json("journal.json", journal)
    }

    /// That of the journal.
    pub fn snapshot(&self) -> Result<Snapshot, StateError> {
        let path = self.path("snapshot.json");
        let missing = || io::Error::new(io::ErrorKind::NotFound, "there is a journal without it");
        self.read_json("snapshot.json")?
            .ok_or_else(|| failed("read", &path)(missing()))
    }

    pub fn set_snapshot(&self, snapshot: &Snapshot) -> Result<(), StateError> {
        self.write_json("snapshot.json", snapshot)
    }

    /// The host file that was kept last.
    pub fn applied(&self) -> Result<Option<String>, StateError> {
        applied(&self.root)
    }

    pub fn set_applied(&self, text: &str) -> Result<(), StateError> {
        match self.applied()?.as_deref() == Some(text) {
            true => Ok(()),
            false => self.write("applied.toml", text.as_bytes()),
        }
    }

    /// Forgets the apply, as the last of its steps.
    pub fn close(&self) -> Result<(), StateError> {
        for name in [
            "journal.json",
            "snapshot.json",
            "guard",
            "frr-delta.conf",
            "load.nft",
        ] {
            self.remove(name)?;
        }
        Ok(())
    }

    /// Takes a snapshot of what a survey would change.
    pub fn snapshot_of(
        &self,
        surveyed: &[Surveyed],
    ) -> Result<(Vec<Entry>, Vec<PathBuf>), StateError> {
        let changing = surveyed.iter().filter(|one| one.changes());
        let files = changing.map(|one| (one.path.clone(), one.after.as_ref()));
        let manifest = (PathBuf::from(MANIFEST), None);
        let mut entries = Vec::new();
        let mut directories = Vec::new();
        for (path, after) in files.chain([manifest]) {
            entries.push(Entry {
                before: Stored::read(&under(&self.root, &path))?,
                after: after.map(|output| output.contents.clone()),
                path: path.clone(),
            });
            let parents: Vec<&Path> = path.ancestors().skip(1).collect();
            for parent in parents.into_iter().rev() {
                let known = directories.iter().any(|known| known == parent);
                if !known && !under(&self.root, parent).exists() {
                    directories.push(parent.to_path_buf());
                }
            }
        }
        Ok((entries, directories))
    }

    /// Puts every file of the snapshot back as it was. Doing it twice is harmless.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), StateError> {
        for entry in &snapshot.entries {
            fault::point();
            let path = under(&self.root, &entry.path);
            sweep(&path);
            match &entry.before {
                None => remove_if_there(&path)?,
                Some(stored) => put_back(&path, stored)?,
            }
        }
        for directory in snapshot.directories.iter().rev() {
            // What somebody else has put there since, keeps it.
            let _ = fs::remove_dir(under(&self.root, directory));
        }
        self.restore_host_file(snapshot)
    }

    /// The host file is the operator's: it is put back only if it is still the one that was
    /// refused, and that one is kept.
    fn restore_host_file(&self, snapshot: &Snapshot) -> Result<(), StateError> {
        let (Some(path), Some(before)) = (&snapshot.host_path, &snapshot.host_before) else {
            return Ok(());
        };
        let path = under(&self.root, path);
        let Some(stored) = Stored::read(&path)? else {
            return Ok(());
        };
        if *before == snapshot.host_after || stored.text() != snapshot.host_after {
            return Ok(());
        }
        self.write("refused.toml", snapshot.host_after.as_bytes())?;
        fault::point();
        let kept = Stored {
            bytes: Bytes::Text(before.clone()),
            ..stored
        };
        put_back(&path, &kept)
    }

    /// Where FRR's lines go that `vtysh` reads.
    pub fn frr_delta(&self, lines: &[String]) -> Result<PathBuf, StateError> {
        self.write("frr-delta.conf", (lines.join("\n") + "\n").as_bytes())?;
        Ok(self.path("frr-delta.conf"))
    }

    /// Where a script goes that `nft` reads.
    pub fn nft_script(&self, text: &str) -> Result<PathBuf, StateError> {
        self.write("load.nft", text.as_bytes())?;
        Ok(self.path("load.nft"))
    }
}

/// The host file that was kept last. Needs no lock.
pub fn applied(root: &Path) -> Result<Option<String>, StateError> {
    let path = under(root, Path::new(STATE_DIRECTORY)).join("applied.toml");
    let bytes = read_if_exists(&path, MAX_BYTES).map_err(failed("read", &path))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The id that the guard has written when it was ready. Needs no lock.
pub fn guard_is_ready(root: &Path, id: &str) -> bool {
    fs::read(guard_file(root)).is_ok_and(|bytes| bytes == id.as_bytes())
}

pub fn tell_guard_is_ready(root: &Path, id: &str) -> Result<(), StateError> {
    let path = guard_file(root);
    write_atomic(&path, id.as_bytes(), 0o600).map_err(failed("write", &path))
}

fn guard_file(root: &Path) -> PathBuf {
    under(root, Path::new(STATE_DIRECTORY)).join("guard")
}

fn put_back(path: &Path, stored: &Stored) -> Result<(), StateError> {
    if Stored::read(path)?.as_ref() == Some(stored) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed("make the directory", directory))?;
    write_atomic(path, stored.bytes(), stored.mode).map_err(failed("write", path))?;
    let (user, group) = stored.owner;
    chown(path, Some(user), Some(group)).map_err(failed("give its owner", path))
}

fn remove_if_there(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes what a killed `write_atomic` has left beside a file: `.NAME.PID-COUNT.tmp`.
fn sweep(path: &Path) {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return;
    };
    let start = format!(".{}.", name.to_string_lossy());
    let left = |name: &str| name.starts_with(&start) && name.ends_with(".tmp");
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(left) {
            // Harmless if it stays: no program reads such a name.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Deadline {
    /// So many seconds from now.
    pub fn after(seconds: u64) -> Self {
        Deadline {
            boot: boot(),
            uptime_s: uptime_s() + seconds,
        }
    }

    /// Seconds that are left; 0 after it, and in any other boot.
    pub fn left_s(&self) -> u64 {
        match self.boot == boot() {
            true => self.uptime_s.saturating_sub(uptime_s()),
            false => 0,
        }
    }
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().into()
}

fn uptime_s() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let whole = text.split(['.', ' ']).next().unwrap_or_default();
    whole.parse().unwrap_or_default()
}

/// A name for an apply that no other has.
pub fn new_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid");
    id.unwrap_or_else(|_| std::process::id().to_string())
        .trim()
        .into()
}
