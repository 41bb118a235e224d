//! Links, FDB entries, neighbours, routes and multicast groups: reading them with filtered dumps
//! and single requests, and changing them in batches. What to change is decided elsewhere; the
//! messages of the changes are in `op.rs`.
//!
//! All calls block, for as long as the kernel works on them (it answers inside the system call).
//! Strict checking is on, so that a filter that the kernel does not know is an error and not a
//! dump of everything.

use std::net::IpAddr;

use super::KernelError;
use super::link::{IFINFOMSG, IFLA_EXT_MASK, IFLA_IFNAME, Link, LinkKind, RTM_GETLINK};
use super::mdb_codec::{self, BR_PORT_MSG, RTM_GETMDB, RTM_NEWMDB};
use super::op;
use super::socket::Socket;
use super::tlv::{Ack, Message, Messages, NLM_F_ACK, NLMSG_ERROR, Writer, read_u16, read_u32};
use super::tunnel::TunnelCopy;
use crate::addr::{IfName, IpNet, Mac};

pub use super::op::{BridgeSet, Op, PortSet};

/// What we put into the protocol field (`rtm_protocol`, `NDA_PROTOCOL`, `MDBE_ATTR_RTPROT`) of all
/// that is ours. The FDB has no such field: it discards one silently.
pub const PROTOCOL: u8 = 242;

pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFADDRMSG: usize = 8;
const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

/// Size of `struct ndmsg`.
pub(super) const NDMSG: usize = 12;
pub(super) const NDA_DST: u16 = 1;
pub(super) const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_IFINDEX: u16 = 8;
const NDA_MASTER: u16 = 9;
pub(super) const NDA_PROTOCOL: u16 = 12;
pub(super) const NTF_MASTER: u8 = 0x04;
pub(super) const NTF_EXT_LEARNED: u8 = 0x10;
pub(super) const NUD_NOARP: u16 = 0x40;
pub(super) const NUD_REACHABLE: u16 = 0x02;
pub(super) const NUD_PERMANENT: u16 = 0x80;

/// Size of `struct rtmsg`.
pub(super) const RTMSG: usize = 12;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_TABLE: u16 = 15;
const RTN_UNICAST: u8 = 1;
const RTPROT_KERNEL: u8 = 2;

const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;

/// Messages per system call in [`Rtnl::apply`]: more gains nothing (measured), and their errors
/// must fit the receive queue.
const BATCH: usize = 256;

/// A forwarding entry of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    pub mac: Mac,
    /// The bridge port, or the bridge itself for its own addresses.
    pub port: u32,
    /// 0 without VLAN. A port with VLANs has its MACs once per VLAN also when filtering is off.
    pub vlan: u16,
    /// `NUD_*`; of an externally learned entry always REACHABLE, whatever was written.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
    pub ext_learned: bool,
    /// NUD_PERMANENT: the address of the port or the bridge itself, terminated locally.
    pub permanent: bool,
}

/// An entry of the ARP or ND table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub address: IpAddr,
    pub mac: Option<Mac>,
    /// `NUD_*`.
    pub state: u16,
    /// `NTF_*`.
    pub flags: u8,
    /// 0 if its maker gave none.
    pub protocol: u8,
    pub permanent: bool,
    pub ext_learned: bool,
}

/// A unicast route through one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub table: u32,
    pub destination: IpNet,
    pub device: u32,
    pub protocol: u8,
    /// The metric. An IPv6 route written with 0 gets, and reads, 1024.
    pub priority: u32,
    /// `RT_SCOPE_*`. An IPv6 route always reads 0.
    pub scope: u8,
    /// `RTN_*`.
    pub kind: u8,
}

/// A multicast group that a bridge port is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MdbEntry {
    pub bridge: u32,
    pub port: u32,
    pub group: IpAddr,
    pub source: Option<IpAddr>,
    pub vlan: u16,
    /// False for what the port has joined by itself.
    pub permanent: bool,
    /// 2 (RTPROT_KERNEL) for what the port has joined by itself.
    pub protocol: u8,
}

/// A request socket in one network namespace.
pub struct Rtnl {
    socket: Socket,
    out: Writer,
}

impl Rtnl {
    /// Opens it in the current thread's network namespace, where it stays.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Rtnl {
            socket: Socket::open(None, "rtnetlink")?,
            out: Writer::with_capacity(32 * 1024),
        })
    }

    /// The port id that events caused by this socket carry (see `monitor::Monitor::ignore`).
    pub fn portid(&self) -> u32 {
        self.socket.port()
    }

    /// All links. Leaves out strangers whose name is not an [`IfName`].
    pub fn links(&mut self) -> Result<Vec<Link>, KernelError> {
        self.socket.dump_of(
            format_args!("reading the links"),
            RTM_GETLINK,
            IFINFOMSG,
            |m| link_request(m, 0),
            Link::parse,
        )
    }

    /// The link of this name; None if there is none (an alternative name does not count).
    pub fn link(&mut self, name: &IfName) -> Result<Option<Link>, KernelError> {
        let link = self.socket.ask(
            format_args!("reading link {name}"),
            RTM_GETLINK,
            |m| {
                link_request(m, 0);
                m.text(IFLA_IFNAME, name.as_str());
            },
            Link::parse,
        );
        Ok(absent(link, libc::ENODEV)?.filter(|link| link.name == *name))
    }

    /// The link of this index; None if there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, KernelError> {
        let attempt = format_args!("reading link {index}");
        let link = self.socket.ask(
            attempt,
            RTM_GETLINK,
            |m| link_request(m, index),
            Link::parse,
        );
        absent(link, libc::ENODEV)
    }

    /// What the VXLAN device of this index is made of; None if there is none.
    pub fn tunnel(&mut self, index: u32) -> Result<Option<TunnelCopy>, KernelError> {
        let attempt = format_args!("reading tunnel {index}");
        let tunnel = self.socket.ask(
            attempt,
            RTM_GETLINK,
            |m| link_request(m, index),
            TunnelCopy::parse,
        );
        absent(tunnel, libc::ENODEV)
    }

    /// The entries of a bridge and its ports: not the ones that devices keep for themselves
    /// (NTF_SELF, such as a VXLAN device's remotes).
    ///
    /// ENODEV if there is no such link, EOPNOTSUPP if it is not a bridge: `rtnl_fdb_dump()` in
    /// net/core/rtnetlink.c gives an empty list for that.
    pub fn fdb(&mut self, bridge: u32) -> Result<Vec<FdbEntry>, KernelError> {
        let attempt = format_args!("reading the FDB of bridge {bridge}");
        let entries = self.socket.dump_of(
            attempt,
            RTM_GETNEIGH,
            NDMSG,
            |m| {
                op::neighbour(m, AF_BRIDGE, 0, 0, 0);
                m.u32(NDA_MASTER, bridge);
            },
            |m| parse_fdb(m, bridge),
        )?;
        if entries.is_empty() {
            match self.link_by_index(bridge)?.map(|l| l.kind) {
                Some(LinkKind::Bridge(_)) => {}
                Some(_) => {
                    return Err(KernelError::ours(
                        attempt,
                        libc::EOPNOTSUPP,
                        "it is not a bridge",
                    ));
                }
                None => return Err(KernelError::ours(attempt, libc::ENODEV, "no such link")),
            }
        }
        Ok(entries)
    }

    /// The bridge's entry of this MAC in VLAN 0; None if it has none.
    pub fn fdb_entry(&mut self, bridge: u32, mac: Mac) -> Result<Option<FdbEntry>, KernelError> {
        let entry = self.socket.ask_known(
            format_args!("reading {mac} in the FDB of bridge {bridge}"),
            RTM_GETNEIGH,
            |m| {
                op::neighbour(m, AF_BRIDGE, 0, 0, NTF_MASTER);
                m.attr(NDA_LLADDR, &mac.0);
                m.u32(NDA_MASTER, bridge);
            },
            |m| parse_fdb(m, bridge),
        );
        absent(entry, libc::ENOENT)
    }

    /// The VTEP behind which a VXLAN device has this MAC; None if it does not have it.
    pub fn vtep_of(&mut self, tunnel: u32, mac: Mac) -> Result<Option<IpAddr>, KernelError> {
        let vtep = self.socket.ask(
            format_args!("reading {mac} in the FDB of tunnel {tunnel}"),
            RTM_GETNEIGH,
            |m| {
                op::neighbour(m, AF_BRIDGE, tunnel, 0, libc::NTF_SELF);
                m.attr(NDA_LLADDR, &mac.0);
            },
            neighbour_address,
        );
        absent(vtep, libc::ENOENT)
    }

    /// The VTEPs that a VXLAN device replicates to: destinations of its entries for the zero MAC,
    /// one per other host that has the VNI (zebra installs them from EVPN type-3 routes). Sorted.
    pub fn vteps(&mut self, tunnel: u32) -> Result<Vec<IpAddr>, KernelError> {
        let mut vteps = self.socket.dump_of(
            format_args!("reading the VTEPs of tunnel {tunnel}"),
            RTM_GETNEIGH,
            NDMSG,
            |m| op::neighbour(m, AF_BRIDGE, tunnel, 0, 0),
            |m| parse_vtep(m, tunnel),
        )?;
        vteps.sort();
        vteps.dedup();
        Ok(vteps)
    }

    /// Addresses of this host, with the index of their link; those of point-to-point links, too.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, KernelError> {
        self.socket.dump_of(
            format_args!("reading addresses"),
            RTM_GETADDR,
            IFADDRMSG,
            |m| m.raw(&[0; IFADDRMSG]),
            parse_address,
        )
    }

    /// The addresses of one link. Empty if there is no such link.
    pub fn addresses_of(&mut self, device: u32) -> Result<Vec<IpAddr>, KernelError> {
        let found = self.socket.dump_of(
            format_args!("reading the addresses of link {device}"),
            RTM_GETADDR,
            IFADDRMSG,
            |m| {
                let mut header = [0; IFADDRMSG];
                header[4..].copy_from_slice(&device.to_ne_bytes());
                m.raw(&header);
            },
            parse_address,
        );
        // A link that is not there is an error here, unlike in most dumps (inet_valid_dump_ifaddr_req()).
        let found = absent(found.map(Some), libc::ENODEV)?.unwrap_or_default();
        Ok(found
            .into_iter()
            .filter(|(index, _)| *index == device)
            .map(|(_, address)| address)
            .collect())
    }

    /// Destinations of the unicast routes by way of one link, in all tables, multipath routes and those through nexthop
    /// objects included, but for those that the kernel makes for the link's addresses. Empty if there is no such
    /// link.
    pub fn routes_by(&mut self, device: u32) -> Result<Vec<IpNet>, KernelError> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let routes = self.socket.dump_of(
                format_args!("reading the routes by link {device}"),
                RTM_GETROUTE,
                RTMSG,
                |m| {
                    m.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                    m.u32(RTA_OIF, device);
                },
                parse_way,
            );
            found.extend(absent(routes.map(Some), libc::ENODEV)?.unwrap_or_default());
        }
        Ok(found)
    }

    /// The ARP and ND entries of a link, in every state. ENODEV if there is no such link.
    pub fn neighbours(&mut self, device: u32) -> Result<Vec<Neighbour>, KernelError> {
        let attempt = format_args!("reading the neighbours of link {device}");
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            found.extend(self.socket.dump_of(
                attempt,
                RTM_GETNEIGH,
                NDMSG,
                |m| {
                    op::neighbour(m, family, 0, 0, 0);
                    m.u32(NDA_IFINDEX, device);
                },
                |m| parse_neighbour(m, device),
            )?);
        }
        // A dump of a link that is not there is empty, not an error (neigh_dump_filtered()).
        if found.is_empty() && self.link_by_index(device)?.is_none() {
            return Err(KernelError::ours(attempt, libc::ENODEV, "no such link"));
        }
        Ok(found)
    }

    /// One neighbour; None if there is none. ENODEV if there is no such link.
    pub fn neighbour(
        &mut self,
        device: u32,
        address: IpAddr,
    ) -> Result<Option<Neighbour>, KernelError> {
        let neighbour = self.socket.ask_known(
            format_args!("reading neighbour {address} of link {device}"),
            RTM_GETNEIGH,
            |m| {
                op::neighbour(m, op::family(address), device, 0, 0);
                m.address(NDA_DST, address);
            },
            |m| parse_neighbour(m, device),
        );
        absent(neighbour, libc::ENOENT)
    }

    /// The unicast routes of a protocol through one device, in all tables. Leaves out multipath
    /// routes and routes through nexthop objects, which cannot be ours.
    pub fn routes(&mut self, protocol: u8) -> Result<Vec<Route>, KernelError> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            found.extend(self.socket.dump_of(
                format_args!("reading the routes of protocol {protocol}"),
                RTM_GETROUTE,
                RTMSG,
                |m| m.raw(&[family, 0, 0, 0, 0, protocol, 0, 0, 0, 0, 0, 0]),
                |m| parse_route(m).filter(|r| r.protocol == protocol && r.kind == RTN_UNICAST),
            )?);
        }
        Ok(found)
    }

    /// The port groups of all bridges: the kernel cannot filter them by bridge.
    pub fn mdb(&mut self) -> Result<Vec<MdbEntry>, KernelError> {
        let messages = self.socket.dump_of(
            format_args!("reading the multicast groups"),
            RTM_GETMDB,
            BR_PORT_MSG,
            |m| mdb_codec::write_header(m, 0),
            // The messages of the dump say GETMDB, not NEWMDB (br_mdb_dump() in net/bridge/br_mdb.c).
            |m| matches!(m.kind, RTM_GETMDB | RTM_NEWMDB).then(|| mdb_codec::entries(m)),
        )?;
        Ok(messages.into_iter().flatten().collect())
    }

    /// Makes the changes in order; one failure does not stop the others. Result *i* is that of
    /// `ops[i]`.
    ///
    /// Sends 256 at a time with an acknowledgement asked for the last one only: the kernel works
    /// through them in order and sends errors unasked. If the transport fails, everything not yet
    /// known to have failed counts as failed, though it may have been done: look again.
    pub fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        let mut results = vec![Ok(()); ops.len()];
        for (ops, results) in ops.chunks(BATCH).zip(results.chunks_mut(BATCH)) {
            if let Err(errno) = self.apply_batch(ops, results) {
                for (op, result) in ops.iter().zip(results).filter(|(_, r)| r.is_ok()) {
                    *result = Err(KernelError::from_errno(op, errno));
                }
            }
        }
        results
    }

    fn apply_batch(
        &mut self,
        ops: &[Op],
        results: &mut [Result<(), KernelError>],
    ) -> rustix::io::Result<()> {
        let first = self.socket.reserve(ops.len());
        let last = ops.len() - 1;
        self.out.clear();
        for (seq, (i, op)) in (first..).zip(ops.iter().enumerate()) {
            op.write(&mut self.out, seq, if i == last { NLM_F_ACK } else { 0 });
        }
        self.socket.send(self.out.as_bytes())?;
        loop {
            for message in Messages(self.socket.receive()?) {
                let i = message.seq.wrapping_sub(first) as usize;
                if message.kind != NLMSG_ERROR || i > last {
                    // A reply to something that was given up.
                    continue;
                }
                let ack = message.ack();
                if ack.errno != 0 {
                    results[i] = Err(failure(&ops[i], ack));
                }
                if i == last {
                    return Ok(());
                }
            }
        }
    }
}

/// Deleting a group that is not there is EINVAL without a word (`__br_mdb_del()` in
/// net/bridge/br_mdb.c), where all other EINVALs are explained: so that callers need not know, it
/// becomes the ENOENT that it is everywhere else.
fn failure(op: &Op, ack: Ack) -> KernelError {
    let absent = ack.errno == libc::EINVAL && ack.text.is_none();
    match op {
        Op::MdbDelete { .. } if absent => KernelError::ours(op, libc::ENOENT, "no such group"),
        _ => KernelError::new(op, Some(ack.errno), ack.text),
    }
}

/// `struct ifinfomsg` and the wish not to hear the statistics.
fn link_request(m: &mut Writer, index: u32) {
    m.raw(&[0; 4]);
    m.raw(&index.to_ne_bytes());
    m.raw(&[0; 8]);
    m.u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
}

/// Takes one errno for "there is none".
fn absent<T>(found: Result<Option<T>, KernelError>, errno: i32) -> Result<Option<T>, KernelError> {
    match found {
        Err(error) if error.errno() == Some(errno) => Ok(None),
        other => other,
    }
}

/// `struct ndmsg` in numbers.
pub(super) struct NeighbourHeader {
    pub family: u8,
    pub index: u32,
    pub state: u16,
    pub flags: u8,
}

pub(super) fn neighbour_header(message: &Message<'_>) -> Option<NeighbourHeader> {
    Some(NeighbourHeader {
        family: *message.body.first()?,
        index: read_u32(message.body, 4)?,
        state: read_u16(message.body, 8)?,
        flags: *message.body.get(10)?,
    })
}

/// The MAC, and the master if given, of an AF_BRIDGE neighbour message.
pub(super) fn fdb_key(message: &Message<'_>) -> Option<(Mac, Option<u32>)> {
    let attrs = message.attrs(NDMSG);
    let master = attrs.find(NDA_MASTER).and_then(|a| a.u32());
    Some((attrs.find(NDA_LLADDR)?.mac()?, master))
}

fn parse_fdb(message: &Message<'_>, bridge: u32) -> Option<FdbEntry> {
    if message.kind != RTM_NEWNEIGH {
        return None;
    }
    let header = neighbour_header(message)?;
    let (mac, master) = fdb_key(message)?;
    let vlan = message.attrs(NDMSG).find(NDA_VLAN).and_then(|a| a.u16());
    // Devices' own tables come with the bridge's; they have no master attribute.
    (header.family == AF_BRIDGE && master == Some(bridge)).then_some(FdbEntry {
        mac,
        port: header.index,
        vlan: vlan.unwrap_or(0),
        state: header.state,
        flags: header.flags,
        ext_learned: header.flags & NTF_EXT_LEARNED != 0,
        permanent: header.state & NUD_PERMANENT != 0,
    })
}

fn parse_vtep(message: &Message<'_>, tunnel: u32) -> Option<IpAddr> {
    let header = neighbour_header(message)?;
    let (mac, _) = fdb_key(message)?;
    (header.index == tunnel && header.flags & libc::NTF_SELF != 0 && mac == Mac::default())
        .then(|| neighbour_address(message))
        .flatten()
}

pub(super) fn neighbour_address(message: &Message<'_>) -> Option<IpAddr> {
    message.attrs(NDMSG).find(NDA_DST)?.address()
}

/// `struct ifaddrmsg` ends with the link's index. IFA_ADDRESS is the other end's on point-to-point links,
/// where IFA_LOCAL is ours.
fn parse_address(message: &Message<'_>) -> Option<(u32, IpAddr)> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    if message.kind != RTM_NEWADDR {
        return None;
    }
    let index = u32::from_ne_bytes(message.body.get(4..8)?.try_into().ok()?);
    let attrs = message.attrs(IFADDRMSG);
    let own = attrs.find(IFA_LOCAL).or_else(|| attrs.find(IFA_ADDRESS))?;
    Some((index, own.address()?))
}

fn parse_neighbour(message: &Message<'_>, device: u32) -> Option<Neighbour> {
    if message.kind != RTM_NEWNEIGH {
        return None;
    }
    let header = neighbour_header(message)?;
    let attrs = message.attrs(NDMSG);
    (header.index == device).then_some(Neighbour {
        address: neighbour_address(message)?,
        mac: attrs.find(NDA_LLADDR).and_then(|a| a.mac()),
        state: header.state,
        flags: header.flags,
        protocol: attrs.find(NDA_PROTOCOL).and_then(|a| a.u8()).unwrap_or(0),
        permanent: header.state & NUD_PERMANENT != 0,
        ext_learned: header.flags & NTF_EXT_LEARNED != 0,
    })
}

/// Where a unicast route leads that is not the kernel's own.
fn parse_way(message: &Message<'_>) -> Option<IpNet> {
    let header = message.body.get(..RTMSG)?;
    (message.kind == RTM_NEWROUTE && header[7] == RTN_UNICAST && header[5] != RTPROT_KERNEL)
        .then(|| destination(message))
        .flatten()
}

/// The default route has no destination attribute.
fn destination(message: &Message<'_>) -> Option<IpNet> {
    let header = message.body.get(..RTMSG)?;
    let unspecified = if i32::from(header[0]) == libc::AF_INET {
        IpAddr::from([0u8; 4])
    } else {
        IpAddr::from([0u8; 16])
    };
    let attrs = message.attrs(RTMSG);
    let address = attrs
        .find(RTA_DST)
        .map_or(Some(unspecified), |a| a.address())?;
    IpNet::new(address, header[1]).ok()
}

/// Reads a route through one device; None for any other.
pub(super) fn parse_route(message: &Message<'_>) -> Option<Route> {
    if message.kind != RTM_NEWROUTE && message.kind != RTM_DELROUTE {
        return None;
    }
    let attrs = message.attrs(RTMSG);
    let number = |kind| attrs.find(kind).and_then(|a| a.u32());
    let header = message.body.get(..RTMSG)?;
    Some(Route {
        table: number(RTA_TABLE).unwrap_or(u32::from(header[4])),
        destination: destination(message)?,
        device: number(RTA_OIF)?,
        protocol: header[5],
        priority: number(RTA_PRIORITY).unwrap_or(0),
        scope: header[6],
        kind: header[7],
    })
}
