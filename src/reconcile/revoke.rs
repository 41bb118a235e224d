//! Ends the tracked connections of what was taken away, once the filters no longer let them begin.

use super::daemon::Agent;
use crate::kernel::fault;
use crate::model::Nic;
use crate::model::revoked::Revoked;

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
}
