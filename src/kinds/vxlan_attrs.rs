//! Attributes of tunnels as bridge ports: nothing is learned (zebra installs what is behind
//! them), nothing unknown is flooded, and ARP and ND for remote addresses are answered here.

use super::{KernelKind, KindError, Look, Scope, apply_ops, index_of};
use crate::addr::IfName;
use crate::kernel::Kernel;
use crate::kernel::link::{LinkKind, PortSettings};
use crate::kernel::rtnl::Op;
use crate::model::{Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// Device group of tunnels ("LXM"): the rules tell by it at once what comes from a tunnel and goes to
/// one, and look into the set `overlay_ports` where it is missing. The set decides what is let in.
pub const TUNNEL_GROUP: u32 = 0x4c584d;

/// A network's VXLAN device.
#[derive(Debug)]
pub struct VxlanAttrs;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    /// The VXLAN device's own learning of VTEPs from packets.
    pub learning: bool,
    /// See [`TUNNEL_GROUP`].
    pub group: u32,
    pub port: PortSettings,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.learning {
            f.write_str("VTEP learning, ")?;
        }
        if self.group != TUNNEL_GROUP {
            write!(f, "device group {}, ", self.group)?;
        }
        write!(f, "{}", self.port)
    }
}

impl Kind for VxlanAttrs {
    const NAME: &'static str = "tunnel";
    const OWNS: Owns = Owns::AttributesOnly;
    type Key = IfName;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let networks = inputs.host.networks.iter();
        networks
            .map(|network| {
                let port = PortSettings {
                    proxy_arp_wifi: false,
                    mcast_flood: network.multicast,
                    neigh_suppress: true,
                    // Remote hosts' groups are theirs to limit; zero is the kernel's "no limit".
                    mcast_max_groups: inputs.facts.has_group_limit().then_some(0),
                    ..PortSettings::of_nic(None)
                };
                (
                    network.tunnel.clone(),
                    Attrs {
                        learning: false,
                        group: TUNNEL_GROUP,
                        port,
                    },
                )
            })
            .collect()
    }
}

impl KernelKind for VxlanAttrs {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        _: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let networks = look.host.networks.iter();
        Ok(networks
            .filter(|network| scope.has(&network.tunnel))
            .filter_map(|network| {
                let link = look.facts.tunnel(network)?;
                let LinkKind::Vxlan(data) = &link.kind else {
                    return None;
                };
                let attrs = Attrs {
                    learning: data.learning,
                    group: link.group,
                    port: link.port?,
                };
                Some((network.tunnel.clone(), attrs))
            })
            .collect())
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        apply_ops(kernel, changes, |change| {
            let Change::Update { key, have, want } = change else {
                return Ok(Vec::new());
            };
            let index = index_of(facts, key)?;
            let mut ops = Vec::new();
            if have.learning != want.learning {
                ops.push(Op::Vxlan {
                    index,
                    learning: want.learning,
                });
            }
            if have.group != want.group {
                ops.push(Op::LinkGroup {
                    index,
                    group: want.group,
                });
            }
            if have.port != want.port {
                ops.push(Op::Port {
                    index,
                    attrs: want.port.from_other(Some(&have.port)),
                });
            }
            Ok(ops)
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rules_know_the_device_group() {
        let rules = include_str!("../../templates/datapath-rules.nft");
        let group = format!("define tunnel_group = {:#x}\n", super::TUNNEL_GROUP);
        assert!(rules.contains(&group));
    }
}
