//! Bringing the kernel to where LXD and the host file say it should be: one pass, and the daemon
//! that decides when to make one.

mod aftermath;
mod announce;
mod claims;
mod closed;
mod daemon;
mod denials;
pub mod explain;
pub mod look;
pub mod lxd_task;
mod memory;
mod metrics;
pub mod pass;
mod pending;
pub mod preview;
pub mod privilege;
pub mod purge;
pub mod repairs;
pub mod report;
mod revoke;
pub mod start;
mod status;
mod tally;
mod unfiltered;
mod unread;
mod whereabouts;
pub mod world;
