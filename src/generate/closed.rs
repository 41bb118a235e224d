//! What stands whether an agent runs or not: tables `inet lxmesh_closed` and `arp lxmesh_closed`,
//! by which an instance's device that nobody attached passes nothing. `lxmesh-gen` renders the text
//! for the unit that loads it before LXD starts, and the agent keeps it as it is; where
//! `[firewall]` is off, the agent has the same text from here. Pure but for
//! [`Devices::find`] and [`underlay`].

use super::facts::LocalFacts;
use super::template::Templates;
use super::{OutputFile, RenderError};
use crate::addr::{IfName, IpNet, Ipv4Net, Ipv6Net};
use crate::host::{Firewall, HostFile};
use crate::kernel::link::Link;
use crate::kernel::{KernelError, Rtnl};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the unit finds it.
pub const PATH: &str = "/etc/lxmesh/closed.nft";
const TEMPLATE: &str = "firewall/closed.nft";
/// The set of the host's own devices, and its name in texts and tables of older versions, which are read until they
/// are replaced.
pub const UPLINKS: [&str; 2] = ["uplink_names", "uplinks"];

/// A route and its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub to: IpNet,
    pub device: IfName,
}

/// Devices that could be an instance's by their kind, and are in no bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Routes by way of them.
    pub ways: Vec<Way>,
    /// Those on which the host has an address, other than a link-local one: LXD gives none to an
    /// instance's device, so they are somebody's uplink or VPN.
    pub addressed: BTreeSet<IfName>,
}

impl Devices {
    /// Those of this host, by its links and /proc.
    pub fn find<'a>(
        rtnl: &mut Rtnl,
        links: impl Iterator<Item = &'a Link>,
    ) -> Result<Devices, KernelError> {
        let soft: BTreeMap<u32, &IfName> = links
            .filter(|link| link.kind.is_soft() && link.master.is_none())
            .map(|link| (link.index, &link.name))
            .collect();
        if soft.is_empty() {
            return Ok(Devices::default());
        }
        let mut ways = ways();
        ways.retain(|way| soft.values().any(|name| **name == way.device));
        let own = rtnl.addresses()?.into_iter();
        let own = own.filter(|(_, address)| !is_link_local(*address));
        let addressed = own.filter_map(|(index, _)| soft.get(&index));
        // systemd-networkd gives an address to whatever has such a name.
        let addressed = addressed.filter(|name| !name.as_str().starts_with("ve-"));
        Ok(Devices {
            ways,
            addressed: addressed.map(|name| (*name).clone()).collect(),
        })
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    }
}

#[derive(Serialize)]
struct Values {
    table: &'static str,
    /// "4" or "6": of the underlay.
    family: &'static str,
    hosts: String,
    ports: String,
    /// Names of the host's own devices, as elements; none, or one text.
    uplinks: Vec<String>,
    /// Beginnings of such names, with a `*` behind them.
    patterns: Vec<String>,
}

/// The file, for a host with these devices of its own: names, or beginnings of names with a `*`
/// behind them.
pub fn render(file: &HostFile, uplinks: &BTreeSet<String>) -> Result<OutputFile, RenderError> {
    let fabric = &file.fabric;
    let mut ports: BTreeSet<u16> = file.networks.iter().map(|n| n.vxlan_port).collect();
    ports.extend([fabric.vxlan_port, 500, 4500]);
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let (patterns, names): (Vec<&String>, Vec<&String>) =
        uplinks.iter().partition(|name| name.ends_with('*'));
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let values = Values {
        table: Firewall::CLOSED,
        family: if fabric.is_ipv6() { "6" } else { "4" },
        hosts: super::firewall::elements(&fabric.hosts()),
        ports: ports.join(", "),
        uplinks: match quoted.is_empty() {
            true => vec![],
            false => vec![quoted.join(", ")],
        },
        patterns: patterns.into_iter().cloned().collect(),
    };
    Templates::only(TEMPLATE)?.output(TEMPLATE, &values, '#', PATH.into(), 0o644)
}

/// The devices that a rendered text takes for the host's own.
pub fn uplinks_in(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        let names = line
            .strip_prefix("set ")
            .and_then(|set| set.split_once(" { "))
            .filter(|(name, _)| UPLINKS.contains(name))
            .and_then(|(_, set)| Some(set.split_once("elements = {")?.1))
            .or_else(|| {
                line.strip_prefix("iifname \"")
                    .filter(|_| line.ends_with("*\" accept"))
            });
        let words = names
            .into_iter()
            .flat_map(|names| names.split(['"', ',', ' ']));
        found.extend(
            words
                .filter(|word| !["", "}", "accept"].contains(word))
                .map(str::to_string),
        );
    }
    found
}

/// This host's own underlay address, as far as it is there.
pub fn underlay(file: &HostFile) -> Option<IpAddr> {
    let here = LocalFacts::read_addresses().ok()?;
    Some(super::detect(file, &here).ok()?.underlay)
}

/// Devices that are the host's own: what `[host] uplinks` says, or else those on the way to its own
/// underlay address, to reflectors, to supervisors, and to everywhere, and those with addresses.
pub fn uplinks(file: &HostFile, underlay: Option<IpAddr>, devices: &Devices) -> BTreeSet<String> {
    if let Some(named) = &file.host.uplinks {
        return named.iter().cloned().collect();
    }
    let mut targets: Vec<IpNet> = file.fabric.hosts();
    targets.extend(underlay.map(IpNet::from));
    targets.push(Ipv4Net::default().into());
    targets.push(Ipv6Net::default().into());
    let on_the_way = targets
        .iter()
        .flat_map(|target| devices_to(target, &devices.ways));
    on_the_way
        .chain(devices.addressed.iter().cloned())
        .map(|device| device.to_string())
        .collect()
}

/// Where packets to this prefix, as a whole, leave.
fn devices_to<'a>(target: &IpNet, ways: &'a [Way]) -> impl Iterator<Item = IfName> + use<'a> {
    let (first, length) = (target.network(), target.prefix_len());
    let fits = move |way: &&Way| way.to.contains(&first) && way.to.prefix_len() <= length;
    let longest = ways
        .iter()
        .filter(fits)
        .map(|way| way.to.prefix_len())
        .max();
    ways.iter()
        .filter(fits)
        .filter(move |way| Some(way.to.prefix_len()) == longest)
        .map(|way| way.device.clone())
}

/// The routes of this host, as /proc shows them: of IPv4 the main table's, of several next hops
/// the first. Nothing where there is no /proc.
fn ways() -> Vec<Way> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut all = ipv4_ways(&read("/proc/net/route"));
    all.extend(ipv6_ways(&read("/proc/net/ipv6_route")));
    all
}

/// `RTF_UP` and `RTF_REJECT`.
const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

/// Device, destination, gateway, flags, references, use, metric, mask: `fib_route_seq_show()` in
/// net/ipv4/fib_trie.c. Addresses are printed as numbers of the machine.
fn ipv4_ways(text: &str) -> Vec<Way> {
    let way = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let flags = number(3)?;
        let address = Ipv4Addr::from(number(1)?.to_ne_bytes());
        let mask = Ipv4Addr::from(number(7)?.to_ne_bytes());
        let to = Ipv4Net::with_netmask(address, mask).ok()?;
        (flags & UP != 0 && flags & REJECT == 0).then_some(Way {
            to: to.into(),
            device: fields.first()?.parse().ok()?,
        })
    };
    text.lines().filter_map(way).collect()
}

/// Destination, length, source, length, next hop, metric, references, use, flags, device:
/// `ipv6_route_native_seq_show()` in net/ipv6/route.c.
fn ipv6_ways(text: &str) -> Vec<Way> {
    let way = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = u128::from_str_radix(fields.first()?, 16).ok()?;
        let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        let to = Ipv6Net::new(Ipv6Addr::from(address), length).ok()?;
        (flags & UP != 0 && flags & REJECT == 0).then_some(Way {
            to: to.into(),
            device: fields.get(9)?.parse().ok()?,
        })
    };
    text.lines().filter_map(way).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    fn file(host: &str) -> HostFile {
        let text = format!(
            "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"203.0.113.1\"]\n\
             supervisors = [\"198.51.100.0/24\"]\n[host]\n{host}"
        );
        host::parse("host.toml", &text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn way(to: &str, device: &str) -> Way {
        Way {
            to: to.parse().unwrap(),
            device: device.parse().unwrap(),
        }
    }

    fn found(host: &str, ways: &[Way]) -> Vec<String> {
        let underlay = Some("198.51.100.11".parse().unwrap());
        let devices = Devices {
            ways: ways.to_vec(),
            addressed: BTreeSet::from(["vpn0".parse().unwrap()]),
        };
        uplinks(&file(host), underlay, &devices)
            .into_iter()
            .collect()
    }

    #[test]
    fn uplinks_are_on_the_way_to_the_underlay_to_hosts_of_the_fabric_and_to_everywhere() {
        let ways = [
            way("0.0.0.0/0", "up0"),
            way("198.51.100.0/24", "under0"),
            way("203.0.113.0/24", "far0"),
            way("203.0.113.0/24", "far1"),
            way("::/0", "up6"),
            way("192.0.2.7/32", "vethof-instance"),
        ];
        assert_eq!(
            found("", &ways),
            ["far0", "far1", "under0", "up0", "up6", "vpn0"]
        );
    }

    #[test]
    fn a_route_inside_of_the_hosts_prefix_makes_no_uplink() {
        let ways = [
            way("198.51.100.0/24", "under0"),
            way("198.51.100.77/32", "vethof-instance"),
        ];
        assert_eq!(found("", &ways), ["under0", "vpn0"]);
    }

    #[test]
    fn what_the_host_file_names_is_all() {
        let ways = [way("0.0.0.0/0", "up0")];
        assert_eq!(found("uplinks = [\"p*\", \"q0\"]", &ways), ["p*", "q0"]);
        assert!(found("uplinks = []", &ways).is_empty());
    }

    #[test]
    fn names_are_elements_and_beginnings_of_names_are_rules() {
        let named = BTreeSet::from(["p*".to_string(), "q0".to_string(), "r0".to_string()]);
        let text = render(&file(""), &named).unwrap().contents;
        assert_eq!(text.matches("elements = { \"q0\", \"r0\" }").count(), 2);
        assert_eq!(text.matches("\t\tiifname \"p*\" accept\n").count(), 2);
        assert_eq!(uplinks_in(&text), named);
        let older = text.replace("set uplink_names {", "set uplinks {");
        assert_ne!(older, text);
        assert_eq!(uplinks_in(&older), named);
        let none = render(&file(""), &BTreeSet::new()).unwrap().contents;
        assert_eq!(uplinks_in(&none), BTreeSet::new());
    }

    #[test]
    fn routes_are_read_as_the_kernel_prints_them() {
        let four = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
*\t000000E0\t00000000\t0201\t0\t0\t0\t000000F0\t0\t0\t0
";
        assert_eq!(
            ipv4_ways(four),
            [way("0.0.0.0/0", "eth0"), way("192.0.2.0/24", "eth0")]
        );
        let six = "\
20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003    eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";
        assert_eq!(
            ipv6_ways(six),
            [way("2001:db8::/64", "eth0"), way("::/0", "eth1")]
        );
        assert!(ipv4_ways("x 1").is_empty() && ipv6_ways("00 zz").is_empty());
    }
}
