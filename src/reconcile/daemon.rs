//! The daemon: learns of changes, decides when to look at what, and reports. One thread; LXD is
//! talked to in a task of its own, so that a slow LXD never delays a repair.

use super::lxd_task::{self, Ask, Update, at, jittered};
use super::pass::{Extent, Wanted, look_at_links, plan};
use super::privilege;
use super::repairs::Repairs;
use super::report::Report;
use super::world::{Listed, LookAt, World};
use crate::control::server::{self, Request};
use crate::dhcp;
use crate::host::{self, HostFile, LoadError};
use crate::kernel::monitor::{Knock, Monitor, MonitorFilter};
use crate::kernel::{Kernel, KernelError};
use crate::kinds::dnsmasq_file::{CONFIG, DnsmasqFile};
use crate::kinds::{KindError, Look, nft_table};
use crate::model::facts::Readiness;
use crate::model::{Facts, Kind, NicId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What LXD tells arrives in bursts: how long to wait for the rest.
const LXD_SETTLE: Duration = Duration::from_millis(3);
/// The same for kernel events, most of which are about our own changes.
const KERNEL_SETTLE: Duration = Duration::from_millis(20);
/// Shortest time between two looks at nftables because of others' transactions.
const NFT_SETTLE: Duration = Duration::from_millis(300);
/// More NICs than this are looked at faster by dumps than one by one.
const MANY_NICS: usize = 64;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// A repair is logged line by line up to this many.
const MAX_LOGGED_LINES: usize = 20;

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
        "this kernel or nft does not take LXMesh's ruleset; nothing was changed.\n  needed: Linux 6.2 or newer with nft_meta_bridge and nf_conntrack_bridge (Debian: any linux-image package, modules loaded with modprobe), nftables 1.0.9 or newer (package nftables).\n  {0}"
    )]
    Ruleset(KindError),
    #[error("control socket {path}: {why}")]
    ControlSocket { path: PathBuf, why: String },
    #[error("{0}")]
    Signals(std::io::Error),
}

pub(super) struct LxdState {
    pub server: String,
    pub connected: bool,
    pub error: Option<String>,
    pub listed: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Stats {
    pub full: u64,
    pub scoped: u64,
    pub changes: u64,
    pub failures: u64,
    pub last_took: Duration,
    pub last_full: Option<Instant>,
    pub last_error: Option<(String, Instant)>,
    /// What the last pass could not do.
    pub troubled: Option<String>,
}

/// What is to be looked at in the next pass.
#[derive(Default)]
struct Pending {
    everything: bool,
    /// LXD told something: NICs are to be resolved anew.
    resolve: bool,
    nftables: bool,
    nics: BTreeSet<NicId>,
    at: Option<Instant>,
}

/// The running agent.
pub struct Agent {
    pub(super) host: HostFile,
    host_path: PathBuf,
    pub(super) kernel: Kernel,
    monitor: Monitor,
    filter: Vec<u32>,
    pub(super) world: World,
    repairs: Repairs,
    pending: Pending,
    pub(super) lxd: LxdState,
    asks: mpsc::Sender<Ask>,
    dhcp_orders: Option<mpsc::Sender<dhcp::Order>>,
    pub(super) dhcp_state: watch::Receiver<dhcp::State>,
    dhcp_started: bool,
    pub(super) started: Instant,
    pub(super) stats: Stats,
    pub(super) deferred: Vec<String>,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    nft_generation: u32,
    last_nft_look: Option<Instant>,
    /// Complaints already logged, by subject, so that each is said once.
    said: BTreeMap<String, String>,
    ready: bool,
}

impl Pending {
    fn by(&mut self, time: Instant) {
        self.at = Some(self.at.map_or(time, |other| other.min(time)));
    }

    fn everything_by(&mut self, time: Instant) {
        self.everything = true;
        self.by(time);
    }
}

/// Runs the agent until SIGTERM or SIGINT. The kernel is left as it is.
pub async fn run(host_path: &Path) -> Result<(), StartError> {
    let host = host::load(host_path)?;
    check_privilege()?;
    let mut kernel = Kernel::open()?;
    check_ruleset(&mut kernel, &host)?;
    let control_path = host.agent.control_socket.clone();
    let listener =
        server::listen(&control_path)
            .await
            .map_err(|error| StartError::ControlSocket {
                path: control_path.clone(),
                why: error.to_string(),
            })?;
    // Before the first look, so that nothing that happens after it is missed.
    let mut monitor = Monitor::open(&MonitorFilter {
        tunnels: Vec::new(),
    })?;
    monitor.ignore(kernel.rtnl.portid(), kernel.nft.portid())?;

    let (requests_in, requests) = mpsc::channel(16);
    tokio::spawn(server::serve(listener, requests_in));
    let (asks, asks_out) = mpsc::channel(64);
    let (updates_in, updates) = mpsc::channel(256);
    tokio::spawn(lxd_task::run(host.lxd.socket.clone(), asks_out, updates_in));
    let (dhcp_orders, dhcp_state, dhcp_task) = start_dhcp(&host);

    let mut agent = Agent {
        host,
        host_path: host_path.to_path_buf(),
        kernel,
        monitor,
        filter: Vec::new(),
        world: World::default(),
        repairs: Repairs::default(),
        pending: Pending::default(),
        lxd: LxdState {
            server: String::new(),
            connected: false,
            error: None,
            listed: None,
        },
        asks,
        dhcp_orders,
        dhcp_state,
        dhcp_started: false,
        started: Instant::now(),
        stats: Stats::default(),
        deferred: Vec::new(),
        retry_at: None,
        retry_pause: FIRST_RETRY,
        nft_generation: 0,
        last_nft_look: None,
        said: BTreeMap::new(),
        ready: false,
    };
    agent.serve(updates, requests).await?;
    notify(&[sd_notify::NotifyState::Stopping]);
    drop(agent);
    if let Some(task) = dhcp_task {
        let _ = tokio::time::timeout(Duration::from_secs(4), task).await;
    }
    let _ = std::fs::remove_file(&control_path);
    Ok(())
}

fn check_privilege() -> Result<(), StartError> {
    if !privilege::has_net_admin() {
        let text = "CAP_NET_ADMIN is missing; run the agent as root, or by lxmesh-agent.service";
        return Err(StartError::Privilege(text.into()));
    }
    privilege::drop_capabilities().map_err(StartError::Privilege)
}

/// Fails if the ruleset would have to be loaded and cannot be. Changes nothing.
fn check_ruleset(kernel: &mut Kernel, host: &HostFile) -> Result<(), StartError> {
    let facts = Facts::default();
    let mut look = Look {
        kernel,
        host,
        facts: &facts,
    };
    let loaded = nft_table::observe(&mut look).map_err(StartError::Ruleset)?;
    if loaded == nft_table::wanted() {
        return Ok(());
    }
    nft_table::check(kernel).map_err(StartError::Ruleset)
}

type DhcpTask = Option<tokio::task::JoinHandle<()>>;

fn start_dhcp(
    host: &HostFile,
) -> (
    Option<mpsc::Sender<dhcp::Order>>,
    watch::Receiver<dhcp::State>,
    DhcpTask,
) {
    let (state_in, state) = watch::channel(dhcp::State::NotStarted);
    if !(host.dhcp.enabled && host.dhcp.run) {
        return (None, state, None);
    }
    let (orders, orders_out) = mpsc::channel(16);
    let config = host.dhcp.directory.join(CONFIG);
    let task = tokio::spawn(dhcp::run(
        host.dhcp.program.clone(),
        config,
        orders_out,
        state_in,
    ));
    (Some(orders), state, Some(task))
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is nobody to notify.
    let _ = sd_notify::notify(states);
}

impl Agent {
    async fn serve(
        &mut self,
        mut updates: mpsc::Receiver<Update>,
        mut requests: mpsc::Receiver<Request>,
    ) -> Result<(), StartError> {
        let signal_of = |kind| signal(kind).map_err(StartError::Signals);
        let mut terminate: Signal = signal_of(SignalKind::terminate())?;
        let mut interrupt: Signal = signal_of(SignalKind::interrupt())?;
        let mut hangup: Signal = signal_of(SignalKind::hangup())?;
        let mut next_full = Instant::now() + self.interval();
        let watchdog = sd_notify::watchdog_enabled().map(|timeout| timeout / 3);
        let mut next_ping = watchdog.map(|_| Instant::now());

        // Which ports are attached tells an empty listing from a wrong one.
        self.world.facts = Some(look_at_links(&mut self.kernel, &self.host)?);
        // Networks and filters are put in order even before LXD has answered.
        self.pending
            .everything_by(Instant::now() + Duration::from_millis(250));
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = hangup.recv() => self.reload_host_file(),
                () = at(next_ping) => {
                    notify(&[sd_notify::NotifyState::Watchdog]);
                    next_ping = watchdog.map(|pause| Instant::now() + pause);
                }
                () = at(self.pending.at) => self.pass(),
                Some(update) = updates.recv() => self.learn(update),
                knocks = self.monitor.next() => match knocks {
                    Ok(knocks) => self.heed(&knocks),
                    Err(error) => {
                        self.say("monitor", Some(format!("kernel events: {error}")));
                        self.pending.everything_by(Instant::now() + Duration::from_secs(1));
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                },
                () = tokio::time::sleep_until(next_full) => {
                    next_full = Instant::now() + self.interval();
                    // A full channel means that LXD is being asked already.
                    let _ = self.asks.try_send(Ask::Everything);
                    self.pending.everything_by(Instant::now());
                }
                () = at(self.retry_at) => {
                    self.retry_at = None;
                    self.pending.everything_by(Instant::now());
                }
                Some(request) = requests.recv() => {
                    let text = serde_json::to_string(&self.status()).expect("a status is plain data");
                    // Who asked may be gone.
                    let _ = request.answer.send(text);
                }
            }
        }
    }

    fn interval(&self) -> Duration {
        jittered(Duration::from_secs(self.host.agent.reload_interval_s.into()).mul_f64(0.875))
    }

    /// Logs a complaint about a subject once, and once more when it is over.
    fn say(&mut self, subject: &str, complaint: Option<String>) {
        match complaint {
            Some(text) => {
                if self.said.get(subject) != Some(&text) {
                    tracing::warn!(subject, "{text}");
                    self.said.insert(subject.into(), text);
                }
            }
            None => {
                if let Some(text) = self.said.remove(subject) {
                    tracing::info!(subject, "no longer: {text}");
                }
            }
        }
    }

    fn reload_host_file(&mut self) {
        notify(&[sd_notify::NotifyState::Reloading]);
        match host::load(&self.host_path) {
            Ok(host) => {
                tracing::info!(file = %self.host_path.display(), "host file read again");
                self.host = host;
                self.say("host file", None);
                self.world.resolve(&self.host);
                self.say_problems();
                self.pending.everything_by(Instant::now());
            }
            Err(error) => self.say(
                "host file",
                Some(format!("the old one stays in force: {error}")),
            ),
        }
        notify(&[sd_notify::NotifyState::Ready]);
    }

    fn learn(&mut self, update: Update) {
        let soon = Instant::now() + LXD_SETTLE;
        match update {
            Update::Connected(server) => {
                tracing::info!(server, "connected to LXD");
                self.lxd.server = server;
                self.lxd.connected = true;
                self.lxd.error = None;
                self.say("lxd", None);
                return;
            }
            Update::Failed(error) => {
                let lost = !matches!(
                    error,
                    crate::lxd::LxdError::Status { .. } | crate::lxd::LxdError::Timeout { .. }
                );
                self.lxd.connected &= !lost;
                self.lxd.error = Some(error.to_string());
                self.say(
                    "lxd",
                    Some(format!("{error}; what was known stays in force")),
                );
                self.report_to_systemd();
                return;
            }
            Update::Instance(id, instance) => {
                self.pending.nics.extend(self.world.nics_of(&id));
                self.world.put_instance(id, instance);
            }
            Update::Listing(instances) => {
                let first = self.world.inventory.is_none();
                match self.world.put_listing(instances) {
                    Listed::Incredible { attached } => {
                        let text = format!(
                            "LXD lists no instance at all while {attached} of their NICs are attached here; not believed"
                        );
                        self.lxd.error = Some(text.clone());
                        self.say("lxd listing", Some(text));
                        return;
                    }
                    Listed::Taken { unnamed } => {
                        if !unnamed.is_empty() {
                            // A full channel: the next listing asks again.
                            let _ = self.asks.try_send(Ask::Instances(unnamed));
                        }
                    }
                }
                self.say("lxd listing", None);
                self.say("lxd", None);
                self.lxd.error = None;
                self.lxd.listed = Some(Instant::now());
                self.pending.everything |= first;
            }
        }
        self.pending.resolve = true;
        self.pending.by(soon);
    }

    /// Says of every NIC what is wrong with it, once.
    fn say_problems(&mut self) {
        let mut now: BTreeMap<String, String> = BTreeMap::new();
        for problem in &self.world.resolved.problems {
            let text = now.entry(format!("nic {}", problem.nic)).or_default();
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(&problem.to_string());
        }
        let over: Vec<String> = self
            .said
            .keys()
            .filter(|subject| subject.starts_with("nic ") && !now.contains_key(*subject))
            .cloned()
            .collect();
        for subject in over {
            self.say(&subject, None);
        }
        for (subject, text) in now {
            self.say(&subject, Some(text));
        }
    }

    fn heed(&mut self, knocks: &[Knock]) {
        let now = Instant::now();
        // After a long pass, leave others at least as much time.
        let soon = now + KERNEL_SETTLE.max(self.stats.last_took);
        for knock in knocks {
            match self.world.look_at(knock, &self.host) {
                LookAt::Nothing => {}
                LookAt::Nic(id) => {
                    self.pending.nics.insert(id);
                    self.pending.by(soon);
                }
                LookAt::NetworkLink(name) => {
                    let known = self
                        .world
                        .facts
                        .as_ref()
                        .and_then(|facts| facts.link(&name));
                    let same = matches!(self.kernel.rtnl.link(&name), Ok(fresh) if fresh.as_ref() == known);
                    if !same {
                        self.pending.everything_by(soon);
                    }
                }
                LookAt::Nftables => {
                    let ours = matches!(knock, Knock::NftGeneration { generation, .. } if *generation <= self.nft_generation);
                    if !ours {
                        let earliest = self.last_nft_look.map_or(soon, |last| last + NFT_SETTLE);
                        self.pending.nftables = true;
                        self.pending.by(soon.max(earliest));
                    }
                }
                LookAt::Everything => self.pending.everything_by(soon),
            }
        }
    }

    fn pass(&mut self) {
        let Pending {
            everything,
            resolve,
            nftables,
            mut nics,
            at: _,
        } = std::mem::take(&mut self.pending);
        if resolve {
            nics.extend(self.world.resolve(&self.host));
            self.say_problems();
        }
        if !everything && !nftables && nics.is_empty() {
            return;
        }
        let first = self.stats.full == 0 || self.world.passed.is_empty() && self.stats.full < 2;
        let extent = if everything || self.stats.full == 0 || nics.len() > MANY_NICS {
            Extent::All
        } else if nics.is_empty() && nftables {
            Extent::Nftables
        } else {
            if nftables {
                self.pending.nftables = true;
                self.pending.by(Instant::now());
            }
            Extent::Nics(nics)
        };
        let started = Instant::now();
        // Transactions up to here are seen by the look that follows.
        let generation = self.kernel.nft.generation();
        let wanted = Wanted {
            host: &self.host,
            nics: self.world.nics(),
            current: self.lxd.connected,
            before: self
                .world
                .facts
                .as_ref()
                .map(|facts| (self.world.passed.as_slice(), facts)),
        };
        let repairs = if first { None } else { Some(&mut self.repairs) };
        let planned = plan(&mut self.kernel, wanted, &extent, repairs);
        let (facts, mut report) = match planned {
            Ok(plan) => plan.apply(&mut self.kernel),
            Err(error) => {
                let text = format!("the links cannot be read: {error}");
                self.stats.last_error = Some((text.clone(), Instant::now()));
                self.stats.troubled = Some(text.clone());
                self.say("pass", Some(text));
                self.retry();
                return;
            }
        };
        report.took = started.elapsed();
        if let (Ok(generation), Extent::All | Extent::Nftables) = (generation, &extent) {
            self.nft_generation = generation;
            self.last_nft_look = Some(Instant::now());
        }
        self.after_pass(&extent, facts, &report);
    }

    fn after_pass(&mut self, extent: &Extent, facts: Facts, report: &Report) {
        if let Some(nics) = self.world.nics() {
            self.world.passed = nics.to_vec();
        }
        self.world.facts = Some(facts);
        // What we changed on links is known only by looking again; the events ask for that.
        match extent {
            Extent::All => {
                self.stats.full += 1;
                self.stats.last_full = Some(Instant::now());
                self.repairs.expire(std::time::Instant::now());
            }
            Extent::Nics(_) | Extent::Nftables => self.stats.scoped += 1,
        }
        self.follow_tunnels();
        self.log_pass(extent, report);
        self.order_dhcp(report);
        self.schedule_retry(report);
        self.say_readiness();
        self.report_to_systemd();
    }

    fn follow_tunnels(&mut self) {
        let tunnels = self.world.tunnels(&self.host);
        if tunnels != self.filter {
            match self.monitor.set_filter(&MonitorFilter {
                tunnels: tunnels.clone(),
            }) {
                Ok(()) => self.filter = tunnels,
                Err(error) => self.say("monitor", Some(format!("kernel event filter: {error}"))),
            }
        }
    }

    fn log_pass(&mut self, extent: &Extent, report: &Report) {
        self.stats.last_took = report.took;
        self.stats.changes += report.lines.len() as u64;
        let mut trouble = Vec::new();
        for (line, error) in report.failures() {
            self.stats.failures += 1;
            trouble.push(format!("{}: {error}", line.text));
        }
        trouble.extend(
            report
                .unreadable
                .iter()
                .map(|(kind, error)| format!("{kind} cannot be read: {error}")),
        );
        if !report.lines.is_empty() {
            let scope = match extent {
                Extent::All => "everything".to_string(),
                Extent::Nftables => "nftables".to_string(),
                Extent::Nics(nics) => {
                    let names: BTreeSet<String> =
                        nics.iter().map(|nic| nic.instance.to_string()).collect();
                    names.into_iter().take(5).collect::<Vec<_>>().join(" ")
                }
            };
            tracing::info!(
                scope,
                took_ms = report.took.as_secs_f64() * 1000.0,
                "changed: {}",
                report.summary()
            );
            if report.lines.len() <= MAX_LOGGED_LINES {
                for line in &report.lines {
                    tracing::info!(kind = line.kind, "{}", line.text);
                }
            }
        }
        match trouble.first() {
            None => {
                self.stats.troubled = None;
                self.say("pass", None);
            }
            Some(text) => {
                let text = match trouble.len() {
                    1 => text.clone(),
                    more => format!("{text} (and {} more)", more - 1),
                };
                self.stats.last_error = Some((text.clone(), Instant::now()));
                self.stats.troubled = Some(text.clone());
                self.say("pass", Some(text));
            }
        }
    }

    fn order_dhcp(&mut self, report: &Report) {
        let Some(orders) = &self.dhcp_orders else {
            return;
        };
        let config = self.host.dhcp.directory.join(CONFIG);
        let config = config.display().to_string();
        let written = || {
            let lines = report
                .lines
                .iter()
                .filter(|line| line.kind == DnsmasqFile::NAME);
            lines.filter(|line| matches!(line.result, Some(Ok(()))))
        };
        let can_start = !self.dhcp_started && self.world.inventory.is_some();
        let order = if can_start || written().any(|line| line.text.contains(&config)) {
            dhcp::Order::Restart
        } else if written().next().is_some() {
            dhcp::Order::Reload
        } else {
            return;
        };
        self.dhcp_started = true;
        if orders.try_send(order).is_err() {
            tracing::warn!("the dnsmasq supervisor does not keep up");
        }
    }

    fn schedule_retry(&mut self, report: &Report) {
        self.deferred = report.deferred.clone();
        let failed = report.failures().next().is_some() || !report.unreadable.is_empty();
        if failed || report.escalate {
            self.retry();
        } else {
            self.retry_pause = FIRST_RETRY;
        }
        if let Some(wait) = report.retry_in {
            let due = Instant::now() + wait;
            self.retry_at = Some(self.retry_at.map_or(due, |other| other.min(due)));
        }
    }

    fn retry(&mut self) {
        self.retry_at = Some(Instant::now() + self.retry_pause);
        self.retry_pause = (self.retry_pause * 2).min(LONGEST_RETRY);
    }

    fn say_readiness(&mut self) {
        let Some(facts) = &self.world.facts else {
            return;
        };
        let states: Vec<(String, Option<String>)> = self
            .host
            .networks
            .iter()
            .map(|network| {
                let waiting = match facts.readiness(network) {
                    Readiness::Ready => None,
                    Readiness::Waiting(what) => Some(what),
                };
                (format!("network {}", network.name), waiting)
            })
            .collect();
        for (subject, waiting) in states {
            self.say(&subject, waiting);
        }
    }

    fn report_to_systemd(&mut self) {
        let nics = self.world.resolved.nics.len();
        let networks = self.host.networks.len();
        let text = match (&self.world.inventory, &self.stats.troubled) {
            (None, _) => format!("{networks} networks; waiting for LXD"),
            (Some(_), Some(trouble)) => format!("{networks} networks, {nics} NICs; {trouble}"),
            (Some(_), None) => format!("{networks} networks, {nics} NICs in step"),
        };
        // Only once LXD has answered or failed to is there anything that others could rely on.
        let answered = self.world.inventory.is_some() || self.lxd.error.is_some();
        if answered && !self.ready {
            self.ready = true;
            notify(&[sd_notify::NotifyState::Ready]);
        }
        notify(&[sd_notify::NotifyState::Status(&text)]);
    }
}

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
