//! The templates, part of the program, and the one way to fill them in.

use super::{MARKER, OutputFile, RenderError};
use serde::Serialize;
use tera::{Context, Tera};

const SOURCES: &[(&str, &str)] = &[
    (
        "firewall/closed.nft",
        include_str!("../../templates/firewall/closed.nft"),
    ),
    (
        "firewall/firewall.nft",
        include_str!("../../templates/firewall/firewall.nft"),
    ),
    (
        "firewall/lxmesh-firewall.service",
        include_str!("../../templates/firewall/lxmesh-firewall.service"),
    ),
    (
        "firewall/multi-user.conf",
        include_str!("../../templates/firewall/multi-user.conf"),
    ),
    ("frr/daemons", include_str!("../../templates/frr/daemons")),
    ("frr/frr.conf", include_str!("../../templates/frr/frr.conf")),
    (
        "networkd/bridge.netdev",
        include_str!("../../templates/networkd/bridge.netdev"),
    ),
    (
        "networkd/bridge.network",
        include_str!("../../templates/networkd/bridge.network"),
    ),
    (
        "networkd/networkd.conf",
        include_str!("../../templates/networkd/networkd.conf"),
    ),
    (
        "networkd/tunnel.netdev",
        include_str!("../../templates/networkd/tunnel.netdev"),
    ),
    (
        "networkd/tunnel.network",
        include_str!("../../templates/networkd/tunnel.network"),
    ),
    (
        "networkd/vrf.netdev",
        include_str!("../../templates/networkd/vrf.netdev"),
    ),
    (
        "networkd/vrf.network",
        include_str!("../../templates/networkd/vrf.network"),
    ),
    (
        "strongswan/charon.conf",
        include_str!("../../templates/strongswan/charon.conf"),
    ),
    (
        "strongswan/lxmesh.conf",
        include_str!("../../templates/strongswan/lxmesh.conf"),
    ),
    (
        "strongswan/unit.conf",
        include_str!("../../templates/strongswan/unit.conf"),
    ),
    (
        "sysctl/ipsec.conf",
        include_str!("../../templates/sysctl/ipsec.conf"),
    ),
    (
        "sysctl/lxmesh.conf",
        include_str!("../../templates/sysctl/lxmesh.conf"),
    ),
    (
        "sysctl/modules.conf",
        include_str!("../../templates/sysctl/modules.conf"),
    ),
];

pub struct Templates(Tera);

/// For templates that print no values.
pub const NOTHING: Nothing = Nothing {};

#[derive(Serialize)]
pub struct Nothing {}

impl Templates {
    pub fn new() -> Result<Self, RenderError> {
        Self::those(|_| true)
    }

    /// A single one, for whoever needs no other.
    pub fn only(template: &str) -> Result<Self, RenderError> {
        Self::those(|name| name == template)
    }

    fn those(wanted: impl Fn(&str) -> bool) -> Result<Self, RenderError> {
        let mut tera = Tera::new();
        // These are configuration files: no character has an HTML entity.
        tera.autoescape_on(Vec::<String>::new());
        let sources = SOURCES.iter().copied();
        tera.add_raw_templates(sources.filter(|(name, _)| wanted(name)))
            .map_err(|source| RenderError::Template {
                path: "templates".into(),
                source,
            })?;
        Ok(Templates(tera))
    }

    /// Fills in a template; `comment` is what a comment begins with in that file.
    pub fn output(
        &self,
        template: &str,
        values: &impl Serialize,
        comment: char,
        path: String,
        mode: u32,
    ) -> Result<OutputFile, RenderError> {
        let filled_in = || {
            let mut context = Context::from_serialize(values)?;
            let managed = format!(
                "{comment} {MARKER}: edit /etc/lxmesh/host.toml and render again, not this file."
            );
            context.insert("managed", &managed);
            self.0.render(template, &context)
        };
        match filled_in() {
            Ok(contents) => Ok(OutputFile {
                path: path.into(),
                mode,
                contents: format!("{}\n", contents.trim_end()),
            }),
            Err(source) => Err(RenderError::Template { path, source }),
        }
    }
}
