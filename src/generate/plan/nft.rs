//! What the packet filter's text makes in a table that it does not replace as a whole. Such things stay when a later
//! text no longer has them, a chain with its hook.

use std::collections::BTreeSet;
use std::fmt;

/// A chain, set, map or counter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Declared {
    pub family: String,
    pub table: String,
    /// As nft calls it.
    pub kind: String,
    pub name: String,
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Declared {
            family,
            table,
            kind,
            name,
        } = self;
        write!(f, "{kind} {family} {table} {name}")
    }
}

/// What the lines `add KIND FAMILY TABLE NAME` make.
pub fn declared(text: &Option<String>) -> BTreeSet<Declared> {
    let lines = text.iter().flat_map(|text| text.lines());
    lines
        .filter_map(
            |line| match line.split_whitespace().collect::<Vec<_>>()[..] {
                [
                    "add",
                    kind @ ("chain" | "set" | "map" | "counter"),
                    family,
                    table,
                    name,
                    ..,
                ] => Some(Declared {
                    family: family.into(),
                    table: table.into(),
                    kind: kind.into(),
                    name: name.into(),
                }),
                _ => None,
            },
        )
        .collect()
}
