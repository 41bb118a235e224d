//! What only one NIC can have, and who has it by what the kernel says. Pure: the looks are
//! `reconcile::claims`'s.

use super::nic::{Nic, NicId};
use crate::addr::{IfName, IpAddr, Mac};
use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;

/// What only one NIC can have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Claim<'a> {
    Port(&'a IfName),
    Mac(&'a str, Mac),
    Address(&'a str, IpAddr),
}

/// All that a NIC claims.
pub(super) fn of(nic: &Nic) -> impl Iterator<Item = Claim<'_>> {
    let own = nic.own_addresses();
    [Claim::Port(&nic.port), Claim::Mac(&nic.network, nic.mac)]
        .into_iter()
        .chain(own.map(|address| Claim::Address(&nic.network, address)))
}

/// Who has an address by the neighbour table of its network's SVI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A NIC of this host with that MAC: the entry is the agent's.
    Here(Mac),
    /// A NIC of another host: the entry is zebra's.
    There(Remote),
}

/// A NIC of another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub mac: Mac,
    /// Its host. `None` if zebra has not told it.
    pub vtep: Option<IpAddr>,
    /// Its host gets what both hosts have begun to use without knowing of each other: the one with
    /// the lower VTEP, so that both decide alike.
    pub precedes: bool,
}

/// A device that a NIC keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub port: IfName,
    /// Its interface index: another device of its name is another one.
    pub index: u32,
}

/// What the kernel says of what NICs claim that the agent does not know to have had it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// By network and address.
    pub addresses: HashMap<(String, IpAddr), Holder>,
    /// By network and MAC: the device on which the agent has put it, or an agent before.
    pub ports: HashMap<(String, Mac), IfName>,
    /// Addresses, by network, that a NIC of another host may have had before: given so lately that this host
    /// may not have known, as at boot, when NICs are there before EVPN is; or to a NIC that had waited for it.
    pub new: HashSet<(String, IpAddr)>,
    /// By network: addresses whose sign ([`claim_sign`]) is here, for the NIC with the MAC.
    pub signs: HashMap<(String, IpAddr), Mac>,
    /// Devices that NICs keep while the ones that they name are not here. In a cluster LXD has one record of an
    /// instance: while a virtual machine moves as it runs, the record names the device on the member that it moves to.
    pub kept: HashMap<NicId, Kept>,
    /// Taps that were given the MAC of another NIC or of a gateway, which the bridge then keeps for itself. Nobody but
    /// QEMU has the descriptor that this takes (`TUNSETIFF` and `SIOCSIFHWADDR`, drivers/net/tun.c).
    pub usurpers: HashMap<IfName, Mac>,
    /// NICs that were there before the device that they name. It is theirs only if nobody else names it.
    pub early: HashSet<NicId>,
}

impl Held {
    /// Whether the kernel knows the NIC as the one that has it.
    pub(super) fn by(&self, nic: &Nic, claim: &Claim<'_>) -> bool {
        let port = self.ports.get(&(nic.network.clone(), nic.mac));
        match claim {
            Claim::Port(_) | Claim::Mac(..) => port == Some(&nic.port),
            Claim::Address(_, address) => {
                let holder = self.addresses.get(&(nic.network.clone(), *address));
                holder == Some(&Holder::Here(nic.mac)) && port.is_none_or(|port| *port == nic.port)
            }
        }
    }

    /// Whether the address was given just now.
    pub(super) fn is_new(&self, nic: &Nic, address: IpAddr) -> bool {
        self.new.contains(&(nic.network.clone(), address))
    }

    /// The NIC of another host that has the address. An instance that has moved here has its MAC with
    /// it, and is no other one.
    pub(super) fn elsewhere(&self, nic: &Nic, address: IpAddr) -> Option<&Remote> {
        match self.addresses.get(&(nic.network.clone(), address))? {
            Holder::There(remote) if remote.mac != nic.mac => Some(remote),
            Holder::There(_) | Holder::Here(_) => None,
        }
    }
}

/// The sign that an address is claimed by a NIC that does not get it, or did not for a while: the NIC's MAC has a
/// neighbour entry for this address of 100::/64, in which nothing is (RFC 6666). EVPN tells other hosts of it like
/// of any other, and a later agent of this host finds it. Its last 64 bits are the IPv4 address, or the two
/// halves of the IPv6 address added without carry, so that no two addresses of a /64 have the same.
pub fn claim_sign(address: IpAddr) -> IpAddr {
    let folded = match address {
        IpAddr::V4(four) => u64::from(four.to_bits()),
        IpAddr::V6(six) => (six.to_bits() >> 64) as u64 ^ six.to_bits() as u64,
    };
    IpAddr::V6(Ipv6Addr::from_bits(SIGNS | u128::from(folded)))
}

const SIGNS: u128 = 0x0100 << 112;

/// Whether an address is such a sign.
pub fn is_sign(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.to_bits() >> 64 == SIGNS >> 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_a_network_has_its_own_sign() {
        let sign = |text: &str| claim_sign(text.parse().unwrap()).to_string();
        assert_eq!(sign("192.0.2.5"), "100::c000:205");
        assert_eq!(sign("2001:db8::5"), "100::2001:db8:0:5");
        assert_eq!(sign("2001:db8::1:0:0:5"), "100::2000:db8:0:5");
    }
}
