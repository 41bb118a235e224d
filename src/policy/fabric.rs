//! What instances may reach at the fabric's own hosts: what the host file opens, and nothing else,
//! whatever the instances' own services say.

use super::compiled::{Block, Compiled, Flow, Judgement, compile};
use super::rule::{Action, Direction, Rule, range};
use crate::addr::{IpAddr, IpNet};
use crate::host::{HostFile, Network, Peer, Ports, Protocol, Traffic};

/// The services of `[fabric]`, compiled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opened {
    compiled: Compiled,
    /// Why nothing is opened although something is listed.
    pub problem: Option<&'static str>,
}

impl Opened {
    pub fn of(host: &HostFile) -> Self {
        let all: IpNet = match host.fabric.is_ipv6() {
            true => "::/0".parse().expect("a prefix"),
            false => "0.0.0.0/0".parse().expect("a prefix"),
        };
        let mut rules = Vec::new();
        for service in &host.fabric.services {
            // Always a range, so that all of it stands in one set, without overlaps.
            let peers = match service.peer {
                Peer::Net(net) => range(net),
                Peer::Anyone => range(all),
                // The host file has none of these.
                Peer::SameNetwork | Peer::Tag(_) => continue,
            };
            let traffic: Vec<(Protocol, Ports)> = match service.traffic {
                Traffic::Any => Protocol::TRANSPORTS.map(|of| (of, Ports::ALL)).into(),
                Traffic::Of(protocol, ports) => vec![(protocol, ports)],
            };
            let origin = format!("[fabric] services: {service}").into();
            rules.extend(traffic.into_iter().map(|(protocol, ports)| Rule {
                action: Action::Allow,
                protocol,
                ports,
                peers,
                origin: std::sync::Arc::clone(&origin),
            }));
        }
        let (compiled, too_many) = compile(Direction::Out, rules);
        Opened {
            compiled,
            problem: too_many.map(|_| {
                "too many different ranges and prefixes, so nothing is open; join neighbouring ones"
            }),
        }
    }

    /// Ports and addresses that are open. Disjoint.
    pub fn blocks(&self) -> &[Block] {
        &self.compiled.blocks
    }

    /// The rule that opens a flow to such a host.
    pub fn rule(&self, flow: &Flow) -> Option<&Rule> {
        match self.compiled.judge(flow) {
            Judgement::Rule(rule) => Some(rule),
            // Here echo requests are closed as all else is.
            Judgement::Echo | Judgement::Nothing => None,
        }
    }
}

/// Whether an address is that of a host of the fabric, for instances of a network: those in a VRF may have
/// the same ones among themselves.
pub fn is_host(host: &HostFile, network: Option<&Network>, address: IpAddr) -> bool {
    let contains = |net: IpNet| net.contains(&address);
    let vrf = network.and_then(|network| host.vrf_members(network));
    let in_vrf = vrf.is_some_and(|vrf| vrf.contain(address));
    !in_vrf && host.fabric.hosts().into_iter().any(contains)
}

/// DNS servers that networks hand out and that are closed to their instances, as hosts of the fabric: the
/// network's name and the server.
pub fn closed_resolvers(host: &HostFile) -> Vec<(&str, IpAddr)> {
    let opened = Opened::of(host);
    let is_open = |peer: IpAddr| {
        let flow = Flow {
            protocol: Protocol::Udp,
            port: 53,
            peer,
            tags: 0,
        };
        opened.rule(&flow).is_some()
    };
    let all = host.networks.iter().flat_map(|network| {
        let servers = network.dns.iter().copied();
        let closed = servers.filter(|server| is_host(host, Some(network), *server));
        closed.map(|server| (network.name.as_str(), server))
    });
    all.filter(|(_, server)| !is_open(*server)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    fn host_file(services: &str) -> HostFile {
        let text = format!(
            "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"198.51.100.1\"]\n\
             supervisors = [\"203.0.113.0/24\"]\nservices = [{services}]\n\
             [[network]]\nname = \"vpc\"\nvni = 100\ngateway = [\"192.0.2.1/24\"]\n\
             [[network]]\nname = \"red\"\nvni = 200\nvrf = \"red\"\ngateway = [\"203.0.113.1/25\"]\n"
        );
        host::parse("host.toml", &text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn opens(services: &str, protocol: Protocol, port: u16, peer: &str) -> Option<String> {
        let opened = Opened::of(&host_file(services));
        assert_eq!(opened.problem, None);
        let peer = peer.parse().unwrap();
        let flow = Flow {
            protocol,
            port,
            peer,
            tags: 0,
        };
        opened.rule(&flow).map(|rule| rule.origin.to_string())
    }

    #[test]
    fn nothing_is_open_that_is_not_listed() {
        assert_eq!(opens("", Protocol::Tcp, 80, "203.0.113.11"), None);
        assert_eq!(opens("", Protocol::Icmp, 8 << 8, "203.0.113.11"), None);
        let list = r#""tcp/3128", "udp/123@203.0.113.100", "tcp/3000-4000@203.0.113.0/25", "icmp/echo-request""#;
        let open = |protocol, port, peer| opens(list, protocol, port, peer);
        let named = |word: &str| Some(format!("[fabric] services: {word}"));
        assert_eq!(open(Protocol::Tcp, 3128, "198.51.100.1"), named("tcp/3128"));
        assert_eq!(open(Protocol::Tcp, 3129, "198.51.100.1"), None);
        assert_eq!(
            open(Protocol::Tcp, 3129, "203.0.113.11"),
            named("tcp/3000-4000@203.0.113.0/25")
        );
        assert_eq!(
            open(Protocol::Udp, 123, "203.0.113.100"),
            named("udp/123@203.0.113.100")
        );
        assert_eq!(open(Protocol::Udp, 123, "203.0.113.101"), None);
        assert_eq!(
            open(Protocol::Icmp, 8 << 8, "203.0.113.9"),
            named("icmp/echo-request")
        );
        assert_eq!(open(Protocol::Icmp, 13 << 8, "203.0.113.9"), None);
    }

    #[test]
    fn any_is_every_port_and_no_ping() {
        let open = |protocol, port, peer| opens(r#""any@203.0.113.100""#, protocol, port, peer);
        assert!(open(Protocol::Sctp, 9, "203.0.113.100").is_some());
        assert_eq!(open(Protocol::Icmp, 8 << 8, "203.0.113.100"), None);
        assert_eq!(open(Protocol::Sctp, 9, "203.0.113.101"), None);
    }

    #[test]
    fn a_resolver_in_the_fabric_is_closed_unless_it_is_listed() {
        let mut host = host_file(r#""udp/53@203.0.113.8""#);
        let servers = ["203.0.113.8", "203.0.113.9", "9.9.9.9"];
        host.networks[0].dns = servers.map(|server| server.parse().unwrap()).into();
        assert_eq!(
            closed_resolvers(&host),
            [("vpc", "203.0.113.9".parse().unwrap())]
        );
    }

    #[test]
    fn a_vrf_may_have_the_same_addresses_as_the_fabric() {
        let host = host_file("");
        let is_host = |network: usize, address: &str| {
            is_host(
                &host,
                Some(&host.networks[network]),
                address.parse().unwrap(),
            )
        };
        assert!(is_host(0, "203.0.113.11") && is_host(0, "198.51.100.1"));
        assert!(!is_host(0, "198.51.100.2") && !is_host(0, "192.0.2.1"));
        assert!(!is_host(1, "203.0.113.1") && !is_host(1, "203.0.113.11"));
        assert!(is_host(1, "203.0.113.200"));
    }
}
