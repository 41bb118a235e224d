//! Which tracked connections end when services or addresses are taken away. The filters check every
//! packet of a connection's first direction by themselves; this is about answers, and about what
//! is left in the table.

use super::nic::Nic;
use crate::addr::IpAddr;
use crate::host::{HostFile, Network};
use crate::kernel::conntrack::Entry;
use crate::policy::fabric::{self, Opened};
use crate::policy::{Compiled, Flow, Protocol};
use std::collections::HashMap;

/// What was taken away, of which NICs.
pub struct Revoked<'a> {
    host: &'a HostFile,
    /// By old address.
    changes: HashMap<IpAddr, Vec<Change<'a>>>,
}

#[derive(Clone, Copy)]
struct Change<'a> {
    before: &'a Nic,
    now: Option<&'a Nic>,
    network: &'a Network,
    /// No other network has the address, so that what was routed is this NIC's too.
    alone: bool,
}

impl<'a> Revoked<'a> {
    /// `None` if nothing was. Both lists are sorted by identity.
    pub fn between(host: &'a HostFile, before: &'a [Nic], now: &'a [Nic]) -> Option<Self> {
        let mut changes: HashMap<IpAddr, Vec<Change<'a>>> = HashMap::new();
        for nic in before {
            let place = now.binary_search_by(|other| other.id.cmp(&nic.id));
            let now = place
                .ok()
                .map(|place| &now[place])
                .filter(|now| now.network == nic.network);
            if now.is_some_and(|now| {
                now.inward == nic.inward
                    && now.outward == nic.outward
                    && now.denied.audit == nic.denied.audit
                    && now.addresses().eq(nic.addresses())
            }) {
                continue;
            }
            let Some(network) = host
                .networks
                .iter()
                .find(|network| network.name == nic.network)
            else {
                continue;
            };
            for address in nic.addresses() {
                let admits = |network: &&Network| network.admits(address);
                let change = Change {
                    before: nic,
                    now,
                    network,
                    alone: host.networks.iter().filter(admits).count() == 1,
                };
                changes.entry(address).or_default().push(change);
            }
        }
        (!changes.is_empty()).then_some(Revoked { host, changes })
    }

    /// Whether a connection is one that was allowed and is no longer.
    pub fn ends(&self, entry: &Entry) -> bool {
        let Some(protocol) = protocol_of(entry) else {
            return false;
        };
        let flow = |peer, tags| Flow {
            protocol,
            port: entry.port,
            peer,
            tags,
        };
        // Whether tags allowed it is not kept anywhere: they count as borne, unless they changed.
        let outward = self.changes_of(entry.source).any(|change| {
            let flow = flow(entry.destination, 0);
            let allows = |nic: &Nic| nic.denied.audit || nic.outward.judge(&flow).allows();
            self.began(change, entry) && change.lost(entry.source, allows)
        });
        outward
            || self.changes_of(entry.destination).any(|change| {
                if !self.leads_to(change, entry) {
                    return false;
                }
                let same_tags = change
                    .now
                    .is_some_and(|now| tags_of(&now.inward).eq(tags_of(&change.before.inward)));
                change.lost(entry.destination, |nic| {
                    let borne = if same_tags || std::ptr::eq(nic, change.before) {
                        u16::MAX
                    } else {
                        0
                    };
                    nic.denied.audit || nic.inward.judge(&flow(entry.source, borne)).allows()
                })
            })
    }

    fn changes_of(&self, address: IpAddr) -> impl Iterator<Item = &Change<'a>> {
        self.changes.get(&address).into_iter().flatten()
    }

    /// Whether a connection to the NIC's address is one to it: within its network, or routed to it within its VRF.
    /// Of what came from elsewhere nothing tells which of several networks with the address it went to.
    fn leads_to(&self, change: &Change<'_>, entry: &Entry) -> bool {
        let Change { network, .. } = *change;
        let routed = self.host.routed_zone(network);
        let of_ours = |network: &Network| {
            entry.zone == network.conntrack_zone || entry.zone == self.host.routed_zone(network)
        };
        // In the host's zone: begun by an instance of a network outside of VRFs, here or on another host.
        let within = |network: &Network| network.vrf.is_none() && network.admits(entry.source);
        match entry.zone {
            zone if zone == network.conntrack_zone => true,
            0 if routed == 0 => change.alone || self.host.networks.iter().any(within),
            zone if zone == routed => true,
            _ => change.alone && (entry.zone == 0 || self.host.networks.iter().any(of_ours)),
        }
    }

    /// Whether a connection from the NIC's address is its own: in its network's zone, or in that of what its
    /// network sends by its gateway.
    fn began(&self, change: &Change<'_>, entry: &Entry) -> bool {
        let Change { network, .. } = *change;
        entry.zone == network.conntrack_zone || entry.zone == self.host.routed_zone(network)
    }
}

impl Change<'_> {
    fn lost(&self, address: IpAddr, allows: impl Fn(&Nic) -> bool) -> bool {
        match self
            .now
            .filter(|now| now.addresses().any(|own| own == address))
        {
            None => true,
            Some(now) => allows(self.before) && !allows(now),
        }
    }
}

/// Connections that instances have begun with hosts of the fabric, and that are not open to them or no longer.
pub struct Shut<'a> {
    host: &'a HostFile,
    opened: Opened,
    networks: HashMap<IpAddr, Vec<&'a Network>>,
}

impl<'a> Shut<'a> {
    pub fn of(host: &'a HostFile, nics: &'a [Nic]) -> Self {
        let mut networks: HashMap<IpAddr, Vec<&Network>> = HashMap::new();
        for nic in nics {
            for address in nic.addresses() {
                let of = networks.entry(address).or_default();
                of.extend(host.network(&nic.network));
            }
        }
        Shut {
            host,
            opened: Opened::of(host),
            networks,
        }
    }

    /// Whether a connection is one of them.
    pub fn ends(&self, entry: &Entry) -> bool {
        let began = |network: &&&Network| entry.zone == self.host.routed_zone(network);
        let Some(network) = self
            .networks
            .get(&entry.source)
            .and_then(|networks| networks.iter().find(began))
        else {
            return false;
        };
        let open = || {
            let flow = protocol_of(entry).map(|protocol| Flow {
                protocol,
                port: entry.port,
                peer: entry.destination,
                tags: 0,
            });
            flow.is_some_and(|flow| self.opened.rule(&flow).is_some())
        };
        fabric::is_host(self.host, Some(network), entry.destination) && !open()
    }
}

fn protocol_of(entry: &Entry) -> Option<Protocol> {
    Protocol::ALL
        .iter()
        .map(|(protocol, _)| *protocol)
        .find(|known| known.number() == entry.protocol)
}

/// What a policy says of tags, without where it is from.
fn tags_of(policy: &Compiled) -> impl Iterator<Item = (Protocol, u16, u16, u8)> + '_ {
    policy
        .tags
        .iter()
        .map(|tag| (tag.protocol, tag.ports.first, tag.ports.last, tag.bit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;
    use crate::policy::{Direction, Surroundings, compile, parse_services};
    use std::sync::Arc;

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
        red = 1
        [[network]]
        name = "vpc"
        vni = 100
        gateway = ["192.0.2.1/24", "2001:db8::1/64"]
        [[network]]
        name = "other"
        vni = 200
        vrf = "red"
        gateway = ["192.0.2.1/24"]
        [[network]]
        name = "beside"
        vni = 300
        gateway = ["198.51.100.1/24"]
        [[network]]
        name = "far-red"
        vni = 400
        vrf = "red"
        gateway = ["198.51.100.1/24"]
    "#;

    fn host_file() -> HostFile {
        host::parse("host.toml", HOST).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn nic(host: &HostFile, last: u8, inward: &str, outward: &str) -> Nic {
        let around = Surroundings {
            host,
            network: &host.networks[0],
        };
        let policy = |direction, list: &str| {
            let services = parse_services(list).0;
            let rules = services
                .iter()
                .flat_map(|service| around.rules(service, direction, &"x".into()).unwrap());
            Arc::new(compile(direction, rules.collect()).0)
        };
        Nic {
            ipv6: Some(format!("2001:db8::{last}").parse().unwrap()),
            inward: policy(Direction::In, inward),
            outward: policy(Direction::Out, outward),
            ..Nic::sample(last)
        }
    }

    fn entry(zone: u16, protocol: u8, source: &str, destination: &str, port: u16) -> Entry {
        Entry::sample(
            zone,
            protocol,
            source.parse().unwrap(),
            destination.parse().unwrap(),
            port,
        )
    }

    #[test]
    fn what_lost_its_service_ends_and_nothing_else() {
        let host = host_file();
        let before = [
            nic(&host, 10, "tcp/80 tcp/443 tcp/22@tag:red", "udp/53"),
            nic(&host, 20, "tcp/80", "tcp/1-65535"),
        ];
        let now = [
            nic(&host, 10, "tcp/443 tcp/22@tag:blue", "udp/53"),
            before[1].clone(),
        ];
        let revoked = Revoked::between(&host, &before, &now).unwrap();
        let ends = |entry: &Entry| revoked.ends(entry);
        assert!(ends(&entry(100, 6, "192.0.2.20", "192.0.2.10", 80)));
        assert!(ends(&entry(100, 6, "2001:db8::20", "2001:db8::10", 80)));
        assert!(
            ends(&entry(100, 6, "192.0.2.20", "192.0.2.10", 22)),
            "it was allowed by a tag that no longer is"
        );
        // Another port, another NIC, another zone, echo, and what never was a service.
        assert!(!ends(&entry(100, 6, "192.0.2.20", "192.0.2.10", 443)));
        assert!(!ends(&entry(100, 6, "192.0.2.10", "192.0.2.20", 80)));
        assert!(!ends(&entry(200, 6, "192.0.2.20", "192.0.2.10", 80)));
        // Routed: begun by it, or by the same address of the VRF; to it, from a network beside it or from the VRF.
        let before_out = [nic(&host, 10, "", "tcp/80")];
        let now_out = [nic(&host, 10, "", "")];
        let out = Revoked::between(&host, &before_out, &now_out).unwrap();
        assert!(out.ends(&entry(100, 6, "192.0.2.10", "203.0.113.5", 80)));
        assert!(out.ends(&entry(0, 6, "192.0.2.10", "203.0.113.5", 80)));
        assert!(!out.ends(&entry(200, 6, "192.0.2.10", "203.0.113.5", 80)));
        assert!(ends(&entry(0, 6, "198.51.100.20", "192.0.2.10", 80)));
        assert!(!ends(&entry(200, 6, "198.51.100.20", "192.0.2.10", 80)));
        assert!(
            !ends(&entry(0, 6, "203.0.113.5", "192.0.2.10", 80)),
            "two networks have this address"
        );
        assert!(ends(&entry(0, 6, "203.0.113.5", "2001:db8::10", 80)));
        assert!(!ends(&entry(400, 6, "198.51.100.20", "192.0.2.10", 80)));
        assert!(!ends(&entry(7, 6, "2001:db8::20", "2001:db8::10", 80)));
        assert!(ends(&entry(0, 6, "2001:db8::20", "2001:db8::10", 80)));
        assert!(!ends(&entry(100, 1, "192.0.2.20", "192.0.2.10", 8 << 8)));
        assert!(!ends(&entry(100, 17, "192.0.2.1", "192.0.2.10", 68)));
    }

    #[test]
    fn what_is_not_open_at_the_fabrics_hosts_ends() {
        let text = HOST.replace("[tags]", "services = [\"tcp/3128\"]\n[tags]");
        let host = host::parse("host.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let nics = [nic(&host, 10, "", "tcp/1-65535")];
        let shut = Shut::of(&host, &nics);
        let ends = |zone, protocol, destination, port| {
            shut.ends(&entry(zone, protocol, "192.0.2.10", destination, port))
        };
        assert!(ends(0, 6, "203.0.113.11", 22));
        assert!(ends(0, 6, "203.0.113.1", 179));
        assert!(ends(0, 1, "203.0.113.11", 8 << 8));
        assert!(ends(0, 47, "203.0.113.11", 0));
        // Open; elsewhere; the same address in a VRF; begun by the host.
        assert!(!ends(0, 6, "203.0.113.11", 3128));
        assert!(!ends(0, 6, "203.0.113.12", 22));
        assert!(!ends(200, 6, "203.0.113.11", 22));
        assert!(!shut.ends(&entry(0, 6, "203.0.113.11", "192.0.2.10", 80)));
    }

    #[test]
    fn what_only_audit_let_pass_ends_with_it() {
        let host = host_file();
        let mut before = [nic(&host, 10, "tcp/80", ""), nic(&host, 20, "", "tcp/80")];
        before.iter_mut().for_each(|nic| nic.denied.audit = true);
        let mut now = before.clone();
        now[0].denied.audit = false;
        let revoked = Revoked::between(&host, &before, &now).unwrap();
        assert!(revoked.ends(&entry(100, 6, "192.0.2.20", "192.0.2.10", 22)));
        assert!(!revoked.ends(&entry(100, 6, "192.0.2.20", "192.0.2.10", 80)));
        // Switched on, nothing ends.
        let revoked = Revoked::between(&host, &now, &before).unwrap();
        assert!(!revoked.ends(&entry(100, 6, "192.0.2.20", "192.0.2.10", 80)));
    }

    #[test]
    fn an_address_that_is_taken_away_ends_all_that_it_had() {
        let host = host_file();
        let before = [nic(&host, 10, "tcp/80", ""), nic(&host, 20, "tcp/80", "")];
        let moved = Nic {
            ipv4: Some([192, 0, 2, 11].into()),
            ..before[0].clone()
        };
        let now = [moved, before[1].clone()];
        let revoked = Revoked::between(&host, &before, &now).unwrap();
        assert!(revoked.ends(&entry(100, 6, "192.0.2.20", "192.0.2.10", 80)));
        assert!(revoked.ends(&entry(100, 1, "192.0.2.10", "192.0.2.20", 8 << 8)));
        assert!(!revoked.ends(&entry(100, 6, "2001:db8::20", "2001:db8::10", 80)));
        // Gone altogether.
        let revoked = Revoked::between(&host, &before, &before[1..]).unwrap();
        assert!(revoked.ends(&entry(100, 6, "2001:db8::20", "2001:db8::10", 80)));
        assert!(!revoked.ends(&entry(100, 6, "2001:db8::30", "2001:db8::20", 80)));
        assert!(Revoked::between(&host, &before, &before).is_none());
    }
}
