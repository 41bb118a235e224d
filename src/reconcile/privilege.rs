//! What the agent may do: network administration, and what dnsmasq needs to start. The rest is
//! given away before anything is read. Capabilities belong to threads, so this runs while there
//! is only one.

use caps::{CapSet, Capability, CapsHashSet};

/// What stays. The last five are for dnsmasq, which drops them when it has its sockets, and for
/// signalling it, as it then runs as another user.
const KEPT: [Capability; 6] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_KILL,
];

/// Whether the agent can do its work at all.
pub fn has_net_admin() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap_or(false)
}

/// Gives up every other capability, for this process and all that it starts.
pub fn drop_capabilities() -> Result<(), String> {
    let attempt = || -> Result<(), caps::errors::CapsError> {
        let kept: CapsHashSet = KEPT.into_iter().collect();
        // Taking from the bounding set needs CAP_SETPCAP, which goes with the rest below. Without
        // it, whoever started us has drawn the bounds.
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
            for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
                caps::drop(None, CapSet::Bounding, *capability)?;
            }
        }
        for set in [CapSet::Effective, CapSet::Permitted] {
            let now = caps::read(None, set)?;
            caps::set(None, set, &now.intersection(&kept).copied().collect())?;
        }
        Ok(())
    };
    attempt().map_err(|error| format!("giving up capabilities: {error}"))
}
