//! Rules: one protocol, a range of ports, one sort of peer, and what is done. Services and the
//! entries of access lists become rules; names of tags and networks are resolved here.

use crate::addr::{IpAddr, IpNet};
use crate::host::{HostFile, Network, Peer, Ports, Protocol, Service, Traffic};
use std::sync::Arc;

/// Seen from the NIC: what may reach it, or what it may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    In,
    Out,
}

/// What is done, in the order of precedence: what drops comes before what allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    Drop,
    Allow,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peers {
    Anyone,
    /// Addresses of one family, both ends included.
    Range(IpAddr, IpAddr),
    /// Packets that bear this bit of the mark.
    Tag(u8),
}

/// One thing that is allowed or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    pub protocol: Protocol,
    pub ports: Ports,
    pub peers: Peers,
    /// Where it comes from, for a person: `user.lxmesh.in_services tcp/443`.
    pub origin: Arc<str>,
}

/// What the words of a NIC's lists refer to.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    pub host: &'a HostFile,
    pub network: &'a Network,
}

impl Surroundings<'_> {
    /// The bit of a tag, if tags can be trusted in this network.
    pub fn tag(&self, name: &str) -> Result<u8, String> {
        let Some(bit) = self.host.tags.get(name) else {
            return Err("is not a tag; tags are named in [tags] of the host file".into());
        };
        if !self.network.gbp {
            return Err(format!(
                "cannot be used: tags do not travel in network {}, because gbp is false in the host file; set it to true on every host",
                self.network.name
            ));
        }
        if self.host.ipsec.is_none() && !self.host.fabric.unprotected_tags {
            return Err(
                "cannot be used: without [ipsec] whoever reaches a tunnel's UDP port can forge tags; enable it, or accept that with unprotected_tags = true in [fabric]"
                    .into(),
            );
        }
        Ok(*bit)
    }

    /// The rules of one service. The error is a clause that follows its word.
    pub fn rules(
        &self,
        service: &Service,
        direction: Direction,
        origin: &Arc<str>,
    ) -> Result<Vec<Rule>, String> {
        let peers: Vec<Peers> = match &service.peer {
            Peer::Anyone => vec![Peers::Anyone],
            Peer::Net(net) => vec![range(*net)],
            Peer::SameNetwork => self.same_network(),
            Peer::Tag(_) if direction == Direction::Out => {
                return Err("names a tag: tags come with a packet, so they are matched where it arrives; use in_services there, and a prefix or @network here".into());
            }
            Peer::Tag(name) => {
                vec![Peers::Tag(self.tag(name).map_err(|why| {
                    format!("names the tag {name:?}, which {why}")
                })?)]
            }
        };
        let traffic: Vec<(Protocol, Ports)> = match service.traffic {
            Traffic::Any => Protocol::TRANSPORTS
                .map(|protocol| (protocol, Ports::ALL))
                .into(),
            Traffic::Of(protocol, ports) => vec![(protocol, ports)],
        };
        let mut rules = Vec::new();
        for (protocol, ports) in traffic {
            for peers in &peers {
                if !peers.can_speak(protocol) {
                    continue;
                }
                rules.push(Rule {
                    action: Action::Allow,
                    protocol,
                    ports,
                    peers: *peers,
                    origin: origin.clone(),
                });
            }
        }
        Ok(rules)
    }

    /// The gateways' prefixes, and the link-local one, which never leaves a network.
    fn same_network(&self) -> Vec<Peers> {
        let link_local: IpNet = "fe80::/10".parse().expect("a prefix");
        self.network
            .gateways()
            .chain([link_local])
            .map(range)
            .collect()
    }
}

impl Peers {
    /// False for ICMP of the other family.
    pub fn can_speak(&self, protocol: Protocol) -> bool {
        match (self, protocol) {
            (Peers::Range(first, _), Protocol::Icmp) => first.is_ipv4(),
            (Peers::Range(first, _), Protocol::IcmpV6) => first.is_ipv6(),
            _ => true,
        }
    }
}

/// All addresses of a prefix.
pub fn range(net: IpNet) -> Peers {
    match net {
        IpNet::V4(net) => Peers::Range(net.network().into(), net.broadcast().into()),
        IpNet::V6(net) => Peers::Range(net.network().into(), net.broadcast().into()),
    }
}
