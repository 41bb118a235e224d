//! Tables of kernel objects, and the only diff in the project.

use super::kind::{Kind, Owns};
use std::collections::BTreeMap;

/// The objects of one kind: wanted, or found.
pub type Table<K> = BTreeMap<<K as Kind>::Key, <K as Kind>::Attrs>;

/// One step from what is there to what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<K: Kind> {
    Create {
        key: K::Key,
        want: K::Attrs,
    },
    Update {
        key: K::Key,
        have: K::Attrs,
        want: K::Attrs,
    },
    Delete {
        key: K::Key,
        have: K::Attrs,
    },
}

/// How something that is wanted was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a, A> {
    Same,
    Other(&'a A),
    Missing,
}

/// The one comparison of what is wanted with what is there.
pub fn compare<'a, A: Eq>(want: &A, have: Option<&'a A>) -> Found<'a, A> {
    match have {
        Some(have) if have == want => Found::Same,
        Some(have) => Found::Other(have),
        None => Found::Missing,
    }
}

impl<K: Kind> Change<K> {
    pub fn key(&self) -> &K::Key {
        match self {
            Change::Create { key, .. }
            | Change::Update { key, .. }
            | Change::Delete { key, .. } => key,
        }
    }

    /// One line for the operator: what happens to which object.
    pub fn describe(&self) -> String {
        match self {
            Change::Create { key, want } => format!("+ {} {key} {want}", K::NAME),
            Change::Update { key, have, want } => format!("~ {} {key} {have} → {want}", K::NAME),
            Change::Delete { key, have } => format!("- {} {key} {have}", K::NAME),
        }
    }
}

/// The changes that turn `observed` into `desired`, in key order. Objects of a kind that owns
/// attributes only are never created or deleted: what is not there is waited for.
pub fn diff<K: Kind>(desired: &Table<K>, observed: &Table<K>) -> Vec<Change<K>> {
    let mut changes = Vec::new();
    let whole = matches!(K::OWNS, Owns::WholeObjects);
    for (key, have) in observed {
        if whole && !desired.contains_key(key) {
            changes.push(Change::Delete {
                key: key.clone(),
                have: have.clone(),
            });
        }
    }
    for (key, want) in desired {
        match compare(want, observed.get(key)) {
            Found::Same => {}
            Found::Other(have) => changes.push(Change::Update {
                key: key.clone(),
                have: have.clone(),
                want: want.clone(),
            }),
            Found::Missing if whole => changes.push(Change::Create {
                key: key.clone(),
                want: want.clone(),
            }),
            Found::Missing => {}
        }
    }
    changes
}
