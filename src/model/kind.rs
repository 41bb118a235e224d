//! What a kernel object is to the reconciler.

use super::inputs::Inputs;
use super::nic::Nic;
use super::table::{Change, Table};
use crate::addr::{IfName, IpAddr, Mac};
use std::fmt::{Debug, Display};
use std::time::Duration;

/// How much of an object is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owns {
    /// The object itself: we create it and delete it.
    WholeObjects,
    /// Some attributes of an object that others create and delete.
    AttributesOnly,
}

/// What an object says something of, and so which passes look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// One NIC: it can be looked at for a few of them.
    Nic,
    /// All NICs: it is looked at as a whole, once LXD has told of them.
    AllNics,
    /// The host alone: it is looked at with everything, and after others' changes of nftables.
    Host,
}

/// A kind of kernel object, as values. How it is read and written is `kinds::KernelKind`.
pub trait Kind: Sized + 'static {
    /// Short name in logs, plans and status: `fdb`, `neighbour`, …
    const NAME: &'static str;
    const OWNS: Owns;
    const ABOUT: About = About::Nic;
    /// Whether it stays when everything of ours is taken away.
    const STAYS: bool = false;
    type Key: Ord + Clone + Debug + Display + Send;
    type Attrs: Eq + Clone + Debug + Display + Send;

    /// Whether something is open, or nothing passes, without its objects: they are never put off, and made before the
    /// filters change, whether these can be or not.
    const GUARDS: bool = false;

    /// For how long an object must have been unwanted before it is deleted.
    fn lingers() -> Duration {
        Duration::ZERO
    }

    /// How fast an object in this state is to be put right again if that is needed repeatedly.
    fn pace(_have: &Self::Attrs) -> Pace {
        Pace::Quick
    }

    /// What the change would take from a NIC of another host.
    fn contest(_change: &Change<Self>) -> Option<Contest> {
        None
    }

    /// What else there is to do once the change has been made.
    fn follow_up(_change: &Change<Self>) -> Option<FollowUp> {
        None
    }

    /// How fast a change may be made again.
    fn pace_of(change: &Change<Self>) -> Pace {
        match change {
            _ if Self::GUARDS => Pace::AtOnce,
            Change::Update { have, .. } => Self::pace(have),
            Change::Create { .. } | Change::Delete { .. } => Pace::Quick,
        }
    }

    /// The part of an object that is about one NIC, where an object is about many.
    fn share(attrs: &Self::Attrs, _nic: &Nic) -> Self::Attrs {
        attrs.clone()
    }

    /// The objects that should be there. Pure; must not depend on anything but the inputs.
    fn derive(inputs: &Inputs<'_>) -> Table<Self>;
}

/// What another host says that it has, and this one wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contest {
    /// An address of one of our NICs, at another MAC.
    Address { svi: IfName, address: IpAddr },
    /// The MAC of one of our NICs, alone or with an address: its instance is there, too, or has gone there.
    Mac { svi: IfName, mac: Mac },
}

/// Something to be done after a change, by the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowUp {
    /// Tell zebra once more that this MAC is on this port: it reads FDB and link events from
    /// different sockets, and drops an entry on a port that it does not know yet.
    Announce { port: IfName, mac: Mac },
    /// Tell zebra once more that this MAC is behind no port of this bridge: for the same reason it
    /// may have missed that, and would announce the MAC for ever.
    Withdraw { svi: IfName, mac: Mac },
    /// Another host's NIC had an address that was taken back for one of ours.
    Contested { svi: IfName, address: IpAddr },
    /// dnsmasq has a new configuration, or leases of NICs that are gone.
    RestartDnsmasq,
    /// dnsmasq has new NICs.
    ReloadDnsmasq,
}

/// How fast the same repair may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once, however often: waiting is what would do harm.
    AtOnce,
    /// Whenever it is seen, and logged for debugging only: a program that we know does this now and
    /// then. How often it is seen, `reconcile::pending` bounds.
    Expected,
    /// Half a second, then twice as long each time, up to a minute.
    Quick,
    /// A minute, then twice as long each time, up to an hour: the repair interrupts something itself.
    Costly,
    /// Two minutes, then twice as long each time, up to an hour: another host claims the same
    /// address, and zebra takes five moves within 180 s for a duplicate.
    Contested,
}
