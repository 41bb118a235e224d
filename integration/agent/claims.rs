//! Who has what several claim, on this host and across hosts, also after a restart; and which devices NICs
//! may name as theirs. Entries as zebra makes them stand for other hosts.

use super::support::fake_lxd::Status;
use super::support::world::{Nic, World};
use super::support::{Ns, in_netns};
use std::time::Duration;

const OTHER: &str = "02:ee:00:00:00:ee";

/// What zebra makes of another host's announcement that a MAC has an address.
pub fn announced(ns: &Ns, address: &str, mac: &str, vtep: &str) {
    ns.sh(&format!(
        "bridge fdb replace {mac} dev vxlan-vpc dst {vtep} self
         bridge fdb replace {mac} dev vxlan-vpc master extern_learn
         ip neighbour replace {address} lladdr {mac} dev svi-vpc nud noarp extern_learn protocol zebra"
    ));
}

fn problems(world: &World<'_>) -> Vec<String> {
    let status = world.status().unwrap_or_default();
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let texts = problems.iter().filter_map(|text| text.as_str());
    texts.map(str::to_string).collect()
}

pub fn until_problem(world: &mut World<'_>, text: &str) {
    world.until(&format!("a problem with {text:?}"), |world| {
        let found = problems(world);
        found
            .iter()
            .any(|problem| problem.contains(text))
            .then_some(())
    });
}

fn until_no_problem(world: &mut World<'_>) {
    world.until("no problem", |world| {
        problems(world).is_empty().then_some(())
    });
}

/// Runs an instance that LXD says was started long ago.
fn run_with_an_older_start(world: &mut World<'_>, nic: &Nic) {
    world.plug(nic);
    world.set(nic, Status::Running);
    let mut instance = world.lxd.get(&nic.project, &nic.instance);
    instance.last_used_at = "2020-01-01T00:00:00Z".into();
    world.lxd.put(instance);
    world
        .lxd
        .emit("instance-started", &nic.project, &nic.instance);
}

/// Expects the NIC without what it does not get.
fn expect_without(world: &mut World<'_>, nic: &Nic, ipv4: bool, ipv6: bool) {
    let mut less = nic.clone();
    less.ipv4 = less.ipv4.filter(|_| !ipv4);
    less.ipv6 = less.ipv6.filter(|_| !ipv6);
    world.expect(&less);
}

#[test]
fn whoever_had_an_address_has_it_after_a_restart_too() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let first = world.launch("first", "vpc");
        let mut world = world.started();
        let mut thief = world.nic("thief", "vpc");
        thief.ipv4 = first.ipv4.clone();
        thief.ipv6 = first.ipv6.clone();
        run_with_an_older_start(&mut world, &thief);
        expect_without(&mut world, &thief, true, true);
        world.in_step();
        until_problem(
            &mut world,
            "thief device eth0: address 192.0.2.10 is used in network vpc by first",
        );
        for ended_without_warning in [false, true] {
            match ended_without_warning {
                true => world.kill(),
                false => world.stop(),
            }
            world.start();
            until_problem(
                &mut world,
                "thief device eth0: address 192.0.2.10 is used in network vpc by first",
            );
            world.in_step();
        }
        // It goes, and the other one has it.
        world.lxd.remove("default", "first");
        world.unplug(&first);
        world.forget(&first);
        world.expect(&thief);
        world.lxd.emit("instance-deleted", "default", "first");
        world.in_step();
        until_no_problem(&mut world);
    });
}

#[test]
fn whoever_had_a_mac_and_a_device_has_them_after_a_restart_too() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let first = world.launch("first", "vpc");
        let mut world = world.started();
        // Another device with the same MAC; and the same device with another MAC.
        let mut twin = world.nic("twin", "vpc");
        twin.mac = first.mac.clone();
        run_with_an_older_start(&mut world, &twin);
        let mut thief = world.nic("thief", "vpc");
        thief.port = first.port.clone();
        world.set(&thief, Status::Running);
        let mut instance = world.lxd.get("default", "thief");
        instance.last_used_at = "2020-01-01T00:00:00Z".into();
        world.lxd.put(instance);
        world.lxd.emit("instance-started", "default", "thief");
        for restart in [false, true] {
            if restart {
                world.stop();
                world.start();
            }
            until_problem(&mut world, "is used in network vpc by first device eth0");
            until_problem(&mut world, "belongs to first device eth0");
            world.in_step();
        }
    });
}

#[test]
fn what_a_nic_of_another_host_has_it_keeps_until_it_is_gone() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        let mut world = world.started();
        let nic = world.nic("late", "vpc");
        let (ipv4, ipv6) = (nic.ipv4.clone().unwrap(), nic.ipv6.clone().unwrap());
        announced(ns, &ipv4, OTHER, "203.0.113.2");
        announced(ns, &ipv6, OTHER, "203.0.113.2");
        world.run(&nic);
        until_problem(
            &mut world,
            &format!(
                "late device eth0: address {ipv4} is used in network vpc by {OTHER} on the host 203.0.113.2"
            ),
        );
        until_problem(
            &mut world,
            &format!("address {ipv6} is used in network vpc by {OTHER} on the host 203.0.113.2"),
        );
        expect_without(&mut world, &nic, true, true);
        // Others are told of the claim, by addresses that nobody has.
        let signs = ["100::c000:20b", "100::2001:db8:0:b"]
            .map(|sign| format!("neigh svi-vpc {sign} {}", nic.mac));
        world.until("signs of the claim", |world| {
            let there = neighbours(world);
            signs.iter().all(|sign| there.contains(sign)).then_some(())
        });
        // Also after a restart.
        world.stop();
        world.start();
        until_problem(&mut world, "on the host 203.0.113.2");
        for address in [&ipv4, &ipv6] {
            let entry = world
                .ns
                .sh(&format!("ip neighbour show {address} dev svi-vpc"));
            assert!(entry.contains(OTHER), "{entry}");
        }
        // Its host withdraws it.
        world.ns.sh(&format!(
            "ip neighbour del {ipv4} dev svi-vpc; ip neighbour del {ipv6} dev svi-vpc"
        ));
        let own = [&ipv4, &ipv6].map(|address| format!("neigh svi-vpc {address} {}", nic.mac));
        world.until("it has what it waited for", |world| {
            let there = neighbours(world);
            own.iter().all(|entry| there.contains(entry)).then_some(())
        });
        until_no_problem(&mut world);
        // In dispute they stay, until the NIC is gone.
        let there = neighbours(&world);
        assert!(signs.iter().all(|sign| there.contains(sign)), "{there:?}");
        world.lxd.remove("default", "late");
        world.unplug(&nic);
        world.forget(&nic);
        world.lxd.emit("instance-deleted", "default", "late");
        world.in_step();
    });
}

/// Neighbours of the network as "neigh DEVICE ADDRESS MAC".
pub fn neighbours(world: &World<'_>) -> Vec<String> {
    let all = world
        .ns
        .sh("ip neighbour show dev svi-vpc; ip -6 neighbour show dev svi-vpc");
    let entries = all.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mac = words.iter().position(|word| *word == "lladdr")?;
        Some(format!(
            "neigh svi-vpc {} {}",
            words[0],
            words.get(mac + 1)?
        ))
    });
    entries.collect()
}

#[test]
fn an_instance_that_moves_here_with_its_mac_is_connected_at_once() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        let mut world = world.started();
        let nic = world.nic("moved", "vpc");
        for address in [nic.ipv4.as_ref(), nic.ipv6.as_ref()] {
            announced(ns, address.unwrap(), &nic.mac, "203.0.113.2");
        }
        world.run(&nic);
        world.in_step();
        assert_eq!(problems(&world), [""; 0]);
    });
}

#[test]
fn what_was_given_before_evpn_told_of_it_goes_back() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let nic = world.launch("c1", "vpc");
        let mut world = world.started();
        let ipv4 = nic.ipv4.clone().unwrap();
        // BGP comes up: the address is another host's, although its VTEP is the higher one. A look at the NIC,
        // which its instance can cause, takes nothing back.
        announced(ns, &ipv4, OTHER, "203.0.113.2");
        ns.sh(&format!(
            "ip link set {0} down; ip link set {0} up",
            nic.port
        ));
        expect_without(&mut world, &nic, true, false);
        until_problem(
            &mut world,
            &format!("address {ipv4} is used in network vpc by {OTHER} on the host 203.0.113.2"),
        );
        let entry = world
            .ns
            .sh(&format!("ip neighbour show {ipv4} dev svi-vpc"));
        assert!(entry.contains(OTHER), "{entry}");
    });
}

#[test]
fn what_it_got_after_it_had_waited_goes_back_whenever_the_other_is_there_again() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5).started();
        let nic = world.nic("late", "vpc");
        let ipv4 = nic.ipv4.clone().unwrap();
        // Of a host whose VTEP is the higher one.
        announced(ns, &ipv4, OTHER, "203.0.113.2");
        world.run(&nic);
        let there = format!("address {ipv4} is used in network vpc by {OTHER}");
        until_problem(&mut world, &there);
        let own = format!("neigh svi-vpc {ipv4} {}", nic.mac);
        let sign = format!("neigh svi-vpc 100::c000:20a {}", nic.mac);
        // BGP is away for a while, and the agent is restarted meanwhile.
        for restart in [false, true] {
            ns.sh(&format!("ip neighbour del {ipv4} dev svi-vpc"));
            world.until("it has the address", |world| {
                let there = neighbours(world);
                (there.contains(&own) && there.contains(&sign)).then_some(())
            });
            if restart {
                world.stop();
                world.start();
                until_no_problem(&mut world);
                // A full look, in which nothing is taken back.
                std::thread::sleep(Duration::from_secs(7));
            }
            announced(ns, &ipv4, OTHER, "203.0.113.2");
            until_problem(&mut world, &there);
            assert!(!neighbours(&world).contains(&own));
            let kept = world.logged("another host claims this");
            assert_eq!(kept, [""; 0]);
        }
    });
}

#[test]
fn one_sign_is_enough_for_all_hosts_that_wait() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5).started();
        let nic = world.nic("late", "vpc");
        announced(ns, nic.ipv4.as_ref().unwrap(), OTHER, "203.0.113.2");
        announced(ns, "100::c000:20a", "02:ee:00:00:00:ef", "203.0.113.3");
        world.run(&nic);
        until_problem(&mut world, "is used in network vpc by");
        std::thread::sleep(Duration::from_secs(7));
        assert_eq!(world.status().unwrap()["deferred"], serde_json::json!([]));
        assert_eq!(world.output(&["plan"]).status.code(), Some(0));
        let sign = "neigh svi-vpc 100::c000:20a 02:ee:00:00:00:ef".to_string();
        assert!(neighbours(&world).contains(&sign));
    });
}

#[test]
fn a_device_that_a_nic_has_waited_for_is_whose_it_was_made_for() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("honest", "vpc");
        let (victim, mut thief) = (world.nic("victim", "dmz"), world.nic("thief", "vpc"));
        thief.port = victim.port.clone();
        // It runs, and waits for a device of that name, which LXD is to give to another one.
        (thief.ipv4, thief.ipv6) = (None, None);
        world.set(&thief, Status::Running);
        world.set(&victim, Status::Stopped);
        world.start();
        world.until("both NICs are known", |world| {
            let status = world.status()?;
            let nics = status["nics"].as_array()?.len() + status["problems"].as_array()?.len();
            (nics == 2).then_some(())
        });
        // LXD makes it, and takes some time to say that the instance runs.
        world.plug(&victim);
        ns.sh(&format!("ip link set {} up", victim.port));
        world.settle();
        world.lxd.emit("instance-updated", "default", "thief");
        world.settle();
        let link = ns.sh(&format!("ip link show {}", victim.port));
        assert!(!link.contains("master"), "{link}");
        world.start_in_lxd(&victim);
        world.in_step();
        until_problem(&mut world, "thief device eth0: host device");
        world.stop();
        world.start();
        until_problem(&mut world, "thief device eth0: host device");
        world.in_step();
    });
}

#[test]
fn of_two_hosts_that_had_an_address_for_long_the_one_with_the_lower_vtep_keeps_it() {
    for (vtep, keeps) in [("203.0.113.2", true), ("203.0.112.9", false)] {
        in_netns(|ns| {
            let mut world = World::with_interval(ns, 5);
            let nic = world.launch("c1", "vpc");
            let mut world = world.started();
            // What an earlier agent has given is not new.
            world.stop();
            world.start();
            world.until("the second full look", |world| {
                (world.status()?["passes"]["full"].as_u64()? >= 2).then_some(())
            });
            let ipv4 = nic.ipv4.clone().unwrap();
            announced(ns, &ipv4, OTHER, vtep);
            // Whoever it is: the first time it is taken back.
            world.until_logged("another host claims this");
            world.in_step();
            announced(ns, &ipv4, OTHER, vtep);
            let there =
                format!("address {ipv4} is used in network vpc by {OTHER} on the host {vtep}");
            if keeps {
                world.until("it is put off", |world| {
                    let status = world.status()?;
                    (!status["deferred"].as_array()?.is_empty()).then_some(())
                });
                // For longer than it takes to see what the other host has.
                std::thread::sleep(Duration::from_secs(7));
                assert_eq!(problems(&world), [""; 0]);
            } else {
                until_problem(&mut world, &there);
            }
        });
    }
}

#[test]
fn a_claim_of_another_host_is_named_where_the_address_stays() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let nic = world.launch("c1", "vpc");
        let mut world = world.started();
        announced(ns, "100::c000:20a", OTHER, "203.0.113.2");
        until_problem(
            &mut world,
            &format!(
                "instance c1 device eth0: address 192.0.2.10 is claimed by {OTHER} on the host 203.0.113.2, too; it stays here"
            ),
        );
        world.in_step();
        // Of its own MAC it is no other one.
        announced(ns, "100::c000:20a", &nic.mac, "203.0.113.2");
        until_no_problem(&mut world);
    });
}

/// Devices that are none of an instance, whatever its configuration says.
const HOSTS_OWN: &str = "
    ip link add under0 type ifb
    ip address add 203.0.113.21/24 dev under0
    ip link set under0 up
    ip link add both0 type veth peer name both1
    ip link set both0 up; ip link set both1 up
    ip tuntap add dev vpn0 mode tun; ip link set vpn0 up
    ip tuntap add dev tap0 mode tap; ip address add 198.18.0.1/24 dev tap0; ip link set tap0 up
    ip link add routed0 type veth peer name r0 netns PEERS; ip link set routed0 up
    ip route add 198.19.0.7/32 dev routed0
    ip link add six0 type veth peer name s0 netns PEERS; ip link set six0 up
    ip -6 route add 2001:db8:99::/64 dev six0
    ip link add gateway0 type veth peer name g0 netns PEERS; ip link set gateway0 up
    ip -6 address add fe80::1/128 dev gateway0 nodad
    ip link add bridged0 type veth peer name b0 netns PEERS; ip link set bridged0 master br-other up
    ip link add bridged1 type veth peer name b1 netns PEERS; ip link set bridged1 addrgenmode none master br-other up
    ip link add ways0 type veth peer name w0 netns PEERS; ip link set ways0 up; ip route add 198.19.1.0/24 nexthop dev ways0 nexthop dev both0
    ip link add uplink0 type veth peer name u0 netns PEERS; ip link set uplink0 up";

const NAMES: [(&str, &str); 15] = [
    ("lo", "is neither a veth"),
    ("under0", "is neither a veth"),
    ("svi-dmz", "is neither a veth"),
    ("br-other", "is neither a veth"),
    ("vxlan-vpc", "is neither a veth"),
    ("both0", "is neither a veth"),
    ("vpn0", "is neither a veth"),
    ("tap0", "has the address 198.18.0.1"),
    ("routed0", "has a route to 198.19.0.7/32"),
    ("six0", "has a route to 2001:db8:99::/64"),
    ("gateway0", "has the address fe80::1"),
    ("bridged0", "is in br-other"),
    ("bridged1", "is in br-other"),
    ("ways0", "has a route to 198.19.1.0/24"),
    ("uplink0", "is an uplink of the host"),
];

#[test]
fn a_device_that_is_none_of_an_instance_is_left_alone_and_named() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        let host_file = world.host_file();
        world
            .write_host_file(&host_file.replace("[lxd]", "[host]\nuplinks = [\"uplink*\"]\n[lxd]"));
        ns.sh(&HOSTS_OWN.replace("PEERS", &world.peers().to_string()));
        let ask = "for i in lo under0 svi-dmz br-other vxlan-vpc both0 vpn0 tap0 routed0 six0 gateway0 bridged0 bridged1 ways0 uplink0
            do ip -o -d link show $i | sed 's/[a-z_]*_timer *[0-9.]*//g'; ip -o address show $i; ip route show table all dev $i; ip -6 route show table all dev $i; done";
        let mut nics = Vec::new();
        // Some of them are refused besides: their devices are not put down either.
        for (number, (name, _)) in NAMES.iter().enumerate() {
            let mut nic = world.nic(&format!("c-{name}"), "vpc");
            nic.port = name.to_string();
            // No line of DHCP.
            (nic.ipv4, nic.ipv6) = (None, None);
            if number % 2 == 1 {
                nic.mac = "01:00:00:00:00:01".into();
            }
            nics.push(nic);
        }
        world.launch("honest", "vpc");
        let mut world = world.started();
        let (before, strangers) = (ns.sh(ask), world.strangers());
        for round in ["refused", "named"] {
            for (number, nic) in nics.iter_mut().enumerate() {
                if round == "named" {
                    nic.mac = format!("00:16:3e:00:01:{number:02x}");
                }
                world.set(nic, Status::Running);
                world.lxd.emit("instance-updated", "default", &nic.instance);
            }
            world.settle();
            world.settle();
            assert_eq!(ns.sh(ask), before, "{round}");
            world.strangers_are(&strangers);
            // Not by its name alone either: an uplink would be cut.
            let ports =
                ns.sh("nft list set inet lxmesh nic_ports; nft list set arp lxmesh nic_ports");
            assert!(
                !ports.contains("under0") && !ports.contains("\"lo\""),
                "{ports}"
            );
        }
        for (name, why) in NAMES {
            until_problem(
                &mut world,
                &format!("instance c-{name} device eth0: its device {name} {why}"),
            );
        }
        let status = world.status().unwrap();
        let connected = status["nics"].as_array().unwrap().iter();
        assert_eq!(connected.filter(|nic| nic["connected"] == true).count(), 1);
        // After a restart, too.
        world.stop();
        world.start();
        until_problem(&mut world, "its device bridged0 is in br-other");
        world.lxd.emit("instance-updated", "default", "c-tap0");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(ns.sh(ask), before);
        world.strangers_are(&strangers);
        let explained = world.output(&["explain", "c-under0"]);
        let text = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(
            text.contains("its device under0 is neither a veth"),
            "{text}"
        );
    });
}

#[test]
fn a_device_of_the_host_that_gets_a_name_which_a_nic_waits_for_is_none_of_the_nics() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let mut nic = world.nic("c1", "vpc");
        nic.port = "wan0".into();
        world.set(&nic, Status::Running);
        world.start();
        world.until("the agent knows the NIC", |world| {
            (world.status()?["nics"].as_array()?.len() == 1).then_some(())
        });
        let sets = "nft list set inet lxmesh nic_ports; nft list set arp lxmesh nic_ports";
        assert!(!ns.sh(sets).contains("wan0"), "{}", ns.sh(sets));
        ns.sh("ip link add wan0 type ifb; ip address add 203.0.113.31/24 dev wan0; ip link set wan0 up");
        until_problem(&mut world, "its device wan0 is neither a veth");
        assert!(!ns.sh(sets).contains("wan0"), "{}", ns.sh(sets));
        assert!(ns.sh("ip link show wan0").contains(",UP"));
        // The instance's own device.
        ns.sh("ip link del wan0");
        world.run(&nic);
        world.in_step();
        until_no_problem(&mut world);
    });
}

#[test]
fn routes_that_lxd_has_given_a_device_end_and_are_named() {
    in_netns(|ns| {
        let mut world = World::new(ns).started();
        let (nic, mut refused) = (world.nic("c1", "vpc"), world.nic("c2", "vpc"));
        world.plug(&nic);
        world.plug(&refused);
        refused.mac = "01:00:00:00:00:01".into();
        for (nic, address) in [(&nic, "198.19.0.9/32"), (&refused, "198.19.0.10/32")] {
            let port = &nic.port;
            ns.sh(&format!(
                "ip link set {port} up; ip route add {address} dev {port}"
            ));
            world.set(nic, Status::Running);
            let mut instance = world.lxd.get("default", &nic.instance);
            let device = instance.devices.get_mut("eth0").expect("it has one");
            device.insert("ipv4.routes".into(), address.into());
            world.lxd.put(instance);
        }
        world.expect(&nic);
        for name in ["c1", "c2"] {
            world.lxd.emit("instance-started", "default", name);
        }
        until_problem(
            &mut world,
            "c1 device eth0: ipv4.routes and ipv6.routes have no effect",
        );
        world.in_step();
        world.until("the refused one is down", |world| {
            let link = world.ns.sh(&format!("ip link show {}", refused.port));
            (!link.contains(",UP")).then_some(())
        });
    });
}
