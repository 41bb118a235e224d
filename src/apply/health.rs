//! How the fabric is, seen from this host, and whether a change has made it worse. Looking
//! (`observe`, `ping_vteps`) and judging (`complaints`) are apart; judging is pure.

use super::commands::{CommandError, run};
use crate::addr::IpAddr;
use crate::generate::Here;
use crate::host::HostFile;
use crate::kernel::link::{Link, LinkKind};
use crate::kernel::rtnl::Rtnl;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What could be seen. What could not be seen is empty, and then nothing is expected of it later.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// Peers whose BGP session is established.
    pub peers: BTreeSet<IpAddr>,
    /// VNI and tunnel end point of every type-3 route that is in the kernel.
    pub vteps: BTreeSet<(u32, IpAddr)>,
    /// Tunnels by their names.
    pub tunnels: BTreeMap<String, Tunnel>,
}

/// One VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    pub vni: u32,
    pub up: bool,
    pub bridge: Option<String>,
}

/// Looks at BGP and at the kernel.
pub fn observe() -> Health {
    let mut health = Health {
        peers: established(&bgp(20).unwrap_or_default()),
        ..Health::default()
    };
    let Ok(mut rtnl) = Rtnl::open() else {
        return health;
    };
    let links = rtnl.links().unwrap_or_default();
    let bridge_of = |link: &Link| {
        let master = links.iter().find(|other| Some(other.index) == link.master);
        master.map(|master| master.name.to_string())
    };
    for link in &links {
        let LinkKind::Vxlan(data) = &link.kind else {
            continue;
        };
        let vteps = rtnl.vteps(link.index).unwrap_or_default();
        health
            .vteps
            .extend(vteps.into_iter().map(|vtep| (data.vni, vtep)));
        let tunnel = Tunnel {
            vni: data.vni,
            up: link.up,
            bridge: bridge_of(link),
        };
        health.tunnels.insert(link.name.to_string(), tunnel);
    }
    health
}

/// The state of each EVPN session, as FRR calls it; asked for at most so many seconds.
pub fn bgp(limit_s: u32) -> Result<BTreeMap<IpAddr, String>, CommandError> {
    let summary = run(
        limit_s,
        &["vtysh", "-c", "show bgp l2vpn evpn summary json"],
    );
    summary.map(|text| sessions(&text))
}

fn established(sessions: &BTreeMap<IpAddr, String>) -> BTreeSet<IpAddr> {
    let up = sessions.iter().filter(|(_, state)| *state == "Established");
    up.map(|(address, _)| *address).collect()
}

/// The addresses in `peers` and their states, wherever FRR's version has that object.
fn sessions(json: &str) -> BTreeMap<IpAddr, String> {
    fn search(value: &Value, found: &mut BTreeMap<IpAddr, String>) {
        let Value::Object(object) = value else {
            return;
        };
        if let Some(Value::Object(peers)) = object.get("peers") {
            found.extend(peers.iter().filter_map(|(address, peer)| {
                let state = peer["state"].as_str().unwrap_or("unknown");
                Some((address.parse::<IpAddr>().ok()?, state.to_string()))
            }));
        }
        for value in object.values() {
            search(value, found);
        }
    }
    let mut found = BTreeMap::new();
    if let Ok(value) = serde_json::from_str::<Value>(json) {
        search(&value, &mut found);
    }
    found
}

/// What is worse than before and not meant to be; empty if all is well.
pub fn complaints(before: &Health, now: &Health, new: &HostFile, here: &Here) -> Vec<String> {
    let fabric = &new.fabric;
    let member = |address: &IpAddr| {
        fabric.reflectors.contains(address)
            || fabric.supervisors.iter().any(|net| net.contains(address))
    };
    let lost_peers = before.peers.difference(&now.peers);
    let mut all: Vec<String> = lost_peers
        .filter(|peer| member(peer))
        .map(|peer| format!("the BGP session with {peer}, which was established, is not"))
        .collect();
    if !here.supervisor {
        return all;
    }
    for network in &new.networks {
        let vni = network.vni.get();
        let name = network.tunnel.as_str();
        match now.tunnels.get(name) {
            None => all.push(format!("the tunnel {name} does not exist")),
            Some(tunnel) if tunnel.vni != vni => {
                all.push(format!(
                    "the tunnel {name} has VNI {}, not {vni}",
                    tunnel.vni
                ));
            }
            Some(tunnel) if !tunnel.up => all.push(format!("the tunnel {name} is down")),
            Some(tunnel) if tunnel.bridge.as_deref() != Some(network.bridge.as_str()) => {
                all.push(format!("the tunnel {name} is not in {}", network.bridge));
            }
            Some(_) => {}
        }
        let lost = before
            .vteps
            .difference(&now.vteps)
            .filter(|(of, vtep)| *of == vni && member(vtep));
        all.extend(lost.map(|(_, vtep)| {
            format!(
                "{vtep} no longer announces VNI {vni} (network \"{}\")",
                network.name
            )
        }));
    }
    all
}

/// The size of the largest packet that tunnels make, the underlay's IP header included; 0 without
/// networks. With IPsec it is what the host file says of the underlay: a ping is not encrypted.
pub fn largest_packet(file: &HostFile) -> u32 {
    let largest = file.networks.iter().map(|network| network.mtu).max();
    let around = match file.fabric.is_ipv6() {
        true => 40 + 8 + 8 + 14,
        false => 20 + 8 + 8 + 14,
    };
    match (largest, file.ipsec.is_some()) {
        (None, _) => 0,
        (Some(_), true) => file.fabric.underlay_mtu,
        (Some(mtu), false) => mtu + around,
    }
}

/// Why packets of a size cannot be tried here: without a `ping` that forbids fragmentation, every
/// tunnel end point would look like one that answers no pings.
pub fn can_ping() -> Result<(), String> {
    match run(20, &["ping", "-M", "do", "-V"]) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "{error}\n  remedy: install the ping of iputils (Debian: iputils-ping)"
        )),
    }
}

/// At most so many VTEPs are pinged: they share the path's first hops, where MTUs differ.
const PINGED: usize = 8;

/// Pings other VTEPs with packets of `size` bytes that must not be fragmented. What answers small
/// ones and not these is a complaint; what answers none is not judged.
pub fn ping_vteps(health: &Health, here: &Here, size: u32) -> Vec<String> {
    let vteps: BTreeSet<IpAddr> = health.vteps.iter().map(|(_, vtep)| *vtep).collect();
    let mut all = Vec::new();
    for vtep in vteps.into_iter().take(PINGED) {
        if ping(here.underlay, vtep, 100).is_ok()
            && let Err(error) = ping(here.underlay, vtep, size)
        {
            let cause = match error {
                CommandError::Failed { said, .. } => said,
                other => other.to_string(),
            };
            all.push(format!(
                "packets of {size} bytes do not reach {vtep}, small ones do ({})",
                cause.lines().last().unwrap_or_default().trim()
            ));
        }
    }
    all
}

fn ping(from: IpAddr, to: IpAddr, size: u32) -> Result<String, CommandError> {
    let headers = if to.is_ipv6() { 40 + 8 } else { 20 + 8 };
    let (from, to) = (from.to_string(), to.to_string());
    let payload = size.saturating_sub(headers).to_string();
    let options = [
        "ping", "-n", "-q", "-c", "3", "-i", "0.3", "-W", "2", "-M", "do",
    ];
    let rest = ["-s", &payload, "-I", &from, &to];
    run(20, &[&options[..], &rest[..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    const FILE: &str = "version = 1\n[fabric]\nname = \"x\"\nasn = 64500\n\
        reflectors = [\"198.51.100.101\"]\nsupervisors = [\"198.51.100.0/24\"]\n\
        [[network]]\nname = \"vpc\"\nvni = 100\n";

    fn file() -> HostFile {
        host::parse("x", FILE).unwrap_or_else(|error| panic!("{error}"))
    }

    fn here() -> Here {
        Here {
            underlay: "198.51.100.11".parse().unwrap(),
            supervisor: true,
            reflector: false,
        }
    }

    fn well() -> Health {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let tunnel = Tunnel {
            vni: 100,
            up: true,
            bridge: Some("svi-vpc".into()),
        };
        Health {
            peers: [ip("198.51.100.101"), ip("203.0.113.9")].into(),
            vteps: [(100, ip("198.51.100.12")), (7, ip("198.51.100.12"))].into(),
            tunnels: [("vxlan-vpc".to_string(), tunnel)].into(),
        }
    }

    #[test]
    fn what_was_there_and_is_still_meant_must_be_there() {
        let before = well();
        assert_eq!(complaints(&before, &before, &file(), &here()), [""; 0]);
        let mut now = before.clone();
        now.peers.clear();
        now.vteps.clear();
        assert_eq!(
            complaints(&before, &now, &file(), &here()),
            [
                "the BGP session with 198.51.100.101, which was established, is not",
                "198.51.100.12 no longer announces VNI 100 (network \"vpc\")"
            ],
            "the other peer and the other VNI are in no host file any more"
        );
        now.tunnels.clear();
        assert_eq!(complaints(&before, &now, &file(), &here()).len(), 3);
        assert_eq!(
            complaints(&Health::default(), &before, &file(), &here()),
            [""; 0],
            "what never was is not missed"
        );
    }

    #[test]
    fn a_tunnel_must_be_what_the_host_file_says() {
        for (change, word) in [
            ((101, true, Some("svi-vpc")), "VNI 101, not 100"),
            ((100, false, Some("svi-vpc")), "is down"),
            ((100, true, None), "is not in svi-vpc"),
        ] {
            let mut now = well();
            let (vni, up, bridge) = change;
            let tunnel = Tunnel {
                vni,
                up,
                bridge: bridge.map(str::to_string),
            };
            now.tunnels.insert("vxlan-vpc".into(), tunnel);
            let all = complaints(&well(), &now, &file(), &here());
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].contains(word), "{all:?}");
        }
    }

    #[test]
    fn peers_are_found_at_any_depth() {
        let peers =
            r#"{"peers":{"192.0.2.1":{"state":"Established"},"192.0.2.2":{"state":"Active"}}}"#;
        let one = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let up = |json: &str| established(&sessions(json));
        assert_eq!(up(peers), one);
        assert_eq!(up(&format!("{{\"default\":{peers}}}")), one);
        assert_eq!(sessions(peers).len(), 2);
        assert_eq!(sessions("% BGP instance not found"), BTreeMap::new());
    }

    #[test]
    fn the_largest_packet_of_a_computed_mtu_is_the_underlays() {
        assert_eq!(largest_packet(&file()), 1500);
    }
}
