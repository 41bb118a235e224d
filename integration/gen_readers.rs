//! Generated files, read by the programs that they are for: FRR and systemd-networkd. Needs root
//! and both programs; without them these tests fail, and never pass by skipping.

#![expect(
    clippy::disallowed_methods,
    reason = "nobody reads a test's files half written"
)]

use lxmesh::generate::{self, LocalFacts, OutputFile, Target};
use lxmesh::host;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{fs, io::Write};

const HOSTS: &[(&str, &[&str])] = &[
    ("minimal", &["203.0.113.7", "198.51.100.200"]),
    ("lab", &["198.51.100.11", "198.51.100.101"]),
    ("ipv6-underlay", &["2001:db8:ffff:1::5", "2001:db8:ffff::1"]),
    ("vrf", &["198.51.100.11"]),
    ("mesh", &["198.51.100.12"]),
    (
        "reflector-supervisor",
        &["198.51.100.1", "203.0.113.1", "203.0.113.2"],
    ),
    ("ipv6-overlay", &["198.51.100.11"]),
    (
        "ipsec-certificates",
        &["198.51.100.11", "203.0.113.1", "198.51.100.1"],
    ),
    ("ipsec-psk", &["198.51.100.11", "198.51.100.101"]),
    ("ipsec-mesh", &["198.51.100.12"]),
    ("routers", &["198.51.100.11"]),
];

/// Two hundred networks: for the readers that do not take minutes over them here.
const LARGE: (&str, &[&str]) = ("large", &["198.51.100.11"]);

fn render(fleet: &str, address: &str) -> Vec<OutputFile> {
    let path = format!(
        "{}/integration/golden/fleets/{fleet}/host.toml",
        env!("CARGO_MANIFEST_DIR")
    );
    let file = host::load(Path::new(&path)).unwrap_or_else(|error| panic!("{error}"));
    let facts = LocalFacts {
        bgp_password: Some("not-a-secret".into()),
        target: "debian-13,frr=10.6".parse::<Target>().unwrap(),
        ..LocalFacts::of(address.parse().unwrap())
    };
    generate::render(&file, &facts).unwrap()
}

/// Every rendered file with such a name, of every host of every fleet.
fn all_named(name: &str) -> Vec<(String, OutputFile)> {
    let mut found = Vec::new();
    for (fleet, addresses) in HOSTS.iter().chain([&LARGE]) {
        for address in *addresses {
            let outputs = render(fleet, address).into_iter();
            found.extend(
                outputs
                    .filter(|output| output.path.ends_with(name))
                    .map(|output| (format!("{fleet} {address}"), output)),
            );
        }
    }
    assert!(!found.is_empty(), "no {name} anywhere");
    found
}

fn unpack(outputs: &[OutputFile], root: &Path) {
    for output in outputs {
        let path = root.join(output.path.strip_prefix("/").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &output.contents).unwrap();
    }
}

/// A script in network and mount namespaces of its own; what it starts dies with it.
fn in_namespace(script: &str, variables: &[(&str, &str)]) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(script.as_bytes()).unwrap();
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]);
    command
        .arg("sh")
        .arg("-eu")
        .arg(file.path())
        .envs(variables.iter().copied());
    let output = run(&mut command);
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!(
            "{:?} is needed by this test: {error}",
            command.get_program()
        )
    })
}

fn program(places: &[&'static str]) -> &'static str {
    places
        .iter()
        .find(|place| Path::new(place).exists())
        .unwrap_or_else(|| panic!("none of {places:?} is installed, and this test needs it"))
}

/// What FRR's own checker says about a configuration; `Err` is its complaint.
fn vtysh_check(text: &str) -> Result<(), String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let output = run(Command::new("vtysh").args(["-C", "-f"]).arg(file.path()));
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn frr_accepts_every_configuration_and_would_refuse_a_wrong_one() {
    // Before FRR 10.0 one kind of line is not known; only that may keep a file from being taken.
    let newer = "redistribute table-direct ";
    let old =
        vtysh_check("router bgp 1\n address-family ipv4 unicast\n  redistribute table-direct 9\n")
            .is_err();
    for (host, mut conf) in all_named("frr.conf") {
        if old && conf.contents.contains(newer) {
            let complaint = vtysh_check(&conf.contents).unwrap_err();
            assert!(complaint.contains(newer), "{host}: {complaint}");
            let known = conf.contents.lines().filter(|line| !line.contains(newer));
            conf.contents = known.map(|line| format!("{line}\n")).collect();
        }
        assert_eq!(vtysh_check(&conf.contents), Ok(()), "{host}");
        let wrong = conf
            .contents
            .replace("advertise-all-vni", "advertise-all-vnis");
        let wrong = wrong.replace("route-reflector-client", "reflector-client");
        assert!(vtysh_check(&wrong).is_err(), "{host}");
    }
}

#[test]
fn the_shell_that_starts_frr_understands_its_daemons_file() {
    let outputs = render("lab", "198.51.100.11");
    let daemons = outputs
        .iter()
        .find(|output| output.path.ends_with("daemons"))
        .unwrap();
    let script = format!(
        "{}\necho \"$bgpd|$vtysh_enable|$zebra_options|$MAX_FDS\"\n",
        daemons.contents
    );
    let output = run(Command::new("sh").args(["-euc", &script]));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "yes|yes|  -A 127.0.0.1 -s 90000000|10000\n"
    );
}

/// Statements of an operator's, and the daemon that reads them. pathd is not here: its check (8.4.4) does not end.
const STATEMENTS: &[(&str, &str)] = &[
    ("ospfd", "router ospf\n network 10.0.0.0/8 area 0"),
    ("ospfd", "interface eth0\n ip ospf area 0"),
    ("ospf6d", "router ospf6\n ospf6 router-id 192.0.2.1"),
    ("ospf6d", "interface eth0\n ipv6 ospf6 area 0"),
    ("ripd", "router rip\n network eth0"),
    ("ripd", "interface eth0\n ip rip authentication mode md5"),
    ("ripngd", "router ripng\n network eth0"),
    ("isisd", "router isis x\n is-type level-2-only"),
    ("isisd", "interface eth0\n ip router isis x\n isis metric 5"),
    ("fabricd", "router openfabric a\n net 49.0000.0000.0001.00"),
    ("eigrpd", "router eigrp 5"),
    (
        "eigrpd",
        "interface eth0\n ip summary-address eigrp 5 10.0.0.0/8",
    ),
    ("babeld", "router babel\n network eth0"),
    ("babeld", "interface eth0\n babel wired"),
    ("pimd", "interface eth0\n ip pim"),
    ("pimd", "interface eth0\n ip igmp"),
    ("pimd", "ip pim rp 192.0.2.1"),
    ("ldpd", "mpls ldp\n router-id 192.0.2.1"),
    ("ldpd", "l2vpn x type vpls\n bridge br0"),
    ("nhrpd", "interface eth0\n ip nhrp network-id 1"),
    ("pbrd", "pbr-map x seq 1\n match src-ip 10.0.0.0/8"),
    ("pbrd", "interface eth0\n pbr-policy x"),
    ("pbrd", "pbr table range 10000 11500"),
    ("vrrpd", "interface eth0\n vrrp 5"),
    ("bfdd", "bfd\n peer 192.0.2.1"),
];

#[test]
fn the_daemons_that_are_needed_read_what_they_are_needed_for_and_bgpd_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("extra.conf");
    let reads = |daemon: &str, text: &str| {
        fs::write(&conf, format!("{text}\n")).unwrap();
        let program = format!("/usr/lib/frr/{daemon}");
        let limited = ["-s", "KILL", "60", &program, "-C", "-f"];
        let output = run(Command::new("timeout").args(limited).arg(&conf));
        assert_ne!(output.status.code(), Some(137), "{daemon} does not end");
        let said = [output.stdout, output.stderr].concat();
        !String::from_utf8_lossy(&said).contains("No such command on config line")
    };
    for (daemon, text) in STATEMENTS {
        let needed: Vec<&str> = generate::daemons::needed(text).into_iter().collect();
        assert_eq!(needed, [*daemon], "{text}");
        assert!(reads(daemon, text), "{daemon}: {text}");
        assert!(!reads("bgpd", text), "bgpd reads it, too: {text}");
        vtysh_check(text).unwrap_or_else(|said| panic!("{text}: {said}"));
    }
}

#[test]
fn frrs_start_script_starts_what_the_operators_lines_need_and_what_they_say() {
    let extra = |frr: &str, frr_daemons: &str| {
        let mut outputs = render("lab", "198.51.100.11");
        let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
        let extra = generate::extra::Extra {
            frr: some(frr),
            frr_daemons: some(frr_daemons),
        };
        generate::extra::append(&mut outputs, &extra);
        let of = |name: &str| {
            let mut all = outputs.iter();
            let file = all.find(|output| output.path.ends_with(name)).unwrap();
            file.contents.clone()
        };
        vtysh_check(&of("frr.conf")).unwrap_or_else(|said| panic!("{said}"));
        // As the script does, with a directory for /etc/frr.
        let script = r#"
mount -t tmpfs tmpfs /etc/frr; printf %s "$DAEMONS" > /etc/frr/daemons
printf %s "$CONF" > /etc/frr/frr.conf; chown -R frr: /etc/frr
bash -c '. /usr/lib/frr/frrcommon.sh; daemon_list on off; echo $on "|" $ospfd_options' "#;
        let (daemons, conf) = (of("daemons"), of("frr.conf"));
        let said = in_namespace(script, &[("DAEMONS", &daemons), ("CONF", &conf)]);
        let (on, options) = said.split_once('|').unwrap();
        let mut on: Vec<String> = on.split_whitespace().map(str::to_string).collect();
        // Each version has an order of its own, and some have a daemon for all, which nothing turns off.
        on.sort();
        let of_all = on.iter().position(|daemon| daemon == "mgmtd");
        assert_eq!(of_all.is_some(), Path::new("/usr/lib/frr/mgmtd").exists());
        of_all.map(|at| on.remove(at));
        (on.join(" "), options.trim().to_string())
    };
    let ospf = "router ospf\n network 198.51.100.0/24 area 0\n";
    for (frr, daemons, on, options) in [
        ("", "", "bgpd staticd zebra", ""),
        (ospf, "", "bgpd ospfd staticd zebra", "-A 127.0.0.1"),
        ("", "bfdd=yes\n", "bfdd bgpd staticd zebra", ""),
        ("", "mgmtd=no\n", "bgpd staticd zebra", ""),
        (
            ospf,
            "ospfd_options=\"-A ::1\"",
            "bgpd ospfd staticd zebra",
            "-A ::1",
        ),
    ] {
        let wanted = (on.to_string(), options.to_string());
        assert_eq!(extra(frr, daemons), wanted, "{frr} {daemons}");
    }
}

/// Starts networkd on the files in `$FILES` beside an interface with the underlay address, waits
/// until `$TUNNELS` tunnels are on their bridges, and prints what `ip` sees and networkd's log.
const NETWORKD: &str = r#"
mount -t sysfs -o ro sysfs /sys          # without udev networkd waits for nobody
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network: /run/systemd/netif
mkdir -p /run/systemd/network /run/systemd/networkd.conf.d
mount -t tmpfs tmpfs /etc/systemd/network
cp "$FILES"/etc/systemd/network/* /run/systemd/network/
cp "$FILES"/etc/systemd/networkd.conf.d/* /run/systemd/networkd.conf.d/
ip link set lo up
ip link add underlay type veth peer name far
ip link set far up
ip link set underlay up
case $ADDRESS in
*:*) ip address add "$ADDRESS/64" dev underlay nodad ;;
*)   ip address add "$ADDRESS/24" dev underlay ;;
esac
"$NETWORKD" > /run/log 2>&1 &
ready() {
    test "$(ip -o link show type vxlan | grep -c ' master ')" = "$TUNNELS" &&
    test "$(ip -o -6 address show tentative | wc -l)" = 0 &&
    test "$(ip -4 route show proto static | wc -l)" = "$ROUTES"
}
tries=0
until ready; do
    tries=$((tries + 1))
    test $tries -lt 100 || { cat /run/log >&2; ip -d link >&2; ip route >&2; exit 1; }
    sleep 0.1
done
ip -j -d address
echo '%%'
ip -j route get 192.0.2.77 || echo '[]'   # no such route outside a VRF
echo '%%'
cat /run/log
"#;

fn networkd(
    outputs: &[OutputFile],
    address: &str,
    tunnels: usize,
    routes: usize,
) -> (Value, Value, String) {
    let root = tempfile::tempdir().unwrap();
    unpack(outputs, root.path());
    let networkd = program(&[
        "/usr/lib/systemd/systemd-networkd",
        "/lib/systemd/systemd-networkd",
    ]);
    let printed = in_namespace(
        NETWORKD,
        &[
            ("FILES", root.path().to_str().unwrap()),
            ("ADDRESS", address),
            ("NETWORKD", networkd),
            ("TUNNELS", &tunnels.to_string()),
            ("ROUTES", &routes.to_string()),
        ],
    );
    let mut parts = printed.split("%%\n");
    let mut json = || serde_json::from_str(parts.next().unwrap()).unwrap();
    let (links, route) = (json(), json());
    (links, route, parts.next().unwrap().to_string())
}

/// Lines of networkd's log that find fault with our files.
fn complaints(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains("10-lxmesh"))
        .filter(|line| !line.contains(": Configuring with "))
        // Known from systemd 256 on; its absence before that is what we want.
        .filter(|line| {
            !line.contains("Unknown key 'ManageForeignNextHops'")
                && !line.contains("Unknown key name 'ManageForeignNextHops'")
        })
        .collect()
}

fn link<'a>(links: &'a Value, name: &str) -> &'a Value {
    let found = links
        .as_array()
        .unwrap()
        .iter()
        .find(|link| link["ifname"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {links:#}"))
}

fn address<'a>(link: &'a Value, local: &str) -> &'a Value {
    let found = link["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .find(|address| address["local"] == local);
    found.unwrap_or_else(|| panic!("no {local} in {link:#}"))
}

#[test]
fn networkd_makes_of_the_lab_what_the_host_file_says() {
    let outputs = render("lab", "198.51.100.11");
    let (links, route, log) = networkd(&outputs, "198.51.100.11", 2, 2);
    assert_eq!(complaints(&log), [""; 0]);

    let svi = link(&links, "svi-vpc");
    assert_eq!(svi["address"], "a2:56:e1:da:07:70");
    assert_eq!(svi["mtu"], 1450);
    assert_eq!(svi["operstate"], "UP");
    let bridge = &svi["linkinfo"]["info_data"];
    assert_eq!(bridge["stp_state"], 0);
    assert_eq!(bridge["mcast_snooping"], 1);
    assert_eq!(bridge["mcast_querier"], 1);
    assert_eq!(bridge["mcast_igmp_version"], 3);
    let four = address(svi, "192.0.2.1");
    assert_eq!(
        (&four["prefixlen"], &four["scope"]),
        (&Value::from(24), &Value::from("host"))
    );
    let six = address(svi, "2001:db8::1");
    assert_eq!(
        (&six["deprecated"], &six["nodad"]),
        (&Value::from(true), &Value::from(true))
    );
    address(svi, "fe80::a056:e1ff:feda:770");

    for (name, vni, bridge, multicast) in [
        ("vxlan-vpc", 100, "svi-vpc", false),
        ("vxlan-blue", 200, "svi-blue", true),
    ] {
        let tunnel = link(&links, name);
        assert_eq!(tunnel["mtu"], 1450);
        assert_eq!(tunnel["master"], bridge);
        assert_eq!(
            tunnel["addr_info"],
            serde_json::json!([]),
            "no address of its own"
        );
        let vxlan = &tunnel["linkinfo"]["info_data"];
        assert_eq!(vxlan["id"], vni);
        assert_eq!(vxlan["local"], "198.51.100.11");
        assert_eq!(vxlan["port"], 4789);
        assert_eq!(vxlan["learning"], false);
        assert_eq!(vxlan["ttl"], 64);
        // True, or null from iproute2 7.2 on.
        assert!(vxlan.get("gbp").is_some_and(|gbp| *gbp != false), "{vxlan}");
        let port = &tunnel["linkinfo"]["info_slave_data"];
        assert_eq!(port["learning"], false);
        assert_eq!(port["neigh_suppress"], true);
        assert_eq!(port["flood"], false);
        assert_eq!(port["mcast_flood"], multicast);
    }
    // The gateway's address is everybody's: it is not the source towards instances.
    assert_eq!(route[0]["dev"], "svi-vpc");
    assert_eq!(route[0]["prefsrc"], "198.51.100.11");
}

#[test]
fn networkd_knows_every_key_of_every_fleet() {
    for (fleet, addresses) in HOSTS {
        let outputs = render(fleet, addresses[0]);
        if !outputs
            .iter()
            .any(|output| output.path.starts_with("/etc/systemd/network"))
        {
            continue;
        }
        let count = |key: &str| {
            outputs
                .iter()
                .filter(|output| output.contents.contains(key))
                .count()
        };
        // A kernel without VRFs makes no VRF; the files are read all the same.
        let routes = count("\nScope=link\n");
        let (_, _, log) = networkd(&outputs, addresses[0], count("\nKind=vxlan\nMTU"), routes);
        assert_eq!(complaints(&log), [""; 0], "{fleet}");
    }
}

/// Words of the programs that read the files: of nft, vtysh, swanctl, networkd, ip and Tera.
const WORDS: &[&str] = &[
    "accept",
    "add",
    "any",
    "bridge",
    "children",
    "connections",
    "counter",
    "deny",
    "description",
    "dev",
    "drop",
    "else",
    "end",
    "endfor",
    "exit",
    "flush",
    "for",
    "help",
    "if",
    "include",
    "interface",
    "ip",
    "iif",
    "kernel",
    "le",
    "map",
    "match",
    "meta",
    "no",
    "none",
    "null0",
    "permit",
    "pools",
    "raw",
    "secrets",
    "seq",
    "set",
    "table",
    "true",
    "type",
    "vlan",
    "vrf",
    "yes",
];

#[test]
fn networks_and_devices_that_are_called_like_words_of_the_readers_are_names_to_them() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/integration/golden/fleets/routers/host.toml"
    );
    let text = fs::read_to_string(path).unwrap();
    let head = text
        .split("[[network]]")
        .next()
        .unwrap()
        .replace("[host]\n", "");
    let uplinks = ["end", "meta", "dr*", "1*"].map(|word| format!("\"{word}\""));
    let head = format!("{head}[host]\nuplinks = [{}]\n", uplinks.join(", "));
    // The devices are called so themselves: bridges in one file, tunnels and VRFs in the other.
    for bridges in [true, false] {
        let mut text = head.clone();
        for (number, word) in WORDS.iter().enumerate() {
            // Every other one has a VRF, the rest is announced.
            let in_vrf = number % 2 == 1;
            let device = |kind: char, is_word: bool| match is_word {
                true => word.to_string(),
                false => format!("{word}.{kind}"),
            };
            let rest = match in_vrf {
                true => format!("vrf = \"{}\"\n", device('v', !bridges)),
                false => "announce = true\nhost_routes = \"main\"\n".to_string(),
            };
            text += &format!(
                "[[network]]\nname = \"{word}\"\nvni = {}\nbridge = \"{}\"\ntunnel = \"{}\"\n\
                 gateway = [\"10.{number}.0.1/24\", \"2001:db8:{number}::1/64\"]\n{rest}",
                1000 + number,
                device('b', bridges),
                device('t', !bridges && !in_vrf),
            );
        }
        let file = host::parse("words", &text).unwrap_or_else(|problems| panic!("{problems}"));
        let facts = LocalFacts {
            bgp_password: Some("not-a-secret".into()),
            target: "debian-13,frr=10.6".parse::<Target>().unwrap(),
            ..LocalFacts::of("198.51.100.11".parse().unwrap())
        };
        let outputs = generate::render(&file, &facts).unwrap();
        let of = |name: &str| {
            let mut all = outputs.iter();
            all.find(|output| output.path.ends_with(name)).unwrap()
        };
        vtysh_check(&of("frr.conf").contents).unwrap_or_else(|said| panic!("{said}"));
        for name in ["firewall.nft", "closed.nft"] {
            let script = "ip link set lo up; printf %s \"$TEXT\" | nft -c -f -";
            in_namespace(script, &[("TEXT", &of(name).contents)]);
        }
        let (links, _, log) = networkd(
            &outputs,
            "198.51.100.11",
            WORDS.len(),
            WORDS.len().div_ceil(2),
        );
        assert_eq!(complaints(&log), [""; 0]);
        for network in &file.networks {
            link(&links, network.bridge.as_str());
            link(&links, network.tunnel.as_str());
        }
    }
}

/// Loads each of `$FILES`, in the order of their names, and prints the ruleset after each.
const FIREWALL: &str = r#"
ip link set lo up
for file in "$FILES"/*; do
    nft -f "$file"
    nft -j list table inet lxmesh_host
    nft add element inet lxmesh_host vteps4 '{ 198.51.100.77 }'
done
"#;

#[test]
fn nft_loads_every_packet_filter_and_another_over_it_without_emptying_what_was_added_at_run_time() {
    let root = tempfile::tempdir().unwrap();
    let all = all_named("firewall.nft");
    for (number, (_, output)) in all.iter().enumerate() {
        fs::write(root.path().join(format!("{number:03}")), &output.contents).unwrap();
    }
    let printed = in_namespace(FIREWALL, &[("FILES", root.path().to_str().unwrap())]);
    let listings: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(listings.len(), all.len());
    for ((host, output), listing) in all.iter().zip(&listings).skip(1) {
        let objects = listing["nftables"].as_array().unwrap();
        let set = |name: &str| {
            let mut sets = objects.iter().filter_map(|object| object.get("set"));
            sets.find(|set| set["name"] == name).unwrap()["elem"].clone()
        };
        assert_eq!(
            set("vteps4"),
            serde_json::json!(["198.51.100.77"]),
            "{host}"
        );
        // What was there before is replaced and not added to.
        let rules = objects.iter().filter(|object| object.get("rule").is_some());
        let declared = output
            .contents
            .lines()
            .filter(|line| line.starts_with("\t\t") && !line.trim_start().starts_with('#'));
        assert_eq!(rules.count(), declared.count(), "{host}");
        // Nobody is locked out: only these are dropped.
        for object in objects.iter().filter_map(|object| object.get("chain")) {
            assert!(
                object.get("policy").is_none_or(|policy| policy == "accept"),
                "{host}"
            );
        }
    }
}

/// Sends what `$SEND` says from 198.51.100.11 and 192.0.2.7 to a host with the packet filter, and
/// prints how many came through to a socket, by port.
const STRANGERS: &str = r#"
mount -t tmpfs tmpfs /run
ip link add far type veth peer name near
ip netns add outside
ip link set far netns outside
ip address add 198.51.100.12/24 dev near
ip address add 192.0.2.1/24 dev near
ip link set near up
ip link set lo up
ip -n outside address add 198.51.100.11/24 dev far
ip -n outside address add 192.0.2.7/24 dev far
ip -n outside link set far up
nft -f "$FILE"
python3 "$SCRIPT"
nft -j list counters table inet lxmesh_host
"#;

const TALK: &str = r#"
import socket, subprocess, sys, time
RESULTS = []
def listen(kind, port):
    s = socket.socket(socket.AF_INET, kind); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", port)); s.settimeout(1)
    if kind == socket.SOCK_STREAM: s.listen(8)
    return s
udp = {port: listen(socket.SOCK_DGRAM, port) for port in (4789, 500, 5353)}
tcp = {port: listen(socket.SOCK_STREAM, port) for port in (179, 22)}
CLIENT = """
import socket, sys
source, kind, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
to = "198.51.100.12" if source.startswith("198") else "192.0.2.1"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
s.bind((source, 0)); s.settimeout(1)
try:
    s.connect((to, port)); s.send(b"x")
except OSError:
    pass
"""
for source in ("198.51.100.11", "192.0.2.7"):
    for kind, sockets in (("udp", udp), ("tcp", tcp)):
        for port, s in sockets.items():
            client = subprocess.Popen(["ip", "netns", "exec", "outside", sys.executable, "-c", CLIENT, source, kind, str(port)])
            client.wait()
            try:
                s.recvfrom(10) if kind == "udp" else s.accept()
                print(source, kind, port)
            except TimeoutError:
                pass
"#;

fn who_gets_through(filter: &OutputFile) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let (file, script) = (root.path().join("nft"), root.path().join("py"));
    fs::write(&file, &filter.contents).unwrap();
    fs::write(&script, TALK).unwrap();
    let printed = in_namespace(
        STRANGERS,
        &[
            ("FILE", file.to_str().unwrap()),
            ("SCRIPT", script.to_str().unwrap()),
        ],
    );
    let talk = printed.lines().filter(|line| !line.starts_with('{'));
    talk.map(str::to_string).collect()
}

#[test]
fn only_the_fabric_reaches_tunnels_and_bgp_and_nothing_else_is_touched() {
    let filter = |fleet: &str, address: &str| {
        let outputs = render(fleet, address).into_iter();
        let mut found = outputs.filter(|output| output.path.ends_with("firewall.nft"));
        found.next().unwrap()
    };
    let others = |source: &str| {
        ["udp 5353", "tcp 22"]
            .map(|what| format!("{source} {what}"))
            .to_vec()
    };
    let stranger = [vec!["192.0.2.7 udp 500".to_string()], others("192.0.2.7")].concat();
    // A supervisor of a full mesh: all others call it.
    let fleet = ["udp 4789", "udp 500", "udp 5353", "tcp 179", "tcp 22"];
    let fleet = fleet.map(|what| format!("198.51.100.11 {what}")).to_vec();
    assert_eq!(
        who_gets_through(&filter("mesh", "198.51.100.12")),
        [fleet, stranger].concat()
    );
    // With IPsec nothing of the fabric comes in cleartext, and only the fabric may negotiate.
    let negotiates = [
        vec!["198.51.100.11 udp 500".to_string()],
        others("198.51.100.11"),
    ]
    .concat();
    assert_eq!(
        who_gets_through(&filter("ipsec-psk", "198.51.100.11")),
        [negotiates, others("192.0.2.7")].concat()
    );
}

/// A daemon of its own, with its own socket and directories, that loads `$FILES`.
const CHARON: &str = r#"
mount -t tmpfs tmpfs /run
ip link set lo up
mkdir /run/swanctl /run/etc
cp -r "$FILES"/etc/swanctl/* /run/swanctl/
mkdir -p /run/swanctl/x509 /run/swanctl/x509ca /run/swanctl/private
mount --bind /run/swanctl /etc/swanctl
echo 'include conf.d/*.conf' > /etc/swanctl/swanctl.conf
mkdir -p /etc/lxmesh 2>/dev/null || true
mount -t tmpfs tmpfs /etc/lxmesh
echo 'secret = 0x000102030405060708090a0b0c0d0e0f' > /etc/lxmesh/ipsec.secret
pki --gen --type ecdsa --outform pem > /run/key
pki --self --ca --in /run/key --type ecdsa --dn CN=authority --outform pem > /etc/lxmesh/reflectors.pem
cp /etc/lxmesh/reflectors.pem /etc/swanctl/x509ca/supervisors.pem
cat > /run/strongswan.conf <<END
charon-systemd {
  load_modular = yes
  plugins {
    include /etc/strongswan.d/charon/*.conf
    vici { socket = unix:///run/charon.vici }
  }
}
include $FILES/etc/strongswan.d/*.conf
END
STRONGSWAN_CONF=/run/strongswan.conf charon-systemd > /run/log 2>&1 &
tries=0
until test -S /run/charon.vici; do
    tries=$((tries + 1))
    test $tries -lt 100 || { cat /run/log >&2; exit 1; }
    sleep 0.1
done
swanctl --load-all --uri unix:///run/charon.vici >&2
swanctl --list-conns --uri unix:///run/charon.vici
echo %%
ip xfrm policy
"#;

#[test]
fn strongswan_loads_every_configuration_and_traps_what_is_to_be_encrypted() {
    program(&["/usr/sbin/charon-systemd"]);
    for fleet in [
        "ipsec-certificates",
        "ipsec-psk",
        "ipsec-mesh",
        "ipv6-underlay",
    ] {
        let (_, addresses) = HOSTS.iter().find(|(name, _)| *name == fleet).unwrap();
        for address in *addresses {
            let root = tempfile::tempdir().unwrap();
            let outputs = render(fleet, address);
            unpack(&outputs, root.path());
            let printed = in_namespace(CHARON, &[("FILES", root.path().to_str().unwrap())]);
            let (connections, policies) = printed.split_once("%%\n").unwrap();
            let conf = outputs
                .iter()
                .find(|output| output.path.ends_with("conf.d/lxmesh.conf"))
                .unwrap();
            let declared = conf
                .contents
                .lines()
                .filter_map(|line| line.strip_suffix(" {")?.strip_prefix("  "))
                .filter(|name| name.starts_with("lxmesh-"));
            for name in declared {
                assert!(
                    connections.contains(&format!("{name}: IKEv2")),
                    "{name}\n{connections}"
                );
            }
            // One policy outwards for each child and each far prefix.
            let children = conf.contents.matches("remote_ts = ").count();
            let outwards = policies.matches("dir out ").count();
            assert!(outwards >= children, "{fleet} {address}: {policies}");
        }
    }
}

#[test]
fn the_kernel_has_every_setting_that_sysctl_d_names() {
    for name in ["60-lxmesh.conf", "60-lxmesh-ipsec.conf"] {
        for (host, output) in all_named(name) {
            for line in output.contents.lines() {
                let Some((key, _)) = line.trim_start_matches('-').split_once('=') else {
                    continue;
                };
                if line.starts_with('#') {
                    continue;
                }
                // Settings with a dash may be missing: their module may not be loaded.
                let path = Path::new("/proc/sys").join(key.replace('.', "/"));
                assert!(line.starts_with('-') || path.exists(), "{host}: {line}");
            }
        }
    }
}

#[test]
fn networkd_would_complain_about_a_key_it_does_not_know() {
    let mut outputs = render("mesh", "198.51.100.12");
    for output in &mut outputs {
        output.contents = output
            .contents
            .replace("NeighborSuppression", "NeighbourSuppression");
    }
    let (_, _, log) = networkd(&outputs, "198.51.100.12", 1, 1);
    assert!(
        complaints(&log)
            .iter()
            .any(|line| line.contains("NeighbourSuppression")),
        "{log}"
    );
}

/// Hosts in network namespaces on one bridge, each with FRR started from its generated frr.conf,
/// and a tunnel where it says so. Waits until every tunnel has `$PEERS` flood entries, then prints
/// `ADDRESS FLOOD...` per host.
const FABRIC: &str = r#"
mount -t tmpfs tmpfs /run
mkdir /run/netns /run/frr
chmod 755 "$FILES"
ip link set lo up
ip link add underlay type bridge
ip link set underlay up
number=0
for address in $ADDRESSES; do
    number=$((number + 1))
    name=h$number
    ip netns add $name
    ip link add v$number type veth peer name underlay netns $name
    ip link set v$number master underlay up
    ip -n $name link set lo up
    ip -n $name link set underlay up
    # One long prefix: no default route is needed to reach anybody.
    ip -n $name address add $address/1 dev underlay
    files=$FILES/$address
    if grep -q advertise-all-vni "$files/etc/frr/frr.conf"; then
        ip -n $name link add svi-vpc type bridge
        ip -n $name link set svi-vpc up
        ip -n $name link add vxlan-vpc type vxlan id 100 local $address dstport 4789 nolearning
        ip -n $name link set vxlan-vpc master svi-vpc up
    fi
    run=/run/frr/$name
    mkdir $run
    chown frr:frr $run
    for daemon in zebra bgpd; do
        ip netns exec $name /usr/lib/frr/$daemon -d -f /dev/null -i $run/$daemon.pid \
            -z $run/zserv.api --vty_socket $run -A 127.0.0.1 2> /dev/null
    done
    vtysh --vty_socket $run -f "$files/etc/frr/frr.conf" > $run/log 2>&1 || { cat $run/log >&2; exit 1; }
done
floods() {
    ip netns exec $1 bridge fdb show dev vxlan-vpc 2> /dev/null |
        sed -n 's/^00:00:00:00:00:00 dst \([^ ]*\) .*/\1/p' | sort | tr '\n' ' '
}
ready() {
    number=0
    for address in $ADDRESSES; do
        number=$((number + 1))
        grep -q advertise-all-vni "$FILES/$address/etc/frr/frr.conf" || continue
        test "$(floods h$number | wc -w)" = "$PEERS" || return 1
    done
}
tries=0
until ready; do
    tries=$((tries + 1))
    if test $tries -ge 300; then
        for name in $(ls /run/frr); do
            vtysh --vty_socket /run/frr/$name -c 'show bgp l2vpn evpn summary' >&2
        done
        exit 1
    fi
    sleep 0.1
done
number=0
for address in $ADDRESSES; do
    number=$((number + 1))
    echo "$address $(floods h$number)"
done
"#;

/// Each host's address and the VTEPs that its tunnel floods to.
fn fabric(fleet: &str, addresses: &[&str], peers: usize) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    for address in addresses {
        unpack(&render(fleet, address), &root.path().join(address));
    }
    program(&["/usr/lib/frr/bgpd"]);
    let printed = in_namespace(
        FABRIC,
        &[
            ("FILES", root.path().to_str().unwrap()),
            ("ADDRESSES", &addresses.join(" ")),
            ("PEERS", &peers.to_string()),
        ],
    );
    printed
        .lines()
        .map(|line| line.trim().to_string())
        .collect()
}

#[test]
fn supervisors_learn_of_one_another_through_either_reflector() {
    let found = fabric(
        "lab",
        &[
            "198.51.100.11",
            "198.51.100.12",
            "198.51.100.101",
            "198.51.100.102",
        ],
        1,
    );
    assert_eq!(
        found,
        [
            "198.51.100.11 198.51.100.12",
            "198.51.100.12 198.51.100.11",
            "198.51.100.101",
            "198.51.100.102"
        ]
    );
}

#[test]
fn reflectors_that_are_supervisors_too_learn_and_pass_on() {
    // The first two are both; one supervisor's only way to the others is by them.
    let found = fabric(
        "reflector-supervisor",
        &["198.51.100.1", "203.0.113.1", "198.51.100.9"],
        2,
    );
    assert_eq!(
        found,
        [
            "198.51.100.1 198.51.100.9 203.0.113.1",
            "203.0.113.1 198.51.100.1 198.51.100.9",
            "198.51.100.9 198.51.100.1 203.0.113.1",
        ]
    );
}

#[test]
fn supervisors_without_reflectors_peer_with_one_another() {
    let found = fabric(
        "mesh",
        &["198.51.100.11", "198.51.100.12", "198.51.100.13"],
        2,
    );
    assert_eq!(found[0], "198.51.100.11 198.51.100.12 198.51.100.13");
    assert_eq!(found.len(), 3);
}

#[test]
fn kernel_settings_are_settings_that_this_kernel_has() {
    let outputs = render("lab", "198.51.100.11");
    let sysctl = outputs
        .iter()
        .find(|output| output.path.ends_with("60-lxmesh.conf"))
        .unwrap();
    let mut checked = 0;
    for line in sysctl
        .contents
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (key, value) = line.split_once('=').unwrap();
        value.parse::<u32>().unwrap();
        // A dash before a key: not every host has it.
        let Some(key) = (!key.starts_with('-')).then_some(key) else {
            continue;
        };
        let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        assert!(path.exists(), "{key}");
        checked += 1;
    }
    assert_eq!(checked, 2);
}
