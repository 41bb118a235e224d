//! Virtual machines: taps, and moves of machines that run. What LXD and Incus do then was read in their sources (Incus
//! of August 2026: `device/nic_p2p.go`, `device/device_utils_network.go`, `instance/drivers/driver_qemu.go`), and a fake
//! LXD says it here: their daemons run no virtual machine without KVM.

use super::claims::{announced, neighbours, until_problem};
use super::lifecycle::fdb_listener;
use super::support::fake_lxd::Status;
use super::support::world::{Nic, World};
use super::support::{Ns, in_netns, taps};
use std::fs::File;

/// A guest's NIC, and QEMU's end of its tap: without it the tap has no carrier.
struct Guest {
    nic: Nic,
    _end: File,
}

/// Makes a tap as `networkCreateTap()` does, multi-queue, up, with a MAC that nobody chose; and opens it as
/// `addNetDevConfig()` does for QEMU.
fn tap(ns: &Ns, name: &str) -> File {
    ns.sh(&format!(
        "ip tuntap add dev {name} mode tap multi_queue; ip link set {name} up"
    ));
    taps::open(
        name,
        libc::IFF_TAP | libc::IFF_MULTI_QUEUE | libc::IFF_VNET_HDR,
    )
}

/// A virtual machine that runs and is connected.
fn running(world: &mut World<'_>, instance: &str) -> Guest {
    let mut nic = world.nic(instance, "vpc");
    nic.port = nic.port.replace("veth", "tap");
    let end = tap(world.ns, &nic.port);
    world.start_in_lxd(&nic);
    world.in_step();
    Guest { nic, _end: end }
}

/// LXD's one record of the instance names this device, or none.
fn names(world: &World<'_>, nic: &Nic, device: Option<&str>) {
    names_in(world, nic, device, Status::Running);
}

fn names_in(world: &World<'_>, nic: &Nic, device: Option<&str>, status: Status) {
    world.set(nic, status);
    let mut instance = world.lxd.get("default", &nic.instance);
    let key = format!("volatile.{}.host_name", nic.device);
    match device {
        Some(device) => instance.config.insert(key, device.into()),
        None => instance.config.remove(&key),
    };
    world.lxd.put(instance);
    world.lxd.emit("instance-updated", "default", &nic.instance);
}

/// The instance is paused, does what it does then, and goes on with the device that it had.
fn paused(
    world: &mut World<'_>,
    nic: &Nic,
    device: Option<&str>,
    meanwhile: impl FnOnce(&mut World<'_>),
) {
    world.forget(nic);
    names_in(world, nic, device, Status::Frozen);
    world.settle();
    assert_eq!(world.differences(), [""; 0], "paused");
    meanwhile(world);
    world.settle();
    assert_eq!(
        world.differences(),
        [""; 0],
        "paused, and something has happened"
    );
    world.expect(nic);
    names(world, nic, device);
    world.in_step();
}

#[test]
fn a_tap_is_connected() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        // Its own MAC, by which the bridge would keep what is for the guest, is another one.
        let link = ns.link(&nic.port);
        assert_ne!(link["address"], nic.mac);
    });
}

/// In a cluster the record of the instance has the other member's device before the guest has left, and none if the
/// other member gives up: minutes, in which the guest runs on here.
#[test]
fn a_virtual_machine_keeps_its_tap_while_it_moves() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        let listener = fdb_listener(&mut world);
        for device in [Some("tap0badcafe"), None, Some(nic.port.as_str()), None] {
            names(&world, nic, device);
            world.settle();
            assert_eq!(world.differences(), [""; 0], "{device:?}");
        }
        let gone: Vec<String> = listener
            .text()
            .lines()
            .filter(|line| line.contains("Deleted") && line.contains(&nic.mac))
            .map(str::to_string)
            .collect();
        assert_eq!(gone, [""; 0], "{}", listener.text());
        // Nor by an agent that finds it so.
        for device in [None, Some("tap0badcafe")] {
            world.stop();
            names(&world, nic, device);
            world.start();
            world.settle();
            assert_eq!(world.differences(), [""; 0], "{device:?}");
        }
        let status = world.status().expect("it runs");
        assert!(status.to_string().contains(&nic.port), "{status}");
        // It is gone from here.
        ns.sh(&format!("ip link delete {}", nic.port));
        world.lxd.remove("default", "vm1");
        world.forget(nic);
        world.lxd.emit("instance-deleted", "default", "vm1");
        world.in_step();
    });
}

#[test]
fn what_a_virtual_machine_keeps_is_nobody_elses() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        let mut thief = world.nic("thief", "vpc");
        thief.port = nic.port.clone();
        for (restart, device) in [(false, Some("tap0badcafe")), (false, None), (true, None)] {
            if restart {
                world.stop();
            }
            names(&world, nic, device);
            world.set(&thief, Status::Running);
            match restart {
                true => world.start(),
                false => world.lxd.emit("instance-started", "default", "thief"),
            }
            until_problem(
                &mut world,
                &format!("thief device eth0: host device {}", nic.port),
            );
            world.settle();
            assert_eq!(world.differences(), [""; 0], "{device:?}, {restart}");
        }
    });
}

/// Everybody sees MACs by ARP. Who has one gets by it neither the tap nor the address, also while its owner is paused or the
/// agent starts anew.
#[test]
fn a_twins_mac_gets_nothing_of_what_is_kept() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        let mut twin = world.nic("another", "vpc");
        (twin.mac, twin.ipv4) = (nic.mac.clone(), nic.ipv4.clone());
        for device in [Some("nosuchdevice"), None] {
            names(&world, nic, Some("tap0badcafe"));
            names(&world, &twin, device);
            let mut older = world.lxd.get("default", "another");
            older.last_used_at = "2020-01-01T00:00:00Z".into();
            world.lxd.put(older);
            world.settle();
            assert_eq!(world.differences(), [""; 0], "{device:?}");
            // While it is paused the twin may have the MAC, and not by this tap.
            names_in(&world, nic, Some(&nic.port), Status::Frozen);
            world.until("its tap is out", |world| {
                world.ns.link(&nic.port)["master"].is_null().then_some(())
            });
            world.forget(nic);
            world.launch("later", "vpc");
            world.until("a later one is attached", |world| {
                let link = world.ns.link(&world.nics.last()?.port);
                (link["master"] == "svi-vpc").then_some(())
            });
            assert!(ns.link(&nic.port)["master"].is_null());
            world.expect(nic);
            without(&mut world, "another", nic);
            let later = world.nics.iter().find(|nic| nic.instance == "later");
            let later = later.expect("it runs").clone();
            super::lifecycle::stop(&mut world, &later);
            world.in_step();
            names(&world, &twin, device);
            world.settle();
            // While it moves an agent starts that knows nothing: rather neither.
            names(&world, nic, Some("tap0badcafe"));
            world.settle();
            world.stop();
            world.start();
            world.until("the tap is out", |world| {
                world.ns.link(&nic.port)["master"].is_null().then_some(())
            });
            without(&mut world, "another", nic);
            // It names its tap: then that it has the MAC says whose it is.
            names(&world, &twin, device);
            world.settle();
            world.stop();
            world.start();
            world.settle();
            assert_eq!(world.differences(), [""; 0], "{device:?}, started anew");
        }
    });
}

/// The other instance is deleted, and LXD says again which device the NIC has: it is connected.
fn without(world: &mut World<'_>, other: &str, nic: &Nic) {
    world.lxd.remove("default", other);
    world.lxd.emit("instance-deleted", "default", other);
    names(world, nic, Some(&nic.port));
    world.in_step();
}

#[test]
fn the_device_of_a_paused_machine_is_not_anothers_who_names_it() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        let mut thief = world.nic("thief", "vpc");
        thief.port = nic.port.clone();
        names(&world, &thief, Some(&nic.port));
        let refused = format!("thief device eth0: host device {}", nic.port);
        until_problem(&mut world, &refused);
        for _ in 0..2 {
            paused(&mut world, nic, Some(&nic.port), |world| {
                until_problem(world, &refused);
            });
        }
        // Nor by naming it while it is paused.
        world.lxd.remove("default", "thief");
        world.lxd.emit("instance-deleted", "default", "thief");
        paused(&mut world, nic, Some(&nic.port), |world| {
            names(world, &thief, Some(&nic.port));
            until_problem(world, &refused);
        });
    });
}

/// In the middle of a move its MAC is elsewhere for a moment, or its tap is taken out by hand.
#[test]
fn a_kept_tap_is_put_right_like_any_other() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        for device in [Some("tap0badcafe"), None] {
            names(&world, nic, device);
            world.settle();
            for damage in [
                format!("bridge fdb del {} dev {} master", nic.mac, nic.port),
                format!("ip link set {} nomaster", nic.port),
            ] {
                world.repairs(&damage);
            }
        }
        elsewhere(ns, nic);
        assert!(is_elsewhere(ns, nic));
        world.in_step();
    });
}

/// The name in its record is that of a device on another member, and whoever reads it may make one of that name here.
#[test]
fn a_tap_is_kept_as_long_as_it_is_there_and_then_only_for_another_tap() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        let mut other = nic.clone();
        other.port = "other0badcafe".into();
        names(&world, nic, Some(&other.port));
        // As LXD makes it for a container that names it.
        let mut stranger = world.nic("stranger", "vpc");
        stranger.port = other.port.clone();
        world.plug(&stranger);
        world.settle();
        assert_eq!(world.differences(), [""; 0], "both are there");
        world.forget(nic);
        ns.sh(&format!("ip link delete {}", nic.port));
        // It is looked every second.
        std::thread::sleep(std::time::Duration::from_secs(4));
        world.launch("later", "vpc");
        world.until("a later one is attached", |world| {
            let link = world.ns.link(&world.nics.last()?.port);
            (link["master"] == "svi-vpc").then_some(())
        });
        let link = ns.link(&other.port);
        assert_eq!(link["master"], serde_json::Value::Null, "{link}");
        // Its own one, made anew.
        world.unplug(&stranger);
        let end = tap(ns, &other.port);
        world.expect(&other);
        world.in_step();
        drop(end);
    });
}

/// Nor by an instance that names it, was paused before its owner, and goes on after it.
#[test]
fn a_paused_instance_does_not_get_the_device_of_another_that_it_names() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        let mut thief = world.nic("thief", "vpc");
        thief.port = nic.port.clone();
        let refused = format!("thief device eth0: host device {}", nic.port);
        names_in(&world, &thief, Some(&nic.port), Status::Frozen);
        world.settle();
        paused(&mut world, nic, Some(&nic.port), |_| {});
        names(&world, &thief, Some(&nic.port));
        until_problem(&mut world, &refused);
        world.in_step();
        // And the owner once more.
        paused(&mut world, nic, Some(&nic.port), |world| {
            until_problem(world, &refused);
        });
    });
}

/// A move that has failed leaves it without a name for as long as it runs.
#[test]
fn what_a_machine_keeps_it_has_again_after_a_pause() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        let mut thief = world.nic("thief", "vpc");
        thief.port = nic.port.clone();
        for device in [None, Some("tap0badcafe")] {
            names(&world, nic, device);
            world.settle();
            assert_eq!(world.differences(), [""; 0], "{device:?}");
            paused(&mut world, nic, device, |world| {
                names(world, &thief, Some(&nic.port));
                until_problem(
                    world,
                    &format!("thief device eth0: host device {}", nic.port),
                );
            });
            world.lxd.remove("default", "thief");
            world.lxd.emit("instance-deleted", "default", "thief");
        }
    });
}

/// Nobody is thrown out because of what others claim.
#[test]
fn the_mac_of_a_tap_itself_may_be_claimed_by_others() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let mut nic = world.nic("vm1", "vpc");
        nic.port = nic.port.replace("veth", "tap");
        let _end = tap(ns, &nic.port);
        let own = "02:00:00:00:0a:01";
        ns.sh(&format!("ip link set {} address {own}", nic.port));
        world.start_in_lxd(&nic);
        world.in_step();
        let mut other = world.nic("other", "vpc");
        other.mac = own.into();
        world.plug(&other);
        world.start_in_lxd(&other);
        world.in_step();
        // Taken out by hand, its MAC is told of once more when it is back.
        ns.sh(&format!("ip link set {} nomaster", nic.port));
        world.until("it is back", |world| {
            (world.ns.link(&nic.port)["master"] == "svi-vpc").then_some(())
        });
        world.settle();
        assert_eq!(ns.link(&nic.port)["master"], "svi-vpc");
        let status = world.status().expect("it runs").to_string();
        assert!(!status.contains("was given the MAC"), "{status}");
    });
}

/// Whoever has the descriptor of a tap can set its MAC, and the bridge keeps for itself what is for that MAC.
#[test]
fn a_tap_that_takes_the_mac_of_others_is_out_until_it_is_made_anew() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let victim = world.launch("victim", "vpc");
        let honest = running(&mut world, "vm1");
        let gateway = ns.link("svi-vpc")["address"].as_str().unwrap().to_string();
        for (n, mac) in [victim.mac.as_str(), &gateway].into_iter().enumerate() {
            let guest = running(&mut world, &format!("broken{n}"));
            let nic = &guest.nic;
            let own = ns.link(&nic.port)["address"].as_str().unwrap().to_string();
            // However short it has that of another NIC; the bridge keeps the gateway's for itself, anyway.
            let back = match n {
                0 => format!("; ip link set {} address {own}", nic.port),
                _ => String::new(),
            };
            world.signal("STOP");
            ns.sh(&format!("ip link set {} address {mac}{back}", nic.port));
            world.signal("CONT");
            world.forget(nic);
            until_problem(&mut world, &format!("{} was given the MAC {mac}", nic.port));
            world.in_step();
            // Nor if it gives it back, nor by a change of its keys.
            ns.sh(&format!("ip link set {} address {own}", nic.port));
            names(&world, nic, Some(&nic.port));
            world.settle();
            assert_eq!(world.differences(), [""; 0], "{mac}");
            assert_eq!(ns.link(&nic.port)["master"], serde_json::Value::Null);
            // Started anew.
            ns.sh(&format!("ip link delete {}", nic.port));
            let _end = tap(ns, &nic.port);
            world.start_in_lxd(nic);
            world.in_step();
        }
        assert_eq!(ns.link(&honest.nic.port)["master"], "svi-vpc");
    });
}

/// What zebra makes of the NIC's addresses on another host.
fn elsewhere(ns: &Ns, nic: &Nic) {
    for address in [&nic.ipv4, &nic.ipv6] {
        let address = address.as_deref().expect("it has both");
        announced(ns, address, &nic.mac, "203.0.113.2");
    }
}

/// The bridge has the NIC's MAC on the tunnel.
fn is_elsewhere(ns: &Ns, nic: &Nic) -> bool {
    ns.sh("bridge fdb show br svi-vpc dev vxlan-vpc")
        .lines()
        .any(|line| line.contains(&nic.mac) && line.contains("master svi-vpc"))
}

/// The other host announces the guest as soon as it runs there. QEMU has it here still, as one that is paused, and LXD
/// tells nobody of that.
#[test]
fn the_mac_of_a_machine_that_has_left_is_not_taken_back() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        world.launch("c1", "vpc");
        world.in_step();
        let reads = world.lxd.requests("/1.0/instances/vm1");
        let listener = fdb_listener(&mut world);
        // Both before the agent looks at either.
        world.signal("STOP");
        world.set(nic, Status::Frozen);
        elsewhere(ns, nic);
        world.signal("CONT");
        world.forget(nic);
        let there = format!("+ fdb svi-vpc {} on vxlan-vpc", nic.mac);
        world.until("it is withdrawn here", |world| {
            (world.differences() == [there.as_str()]).then_some(())
        });
        assert!(world.lxd.requests("/1.0/instances/vm1") > reads);
        let neighbours = neighbours(&world);
        for address in [&nic.ipv4, &nic.ipv6] {
            let entry = format!("neigh svi-vpc {} {}", address.as_deref().unwrap(), nic.mac);
            assert!(neighbours.contains(&entry), "{neighbours:?}");
        }
        // What zebra was told again of its start came before.
        let text = listener.text();
        let after = text.split(&format!("{} dev vxlan-vpc", nic.mac)).last();
        let here = format!("{} dev {}", nic.mac, nic.port);
        assert!(!after.unwrap_or_default().contains(&here), "{text}");
    });
}

/// LXD says that it runs here: it is claimed, once it has said so, and then ever more slowly.
#[test]
fn the_mac_of_a_machine_that_is_here_is_taken_back_when_lxd_has_said_so() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5).started();
        let guest = running(&mut world, "vm1");
        let nic = &guest.nic;
        let reads = world.lxd.requests("/1.0/instances/vm1");
        elsewhere(ns, nic);
        world.until_logged(&format!("~ fdb svi-vpc {}", nic.mac));
        assert!(world.lxd.requests("/1.0/instances/vm1") > reads);
        world.in_step();
        elsewhere(ns, nic);
        world.until("it is put off", |world| {
            let status = world.status()?;
            let deferred = status["deferred"].as_array()?;
            let fdb = format!("fdb svi-vpc {}", nic.mac);
            deferred.iter().any(|line| *line == fdb).then_some(())
        });
        assert!(is_elsewhere(ns, nic));
    });
}
