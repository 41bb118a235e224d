//! `lxmesh plan`, `status` and `purge` beside a running and a stopped agent.

use super::cold_start::busy_world;
use super::support::checks::attached;
use super::support::fake_lxd::{Fault, Status};
use super::support::in_netns;
use super::support::silence::Listeners;
use super::support::world::World;
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_plan_is_empty_in_step_and_says_what_would_change_without_changing_it() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let plan = world.output(&["plan"]);
        assert!(plan.status.success(), "{plan:?}");
        assert_eq!(text(&plan.stdout), "nothing to do\n");
        world.stop();
        let nic = world.nics[0].clone();
        ns.sh(&format!(
            "bridge fdb del {} dev {} master; nft delete table inet lxmesh",
            nic.mac, nic.port
        ));
        world.launch("new", "dmz");
        let before = world.differences();
        let listeners = Listeners::new(&world);
        let plan = world.output(&["plan"]);
        assert_eq!(plan.status.code(), Some(2), "{plan:?}");
        let out = text(&plan.stdout);
        for line in [
            &format!("+ fdb svi-vpc {}", nic.mac),
            "~ nft_table lxmesh",
            "~ port",
            "+ neighbour svi-dmz",
        ] {
            assert!(out.contains(line), "no {line:?} in\n{out}");
        }
        let json = world.output(&["plan", "--json"]);
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(
            json["changes"].as_array().unwrap().len(),
            out.lines().count() - 1
        );
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), before);
    });
}

#[test]
fn a_plan_before_the_first_start_lists_everything() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        let plan = text(&world.output(&["plan"]).stdout);
        for kind in [
            "nft_table",
            "dnsmasq_file",
            "bridge",
            "solicit",
            "tunnel",
            "checksum",
            "port",
            "fdb",
            "neighbour",
            "mdb",
            "route",
        ] {
            assert!(plan.contains(&format!(" {kind} ")), "no {kind} in\n{plan}");
        }
    });
}

#[test]
fn a_plan_without_lxd_is_an_error_and_not_empty() {
    in_netns(|ns| {
        let world = World::new(ns);
        world.lxd.fail(Fault::Status500);
        let plan = world.output(&["plan"]);
        assert_eq!(plan.status.code(), Some(1));
        assert!(
            text(&plan.stderr).contains("HTTP 500"),
            "{}",
            text(&plan.stderr)
        );
    });
}

#[test]
fn status_shows_networks_nics_and_vteps() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let status = world.until("in step", |world| {
            world.status().filter(|status| status["in_step"] == true)
        });
        assert_eq!(status["nics"].as_array().unwrap().len(), 4, "{status:#}");
        assert_eq!(status["networks"][0]["vteps"][0], "203.0.113.2");
        assert_eq!(status["networks"][1]["nics"], 1);
        assert_eq!(status["lxd"]["server"], "lxd 5.0.2");
        let screen = world.output(&["status"]);
        assert!(screen.status.success());
        let screen = text(&screen.stdout);
        assert!(screen.contains("vpc") && screen.contains("c4"), "{screen}");
        world.stop();
        let gone = world.output(&["status"]);
        assert_eq!(gone.status.code(), Some(1));
        assert!(
            text(&gone.stderr).contains("start it"),
            "{}",
            text(&gone.stderr)
        );
    });
}

#[test]
fn purge_leaves_nothing_of_ours_and_everything_of_others() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let strangers = world.strangers();
        let running = world.output(&["purge", "--yes"]);
        assert_eq!(running.status.code(), Some(1), "{running:?}");
        assert_eq!(world.differences(), [""; 0]);
        world.stop();
        let unsure = world.output(&["purge"]);
        assert_eq!(unsure.status.code(), Some(1), "{unsure:?}");
        assert_eq!(world.differences(), [""; 0]);
        let done = world.output(&["purge", "--yes"]);
        assert!(done.status.success(), "{done:?}");
        let ports: Vec<String> = world.nics.drain(..).map(|nic| nic.port).collect();
        // Attributes of the bridges and tunnels stay.
        let left: Vec<String> = world
            .differences()
            .into_iter()
            .filter(|line| line.starts_with('+'))
            .collect();
        assert_eq!(left, [""; 0]);
        let tables = ns.sh("nft list tables | grep lxmesh");
        assert_eq!(
            tables,
            "table inet lxmesh_closed\ntable arp lxmesh_closed\n"
        );
        for port in ports {
            assert!(ns.link(&port).get("master").is_none());
            assert_eq!(attached(ns.index(&port)), 0);
        }
        assert!(!world.path("dnsmasq/hosts").exists());
        world.strangers_are(&strangers);
        let again = world.output(&["purge", "--yes"]);
        assert!(again.status.success(), "{again:?}");
    });
}

#[test]
fn a_second_agent_is_refused_and_changes_nothing() {
    in_netns(|ns| {
        let world = busy_world(ns);
        let second = world.output(&["agent"]);
        assert_eq!(second.status.code(), Some(1));
        assert!(
            text(&second.stderr).contains("another lxmesh agent is running"),
            "{}",
            text(&second.stderr)
        );
        assert!(world.status().is_some());
    });
}

#[test]
fn a_changed_host_file_is_read_on_sighup_and_a_broken_one_is_refused() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let file = world.host_file();
        world.write_host_file(&file.replace("version = 1", "version = "));
        world.signal("HUP");
        world.until_logged("the old one stays in force");
        assert_eq!(world.differences(), [""; 0]);
        // Without the network, nothing of its instances is wanted.
        let start = file.find("[[network]]\nname = \"dmz\"").unwrap();
        world.write_host_file(&file[..start]);
        let nic = world
            .nics
            .iter()
            .find(|nic| nic.network == "dmz")
            .unwrap()
            .clone();
        world.signal("HUP");
        world.until("the port has left", |_| {
            ns.link(&nic.port).get("master").is_none().then_some(())
        });
        world.write_host_file(&file);
        world.set(&nic, Status::Running);
        world.signal("HUP");
        world.in_step();
    });
}
