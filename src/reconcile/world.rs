//! What the daemon knows: LXD's instances as last read, the NICs made of them, the links as last
//! seen. Pure bookkeeping: what was learned goes in, which NICs to look at comes out.

use super::look::tunnels;
use super::unread::Unreadable;
use crate::addr::{IfName, IpAddr, Mac};
use crate::host::HostFile;
use crate::kernel::link::LinkKind;
use crate::kernel::monitor::{Knock, MonitorFilter};
use crate::kinds::port_attrs;
use crate::lxd::{Answer, Instance, InstanceId, Inventory, Listing, Presence, Program};
use crate::model::claims::{Held, Holder};
use crate::model::nic::{Draft, Resolved, draft, resolve};
use crate::model::{Facts, Nic, NicId, NicProblem};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// Everything that was learned.
#[derive(Debug, Default)]
pub struct World {
    /// `None` until LXD has been listed once.
    pub inventory: Option<Inventory>,
    /// Instances of which LXD tells in a way that cannot be understood.
    pub unread: Unreadable,
    /// By which people ask LXD about them.
    pub program: Program,
    pub resolved: Resolved,
    /// NICs as of the last pass, which `facts` belong to.
    pub passed: Vec<Nic>,
    /// `None` until the first pass.
    pub facts: Option<Facts>,
    /// Made when an event first asks for it after a change.
    index: OnceCell<Index>,
    /// What each instance asks for; left out where the instance changed since it was worked out,
    /// which costs more than all the rest.
    drafts: BTreeMap<InstanceId, Draft>,
    /// What the kernel said of claims that were not settled, when NICs were last resolved.
    pub held: Held,
    /// Addresses that other hosts may have as well, by network.
    watched: BTreeMap<String, BTreeMap<IpAddr, Watch>>,
    /// The device that each NIC names, and whether it was there before the NIC, or has been attached for it.
    devices: HashMap<NicId, (IfName, bool)>,
    /// Instances whose NICs' MACs another host announces: what LXD says of them since. Of a moment only.
    suspects: BTreeMap<InstanceId, Suspect>,
    /// The last of those that LXD was to be asked about: next come those after it.
    last_suspect: Option<InstanceId>,
    /// NICs that were connected when their instances were paused, and the index of their devices.
    paused: BTreeMap<NicId, (Nic, u32)>,
    /// Taps, by index, that were seen with a MAC of others, and that MAC. Until they are gone.
    usurpers: BTreeMap<u32, Mac>,
    /// The MAC with which each tap, by index, was first seen: one that others claim later is no less its own.
    first_macs: HashMap<u32, Mac>,
    /// NICs were resolved at least once.
    is_resolved: bool,
}

/// Why and for how long an address is looked at.
#[derive(Debug, Clone, Copy)]
struct Watch {
    until: Instant,
    /// It was given just now, and not taken back from another host.
    new: bool,
}

/// Ways from what an event names to the NIC that it concerns, as its place in the resolved list.
#[derive(Debug, Default)]
struct Index {
    /// Names; what follows has their places.
    networks: Vec<String>,
    ports: HashMap<IfName, usize>,
    macs: HashMap<(usize, Mac), usize>,
    addresses: HashMap<(usize, IpAddr), usize>,
}

/// An instance whose MAC another host announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Suspect {
    /// LXD was asked at this time.
    Asked(std::time::Instant),
    /// At this time LXD said how it is with it.
    Told(std::time::Instant),
}

/// For so long LXD is not asked once more: longer than any answer takes.
const ASK_AGAIN: Duration = Duration::from_secs(90);
/// For so long what it says is good.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// Of so many it is asked at a time. Of the others the next time.
const MAX_SUSPECTS: usize = 64;

/// What a listing means.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed {
    /// Taken in. These known instances were not named: ask for each before believing it gone.
    Taken { unnamed: BTreeSet<InstanceId> },
    /// A list in which nothing can be read while NICs are attached: not believed.
    Incredible(Incredible),
}

/// Why a listing is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{server} lists {} while {attached} of their NICs are attached here; not believed", none(.unread, *.elsewhere))]
pub struct Incredible {
    server: &'static str,
    attached: usize,
    /// Instances of other members of the cluster.
    pub(super) elsewhere: usize,
    /// What it has instead of instances that can be understood.
    unread: Vec<String>,
}

fn none(unread: &[String], elsewhere: usize) -> String {
    match unread {
        [] if elsewhere > 0 => "instances of other members only".into(),
        [] => "no instance at all".into(),
        [first, ..] => format!("no instance that can be understood ({first})"),
    }
}

/// What a kernel event asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum LookAt {
    Nothing,
    Nic(NicId),
    /// The port of a NIC, which may be refused: look whether it changed in a way that matters.
    NicLink(IfName, NicId),
    /// A link of a network: look whether it changed in a way that matters.
    NetworkLink(IfName),
    Nftables,
    Everything,
}

impl World {
    /// `None` until LXD and the kernel have said who has what.
    pub fn nics(&self) -> Option<&[Nic]> {
        self.is_resolved.then_some(self.resolved.nics.as_slice())
    }

    /// Takes in a listing.
    pub fn put_listing(&mut self, mut listing: Listing) -> Listed {
        // Before there is an inventory, what is read by name is not taken in, and a listing is all there is.
        if self.inventory.is_some() {
            listing.leave_out_older();
        }
        let Listing {
            mut instances,
            unread,
            elsewhere,
            cluster: _,
            older: _,
        } = listing;
        let attached = self.facts.as_ref().map_or(0, |facts| {
            facts
                .links()
                .filter(|link| link.master.is_some() && port_attrs::is_ours(link))
                .count()
        });
        // Of instances that are known, nothing is lost by entries that say nothing, nor by such of other members.
        let names_others = !unread.is_empty() || elsewhere.count() > 0;
        let says_nothing = !names_others || self.inventory.is_none();
        if instances.is_empty() && says_nothing && attached > 0 {
            let unread = Unreadable::of(unread, &Inventory::default(), &[]);
            let unread = unread.problems(None, self.program);
            return Listed::Incredible(Incredible {
                server: self.program.server(),
                elsewhere: elsewhere.count(),
                attached,
                unread: unread.into_values().collect(),
            });
        }
        let inventory = self.inventory.get_or_insert_default();
        // While it moves, one may be in the lists of two members, and only asked for by name is it known where it is.
        let elsewhere: HashSet<&InstanceId> = elsewhere.ids().collect();
        let unclear = |id: &InstanceId| elsewhere.contains(id);
        let mut unnamed: BTreeSet<InstanceId> = instances
            .extract_if(.., |instance| unclear(&instance.id))
            .map(|instance| instance.id)
            .collect();
        let missing = inventory.missing_from(&instances).into_iter();
        for instance in unread.iter().filter_map(|one| one.but_acls.as_deref()) {
            let (_, changed) = inventory.put_but_acls(instance.clone());
            if changed {
                self.drafts.remove(&instance.id);
            }
        }
        let unreadable = Unreadable::of(unread, inventory, &instances);
        let missing = missing.filter(|id| !unreadable.has(id) && !unnamed.contains(id));
        let (moved, gone): (Vec<_>, Vec<_>) = missing.partition(unclear);
        unnamed.extend(gone);
        for id in moved {
            self.put_instance(id, Answer::Gone);
        }
        for instance in instances {
            self.put_instance(instance.id.clone(), Answer::There(instance));
        }
        self.unread = unreadable;
        Listed::Taken { unnamed }
    }

    /// Takes in one instance, or its absence. Before the first listing a single instance would
    /// make all others look gone. What cannot be understood changes nothing; access lists that cannot be
    /// read leave those that were known.
    pub fn put_instance(&mut self, id: InstanceId, answer: Answer) {
        let Some(inventory) = &mut self.inventory else {
            return;
        };
        let instance = match answer {
            Answer::Unread(unread) => {
                if let Some(instance) = unread.but_acls.clone()
                    && inventory.put_but_acls(*instance).1
                {
                    self.drafts.remove(&id);
                }
                self.unread.add(id, unread);
                return;
            }
            // The inventory prefers what it knows itself.
            Answer::There(instance) if inventory.instances.contains_key(&id) => Some(instance),
            Answer::There(instance) => Some(as_it_was(instance, self.facts.as_ref())),
            Answer::Gone | Answer::Elsewhere(_) => None,
        };
        self.unread.remove(&id);
        if inventory.put(id.clone(), instance) {
            self.drafts.remove(&id);
        }
    }

    /// What is wrong with each instance that cannot be understood, by who it is.
    pub fn unread_problems(&self) -> BTreeMap<String, String> {
        self.unread.problems(self.inventory.as_ref(), self.program)
    }

    /// For another host file: everything has to be worked out anew.
    pub fn forget_drafts(&mut self) {
        self.drafts.clear();
    }

    /// Works out what each instance asks for.
    pub fn draft(&mut self, host: &HostFile) {
        let instances = self.inventory.iter().flat_map(|all| &all.instances);
        for (id, instance) in instances {
            if !self.drafts.contains_key(id) {
                self.drafts
                    .insert(id.clone(), draft(host, instance, self.program));
            }
        }
    }

    /// NICs as they were asked for, of which it is not known that they had all that they claim, and those
    /// of watched addresses.
    pub fn unsettled(&self) -> impl Iterator<Item = &Nic> {
        let nics = &self.resolved.nics;
        let asked = self.drafts.values().flat_map(Draft::nics);
        asked.filter(|asked| {
            let settled = |nic: &Nic| nic.claims_like(asked) && nic.contested.is_empty();
            !own(nics, &asked.id).is_some_and(settled)
                || !self.watched.is_empty() && self.is_watched(asked)
        })
    }

    /// NICs of running instances for which LXD names no device.
    pub fn unnamed(&self) -> impl Iterator<Item = &Nic> {
        self.drafts.values().flat_map(Draft::unnamed)
    }

    /// The device that a NIC had, with its index as it was last seen, if it had it with this MAC in this network.
    pub fn had(&self, asked: &Nic) -> Option<(&IfName, Option<u32>)> {
        let (nic, index) = match own(&self.resolved.nics, &asked.id) {
            Some(nic) => {
                let kept = self.held.kept.get(&nic.id);
                let kept = kept.filter(|kept| kept.port == nic.port);
                let seen = || Some(self.facts.as_ref()?.link(&nic.port)?.index);
                (nic, kept.map(|kept| kept.index).or_else(seen))
            }
            None => {
                let (nic, index) = self.paused.get(&asked.id)?;
                (nic, Some(*index))
            }
        };
        (nic.network == asked.network && nic.mac == asked.mac).then_some((&nic.port, index))
    }

    /// Whether no two instances have this MAC, in whatever state they are, and all are known.
    pub fn is_only_one_with(&self, mac: Mac) -> bool {
        if !self.unread.is_empty() {
            return false;
        }
        let instances = self.inventory.iter().flat_map(|all| all.instances.values());
        let macs = instances.flat_map(|instance| &instance.nics);
        let same =
            macs.filter(|nic| nic.hwaddr.as_ref().and_then(|text| text.parse().ok()) == Some(mac));
        same.count() == 1
    }

    /// Taps that have or had a MAC of others, by name; looks for them among what was seen last.
    pub fn usurpers(&mut self, host: &HostFile) -> HashMap<IfName, Mac> {
        let Some(facts) = &self.facts else {
            return HashMap::new();
        };
        let nics = || self.drafts.values().flat_map(Draft::nics);
        // Those that they name, and those that they keep.
        let taps: Vec<(&Nic, u32, Mac)> = nics()
            .chain(&self.resolved.nics)
            .filter_map(|nic| {
                let link = facts.link(&nic.port)?;
                let is_tap = matches!(link.kind, LinkKind::Tun);
                Some((nic, link.index, link.mac.filter(|_| is_tap)?))
            })
            .collect();
        if !taps.is_empty() {
            let all: HashSet<(&str, Mac)> =
                nics().map(|nic| (nic.network.as_str(), nic.mac)).collect();
            for (nic, index, mac) in taps {
                let first = *self.first_macs.entry(index).or_insert(mac);
                let of_others = mac != nic.mac && all.contains(&(nic.network.as_str(), mac));
                if mac != first && (of_others || is_gateways(host, facts, &nic.network, mac)) {
                    self.usurpers.insert(index, mac);
                }
            }
        }
        let is_there = |index: &u32| facts.name_of(*index).is_some();
        self.usurpers.retain(|index, _| is_there(index));
        self.first_macs.retain(|index, _| is_there(index));
        let named = self.usurpers.iter();
        named
            .filter_map(|(index, mac)| Some((facts.name_of(*index)?.clone(), *mac)))
            .collect()
    }

    /// Whether the bridge was told that a port of one NIC has the MAC of another or of the gateway.
    pub fn may_usurp(&self, port: u32, mac: Mac, host: &HostFile) -> bool {
        let ways = self.index.get_or_init(|| Index::of(&self.resolved.nics));
        let Some(facts) = &self.facts else {
            return false;
        };
        let name = facts.name_of(port);
        let Some(place) = name.and_then(|name| ways.ports.get(name)) else {
            return false;
        };
        let nic = &self.resolved.nics[*place];
        if self.first_macs.get(&port) == Some(&mac) {
            return false;
        }
        let of_other = ways
            .mac(&nic.network, mac)
            .is_some_and(|other| other != *place);
        of_other || is_gateways(host, facts, &nic.network, mac)
    }

    /// A port of a NIC was seen with a MAC of others.
    pub fn usurps(&mut self, port: u32, mac: Mac) {
        self.usurpers.insert(port, mac);
    }

    fn is_watched(&self, nic: &Nic) -> bool {
        let watched = self.watched.get(&nic.network);
        watched.is_some_and(|watched| nic.own_addresses().any(|own| watched.contains_key(&own)))
    }

    /// Watches an address that was taken back from another host. What was given just now stays so.
    pub fn watch(&mut self, network: &str, address: IpAddr, until: Instant) {
        let watched = self.watched.entry(network.into()).or_default();
        let watch = watched
            .entry(address)
            .or_insert(Watch { until, new: false });
        if !watch.new {
            watch.until = until;
        }
    }

    /// Networks in which addresses are watched.
    pub fn watched_networks(&self) -> Vec<String> {
        self.watched.keys().cloned().collect()
    }

    /// Whether another host may turn out to have had the address, and had not when claims were resolved.
    pub fn may_be_elsewhere(&self, network: &str, address: IpAddr) -> bool {
        let key = (network.to_string(), address);
        let given = self.watched.get(network).and_then(|all| all.get(&address));
        let new = given.is_some_and(|watch| watch.new) || self.held.new.contains(&key);
        new && !matches!(self.held.addresses.get(&key), Some(Holder::There(_)))
    }

    /// The instance of the NIC that has had this MAC here since the last pass, unless LXD has told just now that it is
    /// here still.
    pub fn may_have_left(
        &self,
        network: &str,
        mac: Mac,
        now: std::time::Instant,
    ) -> Option<&InstanceId> {
        let ways = self.index.get_or_init(|| Index::of(&self.resolved.nics));
        let nic = &self.resolved.nics[ways.mac(network, mac)?];
        // By whatever device: one that it kept may be gone.
        let had = |before: &Nic| before.network == nic.network && before.mac == nic.mac;
        if !own(&self.passed, &nic.id).is_some_and(had) {
            return None;
        }
        let instance = &nic.id.instance;
        match self.suspects.get(instance) {
            Some(Suspect::Told(at)) if now < *at + GOOD_FOR => None,
            _ => Some(instance),
        }
    }

    /// Of these the instances that LXD is to be asked about, in the order of their turns: not those that it is being asked
    /// about. `asked` takes them.
    pub fn to_ask(
        &mut self,
        instances: &BTreeSet<InstanceId>,
        now: std::time::Instant,
    ) -> Vec<InstanceId> {
        let nics = &self.resolved.nics;
        let has_nics = |id: &InstanceId| {
            let first = nics.partition_point(|nic| nic.id.instance < *id);
            nics.get(first).is_some_and(|nic| nic.id.instance == *id)
        };
        self.suspects.retain(|id, suspect| match suspect {
            // Of one that is not here any more nothing is to be known.
            Suspect::Asked(at) => now < *at + ASK_AGAIN && has_nics(id),
            Suspect::Told(at) => now < *at + GOOD_FOR,
        });
        let room = MAX_SUSPECTS.saturating_sub(self.suspects.len());
        let is_after = |id: &&InstanceId| Some(*id) > self.last_suspect.as_ref();
        let after = instances.iter().filter(is_after);
        let until = instances.iter().filter(|id| !is_after(id));
        let unasked = after.chain(until);
        let unasked = unasked.filter(|id| !self.suspects.contains_key(*id));
        unasked.take(room).cloned().collect()
    }

    /// LXD was asked about these. If there was no room for all, others come first the next time.
    pub fn asked(&mut self, instances: Vec<InstanceId>, now: std::time::Instant) {
        let last = instances.last().cloned();
        let all = instances.into_iter().map(|id| (id, Suspect::Asked(now)));
        self.suspects.extend(all);
        if self.suspects.len() >= MAX_SUSPECTS && last.is_some() {
            self.last_suspect = last;
        }
    }

    /// LXD has said since that the instance runs here.
    pub fn confirmed(&mut self, instance: &InstanceId, now: std::time::Instant) {
        if let Some(suspect) = self.suspects.get_mut(instance) {
            *suspect = Suspect::Told(now);
        }
    }

    /// Addresses of this network that were given just now count so at least until then.
    pub fn stay_new(&mut self, network: &str, until: Instant) {
        let watched = self.watched.get_mut(network).into_iter().flatten();
        for (_, watch) in watched.filter(|(_, watch)| watch.new) {
            watch.until = watch.until.max(until);
        }
    }

    /// Whether another host may turn out to have what a NIC was given.
    pub fn watches(&self) -> bool {
        let mut nics = self.resolved.nics.iter();
        !self.watched.is_empty() || nics.any(|nic| !nic.contested.is_empty())
    }

    /// Addresses that were given just now. What has been watched for long enough is forgotten.
    pub fn new_addresses(&mut self, now: Instant) -> HashSet<(String, IpAddr)> {
        for watched in self.watched.values_mut() {
            watched.retain(|_, watch| watch.until > now);
        }
        self.watched.retain(|_, watched| !watched.is_empty());
        let all = self.watched.iter().flat_map(|(network, watched)| {
            let new = watched.iter().filter(|(_, watch)| watch.new);
            new.map(|(address, _)| (network.clone(), *address))
        });
        let waited = self.resolved.nics.iter().flat_map(|nic| {
            let waited = nic.contested.iter();
            waited.map(|address| (nic.network.clone(), *address))
        });
        all.chain(waited).collect()
    }

    /// Whether another host has what is claimed here, or a NIC keeps a device until the one that it names is here.
    pub fn has_contests(&self) -> bool {
        !self.held.kept.is_empty() || self.resolved.nics.iter().any(Nic::waits)
    }

    /// NICs that were there before their devices. `is_there` is asked once about each device that a NIC names.
    pub fn early<E>(
        &mut self,
        mut is_there: impl FnMut(&IfName) -> Result<bool, E>,
    ) -> Result<HashSet<NicId>, E> {
        let mut known = std::mem::take(&mut self.devices);
        for nic in self.drafts.values().flat_map(Draft::nics) {
            let has_it = |before: &Nic| before.port == nic.port;
            let is_attached = |facts: &Facts| {
                let link = facts.link(&nic.port);
                link.is_some_and(|link| facts.is_attached(link))
            };
            let (id, device) = match known.remove_entry(&nic.id) {
                Some((id, (port, was_there))) if port == nic.port => {
                    let has_it = own(&self.resolved.nics, &id).is_some_and(has_it)
                        && self.facts.as_ref().is_some_and(is_attached);
                    (id, (port, was_there || has_it))
                }
                _ => (nic.id.clone(), (nic.port.clone(), is_there(&nic.port)?)),
            };
            self.devices.insert(id, device);
        }
        let early = self.devices.iter().filter(|(_, (_, was_there))| !was_there);
        Ok(early.map(|(id, _)| id.clone()).collect())
    }

    /// Resolves what was worked out, with what the kernel says; returns the NICs that are different now.
    /// Addresses that nobody is known to have had are watched until then.
    pub fn resolve(&mut self, held: Held, watched_until: Instant) -> BTreeSet<NicId> {
        self.remember_paused();
        let Some(inventory) = &self.inventory else {
            return BTreeSet::new();
        };
        self.is_resolved = true;
        let mut keeping: BTreeMap<&InstanceId, Draft> = BTreeMap::new();
        for (id, draft) in &self.drafts {
            if let Some(draft) = draft.keeping(&held.kept) {
                keeping.insert(id, draft);
            }
        }
        for (nic, _) in self.paused.values() {
            if self.is_paused(&nic.id)
                && let Some((id, draft)) = self.drafts.get_key_value(&nic.id.instance)
            {
                let draft = keeping.entry(id).or_insert_with(|| draft.clone());
                draft.reserve(&nic.id, &nic.port);
            }
        }
        let drafts = inventory.instances.values().filter_map(|instance| {
            let draft = keeping.get(&instance.id);
            Some((instance, draft.or_else(|| self.drafts.get(&instance.id))?))
        });
        // Who has a claim now comes last, and has it.
        let before = match self.paused.is_empty() {
            true => Cow::Borrowed(&self.resolved.nics),
            false => {
                let paused = self.paused.values().map(|(nic, _)| nic);
                let had = paused.chain(&self.resolved.nics).cloned();
                Cow::Owned(had.collect::<Vec<Nic>>())
            }
        };
        let fresh = resolve(drafts, &before, &held);
        drop(before);
        for nic in &fresh.nics {
            let before = own(&self.resolved.nics, &nic.id);
            for address in nic.own_addresses() {
                let had = |before: &Nic| {
                    before.network == nic.network
                        && before.own_addresses().any(|own| own == address)
                };
                if before.is_some_and(had) {
                    continue;
                }
                let key = (nic.network.clone(), address);
                let known =
                    matches!(held.addresses.get(&key), Some(Holder::Here(mac)) if *mac == nic.mac);
                if !known {
                    let watch = Watch {
                        until: watched_until,
                        new: true,
                    };
                    let watched = self.watched.entry(key.0).or_default();
                    watched.insert(address, watch);
                }
            }
        }
        self.watch_only_what_is_had(&fresh.nics);
        self.remember_pretenders(&fresh);
        let mut paused = std::mem::take(&mut self.paused);
        paused.retain(|id, _| self.is_paused(id));
        self.paused = paused;
        self.held = held;
        let mut changed = difference(&self.resolved.nics, &fresh.nics);
        if fresh.refused != self.resolved.refused {
            changed.extend(fresh.refused.iter().map(|nic| nic.id.clone()));
        }
        if fresh.nics != self.resolved.nics {
            self.index.take();
        }
        self.resolved = fresh;
        changed
    }

    fn is_paused(&self, id: &NicId) -> bool {
        let instances = self.inventory.as_ref().map(|all| &all.instances);
        let instance = instances.and_then(|all| all.get(&id.instance));
        instance.is_some_and(|instance| instance.presence == Presence::Paused)
    }

    /// NICs whose instances are paused from now on have their devices as long as these are there.
    fn remember_paused(&mut self) {
        let Some(facts) = &self.facts else {
            return;
        };
        let nics = self.resolved.nics.iter();
        let now = nics.filter(|nic| self.is_paused(&nic.id));
        let now: Vec<(NicId, (Nic, u32))> = now
            .filter_map(|nic| {
                let (_, index) = self.had(nic)?;
                // Its addresses may be others' meanwhile.
                let had = Nic {
                    ipv4: None,
                    ipv6: None,
                    contested: Vec::new(),
                    ..nic.clone()
                };
                Some((nic.id.clone(), (had, index?)))
            })
            .collect();
        self.paused.extend(now);
        self.paused.retain(|_, (nic, index)| {
            let link = facts.link(&nic.port);
            link.is_some_and(|link| link.index == *index)
        });
    }

    /// NICs that named the device of another that has it get it only if nobody else names it any more, also after
    /// the other one has been paused.
    fn remember_pretenders(&mut self, fresh: &Resolved) {
        if fresh.refused.is_empty() {
            return;
        }
        let had = self.resolved.nics.iter().map(|nic| (&nic.port, &nic.id));
        let paused = self.paused.values().map(|(nic, _)| (&nic.port, &nic.id));
        let owners: HashMap<&IfName, &NicId> = paused.chain(had).collect();
        for nic in &fresh.refused {
            let owner = owners.get(&nic.port);
            if let Some((port, was_there)) = self.devices.get_mut(&nic.id)
                && *port == nic.port
                && owner.is_some_and(|owner| **owner != nic.id)
            {
                *was_there = false;
            }
        }
    }

    /// Forgets what is watched and no NIC has.
    fn watch_only_what_is_had(&mut self, nics: &[Nic]) {
        if self.watched.is_empty() {
            return;
        }
        let had = nics.iter().flat_map(|nic| {
            let network = nic.network.as_str();
            nic.own_addresses().map(move |address| (network, address))
        });
        let had: HashSet<(&str, IpAddr)> = had.collect();
        self.watched.retain(|network, watched| {
            watched.retain(|address, _| had.contains(&(network.as_str(), *address)));
            !watched.is_empty()
        });
    }

    /// NICs whose host-side devices cannot be theirs.
    pub fn misfits(&self) -> Vec<NicProblem> {
        let Some(facts) = &self.facts else {
            return Vec::new();
        };
        let nics = self.resolved.nics.iter();
        nics.filter_map(|nic| {
            Some(NicProblem {
                nic: nic.id.clone(),
                text: nic.misfit(facts)?,
            })
        })
        .collect()
    }

    /// The NICs of an instance, now and as of the last pass.
    pub fn nics_of(&self, id: &InstanceId) -> BTreeSet<NicId> {
        let all = self.resolved.nics.iter().chain(&self.passed);
        all.filter(|nic| nic.id.instance == *id)
            .map(|nic| nic.id.clone())
            .collect()
    }

    /// What an event asks us to look at. Events that name nothing of ours ask for nothing.
    pub fn look_at(&self, knock: &Knock, host: &HostFile) -> LookAt {
        let Some(facts) = &self.facts else {
            return LookAt::Everything;
        };
        let ways = self.index.get_or_init(|| Index::of(&self.resolved.nics));
        let id = |place: usize| self.resolved.nics[place].id.clone();
        let nic =
            |place: Option<usize>| place.map_or(LookAt::Nothing, |place| LookAt::Nic(id(place)));
        let network_at = |svi: u32| {
            let name = facts.name_of(svi)?;
            host.networks.iter().find(|network| network.bridge == *name)
        };
        match knock {
            Knock::Lost => LookAt::Everything,
            Knock::Link { index, name, .. } => {
                let names = name.iter().chain(facts.name_of(*index));
                for name in names {
                    if host
                        .networks
                        .iter()
                        .any(|n| n.bridge == *name || n.tunnel == *name)
                    {
                        return LookAt::NetworkLink(name.clone());
                    }
                    if let Some(place) = ways.ports.get(name) {
                        return LookAt::NicLink(name.clone(), id(*place));
                    }
                    let mut refused = self.resolved.refused.iter();
                    if let Some(nic) = refused.find(|nic| nic.port == *name) {
                        return LookAt::NicLink(name.clone(), nic.id.clone());
                    }
                }
                LookAt::Nothing
            }
            Knock::Fdb {
                port,
                bridge,
                mac,
                learned,
                ..
            } => {
                if *mac == Mac::default() && host.filters_vteps() {
                    return LookAt::Nftables;
                }
                let bridge = bridge.or_else(|| facts.link(facts.name_of(*port)?)?.master);
                let network = bridge.and_then(network_at);
                match network.map(|network| ways.mac(&network.name, *mac)) {
                    // Made to look like ours, and no NIC's: only a look at all of them shows it.
                    Some(None) if *learned => LookAt::Everything,
                    place => nic(place.flatten()),
                }
            }
            Knock::Neighbour {
                device,
                address,
                ours,
            } => {
                let network = network_at(*device);
                match network.map(|network| ways.address(&network.name, *address)) {
                    Some(None) if *ours => LookAt::Everything,
                    place => nic(place.flatten()),
                }
            }
            Knock::Route { destination, .. } => {
                let address = destination.addr();
                let mut of_any = host.networks.iter().filter(|n| n.host_routes.is_some());
                nic(of_any.find_map(|network| ways.address(&network.name, address)))
            }
            Knock::Mdb { port, .. } => {
                let name = facts.name_of(*port);
                nic(name.and_then(|name| ways.ports.get(name).copied()))
            }
            Knock::NftGeneration { .. } => LookAt::Nftables,
        }
    }

    /// What the kernel need not tell of: zebra's entries on the tunnels, but where they flood to
    /// if the packet filter is to know that.
    pub fn monitor_filter(&self, host: &HostFile) -> MonitorFilter {
        MonitorFilter {
            tunnels: match &self.facts {
                Some(facts) => tunnels(host, facts),
                None => Vec::new(),
            },
            floods: host.filters_vteps(),
        }
    }
}

impl Index {
    fn of(nics: &[Nic]) -> Self {
        let mut index = Index::default();
        for (place, nic) in nics.iter().enumerate() {
            let network = index.network(&nic.network).unwrap_or_else(|| {
                index.networks.push(nic.network.clone());
                index.networks.len() - 1
            });
            index.ports.insert(nic.port.clone(), place);
            index.macs.insert((network, nic.mac), place);
            let addresses = nic.neighbours().map(|address| ((network, address), place));
            index.addresses.extend(addresses);
        }
        index
    }

    fn network(&self, name: &str) -> Option<usize> {
        self.networks.iter().position(|network| network == name)
    }

    fn mac(&self, network: &str, mac: Mac) -> Option<usize> {
        self.macs.get(&(self.network(network)?, mac)).copied()
    }

    fn address(&self, network: &str, address: IpAddr) -> Option<usize> {
        self.addresses
            .get(&(self.network(network)?, address))
            .copied()
    }
}

/// Of an instance of unknown presence the NICs that are attached count as a running one's: an agent that has
/// just started knows of no others that it had.
fn as_it_was(mut instance: Instance, facts: Option<&Facts>) -> Instance {
    if instance.presence != Presence::Unknown {
        return instance;
    }
    let is_attached = |facts: &Facts, port: IfName| {
        let link = facts.link(&port);
        link.is_some_and(|link| facts.is_attached(link) && port_attrs::is_ours(link))
    };
    let attached = instance.nics.iter().filter(|nic| {
        let port = nic.host_name.as_ref().and_then(|name| name.parse().ok());
        port.zip(facts)
            .is_some_and(|(port, facts)| is_attached(facts, port))
    });
    let attached: Vec<_> = attached.cloned().collect();
    if !attached.is_empty() {
        instance.presence = Presence::Up;
        instance.nics = attached;
    }
    instance
}

/// Whether it is the MAC of the network's gateway, as it should be or as it is.
fn is_gateways(host: &HostFile, facts: &Facts, network: &str, mac: Mac) -> bool {
    let network = host.network(network);
    network.is_some_and(|network| {
        let svi = facts.svi(network);
        network.gateway_mac == mac || svi.is_some_and(|svi| svi.mac == Some(mac))
    })
}

/// The NIC of that identity, of a list in their order.
fn own<'a>(nics: &'a [Nic], id: &NicId) -> Option<&'a Nic> {
    let place = nics.binary_search_by(|nic| nic.id.cmp(id));
    Some(&nics[place.ok()?])
}

/// NICs that are in only one of the lists, or not the same in both. Both are sorted by identity.
fn difference(before: &[Nic], now: &[Nic]) -> BTreeSet<NicId> {
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    let mut different = BTreeSet::new();
    loop {
        let order = match (before.peek(), now.peek()) {
            (None, None) => return different,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.id.cmp(&new.id),
        };
        let old = before.next_if(|_| order.is_le());
        let new = now.next_if(|_| order.is_ge());
        if old != new {
            different.extend(old.or(new).map(|nic| nic.id.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::link::{Link, LinkKind, PortSettings};
    use crate::lxd::{LxdNic, Unread};
    use crate::model::claims::Remote;

    fn instance(name: &str) -> Instance {
        Instance {
            id: InstanceId {
                project: "default".into(),
                name: name.into(),
            },
            presence: Presence::Up,
            last_used_at: String::new(),
            nics: Vec::new(),
            unknown: Default::default(),
            misplaced: Vec::new(),
            strays: Vec::new(),
            acls: Default::default(),
            acls_unread: false,
        }
    }

    fn listing<const N: usize>(instances: [Instance; N]) -> Listing {
        Listing {
            instances: instances.into(),
            ..Listing::default()
        }
    }

    /// A port as the agent leaves it.
    fn attached() -> Link {
        Link {
            index: 7,
            name: "veth1".parse().unwrap(),
            mac: None,
            mtu: 1500,
            up: true,
            running: true,
            master: Some(3),
            group: 0,
            peer_netns: true,
            addr_gen_mode: Some(1),
            kind: LinkKind::Other,
            port: Some(PortSettings {
                learning: false,
                unicast_flood: false,
                mcast_flood: false,
                bcast_flood: false,
                proxy_arp: false,
                proxy_arp_wifi: true,
                guard: true,
                mcast_router: 0,
                neigh_suppress: false,
                isolated: false,
                hairpin: false,
                mcast_max_groups: Some(64),
            }),
        }
    }

    #[test]
    fn an_instance_that_a_listing_lacks_stays_until_lxd_says_that_it_is_gone() {
        let mut world = World::default();
        world.put_listing(listing([instance("a"), instance("b")]));
        let gone = instance("b").id;
        assert_eq!(
            world.put_listing(listing([instance("a")])),
            Listed::Taken {
                unnamed: [gone.clone()].into()
            }
        );
        assert!(
            world
                .inventory
                .as_ref()
                .unwrap()
                .instances
                .contains_key(&gone)
        );
        world.put_instance(gone.clone(), Answer::Gone);
        assert!(
            !world
                .inventory
                .as_ref()
                .unwrap()
                .instances
                .contains_key(&gone)
        );
    }

    /// One that was started, and one that was deleted, after the server had begun to list them.
    #[test]
    fn what_may_be_older_than_what_is_known_is_left_out_of_a_listing() {
        let mut world = World::default();
        let old = |name: &str| {
            let mut one = instance(name);
            one.presence = crate::lxd::Presence::Down;
            one
        };
        let older = || {
            let mut listing = listing([old("a"), old("b"), old("c")]);
            listing.older = [instance("a").id, instance("b").id].into();
            listing
        };
        // Nothing else is known at first.
        world.put_listing(older());
        let known = |world: &World, name: &str| {
            let all = &world.inventory.as_ref().unwrap().instances;
            all.get(&instance(name).id).cloned()
        };
        assert_eq!(known(&world, "a"), Some(old("a")));
        world.put_instance(instance("a").id, Answer::There(instance("a")));
        world.put_instance(instance("b").id, Answer::Gone);
        world.put_listing(older());
        assert_eq!(known(&world, "a"), Some(instance("a")));
        assert_eq!(known(&world, "b"), None);
        assert_eq!(known(&world, "c"), Some(old("c")));
    }

    #[test]
    fn an_empty_listing_is_not_believed_while_ports_are_attached() {
        let mut world = World {
            facts: Some(Facts::new([attached()])),
            ..World::default()
        };
        assert_eq!(
            world.put_listing(listing([])),
            Listed::Incredible(Incredible {
                server: "LXD",
                elsewhere: 0,
                attached: 1,
                unread: Vec::new()
            })
        );
        assert_eq!(world.inventory, None);
        world.facts = Some(Facts::default());
        assert_eq!(
            world.put_listing(listing([])),
            Listed::Taken {
                unnamed: BTreeSet::new()
            }
        );
        assert!(world.inventory.is_some());
    }

    fn names(world: &World) -> Vec<String> {
        let known = world.inventory.iter().flat_map(|all| all.instances.keys());
        known.map(InstanceId::to_string).collect()
    }

    #[test]
    fn of_very_many_instances_that_may_have_left_each_has_its_turn() {
        let nic = |n: usize| {
            let mut nic = Nic::sample(1);
            nic.id.instance.name = format!("c{n:03}");
            nic
        };
        let id = |n: usize| nic(n).id.instance;
        let all: BTreeSet<InstanceId> = (0..3 * MAX_SUSPECTS).map(id).collect();
        let (mut world, begun) = (World::default(), std::time::Instant::now());
        world.resolved.nics = (0..3 * MAX_SUSPECTS).map(nic).collect();
        let mut asked = BTreeSet::new();
        for round in 0..3 {
            let now = begun + round * GOOD_FOR;
            let now_asked = world.to_ask(&all, now);
            assert_eq!(now_asked.len(), MAX_SUSPECTS);
            assert_eq!(world.to_ask(&all, now), now_asked, "nobody was asked");
            world.asked(now_asked.clone(), now);
            assert!(world.to_ask(&all, now).is_empty());
            for id in &now_asked {
                world.confirmed(id, now);
            }
            asked.extend(now_asked);
            // A single one has its turn besides.
            let single = [id(1)].into();
            let now = now + GOOD_FOR;
            let one = world.to_ask(&single, now);
            assert_eq!(one, [id(1)]);
            world.asked(one, now);
            world.confirmed(&id(1), now - GOOD_FOR);
        }
        assert_eq!(asked, all);
        let now = begun + 4 * GOOD_FOR;
        let again = world.to_ask(&all, now);
        assert!(again.contains(&id(0)), "and begins anew");
        world.asked(again, now);
        // LXD says that all of them are gone.
        world.resolved.nics.drain(..MAX_SUSPECTS);
        assert_eq!(world.to_ask(&all, now).len(), MAX_SUSPECTS);
    }

    /// Of a cluster; those that are listed twice are on their way.
    #[test]
    fn an_instance_that_is_listed_elsewhere_is_gone_but_one_that_is_listed_twice_is_asked_for() {
        let mut world = World::default();
        let all = ["stays", "moved", "both", "unread", "unnamed"].map(instance);
        world.put_listing(listing(all));
        let mut next = listing(["stays", "both", "new"].map(instance));
        for name in ["moved", "both", "new", "unread", "other"] {
            next.elsewhere.add("m2".into(), Some(instance(name).id));
        }
        next.instances[1].presence = Presence::Down;
        next.unread = vec![unread(Some("unread"))];
        let unnamed = ["both", "new", "unnamed"].map(|name| instance(name).id);
        assert_eq!(
            world.put_listing(next),
            Listed::Taken {
                unnamed: unnamed.into()
            }
        );
        assert_eq!(names(&world), ["both", "stays", "unnamed", "unread"]);
        let both = &world.inventory.as_ref().unwrap().instances[&instance("both").id];
        assert_eq!(both.presence, Presence::Up);
        world.put_instance(instance("both").id, Answer::Elsewhere("m2".into()));
        assert_eq!(names(&world), ["stays", "unnamed", "unread"]);
    }

    /// A member from which everything was moved has none. But an agent that has just started knows too little.
    #[test]
    fn a_listing_of_other_members_instances_only_is_believed_if_ours_are_among_them() {
        let elsewhere = |names: &[&str]| {
            let mut all = listing([]);
            for name in names {
                all.elsewhere.add("m2".into(), Some(instance(name).id));
            }
            all
        };
        let new = || World {
            facts: Some(Facts::new([attached()])),
            ..World::default()
        };
        let mut world = new();
        world.put_listing(listing(["a", "b"].map(instance)));
        let unnamed = [instance("b").id].into();
        assert_eq!(
            world.put_listing(elsewhere(&["a", "c"])),
            Listed::Taken { unnamed }
        );
        assert_eq!(names(&world), ["b"]);
        let mut world = new();
        let Listed::Incredible(why) = world.put_listing(elsewhere(&["a", "c"])) else {
            panic!("it was believed");
        };
        let why = why.to_string();
        assert!(why.contains("instances of other members only"), "{why}");
    }

    fn unread(name: Option<&str>) -> Unread {
        Unread {
            id: name.map(|name| InstanceId::of("default", name)),
            of_any_project: false,
            why: "it is odd".into(),
            try_again: false,
            but_acls: None,
        }
    }

    /// What was known of it stays, whatever the entry is; what was not is not known by it.
    #[test]
    fn an_entry_that_cannot_be_understood_changes_nothing_and_is_named() {
        let mut world = World::default();
        world.put_listing(listing([instance("a"), instance("b"), instance("c")]));
        let before = world.inventory.clone();
        let mut odd = listing([instance("a")]);
        odd.unread = vec![unread(Some("b")), unread(Some("new")), unread(None)];
        let unnamed = [InstanceId::of("default", "c")].into();
        assert_eq!(world.put_listing(odd), Listed::Taken { unnamed });
        assert_eq!(world.inventory, before);
        let said = |world: &World| -> Vec<String> { world.unread_problems().into_keys().collect() };
        assert_eq!(said(&world), ["b", "new", "without a name: it is odd"]);
        // Read by name it is well again, or still is not.
        world.put_instance(instance("b").id, Answer::There(instance("b")));
        world.put_instance(instance("a").id, Answer::Unread(unread(Some("a"))));
        assert_eq!(said(&world), ["a", "new", "without a name: it is odd"]);
        assert_eq!(world.inventory, before);
        world.put_instance(instance("a").id, Answer::Gone);
        world.put_listing(listing([instance("b")]));
        assert_eq!(said(&world), [""; 0]);
    }

    /// After a restart nothing is known that could stay in force.
    #[test]
    fn a_listing_in_which_nothing_can_be_understood_is_not_believed_after_a_restart() {
        let mut world = World {
            facts: Some(Facts::new([attached()])),
            ..World::default()
        };
        let mut odd = listing([]);
        odd.unread = vec![unread(Some("b"))];
        let Listed::Incredible(why) = world.put_listing(odd) else {
            panic!("it was believed");
        };
        let why = why.to_string();
        assert!(why.contains("instance b: what LXD says of it"), "{why}");
        assert_eq!(world.inventory, None);
        // With one that can be, and later without it, as all that is known stays.
        let mut odd = listing([instance("a")]);
        odd.unread = vec![unread(Some("b"))];
        assert!(matches!(world.put_listing(odd), Listed::Taken { .. }));
        let mut odd = listing([]);
        odd.unread = vec![unread(Some("a"))];
        let unnamed = BTreeSet::new();
        assert_eq!(world.put_listing(odd), Listed::Taken { unnamed });
    }

    #[test]
    fn of_an_instance_in_error_what_is_attached_stays_after_a_restart() {
        let nic = |device: &str, port: &str| LxdNic {
            device: device.into(),
            host_name: Some(port.into()),
            ..LxdNic::default()
        };
        let mut error = instance("a");
        error.presence = Presence::Unknown;
        error.nics = vec![nic("eth0", "veth1"), nic("eth1", "veth2")];
        let svi = Link::sample(3, "svi-vpc", LinkKind::Other, None);
        let mut facts = Facts::new([attached(), svi]);
        facts.svis.insert("svi-vpc".parse().unwrap());
        for (facts, presence, nics) in [
            (Some(facts), Presence::Up, 1),
            (Some(Facts::default()), Presence::Unknown, 2),
            (None, Presence::Unknown, 2),
        ] {
            let found = as_it_was(error.clone(), facts.as_ref());
            assert_eq!((found.presence, found.nics.len()), (presence, nics));
        }
    }

    /// Its keys are the instance's own; of the lists, those that were known go on, and another one closes.
    #[test]
    fn access_lists_that_cannot_be_read_stay_as_they_were_and_keys_do_not() {
        use crate::lxd::{Acl, Acls};
        let acls = |names: &[&str]| -> Acls {
            let one = |name: &&str| {
                let json = format!(r#"{{"name":"{name}","ingress":[],"egress":[]}}"#);
                let json = serde_json::value::RawValue::from_string(json).unwrap();
                (
                    name.to_string(),
                    std::sync::Arc::new(Acl::read(&json).unwrap()),
                )
            };
            names.iter().map(one).collect()
        };
        let naming = |names: &str, services: &str, presence: Presence| {
            let mut one = instance("a");
            one.presence = presence;
            one.nics.push(LxdNic {
                device: "eth0".into(),
                acls: names.into(),
                in_services: services.into(),
                ..LxdNic::default()
            });
            one
        };
        let known = |presence: Presence| Instance {
            acls: acls(&["web", "db"]),
            ..naming("web db", "any", presence)
        };
        use Presence::{Down, Unknown, Up};
        // What was known, what is read, and the services and lists that are in force then.
        let table = [
            (
                Some(Up),
                naming("web db", "any", Up),
                Some(("any", &["web", "db"][..])),
            ),
            (
                Some(Up),
                naming("web db", "", Up),
                Some(("", &["web", "db"])),
            ),
            (Some(Up), naming("web", "any", Up), Some(("any", &["web"]))),
            (
                Some(Up),
                naming("web new", "any", Up),
                Some(("any", &["web"])),
            ),
            (
                Some(Up),
                naming("web", "", Unknown),
                Some(("any", &["web", "db"])),
            ),
            (
                Some(Down),
                naming("web db", "", Up),
                Some(("any", &["web", "db"])),
            ),
            (None, naming("web db", "any", Up), None),
        ];
        for (before, fresh, wanted) in table {
            for listed in [true, false] {
                let mut world = World::default();
                let first = before.map(known).into_iter().chain([instance("other")]);
                world.put_listing(Listing {
                    instances: first.collect(),
                    ..Listing::default()
                });
                let unread = Unread::without_acls(fresh.clone(), "HTTP 500".into());
                if listed {
                    let mut all = listing([instance("other")]);
                    all.unread.push(unread);
                    let unnamed = BTreeSet::new();
                    assert_eq!(world.put_listing(all), Listed::Taken { unnamed });
                } else {
                    world.put_instance(fresh.id.clone(), Answer::Unread(unread));
                }
                let inventory = world.inventory.as_ref().unwrap();
                let found = inventory.instances.get(&fresh.id);
                let found = found.map(|one| {
                    let names: Vec<&str> = one.acls.keys().map(String::as_str).collect();
                    (one.nics[0].in_services.as_str(), names)
                });
                let wanted = wanted.map(|(services, names)| {
                    (services, acls(names).into_keys().collect::<Vec<_>>())
                });
                let found = found.map(|(services, names)| {
                    (services, names.into_iter().map(String::from).collect())
                });
                assert_eq!(found, wanted, "{before:?} {fresh:?}");
                let said = &world.unread_problems()["a"];
                let effect = match before {
                    Some(Up) => "those that were known stay in force",
                    _ => "none of its NICs is connected until",
                };
                assert!(
                    said.contains("(HTTP 500)") && said.contains(effect),
                    "{said}"
                );
            }
        }
    }

    /// One that was not attached, for want of its bridge or because another host has its address, stays known
    /// as well; so does one whose host-side device LXD does not tell meanwhile.
    #[test]
    fn of_an_instance_in_error_all_that_was_known_stays() {
        let nic = |device: &str, port: Option<&str>| LxdNic {
            device: device.into(),
            host_name: port.map(String::from),
            ..LxdNic::default()
        };
        let svi = Link::sample(3, "svi-vpc", LinkKind::Other, None);
        let mut facts = Facts::new([attached(), svi]);
        facts.svis.insert("svi-vpc".parse().unwrap());
        let mut up = instance("a");
        up.nics = vec![nic("eth0", Some("veth1")), nic("eth1", Some("veth2"))];
        for port in [Some("veth1"), None] {
            let mut error = up.clone();
            error.presence = Presence::Unknown;
            error.nics[0] = nic("eth0", port);
            for listed in [true, false] {
                let mut world = World {
                    facts: Some(facts.clone()),
                    ..World::default()
                };
                world.put_listing(listing([up.clone()]));
                match listed {
                    true => {
                        world.put_listing(listing([error.clone()]));
                    }
                    false => world.put_instance(up.id.clone(), Answer::There(error.clone())),
                }
                let inventory = world.inventory.as_ref().unwrap();
                assert_eq!(inventory.instances[&up.id], up);
            }
        }
    }

    /// 192.0.2.11 in vpc, of 00:16:3e:00:00:01.
    fn a_nic_with_an_address() -> (HostFile, Instance) {
        let host = "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"203.0.113.1\"]\n\
            supervisors = [\"203.0.113.11\"]\n[[network]]\nname = \"vpc\"\nvni = 100\ngateway = [\"192.0.2.1/24\"]\n";
        let host = crate::host::parse("host.toml", host).unwrap();
        let mut with_nic = instance("a");
        with_nic.nics.push(LxdNic {
            device: "eth0".into(),
            parent: "vpc".into(),
            host_name: Some("veth1".into()),
            hwaddr: Some("00:16:3e:00:00:01".into()),
            ipv4: Some("192.0.2.11".into()),
            ..LxdNic::default()
        });
        (host, with_nic)
    }

    #[test]
    fn an_address_is_watched_only_while_a_nic_has_it() {
        let (host, with_nic) = a_nic_with_an_address();
        let mut world = World::default();
        let soon = Instant::now() + std::time::Duration::from_secs(60);
        world.put_listing(listing([with_nic.clone()]));
        world.draft(&host);
        world.resolve(Held::default(), soon);
        assert_eq!(world.watched_networks(), ["vpc"]);
        world.stay_new("vpc", soon);
        world.put_instance(with_nic.id, Answer::Gone);
        world.draft(&host);
        world.resolve(Held::default(), soon);
        assert_eq!(world.watched_networks(), [""; 0]);
        assert!(!world.watches());
    }

    #[test]
    fn what_was_given_just_now_may_be_elsewhere_unless_that_is_known() {
        let (host, with_nic) = a_nic_with_an_address();
        let address: IpAddr = "192.0.2.11".parse().unwrap();
        let key = ("vpc".to_string(), address);
        let mac = "00:16:3e:00:00:01".parse().unwrap();
        let soon = Instant::now() + std::time::Duration::from_secs(60);
        let resolved = |holder: Option<Holder>| {
            let mut world = World::default();
            world.put_listing(listing([with_nic.clone()]));
            world.draft(&host);
            let held = Held {
                addresses: holder
                    .map(|holder| (key.clone(), holder))
                    .into_iter()
                    .collect(),
                ..Held::default()
            };
            world.resolve(held, soon);
            world
        };
        assert!(resolved(None).may_be_elsewhere("vpc", address));
        assert!(!resolved(None).may_be_elsewhere("dmz", address));
        // It had it before.
        assert!(!resolved(Some(Holder::Here(mac))).may_be_elsewhere("vpc", address));
        // It is known that another host has it: whatever was decided then is to be done.
        let remote = Remote {
            mac: "02:00:00:00:00:09".parse().unwrap(),
            vtep: None,
            precedes: false,
        };
        assert!(!resolved(Some(Holder::There(remote))).may_be_elsewhere("vpc", address));
        // Nor after a while.
        let mut world = resolved(None);
        world.new_addresses(soon + std::time::Duration::from_secs(1));
        assert!(!world.may_be_elsewhere("vpc", address));
    }

    #[test]
    fn one_instance_read_before_the_first_listing_is_not_taken_for_all_of_them() {
        let mut world = World::default();
        world.put_instance(instance("a").id, Answer::There(instance("a")));
        assert_eq!(world.nics(), None);
    }
}
