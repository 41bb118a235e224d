//! Elements of the policy sets: who may send what from which port, and what may reach it. A port
//! that is not in them passes nothing, so they are there before the port joins its bridge.

use super::nft_set::{ACCEPT, Bytes, Field, GOTO, JUMP, Set, TABLE, Value};
use super::{KindError, Look, Scope};
use crate::host::{Denied, Limits, Network};
use crate::kernel::nft::{Element, ElementOp, Place};
use crate::model::{Change, Inputs, Kind, Owns, Table};
use crate::policy::fabric::Opened;
use crate::policy::{Action, Compiled, Direction, Protocol};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

const ETHERTYPE_IP: u16 = 0x0800;
const ETHERTYPE_IP6: u16 = 0x86dd;

/// One element of a set or map of table `lxmesh`.
#[derive(Debug)]
pub struct NftElement;

/// What few elements have is kept elsewhere: a host has twenty elements for each NIC, and two tables
/// of them are in memory during a pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub set: Set,
    pub key: Bytes,
    /// In sets of ranges.
    pub end: Option<Box<Bytes>>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "@{} {{ {} }}",
            self.set.name(),
            self.key.range_text(self.end.as_deref(), self.set.key())
        )
    }
}

/// What a map maps the key to; `None` in a plain set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs(pub Option<Box<Bytes>>);

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // Only verdicts end in text.
            Some(data) if data.as_slice().len() > 4 => {
                write!(f, ": {}", data.text(&[Field::Verdict]))
            }
            Some(data) => write!(f, ": {data:?}"),
            None => Ok(()),
        }
    }
}

impl Kind for NftElement {
    const NAME: &'static str = "nft_element";
    const OWNS: Owns = Owns::WholeObjects;
    const GUARDS: bool = true;
    type Key = Key;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let mut wanted = of_networks(inputs);
        fabric_elements(inputs, &mut wanted);
        wanted
    }
}

fn put(wanted: &mut Table<NftElement>, set: Set, key: &[Value<'_>], data: Option<Value<'_>>) {
    let key = Key {
        set,
        key: Bytes::of(key),
        end: None,
    };
    wanted.insert(key, Attrs(data.map(|value| Bytes::of(&[value]).into())));
}

fn put_range(
    wanted: &mut Table<NftElement>,
    set: Set,
    first: &[Value<'_>],
    last: &[Value<'_>],
    data: Option<Value<'_>>,
) {
    let key = Key {
        set,
        key: Bytes::of(first),
        end: Some(Bytes::of(last).into()),
    };
    wanted.insert(key, Attrs(data.map(|value| Bytes::of(&[value]).into())));
}

/// What belongs to the networks of the host file and to NICs: all that a change of a few NICs can concern.
pub fn of_networks(inputs: &Inputs<'_>) -> Table<NftElement> {
    let mut wanted = Table::<NftElement>::new();
    network_elements(inputs, &mut wanted);
    nic_elements(inputs, &mut wanted);
    wanted
}

/// Where hosts of the fabric are, and what of them is open to instances.
fn fabric_elements(inputs: &Inputs<'_>, wanted: &mut Table<NftElement>) {
    for net in inputs.host.fabric.hosts() {
        let (sets, ethertype) = match net.addr().is_ipv6() {
            false => ([Set::Fabric4, Set::InetFabric4], ETHERTYPE_IP),
            true => ([Set::Fabric6, Set::InetFabric6], ETHERTYPE_IP6),
        };
        let end = |address| [Value::EtherType(ethertype), Value::Ip(address)];
        for set in sets {
            put_range(
                wanted,
                set,
                &end(net.network()),
                &end(net.broadcast()),
                None,
            );
        }
    }
    for block in Opened::of(inputs.host).blocks() {
        let sets = match block.first.is_ipv6() {
            false => [Set::FabricSvc4, Set::InetFabricSvc4],
            true => [Set::FabricSvc6, Set::InetFabricSvc6],
        };
        let end = |port, address| {
            let protocol = Value::Protocol(block.protocol.number());
            [protocol, Value::Port(port), Value::Ip(address)]
        };
        let first = end(block.ports.first, block.first);
        let last = end(block.ports.last, block.last);
        for set in sets {
            put_range(wanted, set, &first, &last, None);
        }
    }
}

/// What holds for a network as a whole, by name even before its devices exist.
fn network_elements(inputs: &Inputs<'_>, wanted: &mut Table<NftElement>) {
    let fabric = &inputs.host.fabric;
    put(
        wanted,
        Set::VxlanUdp,
        &[Value::Port(fabric.vxlan_port)],
        None,
    );
    put(
        wanted,
        Set::InetVxlanUdp,
        &[Value::Port(fabric.vxlan_port)],
        None,
    );
    for network in &inputs.host.networks {
        put(
            wanted,
            Set::VxlanUdp,
            &[Value::Port(network.vxlan_port)],
            None,
        );
        put(
            wanted,
            Set::InetVxlanUdp,
            &[Value::Port(network.vxlan_port)],
            None,
        );
        let svi = Value::IfName(&network.bridge);
        put(wanted, Set::Svis, &[svi], None);
        put(wanted, Set::InetSvis, &[svi], None);
        if network.multicast {
            put(wanted, Set::Mcast, &[svi], None);
        }
        gateway_elements(inputs, network, wanted);
        if let Some(tunnel) = inputs.facts.tunnel(network) {
            let tunnel = Value::IfIndex(tunnel.index);
            put(wanted, Set::Overlay, &[tunnel], None);
            put(
                wanted,
                Set::Routers,
                &[tunnel, Value::Mac(network.gateway_mac)],
                None,
            );
            put(
                wanted,
                Set::OverlayZones,
                &[tunnel],
                Some(Value::Zone(network.conntrack_zone)),
            );
        }
    }
}

/// The bridge's own addresses, and what belongs to its VRF.
fn gateway_elements(inputs: &Inputs<'_>, network: &Network, wanted: &mut Table<NftElement>) {
    let svi = Value::IfName(&network.bridge);
    if let Some(gateway) = network.gateway4 {
        let address = Value::Ip(gateway.addr().into());
        put(wanted, Set::Gateways4, &[svi, address], None);
    }
    if let Some(gateway) = network.gateway6 {
        let address = Value::Ip(gateway.addr().into());
        put(wanted, Set::Gateways6, &[svi, address], None);
    }
    if let Some(tunnel) = inputs.facts.tunnel(network) {
        vrf_elements(inputs, network, tunnel.index, wanted);
    }
    let Some(link) = inputs.facts.svi(network) else {
        return;
    };
    let svi = Value::IfIndex(link.index);
    let Some(vrf) = inputs.host.vrf_members(network) else {
        return;
    };
    for gateway in &vrf.gateways4 {
        let address = Value::Ip(gateway.addr().into());
        put(wanted, Set::InetGateways4, &[svi, address], None);
    }
    for gateway in &vrf.gateways6 {
        let address = Value::Ip(gateway.addr().into());
        put(wanted, Set::InetGateways6, &[svi, address], None);
    }
    put(wanted, Set::InetZones, &[svi], Some(Value::Zone(vrf.zone)));
}

/// What is routed within the VRF of a port's or tunnel's network; nothing if it is in none.
fn vrf_elements(
    inputs: &Inputs<'_>,
    network: &Network,
    index: u32,
    wanted: &mut Table<NftElement>,
) {
    let Some(vrf) = inputs.host.vrf_members(network) else {
        return;
    };
    let zone = Value::Zone(vrf.zone);
    put(wanted, Set::VrfZones, &[Value::IfIndex(index)], Some(zone));
    let end = |address: IpAddr| [Value::IfIndexBe(index), Value::Ip(address)];
    for gateway in &vrf.gateways4 {
        let (first, last) = (gateway.network().into(), gateway.broadcast().into());
        put_range(wanted, Set::SameVrf4, &end(first), &end(last), None);
    }
    for gateway in &vrf.gateways6 {
        let (first, last) = (gateway.network().into(), gateway.broadcast().into());
        put_range(wanted, Set::SameVrf6, &end(first), &end(last), None);
    }
}

fn nic_elements(inputs: &Inputs<'_>, wanted: &mut Table<NftElement>) {
    // By name and whether or not the port is in its bridge: while it is in none, what it sends
    // would reach the host's own stack. Not by a name of which no device is known: it may become one of
    // the host's own.
    for nic in inputs.nics.iter().filter(|nic| inputs.port(nic).is_some()) {
        put(wanted, Set::InetPorts, &[Value::IfName(&nic.port)], None);
        put(wanted, Set::ArpPorts, &[Value::IfName(&nic.port)], None);
    }
    for (nic, network, at) in inputs.connectable() {
        let port = Value::IfIndex(at.port.index);
        let mac = Value::Mac(nic.mac);
        put(wanted, Set::Ports, &[port], None);
        put(wanted, Set::MacOf, &[port, mac], None);
        put(wanted, Set::MacRaw, &[port, mac], None);
        let zone = Value::Zone(network.conntrack_zone);
        let routed = Value::Zone(inputs.host.routed_zone(network));
        put(wanted, Set::PortZones, &[port, zone], None);
        put(wanted, Set::PortZones, &[port, routed], None);
        vrf_elements(inputs, network, at.port.index, wanted);
        let zone = Some(zone);
        for address in nic.addresses() {
            let (set, at_once, ethertype) = match address {
                IpAddr::V4(_) => (Set::Id4, Set::Zone4, ETHERTYPE_IP),
                IpAddr::V6(_) => (Set::Id6, Set::Zone6, ETHERTYPE_IP6),
            };
            let address = Value::Ip(address);
            put(wanted, set, &[port, mac, address], None);
            // Tags have to be put on the packet; the longer way does that.
            if nic.tags == 0 && inputs.facts.shows_vlan_tags {
                let source = Value::MacAndType(nic.mac, ethertype);
                put(wanted, at_once, &[port, source, address], zone);
            }
        }
        put(wanted, Set::Zones, &[port], zone);
        if nic.tags != 0 {
            put(
                wanted,
                Set::Marks,
                &[port],
                Some(Value::Mark(nic.tags.into())),
            );
        }
        limit_elements(port, &nic.limits, wanted);
        let Denied { audit, log } = nic.denied;
        if audit {
            put(wanted, Set::Audited, &[port], None);
        }
        if log {
            put(wanted, Set::Logged, &[port], None);
        }
        if let Some(address) = nic.ipv4 {
            for (protocol, number) in nic.inward.exact.keys() {
                let protocol = Value::Protocol(protocol.number());
                let address = Value::Ip(address.into());
                let key = [port, mac, address, protocol, Value::Port(*number)];
                put(wanted, Set::Served4, &key, None);
            }
        }
        policy_elements(at.port.index, Direction::In, &nic.inward, wanted);
        policy_elements(at.port.index, Direction::Out, &nic.outward, wanted);
    }
}

/// A NIC with the limits that the rules have anyway needs none of these.
fn limit_elements(port: Value<'_>, limits: &Limits, wanted: &mut Table<NftElement>) {
    let Limits {
        connections,
        new_connections,
        control_packets,
        multicast_groups: _,
    } = limits;
    let rules = Limits::default();
    if (connections, new_connections) != (&rules.connections, &rules.new_connections) {
        put(wanted, Set::Limited, &[port], None);
        let chain = format!("new_{new_connections}");
        let verdict = Value::Verdict(JUMP, &chain);
        put(wanted, Set::LimitNew, &[port], Some(verdict));
        let chain = format!("conns_{connections}");
        let verdict = Value::Verdict(GOTO, &chain);
        put(wanted, Set::LimitConnections, &[port], Some(verdict));
    }
    if *control_packets != rules.control_packets {
        let chain = format!("ctl_{control_packets}");
        let verdict = Value::Verdict(GOTO, &chain);
        put(wanted, Set::LimitControl, &[port], Some(verdict));
    }
}

/// What a NIC's policy is looked up as; see the chains `egress_acl` and `to_port_l4`.
fn policy_elements(
    index: u32,
    direction: Direction,
    policy: &Compiled,
    wanted: &mut Table<NftElement>,
) {
    let (exact, more, four, six) = match direction {
        Direction::In => (Set::InSvc, Set::InMore, Set::In4, Set::In6),
        Direction::Out => (Set::OutSvc, Set::OutMore, Set::Out4, Set::Out6),
    };
    let protocol = |protocol: Protocol| Value::Protocol(protocol.number());
    let port = Value::IfIndex(index);
    for (of, number) in policy.exact.keys() {
        put(
            wanted,
            exact,
            &[port, protocol(*of), Value::Port(*number)],
            None,
        );
    }
    if policy.is_plain() {
        return;
    }
    put(wanted, more, &[port], None);
    let port = Value::IfIndexBe(index);
    for block in &policy.blocks {
        let verdict = match (block.action, direction) {
            (Action::Drop, Direction::In) => Value::Verdict(GOTO, "to_port_denied"),
            (Action::Drop, Direction::Out) => Value::Verdict(GOTO, "egress_denied"),
            (Action::Allow, Direction::In) => Value::Verdict(ACCEPT, ""),
            (Action::Allow, Direction::Out) => Value::Verdict(GOTO, "egress_accept"),
        };
        let end = |number, address| {
            [
                port,
                protocol(block.protocol),
                Value::Port(number),
                Value::Ip(address),
            ]
        };
        put_range(
            wanted,
            if block.first.is_ipv4() { four } else { six },
            &end(block.ports.first, block.first),
            &end(block.ports.last, block.last),
            Some(verdict),
        );
    }
    for tag in &policy.tags {
        let end = |number| {
            [
                port,
                protocol(tag.protocol),
                Value::Port(number),
                Value::MarkBe(1 << tag.bit),
            ]
        };
        put_range(
            wanted,
            Set::InTags,
            &end(tag.ports.first),
            &end(tag.ports.last),
            None,
        );
    }
}

fn bytes(bytes: &Bytes) -> Vec<u8> {
    bytes.as_slice().to_vec()
}

/// What there is of elements.
#[derive(Debug, Default)]
pub struct Found {
    pub elements: Table<NftElement>,
    /// False if a set is missing, so that the table is not what this version loads.
    pub complete: bool,
    /// The first set in which something is that no element of ours is like, such as a catch-all element. That cannot be
    /// put right one by one.
    pub damaged: Option<Set>,
}

/// Reads the elements.
pub fn observe(look: &mut Look<'_>, scope: &Scope<NftElement>) -> Result<Found, KindError> {
    let mut found = Table::<NftElement>::new();
    let mut complete = true;
    let mut damaged = None;
    for set in Set::ALL {
        let (family, name) = (set.family(), set.name());
        let elements: Vec<Element> = match scope {
            Scope::All => match look.kernel.nft.elements(family, TABLE, name)? {
                None => {
                    complete = false;
                    continue;
                }
                Some(elements) => elements,
            },
            Scope::Keys(keys) => {
                let keys: Vec<Place> = keys
                    .iter()
                    .filter(|key| key.set == set)
                    .map(|key| (bytes(&key.key), key.end.as_deref().map(bytes)))
                    .collect();
                if keys.is_empty() {
                    continue;
                }
                let looked_up = look.kernel.nft.lookup(family, TABLE, name, &keys)?;
                looked_up.into_iter().flatten().collect()
            }
        };
        for element in elements {
            match read(set, element) {
                // Where another range covers the wanted one it is found in its stead, and goes.
                Some((key, attrs)) => {
                    found.insert(key, attrs);
                }
                None => damaged = damaged.or(Some(set)),
            }
        }
    }
    if let Some(set) = damaged {
        let set = set.name();
        tracing::warn!(set, "there is an element of a form that is not LXMesh's");
    }
    Ok(Found {
        elements: found,
        complete,
        damaged,
    })
}

/// An element of a set; `None` if it is of another form than ours.
fn read(set: Set, element: Element) -> Option<(Key, Attrs)> {
    let Element {
        key,
        end,
        data,
        // It says nothing to the kernel.
        comment: _,
        special,
    } = element;
    if special {
        return None;
    }
    let boxed = |bytes: Option<Vec<u8>>| match bytes {
        Some(bytes) => Some(Some(Box::new(Bytes::from_kernel(&bytes)?))),
        None => Some(None),
    };
    let key = Key {
        set,
        key: Bytes::from_kernel(&key)?,
        end: boxed(end)?,
    };
    Some((key, Attrs(boxed(data)?)))
}

/// The changes as operations of one transaction, deletions first: a map's value is replaced by
/// deleting and adding it in the same transaction.
pub fn ops(changes: &[Change<NftElement>]) -> Vec<ElementOp> {
    let delete = |key: &Key| ElementOp::Delete {
        family: key.set.family(),
        table: TABLE,
        set: key.set.name(),
        key: bytes(&key.key),
        end: key.end.as_deref().map(bytes),
    };
    let add = |key: &Key, attrs: &Attrs| ElementOp::Add {
        family: key.set.family(),
        table: TABLE,
        set: key.set.name(),
        element: Element {
            key: bytes(&key.key),
            end: key.end.as_deref().map(bytes),
            data: attrs.0.as_deref().map(bytes),
            comment: None,
            special: false,
        },
    };
    let mut ops = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            Change::Delete { key, .. } | Change::Update { key, .. } => ops.push(delete(key)),
            Change::Create { .. } => {}
        }
    }
    for change in changes {
        match change {
            Change::Create { key, want } | Change::Update { key, want, .. } => {
                ops.push(add(key, want));
            }
            Change::Delete { .. } => {}
        }
    }
    ops
}

/// The elements as text for `nft -f`, for loading them together with the table.
pub fn script(elements: &Table<NftElement>) -> String {
    let mut by_set: BTreeMap<Set, Vec<String>> = BTreeMap::new();
    for (key, Attrs(data)) in elements {
        let mut text = key.key.range_text(key.end.as_deref(), key.set.key());
        if let (Some(field), Some(data)) = (key.set.data(), data) {
            text.push_str(" : ");
            text.push_str(&data.text(&[field]));
        }
        by_set.entry(key.set).or_default().push(text);
    }
    let mut out = String::new();
    for (set, elements) in by_set {
        out.push_str(&format!(
            "add element {} {TABLE} {} {{ {} }}\n",
            set.family().name(),
            set.name(),
            elements.join(", ")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;
    use crate::kernel::link::{BridgeData, Link, LinkKind, VxlanData};
    use crate::kernel::nft::Family;
    use crate::model::{Facts, Nic};

    const HOST: &str = "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"203.0.113.1\"]\n\
        supervisors = [\"203.0.113.11\"]\n[[network]]\nname = \"vpc\"\nvni = 100\ngateway = [\"192.0.2.1/24\"]\n";

    const BRIDGE: BridgeData = BridgeData {
        mcast_snooping: true,
        mcast_querier: true,
        mcast_igmp_version: 3,
        mcast_mld_version: 2,
        mcast_router: 2,
        mcast_query_response_interval: 100,
        vlan_filtering: false,
    };

    /// The sets that know a sender at once, and whether the longer way knows it.
    fn senders(tags: u16, shows_vlan_tags: bool) -> (Vec<String>, bool) {
        let mut facts = Facts::new([
            Link::sample(1, "svi-vpc", LinkKind::Bridge(BRIDGE), None),
            Link::sample(7, "veth11", LinkKind::Veth, None),
        ]);
        facts.shows_vlan_tags = shows_vlan_tags;
        let nic = Nic {
            tags,
            ..Nic::sample(11)
        };
        let wanted = NftElement::derive(&Inputs {
            refused: &[],
            host: &host::parse("x", HOST).unwrap_or_else(|problems| panic!("{problems}")),
            nics: &[nic],
            facts: &facts,
        });
        let at_once = wanted
            .keys()
            .filter(|key| matches!(key.set, Set::Zone4 | Set::Zone6))
            .map(Key::to_string)
            .collect();
        (at_once, wanted.keys().any(|key| key.set == Set::Id4))
    }

    /// A pass over some NICs knows only their networks. What it would write is what a whole one would.
    #[test]
    fn a_network_alone_gets_what_it_has_beside_the_others_of_its_vrf() {
        let mut text = HOST.to_string();
        for (name, vni) in [("red", 300), ("pink", 400), ("grey", 200)] {
            text += &format!(
                "[[network]]\nname = \"{name}\"\nvni = {vni}\nvrf = \"vrf-red\"\n\
                 gateway = [\"198.51.{vni_byte}.1/24\", \"2001:db8:{vni}::1/64\"]\n",
                vni_byte = vni / 10
            );
        }
        let whole = host::parse("x", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let tunnel = VxlanData {
            vni: 400,
            local: None,
            port: 4789,
            learning: false,
            gbp: true,
            drops_marked: Some(false),
        };
        let facts = Facts::new([
            Link::sample(1, "svi-pink", LinkKind::Bridge(BRIDGE), None),
            Link::sample(7, "veth11", LinkKind::Veth, None),
            Link::sample(8, "vxlan-pink", LinkKind::Vxlan(tunnel), Some(1)),
        ]);
        let nic = Nic {
            network: "pink".into(),
            ..Nic::sample(11)
        };
        // What networks other than those would have, too, and the NIC.
        let of = |names: &[&str]| {
            let mut host = whole.clone();
            host.networks
                .retain(|network| names.contains(&network.name.as_str()));
            of_networks(&Inputs {
                refused: &[],
                host: &host,
                nics: std::slice::from_ref(&nic),
                facts: &facts,
            })
        };
        let pink = of(&["pink"]);
        let mut together = of(&["vpc", "red", "grey"]);
        together.extend(pink.clone());
        assert_eq!(together, of(&["vpc", "red", "pink", "grey"]));
        let of_set = |set| pink.iter().filter(move |(key, _)| key.set == set);
        assert_eq!(of_set(Set::SameVrf4).count(), 6, "port and tunnel");
        assert_eq!(of_set(Set::InetGateways6).count(), 3);
        let lowest = Attrs(Some(Bytes::of(&[Value::Zone(200)]).into()));
        assert!(of_set(Set::VrfZones).all(|(_, zone)| *zone == lowest));
        assert!(of_set(Set::InetZones).all(|(_, zone)| *zone == lowest));
        assert_eq!(of_set(Set::VrfZones).count(), 2);
    }

    #[test]
    fn the_hosts_of_the_fabric_are_closed_but_for_what_the_host_file_opens() {
        let services = "services = [\"tcp/80-90\", \"tcp/85@203.0.113.11\", \"icmp/echo-request@203.0.113.1\"]\n";
        let text = HOST.replace("[[network]]", &format!("{services}[[network]]"));
        let wanted = NftElement::derive(&Inputs {
            refused: &[],
            host: &host::parse("x", &text).unwrap_or_else(|problems| panic!("{problems}")),
            nics: &[],
            facts: &Facts::default(),
        });
        for family in [Family::Bridge, Family::Inet] {
            let of = wanted
                .keys()
                .filter(|key| key.set.family() == family && key.set.name().starts_with("fabric"));
            assert_eq!(
                of.map(Key::to_string).collect::<Vec<_>>(),
                [
                    "@fabric_hosts4 { 0x0800 . 203.0.113.1 }",
                    "@fabric_hosts4 { 0x0800 . 203.0.113.11 }",
                    "@fabric_svc4 { 1 . 2048-2303 . 203.0.113.1 }",
                    "@fabric_svc4 { 6 . 80-90 . 0.0.0.0-255.255.255.255 }",
                ]
            );
        }
    }

    #[test]
    fn a_sender_is_known_at_once_unless_it_has_tags_or_the_kernel_hides_vlan_tags() {
        let known = [
            "@sender_zone4 { 7 . 0x00163e00000b0800 . 0xc000020b }",
            "@sender_zone6 { 7 . 0x00163e00000b86dd . 0xfe8000000000000002163efffe00000b }",
        ];
        assert_eq!(senders(0, true), (known.map(String::from).to_vec(), true));
        assert_eq!(senders(1, true), (Vec::new(), true));
        assert_eq!(senders(0, false), (Vec::new(), true));
    }
}
