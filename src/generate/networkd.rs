//! systemd-networkd: bridges, tunnels and VRFs of a supervisor, and what networkd must leave
//! alone. Works with systemd 252 and later. Forwarding is `sysctl.rs`'s: the keys for it here
//! changed with systemd 256. Port attributes beyond the tunnel's first ones are the agent's.

use super::facts::LocalFacts;
use super::roles::Here;
use super::template::Templates;
use super::{OutputFile, RenderError};
use crate::addr::IpNet;
use crate::host::{HostFile, Network, Vrf};
use serde::Serialize;
use std::collections::BTreeSet;

const DIRECTORY: &str = "/etc/systemd/network";
/// networkd runs as its own user.
const MODE: u32 = 0o644;

pub fn render(
    file: &HostFile,
    here: &Here,
    facts: &LocalFacts,
    templates: &Templates,
) -> Result<Vec<OutputFile>, RenderError> {
    let mut outputs = vec![templates.output(
        "networkd/networkd.conf",
        &DaemonValues {
            next_hops: match facts.target.networkd_knows_next_hops() {
                true => vec!["ManageForeignNextHops=no"],
                false => vec![],
            },
        },
        '#',
        "/etc/systemd/networkd.conf.d/10-lxmesh.conf".into(),
        MODE,
    )?];
    let mut unit = |template: &str, values: &Values, device: &str| {
        let suffix = template.rsplit('.').next().unwrap_or_default();
        let path = format!("{DIRECTORY}/10-lxmesh-{device}.{suffix}");
        outputs.push(templates.output(template, values, '#', path, MODE)?);
        Ok::<(), RenderError>(())
    };
    for network in &file.networks {
        let values = Values::Network(Box::new(NetworkValues::new(file, here, network)));
        unit("networkd/bridge.netdev", &values, network.bridge.as_str())?;
        unit("networkd/bridge.network", &values, network.bridge.as_str())?;
        unit("networkd/tunnel.netdev", &values, network.tunnel.as_str())?;
        unit("networkd/tunnel.network", &values, network.tunnel.as_str())?;
    }
    let vrfs: BTreeSet<_> = file
        .networks
        .iter()
        .filter_map(|network| network.vrf.as_ref())
        .collect();
    for Vrf { name, table } in vrfs {
        let values = Values::Vrf {
            vrf: name.to_string(),
            table: *table,
        };
        unit("networkd/vrf.netdev", &values, name.as_str())?;
        unit("networkd/vrf.network", &values, name.as_str())?;
    }
    Ok(outputs)
}

#[derive(Serialize)]
struct DaemonValues {
    /// One element where networkd knows the key; before that it leaves them alone.
    next_hops: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Values {
    Network(Box<NetworkValues>),
    Vrf { vrf: String, table: u32 },
}

/// What the templates of one network print. Lists have one element where there is something to
/// print, none where there is not.
#[derive(Serialize)]
struct NetworkValues {
    network: String,
    vni: u32,
    bridge: String,
    tunnel: String,
    gateway_mac: String,
    mtu: u32,
    underlay: String,
    port: u16,
    gbp: &'static str,
    multicast: &'static str,
    vrfs: Vec<String>,
    /// That must not become a source: see the template.
    shared_gateways4: Vec<GatewayValues>,
    /// That are the only IPv4 addresses there are.
    plain_gateways4: Vec<GatewayValues>,
    gateways6: Vec<GatewayValues>,
    send_ra: &'static str,
    dhcp: &'static str,
    emit_dns: &'static str,
    dns6: Vec<String>,
}

#[derive(Serialize)]
struct GatewayValues {
    /// With its prefix length.
    address: String,
    prefix: String,
}

impl NetworkValues {
    fn new(file: &HostFile, here: &Here, network: &Network) -> Self {
        let Network {
            name,
            vni,
            bridge,
            tunnel,
            gateway4,
            gateway6,
            gateway_mac,
            mtu,
            vxlan_port,
            gbp,
            multicast,
            vrf,
            host_routes: _,
            announce: _,
            projects: _,
            conntrack_zone: _,
            dns,
            in_services: _,
            out_services: _,
            limits: _,
            denied: _,
        } = network;
        let gateway = |net: IpNet| GatewayValues {
            address: net.to_string(),
            prefix: net.trunc().to_string(),
        };
        let gateways4 = gateway4
            .iter()
            .map(|net| gateway(IpNet::V4(*net)))
            .collect();
        // In a VRF, and on an IPv6 underlay, the host may have no other IPv4 address to use.
        let has_another = here.underlay.is_ipv4() && vrf.is_none();
        let (shared_gateways4, plain_gateways4) = match has_another {
            true => (gateways4, Vec::new()),
            false => (Vec::new(), gateways4),
        };
        let dns6: Vec<String> = dns
            .iter()
            .filter(|server| server.is_ipv6())
            .map(|server| server.to_string())
            .collect();
        NetworkValues {
            network: name.clone(),
            vni: vni.get(),
            bridge: bridge.to_string(),
            tunnel: tunnel.to_string(),
            gateway_mac: gateway_mac.to_string(),
            mtu: *mtu,
            underlay: here.underlay.to_string(),
            port: *vxlan_port,
            gbp: yes_no(*gbp),
            multicast: yes_no(*multicast),
            vrfs: vrf.iter().map(|vrf| vrf.name.to_string()).collect(),
            shared_gateways4,
            plain_gateways4,
            gateways6: gateway6
                .iter()
                .map(|net| gateway(IpNet::V6(*net)))
                .collect(),
            send_ra: yes_no(gateway6.is_some()),
            dhcp: yes_no(file.dhcp.enabled),
            emit_dns: yes_no(!dns6.is_empty()),
            dns6,
        }
    }
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
