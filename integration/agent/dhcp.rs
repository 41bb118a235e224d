//! Addresses from a real dnsmasq: in networks that have the same, and for clients that lie.

use super::cold_start::dnsmasq_listens;
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
fn a_file_that_cannot_be_read_keeps_no_other_from_being_written() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        let left = world.path("dnsmasq/lxmesh-old.conf");
        std::fs::create_dir_all(left.join("not empty")).unwrap();
        let mut world = world.started();
        world.until("dnsmasq listens", dnsmasq_listens);
        world.until_logged(&format!("removing {}", left.display()));
        world.launch("c2", "vpc");
        world.in_step();
        std::fs::remove_dir_all(&left).unwrap();
    });
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

/// Runs a program of DHCP clients where the instances' ends are, with `mallory` and `bob` for two
/// NICs of one network. What it prints.
fn clients(world: &World<'_>, mallory: &Nic, bob: &Nic, program: &str) -> String {
    let file = world.path("clients.py");
    let client = |name: &str, nic: &Nic| {
        let Nic {
            port,
            mac,
            ipv4,
            ipv6,
            ..
        } = nic;
        let [four, six] = [ipv4, ipv6].map(|address| address.as_deref().unwrap_or_default());
        format!("{name} = Client('{port}p', '{mac}')\n{name}.v4, {name}.v6 = '{four}', '{six}'\n")
    };
    let text = format!(
        "from dhcp_client import *\n{}{}{program}",
        client("mallory", mallory),
        client("bob", bob)
    );
    std::fs::write(&file, text).unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/integration");
    world.ask_peers(&format!(
        "env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={root}/agent:{root}/labkit/scenarios python3 {}",
        file.display()
    ))
}

/// Two instances of one network and a dnsmasq that listens.
fn two(world: World<'_>) -> (World<'_>, Nic, Nic) {
    let mut world = world;
    let (mallory, bob) = (world.launch("mallory", "vpc"), world.launch("bob", "vpc"));
    let mut world = world.started();
    world.until("dnsmasq listens", dnsmasq_listens);
    (world, mallory, bob)
}

#[test]
fn a_client_identifier_of_another_takes_nothing_from_him() {
    in_netns(|ns| {
        let (world, mallory, bob) = two(World::new(ns));
        let said = clients(
            &world,
            &mallory,
            &bob,
            r#"
his = client_id(bob.mac)
print(bob.four(DISCOVER, identifier=his), bob.four(REQUEST4, wanted=bob.v4, identifier=his))
for message in [
    dict(kind=DISCOVER), dict(kind=REQUEST4, wanted=mallory.v4, server="192.0.2.1"),
    dict(kind=REQUEST4, wanted=bob.v4, server="192.0.2.1"), dict(kind=REQUEST4, wanted=bob.v4),
    dict(kind=REQUEST4, own=bob.v4), dict(kind=RELEASE4, own=bob.v4), dict(kind=DECLINE4, wanted=bob.v4),
]:
    for identifier in [his, client_id(mallory.mac), None]:
        mallory.patience = 0.3
        mallory.four(**message, identifier=identifier)
        print(bob.four(REQUEST4, own=bob.v4, identifier=his))
"#,
        );
        let four = bob.ipv4.unwrap();
        let mut wanted = format!("offer {four} ack {four}\n");
        wanted.push_str(&format!("ack {four}\n").repeat(21));
        assert_eq!(said, wanted);
    });
}

/// Not tried are REBIND and the messages of relays, by which dnsmasq 2.90 gives a lease of any address to
/// anybody: the filters, which are not loaded here, let neither pass.
#[test]
fn a_duid_of_another_takes_no_address_from_him() {
    in_netns(|ns| {
        let (world, mallory, bob) = two(World::new(ns));
        let said = clients(
            &world,
            &mallory,
            &bob,
            r#"
his = duid(bob.mac)
print(bob.six(SOLICIT, his), "/", bob.six(REQUEST, his, wanted=[bob.v6]))
mallory.server, mallory.patience = bob.server, 0.3
for kind in [SOLICIT, REQUEST, RENEW, CONFIRM, RELEASE, DECLINE]:
    for wanted in [bob.v6], [mallory.v6]:
        mallory.six(kind, his, wanted=wanted)
        # After a RELEASE in his name he is told that there is no lease, and asks for one.
        if bob.six(RENEW, his, wanted=[bob.v6]) != f"reply {bob.v6}":
            print("no lease after", kind, "/", bob.six(REQUEST, his, wanted=[bob.v6]))
        print(bob.six(SOLICIT, his), "/", bob.six(RENEW, his, wanted=[bob.v6]))
"#,
        );
        let six = bob.ipv6.unwrap();
        let well = |line: &&str| **line == format!("advertise {six} / reply {six}");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.iter().filter(|line| well(line)).count(), 13, "{said}");
        let others: Vec<&&str> = lines.iter().filter(|line| !well(line)).collect();
        let wanted = [8, 9].map(|kind| format!("no lease after {kind} / reply {six}"));
        assert_eq!(others, wanted.iter().collect::<Vec<_>>(), "{said}");
    });
}

#[test]
fn many_identifiers_and_duids_get_no_more_than_the_own_addresses() {
    in_netns(|ns| {
        let (world, mallory, bob) = two(World::new(ns));
        let said = clients(
            &world,
            &mallory,
            &bob,
            r#"
mallory.six(SOLICIT, duid(mallory.mac))
mallory.patience = 0.3
got, leases = set(), 0
for n in range(40):
    for message in [dict(kind=DISCOVER), dict(kind=REQUEST4, wanted=mallory.v4)]:
        got |= set(mallory.four(**message, identifier=os.urandom(9)).split()[1:])
    for kind in SOLICIT, REQUEST, RENEW:
        wanted = [bob.v6, mallory.v6, f"2001:db8::7:{n:x}"]
        granted = mallory.six(kind, duid(mallory.mac)[:4] + os.urandom(6), n, wanted, rapid=kind == SOLICIT).split()[1:]
        got |= set(granted)
        leases += len(granted)
print(*sorted(got), leases)
"#,
        );
        let (four, six) = (mallory.ipv4.unwrap(), mallory.ipv6.unwrap());
        assert_eq!(said, format!("{four} {six} 1\n"));
    });
}

/// dnsmasq's own limit is 1,000 leases.
#[test]
fn every_nic_of_a_large_host_gets_a_lease() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let host_file = world.host_file();
        world.write_host_file(&format!(
            "{host_file}[[network]]\nname = \"big\"\nvni = 300\ngateway = [\"198.18.0.1/16\"]\n"
        ));
        ns.sh(
            "ip link add svi-big address 02:00:00:00:01:2c type bridge forward_delay 0
             ip link add vxlan-big type vxlan id 300 dstport 4789 local 203.0.113.1 nolearning gbp
             ip link set vxlan-big master svi-big up
             ip link set svi-big up
             ip address add 198.18.0.1/16 dev svi-big",
        );
        let nic = |n: usize| Nic {
            network: "big",
            port: format!("big{n}"),
            mac: format!("00:16:3e:01:{:02x}:{:02x}", n >> 8, n & 255),
            ipv4: Some(format!("198.18.{}.{}", 1 + (n >> 8), n & 255)),
            ipv6: None,
            ..world.nic(&format!("i{n}"), "vpc")
        };
        let nics: Vec<Nic> = (0..1_010).map(nic).collect();
        world.plug(&nics[0]);
        for nic in &nics {
            world.set(nic, Status::Running);
        }
        world.start();
        world.until("dnsmasq listens", dnsmasq_listens);
        world.until("all are written down", |world| {
            let hosts = std::fs::read_to_string(world.path("dnsmasq/hosts")).ok()?;
            (hosts.lines().count() == nics.len()).then_some(())
        });
        let said = clients(
            &world,
            &nics[0],
            &nics[0],
            r#"
got = set()
for n in range(1010):
    bob.mac = f"00:16:3e:01:{n >> 8:02x}:{n & 255:02x}"
    wanted = f"198.18.{1 + (n >> 8)}.{n & 255}"
    for again in range(5):
        answer = bob.four(REQUEST4, wanted=wanted)
        if answer != "nothing":
            break
    if answer == f"ack {wanted}":
        got.add(wanted)
    else:
        print(answer)
print(len(got))
"#,
        );
        assert_eq!(said, "1010\n", "{}", world.log());
    });
}

#[test]
fn what_dnsmasq_complains_of_is_said_once_and_shown_and_clients_cannot_make_it_up() {
    in_netns(|ns| {
        let world = World::new(ns);
        // The real one, with room for one lease.
        let script = world.path("dnsmasq.sh");
        let text = "#!/bin/sh\nfor last; do :; done\nconf=${last#--conf-file=}\n\
             sed s/^dhcp-lease-max=.*/dhcp-lease-max=1/ $conf > ${conf%.conf}.small\n\
             exec dnsmasq --keep-in-foreground --pid-file --log-facility=- --conf-file=${conf%.conf}.small\n";
        std::fs::write(&script, text).unwrap();
        ns.sh(&format!("chmod +x {}", script.display()));
        let host_file = world.host_file();
        let program = format!("[dhcp]\nprogram = \"{}\"\n", script.display());
        world.write_host_file(&host_file.replace("[dhcp]\n", &program));
        let (mut world, mallory, bob) = two(world);
        // What a client can do to be spoken of, with as many texts as it likes.
        clients(
            &world,
            &mallory,
            &bob,
            r#"
mallory.patience = 0.02
for n in range(1, 51):
    mallory.four(DISCOVER, extra=bytes([118, 4]) + f.four(f"203.0.113.{n}"))
    mallory.four(DISCOVER, extra=bytes([12, 9]) + b"\x1b[2J.bad" + bytes([n]) + bytes([55, 3, 3, n, 6, 57, 2, 1, 0]))
    mallory.four(8, own=f"240.0.0.{n}")
    mallory.four(DECLINE4, wanted=f"192.0.2.{n}")
    mallory.four(RELEASE4, own=f"192.0.2.{n}")
    mallory.four(n)
"#,
        );
        let status = world.until("a status", |world| world.status());
        assert_eq!(status["dhcp_warnings"], serde_json::json!([]));
        assert_eq!(world.logged("dnsmasq says"), [""; 0]);

        let said = clients(
            &world,
            &mallory,
            &bob,
            r#"
print(bob.four(REQUEST4, wanted=bob.v4))
mallory.patience = 0.2
for n in range(10):
    print(mallory.four(REQUEST4, wanted=mallory.v4))
"#,
        );
        let mut wanted = format!("ack {}\n", bob.ipv4.as_deref().unwrap());
        wanted.push_str(&"nak 0.0.0.0\n".repeat(10));
        assert_eq!(said, wanted);
        world.until("the status tells of it", |world| {
            let status = world.status()?;
            let warnings = status["dhcp_warnings"].as_array()?;
            let [warning] = warnings.as_slice() else {
                return None;
            };
            (warning["text"] == "no leases left" && warning["times"] == 10).then_some(())
        });
        assert_eq!(world.logged("dnsmasq says: no leases left").len(), 1);

        // Something else that is wrong with the host.
        ns.sh(
            "ip address add 203.0.113.77/24 dev svi-vpc; ip address del 192.0.2.1/24 dev svi-vpc",
        );
        clients(&world, &mallory, &bob, "mallory.four(DISCOVER)");
        let text = "no address range available for DHCP request via svi-vpc";
        world.until_logged(&format!("dnsmasq says: {text}"));
        let metrics = world.output(&["metrics"]).stdout;
        let metrics = String::from_utf8(metrics).unwrap();
        assert!(
            metrics.contains("\nlxmesh_dnsmasq_warnings_total 11\n"),
            "{metrics}"
        );
        let screen = String::from_utf8(world.output(&["status"]).stdout).unwrap();
        assert!(screen.contains(text), "{screen}");
    });
}

/// Names that LXD gives, and that mean something else in a line of dnsmasq's, or make it refuse the line.
#[test]
fn an_instance_gets_its_lease_whatever_it_is_called() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let names = [
            "c1", "ignore", "infinite", "set", "tag", "e1h", "Ab--c", "XN--A",
        ];
        let nics = names.map(|name| world.launch(name, "vpc"));
        world.start();
        world.until("dnsmasq listens", dnsmasq_listens);
        world.in_step();
        for (name, nic) in names.iter().zip(&nics) {
            let given = nic.ipv4.as_ref().unwrap();
            let offered = offered(&world, nic);
            assert!(
                offered.starts_with(&format!("{given} ")),
                "{name}: {offered}\n{}",
                world.log()
            );
        }
        assert!(
            world.logged("bad DHCP host name").is_empty(),
            "{}",
            world.log()
        );
    });
}
