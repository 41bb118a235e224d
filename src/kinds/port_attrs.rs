//! Membership and attributes of NIC ports: what makes a veth a port of its SVI. Nothing is
//! learned or flooded there; the bridge itself answers ARP for known addresses.
//!
//! A port joins while it is down, so that it never forwards with the kernel's permissive
//! defaults, and comes up last. It leaves down too: a p2p device that is up but in no bridge
//! would hand its frames to the host's own stack.

use super::{KernelKind, KindError, Look, Scope, apply_ops, checksum, index_of};
use crate::addr::IfName;
use crate::kernel::Kernel;
use crate::kernel::link::{Link, LinkKind, PortSettings};
use crate::kernel::rtnl::{Op, PortSet};
use crate::model::{Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// A NIC's host-side device as a bridge port.
#[derive(Debug)]
pub struct PortAttrs;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    /// Name of the bridge; `None` if in none, or in one that is not an SVI of ours.
    pub master: Option<IfName>,
    pub up: bool,
    /// IN6_ADDR_GEN_MODE_*; 1 = none: the port itself has no addresses.
    pub addr_gen_mode: Option<u8>,
    /// `None` while in no bridge.
    pub port: Option<PortSettings>,
}

impl PortSettings {
    /// What a NIC's port should be. `proxy_arp` would also answer, but stops the flood of
    /// all-nodes router advertisements; `neigh_suppress` would silence the answers.
    pub fn of_nic(group_limit: Option<u32>) -> Self {
        PortSettings {
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
            mcast_max_groups: group_limit,
        }
    }

    /// The request that turns `have`, or settings that nobody knows, into `self`.
    pub fn from_other(&self, have: Option<&PortSettings>) -> PortSet {
        PortSet {
            learning: self.changed(have, |port| port.learning),
            unicast_flood: self.changed(have, |port| port.unicast_flood),
            mcast_flood: self.changed(have, |port| port.mcast_flood),
            bcast_flood: self.changed(have, |port| port.bcast_flood),
            proxy_arp: self.changed(have, |port| port.proxy_arp),
            proxy_arp_wifi: self.changed(have, |port| port.proxy_arp_wifi),
            guard: self.changed(have, |port| port.guard),
            mcast_router: self.changed(have, |port| port.mcast_router),
            neigh_suppress: self.changed(have, |port| port.neigh_suppress),
            isolated: self.changed(have, |port| port.isolated),
            hairpin: self.changed(have, |port| port.hairpin),
            mcast_max_groups: self.changed(have, |port| port.mcast_max_groups).flatten(),
        }
    }

    /// A setting, unless it is known to be so already.
    fn changed<T: PartialEq>(
        &self,
        have: Option<&PortSettings>,
        setting: impl Fn(&PortSettings) -> T,
    ) -> Option<T> {
        let want = setting(self);
        (have.map(setting).as_ref() != Some(&want)).then_some(want)
    }
}

impl fmt::Display for PortSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = [
            ("learning", self.learning),
            ("flood", self.unicast_flood),
            ("mcast_flood", self.mcast_flood),
            ("bcast_flood", self.bcast_flood),
            ("proxy_arp", self.proxy_arp),
            ("proxy_arp_wifi", self.proxy_arp_wifi),
            ("guard", self.guard),
            ("neigh_suppress", self.neigh_suppress),
            ("isolated", self.isolated),
            ("hairpin", self.hairpin),
        ];
        for (name, on) in flags {
            if on {
                write!(f, "{name} ")?;
            }
        }
        write!(f, "mcast_router {}", self.mcast_router)?;
        match self.mcast_max_groups {
            Some(limit) => write!(f, " mcast_max_groups {limit}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.master {
            Some(master) => write!(f, "in {master}")?,
            None => f.write_str("in no SVI")?,
        }
        f.write_str(if self.up { " up" } else { " down" })?;
        match self.addr_gen_mode {
            Some(1) | None => {}
            Some(mode) => write!(f, " addrgenmode {mode}")?,
        }
        match &self.port {
            Some(port) => write!(f, " {port}"),
            None => Ok(()),
        }
    }
}

/// True for a port that carries the settings that only LXMesh gives: such a port of an SVI is
/// ours even if nobody remembers having attached it.
pub fn is_ours(link: &Link) -> bool {
    link.port.is_some_and(|port| {
        port.proxy_arp_wifi && port.guard && !port.learning && !port.unicast_flood
    }) && !matches!(link.kind, LinkKind::Vxlan(_))
}

fn attrs_of(link: &Link, look: &Look<'_>) -> Attrs {
    let master = look.host.networks.iter().find_map(|network| {
        let svi = look.facts.svi(network)?;
        (Some(svi.index) == link.master).then(|| network.bridge.clone())
    });
    Attrs {
        up: link.up,
        addr_gen_mode: link.addr_gen_mode,
        port: link.port.filter(|_| master.is_some()),
        master,
    }
}

impl Kind for PortAttrs {
    const NAME: &'static str = "port";
    const OWNS: Owns = Owns::WholeObjects;
    type Key = IfName;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let has_group_limit = inputs.facts.has_group_limit();
        inputs
            .connectable()
            .map(|(nic, network, at)| {
                let attrs = Attrs {
                    master: Some(network.bridge.clone()),
                    up: true,
                    // A kernel without IPv6 has no such attribute.
                    addr_gen_mode: at.port.addr_gen_mode.map(|_| 1),
                    port: Some(PortSettings::of_nic(
                        has_group_limit.then_some(nic.limits.multicast_groups),
                    )),
                };
                (nic.port.clone(), attrs)
            })
            .collect()
    }
}

impl KernelKind for PortAttrs {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        Ok(look
            .facts
            .links()
            .filter(|link| scope.has(&link.name))
            .map(|link| (link, attrs_of(link, look)))
            .filter(|(link, _)| {
                // In whatever bridge: a network may have left the host file while nobody looked,
                // and its bridge is about to leave the filters.
                let left_behind = link.master.is_some() && is_ours(link);
                desired.contains_key(&link.name) || left_behind
            })
            .map(|(link, attrs)| (link.name.clone(), attrs))
            .collect())
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        let checked: Vec<_> = changes.iter().map(|c| checked(kernel, c, facts)).collect();
        let mut checked = checked.into_iter();
        apply_ops(kernel, changes, |change| {
            checked.next().expect("one for each change")?;
            ops(change, facts)
        })
    }
}

/// What would begin to carry packets must have its check by now.
fn checked(kernel: &Kernel, change: &Change<PortAttrs>, facts: &Facts) -> Result<(), KindError> {
    match change {
        Change::Update { key, have, want }
            if want.up && (!have.up || have.master != want.master) =>
        {
            checksum::require(kernel, index_of(facts, key)?)
        }
        _ => Ok(()),
    }
}

fn ops(change: &Change<PortAttrs>, facts: &Facts) -> Result<Vec<Op>, KindError> {
    let index = index_of(facts, change.key())?;
    let (have, want) = match change {
        // A device that exists is always observed: there is nothing to create.
        Change::Create { key, .. } => return Err(KindError::Gone(key.to_string())),
        Change::Delete { .. } => {
            return Ok(vec![
                Op::LinkDown { index },
                Op::LinkMaster { index, master: 0 },
            ]);
        }
        Change::Update { have, want, .. } => (have, want),
    };
    let mut ops = Vec::new();
    let (Some(master), Some(settings)) = (&want.master, &want.port) else {
        return Ok(ops);
    };
    let addr_gen_mode = want
        .addr_gen_mode
        .filter(|_| have.addr_gen_mode != want.addr_gen_mode);
    if have.master != want.master {
        if have.up {
            ops.push(Op::LinkDown { index });
        }
        let master = index_of(facts, master)?;
        ops.push(Op::Join {
            index,
            master,
            addr_gen_mode,
        });
        ops.push(Op::PortUp {
            index,
            attrs: settings.from_other(None),
        });
        return Ok(ops);
    }
    if let Some(mode) = addr_gen_mode {
        ops.push(Op::LinkAddrGenMode { index, mode });
    }
    let attrs = settings.from_other(have.port.as_ref());
    match (have.up, have.port == want.port) {
        (true, true) => {}
        (true, false) => ops.push(Op::Port { index, attrs }),
        (false, _) => ops.push(Op::PortUp { index, attrs }),
    }
    Ok(ops)
}
