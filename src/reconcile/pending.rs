//! What the next passes are to look at, and when. Kernel events about a NIC are quick to be looked at
//! as long as they are few: root in a container can cause them at will, by asking dnsmasq for its
//! address or by setting its eth0 down and up, and each would cost a pass.

use crate::model::NicId;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::time::Duration;
use tokio::time::Instant;

/// So many passes because of events are made at once for one NIC ...
const QUICK: u32 = 4;
/// ... if there was none for this long. With more, its events are looked at later.
const QUIET: Duration = Duration::from_secs(10);
/// How much later at most, together with all other NICs that wait. dnsmasq makes neighbours stale;
/// the kernel uses a stale one for five seconds before it asks whether it is right
/// (`delay_first_probe_time`).
const LATER: Duration = Duration::from_secs(2);

/// What is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub everything: bool,
    /// LXD told something: NICs are to be resolved anew.
    pub resolve: bool,
    pub nftables: bool,
    pub nics: BTreeSet<NicId>,
    at: Option<Instant>,
    /// NICs whose events keep coming, and when these are looked at.
    later: BTreeSet<NicId>,
    later_at: Option<Instant>,
    busy: BTreeMap<NicId, Busy>,
    /// The same of events that ask for a look at everything.
    all_later: bool,
    all_busy: Option<Busy>,
}

/// Passes because of events since it was last quiet, and the last such event.
#[derive(Debug)]
struct Busy {
    passes: u32,
    last: Instant,
}

impl Busy {
    /// One more event: whether it is looked at soon.
    fn is_quick(&mut self, now: Instant) -> bool {
        if now.duration_since(self.last) >= QUIET {
            self.passes = 0;
        }
        self.last = now;
        let quick = self.passes < QUICK;
        self.passes += u32::from(quick);
        quick
    }
}

/// What a pass is to look at now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub everything: bool,
    pub resolve: bool,
    pub nftables: bool,
    pub nics: BTreeSet<NicId>,
}

impl Pending {
    /// There shall be a pass by then.
    pub fn by(&mut self, time: Instant) {
        self.at = Some(self.at.map_or(time, |other| other.min(time)));
    }

    pub fn everything_by(&mut self, time: Instant) {
        self.everything = true;
        self.by(time);
    }

    /// Whether the NIC will be looked at anyway, sooner or later.
    pub fn has(&self, nic: &NicId) -> bool {
        self.everything || self.nics.contains(nic) || self.later.contains(nic)
    }

    /// A kernel event asks for a look at a NIC: soon, or later if it has asked often of late.
    pub fn nic_because_of_event(&mut self, nic: NicId, now: Instant, soon: Instant) {
        let busy = self.busy.entry(nic.clone()).or_insert(Busy {
            passes: 0,
            last: now,
        });
        if busy.is_quick(now) {
            self.nics.insert(nic);
            self.by(soon);
        } else {
            self.later.insert(nic);
            self.later_at.get_or_insert(now + LATER);
        }
    }

    /// A kernel event asks for a look at everything, as when events were lost: soon, or later if such have come often
    /// of late.
    pub fn everything_because_of_event(&mut self, now: Instant, soon: Instant) {
        if self.everything {
            return;
        }
        let busy = self.all_busy.get_or_insert(Busy {
            passes: 0,
            last: now,
        });
        if busy.is_quick(now) {
            self.everything_by(soon);
        } else {
            self.all_later = true;
            self.later_at.get_or_insert(now + LATER);
        }
    }

    /// When the next pass is due.
    pub fn at(&self) -> Option<Instant> {
        self.at.into_iter().chain(self.later_at).min()
    }

    /// Takes what is due. What waits for later and is looked at now waits no more.
    pub fn take(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        if self.at.is_some_and(|at| at <= now) {
            self.at = None;
            due = Due {
                everything: take(&mut self.everything),
                resolve: take(&mut self.resolve),
                nftables: take(&mut self.nftables),
                nics: take(&mut self.nics),
            };
        }
        if self.later_at.is_some_and(|at| at <= now) {
            due.nics.append(&mut self.later);
            due.everything |= self.all_later;
        }
        self.later
            .retain(|nic| !due.everything && !due.nics.contains(nic));
        self.all_later &= !due.everything;
        if self.later.is_empty() && !self.all_later {
            self.later_at = None;
        }
        if due.everything {
            self.busy
                .retain(|_, busy| now.duration_since(busy.last) < QUIET);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lxd::InstanceId;

    fn nic(name: &str) -> NicId {
        NicId {
            instance: InstanceId {
                project: "default".into(),
                name: name.into(),
            },
            device: "eth0".into(),
        }
    }

    /// Passes, as (milliseconds, NICs), of events every so many milliseconds for so many seconds.
    fn passes(
        pending: &mut Pending,
        start: Instant,
        events: &[(&str, u64)],
        seconds: u64,
    ) -> Vec<(u64, usize)> {
        let mut passes = Vec::new();
        for ms in 0..(seconds + 5) * 1000 {
            let now = start + Duration::from_millis(ms);
            for (name, every) in events {
                let nic = nic(name);
                if ms < seconds * 1000 && ms % every == 0 && !pending.has(&nic) {
                    pending.nic_because_of_event(nic, now, now + Duration::from_millis(20));
                }
            }
            if pending.at().is_some_and(|at| at <= now) {
                passes.push((ms, pending.take(now).nics.len()));
            }
        }
        assert_eq!(pending.at(), None, "nothing is left");
        passes
    }

    #[test]
    fn a_few_events_are_looked_at_soon_and_many_every_two_seconds() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let first = passes(&mut pending, start, &[("a", 10)], 60);
        assert_eq!(first[..5], [(20, 1), (50, 1), (80, 1), (110, 1), (2120, 1)]);
        assert!((30..=36).contains(&first.len()), "{first:?}");
        let gaps = first.windows(2).map(|two| two[1].0 - two[0].0);
        assert!(gaps.max().unwrap() <= 2_030, "never later: {first:?}");
        // After a while of quiet it is quick again.
        let after = start + Duration::from_secs(80);
        assert_eq!(passes(&mut pending, after, &[("a", 900)], 2)[0], (20, 1));
    }

    #[test]
    fn one_pass_looks_at_all_that_are_busy_and_others_do_not_wait() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let busy: Vec<String> = (0..50).map(|n| format!("i{n}")).collect();
        let events: Vec<(&str, u64)> = busy.iter().map(|name| (name.as_str(), 10)).collect();
        let many = passes(&mut pending, start, &events, 20);
        assert!(many.len() <= 4 + 11, "{many:?}");
        assert!(many.iter().all(|(_, nics)| *nics == 50), "{many:?}");

        let now = start + Duration::from_secs(40);
        for n in 0..10 {
            let now = now + Duration::from_millis(n);
            pending.nic_because_of_event(nic("a"), now, now);
            pending.take(now);
        }
        assert!(pending.has(&nic("a")));
        pending.nic_because_of_event(nic("b"), now, now);
        assert_eq!(pending.take(now).nics, [nic("b")].into());
        assert!(pending.has(&nic("a")));
    }

    #[test]
    fn what_waits_for_later_does_not_hold_up_and_is_not_looked_at_twice() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for n in 0..10 {
            let now = now + Duration::from_millis(n);
            pending.nic_because_of_event(nic("a"), now, now);
            pending.take(now);
        }
        // The filters.
        pending.nftables = true;
        pending.by(now);
        let due = pending.take(now);
        assert!(due.nftables && due.nics.is_empty());
        assert!(pending.has(&nic("a")));
        // LXD.
        pending.nics.insert(nic("a"));
        pending.by(now);
        assert_eq!(pending.take(now).nics, [nic("a")].into());
        assert_eq!(pending.at(), None);
        pending.everything_by(now);
        assert!(pending.take(now).everything);
        assert_eq!(pending.at(), None);
    }

    #[test]
    fn events_that_ask_for_everything_get_a_few_looks_soon_and_then_one_every_two_seconds() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let mut looks = Vec::new();
        for ms in 0..25_000 {
            let now = start + Duration::from_millis(ms);
            if ms < 20_000 && ms % 10 == 0 {
                pending.everything_because_of_event(now, now + Duration::from_millis(20));
            }
            // What else happens to one NIC does not wait for that, nor is it taken for that.
            if ms == 10_000 || ms == 20_000 {
                assert!(!pending.has(&nic("a")));
                pending.nic_because_of_event(nic("a"), now, now);
                assert_eq!(pending.take(now).nics, [nic("a")].into());
            }
            if pending.at().is_some_and(|at| at <= now) {
                assert!(pending.take(now).everything);
                looks.push(ms);
            }
        }
        assert_eq!(looks[..5], [20, 50, 80, 110, 2120]);
        assert!((13..=15).contains(&looks.len()), "{looks:?}");
        assert!(looks.last() > Some(&20_000), "{looks:?}");
        assert_eq!(pending.at(), None, "nothing is left");
    }

    #[test]
    fn nics_that_were_quiet_are_forgotten_with_a_full_look() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.nic_because_of_event(nic("a"), now, now);
        pending.everything_by(now + QUIET);
        pending.take(now + QUIET);
        assert!(pending.busy.is_empty());
    }
}
