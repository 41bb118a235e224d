//! Host routes of NIC addresses, where a network asks for them: /32 and /128 via the SVI, in the
//! main table, the VRF's, or one by number, for FRR or another routing daemon to redistribute.
//! Protocol 242 marks ours; a stranger's route to the same prefix is left alone and reported, or,
//! where routes are announced and so have a metric, simply goes before ours and is not announced.

use super::{KernelKind, KindError, Look, Scope, apply_ops, index_of};
use crate::addr::{IfName, IpAddr, IpNet};
use crate::host::Network;
use crate::kernel::Kernel;
use crate::kernel::rtnl::{Op, PROTOCOL};
use crate::model::{Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// A host route (RTM_NEWROUTE, scope link).
#[derive(Debug)]
pub struct Route;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub table: u32,
    pub destination: IpNet,
    /// Metric. IPv6 turns an unset one into 1024; those that FRR announces have one of their own.
    pub priority: u32,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} table {}", self.destination, self.table)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    /// `None`: a device that this pass does not know.
    pub device: Option<IfName>,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Some(device) => write!(f, "dev {device}"),
            None => f.write_str("dev unknown"),
        }
    }
}

fn priority(network: &Network, address: IpAddr) -> u32 {
    match address {
        _ if network.announce => Network::ANNOUNCED_METRIC,
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1024,
    }
}

impl Kind for Route {
    const NAME: &'static str = "route";
    const OWNS: Owns = Owns::WholeObjects;
    type Key = Key;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let mut wanted = Table::<Self>::new();
        for (nic, network, at) in inputs.connectable() {
            let Some(table) = network.host_route_table() else {
                continue;
            };
            // The kernel refuses routes via a device that is down.
            if !at.svi.up {
                continue;
            }
            let own = nic
                .ipv4
                .map(IpAddr::V4)
                .into_iter()
                .chain(nic.ipv6.map(IpAddr::V6));
            for address in own {
                let key = Key {
                    table,
                    destination: IpNet::from(address),
                    priority: priority(network, address),
                };
                wanted.insert(
                    key,
                    Attrs {
                        device: Some(network.bridge.clone()),
                    },
                );
            }
        }
        wanted
    }
}

impl KernelKind for Route {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        _: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let routes = look.kernel.rtnl.routes(PROTOCOL)?;
        Ok(routes
            .into_iter()
            .map(|route| {
                let key = Key {
                    table: route.table,
                    destination: route.destination,
                    priority: route.priority,
                };
                let device = look.facts.name_of(route.device).cloned();
                (key, Attrs { device })
            })
            .filter(|(key, _)| scope.has(key))
            .collect())
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        apply_ops(kernel, changes, |change| {
            let Key {
                table,
                destination,
                priority,
            } = change.key().clone();
            let device = |attrs: &Attrs| {
                let name = attrs.device.as_ref();
                index_of(
                    facts,
                    name.ok_or_else(|| KindError::Gone("the device".into()))?,
                )
            };
            Ok(vec![match change {
                Change::Create { want, .. } => Op::RouteAdd {
                    table,
                    destination,
                    device: device(want)?,
                    priority,
                },
                Change::Update { want, .. } => Op::RouteReplace {
                    table,
                    destination,
                    device: device(want)?,
                    priority,
                },
                Change::Delete { have, .. } => Op::RouteDelete {
                    table,
                    destination,
                    device: device(have)?,
                    priority,
                },
            }])
        })
    }
}
