//! `kernel::monitor` against the running kernel: what knocks, and what the kernel keeps to itself.
//!
//! No test waits for something not to happen: after the changes under test comes a last one that
//! surely knocks, and all that was heard before it counts.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

mod support;

use std::future::Future;
use std::time::Duration;

use lxmesh::addr::Mac;
use lxmesh::kernel::Nft;
use lxmesh::kernel::monitor::{Knock, Monitor, MonitorFilter};
use lxmesh::kernel::nft::{Element, ElementOp, Family};
use lxmesh::kernel::rtnl::{Op, Rtnl};
use support::{Ns, apply, in_netns, with_bridge};

/// Runs on the thread's own runtime, so that sockets are made in its namespace. The time limit is
/// there to end a test that would hang, and decides nothing.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(60), future).await };
    runtime.block_on(limited).expect("no knock within a minute")
}

fn not_of(tunnels: Vec<u32>) -> MonitorFilter {
    MonitorFilter {
        tunnels,
        floods: false,
    }
}

/// A monitor with the filter, in a namespace with `br0`, `v0` and `v1`.
fn with_monitor(tunnels: &[&str], body: impl AsyncFnOnce(&Ns, &mut Rtnl, &mut Monitor) + Send) {
    with_bridge(|ns, rtnl| {
        let tunnels = tunnels.iter().map(|t| ns.index(t)).collect();
        block_on(async {
            let mut monitor = Monitor::open(&not_of(tunnels)).unwrap();
            body(ns, rtnl, &mut monitor).await;
        });
    });
}

/// All knocks of the changes made until now.
async fn knocks(ns: &Ns, monitor: &mut Monitor) -> Vec<Knock> {
    ns.sh("ip link add end type veth peer name end-peer");
    let end = ns.index("end");
    ns.sh("ip link del end");
    let mut all = Vec::new();
    loop {
        let some = monitor.next().await.unwrap();
        assert!(!some.is_empty());
        let ended = some
            .iter()
            .any(|k| matches!(k, Knock::Link { index, removed: true, .. } if *index == end));
        all.extend(some);
        if ended {
            all.retain(|k| !matches!(k, Knock::Link { index, .. } if *index == end));
            return all;
        }
    }
}

/// The knocks of one shell command, without those of links (which `ip` causes by the way).
async fn heard(ns: &Ns, monitor: &mut Monitor, command: &str) -> Vec<Knock> {
    knocks(ns, monitor).await;
    ns.sh(command);
    let mut all = knocks(ns, monitor).await;
    all.retain(|k| !matches!(k, Knock::Link { .. }));
    all.dedup();
    all
}

fn mac(i: u32) -> Mac {
    let [a, b, c, d] = i.to_be_bytes();
    Mac([2, 0, a, b, c, d])
}

#[test]
fn a_link_knocks_when_it_comes_changes_and_goes() {
    with_monitor(&[], async |ns, _, monitor| {
        ns.sh("ip link add new type bridge");
        let index = ns.index("new");
        let link = |removed| Knock::Link {
            index,
            name: Some("new".parse().unwrap()),
            removed,
        };
        assert!(knocks(ns, monitor).await.contains(&link(false)));
        ns.sh("ip link set new mtu 1400");
        assert!(knocks(ns, monitor).await.contains(&link(false)));
        ns.sh("ip link del new");
        assert!(knocks(ns, monitor).await.contains(&link(true)));
        ns.sh("ip link add 'a\"b' type bridge");
        let strange = knocks(ns, monitor).await;
        assert!(
            strange
                .iter()
                .any(|k| matches!(k, Knock::Link { name: None, .. })),
            "{strange:?}"
        );
    });
}

#[test]
fn a_port_that_leaves_its_bridge_is_not_a_removed_link() {
    with_monitor(&[], async |ns, _, monitor| {
        let v0 = ns.index("v0");
        ns.sh("ip link set v0 nomaster");
        let all = knocks(ns, monitor).await;
        let mut of_v0 = all
            .iter()
            .filter(|k| matches!(k, Knock::Link { index, .. } if *index == v0))
            .peekable();
        assert!(of_v0.peek().is_some());
        assert!(
            of_v0.all(|k| matches!(k, Knock::Link { removed: false, .. })),
            "{all:?}"
        );
    });
}

#[test]
fn fdb_entries_on_ports_knock_and_on_tunnels_do_not() {
    with_monitor(&["v1"], async |ns, rtnl, monitor| {
        let (bridge, v0, v1) = (ns.index("br0"), ns.index("v0"), ns.index("v1"));
        let fdb = |port, learned| Knock::Fdb {
            port,
            bridge: Some(bridge),
            mac: mac(1),
            learned,
            own: false,
        };
        let add = "bridge fdb replace 02:00:00:00:00:01 dev PORT master extern_learn";
        let delete = "bridge fdb del 02:00:00:00:00:01 dev PORT master";
        for (command, learned) in [(add, true), (delete, false)] {
            assert_eq!(
                heard(ns, monitor, &command.replace("PORT", "v0")).await,
                [fdb(v0, learned)]
            );
        }
        for command in [add, delete] {
            assert_eq!(heard(ns, monitor, &command.replace("PORT", "v1")).await, []);
        }
        // A MAC that the port itself is given.
        let own = Knock::Fdb {
            port: v0,
            bridge: Some(bridge),
            mac: mac(1),
            learned: false,
            own: true,
        };
        let told = heard(ns, monitor, "ip link set v0 address 02:00:00:00:00:01").await;
        assert!(told.contains(&own), "{told:?}");
        ns.sh("ip link set v0 address 02:00:00:00:00:09");
        knocks(ns, monitor).await;
        // The filter can be changed at any time.
        monitor.set_filter(&not_of(vec![v0])).unwrap();
        assert_eq!(heard(ns, monitor, &add.replace("PORT", "v0")).await, []);
        assert_eq!(heard(ns, monitor, &delete.replace("PORT", "v0")).await, []);
        assert_eq!(
            heard(ns, monitor, &add.replace("PORT", "v1")).await,
            [fdb(v1, true)]
        );
        // Our own carry no port id, so they knock even when ours are to be ignored.
        monitor.ignore(rtnl.portid(), 0).unwrap();
        knocks(ns, monitor).await;
        apply(
            rtnl,
            &[Op::FdbReplace {
                port: v1,
                mac: mac(2),
            }],
        );
        let own = Knock::Fdb {
            port: v1,
            bridge: Some(bridge),
            mac: mac(2),
            learned: true,
            own: false,
        };
        assert!(knocks(ns, monitor).await.contains(&own));
    });
}

#[test]
fn where_a_tunnel_floods_to_knocks_if_that_is_asked_for() {
    with_monitor(&[], async |ns, _, monitor| {
        ns.sh("ip link add tunnel type vxlan id 7 dstport 4789 local 203.0.113.1 nolearning");
        let tunnel = ns.index("tunnel");
        let flood = Knock::Fdb {
            port: tunnel,
            bridge: None,
            mac: Mac::default(),
            learned: false,
            own: false,
        };
        let to = |verb: &str, mac: &str, vtep: &str| {
            format!("bridge fdb {verb} {mac} dev tunnel dst 203.0.113.{vtep} self")
        };
        let zero = "00:00:00:00:00:00";
        let filter = |floods| MonitorFilter {
            tunnels: vec![tunnel],
            floods,
        };
        monitor.set_filter(&filter(true)).unwrap();
        for (verb, vtep) in [("append", "2"), ("append", "3"), ("del", "2"), ("del", "3")] {
            let heard = heard(ns, monitor, &to(verb, zero, vtep)).await;
            assert_eq!(heard, std::slice::from_ref(&flood), "{verb} {vtep}");
        }
        for mac in ["00:00:00:00:00:01", "02:00:00:00:00:00"] {
            assert_eq!(heard(ns, monitor, &to("add", mac, "2")).await, []);
        }
        monitor.set_filter(&filter(false)).unwrap();
        assert_eq!(heard(ns, monitor, &to("append", zero, "4")).await, []);
    });
}

#[test]
fn a_hundred_thousand_events_on_tunnels_neither_knock_nor_fill_the_queue() {
    // As many tunnels as a large host has; the kernel would drop 80,000 events of 100,000 for want
    // of room if they were queued.
    with_bridge(|ns, rtnl| {
        let tunnel = ns.index("v1");
        let tunnels = (1_000_000..1_001_000).chain([tunnel]).collect();
        block_on(async {
            let mut monitor = Monitor::open(&not_of(tunnels)).unwrap();
            for _ in 0..3 {
                let add: Vec<Op> = (0..20_000)
                    .map(|i| Op::FdbReplace {
                        port: tunnel,
                        mac: mac(i),
                    })
                    .collect();
                let delete: Vec<Op> = (0..20_000)
                    .map(|i| Op::FdbDelete {
                        port: tunnel,
                        mac: mac(i),
                    })
                    .collect();
                apply(rtnl, &add);
                apply(rtnl, &delete);
            }
            let mut all = knocks(ns, &mut monitor).await;
            all.retain(|k| !matches!(k, Knock::Link { .. }));
            assert_eq!(all, []);
        });
    });
}

#[test]
fn more_tunnels_than_a_program_holds_are_still_left_out() {
    with_bridge(|ns, rtnl| {
        let tunnel = ns.index("v1");
        let tunnels = (1_000_000..1_005_000).chain([tunnel]).collect();
        block_on(async {
            let mut monitor = Monitor::open(&not_of(tunnels)).unwrap();
            let many: Vec<Op> = (0..10_000)
                .map(|i| Op::FdbReplace {
                    port: tunnel,
                    mac: mac(i),
                })
                .collect();
            apply(rtnl, &many);
            let mut all = knocks(ns, &mut monitor).await;
            all.retain(|k| !matches!(k, Knock::Link { .. }));
            assert_eq!(all, []);
        });
    });
}

#[test]
fn too_many_events_are_told_as_lost_and_then_it_goes_on() {
    with_monitor(&[], async |ns, rtnl, monitor| {
        let port = ns.index("v0");
        for _ in 0..5 {
            let add: Vec<Op> = (0..20_000)
                .map(|i| Op::FdbReplace { port, mac: mac(i) })
                .collect();
            let delete: Vec<Op> = (0..20_000)
                .map(|i| Op::FdbDelete { port, mac: mac(i) })
                .collect();
            apply(rtnl, &add);
            apply(rtnl, &delete);
        }
        let mut all = Vec::new();
        while !all.contains(&Knock::Lost) {
            let some = monitor.next().await.unwrap();
            assert!(some.len() <= 2 * 4096);
            all.extend(some);
        }
        let bridge = Some(ns.index("br0"));
        apply(
            rtnl,
            &[Op::FdbReplace {
                port,
                mac: mac(77_777),
            }],
        );
        assert!(knocks(ns, monitor).await.contains(&Knock::Fdb {
            port,
            bridge,
            mac: mac(77_777),
            learned: true,
            own: false,
        }));
    });
}

#[test]
fn our_neighbours_knock_and_zebras_and_unanswered_ones_do_not() {
    with_monitor(&[], async |ns, _, monitor| {
        let device = ns.index("br0");
        for address in ["10.0.0.7", "2001:db8::7"] {
            let knock = |ours| {
                let address = address.parse().unwrap();
                [Knock::Neighbour {
                    device,
                    address,
                    ours,
                }]
            };
            let neigh =
                |verb: &str, rest: &str| format!("ip neigh {verb} {address} dev br0 {rest}");
            let lladdr = "lladdr 02:00:00:00:00:01";
            // Zebra's: by protocol, or externally learned.
            let zebra = neigh("replace", &format!("{lladdr} nud noarp protocol zebra"));
            assert_eq!(heard(ns, monitor, &zebra).await, []);
            assert_eq!(heard(ns, monitor, &neigh("del", "")).await, []);
            let learned = neigh("replace", &format!("{lladdr} nud noarp extern_learn"));
            assert_eq!(heard(ns, monitor, &learned).await, []);
            ns.sh(&neigh("del", ""));
            // Between asking and knowing.
            assert_eq!(
                heard(ns, monitor, &neigh("replace", "nud failed")).await,
                []
            );
            assert_eq!(
                heard(
                    ns,
                    monitor,
                    &neigh("replace", &format!("{lladdr} nud probe"))
                )
                .await,
                []
            );
            ns.sh(&neigh("del", ""));
            // Ours, however it changes.
            let add = neigh("replace", &format!("{lladdr} nud permanent protocol 242"));
            assert_eq!(heard(ns, monitor, &add).await, knock(true));
            assert_eq!(
                heard(ns, monitor, &neigh("change", "nud failed")).await,
                knock(true)
            );
            assert_eq!(heard(ns, monitor, &neigh("del", "")).await, knock(false));
            // An operator's, of no protocol.
            let add = neigh("replace", &format!("{lladdr} nud permanent"));
            assert_eq!(heard(ns, monitor, &add).await, knock(false));
        }
    });
}

#[test]
fn our_routes_knock_and_others_only_when_an_operator_replaces_one() {
    with_monitor(&[], async |ns, _, monitor| {
        for destination in ["10.9.0.0/16", "2001:db8:9::/48"] {
            let route = |protocol| Knock::Route {
                destination: destination.parse().unwrap(),
                table: 70,
                protocol,
            };
            let ip = |verb: &str, protocol: &str| {
                format!("ip route {verb} {destination} dev br0 metric 5 table 70 proto {protocol}")
            };
            assert_eq!(heard(ns, monitor, &ip("add", "242")).await, [route(242)]);
            assert_eq!(heard(ns, monitor, &ip("del", "242")).await, [route(242)]);
            for stranger in ["zebra", "bgp", "static", "kernel"] {
                assert_eq!(
                    heard(ns, monitor, &ip("add", stranger)).await,
                    [],
                    "{stranger}"
                );
                assert_eq!(
                    heard(ns, monitor, &ip("del", stranger)).await,
                    [],
                    "{stranger}"
                );
            }
            ns.sh(&ip("add", "242"));
            assert_eq!(
                heard(ns, monitor, &ip("replace", "static")).await,
                [route(4)]
            );
            assert_eq!(heard(ns, monitor, &ip("del", "static")).await, []);
        }
    });
}

#[test]
fn groups_that_are_installed_knock_and_those_that_ports_join_do_not() {
    with_monitor(&[], async |ns, _, monitor| {
        let (bridge, port) = (ns.index("br0"), ns.index("v0"));
        for group in ["239.1.1.1", "ff05::1"] {
            let mdb = |verb: &str, state: &str| {
                format!("bridge mdb {verb} dev br0 port v0 grp {group} {state}")
            };
            assert_eq!(heard(ns, monitor, &mdb("add", "temp")).await, []);
            assert_eq!(heard(ns, monitor, &mdb("del", "")).await, []);
            assert_eq!(
                heard(ns, monitor, &mdb("add", "permanent")).await,
                [Knock::Mdb { bridge, port }]
            );
            assert_eq!(
                heard(ns, monitor, &mdb("del", "")).await,
                [Knock::Mdb { bridge, port }]
            );
        }
    });
}

#[test]
fn our_own_neighbours_and_routes_do_not_knock_when_ignored() {
    with_monitor(&[], async |ns, rtnl, monitor| {
        let (device, priority, table) = (ns.index("br0"), 5, 70);
        let address = "10.0.0.7".parse().unwrap();
        let destination = "10.9.0.0/16".parse().unwrap();
        let neighbour = |ours| Knock::Neighbour {
            device,
            address,
            ours,
        };
        let route = Knock::Route {
            destination,
            table,
            protocol: 242,
        };
        let add = [
            Op::NeighbourReplace {
                device,
                address,
                mac: mac(1),
            },
            Op::RouteReplace {
                table,
                destination,
                device,
                priority,
            },
        ];
        let delete = [
            Op::NeighbourDelete { device, address },
            Op::RouteDelete {
                table,
                destination,
                device,
                priority,
            },
        ];
        for (ignored, ops) in [
            (false, &add),
            (false, &delete),
            (true, &add),
            (true, &delete),
        ] {
            monitor
                .ignore(if ignored { rtnl.portid() } else { 0 }, 0)
                .unwrap();
            knocks(ns, monitor).await;
            apply(rtnl, ops);
            let all = knocks(ns, monitor).await;
            assert_eq!(all.contains(&route), !ignored, "{ops:?}: {all:?}");
            // A removed neighbour carries no port id.
            let added = matches!(ops[0], Op::NeighbourReplace { .. });
            let heard = all.contains(&neighbour(added));
            assert_eq!(heard, !(ignored && added), "{ops:?}: {all:?}");
        }
        // Another's are heard as before.
        let other = Rtnl::open().unwrap().apply(&add);
        assert!(other.iter().all(Result::is_ok));
        let all = knocks(ns, monitor).await;
        assert!(
            all.contains(&route) && all.contains(&neighbour(true)),
            "{all:?}"
        );
    });
}

#[test]
fn each_nft_transaction_knocks_once_with_its_generation_except_our_own() {
    in_netns(|ns| {
        ns.nft("table bridge t {\n set s { type mark; }\n }");
        block_on(async {
            let mut nft = Nft::open().unwrap();
            let mut monitor = Monitor::open(&MonitorFilter::default()).unwrap();
            let element = |mark: u32| ElementOp::Add {
                family: Family::Bridge,
                table: "t",
                set: "s",
                element: Element {
                    key: mark.to_ne_bytes().into(),
                    end: None,
                    data: None,
                    comment: None,
                    special: false,
                },
            };
            let one = async |monitor: &mut Monitor| {
                let all = monitor.next().await.unwrap();
                let [Knock::NftGeneration { generation, .. }] = all[..] else {
                    panic!("{all:?}")
                };
                generation
            };
            // Many objects, one knock.
            ns.nft("table inet u {\n chain a {\n accept\n drop\n }\n set x { type mark; elements = { 1, 2, 3 }; }\n }");
            assert_eq!(one(&mut monitor).await, nft.generation().unwrap());
            nft.transaction(&[element(1), element(2)]).unwrap();
            assert_eq!(one(&mut monitor).await, nft.generation().unwrap());
            monitor.ignore(0, nft.portid()).unwrap();
            nft.transaction(&[element(3), element(4)]).unwrap();
            ns.nft("delete table inet u");
            // The next that is heard is the one after ours.
            assert_eq!(one(&mut monitor).await, nft.generation().unwrap());
        });
    });
}
