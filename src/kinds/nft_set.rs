//! The nftables sets and maps that carry policy: their names, their types, and the bytes that
//! the kernel keeps of an element. The declarations in `templates/datapath-sets.nft` have the
//! same types; a test compares them in the kernel.
//!
//! Keys are interface indexes rather than names: a look-up costs half, and a re-created device
//! starts with nothing.

use crate::addr::{IfName, Mac};
use crate::kernel::nft::{Family, verdict};
use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Name of the tables `bridge lxmesh`, `inet lxmesh` and `arp lxmesh`.
pub const TABLE: &str = "lxmesh";

/// A set or map of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Managed bridges.
    Svis,
    /// Of these, with multicast between hosts.
    Mcast,
    /// NIC ports.
    Ports,
    /// Tunnels.
    Overlay,
    /// Tunnel → conntrack zone of its SVI.
    OverlayZones,
    /// Tunnel . SVI MAC of any supervisor.
    Routers,
    /// Port . MAC.
    MacOf,
    /// The same for MACs inside ND options and DHCP.
    MacRaw,
    /// Port . MAC . address.
    Id4,
    Id6,
    /// Port → packet mark (tags).
    Marks,
    /// Port → conntrack zone of its SVI.
    Zones,
    /// Port . zones of which answers may reach it.
    PortZones,
    /// Port or tunnel of a network in a VRF → the VRF's zone.
    VrfZones,
    /// The same . addresses of the VRF's networks.
    SameVrf4,
    SameVrf6,
    /// Managed bridge . its own address.
    Gateways4,
    Gateways6,
    /// Port . MAC and ethertype . address → the same zone, of NICs without tags: what most packets
    /// are, known by one look-up.
    Zone4,
    Zone6,
    /// UDP ports of tunnels.
    VxlanUdp,
    /// Ethertype . where hosts of the fabric are.
    Fabric4,
    Fabric6,
    /// Protocol . destination ports (of ICMP: type and code) . addresses of such hosts: what the host
    /// file opens to instances.
    FabricSvc4,
    FabricSvc6,
    /// Port . protocol . destination port: open to everyone.
    OutSvc,
    InSvc,
    /// Port . MAC . address . protocol . destination port: the same once more for each NIC's IPv4
    /// address, so that destination and service are known by one look-up.
    Served4,
    /// Ports of which there is more to look up than that.
    OutMore,
    InMore,
    /// Port . protocol . destination ports (of ICMP: type and code) . peer addresses → verdict.
    Out4,
    Out6,
    In4,
    In6,
    /// Port . protocol . destination ports . a tag's bit of the mark.
    InTags,
    /// Ports with limits of their own, and the chains that apply them.
    Limited,
    LimitNew,
    LimitControl,
    LimitConnections,
    /// Ports whose services are watched only; ports whose drops are logged.
    Audited,
    Logged,
    InetSvis,
    InetPorts,
    InetVxlanUdp,
    /// The same of hosts of the fabric once more.
    InetFabric4,
    InetFabric6,
    InetFabricSvc4,
    InetFabricSvc6,
    /// Managed bridge in a VRF . all gateways' addresses of the VRF.
    InetGateways4,
    InetGateways6,
    /// Managed bridge in a VRF → the VRF's zone.
    InetZones,
    ArpPorts,
}

/// Verdict codes (include/uapi/linux/netfilter.h, nf_tables.h).
pub const DROP: i32 = 0;
pub const ACCEPT: i32 = 1;
pub const JUMP: i32 = -3;
pub const GOTO: i32 = -4;
pub const RETURN: i32 = -5;

/// Type of one part of a key, or of a map's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    IfIndex,
    IfName,
    Mac,
    /// 48 bits of payload.
    MacRaw,
    /// 64 bits of payload: a source MAC and the ethertype behind it.
    MacAndType,
    Ip4,
    Ip6,
    /// Addresses as payload: the packet's family is not looked at.
    Ip4Raw,
    Ip6Raw,
    EtherType,
    Protocol,
    Port,
    Mark,
    Zone,
    /// In sets of ranges numbers are big-endian, so that ranges are in order.
    IfIndexBe,
    MarkBe,
    /// As `kernel::nft::verdict` makes it.
    Verdict,
}

/// The value of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    IfIndex(u32),
    IfName(&'a IfName),
    Mac(Mac),
    MacAndType(Mac, u16),
    Ip(IpAddr),
    EtherType(u16),
    Protocol(u8),
    Port(u16),
    Mark(u32),
    Zone(u16),
    IfIndexBe(u32),
    MarkBe(u32),
    Verdict(i32, &'a str),
}

/// The bytes of a key or of data, as in a register: every part of a concatenation padded to four
/// bytes; at most 32 of them are used by any of our sets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes {
    len: u8,
    bytes: [u8; 32],
}

impl Set {
    pub const ALL: [Set; 52] = [
        Set::Svis,
        Set::Mcast,
        Set::Ports,
        Set::Overlay,
        Set::OverlayZones,
        Set::Routers,
        Set::MacOf,
        Set::MacRaw,
        Set::Id4,
        Set::Id6,
        Set::Marks,
        Set::Zones,
        Set::PortZones,
        Set::VrfZones,
        Set::SameVrf4,
        Set::SameVrf6,
        Set::Gateways4,
        Set::Gateways6,
        Set::Zone4,
        Set::Zone6,
        Set::VxlanUdp,
        Set::Fabric4,
        Set::Fabric6,
        Set::FabricSvc4,
        Set::FabricSvc6,
        Set::OutSvc,
        Set::InSvc,
        Set::Served4,
        Set::OutMore,
        Set::InMore,
        Set::Out4,
        Set::Out6,
        Set::In4,
        Set::In6,
        Set::InTags,
        Set::Limited,
        Set::LimitNew,
        Set::LimitControl,
        Set::LimitConnections,
        Set::Audited,
        Set::Logged,
        Set::InetSvis,
        Set::InetPorts,
        Set::InetVxlanUdp,
        Set::InetFabric4,
        Set::InetFabric6,
        Set::InetFabricSvc4,
        Set::InetFabricSvc6,
        Set::InetGateways4,
        Set::InetGateways6,
        Set::InetZones,
        Set::ArpPorts,
    ];

    pub fn family(self) -> Family {
        match self {
            Set::InetSvis
            | Set::InetPorts
            | Set::InetVxlanUdp
            | Set::InetFabric4
            | Set::InetFabric6
            | Set::InetFabricSvc4
            | Set::InetFabricSvc6
            | Set::InetGateways4
            | Set::InetGateways6
            | Set::InetZones => Family::Inet,
            Set::ArpPorts => Family::Arp,
            _ => Family::Bridge,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Set::Svis | Set::InetSvis => "svi_names",
            Set::Mcast => "mcast_svis",
            Set::Ports | Set::InetPorts | Set::ArpPorts => "nic_ports",
            Set::Overlay => "overlay_ports",
            Set::OverlayZones => "overlay_zones",
            Set::Routers => "router_macs",
            Set::MacOf => "nic_macs",
            Set::MacRaw => "payload_macs",
            Set::Id4 => "nic_id4",
            Set::Id6 => "nic_id6",
            Set::Marks => "port_marks",
            Set::Zones => "zone_by_port",
            Set::InetZones => "zone_by_svi",
            Set::PortZones => "port_zones",
            Set::VrfZones => "vrf_zones",
            Set::SameVrf4 => "same_vrf4",
            Set::SameVrf6 => "same_vrf6",
            Set::Gateways4 | Set::InetGateways4 => "svi_gateways4",
            Set::Gateways6 | Set::InetGateways6 => "svi_gateways6",
            Set::Zone4 => "sender_zone4",
            Set::Zone6 => "sender_zone6",
            Set::VxlanUdp | Set::InetVxlanUdp => "vxlan_udp",
            Set::Fabric4 | Set::InetFabric4 => "fabric_hosts4",
            Set::Fabric6 | Set::InetFabric6 => "fabric_hosts6",
            Set::FabricSvc4 | Set::InetFabricSvc4 => "fabric_svc4",
            Set::FabricSvc6 | Set::InetFabricSvc6 => "fabric_svc6",
            Set::OutSvc => "out_svc",
            Set::InSvc => "in_svc",
            Set::Served4 => "served_svc4",
            Set::OutMore => "out_more",
            Set::InMore => "in_more",
            Set::Out4 => "out_rules4",
            Set::Out6 => "out_rules6",
            Set::In4 => "in_rules4",
            Set::In6 => "in_rules6",
            Set::InTags => "in_tags",
            Set::Limited => "limited_ports",
            Set::LimitNew => "limit_new",
            Set::LimitControl => "limit_ctl",
            Set::LimitConnections => "limit_conns",
            Set::Audited => "audited_ports",
            Set::Logged => "logged_ports",
        }
    }

    /// The parts of a key.
    pub fn key(self) -> &'static [Field] {
        use Field::*;
        match self {
            Set::Svis | Set::Mcast | Set::InetSvis | Set::InetPorts | Set::ArpPorts => &[IfName],
            Set::PortZones => &[IfIndex, Zone],
            Set::SameVrf4 => &[IfIndexBe, Ip4],
            Set::SameVrf6 => &[IfIndexBe, Ip6],
            Set::Gateways4 => &[IfName, Ip4],
            Set::Gateways6 => &[IfName, Ip6],
            Set::InetGateways4 => &[IfIndex, Ip4],
            Set::InetGateways6 => &[IfIndex, Ip6],
            Set::Ports
            | Set::Overlay
            | Set::OverlayZones
            | Set::Marks
            | Set::Zones
            | Set::InetZones
            | Set::VrfZones
            | Set::OutMore
            | Set::InMore
            | Set::Limited
            | Set::LimitNew
            | Set::LimitControl
            | Set::LimitConnections
            | Set::Audited
            | Set::Logged => &[IfIndex],
            Set::Routers | Set::MacOf => &[IfIndex, Mac],
            Set::MacRaw => &[IfIndex, MacRaw],
            Set::Id4 => &[IfIndex, Mac, Ip4],
            Set::Id6 => &[IfIndex, Mac, Ip6],
            Set::Zone4 => &[IfIndex, MacAndType, Ip4Raw],
            Set::Zone6 => &[IfIndex, MacAndType, Ip6Raw],
            Set::VxlanUdp | Set::InetVxlanUdp => &[Port],
            Set::Fabric4 | Set::InetFabric4 => &[EtherType, Ip4],
            Set::Fabric6 | Set::InetFabric6 => &[EtherType, Ip6],
            Set::FabricSvc4 | Set::InetFabricSvc4 => &[Protocol, Port, Ip4],
            Set::FabricSvc6 | Set::InetFabricSvc6 => &[Protocol, Port, Ip6],
            Set::OutSvc | Set::InSvc => &[IfIndex, Protocol, Port],
            Set::Served4 => &[IfIndex, Mac, Ip4, Protocol, Port],
            Set::Out4 | Set::In4 => &[IfIndexBe, Protocol, Port, Ip4],
            Set::Out6 | Set::In6 => &[IfIndexBe, Protocol, Port, Ip6],
            Set::InTags => &[IfIndexBe, Protocol, Port, MarkBe],
        }
    }

    /// What a map's keys map to.
    pub fn data(self) -> Option<Field> {
        match self {
            Set::Marks => Some(Field::Mark),
            Set::Zones
            | Set::InetZones
            | Set::VrfZones
            | Set::OverlayZones
            | Set::Zone4
            | Set::Zone6 => Some(Field::Zone),
            Set::Out4 | Set::Out6 | Set::In4 | Set::In6 => Some(Field::Verdict),
            Set::LimitNew | Set::LimitControl | Set::LimitConnections => Some(Field::Verdict),
            _ => None,
        }
    }
}

impl Field {
    fn len(self) -> usize {
        match self {
            Field::IfIndex | Field::IfIndexBe | Field::Mark | Field::MarkBe => 4,
            Field::Ip4 | Field::Ip4Raw => 4,
            Field::IfName | Field::Ip6 | Field::Ip6Raw => 16,
            Field::Mac | Field::MacRaw => 6,
            Field::MacAndType => 8,
            Field::Protocol => 1,
            Field::Port | Field::Zone | Field::EtherType => 2,
            // As long as it is; it is never part of a key.
            Field::Verdict => 0,
        }
    }
}

impl Bytes {
    /// The bytes of the values. One value stands as it is; several are padded.
    pub fn of(values: &[Value<'_>]) -> Self {
        let mut out = Bytes {
            len: 0,
            bytes: [0; 32],
        };
        for value in values {
            match value {
                Value::IfIndex(index) | Value::Mark(index) => out.push(&index.to_ne_bytes()),
                Value::IfName(name) => {
                    let mut padded = [0; 16];
                    padded[..name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
                    out.push(&padded);
                }
                Value::Mac(mac) => out.push(&mac.0),
                Value::MacAndType(mac, ethertype) => {
                    out.push(&mac.0);
                    out.push(&ethertype.to_be_bytes());
                }
                Value::Ip(IpAddr::V4(address)) => out.push(&address.octets()),
                Value::Ip(IpAddr::V6(address)) => out.push(&address.octets()),
                Value::Protocol(number) => out.push(&[*number]),
                Value::Port(number) | Value::EtherType(number) => out.push(&number.to_be_bytes()),
                Value::Zone(zone) => out.push(&zone.to_ne_bytes()),
                Value::IfIndexBe(number) | Value::MarkBe(number) => {
                    out.push(&number.to_be_bytes());
                }
                Value::Verdict(code, chain) => out.push(&verdict(*code, chain)),
            }
            if values.len() > 1 {
                out.len = out.len.next_multiple_of(4);
            }
        }
        out
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    /// Bytes from the kernel; `None` if longer than any of our keys.
    pub fn from_kernel(bytes: &[u8]) -> Option<Self> {
        let mut out = Bytes {
            len: 0,
            bytes: [0; 32],
        };
        (bytes.len() <= out.bytes.len()).then(|| {
            out.push(bytes);
            out
        })
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// As nft writes them: parts joined by ` . `.
    pub fn text(&self, fields: &[Field]) -> String {
        self.range_text(None, fields)
    }

    /// As nft writes ranges, if there is an end: `7 . 6 . 80-90 . 192.0.2.0-192.0.2.255`.
    pub fn range_text(&self, end: Option<&Bytes>, fields: &[Field]) -> String {
        let mut out = String::new();
        let mut rest = self.as_slice();
        let mut rest_of_end = end.unwrap_or(self).as_slice();
        for field in fields {
            let padded = match field {
                Field::Verdict => rest.len(),
                _ if fields.len() > 1 => field.len().next_multiple_of(4),
                _ => field.len(),
            };
            if rest.len() < padded || rest_of_end.len() < padded {
                return format!("{:02x?}", self.as_slice());
            }
            let (part, last);
            (part, rest) = rest.split_at(padded);
            (last, rest_of_end) = rest_of_end.split_at(padded);
            if !out.is_empty() {
                out.push_str(" . ");
            }
            write_field(&mut out, *field, part);
            if part != last {
                out.push('-');
                write_field(&mut out, *field, last);
            }
        }
        out
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", self.as_slice())
    }
}

fn write_field(out: &mut String, field: Field, part: &[u8]) {
    fn head<const N: usize>(part: &[u8]) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&part[..N]);
        bytes
    }
    // Writing to a String cannot fail.
    let _ = match field {
        // nft takes a bare number for an index; a name would have to exist.
        Field::IfIndex => write!(out, "{}", u32::from_ne_bytes(head(part))),
        Field::Mark => write!(out, "{:#x}", u32::from_ne_bytes(head(part))),
        Field::IfName => {
            let end = part
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(part.len());
            write!(out, "\"{}\"", String::from_utf8_lossy(&part[..end]))
        }
        Field::Mac => write!(out, "{}", Mac(head(part))),
        Field::MacRaw | Field::MacAndType | Field::Ip4Raw | Field::Ip6Raw => {
            let digits = part[..field.len()].iter();
            let digits: String = digits.map(|byte| format!("{byte:02x}")).collect();
            write!(out, "0x{digits}")
        }
        Field::Ip4 => write!(out, "{}", Ipv4Addr::from(head::<4>(part))),
        Field::Ip6 => write!(out, "{}", Ipv6Addr::from(head::<16>(part))),
        Field::Protocol => write!(out, "{}", part[0]),
        Field::Port => write!(out, "{}", u16::from_be_bytes(head(part))),
        Field::EtherType => write!(out, "{:#06x}", u16::from_be_bytes(head(part))),
        Field::Zone => write!(out, "{}", u16::from_ne_bytes(head(part))),
        Field::IfIndexBe => write!(out, "{}", u32::from_be_bytes(head(part))),
        Field::MarkBe => write!(out, "{:#x}", u32::from_be_bytes(head(part))),
        Field::Verdict if part.len() >= 4 => match i32::from_be_bytes(head(part)) {
            DROP => write!(out, "drop"),
            ACCEPT => write!(out, "accept"),
            RETURN => write!(out, "return"),
            JUMP => write!(out, "jump {}", String::from_utf8_lossy(&part[4..])),
            GOTO => write!(out, "goto {}", String::from_utf8_lossy(&part[4..])),
            other => write!(out, "{other}"),
        },
        Field::Verdict => write!(out, "{part:02x?}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_concatenation_are_padded_and_single_keys_are_not() {
        let mac: Mac = "00:16:3e:3f:42:16".parse().unwrap();
        let key = Bytes::of(&[
            Value::IfIndex(7),
            Value::Mac(mac),
            Value::Ip("192.0.2.10".parse().unwrap()),
        ]);
        assert_eq!(key.as_slice().len(), 16);
        assert_eq!(
            key.text(Set::Id4.key()),
            "7 . 00:16:3e:3f:42:16 . 192.0.2.10"
        );
        let port = Bytes::of(&[Value::Port(4789)]);
        assert_eq!(port.as_slice(), [0x12, 0xb5]);
        let raw = Bytes::of(&[Value::IfIndex(7), Value::Mac(mac)]);
        assert_eq!(raw.text(Set::MacRaw.key()), "7 . 0x00163e3f4216");
        let whole = Bytes::of(&[
            Value::IfIndex(7),
            Value::MacAndType(mac, 0x86dd),
            Value::Ip("2001:db8::a".parse().unwrap()),
        ]);
        assert_eq!(
            whole.text(Set::Zone6.key()),
            "7 . 0x00163e3f421686dd . 0x20010db800000000000000000000000a"
        );
        let name: IfName = "svi-vpc".parse().unwrap();
        assert_eq!(
            Bytes::of(&[Value::IfName(&name)]).text(Set::Svis.key()),
            "\"svi-vpc\""
        );
        let block = |port, address: &str| {
            let address = Value::Ip(address.parse().unwrap());
            Bytes::of(&[
                Value::IfIndexBe(7),
                Value::Protocol(6),
                Value::Port(port),
                address,
            ])
        };
        let (first, last) = (block(80, "2001:db8::"), block(90, "2001:db8::ff"));
        assert_eq!(first.as_slice()[..4], [0, 0, 0, 7]);
        assert_eq!(
            first.range_text(Some(&last), Set::In6.key()),
            "7 . 6 . 80-90 . 2001:db8::-2001:db8::ff"
        );
        let verdict = Bytes::of(&[Value::Verdict(GOTO, "egress_accept")]);
        assert_eq!(verdict.text(&[Field::Verdict]), "goto egress_accept");
        let fabric = |address: &str| {
            let address = Value::Ip(address.parse().unwrap());
            Bytes::of(&[Value::EtherType(0x0800), address])
        };
        let (first, last) = (fabric("203.0.113.0"), fabric("203.0.113.255"));
        assert_eq!(
            first.range_text(Some(&last), Set::Fabric4.key()),
            "0x0800 . 203.0.113.0-203.0.113.255"
        );
        let service = Bytes::of(&[Value::IfIndex(7), Value::Protocol(6), Value::Port(443)]);
        assert_eq!(service.text(Set::InSvc.key()), "7 . 6 . 443");
    }
}
