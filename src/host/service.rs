//! The words of service lists: `tcp/443`, `udp/8000-8100@192.0.2.0/24`, `tcp/22@tag:bastion`. The
//! host file's lists and those on instances have the same words; what they allow is `policy`'s
//! matter.

use super::value::Word;
use super::words::TagName;
use crate::addr::{IpAddr, IpNet};
use std::fmt;
use std::str::FromStr;

/// A protocol that a service may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    IcmpV6,
}

impl Protocol {
    pub const ALL: [(Protocol, &'static str); 5] = [
        (Protocol::Tcp, "tcp"),
        (Protocol::Udp, "udp"),
        (Protocol::Sctp, "sctp"),
        (Protocol::Icmp, "icmp"),
        (Protocol::IcmpV6, "icmpv6"),
    ];

    /// Those with ports.
    pub const TRANSPORTS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
            Protocol::Icmp => 1,
            Protocol::IcmpV6 => 58,
        }
    }

    pub fn has_ports(self) -> bool {
        Self::TRANSPORTS.contains(&self)
    }

    /// The messages that begin something and that connection tracking can match answers to
    /// (`valid_new` in net/netfilter/nf_conntrack_proto_icmp.c and _icmpv6.c). Errors belong to the
    /// flow that they are about; all else is the host's own business or an attack.
    pub fn queries(self) -> &'static [(u8, &'static str)] {
        match self {
            Protocol::Icmp => &[
                (8, "echo-request"),
                (13, "timestamp-request"),
                (15, "info-request"),
                (17, "address-mask-request"),
            ],
            Protocol::IcmpV6 => &[(128, "echo-request"), (139, "node-information-query")],
            _ => &[],
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(p, _)| p == self).map(|(_, n)| *n);
        f.write_str(name.expect("every protocol is in ALL"))
    }
}

/// Destination ports, both ends included; of ICMP, type × 256 + code, as in the first two bytes
/// of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    /// All ports but 0, which is none (RFC 6335).
    pub const ALL: Ports = Ports {
        first: 1,
        last: u16::MAX,
    };

    pub fn one(port: u16) -> Self {
        Ports {
            first: port,
            last: port,
        }
    }

    /// All codes of an ICMP type.
    pub fn of_type(kind: u8) -> Self {
        let first = u16::from(kind) << 8;
        Ports {
            first,
            last: first | 0xff,
        }
    }

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// What a service is, without with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// Every port of every transport protocol.
    Any,
    Of(Protocol, Ports),
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic::Of(protocol, Ports { first, last }) = *self else {
            return f.write_str("any");
        };
        write!(f, "{protocol}/")?;
        let query = protocol
            .queries()
            .iter()
            .find(|(kind, _)| Ports::of_type(*kind) == Ports { first, last });
        match query {
            Some((_, name)) => f.write_str(name),
            None if first == last => write!(f, "{first}"),
            None => write!(f, "{first}-{last}"),
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    Anyone,
    Net(IpNet),
    /// Addresses of the NIC's own network.
    SameNetwork,
    /// Whoever bears the tag. Whether there is such a tag is not known here.
    Tag(String),
}

/// One entry of a list of services.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    pub traffic: Traffic,
    pub peer: Peer,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.traffic)?;
        match &self.peer {
            Peer::Anyone => Ok(()),
            Peer::Net(net) if net.prefix_len() == net.max_prefix_len() => {
                write!(f, "@{}", net.addr())
            }
            Peer::Net(net) => write!(f, "@{net}"),
            Peer::SameNetwork => f.write_str("@network"),
            Peer::Tag(name) => write!(f, "@tag:{name}"),
        }
    }
}

const FORMS: &str = "is not a service; write PROTOCOL/PORT such as tcp/443 or udp/8000-8100 (tcp, udp or sctp; ports 1 to 65535), icmp/TYPE, icmpv6/TYPE, or any; and after it, if you like, @PREFIX, @network or @tag:NAME";

impl FromStr for Service {
    type Err = String;

    /// The error is one clause that follows the word, with the remedy.
    fn from_str(word: &str) -> Result<Self, String> {
        let (traffic, peer) = match word.split_once('@') {
            Some((traffic, peer)) => (traffic, parse_peer(peer)?),
            None => (word, Peer::Anyone),
        };
        let service = Service {
            traffic: parse_traffic(traffic)?,
            peer,
        };
        service.check()?;
        Ok(service)
    }
}

impl Service {
    fn check(&self) -> Result<(), String> {
        let Traffic::Of(protocol, _) = self.traffic else {
            return Ok(());
        };
        let other = match (&self.peer, protocol) {
            (Peer::Net(net), Protocol::Icmp) => net.addr().is_ipv6(),
            (Peer::Net(net), Protocol::IcmpV6) => net.addr().is_ipv4(),
            (Peer::Tag(_), Protocol::Icmp | Protocol::IcmpV6) => {
                return Err("names a tag, which goes with tcp, udp, sctp and any only; name a prefix or @network".into());
            }
            _ => false,
        };
        match other {
            true => Err(
                "mixes IPv4 and IPv6: icmp goes with IPv4 prefixes, icmpv6 with IPv6 ones".into(),
            ),
            false => Ok(()),
        }
    }
}

fn parse_traffic(text: &str) -> Result<Traffic, String> {
    if text.eq_ignore_ascii_case("any") {
        return Ok(Traffic::Any);
    }
    let (name, rest) = text.split_once('/').ok_or(FORMS)?;
    let protocol = Protocol::ALL
        .iter()
        .find(|(_, known)| known.eq_ignore_ascii_case(name))
        .map(|(protocol, _)| *protocol)
        .ok_or(FORMS)?;
    let ports = match protocol.has_ports() {
        true => parse_ports(rest)?,
        false => parse_type(protocol, rest)?,
    };
    Ok(Traffic::Of(protocol, ports))
}

fn parse_ports(text: &str) -> Result<Ports, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first).ok_or(FORMS)?, port(last).ok_or(FORMS)?);
    if last < first {
        return Err(format!(
            "is a range that ends before it begins; write {last}-{first}"
        ));
    }
    Ok(Ports { first, last })
}

/// A port other than 0, in digits only.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|c| c.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn parse_type(protocol: Protocol, text: &str) -> Result<Ports, String> {
    let queries = protocol.queries();
    let known = queries
        .iter()
        .find(|(kind, name)| text == kind.to_string() || text.eq_ignore_ascii_case(name));
    let Some((kind, _)) = known else {
        let names: Vec<String> = queries
            .iter()
            .map(|(kind, name)| format!("{name} ({kind})"))
            .collect();
        return Err(format!(
            "is not a service; of {protocol}, write one of {}: errors and answers pass with what they belong to",
            names.join(", ")
        ));
    };
    Ok(Ports::of_type(*kind))
}

fn parse_peer(text: &str) -> Result<Peer, String> {
    if text == "network" {
        return Ok(Peer::SameNetwork);
    }
    if let Some(name) = text.strip_prefix("tag:") {
        return match name {
            name if TagName::parse(name).is_ok() => Ok(Peer::Tag(name.into())),
            _ => Err("names no tag after @tag:; tags are named in [tags] of the host file".into()),
        };
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Peer::Net(address.into()));
    }
    let net: IpNet = text.parse().map_err(|_| {
        "has no such peer after '@': write a prefix such as 192.0.2.0/24 or 2001:db8::/32, an address, network, or tag:NAME".to_string()
    })?;
    if net.addr() != net.network() {
        return Err(format!(
            "has bits set beyond the prefix length; write {}",
            net.trunc()
        ));
    }
    Ok(Peer::Net(net))
}

impl Word for Service {
    const WANTED: &'static str = "a service";
    const EXAMPLE: &'static str = "tcp/443";
    const PATTERN: &'static str = "";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        text.parse()
            .map_err(|clause: String| match clause.split_once("; ") {
                Some((clause, remedy)) => (clause.into(), remedy.into()),
                None => (clause, "correct or remove it".into()),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_prints_as_it_was_written() {
        for word in [
            "tcp/443",
            "udp/8000-8100",
            "sctp/9",
            "any",
            "icmp/echo-request",
            "icmpv6/node-information-query",
            "tcp/5432@192.0.2.0/24",
            "tcp/1-65535@2001:db8::/32",
            "tcp/22@tag:bastion",
            "any@network",
            "udp/53@192.0.2.7",
            "udp/53@2001:db8::7",
            "icmp/timestamp-request@192.0.2.0/24",
        ] {
            let read: Service = word.parse().unwrap();
            assert_eq!(read.to_string(), word);
        }
        let same: Service = "ICMP/8@0.0.0.0/0".parse().unwrap();
        assert_eq!(same.to_string(), "icmp/echo-request@0.0.0.0/0");
    }

    #[test]
    fn each_wrong_word_says_what_is_wrong() {
        for (word, says) in [
            ("tcp/0", "is not a service"),
            ("tcp/65536", "is not a service"),
            ("tcp/+5", "is not a service"),
            ("80", "is not a service"),
            ("tcp/", "is not a service"),
            ("/80", "is not a service"),
            ("tcp/90-80", "write 80-90"),
            ("tcp/1-", "is not a service"),
            ("icmp/3", "errors and answers"),
            ("icmp/redirect", "echo-request (8)"),
            ("icmpv6/8", "echo-request (128)"),
            ("tcp/80@", "no such peer"),
            ("tcp/80@192.0.2.1/24", "write 192.0.2.0/24"),
            ("tcp/80@tag:", "names no tag"),
            ("tcp/80@nowhere", "no such peer"),
            ("icmp/8@2001:db8::/32", "mixes IPv4 and IPv6"),
            ("icmpv6/128@192.0.2.0/24", "mixes"),
            ("icmp/8@tag:x", "names a tag"),
            ("tcp/80@192.0.2.0/24@network", "no such peer"),
        ] {
            let error = word.parse::<Service>().unwrap_err();
            assert!(error.contains(says), "{word}: {error}");
        }
    }
}
