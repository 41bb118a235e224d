//! `kernel::conntrack` against the running kernel, which tells in /proc what there is.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait and write plain files; the bans are the agent's"
)]

mod support;

use lxmesh::kernel::Conntrack;
use support::{Ns, in_netns};

/// Echo requests to three addresses in three zones, one of them of the first direction only, and a datagram.
fn traffic(ns: &Ns) {
    ns.sh("ip link set lo up; ip address add 2001:db8::1/128 dev lo");
    ns.nft(
        "table inet t {
            chain c { type filter hook output priority -300; ip daddr 127.0.0.2 ct zone set 7; }
            chain d { type filter hook prerouting priority -300; ip daddr 127.0.0.2 ct zone set 7; }
            chain f { type filter hook output priority -300; ip daddr 127.0.0.4 ct original zone set 9; }
            chain g { type filter hook prerouting priority -300; ip daddr 127.0.0.4 ct original zone set 9; }
            chain e { type filter hook output priority 0; ct state new counter; }
        }",
    );
    ns.sh("ping -n -c 1 127.0.0.1; ping -n -c 1 127.0.0.2; ping -n -c 1 127.0.0.4; ping -n -c 1 2001:db8::1");
    ns.sh("exec 3>/dev/null; echo x | timeout 1 bash -c 'cat > /dev/udp/127.0.0.3/5300' || true");
}

fn table(ns: &Ns) -> String {
    ns.sh("cat /proc/net/nf_conntrack")
}

#[test]
fn entries_are_read_as_they_are_and_deleted_one_by_one() {
    in_netns(|ns| {
        traffic(ns);
        let mut conntrack = Conntrack::open().unwrap();
        let all = conntrack.entries(|_| true).unwrap();
        let mut seen: Vec<String> = all
            .iter()
            .map(|e| {
                format!(
                    "{} {} {} {} {}",
                    e.zone, e.protocol, e.source, e.destination, e.port
                )
            })
            .collect();
        seen.sort();
        assert_eq!(
            seen,
            [
                "0 1 127.0.0.1 127.0.0.1 2048",
                "0 17 127.0.0.1 127.0.0.3 5300",
                "0 58 2001:db8::1 2001:db8::1 32768",
                "7 1 127.0.0.1 127.0.0.2 2048",
                "9 1 127.0.0.1 127.0.0.4 2048",
            ],
            "{}",
            table(ns)
        );
        let zoned = conntrack.entries(|entry| entry.zone == 7).unwrap();
        assert_eq!(zoned.len(), 1);
        assert_eq!(conntrack.delete(&zoned).unwrap(), 1);
        let half = conntrack.entries(|entry| entry.zone == 9).unwrap();
        assert_eq!(half.len(), 1);
        assert!(table(ns).contains("zone-orig=9"), "{}", table(ns));
        assert_eq!(conntrack.delete(&half).unwrap(), 1);
        let left = table(ns);
        assert!(!left.contains("zone-orig"), "{left}");
        assert!(
            !left.contains("dst=127.0.0.2") && left.contains("dst=127.0.0.3"),
            "{left}"
        );
        // What is gone already is no failure.
        assert_eq!(conntrack.delete(&all).unwrap(), 3);
        assert_eq!(conntrack.delete(&all).unwrap(), 0);
        assert_eq!(conntrack.delete(&[]).unwrap(), 0);
        assert_eq!(conntrack.entries(|_| true).unwrap(), []);
    });
}
