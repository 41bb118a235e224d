//! Memory of recent changes, to notice that something else keeps undoing them, and to fight back
//! ever more slowly: two hosts that both claim a MAC, or an operator's script, must not make the
//! kernel flap.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A change that came back within this time has been undone by somebody.
const MEMORY: Duration = Duration::from_secs(150);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Undone this often in a row, it is worth a warning.
const WARN_AT: u32 = 3;

#[derive(Debug, Clone)]
struct Entry {
    count: u32,
    last: Instant,
}

/// What was changed lately, by kind and key.
#[derive(Debug, Default)]
pub struct Repairs {
    entries: BTreeMap<String, Entry>,
}

/// Whether a change may be made now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// Make it, and say that something keeps undoing it.
    GoAndWarn(u32),
    Wait(Duration),
}

impl Repairs {
    /// Asks for a change that is needed again and again: the first at once, the second a second
    /// later, then twice as long each time, up to a minute.
    pub fn ask(&mut self, change: &str, now: Instant) -> Verdict {
        let Some(entry) = self.entries.get_mut(change) else {
            self.entries.insert(change.into(), Entry { count: 1, last: now });
            return Verdict::Go;
        };
        let since = now.duration_since(entry.last);
        if since > MEMORY {
            *entry = Entry { count: 1, last: now };
            return Verdict::Go;
        }
        let pause = Duration::from_millis(250 << entry.count.min(9)).min(LONGEST_WAIT);
        if since < pause {
            return Verdict::Wait(pause - since);
        }
        entry.count += 1;
        entry.last = now;
        if entry.count == WARN_AT {
            Verdict::GoAndWarn(entry.count)
        } else {
            Verdict::Go
        }
    }

    /// Forgets a change: it is wanted no longer, or was taken back by ourselves.
    pub fn forget(&mut self, change: &str) {
        self.entries.remove(change);
    }

    /// Drops what is too old to matter; bounds the memory.
    pub fn expire(&mut self, now: Instant) {
        self.entries
            .retain(|_, entry| now.duration_since(entry.last) <= MEMORY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_keeps_coming_back_is_made_ever_more_slowly_and_warned_of_once() {
        let mut repairs = Repairs::default();
        let start = Instant::now();
        let mut now = start;
        assert_eq!(repairs.ask("x", now), Verdict::Go);
        let mut waits = Vec::new();
        let mut warnings = 0;
        for _ in 0..12 {
            match repairs.ask("x", now) {
                Verdict::Wait(wait) => {
                    waits.push(wait);
                    now += wait;
                    if repairs.ask("x", now) == Verdict::GoAndWarn(3) {
                        warnings += 1;
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(waits.is_sorted());
        assert_eq!(waits[0], Duration::from_millis(500));
        assert_eq!(*waits.last().unwrap(), LONGEST_WAIT);
        assert_eq!(warnings, 1);
        assert_eq!(repairs.ask("y", now), Verdict::Go);
        repairs.forget("x");
        assert_eq!(repairs.ask("x", now), Verdict::Go);
        repairs.expire(now + MEMORY * 2);
        assert!(repairs.entries.is_empty());
    }
}
