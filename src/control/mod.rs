//! How the operator's commands talk to the agent: one word in, one JSON document or the
//! metrics out, over a unix socket that root and members of the agent's group can open.

pub mod metrics;
pub mod peer;
mod places;
pub mod screen;
pub mod server;
pub mod status;

pub use status::Status;
