//! What happens to instances, and that the kernel follows: nothing of what is gone is left, and
//! nothing of others is touched.

use super::cold_start::busy_world;
use super::support::fake_lxd::{Instance, Status, keys};
use super::support::in_netns;
use super::support::listener::Listener;
use super::support::world::{Nic, World};
use serde_json::json;
use std::fs;

/// As LXD does it: the device goes, then the event comes.
pub fn stop(world: &mut World<'_>, nic: &Nic) {
    world.set(nic, Status::Stopped);
    world.unplug(nic);
    world.forget(nic);
    world
        .lxd
        .emit("instance-stopped", &nic.project, &nic.instance);
}

#[test]
fn an_instance_is_followed_through_stop_start_and_delete() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let strangers = world.strangers();
        let nic = world.nics[0].clone();
        stop(&mut world, &nic);
        world.in_step();
        // LXD gives the device a new name each time.
        let again = Nic {
            port: "vethagain".into(),
            ..nic.clone()
        };
        world.run(&again);
        world.in_step();
        stop(&mut world, &again);
        world.lxd.remove("default", &nic.instance);
        world.lxd.emit("instance-deleted", "default", &nic.instance);
        world.in_step();
        world.strangers_are(&strangers);
    });
}

/// A pass over one instance looks at its network alone, and gives it what it has by the others of the VRF.
#[test]
fn an_instance_that_comes_later_is_routed_within_its_vrf_like_those_before() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let text = world.host_file();
        let routes = ["host_routes = \"main\"", "host_routes = 1200"];
        let text = routes
            .iter()
            .fold(text, |text, routes| text.replace(routes, "vrf = \"red\""));
        assert_eq!(text.matches("vrf = \"red\"").count(), 2, "{text}");
        world.write_host_file(&text);
        world.launch("c1", "vpc");
        world.launch("c2", "dmz");
        world.start();
        world.until_logged("scope=\"everything\"");
        let mut nic = world.launch("c3", "dmz");
        world.until("it is in its network", |world| {
            (world.ns.link(&nic.port)["master"] == "svi-dmz").then_some(())
        });
        nic.in_services = vec!["udp/53".into()];
        world.set(&nic, Status::Running);
        world.lxd.emit("instance-updated", "default", "c3");
        world.until_logged("scope=\"c3\"");
        let list = world.ns.sh(&format!(
            "nft get element bridge lxmesh vrf_zones '{{ \"{}\" }}'",
            nic.port
        ));
        assert!(list.contains(": 100"), "not the lowest zone: {list}");
        let list = world.ns.sh("nft list set bridge lxmesh same_vrf4");
        for prefix in ["192.0.2.0/24", "198.51.100.0/24"] {
            // Three ports and two tunnels.
            assert_eq!(list.matches(prefix).count(), 5, "{list}");
        }
        let plan = world.output(&["plan"]);
        let plan = String::from_utf8_lossy(&plan.stdout);
        assert_eq!(plan, "nothing to do\n", "{}", world.log());
    });
}

/// What the kernel tells of FDB entries, as zebra hears it.
pub fn fdb_listener(world: &mut World<'_>) -> Listener {
    let listener = Listener::start(&["bridge", "monitor", "fdb"], world.path("told"));
    // It listens once it has heard of something.
    world.until("the listener is there", |world| {
        let mac = "02:ee:00:00:aa:01";
        world.ns.sh(&format!(
            "bridge fdb add {mac} dev other0 master; bridge fdb del {mac} dev other0 master"
        ));
        (!listener.text().is_empty()).then_some(())
    });
    listener
}

/// Zebra may have missed the end of the FDB entry, which goes with the device, and is told in its
/// own words, also if the device went while no agent ran.
#[test]
fn zebra_is_told_that_the_mac_of_a_device_that_went_is_not_here() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let [one, other] = [0, 1].map(|n| world.nics[n].clone());
        let listener = fdb_listener(&mut world);
        let told = |nic: &Nic| {
            let text = listener.text();
            text.lines()
                .any(|line| line.starts_with(&nic.mac) && line.contains("dst 127.0.0.1 port 9"))
                .then_some(())
        };
        stop(&mut world, &one);
        world.in_step();
        world.until("zebra is told", |_| told(&one));
        assert_eq!(told(&other), None);
        world.stop();
        stop(&mut world, &other);
        world.start();
        world.in_step();
        world.until("zebra is told of the past", |_| told(&other));
        assert!(!ns.sh("bridge fdb show").contains("127.0.0.1"));
    });
}

/// An entry of a port that does not forward takes no mark: it goes and comes back instead. One of
/// a port that forwards never goes.
#[test]
fn zebra_is_told_again_of_a_mac_behind_a_port_without_carrier() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let listener = fdb_listener(&mut world);
        let silent = world.nic("silent", "vpc");
        world.plug(&silent);
        // As the instance's end is until its operating system sets it up.
        world.in_peers(&format!("ip link set {}p down", silent.port));
        world.start_in_lxd(&silent);
        let live = world.launch("live", "vpc");
        world.in_step();
        let about = |nic: &Nic| -> Vec<bool> {
            let text = listener.text();
            let of_bridge = |line: &&str| line.contains(&nic.port) && line.contains(&nic.mac);
            let lines = text.lines().filter(of_bridge);
            lines.map(|line| line.starts_with("Deleted")).collect()
        };
        world.until("the silent one's entry was made anew", |_| {
            let gone = about(&silent).into_iter().filter(|gone| *gone).count();
            (gone > 0 && about(&silent).last() == Some(&false)).then_some(())
        });
        world.until("the live one's was marked", |_| {
            (about(&live).len() >= 3).then_some(())
        });
        assert!(!about(&live).contains(&true), "{}", listener.text());
        world.in_step();
    });
}

#[test]
fn a_paused_instance_is_withdrawn_and_comes_back() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic = world.nics[0].clone();
        // Its device stays.
        world.set(&nic, Status::Frozen);
        world.forget(&nic);
        world.lxd.emit("instance-paused", "default", &nic.instance);
        world.in_step();
        let down = ns.link(&nic.port);
        assert!(
            !down["flags"].as_array().unwrap().contains(&"UP".into()),
            "{down}"
        );
        world.set(&nic, Status::Running);
        world.expect(&nic);
        world.lxd.emit("instance-resumed", "default", &nic.instance);
        world.in_step();
    });
}

#[test]
fn a_renamed_instance_keeps_its_network() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let old = world.nics[0].clone();
        stop(&mut world, &old);
        world.in_step();
        let new = Nic {
            instance: "renamed".into(),
            ..old.clone()
        };
        world.lxd.remove("default", &old.instance);
        world.set(&new, Status::Stopped);
        let context = json!({"old_name": old.instance});
        world
            .lxd
            .emit_with("instance-renamed", "default", "renamed", &context);
        world.run(&new);
        world.in_step();
        assert!(
            fs::read_to_string(world.path("dnsmasq/hosts"))
                .unwrap()
                .contains(",renamed\n")
        );
    });
}

#[test]
fn an_instance_deleted_and_made_again_with_the_same_name_is_connected() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let old = world.nics[0].clone();
        let mut new = world.nic(&old.instance, "vpc");
        new.ipv4 = old.ipv4.clone();
        // All at once: the agent sees only the end of it.
        world.signal("STOP");
        stop(&mut world, &old);
        world.lxd.emit("instance-deleted", "default", &old.instance);
        world.run(&new);
        world.signal("CONT");
        world.in_step();
    });
}

#[test]
fn changed_keys_take_effect() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        // Not touched, because LXD touches the device only for devices' keys.
        let mut nic = world.nics[0].clone();
        nic.out_services = vec!["tcp/22".into()];
        world.set(&nic, Status::Running);
        world.expect(&nic);
        world.lxd.emit("instance-updated", "default", &nic.instance);
        world.in_step();
        // `lxc config device set` makes the device anew, under another name.
        let changed = Nic {
            port: "vethchanged".into(),
            ipv4: Some("192.0.2.99".into()),
            ipv6: Some("2001:db8::99".into()),
            in_services: vec!["tcp/8080".into()],
            mark: 1,
            ..nic.clone()
        };
        world.unplug(&nic);
        world.plug(&changed);
        world.set(&changed, Status::Running);
        world.expect(&changed);
        world.lxd.emit("instance-updated", "default", &nic.instance);
        world.in_step();
    });
}

#[test]
fn an_address_taken_away_and_given_to_another_instance_moves() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let (mut a, mut b) = (world.nics[0].clone(), world.nics[1].clone());
        std::mem::swap(&mut a.ipv4, &mut b.ipv4);
        for nic in [&a, &b] {
            world.set(nic, Status::Running);
            world.expect(nic);
            world.lxd.emit("instance-updated", "default", &nic.instance);
        }
        world.in_step();
    });
}

#[test]
fn a_changed_profile_reaches_every_instance() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        for mut nic in world.nics.clone() {
            nic.out_services = vec!["udp/123".into()];
            world.set(&nic, Status::Running);
            world.expect(&nic);
        }
        // Other servers than LXD 5.0 send no event for each instance.
        world.lxd.emit("profile-updated", "default", "default");
        world.in_step();
    });
}

#[test]
fn a_second_device_is_added_and_removed() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let first = world.nics[0].clone();
        let second = Nic {
            device: "eth1".into(),
            ..world.nic(&first.instance, "dmz")
        };
        world.plug(&second);
        let mut instance = world.lxd.get("default", &first.instance);
        world.add_device(&mut instance, &second);
        world.lxd.put(instance);
        // dnsmasq's name goes to the first device; only the other lines are compared here.
        world.expect(&second);
        world
            .lxd
            .emit("instance-updated", "default", &first.instance);
        let name_only_once = |line: &String| !line.contains(&format!("dhcp {}", second.mac));
        world.until("the second device is connected", |world| {
            (!world.differences().iter().any(name_only_once)).then_some(())
        });
        let hosts = fs::read_to_string(world.path("dnsmasq/hosts")).unwrap();
        assert!(hosts.contains(&format!("{},", second.mac)), "{hosts}");
        world.set(&first, Status::Running);
        world.unplug(&second);
        world.forget(&second);
        world
            .lxd
            .emit("instance-updated", "default", &first.instance);
        world.in_step();
    });
}

#[test]
fn an_instance_of_another_project_with_the_same_name_is_another_instance() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let other = Nic {
            project: "prod".into(),
            ..world.nic("c1", "vpc")
        };
        world.run(&other);
        world.in_step();
        stop(&mut world, &other);
        world.lxd.remove("prod", "c1");
        world.lxd.emit("instance-deleted", "prod", "c1");
        world.in_step();
    });
}

#[test]
fn a_nic_that_is_not_ours_is_left_alone() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let ours = world.nic("mixed", "vpc");
        ns.sh("ip link add veththeirs type veth peer name veththeirs2; ip link set veththeirs master br-other up
               ip link add vethalone type veth peer name vethalone2; ip link set vethalone up");
        let mut instance = Instance::new("mixed");
        instance.status = Status::Running;
        world.add_device(&mut instance, &ours);
        for (device, kind, port) in [("br", "bridged", "veththeirs"), ("p2p", "p2p", "vethalone")] {
            instance.devices.insert(
                device.into(),
                keys(&[("type", "nic"), ("nictype", kind), ("name", device)]),
            );
            instance
                .config
                .insert(format!("volatile.{device}.host_name"), port.into());
            instance.config.insert(
                format!("volatile.{device}.hwaddr"),
                "00:16:3e:99:99:99".into(),
            );
        }
        let ask = "for i in veththeirs vethalone; do ip -o -d link show $i; done | sed 's/[a-z_]*_timer *[0-9.]*//g; s/state [a-zA-Z]*//g'";
        let before = ns.sh(ask);
        world.plug(&ours);
        world.lxd.put(instance);
        world.expect(&ours);
        world.lxd.emit("instance-started", "default", "mixed");
        world.in_step();
        stop(&mut world, &ours);
        world.in_step();
        assert_eq!(ns.sh(ask), before);
    });
}

#[test]
fn an_event_that_was_never_sent_is_made_up_for_by_the_next_listing() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        let nic = world.launch("c1", "vpc");
        let mut world = world.started();
        let silent = world.nic("c2", "dmz");
        world.plug(&silent);
        world.set(&silent, Status::Running);
        world.expect(&silent);
        world.in_step();
        world.lxd.remove("default", "c1");
        world.forget(&nic);
        world.in_step();
    });
}

#[test]
fn an_event_before_the_device_is_there_is_no_loss() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic = world.nic("early", "vpc");
        world.set(&nic, Status::Running);
        world.lxd.emit("instance-started", "default", "early");
        // Something that comes after it, so that it has been worked on.
        world.launch("later", "vpc");
        world.until("the later one is connected", |world| {
            let wrong = world.differences();
            (!wrong.iter().any(|line| line.starts_with('-'))).then_some(())
        });
        world.plug(&nic);
        world.expect(&nic);
        world.in_step();
    });
}

#[test]
fn many_instances_at_once_are_all_connected_and_withdrawn() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let nics: Vec<Nic> = (0..80)
            .map(|n| world.launch(&format!("m{n}"), "vpc"))
            .collect();
        world.in_step();
        for nic in &nics {
            stop(&mut world, nic);
        }
        world.in_step();
    });
}
