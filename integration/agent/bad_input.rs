//! Wrong input of every sort: the agent says what is wrong, where, once, and serves the rest.

use super::cold_start::busy_world;
use super::support::fake_lxd::Status;
use super::support::in_netns;
use super::support::silence::Listeners;
use super::support::world::{Nic, World};

/// Starts an agent that must end by itself, saying all of this; nothing may be changed.
fn refused(world: &mut World<'_>, texts: &[&str]) {
    let listeners = Listeners::new(world);
    world.start();
    let status = world.wait();
    assert_eq!(status.code(), Some(1));
    for text in texts {
        assert!(
            world.log().contains(text),
            "no {text:?} in\n{}",
            world.log()
        );
    }
    assert_eq!(world.logged("ERROR").len(), 1, "{}", world.log());
    assert_eq!(listeners.heard(world), [""; 0]);
}

/// Each with a listing.
fn three_more_passes(world: &mut World<'_>) {
    let listings = world.lxd.requests("/1.0/instances?");
    world.until("more listings", |world| {
        (world.lxd.requests("/1.0/instances?") >= listings + 3).then_some(())
    });
}

fn said_once(world: &mut World<'_>, text: &str) {
    three_more_passes(world);
    let lines = world.logged(text);
    assert_eq!(lines.len(), 1, "{text:?} in\n{}", world.log());
}

#[test]
fn a_missing_host_file_is_named() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        std::fs::remove_file(world.path("host.toml")).unwrap();
        let path = world.path("host.toml").display().to_string();
        refused(&mut world, &[&path, "No such file"]);
    });
}

#[test]
fn an_unreadable_host_file_is_named() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        // Root may read whatever there is; nobody reads a directory.
        std::fs::remove_file(world.path("host.toml")).unwrap();
        std::fs::create_dir(world.path("host.toml")).unwrap();
        let path = world.path("host.toml").display().to_string();
        refused(&mut world, &[&path, "directory"]);
        std::fs::remove_dir(world.path("host.toml")).unwrap();
        world.write_host_file("");
        std::fs::write(world.path("host.toml"), [0xff, 0xfe, 0x00]).unwrap();
        refused(&mut world, &[&path, "UTF-8"]);
    });
}

#[test]
fn a_broken_host_file_is_named_with_line_column_and_all_problems() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let broken = world
            .host_file()
            .replace("vni = 200", "vni = 100\nvin = 3")
            .replace("asn = 64500", "asn = 0");
        world.write_host_file(&broken);
        refused(&mut world, &["host.toml:4:7", "vin", "remedy"]);
        world.write_host_file("version = \n");
        refused(&mut world, &["host.toml:1:", "not TOML"]);
    });
}

#[test]
fn a_missing_socket_is_said_once_and_waited_for() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        let file = world.host_file();
        world.write_host_file(&file.replace("lxd.sock", "other.sock"));
        world.start();
        world.until_logged("other.sock");
        // The networks are in order without it.
        world.in_step();
        std::thread::sleep(std::time::Duration::from_secs(6));
        assert_eq!(world.logged("WARN").len(), 1, "{}", world.log());
        std::os::unix::fs::symlink(world.path("lxd.sock"), world.path("other.sock")).unwrap();
        world.launch("c1", "vpc");
        world.in_step();
    });
}

#[test]
fn a_socket_without_permission_is_said_once() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        super::support::checks::share_with(65_534);
        let uid = [
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=+net_admin",
            "--ambient-caps=+net_admin",
        ];
        world.wrapper = std::iter::once("setpriv")
            .chain(uid)
            .map(str::to_string)
            .collect();
        ns.sh(&format!("chmod 600 {}", world.path("lxd.sock").display()));
        // Programs of the build are not everybody's.
        let copy = world.path("lxmesh");
        // By another process: a child of another test would hold a file of ours open for writing.
        ns.sh(&format!(
            "cp {} {}",
            env!("CARGO_BIN_EXE_lxmesh"),
            copy.display()
        ));
        world.program = copy;
        world.start();
        world.until_logged("may not connect to");
        std::thread::sleep(std::time::Duration::from_secs(6));
        assert_eq!(
            world.logged("may not connect to").len(),
            1,
            "{}",
            world.log()
        );
        ns.sh(&format!("chmod 666 {}", world.path("lxd.sock").display()));
        world.until_logged("connected to LXD");
    });
}

#[test]
fn without_net_admin_nothing_is_tried() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.wrapper = [
            "setpriv",
            "--bounding-set=-net_admin",
            "--inh-caps=-net_admin",
        ]
        .map(str::to_string)
        .into();
        refused(&mut world, &["CAP_NET_ADMIN", "root"]);
    });
}

#[test]
fn a_kernel_or_nft_that_lacks_what_the_rules_need_is_named_and_nothing_is_changed() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        // An nft that knows as little as the oldest kernels.
        let bin = world.path("bin");
        std::fs::create_dir(&bin).unwrap();
        let nft = "#!/bin/sh\ncat > /dev/null\necho 'Error: Could not process rule: No such file or directory' >&2\necho 'meta ibrname @svi_names' >&2\nexit 1\n";
        std::fs::write(bin.join("nft"), nft).unwrap();
        ns.sh(&format!("chmod 755 {}/nft", bin.display()));
        world.environment.insert(
            "PATH".into(),
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
        );
        refused(
            &mut world,
            &[
                "nft_meta_bridge",
                "nf_conntrack_bridge",
                "1.0.9",
                "meta ibrname",
                "nothing was changed",
            ],
        );
    });
}

#[test]
fn two_nics_that_claim_one_address_leave_it_to_its_holder() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        let holder = world.launch("holder", "vpc");
        let mut world = world.started();
        let thief = Nic {
            ipv4: holder.ipv4.clone(),
            ..world.nic("athief", "vpc")
        };
        world.run(&thief);
        // All but the address is the newcomer's.
        world.expect(&Nic {
            ipv4: None,
            ..thief.clone()
        });
        world.in_step();
        said_once(&mut world, "is used in network vpc by holder");
        // Also across a restart: whoever was started first has it.
        let mut later = world.lxd.get("default", "athief");
        later.last_used_at = "2026-11-23T00:00:00Z".into();
        world.lxd.put(later);
        world.kill();
        world.start();
        world.until_logged("is used in network vpc by holder");
        world.in_step();
        // It becomes free.
        world.set(&holder, Status::Stopped);
        world.unplug(&holder);
        world.forget(&holder);
        world.expect(&thief);
        world.lxd.emit("instance-stopped", "default", "holder");
        world.in_step();
    });
}

#[test]
fn two_nics_that_claim_one_mac_leave_it_to_its_holder() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        let holder = world.launch("holder", "vpc");
        let mut world = world.started();
        let mut thief = world.nic("athief", "vpc");
        thief.mac = holder.mac.clone();
        world.run(&thief);
        world.forget(&thief);
        world.until_logged("is used in network vpc by holder");
        world.in_step();
        said_once(&mut world, "is used in network vpc by holder");
    });
}

#[test]
fn garbage_in_any_key_costs_only_that_key_and_is_said_once() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        let good = world.launch("good", "vpc");
        let mut each = Vec::new();
        let long = "x".repeat(3000);
        let garbage = [
            ("ipv4.address", "192.0.2.999"),
            ("ipv4.address", "10.0.0.1"),
            ("ipv4.address", "192.0.2.1"),
            ("ipv6.address", "\u{1f525}\n; rm -rf /"),
            ("ipv6.address", "fe80::1"),
            ("in_services", "tcp/0"),
            ("out_services", "tcp/443;udp/53"),
            ("in_services", long.as_str()),
            ("tags", "nosuchtag"),
            ("parent", "nosuchnetwork"),
        ];
        for (n, (key, value)) in garbage.iter().enumerate() {
            let mut nic = world.nic(&format!("bad{n}"), "vpc");
            world.plug(&nic);
            world.set(&nic, Status::Running);
            let mut instance = world.lxd.get("default", &nic.instance);
            let device = instance.devices.get_mut("eth0").unwrap();
            device.insert(format!("user.lxmesh.{key}"), value.to_string());
            world.lxd.put(instance);
            match *key {
                "ipv4.address" => nic.ipv4 = None,
                "ipv6.address" => nic.ipv6 = None,
                "in_services" => nic.in_services.clear(),
                // The device's list is added to the instance's, which is good.
                "out_services" | "tags" => {}
                _ => {}
            }
            if *key != "parent" {
                world.expect(&nic);
            }
            world.lxd.emit("instance-started", "default", &nic.instance);
            each.push(nic);
        }
        // A name that no device can have, and a MAC that is none.
        for (n, (key, value)) in [
            ("host_name", "veth-of-sixteen0"),
            ("host_name", "../../etc"),
            ("hwaddr", "00:16:3e:00:00"),
            ("hwaddr", "ff:ff:ff:ff:ff:ff"),
        ]
        .iter()
        .enumerate()
        {
            let nic = world.nic(&format!("odd{n}"), "vpc");
            world.set(&nic, Status::Running);
            let mut instance = world.lxd.get("default", &nic.instance);
            instance
                .config
                .insert(format!("volatile.eth0.{key}"), value.to_string());
            world.lxd.put(instance);
            each.push(nic);
        }
        let mut world = world.started();
        three_more_passes(&mut world);
        for nic in &each {
            let lines = world.logged(&format!("instance {} ", nic.instance));
            let [line] = lines.as_slice() else {
                panic!("{}: {lines:?}", nic.instance)
            };
            assert!(line.contains("eth0") && line.len() < 700, "{line}");
        }
        assert_eq!(world.logged("good"), [""; 0]);
        // Put right, that is said once, too.
        let nic = each[0].clone();
        world.set(&nic, Status::Running);
        let fixed = Nic {
            ipv4: nic.ipv4.clone().or(Some("192.0.2.11".into())),
            ..nic
        };
        world.set(&fixed, Status::Running);
        world.expect(&fixed);
        world
            .lxd
            .emit("instance-updated", "default", &fixed.instance);
        world.in_step();
        world.until("the log says so", |world| {
            (world
                .logged("no longer:")
                .iter()
                .filter(|line| line.contains("bad0"))
                .count()
                == 1)
                .then_some(())
        });
        assert!(world.nics.contains(&good));
    });
}

/// No line of these is anything but visible characters, and none is longer than that.
fn all_visible(what: &str, text: &str, longest: usize) {
    for line in text.lines() {
        let odd = |c: char| c.is_control() || ('\u{2000}'..='\u{206f}').contains(&c) && c != '…';
        assert!(!line.contains(odd), "{what}: {line:?}");
        assert!(line.chars().count() <= longest, "{what}: {line:?}");
    }
}

#[test]
fn names_that_cannot_be_names_cost_only_themselves_and_are_shown_escaped() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        world.launch("good", "vpc");
        let odd = "\u{1b}[2Jodd\nline\u{202e}";
        let long = "x".repeat(100_000);
        for (n, (project, name)) in [
            ("default", odd),
            ("default", long.as_str()),
            (odd, "c1"),
            (long.as_str(), "c2"),
        ]
        .into_iter()
        .enumerate()
        {
            let mut nic = world.nic(&format!("odd{n}"), "vpc");
            world.plug(&nic);
            (nic.project, nic.instance) = (project.into(), name.into());
            world.set(&nic, Status::Running);
        }
        // Good names, and everything else odd.
        let nic = world.nic("devices", "vpc");
        world.plug(&nic);
        world.set(&nic, Status::Running);
        let mut instance = world.lxd.get("default", "devices");
        let device = instance.devices.remove("eth0").unwrap();
        for (key, value) in instance.config.clone() {
            if let Some(rest) = key.strip_prefix("volatile.eth0.") {
                instance
                    .config
                    .insert(format!("volatile.{odd}.{rest}"), value);
            }
        }
        instance.devices.insert(odd.into(), device);
        let others =
            [("nictype", odd), ("type", "nic")].map(|(key, value)| (key.into(), value.into()));
        instance
            .devices
            .insert(format!("other{odd}"), others.into());
        world.lxd.put(instance);
        let nic = world.nic("values", "vpc");
        world.plug(&nic);
        world.set(&nic, Status::Running);
        let mut instance = world.lxd.get("default", "values");
        let device = instance.devices.get_mut("eth0").unwrap();
        for key in [
            "ipv4.address",
            "ipv6.address",
            "in_services",
            "out_services",
            "tags",
            "acls",
            "audit",
            "limits.connections",
        ] {
            device.insert(format!("user.lxmesh.{key}"), format!("{odd} {long}"));
        }
        world.lxd.put(instance);
        let nic = world.nic("lists", "vpc");
        world.plug(&nic);
        world.set(&nic, Status::Running);
        let mut instance = world.lxd.get("default", "lists");
        let device = instance.devices.get_mut("eth0").unwrap();
        for key in ["in_services", "tags", "acls"] {
            let words: Vec<String> = (0..3000).map(|n| format!("no{n}")).collect();
            device.insert(format!("user.lxmesh.{key}"), words.join(","));
        }
        world.lxd.put(instance);

        world.start();
        world.until("the good one is connected", |world| {
            let status = world.status()?;
            let mut nics = status["nics"].as_array()?.iter();
            nics.find(|nic| nic["instance"] == "good" && nic["connected"] == true)?;
            Some(())
        });
        three_more_passes(&mut world);
        let status = world.status().unwrap();
        let problems = status["problems"].as_array().unwrap();
        assert!((7..60).contains(&problems.len()), "{problems:#?}");
        let problems: Vec<&str> = problems.iter().map(|text| text.as_str().unwrap()).collect();
        for key in ["in_services", "tags", "acls"] {
            let limit = |text: &&&str| {
                text.starts_with("instance lists ")
                    && text.contains(&format!("{key}: "))
                    && text.contains("1024")
            };
            assert_eq!(
                problems.iter().filter(limit).count(),
                1,
                "{key}: {problems:#?}"
            );
        }
        let cannot = problems
            .iter()
            .filter(|text| text.contains("cannot be one"));
        assert_eq!(cannot.count(), 5, "{problems:#?}");
        // Their devices are down, as those of all that cannot be connected.
        assert_eq!(status["refused"].as_array().unwrap().len(), 5, "{status:#}");
        let mut texts = vec![status];
        while let Some(value) = texts.pop() {
            match value {
                serde_json::Value::String(text) => {
                    all_visible("status --json", &text, 1000);
                    assert!(!text.contains('\n'), "{text:?}");
                }
                serde_json::Value::Array(list) => texts.extend(list),
                serde_json::Value::Object(map) => {
                    texts.extend(map.into_iter().map(|(_, value)| value))
                }
                _ => {}
            }
        }
        all_visible("log", &world.log(), 12_500);
        for command in [
            &["status"][..],
            &["plan"],
            &["metrics"],
            &["explain", "devices"],
            &["explain", "values"],
            &["explain", "lists"],
        ] {
            let output = world.output(command);
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            all_visible(&command.join(" "), &said, 1000);
            assert!(said.lines().count() < 250, "{command:?}: {said}");
        }
        assert_eq!(world.logged("good"), [""; 0]);
    });
}

/// What may have been meant to forbid something closes its direction; the NIC stays, with its addresses.
#[test]
fn an_unknown_key_is_named_and_closes_what_it_may_have_been_meant_to_close() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let (none, inward, outward, both) = ("", "in", "out", "in out");
        // Of the device, if it begins with a point; else of the instance.
        let table = [
            (
                "acl",
                ".acl",
                both,
                "did you mean user.lxmesh.acls? As it may have been meant to forbid",
            ),
            (
                "service",
                ".in_service",
                inward,
                "nothing is allowed to this NIC",
            ),
            (
                "egress",
                "egress.deny",
                outward,
                "nothing is allowed from this NIC",
            ),
            (
                "firewall",
                "firewall",
                both,
                "user.lxmesh.* are: in_services,",
            ),
            (
                "address",
                ".ipv4_address",
                none,
                "did you mean user.lxmesh.ipv4.address? It has no effect",
            ),
            (
                "limit",
                ".limits.bandwidth",
                none,
                "user.lxmesh.limits.bandwidth is not a key",
            ),
            (
                "parent",
                "parent",
                none,
                "user.lxmesh.parent in the instance's configuration has no effect; set it on the device",
            ),
        ];
        let mut nics = Vec::new();
        for (name, key, closed, _) in table {
            let mut nic = world.nic(name, "vpc");
            world.plug(&nic);
            world.set(&nic, Status::Running);
            let mut instance = world.lxd.get("default", name);
            match key.strip_prefix('.') {
                Some(_) => instance.devices.get_mut("eth0").unwrap(),
                None => &mut instance.config,
            }
            .insert(
                format!("user.lxmesh.{}", key.trim_start_matches('.')),
                "vpc".into(),
            );
            world.lxd.put(instance);
            if closed.contains("in") {
                nic.in_services.clear();
            }
            if closed.contains("out") {
                nic.out_services.clear();
            }
            world.expect(&nic);
            nics.push(nic);
        }
        // A NIC that is none of ours, with a key that says it was meant to be.
        let mut instance = world.lxd.get("default", "parent");
        let bridged = [
            ("type", "nic"),
            ("nictype", "bridged"),
            ("user.lxmesh.parent", "vpc"),
        ];
        let bridged = bridged.map(|(key, value)| (key.to_string(), value.to_string()));
        instance.devices.insert("br".into(), bridged.into());
        world.lxd.put(instance);
        let mut world = world.started();
        let said = |world: &World<'_>, about: &str| -> Vec<String> {
            let status = world.status().expect("the agent answers");
            let problems = status["problems"].as_array().expect("a list").iter();
            let problems = problems.map(|text| text.as_str().expect("a text").to_string());
            problems.filter(|text| text.starts_with(about)).collect()
        };
        for (name, _, _, text) in table {
            let lines = said(&world, &format!("instance {name} device eth0: "));
            assert_eq!(lines.len(), 1, "{name}: {lines:?}");
            assert!(lines[0].contains(text), "{name}: {lines:?}");
        }
        let lines = said(&world, "instance parent device br: ");
        assert!(lines[0].contains("is of nictype=bridged"), "{lines:?}");
        let explain = world.output(&["explain", "parent/br"]);
        let text = String::from_utf8(explain.stdout).unwrap();
        assert!(
            text.contains("has no effect, because the NIC is of nictype=bridged"),
            "{text}"
        );
        // Corrected, it is open again.
        let opened = Nic {
            in_services: vec!["tcp/80".into()],
            ..nics[1].clone()
        };
        world.set(&opened, Status::Running);
        world.expect(&opened);
        world
            .lxd
            .emit("instance-updated", "default", &opened.instance);
        world.in_step();
        assert_eq!(said(&world, "instance service "), [""; 0]);
    });
}

#[test]
fn a_stranger_in_the_place_of_a_route_is_left_alone_and_said_once() {
    in_netns(|ns| {
        let mut world = World::with_interval(ns, 5);
        let nic = world.nic("c1", "vpc");
        let address = nic.ipv4.clone().unwrap();
        ns.sh(&format!(
            "ip route add {address}/32 dev svi-vpc protocol static"
        ));
        world.run(&nic);
        world.start();
        world.until("all else is there", |world| {
            (world.differences() == [format!("- route {address} dev svi-vpc table main")])
                .then_some(())
        });
        said_once(&mut world, "EEXIST");
        assert!(
            ns.sh(&format!("ip route show {address}"))
                .contains("proto static")
        );
        ns.sh(&format!(
            "ip route del {address}/32 dev svi-vpc protocol static"
        ));
        world.in_step();
    });
}

#[test]
fn a_tunnel_with_another_vni_is_said_and_waited_for() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        ns.sh("ip link delete vxlan-dmz
               ip link add vxlan-dmz type vxlan id 201 dstport 4789 local 203.0.113.1 nolearning gbp
               ip link set vxlan-dmz master svi-dmz up");
        world.until_logged("has VNI 201, not 200");
        let filtered: Vec<String> = world.nics.iter().map(|nic| nic.port.clone()).collect();
        assert!(!filtered.is_empty());
        ns.sh("ip link delete vxlan-dmz
               ip link add vxlan-dmz type vxlan id 200 dstport 4789 local 203.0.113.1 nolearning gbp
               ip link set vxlan-dmz master svi-dmz up");
        world.in_step();
    });
}
