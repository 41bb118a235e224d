//! What root in a container can do to keep the agent busy. Passes and changes are counted, not time: their number does
//! not depend on the machine.

use super::cold_start::dnsmasq_listens;
use super::support::in_netns;
use super::support::world::{Nic, World};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Passes about some NICs, and changes, since the agent started.
fn counts(world: &mut World<'_>) -> (u64, u64) {
    let status = world.until("a status", |world| world.status());
    let count = |name: &str| status["passes"][name].as_u64().unwrap();
    (count("scoped"), count("changes"))
}

/// Two instances that have been there for a while: what is quick after a quiet time is quick.
fn quiet(world: World<'_>) -> (World<'_>, Nic, Nic) {
    let mut world = world;
    let (mallory, bob) = (world.launch("mallory", "vpc"), world.launch("bob", "vpc"));
    let mut world = world.started();
    world.until("dnsmasq listens", dnsmasq_listens);
    sleep(Duration::from_secs(11));
    (world, mallory, bob)
}

/// Runs a program where the instances' ends are, without waiting for it. Its end is seen by a file.
fn begin(world: &World<'_>, program: &str) {
    let (file, done) = (world.path("flood"), world.path("done"));
    std::fs::write(&file, program).unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/integration");
    let runs = match program.starts_with("from ") {
        true => "python3",
        false => "sh",
    };
    world.in_peers(&format!(
        "env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={root}/agent:{root}/labkit/scenarios \
         sh -c '({runs} {}; touch {}) > {}.log 2>&1 &'",
        file.display(),
        done.display(),
        file.display()
    ));
}

fn until_over(world: &mut World<'_>) {
    world.until("the flood is over", |world| {
        world.path("done").exists().then_some(())
    });
    let complaints = std::fs::read_to_string(world.path("flood.log")).unwrap();
    assert_eq!(complaints, "");
}

/// How long it takes until what the damage took away is there again.
fn repaired(world: &mut World<'_>, damage: &str, there: impl Fn(&World<'_>) -> bool) -> Duration {
    assert!(there(world));
    world.ns.sh(damage);
    let start = Instant::now();
    world.until("it is repaired", |world| there(world).then_some(()));
    start.elapsed()
}

/// dnsmasq makes the neighbour entry stale each time.
#[test]
fn a_client_that_asks_for_its_address_all_the_time_costs_a_repair_every_two_seconds() {
    in_netns(|ns| {
        let (mut world, mallory, bob) = quiet(World::new(ns));
        let (passes, changes) = counts(&mut world);
        let start = Instant::now();
        begin(
            &world,
            &format!(
                "from dhcp_client import *\n\
                 mallory = Client('{}p', '{}', patience=0)\n\
                 for n in range(300):\n    mallory.four(DISCOVER, flags=0)\n    time.sleep(0.025)\n",
                mallory.port, mallory.mac
            ),
        );
        sleep(Duration::from_secs(3));
        let (Nic { mac, port, .. }, fdb) = (&bob, "bridge fdb show br svi-vpc");
        let took = repaired(
            &mut world,
            &format!("bridge fdb del {mac} dev {port} master"),
            |world| world.ns.sh(fdb).contains(mac.as_str()),
        );
        assert!(took < Duration::from_millis(1500), "{took:?}");
        until_over(&mut world);
        let four = mallory.ipv4.as_deref().unwrap();
        let show = format!("ip neighbour show {four} dev svi-vpc");
        let over = Instant::now();
        world.until("it is permanent again", |world| {
            world.ns.sh(&show).contains("PERMANENT").then_some(())
        });
        assert!(over.elapsed() < Duration::from_secs(3));
        world.in_step();

        let halves = start.elapsed().as_secs() / 2;
        let (passes, changes) = {
            let now = counts(&mut world);
            (now.0 - passes, now.1 - changes)
        };
        assert!((3..=halves + 8).contains(&changes), "{changes} changes");
        assert!(passes <= halves + 12, "{passes} passes");
        // Nothing is said of what dnsmasq does as a matter of course.
        assert_eq!(world.logged(&format!("neighbour svi-vpc {four}")), [""; 0]);
    });
}

#[test]
fn an_interface_that_goes_down_and_up_all_the_time_costs_a_pass_every_two_seconds() {
    in_netns(|ns| {
        let (mut world, mallory, _) = quiet(World::new(ns));
        let (passes, _) = counts(&mut world);
        let (start, port) = (Instant::now(), &mallory.port);
        begin(
            &world,
            &format!(
                "for i in $(seq 300); do ip link set {port}p down; ip link set {port}p up; done"
            ),
        );
        sleep(Duration::from_secs(1));
        // The filters do not wait.
        let took = repaired(
            &mut world,
            &format!("nft 'delete element bridge lxmesh nic_ports {{ \"{port}\" }}'"),
            |world| {
                let ports = world.ns.sh("nft list set bridge lxmesh nic_ports");
                ports.contains(port.as_str())
            },
        );
        assert!(took < Duration::from_millis(1500), "{took:?}");
        until_over(&mut world);
        world.in_step();
        sleep(Duration::from_secs(3));
        let passes = counts(&mut world).0 - passes;
        let halves = start.elapsed().as_secs() / 2;
        assert!((3..=halves + 12).contains(&passes), "{passes} passes");
    });
}
