//! What the operator adds to what is rendered. Programs with drop-in directories of their own
//! (systemd-networkd's `UNIT.d/*.conf`, strongSwan's `conf.d`, sysctl.d) read those by themselves,
//! and we never touch files there that are not ours. FRR has one file: lines for it stand in
//! `/etc/lxmesh/extra/frr.conf` and are appended as they are.

use super::OutputFile;
use super::write::under;
use crate::kernel::files::read_if_exists;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Lines for FRR, from the root of the host.
pub const FRR: &str = "/etc/lxmesh/extra/frr.conf";
const FRR_CONF: &str = "/etc/frr/frr.conf";
const UNITS: &str = "/etc/systemd/network";
const MAX_BYTES: u64 = 1 << 20;

/// The lines that cannot be read, or be part of a configuration.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}\n  remedy: make it a text file of at most 1 MiB, or remove it", .path.display())]
pub struct ExtraError {
    path: PathBuf,
    source: io::Error,
}

/// The operator's lines for FRR, if there are any.
pub fn read_frr(root: &Path) -> Result<Option<String>, ExtraError> {
    let path = under(root, Path::new(FRR));
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

/// Appends them to FRR's file.
pub fn append_frr(outputs: &mut [OutputFile], lines: &str) {
    for output in outputs {
        if output.path == Path::new(FRR_CONF) {
            output.contents += &format!("! From {FRR}:\n{}\n", lines.trim_end());
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
