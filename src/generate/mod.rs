//! From the host file and a few facts about this host to the files of the programs around us.
//!
//! Everything here but `facts.rs`, `extra.rs` and `write.rs` is a plain function of its arguments. Decisions
//! are made in Rust; the templates print values. dnsmasq has no file here: all that it reads is
//! the agent's, at run time. IPsec and the host's firewall are not rendered yet.

pub mod diff;
pub mod extra;
mod facts;
mod frr;
mod networkd;
pub mod plan;
mod roles;
mod sysctl;
mod template;
pub mod write;

pub use facts::{FactsError, LocalFacts};
pub use roles::{Here, RoleError};

use crate::host::HostFile;
use std::path::PathBuf;

/// In the first line of every file that is ours.
pub const MARKER: &str = "Managed by lxmesh-gen";

/// One file of another program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutputFile {
    /// From the root of the host.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Ends with a newline.
    pub contents: String,
}

/// Why nothing could be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error(transparent)]
    Role(#[from] RoleError),
    /// A mistake in a template: never the user's.
    #[error("cannot render {path}")]
    Template { path: String, source: tera::Error },
}

/// All files of this host, sorted by path. The same arguments give the same bytes.
pub fn render(file: &HostFile, facts: &LocalFacts) -> Result<Vec<OutputFile>, RenderError> {
    let here = roles::detect(file, facts)?;
    let templates = template::Templates::new()?;
    let mut outputs = frr::render(file, &here, &templates)?;
    if here.supervisor {
        outputs.extend(networkd::render(file, &here, &templates)?);
        outputs.extend(sysctl::render(&templates)?);
    }
    outputs.sort();
    Ok(outputs)
}

/// What the user should know although nothing is wrong.
pub fn notes(file: &HostFile) -> Vec<String> {
    let mut notes = Vec::new();
    if file.fabric.is_ipv6() {
        notes.push(
            "tunnels over IPv6 need FRR 10.6 or newer; older ones know IPv4 tunnel end points only"
                .into(),
        );
    }
    if file.ipsec.enabled {
        notes.push("ipsec.enabled only makes room for ESP in the MTU: this version renders no IPsec, so tunnels and BGP are NOT encrypted".into());
    }
    notes
}

/// This host's place in the fabric.
pub fn detect(file: &HostFile, facts: &LocalFacts) -> Result<Here, RoleError> {
    roles::detect(file, facts)
}
