//! Events from the kernel, as knocks on the door: each names what to look at again, and none is
//! believed further. What nobody needs is dropped inside the kernel (`bpf.rs`), and what was lost
//! is said.
//!
//! The event and the state are two things: between the two, more may have changed; and an event
//! may be missing where the kernel sends none. So look again from time to time without a knock.

use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{self, RecvFlags, SocketFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::KernelError;
use super::bpf::{self, NFT_NEWGEN};
use super::link::{IFINFOMSG, IFLA_IFNAME, RTM_DELLINK, RTM_NEWLINK};
use super::mdb_codec::{self, BR_PORT_MSG, MDBA_MDB, RTM_DELMDB, RTM_NEWMDB};
use super::rtnl::{
    NDA_PROTOCOL, NDMSG, NTF_EXT_LEARNED, NUD_PERMANENT, PROTOCOL, RTM_DELNEIGH, RTM_DELROUTE,
    RTM_NEWNEIGH, RTM_NEWROUTE, RTMSG, fdb_key, neighbour_address, neighbour_header, parse_route,
};
use super::socket::{raw_socket, receive_from_kernel, set_receive_queue};
use super::tlv::{Message, Messages, read_u32};
use crate::addr::{IfName, IpNet, Mac};

/// Holds 40,000 events; the default lost 5,600 of them (measured).
const QUEUE_BYTES: usize = 8 << 20;
const EVENT_BYTES: usize = 64 * 1024;
/// More events than the queue ever holds (the kernel doubles its size, and an event takes at least
/// half a KiB).
const QUEUE_MESSAGES: usize = 4 * QUEUE_BYTES / 512;
/// Messages read per call of [`Monitor::next`], so that a flood cannot hold the caller.
const MAX_MESSAGES: usize = 4096;

/// `RTNLGRP_*` as a mask: LINK 1, NEIGH 3, IPV4_ROUTE 7, IPV6_ROUTE 11, MDB 26.
const RTNL_GROUPS: u32 = 1 | 1 << 2 | 1 << 6 | 1 << 10 | 1 << 25;
/// `NFNLGRP_NFTABLES` 7.
const NFT_GROUPS: u32 = 1 << 6;
/// Size of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const NFTA_GEN_ID: u16 = 1;
const NFTA_GEN_PROC_PID: u16 = 2;

/// What the kernel is to keep to itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MonitorFilter {
    /// Interface indexes whose FDB events are dropped: there zebra works, for the whole fabric.
    /// That includes the event of a MAC of ours moving to a tunnel; only a look finds that.
    pub tunnels: Vec<u32>,
    /// Of these, entries for the zero MAC knock all the same: where a tunnel floods to, one entry
    /// per other host.
    pub floods: bool,
}

/// What to look at again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Knock {
    /// A link appeared, changed or (`removed`) went away. `name` is None if it is a stranger's.
    Link {
        index: u32,
        name: Option<IfName>,
        removed: bool,
    },
    /// `bridge` is None for a device's own table.
    Fdb {
        port: u32,
        bridge: Option<u32>,
        mac: Mac,
        /// The entry is there and externally learned, as ours are.
        learned: bool,
        /// The entry is there and permanent, as the bridge's own are, of the MACs that its ports have.
        own: bool,
    },
    Neighbour {
        device: u32,
        address: IpAddr,
        /// The entry is there and has our protocol.
        ours: bool,
    },
    Route {
        destination: IpNet,
        table: u32,
        protocol: u8,
    },
    /// A permanent entry came or went. What ports join and leave by themselves does not knock.
    Mdb { bridge: u32, port: u32 },
    /// An nf_tables transaction was committed. `pid` is the thread that did it.
    NftGeneration { generation: u32, pid: u32 },
    /// Events were lost, or one could not be read: look at everything. What is lost after this was
    /// told is told again.
    Lost,
}

/// One event socket.
struct Events {
    fd: AsyncFd<OwnedFd>,
    /// Since events were lost: how many more to throw away at most.
    ///
    /// The kernel says once that the queue was full, *before* what is in the queue; and until the
    /// queue has been read to its end it loses all further events without a word
    /// (NETLINK_S_CONGESTED in net/netlink/af_netlink.c). Who looked at everything before that end
    /// would miss what came between. So `Lost` is told at the end.
    discard: Option<usize>,
}

/// The two event sockets of one network namespace.
pub struct Monitor {
    rtnl: Events,
    nft: Events,
    filter: MonitorFilter,
    rtnl_portid: u32,
    nft_portid: u32,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Opens it in the current thread's network namespace, where it stays. Must be called inside
    /// a tokio runtime with I/O enabled.
    pub fn open(filter: &MonitorFilter) -> Result<Self, KernelError> {
        let failed = |e| KernelError::from_errno("opening the event sockets", e);
        let rtnl = event_socket(None, RTNL_GROUPS, &bpf::rtnetlink(filter, 0)).map_err(failed)?;
        let nft = event_socket(Some(netlink::NETFILTER), NFT_GROUPS, &bpf::nfnetlink(0))
            .map_err(failed)?;
        Ok(Monitor {
            rtnl: Events::watch(rtnl)?,
            nft: Events::watch(nft)?,
            filter: filter.clone(),
            rtnl_portid: 0,
            nft_portid: 0,
            buffer: vec![0; EVENT_BYTES],
        })
    }

    /// Replaces the filter. What was queued before is not filtered again by the kernel.
    pub fn set_filter(&mut self, filter: &MonitorFilter) -> Result<(), KernelError> {
        self.filter = filter.clone();
        self.attach()
    }

    /// Leaves out the echoes of our own request sockets (0: of none). The kernel marks neighbour
    /// and route changes, except removed neighbours, and nf_tables transactions with the sender's
    /// port; FDB and multicast group events, and removed neighbours, carry none and knock all the
    /// same. Links knock always.
    pub fn ignore(&mut self, rtnl_portid: u32, nft_portid: u32) -> Result<(), KernelError> {
        self.rtnl_portid = rtnl_portid;
        self.nft_portid = nft_portid;
        self.attach()
    }

    fn attach(&self) -> Result<(), KernelError> {
        let rtnl = bpf::rtnetlink(&self.filter, self.rtnl_portid);
        bpf::attach(self.rtnl.fd.as_fd(), &rtnl)
            .and_then(|()| bpf::attach(self.nft.fd.as_fd(), &bpf::nfnetlink(self.nft_portid)))
            .map_err(|e| KernelError::from_errno("attaching the event filters", e))
    }

    /// Waits for events and takes what is there, at most some thousands at a time. Never empty.
    /// Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Knock>, KernelError> {
        poll_fn(|context| self.poll_next(context))
            .await
            .map_err(|e| KernelError::from_errno("reading events", e))
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<Knock>, Errno>> {
        let mut knocks = Vec::new();
        for events in [&mut self.rtnl, &mut self.nft] {
            // After an error, what the other socket gave is told first; the error comes again.
            match events.poll(&mut self.buffer, &self.filter, &mut knocks, context) {
                Poll::Ready(Err(e)) if knocks.is_empty() => return Poll::Ready(Err(e)),
                Poll::Ready(_) | Poll::Pending => {}
            }
        }
        if knocks.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(knocks))
        }
    }
}

fn event_socket(
    protocol: Option<net::Protocol>,
    groups: u32,
    filter: &[libc::sock_filter],
) -> Result<OwnedFd, Errno> {
    let fd = raw_socket(protocol, SocketFlags::NONBLOCK)?;
    set_receive_queue(fd.as_fd(), QUEUE_BYTES)?;
    // Before it joins the groups, so that nothing comes unfiltered.
    bpf::attach(fd.as_fd(), filter)?;
    net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

impl Events {
    fn watch(fd: OwnedFd) -> Result<Self, KernelError> {
        // SAFETY: the `AsyncFd` owns the open descriptor, which is never taken out or replaced, and
        // `OwnedFd` always gives the same number.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let fd = watched.map_err(|e| {
            let e = std::io::Error::from(e);
            KernelError::new(
                "watching the event sockets",
                e.raw_os_error(),
                Some(e.to_string()),
            )
        })?;
        Ok(Events { fd, discard: None })
    }

    /// Reads until nothing is left (Pending, and the context will be woken) or the limit is reached.
    fn poll(
        &mut self,
        buffer: &mut [u8],
        filter: &MonitorFilter,
        knocks: &mut Vec<Knock>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Errno>> {
        for _ in 0..MAX_MESSAGES {
            let mut guard = match ready!(self.fd.poll_read_ready(context)) {
                Ok(guard) => guard,
                Err(e) => return Poll::Ready(Err(Errno::from_io_error(&e).unwrap_or(Errno::IO))),
            };
            match receive_from_kernel(self.fd.as_fd(), buffer, RecvFlags::DONTWAIT) {
                Ok(len) => match self.discard.as_mut() {
                    None => read(&buffer[..len], filter, knocks),
                    Some(left) => *left -= 1,
                },
                // The queue was full (netlink_overrun()), or an event was larger than any we know.
                Err(Errno::NOBUFS | Errno::MSGSIZE) => self.discard = Some(QUEUE_MESSAGES),
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    self.discard = self.discard.map(|_| 0);
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
            if self.discard == Some(0) {
                self.discard = None;
                knocks.push(Knock::Lost);
            }
        }
        // There may be more: let others run, and come back.
        context.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }
}

/// What the events of one datagram say to look at. Whatever cannot be read may have been anything.
fn read(datagram: &[u8], filter: &MonitorFilter, knocks: &mut Vec<Knock>) {
    let mut messages = Messages(datagram);
    let mut lost = false;
    for message in messages.by_ref() {
        match message.body.len() < header_of(message.kind) {
            true => lost = true,
            false => knocks.extend(knock(&message, filter)),
        }
    }
    if lost || !messages.is_at_end() {
        knocks.push(Knock::Lost);
    }
}

/// Size of the family header that an event begins with.
fn header_of(kind: u16) -> usize {
    match kind {
        RTM_NEWLINK | RTM_DELLINK => IFINFOMSG,
        RTM_NEWNEIGH | RTM_DELNEIGH => NDMSG,
        RTM_NEWROUTE | RTM_DELROUTE => RTMSG,
        RTM_NEWMDB | RTM_DELMDB => BR_PORT_MSG,
        NFT_NEWGEN => NFGENMSG,
        _ => 0,
    }
}

/// What one event says to look at; None for those without interest.
fn knock(message: &Message<'_>, filter: &MonitorFilter) -> Option<Knock> {
    match message.kind {
        RTM_NEWLINK | RTM_DELLINK => {
            let name = message.attrs(IFINFOMSG).find(IFLA_IFNAME);
            Some(Knock::Link {
                index: read_u32(message.body, 4)?,
                name: name.and_then(|a| a.text()?.parse().ok()),
                // With AF_BRIDGE it only has left its bridge (br_ifinfo_notify()).
                removed: message.kind == RTM_DELLINK
                    && *message.body.first()? == libc::AF_UNSPEC as u8,
            })
        }
        RTM_NEWNEIGH | RTM_DELNEIGH => {
            let header = neighbour_header(message)?;
            if header.family != libc::AF_BRIDGE as u8 {
                let address = neighbour_address(message)?;
                let protocol = message.attrs(NDMSG).find(NDA_PROTOCOL);
                return Some(Knock::Neighbour {
                    device: header.index,
                    address,
                    ours: message.kind == RTM_NEWNEIGH
                        && protocol.and_then(|a| a.u8()) == Some(PROTOCOL),
                });
            }
            // Again, for tunnels beyond what a program can hold and events from before it.
            let (mac, bridge) = fdb_key(message)?;
            let told = filter.floods && mac == Mac::default();
            if !told && filter.tunnels.contains(&header.index) {
                return None;
            }
            let learned = header.flags & NTF_EXT_LEARNED != 0;
            Some(Knock::Fdb {
                port: header.index,
                bridge,
                mac,
                learned: message.kind == RTM_NEWNEIGH && learned,
                own: message.kind == RTM_NEWNEIGH
                    && !learned
                    && bridge.is_some()
                    && header.state & NUD_PERMANENT != 0,
            })
        }
        RTM_NEWROUTE | RTM_DELROUTE => {
            let route = parse_route(message)?;
            Some(Knock::Route {
                destination: route.destination,
                table: route.table,
                protocol: route.protocol,
            })
        }
        RTM_NEWMDB | RTM_DELMDB => {
            let bridge = read_u32(message.body, 4)?;
            // A change of a multicast router port has no entry, nor is it of interest.
            message.attrs(BR_PORT_MSG).find(MDBA_MDB)?;
            let port = mdb_codec::entries(message).first()?.port;
            Some(Knock::Mdb { bridge, port })
        }
        NFT_NEWGEN => {
            let number = |kind| message.attrs(NFGENMSG).find(kind).and_then(|a| a.be32());
            Some(Knock::NftGeneration {
                generation: number(NFTA_GEN_ID)?,
                pid: number(NFTA_GEN_PROC_PID).unwrap_or(0),
            })
        }
        _ => None,
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("rtnl", &self.rtnl.fd.as_raw_fd())
            .field("nft", &self.nft.fd.as_raw_fd())
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tlv::Writer;
    use super::*;

    #[test]
    fn an_event_that_cannot_be_read_asks_for_a_look_at_everything_and_costs_no_other() {
        let message = |kind: u16, body: &[u8]| {
            let mut writer = Writer::default();
            writer.message(kind, 0, 0, |m| m.raw(body));
            writer.as_bytes().to_vec()
        };
        let good = || message(RTM_NEWLINK, &[0; IFINFOMSG]);
        let link = Knock::Link {
            index: 0,
            name: None,
            removed: false,
        };
        let both = [link.clone(), link.clone()];
        for (name, datagram, lost) in [
            ("good", [good(), good()].concat(), false),
            (
                "of no interest",
                [good(), message(99, &[]), good()].concat(),
                false,
            ),
            (
                "a short link",
                [good(), message(RTM_DELLINK, &[0; 4]), good()].concat(),
                true,
            ),
            (
                "a short neighbour",
                [good(), message(RTM_NEWNEIGH, &[]), good()].concat(),
                true,
            ),
            (
                "a short route",
                [good(), message(RTM_DELROUTE, &[0; 8]), good()].concat(),
                true,
            ),
            (
                "a short group",
                [good(), message(RTM_NEWMDB, &[0; 4]), good()].concat(),
                true,
            ),
            (
                "a short transaction",
                [good(), message(NFT_NEWGEN, &[]), good()].concat(),
                true,
            ),
            (
                "cut off",
                [good(), good(), vec![200, 0, 0, 0, 1]].concat(),
                true,
            ),
        ] {
            let mut knocks = Vec::new();
            read(&datagram, &MonitorFilter::default(), &mut knocks);
            assert_eq!(knocks[..2], both, "{name}");
            assert_eq!(knocks[2..] == [Knock::Lost], lost, "{name}: {knocks:?}");
        }
    }
}
