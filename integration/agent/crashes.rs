//! The agent is killed before each single thing that it writes, one after the other, while it
//! attaches a NIC, changes it, takes it away: whatever it leaves then lets nothing pass that should
//! not, and the next agent brings all in step.

use super::cold_start::busy_world;
use super::lifecycle::stop;
use super::support::expected::{Lines, of_nic};
use super::support::fake_lxd::Status;
use super::support::in_netns;
use super::support::world::{Nic, World};
use std::collections::BTreeMap;

/// Lets it happen again and again, each time with an agent that dies one step later, until one
/// gets through; `back` undoes it. Returns how many steps there are.
fn killed_at_every_step(
    mut happens: impl FnMut(&mut World<'_>, u32) + Send,
    mut back: impl FnMut(&mut World<'_>, &[Nic]) + Send,
) -> u32 {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let strangers = world.strangers();
        let file = world.path("crash");
        world.stop();
        let name = file.to_str().expect("a plain name");
        world
            .environment
            .insert("LXMESH_TEST_CRASH_FILE".into(), name.into());
        world.start();
        rests(&mut world);
        for step in 1.. {
            let before = world.nics.clone();
            std::fs::write(&file, step.to_string()).unwrap();
            happens(&mut world, step);
            let died = world.until("the agent dies or is done", |world| {
                if world.has_ended() {
                    return Some(true);
                }
                world.differences().is_empty().then_some(false)
            });
            let died = died || !survives(&mut world);
            std::fs::remove_file(&file).unwrap();
            assert_eq!(open(&world, &before), [""; 0], "after step {step}");
            if !died {
                world.strangers_are(&strangers);
                println!("{} steps", step - 1);
                return step - 1;
            }
            world.start();
            rests(&mut world);
            back(&mut world, &before);
            rests(&mut world);
        }
        unreachable!("there are steps without end")
    })
}

/// Waits until the agent has looked at everything and has nothing to do.
fn rests(world: &mut World<'_>) {
    world.until("the agent has looked at everything", |world| {
        (world.status()?["passes"]["full"].as_u64()? >= 1).then_some(())
    });
    world.in_step();
}

/// Whether the agent lives through another look at everything. Twice: the first that ends may have
/// begun before whatever happened.
fn survives(world: &mut World<'_>) -> bool {
    looks_again(world) && looks_again(world)
}

fn looks_again(world: &mut World<'_>) -> bool {
    let full = |world: &World<'_>| world.status()?["passes"]["full"].as_u64();
    let Some(before) = full(world) else {
        return !world.has_ended();
    };
    // It may die at this very moment.
    let _ = world.ns.try_sh(&format!("kill -HUP {}", world.pid()));
    world.until("another look at everything", |world| {
        if world.has_ended() {
            return Some(false);
        }
        (full(world)? > before).then_some(true)
    })
}

/// What is open or announced and should not be: the invariant, told from what the kernel shows
/// and what the NICs were before and should be now.
fn open(world: &World<'_>, before: &[Nic]) -> Vec<String> {
    let found = world.found();
    let has = |line: String| found.contains(&line);
    let held = |family: &str, port: &str| has(format!("set {family} nic_ports {port}"));
    let sources = |end: String| {
        let ids = ["set bridge nic_id4 ", "set bridge nic_id6 "];
        let mut lines = found.iter();
        lines.any(|line| ids.iter().any(|id| line.starts_with(id)) && line.ends_with(&end))
    };
    let mut wrong = Vec::new();
    let mut blame = |fine: bool, what: String| {
        if !fine {
            wrong.push(what);
        }
    };
    for line in &found {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // A member of a bridge is in the filters; one that forwards is locked, too.
            ["port", port, ..] if !port.starts_with("vxlan") => {
                let in_sets = held("bridge", port) && held("inet", port);
                blame(in_sets, format!("not in the filters: {line}"));
                let checked = has(format!("checked {port} by 1"));
                blame(checked, format!("not checked: {line}"));
                let locked = world
                    .nics
                    .iter()
                    .chain(before)
                    .any(|nic| of_nic(nic).contains(line));
                let locked = locked || line.contains(" up false ");
                blame(locked, format!("forwards with other settings: {line}"));
            }
            // What FRR announces, and what leads packets there, has its sender's filter in force.
            ["fdb", _, mac, "on", port] => {
                let known =
                    held("bridge", port) && has(format!("set bridge nic_macs {port} . {mac}"));
                blame(known, format!("announced, but not in the filters: {line}"));
            }
            ["neighbour", _, address, mac, ..] => {
                let known = sources(format!(" . {mac} . {address}"));
                blame(known, format!("announced, but not in the filters: {line}"));
            }
            ["route", address, ..] => {
                let known = sources(format!(" . {address}"));
                blame(known, format!("not in the filters: {line}"));
            }
            ["mdb", _, port, ..] => {
                blame(held("bridge", port), format!("not in the filters: {line}"))
            }
            _ => {}
        }
    }
    // The filters hold of each port all that was, all that shall be, or nothing.
    for (port, have) in by_port(&found) {
        let nics = world.nics.iter().chain(before);
        let mut versions = nics
            .filter(|nic| nic.port == port)
            .map(|nic| elements(&of_nic(nic), &port));
        blame(
            versions.any(|version| version == have),
            format!("half a policy: {have:?}"),
        );
    }
    // Up and in no bridge, a port would hand its frames to the host's own stack.
    for nic in world.nics.iter().chain(before) {
        let link = world.ns.try_sh(&format!("ip -o link show {}", nic.port));
        let loose = link.is_ok_and(|link| link.contains(",UP") && !link.contains(" master "));
        blame(!loose, format!("{} is up, but in no bridge", nic.port));
    }
    wrong
}

/// The elements of each port that has any.
fn by_port(found: &Lines) -> BTreeMap<String, Lines> {
    let ports = found
        .iter()
        .filter_map(|line| line.strip_prefix("set bridge "));
    let ports = ports.filter_map(|line| line.split(' ').nth(1));
    let ports = ports.filter(|port| port.starts_with("veth"));
    ports
        .map(|port| (port.to_string(), elements(found, port)))
        .collect()
}

fn elements(lines: &Lines, port: &str) -> Lines {
    let of_port =
        |line: &&String| line.starts_with("set ") && line.split(' ').any(|word| word == port);
    lines.iter().filter(of_port).cloned().collect()
}

fn nothing(_: &mut World<'_>, _: &[Nic]) {}

#[test]
fn an_agent_killed_while_it_attaches_leaves_nothing_open() {
    let steps = killed_at_every_step(
        |world, step| {
            let network = if step % 2 == 0 { "vpc" } else { "dmz" };
            let mut nic = world.nic(&format!("new{step}"), network);
            nic.mark = 1;
            nic.in_services.push("tcp/8000-8010@192.0.2.0/24".into());
            world.run(&nic);
        },
        nothing,
    );
    // Host names for dnsmasq, filters, the port, its FDB entry, neighbours, groups and routes.
    assert!(steps >= 10, "only {steps} steps");
}

#[test]
fn an_agent_killed_while_it_changes_a_nic_leaves_nothing_open() {
    let steps = killed_at_every_step(
        |world, _| {
            let mut nic = world.nics[0].clone();
            let other = world.nic(&nic.instance, nic.network);
            (nic.ipv4, nic.ipv6) = (other.ipv4, other.ipv6);
            let number = 8000 + world.made;
            nic.in_services = vec![format!("tcp/{number}"), "tcp/22@tag:bastion".into()];
            nic.out_services = vec![format!("udp/{number}-9000@192.0.2.0/24")];
            nic.mark ^= 8;
            again(world, &nic);
        },
        nothing,
    );
    assert!(steps >= 8, "only {steps} steps");
}

/// LXD knows it so, and tells.
fn again(world: &mut World<'_>, nic: &Nic) {
    world.set(nic, Status::Running);
    world.expect(nic);
    world
        .lxd
        .emit("instance-updated", &nic.project, &nic.instance);
}

#[test]
fn an_agent_killed_while_a_device_is_made_anew_leaves_nothing_open() {
    let steps = killed_at_every_step(
        |world, step| {
            let nic = world.nics[0].clone();
            let anew = Nic {
                port: format!("vethanew{step}"),
                in_services: vec![format!("tcp/{}", 8000 + step)],
                ..nic.clone()
            };
            world.unplug(&nic);
            world.plug(&anew);
            again(world, &anew);
        },
        nothing,
    );
    assert!(steps >= 4, "only {steps} steps");
}

#[test]
fn an_agent_killed_while_it_withdraws_leaves_nothing_open() {
    let steps = killed_at_every_step(
        |world, _| {
            // Its device stays.
            let nic = world.nics[0].clone();
            world.set(&nic, Status::Frozen);
            world.forget(&nic);
            world
                .lxd
                .emit("instance-paused", &nic.project, &nic.instance);
        },
        |world, before| again(world, &before[0]),
    );
    assert!(steps >= 10, "only {steps} steps");
}

#[test]
fn an_agent_killed_after_a_device_went_leaves_nothing_open() {
    let steps = killed_at_every_step(
        |world, _| {
            let nic = world.nics[0].clone();
            stop(world, &nic);
        },
        |world, _| {
            world.launch("next", "vpc");
            let last = world.nics.pop().expect("it was launched");
            world.nics.insert(0, last);
        },
    );
    assert!(steps >= 6, "only {steps} steps");
}

#[test]
fn an_agent_killed_while_it_replaces_altered_filters_leaves_nothing_open() {
    let steps = killed_at_every_step(
        |world, step| {
            let damage = format!("nft add set bridge lxmesh extra{step} '{{ type ifname; }}'");
            world.stop();
            world.ns.sh(&damage);
            // It has nothing to compare with: the text is tried out before it is loaded.
            world.start();
            world.until("it answers or has died", |world| {
                (world.has_ended() || world.status().is_some()).then_some(())
            });
        },
        |world, _| {
            let tables = world.ns.sh("nft list tables");
            assert!(!tables.contains("reference"), "{tables}");
        },
    );
    assert!(steps >= 3, "only {steps} steps");
}
