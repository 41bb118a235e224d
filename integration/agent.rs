//! The agent as a process, in a namespace of its own on the real kernel, with a fake LXD. This
//! machine's kernel need not have what the rules use: only the sets are loaded here; the lab tests
//! the rules.

#[path = "agent/cold_start.rs"]
mod cold_start;
#[path = "agent/repairs.rs"]
mod repairs;
#[path = "support/mod.rs"]
mod support;
