//! The changes that [`super::rtnl::Rtnl::apply`] can make, each as one rtnetlink message.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::link::{
    AF_INET6, IFF_UP, IFLA_AF_SPEC, IFLA_GROUP, IFLA_INET6_ADDR_GEN_MODE, IFLA_INFO_DATA,
    IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND, IFLA_LINKINFO, IFLA_MASTER,
    RTM_DELLINK, RTM_NEWLINK, br, brport, vxlan,
};
use super::mdb_codec::{self, RTM_DELMDB, RTM_NEWMDB};
use super::rtnl::{
    NDA_DST, NDA_LLADDR, NDA_PROTOCOL, NTF_EXT_LEARNED, NTF_MASTER, NUD_NOARP, NUD_PERMANENT,
    NUD_REACHABLE, PROTOCOL, RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_TABLE, RTM_DELNEIGH, RTM_DELROUTE,
    RTM_NEWNEIGH, RTM_NEWROUTE,
};
use super::tlv::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Writer};
use super::tunnel::TunnelCopy;
use crate::addr::{IpNet, Mac};

/// Attributes of a bridge port to set; None leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSet {
    pub learning: Option<bool>,
    pub unicast_flood: Option<bool>,
    pub mcast_flood: Option<bool>,
    pub bcast_flood: Option<bool>,
    pub proxy_arp: Option<bool>,
    pub proxy_arp_wifi: Option<bool>,
    pub guard: Option<bool>,
    pub mcast_router: Option<u8>,
    pub neigh_suppress: Option<bool>,
    pub isolated: Option<bool>,
    pub hairpin: Option<bool>,
    pub mcast_max_groups: Option<u32>,
}

/// Attributes of a bridge to set; None leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeSet {
    pub mcast_snooping: Option<bool>,
    pub mcast_querier: Option<bool>,
    pub mcast_igmp_version: Option<u8>,
    pub mcast_mld_version: Option<u8>,
    pub mcast_router: Option<u8>,
    /// In clock ticks of 1/100 s.
    pub mcast_query_response_interval: Option<u64>,
}

/// One change. Indexes are interface indexes. Doing one twice is harmless, except for `RouteAdd`
/// (EEXIST) and deletes (ENOENT, for a route ESRCH).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    LinkUp {
        index: u32,
    },
    LinkDown {
        index: u32,
    },
    /// Master 0 takes it out of its master.
    LinkMaster {
        index: u32,
        master: u32,
    },
    /// Puts a link into a bridge and sets how it makes itself IPv6 addresses.
    Join {
        index: u32,
        master: u32,
        addr_gen_mode: Option<u8>,
    },
    /// Sets attributes of a bridge port, then (`rtnl_changelink()`, net/core/rtnetlink.c) sets it
    /// up. Each message about a port costs time that grows with the bridge: one, not two.
    PortUp {
        index: u32,
        attrs: PortSet,
    },
    /// `IN6_ADDR_GEN_MODE_*`: 0 EUI-64, 1 none.
    LinkAddrGenMode {
        index: u32,
        mode: u8,
    },
    /// Puts a link into a device group.
    LinkGroup {
        index: u32,
        group: u32,
    },
    Port {
        index: u32,
        attrs: PortSet,
    },
    Bridge {
        index: u32,
        attrs: BridgeSet,
    },
    /// From Linux 6.14 on, a tunnel with Group Based Policy that is changed so drops what carries a mark
    /// ([`super::link::VxlanData::drops_marked`]).
    Vxlan {
        index: u32,
        learning: bool,
    },
    /// ENODEV if there is none.
    LinkDelete {
        index: u32,
    },
    /// EEXIST if there is a link of that name or index, or a tunnel of that VNI.
    TunnelMake {
        tunnel: Box<TunnelCopy>,
        /// With only what it cannot do without.
        least: bool,
    },
    /// An externally learned entry of the bridge that `port` is in. Takes the MAC over from
    /// whatever holds it, a local permanent entry included: look first. The kernel adds an entry
    /// for every VLAN of the port as well (`br_fdb_add()` in net/bridge/br_fdb.c).
    FdbReplace {
        port: u32,
        mac: Mac,
    },
    /// Sets or clears the activity mark (NFEA_ACTIVITY_NOTIFY) of an entry. Each change of it sends
    /// RTM_NEWNEIGH and changes nothing that forwards; writing an unchanged entry sends nothing
    /// (`fdb_add_entry()` in net/bridge/br_fdb.c). ENOENT if the bridge has no such entry, EPERM on a
    /// port that does not forward, such as one without carrier.
    FdbMark {
        port: u32,
        mac: Mac,
        mark: bool,
    },
    /// ENOENT if the MAC is not on this port.
    FdbDelete {
        port: u32,
        mac: Mac,
    },
    /// An entry of the VXLAN device's own table that leads nowhere: to the discard port (RFC 863) of
    /// the loopback address. The bridge does not use it as long as it has the MAC on no port of it.
    /// EEXIST if the device knows the MAC already.
    TunnelFdbAdd {
        tunnel: u32,
        mac: Mac,
    },
    /// Takes away what [`Op::TunnelFdbAdd`] made and nothing else; ENOENT if the device does not know
    /// the MAC at all.
    TunnelFdbDelete {
        tunnel: u32,
        mac: Mac,
    },
    /// A permanent neighbour with our protocol; clears a stranger's extern_learn flag.
    NeighbourReplace {
        device: u32,
        address: IpAddr,
        mac: Mac,
    },
    /// The kernel does not check whose it is: look first that the protocol is ours.
    NeighbourDelete {
        device: u32,
        address: IpAddr,
    },
    /// EEXIST if anybody has a route of this destination, table and priority.
    RouteAdd {
        table: u32,
        destination: IpNet,
        device: u32,
        priority: u32,
    },
    /// Takes over whatever route has this destination, table and priority: look first.
    RouteReplace {
        table: u32,
        destination: IpNet,
        device: u32,
        priority: u32,
    },
    /// Only a route with our protocol through this device; ESRCH if there is none. Priority 0
    /// matches any.
    RouteDelete {
        table: u32,
        destination: IpNet,
        device: u32,
        priority: u32,
    },
    /// Also makes a temporary entry (the port has joined by itself) permanent and ours.
    MdbAdd {
        bridge: u32,
        port: u32,
        group: IpAddr,
        source: Option<IpAddr>,
    },
    /// The kernel does not check whose it is: look first.
    MdbDelete {
        bridge: u32,
        port: u32,
        group: IpAddr,
        source: Option<IpAddr>,
    },
}

const AF_UNSPEC: u8 = libc::AF_UNSPEC as u8;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
// include/uapi/linux/neighbour.h; not in the libc crate.
const NDA_PORT: u16 = 6;
const NDA_FDB_EXT_ATTRS: u16 = 14;
const NFEA_ACTIVITY_NOTIFY: u16 = 1;
const NFEA_DONT_REFRESH: u16 = 2;

const NTF_SELF: u8 = 0x02;
const DISCARD_PORT: u16 = 9;

impl Op {
    /// Writes the message; `extra` are flags to add (an acknowledgement).
    pub(super) fn write(&self, writer: &mut Writer, seq: u32, extra: u16) {
        const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
        let (kind, flags) = match self {
            // With no NLM_F_CREATE, RTM_NEWLINK only changes.
            Op::LinkUp { .. }
            | Op::LinkDown { .. }
            | Op::LinkMaster { .. }
            | Op::LinkAddrGenMode { .. }
            | Op::LinkGroup { .. }
            | Op::Join { .. }
            | Op::PortUp { .. }
            | Op::Port { .. }
            | Op::Bridge { .. }
            | Op::Vxlan { .. } => (RTM_NEWLINK, 0),
            Op::LinkDelete { .. } => (RTM_DELLINK, 0),
            Op::TunnelMake { .. } => (RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL),
            Op::FdbReplace { .. } | Op::NeighbourReplace { .. } => (RTM_NEWNEIGH, REPLACE),
            Op::FdbMark { .. } => (RTM_NEWNEIGH, NLM_F_REPLACE),
            Op::TunnelFdbAdd { .. } => (RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL),
            Op::FdbDelete { .. } | Op::TunnelFdbDelete { .. } | Op::NeighbourDelete { .. } => {
                (RTM_DELNEIGH, 0)
            }
            Op::RouteAdd { .. } => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL),
            Op::RouteReplace { .. } => (RTM_NEWROUTE, REPLACE),
            Op::RouteDelete { .. } => (RTM_DELROUTE, 0),
            Op::MdbAdd { .. } => (RTM_NEWMDB, REPLACE),
            Op::MdbDelete { .. } => (RTM_DELMDB, 0),
        };
        writer.message(kind, NLM_F_REQUEST | extra | flags, seq, |m| {
            self.write_body(m)
        });
    }

    fn write_body(&self, w: &mut Writer) {
        match *self {
            Op::LinkUp { index } => link(w, index, IFF_UP, IFF_UP),
            Op::LinkDown { index } => link(w, index, 0, IFF_UP),
            Op::LinkMaster { index, master } => {
                link(w, index, 0, 0);
                w.u32(IFLA_MASTER, master);
            }
            Op::LinkAddrGenMode { index, mode } => {
                link(w, index, 0, 0);
                addr_gen_mode(w, mode);
            }
            Op::LinkGroup { index, group } => {
                link(w, index, 0, 0);
                w.u32(IFLA_GROUP, group);
            }
            Op::Join {
                index,
                master,
                addr_gen_mode: mode,
            } => {
                link(w, index, 0, 0);
                w.u32(IFLA_MASTER, master);
                if let Some(mode) = mode {
                    addr_gen_mode(w, mode);
                }
            }
            Op::Port { index, attrs } => {
                link(w, index, 0, 0);
                port(w, attrs);
            }
            Op::PortUp { index, attrs } => {
                link(w, index, IFF_UP, IFF_UP);
                port(w, attrs);
            }
            Op::Bridge { index, attrs } => {
                link(w, index, 0, 0);
                w.nest(IFLA_LINKINFO, |info| {
                    info.text(IFLA_INFO_KIND, "bridge");
                    info.nest(IFLA_INFO_DATA, |data| attrs.write(data));
                });
            }
            Op::Vxlan { index, learning } => {
                link(w, index, 0, 0);
                w.nest(IFLA_LINKINFO, |info| {
                    info.text(IFLA_INFO_KIND, "vxlan");
                    info.nest(IFLA_INFO_DATA, |data| {
                        data.u8(vxlan::LEARNING, learning.into());
                    });
                });
            }
            Op::LinkDelete { index } => link(w, index, 0, 0),
            Op::TunnelMake { ref tunnel, least } => tunnel.write(w, least),
            Op::FdbReplace { port, mac } => {
                let flags = NTF_MASTER | NTF_EXT_LEARNED;
                neighbour(w, libc::AF_BRIDGE as u8, port, NUD_NOARP, flags);
                w.attr(NDA_LLADDR, &mac.0);
            }
            Op::FdbMark { port, mac, mark } => {
                neighbour(w, libc::AF_BRIDGE as u8, port, NUD_REACHABLE, NTF_MASTER);
                w.attr(NDA_LLADDR, &mac.0);
                w.nest(NDA_FDB_EXT_ATTRS, |w| {
                    w.u8(NFEA_ACTIVITY_NOTIFY, u8::from(mark));
                    w.attr(NFEA_DONT_REFRESH, &[]);
                });
            }
            Op::FdbDelete { port, mac } => {
                neighbour(w, libc::AF_BRIDGE as u8, port, 0, NTF_MASTER);
                w.attr(NDA_LLADDR, &mac.0);
            }
            Op::TunnelFdbAdd { tunnel, mac } | Op::TunnelFdbDelete { tunnel, mac } => {
                neighbour(w, libc::AF_BRIDGE as u8, tunnel, NUD_REACHABLE, NTF_SELF);
                w.attr(NDA_LLADDR, &mac.0);
                w.address(NDA_DST, Ipv4Addr::LOCALHOST.into());
                w.attr(NDA_PORT, &DISCARD_PORT.to_be_bytes());
            }
            Op::NeighbourReplace {
                device,
                address,
                mac,
            } => {
                neighbour(w, family(address), device, NUD_PERMANENT, 0);
                w.address(NDA_DST, address);
                w.attr(NDA_LLADDR, &mac.0);
                w.u8(NDA_PROTOCOL, PROTOCOL);
            }
            Op::NeighbourDelete { device, address } => {
                neighbour(w, family(address), device, 0, 0);
                w.address(NDA_DST, address);
            }
            Op::RouteAdd {
                table,
                destination,
                device,
                priority,
            }
            | Op::RouteReplace {
                table,
                destination,
                device,
                priority,
            }
            | Op::RouteDelete {
                table,
                destination,
                device,
                priority,
            } => {
                route(w, table, destination, device, priority);
            }
            Op::MdbAdd {
                bridge,
                port,
                group,
                source,
            } => {
                mdb_codec::write_entry(w, bridge, port, group, source, true);
            }
            Op::MdbDelete {
                bridge,
                port,
                group,
                source,
            } => {
                mdb_codec::write_entry(w, bridge, port, group, source, false);
            }
        }
    }
}

/// `struct ifinfomsg`.
pub(super) fn link(w: &mut Writer, index: u32, flags: u32, change: u32) {
    w.raw(&[AF_UNSPEC, 0, 0, 0]);
    w.raw(&index.to_ne_bytes());
    w.raw(&flags.to_ne_bytes());
    w.raw(&change.to_ne_bytes());
}

fn addr_gen_mode(w: &mut Writer, mode: u8) {
    w.nest(IFLA_AF_SPEC, |af| {
        af.nest(AF_INET6, |inet6| inet6.u8(IFLA_INET6_ADDR_GEN_MODE, mode));
    });
}

fn port(w: &mut Writer, attrs: PortSet) {
    w.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_SLAVE_KIND, "bridge");
        info.nest(IFLA_INFO_SLAVE_DATA, |data| attrs.write(data));
    });
}

/// `struct ndmsg`.
pub(super) fn neighbour(w: &mut Writer, family: u8, index: u32, state: u16, flags: u8) {
    let [a, b, c, d] = index.to_ne_bytes();
    let [e, f] = state.to_ne_bytes();
    w.raw(&[family, 0, 0, 0, a, b, c, d, e, f, flags, 0]);
}

fn route(w: &mut Writer, table: u32, destination: IpNet, device: u32, priority: u32) {
    let address = destination.network();
    // The table's byte is for small numbers only; RTA_TABLE counts.
    let table_byte = u8::try_from(table).unwrap_or(0);
    w.raw(&[
        family(address),
        destination.prefix_len(),
        0,
        0,
        table_byte,
        PROTOCOL,
        RT_SCOPE_LINK,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]);
    w.address(RTA_DST, address);
    w.u32(RTA_TABLE, table);
    w.u32(RTA_OIF, device);
    w.u32(RTA_PRIORITY, priority);
}

pub(super) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

impl PortSet {
    fn write(&self, w: &mut Writer) {
        let PortSet {
            learning,
            unicast_flood,
            mcast_flood,
            bcast_flood,
            proxy_arp,
            proxy_arp_wifi,
            guard,
            mcast_router,
            neigh_suppress,
            isolated,
            hairpin,
            mcast_max_groups,
        } = *self;
        for (kind, value) in [
            (brport::LEARNING, learning),
            (brport::UNICAST_FLOOD, unicast_flood),
            (brport::MCAST_FLOOD, mcast_flood),
            (brport::BCAST_FLOOD, bcast_flood),
            (brport::PROXYARP, proxy_arp),
            (brport::PROXYARP_WIFI, proxy_arp_wifi),
            (brport::GUARD, guard),
            (brport::NEIGH_SUPPRESS, neigh_suppress),
            (brport::ISOLATED, isolated),
            (brport::MODE, hairpin),
        ] {
            if let Some(value) = value {
                w.u8(kind, value.into());
            }
        }
        if let Some(value) = mcast_router {
            w.u8(brport::MULTICAST_ROUTER, value);
        }
        if let Some(value) = mcast_max_groups {
            w.u32(brport::MCAST_MAX_GROUPS, value);
        }
    }
}

impl BridgeSet {
    fn write(&self, w: &mut Writer) {
        let BridgeSet {
            mcast_snooping,
            mcast_querier,
            mcast_igmp_version,
            mcast_mld_version,
            mcast_router,
            mcast_query_response_interval,
        } = *self;
        for (kind, value) in [
            (br::MCAST_SNOOPING, mcast_snooping.map(u8::from)),
            (br::MCAST_QUERIER, mcast_querier.map(u8::from)),
            (br::MCAST_IGMP_VERSION, mcast_igmp_version),
            (br::MCAST_MLD_VERSION, mcast_mld_version),
            (br::MCAST_ROUTER, mcast_router),
        ] {
            if let Some(value) = value {
                w.u8(kind, value);
            }
        }
        if let Some(value) = mcast_query_response_interval {
            w.u64(br::MCAST_QUERY_RESPONSE_INTVL, value);
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::LinkUp { index } => write!(f, "setting link {index} up"),
            Op::LinkDown { index } => write!(f, "setting link {index} down"),
            Op::LinkMaster { index, master: 0 } => {
                write!(f, "taking link {index} out of its master")
            }
            Op::LinkMaster { index, master } => write!(f, "putting link {index} into {master}"),
            Op::LinkAddrGenMode { index, mode } => {
                write!(f, "setting link {index} to addrgenmode {mode}")
            }
            Op::Join { index, master, .. } => write!(f, "putting link {index} into {master}"),
            Op::PortUp { index, .. } => write!(f, "setting bridge port {index} up"),
            Op::Port { index, .. } => write!(f, "setting attributes of bridge port {index}"),
            Op::Bridge { index, .. } => write!(f, "setting attributes of bridge {index}"),
            Op::LinkGroup { index, group } => {
                write!(f, "putting link {index} into group {group}")
            }
            Op::Vxlan { index, .. } => write!(f, "setting learning of VXLAN link {index}"),
            Op::LinkDelete { index } => write!(f, "removing link {index}"),
            Op::TunnelMake { tunnel, .. } => write!(f, "making tunnel {}", tunnel.link.name),
            Op::FdbReplace { port, mac } => write!(f, "putting {mac} on bridge port {port}"),
            Op::FdbMark { port, mac, .. } => write!(f, "marking {mac} on bridge port {port}"),
            Op::FdbDelete { port, mac } => write!(f, "removing {mac} from bridge port {port}"),
            Op::TunnelFdbAdd { tunnel, mac } => {
                write!(f, "saying on tunnel {tunnel} that {mac} is not here")
            }
            Op::TunnelFdbDelete { tunnel, mac } => {
                write!(f, "saying no more of {mac} on tunnel {tunnel}")
            }
            Op::NeighbourReplace {
                device,
                address,
                mac,
            } => {
                write!(f, "setting neighbour {address} on link {device} to {mac}")
            }
            Op::NeighbourDelete { device, address } => {
                write!(f, "removing neighbour {address} from link {device}")
            }
            Op::RouteAdd {
                table,
                destination,
                device,
                ..
            } => {
                write!(
                    f,
                    "adding route {destination} via link {device} to table {table}"
                )
            }
            Op::RouteReplace {
                table,
                destination,
                device,
                ..
            } => {
                write!(
                    f,
                    "replacing route {destination} via link {device} in table {table}"
                )
            }
            Op::RouteDelete {
                table,
                destination,
                device,
                ..
            } => {
                write!(
                    f,
                    "removing route {destination} via link {device} from table {table}"
                )
            }
            Op::MdbAdd { port, group, .. } => {
                write!(f, "joining bridge port {port} to group {group}")
            }
            Op::MdbDelete { port, group, .. } => {
                write!(f, "taking bridge port {port} out of group {group}")
            }
        }
    }
}
