//! The host file `/etc/lxmesh/host.toml`: read, checked, defaults filled in.

pub mod schema;

pub use schema::*;
