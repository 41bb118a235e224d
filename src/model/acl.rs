//! LXD's access lists in our terms: each of their rules becomes rules of a NIC, or is refused by
//! name. See <https://documentation.ubuntu.com/lxd/en/latest/howto/network_acls/>.

use crate::addr::{IpAddr, IpNet};
use crate::lxd::AclRule;
use crate::policy::{Action, Direction, Peers, Ports, Protocol, Rule, rule};
use crate::text::{self, MAX_WORDS, NAME};
use std::sync::Arc;

/// The rules of one rule. The error is a clause that follows "rule 2 of ingress".
///
/// `own` are the NIC's addresses: a rule that names its own end counts only for the families in
/// which it has the NIC's address.
pub fn rules(
    acl: &AclRule,
    direction: Direction,
    own: &[IpAddr],
    origin: &Arc<str>,
) -> Result<Vec<Rule>, String> {
    let AclRule {
        action,
        source,
        destination,
        protocol,
        source_port,
        destination_port,
        icmp_type,
        icmp_code,
        state,
    } = acl;
    match state.as_str() {
        "disabled" => return Ok(Vec::new()),
        // That it is to be logged makes no difference to what passes.
        "enabled" | "logged" | "" => {}
        other => {
            return Err(format!(
                "has the unknown state \"{}\"",
                text::shown(other, NAME)
            ));
        }
    }
    let action = match action.as_str() {
        "allow" => Action::Allow,
        "drop" | "reject" => Action::Drop,
        other => {
            return Err(format!(
                "has the action \"{}\", which is none of allow, reject and drop",
                text::shown(other, NAME)
            ));
        }
    };
    if !source_port.is_empty() {
        return Err("has a source port, which LXMesh does not look at; leave it out".into());
    }
    let (peer, this) = match direction {
        Direction::In => (source, destination),
        Direction::Out => (destination, source),
    };
    let families = families(this, own)?;
    let peers = peers(peer, families)?;
    let traffic = traffic(protocol, destination_port, icmp_type, icmp_code)?;
    let mut rules = Vec::new();
    for (protocol, ports) in traffic {
        for peers in peers.iter().filter(|peers| peers.can_speak(protocol)) {
            rules.push(Rule {
                action,
                protocol,
                ports,
                peers: *peers,
                origin: origin.clone(),
            });
        }
    }
    Ok(rules)
}

/// Whether an action is one that drops, also of a rule that is otherwise not understood. What is
/// no known action may be one.
pub fn may_drop(acl: &AclRule) -> bool {
    acl.action != "allow" && acl.state != "disabled"
}

/// For which families a rule counts: IPv4, IPv6.
fn families(this: &str, own: &[IpAddr]) -> Result<[bool; 2], String> {
    if this.trim().is_empty() {
        return Ok([true, true]);
    }
    let ranges = subjects(this)?;
    let covered = |six: bool| {
        own.iter().any(|address| {
            address.is_ipv6() == six
                && ranges.iter().any(|range| {
                    matches!(range, Peers::Range(first, last) if first.is_ipv6() == six && (first..=last).contains(&address))
                })
        })
    };
    Ok([covered(false), covered(true)])
}

fn peers(text: &str, [four, six]: [bool; 2]) -> Result<Vec<Peers>, String> {
    let all = |net: &str| rule::range(net.parse::<IpNet>().expect("a prefix"));
    let mut peers = match text.trim() {
        "" if four && six => return Ok(vec![Peers::Anyone]),
        "" => vec![all("0.0.0.0/0"), all("::/0")],
        text => subjects(text)?,
    };
    peers.retain(|peers| match peers {
        Peers::Range(first, _) => {
            if first.is_ipv4() {
                four
            } else {
                six
            }
        }
        _ => true,
    });
    Ok(peers)
}

/// Addresses, prefixes and ranges.
fn subjects(list: &str) -> Result<Vec<Peers>, String> {
    entries(list)?.map(subject).collect()
}

/// The entries of a list, if these are not too many.
fn entries(list: &str) -> Result<impl Iterator<Item = &str>, String> {
    let entries = list.split(',').map(str::trim);
    match entries.clone().nth(MAX_WORDS) {
        None => Ok(entries),
        Some(_) => Err(format!(
            "has a list of more than {MAX_WORDS} entries; make several rules of it"
        )),
    }
}

fn subject(text: &str) -> Result<Peers, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(rule::range(address.into()));
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(rule::range(net));
    }
    let ends = text.split_once('-').and_then(|(first, last)| {
        let ends: (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
        (ends.0.is_ipv4() == ends.1.is_ipv4() && ends.0 <= ends.1).then_some(ends)
    });
    match ends {
        Some((first, last)) => Ok(Peers::Range(first, last)),
        None => {
            let shown = text::shown(text, NAME);
            Err(format!(
                "names \"{shown}\"; LXMesh knows addresses, prefixes and ranges of addresses only"
            ))
        }
    }
}

fn traffic(
    protocol: &str,
    ports: &str,
    icmp_type: &str,
    icmp_code: &str,
) -> Result<Vec<(Protocol, Ports)>, String> {
    let transport = match protocol {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "icmp4" => return icmp(Protocol::Icmp, icmp_type, icmp_code),
        "icmp6" => return icmp(Protocol::IcmpV6, icmp_type, icmp_code),
        "" => None,
        other => {
            let shown = text::shown(other, NAME);
            return Err(format!(
                "has the protocol \"{shown}\", which LXMesh does not know"
            ));
        }
    };
    match transport {
        Some(protocol) if ports.trim().is_empty() => Ok(vec![(protocol, Ports::ALL)]),
        Some(protocol) => {
            port_list(ports).map(|list| list.into_iter().map(|ports| (protocol, ports)).collect())
        }
        None if !ports.trim().is_empty() => Err("has ports without a protocol".into()),
        None => {
            let mut all: Vec<_> = Protocol::TRANSPORTS
                .map(|protocol| (protocol, Ports::ALL))
                .into();
            for protocol in [Protocol::Icmp, Protocol::IcmpV6] {
                all.extend(icmp(protocol, "", "")?);
            }
            Ok(all)
        }
    }
}

fn port_list(text: &str) -> Result<Vec<Ports>, String> {
    let read = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let ports = Ports {
            first: first.trim().parse().ok()?,
            last: last.trim().parse().ok()?,
        };
        (0 < ports.first && ports.first <= ports.last).then_some(ports)
    };
    let parts = entries(text)?.map(read);
    parts.collect::<Option<Vec<_>>>().ok_or_else(|| {
        let shown = text::shown(text, NAME);
        format!("has the ports \"{shown}\"; LXMesh knows numbers and ranges such as 80,8000-8100")
    })
}

/// Without a type: every message that begins something. Errors and answers belong to what they are
/// about, and ND is no access list's matter.
fn icmp(protocol: Protocol, kind: &str, code: &str) -> Result<Vec<(Protocol, Ports)>, String> {
    let queries = protocol.queries();
    let wrong = || {
        let (kind, code) = (text::shown(kind, 16), text::shown(code, 16));
        format!(
            "has the ICMP type {kind} and code {code}, of which LXMesh knows {}: errors and answers pass with what they belong to",
            queries
                .iter()
                .map(|(kind, name)| format!("{kind} ({name})"))
                .collect::<Vec<_>>()
                .join(", ")
        )
    };
    let kinds: Vec<u8> = match kind {
        "" => queries.iter().map(|(kind, _)| *kind).collect(),
        text => vec![
            text.parse()
                .ok()
                .filter(|kind| queries.iter().any(|(known, _)| known == kind))
                .ok_or_else(wrong)?,
        ],
    };
    let code: Option<u8> = match code {
        "" => None,
        text => Some(text.parse().map_err(|_| wrong())?),
    };
    let ports = |kind: u8| match code {
        None => Ports::of_type(kind),
        Some(code) => Ports::one(u16::from(kind) << 8 | u16::from(code)),
    };
    Ok(kinds
        .into_iter()
        .map(|kind| (protocol, ports(kind)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(pairs: &[(&str, &str)]) -> AclRule {
        let pairs = pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string().into()));
        serde_json::from_value(serde_json::Value::Object(pairs.collect())).unwrap()
    }

    fn made(direction: Direction, pairs: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let own: Vec<IpAddr> = vec![
            "192.0.2.10".parse().unwrap(),
            "2001:db8::10".parse().unwrap(),
        ];
        let rules = rules(&acl(pairs), direction, &own, &"x".into())?;
        let shown = |rule: &Rule| {
            let peers = match rule.peers {
                Peers::Anyone => "anyone".to_string(),
                Peers::Range(first, last) => format!("{first}-{last}"),
                Peers::Tag(_) => unreachable!(),
            };
            format!(
                "{:?} {}/{}-{} {peers}",
                rule.action, rule.protocol, rule.ports.first, rule.ports.last
            )
        };
        Ok(rules.iter().map(shown).collect())
    }

    #[test]
    fn rules_become_rules() {
        use Direction::{In, Out};
        let web = [
            ("action", "allow"),
            ("protocol", "tcp"),
            ("destination_port", "80,8000-8100"),
            ("state", "enabled"),
        ];
        assert_eq!(
            made(In, &web).unwrap(),
            ["Allow tcp/80-80 anyone", "Allow tcp/8000-8100 anyone"]
        );
        let from = [
            ("action", "reject"),
            ("protocol", "udp"),
            ("source", "10.0.0.1-10.0.0.9, 2001:db8::/64"),
            ("state", "logged"),
        ];
        assert_eq!(
            made(In, &from).unwrap(),
            [
                "Drop udp/1-65535 10.0.0.1-10.0.0.9",
                "Drop udp/1-65535 2001:db8::-2001:db8::ffff:ffff:ffff:ffff"
            ]
        );
        // Outward the peer is the destination; the own end restricts it to a family, or to nothing.
        let out = [
            ("action", "allow"),
            ("protocol", "tcp"),
            ("destination_port", "1"),
            ("source", "192.0.2.0/24"),
        ];
        assert_eq!(
            made(Out, &out).unwrap(),
            ["Allow tcp/1-1 0.0.0.0-255.255.255.255"]
        );
        assert_eq!(
            made(Out, &[("action", "allow"), ("source", "198.51.100.0/24")]).unwrap(),
            [""; 0]
        );
        let ping = [
            ("action", "drop"),
            ("protocol", "icmp4"),
            ("icmp_type", "8"),
        ];
        assert_eq!(made(In, &ping).unwrap(), ["Drop icmp/2048-2303 anyone"]);
        let all = made(In, &[("action", "drop")]).unwrap();
        assert_eq!(all.len(), 3 + 4 + 2);
        assert_eq!(
            made(In, &[("action", "drop"), ("state", "disabled")]).unwrap(),
            [""; 0]
        );
    }

    #[test]
    fn what_cannot_be_expressed_is_refused_in_words() {
        for (pairs, says) in [
            (
                &[("action", "allow-stateless")][..],
                "has the action \"allow-stateless\"",
            ),
            (
                &[("action", "allow"), ("source", "@internal")],
                "names \"@internal\"",
            ),
            (
                &[("action", "allow"), ("source", "10.0.0.9-10.0.0.1")],
                "names \"10.0.0.9-10.0.0.1\"",
            ),
            (
                &[("action", "allow"), ("destination", "web")],
                "names \"web\"",
            ),
            (
                &[
                    ("action", "allow"),
                    ("protocol", "tcp"),
                    ("source_port", "1"),
                ],
                "has a source port",
            ),
            (
                &[("action", "allow"), ("protocol", "gre")],
                "has the protocol \"gre\"",
            ),
            (
                &[("action", "allow"), ("destination_port", "80")],
                "has ports without a protocol",
            ),
            (
                &[
                    ("action", "allow"),
                    ("protocol", "tcp"),
                    ("destination_port", "http"),
                ],
                "has the ports \"http\"",
            ),
            (
                &[
                    ("action", "allow"),
                    ("protocol", "icmp4"),
                    ("icmp_type", "5"),
                ],
                "has the ICMP type 5",
            ),
            (&[("action", "allow"), ("state", "odd")], "unknown state"),
            (
                &[("action", "allow"), ("source", &*"10.0.0.1,".repeat(1025))],
                "more than 1024 entries",
            ),
            (
                &[
                    ("action", "allow"),
                    ("protocol", "icmp4"),
                    ("icmp_type", "\u{1b}[2J"),
                ],
                "ICMP type \\u{1b}[2J and",
            ),
        ] {
            let error = made(Direction::In, pairs).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
