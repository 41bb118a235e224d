//! Telling zebra again what it may have missed. It reads FDB entries and links from different
//! sockets; under load it hears of an entry before it knows the port, or that an entry went after
//! it knows that the port left the bridge, and ignores both.
//!
//! A MAC that is here: the activity mark of its entry changes, which zebra is told of and which
//! changes nothing that forwards. A MAC that is not: the tunnel's own table gets an entry for it
//! for a moment, which zebra takes for word that the MAC is not local
//! (`zebra_vxlan_check_del_local_mac()` in zebra/zebra_vxlan.c), and which does nothing if zebra
//! did not think so.

use super::daemon::Agent;
use super::report::Report;
use crate::addr::{IfName, Mac};
use crate::host::HostFile;
use crate::kernel::rtnl::Op;
use crate::kernel::{Kernel, KernelError};
use crate::model::{Facts, FollowUp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// When zebra is told again of a change: under load it takes seconds to learn of a port.
const AFTER: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(3),
    Duration::from_secs(15),
];

/// Tells zebra of the MACs that went with these changes.
pub(super) fn withdraw(kernel: &mut Kernel, host: &HostFile, facts: &Facts, changes: &[FollowUp]) {
    // Each MAC comes once for its FDB entry and once for each address.
    let mut said = BTreeSet::new();
    for change in changes {
        if let FollowUp::Withdraw { svi, mac } = change
            && said.insert((svi, *mac))
        {
            let ops = not_here(kernel, host, facts, svi, *mac);
            tell(kernel, &ops);
        }
    }
}

/// Nothing if the MAC is somewhere on the bridge by now, or the tunnel is not there.
fn not_here(
    kernel: &mut Kernel,
    host: &HostFile,
    facts: &Facts,
    svi: &IfName,
    mac: Mac,
) -> Vec<Op> {
    let mut networks = host.networks.iter();
    let network = networks.find(|network| network.bridge == *svi);
    let Some((bridge, tunnel)) =
        network.and_then(|network| Some((facts.svi(network)?.index, facts.tunnel(network)?.index)))
    else {
        return Vec::new();
    };
    match kernel.rtnl.fdb_entry(bridge, mac) {
        Ok(None) => vec![
            Op::TunnelFdbAdd { tunnel, mac },
            Op::TunnelFdbDelete { tunnel, mac },
        ],
        _ => Vec::new(),
    }
}

/// Says that a MAC is here, if it is: marking an entry that is somewhere else by now would take it
/// back.
fn announce_one(kernel: &mut Kernel, port: &IfName, mac: Mac) {
    let Ok(Some(link)) = kernel.rtnl.link(port) else {
        return;
    };
    let (port, Some(bridge)) = (link.index, link.master) else {
        return;
    };
    match kernel.rtnl.fdb_entry(bridge, mac) {
        Ok(Some(entry)) if entry.port == port && entry.ext_learned => {}
        _ => return,
    }
    let marks = [true, false].map(|mark| Op::FdbMark { port, mac, mark });
    // A port without carrier takes no marks, and carries nothing that could be lost.
    let refused = |error: &KernelError| error.errno() == Some(libc::EPERM);
    let results = kernel.rtnl.apply(&marks);
    if results
        .iter()
        .any(|result| result.as_ref().is_err_and(refused))
    {
        tell(
            kernel,
            &[Op::FdbDelete { port, mac }, Op::FdbReplace { port, mac }],
        );
    }
}

fn tell(kernel: &mut Kernel, ops: &[Op]) {
    for result in kernel.rtnl.apply(ops) {
        if let Err(error) = result {
            tracing::debug!(%error, "not said again");
        }
    }
}

impl Agent {
    pub(super) fn schedule_announcements(&mut self, report: &Report) {
        let now = Instant::now();
        let changes: Arc<[_]> = report
            .follow_ups
            .iter()
            .filter(|follow_up| {
                matches!(
                    follow_up,
                    FollowUp::Announce { .. } | FollowUp::Withdraw { .. }
                )
            })
            .cloned()
            .collect();
        if !changes.is_empty() {
            let times = AFTER.map(|after| (now + after, Arc::clone(&changes)));
            self.announcements.extend(times);
            self.announcements.sort_by_key(|(due, _)| *due);
        }
    }

    /// Tells zebra once more of MACs that came or went lately. What is otherwise meanwhile is left
    /// out.
    pub(super) fn announce(&mut self) {
        let now = Instant::now();
        let (due, later): (Vec<_>, _) = std::mem::take(&mut self.announcements)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.announcements = later;
        let Some(facts) = &self.world.facts else {
            return;
        };
        for (_, changes) in due {
            for change in changes.iter() {
                if let FollowUp::Announce { port, mac } = change {
                    announce_one(&mut self.kernel, port, *mac);
                }
            }
            withdraw(&mut self.kernel, &self.host, facts, &changes);
        }
    }
}
