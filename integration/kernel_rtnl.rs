//! FDB, neighbours, routes and multicast groups against the running kernel: every reader reads what `ip` and `bridge` made, and
//! every change is read back with them.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

mod support;

use std::net::IpAddr;

use lxmesh::addr::{IfName, IpNet, Mac};
use lxmesh::kernel::Kernel;
use lxmesh::kernel::rtnl::{MdbEntry, Op, Rtnl};
use lxmesh::kinds::KernelKind;
use lxmesh::kinds::fdb::{self, Fdb};
use lxmesh::model::{Change, Facts};
use serde_json::{Value, json};
use support::{Ns, apply, errno, in_netns, is_set, with_bridge};

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

const M1: &str = "02:00:00:00:00:01";
const M2: &str = "02:00:00:00:00:02";

// The FDB

fn fdb(ns: &Ns, mac: &str) -> Vec<Value> {
    let Value::Array(all) = ns.json("bridge -d -j fdb show br br0") else {
        panic!()
    };
    all.into_iter()
        .filter(|e| e["mac"] == mac && e["vlan"].is_null() && !is_self(e))
        .collect()
}

fn is_self(entry: &Value) -> bool {
    entry["flags"].as_array().unwrap().contains(&json!("self"))
}

#[test]
fn an_fdb_entry_is_externally_learned_moves_and_goes() {
    with_bridge(|ns, rtnl| {
        let (v0, v1) = (ns.index("v0"), ns.index("v1"));
        for (port, at) in [("v0", v0), ("v0", v0), ("v1", v1)] {
            apply(
                rtnl,
                &[Op::FdbReplace {
                    port: at,
                    mac: mac(M1),
                }],
            );
            let found = fdb(ns, M1);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0]["ifname"], port);
            assert_eq!(found[0]["flags"], json!(["extern_learn"]));
            assert_ne!(found[0]["state"], "permanent");
        }
        // Now on v1, so a delete on v0 is not for it.
        assert_eq!(
            errno(
                rtnl,
                Op::FdbDelete {
                    port: v0,
                    mac: mac(M1)
                }
            ),
            Some(libc::ENOENT)
        );
        assert_eq!(fdb(ns, M1).len(), 1);
        apply(
            rtnl,
            &[Op::FdbDelete {
                port: v1,
                mac: mac(M1),
            }],
        );
        assert!(fdb(ns, M1).is_empty());
    });
}

/// The bridge has forgotten the entries of a port that leaves it. Who planned to delete one has nothing left to do.
#[test]
fn an_fdb_entry_of_a_port_that_has_left_its_bridge_is_gone() {
    with_bridge(|ns, rtnl| {
        let (port, mac) = (ns.index("v0"), mac(M1));
        apply(rtnl, &[Op::FdbReplace { port, mac }]);
        let mut kernel = Kernel::open().unwrap();
        let facts = Facts::new(kernel.rtnl.links().unwrap());
        let delete = |device: &str| Change::<Fdb>::Delete {
            key: fdb::Key {
                svi: "br0".parse().unwrap(),
                mac,
            },
            have: fdb::Attrs {
                port: Some(device.parse().unwrap()),
                remote: false,
                ext_learned: true,
            },
        };
        ns.sh("ip link set v0 nomaster");
        let delete_v0 = Op::FdbDelete { port, mac };
        assert_eq!(errno(rtnl, delete_v0), Some(libc::EOPNOTSUPP));
        let done = Fdb::apply(&mut kernel, &facts, &[delete("v0")]);
        assert!(matches!(done[..], [Ok(())]), "{done:?}");
        // Nor if another bridge has it, or if it went altogether.
        ns.sh("ip link add br9 type bridge; ip link set v0 master br9");
        let done = Fdb::apply(&mut kernel, &facts, &[delete("v0")]);
        assert!(matches!(done[..], [Ok(())]), "{done:?}");
        ns.sh("ip link del v0");
        let done = Fdb::apply(&mut kernel, &facts, &[delete("v0")]);
        assert!(matches!(done[..], [Ok(())]), "{done:?}");
    });
}

/// What makes zebra look again at an entry that it has missed.
#[test]
fn marking_an_fdb_entry_is_heard_by_listeners_and_leaves_it_as_it_was() {
    with_bridge(|ns, rtnl| {
        let (port, mac) = (ns.index("v0"), mac(M1));
        apply(rtnl, &[Op::FdbReplace { port, mac }]);
        let before = ns.sh("bridge -d fdb show br br0 | sort");
        let mut listener = std::process::Command::new("bridge")
            .args(["monitor", "fdb"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The listener is there when it hears of another entry.
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(listener.stdout.take().unwrap()));
        let other = "02:00:00:00:00:99";
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let heard = std::thread::scope(|scope| {
            scope.spawn(move || {
                while stopped.recv_timeout(std::time::Duration::from_millis(50)).is_err() {
                    ns.sh(&format!(
                        "bridge fdb add {other} dev v1 master static; bridge fdb del {other} dev v1 master"
                    ));
                }
            });
            lines.next().unwrap().unwrap();
            // An unchanged entry written again is not heard; each change of the mark is.
            apply(rtnl, &[Op::FdbReplace { port, mac }]);
            for mark in [true, false] {
                apply(rtnl, &[Op::FdbMark { port, mac, mark }]);
            }
            apply(rtnl, &[Op::FdbDelete { port, mac }]);
            let mut heard = Vec::new();
            for line in lines {
                let line = line.unwrap();
                if line.contains(M1) && !line.contains("vlan") {
                    heard.push(line.contains("Deleted"));
                    if line.contains("Deleted") {
                        break;
                    }
                }
            }
            stop.send(()).unwrap();
            heard
        });
        listener.kill().unwrap();
        listener.wait().unwrap();
        assert_eq!(heard, [false, false, true]);
        apply(rtnl, &[Op::FdbReplace { port, mac }]);
        for mark in [true, false] {
            apply(rtnl, &[Op::FdbMark { port, mac, mark }]);
        }
        assert_eq!(ns.sh("bridge -d fdb show br br0 | sort"), before);
        // A mark makes no entry.
        let absent = "02:00:00:00:00:98".parse().unwrap();
        let mark = Op::FdbMark {
            port,
            mac: absent,
            mark: true,
        };
        assert_eq!(errno(rtnl, mark), Some(libc::ENOENT));
    });
}

#[test]
fn a_port_without_carrier_takes_no_mark_but_an_entry_made_anew() {
    with_bridge(|ns, rtnl| {
        ns.sh("ip link add v9 type veth peer name p9; ip link set v9 master br0 up");
        let (port, mac) = (ns.index("v9"), mac(M1));
        apply(rtnl, &[Op::FdbReplace { port, mac }]);
        let mark = |mark| Op::FdbMark { port, mac, mark };
        assert_eq!(errno(rtnl, mark(true)), Some(libc::EPERM));
        let again = [Op::FdbDelete { port, mac }, Op::FdbReplace { port, mac }];
        apply(rtnl, &again);
        assert_eq!(fdb(ns, M1).len(), 1);
        // The bridge hears of the carrier a moment later.
        ns.sh("ip link set p9 up; for try in $(seq 300); do bridge -d link show dev v9 | grep -q 'state forwarding' && exit; sleep 0.1; done; exit 1");
        apply(rtnl, &[mark(true), mark(false)]);
    });
}

#[test]
fn the_word_that_a_mac_is_not_here_is_no_entry_of_the_bridge_and_replaces_none() {
    with_bridge(|ns, rtnl| {
        ns.sh(&format!(
            "ip link add vx0 type vxlan id 7 dstport 4789 local 198.51.100.1 nolearning
             ip link set vx0 master br0
             bridge fdb add {M2} dev vx0 dst 198.51.100.9 self dynamic extern_learn"
        ));
        let (tunnel, bridge) = (ns.index("vx0"), ns.index("br0"));
        let before = ns.sh("bridge -d fdb show | sort");
        let (add, delete) = (
            |mac| Op::TunnelFdbAdd { tunnel, mac },
            |mac| Op::TunnelFdbDelete { tunnel, mac },
        );
        apply(rtnl, &[add(mac(M1))]);
        let own = ns.sh(&format!("bridge fdb show dev vx0 | grep {M1}"));
        assert!(own.contains("dst 127.0.0.1 port 9 self"), "{own}");
        assert_eq!(rtnl.fdb_entry(bridge, mac(M1)).unwrap(), None);
        assert_eq!(errno(rtnl, add(mac(M1))), Some(libc::EEXIST));
        apply(rtnl, &[delete(mac(M1))]);
        assert_eq!(errno(rtnl, delete(mac(M1))), Some(libc::ENOENT));
        // What another host has is not touched.
        assert_eq!(errno(rtnl, add(mac(M2))), Some(libc::EEXIST));
        apply(rtnl, &[delete(mac(M2))]);
        assert_eq!(ns.sh("bridge -d fdb show | sort"), before);
    });
}

#[test]
fn the_fdb_reads_as_bridge_made_it_without_other_bridges_and_devices_own_tables() {
    with_bridge(|ns, rtnl| {
        ns.sh(&format!(
            "ip link add other type bridge; ip link add v2 type veth peer name p2; ip link set v2 master other
             bridge fdb add {M1} dev v0 master extern_learn
             bridge fdb add {M2} dev v1 master static
             bridge fdb add 02:00:00:00:00:03 dev v2 master static
             bridge fdb add 02:00:00:00:00:04 dev v0 self permanent"
        ));
        let (bridge, v0, v1) = (ns.index("br0"), ns.index("v0"), ns.index("v1"));
        let entries = rtnl.fdb(bridge).unwrap();
        let find = |m: &str| entries.iter().find(|e| e.mac == mac(m) && e.vlan == 0);
        let (one, two) = (find(M1).unwrap(), find(M2).unwrap());
        assert_eq!(
            (one.port, one.ext_learned, one.permanent),
            (v0, true, false)
        );
        assert_eq!(
            (two.port, two.ext_learned, two.permanent),
            (v1, false, false)
        );
        assert!(find("02:00:00:00:00:03").is_none() && find("02:00:00:00:00:04").is_none());
        let own = ns.link("v0")["address"].as_str().unwrap().to_owned();
        assert!(find(&own).unwrap().permanent);
        assert_eq!(rtnl.fdb_entry(bridge, mac(M1)).unwrap().as_ref(), Some(one));
        assert_eq!(rtnl.fdb_entry(bridge, mac(M2)).unwrap().as_ref(), Some(two));
        assert_eq!(
            rtnl.fdb_entry(bridge, mac("02:00:00:00:00:03")).unwrap(),
            None
        );
        // The same number of entries as bridge(8) sees.
        let Value::Array(all) = ns.json("bridge -d -j fdb show br br0") else {
            panic!()
        };
        assert_eq!(entries.len(), all.iter().filter(|e| !is_self(e)).count());
    });
}

#[test]
fn the_fdb_of_what_is_no_bridge_is_an_error_and_not_empty() {
    with_bridge(|ns, rtnl| {
        ns.sh("ip link add empty type bridge");
        assert_eq!(rtnl.fdb(4_000_000).unwrap_err().errno(), Some(libc::ENODEV));
        assert_eq!(
            rtnl.fdb(ns.index("p0")).unwrap_err().errno(),
            Some(libc::EOPNOTSUPP)
        );
        let entries = rtnl.fdb(ns.index("empty")).unwrap();
        assert!(entries.iter().all(|e| e.permanent), "{entries:?}");
        assert!(rtnl.fdb_entry(4_000_000, mac(M1)).is_err());
    });
}

// Neighbours

#[test]
fn neighbours_are_permanent_with_our_protocol_and_not_externally_learned() {
    with_bridge(|ns, rtnl| {
        let device = ns.index("br0");
        for address in ["10.0.0.7", "2001:db8::7", "fe80::7"] {
            // Takes over what zebra had installed.
            ns.sh(&format!("ip neigh replace {address} lladdr {M2} dev br0 nud noarp extern_learn protocol zebra"));
            for _ in 0..2 {
                apply(
                    rtnl,
                    &[Op::NeighbourReplace {
                        device,
                        address: ip(address),
                        mac: mac(M1),
                    }],
                );
                let found = ns.json(&format!("ip -d -j neigh show dev br0 to {address}"));
                assert_eq!(found[0]["lladdr"], M1, "{found}");
                assert_eq!(found[0]["state"], json!(["PERMANENT"]));
                assert_eq!(found[0]["protocol"], "242");
                assert!(!is_set(&found[0], "extern_learn"), "{found}");
            }
            apply(
                rtnl,
                &[Op::NeighbourDelete {
                    device,
                    address: ip(address),
                }],
            );
            let found = ns.json(&format!("ip -j neigh show dev br0 to {address}"));
            assert!(
                found
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|n| n["state"] != json!(["PERMANENT"])),
                "{found}"
            );
            let again = Op::NeighbourDelete {
                device,
                address: ip("10.0.0.99"),
            };
            assert_eq!(errno(rtnl, again), Some(libc::ENOENT));
        }
    });
}

#[test]
fn neighbours_of_one_link_read_as_ip_made_them() {
    with_bridge(|ns, rtnl| {
        ns.sh(&format!(
            "ip neigh add 10.0.0.1 lladdr {M1} dev br0 nud permanent protocol 242
             ip neigh add 2001:db8::1 lladdr {M2} dev br0 nud noarp extern_learn protocol zebra
             ip neigh add 10.0.0.2 dev br0 nud failed
             ip neigh add 10.0.0.3 lladdr {M1} dev p1 nud permanent"
        ));
        let device = ns.index("br0");
        let all = rtnl.neighbours(device).unwrap();
        let find = |a: &str| all.iter().find(|n| n.address == ip(a));
        let one = find("10.0.0.1").unwrap();
        assert_eq!(
            (one.mac, one.protocol, one.permanent, one.ext_learned),
            (Some(mac(M1)), 242, true, false)
        );
        let two = find("2001:db8::1").unwrap();
        assert_eq!(
            (two.mac, two.protocol, two.permanent, two.ext_learned),
            (Some(mac(M2)), 11, false, true)
        );
        assert_eq!(find("10.0.0.2").unwrap().mac, None);
        assert!(find("10.0.0.3").is_none());
        for n in [one, two] {
            assert_eq!(rtnl.neighbour(device, n.address).unwrap().as_ref(), Some(n));
        }
        assert_eq!(rtnl.neighbour(device, ip("10.0.0.77")).unwrap(), None);
        assert_eq!(rtnl.neighbour(device, ip("2001:db8::77")).unwrap(), None);
    });
}

#[test]
fn neighbours_of_a_link_that_is_not_there_are_an_error() {
    in_netns(|ns| {
        let mut rtnl = Rtnl::open().unwrap();
        assert_eq!(
            rtnl.neighbours(4_000_000).unwrap_err().errno(),
            Some(libc::ENODEV)
        );
        assert!(rtnl.neighbour(4_000_000, ip("10.0.0.1")).is_err());
        ns.sh("ip link add br0 type bridge");
        assert!(rtnl.neighbours(ns.index("br0")).unwrap().is_empty());
    });
}

// Routes

fn route_json(ns: &Ns, family: u8, table: u32, destination: &str) -> Vec<Value> {
    let all = ns.json(&format!(
        "ip -{family} -d -j route show table {table} exact {destination}"
    ));
    all.as_array().unwrap().clone()
}

#[test]
fn a_route_is_added_once_replaced_and_removed() {
    with_bridge(|ns, rtnl| {
        ns.sh("ip link set v0 nomaster; ip link set v1 nomaster");
        let (v0, v1) = (ns.index("v0"), ns.index("v1"));
        for (family, destination) in [
            (4, "10.9.8.7/32"),
            (4, "10.8.0.0/16"),
            (6, "2001:db8::9/128"),
            (6, "2001:db8:1::/48"),
        ] {
            for table in [254, 100_000] {
                let route = |device| (table, net(destination), device, 50);
                let (t, d, device, p) = route(v0);
                let add = Op::RouteAdd {
                    table: t,
                    destination: d,
                    device,
                    priority: p,
                };
                apply(rtnl, std::slice::from_ref(&add));
                let found = route_json(ns, family, table, destination);
                assert_eq!(found.len(), 1, "{found:?}");
                assert_eq!(
                    (&found[0]["dev"], &found[0]["protocol"]),
                    (&json!("v0"), &json!("242"))
                );
                assert_eq!(
                    (&found[0]["metric"], &found[0]["type"]),
                    (&json!(50), &json!("unicast"))
                );
                if family == 4 {
                    assert_eq!(found[0]["scope"], "link");
                }
                assert_eq!(errno(rtnl, add), Some(libc::EEXIST));
                apply(
                    rtnl,
                    &[Op::RouteReplace {
                        table,
                        destination: d,
                        device: v1,
                        priority: p,
                    }],
                );
                let found = route_json(ns, family, table, destination);
                assert_eq!(
                    (found.len(), &found[0]["dev"]),
                    (1, &json!("v1")),
                    "{found:?}"
                );
                // Through v1 now: a delete that says v0 is not for it.
                let other = Op::RouteDelete {
                    table,
                    destination: d,
                    device: v0,
                    priority: p,
                };
                assert_eq!(errno(rtnl, other), Some(libc::ESRCH));
                apply(
                    rtnl,
                    &[Op::RouteDelete {
                        table,
                        destination: d,
                        device: v1,
                        priority: p,
                    }],
                );
                assert!(route_json(ns, family, table, destination).is_empty());
            }
        }
    });
}

#[test]
fn a_strangers_route_is_neither_overwritten_nor_removed() {
    with_bridge(|ns, rtnl| {
        let device = ns.index("br0");
        for (family, destination) in [(4, "10.9.8.7/32"), (6, "2001:db8::9/128")] {
            ns.sh(&format!("ip -{family} route add {destination} dev br0 scope link metric 50 proto static table 7"));
            let (table, destination_net, priority) = (7, net(destination), 50);
            let add = Op::RouteAdd {
                table,
                destination: destination_net,
                device,
                priority,
            };
            assert_eq!(errno(rtnl, add), Some(libc::EEXIST));
            let delete = Op::RouteDelete {
                table,
                destination: destination_net,
                device,
                priority,
            };
            assert_eq!(errno(rtnl, delete), Some(libc::ESRCH));
            let found = route_json(ns, family, 7, destination);
            assert_eq!((found.len(), &found[0]["protocol"]), (1, &json!("static")));
        }
    });
}

#[test]
fn routes_of_our_protocol_read_as_ip_made_them_in_every_table() {
    with_bridge(|ns, rtnl| {
        ns.sh(
            "ip addr add 192.0.2.1/24 dev br0; ip addr add 192.0.3.1/24 dev p0
             ip route add 10.1.0.0/16 dev br0 proto 242 scope link metric 5
             ip route add default dev br0 proto 242 table 70000
             ip -6 route add 2001:db8:7::/48 dev br0 proto 242 table 9
             ip route add 10.2.0.0/16 dev br0 proto static
             ip route add blackhole 10.3.0.0/16 proto 242
             ip route add 10.4.0.0/16 proto 242 nexthop via 192.0.2.2 nexthop via 192.0.3.2",
        );
        let device = ns.index("br0");
        let mut routes = rtnl.routes(242).unwrap();
        routes.sort_by_key(|r| r.table);
        let got: Vec<_> = routes
            .iter()
            .map(|r| (r.table, r.destination, r.device, r.priority))
            .collect();
        let wanted = [
            (9, net("2001:db8:7::/48"), device, 1024),
            (254, net("10.1.0.0/16"), device, 5),
            (70000, net("0.0.0.0/0"), device, 0),
        ];
        assert_eq!(got, wanted);
        assert!(routes.iter().all(|r| r.protocol == 242 && r.kind == 1));
        assert_eq!(routes[1].scope, 253);
        assert_eq!(rtnl.routes(243).unwrap(), []);
    });
}

// Multicast groups

#[test]
fn routes_and_addresses_of_one_link_read_without_those_of_others_and_of_the_kernel_itself() {
    in_netns(|ns| {
        ns.sh("sysctl -qw net.ipv6.conf.default.accept_dad=0
             ip link add va type veth peer name vb
             ip link set va up; ip link set vb up
             ip address add 192.0.2.1/24 dev va; ip address add 2001:db8::1/64 dev va
             ip address add 198.51.100.1/24 dev vb
             ip route add 203.0.113.0/24 dev vb
             ip route add 203.0.113.9/32 dev vb table 77
             ip route add 203.0.113.77/32 nexthop dev vb nexthop dev lo
             ip -6 route add 2001:db8:9::/64 dev vb");
        let mut rtnl = Rtnl::open().unwrap();
        let index = |rtnl: &mut Rtnl, text: &str| rtnl.link(&name(text)).unwrap().unwrap().index;
        let (a, b) = (index(&mut rtnl, "va"), index(&mut rtnl, "vb"));
        let routes = |rtnl: &mut Rtnl, index| -> Vec<String> {
            let all = rtnl.routes_by(index).unwrap();
            all.iter().map(|net| net.to_string()).collect()
        };
        assert_eq!(routes(&mut rtnl, a), [""; 0]);
        let mut of_b = routes(&mut rtnl, b);
        of_b.sort();
        assert_eq!(
            of_b,
            [
                "2001:db8:9::/64",
                "203.0.113.0/24",
                "203.0.113.77/32",
                "203.0.113.9/32"
            ]
        );
        let mut of_a = rtnl.addresses_of(a).unwrap();
        of_a.retain(|address| !matches!(address, IpAddr::V6(six) if six.is_unicast_link_local()));
        of_a.sort();
        assert_eq!(of_a, [ip("192.0.2.1"), ip("2001:db8::1")]);
        // None of a link that is gone.
        ns.sh("ip link del va");
        assert!(rtnl.addresses_of(a).unwrap().is_empty());
        assert!(rtnl.routes_by(b).unwrap().is_empty());
    });
}

#[test]
fn the_vtep_of_a_mac_is_the_tunnels_own() {
    in_netns(|ns| {
        ns.sh(
            "ip link add v type vxlan id 7 dstport 4789 local 203.0.113.1 nolearning
             bridge fdb add 02:00:00:00:00:01 dev v dst 203.0.113.2 self
             ip link add w type vxlan id 8 dstport 4789 local 2001:db8::1 nolearning
             bridge fdb add 02:00:00:00:00:01 dev w dst 2001:db8::2 self",
        );
        let mut rtnl = Rtnl::open().unwrap();
        for (tunnel, vtep) in [("v", "203.0.113.2"), ("w", "2001:db8::2")] {
            let index = rtnl.link(&name(tunnel)).unwrap().unwrap().index;
            let found = rtnl.vtep_of(index, mac("02:00:00:00:00:01")).unwrap();
            assert_eq!(found, Some(ip(vtep)));
            assert_eq!(rtnl.vtep_of(index, mac("02:00:00:00:00:02")).unwrap(), None);
        }
    });
}

#[test]
fn a_group_is_permanent_and_ours_and_takes_over_what_the_port_joined_itself() {
    with_bridge(|ns, rtnl| {
        let (bridge, port) = (ns.index("br0"), ns.index("v0"));
        let find = |ns: &Ns, group: &str| -> Vec<Value> {
            let all = ns.json("bridge -d -j mdb show dev br0");
            let all = all[0]["mdb"].as_array().unwrap().clone();
            all.into_iter()
                .filter(|e| e["grp"] == group && e["port"] == "v0")
                .collect()
        };
        for (group, source) in [
            ("ff02::1:ff00:1", None),
            ("239.1.2.3", None),
            ("232.1.1.1", Some("10.0.0.1")),
            ("ff35::1", Some("2001:db8::1")),
        ] {
            let src = source.map(|s| format!("src {s}")).unwrap_or_default();
            ns.sh(&format!(
                "bridge mdb add dev br0 port v0 grp {group} {src} temp"
            ));
            let (group_ip, source_ip) = (ip(group), source.map(ip));
            for _ in 0..2 {
                apply(
                    rtnl,
                    &[Op::MdbAdd {
                        bridge,
                        port,
                        group: group_ip,
                        source: source_ip,
                    }],
                );
                let found = find(ns, group);
                assert_eq!(found.len(), 1, "{found:?}");
                assert_eq!(
                    (&found[0]["state"], &found[0]["protocol"]),
                    (&json!("permanent"), &json!("242"))
                );
                assert_eq!(found[0]["src"].as_str(), source);
            }
            apply(
                rtnl,
                &[Op::MdbDelete {
                    bridge,
                    port,
                    group: group_ip,
                    source: source_ip,
                }],
            );
            assert!(find(ns, group).is_empty());
            let again = Op::MdbDelete {
                bridge,
                port,
                group: group_ip,
                source: source_ip,
            };
            assert_eq!(errno(rtnl, again), Some(libc::ENOENT));
        }
    });
}

#[test]
fn groups_of_all_bridges_read_as_bridge_made_them_without_the_bridges_own() {
    with_bridge(|ns, rtnl| {
        ns.sh(
            "ip link add br1 type bridge; ip link add w0 type veth peer name q0; ip link set w0 master br1 up
             ip link set br1 up
             bridge mdb add dev br0 port v0 grp 239.1.1.1 permanent
             bridge mdb add dev br0 port v1 grp ff05::1 temp
             bridge mdb add dev br0 port v0 grp 232.1.1.1 src 10.0.0.1 permanent
             bridge mdb add dev br1 port w0 grp 239.1.1.1 permanent
             bridge mdb add dev br0 port br0 grp 239.9.9.9 temp
             bridge mdb add dev br0 port v0 grp 01:02:03:04:05:06 permanent",
        );
        let (br0, br1) = (ns.index("br0"), ns.index("br1"));
        let (v0, v1, w0) = (ns.index("v0"), ns.index("v1"), ns.index("w0"));
        let entry = |bridge, port, group: &str, source: Option<&str>, permanent| MdbEntry {
            bridge,
            port,
            group: ip(group),
            source: source.map(ip),
            vlan: 0,
            permanent,
            // RTPROT_STATIC: what bridge(8) gives.
            protocol: 4,
        };
        let entries = rtnl.mdb().unwrap();
        for wanted in [
            entry(br0, v0, "239.1.1.1", None, true),
            entry(br0, v1, "ff05::1", None, false),
            entry(br0, v0, "232.1.1.1", Some("10.0.0.1"), true),
            entry(br1, w0, "239.1.1.1", None, true),
        ] {
            assert!(
                entries.contains(&wanted),
                "{wanted:?} is not in {entries:?}"
            );
        }
        assert_eq!(entries.iter().filter(|e| e.protocol == 4).count(), 4);
        assert!(entries.iter().all(|e| e.port != e.bridge));
    });
}

// Batches

#[test]
fn one_failure_stops_no_other_change_and_each_result_is_in_its_place() {
    with_bridge(|ns, rtnl| {
        let device = ns.index("br0");
        // More than one send, with failures first, last and at the edges of a send.
        let bad = [0, 1, 100, 255, 256, 511, 512, 999];
        let ops: Vec<Op> = (0..1000u32)
            .map(|i| Op::NeighbourReplace {
                device: if bad.contains(&i) { 4_000_000 } else { device },
                address: IpAddr::from([10, 1, (i >> 8) as u8, i as u8]),
                mac: mac(M1),
            })
            .collect();
        let results = rtnl.apply(&ops);
        for (i, result) in results.iter().enumerate() {
            match result {
                Ok(()) => assert!(!bad.contains(&(i as u32)), "{i}"),
                Err(error) => {
                    assert!(bad.contains(&(i as u32)), "{i}: {error}");
                    assert_eq!(error.errno(), Some(libc::ENODEV));
                    assert!(
                        error
                            .to_string()
                            .contains(&format!("10.1.{}.{}", i >> 8, i & 255)),
                        "{error}"
                    );
                }
            }
        }
        let Value::Array(there) = ns.json("ip -j neigh show dev br0 nud permanent") else {
            panic!()
        };
        assert_eq!(there.len(), 1000 - bad.len());
        assert!(rtnl.apply(&[]).is_empty());
    });
}

#[test]
fn a_send_of_nothing_but_failures_loses_none_of_them() {
    with_bridge(|ns, rtnl| {
        let port = ns.index("v0");
        let ops: Vec<Op> = (0..5000u32)
            .map(|i| {
                let [_, b, c, d] = i.to_be_bytes();
                Op::FdbDelete {
                    port,
                    mac: Mac([2, 0, 0, b, c, d]),
                }
            })
            .collect();
        let results = rtnl.apply(&ops);
        assert!(
            results
                .iter()
                .all(|r| r.as_ref().is_err_and(|e| e.errno() == Some(libc::ENOENT)))
        );
        // And the socket is as good as before.
        assert!(rtnl.link(&name("br0")).unwrap().is_some());
    });
}

#[test]
fn an_error_has_the_kernels_own_words() {
    with_bridge(|ns, rtnl| {
        let (bridge, port) = (ns.index("br0"), ns.index("v0"));
        let unicast = Op::MdbAdd {
            bridge,
            port,
            group: ip("10.0.0.1"),
            source: None,
        };
        let error = rtnl.apply(&[unicast])[0].clone().unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        let text = error.text().expect("this kernel explains").to_owned();
        assert_eq!(
            error.to_string(),
            format!(
                "joining bridge port {port} to group 10.0.0.1: EINVAL (Invalid argument): {text}"
            )
        );
    });
}

#[test]
fn ten_thousand_of_each_are_written_read_and_removed() {
    with_bridge(|ns, rtnl| {
        ns.sh("sysctl -qw net.ipv4.neigh.default.gc_thresh3=30000 net.ipv6.neigh.default.gc_thresh3=30000 || true");
        let (device, port) = (ns.index("br0"), ns.index("v0"));
        const N: u32 = 10_000;
        let macs: Vec<Mac> = (0..N)
            .map(|i| Mac([2, 1, 0, 0, (i >> 8) as u8, i as u8]))
            .collect();
        let v4: Vec<IpAddr> = (0..N)
            .map(|i| IpAddr::from([10, 7, (i >> 8) as u8, i as u8]))
            .collect();
        let v6: Vec<IpAddr> = (0..N)
            .map(|i| IpAddr::from(((0x2001_0db8u128 << 96) + u128::from(i)).to_be_bytes()))
            .collect();
        let add: [Vec<Op>; 4] = [
            macs.iter()
                .map(|mac| Op::FdbReplace { port, mac: *mac })
                .collect(),
            v4.iter()
                .zip(&macs)
                .map(|(a, mac)| Op::NeighbourReplace {
                    device,
                    address: *a,
                    mac: *mac,
                })
                .collect(),
            v6.iter()
                .zip(&macs)
                .map(|(a, mac)| Op::NeighbourReplace {
                    device,
                    address: *a,
                    mac: *mac,
                })
                .collect(),
            v4.iter()
                .map(|a| Op::RouteAdd {
                    table: 10,
                    destination: IpNet::from(*a),
                    device,
                    priority: 0,
                })
                .collect(),
        ];
        for (what, ops) in ["FDB", "IPv4 neighbours", "IPv6 neighbours", "routes"]
            .iter()
            .zip(&add)
        {
            let start = std::time::Instant::now();
            apply(rtnl, ops);
            println!("{what}: {} ms to write", start.elapsed().as_millis());
        }
        let start = std::time::Instant::now();
        let ours = rtnl
            .fdb(device)
            .unwrap()
            .iter()
            .filter(|e| e.ext_learned && e.vlan == 0)
            .count();
        println!("FDB: {} ms to read", start.elapsed().as_millis());
        let start = std::time::Instant::now();
        let neighbours = rtnl
            .neighbours(device)
            .unwrap()
            .iter()
            .filter(|n| n.protocol == 242)
            .count();
        println!("neighbours: {} ms to read", start.elapsed().as_millis());
        let start = std::time::Instant::now();
        let routes = rtnl.routes(242).unwrap().len();
        println!("routes: {} ms to read", start.elapsed().as_millis());
        assert_eq!(
            (ours, neighbours, routes),
            (N as usize, 2 * N as usize, N as usize)
        );
        let count = |command: &str| ns.sh(command).lines().count();
        assert_eq!(
            count("bridge fdb show br br0 | grep extern_learn | grep -v vlan"),
            N as usize
        );
        assert_eq!(count("ip neigh show dev br0 nud permanent"), 2 * N as usize);
        assert_eq!(count("ip route show table 10"), N as usize);
        let remove: Vec<Op> = macs
            .iter()
            .map(|mac| Op::FdbDelete { port, mac: *mac })
            .collect();
        apply(rtnl, &remove);
        assert_eq!(
            rtnl.fdb(device)
                .unwrap()
                .iter()
                .filter(|e| e.ext_learned)
                .count(),
            0
        );
    });
}
