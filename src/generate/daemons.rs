//! Which of FRR's daemons the operator's own lines for FRR need: a line that no running daemon reads is lost
//! without a word when FRR starts. Facts about FRR (its `VTYSH_…` marks); pure.

use std::collections::BTreeSet;

/// A statement by its first words, and the daemon that reads it. A word ends where the pattern's ends; `*` is
/// any one word, `…` any number of them.
const READERS: &[(&str, &str)] = &[
    ("router ospf", "ospfd"),
    ("ip ospf", "ospfd"),
    ("router ospf6", "ospf6d"),
    ("ipv6 ospf6", "ospf6d"),
    ("router rip", "ripd"),
    ("ip rip", "ripd"),
    ("router ripng", "ripngd"),
    ("ipv6 ripng", "ripngd"),
    ("router isis", "isisd"),
    ("ip router isis", "isisd"),
    ("ipv6 router isis", "isisd"),
    ("isis", "isisd"),
    ("router openfabric", "fabricd"),
    ("ip router openfabric", "fabricd"),
    ("ipv6 router openfabric", "fabricd"),
    ("openfabric", "fabricd"),
    ("router eigrp", "eigrpd"),
    ("ip * eigrp", "eigrpd"),
    ("router babel", "babeld"),
    ("babel", "babeld"),
    ("router pim", "pimd"),
    ("ip pim", "pimd"),
    ("ip igmp", "pimd"),
    ("ip msdp", "pimd"),
    ("ip multicast", "pimd"),
    ("ip ssmpingd", "pimd"),
    ("router pim6", "pim6d"),
    ("ipv6 pim", "pim6d"),
    ("ipv6 mld", "pim6d"),
    ("ipv6 ssmpingd", "pim6d"),
    ("mpls ldp", "ldpd"),
    ("l2vpn * type vpls", "ldpd"),
    ("ip nhrp", "nhrpd"),
    ("ipv6 nhrp", "nhrpd"),
    ("nhrp", "nhrpd"),
    ("pbr", "pbrd"),
    ("pbr-map", "pbrd"),
    ("pbr-policy", "pbrd"),
    ("nexthop-group", "pbrd"),
    ("vrrp", "vrrpd"),
    ("traffic-eng", "pathd"),
    ("bfd", "bfdd"),
    // Of other daemons, which ask this one.
    ("neighbor * bfd", "bfdd"),
    ("ip ospf bfd", "bfdd"),
    ("ipv6 ospf6 bfd", "bfdd"),
    ("ip rip bfd", "bfdd"),
    ("ip pim bfd", "bfdd"),
    ("ipv6 pim bfd", "bfdd"),
    ("isis bfd", "bfdd"),
    ("openfabric bfd", "bfdd"),
    ("ip route … bfd", "bfdd"),
    ("ipv6 route … bfd", "bfdd"),
];

/// The daemons that have to run for these lines, beside those that run anyway: zebra, staticd, bgpd.
pub fn needed(lines: &str) -> BTreeSet<&'static str> {
    let mut needed = BTreeSet::new();
    for line in lines.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let read_by = READERS.iter().filter(|(statement, _)| {
            let statement: Vec<&str> = statement.split(' ').collect();
            begins(&words, &statement)
        });
        needed.extend(read_by.map(|(_, daemon)| daemon));
    }
    needed
}

fn begins(words: &[&str], statement: &[&str]) -> bool {
    match (statement, words) {
        ([], _) => true,
        (["…", rest @ ..], _) => (0..words.len()).any(|from| begins(&words[from..], rest)),
        ([first, rest @ ..], [word, words @ ..]) => {
            (*first == "*" || first == word) && begins(words, rest)
        }
        (_, []) => false,
    }
}

/// The lines of `/etc/frr/daemons` that start a daemon as the package would have it started: its terminal
/// listens on this host only.
pub fn lines(daemon: &str) -> String {
    let own_host = match daemon {
        "ospf6d" | "ripngd" | "pim6d" => "::1",
        _ => "127.0.0.1",
    };
    format!("{daemon}=yes\n{daemon}_options=\"-A {own_host}\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_needed_for_its_statements_wherever_they_stand() {
        let of = |lines: &str| needed(lines).into_iter().collect::<Vec<_>>();
        assert_eq!(of("router ospf\n network 10.0.0.0/8 area 0\n"), ["ospfd"]);
        assert_eq!(of("interface eth0\n\tip ospf area 0\r\n"), ["ospfd"]);
        assert_eq!(
            of("router ospf6\nrouter isis x vrf red"),
            ["isisd", "ospf6d"]
        );
        assert_eq!(of("segment-routing\n traffic-eng\n"), ["pathd"]);
        assert_eq!(of("interface eth0\n ipv6 mld"), ["pim6d"]);
        assert_eq!(of(" neighbor 192.0.2.9 bfd profile x"), ["bfdd"]);
        assert_eq!(of("ip route 10.0.0.0/8 10.1.1.1 bfd"), ["bfdd"]);
        assert_eq!(of(" ip ospf bfd"), ["bfdd", "ospfd"]);
        assert_eq!(of(" ip summary-address eigrp 5 10.0.0.0/8"), ["eigrpd"]);
    }

    #[test]
    fn words_that_only_look_like_it_need_none() {
        for line in [
            "",
            "! router ospf",
            "# router ospf",
            "no router ospf",
            "router bgp 64500",
            " redistribute ospf",
            " description router ospf",
            " description ip ospf area 0",
            "ip route 10.0.0.0/8 10.1.1.1",
            "ip prefix-list bfd permit any",
            "route-map bfd permit 1",
            "interface bfd",
            "ip router-id 192.0.2.1",
            "segment-routing\n srv6",
            " neighbor bfd remote-as 64500",
        ] {
            assert!(needed(line).is_empty(), "{line}");
        }
    }
}
