//! What must go on to work beside the tables.

use super::attacks::make_host;
use super::place::*;
use super::support::{Ns, in_netns};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// As Docker and LXD make them: ports of a bridge, which asks iptables or not.
#[test]
fn ports_of_other_bridges_pass_also_where_bridges_ask_iptables() {
    in_netns(|ns| {
        let first = make_host(ns);
        let second = Peer::by_veth(ns, "second0");
        ns.sh("ip link set second0 master br0; ip -6 address add fe80::b0/64 dev br0 nodad");
        second.sh("ip address add 10.9.0.3/24 dev eth0; ip route add default via 10.9.0.1");
        close(ns, &["under0", "under1"]);
        if !Path::new("/proc/sys/net/bridge").exists() {
            ns.sh("modprobe br_netfilter");
        }
        for asks in [0, 1] {
            ns.sh(&format!(
                "for i in ip ip6 arp; do sysctl -qw net.bridge.bridge-nf-call-${{i}}tables={asks}; done"
            ));
            for (what, passes) in [
                ("between ports", second.pings("10.9.0.2")),
                ("to the host", second.pings("10.9.0.1")),
                ("to the host's other address", second.pings("198.51.100.11")),
                ("from the host", pings(ns, "10.9.0.3")),
                ("to the host, IPv6", first.pings("2001:db8:9::1")),
                (
                    "to the host's link-local address",
                    first.pings("fe80::b0%eth0"),
                ),
            ] {
                assert!(passes, "{what}, asking {asks}");
            }
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).unwrap();
            let discover = udp(
                Ipv4Addr::UNSPECIFIED,
                Ipv4Addr::BROADCAST,
                (68, 67),
                b"discover",
            );
            second.send(&[ethernet(BROADCAST, 0x0800, &discover)]);
            assert_eq!(heard(&socket, b"discover"), 1, "asking {asks}");
        }
        let all = ["fabric_port", "no_address", "foreign_source", "arp_denied"];
        assert_eq!(dropped(ns, &all), 0);
    });
}

/// As LXD makes `nictype=routed`: one address, the gateway's is 169.254.0.1 and fe80::1.
#[test]
fn a_routed_nic_passes_in_both_families_and_directions() {
    in_netns(|ns| {
        let victim = make_host(ns);
        let routed = Peer::by_veth(ns, "routed0");
        ns.sh("ip address add 169.254.0.1/32 dev routed0; ip route add 10.5.0.2/32 dev routed0
            ip -6 address add fe80::1/128 dev routed0 nodad; ip -6 route add 2001:db8:5::2/128 dev routed0");
        routed.sh("ip address add 10.5.0.2/32 dev eth0
            ip route add 169.254.0.1 dev eth0 src 10.5.0.2; ip route add default via 169.254.0.1
            ip -6 address add 2001:db8:5::2/128 dev eth0 nodad; ip -6 route add default via fe80::1 dev eth0");
        close(ns, &["under0"]);
        let forget = || {
            ns.sh("ip neighbour flush dev routed0; ip -6 neighbour flush dev routed0");
            routed.sh("ip neighbour flush dev eth0; ip -6 neighbour flush dev eth0");
        };
        for to in ["10.9.0.1", "10.9.0.2", "2001:db8:9::1", "2001:db8:9::2"] {
            forget();
            assert!(routed.pings(to), "to {to}");
        }
        for to in ["10.5.0.2", "2001:db8:5::2"] {
            forget();
            assert!(pings(ns, to), "from the host to {to}");
            forget();
            assert!(victim.pings(to), "from another instance to {to}");
        }
        // Both ends ask whether the other is there still, the instance by its link-local address.
        let stale = "ip neighbour show | awk '/lladdr/ { print $1, $3 }'";
        for line in routed.sh(stale).lines() {
            let (address, device) = line.split_once(' ').unwrap();
            routed.sh(&format!(
                "ip neighbour change {address} dev {device} nud probe"
            ));
        }
        std::thread::sleep(Duration::from_millis(3500));
        // Its gateway answers; asked for another link-local address of the host, nobody does.
        let entries = routed.sh("ip neighbour show fe80::1; ip neighbour show 169.254.0.1");
        assert!(
            entries.contains("fe80::1") && !entries.contains("FAILED"),
            "{entries}"
        );
        for to in ["10.5.0.2", "2001:db8:5::2"] {
            assert!(pings(ns, to), "from the host to {to}, later");
        }
        assert!(routed.pings("10.9.0.2") && routed.pings("2001:db8:9::2"));
    });
}

/// As systemd's 80-container-ve.network has it: the host is DHCP server and router of each.
#[test]
fn a_container_of_nspawn_gets_addresses_and_neighbours() {
    in_netns(|ns| {
        let _victim = make_host(ns);
        let container = Peer::by_veth(ns, "ve-box");
        close(ns, &[]);
        let host = link_local_of(ns, "ve-box");
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).unwrap();
        let discover = udp(
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            (68, 67),
            b"discover",
        );
        container.send(&[ethernet(BROADCAST, 0x0800, &discover)]);
        assert_eq!(heard(&socket, b"discover"), 1);
        // A router is asked for, and an address without one's own.
        let before = solicited(ns);
        let routers: Ipv6Addr = "ff02::2".parse().unwrap();
        let rs = icmp6(Ipv6Addr::UNSPECIFIED, routers, 133, 255, &[0; 4]);
        container.send(&[ethernet([0x33, 0x33, 0, 0, 0, 2], 0x86dd, &rs)]);
        until("a solicitation of a router arrives", || {
            solicited(ns) > before
        });
        container.send(&[solicitation("fe80::77".parse().unwrap(), host)]);
        until("a neighbour is known", || {
            ns.sh("ip -6 neighbour show dev ve-box")
                .contains("fe80::77 ")
        });
        ns.sh("ip address add 10.4.0.1/28 dev ve-box; ip -6 address add 2001:db8:4::1/64 dev ve-box nodad");
        container.sh(
            "ip address add 10.4.0.2/28 dev eth0; ip route add default via 10.4.0.1
            ip -6 address add 2001:db8:4::2/64 dev eth0 nodad",
        );
        for to in ["10.4.0.1", "10.9.0.2", "2001:db8:4::1"] {
            assert!(container.pings(to), "to {to}");
        }
        ns.sh("ip neighbour flush dev ve-box; ip -6 neighbour flush dev ve-box");
        for to in ["10.4.0.2", "2001:db8:4::2"] {
            assert!(pings(ns, to), "from the host to {to}");
        }
    });
}

/// Router solicitations that the host has had.
fn solicited(ns: &Ns) -> u64 {
    let text = ns.sh("cat /proc/thread-self/net/snmp6 /proc/self/net/snmp6 2>/dev/null || true");
    let line = text
        .lines()
        .find(|line| line.starts_with("Icmp6InRouterSolicits "));
    line.and_then(|line| line.split_whitespace().nth(1))
        .map_or(0, |n| n.parse().unwrap())
}

#[test]
fn a_tun_of_a_vpn_passes_whatever_its_peers_addresses() {
    in_netns(|ns| {
        let _victim = make_host(ns);
        let mut vpn = tun(ns, "tun0", libc::IFF_TUN);
        close(ns, &[]);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        vpn.write_all(&udp(Ipv4Addr::new(10, 8, 0, 2), HERE, (1, PORT), b"vpn"))
            .unwrap();
        assert_eq!(heard(&socket, b"vpn"), 1);
    });
}

/// A host that is a container itself: its underlay is a veth, and it has another.
#[test]
fn a_veth_as_underlay_passes_tunnels_and_bgp_if_it_is_named() {
    in_netns(|ns| {
        ns.sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
        let peer = Peer::by_veth(ns, "host0");
        ns.sh("ip address add 198.51.100.11/24 dev host0
            ip link add vxlan100 type vxlan id 100 dstport 4789 local 198.51.100.11; ip link set vxlan100 up");
        peer.sh("ip address add 198.51.100.12/24 dev eth0");
        let decapsulated = || {
            let link = ns.json("ip -j -s link show dev vxlan100");
            link[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
        };
        let _bgp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 179)).unwrap();
        let connects = || {
            peer.within(|_| {
                let to = (HERE, 179).into();
                TcpStream::connect_timeout(&to, Duration::from_millis(700)).is_ok()
            })
        };
        let mac = mac_of(ns, "host0");
        for (more, passes) in [
            ("[host]\nuplinks = [\"host0\"]\n", true),
            ("[host]\nuplinks = [\"hos*\"]\n", true),
            ("[host]\nuplinks = []\n", false),
        ] {
            filter(
                ns,
                &format!("[firewall]\nalso = [\"198.51.100.12\"]\n{more}"),
            );
            assert_eq!(connects(), passes, "BGP, {more}");
            let before = decapsulated();
            peer.send(&[ethernet(mac, 0x0800, &vxlan(PEER, HERE))]);
            assert_eq!(decapsulated() - before, u64::from(passes), "VXLAN, {more}");
        }
    });
}

/// Loading the file again opens nothing: what is dropped is dropped all the while. And it loses nothing of what
/// passes by its name.
#[test]
fn nothing_passes_and_nothing_is_lost_while_the_tables_are_loaded_again() {
    in_netns(|ns| {
        let _victim = make_host(ns);
        let attacker = Peer::by_veth(ns, "vethabcd");
        let uplink = Peer::by_veth(ns, "host0");
        close(ns, &["host0"]);
        let to = |port, packet: &[u8]| ethernet(mac_of(ns, port), 0x0800, packet);
        let forged = to("vethabcd", &udp(PEER, HERE, (1, PORT), b"flood"));
        let honest = to("host0", &vxlan(PEER, HERE));
        let decapsulated = || {
            let link = ns.json("ip -j -s link show dev vxlan100");
            link[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
        };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        let before = decapsulated();
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| {
                for _ in 0..40 {
                    attacker.send(&vec![forged.clone(); 500]);
                    uplink.send(&vec![honest.clone(); 500]);
                }
            });
            while !flood.is_finished() {
                close(ns, &["host0", "x0"]);
                close(ns, &["host0"]);
            }
        });
        assert_eq!(heard(&socket, b"flood"), 0);
        assert_eq!(decapsulated() - before, 20_000);
        // Without the tables it would be heard.
        open(ns);
        attacker.send(&[forged]);
        assert_eq!(heard(&socket, b"flood"), 1);
    });
}
