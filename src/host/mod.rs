//! The host file `/etc/lxmesh/host.toml`: read, checked, defaults filled in.
//!
//! `keys.rs` declares the keys, `words.rs` their types, `value.rs` how a value is read; `check.rs`,
//! `security.rs`, `networks.rs`, `policies.rs`, `routers.rs`, `tenants.rs` and `vrfs.rs` hold the rules between keys,
//! `mtu.rs` a sum that one of them needs;
//! `problem.rs` says what is wrong and where, `schema.rs` is the result.
//! Nothing here looks at the machine it runs on.

mod check;
mod keys;
mod mtu;
mod networks;
mod policies;
mod problem;
mod routers;
pub mod schema;
mod security;
mod service;
mod tenants;
mod value;
mod vrfs;
mod words;

pub use keys::json_schema;
pub use mtu::{Esp, MtuSum};
pub use networks::derived_gateway_mac;
pub use problem::{LoadError, Problem, Problems};
pub use schema::*;
pub use service::{Peer, Ports, Protocol, Service, Traffic};

use std::io::Read;
use std::path::Path;

/// Where the host file is unless a command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/lxmesh/host.toml";

/// Larger files are refused: no fleet needs them, and they cost memory.
const MAX_BYTES: u64 = 4 << 20;

/// Reads and checks a text; `name` is what messages call it.
pub fn parse(name: &str, text: &str) -> Result<HostFile, Problems> {
    let mut findings = problem::Findings::new(name, text);
    let file = keys::read(text, &mut findings);
    let checked = check::check(&file, &mut findings);
    match checked {
        Some(checked) if findings.is_empty() => Ok(checked),
        _ => Err(findings.finish()),
    }
}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<HostFile, LoadError> {
    let unreadable = |source| LoadError::Unreadable {
        path: path.into(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        let too_long = format!("longer than {MAX_BYTES} bytes");
        return Err(unreadable(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            too_long,
        )));
    }
    Ok(parse(&path.display().to_string(), &text)?)
}
