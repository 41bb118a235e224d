//! Ends the tracked connections of what was taken away, once the filters no longer let them begin.

use super::daemon::Agent;
use crate::kernel::conntrack::Entry;
use crate::kernel::fault;
use crate::model::Nic;
use crate::model::revoked::Revoked;
use std::collections::HashMap;

impl Agent {
    /// `before` is what the last pass made so.
    pub(super) fn end_revoked(&mut self, before: &[Nic]) {
        let Some(now) = self.world.nics() else {
            return;
        };
        let Some(revoked) = Revoked::between(&self.host, before, now) else {
            return;
        };
        fault::point();
        let conntrack = &mut self.kernel.conntrack;
        let ended = conntrack
            .entries(|entry| revoked.ends(entry))
            .and_then(|entries| conntrack.delete(&entries));
        match ended {
            Ok(0) => self.say("revocation", None),
            Ok(count) => {
                tracing::info!(count, "ended connections that are no longer allowed");
                self.say("revocation", None);
            }
            Err(error) => self.say(
                "revocation",
                Some(format!(
                    "connections that are no longer allowed may linger, answers only: {error}"
                )),
            ),
        }
    }

    /// Ends what the rules of another version tracked in the host's zone although an instance had
    /// begun it: it would keep the same connection in the network's zone from being tracked. Where it
    /// is allowed still, its next packet begins it anew. An address of a VRF may be somebody else's outside of it,
    /// whose translation would be lost.
    pub(super) fn end_unzoned(&mut self) {
        let Some(nics) = self.world.nics() else {
            return;
        };
        let mut in_vrf = HashMap::new();
        for nic in nics {
            let network = self.host.network(&nic.network);
            let vrf = network.is_some_and(|network| network.vrf.is_some());
            in_vrf.extend(nic.addresses().map(|address| (address, vrf)));
        }
        let unzoned = |entry: &Entry| {
            let vrf = in_vrf.get(&entry.source);
            entry.zone == 0 && vrf.is_some_and(|vrf| !vrf || !entry.translated)
        };
        fault::point();
        let conntrack = &mut self.kernel.conntrack;
        let ended = conntrack.entries(unzoned);
        let ended = ended.and_then(|entries| conntrack.delete(&entries));
        let complaint = ended.err().map(|error| {
            format!("connections of before that the host routes may have to be made anew: {error}")
        });
        self.say("new rules", complaint);
    }
}
