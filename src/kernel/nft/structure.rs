//! A digest of what a table is made of, to notice that somebody has changed it by hand. Elements of sets that rules
//! or others may change do not count, nor does what changes by itself (counters, quotas, timestamps, use counts).
//!
//! Nothing counts that differs between two tables made by the same text: neither the table's own name, nor handles
//! (`replace rule` leaves them as they are, anyway; seen on Linux 6.18), nor the order of chains and sets. So what
//! there should be is known beforehand, from a table of another name.
//!
//! What counts is listed, not what does not: newer kernels add attributes, some of which change
//! by themselves (such as the number of elements).

use sha2::{Digest, Sha256};

use super::{Family, NFGENMSG, NFTA_LIST_ELEM, NFTA_SET_FLAGS, Nft, SUBSYS, check_names, header};
use crate::kernel::KernelError;
use crate::kernel::socket::DUMP_ATTEMPTS;
use crate::kernel::tlv::{Attr, Attrs, Message, Writer};

/// One kind of object in a table.
struct Kind {
    /// `NFT_MSG_GET*`; the reply's type is `NFT_MSG_NEW*`.
    get: u16,
    new: u16,
    /// Its attribute with its name; of a rule, with its chain's.
    name: u16,
    /// Its attributes that count, in ascending order.
    counts: &'static [u16],
}

/// `NFTA_RULE_EXPRESSIONS`, of the rule kind only.
const EXPRESSIONS: u16 = 4;

const KINDS: [Kind; 5] = [
    // Name, hook, policy, type, flags, userdata.
    Kind {
        get: 4,
        new: 3,
        name: 3,
        counts: &[3, 4, 5, 7, 10, 12],
    },
    // Chain, expressions, compat, userdata.
    Kind {
        get: RULE,
        new: 6,
        name: 2,
        counts: &[2, EXPRESSIONS, 5, 7],
    },
    // Name, flags, key type and length, data type and length, policy, description, timeout,
    // garbage collection interval, userdata, object type.
    Kind {
        get: SET,
        new: 9,
        name: 2,
        counts: &[2, NFTA_SET_FLAGS, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15],
    },
    // Objects: name, type.
    Kind {
        get: 19,
        new: 18,
        name: 2,
        counts: &[2, 3],
    },
    // Flow tables: name, hook, flags.
    Kind {
        get: 23,
        new: 22,
        name: 2,
        counts: &[2, 3, 7],
    },
];

/// The attribute with the table's name, of each kind.
const NFTA_TABLE: u16 = 1;
const RULE: u16 = 7;
const SET: u16 = 10;
const NFT_SET_ANONYMOUS: u32 = 1;
const NFT_SET_CONSTANT: u32 = 2;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_QUOTA_CONSUMED: u16 = 4;

/// What a table is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Structure {
    /// SHA-256 of its chains, rules (in order), sets (with their elements if these are constant), named objects and
    /// flow tables.
    pub digest: [u8; 32],
    /// `NFT_TABLE_F_*`, such as dormant.
    pub flags: u32,
}

impl Nft {
    /// What there is of a table, from one generation. The digest differs after anything was added, removed or
    /// replaced by another; it stays the same whatever traffic and elements do, and is that of every table which the
    /// same text makes. None if there is no such table.
    pub fn structure(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Option<Structure>, KernelError> {
        let attempt = format_args!("reading the structure of table {} {table}", family.name());
        check_names(attempt, &[table])?;
        for _ in 0..DUMP_ATTEMPTS {
            let before = self.generation()?;
            let found = self.structure_once(attempt, family, table)?;
            if self.generation()? == before {
                return Ok(found);
            }
        }
        Err(KernelError::ours(
            attempt,
            libc::EINTR,
            "it changed during every attempt to read it",
        ))
    }

    fn structure_once(
        &mut self,
        attempt: std::fmt::Arguments<'_>,
        family: Family,
        table: &str,
    ) -> Result<Option<Structure>, KernelError> {
        let Some(flags) = self.table_flags(family, table)? else {
            return Ok(None);
        };
        let mut hash = Sha256::new();
        let mut constant = Vec::new();
        for kind in &KINDS {
            let content = |m: &mut Writer| {
                header(m, family.number());
                // Chains and flow tables cannot be filtered; for them this is passed over.
                m.text(NFTA_TABLE, table);
            };
            let mut objects = self.socket.dump(attempt, SUBSYS | kind.get, content, |m| {
                kind.canonical(m, table)
            })?;
            // Stable: rules stay in their order within their chain.
            objects.sort_by(|one, other| one.name.cmp(&other.name));
            put(&mut hash, &objects.len().to_be_bytes());
            for object in objects {
                put(&mut hash, &object.bytes);
                if object.is_constant {
                    constant.push(object.name);
                }
            }
        }
        for set in constant {
            self.put_elements(&mut hash, family, table, &set)?;
        }
        Ok(Some(Structure {
            digest: hash.finalize().into(),
            flags,
        }))
    }

    /// Elements in no order that means anything.
    fn put_elements(
        &mut self,
        hash: &mut Sha256,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<(), KernelError> {
        let elements = self.elements(family, table, set)?.unwrap_or_default();
        let mut elements: Vec<String> = elements.iter().map(|one| format!("{one:?}")).collect();
        elements.sort_unstable();
        put(hash, set.as_bytes());
        put(hash, &elements.len().to_be_bytes());
        for element in elements {
            put(hash, element.as_bytes());
        }
        Ok(())
    }
}

/// Hashes a value with its length, so that no two lists of values are alike.
fn put(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(bytes.len().to_be_bytes());
    hash.update(bytes);
}

/// What counts of one object.
struct Canonical {
    name: String,
    bytes: Vec<u8>,
    /// It is a set whose elements stay as they are: nobody but its maker adds any.
    is_constant: bool,
}

impl Kind {
    /// What counts of one object of the table; None for another table's.
    fn canonical(&self, message: &Message<'_>, table: &str) -> Option<Canonical> {
        let attrs = message.attrs(NFGENMSG);
        if message.kind != SUBSYS | self.new || attrs.find(NFTA_TABLE)?.text()? != table {
            return None;
        }
        let mut bytes = Vec::new();
        for kind in self.counts {
            // The same in every message of a dump; attributes of one type do not repeat.
            let Some(attr) = attrs.find(*kind) else {
                continue;
            };
            if self.get == RULE && *kind == EXPRESSIONS {
                add(&mut bytes, *kind, &expressions(attr.attrs()));
            } else {
                add(&mut bytes, *kind, attr.payload);
            }
        }
        let flags = attrs.find(NFTA_SET_FLAGS).and_then(|flags| flags.be32());
        let constant = NFT_SET_ANONYMOUS | NFT_SET_CONSTANT;
        let name = attrs.find(self.name).and_then(|name| name.text());
        Some(Canonical {
            name: name.unwrap_or_default(),
            bytes,
            is_constant: self.get == SET && flags.is_some_and(|flags| flags & constant != 0),
        })
    }
}

fn add(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload.len().to_be_bytes());
    bytes.extend(payload);
}

fn expressions(list: Attrs<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for expression in list.filter(|a| a.kind == NFTA_LIST_ELEM) {
        let name = expression
            .attrs()
            .find(NFTA_EXPR_NAME)
            .and_then(|a| a.text());
        let name = name.unwrap_or_default();
        add(&mut bytes, NFTA_EXPR_NAME, name.as_bytes());
        if let Some(data) = expression.attrs().find(NFTA_EXPR_DATA) {
            add(&mut bytes, NFTA_EXPR_DATA, &settled(&name, &data));
        }
    }
    bytes
}

/// An expression's data without its runtime state.
fn settled(name: &str, data: &Attr<'_>) -> Vec<u8> {
    match name {
        // Nothing but state: packets and bytes; when it last matched.
        "counter" | "last" => Vec::new(),
        "quota" => {
            let mut bytes = Vec::new();
            for attr in data.attrs().filter(|a| a.kind != NFTA_QUOTA_CONSUMED) {
                add(&mut bytes, attr.kind, attr.payload);
            }
            bytes
        }
        // A limit's tokens and a connection limit's connections are not dumped. What a dynamic set
        // makes of its template is in the elements.
        _ => data.payload.to_vec(),
    }
}
