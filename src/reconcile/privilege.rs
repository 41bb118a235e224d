//! What the agent may do: network administration, and what dnsmasq needs to start. The rest is
//! given away before anything is read. Capabilities belong to threads, so this runs while there
//! is only one.

use caps::{CapSet, Capability, CapsHashSet};

/// What stays, of what is there: lxmesh-agent.service gives the first three only. All but the first
/// are for dnsmasq. Started by root, it changes its user, and is then another's to signal.
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
            let rest: CapsHashSet = now.intersection(&kept).copied().collect();
            // The unit forbids the system call, and needs none.
            if rest != now {
                caps::set(None, set, &rest)?;
            }
        }
        Ok(())
    };
    attempt().map_err(|error| format!("giving up capabilities: {error}"))
}
