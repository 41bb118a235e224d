//! The agent as a process, in a namespace of its own on the real kernel, with a fake LXD. This
//! machine's kernel need not have what the rules use: only the sets are loaded here; the lab tests
//! the rules.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

#[path = "agent/bad_input.rs"]
mod bad_input;
#[path = "agent/checksums.rs"]
mod checksums;
#[path = "agent/claims.rs"]
mod claims;
#[path = "agent/closed.rs"]
mod closed;
#[path = "agent/cluster.rs"]
mod cluster;
#[path = "agent/cold_start.rs"]
mod cold_start;
#[path = "agent/commands.rs"]
mod commands;
#[path = "agent/connections.rs"]
mod connections;
#[path = "agent/convergence.rs"]
mod convergence;
#[path = "agent/crashes.rs"]
mod crashes;
#[path = "agent/dhcp.rs"]
mod dhcp;
#[path = "agent/doctor.rs"]
mod doctor;
#[path = "agent/explain.rs"]
mod explain;
#[path = "agent/floods.rs"]
mod floods;
#[path = "agent/lifecycle.rs"]
mod lifecycle;
#[path = "agent/lxd_faults.rs"]
mod lxd_faults;
#[path = "agent/metrics.rs"]
mod metrics;
#[path = "agent/policy.rs"]
mod policy;
#[path = "agent/repairs.rs"]
mod repairs;
#[path = "support/mod.rs"]
mod support;
#[path = "agent/tables.rs"]
mod tables;
#[path = "agent/tenants.rs"]
mod tenants;
#[path = "agent/user.rs"]
mod user;
#[path = "agent/vms.rs"]
mod vms;
#[path = "agent/vteps.rs"]
mod vteps;
