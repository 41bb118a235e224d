//! Running dnsmasq: started when its files are there, restarted when its configuration changed,
//! told by SIGHUP when only the NICs' addresses changed, started again, ever more slowly, when it
//! dies. It is stopped with the agent, or by the next one. The files' content is `kinds::dnsmasq_file`'s matter.

mod complaints;
mod servers;

pub use complaints::{Complaint, Complaints};
pub use servers::Servers;

use complaints::Lines;
use rustix::process::Pid;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Start, or start again with a new configuration.
    Restart,
    /// Read the addresses again.
    Reload,
}

/// What dnsmasq is doing, for the status screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    NotStarted,
    Running { pid: u32 },
    Failed { why: String },
}

/// The same, how often it came to that, and what dnsmasq complained of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub state: State,
    /// How often dnsmasq was started.
    pub starts: u64,
    /// How often it ended although nobody had told it to.
    pub exits: u64,
    pub complaints: Complaints,
}

impl Default for Seen {
    fn default() -> Self {
        Seen {
            state: State::NotStarted,
            starts: 0,
            exits: 0,
            complaints: Complaints::default(),
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A signal that comes before dnsmasq has installed its handlers would end it.
const HEEDS_AFTER: Duration = Duration::from_secs(1);
/// Running this long, it is taken to be well.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Supervises dnsmasq until the orders end; then stops it.
pub async fn run(
    program: PathBuf,
    config: PathBuf,
    mut orders: mpsc::Receiver<Order>,
    seen: watch::Sender<Seen>,
) {
    let mut wanted = false;
    let mut stopped_by_us = false;
    let mut pause = FIRST_PAUSE;
    loop {
        if !wanted {
            match orders.recv().await {
                None => return,
                Some(_) => wanted = true,
            }
        }
        // Starting reads all files: what was ordered until now is done by it.
        while orders.try_recv().is_ok() {}
        let started = Instant::now();
        if !stopped_by_us {
            bury_orphans(&config).await;
        }
        stopped_by_us = false;
        let why = match start(&program, &config) {
            Err(error) => format!("starting {}: {error}", program.display()),
            Ok(mut child) => {
                tracing::info!(pid = child.id(), "dnsmasq started");
                seen.send_modify(|seen| {
                    seen.starts += 1;
                    seen.state = State::Running {
                        pid: child.id().unwrap_or(0),
                    };
                });
                match follow(&mut child, &mut orders, &seen).await {
                    End::Ordered => {
                        pause = FIRST_PAUSE;
                        stopped_by_us = true;
                        continue;
                    }
                    End::Over => return,
                    End::Died(why) => {
                        seen.send_modify(|seen| seen.exits += 1);
                        why
                    }
                }
            }
        };
        if started.elapsed() > WELL_AFTER {
            pause = FIRST_PAUSE;
        }
        tracing::warn!(
            error = why,
            retry_in_ms = pause.as_millis() as u64,
            "dnsmasq is not running"
        );
        seen.send_modify(|seen| seen.state = State::Failed { why });
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            order = orders.recv() => match order {
                None => return,
                Some(_) => pause = FIRST_PAUSE,
            },
        }
    }
}

/// Ends at that time; never without one.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

enum End {
    /// Stopped by order; to be started again.
    Ordered,
    /// The agent is going.
    Over,
    Died(String),
}

/// Ends dnsmasq processes of an agent that died without stopping its own: they hold the port and
/// nobody tells them of changes. The kernel forgets the parent-death signal set in [`start`] when
/// dnsmasq changes its user (`commit_creds()` in kernel/cred.c).
async fn bury_orphans(config: &Path) {
    let directory = config.parent().unwrap_or(Path::new("/"));
    let orphans = || {
        let all = processes_of(directory).into_iter();
        all.filter_map(|(of, pid)| (of == config).then_some(pid))
    };
    let mut any = false;
    for pid in orphans() {
        any = true;
        terminate(pid);
    }
    for _ in 0..100 {
        if !any || orphans().next().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends one of an earlier agent.
fn terminate(pid: Pid) {
    tracing::info!(
        pid = pid.as_raw_nonzero().get(),
        "stopping the dnsmasq of an earlier agent"
    );
    // It may have ended meanwhile.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
}

const CONFIG_ARGUMENT: &str = "--conf-file=";

/// Processes that were started with a configuration of this directory, and with which.
fn processes_of(directory: &Path) -> Vec<(PathBuf, Pid)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid = name.to_str()?.parse::<i32>().ok()?;
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let config = arguments.split(|byte| *byte == 0).find_map(|word| {
                let path = Path::new(
                    std::str::from_utf8(word)
                        .ok()?
                        .strip_prefix(CONFIG_ARGUMENT)?,
                );
                (path.parent() == Some(directory)).then(|| path.to_path_buf())
            })?;
            Some((config, Pid::from_raw(pid)?))
        })
        .collect()
}

fn start(program: &Path, config: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(program);
    command
        .arg("--keep-in-foreground")
        .arg("--pid-file")
        .arg("--log-facility=-")
        .arg(format!("{CONFIG_ARGUMENT}{}", config.display()))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // SAFETY: the closure runs between fork and exec; it makes one system call and neither
    // allocates nor takes locks.
    unsafe {
        command.pre_exec(|| {
            let signal = Some(rustix::process::Signal::TERM);
            rustix::process::set_parent_process_death_signal(signal)?;
            Ok(())
        });
    }
    command.spawn()
}

/// Takes in a line of dnsmasq's: warns if it complains of something. Returns it, fit to be shown.
fn hear(line: &str, seen: &watch::Sender<Seen>) -> String {
    if let Some(text) = complaints::complaint(line) {
        let now = std::time::Instant::now();
        let mut new = false;
        seen.send_modify(|seen| new = seen.complaints.add(text.clone(), now));
        if new {
            tracing::warn!("dnsmasq says: {text}");
        }
    }
    let line = complaints::printable(line);
    tracing::debug!(line, "dnsmasq");
    line
}

/// Watches over a running dnsmasq: its words, its orders, its end.
async fn follow(
    child: &mut Child,
    orders: &mut mpsc::Receiver<Order>,
    seen: &watch::Sender<Seen>,
) -> End {
    let stderr = child.stderr.take();
    let mut lines = stderr.map(|stderr| Lines::new(BufReader::new(stderr)));
    let mut last = String::new();
    let started = Instant::now();
    let mut reload_at = None;
    loop {
        let line = async {
            match &mut lines {
                Some(lines) => lines.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            line = line => match line {
                Ok(Some(line)) => last = hear(&line, seen),
                Ok(None) | Err(_) => lines = None,
            },
            status = child.wait() => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                // What it said on its way out may still be in the pipe.
                while let Some(Ok(Some(line))) = match &mut lines {
                    Some(lines) => Some(lines.next().await),
                    None => None,
                } {
                    last = hear(&line, seen);
                }
                return End::Died(format!("dnsmasq ended ({status}); it said: {last}"));
            }
            () = at(reload_at) => {
                reload_at = None;
                signal(child, rustix::process::Signal::HUP);
            }
            order = orders.recv() => match order {
                Some(Order::Reload) => reload_at = Some(Instant::now().max(started + HEEDS_AFTER)),
                Some(Order::Restart) => {
                    stop(child).await;
                    return End::Ordered;
                }
                None => {
                    stop(child).await;
                    return End::Over;
                }
            },
        }
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid as i32));
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, signal)
    {
        tracing::warn!(%error, "dnsmasq could not be signalled");
    }
}

async fn stop(child: &mut Child) {
    signal(child, rustix::process::Signal::TERM);
    if tokio::time::timeout(Duration::from_secs(3), child.wait())
        .await
        .is_err()
    {
        // It is about to be killed by kill_on_drop; wait so that its ports are free.
        let _ = child.kill().await;
    }
}
