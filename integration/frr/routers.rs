//! What a router outside of the fabric is told of host routes, and what it is not.

use std::process::Command;

use crate::host::{Guest, Host, Lines, run, until};
use crate::lines;

/// The router, as its owner would set it up: whoever of the supervisors calls may tell it.
const ROUTER: &str = "frr defaults traditional
router bgp 64511
 bgp router-id 198.51.100.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor supervisors peer-group
 neighbor supervisors remote-as 64500
 neighbor supervisors ebgp-multihop
 bgp listen range 198.51.100.0/24 peer-group supervisors
 bgp listen range 2001:db8:ffff::/64 peer-group supervisors
 address-family ipv4 unicast
  neighbor supervisors activate
  network 198.18.5.0/24
 exit-address-family
 address-family ipv6 unicast
  neighbor supervisors activate
 exit-address-family
exit
";

const KEYS: &str = "
[[router]]
address = \"198.51.100.1\"
asn = 64511
[[router]]
address = \"2001:db8:ffff::1\"
asn = 64511
";

fn announcing(file: String) -> String {
    let network = file.find("name    = \"vpc\"").expect("the fleet has a vpc");
    let (before, after) = file.split_at(network);
    let keys = "host_routes = \"main\"\nannounce = true\n";
    format!("{before}{keys}{after}{KEYS}")
}

#[test]
fn a_router_outside_hears_of_host_routes_and_of_nothing_else() {
    let router = Host::outside("198.51.100.1", ROUTER);
    let mut host = Host::of_fleet("198.51.100.11", announcing);
    // Process numbers are those of this test's own namespace, so only the network is entered.
    let link = format!(
        "ip link add to-host type veth peer name underlay netns {}",
        host.pid()
    );
    let target = router.pid().to_string();
    run(Command::new("nsenter").args(["--net", "--target", &target, "sh", "-euc", &link]));
    host.sh("ip address add 198.51.100.11/24 dev underlay
         ip address add 2001:db8:ffff::11/64 dev underlay nodad
         ip link set underlay up");
    router.sh("ip address add 198.51.100.1/24 dev to-host
               ip address add 2001:db8:ffff::1/64 dev to-host nodad
               ip link set to-host up
               ip route add 198.18.5.0/24 dev to-host");
    host.make_devices();
    router.start_frr("zebra bgpd");
    let own = lines(["198.18.5.0/24 via 0.0.0.0"]);
    until("the router's own route", &own, || router.unicast("ipv4"));
    host.start_frr("zebra bgpd");
    host.start_agent();
    let [c10, c20] = [10, 20].map(Guest::new);
    let heard = |of: &[&Guest]| -> [Lines; 2] {
        let of_family = |six: bool| {
            of.iter()
                .map(|guest| match six {
                    false => format!("192.0.2.{}/32 via 198.51.100.11", guest.number),
                    true => format!("2001:db8::{}/128 via 2001:db8:ffff::11", guest.number),
                })
                .collect()
        };
        [of_family(false), of_family(true)]
    };
    // What the router has itself is not what it was told.
    let told = || {
        let mut four = router.unicast("ipv4");
        assert!(four.remove("198.18.5.0/24 via 0.0.0.0"));
        [four, router.unicast("ipv6")]
    };
    host.launch(&c10);
    until("the first instance's routes", &heard(&[&c10]), told);

    // Others' routes in the same table, and everything that only resembles a host route.
    host.sh("ip address add 192.0.2.200/32 dev underlay
             ip route add 192.0.2.30/32 dev svi-vpc proto static
             ip route add 192.0.2.31/32 via 198.51.100.1 proto 99 metric 242
             ip route add 192.0.2.32/32 via 192.0.2.10 dev svi-vpc proto 99 metric 242
             ip route add prohibit 192.0.2.33/32 proto 99 metric 242
             ip route add 192.0.2.34/32 dev underlay proto 99 metric 242
             ip route add 192.0.2.128/25 dev svi-vpc proto 99 metric 242
             ip route add 203.0.113.34/32 dev svi-vpc proto 99 metric 242
             ip route add 192.0.2.35/32 dev svi-vpc proto 99
             ip -6 route add 2001:db8::30/128 dev svi-vpc proto static
             ip -6 route add 2001:db8::31/128 via 2001:db8::10 dev svi-vpc proto 99 metric 242
             ip -6 route add prohibit 2001:db8::33/128 proto 99 metric 242
             ip -6 route add 2001:db8:5::1/128 dev svi-vpc proto 99 metric 242
             ip -6 route add 2001:db8::35/128 dev svi-vpc proto 99");
    // FRR tells of changes in order: once the second instance is heard of, those would be, too.
    host.launch(&c20);
    until("the second's, too", &heard(&[&c10, &c20]), told);
    // Nothing is taken from the router.
    assert_eq!(
        host.unicast("ipv4"),
        lines(["192.0.2.10/32 via 0.0.0.0", "192.0.2.20/32 via 0.0.0.0"])
    );
    assert!(!host.sh("ip route").contains("198.18.5.0/24"));

    // Somebody else's route to the same address is no word of ours.
    host.sh("ip route add 192.0.2.20/32 dev underlay proto static");
    let [mut four, six] = heard(&[&c10, &c20]);
    four.remove("192.0.2.20/32 via 198.51.100.11");
    until("a stranger took the route over", &[four, six], told);
    host.sh("ip route del 192.0.2.20/32 dev underlay proto static");
    until("and gave it back", &heard(&[&c10, &c20]), told);

    host.stop(&c10);
    until("what stopped is withdrawn", &heard(&[&c20]), told);
}
