//! From the operator's words to NICs that can be trusted: names resolved to networks, addresses
//! checked against them, conflicts between NICs decided. Whatever is wrong costs only the NIC or
//! the key that it concerns, and says so once, with instance, device, key, value and remedy.

use crate::addr::{IfName, Mac, is_assignable};
use crate::host::{HostFile, Network};
use crate::lxd::{Instance, InstanceId, Inventory, LxdNic, Presence};
use crate::policy::{Service, parse_services, parse_tags};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which device of which instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NicId {
    pub instance: InstanceId,
    pub device: String,
}

impl fmt::Display for NicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} device {}", self.instance, self.device)
    }
}

/// A NIC of a running instance that LXMesh connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    pub id: NicId,
    /// Name of the network in the host file.
    pub network: String,
    /// Host-side device.
    pub port: IfName,
    pub mac: Mac,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub in_services: BTreeSet<Service>,
    pub out_services: BTreeSet<Service>,
    /// Bits of the packet mark.
    pub tags: u16,
}

impl Nic {
    /// The addresses that the NIC may use: IPv4, IPv6, and the link-local one of its MAC.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let link_local = IpAddr::V6(self.mac.eui64_link_local());
        let four = self.ipv4.map(IpAddr::V4);
        let six = self.ipv6.map(IpAddr::V6);
        four.into_iter().chain(six).chain([link_local])
    }
}

/// Something wrong with one NIC or one of its keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NicProblem {
    pub nic: NicId,
    /// What is wrong and what to do.
    pub text: String,
}

impl fmt::Display for NicProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {}: {}", self.nic, self.text)
    }
}

/// Resolved NICs in the order of their identity, and what was wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    pub nics: Vec<Nic>,
    pub problems: Vec<NicProblem>,
}

/// Resolves all NICs of running instances. `before` is the previous result: where two NICs claim
/// one address or MAC, the one that had it keeps it, so that nobody can take over an address by
/// claiming it. Without a previous holder, the instance that was started first has it.
pub fn resolve(host: &HostFile, inventory: &Inventory, before: &[Nic]) -> Resolved {
    let mut resolved = Resolved::default();
    let holders = Holders::of(before);
    let mut candidates: Vec<(&Instance, Nic)> = Vec::new();
    for instance in inventory.instances.values() {
        if instance.presence != Presence::Up {
            continue;
        }
        for raw in &instance.nics {
            let mut problems = Complaints::about(instance, raw);
            if let Some(nic) = resolve_one(host, &mut problems, raw) {
                candidates.push((instance, nic));
            }
            resolved.problems.append(&mut problems.found);
        }
    }
    // Earlier claims first; the order decides who keeps what two NICs want.
    candidates.sort_by(|(a, x), (b, y)| {
        (&a.last_used_at, &x.id).cmp(&(&b.last_used_at, &y.id))
    });
    let mut taken = Taken::default();
    for (_, nic) in &candidates {
        taken.claim_as_holder(nic, &holders);
    }
    for (_, nic) in candidates {
        taken.settle(nic, &mut resolved);
    }
    resolved.nics.sort_by(|a, b| a.id.cmp(&b.id));
    resolved.problems.sort();
    resolved
}

fn resolve_one(host: &HostFile, problems: &mut Complaints, raw: &LxdNic) -> Option<Nic> {
    let LxdNic {
        device: _,
        parent,
        host_name,
        hwaddr,
        ipv4,
        ipv6,
        in_services,
        out_services,
        tags,
    } = raw;
    let Some(network) = host.network(parent) else {
        let known: Vec<_> = host.networks.iter().map(|n| n.name.as_str()).collect();
        problems.add(format!(
            "user.lxmesh.parent={parent:?} is not a network of the host file; the networks are: {}",
            known.join(", ")
        ));
        return None;
    };
    // A running instance without these is being started: an event follows when it has them.
    let (host_name, hwaddr) = (host_name.as_ref()?, hwaddr.as_ref()?);
    let port: IfName = match host_name.parse() {
        Ok(port) => port,
        Err(error) => {
            problems.add(format!("host device name {host_name:?} {error}"));
            return None;
        }
    };
    let mac: Mac = match hwaddr.parse() {
        Ok(mac) => mac,
        Err(error) => {
            problems.add(format!("hwaddr {hwaddr:?} {error}"));
            return None;
        }
    };
    if mac.is_unusable() || mac == network.gateway_mac {
        problems.add(format!(
            "hwaddr {mac} cannot be a NIC's: it is a group address, zero, or the gateway's; set another hwaddr"
        ));
        return None;
    }
    let (in_services, bad_in) = parse_services(in_services);
    let (out_services, bad_out) = parse_services(out_services);
    let (tags, bad_tags) = parse_tags(tags, host);
    for (key, errors) in [
        ("in_services", bad_in),
        ("out_services", bad_out),
        ("tags", bad_tags),
    ] {
        for error in errors {
            problems.add(format!("user.lxmesh.{key}: {error}"));
        }
    }
    Some(Nic {
        id: problems.nic.clone(),
        network: network.name.clone(),
        port,
        mac,
        ipv4: address(problems, network, "ipv4.address", ipv4.as_deref()),
        ipv6: address(problems, network, "ipv6.address", ipv6.as_deref()),
        in_services,
        out_services,
        tags,
    })
}

fn address<A>(
    problems: &mut Complaints,
    network: &Network,
    key: &str,
    text: Option<&str>,
) -> Option<A>
where
    A: std::str::FromStr + Into<IpAddr> + Copy,
{
    let text = text?;
    let Ok(address) = text.parse::<A>() else {
        let shown: String = text.chars().take(64).collect();
        problems.add(format!(
            "user.lxmesh.{key}={shown:?} is not an address; write one address without a prefix length"
        ));
        return None;
    };
    let general: IpAddr = address.into();
    if !is_assignable(general) || !network.admits(general) {
        let nets: Vec<_> = network.gateways().map(|net| net.trunc().to_string()).collect();
        problems.add(format!(
            "user.lxmesh.{key}={general} cannot be used in network {}: choose a free address of {} other than the gateway's",
            network.name,
            nets.join(" or ")
        ));
        return None;
    }
    Some(address)
}

/// Collects what is wrong with one NIC.
struct Complaints {
    nic: NicId,
    found: Vec<NicProblem>,
}

impl Complaints {
    fn about(instance: &Instance, raw: &LxdNic) -> Self {
        Complaints {
            nic: NicId {
                instance: instance.id.clone(),
                device: raw.device.clone(),
            },
            found: Vec::new(),
        }
    }

    fn add(&mut self, text: String) {
        self.found.push(NicProblem {
            nic: self.nic.clone(),
            text,
        });
    }
}

/// Who had which address and MAC before.
struct Holders<'a> {
    claims: BTreeMap<Claim, &'a NicId>,
}

/// What only one NIC can have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Port(IfName),
    Mac(String, Mac),
    Address(String, IpAddr),
}

fn claims(nic: &Nic) -> impl Iterator<Item = Claim> + '_ {
    let own = nic.ipv4.map(IpAddr::V4).into_iter().chain(nic.ipv6.map(IpAddr::V6));
    [
        Claim::Port(nic.port.clone()),
        Claim::Mac(nic.network.clone(), nic.mac),
    ]
    .into_iter()
    .chain(own.map(|address| Claim::Address(nic.network.clone(), address)))
}

impl<'a> Holders<'a> {
    fn of(nics: &'a [Nic]) -> Self {
        Holders {
            claims: nics
                .iter()
                .flat_map(|nic| claims(nic).map(move |claim| (claim, &nic.id)))
                .collect(),
        }
    }
}

#[derive(Default)]
struct Taken {
    claims: BTreeMap<Claim, NicId>,
}

impl Taken {
    /// First round: a NIC that still claims what it had keeps it.
    fn claim_as_holder(&mut self, nic: &Nic, holders: &Holders<'_>) {
        for claim in claims(nic) {
            if holders.claims.get(&claim) == Some(&&nic.id) {
                self.claims.insert(claim, nic.id.clone());
            }
        }
    }

    /// Second round: the rest is first come, first served. Losing the port or the MAC costs the
    /// NIC; losing an address costs the address.
    fn settle(&mut self, mut nic: Nic, resolved: &mut Resolved) {
        for claim in claims(&nic).collect::<Vec<_>>() {
            let holder = self.claims.entry(claim.clone()).or_insert(nic.id.clone());
            if *holder == nic.id {
                continue;
            }
            let mut complain = |text: String| {
                resolved.problems.push(NicProblem {
                    nic: nic.id.clone(),
                    text,
                });
            };
            match claim {
                Claim::Port(port) => {
                    complain(format!("host device {port} belongs to {holder}; the NIC stays unconnected"));
                    return;
                }
                Claim::Mac(network, mac) => {
                    complain(format!(
                        "hwaddr {mac} is used in network {network} by {holder}; the NIC stays unconnected until one of them has another"
                    ));
                    return;
                }
                Claim::Address(network, address) => {
                    complain(format!(
                        "address {address} is used in network {network} by {holder}; choose another one"
                    ));
                    match address {
                        IpAddr::V4(_) => nic.ipv4 = None,
                        IpAddr::V6(_) => nic.ipv6 = None,
                    }
                }
            }
        }
        resolved.nics.push(nic);
    }
}
