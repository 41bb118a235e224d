//! The words of `user.lxmesh.in_services`, `out_services` and `tags`, and what they mean. Pure.
//! How a policy becomes set elements is `kinds::nft_element`'s matter.

use crate::host::HostFile;
use std::collections::BTreeSet;
use std::fmt;

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    const ALL: [(Protocol, &'static str); 3] = [
        (Protocol::Tcp, "tcp"),
        (Protocol::Udp, "udp"),
        (Protocol::Sctp, "sctp"),
    ];

    /// IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(p, _)| p == self).map(|(_, n)| *n);
        f.write_str(name.expect("every protocol is in ALL"))
    }
}

/// One allowed destination port, e.g. `tcp/443`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.port)
    }
}

/// A word that is not understood, why, and what would be. It costs only itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} {why}")]
pub struct WordError {
    pub word: String,
    pub why: String,
}

/// At most this many entries of one list are taken: 2 × 65536 × 3 would fit no NIC's needs.
pub const MAX_WORDS: usize = 1024;

/// Splits a list at commas and blanks.
fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
}

/// Reads a list of services. Words that are not understood are returned beside those that are.
pub fn parse_services(list: &str) -> (BTreeSet<Service>, Vec<WordError>) {
    sorted_out(list, parse_service)
}

fn parse_service(word: &str) -> Result<Service, String> {
    let wanted = "is not a service; write PROTOCOL/PORT such as tcp/443, with tcp, udp or sctp and a port from 1 to 65535";
    let (protocol, port) = word.split_once('/').ok_or(wanted)?;
    let protocol = Protocol::ALL
        .iter()
        .find(|(_, name)| name.eq_ignore_ascii_case(protocol))
        .map(|(protocol, _)| *protocol)
        .ok_or(wanted)?;
    if !port.bytes().all(|c| c.is_ascii_digit()) {
        return Err(wanted.into());
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(wanted.into()),
        Ok(port) => Ok(Service { protocol, port }),
    }
}

/// Reads a list of tag names into bits of the packet mark.
pub fn parse_tags(list: &str, host: &HostFile) -> (u16, Vec<WordError>) {
    let (bits, errors) = sorted_out(list, |word| {
        host.tags
            .get(word)
            .copied()
            .ok_or_else(|| "is not a tag; tags are named in [tags] of the host file".to_string())
    });
    (bits.iter().fold(0, |mask, bit| mask | 1 << bit), errors)
}

fn sorted_out<T: Ord>(
    list: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> (BTreeSet<T>, Vec<WordError>) {
    let mut good = BTreeSet::new();
    let mut bad = Vec::new();
    for (index, word) in words(list).enumerate() {
        let result = if index < MAX_WORDS {
            parse(word)
        } else {
            Err(format!(
                "and what follows is ignored: a list has at most {MAX_WORDS} entries"
            ))
        };
        match result {
            Ok(value) => {
                good.insert(value);
            }
            Err(why) => bad.push(WordError {
                word: printable(word),
                why,
            }),
        }
        if index >= MAX_WORDS {
            break;
        }
    }
    (good, bad)
}

/// A word as it may stand in a message: bounded, because it comes from whoever may edit the
/// instance. Control characters are escaped by the quoting of [`WordError`].
fn printable(word: &str) -> String {
    word.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> (Vec<String>, usize) {
        let (good, bad) = parse_services(list);
        (good.iter().map(Service::to_string).collect(), bad.len())
    }

    #[test]
    fn lists_are_split_at_commas_and_blanks_alike() {
        let wanted = (
            vec![
                "tcp/80".to_string(),
                "tcp/443".into(),
                "udp/53".into(),
                "sctp/9".into(),
            ],
            0,
        );
        assert_eq!(names("tcp/80,tcp/443 udp/53,\tsctp/9"), wanted);
        assert_eq!(names("sctp/9 , udp/53\ntcp/443,,TCP/80 tcp/80"), wanted);
        assert_eq!(names(" ,"), (vec![], 0));
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
        assert_eq!(parse_services(&list).1.len(), MAX_WORDS + 1);
        let long = "y".repeat(100_000);
        assert_eq!(parse_services(&long).1[0].word.len(), 64);
    }
}
