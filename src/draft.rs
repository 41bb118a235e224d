//! A host file to begin with, from what is found on a host and, where there is one, from the
//! agent.yaml of the Python LXMesh. `look.rs` finds, `yaml.rs` reads; this makes the text, which
//! always passes the host file's own check.

mod look;
pub mod yaml;

pub use look::{Bgp, Found, FoundNetwork, look};

use crate::addr::{IfName, IpAddr, IpNet, Mac, Vni};
use crate::host;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// The values of the file to be; what is `None` or empty gets a default and the word CHECK.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Draft {
    pub asn: Option<u32>,
    pub reflectors: Vec<IpAddr>,
    pub supervisors: Vec<IpNet>,
    pub networks: Vec<DraftNetwork>,
    pub lxd_socket: Option<PathBuf>,
    pub reload_interval_s: Option<u32>,
    pub lease_s: Option<u32>,
    pub dnsmasq: Option<PathBuf>,
    /// False if somebody else runs dnsmasq.
    pub run_dnsmasq: Option<bool>,
    pub tags: BTreeMap<String, u8>,
}

/// One network of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DraftNetwork {
    pub bridge: String,
    pub tunnel: Option<String>,
    pub vni: Option<u32>,
    pub gateways: Vec<IpNet>,
    pub mac: Option<Mac>,
    pub multicast: Option<bool>,
    pub host_routes: Option<String>,
    pub gbp: Option<bool>,
    pub vxlan_port: Option<u16>,
    pub mtu: Option<u32>,
}

/// No file could be made that passes the check: a mistake of ours.
#[derive(Debug, thiserror::Error)]
#[error(
    "what was found makes no correct host file: {0}\n  remedy: write one by hand, see docs/host-file.md"
)]
pub struct DraftError(String);

impl Draft {
    /// What was found, as values of a host file.
    pub fn of(found: &Found) -> Self {
        let (reflectors, supervisors) = members(found);
        Draft {
            asn: found.bgp.as_ref().map(|bgp| bgp.asn),
            reflectors,
            supervisors,
            networks: found.networks.iter().map(DraftNetwork::of).collect(),
            lxd_socket: found.lxd_socket.clone(),
            ..Draft::default()
        }
    }

    /// With what an agent.yaml says.
    pub fn with(mut self, yaml: &yaml::Yaml) -> Self {
        for svi in &yaml.svis {
            let known = self.networks.iter_mut().find(|one| one.bridge == svi.name);
            let network = match known {
                Some(network) => network,
                None => {
                    self.networks.push(DraftNetwork {
                        bridge: svi.name.clone(),
                        ..DraftNetwork::default()
                    });
                    self.networks.last_mut().expect("one was pushed")
                }
            };
            network.multicast = svi.multicast.or(network.multicast);
            network.host_routes = svi.host_routes.clone();
        }
        self.reload_interval_s = yaml.reload_interval_s;
        self.lease_s = yaml.lease_s;
        self.dnsmasq = yaml.dnsmasq.clone();
        self.run_dnsmasq = yaml.run_dnsmasq;
        self.tags = yaml.tags.clone();
        self
    }

    /// The file. What does not go together is left out, step by step, until the rest does.
    pub fn text(&self) -> Result<String, DraftError> {
        let mut plain = self.clone();
        for network in &mut plain.networks {
            network.mac = None;
            network.gateways.clear();
            network.vxlan_port = None;
            network.gbp = None;
        }
        let bare = Draft {
            networks: Vec::new(),
            ..plain.clone()
        };
        let mut complaint = String::new();
        for draft in [self, &plain, &bare, &Draft::default()] {
            let text = draft.write();
            match host::parse("host.toml", &text) {
                Ok(_) => return Ok(text),
                Err(problems) => complaint = problems.to_string(),
            }
        }
        Err(DraftError(complaint))
    }

    fn write(&self) -> String {
        let mut out = String::from(
            "# LXMesh host file. May be the same on every host; what differs is detected.\n\
             # Every key: docs/host-file.md. `lxmesh-gen check` finds mistakes, `plan` shows what it does.\n\
             # CHECK stands where nothing was found and a value had to be made up.\n\
             version = 1\n\n",
        );
        self.write_fabric(&mut out);
        self.write_programs(&mut out);
        if !self.tags.is_empty() {
            out += "# Bits of the packet mark.\n[tags]\n";
            for (name, bit) in &self.tags {
                let _ = writeln!(out, "{name} = {bit}");
            }
            out += "\n";
        }
        if self.networks.is_empty() {
            out += "# No bridge with a VXLAN device was found. A network looks like this:\n\
                    # [[network]]\n# name    = \"vpc\"\n# vni     = 100\n\
                    # gateway = [\"192.0.2.1/24\", \"2001:db8::1/64\"]\n";
        }
        let mut taken: Vec<u32> = self.networks.iter().filter_map(|one| one.vni).collect();
        let mut names = Vec::new();
        for network in &self.networks {
            network.write(&mut out, &mut taken, &mut names);
        }
        out.trim_end().to_string() + "\n"
    }

    fn write_fabric(&self, out: &mut String) {
        out.push_str("[fabric]\n# CHECK: gateway MAC addresses are derived from this name.\nname        = \"lxmesh\"\n");
        match self.asn {
            Some(asn) => {
                let _ = writeln!(out, "# As in FRR's configuration.\nasn         = {asn}");
            }
            None => out.push_str(
                "# CHECK: any private number, the same on all hosts.\nasn         = 64512\n",
            ),
        }
        if self.reflectors.is_empty() {
            out.push_str("# CHECK: BGP route reflectors; without any, all supervisors peer with one another.\nreflectors  = []\n");
        } else {
            let _ = writeln!(
                out,
                "# FRR's neighbours. In a full mesh without reflectors they are supervisors instead.\nreflectors  = {}",
                list(&self.reflectors)
            );
        }
        if self.supervisors.is_empty() {
            out.push_str("# CHECK: addresses, or with reflectors prefixes, of the hosts that run instances.\nsupervisors = [\"192.0.2.1\"]\n\n");
        } else {
            let shown: Vec<String> = self
                .supervisors
                .iter()
                .map(|net| match net.prefix_len() == net.max_prefix_len() {
                    true => net.addr().to_string(),
                    false => net.to_string(),
                })
                .collect();
            let _ = writeln!(
                out,
                "# CHECK: where the hosts that run instances are; found on this one.\nsupervisors = {}\n",
                list(&shown)
            );
        }
    }

    fn write_programs(&self, out: &mut String) {
        if let Some(socket) = &self.lxd_socket {
            let _ = writeln!(out, "[lxd]\nsocket = \"{}\"\n", socket.display());
        }
        if let Some(seconds) = self.reload_interval_s {
            let _ = writeln!(out, "[agent]\nreload_interval_s = {seconds}\n");
        }
        let mut dhcp = String::new();
        if let Some(seconds) = self.lease_s {
            let _ = writeln!(dhcp, "lease_s = {seconds}");
        }
        if let Some(program) = &self.dnsmasq {
            let _ = writeln!(dhcp, "program = \"{}\"", program.display());
        }
        if let Some(run) = self.run_dnsmasq {
            let _ = writeln!(dhcp, "run     = {run}");
        }
        if !dhcp.is_empty() {
            let _ = writeln!(out, "[dhcp]\n{dhcp}");
        }
    }
}

fn list(values: &[impl std::fmt::Display]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| format!("\"{value}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// Who is a reflector and where supervisors are. With reflectors the whole prefix of this host
/// may run instances; without any, only single addresses may be named.
fn members(found: &Found) -> (Vec<IpAddr>, Vec<IpNet>) {
    let mut reflectors: Vec<IpAddr> = Vec::new();
    let own = found.underlay;
    if let Some(bgp) = &found.bgp {
        reflectors.extend(&bgp.neighbours);
        if bgp.reflects {
            reflectors.extend(own.map(|net| net.addr()));
        }
    }
    reflectors.retain(|address| own.is_none_or(|net| net.addr().is_ipv4() == address.is_ipv4()));
    reflectors.sort();
    reflectors.dedup();
    let supervisors = match own {
        None => Vec::new(),
        Some(net) if reflectors.is_empty() => vec![IpNet::from(net.addr())],
        Some(net) => vec![net.trunc()],
    };
    match supervisors.is_empty() {
        true => (Vec::new(), supervisors),
        false => (reflectors, supervisors),
    }
}

impl DraftNetwork {
    fn of(found: &FoundNetwork) -> Self {
        DraftNetwork {
            bridge: found.bridge.clone(),
            tunnel: Some(found.tunnel.clone()),
            vni: Some(found.vni),
            gateways: found.gateways.clone(),
            mac: found.mac,
            gbp: (!found.gbp).then_some(false),
            vxlan_port: (found.port != 4789).then_some(found.port),
            mtu: Some(found.mtu),
            ..DraftNetwork::default()
        }
    }

    fn write(&self, out: &mut String, taken: &mut Vec<u32>, names: &mut Vec<String>) {
        let name = self.name(names);
        let _ = writeln!(out, "[[network]]\nname    = \"{name}\"");
        match self.vni {
            Some(vni) => {
                let _ = writeln!(out, "vni     = {vni}");
            }
            None => {
                let is_free = |vni: &u32| !taken.contains(vni);
                let vni = (100..=Vni::MAX).find(is_free).unwrap_or(Vni::MAX);
                taken.push(vni);
                let _ = writeln!(
                    out,
                    "# CHECK: no tunnel of this bridge was found.\nvni     = {vni}"
                );
            }
        }
        if self.bridge != format!("svi-{name}") {
            let _ = writeln!(out, "bridge  = \"{}\"", self.bridge);
        }
        let tunnel_fits = format!("vxlan-{name}").parse::<IfName>().is_ok();
        match &self.tunnel {
            Some(tunnel) if *tunnel != format!("vxlan-{name}") => {
                let _ = writeln!(out, "tunnel  = \"{tunnel}\"");
            }
            None if !tunnel_fits => {
                let _ = writeln!(out, "tunnel  = \"vx{}\"", names.len());
            }
            _ => {}
        }
        match self.gateways.is_empty() {
            true => out.push_str("# gateway = [\"192.0.2.1/24\"]\n"),
            false => {
                let _ = writeln!(out, "gateway = {}", list(&self.gateways));
            }
        }
        if let Some(mac) = self.mac {
            let _ = writeln!(
                out,
                "# The bridge's own; must be the same on all hosts.\ngateway_mac = \"{mac}\""
            );
        }
        if let Some(port) = self.vxlan_port {
            let _ = writeln!(out, "vxlan_port = {port}");
        }
        if let Some(gbp) = self.gbp {
            let _ = writeln!(out, "gbp = {gbp}");
        }
        if let Some(multicast) = self.multicast {
            let _ = writeln!(out, "multicast = {multicast}");
        }
        if let Some(table) = &self.host_routes {
            let _ = writeln!(out, "host_routes = {table}");
        }
        if let Some(mtu) = self.mtu {
            let _ = writeln!(
                out,
                "# The bridge has the MTU {mtu} now; it is computed from [fabric] underlay_mtu."
            );
        }
        out.push('\n');
        names.push(name);
    }

    /// `vpc` of `svi-vpc`; what a name may not have is left out.
    fn name(&self, names: &[String]) -> String {
        let start = ["svi-", "svi_", "br-"];
        let rest = start
            .iter()
            .find_map(|start| self.bridge.strip_prefix(start));
        let is_allowed =
            |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(*c);
        let name: String = rest
            .unwrap_or(&self.bridge)
            .to_ascii_lowercase()
            .chars()
            .filter(is_allowed)
            .collect();
        let name = name.trim_matches(['-', '_']).to_string();
        match name.is_empty() || names.contains(&name) {
            true => format!("network{}", names.len() + 1),
            false => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found {
            underlay: Some("198.51.100.11/24".parse().unwrap()),
            bgp: Some(Bgp {
                asn: 64500,
                neighbours: vec!["198.51.100.101".parse().unwrap()],
                reflects: false,
            }),
            networks: vec![FoundNetwork {
                bridge: "svi-vpc".into(),
                tunnel: "vxlan-vpc".into(),
                vni: 100,
                gateways: vec!["192.0.2.1/24".parse().unwrap()],
                mac: Some("02:11:22:33:44:55".parse().unwrap()),
                mtu: 1450,
                gbp: true,
                port: 4789,
            }],
            lxd_socket: None,
        }
    }

    fn file(draft: &Draft) -> host::HostFile {
        let text = draft.text().unwrap();
        host::parse("x", &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn what_was_found_is_in_the_file() {
        let file = file(&Draft::of(&found()));
        assert_eq!(file.fabric.asn, 64500);
        assert_eq!(
            file.fabric.reflectors,
            ["198.51.100.101".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(
            file.fabric.supervisors,
            ["198.51.100.0/24".parse::<IpNet>().unwrap()]
        );
        let network = &file.networks[0];
        assert_eq!((network.name.as_str(), network.vni.get()), ("vpc", 100));
        assert_eq!(network.gateway4.unwrap().to_string(), "192.0.2.1/24");
        assert_eq!(network.gateway_mac.to_string(), "02:11:22:33:44:55");
    }

    #[test]
    fn nothing_found_is_a_correct_file_too_and_says_what_to_check() {
        let draft = Draft::of(&Found::default());
        file(&draft);
        assert!(draft.text().unwrap().contains("# CHECK"));
    }

    #[test]
    fn what_does_not_go_together_is_left_out() {
        let mut odd = found();
        let mut twin = odd.networks[0].clone();
        twin.bridge = "Odd.Bridge".into();
        twin.tunnel = "vx7".into();
        twin.vni = 7;
        odd.networks.push(twin);
        let file = file(&Draft::of(&odd));
        assert_eq!(
            file.networks.len(),
            2,
            "both have the gateway, so neither gets it"
        );
        assert_eq!(file.networks[1].bridge.as_str(), "Odd.Bridge");
    }

    #[test]
    fn an_agent_yaml_adds_to_what_was_found() {
        let text = "svi:\n  - name: svi-vpc\n    multicast: on\n    host-routes: yes\n  - name: brother\n\
                    tags:\n  - name: web\n    netfilter-mark: 0x0040\n";
        let yaml = yaml::parse("agent.yaml", text).unwrap();
        let file = file(&Draft::of(&found()).with(&yaml));
        assert_eq!(file.tags["web"], 6);
        assert!(file.networks[0].multicast);
        assert_eq!(file.networks[0].host_routes, Some(host::RouteTable::Main));
        assert_eq!(file.networks[1].bridge.as_str(), "brother");
    }
}
