//! `lxmesh plan`: what a full pass would change now, changing nothing.

use super::pass::{Extent, Wanted, look_at_links, plan};
use super::report::Report;
use super::world::{Listed, World};
use crate::host::{self, HostFile, LoadError};
use crate::kernel::{Kernel, KernelError};
use crate::model::Nic;
use std::path::Path;

/// What a full pass would change now, changing nothing: for `lxmesh plan`.
pub async fn preview(host_path: &Path) -> Result<Report, PreviewError> {
    let host = host::load(host_path)?;
    let socket = crate::lxd::client::find_socket(host.lxd.socket.as_deref())?;
    let client = crate::lxd::Client::new(&socket)?;
    client.identify().await?;
    let mut kernel = Kernel::open()?;
    let mut world = World::default();
    world.facts = Some(look_at_links(&mut kernel, &host)?);
    if let Listed::Incredible { attached } = world.put_listing(client.instances().await?) {
        return Err(PreviewError::Incredible(attached));
    }
    world.resolve(&host);
    let wanted = Wanted {
        host: &host,
        nics: world.nics(),
        current: true,
        before: None,
    };
    let mut report = plan(&mut kernel, wanted, &Extent::All, None)?.preview();
    let problems = world
        .resolved
        .problems
        .iter()
        .map(|problem| ("nic", problem.to_string()));
    report.unreadable.extend(problems);
    Ok(report)
}

/// The host file and the NICs that LXD says there are, for `lxmesh trace`.
pub async fn nics(host_path: &Path) -> Result<(HostFile, Vec<Nic>), PreviewError> {
    let host = host::load(host_path)?;
    let socket = crate::lxd::client::find_socket(host.lxd.socket.as_deref())?;
    let client = crate::lxd::Client::new(&socket)?;
    client.identify().await?;
    let mut world = World::default();
    world.put_listing(client.instances().await?);
    world.resolve(&host);
    Ok((host, world.resolved.nics))
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
    #[error("LXD lists no instance at all while {0} of their NICs are attached here; not believed")]
    Incredible(usize),
}
