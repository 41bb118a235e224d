//! Classic BPF programs that drop events before they are queued, so that another daemon's entries
//! neither wake us nor fill our queue.
//!
//! For a netlink socket the program sees the datagram from `struct nlmsghdr` on
//! (`do_one_broadcast()` → `sk_filter()` in net/netlink/af_netlink.c), one message each. Loads
//! convert from network byte order, netlink is in host order: so constants are byte-swapped.
//! `SKF_AD_NLATTR` looks for an attribute: A is where to begin, X its type
//! (`bpf_skb_get_nlattr()` in net/core/filter.c).

use libc::sock_filter;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

use super::link::{RTM_DELLINK, RTM_NEWLINK};
use super::mdb_codec::{BR_PORT_MSG, MDBA_MDB, RTM_DELMDB, RTM_NEWMDB};
use super::monitor::MonitorFilter;
use super::rtnl::{
    NDA_LLADDR, NDA_PROTOCOL, NDMSG, NTF_EXT_LEARNED, PROTOCOL, RTM_DELNEIGH, RTM_DELROUTE,
    RTM_NEWNEIGH, RTM_NEWROUTE,
};
use super::socket::set_option_raw;
use super::tlv::{ATTR_HEADER, HEADER};

const DROP: u32 = 0;
const KEEP: u32 = u32::MAX;
/// `RTPROT_ZEBRA`.
const ZEBRA: u32 = 11;
/// NUD_INCOMPLETE, DELAY, PROBE, FAILED: on the way to an answer or to none.
const NUD_UNDECIDED: u16 = 0x01 | 0x08 | 0x10 | 0x20;
const NLM_F_REPLACE: u16 = 0x100;
/// `RTPROT_STATIC`; below it are the kernel's and `ip route`'s own.
const RTPROT_STATIC: u32 = 4;
/// BPF_MAXINSNS is 4096; a tunnel takes two and the rest less than 100.
pub(super) const MAX_TUNNELS: usize = 1900;

// Offsets from the beginning of the message.
const TYPE: u32 = 4;
const FLAGS: u32 = 6;
const PID: u32 = 12;
const BODY: u32 = HEADER as u32;

// The instructions used, by their assembler names.
fn ins(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}
fn ldb(offset: u32) -> sock_filter {
    ins(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, offset)
}
fn ldh(offset: u32) -> sock_filter {
    ins(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, offset)
}
fn ldw(offset: u32) -> sock_filter {
    ins(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}
fn ret(verdict: u32) -> sock_filter {
    ins(libc::BPF_RET | libc::BPF_K, 0, 0, verdict)
}
fn ja(skip: usize) -> sock_filter {
    ins(
        libc::BPF_JMP | libc::BPF_JA,
        0,
        0,
        u32::try_from(skip).expect("a program is short"),
    )
}
/// Goes on if A equals `k`, else skips `skip` instructions.
fn unless_eq(k: u32, skip: u8) -> sock_filter {
    ins(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, k)
}
fn if_eq(k: u32, verdict: u32) -> [sock_filter; 2] {
    [unless_eq(k, 1), ret(verdict)]
}
fn if_any(mask: u32, verdict: u32) -> [sock_filter; 2] {
    [
        ins(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, mask),
        ret(verdict),
    ]
}

fn be16(value: u16) -> u32 {
    value.to_be().into()
}

/// Drops what a socket of ours caused; nothing for port 0.
fn not_from(port: u32) -> Vec<sock_filter> {
    match port {
        0 => Vec::new(),
        _ => [vec![ldw(PID)], if_eq(port.to_be(), DROP).into()].concat(),
    }
}

/// For the rtnetlink event socket. `own` is the port of our request socket, or 0.
///
/// - AF_BRIDGE neighbours on tunnels: dropped (zebra's, as many as the fabric has), but for the
///   zero MAC if floods are to be told of.
/// - IPv4 and IPv6 neighbours: kept with our protocol; dropped with zebra's, with NTF_EXT_LEARNED,
///   or between asking and knowing.
/// - Routes: kept with our protocol, or if an operator's has *replaced* one (which may have been
///   ours: the kernel sends no RTM_DELROUTE for it); dropped otherwise.
/// - Multicast groups that a port joins and leaves by itself: dropped.
/// - Neighbours and routes that `own` has caused: dropped. All else is kept.
pub(super) fn rtnetlink(filter: &MonitorFilter, own: u32) -> Vec<sock_filter> {
    let bridge = bridge_neighbour(filter);
    let mut neighbour = vec![
        ldb(BODY),
        ins(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            0,
            libc::AF_BRIDGE as u32,
        ),
        ja(bridge.len()),
    ];
    neighbour.extend(bridge);
    neighbour.extend(ip_neighbour(own));
    let route = route(own);
    let group = group();

    // Sections follow the dispatcher in this order.
    let sections = [
        (vec![RTM_NEWNEIGH, RTM_DELNEIGH], neighbour),
        (vec![RTM_NEWROUTE, RTM_DELROUTE], route),
        (vec![RTM_NEWMDB, RTM_DELMDB], group),
        (vec![RTM_NEWLINK, RTM_DELLINK], vec![ret(KEEP)]),
    ];
    let kinds: usize = sections.iter().map(|(kinds, _)| kinds.len()).sum();
    let mut start = 1 + 2 * kinds + 1;
    let mut program = vec![ldh(TYPE)];
    for (kinds, section) in &sections {
        for kind in kinds {
            program.push(unless_eq(be16(*kind), 1));
            program.push(ja(start - program.len() - 1));
        }
        start += section.len();
    }
    program.push(ret(KEEP));
    program.extend(sections.into_iter().flat_map(|(_, section)| section));
    program
}

fn bridge_neighbour(filter: &MonitorFilter) -> Vec<sock_filter> {
    let MonitorFilter { tunnels, floods } = filter;
    let mut section = Vec::new();
    if *floods {
        let mac = ATTR_HEADER as u32;
        section.extend(find_attribute(NDA_LLADDR));
        section.extend([
            // 0 is "not found". The six instructions skipped look at what was found.
            ins(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 6, 0, 0),
            ins(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
            ins(libc::BPF_LD | libc::BPF_W | libc::BPF_IND, 0, 0, mac),
            unless_eq(0, 3),
            ins(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, mac + 4),
            unless_eq(0, 1),
            ret(KEEP),
        ]);
    }
    section.push(ldw(BODY + 4));
    for tunnel in tunnels.iter().take(MAX_TUNNELS) {
        section.extend(if_eq(tunnel.to_be(), DROP));
    }
    section.push(ret(KEEP));
    section
}

/// Loads the place of a neighbour message's attribute, or 0.
fn find_attribute(kind: u16) -> [sock_filter; 3] {
    [
        ins(libc::BPF_LD | libc::BPF_IMM, 0, 0, BODY + NDMSG as u32),
        ins(libc::BPF_LDX | libc::BPF_IMM, 0, 0, kind.into()),
        ldw((libc::SKF_AD_OFF + libc::SKF_AD_NLATTR) as u32),
    ]
}

fn ip_neighbour(own: u32) -> Vec<sock_filter> {
    let mut section = not_from(own);
    section.extend(find_attribute(NDA_PROTOCOL));
    section.extend([
        // 0 is "not found". The six instructions skipped look at what was found.
        ins(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 6, 0, 0),
        ins(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
        ins(
            libc::BPF_LD | libc::BPF_B | libc::BPF_IND,
            0,
            0,
            ATTR_HEADER as u32,
        ),
    ]);
    section.extend(if_eq(PROTOCOL.into(), KEEP));
    section.extend(if_eq(ZEBRA, DROP));
    section.push(ldb(BODY + 10));
    section.extend(if_any(NTF_EXT_LEARNED.into(), DROP));
    section.push(ldh(BODY + 8));
    section.extend(if_any(be16(NUD_UNDECIDED), DROP));
    section.push(ret(KEEP));
    section
}

fn route(own: u32) -> Vec<sock_filter> {
    let mut section = not_from(own);
    section.push(ldb(BODY + 5));
    section.extend(if_eq(PROTOCOL.into(), KEEP));
    section.extend([
        ins(
            libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K,
            0,
            1,
            RTPROT_STATIC,
        ),
        ret(DROP),
        ldh(FLAGS),
    ]);
    section.extend(if_any(be16(NLM_F_REPLACE), KEEP));
    section.push(ret(DROP));
    section
}

/// A group's state is in the first entry: the headers of MDBA_MDB, MDBA_MDB_ENTRY and
/// MDBA_MDB_ENTRY_INFO, then `struct br_mdb_entry`. An event has one entry.
fn group() -> Vec<sock_filter> {
    let attrs = BODY + BR_PORT_MSG as u32;
    let state = attrs + 3 * ATTR_HEADER as u32 + 4;
    let mut section = vec![ldh(attrs + 2), unless_eq(be16(MDBA_MDB), 3), ldb(state)];
    section.extend(if_eq(0, DROP));
    section.push(ret(KEEP));
    section
}

/// For the nfnetlink event socket: one NEWGEN per transaction, except `own`'s.
pub(super) fn nfnetlink(own: u32) -> Vec<sock_filter> {
    let mut program = vec![ldh(TYPE), unless_eq(be16(NFT_NEWGEN), 1), ja(1), ret(DROP)];
    program.extend(not_from(own));
    program.push(ret(KEEP));
    program
}

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
pub(super) const NFT_NEWGEN: u16 = 0x0a0f;

/// Attaches a program, in place of the one before. No event passes unfiltered between the two.
pub(super) fn attach(fd: BorrowedFd<'_>, program: &[sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        // The kernel copies the instructions and never writes to them.
        filter: program.as_ptr().cast_mut(),
    };
    set_option_raw(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}
