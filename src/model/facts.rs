//! The links of this host as seen in one pass. Interface indexes are taken from here only, so
//! that an index never outlives the look that found it.

use crate::addr::{IfName, IpAddr};
use crate::host::Network;
use crate::kernel::link::{Link, LinkKind};
use crate::kernel::sysctl::NeighSolicit;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A snapshot of links by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    links: BTreeMap<IfName, Link>,
    names: BTreeMap<u32, IfName>,
    /// Of the SVIs that exist: how often the kernel asks for a neighbour that we did not install.
    pub neigh_solicit: BTreeMap<IfName, NeighSolicit>,
    /// Whether a look at a source MAC together with the ethertype shows a VLAN tag that the kernel has
    /// taken off the packet (`kernel::nft::shows_vlan_tags`).
    pub shows_vlan_tags: bool,
    /// Where any of the tunnels floods to, or why that is not known. `None` where nobody asks.
    pub vteps: Option<Result<BTreeSet<IpAddr>, String>>,
    /// The text of the tables that keep closed what nobody attached, or why it is not known. `None`
    /// where nobody asks.
    pub closed: Option<Result<Arc<str>, String>>,
    /// Devices that are the host's own by that text: names, or beginnings of names with a `*` behind
    /// them.
    pub uplinks: BTreeSet<String>,
    /// Names of all networks' SVIs, whether they are there or not.
    pub svis: BTreeSet<IfName>,
    /// Of devices that NICs name and that are in no SVI: what the host uses them for.
    pub used: BTreeMap<IfName, String>,
    /// Of these devices, those that have the check of deferred checksums: they were ports of ours.
    pub checked: BTreeSet<IfName>,
}

/// Whether a network's devices are there and fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// What is missing or wrong, for a person.
    Waiting(String),
}

impl Facts {
    pub fn new(links: impl IntoIterator<Item = Link>) -> Self {
        let mut facts = Facts::default();
        for link in links {
            facts.put(&link.name.clone(), Some(link));
        }
        facts
    }

    pub fn link(&self, name: &IfName) -> Option<&Link> {
        self.links.get(name)
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    pub fn name_of(&self, index: u32) -> Option<&IfName> {
        self.names.get(&index)
    }

    /// Takes in a fresh look at one link.
    pub fn put(&mut self, name: &IfName, link: Option<Link>) {
        if let Some(old) = self.links.remove(name) {
            self.names.remove(&old.index);
        }
        if let Some(link) = link {
            self.names.insert(link.index, name.clone());
            self.links.insert(name.clone(), link);
        }
    }

    /// Whether a device is the host's own, and no instance's.
    pub fn is_uplink(&self, name: &IfName) -> bool {
        let is = |uplink: &String| match uplink.strip_suffix('*') {
            Some(beginning) => name.as_str().starts_with(beginning),
            None => name.as_str() == uplink,
        };
        self.uplinks.iter().any(is)
    }

    /// Whether a link is in the SVI of some network.
    pub fn is_attached(&self, link: &Link) -> bool {
        let master = link.master.and_then(|index| self.name_of(index));
        master.is_some_and(|name| self.svis.contains(name))
    }

    /// Why a device cannot be an instance's, for a person who reads "its device NAME ..."; `None` if it
    /// can. LXD and Incus make veths, whose other end is the instance's, and taps; they give them neither
    /// addresses nor routes nor bridges, unless they are for something else. Whoever may write the
    /// configuration of an instance may write any name into it.
    pub fn unfit(&self, link: &Link) -> Option<String> {
        let fits = match link.kind {
            LinkKind::Veth => link.peer_netns,
            LinkKind::Tun => link.mac.is_some(),
            _ => false,
        };
        if !fits {
            return Some("is neither a veth with its other end in an instance nor a tap".into());
        }
        if self.is_attached(link) {
            return None;
        }
        if self.is_uplink(&link.name) {
            return Some("is an uplink of the host".into());
        }
        // What was a port of ours is taken back.
        let was_ours = self.checked.contains(&link.name);
        if let Some(master) = link.master.filter(|_| !was_ours) {
            return Some(match self.name_of(master) {
                Some(name) => format!("is in {name}"),
                None => "is in a bridge".into(),
            });
        }
        self.used.get(&link.name).cloned()
    }

    /// The SVI of the network, if it is there and a bridge.
    pub fn svi(&self, network: &Network) -> Option<&Link> {
        self.link(&network.bridge)
            .filter(|link| matches!(link.kind, LinkKind::Bridge(_)))
    }

    /// The tunnel of the network, if it is there, a VXLAN device of the right VNI, and a port
    /// of the SVI.
    pub fn tunnel(&self, network: &Network) -> Option<&Link> {
        let svi = self.svi(network)?;
        self.link(&network.tunnel).filter(|link| {
            matches!(&link.kind, LinkKind::Vxlan(data) if data.vni == network.vni.get())
                && link.master == Some(svi.index)
        })
    }

    /// What the network still waits for.
    pub fn readiness(&self, network: &Network) -> Readiness {
        let Network {
            bridge,
            tunnel,
            vni,
            ..
        } = network;
        let wait = |text: String| Readiness::Waiting(text);
        let Some(svi) = self.link(bridge) else {
            return wait(format!(
                "bridge {bridge} does not exist; systemd-networkd should create it (lxmesh-gen render)"
            ));
        };
        let LinkKind::Bridge(_) = svi.kind else {
            return wait(format!("{bridge} is not a bridge"));
        };
        let Some(link) = self.link(tunnel) else {
            return wait(format!(
                "tunnel {tunnel} does not exist; systemd-networkd should create it (lxmesh-gen render)"
            ));
        };
        match &link.kind {
            LinkKind::Vxlan(data) if data.vni != vni.get() => {
                return wait(format!("tunnel {tunnel} has VNI {}, not {vni}", data.vni));
            }
            LinkKind::Vxlan(_) => {}
            _ => return wait(format!("{tunnel} is not a VXLAN device")),
        }
        if link.master != Some(svi.index) {
            return wait(format!("tunnel {tunnel} is not a port of bridge {bridge}"));
        }
        if !svi.up {
            return wait(format!("bridge {bridge} is down"));
        }
        if !link.up {
            return wait(format!("tunnel {tunnel} is down"));
        }
        Readiness::Ready
    }

    /// True unless some bridge port shows that the kernel lacks the limit on a port's multicast
    /// groups (it came with Linux 6.3).
    pub fn has_group_limit(&self) -> bool {
        !self.links().any(|link| {
            link.port
                .is_some_and(|port| port.mcast_max_groups.is_none())
        })
    }
}
