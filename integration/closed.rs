//! What stands without an agent: real veths, taps and tuns in namespaces, real sockets and raw frames.
//! Each attack is made twice: it must succeed on a host without the tables, and must not with them.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

#[path = "closed/attacks.rs"]
mod attacks;
#[path = "closed/honest.rs"]
mod honest;
#[path = "closed/place.rs"]
mod place;
#[path = "support/mod.rs"]
mod support;
