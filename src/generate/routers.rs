//! FRR's part in telling routers outside of the fabric of host routes: what it takes from which
//! table, and whom it tells. Nothing is taken from them.
//!
//! A host route is known by all that FRR can see of it: a kernel route of full length, inside the
//! network's prefix, on its bridge, without a next hop, and with a metric that only the agent uses.
//! FRR does not keep the kernel's protocol number.

use super::roles::Here;
use crate::addr::IpNet;
use crate::host::{HostFile, Network, RouteTable, Router};
use serde::Serialize;
use std::collections::BTreeMap;

/// Lists have nothing in them where there is no router, or the host runs no instances.
#[derive(Serialize, Default)]
pub struct RouterValues {
    metric: u32,
    /// "ip" and "ipv6", where needed, and what a route without a next hop has for one.
    unset_hops: Vec<UnsetHop>,
    networks: Vec<AnnouncedNetwork>,
    routers: Vec<RouterPeer>,
    families: Vec<Family>,
}

#[derive(Serialize)]
struct UnsetHop {
    ip: &'static str,
    prefix: &'static str,
}

/// One network's part of the map of its table, in one family.
#[derive(Serialize)]
struct AnnouncedNetwork {
    map: String,
    /// Of the network alone, so that others keep theirs when it comes or goes.
    number: u16,
    network: String,
    bridge: String,
    ip: &'static str,
    prefix: String,
    length: u8,
}

#[derive(Serialize)]
struct RouterPeer {
    address: String,
    asn: u32,
    /// "ebgp-multihop" for another AS: underlay addresses need not be on one link. As FRR itself
    /// writes it, or each reload would start the session anew.
    options: Vec<&'static str>,
    /// This host's address, for a router of the same family.
    source: Vec<String>,
}

#[derive(Serialize)]
struct Family {
    /// "ipv4" or "ipv6".
    name: &'static str,
    peers: Vec<String>,
    sources: Vec<Source>,
}

/// A table that FRR takes routes from: "kernel" is the main one.
#[derive(Serialize)]
struct Source {
    table: String,
    map: String,
}

impl RouterValues {
    pub fn new(file: &HostFile, here: &Here) -> Self {
        if !here.supervisor || file.routers.is_empty() {
            return RouterValues::default();
        }
        let mut values = RouterValues {
            metric: Network::ANNOUNCED_METRIC,
            ..RouterValues::default()
        };
        for router in &file.routers {
            let Router { address, asn } = router;
            let same = address.is_ipv6() == here.underlay.is_ipv6();
            values.routers.push(RouterPeer {
                address: address.to_string(),
                asn: *asn,
                options: match *asn == file.fabric.asn {
                    true => vec![],
                    false => vec!["ebgp-multihop"],
                },
                source: same
                    .then(|| here.underlay.to_string())
                    .into_iter()
                    .collect(),
            });
        }
        values.routers.sort_by_key(|router| router.address.clone());
        for (six, name, ip, unset) in [
            (false, "ipv4", "ip", "0.0.0.0/32"),
            (true, "ipv6", "ipv6", "::/128"),
        ] {
            let peers: Vec<String> = file
                .routers
                .iter()
                .filter(|router| router.address.is_ipv6() == six)
                .map(|router| router.address.to_string())
                .collect();
            if peers.is_empty() {
                continue;
            }
            values.family(file, six, ip);
            values.unset_hops.push(UnsetHop { ip, prefix: unset });
            values.families.push(Family {
                name,
                peers: sorted(peers),
                sources: sources(file, six, ip),
            });
        }
        values
    }

    /// Which routes of a family are host routes of networks.
    fn family(&mut self, file: &HostFile, six: bool, ip: &'static str) {
        for (network, gateway) in announced(file, six) {
            self.networks.push(AnnouncedNetwork {
                map: map_name(network, ip),
                number: network.conntrack_zone,
                network: network.name.clone(),
                bridge: network.bridge.to_string(),
                ip,
                prefix: gateway.trunc().to_string(),
                length: IpNet::from(gateway.addr()).prefix_len(),
            });
        }
        self.networks
            .sort_by(|a, b| (a.ip, &a.map, a.number).cmp(&(b.ip, &b.map, b.number)));
    }
}

/// Networks whose host routes of a family are announced, with that family's gateway: no instance
/// has an address outside of its prefix.
fn announced(file: &HostFile, six: bool) -> impl Iterator<Item = (&Network, IpNet)> {
    let networks = file.networks.iter().filter(|network| network.announce);
    networks.filter_map(move |network| {
        let gateway = network
            .gateways()
            .find(|gateway| gateway.addr().is_ipv6() == six);
        Some((network, gateway?))
    })
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

fn map_name(network: &Network, ip: &str) -> String {
    let table = network.host_route_table().unwrap_or_default();
    format!("lxmesh-{ip}-{table}")
}

/// The tables of a family's networks, the main one first.
fn sources(file: &HostFile, six: bool, ip: &str) -> Vec<Source> {
    let tables: BTreeMap<_, _> = announced(file, six)
        .map(|(network, _)| (network.host_routes, map_name(network, ip)))
        .collect();
    let source = |(routes, map)| {
        let table = match routes {
            Some(RouteTable::Number(number)) => format!("table-direct {number}"),
            _ => "kernel".into(),
        };
        Source { table, map }
    };
    tables.into_iter().map(source).collect()
}
