//! Looks at links: all of them, or those of some NICs.

use super::closed;
use crate::addr::{IfName, IpAddr, IpNet, is_assignable};
use crate::host::HostFile;
use crate::kernel::link::LinkKind;
use crate::kernel::nft::shows_vlan_tags;
use crate::kernel::sysctl::neigh_solicit;
use crate::kernel::{Kernel, KernelError};
use crate::kinds::checksum;
use crate::model::Facts;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// A look at all links.
pub fn look_at_links(kernel: &mut Kernel, host: &HostFile) -> Result<Facts, KernelError> {
    let mut facts = Facts::new(kernel.rtnl.links()?);
    facts.shows_vlan_tags = shows_vlan_tags();
    facts.svis = host.networks.iter().map(|n| n.bridge.clone()).collect();
    closed::add(&mut facts, kernel, host);
    for network in &host.networks {
        read_solicit(&mut facts, &network.bridge);
    }
    if host.filters_vteps() {
        let read = read_vteps(kernel, host, &facts);
        facts.vteps = Some(read.map_err(|error| error.to_string()));
    }
    Ok(facts)
}

/// Where any of the tunnels floods to. A tunnel that is not there floods nowhere.
fn read_vteps(
    kernel: &mut Kernel,
    host: &HostFile,
    facts: &Facts,
) -> Result<BTreeSet<IpAddr>, KernelError> {
    let mut all = BTreeSet::new();
    for tunnel in tunnels(host, facts) {
        all.extend(kernel.rtnl.vteps(tunnel)?);
    }
    all.retain(|vtep| is_assignable(*vtep));
    Ok(all)
}

/// Indexes of the networks' tunnels.
pub fn tunnels(host: &HostFile, facts: &Facts) -> Vec<u32> {
    let links = host
        .networks
        .iter()
        .filter_map(|network| facts.link(&network.tunnel));
    links
        .filter(|link| matches!(link.kind, LinkKind::Vxlan(_)))
        .map(|link| link.index)
        .collect()
}

/// A look at the links of some NICs and of their networks; the rest as known.
pub fn look_at_some(
    kernel: &mut Kernel,
    host: &HostFile,
    known: &Facts,
    ports: BTreeSet<IfName>,
) -> Result<Facts, KernelError> {
    let mut facts = known.clone();
    for network in &host.networks {
        for name in [&network.bridge, &network.tunnel] {
            facts.put(name, kernel.rtnl.link(name)?);
        }
        read_solicit(&mut facts, &network.bridge);
    }
    for name in &ports {
        facts.put(name, kernel.rtnl.link(name)?);
    }
    Ok(facts)
}

/// A value that cannot be read is left out, and so left alone.
fn read_solicit(facts: &mut Facts, svi: &IfName) {
    match neigh_solicit(svi) {
        Ok(Some(value)) => facts.neigh_solicit.insert(svi.clone(), value),
        Ok(None) | Err(_) => facts.neigh_solicit.remove(svi),
    };
}

/// Adds what the host uses those devices for that NICs name and that are in no SVI yet. What cannot be read
/// counts as used. Each comes with the routes that LXD has given it.
pub fn look_at_ports<'a>(
    kernel: &mut Kernel,
    facts: &mut Facts,
    ports: impl Iterator<Item = (&'a IfName, &'a [IpNet])>,
) {
    for (port, routes) in ports {
        facts.used.remove(port);
        facts.checked.remove(port);
        let Some(link) = facts.link(port) else {
            continue;
        };
        if facts.is_attached(link) {
            continue;
        }
        let index = link.index;
        if checksum::is_attached(kernel, index) {
            facts.checked.insert(port.clone());
        }
        // What is no instance's for another reason need not be looked at.
        if facts
            .link(port)
            .is_none_or(|link| facts.unfit(link).is_some())
        {
            continue;
        }
        if let Some(use_of_it) = use_of(kernel, index, routes) {
            facts.used.insert(port.clone(), use_of_it);
        }
    }
}

/// Addresses and routes of a device, as [`Facts::unfit`] says it; `None` without any. Routes that LXD has
/// made do not count.
fn use_of(kernel: &mut Kernel, index: u32, routes: &[IpNet]) -> Option<String> {
    match kernel.rtnl.addresses_of(index) {
        Ok(addresses) => {
            if let Some(address) = addresses
                .into_iter()
                .find(|address| !comes_by_itself(*address))
            {
                return Some(format!("has the address {address}"));
            }
        }
        Err(error) => return Some(format!("may have addresses: {error}")),
    }
    match kernel.rtnl.routes_by(index) {
        Ok(found) => {
            let other = found.iter().find(|net| !routes.contains(net))?;
            Some(format!("has a route to {other}"))
        }
        Err(error) => Some(format!("may have routes: {error}")),
    }
}

/// Whether every device may have such an address, that nobody gave it: a link-local one, other than those
/// that LXD gives the devices of its routed NICs.
fn comes_by_itself(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_link_local() && four != Ipv4Addr::new(169, 254, 0, 1),
        IpAddr::V6(six) => {
            six.is_unicast_link_local() && six.segments()[1..] != [0, 0, 0, 0, 0, 0, 1]
        }
    }
}
