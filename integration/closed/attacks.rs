//! From devices that nobody attached, and from such as LXD routes or an instance may name.

use super::place::*;
use super::support::{Ns, in_netns};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// A host with an underlay, a tunnel, and somebody behind a bridge; it forwards, and checks no
/// sources by itself.
pub fn make_host(ns: &Ns) -> Peer {
    ns.sh("sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv6.conf.all.forwarding=1
        sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.default.accept_dad=0
        ip link add under0 type veth peer name under1; ip link set under0 up; ip link set under1 up
        ip address add 198.51.100.11/24 dev under0; ip route add default via 198.51.100.1
        ip -6 address add 2001:db8::11/64 dev under0 nodad; ip -6 route add default via 2001:db8::1
        ip link add vxlan100 type vxlan id 100 dstport 4789 local 198.51.100.11; ip link set vxlan100 up
        ip link add br0 type bridge; ip link set br0 up; ip address add 10.9.0.1/24 dev br0
        ip -6 address add 2001:db8:9::1/64 dev br0 nodad");
    let victim = Peer::by_veth(ns, "victim0");
    ns.sh("ip link set victim0 master br0");
    victim.sh("ip address add 10.9.0.2/24 dev eth0; ip route add default via 10.9.0.1
        ip -6 address add 2001:db8:9::2/64 dev eth0 nodad; ip -6 route add default via 2001:db8:9::1");
    until("the bridge forwards", || pings(ns, "10.9.0.2"));
    victim
}

/// What an attack may do to the host.
struct Target<'a> {
    ns: &'a Ns,
    victim: &'a Peer,
    /// The host's end of the attacker's device.
    port: &'a str,
}

impl Target<'_> {
    fn mac(&self) -> Mac {
        mac_of(self.ns, self.port)
    }

    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        let ethertype = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        ethernet(self.mac(), ethertype, packet)
    }

    /// Three of them sent to a socket of the host's; how many it heard.
    fn to_socket(&self, attacker: &Peer, port: u16, frame: &[u8], data: &[u8]) -> usize {
        let four = frame[12..14] == [0x08, 0x00];
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        let socket = UdpSocket::bind((any[usize::from(four)], port)).unwrap();
        attacker.send(&vec![frame.to_vec(); 3]);
        heard(&socket, data)
    }

    /// Entries of the neighbour table on the attacker's device, of those addresses.
    fn neighbours(&self, beginning: &str) -> usize {
        let all = self.ns.sh(&format!("ip neighbour show dev {}", self.port));
        let lines = all.lines().filter(|line| line.starts_with(beginning));
        lines.filter(|line| line.contains("lladdr")).count()
    }

    fn decapsulated(&self) -> u64 {
        let link = self.ns.json("ip -j -s link show dev vxlan100");
        link[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    }
}

type Attack = fn(&Target<'_>, &Peer) -> usize;

/// Each with what counts it.
const ATTACKS: &[(&str, &str, Attack)] = &[
    (
        "UDP in another supervisor's name",
        "foreign_source",
        |t, from| {
            let frame = t.frame(&udp(PEER, HERE, (1000, PORT), b"forged"));
            t.to_socket(from, PORT, &frame, b"forged")
        },
    ),
    ("UDP from any address, IPv6", "foreign_source", |t, from| {
        let [from6, to]: [Ipv6Addr; 2] =
            ["2001:db8::12", "2001:db8::11"].map(|a| a.parse().unwrap());
        let frame = t.frame(&udp(from6, to, (1000, PORT), b"forged6"));
        t.to_socket(from, PORT, &frame, b"forged6")
    }),
    (
        "VXLAN in another supervisor's name",
        "fabric_port",
        |t, from| {
            let before = t.decapsulated();
            from.send(&vec![t.frame(&vxlan(PEER, HERE)); 3]);
            (t.decapsulated() - before) as usize
        },
    ),
    (
        "IKE in another supervisor's name",
        "fabric_port",
        |t, from| {
            let frame = t.frame(&udp(PEER, HERE, (500, 500), b"ike"));
            t.to_socket(from, 500, &frame, b"ike")
        },
    ),
    (
        "a session over the link-local address",
        "no_address",
        |t, from| {
            let (to, mac) = (link_local_of(t.ns, t.port), shown(t.mac()));
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
            let done = from.within(|ns| {
                let address = SocketAddrV6::new(to, PORT, 0, ns.index("eth0"));
                // A neighbour that is known needs no answer.
                ns.sh(&format!("ip neighbour replace {to} dev eth0 lladdr {mac}"));
                TcpStream::connect_timeout(&address.into(), Duration::from_millis(700)).is_ok()
            });
            drop(listener);
            usize::from(done)
        },
    ),
    (
        "a forged source, forwarded to another instance",
        "foreign_source",
        |t, from| {
            let frame = t.frame(&udp(PEER, VICTIM, (1000, PORT), b"onward"));
            t.victim.within(|_| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
                from.send(&vec![frame.clone(); 3]);
                heard(&socket, b"onward")
            })
        },
    ),
    ("a broadcast of DHCP", "no_address", |t, from| {
        let packet = udp(
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            (68, 67),
            b"discover",
        );
        t.to_socket(from, 67, &ethernet(BROADCAST, 0x0800, &packet), b"discover")
    }),
    ("a source of the zero network", "no_address", |t, from| {
        let packet = udp(
            Ipv4Addr::new(0, 0, 0, 7),
            Ipv4Addr::BROADCAST,
            (1, PORT),
            b"zero",
        );
        t.to_socket(from, PORT, &ethernet(BROADCAST, 0x0800, &packet), b"zero")
    }),
    ("from ::, for everybody", "no_address", |t, from| {
        let all: Ipv6Addr = "ff02::1".parse().unwrap();
        let packet = udp(Ipv6Addr::UNSPECIFIED, all, (1000, PORT), b"nobody");
        t.to_socket(
            from,
            PORT,
            &ethernet([0x33, 0x33, 0, 0, 0, 1], 0x86dd, &packet),
            b"nobody",
        )
    }),
    (
        "for everybody, IPv4 multicast",
        "foreign_source",
        |t, from| {
            let packet = udp(PEER, Ipv4Addr::new(224, 0, 0, 1), (1000, PORT), b"group");
            t.to_socket(
                from,
                PORT,
                &ethernet([1, 0, 0x5e, 0, 0, 1], 0x0800, &packet),
                b"group",
            )
        },
    ),
    ("ARP that makes neighbours", "arp_denied", |t, from| {
        from.send(&[arp(1, Ipv4Addr::new(198, 51, 100, 77), HERE)]);
        t.neighbours("198.51.100.77")
    }),
    (
        "ARP for an address of the overlay",
        "arp_denied",
        |t, from| {
            from.send(&[arp(
                1,
                Ipv4Addr::new(10, 9, 0, 78),
                Ipv4Addr::new(10, 9, 0, 1),
            )]);
            t.neighbours("10.9.0.78")
        },
    ),
    (
        "a solicitation from a global address",
        "foreign_source",
        |t, from| {
            let target = link_local_of(t.ns, t.port);
            from.send(&[solicitation("2001:db8:77::7".parse().unwrap(), target)]);
            t.neighbours("2001:db8:77::7")
        },
    ),
    (
        "a solicitation from a link-local address",
        "no_address",
        |t, from| {
            let target = link_local_of(t.ns, t.port);
            from.send(&[solicitation("fe80::77".parse().unwrap(), target)]);
            t.neighbours("fe80::77")
        },
    ),
];

fn shown(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// All that succeed on an open host, and do not on a closed one, where they are counted.
fn try_all(target: &Target<'_>, attacker: &Peer, attacks: &[&(&str, &str, Attack)]) {
    let mut wrong = Vec::new();
    for (name, counter, attack) in attacks {
        open(target.ns);
        let arrived = attack(target, attacker);
        if arrived == 0 {
            wrong.push(format!(
                "{name}: does not succeed on an open host, and so tells nothing"
            ));
        }
        target.ns.sh(&format!(
            "ip neighbour flush dev {0}; ip -6 neighbour flush dev {0}",
            target.port
        ));
        close(target.ns, &["under0"]);
        let before = dropped(target.ns, &[counter]);
        let arrived = attack(target, attacker);
        if arrived != 0 {
            wrong.push(format!("{name}: {arrived} arrived on a closed host"));
        }
        if dropped(target.ns, &[counter]) == before {
            wrong.push(format!("{name}: not counted as {counter}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_device_that_nobody_attached_passes_nothing() {
    in_netns(|ns| {
        let victim = make_host(ns);
        let attacker = Peer::by_veth(ns, "vethabcd");
        let target = Target {
            ns,
            victim: &victim,
            port: "vethabcd",
        };
        let all: Vec<_> = ATTACKS.iter().collect();
        try_all(&target, &attacker, &all);
    });
}

/// Containers of nspawn have `ve-NAME`; an instance may have it, too.
#[test]
fn a_name_of_nspawns_opens_no_more_than_dhcp_and_neighbours() {
    in_netns(|ns| {
        let victim = make_host(ns);
        let attacker = Peer::by_veth(ns, "ve-abcd");
        let target = Target {
            ns,
            victim: &victim,
            port: "ve-abcd",
        };
        let let_through = ["DHCP", "ARP", "link-local address", "from ::"];
        let all: Vec<_> = ATTACKS
            .iter()
            .filter(|(name, ..)| !let_through.iter().any(|word| name.contains(word)))
            .collect();
        assert!(all.len() >= 8);
        try_all(&target, &attacker, &all);
        // A session over the link-local address is none of what is let through.
        let sessions: Vec<_> = ATTACKS
            .iter()
            .filter(|(name, ..)| name.contains("session"))
            .collect();
        try_all(&target, &attacker, &sessions);
    });
}

#[test]
fn a_tap_is_closed_as_a_veth_is() {
    in_netns(|ns| {
        let _victim = make_host(ns);
        let mut tap = tun(ns, "tapabcd", libc::IFF_TAP);
        let frame = ethernet(
            mac_of(ns, "tapabcd"),
            0x0800,
            &udp(PEER, HERE, (1, PORT), b"tap"),
        );
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        tap.write_all(&frame).unwrap();
        assert_eq!(heard(&socket, b"tap"), 1);
        close(ns, &[]);
        tap.write_all(&frame).unwrap();
        assert_eq!(heard(&socket, b"tap"), 0);
        tap.write_all(&arp(1, Ipv4Addr::new(198, 51, 100, 77), HERE))
            .unwrap();
        assert_eq!(dropped(ns, &["foreign_source"]), 1);
        until("ARP is counted", || dropped(ns, &["arp_denied"]) == 1);
        close(ns, &["tapabcd"]);
        tap.write_all(&frame).unwrap();
        assert_eq!(heard(&socket, b"tap"), 1, "a tap of the host's own");
    });
}

/// A routed NIC has a route, and so its own address passes; the fabric's ports do not.
#[test]
fn a_routed_nic_reaches_no_port_of_the_fabric_and_forges_no_address() {
    in_netns(|ns| {
        let victim = make_host(ns);
        let attacker = Peer::by_veth(ns, "routed0");
        ns.sh("ip route add 10.5.0.2/32 dev routed0");
        let own = Ipv4Addr::new(10, 5, 0, 2);
        let t = Target {
            ns,
            victim: &victim,
            port: "routed0",
        };
        let ike = |from: Ipv4Addr| t.frame(&udp(from, HERE, (4500, 4500), b"ike"));
        assert_eq!(t.to_socket(&attacker, 4500, &ike(own), b"ike"), 3);
        close(ns, &["under0"]);
        assert_eq!(t.to_socket(&attacker, 4500, &ike(own), b"ike"), 0);
        let before = t.decapsulated();
        attacker.send(&[t.frame(&vxlan(own, HERE))]);
        assert_eq!(t.decapsulated(), before);
        // Others of the fabric, in the host's name if it translates addresses; an address of this
        // host that is none of the fabric's; BGP and ESP.
        let svi = Ipv4Addr::new(10, 9, 0, 1);
        let syn = [&[0, 9, 0, 179][..], &[0; 8], &[0x50, 2, 1, 0, 0, 0, 0, 0]].concat();
        for packet in [
            vxlan(own, PEER),
            udp(own, svi, (4500, 4500), b"ike"),
            packet(own.into(), svi.into(), 6, 64, &syn),
            packet(own.into(), HERE.into(), 50, 64, &[0; 16]),
        ] {
            let before = dropped(ns, &["fabric_port"]);
            attacker.send(&[t.frame(&packet)]);
            until("it is counted", || {
                dropped(ns, &["fabric_port"]) == before + 1
            });
        }
        let plain = |from: Ipv4Addr, to: Ipv4Addr| t.frame(&udp(from, to, (1, PORT), b"own"));
        assert_eq!(t.to_socket(&attacker, PORT, &plain(own, HERE), b"own"), 3);
        assert_eq!(t.to_socket(&attacker, PORT, &plain(PEER, HERE), b"own"), 0);
        // Its own VPN to somebody else is its own matter.
        let vpn = t.frame(&udp(own, VICTIM, (4500, 4500), b"vpn"));
        let arrived = victim.within(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4500)).unwrap();
            attacker.send(std::slice::from_ref(&vpn));
            heard(&socket, b"vpn")
        });
        assert_eq!(arrived, 1);
    });
}

/// What has to be answered for routed NICs and nspawn makes only so many neighbours.
#[test]
fn arp_and_solicitations_that_are_let_through_fill_no_neighbour_table() {
    in_netns(|ns| {
        let victim = make_host(ns);
        for port in ["vethabcd", "ve-abcd"] {
            let attacker = Peer::by_veth(ns, port);
            ns.sh(&format!(
                "ip address add 169.254.0.1/32 dev {port}; ip -6 address add fe80::1/128 dev {port} nodad
                sysctl -qw net.ipv4.conf.{port}.arp_accept=1"
            ));
            let t = Target {
                ns,
                victim: &victim,
                port,
            };
            let gateway = Ipv4Addr::new(169, 254, 0, 1);
            let frames = |count: u16| -> Vec<Vec<u8>> {
                let four = (0..count).map(|n| arp(1, (0x0a14_0000 + u32::from(n)).into(), gateway));
                let six = (0..count).map(|n| {
                    let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 7, n);
                    solicitation(from, "fe80::1".parse().unwrap())
                });
                let answers =
                    (0..count).map(|n| arp(2, (0x0a15_0000 + u32::from(n)).into(), gateway));
                four.chain(six).chain(answers).collect()
            };
            open(ns);
            attacker.send(&frames(300));
            // The kernel's table is one for all namespaces, and takes no more than it holds.
            let many = |beginning: &str| t.neighbours(beginning) > 100;
            until("many neighbours on an open host", || {
                attacker.send(&frames(300));
                many("10.20.") && many("fe80::7:") && many("10.21.")
            });
            ns.sh(&format!(
                "ip neighbour flush dev {port}; ip -6 neighbour flush dev {port}"
            ));
            close(ns, &[]);
            // Answers have what requests leave of the device's pace, so they come by themselves.
            for (from, beginning) in [(0, "10.20."), (300, "fe80::7:"), (600, "10.21.")] {
                std::thread::sleep(Duration::from_secs(2));
                attacker.send(&frames(300)[from..from + 300]);
                until("some are let through", || t.neighbours(beginning) > 0);
                std::thread::sleep(Duration::from_millis(300));
                let made = t.neighbours(beginning);
                assert!((1..=60).contains(&made), "{port}: {made} of {beginning}");
            }
        }
    });
}

/// A bridge gives frames to these MACs to the port's own stack, the last of them before all of its hooks.
#[test]
fn arp_past_the_bridge_makes_no_neighbours_at_the_port() {
    in_netns(|ns| {
        let victim = make_host(ns);
        let t = Target {
            ns,
            victim: &victim,
            port: "victim0",
        };
        // To the underlay's address, the bridge's, and a gateway of routed NICs; with a priority tag, too.
        ns.sh("ip address add 169.254.0.1/32 dev br0");
        let targets = [HERE, [10, 9, 0, 1].into(), [169, 254, 0, 1].into()];
        let mut frames = Vec::new();
        for n in 0..2000u16 {
            let sender = (0x0a14_0000 + u32::from(n)).into();
            let mut frame = arp(1, sender, targets[usize::from(n % 3)]);
            let last = [0x00, 0x03, 0x0e][usize::from(n % 7 % 3)];
            frame[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, last]);
            if n % 5 == 0 {
                frame.splice(12..12, [0x81, 0x00, 0x20, 0x00]);
            }
            frames.push(frame);
        }
        open(ns);
        until("many neighbours on an open host", || {
            victim.send(&frames);
            t.neighbours("10.20.") > 100
        });
        ns.sh("ip neighbour flush dev victim0");
        close(ns, &[]);
        let before = dropped(ns, &["arp_denied"]);
        victim.send(&frames);
        until("they are counted", || dropped(ns, &["arp_denied"]) > before);
        // A gateway of routed NICs may be asked for: by so many a second and device.
        let made = t.neighbours("10.20.");
        assert!(made <= 60, "{made} neighbours");
        assert!(pings(ns, "10.9.0.2"), "the bridge itself goes on");
    });
}

/// A container on a bridge of LXD's own has an address that is routed to it, and may write another.
#[test]
fn a_bridged_instance_speaks_to_no_port_of_the_fabric_in_a_supervisors_name() {
    in_netns(|ns| {
        let victim = make_host(ns);
        let bridge = mac_of(ns, "br0");
        let forged = ethernet(bridge, 0x0800, &vxlan(PEER, HERE));
        let t = Target {
            ns,
            victim: &victim,
            port: "br0",
        };
        let before = t.decapsulated();
        victim.send(std::slice::from_ref(&forged));
        assert_eq!(t.decapsulated(), before + 1, "on an open host");
        filter(ns, "");
        victim.send(std::slice::from_ref(&forged));
        assert_eq!(t.decapsulated(), before + 1);
        let counters = ns.sh("nft list counter inet lxmesh_host from_strangers");
        assert!(counters.contains("packets 1 "), "{counters}");
        // By a device that is named, whatever the routes.
        filter(ns, "[host]\nuplinks = [\"br*\"]\n");
        victim.send(std::slice::from_ref(&forged));
        assert_eq!(t.decapsulated(), before + 2);
    });
}
