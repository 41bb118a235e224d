//! What the rules log: packets that were dropped at a port, or passed in audit, over raw nfnetlink.
//! See include/uapi/linux/netfilter/nfnetlink_log.h and net/netfilter/nfnetlink_log.c.

use std::fmt;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{self, RecvFlags, SocketFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::KernelError;
use super::socket::{raw_socket, receive_from_kernel, set_receive_queue};
use super::tlv::{Message, Messages, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, Writer};
use crate::addr::Mac;

/// The group that the rules log to; as in `templates/datapath-rules.nft`.
pub const GROUP: u16 = 242;

const SUBSYS: u16 = 4 << 8;
const PACKET: u16 = SUBSYS;
const CONFIG: u16 = SUBSYS | 1;
/// Size of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_QTHRESH: u16 = 5;
const CFG_CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const NFULA_PACKET_HDR: u16 = 1;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_IFINDEX_OUTDEV: u16 = 5;
const NFULA_IFINDEX_PHYSINDEV: u16 = 6;
const NFULA_IFINDEX_PHYSOUTDEV: u16 = 7;
const NFULA_HWADDR: u16 = 8;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
/// Bytes of each packet that are wanted: addresses and ports.
const COPY_BYTES: u32 = 128;
const QUEUE_BYTES: usize = 1 << 20;
const BUFFER_BYTES: usize = 64 * 1024;
/// Datagrams read per call, so that a flood cannot hold the caller.
const MAX_MESSAGES: usize = 64;

/// One packet that a rule logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Interface index of the NIC's port.
    pub port: u32,
    /// It came from the NIC; else it was for it.
    pub from_nic: bool,
    /// Name of the rule: that of its counter.
    pub rule: String,
    pub source_mac: Option<Mac>,
    pub packet: Packet,
}

/// What a packet is, as far as it says so itself: an instance may have forged any of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Ip {
        /// IANA number.
        protocol: u8,
        source: IpAddr,
        destination: IpAddr,
        /// Of TCP, UDP and SCTP, unless it is a later fragment; of ICMP, type and code.
        ports: Option<(u16, u16)>,
    },
    Arp {
        operation: u16,
        sender: Ipv4Addr,
        target: Ipv4Addr,
    },
    /// Ethertype of what is neither.
    Other(u16),
}

/// The receiving end of the group, in one network namespace.
pub struct PacketLog {
    fd: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl PacketLog {
    /// Opens it in the current thread's network namespace, where it stays. Must be called inside a
    /// tokio runtime with I/O enabled. Fails where the kernel has no `nfnetlink_log`, or where
    /// somebody else listens to the group.
    pub fn open() -> Result<Self, KernelError> {
        let failed = |e| KernelError::from_errno("listening to what the filters log", e);
        let fd = raw_socket(Some(netlink::NETFILTER), SocketFlags::empty()).map_err(failed)?;
        set_receive_queue(fd.as_fd(), QUEUE_BYTES).map_err(failed)?;
        net::bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        configure(&fd, &mut buffer).map_err(failed)?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(failed)?;
        // SAFETY: the `AsyncFd` owns the open descriptor, which is never taken out or replaced, and
        // `OwnedFd` always gives the same number.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let fd =
            watched.map_err(|e| failed(Errno::from_io_error(&e.into()).unwrap_or(Errno::IO)))?;
        Ok(PacketLog { fd, buffer })
    }

    /// Waits for packets and takes what is there, some hundreds at most. Cancelling it loses
    /// nothing. What the queue had no room for is lost.
    pub async fn next(&mut self) -> Result<Vec<Logged>, KernelError> {
        poll_fn(|context| self.poll_next(context))
            .await
            .map_err(|e| KernelError::from_errno("reading what the filters log", e))
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Logged>, Errno>> {
        let mut found = Vec::new();
        for _ in 0..MAX_MESSAGES {
            let mut guard = match self.fd.poll_read_ready(context) {
                Poll::Ready(guard) => {
                    guard.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?
                }
                Poll::Pending if found.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            };
            match receive_from_kernel(self.fd.as_fd(), &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(len) => found.extend(Messages(&self.buffer[..len]).filter_map(|m| logged(&m))),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::NOBUFS | Errno::MSGSIZE) => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        if found.is_empty() {
            // Only errors so far: let others run, and come back.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(found))
    }
}

fn configure(fd: &OwnedFd, buffer: &mut [u8]) -> Result<(), Errno> {
    let mut writer = Writer::with_capacity(128);
    writer.message(CONFIG, NLM_F_REQUEST | NLM_F_ACK, 1, |m| {
        let [high, low] = GROUP.to_be_bytes();
        m.raw(&[0, 0, high, low]);
        m.attr(NFULA_CFG_CMD, &[CFG_CMD_BIND]);
        let mut mode = [0; 6];
        mode[..4].copy_from_slice(&COPY_BYTES.to_be_bytes());
        mode[4] = COPY_PACKET;
        m.attr(NFULA_CFG_MODE, &mode);
        // Each packet by itself: the rules limit how many there are.
        m.be32(NFULA_CFG_QTHRESH, 1);
    });
    net::send(fd, writer.as_bytes(), net::SendFlags::empty())?;
    let len = receive_from_kernel(fd.as_fd(), buffer, RecvFlags::empty())?;
    for message in Messages(&buffer[..len]) {
        if message.kind == NLMSG_ERROR {
            return match message.ack().errno {
                0 => Ok(()),
                errno => Err(Errno::from_raw_os_error(errno)),
            };
        }
    }
    Err(Errno::PROTO)
}

/// `struct nfulnl_msg_packet_hdr`: ethertype, hook. Hooks of the bridge family: 0 before routing,
/// 2 forward, 3 out (include/uapi/linux/netfilter_bridge.h).
fn logged(message: &Message<'_>) -> Option<Logged> {
    if message.kind != PACKET {
        return None;
    }
    let attrs = || message.attrs(NFGENMSG);
    let header = attrs().find(NFULA_PACKET_HDR)?.payload;
    let ethertype = u16::from_be_bytes(header.get(..2)?.try_into().ok()?);
    let from_nic = *header.get(2)? < 2;
    // With bridge netfilter the port is the "physical" device and the bridge the other.
    let kinds = match from_nic {
        true => [NFULA_IFINDEX_PHYSINDEV, NFULA_IFINDEX_INDEV],
        false => [NFULA_IFINDEX_PHYSOUTDEV, NFULA_IFINDEX_OUTDEV],
    };
    let port = kinds.iter().find_map(|kind| attrs().find(*kind)?.be32())?;
    let prefix = attrs().find(NFULA_PREFIX)?.text()?;
    let hardware = attrs().find(NFULA_HWADDR).map(|attr| attr.payload);
    Some(Logged {
        port,
        from_nic,
        rule: prefix
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect(),
        source_mac: hardware.and_then(|bytes| Some(Mac(bytes.get(4..10)?.try_into().ok()?))),
        packet: packet(
            ethertype,
            attrs().find(NFULA_PAYLOAD).map_or(&[], |attr| attr.payload),
        ),
    })
}

fn packet(ethertype: u16, bytes: &[u8]) -> Packet {
    let read = match ethertype {
        0x0800 => ipv4(bytes),
        0x86dd => ipv6(bytes),
        0x0806 => arp(bytes),
        _ => None,
    };
    read.unwrap_or(Packet::Other(ethertype))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn ipv4(bytes: &[u8]) -> Option<Packet> {
    let words = usize::from(bytes.first()? & 15);
    let later_fragment = be16(bytes, 6)? & 0x1fff != 0;
    let protocol = *bytes.get(9)?;
    Some(Packet::Ip {
        protocol,
        source: Ipv4Addr::from(array::<4>(bytes, 12)?).into(),
        destination: Ipv4Addr::from(array::<4>(bytes, 16)?).into(),
        ports: if later_fragment {
            None
        } else {
            ports(protocol, bytes.get(4 * words..)?)
        },
    })
}

/// Without the extension headers, which are a reason by themselves.
fn ipv6(bytes: &[u8]) -> Option<Packet> {
    let protocol = *bytes.get(6)?;
    Some(Packet::Ip {
        protocol,
        source: Ipv6Addr::from(array::<16>(bytes, 8)?).into(),
        destination: Ipv6Addr::from(array::<16>(bytes, 24)?).into(),
        ports: ports(protocol, bytes.get(40..)?),
    })
}

fn ports(protocol: u8, bytes: &[u8]) -> Option<(u16, u16)> {
    match protocol {
        6 | 17 | 132 => Some((be16(bytes, 0)?, be16(bytes, 2)?)),
        1 | 58 => Some(((*bytes.first()?).into(), (*bytes.get(1)?).into())),
        _ => None,
    }
}

fn arp(bytes: &[u8]) -> Option<Packet> {
    Some(Packet::Arp {
        operation: be16(bytes, 6)?,
        sender: array::<4>(bytes, 14)?.into(),
        target: array::<4>(bytes, 24)?.into(),
    })
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Packet::Ip {
                protocol,
                source,
                destination,
                ports,
            } => {
                let name = match protocol {
                    1 => "icmp".into(),
                    2 => "igmp".into(),
                    6 => "tcp".into(),
                    17 => "udp".into(),
                    58 => "icmpv6".into(),
                    132 => "sctp".into(),
                    other => format!("IP protocol {other}"),
                };
                match ports {
                    None => write!(f, "{name} from {source} to {destination}"),
                    Some((kind, code)) if matches!(protocol, 1 | 58) => {
                        write!(
                            f,
                            "{name} type {kind} code {code} from {source} to {destination}"
                        )
                    }
                    Some((from, to)) => {
                        write!(
                            f,
                            "{name} from {source} port {from} to {destination} port {to}"
                        )
                    }
                }
            }
            Packet::Arp {
                operation,
                sender,
                target,
            } => write!(f, "ARP operation {operation} from {sender} about {target}"),
            Packet::Other(ethertype) => write!(f, "ethertype {ethertype:#06x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_say_what_they_are() {
        let mut udp = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
        udp.extend([192, 0, 2, 11, 192, 0, 2, 12]);
        udp.extend([0x15, 0x18, 0, 53, 0, 12, 0, 0]);
        let said = |kind, bytes: &[u8]| packet(kind, bytes).to_string();
        assert_eq!(
            said(0x0800, &udp),
            "udp from 192.0.2.11 port 5400 to 192.0.2.12 port 53"
        );
        udp[7] = 9;
        assert_eq!(said(0x0800, &udp), "udp from 192.0.2.11 to 192.0.2.12");
        let mut echo = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
        echo.extend("2001:db8::b".parse::<Ipv6Addr>().unwrap().octets());
        echo.extend("2001:db8::c".parse::<Ipv6Addr>().unwrap().octets());
        echo.extend([128, 0, 0, 0]);
        assert_eq!(
            said(0x86dd, &echo),
            "icmpv6 type 128 code 0 from 2001:db8::b to 2001:db8::c"
        );
        let request = [
            0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9,
        ];
        assert_eq!(
            said(0x0806, &request),
            "ARP operation 2 from 192.0.2.1 about 192.0.2.9"
        );
        assert_eq!(said(0x88cc, b"x"), "ethertype 0x88cc");
    }

    #[test]
    fn no_beginning_of_a_packet_is_too_short() {
        let bytes = [0x45; 60];
        for kind in [0x0800, 0x86dd, 0x0806, 0x8100] {
            for len in 0..bytes.len() {
                let _ = packet(kind, &bytes[..len]).to_string();
            }
        }
    }
}
