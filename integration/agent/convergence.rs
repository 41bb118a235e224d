//! Whatever happens in whatever order: in the end everything is as it should be, a second plan is
//! empty, and strangers are as they were.

use super::lifecycle::stop;
use super::repairs::with_names_of;
use super::support::fake_lxd::{Fault, Status};
use super::support::in_netns;
use super::support::world::{Nic, World};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::env;

/// One thing that happens. Numbers choose among the NICs that there are.
#[derive(Debug, Clone)]
enum Event {
    Launch(bool),
    Stop(usize),
    Pause(usize),
    /// Another address, another service; LXD tells of it or not.
    Change(usize, bool),
    Damage(usize, usize),
    Fault(usize),
    Heal,
    Restart,
    EventsLost,
}

const MOST: usize = 8;

/// What somebody may do to what is ours; some of it does not succeed in some worlds.
const DAMAGES: [&str; 17] = [
    "bridge fdb del MAC dev PORT master",
    "bridge fdb add MAC dev br-other self",
    "bridge fdb replace MAC dev PORT master static",
    "ip neighbour del V4 dev SVI",
    "ip neighbour replace V6 lladdr 02:66:66:66:66:66 dev SVI nud permanent protocol 242",
    // Of another MAC it would be another host's NIC's, and the address, if it is new, would go there.
    "ip neighbour replace V4 lladdr MAC dev SVI nud noarp extern_learn protocol zebra",
    "ip link set PORT nomaster",
    // One that was never attached is somebody else's there.
    "ip link show PORT | grep -q 'master SVI' && ip link set PORT master br-other",
    "ip link set PORT down",
    "ip link set PORT type bridge_slave learning on flood on guard off",
    "ip link set SVI type bridge mcast_querier 0",
    "ip link set PORT type bridge_slave isolated on proxy_arp on",
    "nft 'delete element bridge lxmesh nic_ports { \"PORT\" }'",
    "nft 'flush set bridge lxmesh in_svc'",
    "nft delete table bridge lxmesh",
    "nft delete table inet lxmesh",
    "ip route flush protocol 242",
];

const FAULTS: [Fault; 8] = [
    Fault::Status500,
    Fault::CutOff,
    Fault::CutOffJson,
    Fault::EmptyListing,
    Fault::ShortListing,
    Fault::Garbage,
    Fault::WrongShape,
    Fault::Refuse,
];

fn event() -> impl Strategy<Value = Event> {
    let any_nic = 0..MOST;
    prop_oneof![
        4 => any::<bool>().prop_map(Event::Launch),
        2 => any_nic.clone().prop_map(Event::Stop),
        1 => any_nic.clone().prop_map(Event::Pause),
        2 => (any_nic.clone(), any::<bool>()).prop_map(|(nic, told)| Event::Change(nic, told)),
        5 => (any_nic, 0..DAMAGES.len()).prop_map(|(nic, damage)| Event::Damage(nic, damage)),
        1 => (0..FAULTS.len()).prop_map(Event::Fault),
        2 => Just(Event::Heal),
        1 => Just(Event::Restart),
        1 => Just(Event::EventsLost),
    ]
}

fn happens(world: &mut World<'_>, paused: &mut Vec<Nic>, event: &Event) {
    let chosen = |world: &World<'_>, n: usize| {
        let nics = &world.nics;
        (!nics.is_empty()).then(|| nics[n % nics.len()].clone())
    };
    match *event {
        Event::Launch(first) => {
            if world.nics.len() + paused.len() < MOST {
                let name = format!("c{}", world.made);
                world.launch(&name, if first { "vpc" } else { "dmz" });
            }
        }
        Event::Stop(n) => {
            if let Some(nic) = chosen(world, n) {
                stop(world, &nic);
            }
        }
        Event::Pause(n) => {
            if let Some(nic) = chosen(world, n) {
                world.set(&nic, Status::Frozen);
                world.forget(&nic);
                world
                    .lxd
                    .emit("instance-paused", &nic.project, &nic.instance);
                paused.push(nic);
            }
        }
        Event::Change(n, told) => {
            if let Some(mut nic) = chosen(world, n) {
                let fresh = world.nic("", nic.network);
                (nic.ipv4, nic.in_services) = (fresh.ipv4, vec!["tcp/8080".into()]);
                world.set(&nic, Status::Running);
                world.expect(&nic);
                if told {
                    world
                        .lxd
                        .emit("instance-updated", &nic.project, &nic.instance);
                }
            }
        }
        Event::Damage(n, damage) => {
            if let Some(nic) = chosen(world, n) {
                let _ = world.ns.try_sh(&with_names_of(&nic, DAMAGES[damage]));
            }
        }
        Event::Fault(fault) => world.lxd.fail(FAULTS[fault]),
        Event::Heal => world.lxd.heal(),
        Event::Restart => {
            world.kill();
            world.start();
        }
        Event::EventsLost => world.lxd.close_events(),
    }
}

fn converges(events: &[Event]) {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        world.launch("first", "vpc");
        let mut world = world.started();
        let strangers = world.strangers();
        let mut paused = Vec::new();
        for event in events {
            happens(&mut world, &mut paused, event);
        }
        world.lxd.heal();
        for nic in paused {
            world.set(&nic, Status::Running);
            world.expect(&nic);
        }
        world.in_step();
        world.until("a plan has nothing to do", |world| {
            let plan = world.output(&["plan"]);
            (plan.stdout == b"nothing to do\n").then_some(())
        });
        world.strangers_are(&strangers);
    });
}

#[test]
fn whatever_happens_all_is_well_in_the_end() {
    let config = Config {
        cases: env::var("PROPTEST_CASES").map_or(12, |cases| cases.parse().expect("a number")),
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&prop::collection::vec(event(), 1..30), |events| {
            // What happened must be told if the test fails.
            println!("{events:?}");
            converges(&events);
            Ok(())
        })
        .unwrap();
}
