//! What is wanted and what is there, as plain values: links, NICs, tables of kernel objects and
//! the one diff between them. Nothing here talks to anybody.

mod acl;
pub mod claims;
pub mod explain;
pub mod facts;
pub mod inputs;
pub mod kind;
mod mtu;
pub mod nic;
mod policies;
pub mod revoked;
pub mod table;
pub mod trace;

pub use facts::Facts;
pub use inputs::Inputs;
pub use kind::{About, Contest, FollowUp, Kind, Owns, Pace};
pub use mtu::LargerMtu;
pub use nic::{Nic, NicId, NicProblem};
pub use table::{Change, Found, Table, compare, diff};
