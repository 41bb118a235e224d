//! LXD in a cluster tells of all members' instances. Only this member's are connected, whatever the others
//! are like, and wherever they go; and while it is unclear which ones are this member's, nothing changes.

use super::support::fake_lxd::{Cluster, FakeLxd, Instance, Status};
use super::support::in_netns;
use super::support::silence::Listeners;
use super::support::world::{Nic, World};
use serde_json::{Value, json};
use std::fs;

/// A world with some NICs, on member m1 of a cluster of three.
fn member<'a>(ns: &'a super::support::Ns, nics: usize) -> World<'a> {
    let mut world = World::new(ns);
    world.lxd.join(Cluster {
        silent: vec!["m3".into()],
        ..Cluster::of(&["m1", "m2", "m3"])
    });
    for n in 1..=nics {
        world.launch(&format!("c{n}"), "vpc");
    }
    world
}

/// An instance of another member that has what the NIC has: device, MAC and addresses.
fn twin(world: &World<'_>, nic: &Nic, name: &str, member: &str) -> Instance {
    let mut twin = Instance::new(name);
    twin.status = Status::Running;
    twin.location = member.into();
    // Whoever was started first keeps what two ask for.
    twin.last_used_at = "2020-01-01T00:00:00Z".into();
    world.add_device(&mut twin, nic);
    twin
}

/// What LXD says of an instance whose member does not answer.
fn unreachable(project: &str, name: &str, member: &str) -> String {
    json!({
        "name": name, "project": project, "status": "Error", "status_code": 112, "location": member, "type": "container",
        "config": null, "devices": null, "profiles": null, "stateful": false, "last_used_at": "0001-01-01T00:00:00Z",
    })
    .to_string()
}

/// Everything is read again, by an event that says nothing of where.
fn have_listed(world: &mut World<'_>) {
    let listings = world.lxd.requests("/1.0/instances?");
    world.lxd.emit("profile-updated", "default", "p");
    world.until("a listing", |world| {
        (world.lxd.requests("/1.0/instances?") > listings).then_some(())
    });
}

fn explained(world: &World<'_>, name: &str) -> String {
    let output = world.output(&["explain", name]);
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn instances_of_other_members_are_neither_waited_for_nor_in_the_way() {
    in_netns(|ns| {
        let mut world = member(ns, 2);
        world.lxd.be_incus();
        let own = world.nics[0].clone();
        let twin = twin(&world, &own, "twin", "m2");
        world.lxd.put(twin);
        let mut elsewhere = world.nic("away", "dmz");
        elsewhere.project = "prod".into();
        world.set(&elsewhere, Status::Running);
        world.lxd.relocate("prod", "away", "m2");
        // Of a member that is off line, and of one that cannot be understood.
        world
            .lxd
            .put_entry("default", "off", &unreachable("default", "off", "m3"));
        let odd = json!({"name": "odd", "project": "default", "location": "m3", "status_code": "x", "expanded_devices": [7]});
        world.lxd.put_entry("default", "odd", &odd.to_string());
        let nameless = json!({"name": null, "location": "m3", "status_code": 103});
        world
            .lxd
            .put_entry("default", "nameless", &nameless.to_string());
        let strangers = world.strangers();
        let mut world = world.started();
        let status = world.until("the status is well", |world| {
            world.status().filter(|status| status["in_step"] == true)
        });
        assert_eq!(status["lxd"]["instances"], 2, "{status:#}");
        let cluster = json!({"member": "m1", "members": 3, "elsewhere": 5});
        assert_eq!(status["lxd"]["cluster"], cluster);
        for list in ["problems", "refused"] {
            assert_eq!(status[list], json!([]), "{list}");
        }
        assert_eq!(status["nics"].as_array().unwrap().len(), 2);
        let screen = world.output(&["status"]);
        let screen = String::from_utf8_lossy(&screen.stdout).into_owned();
        let line = "cluster: this is m1 of 3 members; 5 instances are on others";
        assert!(screen.contains(line), "{screen}");
        assert_eq!(world.logged("cannot be understood"), [""; 0]);

        let plan = world.output(&["plan"]);
        let plan_text = String::from_utf8_lossy(&plan.stdout).into_owned();
        assert!(plan.status.success(), "{plan:?}");
        assert!(
            !plan_text.contains("twin") && !plan_text.contains("away"),
            "{plan_text}"
        );

        for (name, member) in [
            ("twin", "m2"),
            ("default/twin", "m2"),
            ("twin/eth0", "m2"),
            ("prod/away", "m2"),
            ("prod/away/eth0", "m2"),
            ("off", "m3"),
            ("odd", "m3"),
        ] {
            let said = explained(&world, name);
            let wanted = format!("is on member {member} of the cluster");
            assert!(said.contains(&wanted), "{name}: {said}");
            assert!(said.contains(&format!("ask on {member}")), "{said}");
            assert!(!said.contains("restart"), "{said}");
        }
        let said = explained(&world, "away");
        assert!(said.contains("incus list --all-projects"), "{said}");
        let trace = world.output(&["trace", "twin", "c1", "tcp/80"]);
        let said = String::from_utf8_lossy(&trace.stderr).into_owned();
        assert!(said.contains("is on member m2 of the cluster"), "{said}");
        let doctor = world.output(&["doctor", "--json"]);
        let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(doctor.contains("incus 6.0.4 answers\""), "{doctor}");
        assert_eq!(world.differences(), [""; 0]);
        world.strangers_are(&strangers);
    });
}

#[test]
fn what_moves_away_is_withdrawn_and_what_comes_is_attached() {
    in_netns(|ns| {
        let world = member(ns, 4);
        let twin = twin(&world, &world.nics[3], "twin", "m2");
        world.lxd.put(twin);
        let mut world = world.started();
        let leave = |world: &mut World<'_>, n: usize| {
            let nic = world.nics[n].clone();
            world.lxd.relocate(&nic.project, &nic.instance, "m2");
            world.forget(&nic);
            nic
        };
        // Its own member tells of it, then another one. The device stays where it is.
        let first = leave(&mut world, 0);
        world
            .lxd
            .emit("instance-migrated", "default", &first.instance);
        world.in_step();
        let second = leave(&mut world, 0);
        world.lxd.emit_at(
            "m2",
            "instance-started",
            "default",
            &second.instance,
            &Value::Null,
        );
        world.in_step();
        // Nobody tells of it, and its new member does not answer either.
        let third = leave(&mut world, 0);
        let away = unreachable("default", &third.instance, "m3");
        world.lxd.put_entry("default", &third.instance, &away);
        have_listed(&mut world);
        world.in_step();
        assert_eq!(world.nics.len(), 1);

        // It comes back as evacuated instances do, and is started.
        world.start_in_lxd(&first);
        world.in_step();
        // It is renamed there, moves and is started: this member hears of its new name only.
        world.lxd.remove("default", &second.instance);
        let mut renamed = second.clone();
        renamed.instance = "renamed".into();
        let old_name = json!({"old_name": second.instance});
        world
            .lxd
            .emit_at("m2", "instance-renamed", "default", "renamed", &old_name);
        world.start_in_lxd(&renamed);
        world.in_step();
        // Its member is gone, and it is started here.
        world.start_in_lxd(&third);
        world.in_step();
        // It is renamed here while it is elsewhere already.
        let last = renamed;
        world.forget(&last);
        world.lxd.remove("default", "renamed");
        let mut moved = Instance::new("moved");
        moved.location = "m2".into();
        world.lxd.put(moved);
        let old_name = json!({"old_name": "renamed"});
        world
            .lxd
            .emit_at("m2", "instance-renamed", "default", "moved", &old_name);
        world.in_step();
    });
}

/// A virtual machine that moves while it runs is here before the database says so, and nothing is told then.
#[test]
fn what_arrives_before_lxd_says_so_is_attached_without_another_event() {
    in_netns(|ns| {
        let mut world = member(ns, 1).started();
        let told = [("m1", "instance-started"), ("m2", "instance-migrated")];
        let nics: Vec<Nic> = told
            .into_iter()
            .map(|(told_by, action)| {
                let nic = world.nic(&format!("vm-{told_by}"), "vpc");
                world.plug(&nic);
                world.set(&nic, Status::Running);
                world.lxd.relocate("default", &nic.instance, "m2");
                let name = &nic.instance;
                world
                    .lxd
                    .emit_at(told_by, action, "default", name, &Value::Null);
                nic
            })
            .collect();
        for nic in &nics {
            let path = format!("/1.0/instances/{}", nic.instance);
            world.until("it is asked for", |world| {
                (world.lxd.requests(&path) > 0).then_some(())
            });
        }
        assert_eq!(world.nics.len(), 1);
        assert_eq!(world.differences(), [""; 0]);
        for nic in &nics {
            world.set(nic, Status::Running);
            world.expect(nic);
        }
        world.in_step();
        assert_eq!(world.lxd.requests("/1.0/instances?"), 1);
    });
}

#[test]
fn events_of_other_members_cause_no_reads() {
    in_netns(|ns| {
        let world = member(ns, 1);
        for n in 0..3 {
            let mut other = Instance::new(&format!("other{n}"));
            other.location = "m2".into();
            world.lxd.put(other);
        }
        let mut world = world.started();
        let listings = world.lxd.requests("/1.0/instances?");
        let actions = [
            "started", "stopped", "updated", "paused", "created", "deleted", "renamed",
        ];
        for n in 0..400 {
            let action = format!("instance-{}", actions[n % actions.len()]);
            let old_name = json!({"old_name": "older"});
            let name = format!("other{}", n % 5);
            world
                .lxd
                .emit_at("m2", &action, "default", &name, &old_name);
        }
        world.settle();
        assert_eq!(world.lxd.requests("/1.0/instances/o"), 0);
        assert_eq!(world.lxd.requests("/1.0/instances?"), listings);
        // What may change NICs here counts whoever tells of it.
        for action in [
            "profile-updated",
            "network-acl-updated",
            "project-renamed",
            "cluster-member-added",
        ] {
            let listings = world.lxd.requests("/1.0/instances?");
            world
                .lxd
                .emit_at("m2", action, "default", "x", &Value::Null);
            world.until(action, |world| {
                (world.lxd.requests("/1.0/instances?") > listings).then_some(())
            });
        }
    });
}

/// The server changes its database first and its own name then; this must not depend on it.
#[test]
fn a_member_that_is_renamed_withdraws_nothing_in_whatever_order() {
    in_netns(|ns| {
        let world = member(ns, 2);
        let mut other = Instance::new("other");
        other.location = "m2".into();
        world.lxd.put(other);
        let mut world = world.started();
        let listeners = Listeners::new(&world);
        let named = |name: &str, members: [&str; 3]| Cluster {
            server_name: name.into(),
            ..Cluster::of(&members)
        };
        let mut errors = 0;
        let mut unclear = |world: &mut World<'_>| {
            // Nothing can be told, neither of all nor of one.
            have_listed(world);
            world
                .lxd
                .emit_at("m1", "instance-updated", "default", "c1", &Value::Null);
            world
                .lxd
                .emit_at("n1", "instance-updated", "default", "c1", &Value::Null);
            world.until("it is said", |world| {
                let status = world.status()?;
                let error = status["lxd"]["error"].as_str()?;
                error.contains("is no member of its cluster").then_some(())
            });
            errors += 1;
        };
        let well = |world: &mut World<'_>, name: &str| {
            world.lxd.emit("cluster-member-renamed", "default", name);
            world.until("the new name is known", |world| {
                let status = world.status()?;
                let known = status["lxd"]["cluster"]["member"] == name;
                (known && status["in_step"] == true).then_some(())
            });
        };
        // The database first.
        world.lxd.join(named("m1", ["n1", "m2", "m3"]));
        world.lxd.relocate_all("m1", "n1");
        unclear(&mut world);
        world.lxd.join(named("n1", ["n1", "m2", "m3"]));
        well(&mut world, "n1");
        // The server's own name first.
        world.lxd.join(named("m1", ["n1", "m2", "m3"]));
        unclear(&mut world);
        world.lxd.join(named("m1", ["m1", "m2", "m3"]));
        world.lxd.relocate_all("n1", "m1");
        well(&mut world, "m1");
        // All of it between the listing and what is asked after it.
        world
            .lxd
            .join_after_listing(named("n1", ["n1", "m2", "m3"]));
        have_listed(&mut world);
        world.lxd.relocate_all("m1", "n1");
        well(&mut world, "n1");
        // Another member gets the name that this one had.
        world.lxd.relocate_all("m2", "m1");
        world.lxd.join(named("n1", ["n1", "m1", "m3"]));
        well(&mut world, "n1");
        // Another member is renamed, and its instances are still listed by its old name.
        world.lxd.join(named("n1", ["n1", "m4", "m3"]));
        have_listed(&mut world);
        world.lxd.relocate_all("m1", "m4");
        well(&mut world, "n1");
        // It and another one change their names while all instances are listed.
        for (from, to) in [("n1", "x"), ("m3", "n1"), ("x", "m3")] {
            world.lxd.relocate_all(from, to);
        }
        world
            .lxd
            .join_after_listing(named("m3", ["m3", "m4", "n1"]));
        have_listed(&mut world);
        well(&mut world, "m3");
        assert_eq!(errors, 2);
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
    });
}

#[test]
fn a_server_that_joins_a_cluster_or_leaves_it_withdraws_nothing() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        let mut world = world.started();
        let listeners = Listeners::new(&world);
        let wait = |world: &mut World<'_>, member: Value| {
            world.until("it is known", |world| {
                let status = world.status()?;
                let well = status["in_step"] == true && status["problems"] == json!([]);
                (well && status["lxd"]["cluster"]["member"] == member).then_some(())
            });
        };
        // Its instances are said to be on a member before it says that it is one.
        world.lxd.relocate_all("none", "m1");
        have_listed(&mut world);
        world.until_logged("says that it is in no cluster");
        world.lxd.join(Cluster::of(&["m1"]));
        world.lxd.emit("cluster-enabled", "default", "m1");
        wait(&mut world, "m1".into());
        // The other way round.
        world.lxd.relocate_all("m1", "none");
        have_listed(&mut world);
        let alone = Cluster {
            server_clustered: false.into(),
            ..Cluster::of(&["host1"])
        };
        world.lxd.join(alone);
        world.lxd.emit("cluster-disabled", "default", "m1");
        wait(&mut world, Value::Null);
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
    });
}

#[test]
fn a_server_that_does_not_say_who_it_is_withdraws_nothing() {
    in_netns(|ns| {
        let mut world = member(ns, 2).started();
        let listeners = Listeners::new(&world);
        let cluster = || Cluster::of(&["m1", "m2", "m3"]);
        let cases = [
            (json!(null), json!(true), "server_name is missing"),
            (json!(["m1"]), json!(true), "server_name is missing"),
            (json!("\u{1b}[2J"), json!(true), "cannot be a name"),
            (json!("m1"), json!(null), "server_clustered is missing"),
            (json!("m1"), json!("no"), "server_clustered is missing"),
            (json!("m4"), json!(true), "is no member of its cluster"),
            (json!(""), json!(true), "cannot be a name"),
        ];
        for (n, (name, clustered, said)) in cases.into_iter().enumerate() {
            world.lxd.join(Cluster {
                server_name: name,
                server_clustered: clustered,
                ..cluster()
            });
            world
                .lxd
                .emit_at("m2", "cluster-member-renamed", "default", "x", &Value::Null);
            world.until(said, |world| {
                let error = world.status()?["lxd"]["error"].as_str()?.to_string();
                error.contains(said).then_some(())
            });
            // What happens on a member of an unknown name may happen here.
            let path = format!("/1.0/instances/unheard{n}");
            let name = format!("unheard{n}");
            world
                .lxd
                .emit_at("n9", "instance-started", "default", &name, &Value::Null);
            world.until("it is asked for", |world| {
                (world.lxd.requests(&path) > 0).then_some(())
            });
        }
        // In no cluster, it would have none of the instances that are on m1.
        world.lxd.join(Cluster {
            server_name: "host1".into(),
            server_clustered: false.into(),
            ..Cluster::of(&["host1"])
        });
        world.lxd.emit("cluster-disabled", "default", "m1");
        world.until_logged("says that it is in no cluster");
        world.lxd.join(cluster());
        // An entry that has no location is nobody's.
        let mut text: Value =
            json!({"name": "c1", "project": "default", "status": "Stopped", "status_code": 102});
        text["expanded_config"] = json!({});
        text["expanded_devices"] = json!({});
        let before = world.lxd.get("default", "c1");
        for (location, said) in [
            (Value::Null, "does not say on which member"),
            (json!(7), "cannot be the name of a member"),
            (json!("m9"), "m9, is no member of the cluster"),
        ] {
            text["location"] = location;
            world.lxd.put_entry("default", "c1", &text.to_string());
            // Asked for by name, and in a listing.
            world.lxd.emit("instance-updated", "default", "c1");
            problem(&mut world, Some(said));
            have_listed(&mut world);
        }
        world.lxd.put(before);
        have_listed(&mut world);
        problem(&mut world, None);
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
    });
}

/// Waits until the status has a problem that says this, or none.
fn problem(world: &mut World<'_>, said: Option<&str>) {
    world.until(&format!("problem: {said:?}"), |world| {
        let status = world.status()?;
        let problems = status["problems"].as_array()?;
        let found = match said {
            None => problems.is_empty(),
            Some(said) => problems
                .iter()
                .any(|text| text.as_str().is_some_and(|text| text.contains(said))),
        };
        found.then_some(())
    });
}

#[test]
fn a_cluster_that_does_not_answer_withdraws_nothing() {
    use super::support::fake_lxd::Fault;
    in_netns(|ns| {
        let mut world = member(ns, 2).started();
        let listeners = Listeners::new(&world);
        for fault in [Fault::Status500, Fault::EmptyListing] {
            world.lxd.fail(fault);
            have_listed(&mut world);
            world.lxd.emit("instance-updated", "default", "c1");
            world.lxd.heal();
        }
        // The members cannot be told without a quorum.
        world.lxd.join(Cluster {
            members: Vec::new(),
            ..Cluster::of(&["m1"])
        });
        world.lxd.relocate_all("m1", "m2");
        have_listed(&mut world);
        world.lxd.emit("instance-updated", "default", "c1");
        world.until_logged("is no member of its cluster");
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
    });
}

/// Which of two servers has the instances, nobody but the operator knows.
#[test]
fn sockets_of_two_servers_are_refused_by_name() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        let mut world = world.started();
        world.stop();
        let socket = format!("socket = \"{}/lxd.sock\"", world.directory.path().display());
        let file = world.host_file();
        world.write_host_file(&file.replace(&socket, ""));
        let root = world.path("root");
        let places = ["var/lib/lxd", "run/incus"].map(|place| root.join(place));
        for place in &places {
            fs::create_dir_all(place).unwrap();
        }
        let sockets = places.map(|place| place.join("unix.socket"));
        let root = root.display().to_string();
        world
            .environment
            .insert("LXMESH_TEST_SOCKETS_ROOT".into(), root);
        let servers = sockets.each_ref().map(|socket| FakeLxd::start(socket));
        world.start();
        world.until_logged("name the one by `socket` in [lxd]");
        let both = sockets
            .each_ref()
            .map(|socket| socket.display().to_string());
        for arguments in [&["doctor"][..], &["plan"], &["explain", "c1"]] {
            let output = world.output(arguments);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            for wanted in [&both[0], &both[1], "`socket` in [lxd]"] {
                assert!(said.contains(wanted), "{arguments:?}: {said}");
            }
        }
        // Nobody was connected to.
        assert_eq!(servers.each_ref().map(|server| server.requests("")), [0, 0]);
        assert_eq!(world.differences(), [""; 0]);
        // With the other one gone, there is no doubt.
        let [lxd, incus] = servers;
        lxd.put(world.lxd.get("default", "c1"));
        drop(incus);
        world.until("it is connected", |world| {
            (world.status()?["lxd"]["connected"] == true).then_some(())
        });
        // LXD is restarted while there is an Incus: its instances are not looked for there.
        let listeners = Listeners::new(&world);
        let incus = FakeLxd::start(&sockets[1]);
        drop(lxd);
        world.until_logged("whose socket is gone");
        assert_eq!(incus.requests(""), 0);
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
    });
}
