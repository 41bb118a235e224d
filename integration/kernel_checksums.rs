//! `kernel::checksums` against the running kernel: packets whose deferred checksum points anywhere but to
//! the checksum of their own transport header are dropped before a bridge, a filter or LXD's limits see
//! them; honest traffic passes. The device where packets leave computes no checksums, as network cards
//! without offload and IPsec do not: only there does the kernel write what the sender asked for.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

#[path = "checksums/frames.rs"]
mod frames;
#[path = "checksums/honest.rs"]
mod honest;
mod support;

use frames::{Frame, HONEST, Offset, attacks};
use lxmesh::kernel::checksums::{Attached, Checks, DIRECTORY, Prepared, prepare};
use std::path::Path;
use support::checks::{attached, detach_last, load_privately};
use support::{Ns, in_netns};

const FIRST: Attached = Attached {
    behind: Some(0),
    earlier: false,
};
const NOT: Attached = Attached {
    behind: None,
    earlier: false,
};

fn checks() -> Checks {
    let checks = Checks::open(Path::new(DIRECTORY)).expect("it can be opened");
    checks.expect("it was loaded")
}

/// A bridge with two ports: v0, whose other end p0 sends, and v1, whose other end p1 receives.
fn bridge(ns: &Ns) {
    ns.sh("ip link add br0 type bridge mcast_snooping 0
         for i in 0 1; do
             ip link add v$i type veth peer name p$i
             echo 1 > /proc/sys/net/ipv6/conf/p$i/disable_ipv6
             echo 1 > /proc/sys/net/ipv6/conf/v$i/disable_ipv6
             ip link set v$i master br0 up
             ip link set p$i up
         done
         ip link set br0 up");
    frames::no_checksums(&["v1"]);
}

#[test]
fn what_was_filtered_is_what_is_sent() {
    in_netns(|ns| {
        load_privately();
        bridge(ns);
        let (mut from, to) = (frames::sender("p0"), frames::receiver("p1"));
        let port = ns.index("v0");
        // Without the check each of them arrives, most of them altered: the test can see them.
        let mut altered = 0;
        for attack in attacks() {
            let got = frames::pass(&mut from, &to, &attack);
            let got =
                got.unwrap_or_else(|| panic!("{} is not seen without the check", attack.name));
            altered += usize::from(got[..34] != attack.bytes[..34]);
        }
        assert!(altered >= 4, "{altered}");
        let checks = checks();
        checks.attach(port).unwrap();
        let before = checks.dropped().unwrap();
        let mut count = 0;
        for attack in attacks() {
            let got = frames::pass(&mut from, &to, &attack);
            assert_eq!(got, None, "{}", attack.name);
            count += 1;
        }
        assert_eq!(checks.dropped().unwrap() - before, count);
        for honest in HONEST {
            let Frame { name, bytes, .. } = &honest();
            let got = frames::pass(&mut from, &to, &honest());
            let got = got.unwrap_or_else(|| panic!("{name} is dropped"));
            // Addresses are as the filters have seen them (of a segment, length and sums are not).
            assert_eq!(got[26..34], bytes[26..34], "{name}");
        }
        assert_eq!(checks.dropped().unwrap() - before, count);
        // Not because of anything else.
        checks.detach(port).unwrap();
        assert!(frames::pass(&mut from, &to, &attacks()[0]).is_some());
    });
}

/// Virtual machines send by taps, with the same header.
#[test]
fn a_tap_is_checked_too() {
    in_netns(|ns| {
        load_privately();
        bridge(ns);
        let mut tap = frames::tap("tap0");
        ns.sh("ip link set tap0 master br0 up");
        let to = frames::receiver("p1");
        let port = ns.index("tap0");
        assert!(frames::pass(&mut tap, &to, &attacks()[0]).is_some());
        checks().attach(port).unwrap();
        for attack in attacks() {
            assert_eq!(
                frames::pass(&mut tap, &to, &attack),
                None,
                "{}",
                attack.name
            );
        }
        for honest in HONEST {
            assert!(frames::pass(&mut tap, &to, &honest()).is_some());
        }
    });
}

/// A guest has all of the header before each frame in its hands: what is to be computed where, whether and how the
/// packet is to be cut into segments, which headers it has; from Linux 6.17 on also those of a tunnel.
#[test]
fn whatever_a_guest_says_of_a_frame_it_is_sent_as_it_was_filtered() {
    for tunnels in [false, true] {
        in_netns(|ns| {
            load_privately();
            bridge(ns);
            let mut tap = frames::tap("tap0");
            ns.sh("ip link set tap0 master br0 up; echo 1 > /proc/sys/net/ipv6/conf/tap0/disable_ipv6");
            if tunnels && !frames::take_tunnels(&tap) {
                return;
            }
            let to = frames::receiver("p1");
            let port = ns.index("tap0");
            let mut count = |rounds: usize| {
                let mut random = frames::Random(0x9e37_79b9_7f4a_7c15);
                let (mut taken, mut arrived, mut altered) = (0, 0, 0);
                for _ in 0..rounds {
                    let (header, bytes) = random.hostile(tunnels);
                    let (sent, got) = frames::all_of(&mut tap, &to, &header, &bytes);
                    taken += usize::from(sent);
                    arrived += usize::from(!got.is_empty());
                    let seen = frames::as_filtered(&bytes);
                    // As they are on the wire.
                    let other = |got: &Vec<u8>| !is_same(&frames::as_filtered(got), &seen);
                    altered += usize::from(got.iter().any(other));
                }
                (taken, arrived, altered)
            };
            let (taken, arrived, altered) = count(3000);
            println!("unchecked: of 3000 {taken} taken, {arrived} arrived, {altered} altered");
            assert!(altered >= 5, "{altered}");
            checks().attach(port).unwrap();
            let (taken, arrived, altered) = count(20_000);
            println!("checked: of 20000 {taken} taken, {arrived} arrived, {altered} altered");
            assert!(arrived >= 1000 && taken > arrived, "{arrived} of {taken}");
            assert_eq!(altered, 0);
            if tunnels {
                // IPv4 in IPv6 is not taken (6.18).
                let (header, bytes) = frames::honest_tunnel(true);
                let (_, got) = frames::all_of(&mut tap, &to, &header, &bytes);
                assert!(got.len() >= 3, "{} segments of a tunnel", got.len());
            }
        });
    }
}

/// Fragments behind the first have no ports.
fn is_same(got: &[u8], seen: &[u8]) -> bool {
    got == seen || got.len() + 4 == seen.len() && seen.starts_with(got)
}

/// `limits.ingress` and `limits.egress` of LXD are queueing disciplines of the same device.
#[test]
fn limits_are_set_beside_it_before_and_after() {
    const LIMIT: &str = "tc qdisc add dev v0 handle ffff:0 ingress
        tc filter add dev v0 parent ffff:0 protocol all u32 match u32 0 0 flowid 1:1";
    let one = |first: bool| {
        in_netns(|ns| {
            load_privately();
            bridge(ns);
            let port = ns.index("v0");
            if !first {
                ns.sh(LIMIT);
            }
            checks().attach(port).unwrap();
            if first {
                ns.sh(LIMIT);
            }
            ns.sh("tc qdisc add dev v0 root handle 1:0 htb default 10");
            let (mut from, to) = (frames::sender("p0"), frames::receiver("p1"));
            let limited = || {
                let shown = ns.json("tc -s -j qdisc show dev v0 ingress");
                shown[0]["packets"].as_u64().expect("it counts")
            };
            // With each goes one that nothing is deferred of.
            assert_eq!(frames::pass(&mut from, &to, &attacks()[0]), None);
            assert_eq!(limited(), 1, "what is dropped uses up no limit");
            assert!(frames::pass(&mut from, &to, &HONEST[0]()).is_some());
            assert_eq!(limited(), 3, "what passes is limited");
            ns.sh("tc qdisc del dev v0 ingress");
            assert_eq!(checks().attached(port).unwrap(), FIRST);
            assert_eq!(frames::pass(&mut from, &to, &attacks()[0]), None);
        });
    };
    one(true);
    one(false);
}

#[test]
fn it_is_loaded_once_and_replaced_without_a_gap() {
    in_netns(|ns| {
        load_privately();
        bridge(ns);
        let (place, port) = (Path::new(DIRECTORY), ns.index("v0"));
        assert_eq!(prepare(place).unwrap(), Prepared::Already);
        let first = checks();
        first.attach(port).unwrap();
        first.attach(port).unwrap();
        assert_eq!(prepare(place).unwrap(), Prepared::Already);
        assert_eq!(checks().attached(port).unwrap(), FIRST);
        assert_eq!(attached(port), 1);

        // A version whose program is another one.
        std::fs::rename(place.join("checksums"), place.join("checksums-7")).unwrap();
        assert!(Checks::open(place).unwrap().is_none());
        assert_eq!(prepare(place).unwrap(), Prepared::Loaded);
        let second = checks();
        let sent = frames::all_the_while("p0", "p1", &attacks()[0], || {
            for _ in 0..5 {
                second.attach(port).unwrap();
                first.attach(port).unwrap();
                detach_last(port);
            }
        });
        assert_eq!(sent.arrived, 0, "of {}", sent.sent);
        let both = Attached {
            behind: None,
            earlier: true,
        };
        assert_eq!(second.attached(port).unwrap(), both);
        second.attach(port).unwrap();
        assert_eq!(second.attached(port).unwrap(), FIRST);
        assert_eq!(attached(port), 1);

        // Somebody else's program before it may let pass what it never sees.
        let strangers = tempfile::tempdir().unwrap();
        prepare(strangers.path()).unwrap();
        let stranger = Checks::open(strangers.path()).unwrap().unwrap();
        stranger.attach(port).unwrap();
        assert_eq!(second.attached(port).unwrap().behind, Some(1));
        second.attach(port).unwrap();
        assert_eq!(second.attached(port).unwrap(), FIRST);
        second.detach(port).unwrap();
        second.detach(port).unwrap();
        assert_eq!(second.attached(port).unwrap(), NOT);
        assert_eq!(stranger.attached(port).unwrap(), FIRST);
        // It goes before the directory does.
        drop(stranger);
        rustix::mount::unmount(strangers.path(), rustix::mount::UnmountFlags::DETACH).unwrap();

        ns.sh("ip link del v0");
        let gone = second.attached(port).unwrap_err();
        assert_eq!(gone.errno(), Some(libc::ENODEV));
    });
}

/// What an instance's own kernel sends, tunnels of its own included.
#[test]
fn honest_traffic_passes() {
    in_netns(|ns| {
        load_privately();
        honest::run(ns, &checks());
    });
}

/// Every place that an offset can name, for each of the protocols.
#[test]
fn no_other_offset_passes() {
    in_netns(|ns| {
        load_privately();
        bridge(ns);
        let (mut from, to) = (frames::sender("p0"), frames::receiver("p1"));
        checks().attach(ns.index("v0")).unwrap();
        let mut passed = Vec::new();
        for honest in HONEST {
            let mut frame = honest();
            for start in 14..frame.bytes.len() as u16 - 2 {
                for offset in 0..=20 {
                    if usize::from(start + offset + 2) > frame.bytes.len() {
                        continue;
                    }
                    frame.at = Offset { start, offset };
                    if frames::pass_quickly(&mut from, &to, &frame) {
                        passed.push((frame.name, start, offset));
                    }
                }
            }
        }
        let own: Vec<_> = HONEST
            .iter()
            .map(|honest| honest())
            .map(|Frame { name, at, .. }| (name, at.start, at.offset))
            .collect();
        assert_eq!(passed, own);
    });
}
