//! The local LXD or Incus: its REST API over a unix socket, its event stream, and what of its
//! instances matters to us. Reads only; LXMesh never writes to LXD.

pub mod client;
pub mod cluster;
pub mod events;
pub mod inventory;
pub mod keys;
pub mod listing;
pub mod sockets;
pub mod wire;

pub use client::{Client, LxdError, Program};
pub use cluster::{Cluster, Elsewhere, Identity};
pub use inventory::{
    Acls, Answer, Details, Instance, InstanceId, Inventory, LxdNic, NotOurs, Presence, Stray,
    Unread,
};
pub use listing::Listing;
pub use wire::{Acl, AclRule, Unknown};
