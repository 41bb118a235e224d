//! The tables `inet lxmesh_closed` and `arp lxmesh_closed`, which keep a device that nobody attached
//! from passing anything. They are there before any agent, from the unit of `lxmesh-gen`, and stay
//! after it: nothing of ours removes them. The agent puts them back if they are gone, or if anything in
//! them is altered: the sets that others could fill are constant, and count with their elements. What their text is, `Facts` say.
//!
//! Both are one object; `nft_whole.rs` has how it is known that nobody has changed them. What others have loaded has
//! no stamp, and is loaded again once.

use super::nft_whole::{Attrs, Whole};
use super::{KernelKind, KindError, Look, Scope};
use crate::host::Firewall;
use crate::kernel::nft::Family;
use crate::kernel::{Kernel, KernelError};
use crate::model::{About, Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// Both tables, as one object.
#[derive(Debug)]
pub struct Closed;

const TABLE: &str = Firewall::CLOSED;
const WHOLE: Whole = Whole {
    name: TABLE,
    reference: "lxmesh_closed_reference",
    families: &[Family::Inet, Family::Arp],
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key;

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TABLE)
    }
}

impl Kind for Closed {
    const NAME: &'static str = "closed";
    const OWNS: Owns = Owns::WholeObjects;
    const ABOUT: About = About::Host;
    const STAYS: bool = true;
    const GUARDS: bool = true;
    type Key = Key;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        match &inputs.facts.closed {
            Some(Ok(text)) => Table::<Self>::from([(Key, Attrs::wanted(text))]),
            // Nobody asks for them, or `observe` says that the text is not known.
            None | Some(Err(_)) => Table::<Self>::new(),
        }
    }
}

impl KernelKind for Closed {
    fn observe(
        look: &mut Look<'_>,
        _: &Scope<Self>,
        _: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        match &look.facts.closed {
            None => return Ok(Table::<Self>::new()),
            Some(Ok(_)) => {}
            Some(Err(why)) => {
                return Err(KindError::File {
                    what: format!("the text of table {TABLE}"),
                    why: why.clone(),
                });
            }
        }
        let loaded = WHOLE.observe(look.kernel)?;
        Ok(loaded.map(|attrs| (Key, attrs)).into_iter().collect())
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        changes.iter().map(|_| load(kernel, facts)).collect()
    }
}

/// Whether the tables are known to be as an agent has loaded them, so that what they have may be believed.
pub fn is_intact(kernel: &mut Kernel) -> Result<bool, KernelError> {
    let loaded = WHOLE.observe(kernel)?;
    let of_known_text = |attrs: &Attrs| kernel.made.contains_key(&attrs.text);
    Ok(loaded.is_some_and(|attrs| attrs.intact && of_known_text(&attrs)))
}

/// Loads the text in place of whatever is there.
fn load(kernel: &mut Kernel, facts: &Facts) -> Result<(), KindError> {
    let Some(Ok(text)) = &facts.closed else {
        return Err(KindError::Gone(format!("table {TABLE}")));
    };
    // The text itself takes away what is there.
    Ok(WHOLE.load(kernel, "", text, "")?)
}
