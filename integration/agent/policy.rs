//! What may pass, as far as it can be seen in the sets: services with ranges, peers and tags, LXD's
//! access lists, and what `lxmesh trace` says of them.

use super::cold_start::busy_world;
use super::support::fake_lxd::Status;
use super::support::in_netns;
use super::support::world::{Nic, World};
use lxmesh::kernel::Kernel;
use serde_json::{Value, json};

#[test]
fn ranges_peers_and_tags_take_effect_are_kept_and_withdrawn() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let mut nic = world.nics[0].clone();
        let plain = nic.clone();
        nic.in_services = [
            "tcp/443",
            "tcp/8000-8100",
            "tcp/5432@10.1.0.0/16",
            "udp/53@2001:db8:1::/48",
            "tcp/22@tag:bastion",
        ]
        .map(String::from)
        .into();
        nic.out_services = ["udp/53", "udp/1000-2000@10.0.0.0/8", "tcp/1-65535"]
            .map(String::from)
            .into();
        let change = |world: &mut World, nic: &Nic| {
            world.set(nic, Status::Running);
            world.expect(nic);
            world.lxd.emit("instance-updated", "default", &nic.instance);
            world.in_step();
        };
        change(&mut world, &nic);
        // What somebody takes away or puts in is put right.
        let port = &nic.port;
        world.ns.sh(&format!(
            "nft delete element bridge lxmesh in_rules4 '{{ {port} . tcp . 8000-8100 . 0.0.0.0/0 }}'
             nft delete element bridge lxmesh in_more '{{ {port} }}'
             nft add element bridge lxmesh in_rules4 '{{ {port} . tcp . 1-79 . 0.0.0.0/0 : accept }}'
             nft add element bridge lxmesh in_tags '{{ {port} . tcp . 23-25 . 1 }}'"
        ));
        world.in_step();
        // A range that overlaps with what was there.
        nic.in_services[1] = "tcp/8050-8200".into();
        change(&mut world, &nic);
        change(&mut world, &plain);
    });
}

/// Has LXD name access lists on the instance of a NIC, and tell of it.
fn name_acls(world: &World<'_>, nic: &Nic, names: &str) {
    world.set(nic, Status::Running);
    let mut instance = world.lxd.get("default", &nic.instance);
    instance
        .config
        .insert("user.lxmesh.acls".into(), names.into());
    world.lxd.put(instance);
    world.lxd.emit("instance-updated", "default", &nic.instance);
}

fn with_services(nic: &Nic, more: &[&str]) -> Nic {
    let mut nic = nic.clone();
    nic.in_services
        .extend(more.iter().map(|word| word.to_string()));
    nic
}

#[test]
fn access_lists_take_effect_follow_edits_and_close_what_is_not_understood() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic = world.nics[0].clone();
        let acl = |rules: Value| json!([{"name": "web", "description": "", "egress": null, "ingress": rules}]);
        let rule = |ports: &str| json!({"action": "allow", "source": "10.1.0.0/16", "protocol": "tcp", "destination_port": ports, "state": "enabled"});
        world
            .lxd
            .put_acls("default", acl(json!([rule("9000-9010")])));
        name_acls(&world, &nic, "web");
        world.expect(&with_services(&nic, &["tcp/9000-9010@10.1.0.0/16"]));
        world.in_step();
        // An edit, of which LXD tells by the list's name only.
        world
            .lxd
            .put_acls("default", acl(json!([rule("9000-9005"), rule("7")])));
        world.lxd.emit("network-acl-updated", "default", "web");
        world.expect(&with_services(
            &nic,
            &["tcp/9000-9005@10.1.0.0/16", "tcp/7@10.1.0.0/16"],
        ));
        world.in_step();
        // A list that is not there might have forbidden anything.
        name_acls(&world, &nic, "web, nosuchlist");
        let mut closed = nic.clone();
        closed.in_services.clear();
        closed.out_services.clear();
        world.expect(&closed);
        world.in_step();
        let says = |world: &World<'_>, text: &str| {
            let status = world.status().expect("the agent answers");
            let problems = status["problems"].as_array().expect("a list").clone();
            let found = problems.iter().any(|problem| {
                problem
                    .as_str()
                    .is_some_and(|problem| problem.contains(text))
            });
            assert!(found, "no {text:?} in {problems:?}");
        };
        says(
            &world,
            "user.lxmesh.acls: \"nosuchlist\" is not a network ACL",
        );
        // A rule that drops and cannot be expressed closes its side, one that allows only itself.
        let drops = json!({"action": "drop", "source": "@external", "state": "enabled"});
        world
            .lxd
            .put_acls("default", acl(json!([rule("7"), drops])));
        name_acls(&world, &nic, "web");
        let mut inward_closed = nic.clone();
        inward_closed.in_services.clear();
        world.expect(&inward_closed);
        world.in_step();
        says(&world, "ACL \"web\", rule 2 of ingress names \"@external\"");
        let allows = json!({"action": "allow", "source": "@external", "state": "enabled"});
        world
            .lxd
            .put_acls("default", acl(json!([rule("7"), allows])));
        world.lxd.emit("network-acl-updated", "default", "web");
        world.expect(&with_services(&nic, &["tcp/7@10.1.0.0/16"]));
        world.in_step();
        name_acls(&world, &nic, "");
        world.expect(&nic);
        world.in_step();
    });
}

#[test]
fn the_fabrics_hosts_are_closed_but_for_what_the_host_file_opens() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        world.in_step();
        let traced = |world: &World<'_>, target: &str, flow: &str| {
            let output = world.output(&["trace", "c1", target, flow]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), text)
        };
        // The NIC itself may send tcp/443 to everyone.
        let (code, text) = traced(&world, "203.0.113.7", "tcp/443");
        assert_eq!(code, Some(2), "{text}");
        assert!(
            text.contains("to a host of the fabric: denied: services of [fabric]"),
            "{text}"
        );
        // What somebody takes away or puts in is put right.
        world.ns.sh(
            "nft delete element bridge lxmesh fabric_hosts4 '{ ip . 203.0.113.0/24 }'
             nft delete element inet lxmesh fabric_hosts4 '{ ip . 203.0.113.0/24 }'
             nft add element bridge lxmesh fabric_svc4 '{ tcp . 1-65535 . 0.0.0.0/0 }'
             nft add element inet lxmesh fabric_svc6 '{ tcp . 1-65535 . ::/0 }'",
        );
        world.in_step();
        let file = world.host_file();
        let open = |list: &str| {
            let services = format!("services = [{list}]\nunprotected_tags");
            file.replace("unprotected_tags", &services)
        };
        // In the host's zone, as the first NIC would have begun the first three of them.
        let own = world.nics[0].ipv4.clone().expect("it has one");
        for (source, target, port) in [
            (own.as_str(), "203.0.113.7", 443),
            (&own, "203.0.113.7", 8443),
            (&own, "192.0.9.9", 8443),
            ("192.0.9.9", "203.0.113.7", 8443),
        ] {
            ns.sh(&format!(
                "conntrack -I -s {source} -d {target} -p tcp --sport 4000 --dport {port} --state ESTABLISHED --timeout 3000 -u ASSURED"
            ));
        }
        world.fabric_services = vec![
            "tcp . 443-450 . 203.0.113.0/25",
            "icmp . 2048-2303 . 0.0.0.0/0",
        ];
        world.write_host_file(&open(
            r#""tcp/443-450@203.0.113.0/25", "icmp/echo-request""#,
        ));
        world.signal("HUP");
        world.in_step();
        let (code, text) = traced(&world, "203.0.113.7", "tcp/443");
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.contains("[fabric] services: tcp/443-450@203.0.113.0/25"),
            "{text}"
        );
        // Open at the host, but not out of the NIC; and the other way round.
        for (target, flow) in [("203.0.113.7", "tcp/444"), ("203.0.113.200", "tcp/443")] {
            let (code, text) = traced(&world, target, flow);
            assert_eq!(code, Some(2), "{text}");
        }
        let tracked = || ns.sh("cat /proc/net/nf_conntrack").lines().count();
        world.until("what is closed has ended", |_| {
            (tracked() == 3).then_some(())
        });
        // Without the service its connections end, too, whatever becomes of files that are no filter's.
        let hosts = world.path("dnsmasq/hosts");
        std::fs::remove_file(&hosts).unwrap();
        std::fs::create_dir(&hosts).unwrap();
        world.fabric_services.clear();
        world.write_host_file(&open(""));
        world.signal("HUP");
        world.until("what was open has ended", |_| {
            (tracked() == 2).then_some(())
        });
        world.until_logged("dnsmasq/hosts");
        std::fs::remove_dir(&hosts).unwrap();
        world.in_step();
    });
}

#[test]
fn a_trace_names_the_rule_that_decides() {
    in_netns(|ns| {
        let world = busy_world(ns);
        let trace = |arguments: &[&str]| {
            let output = world.output(&[&["trace"], arguments].concat());
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            (output.status.code(), text)
        };
        // Out tcp/443 and sctp/2905, in tcp/80 and udp/53: see World::nic.
        let (code, text) = trace(&["c1", "192.0.9.9", "tcp/443"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.contains("out of c1 device eth0: allowed: user.lxmesh.out_services: tcp/443"),
            "{text}"
        );
        let (code, text) = trace(&["c1", "c2", "tcp/443"]);
        assert_eq!(code, Some(2), "{text}");
        assert!(
            text.contains("into c2 device eth0: denied: no rule of user.lxmesh.in_services"),
            "{text}"
        );
        let (code, text) = trace(&["c1/eth0", "c2", "tcp/80"]);
        assert_eq!(code, Some(2), "{text}");
        assert!(
            text.contains("out of c1 device eth0: denied") && !text.contains("into c2"),
            "{text}"
        );
        let (code, text) = trace(&["c1", "c2", "icmp/echo-request"]);
        assert_eq!(code, Some(0), "{text}");
        let json = world.output(&["trace", "--json", "2001:db8:1::1", "c2", "udp/53"]);
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json[0]["allowed"], true);
        assert_eq!(
            json[0]["steps"][0]["why"],
            "user.lxmesh.in_services: udp/53"
        );
        for (arguments, says) in [
            (["c1", "c2", "tcp/80-90"], "more than one flow"),
            (
                ["c1", "nobody", "tcp/80"],
                "no running instance of this host",
            ),
            (["192.0.9.9", "192.0.9.8", "tcp/80"], "nothing here decides"),
            (["c1", "c2", "gre/1"], "is not a service"),
        ] {
            let (code, text) = trace(&arguments);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains(says), "{text}");
        }
        // Many at once.
        let file = world.path("flows");
        let from = file.to_str().unwrap();
        std::fs::write(&file, "c1 c2 icmp/8\n\nc1 192.0.9.9 tcp/443\n").unwrap();
        let (code, text) = trace(&["--from", from]);
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(text.matches(": allowed\n").count(), 2, "{text}");
        std::fs::write(&file, "c1 c2 tcp/443\nc1 nobody tcp/443\nc1 c2\n").unwrap();
        let (code, text) = trace(&["--json", "--from", from]);
        assert_eq!(code, Some(1), "{text}");
        let lines: Vec<Value> = text.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["traces"][0]["allowed"], false);
        assert!(
            lines[1]["error"]
                .as_str()
                .unwrap()
                .contains("no running instance")
        );
        assert!(
            lines[2]["error"]
                .as_str()
                .unwrap()
                .contains("is not SOURCE")
        );
    });
}

#[test]
fn a_withdrawn_service_ends_its_tracked_connections_and_no_others() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic = world.nics[0].clone();
        let (own, other) = (
            nic.ipv4.clone().unwrap(),
            world.nics[1].ipv4.clone().unwrap(),
        );
        // Entries as conntrack would make them: in the zone of the network, and elsewhere.
        let vni = 100;
        let make = |zone: u32, target: &str, port: u16| {
            ns.sh(&format!(
                "conntrack -I -s 192.0.9.9 -d {target} -p tcp --sport 4000 --dport {port} --state ESTABLISHED --timeout 3000 -w {zone} -u ASSURED"
            ));
        };
        make(vni, &own, 80);
        make(vni, &own, 81);
        make(vni, &other, 80);
        make(vni + 7, &own, 80);
        let count = |world: &World<'_>| world.ns.sh("cat /proc/net/nf_conntrack").lines().count();
        assert_eq!(count(&world), 4);
        let mut less = nic.clone();
        less.in_services = vec!["udp/53".into()];
        world.set(&less, Status::Running);
        world.expect(&less);
        world.lxd.emit("instance-updated", "default", &nic.instance);
        world.in_step();
        world.until("its connection has ended", |world| {
            (count(world) == 3).then_some(())
        });
        let left = world.ns.sh("cat /proc/net/nf_conntrack");
        assert!(
            !left
                .lines()
                .any(|line| line.contains(&format!("dst={own} "))
                    && line.contains("dport=80 ")
                    && line.contains(&format!("zone={vni} "))),
            "{left}"
        );
    });
}

#[test]
fn limits_of_a_nic_and_of_a_network_take_effect_and_wrong_ones_are_said() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let mut nic = world.nics[0].clone();
        let change = |world: &mut World<'_>, nic: &Nic| {
            world.set(nic, Status::Running);
            world.expect(nic);
            world.lxd.emit("instance-updated", "default", &nic.instance);
            world.in_step();
        };
        // Not every iproute2 tells it.
        let groups = |nic: &Nic| {
            let mut kernel = Kernel::open().unwrap();
            let link = kernel.rtnl.link(&nic.port.parse().unwrap()).unwrap();
            link.unwrap().port.unwrap().mcast_max_groups
        };
        nic.limits = [
            ("connections", 256),
            ("control_packets", 10),
            ("multicast_groups", 3),
        ]
        .into();
        change(&mut world, &nic);
        world.until("its limit of groups holds", |_| {
            (groups(&nic) == Some(3)).then_some(())
        });
        nic.limits = [("connections", 16384), ("new_connections", 10000)].into();
        change(&mut world, &nic);
        world.until("the usual limit of groups holds", |_| {
            (groups(&nic) == Some(64)).then_some(())
        });
        nic.limits.clear();
        change(&mut world, &nic);
        // A limit that there is not: the network's, and a word about it.
        world.set(&nic, Status::Running);
        let mut instance = world.lxd.get("default", &nic.instance);
        let key = "user.lxmesh.limits.connections";
        instance.config.insert(key.into(), "5000".into());
        world.lxd.put(instance);
        world.lxd.emit("instance-updated", "default", &nic.instance);
        let wanted =
            "user.lxmesh.limits.connections=\"5000\" is not a limit; write one of 64, 256, 1024";
        world.until("the wrong limit is said", |world| {
            let status = world.status()?;
            let problems = status["problems"].as_array()?.clone();
            problems
                .iter()
                .any(|text| text.as_str().is_some_and(|text| text.contains(wanted)))
                .then_some(())
        });
        world.set(&nic, Status::Running);
        world.lxd.emit("instance-updated", "default", &nic.instance);
        // A network's limits are those of its NICs that have none of their own.
        let text = world.host_file().replace(
            "vni = 100\n",
            "vni = 100\nmax_connections = 64\nmax_multicast_groups = 5\n",
        );
        world.write_host_file(&text);
        for mut nic in world.nics.clone() {
            if nic.network == "vpc" {
                nic.limits.insert("connections", 64);
                world.expect(&nic);
            }
        }
        world.signal("HUP");
        world.in_step();
        // Ports come after filters in a pass.
        world.until("the network's limit of groups holds", |_| {
            (groups(&nic) == Some(5)).then_some(())
        });
    });
}

#[test]
fn audit_and_logging_are_switched_by_keys_and_are_off_where_they_are_not_understood() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let mut nic = world.nics[0].clone();
        let change = |world: &mut World<'_>, nic: &Nic| {
            world.set(nic, Status::Running);
            world.expect(nic);
            world.lxd.emit("instance-updated", "default", &nic.instance);
            world.in_step();
        };
        let listed = |set: &str| ns.sh(&format!("nft list set bridge lxmesh {set}"));
        (nic.audit, nic.log_drops) = (Some("true"), None);
        change(&mut world, &nic);
        for (flow, code, why) in [
            ("tcp/9999", 0, "only audited: it passes and is logged"),
            ("udp/68", 2, "allows it"),
        ] {
            let output = world.output(&["trace", &nic.instance, "192.0.9.9", flow]);
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(code), "{text}");
            assert!(text.trim_end().ends_with(why), "{text}");
        }
        (nic.audit, nic.log_drops) = (Some("false"), Some("true"));
        change(&mut world, &nic);
        // Neither true nor false: audit would open what is not meant to be open.
        world.set(
            &Nic {
                audit: Some("yes"),
                ..nic.clone()
            },
            Status::Running,
        );
        world.lxd.emit("instance-updated", "default", &nic.instance);
        let says = |world: &World<'_>, wanted: &str| {
            let status = world.status()?;
            let problems = status["problems"].as_array()?.clone();
            problems
                .iter()
                .any(|text| text.as_str().is_some_and(|text| text.contains(wanted)))
                .then_some(())
        };
        world.until("the wrong key is said", |world| {
            says(
                world,
                "user.lxmesh.audit=\"yes\" is neither true nor false; false applies",
            )
        });
        world.until("only logging is on", |_| {
            let off = !listed("audited_ports").contains(&nic.port);
            (off && listed("logged_ports").contains(&nic.port)).then_some(())
        });
        // Audit never opens a NIC whose access lists are not there.
        let mut instance = world.lxd.get("default", &nic.instance);
        for (key, text) in [
            ("user.lxmesh.audit", "true"),
            ("user.lxmesh.acls", "nowhere"),
        ] {
            let device = instance.devices.get_mut(&nic.device).unwrap();
            device.remove(key);
            instance.config.insert(key.into(), text.into());
        }
        world.lxd.put(instance);
        world.lxd.emit("instance-updated", "default", &nic.instance);
        world.until("audit is refused", |world| {
            says(world, "audit does not apply")
        });
        assert!(!listed("audited_ports").contains(&nic.port));
        (nic.audit, nic.log_drops) = (None, None);
        change(&mut world, &nic);
        // A network's, for all its NICs that do not say for themselves.
        let text = world
            .host_file()
            .replace("vni = 100\n", "vni = 100\naudit = true\nlog_drops = true\n");
        world.write_host_file(&text);
        for mut nic in world.nics.clone() {
            if nic.network == "vpc" {
                (nic.audit, nic.log_drops) = (Some("true"), Some("true"));
                world.expect(&nic);
            }
        }
        world.signal("HUP");
        world.in_step();
    });
}
