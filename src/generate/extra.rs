//! What the operator adds to what is rendered. Programs with drop-in directories of their own
//! (systemd-networkd's `UNIT.d/*.conf`, strongSwan's `conf.d`, sysctl.d) read those by themselves,
//! and we never touch files there that are not ours. FRR has one file, and another that says which of its
//! daemons run: lines for them stand in `/etc/lxmesh/extra/frr.conf` and `frr-daemons` there, and are appended as
//! they are. What daemons the former needs is in `daemons.rs`.

use super::write::under;
use super::{OutputFile, daemons};
use crate::kernel::files::read_if_exists;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Lines for FRR, from the root of the host.
pub const FRR: &str = "/etc/lxmesh/extra/frr.conf";
/// Lines for the file that says which of FRR's daemons run, with which options.
pub const FRR_DAEMONS: &str = "/etc/lxmesh/extra/frr-daemons";
const FRR_CONF: &str = "/etc/frr/frr.conf";
const DAEMONS: &str = "/etc/frr/daemons";
const UNITS: &str = "/etc/systemd/network";
const MAX_BYTES: u64 = 1 << 20;

/// The lines that cannot be read, or be part of a configuration.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}\n  remedy: make it a text file of at most 1 MiB, or remove it", .path.display())]
pub struct ExtraError {
    path: PathBuf,
    source: io::Error,
}

/// The operator's lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    /// Of [`FRR`].
    pub frr: Option<String>,
    /// Of [`FRR_DAEMONS`].
    pub frr_daemons: Option<String>,
}

/// All lines of the operator below `root`.
pub fn read(root: &Path) -> Result<Extra, ExtraError> {
    Ok(Extra {
        frr: read_frr(root)?,
        frr_daemons: read_lines(root, FRR_DAEMONS)?,
    })
}

/// The operator's lines for FRR, if there are any.
pub fn read_frr(root: &Path) -> Result<Option<String>, ExtraError> {
    read_lines(root, FRR)
}

fn read_lines(root: &Path, path: &str) -> Result<Option<String>, ExtraError> {
    let path = under(root, Path::new(path));
    let read = || {
        let bytes = read_if_exists(&path, MAX_BYTES)?;
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    };
    match read() {
        Ok(text) => Ok(text.filter(|text| !text.trim().is_empty())),
        Err(source) => Err(ExtraError { path, source }),
    }
}

/// Appends them to FRR's files. Their own lines about daemons come last, so that these have the last word.
pub fn append(outputs: &mut [OutputFile], extra: &Extra) {
    let Extra { frr, frr_daemons } = extra;
    let mut conf = String::new();
    let mut daemons = String::new();
    if let Some(lines) = frr {
        conf = format!("! From {FRR}:\n{}\n", lines.trim_end());
        let needed = daemons::needed(lines);
        if !needed.is_empty() {
            daemons = format!("# Needed by {FRR}:\n");
            daemons.extend(needed.into_iter().map(daemons::lines));
        }
    }
    if let Some(lines) = frr_daemons {
        daemons += &format!("# From {FRR_DAEMONS}:\n{}\n", lines.trim_end());
    }
    for output in outputs {
        match output.path.to_str() {
            Some(FRR_CONF) => output.contents += &conf,
            Some(DAEMONS) => output.contents += &daemons,
            _ => {}
        }
    }
}

/// Drop-in directories of networkd units of ours that are no longer rendered: nothing reads them.
pub fn orphans(root: &Path, outputs: &[OutputFile]) -> Vec<PathBuf> {
    let units: BTreeSet<String> = outputs
        .iter()
        .filter(|output| output.path.starts_with(UNITS))
        .map(|output| format!("{}.d", output.path.display()))
        .collect();
    let mut found: Vec<PathBuf> = fs::read_dir(under(root, Path::new(UNITS)))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("10-lxmesh-") && name.ends_with(".d"))
        .map(|name| format!("{UNITS}/{name}"))
        .filter(|path| !units.contains(path))
        .map(PathBuf::from)
        .collect();
    found.sort();
    found
}
