//! Addresses from a real dnsmasq, in networks that have the same.

use super::support::fake_lxd::Status;
use super::support::in_netns;
use super::support::world::{Nic, World};

/// Asks for an address as a client does, by broadcast, until somebody offers one. Says which, by whom.
const DISCOVER: &str = r#"
import socket, sys
import frames as f
port, mac = sys.argv[1:]
line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
line.bind((port, 0))
line.settimeout(1)
body = f.udp("0.0.0.0", "255.255.255.255", 68, 67, f.dhcp4(1, mac, 77, flags=0x8000))
frame = f.ethernet("ff:ff:ff:ff:ff:ff", mac, f.IP4, f.ipv4("0.0.0.0", "255.255.255.255", f.UDP, body))
for again in range(60):
    line.send(frame)
    try:
        while True:
            got = line.recv(2048)
            if got[12:14] == b"\x08\x00" and got[23] == 17 and got[34:38] == b"\0\x43\0\x44":
                offer = got[42:]
                mtu = offer.find(b"\x1a\x02", 240)
                print(socket.inet_ntoa(offer[16:20]), int.from_bytes(offer[mtu + 2:mtu + 4], "big"))
                sys.exit()
    except TimeoutError:
        pass
"#;

/// What is offered to the NIC: an address, and the MTU of its network.
fn offered(world: &World<'_>, nic: &Nic) -> String {
    let program = world.path("discover.py");
    std::fs::write(&program, DISCOVER).unwrap();
    let frames = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/labkit/scenarios");
    let (port, mac) = (format!("{}p", nic.port), &nic.mac);
    let program = program.display();
    let answer = world.ask_peers(&format!(
        "env PYTHONPATH={frames} python3 {program} {port} {mac}"
    ));
    answer.trim().to_string()
}

#[test]
fn networks_with_the_same_prefix_have_a_dnsmasq_each() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let c1 = world.launch("c1", "vpc");
        let without = world.host_file();
        // The same gateway and addresses as vpc, and another MTU.
        world.write_host_file(&format!(
            "{without}[[network]]\nname = \"shop\"\nvni = 300\nvrf = \"other\"\nmtu = 1400\n\
             gateway = [\"192.0.2.1/24\", \"2001:db8::1/64\"]\n"
        ));
        ns.sh(
            "ip link add svi-shop address 02:00:00:00:01:2c type bridge forward_delay 0
             ip link add vxlan-shop type vxlan id 300 dstport 4789 local 203.0.113.1 nolearning gbp
             ip link set vxlan-shop master svi-shop up
             ip link set svi-shop up
             ip address add 192.0.2.1/24 dev svi-shop
             ip address add 2001:db8::1/64 dev svi-shop nodad",
        );
        let twin = Nic {
            network: "shop",
            ipv4: c1.ipv4.clone(),
            ipv6: c1.ipv6.clone(),
            ..world.nic("c2", "vpc")
        };
        world.plug(&twin);
        world.set(&twin, Status::Running);
        world.start();
        let address = c1.ipv4.as_deref().unwrap();
        world.until("two processes", |world| pids(world, 2));
        assert_eq!(offered(&world, &c1), format!("{address} 1450"));
        assert_eq!(offered(&world, &twin), format!("{address} 1400"));
        let main = std::fs::read_to_string(world.path("dnsmasq/dnsmasq.conf")).unwrap();
        assert!(!main.contains("svi-shop"), "{main}");

        // Without the second network its process ends, and its files go.
        world.write_host_file(&without);
        world.signal("HUP");
        world.until("one process", |world| pids(world, 1));
        world.until("its files are gone", |world| {
            let left = std::fs::read_dir(world.path("dnsmasq")).unwrap();
            let mut names = left.map(|entry| entry.unwrap().file_name());
            names
                .all(|name| !name.to_string_lossy().contains("shop"))
                .then_some(())
        });
        world.until("only one listens", |world| {
            let sockets = world.ns.sh("ss -Hlnup sport = 67");
            (sockets.matches("dnsmasq").count() == 1).then_some(())
        });
        assert_eq!(offered(&world, &c1), format!("{address} 1450"));
    });
}

/// That so many processes of dnsmasq run, as the agent says.
fn pids(world: &World<'_>, count: usize) -> Option<()> {
    let text = world.status()?["dhcp"].as_str()?.to_string();
    let pids = text.strip_prefix("dnsmasq running (")?;
    (pids.split(", ").count() == count).then_some(())
}
