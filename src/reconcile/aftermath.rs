//! What follows a pass: logs, counters, dnsmasq, retries, systemd. Complaints are said once, and
//! once more when they are over.

use super::announce;
use super::claims::LOOK_AGAIN;
use super::daemon::{Agent, FIRST_RETRY, notify};
use super::lxd_task::Ask;
use super::pass::Extent;
use super::report::{Line, Report};
use super::tally::same_devices;
use crate::dhcp;
use crate::kinds::nft_element::NftElement;
use crate::model::facts::Readiness;
use crate::model::{Facts, FollowUp, Kind, Pace};
use crate::policy::fabric::Opened;
use crate::text::{self, SENTENCE};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Longest complaint, characters: all that is wrong with one NIC.
const COMPLAINT: usize = 20 * SENTENCE;
/// A repair is logged line by line up to this many.
const MAX_LOGGED_LINES: usize = 20;

impl Agent {
    /// Logs a complaint about a subject once, and once more when it is over.
    pub(super) fn say(&mut self, subject: &str, complaint: Option<String>) {
        match complaint {
            Some(text) => {
                let text = text::shown(&text, COMPLAINT);
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
    /// Says of every NIC what is wrong with it, once, and of the fabric's services.
    pub(super) fn say_problems(&mut self) {
        let unopened = Opened::of(&self.host).problem.map(String::from);
        self.say("[fabric] services", unopened);
        let mut now: BTreeMap<String, String> = BTreeMap::new();
        let resolved = &self.world.resolved.problems;
        for problem in resolved.iter().chain(&self.world.misfits()) {
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
    pub(super) fn after_pass(&mut self, extent: &Extent, facts: Facts, report: &Report) {
        let unprompted = self.wants_the_same(&facts);
        self.tally.pass(extent, report, unprompted);
        announce::withdraw(&mut self.kernel, &self.host, &facts, &report.follow_ups);
        // A look at nftables alone has done nothing about the links that it saw: their events must
        // still find them changed.
        if *extent != Extent::Nftables || self.world.facts.is_none() {
            if let Some(nics) = self.world.nics() {
                self.world.passed = nics.to_vec();
            }
            self.world.facts = Some(facts);
        }
        // What we changed on links is known only by looking again; the events ask for that.
        match extent {
            Extent::All => {
                self.stats.full += 1;
                self.stats.last_full = Some(Instant::now());
                self.repairs.expire(std::time::Instant::now());
            }
            Extent::Nics(_) | Extent::Nftables => self.stats.scoped += 1,
        }
        self.watch_contests(&report.follow_ups);
        self.say_problems();
        self.follow_tunnels();
        self.log_pass(extent, report);
        self.order_dhcp(report);
        self.schedule_announcements(report);
        self.schedule_retry(extent, report);
        self.say_readiness();
        self.report_to_systemd();
    }

    /// Whether a pass that saw these links had nothing to do but put right what somebody else
    /// changed: what is wanted is as it was in the last one, and that one left nothing undone.
    fn wants_the_same(&mut self, facts: &Facts) -> bool {
        let new_host_file = std::mem::take(&mut self.tally.new_host_file);
        let nics = self.world.nics();
        !new_host_file
            && self.stats.troubled.is_none()
            && nics == Some(self.world.passed.as_slice())
            && self
                .world
                .facts
                .as_ref()
                .is_some_and(|before| same_devices(&self.host, &self.world.passed, before, facts))
    }

    fn follow_tunnels(&mut self) {
        let filter = self.world.monitor_filter(&self.host);
        if filter != self.filter {
            match self.monitor.set_filter(&filter) {
                Ok(()) => self.filter = filter,
                Err(error) => self.say("monitor", Some(format!("kernel event filter: {error}"))),
            }
        }
    }

    /// Learns what was done, and says what is undone again and again.
    pub(super) fn remember(&mut self, report: &Report) {
        let now = std::time::Instant::now();
        for line in &report.lines {
            // Elements are many, and are put right together.
            let many = line.kind == NftElement::NAME;
            if many || line.is_expected() || !matches!(line.result, Some(Ok(()))) {
                continue;
            }
            let (change, pace) = (line.object.as_str(), line.pace);
            let Some(times) = self.repairs.made(change, &line.opposite(), pace, now) else {
                continue;
            };
            let who = match pace {
                Pace::Contested => "another host claims this; claiming it here ever more slowly",
                Pace::AtOnce => "something else keeps undoing this; repairing it each time at once",
                Pace::Expected | Pace::Quick | Pace::Costly => {
                    "something else keeps undoing this; repairing it ever more slowly"
                }
            };
            tracing::warn!(object = change, times, "{who}");
        }
    }

    pub(super) fn log_pass(&mut self, extent: &Extent, report: &Report) {
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
        // An instance can have its neighbour entry made stale as often as it likes: no line for that.
        let (expected, done): (Vec<&Line>, Vec<&Line>) = report
            .lines
            .iter()
            .filter(|line| !matches!(line.result, Some(Err(_))))
            .partition(|line| line.is_expected());
        for line in expected {
            tracing::debug!(kind = line.kind, "{}", line.text);
        }
        if !done.is_empty() {
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
                for line in done {
                    tracing::info!(kind = line.kind, "{}", line.text);
                }
            }
        }
        match trouble.first() {
            // A look at a few objects, or one that put some off, has not seen what was wrong.
            None if *extent == Extent::All && report.deferred.is_empty() => {
                self.stats.troubled = None;
                self.say("pass", None);
            }
            None => {}
            Some(text) => {
                let text = match trouble.len() {
                    1 => text.clone(),
                    more => format!("{text} (and {} more)", more - 1),
                };
                let text = text::shown(&text, 4 * SENTENCE);
                self.stats.last_error = Some((text.clone(), Instant::now()));
                self.stats.troubled = Some(text.clone());
                self.say("pass", Some(text));
            }
        }
    }

    fn order_dhcp(&mut self, report: &Report) {
        let Some(servers) = &self.dhcp else {
            return;
        };
        let can_start = !self.dhcp_started && self.world.inventory.is_some();
        let order = if can_start || report.follow_ups.contains(&FollowUp::RestartDnsmasq) {
            dhcp::Order::Restart
        } else if report.follow_ups.contains(&FollowUp::ReloadDnsmasq) {
            dhcp::Order::Reload
        } else {
            return;
        };
        self.dhcp_started = true;
        servers.order(order);
    }

    fn schedule_retry(&mut self, extent: &Extent, report: &Report) {
        self.deferred = report.deferred.clone();
        if !matches!(extent, Extent::Nics(_)) {
            self.distrusts = report.escalate || !report.filters_hold();
        }
        let failed = report.failures().next().is_some() || !report.unreadable.is_empty();
        if failed || report.escalate {
            if report.failed_guard() || report.escalate {
                // What keeps others out is not put off.
                self.retry_pause = FIRST_RETRY;
            }
            self.retry();
        } else {
            self.retry_pause = FIRST_RETRY;
        }
        let now = std::time::Instant::now();
        let asked = self.world.to_ask(&report.ask, now);
        // A full channel: the next full pass asks.
        let ask = Ask::Confirm(asked.iter().cloned().collect());
        if !asked.is_empty() && self.asks.try_send(ask).is_ok() {
            self.world.asked(asked, now);
        }
        if report.resolve_again {
            self.pending.resolve = true;
            self.pending.everything_by(Instant::now() + LOOK_AGAIN);
        }
        if let Some(wait) = report.retry_in {
            let due = Instant::now() + wait;
            self.retry_at = Some(self.retry_at.map_or(due, |other| other.min(due)));
        }
    }

    pub(super) fn retry(&mut self) {
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

    pub(super) fn report_to_systemd(&mut self) {
        let nics = self.world.resolved.nics.len();
        let networks = self.host.networks.len();
        let text = match (&self.world.inventory, &self.stats.troubled) {
            (None, _) => format!("{networks} networks; waiting for LXD or Incus"),
            (Some(_), Some(trouble)) => format!("{networks} networks, {nics} NICs; {trouble}"),
            (Some(_), None) => format!("{networks} networks, {nics} NICs in step"),
        };
        // Only once LXD has answered or failed to is there anything that others could rely on.
        let answered = self.world.inventory.is_some() || self.lxd.error.is_some();
        if answered && !self.ready {
            self.ready = true;
            notify(&[sd_notify::NotifyState::Ready]);
        }
        // A line of its own would be another message.
        let text = text::shown(&text, SENTENCE);
        notify(&[sd_notify::NotifyState::Status(&text)]);
    }
}
