//! The check of deferred checksums on ports: it is there before a port joins its bridge, comes again, goes
//! with the port, and a port that cannot have it is not connected.

use super::cold_start::busy_world;
use super::support::checks::{MOST, Stranger, attached, detach_first};
use super::support::expected::of_nic;
use super::support::in_netns;
use super::support::world::World;
use std::fs;

#[test]
fn what_was_taken_off_comes_again_and_strangers_stay() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let port = ns.index(&world.nics[0].port);
        let after = Stranger::load();
        detach_first(port);
        assert_eq!(attached(port), 0);
        world.signal("HUP");
        world.in_step();
        assert_eq!(attached(port), 1);
        after.attach(port, false);
        // It ends the chain, before ours.
        let before = Stranger::load();
        before.attach(port, true);
        let plan = world.output(&["plan"]);
        let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
        let name = world.nics[0].port.clone();
        let line = format!("~ checksum {name} checked, but not first (1 before) → checked first");
        assert!(plan.contains(&line), "{plan}");
        world.signal("HUP");
        world.until("ours is the first", |world| {
            let plan = world.output(&["plan"]);
            String::from_utf8_lossy(&plan.stdout)
                .contains("nothing to do")
                .then_some(())
        });
        assert_eq!(attached(port), 3);
        // With its instance ours goes, and no other.
        let nic = world.nics[0].clone();
        world.lxd.remove(&nic.project, &nic.instance);
        world.forget(&nic);
        world
            .lxd
            .emit("instance-deleted", &nic.project, &nic.instance);
        world.until("ours is gone", |_| (attached(port) == 2).then_some(()));
        let link = ns.link(&name);
        assert_eq!(
            (&link["operstate"], link.get("master")),
            (&"DOWN".into(), None)
        );
    });
}

#[test]
fn a_port_that_cannot_have_it_is_not_connected_and_costs_itself_only() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let full = world.nic("full", "vpc");
        world.plug(&full);
        let port = ns.index(&full.port);
        for _ in 0..MOST {
            Stranger::load().attach(port, false);
        }
        world.start_in_lxd(&full);
        world.forget(&full);
        let other = world.launch("c1", "vpc");
        world.until("the other one is connected", |world| {
            let found = world.found();
            of_nic(&other).is_subset(&found).then_some(())
        });
        let said = world.until("it is said", |world| {
            let status = world.status()?;
            let error = status["last_error"][0].as_str()?.to_string();
            (status["in_step"] == false).then_some(error)
        });
        assert!(said.contains(&full.port), "{said}");
        assert!(ns.link(&full.port).get("master").is_none());

        // It tries again all the while.
        let unseen = |world: &World<'_>, change: &dyn Fn()| {
            world.signal("STOP");
            change();
            world.signal("CONT");
            world.signal("HUP");
        };
        let all_gone = || (0..attached(port)).for_each(|_| detach_first(port));
        world.expect(&full);
        unseen(&world, &all_gone);
        world.in_step();

        // A port that is connected, loses it, and cannot have it again.
        unseen(&world, &|| {
            detach_first(port);
            for _ in 0..MOST {
                Stranger::load().attach(port, false);
            }
        });
        world.until("it has left its bridge", |_| {
            ns.link(&full.port).get("master").is_none().then_some(())
        });
        unseen(&world, &all_gone);
        world.in_step();
    });
}

#[test]
fn without_it_the_agent_does_not_start_and_says_what_is_missing() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        fs::remove_file("/run/lxmesh-bpf/checksums").unwrap();
        let before = world.found();
        world.start();
        let status = world.wait();
        assert_eq!(status.code(), Some(1));
        let log = world.log();
        assert!(log.contains("/run/lxmesh-bpf has no program"), "{log}");
        assert!(log.contains("systemctl restart lxmesh-prepare"), "{log}");
        assert_eq!(world.found(), before);
        let prepared = world.output(&["prepare"]);
        assert!(prepared.status.success(), "{prepared:?}");
        world.start();
        world.in_step();
    });
}
