//! LXD fails in every way it can: nothing is withdrawn, it is said once, and when LXD is well
//! again everything that changed meanwhile is caught up with.

use super::cold_start::{busy_world, dnsmasq_listens};
use super::support::fake_lxd::{Fault, Status};
use super::support::in_netns;
use super::support::silence::Listeners;
use super::support::world::{PATIENCE, World};
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
        world.set(&nic, Status::Error);
        world.lxd.emit("instance-updated", "default", &nic.instance);
        world.settle();
        assert_eq!(world.differences(), [""; 0]);
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
        let ports = ns.nft_json("list set bridge lxmesh ports");
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
        let before = ["ports", "id4", "id6", "in_svc"].map(elements);
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
        assert_eq!(["ports", "id4", "id6", "in_svc"].map(elements), before);
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
