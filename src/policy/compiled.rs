//! A NIC's rules as the kernel looks them up: single ports open to everyone in a hash set; all else
//! as blocks that do not overlap, so that whichever one matches is the answer; and tags.

use super::rule::{Action, Direction, Peers, Rule};
use crate::host::{Ports, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// At most this many rules beyond single ports open to everyone are taken, for a NIC and direction.
pub const MAX_RULES: usize = 256;
/// And at most this many blocks are made of them.
pub const MAX_BLOCKS: usize = 2048;

/// What may pass in one direction of one NIC. By default nothing but echo requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compiled {
    /// In the order of precedence.
    pub rules: Vec<Rule>,
    /// Allowed whoever the peer; the rule's index. Looked up first.
    pub exact: BTreeMap<(Protocol, u16), usize>,
    /// Disjoint. Looked up next.
    pub blocks: Vec<Block>,
    /// Disjoint for each tag. Looked up last.
    pub tags: Vec<TagBlock>,
}

/// Ports and peers that one rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub protocol: Protocol,
    pub ports: Ports,
    /// Of one family.
    pub first: IpAddr,
    pub last: IpAddr,
    pub action: Action,
    pub rule: usize,
}

/// Ports that one rule opens to packets of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagBlock {
    pub protocol: Protocol,
    pub ports: Ports,
    pub bit: u8,
    pub rule: usize,
}

/// The first packet of a flow, as one NIC's policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub protocol: Protocol,
    /// Destination port; of ICMP, type × 256 + code.
    pub port: u16,
    pub peer: IpAddr,
    /// Bits of the packet's mark.
    pub tags: u16,
}

/// What the policy says of a flow, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement<'a> {
    Rule(&'a Rule),
    /// Echo requests are always allowed unless a rule drops them.
    Echo,
    /// No rule: denied.
    Nothing,
}

impl Judgement<'_> {
    pub fn allows(self) -> bool {
        match self {
            Judgement::Rule(rule) => rule.action == Action::Allow,
            Judgement::Echo => true,
            Judgement::Nothing => false,
        }
    }
}

impl Compiled {
    /// True if nothing but the hash set has to be looked up.
    pub fn is_plain(&self) -> bool {
        self.blocks.is_empty() && self.tags.is_empty()
    }

    /// As the rules in the kernel decide, in the same order.
    pub fn judge(&self, flow: &Flow) -> Judgement<'_> {
        let Flow {
            protocol,
            port,
            peer,
            tags,
        } = *flow;
        if let Some(rule) = self.exact.get(&(protocol, port)) {
            return Judgement::Rule(&self.rules[*rule]);
        }
        let block = self.blocks.iter().find(|block| {
            block.protocol == protocol
                && block.ports.contains(port)
                && block.first.is_ipv4() == peer.is_ipv4()
                && (block.first..=block.last).contains(&peer)
        });
        if let Some(block) = block {
            return Judgement::Rule(&self.rules[block.rule]);
        }
        let tag = self.tags.iter().filter(|tag| tags & 1 << tag.bit != 0);
        let tag = tag
            .filter(|tag| tag.protocol == protocol && tag.ports.contains(port))
            .min_by_key(|tag| tag.bit);
        if let Some(tag) = tag {
            return Judgement::Rule(&self.rules[tag.rule]);
        }
        let echo = match protocol {
            Protocol::Icmp => Some(8),
            Protocol::IcmpV6 => Some(128),
            _ => None,
        };
        match echo {
            Some(kind) if port >> 8 == kind => Judgement::Echo,
            _ => Judgement::Nothing,
        }
    }
}

/// Compiles rules. What does not fit is left out, with a clause that says so; where a rule that drops
/// would be left out, everything is.
pub fn compile(direction: Direction, rules: Vec<Rule>) -> (Compiled, Option<String>) {
    let mut rules: Vec<Rule> = rules
        .into_iter()
        .flat_map(|rule| without_dhcp_clients(direction, rule))
        .collect();
    rules.sort_by_key(|rule| rule.action);
    rules.dedup();
    let mut compiled = Compiled {
        rules,
        ..Compiled::default()
    };
    let mut rest: Vec<usize> = Vec::new();
    for (index, rule) in compiled.rules.iter().enumerate() {
        match single_port(rule, &compiled.rules) {
            Some(port) => {
                compiled.exact.entry((rule.protocol, port)).or_insert(index);
            }
            None => rest.push(index),
        }
    }
    // What an open port allows anyway needs no second entry.
    rest.retain(|index| {
        let Rule {
            action,
            protocol,
            ports,
            ..
        } = &compiled.rules[*index];
        *action == Action::Drop
            || ports.first != ports.last
            || !compiled.exact.contains_key(&(*protocol, ports.first))
    });
    let blocks = match rest.len() {
        0..=MAX_RULES => blocks(&compiled.rules, &rest),
        _ => None,
    };
    let Some(blocks) = blocks else {
        let drops = rest
            .iter()
            .any(|index| compiled.rules[*index].action == Action::Drop);
        let what = if drops {
            "nothing is allowed"
        } else {
            "of them only single ports open to everyone are allowed"
        };
        if drops {
            compiled.exact.clear();
        }
        return (
            compiled,
            Some(format!(
                "there are too many rules with ranges or peers (at most {MAX_RULES}, and {MAX_BLOCKS} blocks that do not overlap), so {what}; join neighbouring ranges and prefixes"
            )),
        );
    };
    compiled.blocks = blocks;
    compiled.tags = tags(&compiled.rules, &rest);
    (compiled, None)
}

/// The ports of DHCP clients are open only where they are named by themselves: who opens a range
/// does not mean to be told addresses by strangers.
fn without_dhcp_clients(direction: Direction, rule: Rule) -> Vec<Rule> {
    if direction == Direction::Out
        || rule.protocol != Protocol::Udp
        || rule.action == Action::Drop
        || rule.ports.first == rule.ports.last
    {
        return vec![rule];
    }
    let mut parts = Vec::new();
    let mut first = rule.ports.first;
    for client in [68, 546] {
        if (first..=rule.ports.last).contains(&client) {
            parts.push((first, client - 1));
            first = client + 1;
        }
    }
    parts.push((first, rule.ports.last));
    parts.retain(|(first, last)| first <= last);
    parts
        .into_iter()
        .map(|(first, last)| Rule {
            ports: Ports { first, last },
            ..rule.clone()
        })
        .collect()
}

/// The port of a rule that can stand in the hash set: one port, everyone, and nothing dropped of it.
fn single_port(rule: &Rule, all: &[Rule]) -> Option<u16> {
    let Rule {
        action,
        protocol,
        ports,
        peers,
        origin: _,
    } = rule;
    let plain = *action == Action::Allow
        && *peers == Peers::Anyone
        && protocol.has_ports()
        && ports.first == ports.last;
    let dropped = || {
        all.iter()
            .take_while(|other| other.action == Action::Drop)
            .any(|other| other.protocol == *protocol && other.ports.contains(ports.first))
    };
    (plain && !dropped()).then_some(ports.first)
}

/// `None` if there are too many.
fn blocks(rules: &[Rule], chosen: &[usize]) -> Option<Vec<Block>> {
    let mut found = Vec::new();
    let protocols: BTreeSet<Protocol> = chosen.iter().map(|index| rules[*index].protocol).collect();
    for protocol in protocols {
        for six in [false, true] {
            let spans: Vec<Span> = chosen
                .iter()
                .filter_map(|index| Span::of(*index, &rules[*index], protocol, six))
                .collect();
            for (ports, segments) in slabs(&spans) {
                for (first, last, rule) in segments {
                    found.push(Block {
                        protocol,
                        ports,
                        first: address(first, six),
                        last: address(last, six),
                        action: rules[rule].action,
                        rule,
                    });
                }
                if found.len() > MAX_BLOCKS {
                    return None;
                }
            }
        }
    }
    Some(found)
}

/// A rule as a rectangle of ports and addresses of one family.
struct Span {
    ports: Ports,
    first: u128,
    last: u128,
    rule: usize,
}

impl Span {
    fn of(index: usize, rule: &Rule, protocol: Protocol, six: bool) -> Option<Span> {
        let spoken = match protocol {
            Protocol::Icmp => !six,
            Protocol::IcmpV6 => six,
            _ => true,
        };
        let all = if six { u128::MAX } else { u32::MAX.into() };
        let (first, last) = match rule.peers {
            Peers::Anyone => (0, all),
            Peers::Range(first, last) if first.is_ipv6() == six => (number(first), number(last)),
            Peers::Range(..) | Peers::Tag(_) => return None,
        };
        (spoken && rule.protocol == protocol).then_some(Span {
            ports: rule.ports,
            first,
            last,
            rule: index,
        })
    }
}

/// First and last address, and the rule.
type Segment = (u128, u128, usize);

/// Slices of ports in which the same rules hold, each with its addresses in order. Neighbouring
/// slices that are alike are one.
fn slabs(spans: &[Span]) -> Vec<(Ports, Vec<Segment>)> {
    let mut cuts: BTreeSet<u32> = BTreeSet::new();
    for span in spans {
        cuts.extend([u32::from(span.ports.first), u32::from(span.ports.last) + 1]);
    }
    let cuts: Vec<u32> = cuts.into_iter().collect();
    let mut slabs: Vec<(Ports, Vec<Segment>)> = Vec::new();
    for pair in cuts.windows(2) {
        let (first, last) = (pair[0] as u16, (pair[1] - 1) as u16);
        let active: Vec<&Span> = spans
            .iter()
            .filter(|span| span.ports.contains(first))
            .collect();
        let segments = segments(&active);
        match slabs.last_mut() {
            Some((ports, before))
                if *before == segments && u32::from(ports.last) + 1 == u32::from(first) =>
            {
                ports.last = last
            }
            _ => slabs.push((Ports { first, last }, segments)),
        }
    }
    slabs.retain(|(_, segments)| !segments.is_empty());
    slabs
}

/// Who decides which addresses: the first of the spans that has them.
fn segments(active: &[&Span]) -> Vec<Segment> {
    let mut cuts: BTreeSet<u128> = BTreeSet::new();
    for span in active {
        cuts.insert(span.first);
        cuts.extend(span.last.checked_add(1));
    }
    let cuts: Vec<u128> = cuts.into_iter().collect();
    let mut segments: Vec<Segment> = Vec::new();
    for (index, first) in cuts.iter().enumerate() {
        let last = cuts.get(index + 1).map_or(u128::MAX, |next| next - 1);
        let Some(span) = active
            .iter()
            .find(|span| span.first <= *first && *first <= span.last)
        else {
            continue;
        };
        match segments.last_mut() {
            Some((_, end, rule)) if *rule == span.rule && end.checked_add(1) == Some(*first) => {
                *end = last
            }
            _ => segments.push((*first, last, span.rule)),
        }
    }
    segments
}

fn tags(rules: &[Rule], chosen: &[usize]) -> Vec<TagBlock> {
    let mut spans: BTreeMap<(Protocol, u8), Vec<Span>> = BTreeMap::new();
    for index in chosen {
        let Rule {
            protocol,
            ports,
            peers,
            ..
        } = &rules[*index];
        if let Peers::Tag(bit) = peers {
            let span = Span {
                ports: *ports,
                first: 0,
                last: 0,
                rule: *index,
            };
            spans.entry((*protocol, *bit)).or_default().push(span);
        }
    }
    let mut found = Vec::new();
    for ((protocol, bit), spans) in spans {
        for (ports, segments) in slabs(&spans) {
            found.extend(segments.iter().map(|(_, _, rule)| TagBlock {
                protocol,
                ports,
                bit,
                rule: *rule,
            }));
        }
    }
    found
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => u32::from(four).into(),
        IpAddr::V6(six) => six.into(),
    }
}

/// `number` fits the family: it comes from addresses of it.
fn address(number: u128, six: bool) -> IpAddr {
    match six {
        true => Ipv6Addr::from(number).into(),
        false => Ipv4Addr::from(number as u32).into(),
    }
}
