//! What is on this host that a host file would say: bridges with their tunnels, addresses, FRR's
//! AS number and neighbours, LXD's socket. Reads `ip -j` and FRR's file; changes nothing. What
//! cannot be read is simply not found.

use crate::addr::{IpAddr, IpNet, Mac};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The address that tunnels or BGP use, with its prefix length.
    pub underlay: Option<IpNet>,
    pub bgp: Option<Bgp>,
    pub networks: Vec<FoundNetwork>,
    /// Only if it is at none of the usual places.
    pub lxd_socket: Option<PathBuf>,
}

/// FRR's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    pub asn: u32,
    /// Single peers.
    pub neighbours: Vec<IpAddr>,
    /// True if it is a route reflector.
    pub reflects: bool,
}

/// A bridge with a VXLAN device in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundNetwork {
    pub bridge: String,
    pub tunnel: String,
    pub vni: u32,
    pub gateways: Vec<IpNet>,
    pub mac: Option<Mac>,
    /// The bridge's, bytes.
    pub mtu: u32,
    pub gbp: bool,
    pub port: u16,
}

/// Looks at this host.
pub fn look() -> Found {
    let links = Command::new("ip")
        .args(["-j", "-d", "address", "show"])
        .output();
    let links: Value = links
        .ok()
        .and_then(|output| serde_json::from_slice(&output.stdout).ok())
        .unwrap_or_default();
    let running = Command::new("vtysh")
        .args(["-c", "show running-config"])
        .output();
    let conf = running
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .or_else(|| std::fs::read_to_string("/etc/frr/frr.conf").ok());
    let socket =
        std::env::var_os("LXD_DIR").map(|directory| PathBuf::from(directory).join("unix.socket"));
    Found {
        lxd_socket: socket.filter(|path| Path::new(path).exists()),
        ..understand(&links, &conf.unwrap_or_default())
    }
}

/// From `ip -j -d address` and FRR's configuration to what matters. Pure.
pub fn understand(links: &Value, conf: &str) -> Found {
    let none = Vec::new();
    let links = links.as_array().unwrap_or(&none);
    let mut networks: Vec<FoundNetwork> = links
        .iter()
        .filter_map(|link| network(link, links))
        .collect();
    networks.sort_by_key(|network| network.vni);
    let locals = links.iter().filter_map(|link| {
        let data = &link["linkinfo"]["info_data"];
        let local = data["local"].as_str().or(data["local6"].as_str());
        local.and_then(|text| text.parse::<IpAddr>().ok())
    });
    let source = conf.lines().find_map(|line| {
        let (_, address) = line.trim().split_once(" update-source ")?;
        address.parse::<IpAddr>().ok()
    });
    let all = || {
        links
            .iter()
            .filter(|link| kind(link) != "bridge" && link["ifname"] != "lo")
            .flat_map(addresses)
    };
    let wanted = locals.into_iter().next().or(source);
    Found {
        underlay: match wanted {
            Some(address) => all().find(|net| net.addr() == address),
            None => all().next(),
        },
        bgp: bgp(conf),
        networks,
        lxd_socket: None,
    }
}

fn kind(link: &Value) -> &str {
    link["linkinfo"]["info_kind"].as_str().unwrap_or_default()
}

fn network(link: &Value, links: &[Value]) -> Option<FoundNetwork> {
    if kind(link) != "vxlan" {
        return None;
    }
    let data = &link["linkinfo"]["info_data"];
    let bridge = link["master"].as_str()?;
    let of_bridge = links.iter().find(|other| other["ifname"] == bridge)?;
    let mac = of_bridge["address"]
        .as_str()
        .and_then(|text| text.parse::<Mac>().ok());
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    Some(FoundNetwork {
        bridge: bridge.into(),
        tunnel: link["ifname"].as_str()?.into(),
        vni: number(&data["id"]).filter(|vni| *vni > 0)?,
        gateways: one_of_each_family(addresses(of_bridge)),
        mac: mac.filter(|mac| !mac.is_unusable()),
        mtu: number(&of_bridge["mtu"])?,
        gbp: is_set(data, "gbp"),
        port: data["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())?,
    })
}

/// Whether `ip -j` shows a flag. What is set is `true` or, as `gbp` is from iproute2 7.2 on, has no value (`null`); what
/// is not set is `false`, or is not there.
fn is_set(object: &Value, flag: &str) -> bool {
    object.get(flag).is_some_and(|value| *value != false)
}

fn one_of_each_family(all: Vec<IpNet>) -> Vec<IpNet> {
    let four = all.iter().find(|net| net.addr().is_ipv4());
    let six = all.iter().find(|net| net.addr().is_ipv6());
    four.into_iter().chain(six).copied().collect()
}

/// A link's addresses that others may know: no link-local, no temporary ones.
fn addresses(link: &Value) -> Vec<IpNet> {
    let none = Vec::new();
    let all = link["addr_info"].as_array().unwrap_or(&none);
    all.iter()
        .filter(|one| one["scope"] != "link" && !is_set(one, "temporary"))
        .filter_map(|one| {
            let address: IpAddr = one["local"].as_str()?.parse().ok()?;
            let length = u8::try_from(one["prefixlen"].as_u64()?).ok()?;
            IpNet::new(address, length).ok()
        })
        .collect()
}

fn bgp(conf: &str) -> Option<Bgp> {
    let lines = || conf.lines().map(str::trim);
    let asn = lines().find_map(|line| {
        let number = line.strip_prefix("router bgp ")?.split(' ').next()?;
        number.parse::<u32>().ok()
    })?;
    let mut neighbours: Vec<IpAddr> = lines()
        .filter_map(|line| {
            line.strip_prefix("neighbor ")?
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    neighbours.sort();
    neighbours.dedup();
    Some(Bgp {
        asn,
        neighbours,
        reflects: lines().any(|line| line.ends_with(" route-reflector-client")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: &str = r#"[
      {"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8,"scope":"host"}]},
      {"ifname":"eth0","addr_info":[
        {"local":"203.0.113.9","prefixlen":24,"scope":"global"},
        {"local":"198.51.100.11","prefixlen":24,"scope":"global"},
        {"local":"fe80::1","prefixlen":64,"scope":"link"}]},
      {"ifname":"svi-vpc","mtu":1450,"address":"02:11:22:33:44:55","linkinfo":{"info_kind":"bridge","info_data":{}},
       "addr_info":[{"local":"192.0.2.1","prefixlen":24,"scope":"host"}]},
      {"ifname":"vxlan-vpc","mtu":1450,"master":"svi-vpc","linkinfo":{"info_kind":"vxlan",
       "info_data":{"id":100,"local":"198.51.100.11","port":4789,"gbp":true}}},
      {"ifname":"lonely","mtu":1450,"linkinfo":{"info_kind":"vxlan","info_data":{"id":7,"port":4789}}}]"#;

    #[test]
    fn a_tunnel_in_a_bridge_is_a_network_and_its_source_the_underlay() {
        let conf =
            "router bgp 64500\n neighbor g peer-group\n neighbor 198.51.100.101 peer-group g\n";
        let found = understand(&serde_json::from_str(LINKS).unwrap(), conf);
        assert_eq!(found.underlay, Some("198.51.100.11/24".parse().unwrap()));
        assert_eq!(found.networks.len(), 1);
        let network = &found.networks[0];
        assert_eq!((network.vni, network.gbp), (100, true));
        assert_eq!(network.gateways, ["192.0.2.1/24".parse::<IpNet>().unwrap()]);
        let bgp = found.bgp.unwrap();
        assert_eq!((bgp.asn, bgp.reflects), (64500, false));
        assert_eq!(
            bgp.neighbours,
            ["198.51.100.101".parse::<IpAddr>().unwrap()]
        );
    }

    #[test]
    fn a_flag_is_set_with_true_or_without_a_value() {
        let found_in = |links: &str| understand(&serde_json::from_str(links).unwrap(), "");
        for (shown, is_on) in [
            (r#","gbp":true"#, true),
            (r#","gbp":null"#, true),
            (r#","gbp":false"#, false),
            ("", false),
        ] {
            let links = LINKS.replace(r#","gbp":true"#, shown);
            assert_eq!(found_in(&links).networks[0].gbp, is_on, "{shown}");
        }
        let without_a_source = LINKS.replace(r#""local":"198.51.100.11","port""#, r#""port""#);
        for (shown, counts) in [("true", false), ("null", false), ("false", true)] {
            let other = format!(r#""scope":"global","temporary":{shown}}}"#);
            let links = without_a_source.replacen(r#""scope":"global"}"#, &other, 1);
            let first = "203.0.113.9/24".parse().ok();
            assert_eq!(found_in(&links).underlay == first, counts, "{shown}");
        }
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        assert_eq!(understand(&Value::Null, ""), Found::default());
    }
}
