//! nf_tables over raw nfnetlink: set elements (dump, look up, change in one atomic batch), the
//! generation and counters; a digest of a table's structure (`nft/structure.rs`); and scripts for
//! the `nft` program (`nft/script.rs`), which makes tables, chains, rules and sets.
//!
//! Numbers are big-endian, unlike rtnetlink's. See include/uapi/linux/netfilter/nf_tables.h and
//! net/netfilter/nf_tables_api.c.

mod batch;
mod script;
mod structure;

use rustix::net::netlink;

use super::KernelError;
use super::socket::Socket;
use super::tlv::{Attr, HEADER, Message, Messages, NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, Writer};

pub use batch::TransactionError;
pub use structure::Structure;

const SUBSYS: u16 = 10 << 8;
const GETTABLE: u16 = SUBSYS | 1;
const NEWCHAIN: u16 = SUBSYS | 3;
const GETCHAIN: u16 = SUBSYS | 4;
const NEWSET: u16 = SUBSYS | 9;
const GETSET: u16 = SUBSYS | 10;
const NEWSETELEM: u16 = SUBSYS | 12;
const GETSETELEM: u16 = SUBSYS | 13;
const DELSETELEM: u16 = SUBSYS | 14;
const GETGEN: u16 = SUBSYS | 16;
const NEWOBJ: u16 = SUBSYS | 18;
const GETOBJ: u16 = SUBSYS | 19;

/// Size of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFT_SET_OBJECT: u32 = 0x40;
/// `NFT_DATA_VERDICT`.
const VERDICT: u32 = 0xffff_ff00;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_SET_ELEM_EXPR: u16 = 7;
const NFTA_SET_ELEM_OBJREF: u16 = 9;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFTA_SET_ELEM_EXPRESSIONS: u16 = 11;
/// `NFT_SET_ELEM_INTERVAL_END` and `NFT_SET_ELEM_CATCHALL`.
const SPECIAL: u32 = 1 | 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NFTA_GEN_ID: u16 = 1;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;
/// `NFTNL_UDATA_SET_ELEM_COMMENT` of libnftnl: [type, length, text, NUL].
const UDATA_COMMENT: u8 = 0;

/// Single lookups per system call: each reply takes up to 8 KiB of the receive queue.
const LOOKUPS: usize = 256;
/// `NFT_NAME_MAXLEN`.
const NAME_BYTES: usize = 256;

/// The table families that we use (`NFPROTO_*`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    Bridge,
    Inet,
    Arp,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Arp => 3,
            Family::Bridge => 7,
        }
    }

    /// Its name in the nft language.
    pub fn name(self) -> &'static str {
        match self {
            Family::Inet => "inet",
            Family::Arp => "arp",
            Family::Bridge => "bridge",
        }
    }
}

/// One element of a set or map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Element {
    /// Register bytes: numbers in the byte order of their type (an address or port big-endian, an
    /// interface index or mark in the host's). Each part of a concatenation is padded to 4 bytes
    /// (a MAC is 8); a single key is not padded (a MAC is 6); an interface name is 16 either way.
    /// At most 64 bytes.
    pub key: Vec<u8>,
    /// Of a set of concatenated ranges (`flags interval`): the last key, each part being the last
    /// of its range; [`Element::key`] has the first ones. Numbers are big-endian then, whatever
    /// their type, and an element without an end is refused.
    pub end: Option<Vec<u8>>,
    /// What a map maps it to: a value's register bytes, a [`verdict`], or an object's name.
    pub data: Option<Vec<u8>>,
    /// At most 128 bytes, as `nft` has it.
    pub comment: Option<String>,
    /// When read: it is more than key and data say. The catch-all element (of which the key is empty), the end of a
    /// single range, one that expires, or one with expressions of its own, such as a limit. [`Nft::transaction`] makes
    /// none of these.
    pub special: bool,
}

/// One change to a set or map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ElementOp {
    /// Adding what is there already is fine; with other data it is EEXIST: delete it first, in the
    /// same transaction.
    Add {
        family: Family,
        table: &'static str,
        set: &'static str,
        element: Element,
    },
    /// ENOENT if it is not there.
    Delete {
        family: Family,
        table: &'static str,
        set: &'static str,
        key: Vec<u8>,
        end: Option<Vec<u8>>,
    },
}

/// An element's key, and its end in a set of concatenated ranges.
pub type Place = (Vec<u8>, Option<Vec<u8>>);

/// [`Element::data`] of a verdict map: the code (`NF_DROP` 0, `NF_ACCEPT` 1, `NFT_JUMP` -3,
/// `NFT_GOTO` -4), big-endian, and the chain's name.
pub fn verdict(code: i32, chain: &str) -> Vec<u8> {
    [&code.to_be_bytes(), chain.as_bytes()].concat()
}

/// Whether a payload expression that begins at a source MAC and goes on over the ethertype shows a
/// VLAN tag which the kernel has taken off the packet, as one of the ethertype alone does: since
/// Linux 6.6 (`nft_payload_need_vlan_adjust()` in net/netfilter/nft_payload.c).
pub fn shows_vlan_tags() -> bool {
    release_shows_vlan_tags(&rustix::system::uname().release().to_string_lossy())
}

fn release_shows_vlan_tags(release: &str) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

/// A request socket in one network namespace.
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// Opens it in the current thread's network namespace, where it stays. [`Nft::run`] is the
    /// exception: the child process has the calling thread's namespace.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Nft {
            socket: Socket::open(Some(netlink::NETFILTER), "nfnetlink")?,
        })
    }

    /// The port id that events caused by this socket carry (see `monitor::Monitor::ignore`).
    pub fn portid(&self) -> u32 {
        self.socket.port()
    }

    /// Counts the transactions committed in this namespace, by anyone.
    pub fn generation(&mut self) -> Result<u32, KernelError> {
        let attempt = format_args!("reading the nf_tables generation");
        let found = self.socket.ask(
            attempt,
            GETGEN,
            |m| header(m, 0),
            |m| m.attrs(NFGENMSG).find(NFTA_GEN_ID)?.be32(),
        )?;
        found.ok_or_else(|| KernelError::ours(attempt, libc::EPROTO, "the reply has no generation"))
    }

    /// All elements of a set, from one generation. None if there is no such table or set. Of a set
    /// of single ranges (not concatenated) it gives the raw ends, which `transaction` does not make.
    pub fn elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<Option<Vec<Element>>, KernelError> {
        let attempt = format_args!(
            "reading the elements of set {} {table} {set}",
            family.name()
        );
        check_names(attempt, &[table, set])?;
        let messages = self.socket.dump(
            attempt,
            GETSETELEM,
            |m| {
                header(m, family.number());
                m.text(NFTA_SET_ELEM_LIST_TABLE, table);
                m.text(NFTA_SET_ELEM_LIST_SET, set);
            },
            |m| Some(elements_of(m)),
        );
        match messages {
            Ok(messages) => Ok(Some(messages.into_iter().flatten().collect())),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks single elements up; result *i* is that of `keys[i]`, None if it is not in the set. Of
    /// ranges it is the element that the first key falls into, whatever its ends. ENOENT if there
    /// is no such table or set.
    pub fn lookup(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        keys: &[Place],
    ) -> Result<Vec<Option<Element>>, KernelError> {
        let attempt = format_args!("looking up elements of set {} {table} {set}", family.name());
        check_names(attempt, &[table, set])?;
        if keys.iter().any(|(k, _)| k.len() > batch::VALUE_BYTES) {
            return Err(KernelError::ours(
                attempt,
                libc::EINVAL,
                "a key has more than 64 bytes",
            ));
        }
        let mut found = vec![None; keys.len()];
        for (keys, found) in keys.chunks(LOOKUPS).zip(found.chunks_mut(LOOKUPS)) {
            self.lookup_batch(attempt, (family, table, set), keys, found)?;
        }
        Ok(found)
    }

    fn lookup_batch(
        &mut self,
        attempt: std::fmt::Arguments<'_>,
        (family, table, set): (Family, &str, &str),
        keys: &[Place],
        found: &mut [Option<Element>],
    ) -> Result<(), KernelError> {
        let transport = |e| KernelError::from_errno(attempt, e);
        let first = self.socket.reserve(keys.len());
        let last = keys.len() - 1;
        let mut writer = Writer::with_capacity(keys.len() * 128);
        let mut elements_at = 0;
        for (i, (key, end)) in keys.iter().enumerate() {
            let flags = NLM_F_REQUEST | if i == last { NLM_F_ACK } else { 0 };
            writer.message(GETSETELEM, flags, first + i as u32, |m| {
                let start = m.len() - HEADER;
                header(m, family.number());
                m.text(NFTA_SET_ELEM_LIST_TABLE, table);
                m.text(NFTA_SET_ELEM_LIST_SET, set);
                elements_at = m.len() - start;
                m.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    list.nest(NFTA_LIST_ELEM, |e| write_key(e, key, end.as_deref()));
                });
            });
        }
        self.socket.send(writer.as_bytes()).map_err(transport)?;
        // Not before everything has been read, or the rest would be taken for later replies.
        let mut failure = None;
        loop {
            for message in Messages(self.socket.receive().map_err(transport)?) {
                let i = message.seq.wrapping_sub(first) as usize;
                if i > last {
                    continue;
                }
                if message.kind != NLMSG_ERROR {
                    found[i] = elements_of(&message).pop();
                    continue;
                }
                let ack = message.ack();
                // An absent element is blamed on the element, an absent table or set on its name.
                let absent = ack.errno == libc::ENOENT
                    && ack.offset.is_none_or(|o| o as usize >= elements_at);
                if ack.errno != 0 && !absent {
                    failure.get_or_insert(KernelError::new(attempt, Some(ack.errno), ack.text));
                }
                if i == last {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Named counters of a table: name, packets, bytes. ENOENT if there is no such table.
    pub fn counters(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Vec<(String, u64, u64)>, KernelError> {
        let attempt = format_args!("reading the counters of table {} {table}", family.name());
        check_names(attempt, &[table])?;
        let found = self.socket.dump(
            attempt,
            GETOBJ,
            |m| {
                header(m, family.number());
                m.text(NFTA_OBJ_TABLE, table);
                m.be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
            },
            |m| {
                let attrs = m.attrs(NFGENMSG);
                let counter = attrs.find(NFTA_OBJ_TYPE)?.be32()? == NFT_OBJECT_COUNTER;
                let ours = m.kind == NEWOBJ && attrs.find(NFTA_OBJ_TABLE)?.text()? == table;
                let data = attrs.find(NFTA_OBJ_DATA)?.attrs();
                let number = |kind| data.find(kind)?.be64();
                let name = attrs.find(NFTA_OBJ_NAME)?.text()?;
                let value = (
                    name,
                    number(NFTA_COUNTER_PACKETS)?,
                    number(NFTA_COUNTER_BYTES)?,
                );
                (counter && ours).then_some(value)
            },
        )?;
        // A table that is not there has no counters either, but that is not what was asked.
        if found.is_empty() && self.table_flags(family, table)?.is_none() {
            return Err(KernelError::ours(attempt, libc::ENOENT, "no such table"));
        }
        Ok(found)
    }

    /// The chains of a table that are on a hook; none if there is no such table.
    pub fn hooked_chains(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Vec<String>, KernelError> {
        let attempt = format_args!("reading the chains of table {} {table}", family.name());
        check_names(attempt, &[table])?;
        self.socket.dump(
            attempt,
            GETCHAIN,
            |m| header(m, family.number()),
            |m| {
                let attrs = m.attrs(NFGENMSG);
                let ours = m.kind == NEWCHAIN && attrs.find(NFTA_CHAIN_TABLE)?.text()? == table;
                attrs.find(NFTA_CHAIN_HOOK)?;
                let name = attrs.find(NFTA_CHAIN_NAME)?.text()?;
                ours.then_some(name)
            },
        )
    }

    /// `NFT_TABLE_F_*` of a table, such as dormant; None if there is no such table.
    pub fn table_flags(&mut self, family: Family, table: &str) -> Result<Option<u32>, KernelError> {
        let found = self.socket.ask(
            format_args!("looking for table {} {table}", family.name()),
            GETTABLE,
            |m| {
                header(m, family.number());
                m.text(NFTA_TABLE_NAME, table);
            },
            |m| m.attrs(NFGENMSG).find(NFTA_TABLE_FLAGS)?.be32(),
        );
        match found {
            // Without the attribute nothing is known of them.
            Ok(flags) => Ok(Some(flags.unwrap_or(u32::MAX))),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `struct nfgenmsg`, version 0.
fn header(writer: &mut Writer, family: u8) {
    writer.raw(&[family, 0, 0, 0]);
}

fn check_names(attempt: std::fmt::Arguments<'_>, names: &[&str]) -> Result<(), KernelError> {
    if names.iter().all(|n| n.len() < NAME_BYTES) {
        Ok(())
    } else {
        Err(KernelError::ours(
            attempt,
            libc::ENAMETOOLONG,
            "a name has more than 255 bytes",
        ))
    }
}

fn write_key(writer: &mut Writer, key: &[u8], end: Option<&[u8]>) {
    writer.nest(NFTA_SET_ELEM_KEY, |k| k.attr(NFTA_DATA_VALUE, key));
    if let Some(end) = end {
        writer.nest(NFTA_SET_ELEM_KEY_END, |k| k.attr(NFTA_DATA_VALUE, end));
    }
}

/// The elements in one NEWSETELEM.
fn elements_of(message: &Message<'_>) -> Vec<Element> {
    if message.kind != NEWSETELEM {
        return Vec::new();
    }
    let Some(list) = message.attrs(NFGENMSG).find(NFTA_SET_ELEM_LIST_ELEMENTS) else {
        return Vec::new();
    };
    list.attrs().map(|e| parse_element(&e)).collect()
}

/// What cannot be read is special.
fn parse_element(element: &Attr<'_>) -> Element {
    let (mut key, mut end, mut data, mut comment) = (None, None, None, None);
    let mut special = false;
    let value = |attr: &Attr<'_>| Some(attr.attrs().find(NFTA_DATA_VALUE)?.payload.to_vec());
    for attr in element.attrs() {
        match attr.kind {
            NFTA_SET_ELEM_KEY => key = value(&attr),
            NFTA_SET_ELEM_KEY_END => {
                end = value(&attr);
                special |= end.is_none();
            }
            NFTA_SET_ELEM_DATA => {
                data = parse_data(&attr);
                special |= data.is_none();
            }
            NFTA_SET_ELEM_OBJREF => data = attr.text().map(String::into_bytes),
            NFTA_SET_ELEM_USERDATA => comment = parse_comment(attr.payload),
            NFTA_SET_ELEM_FLAGS => special |= attr.be32().is_none_or(|flags| flags & SPECIAL != 0),
            NFTA_SET_ELEM_TIMEOUT
            | NFTA_SET_ELEM_EXPIRATION
            | NFTA_SET_ELEM_EXPR
            | NFTA_SET_ELEM_EXPRESSIONS => special = true,
            // What newer kernels may tell of every element.
            _ => {}
        }
    }
    special |= key.is_none();
    Element {
        key: key.unwrap_or_default(),
        end,
        data,
        comment,
        special,
    }
}

fn parse_data(data: &Attr<'_>) -> Option<Vec<u8>> {
    let attr = data.attrs().next()?;
    if attr.kind == NFTA_DATA_VALUE {
        return Some(attr.payload.to_vec());
    }
    let code = attr.attrs().find(NFTA_VERDICT_CODE)?.be32()?;
    let chain = attr.attrs().find(NFTA_VERDICT_CHAIN).and_then(|c| c.text());
    Some(verdict(code as i32, chain.as_deref().unwrap_or("")))
}

fn parse_comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*len))?;
        if *kind == UDATA_COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return std::str::from_utf8(text).ok().map(str::to_owned);
        }
        userdata = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_release_is_told_from_an_older_one() {
        for (release, shows) in [
            ("6.6.0", true),
            ("6.12.117+deb13-cloud-amd64", true),
            ("7.0-rc1", true),
            ("6.5.13-x", false),
            ("5.15.0", false),
            ("", false),
        ] {
            assert_eq!(super::release_shows_vlan_tags(release), shows, "{release}");
        }
    }
}
