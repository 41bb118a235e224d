//! From the operator's words to NICs that can be trusted: names resolved to networks, addresses
//! checked against them, conflicts between NICs decided. Whatever is wrong costs only the NIC or
//! the key that it concerns, and says so once, with instance, device, key, value and remedy.

mod tenant;
pub mod unknown;

use self::tenant::Rights;
use self::unknown::{Cost, Place};
use super::claims::{self, Claim, Held, Kept};
use super::facts::Facts;
use super::policies::Words;
use crate::addr::{IfName, IpNet, Mac, is_assignable};
use crate::host::{Denied, HostFile, Limits, Network};
use crate::lxd::{Instance, InstanceId, LxdNic, NotOurs, Presence, Program};
use crate::policy::{Compiled, Surroundings, parse_tags};
use crate::text::{self, SENTENCE};
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
    /// Those that LXD has given its device.
    pub routes: Vec<IpNet>,
    /// Addresses that it asks for and does not get, because a NIC on another host has them; and those that it got
    /// after it had waited, which go back as soon as the other one is there again.
    pub contested: Vec<IpAddr>,
}

impl Nic {
    /// The addresses that the NIC may use: IPv4, IPv6, and the link-local one of its MAC.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.own_addresses()
            .chain([IpAddr::V6(self.mac.eui64_link_local())])
    }

    /// Those that it was given.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let four = self.ipv4.map(IpAddr::V4);
        four.into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// Whether it waits for an address that a NIC on another host has.
    pub fn waits(&self) -> bool {
        let mut contested = self.contested.iter();
        contested.any(|address| !self.own_addresses().any(|own| own == *address))
    }

    /// Addresses of its neighbour entries: those that it may use, and signs of those that are in dispute.
    pub fn neighbours(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let signs = self.contested.iter();
        self.addresses()
            .chain(signs.map(|address| claims::claim_sign(*address)))
    }

    /// Whether both claim the same.
    pub fn claims_like(&self, other: &Nic) -> bool {
        claims::of(self).eq(claims::of(other))
    }

    /// Why its host-side device cannot be its, for a person; `None` if it can, or is not there.
    pub fn misfit(&self, facts: &Facts) -> Option<String> {
        let why = facts.unfit(facts.link(&self.port)?)?;
        Some(format!(
            "its device {} {why}, so it is not connected; if that is not the one that was made for it, correct host_name or volatile.{}.host_name of the instance",
            self.port, self.id.device
        ))
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
            routes: Vec::new(),
            contested: Vec::new(),
        }
    }
}

/// Stands for a device that has no name.
const NO_DEVICE: &str = "-";

/// A NIC that asks to be connected and cannot be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    pub id: NicId,
    /// Host-side device.
    pub port: IfName,
    /// Those that LXD has given it.
    pub routes: Vec<IpNet>,
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
    /// Those without a device's name: being started, or of a virtual machine whose move while it ran has failed on the
    /// other member.
    unnamed: Vec<Nic>,
    refused: Vec<Refused>,
    problems: Vec<NicProblem>,
    /// Devices that NICs will have when the instance runs, and whether they have them now, as those of a paused one.
    reserved: Vec<(NicId, IfName, bool)>,
}

impl Draft {
    /// The same with the devices that its NICs keep; `None` if they keep none.
    pub fn keeping(&self, kept: &HashMap<NicId, Kept>) -> Option<Draft> {
        let keeps = |nic: &Nic| kept.contains_key(&nic.id);
        if kept.is_empty() || !self.nics.iter().chain(&self.unnamed).any(keeps) {
            return None;
        }
        let mut draft = self.clone();
        for nic in &mut draft.nics {
            if let Some(kept) = kept.get(&nic.id) {
                let named = std::mem::replace(&mut nic.port, kept.port.clone());
                draft.reserved.push((nic.id.clone(), named, false));
            }
        }
        for mut nic in std::mem::take(&mut draft.unnamed) {
            if let Some(kept) = kept.get(&nic.id) {
                nic.port = kept.port.clone();
                draft.nics.push(nic);
            }
        }
        Some(draft)
    }

    /// The NIC has this device while its instance is paused, whatever it names.
    pub fn reserve(&mut self, id: &NicId, port: &IfName) {
        if !self
            .reserved
            .iter()
            .any(|(one, named, has_it)| *has_it && one == id && named == port)
        {
            self.reserved.push((id.clone(), port.clone(), true));
        }
    }

    /// NICs that name no device: their `port` stands for none.
    pub fn unnamed(&self) -> &[Nic] {
        &self.unnamed
    }

    /// What it asks for that makes sense by itself.
    pub fn nics(&self) -> &[Nic] {
        &self.nics
    }
}

/// What an instance asks for. An instance that does not run asks for nothing but its devices' names. Remedies
/// are for whoever uses that program.
pub fn draft(host: &HostFile, instance: &Instance, program: Program) -> Draft {
    let mut draft = Draft::default();
    if instance.presence != Presence::Up {
        let named = instance.nics.iter().filter_map(|raw| {
            let id = Complaints::about(instance, raw).nic;
            let has_it = instance.presence == Presence::Paused;
            Some((id, raw.host_name.as_ref()?.parse().ok()?, has_it))
        });
        draft.reserved.extend(named);
        return draft;
    }
    for raw in &instance.nics {
        let mut problems = Complaints::about(instance, raw);
        problems.add_all(unknown::problems(&raw.unknown, Place::Device, true));
        problems.add_all(of_instance(instance, true, program));
        let nic = match is_possible(&mut problems, raw) {
            true => resolve_one(host, &mut problems, raw, instance, program),
            false => None,
        };
        match nic {
            None => draft.refused.extend(refused(&problems.nic, raw)),
            Some(nic) if raw.host_name.is_none() => draft.unnamed.push(nic),
            Some(nic) => draft.nics.push(nic),
        }
        draft.problems.append(&mut problems.finish());
    }
    // Where no NIC is ours, what the instance's keys were meant for is told of the first that is none.
    let mut of_first = match instance.nics.is_empty() {
        true => of_instance(instance, false, program),
        false => Vec::new(),
    };
    for stray in &instance.strays {
        let mut problems = Complaints::of(instance, &stray.device);
        problems.add_all(unknown::stray(stray));
        if stray.why != NotOurs::NoNic {
            problems.add_all(std::mem::take(&mut of_first));
        }
        draft.problems.append(&mut problems.finish());
    }
    draft
}

/// What is wrong with keys of the instance's configuration.
fn of_instance(instance: &Instance, attached: bool, program: Program) -> Vec<String> {
    let mut told = unknown::problems(&instance.unknown, Place::Instance, attached);
    told.extend(unknown::misplaced(&instance.misplaced, program));
    told
}

/// Whether the NIC can be called by its names. LXD gives no others; whatever they came from, they
/// cost only themselves.
fn is_possible(problems: &mut Complaints, raw: &LxdNic) -> bool {
    let instance = problems.nic.instance.is_possible();
    if !instance {
        problems.add("its instance has a name, or is in a project with a name, that cannot be one: it is too long, or has characters that cannot be seen; rename it".into());
    } else if !raw.has_possible_name() {
        problems.add("the device has a name that cannot be one: it is too long, or has characters that cannot be seen; add it under another name".into());
    }
    instance && raw.has_possible_name()
}

/// Of a NIC without a MAC the device is being made.
fn refused(id: &NicId, raw: &LxdNic) -> Option<Refused> {
    raw.hwaddr.as_ref()?;
    Some(Refused {
        id: id.clone(),
        port: raw.host_name.as_ref()?.parse().ok()?,
        routes: raw.routes.clone(),
    })
}

/// Decides between the instances' drafts. `before` is the previous result: where two NICs claim
/// one address or MAC, the one that had it keeps it, so that nobody can take over an address by
/// claiming it. Without a previous holder, the one has it that the kernel knows as its holder, here or on
/// another host, and else the instance that was started first.
pub fn resolve<'a>(
    drafts: impl Iterator<Item = (&'a Instance, &'a Draft)>,
    before: &[Nic],
    held: &Held,
) -> Resolved {
    let mut resolved = Resolved::default();
    // Who had which port, MAC and address before.
    let holders: HashMap<Claim<'_>, &NicId> = before
        .iter()
        .flat_map(|nic| claims::of(nic).map(move |claim| (claim, &nic.id)))
        .filter(|(claim, id)| !matches!(claim, Claim::Port(_)) || !held.early.contains(*id))
        .collect();
    let mut candidates: Vec<(&Instance, &Nic)> = Vec::new();
    // Who names which device: NICs that had it before them, as those of paused instances have, and others, which those of
    // instances that are stopped are among.
    let mut named: HashMap<&IfName, Vec<(&NicId, bool)>> = HashMap::new();
    for (instance, draft) in drafts {
        for (id, port, has_it) in &draft.reserved {
            named.entry(port).or_default().push((id, *has_it));
        }
        for nic in &draft.nics {
            let was_there = !held.early.contains(&nic.id);
            named
                .entry(&nic.port)
                .or_default()
                .push((&nic.id, was_there));
        }
        candidates.extend(draft.nics.iter().map(|nic| (instance, nic)));
        resolved.problems.extend_from_slice(&draft.problems);
        resolved.refused.extend_from_slice(&draft.refused);
    }
    // Earlier claims first; the order decides who keeps what two NICs want.
    candidates.sort_by(|(a, x), (b, y)| (&a.last_used_at, &x.id).cmp(&(&b.last_used_at, &y.id)));
    let mut taken: HashMap<Claim<'_>, &NicId> = HashMap::with_capacity(4 * candidates.len());
    // Of several that have the MAC on the device that they name the kernel does not say whose it is.
    let mut having: HashMap<&IfName, usize> = HashMap::new();
    for (_, nic) in &candidates {
        if held.by(nic, &Claim::Port(&nic.port)) {
            *having.entry(&nic.port).or_default() += 1;
        }
    }
    for (_, nic) in &candidates {
        // First round: a NIC that still claims what it had keeps it.
        for claim in claims::of(nic) {
            let kept = match holders.get(&claim) {
                Some(holder) => **holder == nic.id,
                None => {
                    held.by(nic, &claim) && having.get(&nic.port).is_none_or(|count| *count < 2)
                }
            };
            if kept {
                taken.entry(claim).or_insert(&nic.id);
            }
        }
    }
    // Nobody knows whose device it is that several name and none has had: it would be another one's way in.
    named.retain(|port, nics| nics.len() > 1 && !taken.contains_key(&Claim::Port(port)));
    let losses: Vec<Losses> = candidates
        .iter()
        .map(|(_, nic)| {
            if let Some(mac) = held.usurpers.get(&nic.port) {
                resolved.problems.push(NicProblem {
                    nic: nic.id.clone(),
                    text: format!(
                        "its device {} was given the MAC {mac}, which is another NIC's or the gateway's, as by a guest that has broken out of its virtual machine; it is not connected until its instance has been stopped and started",
                        nic.port
                    ),
                });
                return Losses {
                    all: true,
                    ..Losses::default()
                };
            }
            let had = |claim: &Claim<'_>| holders.get(claim) == Some(&&nic.id);
            let is_early = held.early.contains(&nic.id);
            let others = named.get(&nic.port).into_iter().flatten();
            let mut others = others.filter(|(other, was_there)| **other != nic.id && (is_early || *was_there));
            match others.next() {
                Some((other, _)) => {
                    resolved.problems.push(NicProblem {
                        nic: nic.id.clone(),
                        text: format!(
                            "host device {} is named by {other}, too, and not known to be this NIC's; it is not connected while both name it",
                            nic.port
                        ),
                    });
                    Losses {
                        all: true,
                        ..Losses::default()
                    }
                }
                None => settle(nic, &mut taken, had, held, &mut resolved.problems),
            }
        })
        .collect();
    drop(taken);
    let before: HashMap<&NicId, &Nic> = before.iter().map(|nic| (&nic.id, nic)).collect();
    for ((_, nic), losses) in candidates.into_iter().zip(losses) {
        let mut nic = nic.clone();
        nic.ipv4 = nic.ipv4.filter(|_| !losses.ipv4);
        nic.ipv6 = nic.ipv6.filter(|_| !losses.ipv6);
        nic.contested = losses.contested;
        let known = before.get(&nic.id).filter(|old| old.network == nic.network);
        let had_waited = |address: &IpAddr| {
            let sign = held.signs.get(&(nic.network.clone(), *address));
            known.is_some_and(|old| old.contested.contains(address)) || sign == Some(&nic.mac)
        };
        let waited: Vec<IpAddr> = nic.own_addresses().filter(had_waited).collect();
        nic.contested.extend(waited);
        if losses.all {
            let Nic {
                id, port, routes, ..
            } = nic;
            let refused = Refused { id, port, routes };
            resolved.refused.push(refused);
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
    instance: &Instance,
    program: Program,
) -> Option<Nic> {
    let rights = Rights::of(host, &instance.id.project);
    let LxdNic {
        device: _,
        parent,
        host_name,
        hwaddr,
        ipv4,
        ipv6,
        routes,
        in_services: _,
        out_services: _,
        tags,
        acls: _,
        limits: _,
        audit: _,
        log_drops: _,
        unknown,
    } = raw;
    let Some(network) = host.network(parent) else {
        let known: Vec<_> = host.networks.iter().map(|n| n.name.as_str()).collect();
        problems.add(format!(
            "user.lxmesh.parent=\"{}\" is not a network of the host file; the networks are: {}",
            text::shown(parent, text::NAME),
            known.join(", ")
        ));
        return None;
    };
    if let Err(text) = rights.network(network) {
        problems.add(text);
        return None;
    }
    // A running instance without a MAC is being started: an event follows when it has it.
    let hwaddr = hwaddr.as_ref()?;
    let host_name = host_name.as_deref().unwrap_or(NO_DEVICE);
    let port: IfName = match host_name.parse() {
        Ok(port) => port,
        Err(error) => {
            let shown = text::shown(host_name, text::NAME);
            problems.add(format!("host device name \"{shown}\" {error}"));
            return None;
        }
    };
    let mac: Mac = match hwaddr.parse() {
        Ok(mac) => mac,
        Err(error) => {
            let shown = text::shown(hwaddr, text::NAME);
            problems.add(format!("hwaddr \"{shown}\" {error}"));
            return None;
        }
    };
    if mac.is_unusable() || mac == network.gateway_mac {
        problems.add(format!(
            "hwaddr {mac} cannot be a NIC's: it is a group address, zero, or the gateway's; set another hwaddr"
        ));
        return None;
    }
    if !routes.is_empty() {
        problems.add("ipv4.routes and ipv6.routes have no effect, because the device becomes a port of a bridge; remove them, and give the address by user.lxmesh.ipv4.address: host_routes of the network makes a route to it".into());
    }
    let ipv4 = address(problems, network, &rights, "ipv4.address", ipv4.as_deref());
    let ipv6 = address(problems, network, &rights, "ipv6.address", ipv6.as_deref());
    let around = Surroundings { host, network };
    let (tags, bad_tags) = parse_tags(tags, &around);
    for error in bad_tags {
        problems.add(format!("user.lxmesh.tags: {error}"));
    }
    let (tags, not_granted) = rights.tags(tags);
    if let Some(error) = not_granted {
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
        there: &instance.acls,
        unread: instance.acls_unread,
        own: &own,
        unknown: Cost::of([unknown, &instance.unknown]),
        program,
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
        routes: routes.clone(),
        contested: Vec::new(),
    })
}

fn address<A>(
    problems: &mut Complaints,
    network: &Network,
    rights: &Rights<'_>,
    key: &str,
    text: Option<&str>,
) -> Option<A>
where
    A: std::str::FromStr + Into<IpAddr> + Copy,
{
    let text = text?;
    let Ok(address) = text.parse::<A>() else {
        let shown = text::shown(text, text::NAME);
        problems.add(format!(
            "user.lxmesh.{key}=\"{shown}\" is not an address; write one address without a prefix length"
        ));
        return None;
    };
    let general: IpAddr = address.into();
    // First, so that whoever corrects it is told of addresses that the project may have.
    if let Err(why) = rights.address(network, general) {
        problems.add(format!("user.lxmesh.{key}={general} {why}"));
        return None;
    }
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

/// Nobody reads more problems of one NIC than this, and each costs memory and lines of the journal.
const MOST: usize = 64;

/// Collects what is wrong with one NIC.
struct Complaints {
    nic: NicId,
    found: Vec<NicProblem>,
    /// How many there were beyond [`MOST`].
    more: usize,
}

impl Complaints {
    fn about(instance: &Instance, raw: &LxdNic) -> Self {
        Self::of(instance, &raw.device)
    }

    fn of(instance: &Instance, device: &str) -> Self {
        Complaints {
            nic: NicId {
                instance: instance.id.clone(),
                device: device.into(),
            },
            found: Vec::new(),
            more: 0,
        }
    }

    fn add_all(&mut self, texts: Vec<String>) {
        texts.into_iter().for_each(|text| self.add(text));
    }

    fn add(&mut self, text: String) {
        if self.found.len() == MOST {
            self.more += 1;
            return;
        }
        self.found.push(NicProblem {
            nic: self.nic.clone(),
            text: text::shown(&text, SENTENCE),
        });
    }

    fn finish(mut self) -> Vec<NicProblem> {
        let nic = self.nic;
        let more = (self.more > 0).then(|| NicProblem {
            nic,
            text: format!("and {} more problems; correct the others first", self.more),
        });
        self.found.extend(more);
        self.found
    }
}

/// What a NIC does not get of what it claims.
#[derive(Default)]
struct Losses {
    all: bool,
    ipv4: bool,
    ipv6: bool,
    /// To NICs of other hosts.
    contested: Vec<IpAddr>,
}

/// Second round: the rest is first come, first served. Losing the port or the MAC costs the NIC;
/// losing an address costs the address. `had` tells what the NIC had before; that goes to another host
/// only if both had it for some time, or this one has it since just now.
fn settle<'a>(
    nic: &'a Nic,
    taken: &mut HashMap<Claim<'a>, &'a NicId>,
    had: impl Fn(&Claim<'a>) -> bool,
    held: &Held,
    problems: &mut Vec<NicProblem>,
) -> Losses {
    let mut losses = Losses::default();
    let mut won = Vec::new();
    for claim in claims::of(nic) {
        let holder = taken.get(&claim).copied().unwrap_or(&nic.id);
        let elsewhere = match &claim {
            Claim::Address(_, address) => held
                .elsewhere(nic, *address)
                .filter(|remote| remote.precedes || !had(&claim) || held.is_new(nic, *address)),
            Claim::Port(_) | Claim::Mac(..) => None,
        };
        if *holder == nic.id && elsewhere.is_none() {
            won.push(claim);
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
                let remote = elsewhere.map(|remote| {
                    losses.contested.push(address);
                    let host = remote.vtep.map(|vtep| format!(" on the host {vtep}"));
                    let host = host.as_deref().unwrap_or(" on another host");
                    format!("address {address} is used in network {network} by {}{host}; choose another one, or free it there", remote.mac)
                });
                remote.unwrap_or_else(|| format!(
                    "address {address} is used in network {network} by {holder}; choose another one"
                ))
            }
        };
        problems.push(NicProblem {
            nic: nic.id.clone(),
            text,
        });
        if losses.all {
            return losses;
        }
    }
    // What it does not get, it keeps nobody from.
    taken.extend(won.into_iter().map(|claim| (claim, &nic.id)));
    losses
}

#[cfg(test)]
mod tests;
