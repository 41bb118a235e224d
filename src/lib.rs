//! LXMesh: EVPN overlays for LXD and Incus instances.
//!
//! Each module imports from those named to the right of it only; `integration/layering.rs` reads
//! the table below and checks every `use crate::` line against it.
//!
//! | module | may import |
//! |---|---|
//! | addr | |
//! | text | |
//! | host | addr text |
//! | lxd | addr text |
//! | kernel | addr |
//! | policy | addr host text |
//! | model | addr host lxd policy kernel text |
//! | kinds | addr host policy model kernel |
//! | generate | addr host kernel |
//! | apply | addr host kernel generate |
//! | draft | addr host |
//! | graph | addr host |
//! | dhcp | text |
//! | control | text |
//! | doctor | addr host lxd kernel model kinds generate apply control |
//! | reconcile | addr host lxd kernel policy model kinds generate dhcp control text |
//!
//! `model` takes only plain values from `kernel` (`kernel::link`, `kernel::sysctl`,
//! `kernel::conntrack::Entry`); nothing but `kinds`, `reconcile`, `apply`,
//! `doctor` and `generate::facts` makes system calls through it.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod addr;
pub mod apply;
pub mod control;
pub mod dhcp;
pub mod doctor;
pub mod draft;
pub mod generate;
pub mod graph;
pub mod host;
pub mod kernel;
pub mod kinds;
pub mod lxd;
pub mod model;
pub mod policy;
pub mod reconcile;
pub mod text;
