//! A digest of a table's structure, to notice that somebody has changed a rule by hand. Elements
//! do not count, nor does what changes by itself (counters, quotas, timestamps, use counts).
//!
//! Handles count: they are never used twice, so that also something replaced by its like differs.
//! What counts is listed, not what does not: newer kernels add attributes, some of which change
//! by themselves (such as the number of elements).

use sha2::{Digest, Sha256};

use super::{Family, NFGENMSG, NFTA_LIST_ELEM, Nft, SUBSYS, check_names, header};
use crate::kernel::KernelError;
use crate::kernel::socket::DUMP_ATTEMPTS;
use crate::kernel::tlv::{Attr, Attrs, Message, Writer};

/// One kind of object in a table.
struct Kind {
    /// `NFT_MSG_GET*`; the reply's type is `NFT_MSG_NEW*`.
    get: u16,
    new: u16,
    /// Its attributes that count, in ascending order. The first names the table.
    counts: &'static [u16],
}

/// `NFTA_RULE_EXPRESSIONS`, of the rule kind only.
const EXPRESSIONS: u16 = 4;

const TABLE: Kind = Kind {
    get: 1,
    new: 0,
    // Name, flags, handle, userdata.
    counts: &[1, 2, 4, 6],
};

const KINDS: [Kind; 5] = [
    // Table, handle, name, hook, policy, type, flags, userdata.
    Kind {
        get: 4,
        new: 3,
        counts: &[1, 2, 3, 4, 5, 7, 10, 12],
    },
    // Table, chain, handle, expressions, compat, userdata.
    Kind {
        get: 7,
        new: 6,
        counts: &[1, 2, 3, EXPRESSIONS, 5, 7],
    },
    // Table, name, flags, key type and length, data type and length, policy, description, timeout,
    // garbage collection interval, userdata, object type, handle.
    Kind {
        get: 10,
        new: 9,
        counts: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16],
    },
    // Objects: table, name, type, handle.
    Kind {
        get: 19,
        new: 18,
        counts: &[1, 2, 3, 6],
    },
    // Flow tables: table, name, hook, handle, flags.
    Kind {
        get: 23,
        new: 22,
        counts: &[1, 2, 3, 5, 7],
    },
];

const RULE: u16 = 7;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_QUOTA_CONSUMED: u16 = 4;

impl Nft {
    /// A SHA-256 digest of the table itself, its chains, rules (in order), sets, named objects and
    /// flow tables, from one generation. Differs after any of them was added, removed or replaced,
    /// also by its like; stays the same whatever traffic and elements do. None if there is no such
    /// table.
    pub fn structure(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Option<[u8; 32]>, KernelError> {
        let attempt = format_args!("reading the structure of table {} {table}", family.name());
        check_names(attempt, &[table])?;
        for _ in 0..DUMP_ATTEMPTS {
            let before = self.generation()?;
            let digest = self.structure_once(attempt, family, table)?;
            if self.generation()? == before {
                return Ok(digest);
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
    ) -> Result<Option<[u8; 32]>, KernelError> {
        let request = |m: &mut Writer| header(m, family.number());
        let own = self.socket.ask(
            attempt,
            SUBSYS | TABLE.get,
            |m| {
                request(m);
                m.text(1, table);
            },
            |m| TABLE.canonical(m, table),
        );
        let own = match own {
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        };
        let mut hash = Sha256::new();
        put(&mut hash, &own.unwrap_or_default());
        for kind in &KINDS {
            let content = |m: &mut Writer| {
                request(m);
                // Chains and flow tables cannot be filtered; for them this is passed over.
                m.text(kind.counts[0], table);
            };
            let objects = self.socket.dump(attempt, SUBSYS | kind.get, content, |m| {
                kind.canonical(m, table)
            })?;
            put(&mut hash, &objects.len().to_be_bytes());
            for object in objects {
                put(&mut hash, &object);
            }
        }
        Ok(Some(hash.finalize().into()))
    }
}

/// Hashes a value with its length, so that no two lists of values are alike.
fn put(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(bytes.len().to_be_bytes());
    hash.update(bytes);
}

impl Kind {
    /// What counts of one object of the table, as bytes; None for another table's.
    fn canonical(&self, message: &Message<'_>, table: &str) -> Option<Vec<u8>> {
        let attrs = message.attrs(NFGENMSG);
        if message.kind != SUBSYS | self.new || attrs.find(self.counts[0])?.text()? != table {
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
        Some(bytes)
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
