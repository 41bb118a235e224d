//! How the operator's commands talk to the agent: one line in, one JSON document out, over a unix
//! socket that only root can open.

pub mod screen;
pub mod server;
pub mod status;

pub use status::Status;
