//! What a link is: one `RTM_NEWLINK` message read into a [`Link`]. No socket, no decision.
//!
//! Attributes and their types: include/uapi/linux/if_link.h. What this kernel does not give reads
//! as zero, false or None.

use std::net::IpAddr;

use super::tlv::{Attr, Attrs, Message, read_u16, read_u32};
use crate::addr::{IfName, Mac};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
/// Size of `struct ifinfomsg`.
pub(super) const IFINFOMSG: usize = 16;
pub(super) const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
pub(super) const AF_INET6: u16 = libc::AF_INET6 as u16;

pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_AF_SPEC: u16 = 26;
pub(super) const IFLA_EXT_MASK: u16 = 29;
pub(super) const IFLA_GROUP: u16 = 27;
const IFLA_LINK_NETNSID: u16 = 37;

pub(super) const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;

pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
pub(super) const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub(super) const IFLA_INFO_SLAVE_DATA: u16 = 5;

/// `IFLA_BR_*`.
pub(super) mod br {
    pub const VLAN_FILTERING: u16 = 7;
    pub const MCAST_ROUTER: u16 = 22;
    pub const MCAST_SNOOPING: u16 = 23;
    pub const MCAST_QUERIER: u16 = 25;
    pub const MCAST_QUERY_RESPONSE_INTVL: u16 = 34;
    pub const MCAST_IGMP_VERSION: u16 = 43;
    pub const MCAST_MLD_VERSION: u16 = 44;
}

/// `IFLA_BRPORT_*`.
pub(super) mod brport {
    pub const MODE: u16 = 4;
    pub const GUARD: u16 = 5;
    pub const LEARNING: u16 = 8;
    pub const UNICAST_FLOOD: u16 = 9;
    pub const PROXYARP: u16 = 10;
    pub const PROXYARP_WIFI: u16 = 12;
    pub const MULTICAST_ROUTER: u16 = 25;
    pub const MCAST_FLOOD: u16 = 27;
    pub const BCAST_FLOOD: u16 = 30;
    pub const NEIGH_SUPPRESS: u16 = 32;
    pub const ISOLATED: u16 = 33;
    /// Since Linux 6.3.
    pub const MCAST_MAX_GROUPS: u16 = 42;
}

/// `IFLA_VXLAN_*`.
pub(super) mod vxlan {
    pub const ID: u16 = 1;
    pub const LOCAL: u16 = 4;
    pub const TTL: u16 = 5;
    pub const LEARNING: u16 = 7;
    pub const PORT: u16 = 15;
    pub const LOCAL6: u16 = 17;
    pub const REMCSUM_TX: u16 = 21;
    pub const REMCSUM_RX: u16 = 22;
    pub const GBP: u16 = 23;
    pub const TTL_INHERIT: u16 = 28;
    /// Since Linux 6.14: a `struct vxlanhdr` with those bits set with which a packet is dropped.
    pub const RESERVED_BITS: u16 = 33;
    /// `VXLAN_GBP_USED_BITS` (include/net/vxlan.h), flags first.
    pub const GBP_BITS: u64 = 0x80ff_ffff << 32;
}

const IFLA_VRF_TABLE: u16 = 1;

/// A network interface, as far as the agent looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: IfName,
    /// None if its hardware address is not an Ethernet one.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Operationally up (IFF_RUNNING).
    pub running: bool,
    /// Device group, a number that whoever runs the host may give to links; 0 if nobody did.
    pub group: u32,
    /// Index of the bridge, VRF or bond that it is in.
    pub master: Option<u32>,
    /// True if its peer (a veth's other end) is in another network namespace.
    pub peer_netns: bool,
    /// `IN6_ADDR_GEN_MODE_*`: 0 EUI-64, 1 none, 2 stable privacy, 3 random. None without IPv6.
    pub addr_gen_mode: Option<u8>,
    pub kind: LinkKind,
    /// Given if it is a port of a bridge.
    pub port: Option<PortSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    Bridge(BridgeData),
    Vxlan(VxlanData),
    Vrf {
        table: u32,
    },
    Veth,
    /// A tap, or a tun: the kernel calls both so.
    Tun,
    Other,
}

impl LinkKind {
    /// Whether it is of a kind that LXD gives to instances' host-side devices.
    pub fn is_soft(&self) -> bool {
        matches!(self, LinkKind::Veth | LinkKind::Tun)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeData {
    pub mcast_snooping: bool,
    pub mcast_querier: bool,
    /// 2 or 3.
    pub mcast_igmp_version: u8,
    /// 1 or 2.
    pub mcast_mld_version: u8,
    /// 0 never, 1 if queries are heard, 2 always (`MDB_RTR_TYPE_*`).
    pub mcast_router: u8,
    /// In clock ticks of 1/100 s, as the kernel gives it.
    pub mcast_query_response_interval: u64,
    pub vlan_filtering: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanData {
    pub vni: u32,
    /// Source address of the tunnel's packets; None if unset.
    pub local: Option<IpAddr>,
    /// UDP destination port.
    pub port: u16,
    pub learning: bool,
    /// Group Based Policy: carries the packet mark.
    pub gbp: bool,
    /// Whether it takes packets that carry a mark for malformed and drops them, which also one with Group Based Policy
    /// does after something of it was changed. None before Linux 6.14, where none does.
    pub drops_marked: Option<bool>,
}

/// What can be set of a bridge port (`IFLA_BRPORT_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSettings {
    pub learning: bool,
    pub unicast_flood: bool,
    pub mcast_flood: bool,
    pub bcast_flood: bool,
    pub proxy_arp: bool,
    pub proxy_arp_wifi: bool,
    /// BPDU guard.
    pub guard: bool,
    /// 0 never, 1 if queries are heard, 2 always, 3 temporarily (`MDB_RTR_TYPE_*`).
    pub mcast_router: u8,
    pub neigh_suppress: bool,
    pub isolated: bool,
    pub hairpin: bool,
    /// Zero is no limit. None if the kernel has no such limit (before 6.3).
    pub mcast_max_groups: Option<u32>,
}

impl Link {
    /// A link that is up, for tests; a veth with its other end in an instance.
    #[cfg(test)]
    pub fn sample(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Link {
        Link {
            index,
            name: name.parse().expect("a name"),
            mac: None,
            mtu: 1450,
            up: true,
            running: true,
            group: 0,
            master,
            addr_gen_mode: None,
            peer_netns: matches!(kind, LinkKind::Veth),
            kind,
            port: None,
        }
    }

    /// Reads an `RTM_NEWLINK`. None if its name is not an [`IfName`] (a stranger's link then). Attributes that
    /// cannot be read cost only themselves: without the link its network or NIC would be taken for gone.
    pub(super) fn parse(message: &Message<'_>) -> Option<Link> {
        if message.kind != RTM_NEWLINK {
            return None;
        }
        let flags = read_u32(message.body, 8)?;
        let mut link = Link {
            index: read_u32(message.body, 4)?,
            name: message
                .attrs(IFINFOMSG)
                .find(IFLA_IFNAME)?
                .text()?
                .parse()
                .ok()?,
            mac: None,
            mtu: 0,
            up: flags & IFF_UP != 0,
            running: flags & IFF_RUNNING != 0,
            group: 0,
            master: None,
            peer_netns: false,
            addr_gen_mode: None,
            kind: LinkKind::Other,
            port: None,
        };
        // ARPHRD_ETHER; a tunnel's "address" may be 6 bytes of something else.
        let ethernet = read_u16(message.body, 2)? == 1;
        for attr in message.attrs(IFINFOMSG) {
            match attr.kind {
                IFLA_ADDRESS if ethernet => link.mac = attr.mac(),
                IFLA_MTU => link.mtu = attr.u32().unwrap_or(0),
                IFLA_MASTER => link.master = attr.u32().filter(|m| *m != 0),
                IFLA_GROUP => link.group = attr.u32().unwrap_or(0),
                IFLA_LINK_NETNSID => link.peer_netns = true,
                IFLA_AF_SPEC => link.addr_gen_mode = addr_gen_mode(&attr),
                IFLA_LINKINFO => (link.kind, link.port) = link_info(&attr),
                _ => {}
            }
        }
        Some(link)
    }
}

fn addr_gen_mode(af_spec: &Attr<'_>) -> Option<u8> {
    let inet6 = af_spec.attrs().find(AF_INET6)?;
    inet6.attrs().find(IFLA_INET6_ADDR_GEN_MODE)?.u8()
}

fn link_info(info: &Attr<'_>) -> (LinkKind, Option<PortSettings>) {
    let text = |kind| info.attrs().find(kind).and_then(|a| a.text());
    let data = |kind| info.attrs().find(kind).map_or(Attrs(&[]), |a| a.attrs());
    let kind = match text(IFLA_INFO_KIND).as_deref() {
        Some("bridge") => LinkKind::Bridge(bridge(data(IFLA_INFO_DATA))),
        Some("vxlan") => LinkKind::Vxlan(vxlan_data(data(IFLA_INFO_DATA))),
        Some("vrf") => {
            let table = data(IFLA_INFO_DATA).find(IFLA_VRF_TABLE);
            // A VRF without a table leads nowhere that we know.
            table
                .and_then(|table| table.u32())
                .map_or(LinkKind::Other, |table| LinkKind::Vrf { table })
        }
        Some("veth") => LinkKind::Veth,
        Some("tun") => LinkKind::Tun,
        _ => LinkKind::Other,
    };
    let port = (text(IFLA_INFO_SLAVE_KIND).as_deref() == Some("bridge"))
        .then(|| port(data(IFLA_INFO_SLAVE_DATA)));
    (kind, port)
}

fn bridge(attrs: Attrs<'_>) -> BridgeData {
    let byte = |kind| attrs.find(kind).and_then(|a| a.u8()).unwrap_or(0);
    BridgeData {
        mcast_snooping: byte(br::MCAST_SNOOPING) != 0,
        mcast_querier: byte(br::MCAST_QUERIER) != 0,
        mcast_igmp_version: byte(br::MCAST_IGMP_VERSION),
        mcast_mld_version: byte(br::MCAST_MLD_VERSION),
        mcast_router: byte(br::MCAST_ROUTER),
        mcast_query_response_interval: attrs
            .find(br::MCAST_QUERY_RESPONSE_INTVL)
            .and_then(|a| a.u64())
            .unwrap_or(0),
        vlan_filtering: byte(br::VLAN_FILTERING) != 0,
    }
}

fn vxlan_data(attrs: Attrs<'_>) -> VxlanData {
    let address = |kind| attrs.find(kind).and_then(|a| a.address());
    VxlanData {
        vni: attrs.find(vxlan::ID).and_then(|a| a.u32()).unwrap_or(0),
        local: address(vxlan::LOCAL)
            .or_else(|| address(vxlan::LOCAL6))
            .filter(|a| !a.is_unspecified()),
        port: attrs.find(vxlan::PORT).and_then(|a| a.be16()).unwrap_or(0),
        learning: attrs.find(vxlan::LEARNING).is_some_and(|a| a.flag()),
        gbp: attrs.find(vxlan::GBP).is_some(),
        drops_marked: attrs
            .find(vxlan::RESERVED_BITS)
            .and_then(|attr| attr.be64())
            .map(|reserved| reserved & vxlan::GBP_BITS != 0),
    }
}

fn port(attrs: Attrs<'_>) -> PortSettings {
    let byte = |kind| attrs.find(kind).and_then(|a| a.u8()).unwrap_or(0);
    let flag = |kind| byte(kind) != 0;
    PortSettings {
        learning: flag(brport::LEARNING),
        unicast_flood: flag(brport::UNICAST_FLOOD),
        mcast_flood: flag(brport::MCAST_FLOOD),
        bcast_flood: flag(brport::BCAST_FLOOD),
        proxy_arp: flag(brport::PROXYARP),
        proxy_arp_wifi: flag(brport::PROXYARP_WIFI),
        guard: flag(brport::GUARD),
        mcast_router: byte(brport::MULTICAST_ROUTER),
        neigh_suppress: flag(brport::NEIGH_SUPPRESS),
        isolated: flag(brport::ISOLATED),
        hairpin: flag(brport::MODE),
        mcast_max_groups: attrs.find(brport::MCAST_MAX_GROUPS).and_then(|a| a.u32()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tlv::{Messages, Writer};
    use super::*;

    fn link(name: &str, info: impl FnOnce(&mut Writer)) -> Option<Link> {
        let mut writer = Writer::default();
        writer.message(RTM_NEWLINK, 0, 0, |m| {
            let mut header = [0u8; IFINFOMSG];
            header[2] = 1;
            header[4] = 7;
            header[8] = 0x41;
            m.raw(&header);
            m.text(IFLA_IFNAME, name);
            m.nest(IFLA_LINKINFO, info);
        });
        Link::parse(&Messages(writer.as_bytes()).next().unwrap())
    }

    #[test]
    fn a_vrf_has_its_table() {
        // In a unit test because not every kernel we build on has VRF.
        let vrf = link("vrf1", |i| {
            i.text(IFLA_INFO_KIND, "vrf");
            i.nest(IFLA_INFO_DATA, |d| d.u32(IFLA_VRF_TABLE, 1010));
        })
        .unwrap();
        assert_eq!(vrf.kind, LinkKind::Vrf { table: 1010 });
        assert_eq!((vrf.index, vrf.up, vrf.running), (7, true, true));
    }

    #[test]
    fn attributes_that_cannot_be_read_do_not_cost_the_link() {
        let odd: [(u16, &[u8]); 3] = [
            (IFLA_MTU, &[1]),
            (IFLA_GROUP, &[]),
            (IFLA_LINKINFO, &[9, 0, 1]),
        ];
        for (kind, payload) in odd {
            let mut writer = Writer::default();
            writer.message(RTM_NEWLINK, 0, 0, |m| {
                m.raw(&[0; IFINFOMSG]);
                m.text(IFLA_IFNAME, "svi-vpc");
                m.attr(kind, payload);
            });
            let link = Link::parse(&Messages(writer.as_bytes()).next().unwrap());
            assert_eq!(
                link.map(|link| link.name.to_string()).as_deref(),
                Some("svi-vpc")
            );
        }
        let vrf = link("vrf1", |i| i.text(IFLA_INFO_KIND, "vrf")).unwrap();
        assert_eq!(vrf.kind, LinkKind::Other);
    }

    #[test]
    fn a_stranger_with_a_name_we_would_not_use_is_left_out() {
        assert!(link("caf\u{e9}", |_| {}).is_none());
        assert!(link("a\"b", |_| {}).is_none());
        assert!(link("ab", |_| {}).is_some());
    }

    #[test]
    fn a_port_of_an_older_kernel_has_no_group_limit() {
        let port = |limit: bool| {
            link("p", |i| {
                i.text(IFLA_INFO_SLAVE_KIND, "bridge");
                i.nest(IFLA_INFO_SLAVE_DATA, |d| {
                    d.u8(brport::MODE, 1);
                    if limit {
                        d.u32(brport::MCAST_MAX_GROUPS, 64);
                    }
                });
            })
            .unwrap()
            .port
            .unwrap()
        };
        assert_eq!(port(false).mcast_max_groups, None);
        assert_eq!(port(true).mcast_max_groups, Some(64));
        assert!(port(true).hairpin && !port(true).learning);
    }
}
