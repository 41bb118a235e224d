//! FRR: iBGP with the EVPN address family only. Supervisors peer with the reflectors, or with one
//! another where there are none; reflectors listen for supervisors and peer with one another.
//! Written for FRR 9.0.1 and later. Route distinguishers and targets are FRR's own: all hosts have
//! one AS number, so AS:VNI matches everywhere (its low 16 bits, where it has more).

use super::roles::Here;
use super::template::Templates;
use super::{OutputFile, RenderError};
use crate::addr::{IpAddr, IpNet};
use crate::host::{Fabric, HostFile};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::net::Ipv4Addr;

/// FRR accepts up to 5000 dynamic neighbours everywhere (65535 in newer versions); its own
/// default is 100.
const LISTEN_LIMIT: u32 = 5000;

pub fn render(
    file: &HostFile,
    here: &Here,
    templates: &Templates,
) -> Result<Vec<OutputFile>, RenderError> {
    let values = BgpValues::new(&file.fabric, here);
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
    /// Lines of the address family that make a tunnel end point.
    vtep: Vec<&'static str>,
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
    fn new(fabric: &Fabric, here: &Here) -> Self {
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
            router_id: router_id(here.underlay).to_string(),
            underlay: here.underlay.to_string(),
            reflector: here
                .reflector
                .then_some(ReflectorValues {
                    listen_limit: LISTEN_LIMIT,
                })
                .into_iter()
                .collect(),
            groups,
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
