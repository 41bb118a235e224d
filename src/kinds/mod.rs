//! One file per kernel object: its key, its attributes, why we want it, how it is read and how it
//! is written. `derive` is pure; `KernelKind` is the only place where kinds meet the kernel.
//!
//! The order of [`visit_kinds`] is the order of creation (filters before ports, ports before
//! what FRR announces); deletion goes the other way.

pub mod bridge_attrs;
pub mod checksum;
pub mod closed;
pub mod dnsmasq_file;
pub mod fdb;
pub mod mdb;
pub mod neighbour;
pub mod nft_element;
pub mod nft_set;
pub mod nft_table;
pub mod nft_whole;
pub mod port_attrs;
pub mod route;
pub mod shut;
pub mod solicit;
pub mod vtep;
pub mod vxlan_attrs;

use crate::host::HostFile;
use crate::kernel::rtnl::Op;
use crate::kernel::{Kernel, KernelError, fault};
use crate::model::{Change, Facts, Kind, Table};
use std::collections::BTreeSet;

/// Which objects to look at.
#[derive(Debug)]
pub enum Scope<K: Kind> {
    /// All that are ours, and all that stand where ours should be.
    All,
    /// Only these keys.
    Keys(BTreeSet<K::Key>),
}

impl<K: Kind> Scope<K> {
    pub fn has(&self, key: &K::Key) -> bool {
        match self {
            Scope::All => true,
            Scope::Keys(keys) => keys.contains(key),
        }
    }
}

/// What a look at the kernel may use.
pub struct Look<'a> {
    pub kernel: &'a mut Kernel,
    pub host: &'a HostFile,
    pub facts: &'a Facts,
}

/// Why objects could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KindError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("{what}: {why}")]
    File { what: String, why: String },
    #[error("{0} is not there (any more)")]
    Gone(String),
}

/// A kind that the reconciler can read and write.
pub trait KernelKind: Kind {
    /// Reads what is there: our own objects, and whatever stands at a desired key. An error means
    /// that nothing is known, which is not the same as that nothing is there.
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError>;

    /// Carries out the changes, in order, as one batch. One result per change.
    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>>;
}

/// Applies changes that are each a few netlink requests, as one batch. A change fails with its
/// first failed request; deleting what is already gone is no failure.
fn apply_ops<K: Kind>(
    kernel: &mut Kernel,
    changes: &[Change<K>],
    mut ops_of: impl FnMut(&Change<K>) -> Result<Vec<Op>, KindError>,
) -> Vec<Result<(), KindError>> {
    let mut batch = Vec::new();
    let mut spans = Vec::with_capacity(changes.len());
    for change in changes {
        let start = batch.len();
        spans.push(ops_of(change).map(|mut ops| {
            batch.append(&mut ops);
            start..batch.len()
        }));
    }
    let results = write(kernel, &batch);
    changes
        .iter()
        .zip(spans)
        .map(|(change, span)| {
            let span = span?;
            for (op, result) in batch[span.clone()].iter().zip(&results[span]) {
                match result {
                    Err(error) if is_delete(change) && says_gone(op, error.errno()) => {}
                    Err(error) => return Err(error.clone().into()),
                    Ok(()) => {}
                }
            }
            Ok(())
        })
        .collect()
}

/// As one batch; in tests that kill the agent between any two requests, one by one.
fn write(kernel: &mut Kernel, batch: &[Op]) -> Vec<Result<(), KernelError>> {
    if !fault::counts() {
        return kernel.rtnl.apply(batch);
    }
    let mut results = Vec::with_capacity(batch.len());
    for op in batch.chunks(1) {
        fault::point();
        results.append(&mut kernel.rtnl.apply(op));
    }
    results
}

fn is_delete<K: Kind>(change: &Change<K>) -> bool {
    matches!(change, Change::Delete { .. })
}

/// Whether the error of a deletion says that there is nothing to delete: ENOENT, ESRCH (routes), ENODEV (the device
/// went, and took its entries with it); of an FDB entry also EOPNOTSUPP (a port that has left its bridge, which forgot
/// its entries: `rtnl_fdb_del()` in net/core/rtnetlink.c asks no master where there is none).
fn says_gone(op: &Op, errno: Option<i32>) -> bool {
    match errno {
        Some(libc::ENOENT | libc::ESRCH | libc::ENODEV) => true,
        Some(libc::EOPNOTSUPP) => matches!(op, Op::FdbDelete { .. }),
        _ => false,
    }
}

/// Index of a link by name, from this pass's snapshot.
fn index_of(facts: &Facts, name: &crate::addr::IfName) -> Result<u32, KindError> {
    facts
        .link(name)
        .map(|link| link.index)
        .ok_or_else(|| KindError::Gone(name.to_string()))
}

/// Something that is done once for each kind.
pub trait Visitor {
    fn visit<K: KernelKind>(&mut self);
}

/// The registry: every kind but the nftables ones, which go as one transaction of their own
/// before the first port joins, in the order of creation.
pub fn visit_kinds(visitor: &mut impl Visitor) {
    visitor.visit::<closed::Closed>();
    visitor.visit::<vtep::Vtep>();
    visitor.visit::<dnsmasq_file::DnsmasqFile>();
    visitor.visit::<bridge_attrs::BridgeAttrs>();
    visitor.visit::<solicit::Solicit>();
    visitor.visit::<vxlan_attrs::VxlanAttrs>();
    visitor.visit::<shut::Shut>();
    visitor.visit::<checksum::Checksum>();
    visitor.visit::<port_attrs::PortAttrs>();
    visitor.visit::<fdb::Fdb>();
    visitor.visit::<neighbour::Neighbour>();
    visitor.visit::<mdb::Mdb>();
    visitor.visit::<route::Route>();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Mac;
    use std::net::Ipv4Addr;

    #[test]
    fn only_where_a_port_without_a_bridge_is_asked_for_its_entry_unsupported_means_gone() {
        let (mac, address) = (Mac([2, 0, 0, 0, 0, 1]), Ipv4Addr::LOCALHOST.into());
        let fdb = Op::FdbDelete { port: 1, mac };
        let others = [
            Op::FdbReplace { port: 1, mac },
            Op::TunnelFdbDelete { tunnel: 1, mac },
            Op::NeighbourDelete { device: 1, address },
        ];
        for op in others.iter().chain([&fdb]) {
            for gone in [libc::ENOENT, libc::ESRCH, libc::ENODEV] {
                assert!(says_gone(op, Some(gone)), "{op} {gone}");
            }
            for failed in [libc::EPERM, libc::EINVAL, libc::EBUSY] {
                assert!(!says_gone(op, Some(failed)), "{op} {failed}");
            }
            assert!(!says_gone(op, None));
        }
        assert!(says_gone(&fdb, Some(libc::EOPNOTSUPP)));
        for op in &others {
            assert!(!says_gone(op, Some(libc::EOPNOTSUPP)), "{op}");
        }
    }
}
