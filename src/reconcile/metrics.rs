//! The agent's metrics, put together from what the daemon knows when somebody asks.

use super::daemon::Agent;
use crate::control::metrics::{self, Dnsmasq, FilterCounter, Numbers};
use crate::dhcp;
use crate::host::Firewall;
use crate::kernel::Kernel;
use crate::kernel::nft::Family;
use crate::kinds::nft_element::NftElement;
use crate::kinds::nft_set::TABLE;
use crate::kinds::nft_table::NftTable;
use crate::kinds::{KernelKind, Visitor, visit_kinds};
use crate::model::{Inputs, Kind};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tables whose named counters are told.
const COUNTED: [(Family, &str); 6] = [
    (Family::Bridge, TABLE),
    (Family::Inet, TABLE),
    (Family::Arp, TABLE),
    (Family::Inet, Firewall::TABLE),
    (Family::Inet, Firewall::CLOSED),
    (Family::Arp, Firewall::CLOSED),
];

impl Agent {
    pub(super) fn metrics(&mut self) -> String {
        let status = self.status();
        let objects = self.objects();
        let tally = &self.tally;
        let repairs = objects
            .iter()
            .map(|(kind, _)| (*kind, tally.repairs.get(kind).copied().unwrap_or(0)));
        let passes = tally.passes.iter();
        let changes = tally.changes.iter();
        let dnsmasq = self.dhcp.as_ref().map(|servers| {
            let (starts, exits) = servers.counts();
            let mut states = servers.states().into_iter();
            let running = states.all(|state| matches!(state, dhcp::State::Running { .. }));
            Dnsmasq {
                running,
                starts,
                exits,
                warnings: servers.complaints().1,
            }
        });
        let numbers = Numbers {
            started_s: unix(tally.started),
            last_full_pass_s: tally.last_full_pass.map(unix),
            lxd_listed_s: tally.lxd_listed.map(unix),
            lxd_connections: tally.lxd_connections,
            repairs: repairs.collect(),
            passes: passes
                .map(|(extent, (count, took))| (*extent, *count, took.as_secs_f64()))
                .collect(),
            changes: changes
                .map(|((kind, action, result), count)| (*kind, *action, *result, *count))
                .collect(),
            events_lost: tally.events_lost,
            dnsmasq,
            filters: filters(&mut self.kernel),
            deferred_checksums: match &self.kernel.checks {
                Ok(Some(checks)) => checks.dropped().ok(),
                _ => None,
            },
            objects,
        };
        metrics::render(&status, &numbers)
    }

    /// How many objects of each kind should be there.
    fn objects(&self) -> Vec<(&'static str, usize)> {
        let Some(facts) = &self.world.facts else {
            return Vec::new();
        };
        let mut count = Count {
            inputs: Inputs {
                host: &self.host,
                nics: self.world.nics().unwrap_or_default(),
                refused: &self.world.resolved.refused,
                facts,
            },
            found: Vec::new(),
        };
        count.add::<NftTable>();
        count.add::<NftElement>();
        visit_kinds(&mut count);
        count.found
    }
}

struct Count<'a> {
    inputs: Inputs<'a>,
    found: Vec<(&'static str, usize)>,
}

impl Count<'_> {
    fn add<K: Kind>(&mut self) {
        self.found.push((K::NAME, K::derive(&self.inputs).len()));
    }
}

impl Visitor for Count<'_> {
    fn visit<K: KernelKind>(&mut self) {
        self.add::<K>();
    }
}

/// The named counters. A table that is not there or cannot be read has none.
fn filters(kernel: &mut Kernel) -> Vec<FilterCounter> {
    let mut all = Vec::new();
    for (family, table) in COUNTED {
        let counters = kernel.nft.counters(family, table).unwrap_or_default();
        all.extend(counters.into_iter().map(|(name, packets, bytes)| {
            let family = family.name();
            FilterCounter {
                family,
                table,
                name,
                packets,
                bytes,
            }
        }));
    }
    all.sort_by(|a, b| (a.family, a.table, &a.name).cmp(&(b.family, b.table, &b.name)));
    all
}

fn unix(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}
