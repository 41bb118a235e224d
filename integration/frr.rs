//! FRR as the other reader of what the agent installs: two supervisors and a reflector, each in
//! namespaces of its own (network, mounts, processes) with FRR's real files and paths, configured
//! by `lxmesh-gen`; on the supervisors the real `lxmesh agent` beside a fake LXD. What is true is
//! asked of `ip`, `bridge` and `vtysh`.
//!
//! FRR 8.4 does for this, although the product wants 9.0.1 or newer. The rules of the bridge family
//! are left out (LXMESH_TEST_SETS_ONLY): filters are other tests' matter.
//!
//! Broken once, to see (8.4.4): with `permanent` FDB entries there is no type-2 route at all; with
//! static ones instead of extern_learn there are the same routes; with extern_learn neighbours,
//! NOARP or PERMANENT, only the MACs are announced.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, and write files nobody else reads"
)]

#[path = "frr/apply.rs"]
mod apply;
#[path = "frr/fabric.rs"]
mod fabric;
#[path = "frr/host.rs"]
mod host;
#[path = "frr/migration.rs"]
mod migration;
#[path = "frr/pings.rs"]
mod pings;
#[path = "frr/routers.rs"]
mod routers;
mod support;

use fabric::{Fabric, remote};
use host::{Guest, Host, Lines, NETWORKS, until};
use pings::Pings;
use serde_json::{Value, json};

fn lines<const N: usize>(lines: [&str; N]) -> Lines {
    lines.map(str::to_string).into()
}

#[test]
fn what_the_agent_installs_is_on_the_other_host_until_the_instance_stops() {
    let fabric = Fabric::new();
    let Fabric { a, b, reflector } = &fabric;
    // Nobody is to hear of these: an address of this host itself, and what another host announced.
    a.sh("ip link add veth-stray type veth peer name stray; ip link set veth-stray master svi-vpc up
          bridge fdb add 02:ee:00:00:00:01 dev veth-stray master
          ip neighbour add 192.0.2.99 lladdr 02:ee:00:00:00:02 dev svi-vpc nud permanent extern_learn proto static");
    let [c10, c20] = [10, 20].map(Guest::new);

    for (name, _) in NETWORKS {
        until("type-3 routes of b on a", &remote(b.underlay, &[]), || {
            a.remote_fdb(name)
        });
        until("type-3 routes of a on b", &remote(a.underlay, &[]), || {
            b.remote_fdb(name)
        });
    }
    // Of either host one for each network.
    let flooding = [a, a, b, b].map(|host| format!("[3]:[0]:[32]:[{}]", host.underlay));
    assert_eq!(reflector.routes(3), flooding);

    a.launch(&c10);
    fabric.in_step(&[&c10], &[]);
    b.launch(&c20);
    fabric.in_step(&[&c10], &[&c20]);
    a.sh("ip netns exec c10 ping -qc 1 -w 60 192.0.2.20");
    assert_eq!(a.status()["networks"][0]["vteps"], json!([b.underlay]));
    assert_eq!(
        a.neighbours("static"),
        lines(["192.0.2.99 02:ee:00:00:00:02 PERMANENT extern_learn"])
    );

    a.stop(&c10);
    fabric.in_step(&[], &[&c20]);
    // And goes on elsewhere.
    b.launch(&c10);
    fabric.in_step(&[], &[&c10, &c20]);
    for host in [a, b] {
        assert_eq!(host.status()["passes"]["failures"], 0);
    }
}

/// Zebra may hear that the port is gone before it hears that its MAC is, and then takes no notice of
/// the latter.
#[test]
fn an_instance_whose_device_went_while_zebra_was_busy_is_withdrawn() {
    let fabric = Fabric::new();
    let Fabric { a, b, .. } = &fabric;
    let [c10, c20] = [10, 20].map(Guest::new);
    a.launch(&c10);
    b.launch(&c20);
    fabric.in_step(&[&c10], &[&c20]);
    let lose = |guest: &Guest| {
        a.signal_frr("STOP", "zebra");
        a.sh(&format!("ip link delete veth{}", guest.number));
        a.stop(guest);
        a.signal_frr("CONT", "zebra");
    };
    lose(&c10);
    fabric.in_step(&[], &[&c20]);
    // The same, with another instance behind the same bridge.
    let [c11, c12] = [11, 12].map(Guest::new);
    a.launch(&c11);
    a.launch(&c12);
    fabric.in_step(&[&c11, &c12], &[&c20]);
    lose(&c11);
    fabric.in_step(&[&c12], &[&c20]);
}

/// So that packets with tags are let in again, on kernels that drop them after a change of the tunnel (6.14 and later).
#[test]
fn what_is_behind_a_tunnel_that_the_agent_makes_anew_is_told_of_again() {
    let fabric = Fabric::of_fleet(|file| file + "\n[tags]\nweb = 0\n");
    let Fabric { a, b, .. } = &fabric;
    let [c10, c20] = [10, 20].map(Guest::new);
    a.launch(&c10);
    b.launch(&c20);
    fabric.in_step(&[&c10], &[&c20]);
    for (host, zebra_is_busy) in [(a, false), (b, true)] {
        let index = || host.sh("ip -o link show dev vxlan-vpc | cut -d: -f1");
        let before = index();
        let pings = Pings::start(b, &c20, &c10);
        if zebra_is_busy {
            host.signal_frr("STOP", "zebra");
        }
        host.sh("ip link set dev vxlan-vpc type vxlan learning");
        until("no learning", &true, || {
            let said = host.sh("ip -d link show dev vxlan-vpc || true");
            said.contains(" nolearning ")
        });
        if zebra_is_busy {
            host.signal_frr("CONT", "zebra");
        }
        pings.until_answered(pings.last());
        fabric.in_step(&[&c10], &[&c20]);
        assert_eq!(index(), before);
        let (lost, gap) = pings.end();
        println!("zebra is busy: {zebra_is_busy}: {lost} lost, {gap} ms without an answer");
        a.sh("ip netns exec c10 ping -qc 1 -w 60 192.0.2.20");
    }
}

/// What the agent relies on to make zebra forget a MAC whose end it missed.
#[test]
fn an_entry_of_the_tunnels_own_table_takes_a_local_mac_back_and_does_nothing_otherwise() {
    let fabric = Fabric::new();
    let Fabric { a, reflector, .. } = &fabric;
    let there = Guest::new(20);
    fabric.b.launch(&there);
    fabric.in_step(&[], &[&there]);
    let local = "02:00:00:00:00:30";
    a.sh(&format!(
        "ip link add stray type veth peer name stray-end; ip link set stray master svi-vpc; ip link set stray type bridge_slave learning off; ip link set stray up; ip link set stray-end up
         bridge fdb add {local} dev stray master extern_learn"
    ));
    let mut routes = there.routes();
    let theirs = routes.clone();
    routes.push(format!("[2]:[0]:[48]:[{local}]"));
    routes.sort();
    // It ignores an entry on a port that it does not know yet.
    until("zebra announces it", &routes, || {
        a.sh(&format!("bridge fdb replace {local} dev stray master static; bridge fdb replace {local} dev stray master extern_learn"));
        reflector.routes(2)
    });
    for mac in ["02:00:00:00:00:31", local] {
        a.sh(&format!(
            "bridge fdb add {mac} dev vxlan-vpc dst 127.0.0.1 port 9 self dynamic
             bridge fdb del {mac} dev vxlan-vpc dst 127.0.0.1 port 9 self"
        ));
    }
    let mut routes = theirs;
    routes.sort();
    until("zebra takes it back", &routes, || reflector.routes(2));
    assert!(a.sh("bridge fdb show br svi-vpc").contains(local));
    fabric.in_step(&[], &[&there]);
}

#[test]
fn full_passes_leave_what_zebra_installed_alone() {
    let fabric = Fabric::new();
    let [c10, c20] = [10, 20].map(Guest::new);
    fabric.a.launch(&c10);
    fabric.b.launch(&c20);
    fabric.in_step(&[&c10], &[&c20]);
    let (passes, changes) = fabric.a.passes();
    fabric.a.listen();
    until("two more full passes", &true, || {
        fabric.a.passes().0 >= passes + 2
    });
    assert_eq!(fabric.a.heard_of(&[&c10, &c20]), Vec::<String>::new());
    assert_eq!(fabric.a.passes().1, changes);
    fabric.in_step(&[&c10], &[&c20]);
}

#[test]
fn the_doctor_knows_whether_sessions_are_established() {
    let fabric = Fabric::new();
    let level = |host: &Host| -> String {
        let doctor = concat!(env!("CARGO_BIN_EXE_lxmesh"), " doctor --json");
        let text = host.sh(&format!(
            "{doctor} --host-file /run/test/host.toml || [ $? = 2 ]"
        ));
        let document: Value = serde_json::from_str(&text).unwrap();
        let findings = document["findings"].as_array().unwrap();
        let of_bgp = findings.iter().find(|finding| finding["topic"] == "bgp");
        let finding = of_bgp.unwrap();
        let text = finding["text"].as_str().unwrap();
        assert!(text.contains("198.51.100.102 is "), "{text}");
        finding["level"].as_str().unwrap().to_string()
    };
    // The fleet's other reflector is not there.
    let some = "warning".to_string();
    let Fabric { a, reflector, .. } = &fabric;
    until("a has one session", &some, || level(a));
    until("the reflector has sessions", &some, || level(reflector));
    reflector.stop_frr("KILL", "bgpd");
    until("a has none", &"problem".to_string(), || level(a));
    reflector.start_frr("bgpd");
    until("a has one again", &some, || level(a));
}

#[test]
fn restarting_frr_leaves_local_entries_alone_and_brings_remote_ones_back() {
    let fabric = Fabric::new();
    let Fabric { a, b, .. } = &fabric;
    let [c10, c20] = [10, 20].map(Guest::new);
    a.launch(&c10);
    b.launch(&c20);
    fabric.in_step(&[&c10], &[&c20]);
    a.sh("nft -f /run/test/etc/lxmesh/firewall.nft");
    until("the packet filter knows b", &true, || a.lets_in(b.underlay));
    let (_, changes) = a.passes();
    a.listen();

    a.stop_frr("TERM", "bgpd zebra");
    until("zebra takes its own with it", &Lines::new(), || {
        a.remote_fdb("vpc")
    });
    until("its neighbours too", &Lines::new(), || {
        a.neighbours("zebra")
    });
    until("nothing on b points to a", &Lines::new(), || {
        b.remote_fdb("vpc")
    });
    a.start_frr("zebra bgpd");
    fabric.in_step(&[&c10], &[&c20]);

    a.stop_frr("KILL", "bgpd");
    until("nothing on b points to a", &Lines::new(), || {
        b.remote_fdb("vpc")
    });
    a.start_frr("bgpd");
    fabric.in_step(&[&c10], &[&c20]);

    // A zebra that dies leaves its entries in the kernel. watchfrr then restarts bgpd as well, and
    // must: a bgpd that outlives its zebra does not tell the next one what is where. And what was
    // withdrawn meanwhile stays in the kernel for good. (Seen with FRR 8.4.4.)
    a.stop_frr("KILL", "zebra");
    a.stop_frr("TERM", "bgpd");
    a.sh(&format!(
        "bridge fdb del {} dev vxlan-vpc master; ip neighbour del 192.0.2.20 dev svi-vpc",
        c20.mac
    ));
    a.start_frr("zebra bgpd");
    fabric.in_step(&[&c10], &[&c20]);

    assert_eq!(a.heard_of(&[&c10]), Vec::<String>::new());
    // Not even the packet filter: b went on to send all the time.
    assert_eq!(a.passes().1, changes);
    assert!(a.lets_in(b.underlay));
}
