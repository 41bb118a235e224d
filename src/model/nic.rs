//! From the operator's words to NICs that can be trusted: names resolved to networks, addresses
//! checked against them, conflicts between NICs decided. Whatever is wrong costs only the NIC or
//! the key that it concerns, and says so once, with instance, device, key, value and remedy.

use super::policies::Words;
use crate::addr::{IfName, Mac, is_assignable};
use crate::host::{Denied, HostFile, Limits, Network};
use crate::lxd::{Acls, Instance, InstanceId, LxdNic, Presence};
use crate::policy::{Compiled, Surroundings, parse_tags};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

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
    /// What may reach it, and what it may reach.
    pub inward: Arc<Compiled>,
    pub outward: Arc<Compiled>,
    /// Bits of the packet mark.
    pub tags: u16,
    pub limits: Limits,
    pub denied: Denied,
}

impl Nic {
    /// The addresses that the NIC may use: IPv4, IPv6, and the link-local one of its MAC.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let link_local = IpAddr::V6(self.mac.eui64_link_local());
        let four = self.ipv4.map(IpAddr::V4);
        let six = self.ipv6.map(IpAddr::V6);
        four.into_iter().chain(six).chain([link_local])
    }

    /// NIC `eth0` of instance `cLAST` at port `vethLAST` of network `vpc`, for tests: address
    /// 192.0.2.LAST, no services, no tags, no limits.
    #[cfg(test)]
    pub fn sample(last: u8) -> Nic {
        use crate::policy::{Direction, compile};
        let nothing = |direction| Arc::new(compile(direction, Vec::new()).0);
        Nic {
            id: NicId {
                instance: InstanceId {
                    project: "default".into(),
                    name: format!("c{last}"),
                },
                device: "eth0".into(),
            },
            network: "vpc".into(),
            port: format!("veth{last}").parse().expect("a name"),
            mac: Mac([0, 0x16, 0x3e, 0, 0, last]),
            ipv4: Some([192, 0, 2, last].into()),
            ipv6: None,
            inward: nothing(Direction::In),
            outward: nothing(Direction::Out),
            tags: 0,
            limits: Limits::default(),
            denied: Denied::default(),
        }
    }
}

/// A NIC that asks to be connected and cannot be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    pub id: NicId,
    /// Host-side device.
    pub port: IfName,
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
    /// Of these devices none is one of `nics`.
    pub refused: Vec<Refused>,
    pub problems: Vec<NicProblem>,
}

/// One instance's NICs by its own words alone; pure in the host file and the instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    nics: Vec<Nic>,
    refused: Vec<Refused>,
    problems: Vec<NicProblem>,
}

/// What an instance asks for. An instance that does not run asks for nothing.
pub fn draft(host: &HostFile, instance: &Instance) -> Draft {
    let mut draft = Draft::default();
    if instance.presence != Presence::Up {
        return draft;
    }
    for raw in &instance.nics {
        let mut problems = Complaints::about(instance, raw);
        let nic = resolve_one(host, &mut problems, raw, &instance.acls);
        if nic.is_none() {
            draft.refused.extend(refused(&problems.nic, raw));
        }
        draft.nics.extend(nic);
        draft.problems.append(&mut problems.found);
    }
    draft
}

/// Of a NIC without a MAC the device is being made.
fn refused(id: &NicId, raw: &LxdNic) -> Option<Refused> {
    raw.hwaddr.as_ref()?;
    Some(Refused {
        id: id.clone(),
        port: raw.host_name.as_ref()?.parse().ok()?,
    })
}

/// Decides between the instances' drafts. `before` is the previous result: where two NICs claim
/// one address or MAC, the one that had it keeps it, so that nobody can take over an address by
/// claiming it. Without a previous holder, the instance that was started first has it.
pub fn resolve<'a>(
    drafts: impl Iterator<Item = (&'a Instance, &'a Draft)>,
    before: &[Nic],
) -> Resolved {
    let mut resolved = Resolved::default();
    // Who had which port, MAC and address before.
    let holders: HashMap<Claim<'_>, &NicId> = before
        .iter()
        .flat_map(|nic| claims(nic).map(move |claim| (claim, &nic.id)))
        .collect();
    let mut candidates: Vec<(&Instance, &Nic)> = Vec::new();
    for (instance, draft) in drafts {
        candidates.extend(draft.nics.iter().map(|nic| (instance, nic)));
        resolved.problems.extend_from_slice(&draft.problems);
        resolved.refused.extend_from_slice(&draft.refused);
    }
    // Earlier claims first; the order decides who keeps what two NICs want.
    candidates.sort_by(|(a, x), (b, y)| (&a.last_used_at, &x.id).cmp(&(&b.last_used_at, &y.id)));
    let mut taken: HashMap<Claim<'_>, &NicId> = HashMap::with_capacity(4 * candidates.len());
    for (_, nic) in &candidates {
        // First round: a NIC that still claims what it had keeps it.
        let kept = claims(nic).filter(|claim| holders.get(claim) == Some(&&nic.id));
        taken.extend(kept.map(|claim| (claim, &nic.id)));
    }
    let losses: Vec<Losses> = candidates
        .iter()
        .map(|(_, nic)| settle(nic, &mut taken, &mut resolved.problems))
        .collect();
    drop(taken);
    for ((_, nic), Losses { all, ipv4, ipv6 }) in candidates.into_iter().zip(losses) {
        let mut nic = nic.clone();
        nic.ipv4 = nic.ipv4.filter(|_| !ipv4);
        nic.ipv6 = nic.ipv6.filter(|_| !ipv6);
        if all {
            let Nic { id, port, .. } = nic;
            resolved.refused.push(Refused { id, port });
        } else {
            resolved.nics.push(nic);
        }
    }
    let attached: HashSet<&IfName> = resolved.nics.iter().map(|nic| &nic.port).collect();
    resolved.refused.retain(|nic| !attached.contains(&nic.port));
    resolved.refused.sort();
    resolved.nics.sort_by(|a, b| a.id.cmp(&b.id));
    resolved.problems.sort();
    resolved
}

fn resolve_one(
    host: &HostFile,
    problems: &mut Complaints,
    raw: &LxdNic,
    there: &Acls,
) -> Option<Nic> {
    let LxdNic {
        device: _,
        parent,
        host_name,
        hwaddr,
        ipv4,
        ipv6,
        in_services: _,
        out_services: _,
        tags,
        acls: _,
        limits: _,
        audit: _,
        log_drops: _,
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
    let ipv4 = address(problems, network, "ipv4.address", ipv4.as_deref());
    let ipv6 = address(problems, network, "ipv6.address", ipv6.as_deref());
    let around = Surroundings { host, network };
    let (tags, bad_tags) = parse_tags(tags, &around);
    for error in bad_tags {
        problems.add(format!("user.lxmesh.tags: {error}"));
    }
    let own: Vec<IpAddr> = ipv4
        .map(IpAddr::V4)
        .into_iter()
        .chain(ipv6.map(IpAddr::V6))
        .collect();
    let words = Words {
        around,
        raw,
        there,
        own: &own,
    };
    let ([inward, outward], understood) = words.policies(|problem| problems.add(problem));
    let limits = words.limits(|problem| problems.add(problem));
    let denied = words.denied(understood, |problem| problems.add(problem));
    Some(Nic {
        id: problems.nic.clone(),
        network: network.name.clone(),
        port,
        mac,
        ipv4,
        ipv6,
        inward,
        outward,
        tags,
        limits,
        denied,
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
        let nets: Vec<_> = network
            .gateways()
            .map(|net| net.trunc().to_string())
            .collect();
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

/// What only one NIC can have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim<'a> {
    Port(&'a IfName),
    Mac(&'a str, Mac),
    Address(&'a str, IpAddr),
}

fn claims(nic: &Nic) -> impl Iterator<Item = Claim<'_>> {
    let own = nic
        .ipv4
        .map(IpAddr::V4)
        .into_iter()
        .chain(nic.ipv6.map(IpAddr::V6));
    [Claim::Port(&nic.port), Claim::Mac(&nic.network, nic.mac)]
        .into_iter()
        .chain(own.map(|address| Claim::Address(&nic.network, address)))
}

/// What a NIC does not get of what it claims.
#[derive(Default)]
struct Losses {
    all: bool,
    ipv4: bool,
    ipv6: bool,
}

/// Second round: the rest is first come, first served. Losing the port or the MAC costs the NIC;
/// losing an address costs the address.
fn settle<'a>(
    nic: &'a Nic,
    taken: &mut HashMap<Claim<'a>, &'a NicId>,
    problems: &mut Vec<NicProblem>,
) -> Losses {
    let mut losses = Losses::default();
    for claim in claims(nic) {
        let holder = *taken.entry(claim.clone()).or_insert(&nic.id);
        if *holder == nic.id {
            continue;
        }
        let text = match claim {
            Claim::Port(port) => {
                losses.all = true;
                format!("host device {port} belongs to {holder}; the NIC stays unconnected")
            }
            Claim::Mac(network, mac) => {
                losses.all = true;
                format!(
                    "hwaddr {mac} is used in network {network} by {holder}; the NIC stays unconnected until one of them has another"
                )
            }
            Claim::Address(network, address) => {
                losses.ipv4 |= address.is_ipv4();
                losses.ipv6 |= address.is_ipv6();
                format!(
                    "address {address} is used in network {network} by {holder}; choose another one"
                )
            }
        };
        problems.push(NicProblem {
            nic: nic.id.clone(),
            text,
        });
        if losses.all {
            break;
        }
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    const HOST: &str = r#"
        version = 1
        [fabric]
        name = "t"
        asn = 64500
        reflectors = ["203.0.113.1"]
        supervisors = ["203.0.113.11"]
        unprotected_tags = true
        [tags]
        bastion = 3
        [[network]]
        name = "vpc"
        vni = 100
        gateway = ["192.0.2.1/24", "2001:db8::1/64"]
        [[network]]
        name = "blue"
        vni = 200
        gateway = ["198.51.100.1/24"]
    "#;

    fn host_file() -> HostFile {
        host::parse("host.toml", HOST).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// An instance with one NIC whose host device and MAC end in its number.
    fn instance(number: u8, started: &str, alter: impl Fn(&mut LxdNic)) -> Instance {
        let mut nic = LxdNic {
            device: "eth0".into(),
            parent: "vpc".into(),
            host_name: Some(format!("veth{number}")),
            hwaddr: Some(format!("00:16:3e:00:00:{number:02x}")),
            ipv4: Some(format!("192.0.2.{}", number + 10)),
            ipv6: Some(format!("2001:db8::{number:x}0")),
            in_services: "tcp/80".into(),
            ..LxdNic::default()
        };
        alter(&mut nic);
        Instance {
            id: InstanceId {
                project: "default".into(),
                name: format!("c{number}"),
            },
            presence: Presence::Up,
            last_used_at: started.into(),
            nics: vec![nic],
            acls: Default::default(),
        }
    }

    fn resolved(instances: &[Instance], before: &[Nic]) -> Resolved {
        let host = host_file();
        let drafts: Vec<Draft> = instances.iter().map(|i| draft(&host, i)).collect();
        resolve(instances.iter().zip(&drafts), before)
    }

    fn texts(resolved: &Resolved) -> Vec<String> {
        resolved
            .problems
            .iter()
            .map(NicProblem::to_string)
            .collect()
    }

    #[test]
    fn a_nic_is_known_by_network_name_or_bridge_name() {
        let a = instance(1, "", |_| {});
        let b = instance(2, "", |nic| nic.parent = "svi-vpc".into());
        let found = resolved(&[a, b], &[]);
        assert_eq!(texts(&found), Vec::<String>::new());
        assert!(found.nics.iter().all(|nic| nic.network == "vpc"));
        let link_local = found.nics[0].addresses().last().unwrap();
        assert_eq!(link_local.to_string(), "fe80::216:3eff:fe00:1");
    }

    #[test]
    fn whoever_had_an_address_keeps_it_and_the_other_loses_only_the_address() {
        let old = instance(2, "2026-01-02", |nic| nic.ipv4 = Some("192.0.2.50".into()));
        let first = resolved(std::slice::from_ref(&old), &[]);
        // Started earlier, but it had another address until now.
        let thief = instance(1, "2026-01-01", |nic| nic.ipv4 = Some("192.0.2.50".into()));
        let both = resolved(&[thief.clone(), old.clone()], &first.nics);
        assert_eq!(both.nics[0].ipv4, None);
        assert!(both.nics[0].ipv6.is_some());
        assert_eq!(both.nics[1].ipv4, Some("192.0.2.50".parse().unwrap()));
        assert_eq!(
            texts(&both),
            [
                "instance c1 device eth0: address 192.0.2.50 is used in network vpc by c2 device eth0; choose another one"
            ]
        );
        // Nobody remembers: who was started first.
        let anew = resolved(&[thief.clone(), old], &[]);
        assert_eq!(anew.nics[0].ipv4, Some("192.0.2.50".parse().unwrap()));
        assert_eq!(anew.nics[1].ipv4, None);
        // The holder goes: the other has it.
        let alone = resolved(&[thief], &both.nics);
        assert_eq!(alone.nics[0].ipv4, Some("192.0.2.50".parse().unwrap()));
        assert!(alone.problems.is_empty());
    }

    #[test]
    fn a_mac_of_another_nic_costs_the_nic_but_may_be_used_in_another_network() {
        let a = instance(1, "1", |_| {});
        let b = instance(2, "2", |nic| nic.hwaddr = Some("00:16:3e:00:00:01".into()));
        let c = instance(3, "3", |nic| {
            nic.parent = "blue".into();
            nic.hwaddr = Some("00:16:3e:00:00:01".into());
            nic.ipv4 = Some("198.51.100.9".into());
            nic.ipv6 = None;
        });
        let found = resolved(&[a, b, c], &[]);
        let names: Vec<_> = found
            .nics
            .iter()
            .map(|nic| nic.id.instance.name.as_str())
            .collect();
        assert_eq!(names, ["c1", "c3"]);
        assert_eq!(texts(&found).len(), 1);
        assert!(texts(&found)[0].contains("c2 device eth0: hwaddr 00:16:3e:00:00:01 is used"));
    }

    #[test]
    fn each_bad_value_is_named_with_its_key_and_costs_only_itself() {
        type Case = (fn(&mut LxdNic), &'static str, bool);
        let cases: [Case; 10] = [
            (
                |n| n.parent = "nowhere".into(),
                "user.lxmesh.parent=\"nowhere\" is not a network",
                false,
            ),
            (
                |n| n.hwaddr = Some("no".into()),
                "hwaddr \"no\" is not a MAC",
                false,
            ),
            (
                |n| n.hwaddr = Some("01:00:5e:00:00:01".into()),
                "cannot be a NIC's",
                false,
            ),
            (
                |n| n.host_name = Some("a/b".into()),
                "host device name \"a/b\" has '/'",
                false,
            ),
            (
                |n| n.ipv4 = Some("192.0.2.7/24".into()),
                "user.lxmesh.ipv4.address=\"192.0.2.7/24\" is not an address",
                true,
            ),
            (
                |n| n.ipv4 = Some("10.0.0.1".into()),
                "user.lxmesh.ipv4.address=10.0.0.1 cannot be used in network vpc",
                true,
            ),
            (
                |n| n.ipv4 = Some("192.0.2.1".into()),
                "other than the gateway's",
                true,
            ),
            (
                |n| n.ipv6 = Some("2001:db8::".into()),
                "user.lxmesh.ipv6.address=2001:db8:: cannot",
                true,
            ),
            (
                |n| n.in_services = "tcp/80 tcp/x".into(),
                "user.lxmesh.in_services: \"tcp/x\" is not a service",
                true,
            ),
            (
                |n| n.tags = "bastion nobody".into(),
                "user.lxmesh.tags: \"nobody\" is not a tag",
                true,
            ),
        ];
        for (alter, wanted, survives) in cases {
            let found = resolved(&[instance(1, "", alter), instance(2, "", |_| {})], &[]);
            assert_eq!(texts(&found).len(), 1, "{:?}", texts(&found));
            assert!(texts(&found)[0].starts_with("instance c1 device eth0: "));
            assert!(texts(&found)[0].contains(wanted), "{}", texts(&found)[0]);
            assert_eq!(found.nics.len(), if survives { 2 } else { 1 }, "{wanted}");
        }
    }

    #[test]
    fn control_characters_never_reach_the_log_as_they_are() {
        let evil = instance(1, "", |nic| {
            nic.ipv4 = Some("1\n2\u{1b}[2J".into());
            nic.in_services = "tcp/\u{7}".into();
            nic.parent = "vpc".into();
        });
        for text in texts(&resolved(&[evil], &[])) {
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn instances_that_are_not_running_have_no_nics() {
        let mut down = instance(1, "", |_| {});
        down.presence = Presence::Down;
        assert_eq!(resolved(&[down], &[]), Resolved::default());
    }
}
