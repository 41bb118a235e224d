//! The netlink wire format: messages and nested attributes, written into one buffer and read
//! without copying. Knows no message type and no attribute.
//!
//! Native byte order, except where the kernel says otherwise (nf_tables numbers and addresses are
//! big-endian). See include/uapi/linux/netlink.h.

use std::net::IpAddr;

/// Size of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Size of `struct nlattr`.
pub const ATTR_HEADER: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER are flags in the type.
const NLA_TYPE_MASK: u16 = 0x3fff;

pub const NLMSG_NOOP: u16 = 1;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;

pub const NLM_F_REQUEST: u16 = 0x01;
pub const NLM_F_ACK: u16 = 0x04;
pub const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
/// On an error message: the payload of the failed request is left out.
const NLM_F_CAPPED: u16 = 0x100;
/// On an error or done message: attributes follow.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// Writes messages one after another into one buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn with_capacity(bytes: usize) -> Self {
        Writer {
            bytes: Vec::with_capacity(bytes),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Length of what has been written, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// One message; `content` writes the family header and the attributes.
    pub fn message(&mut self, kind: u16, flags: u16, seq: u32, content: impl FnOnce(&mut Writer)) {
        let start = self.begin_message(kind, flags, seq);
        content(self);
        self.end_message(start);
    }

    pub(super) fn begin_message(&mut self, kind: u16, flags: u16, seq: u32) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        // The kernel fills in the sender's port for itself.
        self.bytes.extend_from_slice(&[0; 4]);
        start
    }

    pub(super) fn end_message(&mut self, start: usize) {
        let len = u32::try_from(self.bytes.len() - start).expect("a message is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Adds flags to the message that begins at `start`.
    pub(super) fn add_flags(&mut self, start: usize, flags: u16) {
        let old = read_u16(&self.bytes, start + 6).expect("a message begins there");
        self.bytes[start + 6..start + 8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Raw bytes (a family header), padded to 4.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        let len = align(self.bytes.len());
        self.bytes.resize(len, 0);
    }

    /// One attribute. The payload must be below 64 KiB, which every caller's types guarantee.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) {
        let len = u16::try_from(ATTR_HEADER + payload.len()).expect("attributes are small");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub fn u64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// Text with the terminating NUL that the kernel's string policies want.
    pub fn text(&mut self, kind: u16, text: &str) {
        let len = u16::try_from(ATTR_HEADER + text.len() + 1).expect("names are short");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    pub fn address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }

    /// A nest; `content` writes the attributes in it. Below 64 KiB, which the caller sees to.
    pub fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Writer)) {
        let start = self.begin_nest(kind);
        content(self);
        self.end_nest(start);
    }

    pub(super) fn begin_nest(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes
            .extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        start
    }

    pub(super) fn end_nest(&mut self, start: usize) {
        let len = u16::try_from(self.bytes.len() - start).expect("nests are bounded by the caller");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    /// Port of the request that caused it, zero if the kernel did.
    pub pid: u32,
    /// All after the netlink header.
    pub body: &'a [u8],
}

/// What an error or done message says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ack {
    /// Positive; zero is success.
    pub errno: i32,
    /// The extended ack's text.
    pub text: Option<String>,
    /// Where in the failed request the offending attribute begins, from its `nlmsghdr`.
    pub offset: Option<u32>,
}

impl<'a> Message<'a> {
    /// The attributes after a family header of `header` bytes.
    pub fn attrs(&self, header: usize) -> Attrs<'a> {
        Attrs(self.body.get(align(header)..).unwrap_or_default())
    }

    /// Reads an `NLMSG_ERROR` or the error code in an `NLMSG_DONE`.
    pub fn ack(&self) -> Ack {
        // An NLMSG_DONE without a code is a success.
        let code = read_u32(self.body, 0).unwrap_or(0) as i32;
        let mut ack = Ack {
            errno: code.saturating_neg(),
            ..Ack::default()
        };
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return ack;
        }
        let mut skip = 4;
        if self.kind == NLMSG_ERROR {
            let echoed = read_u32(self.body, 4).unwrap_or(HEADER as u32) as usize;
            skip += if self.flags & NLM_F_CAPPED != 0 {
                HEADER
            } else {
                align(echoed)
            };
        }
        for attr in Attrs(self.body.get(skip..).unwrap_or_default()) {
            match attr.kind {
                NLMSGERR_ATTR_MSG => ack.text = attr.text(),
                NLMSGERR_ATTR_OFFS => ack.offset = attr.u32(),
                _ => {}
            }
        }
        ack
    }
}

/// The messages of one datagram. Ends at the first malformed one; what is left over is what could not be read.
#[derive(Debug, Clone, Copy)]
pub struct Messages<'a>(pub &'a [u8]);

impl Messages<'_> {
    /// Whether nothing is left over.
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let bytes = self.0;
        let len = read_u32(bytes, 0)? as usize;
        if len < HEADER || len > bytes.len() {
            return None;
        }
        self.0 = bytes.get(align(len)..).unwrap_or_default();
        Some(Message {
            kind: read_u16(bytes, 4)?,
            flags: read_u16(bytes, 6)?,
            seq: read_u32(bytes, 8)?,
            pid: read_u32(bytes, 12)?,
            body: &bytes[HEADER..len],
        })
    }
}

/// One received attribute, its flags stripped from the type.
#[derive(Debug, Clone, Copy)]
pub struct Attr<'a> {
    pub kind: u16,
    pub payload: &'a [u8],
}

impl<'a> Attr<'a> {
    pub fn attrs(&self) -> Attrs<'a> {
        Attrs(self.payload)
    }

    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    pub fn flag(&self) -> bool {
        self.u8().is_some_and(|v| v != 0)
    }

    pub fn u16(&self) -> Option<u16> {
        read_u16(self.payload, 0)
    }

    pub fn be16(&self) -> Option<u16> {
        self.u16().map(u16::from_be)
    }

    pub fn u32(&self) -> Option<u32> {
        read_u32(self.payload, 0)
    }

    pub fn be32(&self) -> Option<u32> {
        self.u32().map(u32::from_be)
    }

    pub fn u64(&self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.payload.get(..8)?.try_into().ok()?))
    }

    pub fn be64(&self) -> Option<u64> {
        self.u64().map(u64::from_be)
    }

    /// The text up to its NUL; None if it is not UTF-8.
    pub fn text(&self) -> Option<String> {
        let end = self.payload.iter().position(|b| *b == 0);
        let bytes = &self.payload[..end.unwrap_or(self.payload.len())];
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    }

    /// An address of 4 or 16 bytes.
    pub fn address(&self) -> Option<IpAddr> {
        match self.payload.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(self.payload).ok()?)),
            16 => Some(IpAddr::from(<[u8; 16]>::try_from(self.payload).ok()?)),
            _ => None,
        }
    }

    pub fn mac(&self) -> Option<crate::addr::Mac> {
        self.payload.try_into().ok().map(crate::addr::Mac)
    }
}

/// A run of attributes. Ends at the first malformed one.
#[derive(Debug, Clone, Copy)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Attrs<'a> {
    pub fn find(mut self, kind: u16) -> Option<Attr<'a>> {
        Iterator::find(&mut self, |attr| attr.kind == kind)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        let bytes = self.0;
        let len = usize::from(read_u16(bytes, 0)?);
        let kind = read_u16(bytes, 2)?;
        let payload = bytes.get(ATTR_HEADER..len)?;
        self.0 = bytes.get(align(len)..).unwrap_or_default();
        Some(Attr {
            kind: kind & NLA_TYPE_MASK,
            payload,
        })
    }
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_nests_read_back_as_written() {
        let mut writer = Writer::default();
        writer.message(7, NLM_F_REQUEST, 42, |m| {
            m.raw(&[9, 8]);
            m.nest(5, |n| {
                n.u8(1, 3);
                n.text(2, "abc");
                n.u64(3, u64::MAX - 1);
            });
            m.address(6, "192.0.2.1".parse().unwrap());
        });
        writer.message(8, 0, 43, |_| {});
        let all: Vec<_> = Messages(writer.as_bytes()).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].kind, all[0].flags, all[0].seq),
            (7, NLM_F_REQUEST, 42)
        );
        assert_eq!((all[1].kind, all[1].body.len()), (8, 0));
        let nest = all[0].attrs(2).find(5).unwrap();
        assert_eq!(nest.attrs().find(1).unwrap().u8(), Some(3));
        assert_eq!(nest.attrs().find(2).unwrap().text().as_deref(), Some("abc"));
        assert_eq!(nest.attrs().find(3).unwrap().u64(), Some(u64::MAX - 1));
        let address = all[0].attrs(2).find(6).unwrap().address();
        assert_eq!(address, Some("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn an_extended_ack_is_found_behind_a_capped_and_behind_a_whole_request() {
        for (flags, echoed) in [(NLM_F_CAPPED | NLM_F_ACK_TLVS, 0), (NLM_F_ACK_TLVS, 8)] {
            let mut request = Writer::default();
            request.message(20, 0, 1, |m| m.raw(&[0; 24]));
            let mut writer = Writer::default();
            writer.message(NLMSG_ERROR, flags, 1, |m| {
                m.raw(&(-libc::EINVAL).to_ne_bytes());
                let len = if echoed == 0 { HEADER } else { request.len() };
                m.raw(&request.as_bytes()[..len]);
                m.text(NLMSGERR_ATTR_MSG, "no");
                m.u32(NLMSGERR_ATTR_OFFS, 20);
            });
            let ack = Messages(writer.as_bytes()).next().unwrap().ack();
            let wanted = Ack {
                errno: libc::EINVAL,
                text: Some("no".into()),
                offset: Some(20),
            };
            assert_eq!(ack, wanted);
        }
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        assert_eq!(Messages(&[200, 0, 0, 0, 1, 0]).count(), 0);
        assert_eq!(Messages(&[0; 64]).count(), 0);
        assert_eq!(Attrs(&[200, 0, 1, 0, 1, 2]).count(), 0);
        assert_eq!(Attrs(&[0; 16]).count(), 0);
        assert_eq!(Attrs(&[1, 0, 1]).count(), 0);
    }
}
