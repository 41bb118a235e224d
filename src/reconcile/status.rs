//! The agent's status, put together from what the daemon knows when somebody asks.

use super::daemon::Agent;
use crate::control::status::{
    ClusterStatus, DhcpWarning, LxdStatus, NetworkStatus, NicStatus, PassStatus, RefusedStatus,
    Status,
};
use crate::dhcp;
use crate::model::facts::Readiness;
use crate::model::{LargerMtu, Nic};
use crate::text::{self, SENTENCE};

/// A default that LXD and Incus have makes one for each NIC: nobody reads more.
const MOST_REMARKS: usize = 8;

impl Agent {
    pub(super) fn status(&mut self) -> Status {
        let networks: Vec<NetworkStatus> = self.network_statuses();
        let nics: Vec<NicStatus> = self
            .world
            .resolved
            .nics
            .iter()
            .map(|nic| self.nic_status(nic))
            .collect();
        let resolved = &self.world.resolved.problems;
        let misfits = self.world.misfits();
        let problems = resolved.iter().chain(&misfits).map(|p| p.to_string());
        let mut problems: Vec<String> = problems.collect();
        problems.extend(self.claimed_elsewhere());
        problems.extend(self.world.unread_problems().into_values());
        let dhcp = match &self.dhcp {
            None if self.host.dhcp.enabled => "files only".to_string(),
            None => "off".to_string(),
            Some(servers) => text::shown(&text_of(&servers.states()), SENTENCE),
        };
        let dhcp_well = !dhcp.starts_with("NOT");
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            fabric: self.host.fabric.name.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            in_step: self.lxd.connected
                && dhcp_well
                && self.stats.troubled.is_none()
                && self.deferred.is_empty()
                && networks.iter().all(|network| network.waiting_for.is_none())
                && nics.iter().all(|nic| nic.connected),
            lxd: LxdStatus {
                server: self.lxd.server.clone(),
                connected: self.lxd.connected,
                error: self.lxd.error.clone(),
                instances: self.world.inventory.as_ref().map(|i| i.instances.len()),
                listed_s_ago: self.lxd.listed.map(|at| at.elapsed().as_secs()),
                cluster: self.lxd.cluster.as_ref().map(|cluster| ClusterStatus {
                    member: cluster.member.clone(),
                    members: cluster.members,
                    elsewhere: cluster.elsewhere,
                }),
            },
            networks,
            nics,
            refused: self.refused_statuses(),
            problems,
            remarks: self.remarks(),
            deferred: self.deferred.clone(),
            dhcp,
            dhcp_warnings: self.dhcp_warnings(),
            passes: PassStatus {
                full: self.stats.full,
                scoped: self.stats.scoped,
                changes: self.stats.changes,
                failures: self.stats.failures,
                last_ms: self.stats.last_took.as_secs_f64() * 1000.0,
                last_full_s_ago: self.stats.last_full.map(|at| at.elapsed().as_secs()),
                announcements: self.announcements.len(),
            },
            last_error: self
                .stats
                .last_error
                .as_ref()
                .map(|(text, at)| (text.clone(), at.elapsed().as_secs())),
        }
    }

    fn network_statuses(&mut self) -> Vec<NetworkStatus> {
        let Agent {
            host,
            world,
            kernel,
            ..
        } = self;
        let networks = host.networks.iter();
        networks
            .map(|network| {
                let facts = world.facts.as_ref();
                let waiting_for = match facts.map(|facts| facts.readiness(network)) {
                    None => Some("the first look".to_string()),
                    Some(Readiness::Ready) => None,
                    Some(Readiness::Waiting(what)) => Some(what),
                };
                let tunnel = facts.and_then(|facts| facts.tunnel(network));
                let vteps = tunnel
                    .and_then(|link| kernel.rtnl.vteps(link.index).ok())
                    .unwrap_or_default();
                let nics = world.resolved.nics.iter();
                NetworkStatus {
                    name: network.name.clone(),
                    vni: network.vni.get(),
                    bridge: network.bridge.to_string(),
                    tunnel: network.tunnel.to_string(),
                    mtu: network.mtu,
                    waiting_for,
                    nics: nics.filter(|nic| nic.network == network.name).count(),
                    vteps: vteps.iter().map(|address| address.to_string()).collect(),
                }
            })
            .collect()
    }

    fn dhcp_warnings(&self) -> Vec<DhcpWarning> {
        let recent = self.dhcp.iter().flat_map(|servers| servers.complaints().0);
        let warnings = recent.map(|complaint| DhcpWarning {
            last_s_ago: complaint.last.elapsed().as_secs(),
            text: complaint.text,
            times: complaint.times,
        });
        warnings.collect()
    }

    /// NICs with a larger MTU than their network.
    fn remarks(&self) -> Vec<String> {
        let Some(facts) = &self.world.facts else {
            return Vec::new();
        };
        let client = self.world.program.name();
        let nics = self.world.resolved.nics.iter();
        let larger = nics.filter_map(|nic| Some((nic, LargerMtu::of(nic, &self.host, facts)?)));
        let mut remarks: Vec<String> = larger
            .clone()
            .take(MOST_REMARKS)
            .map(|(nic, mtu)| format!("instance {}: {}", nic.id, mtu.remark(nic, client)))
            .collect();
        if let more @ 1.. = larger.skip(MOST_REMARKS).count() {
            remarks.push(format!(
                "and {more} more NICs with a larger MTU than their network"
            ));
        }
        remarks
    }

    /// Those whose device is there.
    fn refused_statuses(&self) -> Vec<RefusedStatus> {
        let refused = self.world.resolved.refused.iter();
        let there = refused.filter_map(|nic| {
            let link = self.world.facts.as_ref()?.link(&nic.port)?;
            Some(RefusedStatus {
                instance: nic.id.instance.to_string(),
                device: nic.id.device.clone(),
                port: nic.port.to_string(),
                down: !link.up,
            })
        });
        there.collect()
    }

    fn nic_status(&self, nic: &Nic) -> NicStatus {
        let facts = self.world.facts.as_ref();
        let link = facts.and_then(|facts| facts.link(&nic.port));
        let is_ours = |link| facts.is_some_and(|facts| facts.unfit(link).is_none());
        NicStatus {
            instance: nic.id.instance.to_string(),
            device: nic.id.device.clone(),
            network: nic.network.clone(),
            port: nic.port.to_string(),
            mac: nic.mac.to_string(),
            addresses: nic.addresses().map(|address| address.to_string()).collect(),
            mtu: link.map(|link| link.mtu),
            connected: link.is_some_and(|link| link.up && link.master.is_some() && is_ours(link)),
        }
    }
}

/// What the dnsmasq processes do, as one text: what is wrong with one is wrong with all.
fn text_of(states: &[dhcp::State]) -> String {
    let mut pids = Vec::new();
    let mut waiting = false;
    for state in states {
        match state {
            dhcp::State::Failed { why } => return format!("NOT RUNNING: {why}"),
            dhcp::State::NotStarted => waiting = true,
            dhcp::State::Running { pid } => pids.push(pid.to_string()),
        }
    }
    match pids.len() {
        _ if waiting => "not started".to_string(),
        1 => format!("dnsmasq running (pid {})", pids[0]),
        _ => format!("dnsmasq running (pids {})", pids.join(", ")),
    }
}
