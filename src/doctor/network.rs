//! Bridges, tunnels, the way to other hosts and the sessions with them, as they were seen, against
//! what the host file asks for. Pure.

use super::Finding;
use super::look::Seen;
use crate::addr::IpAddr;
use crate::generate::Here;
use crate::host::{HostFile, Network};
use crate::kernel::link::{Link, LinkKind};
use crate::model::Facts;
use crate::model::facts::Readiness;
use std::collections::BTreeSet;

const RENDER: &str = "lxmesh-gen plan shows what is amiss, lxmesh-gen apply puts it right";

pub fn devices(host: &HostFile, seen: &Seen, all: &mut Vec<Finding>) {
    let facts = match &seen.facts {
        Ok(facts) => facts,
        Err(error) => {
            all.push(Finding::problem("devices", error, "run this as root"));
            return;
        }
    };
    for network in &host.networks {
        if let Readiness::Waiting(what) = facts.readiness(network) {
            let text = format!("network {}: {what}", network.name);
            all.push(Finding::problem("devices", text, RENDER));
            continue;
        }
        let wrong = wrong_attributes(network, facts, seen.here.as_ref().ok());
        let gateway = network.gateway4.map(|net| IpAddr::V4(net.addr()));
        let missing = gateway.filter(|address| !seen.addresses.contains(address));
        let missing = missing.map(|address| format!("{} has no address {address}", network.bridge));
        let wrong: Vec<String> = wrong.into_iter().chain(missing).collect();
        match wrong.is_empty() {
            true => {
                let Network {
                    name,
                    bridge,
                    tunnel,
                    mtu,
                    ..
                } = network;
                let text = format!("network {name}: {bridge} and {tunnel}, MTU {mtu}");
                all.push(Finding::ok("devices", text));
            }
            false => {
                let text = format!("network {}: {}", network.name, wrong.join("; "));
                all.push(Finding::problem("devices", text, RENDER));
            }
        }
    }
}

/// What bridge and tunnel of a network that is ready are otherwise than the host file says. What
/// the agent itself keeps in order is not among it.
fn wrong_attributes(network: &Network, facts: &Facts, here: Option<&Here>) -> Vec<String> {
    let (Some(bridge), Some(tunnel)) = (facts.svi(network), facts.tunnel(network)) else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    let mut differs = |link: &Link, what: &str, have: String, want: String| {
        if have != want {
            wrong.push(format!("{} has {what} {have}, not {want}", link.name));
        }
    };
    for link in [bridge, tunnel] {
        differs(link, "MTU", link.mtu.to_string(), network.mtu.to_string());
    }
    let mac = bridge.mac.map(|mac| mac.to_string()).unwrap_or_default();
    differs(bridge, "MAC", mac, network.gateway_mac.to_string());
    let master = bridge.master.and_then(|index| facts.name_of(index));
    let vrf = |name: Option<String>| name.unwrap_or_else(|| "none".into());
    differs(
        bridge,
        "VRF",
        vrf(master.map(ToString::to_string)),
        vrf(network.vrf.as_ref().map(|vrf| vrf.name.to_string())),
    );
    if let Some(vrf) = &network.vrf
        && let Some(link) = facts.link(&vrf.name)
    {
        let table = match link.kind {
            LinkKind::Vrf { table } => table.to_string(),
            _ => "none".into(),
        };
        differs(link, "table", table, vrf.table.to_string());
    }
    if let LinkKind::Vxlan(data) = &tunnel.kind {
        let port = network.vxlan_port.to_string();
        differs(tunnel, "UDP port", data.port.to_string(), port);
        let on = |on: bool| if on { "on" } else { "off" }.to_string();
        differs(tunnel, "group policy", on(data.gbp), on(network.gbp));
        if let Some(here) = here {
            let local = data.local.map(|local| local.to_string());
            differs(
                tunnel,
                "local address",
                local.unwrap_or_else(|| "none".into()),
                here.underlay.to_string(),
            );
        }
    }
    wrong
}

pub fn paths(host: &HostFile, seen: &Seen, all: &mut Vec<Finding>) {
    let least = host.fabric.underlay_mtu;
    let mut well = 0;
    for (to, mtu) in &seen.paths {
        match mtu {
            Ok(mtu) if *mtu >= least => well += 1,
            Ok(mtu) => all.push(Finding::problem(
                "underlay",
                format!("the way to {to} carries {mtu} bytes, not {least} (fabric.underlay_mtu)"),
                format!("raise the MTU of the devices on the way, or set underlay_mtu = {mtu} on all hosts"),
            )),
            Err(error) => all.push(Finding::problem(
                "underlay",
                format!("there is no way to {to}: {error}"),
                format!("ip route get {to}; the routes of the underlay are not LXMesh's"),
            )),
        }
    }
    if well > 0 {
        let text = format!("{well} other hosts' addresses are reached with {least} bytes");
        all.push(Finding::ok("underlay", text));
    }
}

/// Sessions go to the reflectors; without any, to every supervisor.
pub fn bgp(host: &HostFile, seen: &Seen) -> Finding {
    let sessions = match &seen.bgp {
        Ok(sessions) => sessions,
        Err(error) => {
            let first = error.lines().next().unwrap_or_default();
            return Finding::problem(
                "bgp",
                format!("FRR does not answer: {first}"),
                "systemctl enable --now frr; journalctl -u frr; was lxmesh-gen apply run?",
            );
        }
    };
    let own = seen.here.as_ref().ok().map(|here| here.underlay);
    let fabric = &host.fabric;
    let wanted: BTreeSet<IpAddr> = match fabric.reflectors.is_empty() {
        false => fabric.reflectors.iter().copied().collect(),
        true => fabric.supervisors.iter().map(|net| net.addr()).collect(),
    };
    let wanted: Vec<IpAddr> = wanted
        .into_iter()
        .filter(|peer| Some(*peer) != own)
        .collect();
    let state = |peer: &IpAddr| sessions.get(peer).map_or("not configured", String::as_str);
    let down: Vec<&IpAddr> = wanted
        .iter()
        .filter(|peer| state(peer) != "Established")
        .collect();
    let lines: Vec<String> = down
        .iter()
        .map(|peer| format!("{peer} is {}", state(peer)))
        .collect();
    let remedy = "vtysh -c 'show bgp l2vpn evpn summary'; ping the peer, look at its FRR, at the firewall between (TCP port 179) and, with [ipsec], at swanctl --list-sas";
    let established = sessions.values().filter(|state| *state == "Established");
    match (established.count(), down.len()) {
        (0, 0) => Finding::warning(
            "bgp",
            "no other host has called for an EVPN session",
            "none but this reflector may be running; else look at one of the others",
        ),
        (count, 0) => Finding::ok("bgp", format!("{count} EVPN sessions are established")),
        (0, _) => Finding::problem(
            "bgp",
            format!("no EVPN session is established: {}", lines.join(", ")),
            remedy,
        ),
        _ => Finding::warning(
            "bgp",
            format!(
                "not all EVPN sessions are established: {}",
                lines.join(", ")
            ),
            remedy,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{bridge, complaints, each_is_found, tunnel, well};
    use super::*;
    use std::collections::BTreeMap;

    fn links(seen: &mut Seen, links: impl IntoIterator<Item = Link>) {
        seen.facts = Ok(Facts::new(links));
    }

    fn path(seen: &mut Seen, mtu: Result<u32, &str>) {
        for path in seen.paths.values_mut() {
            *path = mtu.map_err(str::to_string);
        }
    }

    #[test]
    fn devices_and_the_way_to_others() {
        each_is_found(&[
            (
                |s| links(s, [bridge()]),
                "Problem devices: network vpc: tunnel vxlan-vpc does not exist",
                "lxmesh-gen apply",
            ),
            (
                |s| {
                    let mut bridge = bridge();
                    bridge.mtu = 1500;
                    links(s, [bridge, tunnel(|_| ())]);
                },
                "Problem devices: network vpc: svi-vpc has MTU 1500, not 1450",
                "lxmesh-gen apply",
            ),
            (
                |s| {
                    let tunnel = tunnel(|data| (data.gbp, data.local) = (false, None));
                    links(s, [bridge(), tunnel]);
                },
                "vxlan-vpc has group policy off, not on; vxlan-vpc has local address none, not 203.0.113.11",
                "lxmesh-gen apply",
            ),
            (
                |s| {
                    s.addresses.remove(&"192.0.2.1".parse().unwrap());
                },
                "Problem devices: network vpc: svi-vpc has no address 192.0.2.1",
                "lxmesh-gen apply",
            ),
            (
                |s| path(s, Ok(1400)),
                "Problem underlay: the way to 203.0.113.1 carries 1400 bytes, not 1500",
                "underlay_mtu = 1400",
            ),
            (
                |s| path(s, Err("no route")),
                "Problem underlay: there is no way to 203.0.113.1: no route",
                "ip route get 203.0.113.1",
            ),
        ]);
    }

    #[test]
    fn sessions() {
        each_is_found(&[
            (
                |s| s.bgp = Err("vtysh failed\nmore".into()),
                "Problem bgp: FRR does not answer: vtysh failed",
                "enable --now frr",
            ),
            (
                |s| s.bgp = Ok(BTreeMap::new()),
                "Problem bgp: no EVPN session is established: 203.0.113.1 is not configured",
                "TCP port 179",
            ),
            (
                |s| {
                    let one = s.bgp.as_mut().unwrap().values_mut().next();
                    *one.unwrap() = "Active".into();
                },
                "Warning bgp: not all EVPN sessions are established: 203.0.113.1 is Active",
                "vtysh",
            ),
        ]);
    }

    #[test]
    fn a_reflector_that_nobody_calls_is_worth_a_word() {
        let mut seen = well();
        let host = crate::host::parse(
            "x",
            "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\n\
             reflectors = [\"203.0.113.11\"]\nsupervisors = [\"203.0.113.12\"]\n",
        )
        .unwrap();
        assert_eq!(bgp(&host, &seen).level, super::super::Level::Ok);
        seen.bgp = Ok(BTreeMap::new());
        assert_eq!(bgp(&host, &seen).level, super::super::Level::Warning);
        assert_eq!(complaints(&well()), []);
    }
}
