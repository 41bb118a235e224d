//! A real guest: Linux with virtio in QEMU, on taps as LXD and Incus make them, and its move by QEMU while it runs. Agents,
//! FRR, dnsmasq and the kernel are real; what LXD or Incus would say is replayed, as their daemons run no virtual
//! machine without KVM. The rules of the bridge family are left out, as in `frr`.
//!
//! By name only, as it boots what `integration/guest` makes of the lab's image.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, and write files nobody else reads"
)]

#[allow(dead_code, reason = "a part of it is used here")]
#[path = "frr/fabric.rs"]
mod fabric;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "frr/host.rs"]
mod host;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "frr/pings.rs"]
mod pings;
#[path = "machine/qemu.rs"]
mod qemu;
mod support;

use fabric::{Fabric, remote, taken_back};
use host::{Guest, Host, until};
use pings::Pings;
use qemu::Machine;
use serde_json::Value;

/// In bytes a second: QEMU is done in a moment, or never.
const AT_ONCE: u64 = 10 << 30;
const HARDLY: u64 = 64 << 10;

/// A fabric with a container on either host, whose hosts answer DHCP.
fn fabric() -> (Fabric, [Guest; 2]) {
    let with_dhcp = |file: String| {
        let changed = file.replace("[dhcp]\nenabled = false\n", "");
        assert_ne!(changed, file);
        changed
    };
    let fabric = Fabric::of_fleet(with_dhcp);
    let containers = [10, 20].map(Guest::new);
    fabric.a.launch(&containers[0]);
    fabric.b.launch(&containers[1]);
    fabric.in_step(&[&containers[0]], &[&containers[1]]);
    (fabric, containers)
}

/// The guest is that host's, and of the other one's only by the tunnel.
fn is_on(here: &Host, there: &Host, known: &[&Guest]) {
    until("the other host has it by the tunnel", &true, || {
        let found = there.remote_fdb("vpc");
        found.is_superset(&remote(here.underlay, known))
    });
    let mac = known[0].mac.to_string();
    for (host, wanted) in [(here, 1), (there, 0)] {
        until("who has it locally", &wanted, || {
            host.local_fdb()
                .iter()
                .filter(|line| line.contains(&mac))
                .count()
        });
    }
}

fn pinged<'a>(fabric: &'a Fabric, containers: &[Guest; 2], vm: &Guest) -> [Pings<'a>; 2] {
    let [c10, c20] = containers;
    [
        Pings::start(&fabric.a, c10, vm),
        Pings::start(&fabric.b, c20, vm),
    ]
}

fn tell(what: &str, pings: [Pings<'_>; 2]) -> [usize; 2] {
    let [on_a, on_b] = pings.map(|pings| {
        pings.until_answered(pings.last());
        pings.end()
    });
    println!(
        "{what}: seen from a {} pings lost, longest gap {} ms; from b {}, {} ms",
        on_a.0, on_a.1, on_b.0, on_b.1
    );
    [on_a.0, on_b.0]
}

/// Its DHCP client gets the address and the MTU. Segments of any size that the guest's driver leaves to the host arrive whole,
/// at both ends, and are the right ones.
#[test]
fn a_guest_has_its_address_and_mtu_and_exchanges_segments_with_both_hosts() {
    let (fabric, containers) = fabric();
    let vm = Guest::new(30);
    let machine = Machine::started(&fabric.a, &vm);
    // The tunnel takes 50 of 1500 bytes.
    assert_eq!(
        machine.says("addresses: "),
        "addresses: 192.0.2.30/24 mtu 1450 queues 2 router 192.0.2.1"
    );
    is_on(&fabric.a, &fabric.b, &[&vm]);
    let numbers = fabric.a.sh("seq 1000000 | sha256sum");
    let exchange = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/integration/machine/exchange.py"
    );
    let link_local = vm.mac.eui64_link_local();
    for (host, container) in [&fabric.a, &fabric.b].into_iter().zip(&containers) {
        let inside = format!("ip netns exec c{}", container.number);
        let found = host.sh(&format!("{inside} python3 {exchange} 192.0.2.30"));
        assert_eq!(found, format!("received {numbers}sent {numbers}"));
        for target in ["192.0.2.30".to_string(), format!("{link_local}%eth0")] {
            host.sh(&format!("{inside} ping -q -c 1 -w 60 {target}"));
        }
    }
    let tap = fabric
        .a
        .sh(&format!("ip -j -s link show {}", machine.tap()));
    let tap: Value = serde_json::from_str(&tap).expect("JSON");
    let from_guest = &tap[0]["stats64"]["rx"];
    let [bytes, packets] =
        ["bytes", "packets"].map(|name| from_guest[name].as_u64().expect("a number"));
    assert!(bytes / packets > 1500, "no large segments came: {tap}");
    machine.delete();
    fabric.in_step(&[&containers[0]], &[&containers[1]]);
}

/// There and back: the same guest, which counts on, and no more than a moment without it.
#[test]
fn a_guest_that_qemu_moves_is_away_for_a_moment_only() {
    let (fabric, containers) = fabric();
    let Fabric { a, b, .. } = &fabric;
    let vm = Guest::new(30);
    let mut source = Machine::started(a, &vm);
    is_on(a, b, &[&vm]);
    for (here, there) in [(a, b), (b, a)] {
        let pings = pinged(&fabric, &containers, &vm);
        here.listen();
        let target = Machine::arriving(there, &vm, true);
        target.is_told_of();
        source.moves(&target, AT_ONCE);
        until("all of it is there", &"completed".to_string(), || {
            source.move_is()
        });
        source.is_left();
        target.run_on();
        let last = source.seconds().last().copied().expect("it has counted");
        let tap = source.tap().to_string();
        source.delete();
        is_on(there, here, &[&vm]);
        assert_eq!(taken_back(here, &vm, &tap), 0);
        until("it counts on", &Some(last + 3), || {
            target
                .seconds()
                .into_iter()
                .find(|second| *second == last + 3)
        });
        assert!(
            target.seconds()[0] > last,
            "it has begun anew: {}, {last}",
            target.seconds()[0]
        );
        tell(
            &format!("moved from {} to {}", here.underlay, there.underlay),
            pings,
        );
        source = target;
    }
}

#[test]
fn a_move_that_qemu_gives_up_costs_nothing() {
    let (fabric, containers) = fabric();
    let Fabric { a, b, .. } = &fabric;
    let vm = Guest::new(30);
    let source = Machine::started(a, &vm);
    is_on(a, b, &[&vm]);
    let pings = pinged(&fabric, &containers, &vm);
    a.listen();
    let target = Machine::arriving(b, &vm, true);
    target.is_told_of();
    source.moves(&target, HARDLY);
    // In a cluster there is one record of it, which has the target's device, and then none.
    for tap in [target.tap(), ""] {
        source.is_said_to_run_on(a, tap);
        let (full, _) = a.passes();
        until("a full look", &true, || a.passes().0 > full);
        assert_eq!(source.move_is(), "active");
    }
    source.cancel_move();
    target.delete();
    let (full, _) = a.passes();
    until("a full look", &true, || a.passes().0 > full + 1);
    assert_eq!(a.heard_of(&[&vm]), Vec::<String>::new());
    assert_eq!(tell("given up", pings), [0, 0]);
    is_on(a, b, &[&vm]);
}
