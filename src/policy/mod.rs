//! What may pass: from the operator's words to rules ([`rule`]), from rules to what the kernel looks
//! up ([`compiled`]). Pure. How that becomes set elements is `kinds::nft_element`'s matter.
//!
//! The sets are the policy: `lxmesh trace` asks [`Compiled::judge`], which looks up the same entries
//! in the same order as the rules in `templates/datapath-rules.nft` do.

pub mod compiled;
pub mod fabric;
pub mod rule;

pub use crate::host::{Peer, Ports, Protocol, Service, Traffic};
pub use compiled::{Block, Compiled, Flow, Judgement, TagBlock, compile};
pub use rule::{Action, Direction, Peers, Rule, Surroundings};

use crate::text::{self, MAX_WORDS, words};
use std::collections::BTreeSet;

/// A word that is not understood, why, and what would be. It costs only itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{word}\" {why}")]
pub struct WordError {
    /// As it may be shown.
    pub word: String,
    pub why: String,
}

/// Reads a list of services. Words that are not understood are returned beside those that are.
pub fn parse_services(list: &str) -> (BTreeSet<Service>, Vec<WordError>) {
    sorted_out(list, str::parse)
}

/// Reads a list of tag names into bits of the packet mark.
pub fn parse_tags(list: &str, around: &Surroundings<'_>) -> (u16, Vec<WordError>) {
    let (bits, errors) = sorted_out(list, |word| around.tag(word));
    (bits.iter().fold(0, |mask, bit| mask | 1 << bit), errors)
}

/// So many words of one list are named that are not understood; the others are counted.
pub const NAMED: usize = 8;

fn sorted_out<T: Ord>(
    list: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> (BTreeSet<T>, Vec<WordError>) {
    let mut good = BTreeSet::new();
    let mut bad = Vec::new();
    let error = |word: &str, why| WordError {
        word: text::shown(word, text::NAME),
        why,
    };
    let mut more: Option<(&str, usize)> = None;
    let mut all = words(list);
    for word in all.by_ref().take(MAX_WORDS) {
        match parse(word) {
            Ok(value) => {
                good.insert(value);
            }
            Err(why) if bad.len() < NAMED => bad.push(error(word, why)),
            Err(_) => more.get_or_insert((word, 0)).1 += 1,
        }
    }
    if let Some((word, count)) = more {
        let why = match count {
            1 => "is not understood either".into(),
            _ => format!("and {} more are not understood either", count - 1),
        };
        bad.push(error(word, why));
    }
    if let Some(word) = all.next() {
        let why = format!("and what follows is ignored: a list has at most {MAX_WORDS} entries");
        bad.push(error(word, why));
    }
    (good, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> (BTreeSet<String>, usize) {
        let (good, bad) = parse_services(list);
        (good.iter().map(Service::to_string).collect(), bad.len())
    }

    #[test]
    fn lists_are_split_at_commas_and_blanks_alike() {
        let wanted = ["tcp/80", "tcp/443", "udp/53", "sctp/9"].map(String::from);
        let wanted = (BTreeSet::from(wanted), 0);
        assert_eq!(names("tcp/80,tcp/443 udp/53,\tsctp/9"), wanted);
        assert_eq!(names("sctp/9 , udp/53\ntcp/443,,TCP/80 tcp/80"), wanted);
        assert_eq!(names(" ,"), (BTreeSet::new(), 0));
    }

    #[test]
    fn a_bad_word_costs_only_itself() {
        let (good, bad) = parse_services("tcp/80 tcp/0 tcp/65536 icmp/1 80 tcp/+5 tcp/ /80 udp/53");
        assert_eq!(good.len(), 2);
        assert_eq!(bad.len(), 7);
        assert!(bad[0].to_string().starts_with("\"tcp/0\" is not a service"));
    }

    #[test]
    fn an_endless_list_is_cut_with_one_complaint() {
        let list = "x ".repeat(100_000);
        let errors = parse_services(&list).1;
        assert_eq!(errors.len(), NAMED + 2);
        assert_eq!(
            errors[NAMED].to_string(),
            "\"x\" and 1015 more are not understood either"
        );
        assert!(errors[NAMED + 1].why.contains("at most 1024 entries"));
        let long = "y".repeat(100_000);
        assert_eq!(parse_services(&long).1[0].word.chars().count(), 65);
    }
}

#[cfg(test)]
mod agreement;
