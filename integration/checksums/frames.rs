//! Ethernet frames with a deferred checksum, as a container's root sends them by AF_PACKET and a virtual
//! machine by its tap: a `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h) goes before each.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread;

use super::support::taps;

const NEEDS_CSUM: u8 = 1;

/// Where the sum begins, from the MAC header on, and where behind that it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    pub start: u16,
    pub offset: u16,
}

#[derive(Clone, Copy)]
pub struct Gso {
    /// `VIRTIO_NET_HDR_GSO_*`.
    kind: u8,
    header: u16,
    size: u16,
}

#[derive(Clone)]
pub struct Frame {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub at: Offset,
    gso: Option<Gso>,
}

pub enum Sender {
    Packet(OwnedFd),
    Tap(File),
}

impl Sender {
    /// False if the kernel does not take the frame.
    fn send(&mut self, header: [u8; 10], frame: &[u8]) -> bool {
        self.send_with(&header, frame)
    }

    fn send_with(&mut self, header: &[u8], frame: &[u8]) -> bool {
        let whole = [header, frame].concat();
        match self {
            Sender::Tap(tap) => tap.write(&whole).is_ok(),
            Sender::Packet(socket) => {
                rustix::net::send(socket, &whole, rustix::net::SendFlags::empty()).is_ok()
            }
        }
    }
}

fn header(frame: &Frame) -> [u8; 10] {
    let Gso { kind, header, size } = frame.gso.unwrap_or(Gso {
        kind: 0,
        header: 0,
        size: 0,
    });
    let Offset { start, offset } = frame.at;
    let mut all = [NEEDS_CSUM, kind, 0, 0, 0, 0, 0, 0, 0, 0];
    for (to, value) in all[2..].chunks_mut(2).zip([header, size, start, offset]) {
        to.copy_from_slice(&value.to_ne_bytes());
    }
    all
}

fn raw_socket(device: &str) -> OwnedFd {
    const ALL: u16 = libc::ETH_P_ALL as u16;
    // SAFETY: plain calls of the C library; `address` is as large as said.
    unsafe {
        let protocol = libc::c_int::from(ALL.to_be());
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            protocol,
        );
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ALL.to_be();
        let name = std::ffi::CString::new(device).expect("a name");
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()).cast_signed();
        let length = size_of_val(&address) as libc::socklen_t;
        assert_eq!(libc::bind(fd, (&raw const address).cast(), length), 0);
        socket
    }
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) {
    // SAFETY: `value` has the four bytes that are announced.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Sends on a device of this thread's namespace. One thread, one processor: what is sent later arrives
/// later.
pub fn sender(device: &str) -> Sender {
    const PACKET_VNET_HDR: i32 = 15;
    pin_to_a_processor();
    let socket = raw_socket(device);
    set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1);
    Sender::Packet(socket)
}

fn pin_to_a_processor() {
    let allowed = rustix::thread::sched_getaffinity(None).expect("a thread has processors");
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    let mut one = rustix::thread::CpuSet::new();
    one.set(first.expect("it runs on one"));
    rustix::thread::sched_setaffinity(None, &one).expect("it runs there");
}

/// Makes a tap whose user's headers the kernel reads.
pub fn tap(name: &str) -> Sender {
    pin_to_a_processor();
    Sender::Tap(taps::open(name, libc::IFF_TAP | libc::IFF_VNET_HDR))
}

/// From now on the tap takes headers of tunnels (`struct virtio_net_hdr_v1_hash_tunnel`). False before Linux 6.17,
/// which knows none.
pub fn take_tunnels(tap: &Sender) -> bool {
    const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
    // Checksums, segments of TCP and UDP, and TUN_F_UDP_TUNNEL_GSO with its checksums.
    const OFFLOADS: libc::c_ulong = 0x1 | 0x2 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100;
    let Sender::Tap(file) = tap else {
        panic!("only a tap does");
    };
    // SAFETY: the first takes a number, the second the address of one.
    unsafe {
        if libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, OFFLOADS) != 0 {
            return false;
        }
        let size = TUNNEL_HEADER as i32;
        let result = libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size);
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
    true
}

const TUNNEL_HEADER: usize = 24;

/// Numbers without a pattern, the same each time.
pub struct Random(pub u64);

impl Random {
    /// Below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// One of these, or any number.
    fn number(&mut self, likely: &[u16]) -> u16 {
        match self.below(4) {
            0 => self.below(65_536) as u16,
            _ => self.of(likely),
        }
    }

    /// A frame that is there already, and a header with anything in it that the kernel may make something of.
    pub fn hostile(&mut self, tunnels: bool) -> (Vec<u8>, Vec<u8>) {
        if tunnels && self.below(2) == 0 {
            return self.nearly_honest();
        }
        let bytes = match self.below(3) {
            0 if tunnels => tunnel(self.below(2) == 0),
            0 | 1 => HONEST[self.below(HONEST.len())]().bytes,
            _ => {
                let all = attacks();
                all[self.below(all.len())].bytes.clone()
            }
        };
        let length = bytes.len() as u16;
        let (mut flags, mut kind) = (
            self.of(&[0, 1, 1, 1, 2, 3, 4]),
            self.of(&[0, 0, 1, 3, 4, 5]),
        );
        kind |= self.of(&[0, 0, 0, 0x80]);
        if tunnels {
            kind |= self.of(&[0, 0x20, 0x40, 0x60]);
            flags |= self.of(&[0, 0, 8]);
        }
        let starts = [14, 20, 24, 34, 38, 42, 54, 62, 84, 104, 124];
        let numbers = [
            self.number(&[0, 14, 34, 42, 54, 74, length]),
            // Not so small that what arrives would not fit into the receiver's queue.
            self.number(&[0, 200, 1000, 1448, length]).max(200),
            self.number(&starts),
            self.number(&[0, 2, 4, 6, 8, 10, 16]),
        ];
        let mut header = vec![flags, kind];
        header.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        if tunnels {
            // The number of buffers, and the hash.
            header.extend([0; 10]);
            let offsets = [self.number(&[34, 54]), self.number(&[14, 34, 42, 64, 84])];
            header.extend(offsets.iter().flat_map(|number| number.to_le_bytes()));
            assert_eq!(header.len(), TUNNEL_HEADER);
        }
        (header, bytes)
    }
}

impl Random {
    /// A tunnel's packet with some fields of its header changed.
    fn nearly_honest(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (mut header, bytes) = honest_tunnel(self.below(2) == 0);
        for _ in 0..self.below(3) {
            // Kind, length, start, place of the sum, and the two offsets of the tunnel.
            let field = self.of(&[1, 2, 6, 8, 20, 22]);
            let near = u16::from_le_bytes([header[field], header[field + 1]]);
            let number = self.number(&[14, 20, 34, 42, 50, 54, 64, near + 8, near.wrapping_sub(8)]);
            match field {
                1 => header[1] = self.of(&[0x20, 0x21, 0x24, 0x25, 0x41, 0x44, 0x61, 0xa1]),
                _ => header[field..field + 2].copy_from_slice(&number.to_le_bytes()),
            }
        }
        (header, bytes)
    }
}

/// A packet of a tunnel inside an instance, with more in it than fits into a packet: VXLAN over IPv4 or IPv6.
fn tunnel(four: bool) -> Vec<u8> {
    let inner = ip4(6, &[], 0, &tcp(&[1; 2500]));
    let mut vxlan = vec![8, 0, 0, 0, 0, 0, 9, 0];
    vxlan.extend(inner);
    let length = (8 + vxlan.len()) as u16;
    let mut outer = udp(length, &vxlan);
    outer[2..4].copy_from_slice(&4789_u16.to_be_bytes());
    match four {
        true => ip4(17, &[], 0, &outer),
        false => ip6(17, &outer),
    }
}

/// Such a packet, and the header that an honest kernel puts before it.
pub fn honest_tunnel(four: bool) -> (Vec<u8>, Vec<u8>) {
    let bytes = tunnel(four);
    let (kind, outer) = match four {
        true => (0x20, 14 + 20),
        false => (0x40, 14 + 40),
    };
    let mut header = vec![NEEDS_CSUM, 1 | kind];
    // UDP, VXLAN, inner Ethernet, and IP come before the inner TCP.
    let inner_network = outer + 8 + 8 + 14;
    let start = inner_network + 20;
    let numbers: [u16; 4] = [start + 20, 1000, start, 16];
    header.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
    header.extend([0; 10]);
    header.extend(
        [34_u16, inner_network]
            .iter()
            .flat_map(|number| number.to_le_bytes()),
    );
    (header, bytes)
}

/// Sends a frame with any header; whether the kernel takes it, and all that arrives of it.
pub fn all_of(
    from: &mut Sender,
    to: &OwnedFd,
    header: &[u8],
    frame: &[u8],
) -> (bool, Vec<Vec<u8>>) {
    let (bytes, mac) = numbered(frame.to_vec());
    let (last, last_mac) = numbered(vec![0xff; 60]);
    let sent = from.send_with(header, &bytes);
    assert!(from.send_with(&vec![0; header.len()], &last));
    let mut got = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        let (length, _) = rustix::net::recv(to, &mut buffer, rustix::net::RecvFlags::empty())
            .expect("the last frame arrives");
        let source = &buffer[6..12];
        if source == last_mac {
            return (sent, got);
        }
        if source == mac {
            got.push(buffer[..length].to_vec());
        }
    }
}

/// What filters look at in a frame: addresses, protocol, and ports where the packet begins. A datagram that is
/// sent in fragments has the same in its first one, of which IPv6 says so in a header of its own.
pub fn as_filtered(frame: &[u8]) -> Vec<u8> {
    // A packet socket gives the tag of a VLAN beside the packet.
    if frame[12..14] == [0x81, 0x00] {
        return as_filtered(&[&frame[..12], &frame[16..]].concat());
    }
    let mut seen = frame[..6].to_vec();
    seen.extend(&frame[12..14]);
    let (protocol, transport, begins) = match frame[12..14] {
        [0x08, 0x00] => {
            seen.extend(&frame[26..34]);
            seen.push(frame[14]);
            let offset = u16::from_be_bytes([frame[20], frame[21]]) & 0x1fff;
            let header = 4 * usize::from(frame[14] & 0xf);
            (frame[23], 14 + header, offset == 0)
        }
        [0x86, 0xdd] => {
            seen.extend(&frame[22..54]);
            match frame[20] {
                44 => {
                    let offset = u16::from_be_bytes([frame[56], frame[57]]) >> 3;
                    (frame[54], 62, offset == 0)
                }
                next => (next, 54, true),
            }
        }
        _ => return frame[..6].iter().chain(&frame[12..]).copied().collect(),
    };
    seen.push(protocol);
    if begins && [6, 17, 132].contains(&protocol) && frame.len() >= transport + 4 {
        seen.extend(&frame[transport..transport + 4]);
    }
    seen
}

/// Switches checksum offload off (ETHTOOL_STXCSUM): what leaves by these devices has its sums computed.
pub fn no_checksums(devices: &[&str]) {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    let socket = raw_socket(devices[0]);
    for device in devices {
        // `struct ethtool_value`.
        let mut value: [u32; 2] = [0x17, 0];
        // SAFETY: the request reads a `struct ifreq` that points to `value`.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
                *to = from.cast_signed();
            }
            request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
            let result = libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request);
            assert_eq!(result, 0, "{device}: {}", io::Error::last_os_error());
        }
    }
}

/// Receives on a device of this thread's namespace.
pub fn receiver(device: &str) -> OwnedFd {
    let socket = raw_socket(device);
    // SO_RCVTIMEO, which only ends a test that would hang.
    let timeout = libc::timeval {
        tv_sec: 60,
        tv_usec: 0,
    };
    // SAFETY: `timeout` has the bytes that are announced.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size_of_val(&timeout) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
    socket
}

/// The source addresses of frames, each other.
static NUMBER: AtomicU16 = AtomicU16::new(1);

fn numbered(mut bytes: Vec<u8>) -> (Vec<u8>, [u8; 6]) {
    let [a, b] = NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mac = [0x02, 0, 0, 0xaa, a, b];
    bytes[6..12].copy_from_slice(&mac);
    (bytes, mac)
}

/// Sends a frame, and then one that has nothing deferred; the first as it arrives, less its source, or
/// `None` if only the other does. The kernel must have taken it.
pub fn pass(from: &mut Sender, to: &OwnedFd, frame: &Frame) -> Option<Vec<u8>> {
    let (sent, got) = exchange(from, to, frame);
    assert!(sent, "the kernel does not take {}", frame.name);
    got
}

/// The same; whether it arrives. What the kernel does not take does not.
pub fn pass_quickly(from: &mut Sender, to: &OwnedFd, frame: &Frame) -> bool {
    exchange(from, to, frame).1.is_some()
}

fn exchange(from: &mut Sender, to: &OwnedFd, frame: &Frame) -> (bool, Option<Vec<u8>>) {
    let (sent, got) = all_of(from, to, &header(frame), &frame.bytes);
    let first = got.into_iter().next().map(|mut bytes| {
        bytes[6..12].copy_from_slice(&frame.bytes[6..12]);
        bytes
    });
    (sent, first)
}

/// Frames that were sent without a pause, and how many of them arrived.
pub struct Sent {
    pub sent: usize,
    pub arrived: usize,
}

/// Sends the frame again and again, on a thread of its own, from before `body` runs until after it has.
pub fn all_the_while(from: &str, to: &str, frame: &Frame, body: impl FnOnce()) -> Sent {
    const LEAST: usize = 100;
    let to = receiver(to);
    let (bytes, mac) = numbered(frame.bytes.clone());
    let (last, last_mac) = numbered(vec![0xff; 60]);
    let (count, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut from = sender(from);
            while !done.load(Ordering::Relaxed) {
                assert!(from.send(header(frame), &bytes), "the kernel takes it");
                count.fetch_add(1, Ordering::Relaxed);
            }
            assert!(from.send([0; 10], &last));
        });
        let more = |than: usize| {
            while count.load(Ordering::Relaxed) < than {
                thread::yield_now();
            }
        };
        more(LEAST);
        body();
        more(count.load(Ordering::Relaxed) + LEAST);
        done.store(true, Ordering::Relaxed);
    });
    let mut arrived = 0;
    let mut buffer = [0; 65_536];
    loop {
        rustix::net::recv(&to, &mut buffer, rustix::net::RecvFlags::empty())
            .expect("the last frame arrives");
        if buffer[6..12] == last_mac {
            let sent = count.into_inner();
            return Sent { sent, arrived };
        }
        arrived += usize::from(buffer[6..12] == mac);
    }
}

// Frames.

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `options` in multiples of four bytes; `fragment` has flags and offset.
fn ip4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let length = 20 + options.len();
    let mut ip = vec![0x40 | (length / 4) as u8, 0];
    ip.extend(((length + payload.len()) as u16).to_be_bytes());
    ip.extend([0, 1]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0, 192, 0, 2, 2, 192, 0, 2, 3]);
    ip.extend(options);
    let sum = sum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    ip.extend(payload);
    ethernet(0x0800, &ip)
}

fn ip6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    for last in [2, 3] {
        ip.extend([
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last,
        ]);
    }
    ip.extend(payload);
    ethernet(0x86dd, &ip)
}

const DATA: [u8; 32] = [b'A'; 32];

fn udp(length: u16, data: &[u8]) -> Vec<u8> {
    let mut all = vec![0x0f, 0xa0, 0x13, 0x88];
    all.extend(length.to_be_bytes());
    all.extend([0, 0]);
    all.extend(data);
    all
}

fn tcp(data: &[u8]) -> Vec<u8> {
    let mut all = vec![
        0x0f, 0xa0, 0x13, 0x88, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ];
    all.extend(data);
    all
}

fn sctp() -> Vec<u8> {
    let mut all = vec![0x0f, 0xa0, 0x13, 0x88, 0, 0, 0, 0, 0, 0, 0, 0];
    all.extend(DATA);
    all
}

fn frame(name: &'static str, start: u16, offset: u16, bytes: Vec<u8>) -> Frame {
    Frame {
        name,
        bytes,
        at: Offset { start, offset },
        gso: None,
    }
}

fn whole_udp() -> Vec<u8> {
    udp(40, &DATA)
}

fn in_segments(mut frame: Frame, kind: u8, transport: usize) -> Frame {
    frame.gso = Some(Gso {
        kind,
        header: frame.at.start + transport as u16,
        size: 1000,
    });
    frame
}

/// Each defers the checksum of its own header.
pub const HONEST: [fn() -> Frame; 9] = [
    || frame("IPv4 UDP", 34, 6, ip4(17, &[], 0, &whole_udp())),
    || frame("IPv4 TCP", 34, 16, ip4(6, &[], 0, &tcp(&DATA))),
    || frame("IPv4 SCTP", 34, 8, ip4(132, &[], 0, &sctp())),
    || frame("IPv6 UDP", 54, 6, ip6(17, &whole_udp())),
    || frame("IPv6 TCP", 54, 16, ip6(6, &tcp(&DATA))),
    || frame("IPv6 SCTP", 54, 8, ip6(132, &sctp())),
    || {
        in_segments(
            frame(
                "IPv4 TCP in segments",
                34,
                16,
                ip4(6, &[], 0, &tcp(&[1; 2500])),
            ),
            1,
            20,
        )
    },
    || {
        in_segments(
            frame("IPv6 TCP in segments", 54, 16, ip6(6, &tcp(&[1; 2500]))),
            4,
            20,
        )
    },
    || {
        in_segments(
            frame(
                "IPv4 UDP in segments",
                34,
                6,
                ip4(17, &[], 0, &udp(2508, &[1; 2500])),
            ),
            5,
            8,
        )
    },
];

/// Each defers something else.
pub fn attacks() -> Vec<Frame> {
    let mut tagged = ip4(17, &[], 0, &whole_udp());
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    let extended = [&[17, 0, 1, 4, 0, 0, 0, 0], whole_udp().as_slice()].concat();
    let fragment6 = [&[17, 0, 0, 1, 0, 0, 0, 9], whole_udp().as_slice()].concat();
    let arp = [
        &[
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 3,
        ],
        DATA.as_slice(),
    ]
    .concat();
    vec![
        frame("source address, UDP", 20, 8, ip4(17, &[], 0, &whole_udp())),
        frame(
            "source address, UDP with another length",
            20,
            8,
            ip4(17, &[], 0, &udp(36, &DATA)),
        ),
        frame(
            "source address, protocol 253",
            20,
            8,
            ip4(253, &[], 0, &whole_udp()),
        ),
        frame("source address, TCP", 20, 8, ip4(6, &[], 0, &tcp(&DATA))),
        frame("destination address", 20, 10, ip4(17, &[], 0, &whole_udp())),
        frame(
            "time to live and protocol",
            20,
            2,
            ip4(17, &[], 0, &whole_udp()),
        ),
        frame("source port", 34, 0, ip4(17, &[], 0, &whole_udp())),
        frame("destination port", 34, 2, ip4(6, &[], 0, &tcp(&DATA))),
        frame(
            "the checksum of UDP in TCP",
            34,
            6,
            ip4(6, &[], 0, &tcp(&DATA)),
        ),
        frame(
            "the checksum of TCP in UDP",
            34,
            16,
            ip4(17, &[], 0, &whole_udp()),
        ),
        frame(
            "the checksum of UDP in SCTP",
            34,
            6,
            ip4(132, &[], 0, &sctp()),
        ),
        frame(
            "ICMP",
            34,
            2,
            ip4(1, &[], 0, &[8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
        ),
        frame("protocol 253", 34, 6, ip4(253, &[], 0, &whole_udp())),
        frame("content of UDP", 42, 6, ip4(17, &[], 0, &whole_udp())),
        frame("content of IP in IP", 34, 6, ip4(4, &[], 0, &whole_udp())),
        frame("first fragment", 34, 6, ip4(17, &[], 0x2000, &whole_udp())),
        frame("later fragment", 34, 6, ip4(17, &[], 0x0002, &whole_udp())),
        frame("options", 38, 6, ip4(17, &[1, 1, 1, 0], 0, &whole_udp())),
        frame(
            "options, their end",
            34,
            6,
            ip4(17, &[1, 1, 1, 0], 0, &whole_udp()),
        ),
        frame("IPv6 source address, UDP", 20, 4, ip6(17, &whole_udp())),
        frame("IPv6 source address, end", 34, 2, ip6(17, &whole_udp())),
        frame("IPv6 destination address", 36, 16, ip6(6, &tcp(&DATA))),
        frame("IPv6 next header", 20, 0, ip6(17, &whole_udp())),
        frame("IPv6 destination port", 54, 2, ip6(17, &whole_udp())),
        frame("IPv6 protocol 253", 54, 6, ip6(253, &whole_udp())),
        frame(
            "ICMPv6",
            54,
            2,
            ip6(58, &[128, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
        ),
        frame("content of UDP over IPv6", 62, 6, ip6(17, &whole_udp())),
        frame("behind an extension header", 62, 6, ip6(60, &extended)),
        frame("behind a fragment header", 62, 6, ip6(44, &fragment6)),
        frame("ARP sender address", 20, 8, ethernet(0x0806, &arp)),
        frame("tagged", 24, 8, tagged),
        frame("another ethertype", 34, 6, ethernet(0x88b5, &[0; 60])),
    ]
}
