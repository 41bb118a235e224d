//! Where tunnels flood to is in the sets of the host's packet filter, which is the generator's.

use super::support::in_netns;
use super::support::world::World;
use serde_json::Value;
use std::collections::BTreeSet;

/// As `lxmesh-gen` writes it for a fleet whose supervisors are declared by prefix.
const FILTER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/integration/golden/fleets/minimal/supervisor/etc/lxmesh/firewall.nft"
);

/// Somebody else's element, and one that the tests' strangers flood to.
const THEIRS: &str = "192.0.2.250";
const STRANGER: &str = "203.0.113.2";

fn load(world: &World<'_>) {
    world.ns.sh(&format!(
        "nft -f {FILTER}; nft add element inet lxmesh_host vteps4 '{{ {THEIRS} }}'"
    ));
}

/// zebra's entry, or its end.
fn flood(world: &World<'_>, verb: &str, tunnel: &str, vtep: &str) {
    world.ns.sh(&format!(
        "bridge fdb {verb} 00:00:00:00:00:00 dev {tunnel} dst {vtep} self"
    ));
}

fn elements(world: &World<'_>) -> BTreeSet<String> {
    let sets = ["vteps4", "vteps6"].map(|set| {
        let text = world
            .ns
            .sh(&format!("nft -j list set inet lxmesh_host {set}"));
        let listing: Value = serde_json::from_str(&text).unwrap();
        listing["nftables"][1]["set"]["elem"].clone()
    });
    let listed = sets.iter().filter_map(Value::as_array).flatten();
    listed
        .map(|element| match element.as_str() {
            Some(plain) => plain.to_string(),
            None => element["elem"]["val"].as_str().unwrap().to_string(),
        })
        .collect()
}

fn until(world: &mut World<'_>, what: &str, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|one| one.to_string()).collect();
    world.until(&format!("{what}: {expected:?}"), |world| {
        (elements(world) == expected).then_some(())
    });
}

#[test]
fn where_tunnels_flood_to_is_in_the_packet_filter_at_once_and_others_elements_stay() {
    in_netns(|ns| {
        let world = World::new(ns);
        load(&world);
        let mut world = world.started();
        until(&mut world, "what is there", &[THEIRS, STRANGER]);
        flood(&world, "append", "vxlan-vpc", "203.0.113.3");
        until(&mut world, "one more", &[THEIRS, STRANGER, "203.0.113.3"]);
        flood(&world, "append", "vxlan-dmz", "203.0.113.3");
        flood(&world, "append", "vxlan-dmz", "203.0.113.4");
        let all = [THEIRS, STRANGER, "203.0.113.3", "203.0.113.4"];
        until(&mut world, "on another tunnel", &all);
        // A tunnel of nobody's, and an entry for one MAC.
        flood(&world, "append", "vxlan-other", "203.0.113.66");
        world
            .ns
            .sh("bridge fdb add 02:ee:00:00:00:09 dev vxlan-vpc dst 203.0.113.67 self");
        world.settle();
        until(&mut world, "no more than that", &all);

        // Somebody empties it; loads it anew, which leaves what is in the sets; deletes it.
        world.ns.sh("nft flush set inet lxmesh_host vteps4");
        until(&mut world, "after a flush", &all[1..]);
        let changes = |world: &World<'_>| world.status().unwrap()["passes"]["changes"].clone();
        let before = changes(&world);
        load(&world);
        until(&mut world, "after the same file", &all);
        world.ns.sh("nft delete table inet lxmesh_host");
        assert_eq!(changes(&world), before, "{}", world.log());
        world.settle();
        assert_eq!(world.status().unwrap()["passes"]["failures"], 0);
        load(&world);
        until(&mut world, "made anew", &all);

        // FRR is restarted: everything goes, and comes back.
        for (tunnel, vtep) in [
            ("vxlan-vpc", "203.0.113.3"),
            ("vxlan-dmz", "203.0.113.3"),
            ("vxlan-dmz", "203.0.113.4"),
        ] {
            flood(&world, "del", tunnel, vtep);
        }
        world.settle();
        assert_eq!(elements(&world).len(), 4, "{}", world.log());
        assert_eq!(world.logged("- vtep"), [""; 0]);

        world.stop();
        let purged = world.output(&["purge", "--yes"]);
        assert!(purged.status.success());
        until(&mut world, "after a purge", &[THEIRS]);
    });
}

#[test]
fn a_tunnel_end_point_that_stays_away_is_taken_out() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        load(&world);
        world
            .environment
            .insert("LXMESH_TEST_VTEP_LINGERS_S".into(), "2".into());
        flood(&world, "append", "vxlan-vpc", "203.0.113.3");
        flood(&world, "append", "vxlan-vpc", "203.0.113.4");
        let mut world = world.started();
        let all = [THEIRS, STRANGER, "203.0.113.3", "203.0.113.4"];
        until(&mut world, "what is there", &all);
        flood(&world, "del", "vxlan-vpc", "203.0.113.4");
        until(&mut world, "one stays away", &all[..3]);
        assert_eq!(world.logged("- vtep").len(), 1, "{}", world.log());
        assert_eq!(world.logged("+ vtep").len(), 3, "{}", world.log());
        world.in_step();
    });
}

/// Declared one by one, and without encryption: the packet filter needs no more than the host file.
#[test]
fn where_every_host_is_declared_nothing_is_added() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let text = world.host_file();
        let declared = text.replace("\"203.0.113.0/24\"", "\"203.0.113.1\", \"203.0.113.2\"");
        assert_ne!(declared, text);
        world.write_host_file(&declared);
        load(&world);
        world.fabric = vec!["203.0.113.1", "203.0.113.2", "203.0.113.100"];
        let mut world = world.started();
        flood(&world, "append", "vxlan-vpc", "203.0.113.3");
        world.settle();
        until(&mut world, "nothing but theirs", &[THEIRS]);
    });
}
