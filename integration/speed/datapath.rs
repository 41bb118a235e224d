//! What the rules cost per packet: the same bridges without rules and with the agent's, in one run.
//! Two hosts in namespaces of their own, joined by a veth; containers `a` and `b` on the first, `d` on
//! the second. It is meant for a machine whose clock counts instructions (`integration/bench
//! datapath`), where a figure does not depend on what else the computer does.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::fleet::{Fleet, Nic};
use crate::process::Agent;
use crate::support::Ns;
use crate::{Plan, print, reference};

const RUNS: u16 = 7;
const PATIENCE: Duration = Duration::from_secs(10);
/// Number of the NIC on the second host.
const AFAR: usize = 5000;

/// Where a kind of traffic goes, and what the first, Python, implementation's rules cost there,
/// relative to the same bridge without any (Linux 6.12).
const TRAFFIC: [(&str, Traffic, &str, Option<f64>); 8] = [
    ("same host, small UDP packet", udp, "b", Some(1.508)),
    (
        "same host, UDP request and response",
        round_trip,
        "b",
        Some(1.505),
    ),
    (
        "same host, TCP connect and close",
        connect,
        "b",
        Some(1.284),
    ),
    ("same host, TCP bulk, per KiB", bulk, "b", Some(1.109)),
    ("across hosts, small UDP packet", udp, "d", Some(1.730)),
    (
        "across hosts, UDP request and response",
        round_trip,
        "d",
        None,
    ),
    ("across hosts, TCP connect and close", connect, "d", None),
    ("across hosts, TCP bulk, per KiB", bulk, "d", Some(1.222)),
];

/// Between two places and addresses; a number that no two runs share. Nanoseconds per operation.
type Traffic = fn(&Place, &Place, u16) -> f64;

struct Place {
    namespace: &'static str,
    address: IpAddr,
}

/// Puts this thread into a network namespace.
fn enter(name: &str) {
    let file = File::open(format!("/run/netns/{name}")).expect("the namespace was made");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("root may enter it");
}

pub fn measure(plan: &Plan, nics: usize) {
    // Not dropped: what ends it is the end of the machine.
    let ns = Box::leak(Box::new(Ns::of_this_thread()));
    for name in ["h1", "h2", "a", "b", "d"] {
        ns.sh(&format!(
            "ip netns del {name} 2> /dev/null || true; ip netns add {name}; ip -n {name} link set lo up"
        ));
    }
    enter("h1");
    let here = Fleet::on_host(ns, 1, 0, nics);
    enter("h2");
    let there = Fleet::on_host(ns, 2, AFAR, 1);
    ns.sh("ip -n h1 link add ul mtu 9000 type veth peer name ul mtu 9000 netns h2");
    for (own, host, other) in [("h1", 1, 2), ("h2", 2, 1)] {
        ns.sh(&format!(
            "ip -n {own} link set ul up
             ip -n {own} route add 203.0.113.{other}/32 dev ul src 203.0.113.{host}"
        ));
    }
    let places = [
        ("a", &here, &here.nics[0]),
        ("b", &here, &here.nics[1]),
        ("d", &there, &there.nics[0]),
    ];
    let ends: Vec<Place> = places
        .iter()
        .map(|(name, fleet, nic)| {
            container(ns, name, fleet, nic, &places.map(|(_, _, nic)| nic));
            Place {
                namespace: name,
                address: nic.ipv4.parse().expect("an address"),
            }
        })
        .collect();
    for (host, nic, far) in [("h1", &there.nics[0], 2), ("h2", &here.nics[0], 1)] {
        ns.sh(&format!(
            "bridge -n {host} fdb add {0} dev vxlan-vpc master extern_learn
             bridge -n {host} fdb append {0} dev vxlan-vpc dst 203.0.113.{far} self",
            nic.mac
        ));
    }
    for (host, fleet) in [("h1", &here), ("h2", &there)] {
        enter(host);
        reference::create_devices(fleet);
    }
    let bare = all(&ends, 0);
    let agents = [("h1", &here), ("h2", &there)].map(|(host, fleet)| {
        enter(host);
        let (agent, _) = Agent::restart(plan, fleet, 3600);
        agent.settle();
        fleet.check_complete();
        ns.sh("nft list table bridge lxmesh > /dev/null");
        agent
    });
    let ruled = all(&ends, RUNS);
    for (((figure, _, _, target), bare), ruled) in TRAFFIC.iter().zip(bare).zip(ruled) {
        let more = json!({"bare_ns": bare.round(), "with_rules_ns": ruled.round()});
        print(plan, nics, figure, ruled / bare, "ratio", *target, more);
    }
    for agent in agents {
        agent.kill();
    }
}

/// The instance's end of a NIC in a namespace of its own, with the neighbours that it talks to.
fn container(ns: &Ns, name: &str, fleet: &Fleet<'_>, nic: &Nic, all: &[&Nic]) {
    ns.sh(&format!(
        "nsenter -t {} -n ip link set {1}p netns {name}
         ip -n {name} link set {1}p name eth0
         # What it would join by itself is not to come before what is to be measured.
         ip netns exec {name} sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1
         ip -n {name} link set eth0 up
         ip -n {name} addr add {2}/16 dev eth0",
        fleet.peers(),
        nic.port,
        nic.ipv4
    ));
    for other in all {
        ns.sh(&format!(
            "ip -n {name} neigh replace {} lladdr {} dev eth0 nud permanent",
            other.ipv4, other.mac
        ));
    }
}

/// The least of some runs of each kind: an instruction more is a timer's.
fn all(ends: &[Place], first: u16) -> Vec<f64> {
    TRAFFIC
        .iter()
        .map(|(_, traffic, to, _)| {
            let to = ends
                .iter()
                .find(|end| end.namespace == *to)
                .expect("a place");
            let runs = (first..first + RUNS).map(|run| traffic(&ends[0], to, run));
            runs.fold(f64::INFINITY, f64::min)
        })
        .collect()
}

/// What this thread has run for, in nanoseconds. Packets go all their way within the call that
/// sends them; what others do meanwhile, and waiting, is not in it.
fn now() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn each(count: u32, mut once: impl FnMut()) -> f64 {
    let begun = now();
    for _ in 0..count {
        once();
    }
    (now() - begun) / f64::from(count)
}

fn datagrams(from: &Place, to: &Place, run: u16) -> (UdpSocket, UdpSocket) {
    let open = |place: &Place, port| {
        enter(place.namespace);
        let socket = UdpSocket::bind((place.address, port)).expect("the address is there");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    };
    let (near, far) = (open(from, 4000 + run), open(to, 53));
    near.connect((to.address, 53)).expect("a route");
    far.connect((from.address, 4000 + run)).expect("a route");
    // Known to connection tracking in both directions.
    for _ in 0..100 {
        pass(&near, &far);
        pass(&far, &near);
    }
    (near, far)
}

fn pass(from: &UdpSocket, to: &UdpSocket) {
    let mut buffer = [0; 64];
    from.send(&[0; 18]).expect("it can be sent");
    to.recv(&mut buffer).expect("it arrives");
}

fn udp(from: &Place, to: &Place, run: u16) -> f64 {
    let (near, far) = datagrams(from, to, run);
    each(2000, || pass(&near, &far))
}

fn round_trip(from: &Place, to: &Place, run: u16) -> f64 {
    let (near, far) = datagrams(from, to, run + 100);
    each(1000, || {
        pass(&near, &far);
        pass(&far, &near);
    })
}

fn connect(from: &Place, to: &Place, _: u16) -> f64 {
    enter(to.namespace);
    let listener = TcpListener::bind((to.address, 443)).expect("the port is free");
    enter(from.namespace);
    let mut once = || {
        let near = TcpStream::connect((to.address, 443)).expect("it is allowed");
        let (mut far, _) = listener.accept().expect("it came");
        drop(near);
        assert_eq!(far.read(&mut [0]).expect("it ends"), 0);
    };
    each(20, &mut once);
    each(200, once)
}

fn bulk(from: &Place, to: &Place, _: u16) -> f64 {
    enter(to.namespace);
    let listener = TcpListener::bind((to.address, 443)).expect("the port is free");
    enter(from.namespace);
    let mut near = TcpStream::connect((to.address, 443)).expect("it is allowed");
    let (mut far, _) = listener.accept().expect("it came");
    near.set_nonblocking(true).expect("a socket");
    far.set_nonblocking(true).expect("a socket");
    let mut buffer = vec![0; 65536];
    let mut send = |rounds: u32| {
        let (begun, mut received) = (now(), 0);
        for _ in 0..rounds {
            // What does not fit goes with the next round.
            let _ = near.write(&buffer);
            while let Ok(count @ 1..) = far.read(&mut buffer) {
                received += count;
            }
        }
        (now() - begun) / (received as f64 / 1024.0)
    };
    send(20);
    send(200)
}
