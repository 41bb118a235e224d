//! strongSwan, by swanctl: ESP in transport mode for what hosts of the fabric say to one another
//! over tunnels and BGP, and for nothing else. Hosts are not listed: one connection has the
//! supervisors' prefixes as its far end, and its trap policies negotiate with whichever host a
//! packet is for. Reflectors are known, and have a connection each, which is started at once.
//! Needs strongSwan 5.9.6. What must not happen without strongSwan is `firewall.rs`'s.

use super::facts::LocalFacts;
use super::roles::Here;
use super::template::{self, Templates};
use super::{OutputFile, RenderError};
use crate::addr::{IpAddr, IpNet};
use crate::host::{HostFile, Ipsec, Revocation, Trust};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// How the name of every connection begins.
pub const CONNECTION: &str = "lxmesh-";

/// AEAD ciphers only; X25519 first, P-256 where a policy forbids it. All ESP ciphers have the
/// overhead that `host::MtuSum` counts with.
const IKE_PROPOSALS: &str = "aes256gcm16-prfsha384-x25519, aes256gcm16-prfsha384-ecp256, aes128gcm16-prfsha256-x25519, chacha20poly1305-prfsha256-x25519";
const ESP_PROPOSALS: &str =
    "aes256gcm16-x25519, aes256gcm16-ecp256, aes128gcm16-x25519, chacha20poly1305-x25519";

pub fn render(
    file: &HostFile,
    here: &Here,
    facts: &LocalFacts,
    templates: &Templates,
) -> Result<Vec<OutputFile>, RenderError> {
    let Some(ipsec) = &file.ipsec else {
        return Ok(Vec::new());
    };
    let values = SwanctlValues::new(file, ipsec, here, facts);
    let output = |template: &str, path: &str| {
        templates.output(template, &CharonValues::NEW, '#', path.into(), 0o644)
    };
    let mut outputs = vec![
        templates.output(
            "strongswan/lxmesh.conf",
            &values,
            '#',
            "/etc/swanctl/conf.d/lxmesh.conf".into(),
            0o640,
        )?,
        output("strongswan/charon.conf", "/etc/strongswan.d/lxmesh.conf")?,
        kernel_settings(templates)?,
    ];
    // Units of NixOS are its modules'.
    if !facts.target.is_nixos() {
        outputs.push(output("strongswan/unit.conf", UNIT)?);
    }
    Ok(outputs)
}

/// What the kernel is to do while there is no association yet.
pub fn kernel_settings(templates: &Templates) -> Result<OutputFile, RenderError> {
    templates.output(
        "sysctl/ipsec.conf",
        &template::NOTHING,
        '#',
        "/etc/sysctl.d/60-lxmesh-ipsec.conf".into(),
        0o644,
    )
}

/// An addition to the unit of charon-systemd.
const UNIT: &str = "/etc/systemd/system/strongswan.service.d/10-lxmesh.conf";

/// Retransmissions of charon: strongswan.conf(5), "IKEv2 RETRANSMISSION".
#[derive(Serialize)]
struct CharonValues {
    tries: u32,
    timeout: &'static str,
    base: &'static str,
    /// 2 + 3 + 4.5 + 6.75, rounded up.
    give_up_s: u32,
}

impl CharonValues {
    const NEW: CharonValues = CharonValues {
        tries: 3,
        timeout: "2.0",
        base: "1.5",
        give_up_s: 17,
    };
}

#[derive(Serialize)]
struct SwanctlValues {
    connections: Vec<Connection>,
    ike_proposals: &'static str,
    esp_proposals: &'static str,
    encap: &'static str,
    /// One element with a pre-shared key.
    psk_files: Vec<String>,
}

/// Lists have one element where there is something to print, none where there is not.
#[derive(Serialize)]
struct Connection {
    about: String,
    name: String,
    local_addrs: String,
    remote_addrs: String,
    auth: &'static str,
    reauth_time: Vec<&'static str>,
    local_id: Vec<String>,
    remote_id: String,
    cacerts: Vec<String>,
    revocation: Vec<&'static str>,
    children: Vec<Child>,
}

#[derive(Serialize)]
struct Child {
    name: &'static str,
    reqid: u32,
    local_ts: String,
    remote_ts: String,
    start_action: &'static str,
}

/// What is said between this host and others: who calls whom.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Talk {
    bgp_to: bool,
    bgp_from: bool,
    vxlan: bool,
}

impl SwanctlValues {
    fn new(file: &HostFile, ipsec: &Ipsec, here: &Here, facts: &LocalFacts) -> Self {
        let fabric = &file.fabric;
        let ports: BTreeSet<u16> = file
            .networks
            .iter()
            .map(|network| network.vxlan_port)
            .collect();
        let ports: Vec<u16> = ports.into_iter().collect();
        let mut connections = Vec::new();
        let mut reflectors = fabric.reflectors.clone();
        reflectors.sort();
        let reqids = reflector_reqids(&reflectors);
        for reflector in reflectors
            .into_iter()
            .filter(|address| *address != here.underlay)
        {
            let runs_instances = fabric
                .supervisors
                .iter()
                .any(|net| net.contains(&reflector));
            let talk = Talk {
                bgp_to: true,
                bgp_from: here.reflector,
                vxlan: here.supervisor && runs_instances,
            };
            let start = Start {
                action: "trap|start",
                reqids: reqids[&reflector],
            };
            let children = children(talk, here, &[reflector.into()], &ports, start);
            let about =
                format!("Reflector {reflector}: known, so the first packet need not ask for it.");
            let name = format!("{CONNECTION}{}", name_of_address(reflector));
            let remote = Remote {
                about,
                name,
                addrs: reflector.to_string(),
                is_reflector: true,
            };
            connections.push(connection(remote, children, file, ipsec, here, facts));
        }
        let talk = Talk {
            bgp_to: fabric.reflectors.is_empty(),
            bgp_from: here.reflector || fabric.reflectors.is_empty(),
            vxlan: here.supervisor,
        };
        let mut nets = IpNet::aggregate(&fabric.supervisors);
        nets.sort();
        let start = Start {
            action: "trap",
            reqids: FLEET_REQIDS,
        };
        let children = children(talk, here, &nets, &ports, start);
        let remote = Remote {
            about: "Supervisors, any of them: a packet for one starts the negotiation.".into(),
            name: format!("{CONNECTION}fleet"),
            addrs: far_ends(&nets),
            is_reflector: false,
        };
        connections.push(connection(remote, children, file, ipsec, here, facts));
        SwanctlValues {
            connections,
            ike_proposals: IKE_PROPOSALS,
            esp_proposals: ESP_PROPOSALS,
            encap: if ipsec.udp_encapsulation { "yes" } else { "no" },
            psk_files: match &ipsec.trust {
                Trust::Psk { file } => vec![file.display().to_string()],
                Trust::Certificates { .. } => vec![],
            },
        }
    }
}

/// Where peers may be. A bare address would be taken as the one far end of all; as a prefix it is
/// not. charon takes IPv6 prefixes for IPv4 when it installs traps (5.9.8), so there anybody may
/// ask; whom the packet filter lets ask, and who has a certificate, are the same as ever.
fn far_ends(nets: &[IpNet]) -> String {
    match nets.iter().any(|net| net.addr().is_ipv6()) {
        true => "%any6".into(),
        false => joined(nets.iter().map(IpNet::to_string)),
    }
}

/// The far end of a connection.
struct Remote {
    about: String,
    name: String,
    addrs: String,
    is_reflector: bool,
}

fn connection(
    remote: Remote,
    children: Vec<Child>,
    file: &HostFile,
    ipsec: &Ipsec,
    here: &Here,
    facts: &LocalFacts,
) -> Connection {
    let Remote {
        about,
        name,
        addrs,
        is_reflector,
    } = remote;
    let common = Connection {
        about,
        name,
        local_addrs: here.underlay.to_string(),
        remote_addrs: addrs,
        auth: "psk",
        reauth_time: vec![],
        local_id: vec![here.underlay.to_string()],
        remote_id: "%any".into(),
        cacerts: vec![],
        revocation: vec![],
        children,
    };
    match &ipsec.trust {
        Trust::Psk { file: _ } => common,
        Trust::Certificates {
            identity,
            ca,
            reflector_ca,
            revocation,
        } => {
            let files = if is_reflector { reflector_ca } else { ca };
            Connection {
                auth: "pubkey",
                reauth_time: vec!["24h"],
                local_id: match &file.host.identity {
                    Some(own) => vec![own.clone()],
                    None => own_identity(identity, &facts.name).into_iter().collect(),
                },
                remote_id: identity.clone(),
                cacerts: match files.is_empty() {
                    true => vec![],
                    false => vec![files.join(", ")],
                },
                revocation: vec![match revocation {
                    Revocation::Relaxed => "relaxed",
                    Revocation::Strict => "strict",
                }],
                ..common
            }
        }
    }
}

/// This host's name where the pattern has its `*`. `None` for distinguished names: strongSwan
/// then takes the certificate's subject.
fn own_identity(pattern: &str, host_name: &str) -> Option<String> {
    if pattern.contains('=') {
        return None;
    }
    let Some(end) = pattern.strip_prefix('*') else {
        return Some(pattern.into());
    };
    if host_name.ends_with(end) {
        return Some(host_name.into());
    }
    let label = host_name.split('.').next().unwrap_or_default();
    Some(format!("{label}{end}"))
}

/// How the children of a connection begin, and the first of the numbers that tie their policies to
/// their associations.
#[derive(Clone, Copy)]
struct Start {
    action: &'static str,
    reqids: u32,
}

/// Four numbers of the connection that has all supervisors as its far end: far from 1, where charon
/// begins to count for connections that have none.
const FLEET_REQIDS: u32 = 0x1000_0000;

/// Four numbers for each reflector, which stay when others come and go. Left to charon, a trap and
/// what is negotiated through it have one number, and what the other end asked for has another;
/// both ends begin at the same moment when they have something to say, the policy then belongs to
/// the later of the two, and packets that arrive by the earlier one are dropped until it is re-keyed.
fn reflector_reqids(reflectors: &[IpAddr]) -> BTreeMap<IpAddr, u32> {
    let mut taken = BTreeSet::from([FLEET_REQIDS]);
    let number_of = |reflector: &IpAddr| {
        let digest = match reflector {
            IpAddr::V4(address) => Sha256::digest(address.octets()),
            IpAddr::V6(address) => Sha256::digest(address.octets()),
        };
        let [a, b, c, ..] = digest.0;
        let mut number = FLEET_REQIDS + 4 * u32::from_be_bytes([0, a, b, c]);
        while !taken.insert(number) {
            number += 4;
        }
        (*reflector, number)
    };
    reflectors.iter().map(number_of).collect()
}

/// A tunnel's packets have the port as destination only, so each direction is a child of its own,
/// which the other end has with the sides exchanged; and so are BGP sessions by who called.
fn children(talk: Talk, here: &Here, nets: &[IpNet], ports: &[u16], start: Start) -> Vec<Child> {
    let own = IpNet::from(here.underlay);
    let one = [own];
    let mut children = Vec::new();
    let mut child = |number, name, local_ts, remote_ts| {
        children.push(Child {
            name,
            reqid: start.reqids + number,
            local_ts,
            remote_ts,
            start_action: start.action,
        });
    };
    if talk.bgp_to {
        child(
            0,
            "bgp-to",
            selectors(&one, &["tcp".into()]),
            selectors(nets, &["tcp/179".into()]),
        );
    }
    if talk.bgp_from {
        child(
            1,
            "bgp-from",
            selectors(&one, &["tcp/179".into()]),
            selectors(nets, &["tcp".into()]),
        );
    }
    if talk.vxlan && !ports.is_empty() {
        let tunnel: Vec<String> = ports.iter().map(|port| format!("udp/{port}")).collect();
        child(
            2,
            "vxlan-to",
            selectors(&one, &["udp".into()]),
            selectors(nets, &tunnel),
        );
        child(
            3,
            "vxlan-from",
            selectors(&one, &tunnel),
            selectors(nets, &["udp".into()]),
        );
    }
    children
}

/// `PREFIX[PROTOCOL/PORT]`, all of them: swanctl.conf(5), `local_ts`.
fn selectors(nets: &[IpNet], what: &[String]) -> String {
    joined(
        nets.iter()
            .flat_map(|net| what.iter().map(move |what| format!("{net}[{what}]"))),
    )
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// The address as a host's name would have it, for hosts of which nothing else is known.
pub fn name_of_address(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_child_has_a_number_of_its_own_that_does_not_change_with_the_others() {
        let ips = |last: std::ops::Range<u8>| -> Vec<IpAddr> {
            last.map(|last| IpAddr::from([198, 51, 100, last]))
                .collect()
        };
        let (few, many) = (reflector_reqids(&ips(7..9)), reflector_reqids(&ips(1..200)));
        assert!(few.iter().all(|(address, number)| many[address] == *number));
        let numbers: BTreeSet<u32> = many.values().copied().collect();
        assert_eq!(numbers.len(), many.len());
        assert!(
            numbers
                .iter()
                .all(|number| number % 4 == 0 && *number > FLEET_REQIDS)
        );
    }

    #[test]
    fn a_hosts_identity_is_its_name_in_the_pattern() {
        let of = |pattern, name| own_identity(pattern, name);
        assert_eq!(of("*.example.org", "sup1").unwrap(), "sup1.example.org");
        assert_eq!(
            of("*.example.org", "sup1.example.org").unwrap(),
            "sup1.example.org"
        );
        assert_eq!(of("*.example.org", "sup1.lan").unwrap(), "sup1.example.org");
        assert_eq!(of("*@example.org", "sup1").unwrap(), "sup1@example.org");
        assert_eq!(
            of("fleet.example.org", "sup1").unwrap(),
            "fleet.example.org"
        );
        assert_eq!(of("C=CH, O=Example, CN=*", "sup1"), None);
    }
}
