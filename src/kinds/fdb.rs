//! FDB entries: which NIC's MAC is behind which port. FRR announces them as EVPN MAC routes
//! (RFC 7432 section 9.2.1), so they exist exactly while the instance runs here.
//!
//! The bridge keeps no protocol with an entry. Ours are those with NTF_EXT_LEARNED on a port of
//! ours: zebra puts its own on the tunnel, and entries that the kernel made for the port's own
//! address are `permanent`, which zebra does not announce.

use super::{KernelKind, KindError, Look, Scope, apply_ops, index_of, port_attrs};
use crate::addr::{IfName, Mac};
use crate::kernel::Kernel;
use crate::kernel::link::LinkKind;
use crate::kernel::rtnl::{FdbEntry, Op};
use crate::model::{Change, Contest, Facts, FollowUp, Inputs, Kind, Owns, Pace, Table};
use std::collections::BTreeSet;
use std::fmt;

/// A bridge FDB entry (RTM_NEWNEIGH of family AF_BRIDGE, NTF_MASTER).
#[derive(Debug)]
pub struct Fdb;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub svi: IfName,
    pub mac: Mac,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.svi, self.mac)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    /// `None`: a port that this pass does not know.
    pub port: Option<IfName>,
    /// The port is a tunnel: the MAC is said to be on another host.
    pub remote: bool,
    /// NTF_EXT_LEARNED: does not age, and is announced.
    pub ext_learned: bool,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            Some(port) => write!(f, "on {port}")?,
            None => f.write_str("on another port")?,
        }
        if self.remote {
            f.write_str(" (another host)")?;
        }
        if !self.ext_learned {
            f.write_str(" not extern_learn")?;
        }
        Ok(())
    }
}

impl Kind for Fdb {
    const NAME: &'static str = "fdb";
    const OWNS: Owns = Owns::WholeObjects;
    type Key = Key;
    type Attrs = Attrs;

    fn pace(have: &Attrs) -> Pace {
        if have.remote {
            Pace::Contested
        } else {
            Pace::Quick
        }
    }

    fn contest(change: &Change<Self>) -> Option<Contest> {
        match change {
            Change::Update { key, have, .. } if have.remote => Some(Contest::Mac {
                svi: key.svi.clone(),
                mac: key.mac,
            }),
            _ => None,
        }
    }

    fn follow_up(change: &Change<Self>) -> Option<FollowUp> {
        match change {
            Change::Create { key, want } | Change::Update { key, want, .. } => {
                let port = want.port.clone()?;
                Some(FollowUp::Announce { port, mac: key.mac })
            }
            Change::Delete { key, .. } => Some(FollowUp::Withdraw {
                svi: key.svi.clone(),
                mac: key.mac,
            }),
        }
    }

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        inputs
            .connectable()
            .map(|(nic, network, _)| {
                let key = Key {
                    svi: network.bridge.clone(),
                    mac: nic.mac,
                };
                let attrs = Attrs {
                    port: Some(nic.port.clone()),
                    remote: false,
                    ext_learned: true,
                };
                (key, attrs)
            })
            .collect()
    }
}

impl KernelKind for Fdb {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let mut found = Table::<Self>::new();
        let mut wanted_ports = BTreeSet::new();
        wanted_ports.extend(desired.values().filter_map(|attrs| attrs.port.clone()));
        for network in &look.host.networks {
            let Some(svi) = look.facts.svi(network) else {
                continue;
            };
            let entries = match scope {
                Scope::All => look.kernel.rtnl.fdb(svi.index)?,
                Scope::Keys(keys) => {
                    let mut entries = Vec::new();
                    for key in keys.iter().filter(|key| key.svi == network.bridge) {
                        entries.extend(look.kernel.rtnl.fdb_entry(svi.index, key.mac)?);
                    }
                    entries
                }
            };
            for FdbEntry {
                mac,
                port,
                vlan,
                ext_learned,
                ..
            } in entries
            {
                if vlan != 0 {
                    continue;
                }
                let link = look
                    .facts
                    .name_of(port)
                    .and_then(|name| look.facts.link(name));
                let key = Key {
                    svi: network.bridge.clone(),
                    mac,
                };
                let ours = ext_learned
                    && link.is_some_and(|link| {
                        port_attrs::is_ours(link) || wanted_ports.contains(&link.name)
                    });
                if ours || desired.contains_key(&key) {
                    let port = link.map(|link| link.name.clone());
                    let remote = link.is_some_and(|link| matches!(link.kind, LinkKind::Vxlan(_)));
                    found.insert(
                        key,
                        Attrs {
                            port,
                            remote,
                            ext_learned,
                        },
                    );
                }
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
            let mac = change.key().mac;
            let port = |attrs: &Attrs| {
                let name = attrs.port.as_ref();
                index_of(
                    facts,
                    name.ok_or_else(|| KindError::Gone("the port".into()))?,
                )
            };
            Ok(vec![match change {
                Change::Create { want, .. } | Change::Update { want, .. } => Op::FdbReplace {
                    port: port(want)?,
                    mac,
                },
                Change::Delete { have, .. } => Op::FdbDelete {
                    port: port(have)?,
                    mac,
                },
            }])
        })
    }
}
