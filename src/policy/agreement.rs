//! A thousand random policies: what the compiled entries say is what a plain reading of the rules
//! says, rule by rule, without any of the compiler's code.

use super::*;
use crate::host;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HOST: &str = r#"
    version = 1
    [fabric]
    name = "t"
    asn = 64500
    reflectors = ["203.0.113.1"]
    supervisors = ["203.0.113.11"]
    unprotected_tags = true
    [tags]
    blue = 0
    red = 15
    [[network]]
    name = "vpc"
    vni = 100
    gateway = ["192.0.2.1/29", "2001:db8::1/125"]
"#;

/// One entry as the test thinks of it.
#[derive(Debug, Clone)]
struct Entry {
    drop: bool,
    what: What,
    who: Who,
}

#[derive(Debug, Clone)]
enum What {
    Any,
    Ports(&'static str, u16, u16),
    Message(&'static str, u8),
}

#[derive(Debug, Clone)]
enum Who {
    All,
    Four(u8, u8),
    Six(u8, u8),
    Network,
    Tag(&'static str, u16),
}

/// Addresses of the test lie here, so that random prefixes often meet them.
fn four(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn six(last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())
}

/// The last byte without what is beyond the prefix, of which `bits` are in that byte.
fn cut(last: u8, bits: u8) -> u8 {
    (u32::from(last) >> (8 - bits) << (8 - bits)) as u8
}

fn entry() -> impl Strategy<Value = Entry> {
    let ports = prop_oneof![
        4 => (60u16..72, 0u16..9),
        2 => (540u16..550, 0u16..9),
        1 => Just((1, 65534)),
        1 => (65530u16..=65535, 0u16..1),
    ];
    let protocol = prop_oneof![Just("tcp"), Just("udp"), Just("sctp")];
    let what = prop_oneof![
        1 => Just(What::Any),
        6 => (protocol, ports).prop_map(|(protocol, (first, more))| What::Ports(protocol, first, first + more)),
        1 => prop_oneof![Just(What::Message("icmp", 8)), Just(What::Message("icmp", 13)), Just(What::Message("icmpv6", 139))],
    ];
    let who = prop_oneof![
        3 => Just(Who::All),
        3 => (0u8..16, 0u8..=8).prop_map(|(last, bits)| Who::Four(cut(last, bits), bits)),
        3 => (0u8..16, 0u8..=8).prop_map(|(last, bits)| Who::Six(cut(last, bits), bits)),
        1 => Just(Who::Network),
        1 => prop_oneof![Just(Who::Tag("blue", 1)), Just(Who::Tag("red", 0x8000))],
    ];
    (prop::bool::weighted(0.25), what, who).prop_map(|(drop, what, who)| Entry { drop, what, who })
}

fn flow() -> impl Strategy<Value = Flow> {
    let port = prop_oneof![60u16..82, 540u16..560, 65530u16..=65535];
    let of_ports = (
        prop_oneof![
            Just(Protocol::Tcp),
            Just(Protocol::Udp),
            Just(Protocol::Sctp)
        ],
        port,
    );
    let of_messages = prop_oneof![
        (
            Just(Protocol::Icmp),
            prop_oneof![Just(8u16 << 8), Just(13 << 8), Just(14 << 8)]
        ),
        (
            Just(Protocol::IcmpV6),
            prop_oneof![Just(128u16 << 8), Just(139 << 8 | 1)]
        ),
    ];
    let tags = prop_oneof![Just(0u16), Just(1), Just(0x8000), Just(0x8001), Just(2)];
    (
        prop_oneof![3 => of_ports, 1 => of_messages],
        0u8..20,
        any::<bool>(),
        tags,
    )
        .prop_map(|((protocol, port), last, is_six, tags)| {
            let is_six = match protocol {
                Protocol::Icmp => false,
                Protocol::IcmpV6 => true,
                _ => is_six,
            };
            let peer: IpAddr = if is_six {
                six(last).into()
            } else {
                four(last).into()
            };
            Flow {
                protocol,
                port,
                peer,
                tags,
            }
        })
}

impl Entry {
    fn word(&self) -> String {
        let what = match self.what {
            What::Any => "any".to_string(),
            What::Ports(protocol, first, last) if first == last => format!("{protocol}/{first}"),
            What::Ports(protocol, first, last) => format!("{protocol}/{first}-{last}"),
            What::Message(protocol, kind) => format!("{protocol}/{kind}"),
        };
        match self.who {
            Who::All => what,
            Who::Four(last, bits) => format!("{what}@{}/{}", four(last), 24 + bits),
            Who::Six(last, bits) => format!("{what}@{}/{}", six(last), 120 + bits),
            Who::Network => format!("{what}@network"),
            Who::Tag(name, _) => format!("{what}@tag:{name}"),
        }
    }

    fn meets(&self, direction: Direction, flow: &Flow) -> bool {
        let last = match flow.peer {
            IpAddr::V4(four) => four.octets()[3],
            IpAddr::V6(six) => six.octets()[15],
        };
        let who = match self.who {
            Who::All => true,
            Who::Four(net, bits) => flow.peer.is_ipv4() && cut(last, bits) == net,
            Who::Six(net, bits) => flow.peer.is_ipv6() && cut(last, bits) == net,
            Who::Network => last < 8,
            Who::Tag(_, bit) => flow.tags & bit != 0,
        };
        let client = direction == Direction::In
            && flow.protocol == Protocol::Udp
            && [68, 546].contains(&flow.port);
        let open = |wide: bool| self.drop || !wide || !client;
        let what = match self.what {
            What::Any => flow.protocol.has_ports() && open(true),
            What::Ports(protocol, first, last) => {
                flow.protocol.to_string() == protocol
                    && first <= flow.port
                    && flow.port <= last
                    && open(first != last)
            }
            What::Message(protocol, kind) => {
                flow.protocol.to_string() == protocol && flow.port / 256 == u16::from(kind)
            }
        };
        who && what
    }

    /// Whether there is such a service at all.
    fn makes_sense(&self, direction: Direction) -> bool {
        let message = matches!(self.what, What::Message(..));
        match self.who {
            Who::Tag(..) => direction == Direction::In && !message && !self.drop,
            Who::Four(..) => !matches!(self.what, What::Message("icmpv6", _)),
            Who::Six(..) => !matches!(self.what, What::Message("icmp", _)),
            _ => true,
        }
    }
}

fn plainly(entries: &[Entry], direction: Direction, flow: &Flow) -> bool {
    let any = |drop: bool| {
        entries
            .iter()
            .any(|entry| entry.drop == drop && entry.meets(direction, flow))
    };
    let echo = match flow.protocol {
        Protocol::Icmp => flow.port / 256 == 8,
        Protocol::IcmpV6 => flow.port / 256 == 128,
        _ => false,
    };
    !any(true) && (any(false) || echo)
}

fn compiled(entries: &[Entry], direction: Direction) -> Compiled {
    let host = host::parse("host.toml", HOST).unwrap_or_else(|problems| panic!("{problems}"));
    let around = Surroundings {
        host: &host,
        network: &host.networks[0],
    };
    let mut rules = Vec::new();
    for entry in entries {
        let service: Service = entry
            .word()
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", entry.word()));
        let mut made = around
            .rules(&service, direction, &entry.word().into())
            .unwrap();
        if entry.drop {
            made.iter_mut().for_each(|rule| rule.action = Action::Drop);
        }
        rules.append(&mut made);
    }
    let (compiled, problem) = compile(direction, rules);
    assert_eq!(problem, None);
    compiled
}

fn disjoint(compiled: &Compiled) -> bool {
    let meet = |a: Ports, b: Ports| a.first <= b.last && b.first <= a.last;
    let blocks = compiled.blocks.iter().enumerate().all(|(i, a)| {
        compiled.blocks[..i].iter().all(|b| {
            a.protocol != b.protocol
                || a.first.is_ipv4() != b.first.is_ipv4()
                || !meet(a.ports, b.ports)
                || a.first > b.last
                || b.first > a.last
        })
    });
    let tags = compiled.tags.iter().enumerate().all(|(i, a)| {
        compiled.tags[..i]
            .iter()
            .all(|b| a.protocol != b.protocol || a.bit != b.bit || !meet(a.ports, b.ports))
    });
    blocks && tags
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn compiled_policies_say_what_their_rules_say(
        entries in prop::collection::vec(entry(), 0..12),
        flows in prop::collection::vec(flow(), 64),
        inward in any::<bool>(),
    ) {
        let direction = if inward { Direction::In } else { Direction::Out };
        let entries: Vec<Entry> = entries.into_iter().filter(|entry| entry.makes_sense(direction)).collect();
        let compiled = compiled(&entries, direction);
        prop_assert!(disjoint(&compiled), "{compiled:?}");
        for flow in &flows {
            let judgement = compiled.judge(flow);
            prop_assert_eq!(judgement.allows(), plainly(&entries, direction, flow), "{:?} of {:?}: {:?}", flow, entries, judgement);
            // The rule that is named is one that says so.
            if let Judgement::Rule(rule) = judgement {
                let named = entries.iter().any(|entry| entry.word() == *rule.origin && entry.drop == (rule.action == Action::Drop) && entry.meets(direction, flow));
                prop_assert!(named, "{:?} does not decide {:?}", rule, flow);
            }
        }
    }
}

#[test]
fn single_ports_open_to_everyone_need_the_hash_set_only() {
    let all = |word: u16| Entry {
        drop: false,
        what: What::Ports("tcp", word, word),
        who: Who::All,
    };
    let narrower = Entry {
        who: Who::Four(0, 4),
        ..all(80)
    };
    let plain = compiled(&[all(80), all(443), narrower], Direction::In);
    assert!(plain.is_plain());
    assert_eq!(plain.exact.len(), 2);
}

#[test]
fn too_many_rules_are_refused_and_never_without_those_that_drop() {
    let host = host::parse("host.toml", HOST).unwrap_or_else(|problems| panic!("{problems}"));
    let around = Surroundings {
        host: &host,
        network: &host.networks[0],
    };
    let rule = |word: String, action| {
        let service: Service = word.parse().unwrap();
        let mut rules = around
            .rules(&service, Direction::In, &word.as_str().into())
            .unwrap();
        rules.iter_mut().for_each(|rule| rule.action = action);
        rules.remove(0)
    };
    let mut rules: Vec<Rule> = (0..=256u16)
        .map(|i| rule(format!("tcp/{}-{}", 1000 + i, 2000 + 3 * i), Action::Allow))
        .collect();
    rules.push(rule("tcp/80".into(), Action::Allow));
    let (allowing, problem) = compile(Direction::In, rules.clone());
    assert!(problem.unwrap().contains("too many rules"));
    assert!(allowing.blocks.is_empty() && allowing.exact.contains_key(&(Protocol::Tcp, 80)));
    rules.push(rule("tcp/7@192.0.2.0/24".into(), Action::Drop));
    let (dropping, problem) = compile(Direction::In, rules);
    assert!(problem.unwrap().contains("nothing is allowed"));
    assert!(dropping.is_plain() && dropping.exact.is_empty());
}
