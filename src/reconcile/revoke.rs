//! Ends the tracked connections of what was taken away, once the filters no longer let them begin.

use super::daemon::Agent;
use crate::kernel::conntrack::Entry;
use crate::kernel::fault;
use crate::model::Nic;
use crate::model::revoked::{Revoked, Shut};
use std::collections::HashSet;
use std::net::IpAddr;

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

    /// Ends what instances have begun with hosts of the fabric before the rules or the host file closed it. No
    /// further packet of theirs passes; this is about answers.
    pub(super) fn end_shut(&mut self) {
        let (true, Some(nics)) = (self.owes_shut, self.world.nics()) else {
            return;
        };
        let shut = Shut::of(&self.host, nics);
        fault::point();
        let conntrack = &mut self.kernel.conntrack;
        let ended = conntrack
            .entries(|entry| shut.ends(entry))
            .and_then(|entries| conntrack.delete(&entries));
        // Once more after the next pass if it failed.
        self.owes_shut = ended.is_err();
        let complaint = ended.err().map(|error| {
            format!("connections of instances with hosts of the fabric may linger, answers only: {error}")
        });
        self.say("revocation of the fabric's services", complaint);
    }

    /// Ends what the rules of another version tracked in the host's zone although an instance of a network in a
    /// VRF had begun it: its answers would keep the same connection in the VRF's zone from being tracked. Where it is
    /// allowed still, the instance's next packet begins it anew. What is translated stays: outside of the
    /// VRF its address may be somebody else's.
    pub(super) fn end_unzoned(&mut self) {
        let (true, Some(nics)) = (self.owes_unzoned, self.world.nics()) else {
            return;
        };
        let in_vrf = |nic: &&Nic| {
            let network = self.host.network(&nic.network);
            network.is_some_and(|network| network.vrf.is_some())
        };
        let own: HashSet<IpAddr> = nics
            .iter()
            .filter(in_vrf)
            .flat_map(Nic::addresses)
            .collect();
        let unzoned =
            |entry: &Entry| entry.zone == 0 && !entry.translated && own.contains(&entry.source);
        fault::point();
        let conntrack = &mut self.kernel.conntrack;
        let ended = match own.is_empty() {
            true => Ok(0),
            false => conntrack
                .entries(unzoned)
                .and_then(|entries| conntrack.delete(&entries)),
        };
        // Once more after the next pass if it failed.
        self.owes_unzoned = ended.is_err();
        let complaint = ended.err().map(|error| {
            format!("connections of before that the host routes may have to be made anew: {error}")
        });
        self.say("new rules", complaint);
    }
}
