//! What is wanted and what is there, as plain values: links, NICs, tables of kernel objects and
//! the one diff between them. Nothing here talks to anybody.

pub mod facts;
pub mod inputs;
pub mod kind;
pub mod nic;
pub mod table;

pub use facts::Facts;
pub use inputs::Inputs;
pub use kind::{FollowUp, Kind, Owns, Pace};
pub use nic::{Nic, NicId, NicProblem};
pub use table::{Change, Table, diff};
