//! The tables `bridge lxmesh`, `inet lxmesh` and `arp lxmesh`: sets, chains and rules, from templates. They are
//! replaced as a whole, with all elements, in one transaction, so that there is never a moment
//! with half a policy.
//!
//! To know without any state of our own that nobody has changed a rule, the digest of what the
//! kernel holds right after loading is kept in the kernel, as the comment of the one element of
//! the set `stamp`.

use super::nft_element::{self, NftElement};
use super::nft_set::{Bytes, Set, TABLE, Value};
use super::{KindError, Look};
use crate::kernel::nft::{Element, ElementOp, Family, Nft};
use crate::kernel::{Kernel, KernelError, fault};
use crate::model::{Inputs, Kind, Owns, Table};
use sha2::{Digest, Sha256};
use std::fmt;

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    /// First 16 hexadecimal digits of the SHA-256 of the text that was loaded.
    pub text: String,
    /// False if chains, rules or sets have been changed since.
    pub intact: bool,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.intact { "intact" } else { "altered" };
        write!(f, "ruleset {} {state}", self.text)
    }
}

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
fn body() -> String {
    format!("{SETS}{}", rules())
}

/// The same in place of whatever is there. Adding before deleting makes the deletion succeed
/// whether or not the table is there (`destroy` needs nft 1.0.7).
pub fn text() -> String {
    removal() + &body()
}

/// Each has a table of ours.
const FAMILIES: [Family; 3] = [Family::Bridge, Family::Inet, Family::Arp];

fn removal() -> String {
    let each = FAMILIES.map(|family| {
        let of = format!("table {} {TABLE}", family.name());
        format!("{of}\ndelete {of}\n")
    });
    each.concat()
}

pub fn family_name(family: Family) -> &'static str {
    family.name()
}

fn text_digest() -> String {
    hex(&Sha256::digest(text()))
}

/// The first 16 hexadecimal digits of a digest.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Kind for NftTable {
    const NAME: &'static str = "nft_table";
    const OWNS: Owns = Owns::WholeObjects;
    type Key = Key;
    type Attrs = Attrs;

    fn derive(_: &Inputs<'_>) -> Table<Self> {
        wanted()
    }
}

/// The tables as they should be, whatever the inputs.
pub fn wanted() -> Table<NftTable> {
    Table::<NftTable>::from([(
        Key,
        Attrs {
            text: text_digest(),
            intact: true,
        },
    )])
}

/// Reads what is loaded.
pub fn observe(look: &mut Look<'_>) -> Result<Table<NftTable>, KindError> {
    let nft = &mut look.kernel.nft;
    let Some(structure) = structure(nft)? else {
        return Ok(Table::<NftTable>::new());
    };
    let stamp = nft.elements(Family::Bridge, TABLE, Set::Stamp.name())?;
    let comment = stamp
        .and_then(|elements| elements.into_iter().next())
        .and_then(|element| element.comment)
        .unwrap_or_default();
    let (text, stamped) = comment.split_once(' ').unwrap_or_default();
    let intact = structure == stamped;
    Ok(Table::<NftTable>::from([(
        Key,
        Attrs {
            text: text.to_string(),
            intact,
        },
    )]))
}

/// Digest of what the kernel has of them; `None` if there is none. Another version may have fewer.
fn structure(nft: &mut Nft) -> Result<Option<String>, KernelError> {
    let mut digest = Sha256::new();
    let mut any = false;
    for family in FAMILIES {
        if let Some(structure) = nft.structure(family, TABLE)? {
            any = true;
            digest.update(structure);
        }
    }
    Ok(any.then(|| hex(&digest.finalize())))
}

/// Replaces the tables with the given elements, in one transaction, and stamps them.
pub fn replace(kernel: &mut Kernel, elements: &Table<NftElement>) -> Result<(), KindError> {
    let Gate { made, opened } = gate(kernel)?;
    let mut text = text();
    if !made.is_empty() {
        fault::point();
        // Without it some packets are lost, and none passes that should not.
        match kernel.nft.run(&made) {
            Ok(()) => text.insert_str(0, &opened),
            Err(error) => tracing::warn!(%error, "packets may be lost while tables are replaced"),
        }
    }
    load(kernel, &text, elements)
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
        gate.made += &format!("add set {of} gate {{ type mark; }}\n");
        for chain in chains {
            // Any packet has a mark, and of any mark this leaves 0.
            let rule = "meta mark and 0x0 @gate accept";
            gate.made += &format!("insert rule {of} {chain} {rule}\n");
        }
        gate.opened += &format!("add element {of} gate {{ 0x0 }}\n");
    }
    Ok(gate)
}

/// Makes the tables where there are none. Without a deletion the kernel waits for nobody.
pub fn create(kernel: &mut Kernel, elements: &Table<NftElement>) -> Result<(), KindError> {
    load(kernel, &body(), elements)
}

fn load(kernel: &mut Kernel, text: &str, elements: &Table<NftElement>) -> Result<(), KindError> {
    let script = format!("{text}{}", nft_element::script(elements));
    fault::point();
    kernel.nft.run(&script)?;
    let missing = || KindError::Gone(format!("table {TABLE}"));
    let structure = structure(&mut kernel.nft)?.ok_or_else(missing)?;
    let element = Element {
        key: Bytes::of(&[Value::Mark(1)]).as_slice().to_vec(),
        end: None,
        data: None,
        comment: Some(format!("{} {}", text_digest(), structure)),
    };
    let stamp = ElementOp::Add {
        family: Family::Bridge,
        table: TABLE,
        set: Set::Stamp.name(),
        element,
    };
    fault::point();
    kernel
        .nft
        .transaction(&[stamp])
        .map_err(|error| KindError::File {
            what: "stamping the nftables table".into(),
            why: error.to_string(),
        })
}

/// Removes the tables.
pub fn remove(kernel: &mut Kernel) -> Result<(), KindError> {
    Ok(kernel.nft.run(&removal())?)
}

/// Asks the kernel whether it takes the ruleset, changing nothing. The error names what nft and
/// the kernel do not know.
pub fn check(kernel: &mut Kernel) -> Result<(), KindError> {
    Ok(kernel.nft.check(&text())?)
}
