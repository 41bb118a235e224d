//! The tables `inet lxmesh_closed` and `arp lxmesh_closed`, which keep a device that nobody attached
//! from passing anything. They are there before any agent, from the unit of `lxmesh-gen`, and stay
//! after it: nothing of ours removes them. The agent puts them back if they are gone, or if chains, rules or
//! sets are altered (what is in the sets it does not compare). What their text is, `Facts` say.
//!
//! Both are one object, with a digest of text and structure in the set `stamp`, as in
//! `nft_table.rs`. What others have loaded has no stamp, and is loaded again once.

use super::nft_set::{Bytes, Value};
use super::nft_table::hex;
use super::{KernelKind, KindError, Look, Scope};
use crate::host::Firewall;
use crate::kernel::nft::{Element, ElementOp, Family};
use crate::kernel::{Kernel, fault};
use crate::model::{About, Change, Facts, Inputs, Kind, Owns, Table};
use sha2::{Digest, Sha256};
use std::fmt;

/// Both tables, as one object.
#[derive(Debug)]
pub struct Closed;

const TABLE: &str = Firewall::CLOSED;
const STAMP: &str = "stamp";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key;

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TABLE)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    /// First 16 hexadecimal digits of the SHA-256 of the text that was loaded; empty if no agent
    /// has loaded it.
    pub text: String,
    /// False if chains, rules or sets have been changed since.
    pub intact: bool,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.text.as_str(), self.intact) {
            ("", _) => f.write_str("loaded by another"),
            (text, true) => write!(f, "ruleset {text} intact"),
            (text, false) => write!(f, "ruleset {text} altered"),
        }
    }
}

impl Kind for Closed {
    const NAME: &'static str = "closed";
    const OWNS: Owns = Owns::WholeObjects;
    const ABOUT: About = About::Host;
    const STAYS: bool = true;
    const BEFORE_FILTERS: bool = true;
    type Key = Key;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        match &inputs.facts.closed {
            Some(Ok(text)) => {
                let text = hex(&Sha256::digest(text.as_bytes()));
                Table::<Self>::from([(Key, Attrs { text, intact: true })])
            }
            // Nobody asks for them, or `observe` says that the text is not known.
            None | Some(Err(_)) => Table::<Self>::new(),
        }
    }
}

/// Digest of what the kernel has of both; `None` if one is missing. Whether any is there.
fn structure(kernel: &mut Kernel) -> Result<(Option<String>, bool), KindError> {
    let inet = kernel.nft.structure(Family::Inet, TABLE)?;
    let arp = kernel.nft.structure(Family::Arp, TABLE)?;
    let any = inet.is_some() || arp.is_some();
    let both = inet.zip(arp);
    let digest = both.map(|(inet, arp)| hex(&Sha256::digest([inet, arp].concat())));
    Ok((digest, any))
}

impl KernelKind for Closed {
    fn observe(
        look: &mut Look<'_>,
        _: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        if let Some(Err(why)) = &look.facts.closed {
            return Err(KindError::File {
                what: format!("the text of table {TABLE}"),
                why: why.clone(),
            });
        }
        if desired.is_empty() {
            return Ok(Table::<Self>::new());
        }
        let (digest, any) = structure(look.kernel)?;
        if !any {
            return Ok(Table::<Self>::new());
        }
        let stamp = look.kernel.nft.elements(Family::Inet, TABLE, STAMP)?;
        let comment = stamp
            .and_then(|elements| elements.into_iter().next())
            .and_then(|element| element.comment)
            .unwrap_or_default();
        let (text, structure) = comment.split_once(' ').unwrap_or_default();
        let attrs = Attrs {
            text: text.to_string(),
            intact: digest.is_some_and(|digest| digest == structure),
        };
        Ok(Table::<Self>::from([(Key, attrs)]))
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        changes.iter().map(|_| load(kernel, facts)).collect()
    }
}

/// Loads the text over whatever is there, and stamps it.
fn load(kernel: &mut Kernel, facts: &Facts) -> Result<(), KindError> {
    let missing = || KindError::Gone(format!("table {TABLE}"));
    let Some(Ok(text)) = &facts.closed else {
        return Err(missing());
    };
    fault::point();
    if let Err(error) = kernel.nft.run(text) {
        // A set or chain of another form stands in the way, by somebody's hand or another version.
        let anew = format!(
            "table inet {TABLE}\ndelete table inet {TABLE}\ntable arp {TABLE}\ndelete table arp {TABLE}\n{text}"
        );
        kernel.nft.run(&anew).map_err(|_| error)?;
    }
    let digest = structure(kernel)?.0.ok_or_else(missing)?;
    let element = Element {
        key: Bytes::of(&[Value::Mark(1)]).as_slice().to_vec(),
        end: None,
        data: None,
        comment: Some(format!(
            "{} {digest}",
            hex(&Sha256::digest(text.as_bytes()))
        )),
    };
    let stamp = ElementOp::Add {
        family: Family::Inet,
        table: TABLE,
        set: STAMP,
        element,
    };
    fault::point();
    kernel
        .nft
        .transaction(&[stamp])
        .map_err(|error| KindError::File {
            what: format!("stamping table {TABLE}"),
            why: error.to_string(),
        })
}
