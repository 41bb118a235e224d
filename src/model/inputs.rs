//! All that the desired state depends on.

use super::facts::Facts;
use super::nic::{Nic, Refused};
use crate::host::{HostFile, Network};
use crate::kernel::link::Link;

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

    /// The host device of a NIC, if it is there and can be an instance's.
    pub fn port(&self, nic: &Nic) -> Option<&'a Link> {
        let link = self.facts.link(&nic.port)?;
        self.facts.unfit(link).is_none().then_some(link)
    }

    /// NICs whose host device and SVI are both there, with their network. A NIC without its
    /// device, or with one that cannot be its, needs nothing in the kernel; one without its SVI waits.
    pub fn connectable(&self) -> impl Iterator<Item = (&'a Nic, &'a Network, Connected<'a>)> + '_ {
        self.nics.iter().filter_map(|nic| {
            let network = self.network(nic)?;
            let svi = self.facts.svi(network)?;
            let port = self.port(nic)?;
            Some((nic, network, Connected { svi, port }))
        })
    }
}

/// The two links between which a NIC lives.
#[derive(Debug, Clone, Copy)]
pub struct Connected<'a> {
    pub svi: &'a Link,
    pub port: &'a Link,
}
