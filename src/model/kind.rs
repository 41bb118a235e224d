//! What a kernel object is to the reconciler.

use super::inputs::Inputs;
use super::table::Table;
use std::fmt::{Debug, Display};

/// How much of an object is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owns {
    /// The object itself: we create it and delete it.
    WholeObjects,
    /// Some attributes of an object that others create and delete.
    AttributesOnly,
}

/// A kind of kernel object, as values. How it is read and written is `kinds::KernelKind`.
pub trait Kind: Sized + 'static {
    /// Short name in logs, plans and status: `fdb`, `neighbour`, …
    const NAME: &'static str;
    const OWNS: Owns;
    /// False if one object says something of all NICs, so that it cannot be looked at for a few.
    const PER_NIC: bool = true;
    type Key: Ord + Clone + Debug + Display + Send;
    type Attrs: Eq + Clone + Debug + Display + Send;

    /// The objects that should be there. Pure; must not depend on anything but the inputs.
    fn derive(inputs: &Inputs<'_>) -> Table<Self>;
}
