//! Rendered files, read by the programs that they are for, as far as these can check without
//! taking anything over: `vtysh -C`, `bash -n`, `nft -c`, `dnsmasq --test`, and strongSwan's daemon when it
//! answers. `check` prints what they say, `apply` asks them before it changes anything. What is not
//! installed is said, and is no error. Writes only below a directory of its own, which goes again.

use super::{OutputFile, extra};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the readers found wrong.
#[derive(Debug, thiserror::Error)]
pub enum ReadersError {
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    #[error("cannot check files in {}: {source}\n  remedy: make room in the directory for temporary files", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// One reader's verdict.
enum Verdict {
    Fine,
    NotAsked(&'static str),
    Refused(String),
}

/// Has every file checked that a program here can check; one line for each.
pub fn check(outputs: &[OutputFile]) -> Result<String, ReadersError> {
    let scratch = Scratch::new()?;
    let mut text = String::new();
    let mut refused = Vec::new();
    for output in outputs {
        let Some((reader, verdict)) = ask(output, &scratch)? else {
            continue;
        };
        let path = output.path.display();
        match verdict {
            Verdict::Fine => text += &format!("{path}: {reader} takes it\n"),
            Verdict::NotAsked(why) => text += &format!("{path}: not checked, {reader} {why}\n"),
            Verdict::Refused(said) => refused.push(format!(
                "{path}: {reader} refuses it: {said}\n  remedy: {}",
                remedy(output, reader)
            )),
        }
    }
    match refused.is_empty() {
        true => Ok(text),
        false => Err(ReadersError::Refused(refused)),
    }
}

fn remedy(output: &OutputFile, reader: &str) -> String {
    let has = |path: &&&str| output.contents.contains(&format!("From {path}:\n"));
    match [extra::FRR, extra::FRR_DAEMONS].iter().find(has) {
        Some(path) => format!("correct the lines in {path}"),
        None => format!(
            "this is no fault of the host file unless it names something that {reader} lacks; report it with the file"
        ),
    }
}

/// `None` for files that no program can check beforehand.
fn ask(
    output: &OutputFile,
    scratch: &Scratch,
) -> Result<Option<(&'static str, Verdict)>, ReadersError> {
    let name = output.path.to_string_lossy().into_owned();
    let (reader, arguments): (&'static str, &[&str]) = match name.as_str() {
        "/etc/frr/frr.conf" => ("vtysh", &["-C", "-f"]),
        // The shell of FRR's start script reads it. Without lines of the operator's it is always the same.
        "/etc/frr/daemons" if output.contents.contains(extra::FRR_DAEMONS) => ("bash", &["-n"]),
        "/etc/lxmesh/firewall.nft" | "/etc/lxmesh/closed.nft" => ("nft", &["-c", "-f"]),
        "/etc/swanctl/conf.d/lxmesh.conf" => return Ok(Some(("swanctl", ask_charon()))),
        name if name.starts_with("/etc/dnsmasq.d/") => ("dnsmasq", &["--test", "-C"]),
        _ => return Ok(None),
    };
    let path = scratch.write(output)?;
    let asked = Command::new(reader).args(arguments).arg(&path).output();
    Ok(Some((reader, verdict(asked, &path, &name))))
}

fn verdict(asked: io::Result<std::process::Output>, path: &Path, name: &str) -> Verdict {
    match asked {
        Err(_) => Verdict::NotAsked("is not installed"),
        Ok(output) if output.status.success() => Verdict::Fine,
        Ok(output) => {
            let said = [output.stderr, output.stdout].concat();
            let said = String::from_utf8_lossy(&said).replace(&path.display().to_string(), name);
            match said.contains("Operation not permitted") {
                true => Verdict::NotAsked("needs root for that"),
                false => Verdict::Refused(said.trim().to_string()),
            }
        }
    }
}

/// swanctl checks nothing by itself: it hands the file to the daemon, which takes it over. So only
/// whether the daemon answers is asked.
fn ask_charon() -> Verdict {
    match Command::new("swanctl").arg("--stats").output() {
        Err(_) => Verdict::NotAsked("is not installed"),
        Ok(output) if output.status.success() => {
            Verdict::NotAsked("hands it to strongSwan, which answers, only to be taken over")
        }
        Ok(_) => Verdict::NotAsked("needs strongSwan to run, which does not answer"),
    }
}

/// A directory that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, ReadersError> {
        // What was killed has left its directory, and other namespaces have the same process ids.
        let base = std::env::temp_dir().join(format!("lxmesh-gen.{}", std::process::id()));
        for attempt in 0..1000 {
            let path = PathBuf::from(format!("{}.{attempt}", base.display()));
            match std::fs::create_dir(&path) {
                Ok(()) => return Ok(Scratch(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(ReadersError::Io { path, source }),
            }
        }
        let source = io::ErrorKind::AlreadyExists.into();
        Err(ReadersError::Io { path: base, source })
    }

    fn write(&self, output: &OutputFile) -> Result<PathBuf, ReadersError> {
        let name = output.path.file_name().unwrap_or_default();
        let path = self.0.join(name);
        let written = crate::kernel::files::write_atomic(&path, output.contents.as_bytes(), 0o600);
        written.map_err(|source| ReadersError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is below the directory for temporary files; what stays there does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
