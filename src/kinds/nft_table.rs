//! The tables `bridge lxmesh`, `inet lxmesh` and `arp lxmesh`: sets, chains and rules, from templates. They are
//! replaced as a whole, with all elements, in one transaction, so that there is never a moment
//! with half a policy. Nothing is merged into a table that another has made.
//!
//! How it is known that nobody has changed a rule, `nft_whole.rs` says.

use super::nft_element::{self, NftElement};
use super::nft_set::TABLE;
use super::nft_whole::{Attrs, Whole};
use super::{KindError, Look};
use crate::kernel::nft::Family;
use crate::kernel::{Kernel, fault};
use crate::model::{Inputs, Kind, Owns, Table};
use std::fmt;
use std::sync::LazyLock;

/// The tables, as one object.
#[derive(Debug)]
pub struct NftTable;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key;

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TABLE)
    }
}

const WHOLE: Whole = Whole {
    name: TABLE,
    reference: "lxmesh_reference",
    families: &FAMILIES,
};

/// The set of a [`Gate`].
const GATE: &str = "open_gate";

/// Each has a table of ours.
const FAMILIES: [Family; 3] = [Family::Bridge, Family::Inet, Family::Arp];

const SETS: &str = include_str!("../../templates/datapath-sets.nft");
const RULES: &str = include_str!("../../templates/datapath-rules.nft");

/// Whether the rules are loaded, or, in builds for tests on kernels that lack the bridge family's
/// conntrack and meta expressions, only the sets.
#[cfg(feature = "test-hooks")]
fn rules() -> &'static str {
    if std::env::var_os("LXMESH_TEST_SETS_ONLY").is_some() {
        ""
    } else {
        RULES
    }
}
#[cfg(not(feature = "test-hooks"))]
fn rules() -> &'static str {
    RULES
}

/// Sets, chains and rules without elements.
static BODY: LazyLock<String> = LazyLock::new(|| format!("{SETS}{}", rules()));

impl Kind for NftTable {
    const NAME: &'static str = "nft_table";
    const OWNS: Owns = Owns::WholeObjects;
    const GUARDS: bool = true;
    type Key = Key;
    type Attrs = Attrs;

    fn derive(_: &Inputs<'_>) -> Table<Self> {
        wanted()
    }
}

/// The tables as they should be, whatever the inputs.
pub fn wanted() -> Table<NftTable> {
    Table::<NftTable>::from([(Key, Attrs::wanted(&BODY))])
}

/// Reads what is loaded.
pub fn observe(look: &mut Look<'_>) -> Result<Table<NftTable>, KindError> {
    let loaded = WHOLE.observe(look.kernel)?;
    Ok(loaded.map(|attrs| (Key, attrs)).into_iter().collect())
}

/// Whether there are tables at all, and none is dormant: a short look, for whoever is to decide whether a longer
/// one can wait.
pub fn are_in_force(kernel: &mut Kernel) -> bool {
    FAMILIES.iter().all(|family| is_in_force(kernel, *family))
}

fn is_in_force(kernel: &mut Kernel, family: Family) -> bool {
    matches!(kernel.nft.table_flags(family, TABLE), Ok(Some(0)))
}

/// Replaces the tables with the given elements, in one transaction.
pub fn replace(kernel: &mut Kernel, elements: &Table<NftElement>) -> Result<(), KindError> {
    let Gate { made, opened } = gate(kernel)?;
    let mut before = WHOLE.removal();
    let mut there = Ok(());
    if !made.is_empty() {
        fault::point();
        there = kernel.nft.run(&made);
    }
    match there {
        Ok(()) => before.insert_str(0, &opened),
        // Without it some packets are lost, and none passes that should not.
        Err(error) => tracing::warn!(%error, "packets may be lost while tables are replaced"),
    }
    load(kernel, &before, elements)
}

/// What lets the old tables pass everything from the very moment on that the new ones are in force.
/// The kernel makes the elements of old maps void at that moment and takes the old chains off their
/// hooks a little later: what meets them in between finds no verdict, and is dropped. A set has its
/// new element from that moment on, too, and keeps it.
#[derive(Debug, Default)]
struct Gate {
    /// A transaction before: a set without elements, and a rule in front of all others of each
    /// chain that has a hook. Changes nothing.
    made: String,
    /// The beginning of the transaction that replaces the tables.
    opened: String,
}

fn gate(kernel: &mut Kernel) -> Result<Gate, KindError> {
    let mut gate = Gate::default();
    for family in FAMILIES {
        let chains = kernel.nft.hooked_chains(family, TABLE)?;
        if chains.is_empty() {
            continue;
        }
        let of = format!("{} {TABLE}", family.name());
        gate.opened += &format!("add element {of} {GATE} {{ 0x0 }}\n");
        if kernel.nft.elements(family, TABLE, GATE)?.is_some() {
            // From a replacement that failed.
            continue;
        }
        gate.made += &format!("add set {of} {GATE} {{ type mark; }}\n");
        for chain in chains {
            // Any packet has a mark, and of any mark this leaves 0.
            let rule = format!("meta mark and 0x0 @{GATE} accept");
            gate.made += &format!("insert rule {of} {chain} {rule}\n");
        }
    }
    Ok(gate)
}

/// Makes the tables where there are none. Without a deletion the kernel waits for nobody. If another has
/// made one meanwhile, nothing is merged into it.
pub fn create(kernel: &mut Kernel, elements: &Table<NftElement>) -> Result<(), KindError> {
    let Err(error) = load(kernel, &WHOLE.creation(), elements) else {
        return Ok(());
    };
    match WHOLE.observe(kernel)? {
        Some(_) => replace(kernel, elements),
        None => Err(error),
    }
}

fn load(kernel: &mut Kernel, before: &str, elements: &Table<NftElement>) -> Result<(), KindError> {
    let elements = nft_element::script(elements);
    Ok(WHOLE.load(kernel, before, &BODY, &elements)?)
}

/// Removes the tables.
pub fn remove(kernel: &mut Kernel) -> Result<(), KindError> {
    Ok(kernel.nft.run(&(WHOLE.removal() + &WHOLE.tried_out()))?)
}

/// Asks the kernel whether it takes the ruleset, changing nothing. The error names what nft and
/// the kernel do not know.
pub fn check(kernel: &mut Kernel) -> Result<(), KindError> {
    Ok(kernel
        .nft
        .check(&[&WHOLE.removal(), BODY.as_str()].concat())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While a ruleset is loaded its chains have the policy accept, and the old chains let everything pass.
    #[test]
    fn a_chain_whose_policy_is_to_drop_ends_with_a_rule_that_does() {
        let chains: Vec<&str> = BODY
            .split("\tchain ")
            .filter(|chain| chain.contains("policy drop;"))
            .collect();
        assert_eq!(chains.len(), 4);
        for chain in chains {
            let (rules, _) = chain.split_once("\n\t}").expect("a chain has an end");
            assert!(rules.ends_with("\n\t\tdrop"), "{rules}");
        }
    }

    /// The kernel makes room for as many, in 8 bytes and more each, and walks through it at each look for what is over.
    #[test]
    fn sets_that_rules_fill_are_no_larger_than_they_need_be_and_looked_through_seldom() {
        let closed = include_str!("../../templates/firewall/closed.nft");
        let is_dynamic = |line: &&str| line.contains("flags dynamic");
        for (text, at_least) in [(SETS, 20), (closed, 2)] {
            assert!(text.lines().filter(is_dynamic).count() >= at_least);
        }
        let dynamic = SETS.lines().chain(closed.lines()).filter(is_dynamic);
        for set in dynamic {
            let (_, size) = set.split_once(" size ").expect(set);
            let (size, _) = size.split_once(';').expect(set);
            assert!(size.parse::<u32>().expect(set) <= 32768, "{set}");
            assert_eq!(
                set.contains("timeout"),
                set.contains("gc-interval"),
                "{set}"
            );
        }
    }
}
