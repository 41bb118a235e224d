//! One atomic batch of element changes: grouped into few large messages, sent in one call, and
//! its errors traced back to the change that caused them.

use std::collections::HashMap;
use std::ops::Range;

use super::{
    DELSETELEM, Element, ElementOp, Family, GETSET, NAME_BYTES, NEWSET, NEWSETELEM, NFGENMSG,
    NFT_SET_OBJECT, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_LIST_ELEM, NFTA_SET_DATA_TYPE,
    NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_OBJREF, NFTA_SET_ELEM_USERDATA, NFTA_SET_FLAGS,
    NFTA_SET_NAME, NFTA_SET_TABLE, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE, Nft, UDATA_COMMENT,
    VERDICT, header, write_key,
};
use crate::kernel::KernelError;
use crate::kernel::tlv::{
    ATTR_HEADER, HEADER, Messages, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NLMSG_ERROR, Writer,
};

const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u8 = 10;
/// `NFT_DATA_VALUE_MAXLEN`: five concatenated parts fit easily.
pub(super) const VALUE_BYTES: usize = 64;
/// What nft itself allows (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT_BYTES: usize = 128;
/// Elements' bytes per message: an attribute ends at 64 KiB, and one element has less than 1 KiB.
const NEST_BYTES: usize = 60_000;

/// Why a transaction was refused; nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source}")]
pub struct TransactionError {
    /// The first change at fault, if the kernel tells.
    pub index: Option<usize>,
    pub source: KernelError,
}

/// A set, as a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct SetName {
    family: Family,
    table: &'static str,
    set: &'static str,
}

/// What a map's data is on the wire.
#[derive(Clone, Copy)]
enum DataKind {
    Value,
    Verdict,
    Object,
}

/// Changes of one set in the order to send them: runs of deletes and adds in turn. A change goes
/// into the first run of its sort that is not before the last change of the same key, so that a
/// thousand replaced elements make two runs and not two thousand.
#[derive(Default)]
struct Runs<'a> {
    /// Even runs delete, odd ones add.
    runs: Vec<Vec<usize>>,
    last: HashMap<(&'a [u8], Option<&'a [u8]>), usize>,
}

impl<'a> Runs<'a> {
    fn push(&mut self, index: usize, key: &'a [u8], end: Option<&'a [u8]>, add: bool) {
        let (key, sort) = ((key, end), usize::from(add));
        let run = match self.last.get(&key) {
            None => sort,
            Some(last) => last + usize::from(last % 2 != sort),
        };
        self.last.insert(key, run);
        if self.runs.len() <= run {
            self.runs.resize_with(run + 1, Vec::new);
        }
        self.runs[run].push(index);
    }
}

/// One message of the batch: which changes it holds, and where.
struct Sent {
    name: SetName,
    add: bool,
    /// Index of the change, and its element's place in the message.
    changes: Vec<(usize, Range<usize>)>,
}

impl Nft {
    /// Makes all changes or none. Changes of one element keep their order; others may not.
    ///
    /// One system call, whatever the number of changes.
    pub fn transaction(&mut self, ops: &[ElementOp]) -> Result<(), TransactionError> {
        if ops.is_empty() {
            return Ok(());
        }
        let (names, mut sets) = (order(ops), HashMap::new());
        for (i, op) in ops.iter().enumerate() {
            check(op).map_err(|text| TransactionError {
                index: Some(i),
                source: KernelError::ours(describe(op), libc::EINVAL, text),
            })?;
            if let ElementOp::Add {
                element: Element { data: Some(_), .. },
                ..
            } = op
            {
                let name = name_of(op);
                if let std::collections::hash_map::Entry::Vacant(vacant) = sets.entry(name) {
                    let kind = self.data_kind(name);
                    vacant.insert(kind.map_err(|source| TransactionError {
                        index: Some(i),
                        source,
                    })?);
                }
            }
        }
        let (writer, sent, first) = self.write(ops, &names, &sets);
        let failed = |errno| TransactionError {
            index: None,
            source: KernelError::from_errno(
                format_args!("changing {} set elements", ops.len()),
                errno,
            ),
        };
        self.socket.send(writer.as_bytes()).map_err(failed)?;
        self.outcome(ops, &sent, first, failed)
    }

    fn write(
        &mut self,
        ops: &[ElementOp],
        names: &[(SetName, Runs<'_>)],
        sets: &HashMap<SetName, DataKind>,
    ) -> (Writer, Vec<Sent>, u32) {
        // Begin, end and at most one message per change.
        let first = self.socket.reserve(ops.len() + 2);
        let mut writer = Writer::with_capacity(1024 + ops.len() * 96);
        marker(&mut writer, NFNL_MSG_BATCH_BEGIN, first);
        let mut sent: Vec<Sent> = Vec::new();
        let mut last = 0;
        for (name, runs) in names {
            for (run, indexes) in runs.runs.iter().enumerate() {
                let kind = sets.get(name).copied().unwrap_or(DataKind::Value);
                let mut indexes = indexes.iter().copied().peekable();
                while indexes.peek().is_some() {
                    let seq = first + 1 + sent.len() as u32;
                    last = writer.len();
                    let add = run % 2 == 1;
                    let changes =
                        write_message(&mut writer, name, add, seq, kind, ops, &mut indexes);
                    sent.push(Sent {
                        name: *name,
                        add,
                        changes,
                    });
                }
            }
        }
        // An acknowledgement of BATCH_END itself exists from 6.10 only. That of the last message is
        // sent when the whole batch has been decided (nfnetlink_rcv_batch()).
        writer.add_flags(last, NLM_F_ACK);
        marker(
            &mut writer,
            NFNL_MSG_BATCH_END,
            first + 1 + sent.len() as u32,
        );
        (writer, sent, first)
    }

    fn outcome(
        &mut self,
        ops: &[ElementOp],
        sent: &[Sent],
        first: u32,
        failed: impl Fn(rustix::io::Errno) -> TransactionError,
    ) -> Result<(), TransactionError> {
        let mut failure: Option<TransactionError> = None;
        loop {
            for message in Messages(self.socket.receive().map_err(&failed)?) {
                let i = message.seq.wrapping_sub(first) as usize;
                if message.kind != NLMSG_ERROR || i > sent.len() {
                    continue;
                }
                let ack = message.ack();
                if ack.errno != 0 && failure.is_none() {
                    failure = Some(if i == 0 {
                        // The batch as a whole: no permission, no memory, a failed commit.
                        let attempt = format_args!("changing {} set elements", ops.len());
                        let source = KernelError::new(attempt, Some(ack.errno), ack.text.clone());
                        TransactionError {
                            index: None,
                            source,
                        }
                    } else {
                        blame(ops, &sent[i - 1], &ack)
                    });
                }
                // A failed commit is told before the list of acknowledgements; failing to make
                // that list is told instead of it. In both cases nothing was done.
                if i == sent.len() || (i == 0 && ack.errno != 0) {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks what a map maps to. ENOENT if there is no such table or set.
    fn data_kind(&mut self, name: SetName) -> Result<DataKind, KernelError> {
        let SetName { family, table, set } = name;
        let attempt = format_args!("reading set {} {table} {set}", family.name());
        let found = self.socket.ask(
            attempt,
            GETSET,
            |m| {
                header(m, family.number());
                m.text(NFTA_SET_TABLE, table);
                m.text(NFTA_SET_NAME, set);
            },
            |m| {
                let number = |kind| m.attrs(NFGENMSG).find(kind).and_then(|a| a.be32());
                let object = number(NFTA_SET_FLAGS)? & NFT_SET_OBJECT != 0;
                (m.kind == NEWSET).then_some(match number(NFTA_SET_DATA_TYPE) {
                    _ if object => DataKind::Object,
                    Some(VERDICT) => DataKind::Verdict,
                    _ => DataKind::Value,
                })
            },
        )?;
        found.ok_or_else(|| KernelError::ours(attempt, libc::EPROTO, "the reply is not a set"))
    }
}

fn name_of(op: &ElementOp) -> SetName {
    let (ElementOp::Add {
        family, table, set, ..
    }
    | ElementOp::Delete {
        family, table, set, ..
    }) = op;
    SetName {
        family: *family,
        table,
        set,
    }
}

/// Sets in the order of their first change, each with its runs.
fn order(ops: &[ElementOp]) -> Vec<(SetName, Runs<'_>)> {
    let mut sets: Vec<(SetName, Runs<'_>)> = Vec::new();
    let mut place = HashMap::new();
    for (i, op) in ops.iter().enumerate() {
        let name = name_of(op);
        let at = *place.entry(name).or_insert_with(|| {
            sets.push((name, Runs::default()));
            sets.len() - 1
        });
        let runs = &mut sets[at].1;
        match op {
            ElementOp::Add { element, .. } => {
                runs.push(i, &element.key, element.end.as_deref(), true);
            }
            ElementOp::Delete { key, end, .. } => runs.push(i, key, end.as_deref(), false),
        }
    }
    sets
}

/// What the message format cannot carry.
fn check(op: &ElementOp) -> Result<(), &'static str> {
    let SetName {
        family: _,
        table,
        set,
    } = name_of(op);
    if table.len() >= NAME_BYTES || set.len() >= NAME_BYTES {
        return Err("a name has more than 255 bytes");
    }
    let (key, end, element) = match op {
        ElementOp::Add { element, .. } => (&element.key, &element.end, Some(element)),
        ElementOp::Delete { key, end, .. } => (key, end, None),
    };
    if end.as_ref().is_some_and(|end| end.len() != key.len()) {
        return Err("the ends of a range differ in length");
    }
    if key.len() > VALUE_BYTES {
        return Err("the key has more than 64 bytes");
    }
    let Some(Element {
        key: _,
        end: _,
        data,
        comment,
        special,
    }) = element
    else {
        return Ok(());
    };
    if *special {
        return Err("the element is more than a key and its data");
    }
    if data.as_ref().is_some_and(|d| d.len() >= NAME_BYTES) {
        return Err("the data has more than 255 bytes");
    }
    if comment.as_ref().is_some_and(|c| c.len() > COMMENT_BYTES) {
        return Err("the comment has more than 128 bytes");
    }
    Ok(())
}

/// BATCH_BEGIN or BATCH_END, for the nf_tables subsystem (in `res_id`, big-endian).
fn marker(writer: &mut Writer, kind: u16, seq: u32) {
    writer.message(kind, NLM_F_REQUEST, seq, |m| {
        m.raw(&[0, 0, 0, NFNL_SUBSYS_NFTABLES]);
    });
}

/// Writes as many of the changes as fit one message.
fn write_message(
    writer: &mut Writer,
    name: &SetName,
    add: bool,
    seq: u32,
    kind: DataKind,
    ops: &[ElementOp],
    indexes: &mut impl Iterator<Item = usize>,
) -> Vec<(usize, Range<usize>)> {
    let (message, flags) = if add {
        (NEWSETELEM, NLM_F_CREATE)
    } else {
        (DELSETELEM, 0)
    };
    let start = writer.len();
    let mut changes = Vec::new();
    writer.message(message, NLM_F_REQUEST | flags, seq, |m| {
        header(m, name.family.number());
        m.text(NFTA_SET_ELEM_LIST_TABLE, name.table);
        m.text(NFTA_SET_ELEM_LIST_SET, name.set);
        m.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
            let nest = list.len();
            for i in indexes {
                let from = list.len() - start;
                list.nest(NFTA_LIST_ELEM, |e| match &ops[i] {
                    ElementOp::Add { element, .. } => write_element(e, element, kind),
                    ElementOp::Delete { key, end, .. } => write_key(e, key, end.as_deref()),
                });
                changes.push((i, from..list.len() - start));
                if list.len() - nest > NEST_BYTES {
                    break;
                }
            }
        });
    });
    changes
}

fn write_element(writer: &mut Writer, element: &Element, kind: DataKind) {
    let Element {
        key,
        end,
        data,
        comment,
        special: _,
    } = element;
    write_key(writer, key, end.as_deref());
    match (data, kind) {
        (None, _) => {}
        (Some(data), DataKind::Value) => {
            writer.nest(NFTA_SET_ELEM_DATA, |d| d.attr(NFTA_DATA_VALUE, data));
        }
        (Some(data), DataKind::Object) => {
            writer.text(NFTA_SET_ELEM_OBJREF, &String::from_utf8_lossy(data));
        }
        (Some(data), DataKind::Verdict) => {
            let (code, chain) = data.split_at(data.len().min(4));
            writer.nest(NFTA_SET_ELEM_DATA, |d| {
                d.nest(NFTA_DATA_VERDICT, |v| {
                    v.attr(NFTA_VERDICT_CODE, code);
                    if !chain.is_empty() {
                        v.text(NFTA_VERDICT_CHAIN, &String::from_utf8_lossy(chain));
                    }
                });
            });
        }
    }
    if let Some(comment) = comment {
        let len = u8::try_from(comment.len() + 1).expect("checked to have at most 128 bytes");
        let userdata = [&[UDATA_COMMENT, len], comment.as_bytes(), &[0]].concat();
        writer.attr(NFTA_SET_ELEM_USERDATA, &userdata);
    }
}

/// Finds the change whose element the kernel's offset points at (or into).
fn blame(ops: &[ElementOp], sent: &Sent, ack: &crate::kernel::tlv::Ack) -> TransactionError {
    let Sent { name, add, changes } = sent;
    let at = ack.offset.map(|o| o as usize);
    let index = match changes.as_slice() {
        // Also if the table or set is at fault: then every change of the message is.
        [(only, _)] => Some(*only),
        _ => at.and_then(|at| {
            changes
                .iter()
                .find(|(_, place)| place.contains(&at))
                .map(|(i, _)| *i)
        }),
    };
    let in_names = at.is_some_and(|at| at < changes[0].1.start - ATTR_HEADER && at >= HEADER);
    let attempt = match index {
        Some(i) if !in_names => describe(&ops[i]),
        _ => {
            let verb = if *add {
                "adding elements to"
            } else {
                "removing elements from"
            };
            format!(
                "{verb} set {} {} {}",
                name.family.name(),
                name.table,
                name.set
            )
        }
    };
    TransactionError {
        // A set that is not there is the fault of the first change that wants it.
        index: index.or(if in_names {
            changes.first().map(|(i, _)| *i)
        } else {
            None
        }),
        source: KernelError::new(attempt, Some(ack.errno), ack.text.clone()),
    }
}

fn describe(op: &ElementOp) -> String {
    let SetName { family, table, set } = name_of(op);
    let (verb, key, end, comment) = match op {
        ElementOp::Add { element, .. } => {
            let comment = element.comment.as_deref();
            ("adding to", &element.key, &element.end, comment)
        }
        ElementOp::Delete { key, end, .. } => ("removing from", key, end, None),
    };
    let shown = |key: &[u8]| -> String {
        let bytes = key.iter().take(VALUE_BYTES);
        bytes.map(|b| format!("{b:02x}")).collect()
    };
    let mut hex = shown(key);
    if let Some(end) = end {
        hex = format!("{hex} to {}", shown(end));
    }
    let comment = comment.map(|c| format!(" ({c})")).unwrap_or_default();
    format!(
        "{verb} set {} {table} {set} element {hex}{comment}",
        family.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(ops: &[(&str, bool)]) -> Vec<Vec<usize>> {
        let mut runs = Runs::default();
        for (i, (key, add)) in ops.iter().enumerate() {
            runs.push(i, key.as_bytes(), None, *add);
        }
        runs.runs
    }

    #[test]
    fn replaced_elements_make_one_run_of_deletes_and_one_of_adds() {
        let all = [("a", false), ("a", true), ("b", false), ("b", true)];
        assert_eq!(runs(&all), [[0, 2], [1, 3]]);
    }

    #[test]
    fn changes_of_one_element_keep_their_order() {
        let all = [
            ("a", true),
            ("a", false),
            ("b", true),
            ("a", true),
            ("a", true),
        ];
        assert_eq!(runs(&all), [vec![], vec![0, 2], vec![1], vec![3, 4]]);
    }
}
