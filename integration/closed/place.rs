//! A host in a namespace, others around it, and frames written by hand.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lxmesh::generate::{self, LocalFacts, closed};
use lxmesh::host::{self, HostFile};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::support::{Ns, taps};

/// The underlay address of the host, and of another one.
pub const HERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
pub const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 12);
/// Behind the host, on a bridge.
pub const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub const PORT: u16 = 9999;
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn host_file(more: &str) -> HostFile {
    let text = format!(
        "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"203.0.113.1\"]\n\
         supervisors = [\"198.51.100.0/24\"]\n[[network]]\nname = \"vpc\"\nvni = 100\n{more}"
    );
    host::parse("host.toml", &text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Loads the tables, with these devices as the host's own.
pub fn close(ns: &Ns, uplinks: &[&str]) {
    let uplinks: BTreeSet<String> = uplinks.iter().map(|name| name.to_string()).collect();
    ns.nft(&closed::render(&host_file(""), &uplinks).unwrap().contents);
}

pub fn open(ns: &Ns) {
    ns.sh("nft flush ruleset");
}

/// Loads all that the generator has for nft.
pub fn filter(ns: &Ns, more: &str) {
    let facts = LocalFacts::of(HERE.into());
    for file in generate::render(&host_file(more), &facts).unwrap() {
        if file.path.extension().is_some_and(|ending| ending == "nft") {
            ns.nft(&file.contents);
        }
    }
}

/// What the named counters of the tables say, all together.
pub fn dropped(ns: &Ns, names: &[&str]) -> u64 {
    let all = ["inet", "arp"].map(|family| {
        let list = format!("list counters table {family} lxmesh_closed");
        ns.nft_json(&list)
    });
    let counters = all.iter().flatten().map(|object| &object["counter"]);
    let ours = counters.filter(|counter| names.iter().any(|name| counter["name"] == *name));
    ours.map(|counter| counter["packets"].as_u64().unwrap())
        .sum()
}

/// Another network namespace; it ends with the value.
pub struct Peer(Child);

impl Peer {
    /// With this end of a veth: `eth0`, up. The other end is here, up, under the given name.
    pub fn by_veth(ns: &Ns, name: &str) -> Self {
        let peer = Peer::new();
        let id = peer.0.id();
        ns.sh(&format!(
            "ip link add {name} type veth peer name eth0 netns {id}; ip link set {name} up"
        ));
        peer.sh("ip link set eth0 up");
        peer
    }

    fn new() -> Self {
        let script = "ip link set lo up; sysctl -qw net.ipv6.conf.default.accept_dad=0; echo; exec sleep 3600";
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect("unshare can be run");
        let mut byte = [0];
        let out = child.stdout.as_mut().expect("it was piped");
        out.read_exact(&mut byte).expect("the namespace is there");
        Peer(child)
    }

    /// Runs on a thread in that namespace.
    pub fn within<T: Send>(&self, body: impl FnOnce(&Ns) -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                use std::os::fd::AsFd;
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network).unwrap();
                // Forgotten, so that it does not end what runs there.
                let ns = std::mem::ManuallyDrop::new(Ns::of_this_thread());
                body(&ns)
            });
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn sh(&self, command: &str) -> String {
        self.within(|ns| ns.sh(command))
    }

    /// Whether it can ping.
    pub fn pings(&self, to: &str) -> bool {
        self.within(|ns| pings(ns, to))
    }

    /// Sends frames from `eth0`.
    pub fn send(&self, frames: &[Vec<u8>]) {
        self.within(|ns| {
            let socket = raw_socket(ns.index("eth0"));
            for frame in frames {
                // SAFETY: the buffer has the announced length.
                let sent = unsafe {
                    libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0)
                };
                assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
            }
        });
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn pings(ns: &Ns, to: &str) -> bool {
    ns.try_sh(&format!("ping -c 1 -W 2 -q {to}")).is_ok()
}

fn raw_socket(index: u32) -> OwnedFd {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain calls; the address is a whole sockaddr_ll.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        assert_eq!(libc::bind(fd, (&raw const address).cast(), length), 0);
        socket
    }
}

/// A tun or a tap with this name, up; what is written there comes out of the device.
pub fn tun(ns: &Ns, name: &str, flags: libc::c_int) -> File {
    let file = taps::open(name, flags);
    ns.sh(&format!("ip link set {name} up"));
    file
}

/// How many of this text a socket gets within a moment.
pub fn heard(socket: &UdpSocket, text: &[u8]) -> usize {
    socket
        .set_read_timeout(Some(Duration::from_millis(150)))
        .unwrap();
    let mut count = 0;
    let mut buffer = [0; 2048];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        count += usize::from(&buffer[..length] == text);
    }
    count
}

/// Asks until it is so.
pub fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ask() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

// Frames.

pub type Mac = [u8; 6];
pub const OWN_MAC: Mac = [2, 0xbb, 0, 0, 0, 1];
pub const BROADCAST: Mac = [0xff; 6];

/// The MAC of a link here.
pub fn mac_of(ns: &Ns, link: &str) -> Mac {
    let link = ns.link(link);
    let parts = link["address"].as_str().unwrap().split(':');
    let bytes: Vec<u8> = parts
        .map(|part| u8::from_str_radix(part, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

/// The link-local address of a link here, which comes with its carrier.
pub fn link_local_of(ns: &Ns, link: &str) -> Ipv6Addr {
    let mut found = None;
    until("a link-local address", || {
        let all = ns.json(&format!("ip -6 -j address show dev {link} scope link"));
        let address = all[0]["addr_info"][0]["local"].as_str();
        found = address.and_then(|address| address.parse().ok());
        found.is_some()
    });
    found.unwrap()
}

pub fn ethernet(to: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &OWN_MAC, &ethertype.to_be_bytes(), payload].concat()
}

fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A packet with this protocol and payload, of the family of its addresses.
pub fn packet(from: IpAddr, to: IpAddr, protocol: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = (20 + payload.len()) as u16;
            let mut head = vec![0x45, 0];
            head.extend(length.to_be_bytes());
            head.extend([0, 1, 0, 0, hops, protocol, 0, 0]);
            head.extend(from.octets());
            head.extend(to.octets());
            let check = sum(&head).to_be_bytes();
            head[10..12].copy_from_slice(&check);
            [head, payload.to_vec()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = (payload.len() as u16).to_be_bytes();
            let mut head = vec![0x60, 0, 0, 0, length[0], length[1], protocol, hops];
            head.extend(from.octets());
            head.extend(to.octets());
            [head, payload.to_vec()].concat()
        }
        _ => panic!("one family"),
    }
}

fn with_sum(from: IpAddr, to: IpAddr, protocol: u8, mut payload: Vec<u8>, at: usize) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    };
    let length = (payload.len() as u32).to_be_bytes();
    let pseudo = [
        &octets(from)[..],
        &octets(to),
        &length,
        &[0, 0, 0, protocol],
        &payload,
    ]
    .concat();
    let check = sum(&pseudo).to_be_bytes();
    payload[at..at + 2].copy_from_slice(&check);
    payload
}

/// A UDP packet.
pub fn udp(
    from: impl Into<IpAddr>,
    to: impl Into<IpAddr>,
    ports: (u16, u16),
    data: &[u8],
) -> Vec<u8> {
    let (from, to) = (from.into(), to.into());
    let mut payload = Vec::new();
    for number in [ports.0, ports.1, (8 + data.len()) as u16, 0] {
        payload.extend(number.to_be_bytes());
    }
    payload.extend(data);
    packet(from, to, 17, 64, &with_sum(from, to, 17, payload, 6))
}

/// An ICMPv6 message: type, then what follows the checksum.
pub fn icmp6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, hops: u8, rest: &[u8]) -> Vec<u8> {
    let (from, to) = (from.into(), to.into());
    let payload = [&[kind, 0, 0, 0], rest].concat();
    packet(from, to, 58, hops, &with_sum(from, to, 58, payload, 2))
}

/// A neighbour solicitation that names its sender's MAC, in the frame for its group.
pub fn solicitation(from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = lxmesh::addr::solicited_node(target);
    let rest = [&[0; 4][..], &target.octets(), &[1, 1], &OWN_MAC].concat();
    let octets = group.octets();
    let to = [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]];
    ethernet(to, 0x86dd, &icmp6(from, group, 135, 255, &rest))
}

/// An ARP message of this operation.
pub fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, operation];
    body.extend(OWN_MAC);
    body.extend(sender.octets());
    body.extend([0; 6]);
    body.extend(target.octets());
    ethernet(BROADCAST, 0x0806, &body)
}

/// What a tunnel of VNI 100 takes: a frame for everybody.
pub fn vxlan(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let inner = ethernet(BROADCAST, 0x0800, &udp(PEER, VICTIM, (1, 2), b"inner"));
    let outer = [&[8, 0, 0, 0, 0, 0, 100, 0][..], &inner].concat();
    udp(from, to, (40000, 4789), &outer)
}
