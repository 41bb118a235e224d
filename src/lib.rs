//! LXMesh: EVPN overlays for LXD and Incus instances.
//!
//! Imports between modules (checked by `integration/layering.rs`):
//! `addr` → nothing. `host`, `lxd`, `kernel` → `addr`. `policy` → `addr`, `host`.
//! `model` → `addr`, `host`, `lxd`, `policy`. `kinds` → `model`, `addr`, `host`, `policy`, `kernel`.
//! `generate` → `addr`, `host`, `kernel`. `reconcile`, `dhcp`, `control` → all but `generate`.

pub mod addr;
pub mod generate;
pub mod host;
pub mod kernel;
pub mod control;
pub mod dhcp;
pub mod kinds;
pub mod lxd;
pub mod model;
pub mod policy;
pub mod reconcile;
