//! The benchmark: a simulated LXD, real veths in a fresh namespace, the real agent; figures as JSON
//! lines, each with its target and whether it is met. Ratios are within one run. It needs root,
//! and a release build with the feature `test-hooks` (`integration/bench` sees to that). Where the
//! kernel does not take the whole ruleset, only its sets are loaded, by both sides; every line
//! says which.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

#[path = "../support/mod.rs"]
mod support;

mod datapath;
mod fleet;
mod latency;
mod process;
mod reference;

use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fleet::Fleet;
use process::Agent;
use serde_json::{Value, json};
use support::in_netns;

/// When the agent has told zebra of a port for the last time, and some more.
const LAST_ANNOUNCEMENT: Duration = Duration::from_secs(17);

/// How much is measured.
#[derive(Clone)]
pub struct Plan {
    agent: PathBuf,
    nics: Vec<usize>,
    repetitions: usize,
    /// Of each kind of event.
    events: usize,
    /// Of FDB entries, and of neighbours.
    foreign: usize,
    idle_passes: usize,
    whole_ruleset: bool,
    /// What the rules cost per packet, and nothing else.
    datapath: bool,
}

fn arguments() -> Result<Plan, String> {
    let mut plan = Plan {
        agent: std::env::current_exe()
            .ok()
            .and_then(|path| Some(path.parent()?.parent()?.join("lxmesh")))
            .ok_or("where this program is cannot be told")?,
        nics: vec![50, 200, 1000],
        repetitions: 3,
        events: 50,
        foreign: 10_000,
        idle_passes: 4,
        whole_ruleset: reference::kernel_takes_the_rules(),
        datapath: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => {
                plan.nics = vec![50, 200];
                (plan.repetitions, plan.events, plan.idle_passes) = (1, 15, 2);
            }
            "--datapath" => {
                plan.nics = vec![5, 1000];
                plan.datapath = true;
            }
            "--nics" => {
                let numbers = value()?;
                plan.nics = numbers
                    .split(',')
                    .map(|n| n.parse().map_err(|_| format!("{n} is not a number")))
                    .collect::<Result<_, _>>()?;
            }
            "--agent" => plan.agent = value()?.into(),
            _ => {
                return Err(format!(
                    "{argument} is unknown; there are --quick, --datapath, --nics N,N and --agent PROGRAM"
                ));
            }
        }
    }
    Ok(plan)
}

fn main() {
    let plan = arguments().unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(2);
    });
    support::checks::load_privately();
    for &nics in &plan.nics {
        if plan.datapath {
            datapath::measure(&plan, nics);
        } else {
            measure(&plan, nics);
        }
    }
}

/// Prints a figure. Smaller is better everywhere.
fn print(
    plan: &Plan,
    nics: usize,
    figure: &str,
    value: f64,
    unit: &str,
    target: Option<f64>,
    more: Value,
) {
    let ruleset = if plan.whole_ruleset {
        "whole"
    } else {
        "sets only"
    };
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let mut line = json!({"figure": figure, "nics": nics, "value": round(value), "unit": unit, "ruleset": ruleset});
    if let Some(target) = target {
        line["target"] = json!(target);
        line["met"] = json!(value <= target);
    }
    if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
        line.extend(more);
    }
    println!("{line}");
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn measure(plan: &Plan, nics: usize) {
    let (mut tools, mut agents, mut agents_cpu, mut tools_cpu) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for repetition in 0..plan.repetitions {
        in_netns(|ns| {
            let fleet = Fleet::new(ns, nics);
            let (wall, cpu) = reference::create_everything(plan, &fleet);
            tools.push(wall.as_secs_f64());
            tools_cpu.push(cpu.as_secs_f64());
        });
        in_netns(|ns| {
            let mut fleet = Fleet::new(ns, nics);
            let (agent, wall) = Agent::start(plan, &fleet, 3600);
            agents.push(wall.as_secs_f64());
            agents_cpu.push(agent.cpu().as_secs_f64());
            fleet.check_complete();
            if repetition + 1 == plan.repetitions {
                figures_of_a_running_agent(plan, &mut fleet, agent);
            }
        });
    }
    let ratio = median(&agents) / median(&tools);
    let more = json!({
        "agent_ms": median(&agents) * 1000.0, "tools_ms": median(&tools) * 1000.0,
        "agent_cpu_ms": median(&agents_cpu) * 1000.0, "tools_cpu_ms": median(&tools_cpu) * 1000.0,
        "runs": plan.repetitions,
    });
    print(
        plan,
        nics,
        "cold start ÷ ip -batch, bridge -batch, nft -f",
        ratio,
        "ratio",
        Some(1.0),
        more,
    );
}

fn figures_of_a_running_agent(plan: &Plan, fleet: &mut Fleet<'_>, agent: Agent) {
    let nics = fleet.nics.len();
    print(
        plan,
        nics,
        "LXD requests for a cold start",
        fleet.lxd.requests("/") as f64,
        "requests",
        None,
        json!({}),
    );
    agent.settle();
    let (rss, peak) = agent.memory_mib();
    print(
        plan,
        nics,
        "resident memory after the cold start",
        rss,
        "MiB",
        Some(20.0),
        json!({"peak_mib": peak}),
    );

    // It tells zebra of new ports again after up to 15 s; the rest is measured without that.
    thread::sleep(LAST_ANNOUNCEMENT);
    let before = agent.cpu();
    let events = latency::events(fleet, plan.events);
    let cpu = (agent.cpu() - before).as_secs_f64() * 1000.0;
    let count: usize = events.iter().map(|(_, times)| times.len()).sum();
    let name = "CPU of an event, what follows from it included";
    print(
        plan,
        nics,
        name,
        cpu / count as f64,
        "ms",
        None,
        json!({"events": count}),
    );
    for (event, mut times) in events {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            times[((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1]
        };
        let more = json!({"p50_ms": at(0.5), "max_ms": at(1.0), "events": times.len()});
        let name = format!("{event} → complete after LXD's answer, p99");
        print(plan, nics, &name, at(0.99), "ms", Some(50.0), more);
    }
    agent.settle();

    foreign(plan, fleet, &agent);
    agent.settle();
    let (rss, peak) = agent.memory_mib();
    print(
        plan,
        nics,
        "resident memory after all of it",
        rss,
        "MiB",
        Some(20.0),
        json!({"peak_mib": peak}),
    );

    // Those of the events are no idling.
    thread::sleep(LAST_ANNOUNCEMENT);
    agent.settle();
    let listeners = fleet.listen();
    agent.kill();
    let (agent, took) = Agent::restart(plan, fleet, 5);
    agent.settle();
    let more = json!({"cpu_ms": agent.cpu().as_secs_f64() * 1000.0, "took_ms": took.as_secs_f64() * 1000.0});
    print(
        plan,
        nics,
        "modifications by an idle restart",
        listeners.heard() as f64,
        "messages",
        Some(0.0),
        more,
    );

    let listeners = fleet.listen();
    let (cpu, listings) = agent.cpu_of_idle_passes(fleet, plan.idle_passes);
    let each = cpu.as_secs_f64() * 1000.0 / listings as f64;
    let target = (nics == 1000).then_some(60.0);
    print(
        plan,
        nics,
        "CPU of an idle full pass with LXD's listing",
        each,
        "ms",
        target,
        json!({"passes": listings}),
    );
    print(
        plan,
        nics,
        "modifications by idle passes",
        listeners.heard() as f64,
        "messages",
        Some(0.0),
        json!({}),
    );
    let hangups = 10;
    let before = agent.cpu();
    for _ in 0..hangups {
        agent.signal("HUP");
        agent.settle();
    }
    let each = (agent.cpu() - before).as_secs_f64() * 1000.0 / f64::from(hangups);
    print(
        plan,
        nics,
        "CPU of an idle full pass of the kernel alone",
        each,
        "ms",
        None,
        json!({"passes": hangups}),
    );
    let (rss, peak) = agent.memory_mib();
    print(
        plan,
        nics,
        "resident memory after idle passes",
        rss,
        "MiB",
        Some(20.0),
        json!({"peak_mib": peak}),
    );
    agent.kill();
}

/// Entries as zebra makes them, added and removed by the usual tools.
fn foreign(plan: &Plan, fleet: &Fleet<'_>, agent: &Agent) {
    let Plan { foreign, .. } = *plan;
    let nics = fleet.nics.len();
    let mac = |n: usize| {
        format!(
            "02:ff:00:{:02x}:{:02x}:{:02x}",
            n >> 16,
            n >> 8 & 255,
            n & 255
        )
    };
    let address = |n: usize| format!("2001:db8::f:{n:x}");
    for (doing, fdb, neighbour) in [("added", "add", "add"), ("removed", "del", "del")] {
        let fdb: String = (0..foreign)
            .map(|n| match fdb {
                "add" => format!("fdb add {} dev vxlan-vpc master extern_learn\n", mac(n)),
                _ => format!("fdb del {} dev vxlan-vpc master\n", mac(n)),
            })
            .collect();
        let neighbours: String = (0..foreign)
            .map(|n| match neighbour {
                "add" => format!(
                    "neigh add {} lladdr {} dev svi-vpc nud noarp extern_learn protocol zebra\n",
                    address(n),
                    mac(n)
                ),
                _ => format!("neigh del {} dev svi-vpc\n", address(n)),
            })
            .collect();
        let full_before = agent.full_passes(fleet);
        agent.settle();
        let before = agent.cpu();
        let started = Instant::now();
        fleet.batch("bridge", &fdb);
        fleet.batch("ip", &neighbours);
        // What is behind it must not wait for it.
        let nic = &fleet.nics[0];
        let asked = Instant::now();
        fleet
            .ns
            .sh(&format!("ip neigh del {} dev svi-vpc", nic.ipv4));
        let behind = loop {
            if fleet
                .ns
                .sh(&format!("ip neigh show {} dev svi-vpc", nic.ipv4))
                .contains("PERMANENT")
            {
                break asked.elapsed();
            }
            assert!(asked.elapsed() < Duration::from_secs(60), "never repaired");
            thread::sleep(Duration::from_millis(2));
        };
        let took = started.elapsed();
        agent.settle();
        let cpu = (agent.cpu() - before).as_secs_f64() * 1000.0;
        // Lost events make it look at everything.
        let lost = agent.full_passes(fleet) - full_before;
        let more = json!({
            "entries": foreign * 2, "took_ms": took.as_secs_f64() * 1000.0,
            "repair_behind_it_ms": behind.as_secs_f64() * 1000.0,
        });
        print(
            plan,
            nics,
            &format!("CPU while 20,000 foreign entries are {doing}"),
            cpu,
            "ms",
            Some(100.0),
            more,
        );
        print(
            plan,
            nics,
            &format!("full passes for lost events, {doing}"),
            lost as f64,
            "passes",
            Some(0.0),
            json!({}),
        );
    }
}

/// Runs a program with a text on its standard input; it must succeed.
pub fn run(program: &str, arguments: &[&str], input: &str) {
    let status = try_run(program, arguments, input);
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

pub fn try_run(program: &str, arguments: &[&str], input: &str) -> ExitStatus {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().expect("it was piped");
    // One that fails need not read all of it.
    let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    drop(stdin);
    child.wait().expect("it is our child")
}
