//! `lxmesh plan`: what a full pass would change now, changing nothing.

use super::claims;
use super::look::look_at_links;
use super::pass::{Extent, Wanted, plan};
use super::report::Report;
use super::world::{Incredible, Listed, World};
use crate::addr::IpAddr;
use crate::control::server::ask;
use crate::control::status::{NicStatus, Status};
use crate::host::{self, Denied, HostFile, Limits, LoadError};
use crate::kernel::{Kernel, KernelError};
use crate::lxd::{Elsewhere, InstanceId, Program};
use crate::model::{Nic, NicId};
use std::path::Path;
use std::sync::Arc;

/// What a full pass would change now, changing nothing: for `lxmesh plan`.
pub async fn preview(host_path: &Path) -> Result<Report, PreviewError> {
    let host = host::load(host_path)?;
    let (socket, _) = crate::lxd::sockets::find(host.lxd.socket.as_deref(), None)?;
    let client = crate::lxd::Client::new(&socket)?;
    let server = client.identify().await?;
    let mut kernel = Kernel::open()?;
    let mut world = World::default();
    world.program = Program::of(&server);
    world.facts = Some(look_at_links(&mut kernel, &host)?);
    if let Listed::Incredible(why) = world.put_listing(client.instances().await?) {
        return Err(PreviewError::Incredible(why));
    }
    world.resolved.nics = remembered(ask(&host.agent.control_socket).await.ok().as_ref());
    claims::resolve(&mut world, &mut kernel, &host)?;
    let wanted = Wanted {
        host: &host,
        nics: world.nics(),
        refused: &world.resolved.refused,
        current: true,
        before: None,
        claims: &world,
    };
    let plan = plan(&mut kernel, wanted, &Extent::All, None)?;
    let mut report = plan.preview();
    world.facts = Some(plan.facts);
    let misfits = world.misfits();
    let problems = world.resolved.problems.iter().chain(&misfits);
    let problems = problems.map(|problem| ("nic", problem.to_string()));
    report.unreadable.extend(problems);
    let unread = world.unread_problems().into_values();
    let unread = unread.map(|text| ("instance", text));
    report.unreadable.extend(unread);
    Ok(report)
}

/// What LXD says that there is, for `lxmesh trace`.
#[derive(Debug)]
pub struct There {
    pub host: HostFile,
    pub nics: Vec<Nic>,
    /// Instances of other members of the cluster.
    pub elsewhere: Elsewhere,
}

/// The host file and what LXD says that there is.
pub async fn nics(host_path: &Path) -> Result<There, PreviewError> {
    let host = host::load(host_path)?;
    let (socket, _) = crate::lxd::sockets::find(host.lxd.socket.as_deref(), None)?;
    let client = crate::lxd::Client::new(&socket)?;
    let server = client.identify().await?;
    let mut kernel = Kernel::open()?;
    let mut world = World::default();
    world.program = Program::of(&server);
    world.facts = Some(look_at_links(&mut kernel, &host)?);
    let mut listing = client.instances().await?;
    // Nothing is known that could have been moved to them.
    let elsewhere = std::mem::take(&mut listing.elsewhere);
    if let Listed::Incredible(mut why) = world.put_listing(listing) {
        why.elsewhere = elsewhere.count();
        return Err(PreviewError::Incredible(why));
    }
    world.resolved.nics = remembered(ask(&host.agent.control_socket).await.ok().as_ref());
    claims::resolve(&mut world, &mut kernel, &host)?;
    Ok(There {
        host,
        nics: world.resolved.nics,
        elsewhere,
    })
}

/// The NICs that a running agent has, as far as it matters for who keeps an address that several
/// claim: that is a matter of who had it before.
pub(super) fn remembered(agent: Option<&Status>) -> Vec<Nic> {
    let nics = agent.map_or(&[][..], |status| &status.nics);
    nics.iter().filter_map(remember).collect()
}

fn remember(nic: &NicStatus) -> Option<Nic> {
    let (project, name) = match nic.instance.split_once('/') {
        Some(both) => both,
        None => ("default", nic.instance.as_str()),
    };
    let addresses: Vec<IpAddr> = nic
        .addresses
        .iter()
        .filter_map(|a| a.parse().ok())
        .collect();
    let instance = InstanceId {
        project: project.into(),
        name: name.into(),
    };
    Some(Nic {
        id: NicId {
            instance,
            device: nic.device.clone(),
        },
        network: nic.network.clone(),
        port: nic.port.parse().ok()?,
        mac: nic.mac.parse().ok()?,
        ipv4: addresses.iter().find_map(|address| match address {
            IpAddr::V4(four) => Some(*four),
            IpAddr::V6(_) => None,
        }),
        ipv6: addresses.iter().find_map(|address| match address {
            IpAddr::V6(six) if !six.is_unicast_link_local() => Some(*six),
            _ => None,
        }),
        inward: Arc::default(),
        outward: Arc::default(),
        tags: 0,
        limits: Limits::default(),
        denied: Denied::default(),
        routes: Vec::new(),
        contested: Vec::new(),
    })
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    #[error(transparent)]
    HostFile(#[from] LoadError),
    #[error(transparent)]
    Lxd(#[from] crate::lxd::LxdError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Incredible(#[from] Incredible),
    #[error("{0}")]
    Name(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_tells_of_a_nic_is_enough_to_know_what_it_claims() {
        let status = Status {
            nics: vec![NicStatus {
                instance: "prod/web1".into(),
                device: "eth0".into(),
                network: "vpc".into(),
                port: "veth1".into(),
                mac: "00:16:3e:00:00:01".into(),
                addresses: ["192.0.2.11", "2001:db8::11", "fe80::216:3eff:fe00:1"]
                    .map(str::to_string)
                    .into(),
                connected: true,
                mtu: Some(1450),
            }],
            ..Status::default()
        };
        let nics = remembered(Some(&status));
        assert_eq!(nics[0].id.to_string(), "prod/web1 device eth0");
        let addresses: Vec<String> = nics[0].addresses().map(|a| a.to_string()).collect();
        assert_eq!(addresses, status.nics[0].addresses);
        assert!(remembered(None).is_empty());
    }
}
