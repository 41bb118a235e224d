//! The daemon: learns of changes, decides when to look at what, and reports. One thread; LXD is
//! talked to in a task of its own, so that a slow LXD never delays a repair.

use super::denials::Denials;
use super::look::look_at_links;
use super::lxd_task::{Ask, Update, jittered};
use super::pass::{Extent, Wanted, plan};
use super::pending::{Due, Pending};
use super::repairs::Repairs;
use super::start::StartError;
use super::tally::Tally;
use super::world::{Listed, LookAt, World};
use crate::addr::IfName;
use crate::control::server::{Question, Request};
use crate::dhcp;
use crate::dhcp::at;
use crate::host::{self, HostFile};
use crate::kernel::Kernel;
use crate::kernel::link::LinkKind;
use crate::kernel::monitor::{Knock, Monitor, MonitorFilter};
use crate::kinds::{dnsmasq_file, nft_table};
use crate::lxd::{Cluster, Program};
use crate::model::{FollowUp, Nic, NicId};
use crate::text::{self, SENTENCE};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What LXD tells arrives in bursts: how long to wait for the rest.
const LXD_SETTLE: Duration = Duration::from_millis(3);
/// The same for kernel events, most of which are about our own changes.
const KERNEL_SETTLE: Duration = Duration::from_millis(20);
/// Shortest time between two looks at nftables because of others' transactions.
const NFT_SETTLE: Duration = Duration::from_millis(300);
/// More NICs than this are looked at faster by dumps than one by one.
const MANY_NICS: usize = 64;
/// The pause before the first retry of what failed.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What is known of the conversation with LXD.
pub(super) struct LxdState {
    pub server: String,
    pub connected: bool,
    pub error: Option<String>,
    pub listed: Option<Instant>,
    /// As of the last listing.
    pub cluster: Option<Cluster>,
}

/// Counters since the start.
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

/// The running agent.
pub struct Agent {
    pub(super) host: HostFile,
    pub(super) host_path: PathBuf,
    pub(super) kernel: Kernel,
    pub(super) monitor: Monitor,
    pub(super) filter: MonitorFilter,
    pub(super) world: World,
    pub(super) repairs: Repairs,
    pub(super) pending: Pending,
    pub(super) lxd: LxdState,
    pub(super) asks: mpsc::Sender<Ask>,
    /// `None` if dnsmasq is nobody's or somebody else's to run.
    pub(super) dhcp: Option<dhcp::Servers>,
    pub(super) dhcp_started: bool,
    pub(super) started: Instant,
    pub(super) stats: Stats,
    pub(super) tally: Tally,
    pub(super) deferred: Vec<String>,
    /// When to tell zebra again of which changes, soonest first.
    pub(super) announcements: Vec<(Instant, Arc<[FollowUp]>)>,
    pub(super) retry_at: Option<Instant>,
    /// When to look at what other hosts have of what is claimed here.
    pub(super) contests_at: Option<Instant>,
    pub(super) retry_pause: Duration,
    pub(super) nft_generation: u32,
    pub(super) last_nft_look: Option<Instant>,
    /// Complaints already logged, by subject, so that each is said once.
    pub(super) said: BTreeMap<String, String>,
    pub(super) ready: bool,
    pub(super) denials: Denials,
    /// The tables are not what they should be, or could not be read: nothing may be attached by them.
    pub(super) distrusts: bool,
    /// Rules of another version were replaced, and their connections not ended yet.
    pub(super) owes_unzoned: bool,
    /// So may those with hosts of the fabric that are closed now.
    pub(super) owes_shut: bool,
}

pub(super) fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Without systemd there is nobody to notify.
    let _ = sd_notify::notify(states);
}
impl Agent {
    /// Serves until told to stop.
    pub(super) async fn serve(
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
                () = at(self.pending.at()) => self.pass(),
                Some(update) = updates.recv() => self.learn(update),
                knocks = self.monitor.next() => match knocks {
                    Ok(knocks) => self.heed(&knocks),
                    Err(error) => {
                        self.say("monitor", Some(format!("kernel events: {error}")));
                        self.pending.everything_by(Instant::now() + Duration::from_secs(1));
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                },
                logged = self.denials.next() => {
                    self.denials.tell(logged, self.world.facts.as_ref(), &self.world.resolved.nics);
                }
                () = tokio::time::sleep_until(next_full) => {
                    next_full = Instant::now() + self.interval();
                    // A full channel means that LXD is being asked already.
                    let _ = self.asks.try_send(Ask::Everything);
                    self.pending.everything_by(Instant::now());
                }
                () = at(self.announcements.first().map(|(due, _)| *due)) => self.announce(),
                () = at(self.contests_at) => self.look_at_contests(),
                () = at(self.retry_at) => {
                    self.retry_at = None;
                    self.pending.everything_by(Instant::now());
                }
                Some(request) = requests.recv() => {
                    let text = match request.question {
                        Question::Status => serde_json::to_string(&self.status()).expect("a status is plain data"),
                        Question::Metrics => self.metrics(),
                    };
                    // Who asked may be gone.
                    let _ = request.answer.send(text);
                }
            }
        }
    }

    fn interval(&self) -> Duration {
        jittered(Duration::from_secs(self.host.agent.reload_interval_s.into()).mul_f64(0.875))
    }
    fn reload_host_file(&mut self) {
        notify(&[sd_notify::NotifyState::Reloading]);
        match host::load(&self.host_path) {
            Ok(host) => {
                tracing::info!(file = %self.host_path.display(), "host file read again");
                self.leave_networks(&host);
                if let Some(dhcp) = &mut self.dhcp {
                    dhcp.keep(&host.dhcp.directory, &dnsmasq_file::configs(&host));
                }
                self.owes_shut |= self.host.fabric != host.fabric;
                self.host = host;
                self.tally.new_host_file = true;
                self.say("host file", None);
                self.world.forget_drafts();
                self.resolve();
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

    /// Takes NICs off the networks that a new host file lacks, as long as the old one tells us
    /// their bridges: left attached there, they would be in no filter.
    fn leave_networks(&mut self, host: &HostFile) {
        let Some(facts) = &self.world.facts else {
            return;
        };
        let bridge =
            |host: &HostFile, nic: &Nic| host.network(&nic.network).map(|n| n.bridge.clone());
        let (staying, leaving): (Vec<Nic>, Vec<Nic>) = self
            .world
            .passed
            .iter()
            .cloned()
            .partition(|nic| bridge(host, nic) == bridge(&self.host, nic));
        if leaving.is_empty() {
            return;
        }
        let extent = Extent::Nics(leaving.into_iter().map(|nic| nic.id).collect());
        let before = Some((self.world.passed.as_slice(), facts));
        let wanted = Wanted {
            host: &self.host,
            nics: Some(&staying),
            refused: &[],
            current: true,
            before,
            claims: &self.world,
        };
        match plan(&mut self.kernel, wanted, &extent, None) {
            Ok(plan) => {
                let (facts, report) = plan.apply(&mut self.kernel);
                self.tally.pass(&extent, &report, false);
                self.world.passed = staying;
                self.world.facts = Some(facts);
                self.log_pass(&extent, &report);
            }
            Err(error) => self.say("pass", Some(format!("the links cannot be read: {error}"))),
        }
    }

    fn learn(&mut self, update: Update) {
        let soon = Instant::now() + LXD_SETTLE;
        match update {
            Update::Connected(server) => {
                let program = Program::of(&server);
                tracing::info!(server, "connected to {}", program.server());
                self.tally.lxd_connections += 1;
                if program != self.world.program {
                    // Remedies name the program.
                    self.world.program = program;
                    self.world.forget_drafts();
                }
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
                let error = text::shown(&error.to_string(), SENTENCE);
                let said = format!("{error}; what was known stays in force");
                self.lxd.error = Some(error);
                self.say("lxd", Some(said));
                self.report_to_systemd();
                return;
            }
            Update::Instance(id, answer) => {
                // The stream is open still: a failed read before this one was only that.
                self.lxd.connected = true;
                self.pending.nics.extend(self.world.nics_of(&id));
                self.world.put_instance(id, answer);
                self.say_unread();
            }
            Update::Confirmed(id) => {
                self.pending.nics.extend(self.world.nics_of(&id));
                self.world.confirmed(&id, std::time::Instant::now());
            }
            Update::Listing(listing) => {
                let first = self.world.inventory.is_none();
                let cluster = listing.cluster.clone();
                match self.world.put_listing(listing) {
                    Listed::Incredible(why) => {
                        let text = text::shown(&why.to_string(), 2 * SENTENCE);
                        self.lxd.error = Some(text.clone());
                        self.say("lxd listing", Some(text));
                        self.report_to_systemd();
                        return;
                    }
                    Listed::Taken { unnamed } => {
                        if !unnamed.is_empty() {
                            // A full channel: the next listing asks again.
                            let _ = self.asks.try_send(Ask::Instances(unnamed));
                        }
                    }
                }
                self.lxd.cluster = cluster;
                self.say("lxd listing", None);
                self.say("lxd", None);
                self.say_unread();
                self.lxd.connected = true;
                self.lxd.error = None;
                self.lxd.listed = Some(Instant::now());
                self.tally.lxd_listed = Some(SystemTime::now());
                self.pending.everything |= first;
            }
        }
        self.pending.resolve = true;
        self.pending.by(soon);
    }
    fn heed(&mut self, knocks: &[Knock]) {
        let now = Instant::now();
        // After a long pass, leave others at least as much time.
        let soon = now + KERNEL_SETTLE.max(self.stats.last_took);
        for knock in knocks {
            self.tally.events_lost += u64::from(*knock == Knock::Lost);
            self.look_for_usurper(knock);
            match self.world.look_at(knock, &self.host) {
                LookAt::Nothing => {}
                LookAt::Nic(id) => {
                    if !self.pending.has(&id) && !self.is_announcement(knock, &id) {
                        self.pending.nic_because_of_event(id, now, soon);
                    }
                }
                LookAt::NicLink(name, id) => {
                    // A port tells of much that is nothing to us, such as its own timers.
                    if !self.pending.has(&id) && self.is_other(&name) {
                        self.pending.nic_because_of_event(id, now, soon);
                    }
                }
                LookAt::NetworkLink(name) => {
                    if self.is_other(&name) {
                        self.pending.everything_by(soon);
                    }
                }
                LookAt::Nftables => {
                    let ours = matches!(knock, Knock::NftGeneration { generation, .. } if *generation <= self.nft_generation);
                    if !ours {
                        let earliest = self.last_nft_look.map_or(soon, |last| last + NFT_SETTLE);
                        self.pending.nftables = true;
                        // What failed a moment ago is tried again with the next second.
                        let failed = self.stats.troubled.is_some();
                        let wait = failed || nft_table::are_in_force(&mut self.kernel);
                        self.pending.by(if wait { soon.max(earliest) } else { now });
                    }
                }
                // What was lost may have been the end of our tables.
                LookAt::Everything
                    if *knock == Knock::Lost && !nft_table::are_in_force(&mut self.kernel) =>
                {
                    self.pending.everything_by(now);
                }
                LookAt::Everything => self.pending.everything_because_of_event(now, soon),
            }
        }
    }

    /// Looks whether an event tells of a tap that was given a MAC of others: then the bridge has taken that for its own. By
    /// now the tap may have its own MAC again.
    fn look_for_usurper(&mut self, knock: &Knock) {
        if let Knock::Fdb {
            port,
            mac,
            own: true,
            ..
        } = knock
            && self.world.may_usurp(*port, *mac, &self.host)
            && let Ok(Some(link)) = self.kernel.rtnl.link_by_index(*port)
            && matches!(link.kind, LinkKind::Tun)
        {
            self.world.usurps(*port, *mac);
            self.pending.resolve = true;
            self.pending.by(Instant::now());
        }
    }

    /// Whether an event tells of an FDB entry that is just as it should be: the kernel does not
    /// say whose doing it was, and we tell zebra of each more than once.
    fn is_announcement(&mut self, knock: &Knock, id: &NicId) -> bool {
        let Knock::Fdb {
            port,
            bridge: Some(bridge),
            mac,
            ..
        } = knock
        else {
            return false;
        };
        let nics = &self.world.resolved.nics;
        let Ok(place) = nics.binary_search_by(|nic| nic.id.cmp(id)) else {
            return false;
        };
        let facts = self.world.facts.as_ref();
        let ours = facts
            .and_then(|facts| facts.link(&nics[place].port))
            .map(|link| link.index);
        ours == Some(*port)
            && matches!(self.kernel.rtnl.fdb_entry(*bridge, *mac), Ok(Some(entry)) if entry.port == *port && entry.ext_learned && !entry.permanent)
    }

    /// Whether a link is not as it was when it was last looked at.
    fn is_other(&mut self, name: &IfName) -> bool {
        let known = self.world.facts.as_ref().and_then(|facts| facts.link(name));
        !matches!(self.kernel.rtnl.link(name), Ok(fresh) if fresh.as_ref() == known)
    }

    fn pass(&mut self) {
        let Due {
            everything,
            resolve,
            nftables,
            mut nics,
        } = self.pending.take(Instant::now());
        // What another host has meanwhile is not to be taken back by this pass.
        if resolve || self.world.watches() {
            nics.extend(self.resolve());
            self.say_problems();
        }
        if !everything && !nftables && nics.is_empty() {
            return;
        }
        if self.distrusts && !everything {
            // A look at a few objects does not see what is wrong with the tables. The retry looks at all.
            self.retry_at.get_or_insert(Instant::now() + FIRST_RETRY);
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
            refused: &self.world.resolved.refused,
            current: self.lxd.connected,
            before: self
                .world
                .facts
                .as_ref()
                .map(|facts| (self.world.passed.as_slice(), facts)),
            claims: &self.world,
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
        if !first {
            self.remember(&report);
        }
        if let (Ok(mut generation), Extent::All | Extent::Nftables) = (generation, &extent) {
            if report.failed_guard() {
                // What we did ourselves before it failed is no reason to try again at once.
                generation = self.kernel.nft.generation().unwrap_or(generation);
            }
            self.nft_generation = generation;
            self.last_nft_look = Some(Instant::now());
        }
        if extent != Extent::Nftables {
            let before = std::mem::take(&mut self.world.passed);
            self.end_revoked(&before);
            self.world.passed = before;
            self.owes_unzoned |= report.new_rules;
            self.end_unzoned();
            self.owes_shut |= report.new_rules;
            // What the filters still let pass would begin again.
            if report.filters_hold() {
                self.end_shut();
            }
        }
        self.after_pass(&extent, facts, &report);
    }
}
