//! Multicast group entries: the solicited-node group of every IPv6 address of a NIC (RFC 4291
//! section 2.7.1), permanently, so that a neighbour solicitation reaches the one port it is for
//! before that instance has said that it listens.

use super::{KernelKind, KindError, Look, Scope, apply_ops, index_of};
use crate::addr::{IfName, IpAddr, solicited_node};
use crate::kernel::Kernel;
use crate::kernel::rtnl::{Op, PROTOCOL};
use crate::model::{Change, Facts, Inputs, Kind, Owns, Table};
use std::fmt;

/// A bridge multicast group entry (RTM_NEWMDB).
#[derive(Debug)]
pub struct Mdb;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub svi: IfName,
    pub port: IfName,
    pub group: IpAddr,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {} group {}", self.svi, self.port, self.group)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    pub permanent: bool,
    pub protocol: u8,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.permanent {
            "permanent"
        } else {
            "temporary"
        })?;
        if self.protocol != PROTOCOL {
            write!(f, " of protocol {}", self.protocol)?;
        }
        Ok(())
    }
}

impl Kind for Mdb {
    const NAME: &'static str = "mdb";
    const OWNS: Owns = Owns::WholeObjects;
    type Key = Key;
    type Attrs = Attrs;

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let mut wanted = Table::<Self>::new();
        for (nic, network, at) in inputs.connectable() {
            // The kernel refuses entries of a bridge that is down.
            if !at.svi.up {
                continue;
            }
            for address in nic.addresses() {
                let IpAddr::V6(address) = address else {
                    continue;
                };
                let key = Key {
                    svi: network.bridge.clone(),
                    port: nic.port.clone(),
                    group: IpAddr::V6(solicited_node(address)),
                };
                wanted.insert(
                    key,
                    Attrs {
                        permanent: true,
                        protocol: PROTOCOL,
                    },
                );
            }
        }
        wanted
    }
}

impl KernelKind for Mdb {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let mut found = Table::<Self>::new();
        for entry in look.kernel.rtnl.mdb()? {
            if entry.vlan != 0 || entry.source.is_some() {
                continue;
            }
            let svi = look.host.networks.iter().find_map(|network| {
                let svi = look.facts.svi(network)?;
                (svi.index == entry.bridge).then(|| network.bridge.clone())
            });
            let (Some(svi), Some(port)) = (svi, look.facts.name_of(entry.port)) else {
                continue;
            };
            let key = Key {
                svi,
                port: port.clone(),
                group: entry.group,
            };
            let ours = entry.protocol == PROTOCOL || desired.contains_key(&key);
            if ours && scope.has(&key) {
                let attrs = Attrs {
                    permanent: entry.permanent,
                    protocol: entry.protocol,
                };
                found.insert(key, attrs);
            }
        }
        Ok(found)
    }

    fn apply(
        kernel: &mut Kernel,
        facts: &Facts,
        changes: &[Change<Self>],
    ) -> Vec<Result<(), KindError>> {
        apply_ops(kernel, changes, |change| {
            let Key { svi, port, group } = change.key();
            let (bridge, port, group) = (index_of(facts, svi)?, index_of(facts, port)?, *group);
            Ok(match change {
                // A report of the container itself may have made a temporary entry there, which
                // this takes over.
                Change::Create { .. } | Change::Update { .. } => {
                    vec![Op::MdbAdd {
                        bridge,
                        port,
                        group,
                        source: None,
                    }]
                }
                Change::Delete { .. } => vec![Op::MdbDelete {
                    bridge,
                    port,
                    group,
                    source: None,
                }],
            })
        })
    }
}
