//! Starting the agent: everything that can be wrong is found before anything is changed.

use super::daemon::{Agent, FIRST_RETRY, LxdState, Stats, notify};
use super::denials::Denials;
use super::look::look_at_links;
use super::lxd_task;
use super::pending::Pending;
use super::privilege;
use super::repairs::Repairs;
use super::tally::Tally;
use super::unfiltered;
use super::world::World;
use crate::control::peer::Allowed;
use crate::control::server;
use crate::dhcp;
use crate::host::{self, HostFile, LoadError};
use crate::kernel::checksums;
use crate::kernel::monitor::{Monitor, MonitorFilter};
use crate::kernel::{Kernel, KernelError};
use crate::kinds::dnsmasq_file;
use crate::kinds::nft_element::NftElement;
use crate::kinds::{KindError, Look, nft_table};
use crate::model::{Facts, Inputs, Kind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Why the agent cannot start. Nothing has been changed then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    HostFile(#[from] LoadError),
    #[error("{0}")]
    Privilege(String),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(
        "this kernel or nft does not take LXMesh's ruleset; nothing was changed, but that ports are down that nothing filters.\n  needed: Linux 6.6 or newer with nft_meta_bridge, nf_conntrack_bridge, nft_log and nfnetlink_log (Debian: any linux-image package, modules loaded with modprobe), nftables 1.0.9 or newer (package nftables).\n  {0}"
    )]
    Ruleset(KindError),
    #[error(
        "the check of deferred checksums is not there, without which no instance is connected; nothing was changed.\n  {0}\n  remedy: systemctl restart lxmesh-prepare, which loads it and says what is wrong if it cannot"
    )]
    Checksums(String),
    #[error("control socket {path}: {why}")]
    ControlSocket { path: PathBuf, why: String },
    #[error("{0}")]
    Signals(std::io::Error),
}
/// Runs the agent until SIGTERM or SIGINT. The kernel is left as it is.
pub async fn run(host_path: &Path) -> Result<(), StartError> {
    super::memory::return_large_buffers();
    let host = host::load(host_path)?;
    check_privilege()?;
    let mut kernel = Kernel::open()?;
    match &kernel.checks {
        Ok(Some(_)) => {}
        Ok(None) => {
            let text = format!("{} has no program", checksums::DIRECTORY);
            return Err(StartError::Checksums(text));
        }
        Err(error) => return Err(StartError::Checksums(error.to_string())),
    }
    let control_path = host.agent.control_socket.clone();
    let allowed = Allowed::by_own_identity();
    let listener = server::listen(&control_path, allowed)
        .await
        .map_err(|error| StartError::ControlSocket {
            path: control_path.clone(),
            why: error.to_string(),
        })?;
    let whole = match load_or_check_ruleset(&mut kernel, &host) {
        Ok(whole) => whole,
        Err(error) => {
            let _ = std::fs::remove_file(&control_path);
            put_down_if_open(&mut kernel, &host)?;
            return Err(StartError::Ruleset(error));
        }
    };
    // Before the first look, so that nothing that happens after it is missed.
    let mut monitor = Monitor::open(&MonitorFilter::default())?;
    monitor.ignore(kernel.rtnl.portid(), kernel.nft.portid())?;

    let (requests_in, requests) = mpsc::channel(16);
    tokio::spawn(server::serve(listener, allowed, requests_in));
    let (asks, asks_out) = mpsc::channel(64);
    let (updates_in, updates) = mpsc::channel(256);
    tokio::spawn(lxd_task::run(host.lxd.socket.clone(), asks_out, updates_in));
    let dhcp = start_dhcp(&host);

    let mut agent = Agent {
        host,
        host_path: host_path.to_path_buf(),
        kernel,
        monitor,
        filter: MonitorFilter::default(),
        world: World::default(),
        repairs: Repairs::default(),
        pending: Pending::default(),
        lxd: LxdState {
            server: String::new(),
            connected: false,
            error: None,
            listed: None,
            cluster: None,
        },
        asks,
        dhcp,
        dhcp_started: false,
        started: Instant::now(),
        stats: Stats::default(),
        tally: Tally::default(),
        deferred: Vec::new(),
        announcements: Vec::new(),
        retry_at: None,
        contests_at: None,
        retry_pause: FIRST_RETRY,
        nft_generation: 0,
        last_nft_look: None,
        said: BTreeMap::new(),
        ready: false,
        denials: Denials::open(),
        distrusts: false,
        owes_unzoned: false,
        owes_shut: false,
    };
    if !whole {
        agent.pending.everything_by(Instant::now());
    }
    agent.serve(updates, requests).await?;
    notify(&[sd_notify::NotifyState::Stopping]);
    if let Some(dhcp) = agent.dhcp.take() {
        dhcp.end().await;
    }
    drop(agent);
    let _ = std::fs::remove_file(&control_path);
    Ok(())
}

fn check_privilege() -> Result<(), StartError> {
    if !privilege::has_net_admin() {
        let text = "CAP_NET_ADMIN is missing; start the agent by lxmesh-agent.service, or as root";
        return Err(StartError::Privilege(text.into()));
    }
    privilege::drop_capabilities().map_err(StartError::Privilege)
}

/// Loads the ruleset, closed, where there is none; checks that it can be where there is another,
/// which stays until it is known what it has to let through. Fails without having changed anything. Returns whether
/// nobody has altered it.
fn load_or_check_ruleset(kernel: &mut Kernel, host: &HostFile) -> Result<bool, KindError> {
    let facts = Facts::default();
    let mut look = Look {
        kernel,
        host,
        facts: &facts,
    };
    let loaded = nft_table::observe(&mut look)?;
    if loaded.is_empty() {
        let nobody = Inputs {
            host,
            nics: &[],
            refused: &[],
            facts: &facts,
        };
        nft_table::create(kernel, &NftElement::derive(&nobody))?;
        return Ok(true);
    }
    if loaded == nft_table::wanted() {
        return Ok(true);
    }
    nft_table::check(kernel)?;
    Ok(loaded.values().all(|attrs| attrs.intact))
}

/// Without any tables, or with altered ones, an agent that ends leaves no port up that it cannot filter.
fn put_down_if_open(kernel: &mut Kernel, host: &HostFile) -> Result<(), KernelError> {
    let facts = look_at_links(kernel, host)?;
    let mut look = Look {
        kernel,
        host,
        facts: &facts,
    };
    let loaded = nft_table::observe(&mut look).unwrap_or_default();
    let whole = loaded.values().any(|attrs| attrs.intact);
    if whole {
        return Ok(());
    }
    for line in unfiltered::put_down(unfiltered::ports(host, &facts), kernel) {
        tracing::warn!(kind = line.kind, "{}", line.text);
    }
    Ok(())
}

/// `None` if dnsmasq is nobody's or somebody else's to run.
fn start_dhcp(host: &HostFile) -> Option<dhcp::Servers> {
    if !(host.dhcp.enabled && host.dhcp.run) {
        return None;
    }
    let mut servers = dhcp::Servers::new(host.dhcp.program.clone());
    servers.keep(&host.dhcp.directory, &dnsmasq_file::configs(host));
    Some(servers)
}
