//! What the tables `lxmesh_closed` should be: the text that `lxmesh-gen` writes for the unit that loads
//! it at boot, from the same code, for the host's own devices as its file has them, as they are found, and as the
//! tables have them already.
//!
//! A device once found stays: if the underlay's route goes, its device must not be closed, or the
//! route would never come back.

use crate::addr::IfName;
use crate::generate::MARKER;
use crate::generate::closed::{self, Devices};
use crate::host::{Firewall, HostFile};
use crate::kernel::nft::Family;
use crate::kernel::{Kernel, KernelError};
use crate::kinds;
use crate::model::Facts;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Adds what is known of them to the facts.
pub fn add(facts: &mut Facts, kernel: &mut Kernel, host: &HostFile) {
    let text = text(kernel, host, facts);
    if let Ok(text) = &text {
        facts.uplinks = closed::uplinks_in(text);
    }
    facts.closed = Some(text);
}

/// The text, or why it is not known.
fn text(kernel: &mut Kernel, host: &HostFile, facts: &Facts) -> Result<Arc<str>, String> {
    let mut uplinks = BTreeSet::new();
    let mut devices = Devices::default();
    let mut underlay = None;
    if host.host.uplinks.is_none() {
        if host.firewall.enabled
            && let Ok(text) = std::fs::read_to_string(path())
            && text.starts_with(&format!("# {MARKER}"))
        {
            uplinks = closed::uplinks_in(&text);
        }
        devices =
            Devices::find(&mut kernel.rtnl, facts.links()).map_err(|error| error.to_string())?;
        if devices != Devices::default() {
            underlay = closed::underlay(host);
        }
    }
    uplinks.extend(closed::uplinks(host, underlay, &devices));
    if host.host.uplinks.is_none() {
        uplinks.extend(kept(kernel, &uplinks).map_err(|error| error.to_string())?);
    }
    match closed::render(host, &uplinks) {
        Ok(file) => Ok(file.contents.into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Devices besides those that the tables let pass already; none if it is not known that an agent has loaded these.
fn kept(kernel: &mut Kernel, besides: &BTreeSet<String>) -> Result<BTreeSet<String>, KernelError> {
    let (family, table) = (Family::Inet, Firewall::CLOSED);
    let mut known = Vec::new();
    for set in closed::UPLINKS {
        known.extend(kernel.nft.elements(family, table, set)?.unwrap_or_default());
    }
    let known = known.into_iter();
    let known = known.filter_map(|element| name_of(&element.key));
    let mut kept: BTreeSet<String> = known.filter(|name| !besides.contains(name)).collect();
    // To be looked at only where there is something to believe.
    if !kept.is_empty() && !kinds::closed::is_intact(kernel)? {
        kept.clear();
    }
    Ok(kept)
}

/// A name of a device in a set, filled up with zeros. Nothing else gets into the text.
fn name_of(key: &[u8]) -> Option<String> {
    let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    let name: IfName = std::str::from_utf8(&key[..end]).ok()?.parse().ok()?;
    Some(name.to_string())
}

/// Tests have no /etc of their own.
#[cfg(feature = "test-hooks")]
fn path() -> PathBuf {
    std::env::var_os("LXMESH_TEST_CLOSED_FILE").map_or(closed::PATH.into(), PathBuf::from)
}
#[cfg(not(feature = "test-hooks"))]
fn path() -> PathBuf {
    closed::PATH.into()
}
