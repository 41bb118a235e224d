//! The check of deferred checksums on NIC ports (`kernel::checksums`): it is there before the port joins,
//! and before all other programs of the port, which might take packets past it. The filters let nothing pass that it has
//! not marked, so that a new version's filters come after it. A port that cannot have it leaves its bridge.

use super::{KernelKind, KindError, Look, Scope, index_of};
use crate::addr::IfName;
use crate::kernel::checksums::{Attached, Checks};
use crate::kernel::link::LinkKind;
use crate::kernel::rtnl::Op;
use crate::kernel::{Kernel, KernelError, fault};
use crate::model::{Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// A program at the ingress of a NIC's host-side device.
#[derive(Debug)]
pub struct Checksum;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs(pub Attached);

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.behind {
            None => f.write_str("not checked")?,
            Some(0) => f.write_str("checked first")?,
            Some(count) => write!(f, "checked, but not first ({count} before)")?,
        }
        match self.0.earlier {
            true => f.write_str(", by an earlier version"),
            false => Ok(()),
        }
    }
}

impl Kind for Checksum {
    const NAME: &'static str = "checksum";
    const OWNS: Owns = Owns::WholeObjects;
    const GUARDS: bool = true;
    type Key = IfName;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let first = Attached {
            behind: Some(0),
            earlier: false,
        };
        inputs
            .connectable()
            .map(|(nic, ..)| (nic.port.clone(), Attrs(first)))
            .collect()
    }
}

/// The program, or why there is none to attach.
fn checks(kernel: &Kernel) -> Result<&Checks, KindError> {
    match &kernel.checks {
        Ok(Some(checks)) => Ok(checks),
        Ok(None) => Err(not_loaded("it is not loaded")),
        Err(error) => Err(not_loaded(&error.to_string())),
    }
}

fn not_loaded(why: &str) -> KindError {
    KindError::File {
        what: "the check of deferred checksums".into(),
        why: format!("{why}; systemctl restart lxmesh-prepare loads it"),
    }
}

/// Whether a device has the check, wherever among its programs. Not if that cannot be told.
pub fn is_attached(kernel: &Kernel, index: u32) -> bool {
    let attached = checks(kernel).and_then(|checks| Ok(checks.attached(index)?));
    attached.is_ok_and(|attached| attached.behind.is_some())
}

/// Fails unless the check is the first program of a device, so that it may join a bridge.
pub(super) fn require(kernel: &Kernel, index: u32) -> Result<(), KindError> {
    match checks(kernel)?.attached(index)?.behind {
        Some(0) => Ok(()),
        _ => Err(KernelError::ours(
            format_args!("connecting link {index}"),
            libc::EPERM,
            "deferred checksums are not checked there",
        )
        .into()),
    }
}

/// Whether a device can have been a port of ours.
fn may_be_a_port(kind: &LinkKind) -> bool {
    !matches!(
        kind,
        LinkKind::Bridge(_) | LinkKind::Vxlan(_) | LinkKind::Vrf { .. }
    )
}

impl KernelKind for Checksum {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let checks = match checks(look.kernel) {
            // Which programs would be ours is not known then; they go with their devices.
            _ if matches!(look.kernel.checks, Ok(None)) && desired.is_empty() => {
                return Ok(Table::<Self>::new());
            }
            other => other?,
        };
        let mut found = Table::<Self>::new();
        for link in look.facts.links() {
            let wanted = desired.contains_key(&link.name);
            if !scope.has(&link.name) || !(wanted || may_be_a_port(&link.kind)) {
                continue;
            }
            match checks.attached(link.index) {
                Ok(attached) if attached.behind.is_some() || attached.earlier => {
                    found.insert(link.name.clone(), Attrs(attached));
                }
                Ok(_) => {}
                // It went away since the links were read.
                Err(error) if error.errno() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        changes
            .iter()
            .map(|change| {
                let index = index_of(facts, change.key())?;
                fault::point();
                if let Change::Delete { .. } = change {
                    return match checks(kernel)?.detach(index) {
                        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
                        other => Ok(other?),
                    };
                }
                let attached = checks(kernel).and_then(|checks| Ok(checks.attach(index)?));
                let joined = facts.link(change.key()).is_some_and(|l| l.master.is_some());
                if attached.is_err() && joined && require(kernel, index).is_err() {
                    let out = [Op::LinkDown { index }, Op::LinkMaster { index, master: 0 }];
                    for result in kernel.rtnl.apply(&out) {
                        result?;
                    }
                }
                attached
            })
            .collect()
    }
}
