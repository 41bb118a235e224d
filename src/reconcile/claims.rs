//! Who has what NICs claim, as the kernel knows it: after a restart the agent's own neighbour and FDB entries
//! tell who had an address, and zebra's tell what NICs of other hosts have. Asked by single look-ups of what is
//! claimed, since an SVI may have a hundred thousand neighbours.

use super::daemon::Agent;
use super::world::World;
use crate::addr::{IpAddr, Mac};
use crate::host::{HostFile, Network};
use crate::kernel::link::{Link, LinkKind};
use crate::kernel::rtnl::PROTOCOL;
use crate::kernel::{Kernel, KernelError};
use crate::kinds::port_attrs;
use crate::model::claims::{Held, Holder, Kept, Remote, claim_sign};
use crate::model::{Facts, FollowUp, Nic, NicId};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// While another host has what is claimed here, so often it is looked whether it still has ...
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// ... and so often while it may turn out to have.
const LOOK_AT_WATCHED: Duration = Duration::from_secs(5);
/// For so long an address is looked at that was taken back from another host: its agent notices at its next full
/// look, and might take it in turn.
const TAKEN_BACK: Duration = Duration::from_secs(600);
/// For so long an address counts as given just now. At boot BGP takes a while.
const NEW: Duration = Duration::from_secs(60);

/// Resolves the NICs anew, with what the kernel says; returns those that are different now. If the kernel
/// cannot be asked, all stays as it was.
pub(super) fn resolve(
    world: &mut World,
    kernel: &mut Kernel,
    host: &HostFile,
) -> Result<BTreeSet<NicId>, KernelError> {
    world.draft(host);
    is_quiet(kernel, world, host)?;
    let held = look(kernel, world, host)?;
    Ok(world.resolve(held, Instant::now() + NEW))
}

/// Whether none of the tunnels leads anywhere in whose networks addresses are watched. Then EVPN is not up, and says
/// nothing of others; what was given just now stays new.
fn is_quiet(kernel: &mut Kernel, world: &mut World, host: &HostFile) -> Result<bool, KernelError> {
    let networks = world.watched_networks();
    let mut quiet = !networks.is_empty();
    for network in &networks {
        let tunnel = host.network(network).zip(world.facts.as_ref());
        let tunnel = tunnel.and_then(|(network, facts)| facts.tunnel(network));
        match tunnel.map(|tunnel| tunnel.index) {
            Some(tunnel) if kernel.rtnl.vtep_of(tunnel, Mac::default())?.is_none() => {
                world.stay_new(network, Instant::now() + NEW);
            }
            _ => quiet = false,
        }
    }
    Ok(quiet)
}

/// What the kernel says of claims that are not settled.
fn look(kernel: &mut Kernel, world: &mut World, host: &HostFile) -> Result<Held, KernelError> {
    let mut held = Held {
        usurpers: world.usurpers(host),
        new: world.new_addresses(Instant::now()),
        early: world.early(|port| Ok::<_, KernelError>(kernel.rtnl.link(port)?.is_some()))?,
        ..Held::default()
    };
    let Some(facts) = &world.facts else {
        return Ok(held);
    };
    held.kept = kept_devices(kernel, world, host, facts)?;
    held.early.retain(|id| !held.kept.contains_key(id));
    for nic in world.unsettled().chain(world.unnamed()) {
        let Some(network) = host.network(&nic.network) else {
            continue;
        };
        let Some(svi) = facts.svi(network) else {
            continue;
        };
        if let Some(entry) = kernel.rtnl.fdb_entry(svi.index, nic.mac)?
            && let Some(port) = facts.name_of(entry.port)
            // On the tunnel it is another host's, or was taken over by it.
            && *port != network.tunnel
        {
            let key = (nic.network.clone(), nic.mac);
            held.ports.insert(key, port.clone());
        }
        for address in nic.own_addresses() {
            let Some(entry) = kernel.rtnl.neighbour(svi.index, address)? else {
                continue;
            };
            let holder = match entry.mac {
                Some(mac) if entry.ext_learned => {
                    Holder::There(remote(kernel, facts, network, mac)?)
                }
                Some(mac) if entry.protocol == PROTOCOL => Holder::Here(mac),
                Some(_) | None => continue,
            };
            if matches!(holder, Holder::Here(_)) {
                let sign = kernel.rtnl.neighbour(svi.index, claim_sign(address))?;
                let sign = sign.filter(|sign| sign.protocol == PROTOCOL && !sign.ext_learned);
                if let Some(mac) = sign.and_then(|sign| sign.mac) {
                    held.signs.insert((nic.network.clone(), address), mac);
                }
            }
            held.addresses
                .insert((nic.network.clone(), address), holder);
        }
    }
    Ok(held)
}

/// Taps that NICs keep while the devices that they name are not here: those that they had, whatever became of their FDB
/// entries. When NICs are first resolved nobody knows what they had: then it is the one on which an agent has put the
/// MAC, if no other instance has that MAC, in whatever state it is.
fn kept_devices(
    kernel: &mut Kernel,
    world: &World,
    host: &HostFile,
    facts: &Facts,
) -> Result<HashMap<NicId, Kept>, KernelError> {
    let mut kept = HashMap::new();
    for nic in world.unsettled().chain(world.unnamed()) {
        let Some(svi) = host.network(&nic.network).and_then(|n| facts.svi(n)) else {
            continue;
        };
        // What it had is another device than it names now. The named one may have been made by somebody else, who has
        // read the record, and for the other member's.
        let had = world.had(nic);
        let had_other = had.filter(|(port, _)| **port != nic.port);
        let is_known = || facts.link(&nic.port).is_some();
        if had_other.is_none() && (is_known() || kernel.rtnl.link(&nic.port)?.is_some()) {
            continue;
        }
        let link = match had {
            Some((port, index)) => {
                let link = kernel.rtnl.link(port)?;
                link.filter(|link| Some(link.index) == index)
            }
            None if world.nics().is_none() && world.is_only_one_with(nic.mac) => {
                let entry = kernel.rtnl.fdb_entry(svi.index, nic.mac)?;
                let entry = entry.filter(|entry| entry.ext_learned && !entry.permanent);
                let link = match entry {
                    Some(entry) => kernel.rtnl.link_by_index(entry.port)?,
                    None => None,
                };
                link.filter(|link| link.master == Some(svi.index) && port_attrs::is_ours(link))
            }
            None => None,
        };
        let is_tap = |link: &Link| matches!(link.kind, LinkKind::Tun);
        let keeps = match (link, had_other) {
            (Some(link), _) => is_tap(&link).then_some((link.name, link.index)),
            // It has left, or its tap is being made anew: it is nowhere until then.
            (None, Some((port, Some(index)))) if world.held.kept.contains_key(&nic.id) => {
                let named = kernel.rtnl.link(&nic.port)?;
                (!named.as_ref().is_some_and(is_tap)).then(|| (port.clone(), index))
            }
            (None, _) => None,
        };
        if let Some((port, index)) = keeps {
            kept.insert(nic.id.clone(), Kept { port, index });
        }
    }
    Ok(kept)
}

/// Where a MAC of another host is.
fn remote(
    kernel: &mut Kernel,
    facts: &Facts,
    network: &Network,
    mac: Mac,
) -> Result<Remote, KernelError> {
    let tunnel = facts.tunnel(network);
    let vtep = match tunnel {
        Some(tunnel) => kernel.rtnl.vtep_of(tunnel.index, mac)?,
        None => None,
    };
    let own = tunnel.and_then(|tunnel| match &tunnel.kind {
        LinkKind::Vxlan(data) => data.local,
        _ => None,
    });
    Ok(Remote {
        mac,
        vtep,
        precedes: matches!((vtep, own), (Some(there), Some(here)) if there < here),
    })
}

impl Agent {
    /// Resolves the NICs anew; returns those that are different now.
    pub(super) fn resolve(&mut self) -> BTreeSet<NicId> {
        let resolved = resolve(&mut self.world, &mut self.kernel, &self.host);
        self.schedule_contests();
        match resolved {
            Ok(changed) => {
                self.say("claims", None);
                changed
            }
            Err(error) => {
                let text = format!("who has which address cannot be read: {error}");
                self.say("claims", Some(text));
                self.pending.resolve = true;
                self.pending.everything_by(Instant::now() + LOOK_AGAIN);
                BTreeSet::new()
            }
        }
    }

    /// Looks whether other hosts have what is claimed here, and asks for a pass if something has changed.
    pub(super) fn look_at_contests(&mut self) {
        let quiet = is_quiet(&mut self.kernel, &mut self.world, &self.host);
        if matches!(quiet, Ok(true)) && !self.world.has_contests() {
            return self.schedule_contests();
        }
        let held = look(&mut self.kernel, &mut self.world, &self.host);
        // An error is said where they are resolved.
        if held.as_ref().ok() != Some(&self.world.held) {
            self.pending.resolve = true;
            self.pending.by(Instant::now());
        }
        self.schedule_contests();
    }

    fn schedule_contests(&mut self) {
        let pause = match (self.world.has_contests(), self.world.watches()) {
            (true, _) => Some(LOOK_AGAIN),
            (false, true) => Some(LOOK_AT_WATCHED),
            (false, false) => None,
        };
        self.contests_at = pause.map(|pause| Instant::now() + pause);
    }

    /// Takes note of what was taken back from another host.
    pub(super) fn watch_contests(&mut self, follow_ups: &[FollowUp]) {
        for follow_up in follow_ups {
            let FollowUp::Contested { svi, address } = follow_up else {
                continue;
            };
            let mut networks = self.host.networks.iter();
            if let Some(network) = networks.find(|network| network.bridge == *svi) {
                let until = Instant::now() + TAKEN_BACK;
                self.world.watch(&network.name, *address, until);
                self.schedule_contests();
            }
        }
    }

    /// What other hosts claim of addresses that NICs of this host have, each as a sentence about the NIC.
    pub(super) fn claimed_elsewhere(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let Some(facts) = &self.world.facts else {
            return found;
        };
        for nic in &self.world.resolved.nics {
            let network = self.host.network(&nic.network);
            let Some((network, svi)) = network.and_then(|n| Some((n, facts.svi(n)?))) else {
                continue;
            };
            for address in nic.own_addresses() {
                let sign = self.kernel.rtnl.neighbour(svi.index, claim_sign(address));
                // What cannot be read is no claim; a pass says so.
                let Ok(Some(sign)) = sign else { continue };
                let Some(mac) = sign.mac.filter(|mac| sign.ext_learned && *mac != nic.mac) else {
                    continue;
                };
                let there = remote(&mut self.kernel, facts, network, mac);
                found.push(contest(nic, address, mac, there.ok().and_then(|r| r.vtep)));
            }
        }
        found
    }
}

fn contest(nic: &Nic, address: IpAddr, mac: Mac, vtep: Option<IpAddr>) -> String {
    let host = vtep.map_or("another host".into(), |vtep| format!("the host {vtep}"));
    format!(
        "instance {}: address {address} is claimed by {mac} on {host}, too; it stays here",
        nic.id
    )
}
