//! What nobody attached is closed: the agent keeps the tables for that, leaves them behind, and puts
//! down the devices of NICs that it refuses.

use super::cold_start::busy_world;
use super::support::fake_lxd::{Instance, Status};
use super::support::world::{Nic, World};
use super::support::{Ns, in_netns};
use lxmesh::generate::closed;
use lxmesh::kernel::nft::{Family, Nft};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;

/// The numbers of the tables, which are never used twice, and the stamp; `None` if something is missing.
fn loaded(ns: &Ns) -> Option<String> {
    let mut found = Vec::new();
    for family in ["inet", "arp"] {
        let listing = ns.try_sh(&format!("nft -j list table {family} lxmesh_closed"));
        let listing: Value = serde_json::from_str(&listing.ok()?).ok()?;
        for object in listing["nftables"].as_array()? {
            if let Some(table) = object.get("table") {
                found.push(table["handle"].to_string());
            }
            let comment = &object["set"]["elem"][0]["elem"]["comment"];
            found.extend(comment.as_str().map(str::to_string));
        }
    }
    (found.len() == 3).then(|| found.join(" "))
}

fn until_loaded(world: &mut World<'_>) -> String {
    world.until("the tables are loaded", |world| loaded(world.ns))
}

/// What `plan` would change of them.
fn planned(world: &World<'_>) -> Vec<String> {
    let said = String::from_utf8(world.output(&["plan"]).stdout).unwrap();
    let about = said.lines().filter(|line| line.contains(" closed "));
    about.map(str::to_string).collect()
}

#[test]
fn the_tables_stand_after_the_start_and_stay_after_stop_and_purge() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let off = format!("{}[firewall]\nenabled = false\n", world.host_file());
        for text in [off, world.host_file()] {
            world.write_host_file(&text);
            ns.sh("nft flush ruleset");
            world.start();
            // Before LXD was listed, even.
            let first = until_loaded(&mut world);
            world.in_step();
            world.stop();
            assert_eq!(loaded(ns), Some(first.clone()));
            assert!(world.output(&["purge", "--yes"]).status.success());
            assert_eq!(loaded(ns), Some(first.clone()));
            world.start();
            world.in_step();
            assert_eq!(loaded(ns), Some(first), "they were loaded again");
            world.stop();
        }
    });
}

#[test]
fn the_tables_come_again_if_they_are_flushed_deleted_or_altered() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        for damage in [
            "nft flush ruleset",
            "nft delete table arp lxmesh_closed",
            "nft flush chain inet lxmesh_closed from_instance",
            "nft insert rule inet lxmesh_closed from_device accept",
            "nft 'add chain inet lxmesh_closed from_device { policy drop; }'",
            "nft 'add table arp lxmesh_closed { flags dormant; }'",
            // In one transaction: the agent is quick.
            "nft 'delete table inet lxmesh_closed; add table inet lxmesh_closed; add set inet lxmesh_closed uplink_names { type ipv4_addr; }'",
        ] {
            let before = until_loaded(&mut world);
            ns.sh(damage);
            world.until(damage, |world| {
                loaded(world.ns).filter(|now| *now != before)
            });
            world.in_step();
            let rules = ns.sh("nft list chain inet lxmesh_closed from_instance");
            assert!(
                rules.contains("fib saddr . iif oif missing"),
                "{damage}: {rules}"
            );
            assert_eq!(planned(&world), [""; 0]);
        }
    });
}

#[test]
fn the_file_of_the_generator_is_what_the_agent_keeps() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let path = world.path("closed.nft");
        let file = world.path("closed.nft").display().to_string();
        world
            .environment
            .insert("LXMESH_TEST_CLOSED_FILE".into(), file.clone());
        let host = lxmesh::host::load(&world.path("host.toml")).unwrap();
        let rendered = closed::render(&host, &BTreeSet::from(["host0".to_string()])).unwrap();
        fs::write(&path, &rendered.contents).unwrap();
        ns.sh(&format!("nft -f {file}"));
        let mut world = world.started();
        let first = until_loaded(&mut world);
        let uplinks = |ns: &Ns| ns.sh("nft list set inet lxmesh_closed uplink_names");
        assert!(uplinks(ns).contains("host0"));
        let stamp = |loaded: &str| {
            loaded
                .split(' ')
                .skip(1)
                .take(3)
                .map(str::to_string)
                .collect::<Vec<_>>()
        };
        // As the unit does it at a reload: no fight, the agent loads it once more.
        ns.sh(&format!("nft -f {file}"));
        let second = world.until("it is stamped again", |world| {
            loaded(world.ns).filter(|now| *now != first)
        });
        assert_eq!(stamp(&first), stamp(&second), "the text is the same");
        world.settle();
        assert_eq!(loaded(ns), Some(second.clone()));
        assert_eq!(planned(&world), [""; 0]);
        // As the generator does it with another host file.
        let other = closed::render(&host, &BTreeSet::from(["host1".to_string()])).unwrap();
        fs::write(&path, &other.contents).unwrap();
        ns.sh(&format!("nft -f {file}"));
        world.until("it is stamped again", |world| {
            loaded(world.ns).filter(|now| *now != second)
        });
        assert!(uplinks(ns).contains("host1"));
        assert_eq!(planned(&world), [""; 0]);
    });
}

#[test]
fn a_veth_on_the_way_to_everywhere_is_an_uplink_and_stays_one_without_its_route() {
    in_netns(|ns| {
        ns.sh(
            "ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up
            ip address add 198.18.9.2/24 dev up0; ip route add default via 198.18.9.1",
        );
        let mut world = World::new(ns).started();
        let first = until_loaded(&mut world);
        let uplinks = ns.sh("nft list set inet lxmesh_closed uplink_names");
        assert!(
            uplinks.contains("\"up0\"") && !uplinks.contains("up1"),
            "{uplinks}"
        );
        ns.sh("ip route del default");
        world.stop();
        world.start();
        world.in_step();
        assert_eq!(loaded(ns), Some(first));
        assert_eq!(planned(&world), [""; 0]);
    });
}

/// As an agent loads a text for tables of a name: with a stamp that knows text and tables, in a set of this name.
fn stamped(ns: &Ns, families: &[Family], table: &str, text: &str, set: &str) {
    ns.nft(text);
    let digits = |digest: &[u8]| -> String {
        let digits = digest.iter().take(8);
        digits.map(|byte| format!("{byte:02x}")).collect()
    };
    let mut made = Sha256::new();
    let mut nft = Nft::open().unwrap();
    for family in families {
        made.update(nft.structure(*family, table).unwrap().unwrap().digest);
    }
    let (text, made) = (digits(&Sha256::digest(text)), digits(&made.finalize()));
    let family = families[0].name();
    ns.nft(&format!(
        "add element {family} {table} {set} {{ 1 comment \"2 {text} {made}\" }}"
    ));
}

/// An upgrade alters nothing, and what was known before it is known after it.
#[test]
fn tables_with_the_names_of_an_earlier_version_are_believed_and_replaced() {
    in_netns(|ns| {
        ns.sh("ip link add up0 type veth peer name up1; ip link set up0 up; ip link set up1 up");
        let world = World::new(ns);
        let host = lxmesh::host::load(&world.path("host.toml")).unwrap();
        let text = closed::render(&host, &BTreeSet::from(["up0".to_string()])).unwrap();
        let mut text = text.contents;
        for (now, earlier) in [("uplink_names", "uplinks"), ("load_stamp", "stamp")] {
            assert!(text.contains(now));
            text = text.replace(now, earlier);
        }
        let (bridge, inet, arp) = (Family::Bridge, Family::Inet, Family::Arp);
        stamped(ns, &[inet, arp], "lxmesh_closed", &text, "stamp");
        let tables = "table bridge lxmesh {\nset stamp { type mark; }\n}\ntable inet lxmesh { }\ntable arp lxmesh { }\n";
        stamped(ns, &[bridge, inet, arp], "lxmesh", tables, "stamp");
        let said = world.output(&["plan"]);
        let said = String::from_utf8(said.stdout).unwrap();
        for kind in ["closed", "nft_table"] {
            let mut lines = said.lines();
            let line = lines.find(|line| line.contains(&format!(" {kind} ")));
            let line = line.unwrap_or_else(|| panic!("{kind}: {said}"));
            assert_eq!(line.matches(" intact").count(), 2, "{line}");
        }
        let mut world = world.started();
        world.in_step();
        let ruleset = ns.sh("nft list ruleset");
        assert!(!ruleset.contains("set stamp {") && !ruleset.contains("set uplinks {"));
        let uplinks = ns.sh("nft list set inet lxmesh_closed uplink_names");
        assert!(uplinks.contains("\"up0\""), "{uplinks}");
    });
}

/// Whose tables these are is not known, so nobody's device gets past them because they have it.
#[test]
fn uplinks_of_tables_that_another_made_are_not_believed() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        until_loaded(&mut world);
        let port = world.nics[0].port.clone();
        for damage in [
            "delete table inet lxmesh_closed; add table inet lxmesh_closed; add set inet lxmesh_closed uplink_names { type ifname; elements = { PORT }; }",
            "table inet lxmesh_closed; delete table inet lxmesh_closed; add table inet lxmesh_closed; add set inet lxmesh_closed uplink_names { type ifname; elements = { PORT }; }; add set inet lxmesh_closed load_stamp { type mark; }; add element inet lxmesh_closed load_stamp { 1 comment \"2 0 0\" }",
        ] {
            ns.nft(&damage.replace("PORT", &format!("\"{port}\"")));
            world.until(damage, |world| {
                loaded(world.ns)?;
                let uplinks = ns.sh("nft list set inet lxmesh_closed uplink_names");
                (!uplinks.contains(&port)).then_some(())
            });
        }
        world.in_step();
        let uplinks = ns.sh("nft list set inet lxmesh_closed uplink_names");
        assert!(!uplinks.contains(&port), "{uplinks}");
    });
}

/// Whether a device is up.
fn is_up(ns: &Ns, port: &str) -> bool {
    let flags = ns.link(port)["flags"].clone();
    flags.as_array().unwrap().contains(&"UP".into())
}

/// An instance that runs, and whose NIC nobody expects to be connected.
fn run_refused(world: &mut World<'_>, nic: &Nic, parent: &str) {
    world.plug(nic);
    world.ns.sh(&format!("ip link set {} up", nic.port));
    let mut instance = Instance::new(&nic.instance);
    instance.status = Status::Running;
    world.add_device(&mut instance, nic);
    let device = instance.devices.get_mut(&nic.device).unwrap();
    device.insert("user.lxmesh.parent".into(), parent.into());
    world.lxd.put(instance);
    world
        .lxd
        .emit("instance-started", &nic.project, &nic.instance);
}

fn refused(world: &World<'_>) -> Vec<(String, bool)> {
    let status = world.status().unwrap();
    let refused = status["refused"].as_array().unwrap().iter();
    refused
        .map(|nic| {
            let port = nic["port"].as_str().unwrap().to_string();
            (port, nic["down"].as_bool().unwrap())
        })
        .collect()
}

#[test]
fn the_device_of_a_nic_that_is_refused_is_down_and_others_stay_as_they_are() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let strangers = world.strangers();
        let down = |world: &mut World<'_>, port: &str| {
            world.until("it is down", |world| (!is_up(world.ns, port)).then_some(()));
        };
        // A network that is not there.
        let lost = world.nic("lost", "vpc");
        run_refused(&mut world, &lost, "nowhere");
        down(&mut world, &lost.port);
        // A MAC that another one has.
        let twin = Nic {
            mac: world.nics[0].mac.clone(),
            ..world.nic("twin", world.nics[0].network)
        };
        run_refused(&mut world, &twin, twin.network);
        down(&mut world, &twin.port);
        // Whoever names the device of another has it not put down.
        let thief = Nic {
            port: "other0".into(),
            ..world.nic("thief", "vpc")
        };
        let mut instance = Instance::new("thief");
        instance.status = Status::Running;
        world.add_device(&mut instance, &thief);
        let device = instance.devices.get_mut("eth0").unwrap();
        device.insert("user.lxmesh.parent".into(), "nowhere".into());
        world.lxd.put(instance);
        world.lxd.emit("instance-started", "default", "thief");
        world.settle();
        assert!(is_up(ns, "other0"));
        world.strangers_are(&strangers);
        let all = refused(&world);
        for port in [&lost.port, &twin.port] {
            assert!(all.contains(&(port.clone(), true)), "{all:?}");
        }
        let screen = String::from_utf8(world.output(&["status"]).stdout).unwrap();
        assert!(
            screen.contains(&format!("{} is down", lost.port)),
            "{screen}"
        );
        // Kept down.
        ns.sh(&format!("ip link set {} up", lost.port));
        down(&mut world, &lost.port);
        world.in_step();
        // And connected, once it may be.
        let found = Nic {
            network: "vpc",
            ..lost
        };
        world.set(&found, Status::Running);
        world.expect(&found);
        world.lxd.emit("instance-updated", "default", "lost");
        world.in_step();
        assert!(is_up(ns, &found.port));
        world.strangers_are(&strangers);
    });
}

#[test]
fn without_its_bridge_a_nic_is_down_until_there_is_one() {
    in_netns(|ns| {
        let mut world = World::bare(ns, 3600);
        world.start();
        world.until_logged("connected to LXD");
        let nic = world.nic("c1", "vpc");
        world.plug(&nic);
        ns.sh(&format!("ip link set {} up", nic.port));
        world.start_in_lxd(&nic);
        world.until("it is down", |world| {
            (!is_up(world.ns, &nic.port)).then_some(())
        });
        for name in ["vpc", "dmz"] {
            ns.sh(&super::support::world::network_devices(name));
        }
        world.in_step();
        assert!(is_up(ns, &nic.port));
    });
}

/// What is not known is left alone: LXD has not been read.
#[test]
fn before_lxd_has_been_read_no_device_is_put_down() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let nic = world.nic("lost", "vpc");
        run_refused(&mut world, &nic, "nowhere");
        fs::remove_file(world.path("lxd.sock")).unwrap();
        world.start();
        until_loaded(&mut world);
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert!(is_up(ns, &nic.port));
    });
}
