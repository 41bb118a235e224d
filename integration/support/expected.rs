//! What a host with these NICs should look like, and what it looks like by `ip`, `bridge` and
//! `nft`. Both are lists of lines; the differences are what is wrong.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;

use super::is_set;
use super::world::{NETWORKS, Network, Nic, World, network};

pub type Lines = BTreeSet<String>;

impl World<'_> {
    /// What is missing (`-`) and what is too much (`+`); empty if all is well.
    pub fn differences(&self) -> Vec<String> {
        let (want, have) = (self.wanted(), self.found());
        let missing = want.difference(&have).map(|line| format!("- {line}"));
        let excess = have.difference(&want).map(|line| format!("+ {line}"));
        missing.chain(excess).collect()
    }

    fn wanted(&self) -> Lines {
        let mut lines = Lines::new();
        for Network {
            name, vni, v4, v6, ..
        } in NETWORKS
        {
            let (gateway4, gateway6) = (format!("{v4}1"), format!("{v6}1"));
            lines.insert(format!("svi svi-{name} snooping 1 querier 1 igmp 3 mld 2 router 2 response 100 solicit 0 0 0 0"));
            lines.insert(format!("tunnel vxlan-{name} learning false group 5003341"));
            lines.insert(format!(
                "port vxlan-{name} in svi-{name} {}",
                port_line(false, true)
            ));
            for set in ["bridge svi_names", "inet svi_names"] {
                lines.insert(format!("set {set} svi-{name}"));
            }
            for (family, gateway) in [(4, &gateway4), (6, &gateway6)] {
                lines.insert(format!(
                    "set bridge svi_gateways{family} svi-{name} . {gateway}"
                ));
            }
            lines.insert(format!("set bridge overlay_ports vxlan-{name}"));
            lines.insert(format!("set bridge overlay_zones vxlan-{name} : {vni}"));
        }
        for family in ["bridge", "inet"] {
            lines.insert(format!("set {family} vxlan_udp 4789"));
            for net in &self.fabric {
                lines.insert(format!("set {family} fabric_hosts4 ip . {net}"));
            }
            for service in &self.fabric_services {
                lines.insert(format!("set {family} fabric_svc4 {service}"));
            }
        }
        for nic in &self.nics {
            wanted_of(nic, &mut lines);
        }
        lines
    }

    pub fn found(&self) -> Lines {
        let mut lines = Lines::new();
        self.found_links(&mut lines);
        for Network { name, .. } in NETWORKS {
            if self.ns.try_sh(&format!("ip link show svi-{name}")).is_err() {
                continue;
            }
            for entry in self.list(&format!("bridge -j fdb show br svi-{name}")) {
                let (mac, port) = (text(&entry["mac"]), text(&entry["ifname"]));
                let learned = entry["flags"]
                    .as_array()
                    .is_some_and(|flags| flags.contains(&"extern_learn".into()));
                if entry["master"] == format!("svi-{name}") && learned && !mac.starts_with("02:ee")
                {
                    lines.insert(format!("fdb svi-{name} {mac} on {port}"));
                }
            }
            for entry in self.list(&format!("ip -d -j neighbour show dev svi-{name}")) {
                if entry["protocol"] == "242" {
                    let (address, mac) = (text(&entry["dst"]), text(&entry["lladdr"]));
                    let learned = is_set(&entry, "extern_learn");
                    lines.insert(format!(
                        "neighbour svi-{name} {address} {mac} {} {learned}",
                        entry["state"]
                    ));
                }
            }
        }
        for entry in self.ns.json("bridge -d -j mdb show")[0]["mdb"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if entry["protocol"] == "242" {
                let [bridge, port, group, state] =
                    ["dev", "port", "grp", "state"].map(|key| text(&entry[key]));
                lines.insert(format!("mdb {bridge} {port} {group} {state}"));
            }
        }
        for family in [4, 6] {
            for route in self.list(&format!(
                "ip -{family} -d -j route show table all protocol 242"
            )) {
                let table = route.get("table").map_or("main".into(), text);
                let [destination, device] = ["dst", "dev"].map(|key| text(&route[key]));
                lines.insert(format!("route {destination} dev {device} table {table}"));
            }
        }
        self.found_sets(&mut lines);
        let hosts = std::fs::read_to_string(self.path("dnsmasq/hosts")).unwrap_or_default();
        lines.extend(hosts.lines().map(|line| format!("dhcp {line}")));
        lines
    }

    fn list(&self, command: &str) -> Vec<Value> {
        match self.ns.json(command) {
            Value::Array(list) => list,
            other => panic!("{command} gives no list: {other}"),
        }
    }

    fn found_links(&self, lines: &mut Lines) {
        for link in self.list("ip -d -j link show") {
            let name = text(&link["ifname"]);
            let index = link["ifindex"].as_u64().expect("a number") as u32;
            match super::checks::attached(index) {
                0 => {}
                count => {
                    lines.insert(format!("checked {name} by {count}"));
                }
            }
            let data = &link["linkinfo"]["info_data"];
            let stranger = ["br-other", "vxlan-other"].contains(&name.as_str());
            if link["linkinfo"]["info_kind"] == "bridge" && !stranger {
                let [snooping, querier, igmp, mld, router, response] = [
                    "mcast_snooping",
                    "mcast_querier",
                    "mcast_igmp_version",
                    "mcast_mld_version",
                    "mcast_router",
                    "mcast_query_response_intvl",
                ]
                .map(|key| data[key].to_string());
                let solicit = self.ns.sh(&format!(
                    "cd /proc/sys/net; cat ipv4/neigh/{name}/mcast_solicit ipv4/neigh/{name}/ucast_solicit ipv6/neigh/{name}/mcast_solicit ipv6/neigh/{name}/ucast_solicit"
                ));
                let solicit = solicit.split_whitespace().collect::<Vec<_>>().join(" ");
                lines.insert(format!(
                    "svi {name} snooping {snooping} querier {querier} igmp {igmp} mld {mld} router {router} response {response} solicit {solicit}"
                ));
            }
            if link["linkinfo"]["info_kind"] == "vxlan" && !stranger {
                let group = text(&link["group"]);
                lines.insert(format!(
                    "tunnel {name} learning {} group {group}",
                    data["learning"]
                ));
            }
            let master = link.get("master").map_or(String::new(), text);
            if !master.starts_with("svi-") {
                continue;
            }
            let port = &link["linkinfo"]["info_slave_data"];
            let keys = [
                "learning",
                "flood",
                "mcast_flood",
                "bcast_flood",
                "proxy_arp",
                "proxy_arp_wifi",
                "guard",
                "multicast_router",
                "neigh_suppress",
                "isolated",
                "hairpin",
            ];
            let settings: Vec<String> = keys
                .iter()
                .map(|key| format!("{key} {}", port[key]))
                .collect();
            let up = link["flags"]
                .as_array()
                .is_some_and(|flags| flags.contains(&"UP".into()));
            let addresses = if name.starts_with("vxlan") {
                ""
            } else {
                link["inet6_addr_gen_mode"].as_str().unwrap_or("")
            };
            lines.insert(
                format!(
                    "port {name} in {master} up {up} {} {addresses}",
                    settings.join(" ")
                )
                .trim_end()
                .into(),
            );
        }
    }

    /// A table of the agent's; `None` if there is none. What nft writes while somebody replaces the table need not
    /// be whole: then it is asked again.
    fn listing(&self, family: &str) -> Option<Value> {
        let mut said = String::new();
        for _ in 0..10 {
            let list = format!("nft -j list table {family} lxmesh");
            said = self.ns.try_sh(&list).ok()?;
            if let Ok(listing) = serde_json::from_str(&said) {
                return Some(listing);
            }
        }
        panic!("nft writes no JSON: {said:?}")
    }

    fn found_sets(&self, lines: &mut Lines) {
        for family in ["bridge", "inet", "arp"] {
            let Some(listing) = self.listing(family) else {
                continue;
            };
            for object in listing["nftables"].as_array().into_iter().flatten() {
                let Some(set) = object.get("set").or(object.get("map")) else {
                    continue;
                };
                let name = text(&set["name"]);
                // Of the structure's digest, and of what depends on the MAC derived for the gateway.
                if ["load_stamp", "router_macs"].contains(&name.as_str()) {
                    continue;
                }
                for element in set["elem"].as_array().into_iter().flatten() {
                    lines.insert(format!("set {family} {name} {}", element_text(element)));
                }
            }
        }
    }
}

fn port_line(is_nic: bool, is_tunnel: bool) -> String {
    format!(
        "up true learning false flood false mcast_flood false bcast_flood false proxy_arp false proxy_arp_wifi {is_nic} guard true multicast_router 0 neigh_suppress {is_tunnel} isolated false hairpin false"
    )
}

/// What there should be of one NIC.
pub fn of_nic(nic: &Nic) -> Lines {
    let mut lines = Lines::new();
    wanted_of(nic, &mut lines);
    lines
}

fn wanted_of(nic: &Nic, lines: &mut Lines) {
    let Nic {
        instance,
        network: name,
        port,
        mac,
        ipv4,
        ipv6,
        in_services,
        out_services,
        mark,
        limits,
        audit,
        log_drops,
        ..
    } = nic;
    let Network { vni, table, .. } = network(name);
    lines.insert(format!(
        "port {port} in svi-{name} {} none",
        port_line(true, false)
    ));
    lines.insert(format!("checked {port} by 1"));
    lines.insert(format!("fdb svi-{name} {mac} on {port}"));
    let link_local = link_local(mac);
    let addresses: Vec<&String> = ipv4.iter().chain(ipv6).chain([&link_local]).collect();
    for address in &addresses {
        lines.insert(format!(
            "neighbour svi-{name} {address} {mac} [\"PERMANENT\"] false"
        ));
        let set = if address.contains(':') {
            "nic_id6"
        } else {
            "nic_id4"
        };
        lines.insert(format!("set bridge {set} {port} . {mac} . {address}"));
        if *mark == 0 {
            lines.insert(format!("{} : {vni}", source_line(port, mac, address)));
        }
        if address.contains(':') {
            lines.insert(format!(
                "mdb svi-{name} {port} {} permanent",
                solicited(address)
            ));
        }
        if **address != link_local {
            let table = if *table == 254 {
                "main".into()
            } else {
                table.to_string()
            };
            lines.insert(format!("route {address} dev svi-{name} table {table}"));
        }
    }
    lines.insert(format!("set bridge nic_ports {port}"));
    lines.insert(format!("set inet nic_ports {port}"));
    lines.insert(format!("set arp nic_ports {port}"));
    lines.insert(format!("set bridge nic_macs {port} . {mac}"));
    lines.insert(format!(
        "set bridge payload_macs {port} . {}",
        u64::from_str_radix(&mac.replace(':', ""), 16).expect("a MAC")
    ));
    lines.insert(format!("set bridge zone_by_port {port} : {vni}"));
    for zone in [*vni, 0] {
        lines.insert(format!("set bridge port_zones {port} . {zone}"));
    }
    if *mark != 0 {
        lines.insert(format!("set bridge port_marks {port} : {mark}"));
    }
    let limit = |name, usual| *limits.get(name).unwrap_or(&usual);
    let (new, connections) = (limit("new_connections", 1000), limit("connections", 4096));
    if (new, connections) != (1000, 4096) {
        lines.insert(format!("set bridge limited_ports {port}"));
        lines.insert(format!("set bridge limit_new {port} : jump new_{new}"));
        lines.insert(format!(
            "set bridge limit_conns {port} : goto conns_{connections}"
        ));
    }
    if limit("control_packets", 100) != 100 {
        lines.insert(format!(
            "set bridge limit_ctl {port} : goto ctl_{}",
            limit("control_packets", 100)
        ));
    }
    for (set, key) in [("audited_ports", audit), ("logged_ports", log_drops)] {
        if *key == Some("true") {
            lines.insert(format!("set bridge {set} {port}"));
        }
    }
    for (direction, services) in [("in", in_services), ("out", out_services)] {
        for service in services {
            service_lines(port, direction, service, lines);
            let plain = service
                .split_once('/')
                .filter(|(_, number)| number.parse::<u16>().is_ok());
            if let ("in", Some(address), Some((protocol, number))) = (direction, ipv4, plain) {
                lines.insert(format!(
                    "set bridge served_svc4 {port} . {mac} . {address} . {protocol} . {number}"
                ));
            }
        }
    }
    let mut dhcp = format!("dhcp {mac}");
    if let Some(address) = ipv4 {
        dhcp.push_str(&format!(",{address}"));
    }
    if let Some(address) = ipv6 {
        dhcp.push_str(&format!(",[{address}]"));
    }
    if ipv4.is_some() || ipv6.is_some() {
        // Words of dnsmasq's own are no names, and its names are in lower case.
        lines.insert(match instance.as_str() {
            "ignore" | "infinite" => dhcp,
            name => format!("{dhcp},{}", name.to_lowercase()),
        });
    }
}

/// The element that knows a sender by port, MAC with ethertype, and address, in nft's words for
/// payload: numbers, and in hexadecimal what has more than 64 bits.
fn source_line(port: &str, mac: &str, address: &str) -> String {
    let mac = u64::from_str_radix(&mac.replace(':', ""), 16).expect("a MAC");
    match address.parse().expect("an address") {
        IpAddr::V4(v4) => format!(
            "set bridge sender_zone4 {port} . {} . {}",
            mac << 16 | 0x0800,
            u32::from(v4)
        ),
        IpAddr::V6(v6) => format!(
            "set bridge sender_zone6 {port} . {} . {:#x}",
            mac << 16 | 0x86dd,
            u128::from(v6)
        ),
    }
}

/// What a service becomes: an element of a hash set, or, with a range or a peer, one of a set that
/// is looked into for such ports only.
fn service_lines(port: &str, direction: &str, service: &str, lines: &mut Lines) {
    let (what, peer) = service.split_once('@').unwrap_or((service, ""));
    let (protocol, number) = what.split_once('/').expect("a service");
    let base = format!("{port} . {protocol} . {number}");
    if peer.is_empty() && !number.contains('-') {
        lines.insert(format!("set bridge {direction}_svc {base}"));
        return;
    }
    lines.insert(format!("set bridge {direction}_more {port}"));
    if let Some(tag) = peer.strip_prefix("tag:") {
        let bit = if tag == "web" { 1 } else { 8 };
        lines.insert(format!("set bridge in_tags {base} . {bit}"));
        return;
    }
    let verdict = if direction == "in" {
        "accept"
    } else {
        "goto egress_accept"
    };
    let peers = match peer {
        "" => vec!["0.0.0.0/0", "::/0"],
        peer => vec![peer],
    };
    for peer in peers {
        let family = if peer.contains(':') { 6 } else { 4 };
        lines.insert(format!(
            "set bridge {direction}_rules{family} {base} . {peer} : {verdict}"
        ));
    }
}

/// EUI-64 (RFC 4291, appendix A), worked out by hand.
pub fn link_local(mac: &str) -> String {
    let b: Vec<u16> = mac
        .split(':')
        .map(|part| u16::from_str_radix(part, 16).expect("a MAC"))
        .collect();
    let pair = |high: u16, low: u16| high << 8 | low;
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(b[0] ^ 2, b[1]),
        pair(b[2], 0xff),
        pair(0xfe, b[3]),
        pair(b[4], b[5]),
    )
    .to_string()
}

pub fn solicited(address: &str) -> String {
    let segments = address.parse::<Ipv6Addr>().expect("an address").segments();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | (segments[6] & 0xff),
        segments[7],
    )
    .to_string()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_string)
}

/// As nft writes it: parts joined by ` . `, key and value by ` : `.
fn element_text(element: &Value) -> String {
    if let Some(ends) = element.get("range").and_then(Value::as_array) {
        let ends: Vec<String> = ends.iter().map(text).collect();
        return ends.join("-");
    }
    if let Some(prefix) = element.get("prefix") {
        return format!("{}/{}", text(&prefix["addr"]), prefix["len"]);
    }
    for name in ["goto", "jump"] {
        if let Some(target) = element.get(name) {
            return format!("{name} {}", text(&target["target"]));
        }
    }
    if let Some(verdict) = ["accept", "drop", "return"]
        .into_iter()
        .find(|name| element.get(name).is_some())
    {
        return verdict.into();
    }
    if let Some(parts) = element.get("concat").and_then(Value::as_array) {
        return parts
            .iter()
            .map(element_text)
            .collect::<Vec<_>>()
            .join(" . ");
    }
    if let Some(inner) = element.get("elem") {
        return element_text(&inner["val"]);
    }
    match element.as_array() {
        Some(pair) => pair
            .iter()
            .map(element_text)
            .collect::<Vec<_>>()
            .join(" : "),
        None => text(element),
    }
}
