//! Links, their attributes and their sysctls against the running kernel: every reader reads what
//! `ip` made, and every change is read back with it.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

mod support;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lxmesh::addr::{IfName, Mac};
use lxmesh::kernel::link::{LinkKind, VxlanData};
use lxmesh::kernel::rtnl::{BridgeSet, Op, PortSet, Rtnl};
use serde_json::{Value, json};
use support::{Ns, apply, errno, in_netns, with_bridge};

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

// Links

#[test]
fn a_bridge_reads_as_ip_made_it() {
    in_netns(|ns| {
        ns.sh(
            "ip link add br0 address 02:00:5e:00:00:09 mtu 1400 type bridge mcast_snooping 0 mcast_querier 1 \
             mcast_igmp_version 3 mcast_mld_version 2 mcast_router 2 mcast_query_response_interval 100
             ip link add br1 type bridge mcast_snooping 1 mcast_querier 0 mcast_igmp_version 2 \
             mcast_mld_version 1 mcast_router 0 mcast_query_response_interval 200
             ip link set br1 up addrgenmode none",
        );
        let mut rtnl = Rtnl::open().unwrap();
        let br0 = rtnl.link(&name("br0")).unwrap().unwrap();
        assert_eq!(
            (br0.index, br0.mtu, br0.mac),
            (ns.index("br0"), 1400, Some(mac("02:00:5e:00:00:09")))
        );
        assert_eq!(
            (br0.up, br0.master, br0.addr_gen_mode),
            (false, None, Some(0))
        );
        assert!(br0.port.is_none());
        let LinkKind::Bridge(data) = br0.kind else {
            panic!("{br0:?}")
        };
        assert!(!data.mcast_snooping && data.mcast_querier && !data.vlan_filtering);
        assert_eq!((data.mcast_igmp_version, data.mcast_mld_version), (3, 2));
        assert_eq!(
            (data.mcast_router, data.mcast_query_response_interval),
            (2, 100)
        );
        let br1 = rtnl.link_by_index(ns.index("br1")).unwrap().unwrap();
        assert_eq!((br1.up, br1.addr_gen_mode), (true, Some(1)));
        let LinkKind::Bridge(data) = br1.kind else {
            panic!("{br1:?}")
        };
        assert!(data.mcast_snooping && !data.mcast_querier);
        assert_eq!((data.mcast_igmp_version, data.mcast_mld_version), (2, 1));
        assert_eq!(
            (data.mcast_router, data.mcast_query_response_interval),
            (0, 200)
        );
    });
}

#[test]
fn a_vxlan_link_reads_as_ip_made_it() {
    in_netns(|ns| {
        ns.sh(
            "ip link add x4 type vxlan id 16777214 local 192.0.2.1 dstport 4790 gbp nolearning
             ip link add x6 type vxlan id 7 local 2001:db8::1 dstport 4789 learning
             ip link add x0 type vxlan id 8 dstport 8472",
        );
        let mut rtnl = Rtnl::open().unwrap();
        let links = rtnl.links().unwrap();
        let kind = |n: &str| {
            links
                .iter()
                .find(|l| l.name.as_str() == n)
                .unwrap()
                .kind
                .clone()
        };
        // Only kernels from 6.14 on tell.
        let reserved = matches!(kind("x0"), LinkKind::Vxlan(data) if data.drops_marked.is_some());
        let vxlan = |vni, local: Option<&str>, port, learning, gbp| {
            LinkKind::Vxlan(VxlanData {
                vni,
                local: local.map(ip),
                port,
                learning,
                gbp,
                drops_marked: reserved.then_some(!gbp),
            })
        };
        assert_eq!(
            kind("x4"),
            vxlan(16_777_214, Some("192.0.2.1"), 4790, false, true)
        );
        assert_eq!(kind("x6"), vxlan(7, Some("2001:db8::1"), 4789, true, false));
        assert_eq!(kind("x0"), vxlan(8, None, 8472, true, false));
        assert_eq!(kind("lo"), LinkKind::Other);
    });
}

#[test]
fn a_port_reads_as_ip_made_it() {
    with_bridge(|ns, rtnl| {
        // Two patterns, so that no attribute can be taken for another or for a constant.
        let names = [
            "learning",
            "flood",
            "mcast_flood",
            "bcast_flood",
            "proxy_arp",
            "proxy_arp_wifi",
            "guard",
            "neigh_suppress",
            "isolated",
            "hairpin",
        ];
        for pattern in [0b01_0110_1001u32, 0b10_1001_0110, 0b00_1111_0000] {
            let on = |i: usize| pattern >> i & 1 == 1;
            for (i, n) in names.iter().enumerate() {
                let value = if on(i) { "on" } else { "off" };
                ns.sh(&format!("ip link set v0 type bridge_slave {n} {value}"));
            }
            ns.sh(&format!(
                "ip link set v0 type bridge_slave mcast_router {}",
                pattern % 3
            ));
            let port = rtnl.link(&name("v0")).unwrap().unwrap().port.unwrap();
            let got = [
                port.learning,
                port.unicast_flood,
                port.mcast_flood,
                port.bcast_flood,
                port.proxy_arp,
                port.proxy_arp_wifi,
                port.guard,
                port.neigh_suppress,
                port.isolated,
                port.hairpin,
            ];
            for (i, n) in names.iter().enumerate() {
                assert_eq!(got[i], on(i), "{n} of {pattern:b}");
            }
            assert_eq!(u32::from(port.mcast_router), pattern % 3);
        }
        let v0 = rtnl.link(&name("v0")).unwrap().unwrap();
        assert_eq!(
            (v0.master, v0.up, v0.running),
            (Some(ns.index("br0")), true, true)
        );
        assert!(rtnl.link(&name("p0")).unwrap().unwrap().port.is_none());
    });
}

#[test]
fn a_veth_whose_peer_is_elsewhere_is_told_from_one_whose_peer_is_here() {
    in_netns(|ns| {
        ns.sh("ip link add here type veth peer name there0; ip link add away type veth peer name gone");
        thread::scope(|scope| {
            let (to_us, from_other) = std::sync::mpsc::channel();
            let (end, ended) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                in_netns(move |_| {
                    to_us.send(rustix::thread::gettid()).unwrap();
                    let _ = ended.recv();
                });
            });
            let other = from_other.recv().unwrap().as_raw_nonzero();
            ns.sh(&format!("ip link set gone netns {other}"));
            let mut rtnl = Rtnl::open().unwrap();
            assert!(rtnl.link(&name("away")).unwrap().unwrap().peer_netns);
            assert!(!rtnl.link(&name("here")).unwrap().unwrap().peer_netns);
            drop(end);
        });
    });
}

#[test]
fn links_are_all_there_but_for_names_that_we_would_not_use() {
    in_netns(|ns| {
        for i in 0..200 {
            ns.sh(&format!("ip link add v{i} type bridge"));
        }
        ns.sh("ip link add 'a\"b' type bridge; ip link add caf\u{e9} type bridge");
        let mut rtnl = Rtnl::open().unwrap();
        let mut names: Vec<String> = rtnl
            .links()
            .unwrap()
            .iter()
            .map(|l| l.name.to_string())
            .collect();
        names.sort();
        let mut wanted: Vec<String> = (0..200)
            .map(|i| format!("v{i}"))
            .chain(["lo".into()])
            .collect();
        wanted.sort();
        assert_eq!(names, wanted);
    });
}

#[test]
fn an_absent_link_is_none_and_an_alternative_name_is_no_name() {
    in_netns(|ns| {
        ns.sh("ip link add br0 type bridge; ip link property add dev br0 altname other");
        let mut rtnl = Rtnl::open().unwrap();
        assert!(rtnl.link(&name("br0")).unwrap().is_some());
        assert_eq!(rtnl.link(&name("other")).unwrap(), None);
        assert_eq!(rtnl.link(&name("absent")).unwrap(), None);
        assert_eq!(rtnl.link_by_index(4_000_000).unwrap(), None);
    });
}

#[test]
fn a_dump_that_others_disturb_still_has_every_lasting_link() {
    in_netns(|ns| {
        for i in 0..300 {
            ns.sh(&format!("ip link add last{i} type bridge"));
        }
        let batch: String = (0..40)
            .map(|i| format!("link add t{i} type bridge\nlink del t{i}\n"))
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        let mut rtnl = Rtnl::open().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let space = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            let (done, path) = (&done, file.path());
            scope.spawn(move || {
                rustix::thread::move_into_link_name_space(
                    std::os::fd::AsFd::as_fd(&space),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )
                .unwrap();
                for _ in 0..5 {
                    let status = std::process::Command::new("ip")
                        .arg("-batch")
                        .arg(path)
                        .status();
                    assert!(status.unwrap().success());
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                match rtnl.links() {
                    Ok(links) => {
                        let lasting = links.iter().filter(|l| l.name.as_str().starts_with("last"));
                        assert_eq!(lasting.count(), 300);
                    }
                    // Unknown is said, never a part.
                    Err(error) => assert_eq!(error.errno(), Some(libc::EINTR), "{error}"),
                }
            }
        });
    });
}

#[test]
fn a_link_goes_up_and_down_and_in_and_out_of_a_bridge() {
    in_netns(|ns| {
        ns.sh("ip link add br0 type bridge; ip link add v0 type veth peer name p0");
        let mut rtnl = Rtnl::open().unwrap();
        let (index, master) = (ns.index("v0"), ns.index("br0"));
        let up = |ns: &Ns| {
            ns.link("v0")["flags"]
                .as_array()
                .unwrap()
                .contains(&json!("UP"))
        };
        for _ in 0..2 {
            apply(
                &mut rtnl,
                &[Op::LinkMaster { index, master }, Op::LinkUp { index }],
            );
            assert!(up(ns));
            assert_eq!(ns.link("v0")["master"], "br0");
        }
        for _ in 0..2 {
            apply(
                &mut rtnl,
                &[Op::LinkMaster { index, master: 0 }, Op::LinkDown { index }],
            );
            assert!(!up(ns));
            assert_eq!(ns.link("v0")["master"], Value::Null);
        }
        assert_eq!(
            errno(&mut rtnl, Op::LinkUp { index: 4_000_000 }),
            Some(libc::ENODEV)
        );
        assert_eq!(
            errno(
                &mut rtnl,
                Op::LinkMaster {
                    index,
                    master: 4_000_000
                }
            ),
            Some(libc::EINVAL)
        );
    });
}

#[test]
fn addrgenmode_is_set() {
    in_netns(|ns| {
        ns.sh("ip link add br0 type bridge");
        let mut rtnl = Rtnl::open().unwrap();
        let index = ns.index("br0");
        apply(&mut rtnl, &[Op::LinkAddrGenMode { index, mode: 1 }]);
        assert_eq!(ns.link("br0")["inet6_addr_gen_mode"], "none");
        apply(&mut rtnl, &[Op::LinkAddrGenMode { index, mode: 0 }]);
        assert_eq!(ns.link("br0")["inet6_addr_gen_mode"], "eui64");
    });
}

#[test]
fn port_attributes_are_set_one_by_one_and_the_others_are_left() {
    with_bridge(|ns, rtnl| {
        let index = ns.index("v0");
        let data = |ns: &Ns| ns.link("v0")["linkinfo"]["info_slave_data"].clone();
        type Setter = fn(&mut PortSet, bool);
        let one = |f: Setter, value| {
            let mut attrs = PortSet::default();
            f(&mut attrs, value);
            attrs
        };
        let attributes: [(&str, Setter); 10] = [
            ("learning", |a, v| a.learning = Some(v)),
            ("flood", |a, v| a.unicast_flood = Some(v)),
            ("mcast_flood", |a, v| a.mcast_flood = Some(v)),
            ("bcast_flood", |a, v| a.bcast_flood = Some(v)),
            ("proxy_arp", |a, v| a.proxy_arp = Some(v)),
            ("proxy_arp_wifi", |a, v| a.proxy_arp_wifi = Some(v)),
            ("guard", |a, v| a.guard = Some(v)),
            ("neigh_suppress", |a, v| a.neigh_suppress = Some(v)),
            ("isolated", |a, v| a.isolated = Some(v)),
            ("hairpin", |a, v| a.hairpin = Some(v)),
        ];
        for (key, set) in attributes {
            let before = data(ns);
            let old = before[key]
                .as_bool()
                .unwrap_or_else(|| panic!("ip gives no {key}"));
            for value in [!old, old] {
                apply(
                    rtnl,
                    &[Op::Port {
                        index,
                        attrs: one(set, value),
                    }],
                );
                let mut wanted = before.clone();
                wanted[key] = json!(value);
                let mut after = data(ns);
                for timer in ["forward_delay_timer", "hold_timer", "message_age_timer"] {
                    wanted[timer] = Value::Null;
                    after[timer] = Value::Null;
                }
                assert_eq!(after, wanted, "{key} {value}");
            }
        }
        for value in [0u8, 2, 1] {
            let attrs = PortSet {
                mcast_router: Some(value),
                ..PortSet::default()
            };
            apply(rtnl, &[Op::Port { index, attrs }]);
            assert_eq!(data(ns)["multicast_router"], value);
        }
        let loose = Op::Port {
            index: ns.index("p0"),
            attrs: PortSet::default(),
        };
        assert!(errno(rtnl, loose).is_some());
    });
}

#[test]
fn the_group_limit_of_a_port_limits_its_groups() {
    // Older iproute2 does not show it, so it shows by what it does.
    with_bridge(|ns, rtnl| {
        let index = ns.index("v0");
        if rtnl
            .link(&name("v0"))
            .unwrap()
            .unwrap()
            .port
            .unwrap()
            .mcast_max_groups
            .is_none()
        {
            let release = ns.sh("uname -r");
            assert!(
                release.starts_with("6.2.") || release.starts_with("6.1."),
                "{release} has the limit"
            );
            return;
        }
        let attrs = PortSet {
            mcast_max_groups: Some(1),
            ..PortSet::default()
        };
        apply(rtnl, &[Op::Port { index, attrs }]);
        ns.sh("bridge mdb add dev br0 port v0 grp 239.1.1.1 permanent");
        ns.try_sh("bridge mdb add dev br0 port v0 grp 239.1.1.2 permanent")
            .unwrap_err();
        let attrs = PortSet {
            mcast_max_groups: Some(0),
            ..PortSet::default()
        };
        apply(rtnl, &[Op::Port { index, attrs }]);
        ns.sh("bridge mdb add dev br0 port v0 grp 239.1.1.2 permanent");
        assert_eq!(
            rtnl.link(&name("v0"))
                .unwrap()
                .unwrap()
                .port
                .unwrap()
                .mcast_max_groups,
            Some(0)
        );
    });
}

#[test]
fn bridge_attributes_are_set_and_the_others_are_left() {
    in_netns(|ns| {
        ns.sh("ip link add br0 type bridge mcast_querier 0");
        let mut rtnl = Rtnl::open().unwrap();
        let index = ns.index("br0");
        let data = |ns: &Ns, key: &str| ns.link("br0")["linkinfo"]["info_data"][key].clone();
        let all = BridgeSet {
            mcast_snooping: Some(true),
            mcast_querier: Some(true),
            mcast_igmp_version: Some(3),
            mcast_mld_version: Some(2),
            mcast_router: Some(2),
            mcast_query_response_interval: Some(100),
        };
        apply(&mut rtnl, &[Op::Bridge { index, attrs: all }]);
        for (key, value) in [
            ("mcast_snooping", 1),
            ("mcast_querier", 1),
            ("mcast_igmp_version", 3),
            ("mcast_mld_version", 2),
            ("mcast_router", 2),
            ("mcast_query_response_intvl", 100),
        ] {
            assert_eq!(data(ns, key), value, "{key}");
        }
        let one = BridgeSet {
            mcast_router: Some(0),
            ..BridgeSet::default()
        };
        apply(&mut rtnl, &[Op::Bridge { index, attrs: one }]);
        assert_eq!(data(ns, "mcast_router"), 0);
        assert_eq!(data(ns, "mcast_igmp_version"), 3);
        assert_eq!(data(ns, "mcast_querier"), 1);
        ns.sh("ip link add v0 type veth peer name p0");
        let wrong = Op::Bridge {
            index: ns.index("v0"),
            attrs: one,
        };
        assert_eq!(errno(&mut rtnl, wrong), Some(libc::EOPNOTSUPP));
    });
}

#[test]
fn vxlan_learning_is_set_and_the_tunnel_is_left() {
    in_netns(|ns| {
        ns.sh("ip link add x type vxlan id 5 local 127.0.0.1 dstport 4789 gbp learning ttl 9; ip link set x up");
        let mut rtnl = Rtnl::open().unwrap();
        let index = ns.index("x");
        let before = ns.link("x")["linkinfo"]["info_data"].clone();
        for learning in [false, true] {
            apply(&mut rtnl, &[Op::Vxlan { index, learning }]);
            let mut wanted = before.clone();
            wanted["learning"] = json!(learning);
            assert_eq!(ns.link("x")["linkinfo"]["info_data"], wanted);
        }
    });
}

#[test]
fn a_tunnel_is_made_anew_as_it_was() {
    let forms = [
        "id 5 local 127.0.0.1 dstport 4789 gbp nolearning ttl 64",
        "id 6 local ::1 dstport 4790 learning ttl inherit tos inherit udp6zerocsumtx udp6zerocsumrx",
        "id 7 group 239.1.1.1 dev d0 dstport 4791 ageing 17 maxaddress 9 noudpcsum df set srcport 1000 2000",
        "external dstport 4792 gbp",
    ];
    in_netns(|ns| {
        ns.sh("ip link add d0 type veth peer name d1; ip link set d0 up; ip link set lo up");
        let mut rtnl = Rtnl::open().unwrap();
        for form in forms {
            ns.sh(&format!(
                "ip link add x address 02:00:00:00:00:05 mtu 1400 group 7 type vxlan {form}"
            ));
            let index = ns.index("x");
            let before = ns.link("x");
            let tunnel = Box::new(rtnl.tunnel(index).unwrap().unwrap());
            let make = |least| Op::TunnelMake {
                tunnel: tunnel.clone(),
                least,
            };
            apply(&mut rtnl, &[Op::LinkDelete { index }, make(false)]);
            assert_eq!(ns.link("x"), before, "{form}");
            assert_eq!(errno(&mut rtnl, make(true)), Some(libc::EEXIST));
            if form.contains("local") {
                apply(&mut rtnl, &[Op::LinkDelete { index }, make(true)]);
                let (found, before) = (&ns.link("x"), &before);
                for key in ["id", "local", "local6", "port", "learning", "ttl", "gbp"] {
                    let data =
                        |link: &serde_json::Value| link["linkinfo"]["info_data"][key].clone();
                    assert_eq!(data(found), data(before), "{form}: {key}");
                }
            }
            ns.sh("ip link del x");
            assert_eq!(rtnl.tunnel(index).unwrap(), None);
        }
        assert_eq!(rtnl.tunnel(ns.index("d0")).unwrap(), None);
        assert_eq!(
            errno(&mut rtnl, Op::LinkDelete { index: 4711 }),
            Some(libc::ENODEV)
        );
    });
}

// Sysctls

#[test]
fn solicitation_counts_are_read_and_set_for_one_device_of_this_namespace() {
    use lxmesh::kernel::sysctl::{NeighSolicit, neigh_solicit, set_neigh_solicit};
    with_bridge(|ns, _| {
        let (br0, absent) = (name("br0"), name("absent"));
        let sysctl = |ns: &Ns, key: &str| {
            ns.sh(&format!("sysctl -n net.{key}"))
                .trim()
                .parse::<u32>()
                .unwrap()
        };
        ns.sh("sysctl -qw net.ipv4.neigh.br0.mcast_solicit=11 net.ipv6.neigh.br0.ucast_solicit=12");
        let before = neigh_solicit(&br0).unwrap().unwrap();
        assert_eq!(
            before,
            NeighSolicit {
                v4_mcast: 11,
                v4_ucast: 3,
                v6_mcast: 3,
                v6_ucast: 12
            }
        );
        let value = NeighSolicit {
            v4_mcast: 0,
            v4_ucast: 1,
            v6_mcast: 2,
            v6_ucast: 4,
        };
        set_neigh_solicit(&br0, &value).unwrap();
        assert_eq!(sysctl(ns, "ipv4.neigh.br0.mcast_solicit"), 0);
        assert_eq!(sysctl(ns, "ipv4.neigh.br0.ucast_solicit"), 1);
        assert_eq!(sysctl(ns, "ipv6.neigh.br0.mcast_solicit"), 2);
        assert_eq!(sysctl(ns, "ipv6.neigh.br0.ucast_solicit"), 4);
        assert_eq!(sysctl(ns, "ipv4.neigh.v0.mcast_solicit"), 3);
        assert_eq!(neigh_solicit(&absent).unwrap(), None);
        let error = set_neigh_solicit(&absent, &value).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}
