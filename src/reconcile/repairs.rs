//! Memory of recent changes, to notice that something else keeps undoing them, and to fight back
//! ever more slowly: two hosts that both claim a MAC, or an operator's script, must not make the
//! kernel flap.

use crate::model::Pace;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Undone this often in a row, it is worth a warning.
const WARN_AT: u32 = 3;

/// The first pause, the longest, and how long a change is remembered.
impl Pace {
    fn first(self) -> Duration {
        match self {
            Pace::AtOnce => Duration::ZERO,
            Pace::Expected | Pace::Quick => Duration::from_millis(500),
            Pace::Costly => Duration::from_secs(60),
            Pace::Contested => Duration::from_secs(120),
        }
    }

    fn longest(self) -> Duration {
        match self {
            Pace::AtOnce | Pace::Expected | Pace::Quick => Duration::from_secs(60),
            Pace::Costly | Pace::Contested => Duration::from_secs(3600),
        }
    }

    /// A change that comes back later than this has not been undone by the same cause.
    fn memory(self) -> Duration {
        self.longest() * 5 / 2
    }
}

#[derive(Debug, Clone)]
struct Entry {
    count: u32,
    last: Instant,
    pace: Pace,
}

/// What was changed lately (not what was planned), by kind and key, and whether it was taken from another host: what was
/// merely made here has not been claimed from anybody.
#[derive(Debug, Default)]
pub struct Repairs {
    entries: BTreeMap<(String, bool), Entry>,
    /// Of kinds whose objects linger: since when each of them has not been wanted.
    unwanted: BTreeMap<&'static str, BTreeMap<String, Instant>>,
}

impl Repairs {
    /// How long a change has to wait that was made lately, and is needed again: the first time not at all, then ever
    /// longer.
    pub fn wait(&self, change: &str, pace: Pace, now: Instant) -> Option<Duration> {
        let entry = self
            .entries
            .get(&(change.into(), pace == Pace::Contested))?;
        let since = now.duration_since(entry.last);
        let doublings = 1 << entry.count.saturating_sub(1).min(10);
        let pause = (pace.first() * doublings).min(pace.longest());
        (since < pause).then(|| pause - since)
    }

    /// Takes note of a change that was made, which makes that of the `opposite` of no account. Returns
    /// how often it was made in a row if that is worth a warning now.
    pub fn made(&mut self, change: &str, opposite: &str, pace: Pace, now: Instant) -> Option<u32> {
        self.forget(opposite);
        let key = (change.into(), pace == Pace::Contested);
        let entry = self.entries.entry(key).or_insert(Entry {
            count: 0,
            last: now,
            pace,
        });
        if now.duration_since(entry.last) > pace.memory() {
            entry.count = 0;
        }
        entry.count += 1;
        entry.last = now;
        // That another host has the same address is worth a word at once.
        let warn_at = if pace == Pace::Contested { 1 } else { WARN_AT };
        (entry.count == warn_at).then_some(entry.count)
    }

    /// Takes note of all objects of a kind that are not wanted now; returns those that have not
    /// been wanted for long enough. What is wanted again meanwhile begins anew.
    pub fn unwanted(
        &mut self,
        kind: &'static str,
        names: BTreeSet<String>,
        lingers: Duration,
        now: Instant,
    ) -> BTreeSet<String> {
        let before = self.unwanted.remove(kind).unwrap_or_default();
        let since: BTreeMap<String, Instant> = names
            .into_iter()
            .map(|name| {
                let since = before.get(&name).copied().unwrap_or(now);
                (name, since)
            })
            .collect();
        let due = |(_, since): &(&String, &Instant)| now.duration_since(**since) >= lingers;
        let found = since.iter().filter(due).map(|(name, _)| name.clone());
        let found = found.collect();
        self.unwanted.insert(kind, since);
        found
    }

    /// Forgets a change: it is wanted no longer, or was taken back by ourselves.
    pub fn forget(&mut self, change: &str) {
        for contested in [false, true] {
            self.entries.remove(&(change.into(), contested));
        }
    }

    /// Drops what is too old to matter; bounds the memory.
    pub fn expire(&mut self, now: Instant) {
        self.entries
            .retain(|_, entry| now.duration_since(entry.last) <= entry.pace.memory());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_wanted_is_due_after_a_while_and_begins_anew_once_it_was_wanted() {
        let mut repairs = Repairs::default();
        let start = Instant::now();
        let mut at = |seconds, names: &[&str]| -> Vec<String> {
            let names = names.iter().map(|name| name.to_string()).collect();
            let now = start + Duration::from_secs(seconds);
            let due = repairs.unwanted("vtep", names, Duration::from_secs(300), now);
            due.into_iter().collect()
        };
        assert_eq!(at(0, &["a"]), [""; 0]);
        assert_eq!(at(100, &["a", "b"]), [""; 0]);
        assert_eq!(at(200, &["b"]), [""; 0]);
        assert_eq!(at(300, &["a", "b"]), [""; 0]);
        assert_eq!(at(400, &["a", "b"]), ["b"]);
        assert_eq!(at(600, &["a"]), ["a"]);
    }

    /// Makes a change if it may be made: how often it was made if that is worth a warning, or how long it has to wait.
    fn try_to(
        repairs: &mut Repairs,
        change: &str,
        pace: Pace,
        now: Instant,
    ) -> Result<Option<u32>, Duration> {
        match repairs.wait(change, pace, now) {
            Some(wait) => Err(wait),
            None => Ok(repairs.made(change, &format!("-{change}"), pace, now)),
        }
    }

    #[test]
    fn a_change_that_keeps_coming_back_is_made_ever_more_slowly_and_warned_of_once() {
        let mut repairs = Repairs::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        let mut warnings = Vec::new();
        for _ in 0..26 {
            match try_to(&mut repairs, "x", Pace::Quick, now) {
                Err(wait) => {
                    waits.push(wait);
                    now += wait;
                }
                Ok(warning) => warnings.extend(warning),
            }
        }
        assert!(waits.is_sorted());
        assert_eq!(waits[0], Duration::from_millis(500));
        assert_eq!(*waits.last().unwrap(), Pace::Quick.longest());
        assert_eq!(warnings, [WARN_AT]);
        assert_eq!(try_to(&mut repairs, "y", Pace::Quick, now), Ok(None));
        repairs.forget("x");
        assert_eq!(repairs.wait("x", Pace::Quick, now), None);
        repairs.expire(now + Pace::Quick.memory() * 2);
        assert!(repairs.entries.is_empty());
    }

    #[test]
    fn what_was_planned_and_not_made_has_not_been_undone() {
        let mut repairs = Repairs::default();
        let now = Instant::now();
        for _ in 0..10 {
            assert_eq!(repairs.wait("x", Pace::Quick, now), None);
        }
        assert_eq!(repairs.made("x", "-x", Pace::Quick, now), None);
        assert!(repairs.wait("x", Pace::Quick, now).is_some());
        // Nor has what we took back ourselves.
        repairs.made("-x", "x", Pace::Quick, now);
        assert_eq!(repairs.wait("x", Pace::Quick, now), None);
    }

    #[test]
    fn what_guards_is_never_put_off_and_still_warned_of() {
        let mut repairs = Repairs::default();
        let now = Instant::now();
        let all = [(); 100].map(|()| try_to(&mut repairs, "filters", Pace::AtOnce, now));
        let warnings = all.into_iter().filter_map(|made| made.expect("at once"));
        assert_eq!(warnings.collect::<Vec<_>>(), [WARN_AT]);
    }

    #[test]
    fn what_was_just_made_here_can_be_claimed_at_once() {
        let mut repairs = Repairs::default();
        let now = Instant::now();
        let mut at = |pace, now| try_to(&mut repairs, "mac", pace, now);
        assert_eq!(at(Pace::Quick, now), Ok(None));
        assert_eq!(at(Pace::Contested, now), Ok(Some(1)));
        assert_eq!(at(Pace::Contested, now), Err(Pace::Contested.first()));
        // Making it anew in between is no way around the pause.
        let later = now + Duration::from_secs(1);
        assert_eq!(at(Pace::Quick, later), Ok(None));
        assert!(at(Pace::Contested, later).is_err());
    }

    #[test]
    fn a_contested_address_is_claimed_less_than_three_times_in_180_seconds() {
        let mut repairs = Repairs::default();
        let start = Instant::now();
        let mut claims = Vec::new();
        for second in 0..7200 {
            let now = start + Duration::from_secs(second);
            match try_to(&mut repairs, "mac", Pace::Contested, now) {
                Err(_) => {}
                Ok(warning) => {
                    assert_eq!(
                        warning.is_some(),
                        claims.is_empty(),
                        "said at the first claim"
                    );
                    claims.push(second);
                }
            }
        }
        assert!(
            claims.windows(3).all(|three| three[2] - three[0] > 180),
            "{claims:?}"
        );
    }
}
