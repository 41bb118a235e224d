//! Multicast database entries on the wire: `struct br_port_msg` and `struct br_mdb_entry` of
//! include/uapi/linux/if_bridge.h, which the netlink crates do not have.
//!
//! `RTPROT` on an entry needs Linux 6.2 (net/bridge/br_mdb.c, `br_mdbe_attrs_pol`).

use std::net::IpAddr;

use super::rtnl::{MdbEntry, PROTOCOL};
use super::tlv::{Attr, Attrs, Message, Writer, read_u16, read_u32};

pub(super) const RTM_NEWMDB: u16 = 84;
pub(super) const RTM_DELMDB: u16 = 85;
pub(super) const RTM_GETMDB: u16 = 86;
/// Size of `struct br_port_msg`.
pub(super) const BR_PORT_MSG: usize = 8;
const BR_MDB_ENTRY: usize = 28;
pub(super) const MDBA_MDB: u16 = 1;
const MDBA_MDB_ENTRY: u16 = 1;
const MDBA_MDB_ENTRY_INFO: u16 = 1;
const MDBA_MDB_EATTR_SOURCE: u16 = 4;
const MDBA_MDB_EATTR_RTPROT: u16 = 5;
const MDBA_SET_ENTRY: u16 = 1;
const MDBA_SET_ENTRY_ATTRS: u16 = 2;
const MDBE_ATTR_SOURCE: u16 = 1;
const MDBE_ATTR_RTPROT: u16 = 4;
const MDB_PERMANENT: u8 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// The body of a dump request or, with a bridge, the header of any other request.
pub(super) fn write_header(writer: &mut Writer, bridge: u32) {
    let [a, b, c, d] = bridge.to_ne_bytes();
    writer.raw(&[libc::AF_BRIDGE as u8, 0, 0, 0, a, b, c, d]);
}

/// The body of a request about one permanent port group in VLAN 0. `ours` adds our protocol (a
/// request to delete may not carry it).
pub(super) fn write_entry(
    writer: &mut Writer,
    bridge: u32,
    port: u32,
    group: IpAddr,
    source: Option<IpAddr>,
    ours: bool,
) {
    write_header(writer, bridge);
    let mut entry = [0u8; BR_MDB_ENTRY];
    entry[..4].copy_from_slice(&port.to_ne_bytes());
    entry[4] = MDB_PERMANENT;
    let protocol = match group {
        IpAddr::V4(a) => {
            entry[8..12].copy_from_slice(&a.octets());
            ETH_P_IP
        }
        IpAddr::V6(a) => {
            entry[8..24].copy_from_slice(&a.octets());
            ETH_P_IPV6
        }
    };
    entry[24..26].copy_from_slice(&protocol.to_be_bytes());
    writer.attr(MDBA_SET_ENTRY, &entry);
    if source.is_some() || ours {
        writer.nest(MDBA_SET_ENTRY_ATTRS, |n| {
            if let Some(source) = source {
                n.address(MDBE_ATTR_SOURCE, source);
            }
            if ours {
                n.u8(MDBE_ATTR_RTPROT, PROTOCOL);
            }
        });
    }
}

/// The port groups in one message of a dump or event. Leaves out groups that the bridge itself (or
/// a VXLAN device's own table, since 6.3) has joined, and layer 2 groups.
pub(super) fn entries(message: &Message<'_>) -> Vec<MdbEntry> {
    let Some(bridge) = read_u32(message.body, 4) else {
        return Vec::new();
    };
    message
        .attrs(BR_PORT_MSG)
        .filter(|a| a.kind == MDBA_MDB)
        .flat_map(|mdb| mdb.attrs())
        .filter(|a| a.kind == MDBA_MDB_ENTRY)
        .flat_map(|entry| entry.attrs())
        .filter(|a| a.kind == MDBA_MDB_ENTRY_INFO)
        .filter_map(|info| entry(bridge, &info))
        .filter(|entry| entry.port != bridge)
        .collect()
}

fn entry(bridge: u32, info: &Attr<'_>) -> Option<MdbEntry> {
    let fixed = info.payload.get(..BR_MDB_ENTRY)?;
    let group = match u16::from_be(read_u16(fixed, 24)?) {
        ETH_P_IP => IpAddr::from(<[u8; 4]>::try_from(&fixed[8..12]).ok()?),
        ETH_P_IPV6 => IpAddr::from(<[u8; 16]>::try_from(&fixed[8..24]).ok()?),
        _ => return None,
    };
    let attrs = Attrs(&info.payload[BR_MDB_ENTRY..]);
    Some(MdbEntry {
        bridge,
        port: read_u32(fixed, 0)?,
        group,
        source: attrs.find(MDBA_MDB_EATTR_SOURCE).and_then(|a| a.address()),
        vlan: read_u16(fixed, 6)?,
        permanent: fixed[4] == MDB_PERMANENT,
        protocol: attrs
            .find(MDBA_MDB_EATTR_RTPROT)
            .and_then(|a| a.u8())
            .unwrap_or(0),
    })
}
