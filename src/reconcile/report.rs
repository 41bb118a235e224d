//! What a pass did, as data. The daemon logs it, the operator's commands print it.

use crate::kinds::nft_element::NftElement;
use crate::kinds::nft_table::NftTable;
use crate::lxd::InstanceId;
use crate::model::{Change, FollowUp, Kind, Pace};
use std::collections::BTreeSet;
use std::time::Duration;

/// One change and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub kind: &'static str,
    /// The kind and the key; with a `-` before it, for a deletion.
    pub object: String,
    /// `+`, `~` or `-`, the kind, the key, the attributes.
    pub text: String,
    /// How fast it may be made again.
    pub pace: Pace,
    /// `None` in a plan.
    pub result: Option<Result<(), String>>,
}

impl Line {
    pub fn of<K: Kind>(change: &Change<K>, result: Option<Result<(), String>>) -> Self {
        let deleted = matches!(change, Change::Delete { .. });
        Line {
            kind: K::NAME,
            object: Self::object::<K>(change.key(), deleted),
            text: change.describe(),
            pace: K::pace_of(change),
            result,
        }
    }

    /// It puts right what a program is known to do as a matter of course.
    pub fn is_expected(&self) -> bool {
        self.pace == Pace::Expected
    }

    /// The name of the change that undoes it.
    pub fn opposite(&self) -> String {
        match self.object.strip_prefix('-') {
            Some(made) => made.into(),
            None => format!("-{}", self.object),
        }
    }

    /// The name under which changes of one object are remembered.
    pub fn object<K: Kind>(key: &K::Key, deleted: bool) -> String {
        format!("{}{} {key}", if deleted { "-" } else { "" }, K::NAME)
    }
}

/// The outcome of one pass.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub lines: Vec<Line>,
    /// Kinds that could not be read: nothing was changed in them.
    pub unreadable: Vec<(&'static str, String)>,
    /// What is to be done after the changes that were made.
    pub follow_ups: Vec<FollowUp>,
    /// Changes put off because something else keeps undoing them.
    pub deferred: Vec<String>,
    /// When the earliest of the deferred is due.
    pub retry_in: Option<Duration>,
    /// The rules of another version were replaced.
    pub new_rules: bool,
    /// The tables were not what a scoped pass relies on: look at everything.
    pub escalate: bool,
    /// Another host has an address since claims were resolved.
    pub resolve_again: bool,
    /// Instances that may have gone to another host.
    pub ask: BTreeSet<InstanceId>,
    pub took: Duration,
}

impl Report {
    pub fn failures(&self) -> impl Iterator<Item = (&Line, &str)> {
        self.lines.iter().filter_map(|line| match &line.result {
            Some(Err(error)) => Some((line, error.as_str())),
            _ => None,
        })
    }

    /// Whether something failed without which something is open, or nothing passes.
    pub fn failed_guard(&self) -> bool {
        self.failures().any(|(line, _)| line.pace == Pace::AtOnce)
    }

    /// Whether the filters are known to be as they should be, whatever else failed.
    pub fn filters_hold(&self) -> bool {
        let failed = self.failures().map(|(line, _)| line.kind);
        let unread = self.unreadable.iter().map(|(kind, _)| *kind);
        !failed
            .chain(unread)
            .any(|kind| [NftTable::NAME, NftElement::NAME].contains(&kind))
    }

    /// `fdb +1, neighbour +3 -1`, or an empty text.
    pub fn summary(&self) -> String {
        let mut kinds: Vec<(&str, [usize; 3])> = Vec::new();
        for line in &self.lines {
            let at = match kinds.iter().position(|(kind, _)| *kind == line.kind) {
                Some(at) => at,
                None => {
                    kinds.push((line.kind, [0; 3]));
                    kinds.len() - 1
                }
            };
            let sign = match line.text.chars().next() {
                Some('+') => 0,
                Some('~') => 1,
                _ => 2,
            };
            kinds[at].1[sign] += 1;
        }
        let texts: Vec<String> = kinds
            .iter()
            .map(|(kind, counts)| {
                let mut text = kind.to_string();
                for (sign, count) in ["+", "~", "-"].iter().zip(counts) {
                    if *count > 0 {
                        text.push_str(&format!(" {sign}{count}"));
                    }
                }
                text
            })
            .collect();
        texts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filters_that_failed_or_cannot_be_read_do_not_hold() {
        let line = |kind, failed: bool| Line {
            kind,
            object: String::new(),
            text: "+ it".into(),
            pace: Pace::Expected,
            result: Some(match failed {
                true => Err("no".into()),
                false => Ok(()),
            }),
        };
        for (lines, unreadable, hold) in [
            (vec![], vec![], true),
            (vec![line("nft_table", false)], vec![], true),
            (vec![line("nft_table", true)], vec![], false),
            (vec![line("nft_element", true)], vec![], false),
            (vec![line("dnsmasq_file", true)], vec![], true),
            (
                vec![line("dnsmasq_file", true), line("nft_element", true)],
                vec![],
                false,
            ),
            (vec![], vec!["dnsmasq_file"], true),
            (vec![], vec!["nft_table"], false),
        ] {
            let unreadable = unreadable.into_iter().map(|kind| (kind, String::new()));
            let report = Report {
                lines,
                unreadable: unreadable.collect(),
                ..Report::default()
            };
            assert_eq!(report.filters_hold(), hold, "{report:?}");
        }
    }
}
