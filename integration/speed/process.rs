//! The agent as a process: when it is complete, what it costs.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Plan;
use crate::fleet::Fleet;

const PATIENCE: Duration = Duration::from_secs(300);

pub struct Agent {
    child: Child,
    program: std::path::PathBuf,
}

fn spawn(plan: &Plan, fleet: &Fleet<'_>, interval_s: u32) -> Agent {
    fleet.write_host_file(interval_s);
    let log = File::create(fleet.path("log")).expect("the directory is ours");
    let mut command = Command::new(&plan.agent);
    if !plan.whole_ruleset {
        command.env("LXMESH_TEST_SETS_ONLY", "1");
    }
    let child = command
        .args(["agent", "--host-file"])
        .arg(fleet.path("host.toml"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", plan.agent.display()));
    Agent {
        child,
        program: plan.agent.clone(),
    }
}

/// Waits for a sign in the log.
fn wait_for(path: &Path, sign: &str) {
    let started = Instant::now();
    while !fs::read_to_string(path).unwrap_or_default().contains(sign) {
        let log = || fs::read_to_string(path).unwrap_or_default();
        assert!(started.elapsed() < PATIENCE, "never {sign:?} in\n{}", log());
        thread::sleep(Duration::from_millis(1));
    }
}

impl Agent {
    /// Starts it on a host without anything of ours; returns when it says that all has been
    /// made, which is to be checked. The time is from the start of the process.
    pub fn start(plan: &Plan, fleet: &Fleet<'_>, interval_s: u32) -> (Self, Duration) {
        let started = Instant::now();
        let agent = spawn(plan, fleet, interval_s);
        wait_for(&fleet.path("log"), &format!(" fdb +{}", fleet.nics.len()));
        (agent, started.elapsed())
    }

    /// Starts it on a host where all is done; returns once it has listed LXD's instances.
    pub fn restart(plan: &Plan, fleet: &Fleet<'_>, interval_s: u32) -> (Self, Duration) {
        let started = Instant::now();
        let agent = spawn(plan, fleet, interval_s);
        wait_for(&fleet.path("log"), "dnsmasq started");
        (agent, started.elapsed())
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill");
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Time on a CPU, all threads, to the nanosecond.
    pub fn cpu(&self) -> Duration {
        let tasks =
            fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the agent is running");
        let on_cpu = tasks.flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(" ").next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(on_cpu.sum())
    }

    /// Waits until it does nothing for a while.
    pub fn settle(&self) {
        let started = Instant::now();
        let mut quiet_since = Instant::now();
        let mut before = self.cpu();
        while quiet_since.elapsed() < Duration::from_millis(400) {
            assert!(started.elapsed() < PATIENCE, "the agent never rests");
            thread::sleep(Duration::from_millis(50));
            let now = self.cpu();
            if now - before > Duration::from_micros(300) {
                quiet_since = Instant::now();
            }
            before = now;
        }
    }

    /// Resident now, and the most so far.
    pub fn memory_mib(&self) -> (f64, f64) {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the agent is running");
        let kib = |key: &str| -> f64 {
            let line = text
                .lines()
                .find(|line| line.starts_with(key))
                .expect("the kernel tells");
            line.split_whitespace()
                .nth(1)
                .and_then(|number| number.parse().ok())
                .expect("a number")
        };
        (kib("VmRSS:") / 1024.0, kib("VmHWM:") / 1024.0)
    }

    /// CPU over a number of periodic passes, each with a listing.
    pub fn cpu_of_idle_passes(&self, fleet: &Fleet<'_>, passes: usize) -> (Duration, usize) {
        let listings = || fleet.lxd.requests("/1.0/instances?");
        let (before, first) = (self.cpu(), listings());
        let started = Instant::now();
        while listings() < first + passes {
            assert!(started.elapsed() < PATIENCE, "no listings");
            thread::sleep(Duration::from_millis(50));
        }
        self.settle();
        (self.cpu() - before, listings() - first)
    }

    pub fn full_passes(&self, fleet: &Fleet<'_>) -> u64 {
        let output = Command::new(&self.program)
            .args(["status", "--json", "--host-file"])
            .arg(fleet.path("host.toml"))
            .output()
            .expect("the program can be run");
        let status: Value = serde_json::from_slice(&output.stdout).expect("a status is JSON");
        status["passes"]["full"].as_u64().expect("a number")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
