//! Connection tracking over raw nfnetlink: entries are read, and deleted one by one. See
//! include/uapi/linux/netfilter/nfnetlink_conntrack.h and net/netfilter/nf_conntrack_netlink.c.

use std::net::IpAddr;

use rustix::net::netlink;

use super::KernelError;
use super::socket::Socket;
use super::tlv::{Attrs, Message, Messages, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, Writer};

const SUBSYS: u16 = 1 << 8;
const NEW: u16 = SUBSYS;
const GET: u16 = SUBSYS | 1;
const DELETE: u16 = SUBSYS | 2;
/// Size of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_SRC: [u16; 2] = [1, 3];
const CTA_IP_DST: [u16; 2] = [2, 4];
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP: [u16; 2] = [5, 6];
const CTA_PROTO_ICMPV6: [u16; 2] = [8, 9];
/// include/uapi/linux/netfilter/nf_conntrack_common.h.
const IPS_SRC_NAT: u32 = 1 << 4;
const IPS_DST_NAT: u32 = 1 << 5;
/// Deletions per system call.
const BATCH: usize = 256;

/// One entry, as far as we look at it, in the direction of its first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of its first direction; it may be in no zone (0) by its answers.
    pub zone: u16,
    /// IANA number.
    pub protocol: u8,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// An address or port of it is translated.
    pub translated: bool,
    /// Destination port; of ICMP, type × 256 + code; 0 of what has neither.
    pub port: u16,
    /// What the kernel knows it by: the tuple as it wrote it, and its number.
    tuple: Vec<u8>,
    /// The zone is part of the tuple, because it is of that direction alone.
    zoned_tuple: bool,
    id: u32,
    family: u8,
}

#[cfg(test)]
impl Entry {
    /// One that no kernel knows.
    pub fn sample(zone: u16, protocol: u8, source: IpAddr, destination: IpAddr, port: u16) -> Self {
        Entry {
            zone,
            protocol,
            source,
            destination,
            translated: false,
            port,
            tuple: Vec::new(),
            zoned_tuple: false,
            id: 0,
            family: 0,
        }
    }
}

/// A request socket in one network namespace.
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens it in the current thread's network namespace, where it stays.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Conntrack {
            socket: Socket::open(Some(netlink::NETFILTER), "conntrack")?,
        })
    }

    /// The entries that are wanted. The table changes all the time: what comes and goes meanwhile
    /// may be in it or not.
    pub fn entries(&mut self, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, KernelError> {
        self.socket.dump_of(
            format_args!("reading tracked connections"),
            GET,
            NFGENMSG,
            |m| m.raw(&[0; NFGENMSG]),
            |m| parse(m).filter(&wanted),
        )
    }

    /// Deletes these entries and no others; how many were still there.
    pub fn delete(&mut self, entries: &[Entry]) -> Result<usize, KernelError> {
        let mut gone = 0;
        for batch in entries.chunks(BATCH) {
            gone += self.delete_batch(batch)?;
        }
        Ok(gone)
    }

    fn delete_batch(&mut self, batch: &[Entry]) -> Result<usize, KernelError> {
        let attempt = format_args!("deleting tracked connections");
        let transport = |errno| KernelError::from_errno(attempt, errno);
        let first = self.socket.reserve(batch.len());
        let last = batch.len() - 1;
        let mut writer = Writer::with_capacity(batch.len() * 128);
        for (seq, (i, entry)) in (first..).zip(batch.iter().enumerate()) {
            let flags = NLM_F_REQUEST | if i == last { NLM_F_ACK } else { 0 };
            writer.message(DELETE, flags, seq, |m| {
                m.raw(&[entry.family, 0, 0, 0]);
                m.nest(CTA_TUPLE_ORIG, |tuple| tuple.raw(&entry.tuple));
                // Zone and number make sure that it is this very entry.
                if !entry.zoned_tuple {
                    m.attr(CTA_ZONE, &entry.zone.to_be_bytes());
                }
                m.be32(CTA_ID, entry.id);
            });
        }
        self.socket.send(writer.as_bytes()).map_err(transport)?;
        let mut gone = batch.len();
        let mut failure = None;
        loop {
            for message in Messages(self.socket.receive().map_err(transport)?) {
                let i = message.seq.wrapping_sub(first) as usize;
                if message.kind != NLMSG_ERROR || i > last {
                    continue;
                }
                let ack = message.ack();
                if ack.errno != 0 {
                    gone -= 1;
                    if ack.errno != libc::ENOENT {
                        failure.get_or_insert(KernelError::new(attempt, Some(ack.errno), ack.text));
                    }
                }
                if i == last {
                    return failure.map_or(Ok(gone), Err);
                }
            }
        }
    }
}

fn parse(message: &Message<'_>) -> Option<Entry> {
    if message.kind != NEW {
        return None;
    }
    let attrs = message.attrs(NFGENMSG);
    let tuple = attrs.find(CTA_TUPLE_ORIG)?;
    let ip = tuple.attrs().find(CTA_TUPLE_IP)?.attrs();
    let protocol = tuple.attrs().find(CTA_TUPLE_PROTO)?.attrs();
    let address = |kinds: [u16; 2]| kinds.iter().find_map(|kind| ip.find(*kind))?.address();
    let (source, destination) = (address(CTA_IP_SRC)?, address(CTA_IP_DST)?);
    let status = attrs.find(CTA_STATUS).and_then(|status| status.be32());
    let status = status.unwrap_or(0);
    let of_tuple = tuple.attrs().find(CTA_TUPLE_ZONE);
    let zone = of_tuple.or_else(|| attrs.find(CTA_ZONE));
    Some(Entry {
        zone: zone.and_then(|zone| zone.be16()).unwrap_or(0),
        zoned_tuple: of_tuple.is_some(),
        protocol: protocol.find(CTA_PROTO_NUM)?.u8()?,
        source,
        destination,
        translated: status & (IPS_SRC_NAT | IPS_DST_NAT) != 0,
        port: port(protocol).unwrap_or(0),
        tuple: tuple.payload.to_vec(),
        id: attrs.find(CTA_ID)?.be32()?,
        family: if source.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        } as u8,
    })
}

fn port(protocol: Attrs<'_>) -> Option<u16> {
    if let Some(port) = protocol.find(CTA_PROTO_DST_PORT) {
        return port.be16();
    }
    let icmp = [CTA_PROTO_ICMP, CTA_PROTO_ICMPV6];
    icmp.into_iter().find_map(|[kind, code]| {
        let kind = protocol.find(kind)?.u8()?;
        let code = protocol.find(code)?.u8()?;
        Some(u16::from(kind) << 8 | u16::from(code))
    })
}
