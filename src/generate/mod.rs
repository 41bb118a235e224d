//! From the host file and a few facts about this host to the files of the programs around us.
//!
//! Everything here but `facts.rs`, `extra.rs`, `readers.rs`, `secrets.rs`, `Target::detect` and `write.rs`
//! is a plain function of its arguments. Decisions are made in Rust; the templates print values. dnsmasq has no file here:
//! all that it reads is the agent's, at run time. udev has none either: networkd has a key for all
//! that bridges, tunnels and VRFs need at creation, and the agent keeps the ports' attributes.

pub mod closed;
pub mod daemons;
pub mod diff;
pub mod extra;
mod facts;
mod firewall;
mod frr;
mod networkd;
pub mod plan;
pub mod readers;
mod roles;
mod routers;
pub mod secrets;
mod strongswan;
mod sysctl;
mod target;
mod template;
pub mod write;

pub use facts::{FactsError, LocalFacts, PasswordError};
pub use roles::{Here, RoleError};
pub use target::{Target, TargetError, Version};

use crate::host::{HostFile, Ipsec, Trust};
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
    #[error("{}", cannot(.target, .reasons))]
    Target {
        target: String,
        reasons: Vec<String>,
    },
    #[error("bgp.password_file: {} was not read\n  remedy: render on a host that has it", .0.display())]
    NoPassword(PathBuf),
    /// A mistake in a template: never the user's.
    #[error("cannot render {path}")]
    Template { path: String, source: tera::Error },
}

fn cannot(target: &str, reasons: &[String]) -> String {
    let mut text = String::new();
    for reason in reasons {
        text += &format!("{reason}\n");
    }
    text + &format!(
        "  remedy: change those keys, install newer programs, or name another target than {target}"
    )
}

/// All files of this host, sorted by path. The same arguments give the same bytes.
pub fn render(file: &HostFile, facts: &LocalFacts) -> Result<Vec<OutputFile>, RenderError> {
    let here = roles::detect(file, facts)?;
    let reasons = facts.target.cannot(file, &here);
    if !reasons.is_empty() {
        let target = facts.target.name.clone();
        return Err(RenderError::Target { target, reasons });
    }
    let templates = template::Templates::new()?;
    let mut outputs = frr::render(file, &here, facts, &templates)?;
    outputs.extend(strongswan::render(file, &here, facts, &templates)?);
    outputs.extend(firewall::render(file, &here, facts, &templates)?);
    if here.supervisor {
        outputs.extend(networkd::render(file, &here, facts, &templates)?);
        outputs.extend(sysctl::render(file, &templates)?);
    }
    outputs.sort();
    Ok(outputs)
}

/// Of these, a supervisor's files of sysctl.d and modules-load.d: what the kernel should be like,
/// whatever programs there are.
pub fn kernel_files(file: &HostFile) -> Result<Vec<OutputFile>, RenderError> {
    let templates = template::Templates::new()?;
    let mut outputs = sysctl::render(file, &templates)?;
    if file.ipsec.is_some() {
        outputs.push(strongswan::kernel_settings(&templates)?);
    }
    Ok(outputs)
}

/// What the user should know although nothing is wrong.
pub fn notes(file: &HostFile) -> Vec<String> {
    let mut notes = Vec::new();
    if matches!(
        &file.ipsec,
        Some(Ipsec {
            trust: Trust::Psk { .. },
            ..
        })
    ) {
        notes.push("ipsec.psk_file: whoever has the key can pose as any host; certificates tell hosts apart".into());
    }
    notes
}

/// This host's place in the fabric.
pub fn detect(file: &HostFile, facts: &LocalFacts) -> Result<Here, RoleError> {
    roles::detect(file, facts)
}
