//! The host's own packet filter: table `inet lxmesh_host`, which lets only the fabric reach BGP,
//! the tunnels and IKE, and with IPsec nothing in cleartext; and the unit that loads it, together
//! with what `closed.rs` has. What is added to the sets `vteps4` and `vteps6` at run time stays. It
//! never touches other ports.

use super::closed;
use super::facts::LocalFacts;
use super::roles::Here;
use super::template::{self, Templates};
use super::{OutputFile, RenderError};
use crate::addr::IpNet;
use crate::host::{Firewall, HostFile};
use serde::Serialize;
use std::collections::BTreeSet;

pub fn render(
    file: &HostFile,
    here: &Here,
    facts: &LocalFacts,
    templates: &Templates,
) -> Result<Vec<OutputFile>, RenderError> {
    if !file.firewall.enabled {
        return Ok(Vec::new());
    }
    let uplinks = closed::uplinks(file, Some(here.underlay), &facts.devices);
    let values = FirewallValues::new(file, here, &uplinks);
    let unit = UnitValues {
        nft: facts.target.nft_program,
        closed: match here.supervisor {
            true => vec![closed::PATH],
            false => vec![],
        },
    };
    let mut files = match here.supervisor {
        true => vec![closed::render(file, &uplinks)?],
        // There are no instances.
        false => vec![],
    };
    files.extend([
        templates.output(
            "firewall/firewall.nft",
            &values,
            '#',
            "/etc/lxmesh/firewall.nft".into(),
            0o644,
        )?,
        templates.output(
            "firewall/lxmesh-firewall.service",
            &unit,
            '#',
            "/etc/systemd/system/lxmesh-firewall.service".into(),
            0o644,
        )?,
        // A drop-in does what `systemctl enable` would, and is a file like any other.
        templates.output(
            "firewall/multi-user.conf",
            &template::NOTHING,
            '#',
            "/etc/systemd/system/multi-user.target.d/lxmesh-firewall.conf".into(),
            0o644,
        )?,
    ]);
    Ok(files)
}

#[derive(Serialize)]
struct UnitValues {
    nft: &'static str,
    /// One file, or none.
    closed: Vec<&'static str>,
}

/// Lists have one element where there is something to print, none where there is not.
#[derive(Serialize)]
struct FirewallValues {
    table: &'static str,
    /// "ip" or "ip6", and "4" or "6": of the underlay.
    ip: &'static str,
    family: &'static str,
    hosts: String,
    bgp_peers: Vec<String>,
    /// Routers of the other family.
    others: Vec<OtherRouters>,
    ike_peers: String,
    vxlan_ports: Vec<String>,
    ipsec: Vec<()>,
    /// Names, or beginnings of names with a `*` behind them.
    uplinks: Vec<String>,
}

#[derive(Serialize)]
struct OtherRouters {
    ip: &'static str,
    family: &'static str,
    routers: String,
}

impl FirewallValues {
    fn new(file: &HostFile, here: &Here, uplinks: &BTreeSet<String>) -> Self {
        let fabric = &file.fabric;
        let six = fabric.is_ipv6();
        let reflectors = fabric.reflectors.iter().copied().map(IpNet::from);
        // Reflectors are called by everybody; a supervisor by reflectors, or in a full mesh.
        let mut bgp: Vec<IpNet> = reflectors
            .filter(|net| net.addr() != here.underlay)
            .collect();
        if here.reflector || fabric.reflectors.is_empty() {
            bgp.extend(&fabric.supervisors);
        }
        bgp.extend(&file.firewall.also);
        let mut others = Vec::new();
        if here.supervisor {
            let routers = file
                .routers
                .iter()
                .map(|router| IpNet::from(router.address));
            let (same, other): (Vec<_>, Vec<_>) =
                routers.partition(|router| router.addr().is_ipv6() == six);
            bgp.extend(same);
            others = other;
        }
        let ike = [fabric.hosts(), file.firewall.also.clone()].concat();
        let ports: BTreeSet<u16> = file
            .networks
            .iter()
            .map(|network| network.vxlan_port)
            .collect();
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        FirewallValues {
            table: Firewall::TABLE,
            ip: if six { "ip6" } else { "ip" },
            family: if six { "6" } else { "4" },
            hosts: elements(&fabric.hosts()),
            bgp_peers: if bgp.is_empty() {
                vec![]
            } else {
                vec![elements(&bgp)]
            },
            others: match others.is_empty() {
                true => vec![],
                false => vec![OtherRouters {
                    ip: if six { "ip" } else { "ip6" },
                    family: if six { "4" } else { "6" },
                    routers: elements(&others),
                }],
            },
            ike_peers: elements(&ike),
            vxlan_ports: match here.supervisor && !ports.is_empty() {
                true => vec![ports.join(", ")],
                false => vec![],
            },
            ipsec: file.ipsec.iter().map(|_| ()).collect(),
            uplinks: uplinks.iter().cloned().collect(),
        }
    }
}

/// Elements of an interval set, which must not overlap.
pub(super) fn elements(nets: &[IpNet]) -> String {
    let mut nets = IpNet::aggregate(&nets.to_vec());
    nets.sort();
    let shown: Vec<String> = nets
        .iter()
        .map(|net| match net.prefix_len() == net.max_prefix_len() {
            true => net.addr().to_string(),
            false => net.to_string(),
        })
        .collect();
    shown.join(", ")
}
