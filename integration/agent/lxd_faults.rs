//! LXD fails in every way it can: nothing is withdrawn, it is said once, and when LXD is well
//! again everything that changed meanwhile is caught up with.

use super::cold_start::{busy_world, dnsmasq_listens};
use super::support::fake_lxd::{Fault, Status};
use super::support::in_netns;
use super::support::silence::Listeners;
use super::support::world::{Nic, PATIENCE, World};
use serde_json::json;
use std::os::unix::net::UnixDatagram;

/// A fault during listings, and single reads; then well again.
fn survived(fault: Fault, said: &str) {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        for n in 1..=4 {
            world.launch(&format!("c{n}"), "vpc");
        }
        let mut world = world.started();
        // It joins groups when it does, a moment after it was started.
        world.until("dnsmasq listens", dnsmasq_listens);
        let listeners = Listeners::new(&world);
        world.lxd.fail(fault);
        // Asked for by name, and by a listing; the repair of something else still works.
        world.lxd.emit("instance-updated", "default", "c1");
        let listings = world.lxd.requests("/1.0/instances?");
        world.until_logged(said);
        if !matches!(fault, Fault::Refuse | Fault::WrongServer | Fault::Hang) {
            world.until("another listing", |world| {
                (world.lxd.requests("/1.0/instances?") >= listings + 2).then_some(())
            });
        }
        assert_eq!(listeners.heard(&world), [""; 0]);
        let nic = world.nics[0].clone();
        world.repairs(&format!(
            "ip neighbour del {} dev svi-vpc",
            nic.ipv4.as_deref().unwrap()
        ));
        // Changes that nobody could tell of.
        let stopped = world.nics[1].clone();
        world.set(&stopped, Status::Stopped);
        world.unplug(&stopped);
        world.forget(&stopped);
        let new = world.nic("new", "dmz");
        world.plug(&new);
        world.set(&new, Status::Running);
        world.expect(&new);
        world.lxd.heal();
        world.in_step();
        world.until("the agent says that it is well", |world| {
            (world.status()?["in_step"] == true).then_some(())
        });
    });
}

#[test]
fn errors_500_withdraw_nothing() {
    survived(Fault::Status500, "HTTP 500");
}

#[test]
fn cut_off_answers_withdraw_nothing() {
    survived(Fault::CutOff, "broke off");
}

#[test]
fn cut_off_json_withdraws_nothing() {
    survived(Fault::CutOffJson, "cannot be understood");
}

#[test]
fn garbage_withdraws_nothing() {
    survived(Fault::Garbage, "cannot be understood");
}

#[test]
fn json_of_another_shape_withdraws_nothing() {
    survived(Fault::WrongShape, "cannot be understood");
}

#[test]
fn an_empty_list_by_mistake_withdraws_nothing() {
    survived(Fault::EmptyListing, "no instance at all");
}

#[test]
fn another_server_behind_the_socket_withdraws_nothing() {
    survived(Fault::WrongServer, "is not LXD or Incus");
}

#[test]
fn a_server_that_refuses_withdraws_nothing() {
    survived(Fault::Refuse, "WARN");
}

#[test]
fn a_listing_that_lacks_instances_withdraws_nothing() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        for n in 1..=4 {
            world.launch(&format!("c{n}"), "vpc");
        }
        let mut world = world.started();
        let listeners = Listeners::new(&world);
        world.lxd.fail(Fault::ShortListing);
        let asked = world.lxd.requests("/1.0/instances/c1");
        world.until("the missing are asked for by name", |world| {
            (world.lxd.requests("/1.0/instances/c1") >= asked + 2).then_some(())
        });
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
    });
}

#[test]
fn a_server_that_hangs_delays_no_repair() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let strangers = world.strangers();
        world.lxd.fail(Fault::Hang);
        world.lxd.emit("instance-updated", "default", "c1");
        let nic = world.nics[0].clone();
        world.repairs(&format!(
            "bridge fdb del {} dev {} master",
            nic.mac, nic.port
        ));
        world.repairs("nft delete table bridge lxmesh");
        world.lxd.heal();
        world.settle();
        world.strangers_are(&strangers);
    });
}

#[test]
fn after_a_closed_event_stream_everything_is_read_again() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic = world.nic("unheard", "dmz");
        world.plug(&nic);
        world.set(&nic, Status::Running);
        world.expect(&nic);
        world.lxd.close_events();
        world.in_step();
        world.settle();
    });
}

#[test]
fn an_event_that_cannot_be_understood_means_reading_everything() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic = world.nic("unnamed", "dmz");
        world.plug(&nic);
        world.set(&nic, Status::Running);
        world.expect(&nic);
        world.lxd.say("{cut off");
        world.in_step();
    });
}

#[test]
fn an_instance_in_error_keeps_its_network() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic = world.nics[0].clone();
        // Another device of it is not there yet.
        let mut second = world.nic(&nic.instance, "vpc");
        second.device = "eth1".into();
        (second.ipv4, second.ipv6) = (None, None);
        let mut instance = world.lxd.get("default", &nic.instance);
        world.add_device(&mut instance, &second);
        world.lxd.put(instance.clone());
        world.lxd.emit("instance-updated", "default", &nic.instance);
        world.settle();
        instance.status = Status::Error;
        // LXD may leave out what it knows only of those that run.
        instance.config.remove("volatile.eth0.host_name");
        world.lxd.put(instance);
        world.lxd.emit("instance-updated", "default", &nic.instance);
        world.settle();
        assert_eq!(world.differences(), [""; 0]);
        world.plug(&second);
        world.expect(&second);
        world.in_step();
    });
}

#[test]
fn without_lxd_a_restarted_agent_withdraws_nothing_and_repairs_what_it_can() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        world.kill();
        world.lxd.fail(Fault::Status500);
        let listeners = Listeners::new(&world);
        world.start();
        world.until_logged("HTTP 500");
        world.until("a full pass", |world| {
            (world.status()?["passes"]["full"].as_u64()? >= 1).then_some(())
        });
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);
        world.repairs("ip link set vxlan-vpc type bridge_slave learning on");
        world.lxd.heal();
        world.settle();
    });
}

#[test]
fn without_lxd_from_the_start_a_deleted_table_comes_back_closed() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        world.kill();
        ns.sh("nft delete table bridge lxmesh");
        world.lxd.fail(Fault::Status500);
        world.start();
        // Nobody knows the instances: only what holds for networks is there, and nothing passes.
        world.until("the table is back", |_| {
            ns.try_sh("nft list table bridge lxmesh")
                .ok()
                .filter(|text| text.contains("svi-dmz"))
        });
        let ports = ns.nft_json("list set bridge lxmesh nic_ports");
        assert!(ports[0]["set"].get("elem").is_none(), "{ports:?}");
        world.lxd.heal();
        world.in_step();
    });
}

/// An upgrade may add sets and a table while LXD says nothing: what is known of the NICs stays in force.
#[test]
fn without_lxd_tables_that_lack_sets_of_this_version_lose_no_element() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let elements = |set: &str| {
            let json = ns.nft_json(&format!("list set bridge lxmesh {set}"));
            let mut texts: Vec<String> = json[0]["set"]["elem"]
                .as_array()
                .map(|all| all.iter().map(|one| one.to_string()).collect())
                .unwrap_or_default();
            texts.sort();
            texts
        };
        let before = ["nic_ports", "nic_id4", "nic_id6", "in_svc"].map(elements);
        assert!(before[0].len() > 1, "{before:?}");
        world.kill();
        ns.sh("nft delete table arp lxmesh
               nft 'delete set bridge lxmesh port_zones; delete set bridge lxmesh same_vrf4'");
        world.lxd.fail(Fault::Status500);
        world.start();
        world.until("the tables are this version's", |_| {
            ns.try_sh("nft list table arp lxmesh; nft list set bridge lxmesh port_zones")
                .ok()
        });
        assert_eq!(
            ["nic_ports", "nic_id4", "nic_id6", "in_svc"].map(elements),
            before
        );
        world.lxd.heal();
        world.settle();
        assert!(!elements("port_zones").is_empty());
    });
}

/// systemd must not wait for, and then kill, an agent that leaves everything as it was because LXD
/// says what cannot be.
#[test]
fn an_agent_that_starts_while_lxd_errs_is_ready() {
    for fault in [Fault::EmptyListing, Fault::Status500, Fault::Garbage] {
        in_netns(|ns| {
            let mut world = World::new(ns);
            world.launch("c1", "vpc");
            let mut world = world.started();
            world.stop();
            let path = world.path("notify");
            let systemd = UnixDatagram::bind(&path).unwrap();
            systemd.set_read_timeout(Some(PATIENCE)).unwrap();
            let path = path.to_str().unwrap().to_string();
            world.environment.insert("NOTIFY_SOCKET".into(), path);
            let mut told = String::new();
            let mut until = |line: &str| {
                while !told.lines().any(|told| told.contains(line)) {
                    let mut buffer = [0; 4096];
                    let length = systemd.recv(&mut buffer);
                    let length = length.unwrap_or_else(|e| panic!("{fault:?}: {e}: {told}"));
                    told += std::str::from_utf8(&buffer[..length]).unwrap();
                    told += "\n";
                }
            };
            // The answer comes after the first pass.
            world.lxd.fail(Fault::Hang);
            world.start();
            until("waiting for LXD");
            world.lxd.fail(fault);
            until("READY=1");
            world.in_step();
        });
    }
}

/// Resident memory of the agent, KiB.
fn resident_kib(world: &World<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.unwrap().trim().parse().unwrap()
}

#[test]
fn events_of_any_length_and_number_leave_nothing_in_memory() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        world.lxd.fail(Fault::Hang);
        let before = resident_kib(&world);
        let listings = world.lxd.requests("/1.0/instances?");
        for n in 0..1000 {
            let name = format!("{n}{}", "x".repeat(100_000));
            world.lxd.emit("instance-updated", "default", &name);
        }
        for n in 0..20_000 {
            let action = ["instance-updated", "instance-paused"][n % 2];
            world.lxd.emit(action, "default", &format!("c{n}"));
        }
        // It goes on as before, and has nothing of them.
        let nic = world.nics[0].clone();
        world.repairs(&format!(
            "bridge fdb del {} dev {} master",
            nic.mac, nic.port
        ));
        let grown = resident_kib(&world).saturating_sub(before);
        assert!(grown < 16 << 10, "{grown} KiB more than {before}");
        let new = world.nic("new", "dmz");
        world.plug(&new);
        world.set(&new, Status::Running);
        world.expect(&new);
        world.lxd.heal();
        // Nobody tells of it: all of those events together ask for a listing.
        world.in_step();
        assert!(world.lxd.requests("/1.0/instances?") < listings + 10);
    });
}

#[test]
fn what_lxd_says_of_an_error_is_shown_in_one_line_of_bounded_length() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        world.lxd.fail(Fault::OddError);
        world.lxd.emit("instance-updated", "default", "c1");
        world.until_logged("odd\\u{1b}[2J\\n");
        let error = world.until("the status has it", |world| {
            Some(world.status()?["lxd"]["error"].as_str()?.to_string())
        });
        assert!(
            error.contains("odd\\u{1b}[2J\\n") && error.len() < 1000,
            "{error}"
        );
        assert!(!world.log().contains('\u{1b}'));
        assert!(world.log().lines().all(|line| line.len() < 2000));
        let plan = world.output(&["plan"]);
        let said = String::from_utf8(plan.stderr).unwrap();
        assert!(
            said.contains("odd\\u{1b}[2J\\n") && said.len() < 1000,
            "{said}"
        );
        assert_eq!(plan.status.code(), Some(1));
    });
}

/// What LXD says of an instance that it cannot render.
fn not_rendered(name: &str) -> String {
    json!({
        "name": name, "project": "default", "status": "Error", "status_code": 112, "location": "none",
        "config": null, "devices": null, "profiles": null, "expanded_config": null, "expanded_devices": null,
    })
    .to_string()
}

/// Waits for another listing, and for what follows it.
fn another_listing(world: &mut World<'_>) {
    let listings = world.lxd.requests("/1.0/instances?");
    world.lxd.say("{cut off");
    world.until("another listing", |world| {
        (world.lxd.requests("/1.0/instances?") > listings).then_some(())
    });
    world.settle();
}

fn problems(world: &World<'_>, about: &str) -> Vec<String> {
    let status = world.status().expect("the agent answers");
    let problems = status["problems"].as_array().expect("a list").iter();
    let problems = problems.map(|text| text.as_str().expect("a text").to_string());
    problems.filter(|text| text.contains(about)).collect()
}

#[test]
fn an_entry_that_cannot_be_understood_costs_only_itself() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("good1", "vpc");
        let broken = world.launch("broken", "vpc");
        world.launch("good2", "dmz");
        let mut world = world.started();
        world.until("dnsmasq listens", dnsmasq_listens);
        world
            .lxd
            .put_entry("default", "broken", &not_rendered("broken"));
        let odd = [
            "null",
            "7",
            "[]",
            r#"{"project":"default","status_code":103,"expanded_config":{},"expanded_devices":{}}"#,
            r#"{"name":{},"status_code":103,"expanded_config":{},"expanded_devices":{}}"#,
            r#"{"name":"list","status_code":103,"expanded_config":{},"expanded_devices":{"eth0":[]}}"#,
            r#"{"name":"number","status_code":103,"expanded_config":{"user.lxmesh.acls":7},"expanded_devices":{}}"#,
            r#"{"name":"null","status_code":103,"expanded_config":{},"expanded_devices":{"eth0":{"type":null}}}"#,
            r#"{"name":"\u001b[2J","status_code":"\u001b[2J","expanded_config":{},"expanded_devices":{}}"#,
        ];
        for (n, text) in odd.iter().enumerate() {
            world.lxd.put_entry("default", &format!("odd{n}"), text);
        }
        let listeners = Listeners::new(&world);
        let new = world.nic("new", "vpc");
        another_listing(&mut world);
        let touched = listeners.heard(&world);
        let of_broken = |line: &&String| line.contains(&broken.port) || line.contains(&broken.mac);
        assert_eq!(touched.iter().find(of_broken), None, "{touched:?}");
        // Read by its name it is not understood either, and that keeps nobody from anything.
        world.lxd.emit("instance-updated", "default", "broken");
        world.run(&new);
        world.in_step();
        let status = world.status().unwrap();
        assert_eq!(status["lxd"]["connected"], true, "{status:#}");
        assert_eq!(status["in_step"], true, "{status:#}");
        let said = problems(
            &world,
            "instance broken: what LXD says of it cannot be understood",
        );
        assert_eq!(said.len(), 1, "{status:#}");
        assert!(
            said[0].contains("its location is none") && said[0].contains("stays in force"),
            "{said:?}"
        );
        let all = problems(&world, "");
        assert_eq!(all.len(), odd.len() + 1, "{all:#?}");
        assert!(
            all.iter()
                .all(|text| text.len() < 1000 && !text.contains('\u{1b}'))
        );
        assert_eq!(world.logged("WARN").len(), odd.len() + 1, "{}", world.log());

        // An agent that starts knows nothing of it, and everything of the others.
        world.kill();
        world.forget(&broken);
        world.start();
        world.in_step();
        world.until("dnsmasq listens", dnsmasq_listens);
        let said = problems(&world, "instance broken: ");
        assert!(
            said[0].contains("none of its NICs is connected"),
            "{said:?}"
        );
        let link = ns.sh(&format!("ip -o link show {}", broken.port));
        assert!(!link.contains("UP") && !link.contains("master"), "{link}");
        let plan = world.output(&["plan"]);
        let said = String::from_utf8([plan.stdout, plan.stderr].concat()).unwrap();
        assert!(said.contains("instance broken: what LXD says"), "{said}");
        let explain = world.output(&["explain", "broken"]);
        let said = String::from_utf8(explain.stderr).unwrap();
        assert!(said.contains("cannot be understood"), "{said}");
        let doctor = world.output(&["doctor"]);
        let said = String::from_utf8(doctor.stdout).unwrap();
        let finding = said.lines().find(|line| line.contains(" lxd: "));
        let finding = finding.expect("LXD is looked at");
        assert!(
            finding.starts_with("PROBLEM") && finding.contains("broken (invalid type: null"),
            "{finding}"
        );
        // Once it can be understood, it is as before.
        world.start_in_lxd(&broken);
        world.in_step();
        world.until("it is no problem any more", |world| {
            problems(world, "instance broken: ")
                .is_empty()
                .then_some(())
        });
        assert_eq!(world.logged("no longer: instance broken: ").len(), 1);
    });
}

#[test]
fn where_nothing_can_be_understood_a_restarted_agent_withdraws_nothing() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        let mut world = world.started();
        world.kill();
        world.lxd.put_entry("default", "c1", &not_rendered("c1"));
        world.start();
        world.until_logged("lists no instance that can be understood");
        assert_eq!(world.differences(), [""; 0]);
        let nic = world.nics[0].clone();
        world.start_in_lxd(&nic);
        world.lxd.say("{cut off");
        world.until_logged("no longer: LXD lists no instance");
        world.in_step();
    });
}

#[test]
fn an_instance_in_error_keeps_its_network_across_a_restart() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic = world.nics[0].clone();
        // One that is not attached is not attached because of it.
        let other = world.nic("other", "vpc");
        world.plug(&other);
        world.kill();
        for nic in [&nic, &other] {
            world.set(nic, Status::Error);
        }
        world.start();
        world.settle();
        assert_eq!(world.differences(), [""; 0]);
        // Stopped, it is withdrawn.
        world.set(&nic, Status::Stopped);
        world.forget(&nic);
        world.lxd.emit("instance-stopped", "default", &nic.instance);
        world.in_step();
    });
}

/// Gives the NIC's device an access list.
fn name_acl(world: &World<'_>, nic: &Nic, name: &str) {
    let mut instance = world.lxd.get(&nic.project, &nic.instance);
    let device = instance.devices.get_mut(&nic.device).unwrap();
    device.insert("user.lxmesh.acls".into(), name.into());
    world.lxd.put(instance);
    world
        .lxd
        .emit("instance-updated", &nic.project, &nic.instance);
}

#[test]
fn access_lists_that_cannot_be_understood_cost_only_who_names_them() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("good", "vpc");
        let mut nics = Vec::new();
        for (project, instance) in [
            ("default", "named"),
            ("other", "elsewhere"),
            ("odd", "unread"),
        ] {
            let mut nic = world.nic(instance, "vpc");
            nic.project = project.into();
            world.run(&nic);
            nics.push(nic);
        }
        let allows = json!({"action": "allow", "protocol": "tcp", "destination_port": "7", "state": "enabled"});
        let bad = json!({"action": ["drop"], "state": "enabled"});
        let acls = json!([
            7,
            {"name": null, "ingress": [], "egress": []},
            {"name": "bad", "ingress": [allows, bad], "egress": null},
            {"name": "good", "ingress": [allows], "egress": null},
        ]);
        world.lxd.put_acls("default", acls.clone());
        world.lxd.put_acls("other", acls);
        let mut world = world.started();
        // In its own project one rule cannot be understood: that side is closed.
        name_acl(&world, &nics[0], "bad, good");
        let mut closed = nics[0].clone();
        closed.in_services.clear();
        world.expect(&closed);
        // Another one names the good list alone.
        name_acl(&world, &nics[1], "good");
        let mut opened = nics[1].clone();
        opened.in_services.push("tcp/7".into());
        world.expect(&opened);
        world.in_step();
        let said = problems(
            &world,
            "ACL \"bad\", rule 2 of ingress cannot be understood",
        );
        assert_eq!(said.len(), 1);
        // No list of a whole project: those that were known stay, and keys of the instance count.
        let good = json!([{"name": "good", "ingress": [allows], "egress": null}]);
        world.lxd.put_acls("odd", good.clone());
        name_acl(&world, &nics[2], "good");
        let mut opened = nics[2].clone();
        opened.in_services.push("tcp/7".into());
        world.expect(&opened);
        world.in_step();
        world.lxd.put_acls("odd", json!({"not": "a list"}));
        another_listing(&mut world);
        world.in_step();
        let status = world.status().unwrap();
        assert_eq!(status["lxd"]["connected"], true, "{status:#}");
        let unread = "instance odd/unread: the network ACLs that it names cannot be read";
        let said = problems(&world, unread);
        assert!(
            said[0].contains("network-acls") && said[0].contains("stay in force"),
            "{said:?}"
        );
        nics[2].in_services.clear();
        world.set(&nics[2], Status::Running);
        name_acl(&world, &nics[2], "good");
        let mut less = nics[2].clone();
        less.in_services.push("tcp/7".into());
        world.expect(&less);
        world.in_step();
        name_acl(&world, &nics[2], "good, other");
        let mut closed = nics[2].clone();
        closed.out_services.clear();
        world.expect(&closed);
        world.in_step();
        assert_eq!(problems(&world, "\"other\" is not known").len(), 1);
        // Stopped, it needs none. Nothing was known of it then, so it is not connected anew.
        let listings = world
            .lxd
            .requests("/1.0/network-acls?recursion=1&project=odd");
        let mut stopped = world.lxd.get("odd", "unread");
        stopped.status = Status::Stopped;
        world.lxd.put(stopped.clone());
        world.lxd.emit("instance-stopped", "odd", "unread");
        world.forget(&nics[2]);
        world.in_step();
        assert_eq!(problems(&world, "odd/unread"), [""; 0]);
        another_listing(&mut world);
        assert_eq!(problems(&world, "odd/unread"), [""; 0]);
        let again = world
            .lxd
            .requests("/1.0/network-acls?recursion=1&project=odd");
        // One may have been under way.
        assert!(again <= listings + 1, "{again} after {listings}");
        stopped.status = Status::Running;
        world.lxd.put(stopped);
        world.lxd.emit("instance-started", "odd", "unread");
        world.until("it is named", |world| {
            let said = problems(world, unread);
            said.first()?.contains("none of its NICs").then_some(())
        });
        world.in_step();
        // An agent that starts connects all others, and this one once its lists can be read: that is tried again.
        world.kill();
        world.forget(&nics[2]);
        world.start();
        world.in_step();
        name_acl(&world, &nics[2], "good");
        world.lxd.put_acls("odd", good);
        world.expect(&less);
        world.in_step();
    });
}

#[test]
fn an_event_that_cannot_be_understood_does_not_end_the_stream() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let streams = world.lxd.requests("/1.0/events");
        for odd in [
            "",
            "null",
            "[]",
            "7",
            "{}",
            r#"{"type":7}"#,
            r#"{"type":"lifecycle","metadata":null}"#,
            r#"{"type":"lifecycle","metadata":[]}"#,
            r#"{"type":"lifecycle","metadata":{"action":null}}"#,
            r#"{"type":"lifecycle","project":7,"metadata":{"action":"instance-started","name":"c1"}}"#,
            r#"{"type":"lifecycle","metadata":{"action":"instance-started","name":["c1"],"source":7}}"#,
            r#"{"type":"lifecycle","metadata":{"action":"instance-renamed","name":"c1","context":"c2"}}"#,
            r#"{"type":"lifecycle","metadata":{"action":"instance-started"}}"#,
        ] {
            let nic = world.nic(&format!("c{}", world.made), "dmz");
            world.plug(&nic);
            world.set(&nic, Status::Running);
            world.expect(&nic);
            world.lxd.say(odd);
            world.in_step();
        }
        assert_eq!(world.lxd.requests("/1.0/events"), streams);
        assert_eq!(world.logged("WARN"), [""; 0]);
    });
}
