//! A blocking netlink request socket: bound, with extended acks, strict checks and a time limit;
//! and the three ways to use it (ask for one object, dump many, send many and collect the acks).
//!
//! The kernel answers inside the `send` (or, for a dump, inside each `recv`), so a reply is there
//! already when we come for it; the time limit only guards against a kernel that breaks this.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    self, AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt,
};

use super::KernelError;
use super::tlv::{
    Message, Messages, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NLMSG_NOOP, Writer,
};

/// More than the largest datagram the kernel makes for a dump (32 KiB, `netlink_recvmsg()` in
/// net/netlink/af_netlink.c) and than any single object's.
const RECEIVE_BYTES: usize = 64 * 1024;
/// A burst of errors must fit: one acknowledgement costs about 1 KiB of this, one reply up to 8 KiB.
const RECEIVE_QUEUE_BYTES: usize = 4 << 20;
const REPLY_LIMIT: Duration = Duration::from_secs(10);
/// How often a dump is begun again because something changed while it was going on.
pub(super) const DUMP_ATTEMPTS: usize = 16;
/// Stale replies (of a request that was given up) are passed over, but not for ever.
const MAX_DATAGRAMS: usize = 1 << 20;

/// A netlink socket without behaviour; the monitor builds on this too.
pub(super) fn raw_socket(
    protocol: Option<Protocol>,
    flags: SocketFlags,
) -> rustix::io::Result<OwnedFd> {
    net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags | SocketFlags::CLOEXEC,
        protocol,
    )
}

/// Sets an integer option that rustix has no call for.
pub(super) fn set_option(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> rustix::io::Result<()> {
    set_option_raw(fd, level, name, &value)
}

/// Sets an option of any plain type.
pub(super) fn set_option_raw<T>(
    fd: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> rustix::io::Result<()> {
    let pointer: *const T = value;
    let len = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the pointer and length describe `value`, which outlives the call; the kernel reads
    // that many bytes at most and keeps no reference.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer.cast::<c_void>(), len) };
    if result == 0 {
        Ok(())
    } else {
        let errno = std::io::Error::last_os_error().raw_os_error();
        Err(rustix::io::Errno::from_raw_os_error(
            errno.unwrap_or(libc::EIO),
        ))
    }
}

/// Sets the receive queue's size past the system-wide maximum if we may, up to it if not.
pub(super) fn set_receive_queue(fd: BorrowedFd<'_>, bytes: usize) -> rustix::io::Result<()> {
    sockopt::set_socket_recv_buffer_size_force(fd, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(fd, bytes))
}

/// The port (netlink address) that the kernel gave the socket.
pub(super) fn port_of(fd: BorrowedFd<'_>) -> rustix::io::Result<u32> {
    Ok(SocketAddrNetlink::try_from(net::getsockname(fd)?)?.pid())
}

pub(super) struct Socket {
    fd: OwnedFd,
    port: u32,
    seq: u32,
    buffer: Vec<u8>,
    send_bytes: usize,
}

/// What became of one datagram of a dump.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

/// Collects a dump's objects from datagrams: the part of a dump that needs no socket.
struct Dump<T> {
    seq: u32,
    /// Size of the family header: a message that is shorter cannot be said to be anything.
    header: usize,
    found: Vec<T>,
    interrupted: bool,
}

impl<T> Dump<T> {
    fn feed(
        &mut self,
        attempt: fmt::Arguments<'_>,
        datagram: &[u8],
        mut parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Progress, KernelError> {
        let unreadable = || {
            let text = "a part of the answer cannot be read, so it is not known what is missing";
            KernelError::ours(attempt, libc::EBADMSG, text)
        };
        let mut messages = Messages(datagram);
        for message in messages.by_ref().filter(|m| m.seq == self.seq) {
            // Set on the messages after the change, and on the DONE at the latest
            // (nl_dump_check_consistent() in include/net/netlink.h).
            self.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
            match message.kind {
                NLMSG_NOOP => {}
                NLMSG_DONE | NLMSG_ERROR => {
                    let ack = message.ack();
                    if ack.errno != 0 {
                        return Err(KernelError::new(attempt, Some(ack.errno), ack.text));
                    }
                    return Ok(Progress::Done);
                }
                _ if message.body.len() < self.header => return Err(unreadable()),
                _ => self.found.extend(parse(&message)),
            }
        }
        // Whatever followed would count as absent, and be made or taken away.
        match messages.is_at_end() {
            true => Ok(Progress::More),
            false => Err(unreadable()),
        }
    }
}

impl Socket {
    pub fn open(protocol: Option<Protocol>, what: &str) -> Result<Self, KernelError> {
        Self::open_raw(protocol)
            .map_err(|e| KernelError::from_errno(format_args!("opening a {what} socket"), e))
    }

    fn open_raw(protocol: Option<Protocol>) -> rustix::io::Result<Self> {
        let fd = raw_socket(protocol, SocketFlags::empty())?;
        set_receive_queue(fd.as_fd(), RECEIVE_QUEUE_BYTES)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(REPLY_LIMIT))?;
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            set_option(fd.as_fd(), libc::SOL_NETLINK, option, 1)?;
        }
        net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        let port = port_of(fd.as_fd())?;
        let send_bytes = sockopt::socket_send_buffer_size(&fd)?;
        Ok(Socket {
            fd,
            port,
            seq: 0,
            buffer: vec![0; RECEIVE_BYTES],
            send_bytes,
        })
    }

    pub fn port(&self) -> u32 {
        self.port
    }

    /// Reserves `count` consecutive sequence numbers and returns the first.
    pub fn reserve(&mut self, count: usize) -> u32 {
        let count = u32::try_from(count).expect("a send has far fewer than 2^32 messages");
        // Never let a run wrap: `seq - first` is how a reply finds its request.
        if self.seq.checked_add(count).is_none() {
            self.seq = 0;
        }
        let first = self.seq;
        self.seq += count;
        first
    }

    /// Sends a whole batch of messages as one datagram.
    pub fn send(&mut self, bytes: &[u8]) -> rustix::io::Result<()> {
        // netlink_sendmsg() refuses what is larger than the send buffer less 32 bytes; the kernel
        // doubles the value that is set.
        if bytes.len() + 64 > self.send_bytes {
            sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len())?;
            self.send_bytes = sockopt::socket_send_buffer_size(&self.fd)?;
        }
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = net::sendto(&self.fd, bytes, SendFlags::empty(), &kernel)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(rustix::io::Errno::MSGSIZE)
        }
    }

    /// The next datagram from the kernel itself.
    pub fn receive(&mut self) -> rustix::io::Result<&[u8]> {
        let len = receive_from_kernel(self.fd.as_fd(), &mut self.buffer, RecvFlags::empty())
            // SO_RCVTIMEO reports its end as EAGAIN.
            .map_err(|e| {
                if e == rustix::io::Errno::AGAIN {
                    rustix::io::Errno::TIMEDOUT
                } else {
                    e
                }
            })?;
        Ok(&self.buffer[..len])
    }

    /// The same as [`Socket::ask`], of an object that is always of the shape that `parse` knows: an answer that cannot be
    /// read is an error, and not the absence of the object.
    pub fn ask_known<T>(
        &mut self,
        attempt: fmt::Arguments<'_>,
        kind: u16,
        content: impl FnOnce(&mut Writer),
        parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, KernelError> {
        known(attempt, self.ask(attempt, kind, content, parse)?).map(Some)
    }

    /// Asks for one object. The kernel's "no such thing" errnos are the caller's to interpret.
    pub fn ask<T>(
        &mut self,
        attempt: fmt::Arguments<'_>,
        kind: u16,
        content: impl FnOnce(&mut Writer),
        mut parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, KernelError> {
        let seq = self.reserve(1);
        let mut writer = Writer::with_capacity(256);
        writer.message(kind, NLM_F_REQUEST, seq, content);
        let transport = |e| KernelError::from_errno(attempt, e);
        self.send(writer.as_bytes()).map_err(transport)?;
        for _ in 0..MAX_DATAGRAMS {
            let datagram = self.receive().map_err(transport)?;
            if let Some(message) = Messages(datagram).find(|m| m.seq == seq) {
                if message.kind != NLMSG_ERROR {
                    return Ok(parse(&message));
                }
                let ack = message.ack();
                return Err(KernelError::new(attempt, Some(ack.errno), ack.text));
            }
        }
        Err(KernelError::from_errno(
            attempt,
            rustix::io::Errno::TIMEDOUT,
        ))
    }

    /// Dumps objects whose messages begin with a header of so many bytes, again if something changed meanwhile. Never
    /// returns a part of them: an error in the dump's end is an error, and so is a dump interrupted time after time
    /// (EINTR), or one of which a part cannot be read (EBADMSG).
    pub fn dump_of<T>(
        &mut self,
        attempt: fmt::Arguments<'_>,
        kind: u16,
        header: usize,
        content: impl Fn(&mut Writer),
        mut parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(attempt, kind, header, &content, &mut parse) {
                Ok(dump) if dump.interrupted => {}
                Ok(dump) => return Ok(dump.found),
                Err(error) => {
                    self.drain();
                    return Err(error);
                }
            }
        }
        Err(KernelError::ours(
            attempt,
            libc::EINTR,
            "it changed during every attempt to read it",
        ))
    }

    /// The same of messages that may be of any length.
    pub fn dump<T>(
        &mut self,
        attempt: fmt::Arguments<'_>,
        kind: u16,
        content: impl Fn(&mut Writer),
        parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        self.dump_of(attempt, kind, 0, content, parse)
    }

    fn dump_once<T>(
        &mut self,
        attempt: fmt::Arguments<'_>,
        kind: u16,
        header: usize,
        content: impl FnOnce(&mut Writer),
        mut parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Dump<T>, KernelError> {
        let transport = |e| KernelError::from_errno(attempt, e);
        let seq = self.reserve(1);
        let mut writer = Writer::with_capacity(256);
        writer.message(kind, NLM_F_REQUEST | NLM_F_DUMP, seq, content);
        self.send(writer.as_bytes()).map_err(transport)?;
        let mut dump = Dump {
            seq,
            header,
            found: Vec::new(),
            interrupted: false,
        };
        for _ in 0..MAX_DATAGRAMS {
            if dump.feed(attempt, self.receive().map_err(transport)?, &mut parse)? == Progress::Done
            {
                return Ok(dump);
            }
        }
        Err(KernelError::ours(
            attempt,
            libc::EOVERFLOW,
            "the dump does not end",
        ))
    }

    /// A socket carries one dump at a time: one that was given up must be read to its end before
    /// the next can begin (EBUSY, `__netlink_dump_start()` in net/netlink/af_netlink.c).
    fn drain(&mut self) {
        for _ in 0..MAX_DATAGRAMS {
            match receive_from_kernel(self.fd.as_fd(), &mut self.buffer, RecvFlags::DONTWAIT) {
                Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::MSGSIZE) => {}
                Err(_) => return,
            }
        }
    }
}

fn known<T>(attempt: fmt::Arguments<'_>, found: Option<T>) -> Result<T, KernelError> {
    let text = "the answer cannot be read";
    found.ok_or_else(|| KernelError::ours(attempt, libc::EBADMSG, text))
}

/// Reads one datagram that the kernel sent, passing over what other processes send. MSGSIZE if it
/// did not fit.
pub(super) fn receive_from_kernel(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: RecvFlags,
) -> rustix::io::Result<usize> {
    loop {
        let (_, len, from) = match net::recvfrom(fd, &mut *buffer, flags | RecvFlags::TRUNC) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let from_kernel =
            from.is_some_and(|a| SocketAddrNetlink::try_from(a).is_ok_and(|a| a.pid() == 0));
        if !from_kernel {
            continue;
        }
        return if len <= buffer.len() {
            Ok(len)
        } else {
            Err(rustix::io::Errno::MSGSIZE)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(messages: &[(u16, u16, u32, i32)]) -> Writer {
        let mut writer = Writer::default();
        for (kind, flags, seq, code) in messages {
            writer.message(*kind, *flags, *seq, |m| m.raw(&code.to_ne_bytes()));
        }
        writer
    }

    fn feed(messages: &[(u16, u16, u32, i32)]) -> (Result<Progress, KernelError>, Dump<i32>) {
        let mut dump = Dump {
            seq: 5,
            header: 4,
            found: Vec::new(),
            interrupted: false,
        };
        let writer = datagram(messages);
        let parse = |m: &Message<'_>| Some(i32::from_ne_bytes(m.body[..4].try_into().unwrap()));
        let progress = dump.feed(format_args!("reading"), writer.as_bytes(), parse);
        (progress, dump)
    }

    /// What cannot be read is not absent: nothing may be made or taken away because of it.
    #[test]
    fn a_dump_of_which_a_part_cannot_be_read_is_an_error_and_not_a_shorter_list() {
        let good = |seq: u32| {
            let mut writer = Writer::default();
            writer.message(16, 0, seq, |m| m.raw(&1i32.to_ne_bytes()));
            writer.as_bytes().to_vec()
        };
        let short = |seq: u32| {
            let mut writer = Writer::default();
            writer.message(16, 0, seq, |m| m.raw(&[]));
            writer.as_bytes().to_vec()
        };
        let lies = |len: u32| [&len.to_ne_bytes()[..], &[0; 16]].concat();
        for (name, datagram, wanted) in [
            ("good", [good(5), good(5)].concat(), Some(2)),
            (
                "too short for its header",
                [good(5), short(5), good(5)].concat(),
                None,
            ),
            (
                "too short, and not ours",
                [good(5), short(4), good(5)].concat(),
                Some(2),
            ),
            (
                "longer than the datagram",
                [good(5), lies(4096)].concat(),
                None,
            ),
            (
                "shorter than a header",
                [good(5), lies(3), good(5)].concat(),
                None,
            ),
            ("a few bytes more", [good(5), vec![0; 3]].concat(), None),
        ] {
            let mut dump = Dump {
                seq: 5,
                header: 4,
                found: Vec::new(),
                interrupted: false,
            };
            let progress = dump.feed(format_args!("reading"), &datagram, |m| Some(m.seq));
            match wanted {
                Some(count) => {
                    assert_eq!(progress.unwrap(), Progress::More, "{name}");
                    assert_eq!(dump.found.len(), count, "{name}");
                }
                None => assert_eq!(progress.unwrap_err().errno(), Some(libc::EBADMSG), "{name}"),
            }
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_not_the_absence_of_the_object() {
        assert_eq!(known(format_args!("x"), Some(1)).unwrap(), 1);
        let error = known::<i32>(format_args!("x"), None).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EBADMSG));
    }

    #[test]
    fn an_error_code_in_the_end_of_a_dump_is_an_error_not_an_empty_list() {
        let (progress, _) = feed(&[(16, 2, 5, 1), (NLMSG_DONE, 2, 5, -libc::ENODEV)]);
        assert_eq!(progress.unwrap_err().errno(), Some(libc::ENODEV));
    }

    #[test]
    fn an_interruption_is_noticed_on_any_message_and_on_the_end() {
        for (first, done) in [(NLM_F_DUMP_INTR, 0), (0, NLM_F_DUMP_INTR)] {
            let (progress, dump) = feed(&[(16, first, 5, 1), (NLMSG_DONE, done, 5, 0)]);
            assert_eq!(progress.unwrap(), Progress::Done);
            assert!(dump.interrupted);
        }
        assert!(!feed(&[(16, 0, 5, 1), (NLMSG_DONE, 0, 5, 0)]).1.interrupted);
    }

    #[test]
    fn replies_to_an_abandoned_request_are_passed_over() {
        let (progress, dump) = feed(&[
            (16, 0, 4, 9),
            (NLMSG_DONE, NLM_F_DUMP_INTR, 4, -1),
            (16, 0, 5, 1),
        ]);
        assert_eq!(progress.unwrap(), Progress::More);
        assert_eq!(dump.found, [1]);
        assert!(!dump.interrupted);
    }
}
