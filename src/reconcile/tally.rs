//! What is counted since the agent started, for its metrics. Only adds up; `metrics.rs` tells.

use super::pass::Extent;
use super::report::Report;
use crate::host::HostFile;
use crate::model::{Facts, Nic};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Kind, action, result.
pub(super) type Changed = (&'static str, &'static str, &'static str);

/// Counters, and when things last happened by the host's clock.
#[derive(Debug)]
pub(super) struct Tally {
    pub started: SystemTime,
    pub last_full_pass: Option<SystemTime>,
    pub lxd_listed: Option<SystemTime>,
    pub lxd_connections: u64,
    pub events_lost: u64,
    /// Passes and their time, by extent.
    pub passes: BTreeMap<&'static str, (u64, Duration)>,
    pub changes: BTreeMap<Changed, u64>,
    /// By kind. What a program is known to do as a matter of course is none: an instance could
    /// have it done all the time.
    pub repairs: BTreeMap<&'static str, u64>,
    /// Another host file has come into force and no pass has followed it.
    pub new_host_file: bool,
}

impl Default for Tally {
    fn default() -> Self {
        let passes = ["all", "nics", "nftables"].map(|extent| (extent, Default::default()));
        Tally {
            started: SystemTime::now(),
            last_full_pass: None,
            lxd_listed: None,
            lxd_connections: 0,
            events_lost: 0,
            passes: passes.into(),
            changes: BTreeMap::new(),
            repairs: BTreeMap::new(),
            new_host_file: false,
        }
    }
}

impl Tally {
    /// Takes in a pass. `unprompted`: what is wanted was the same as in the one before, so that
    /// whatever was done put something right.
    pub fn pass(&mut self, extent: &Extent, report: &Report, unprompted: bool) {
        let name = match extent {
            Extent::All => "all",
            Extent::Nics(_) => "nics",
            Extent::Nftables => "nftables",
        };
        let (count, took) = self.passes.entry(name).or_default();
        *count += 1;
        *took += report.took;
        if *extent == Extent::All {
            self.last_full_pass = Some(SystemTime::now());
        }
        for line in &report.lines {
            let action = match line.text.chars().next() {
                Some('+') => "create",
                Some('~') => "update",
                _ => "delete",
            };
            let failed = matches!(line.result, Some(Err(_)));
            let result = if failed { "failed" } else { "ok" };
            *self.changes.entry((line.kind, action, result)).or_default() += 1;
            if unprompted && !failed && !line.is_expected() {
                *self.repairs.entry(line.kind).or_default() += 1;
            }
        }
    }
}

/// Whether the devices that NICs and networks live on are the same ones: nobody made one anew.
pub(super) fn same_devices(host: &HostFile, nics: &[Nic], before: &Facts, now: &Facts) -> bool {
    let of_networks = host
        .networks
        .iter()
        .flat_map(|network| [&network.bridge, &network.tunnel]);
    let mut names = of_networks.chain(nics.iter().map(|nic| &nic.port));
    let index = |facts: &Facts, name| facts.link(name).map(|link| link.index);
    names.all(|name| index(before, name) == index(now, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pace;
    use crate::reconcile::report::Line;

    fn report() -> Report {
        let line = |kind, text: &str, result| Line {
            pace: match kind {
                "neighbour" => Pace::Expected,
                _ => Pace::Quick,
            },
            kind,
            object: String::new(),
            text: text.into(),
            result: Some(result),
        };
        Report {
            lines: vec![
                line("fdb", "+ fdb a", Ok(())),
                line("fdb", "+ fdb b", Err("no".into())),
                line("port", "~ port c", Ok(())),
                line("neighbour", "~ neighbour d", Ok(())),
            ],
            took: Duration::from_millis(250),
            ..Report::default()
        }
    }

    #[test]
    fn what_nothing_new_called_for_and_was_done_is_a_repair() {
        let mut tally = Tally::default();
        tally.pass(&Extent::All, &report(), false);
        assert!(tally.repairs.is_empty());
        tally.pass(&Extent::Nftables, &report(), true);
        assert_eq!(tally.repairs, [("fdb", 1), ("port", 1)].into());
        let changes = [
            (("fdb", "create", "failed"), 2),
            (("fdb", "create", "ok"), 2),
            (("neighbour", "update", "ok"), 2),
            (("port", "update", "ok"), 2),
        ];
        assert_eq!(tally.changes, changes.into());
        let once = (1, Duration::from_millis(250));
        let never = (0, Duration::ZERO);
        let passes = [("all", once), ("nics", never), ("nftables", once)];
        assert_eq!(tally.passes, passes.into());
    }
}
