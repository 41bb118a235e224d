//! Neighbour entries on the SVI: which MAC has which address of a local NIC. The bridge answers
//! ARP from them, and FRR announces them as EVPN MAC/IP routes.
//!
//! PERMANENT without extern_learn is what zebra takes for a local entry. Protocol 242 marks ours.

use super::{KernelKind, KindError, Look, Scope, apply_ops, index_of};
use crate::addr::{IfName, IpAddr, Mac};
use crate::kernel::Kernel;
use crate::kernel::rtnl::{self, Op, PROTOCOL};
use crate::model::claims::is_sign;
use crate::model::{Change, Contest, Facts, FollowUp, Inputs, Kind, Owns, Pace, Table};
use std::fmt;

/// A neighbour entry (RTM_NEWNEIGH) on an SVI.
#[derive(Debug)]
pub struct Neighbour;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub svi: IfName,
    pub address: IpAddr,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.svi, self.address)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs {
    pub mac: Option<Mac>,
    /// NUD_PERMANENT.
    pub permanent: bool,
    pub ext_learned: bool,
    pub protocol: u8,
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mac {
            Some(mac) => write!(f, "at {mac}")?,
            None => f.write_str("unresolved")?,
        }
        if !self.permanent {
            f.write_str(" not permanent")?;
        }
        if self.ext_learned {
            f.write_str(" extern_learn")?;
        }
        if self.protocol != PROTOCOL {
            write!(f, " of protocol {}", self.protocol)?;
        }
        Ok(())
    }
}

impl From<&rtnl::Neighbour> for Attrs {
    fn from(entry: &rtnl::Neighbour) -> Self {
        Attrs {
            mac: entry.mac,
            permanent: entry.permanent,
            ext_learned: entry.ext_learned,
            protocol: entry.protocol,
        }
    }
}

impl Kind for Neighbour {
    const NAME: &'static str = "neighbour";
    const OWNS: Owns = Owns::WholeObjects;
    type Key = Key;
    type Attrs = Attrs;

    /// An entry that is extern_learn is zebra's, for a remote MAC/IP route. One of our protocol
    /// that is not permanent was ours until dnsmasq answered a client that had no address yet: it
    /// puts the client into the neighbour table first (SIOCSARP, `arp_req_set()` in
    /// net/ipv4/arp.c keeps MAC and protocol and makes it stale).
    fn pace(have: &Attrs) -> Pace {
        if have.ext_learned {
            Pace::Contested
        } else if have.protocol == PROTOCOL && !have.permanent {
            Pace::Expected
        } else {
            Pace::Quick
        }
    }

    fn contest(change: &Change<Self>) -> Option<Contest> {
        let Change::Update { key, have, want } = change else {
            return None;
        };
        let mac = have.mac.filter(|_| have.ext_learned)?;
        let Key { svi, address } = key.clone();
        Some(match Some(mac) == want.mac {
            true => Contest::Mac { svi, mac },
            false => Contest::Address { svi, address },
        })
    }

    /// A port that is gone took its FDB entries along. Its neighbours are still there, and tell
    /// which MAC was behind it, also when it went while no agent ran.
    fn follow_up(change: &Change<Self>) -> Option<FollowUp> {
        if let Some(Contest::Address { svi, address }) = Self::contest(change) {
            return Some(FollowUp::Contested { svi, address });
        }
        let (have, want) = match change {
            Change::Create { .. } => return None,
            Change::Update { have, want, .. } => (have, want.mac),
            Change::Delete { have, .. } => (have, None),
        };
        let svi = change.key().svi.clone();
        let gone = have.mac.filter(|mac| Some(*mac) != want);
        gone.map(|mac| FollowUp::Withdraw { svi, mac })
    }

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        let mut wanted = Table::<Self>::new();
        for (nic, network, _) in inputs.connectable() {
            for address in nic.neighbours() {
                let key = Key {
                    svi: network.bridge.clone(),
                    address,
                };
                let attrs = Attrs {
                    mac: Some(nic.mac),
                    permanent: true,
                    ext_learned: false,
                    protocol: PROTOCOL,
                };
                wanted.insert(key, attrs);
            }
        }
        wanted
    }
}

impl KernelKind for Neighbour {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        desired: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let mut found = Table::<Self>::new();
        for network in &look.host.networks {
            let Some(svi) = look.facts.svi(network) else {
                continue;
            };
            let entries = match scope {
                Scope::All => look.kernel.rtnl.neighbours(svi.index)?,
                Scope::Keys(keys) => {
                    let mut entries = Vec::new();
                    for key in keys.iter().filter(|key| key.svi == network.bridge) {
                        entries.extend(look.kernel.rtnl.neighbour(svi.index, key.address)?);
                    }
                    entries
                }
            };
            for entry in entries {
                let key = Key {
                    svi: network.bridge.clone(),
                    address: entry.address,
                };
                match desired.get(&key) {
                    // Instances of several hosts wait for the address: one sign is enough.
                    Some(want) if entry.ext_learned && is_sign(entry.address) => {
                        found.insert(key, want.clone());
                    }
                    None if entry.protocol != PROTOCOL => {}
                    Some(_) | None => {
                        found.insert(key, Attrs::from(&entry));
                    }
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
            let Key { svi, address } = change.key();
            let (device, address) = (index_of(facts, svi)?, *address);
            Ok(vec![match change {
                Change::Create { want, .. } | Change::Update { want, .. } => {
                    let mac = want.mac.expect("derive always sets the MAC");
                    Op::NeighbourReplace {
                        device,
                        address,
                        mac,
                    }
                }
                Change::Delete { .. } => Op::NeighbourDelete { device, address },
            }])
        })
    }
}
