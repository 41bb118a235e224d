//! FRR: iBGP with the EVPN address family only. Supervisors peer with the reflectors, or with one
//! another where there are none; reflectors listen for supervisors and peer with one another.
//! Written for FRR 9.0.1 and later. Route distinguishers are explicit, so that they stay when
//! networks come and go or FRR restarts. Route targets are those that FRR would derive, the low 16
//! bits of the AS number and the VNI, so that hosts with and without them understand one another.
//! What routers outside are told is in `routers.rs`.

use super::facts::LocalFacts;
use super::roles::Here;
use super::routers::RouterValues;
use super::template::Templates;
use super::{OutputFile, RenderError};
use crate::addr::{IpAddr, IpNet};
use crate::host::{Bgp, Fabric, HostFile, Network};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// FRR accepts up to 5000 dynamic neighbours everywhere (65535 in newer versions); its own
/// default is 100.
const LISTEN_LIMIT: u32 = 5000;

pub fn render(
    file: &HostFile,
    here: &Here,
    facts: &LocalFacts,
    templates: &Templates,
) -> Result<Vec<OutputFile>, RenderError> {
    if let (Some(path), None) = (&file.bgp.password_file, &facts.bgp_password) {
        return Err(RenderError::NoPassword(path.clone()));
    }
    let values = BgpValues::new(file, here, facts);
    let daemons = DaemonValues {
        max_fds: 2 * LISTEN_LIMIT,
    };
    // As the package has them: passwords may come into frr.conf.
    Ok(vec![
        templates.output(
            "frr/daemons",
            &daemons,
            '#',
            "/etc/frr/daemons".into(),
            0o640,
        )?,
        templates.output(
            "frr/frr.conf",
            &values,
            '!',
            "/etc/frr/frr.conf".into(),
            0o640,
        )?,
    ])
}

#[derive(Serialize)]
struct DaemonValues {
    max_fds: u32,
}

#[derive(Serialize)]
struct BgpValues {
    asn: u32,
    router_id: String,
    underlay: String,
    /// One element on a reflector.
    reflector: Vec<ReflectorValues>,
    groups: Vec<PeerGroup>,
    keepalive_s: u32,
    hold_s: u32,
    connect_s: u32,
    /// One element where sessions have one.
    password: Vec<String>,
    /// Lines of the address family that make a tunnel end point.
    vtep: Vec<&'static str>,
    vnis: Vec<VniValues>,
    routers: RouterValues,
}

#[derive(Serialize)]
struct VniValues {
    vni: u32,
    rd: String,
    route_target: String,
}

impl VniValues {
    /// A distinguisher's number has 16 bits (RFC 4364 section 4.2, type 1), as a zone has, and the
    /// zone is one network's alone.
    fn new(network: &Network, fabric: &Fabric, router_id: Ipv4Addr) -> Self {
        VniValues {
            vni: network.vni.get(),
            rd: format!("{router_id}:{}", network.conntrack_zone),
            route_target: format!("{}:{}", fabric.asn & 0xffff, network.vni),
        }
    }
}

#[derive(Serialize)]
struct ReflectorValues {
    listen_limit: u32,
}

#[derive(Serialize)]
struct PeerGroup {
    name: &'static str,
    peers: Vec<String>,
    /// Prefixes whose hosts may connect.
    listen: Vec<String>,
    /// One element if the peers are route reflector clients.
    client: Vec<&'static str>,
}

impl BgpValues {
    fn new(file: &HostFile, here: &Here, facts: &LocalFacts) -> Self {
        let fabric = &file.fabric;
        let Bgp {
            password_file: _,
            keepalive_s,
            hold_s,
            connect_s,
        } = &file.bgp;
        let id = router_id(here.underlay);
        let others = |addresses: &mut dyn Iterator<Item = IpAddr>| -> Vec<String> {
            let mut others: Vec<IpAddr> = addresses
                .filter(|address| *address != here.underlay)
                .collect();
            others.sort();
            others.iter().map(IpAddr::to_string).collect()
        };
        let reflectors = others(&mut fabric.reflectors.iter().copied());
        let mut groups = Vec::new();
        if !reflectors.is_empty() {
            groups.push(PeerGroup {
                name: "reflectors",
                peers: reflectors,
                listen: vec![],
                client: vec![],
            });
        }
        if here.reflector {
            groups.push(PeerGroup {
                name: "supervisors",
                peers: vec![],
                listen: listen_ranges(fabric),
                client: vec!["route-reflector-client"],
            });
        } else if fabric.reflectors.is_empty() {
            // A full mesh. The host file's check has seen to it that these are single addresses.
            let peers = others(&mut fabric.supervisors.iter().map(IpNet::addr));
            groups.push(PeerGroup {
                name: "supervisors",
                peers,
                listen: vec![],
                client: vec![],
            });
        }
        BgpValues {
            asn: fabric.asn,
            router_id: id.to_string(),
            underlay: here.underlay.to_string(),
            reflector: here
                .reflector
                .then_some(ReflectorValues {
                    listen_limit: LISTEN_LIMIT,
                })
                .into_iter()
                .collect(),
            groups,
            keepalive_s: *keepalive_s,
            hold_s: *hold_s,
            connect_s: *connect_s,
            password: match &file.bgp.password_file {
                Some(_) => facts.bgp_password.iter().cloned().collect(),
                None => vec![],
            },
            vnis: match here.supervisor {
                true => file
                    .networks
                    .iter()
                    .map(|network| VniValues::new(network, fabric, id))
                    .collect(),
                false => vec![],
            },
            routers: RouterValues::new(file, here),
            vtep: if here.supervisor {
                vec!["advertise-all-vni"]
            } else {
                vec![]
            },
        }
    }
}

/// Where supervisors connect from: without those that other ranges contain, and without the
/// reflectors, which are peers by themselves.
fn listen_ranges(fabric: &Fabric) -> Vec<String> {
    let mut nets = fabric.supervisors.clone();
    nets.retain(|net| {
        let contained = |other: &IpNet| other != net && other.contains(net);
        let reflector =
            net.prefix_len() == net.max_prefix_len() && fabric.reflectors.contains(&net.addr());
        !reflector && !fabric.supervisors.iter().any(contained)
    });
    nets.sort();
    nets.iter().map(IpNet::to_string).collect()
}

/// The underlay address, or for IPv6 32 bits of its SHA-256: RFC 6286 wants no more than a
/// number that is not zero and unique in the AS.
fn router_id(underlay: IpAddr) -> Ipv4Addr {
    match underlay {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = Sha256::digest(address.octets()).0;
            // As an address it should look like a host's: 1 to 223 first.
            Ipv4Addr::new(a % 223 + 1, b, c, d)
        }
    }
}
