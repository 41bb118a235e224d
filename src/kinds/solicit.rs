//! How often the kernel asks for an unknown neighbour on an SVI: never. Every neighbour there is
//! has been installed by us or by zebra; asking for others would send three ARP and three ND
//! packets to every VTEP for each packet to an unused address, and let a container fill the
//! host's neighbour table.

use super::{KernelKind, KindError, Look, Scope};
use crate::addr::IfName;
use crate::kernel::sysctl::{NeighSolicit, set_neigh_solicit};
use crate::kernel::{Kernel, fault};
use crate::model::{Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// `net.ipv{4,6}.neigh.SVI.{mcast,ucast}_solicit` (Documentation/networking/ip-sysctl.rst).
#[derive(Debug)]
pub struct Solicit;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs(pub NeighSolicit);

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NeighSolicit {
            v4_mcast,
            v4_ucast,
            v6_mcast,
            v6_ucast,
        } = &self.0;
        write!(
            f,
            "IPv4 {v4_mcast}+{v4_ucast} IPv6 {v6_mcast}+{v6_ucast} probes"
        )
    }
}

impl Kind for Solicit {
    const NAME: &'static str = "solicit";
    const OWNS: Owns = Owns::AttributesOnly;
    type Key = IfName;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let never = NeighSolicit {
            v4_mcast: 0,
            v4_ucast: 0,
            v6_mcast: 0,
            v6_ucast: 0,
        };
        let networks = inputs.host.networks.iter();
        networks
            .map(|network| (network.bridge.clone(), Attrs(never)))
            .collect()
    }
}

impl KernelKind for Solicit {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        _: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let known = look.facts.neigh_solicit.iter();
        Ok(known
            .filter(|(name, _)| scope.has(name))
            .map(|(name, value)| (name.clone(), Attrs(*value)))
            .collect())
    }

    fn apply(_: &mut Kernel, _: &Facts, changes: &[Change<Self>]) -> Vec<Result<(), KindError>> {
        changes
            .iter()
            .map(|change| match change {
                Change::Update { key, want, .. } => {
                    fault::point();
                    set_neigh_solicit(key, &want.0).map_err(|error| KindError::File {
                        what: format!("setting neighbour probes of {key}"),
                        why: error.to_string(),
                    })
                }
                _ => Ok(()),
            })
            .collect()
    }
}
