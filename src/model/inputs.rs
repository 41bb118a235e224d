//! All that the desired state depends on.

use super::facts::Facts;
use super::nic::{Nic, Refused};
use crate::host::{HostFile, Network};

/// Host file, NICs and links: the arguments of every kind's `derive`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub host: &'a HostFile,
    pub nics: &'a [Nic],
    /// NICs that ask to be connected and cannot be.
    pub refused: &'a [Refused],
    pub facts: &'a Facts,
}

impl<'a> Inputs<'a> {
    pub fn network(&self, nic: &Nic) -> Option<&'a Network> {
        self.host.networks.iter().find(|n| n.name == nic.network)
    }

    /// NICs whose host device and SVI are both there, with their network. A NIC without its
    /// device needs nothing in the kernel; one without its SVI waits.
    pub fn connectable(&self) -> impl Iterator<Item = (&'a Nic, &'a Network, Connected<'a>)> + '_ {
        self.nics.iter().filter_map(|nic| {
            let network = self.network(nic)?;
            let svi = self.facts.svi(network)?;
            let port = self.facts.link(&nic.port)?;
            Some((nic, network, Connected { svi, port }))
        })
    }
}

/// The two links between which a NIC lives.
#[derive(Debug, Clone, Copy)]
pub struct Connected<'a> {
    pub svi: &'a crate::kernel::link::Link,
    pub port: &'a crate::kernel::link::Link,
}
