//! `lxmesh-gen apply` on hosts that run: two supervisors and a reflector in namespaces of their own,
//! with real FRR. What breaks BGP is undone by itself; what does not keeps its sessions. networkd's
//! part is in the lab.

use lxmesh::generate::write::MANIFEST;

use crate::host::{Host, run, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

const GEN: &str = env!("CARGO_BIN_EXE_lxmesh-gen");

struct Fabric {
    a: Host,
    _b: Host,
    _reflector: Host,
}

/// What apply writes is the host's own; what the machine has there is left alone.
const OWN_DIRECTORIES: &str = "
for directory in systemd sysctl.d modules-load.d; do
    mkdir -p /run/test/etc/$directory /etc/$directory
    mount --bind /run/test/etc/$directory /etc/$directory
done
mkdir /run/test/lib
mount --bind /run/test/lib /var/lib";

impl Fabric {
    fn new() -> Self {
        let reflector = Host::new("198.51.100.101");
        reflector.sh("ip link add fabric type bridge; ip address add 198.51.100.101/24 dev fabric; ip link set fabric up");
        reflector.start_frr("zebra bgpd");
        let join = |address, cable: &str| {
            let host = Host::new(address);
            let link = format!(
                "ip link add name {cable} type veth peer name underlay netns {}; ip link set {cable} master fabric up",
                host.pid()
            );
            let target = reflector.pid().to_string();
            run(Command::new("nsenter").args(["--net", "--target", &target, "sh", "-euc", &link]));
            host.sh(&format!(
                "ip address add {address}/24 dev underlay; ip link set underlay up"
            ));
            host.make_devices();
            host.start_frr("zebra bgpd");
            host
        };
        let a = join("198.51.100.11", "to-a");
        let b = join("198.51.100.12", "to-b");
        a.sh(OWN_DIRECTORIES);
        // Files are there as they are rendered; from now on they are ours.
        a.sh(&format!(
            "{GEN} render --target debian-13 --host-file /run/test/host.toml --root /"
        ));
        let fabric = Fabric {
            a,
            _b: b,
            _reflector: reflector,
        };
        assert_eq!(fabric.apply("", ""), "nothing to do\nstatus 0\n");
        until("the session and the other host's route", &true, || {
            fabric.is_well()
        });
        fabric
    }

    /// Applies the host file, changed by a sed script; what it said, and its status.
    fn apply(&self, sed: &str, words: &str) -> String {
        self.a.sh(&format!(
            "sed '{sed}' /run/test/host.toml > /run/changed.toml
             {GEN} apply --target debian-13 --host-file /run/changed.toml {words} 2>&1 && echo status 0 || echo status $?"
        ))
    }

    fn neighbours(&self) -> Value {
        let text = self.a.sh("vtysh -c 'show bgp l2vpn evpn summary json'");
        serde_json::from_str::<Value>(&text).unwrap()["peers"].clone()
    }

    fn is_well(&self) -> bool {
        self.neighbours()["198.51.100.101"]["state"] == "Established"
            && self
                .a
                .sh("bridge fdb show dev vxlan-vpc")
                .contains("dst 198.51.100.12")
    }

    /// How often the session with the reflector came up.
    fn sessions(&self) -> Value {
        let text = self
            .a
            .sh("vtysh -c 'show bgp neighbors 198.51.100.101 json'");
        let all: Value = serde_json::from_str(&text).unwrap();
        all["198.51.100.101"]["connectionsEstablished"].clone()
    }

    fn conf(&self) -> String {
        self.a.sh(
            "cat /etc/frr/frr.conf; vtysh -c 'show running-config' | grep -E '^router|^ neighbor'",
        )
    }

    fn is_settled(&self) -> bool {
        self.a.sh("ls /var/lib/lxmesh-gen") == "applied.toml\nlock\n"
    }
}

const ADD_REFLECTOR: &str =
    r#"s/^reflectors.*/reflectors = ["198.51.100.101", "198.51.100.102", "198.51.100.103"]/"#;
const WRONG_ASN: &str = "s/^asn .*/asn = 64999/";
const WRONG_REFLECTOR: &str = r#"s/^reflectors.*/reflectors = ["198.51.100.150"]/"#;

/// A host without the package that has frr-reload.py.
const NO_RELOAD: &str = "cp -a /usr/lib/frr /run/lib-frr; rm /run/lib-frr/frr-reload.py; mount --bind /run/lib-frr /usr/lib/frr";

#[test]
fn a_new_reflector_costs_no_session_with_and_without_frrs_own_reload() {
    for prepare in ["", NO_RELOAD] {
        let fabric = Fabric::new();
        fabric.a.sh(prepare);
        let before = fabric.sessions();
        let said = fabric.apply(ADD_REFLECTOR, "");
        assert!(said.ends_with("applied\nstatus 0\n"), "{said}");
        assert!(
            said.contains("a session with 198.51.100.103 is added"),
            "{said}"
        );
        assert!(!fabric.neighbours()["198.51.100.103"].is_null());
        assert_eq!(fabric.sessions(), before, "no session was started anew");
        // And away again.
        let said = fabric.apply("", "");
        assert!(said.ends_with("applied\nstatus 0\n"), "{said}");
        assert!(fabric.neighbours()["198.51.100.103"].is_null());
        assert_eq!(fabric.sessions(), before);
        assert!(fabric.is_settled());
    }
}

/// Applies what breaks BGP, and sees it undone; what was said names each of the losses.
fn is_undone(prepare: &str, sed: &str, losses: &[&str]) {
    let fabric = Fabric::new();
    fabric.a.sh(prepare);
    let before = fabric.conf();
    let said = fabric.apply(sed, "--health-limit 5");
    assert!(said.ends_with("status 1\n"), "{said}");
    for part in losses.iter().chain(&["everything is as it was before"]) {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
    assert_eq!(fabric.conf(), before);
    until("the session is back", &true, || fabric.is_well());
    assert!(fabric.is_settled());
}

const NO_TYPE_3: &str = "198.51.100.12 no longer announces VNI 100";

#[test]
fn a_wrong_as_number_is_undone_with_and_without_frrs_own_reload() {
    let session = "the BGP session with 198.51.100.101, which was established, is not";
    for prepare in ["", NO_RELOAD] {
        is_undone(prepare, WRONG_ASN, &[session, NO_TYPE_3]);
    }
}

#[test]
fn a_wrong_reflector_is_undone() {
    is_undone("", WRONG_REFLECTOR, &[NO_TYPE_3]);
}

#[test]
fn a_process_killed_at_any_step_is_undone_by_its_guard() {
    let fabric = Fabric::new();
    let old = fabric.conf();
    for step in 1.. {
        let said = fabric.a.sh(&format!(
            "sed '{WRONG_ASN}' /run/test/host.toml > /run/changed.toml
             LXMESH_TEST_CRASH_AT={step} {GEN} apply --target debian-13 --host-file /run/changed.toml --no-health > /run/said 2>&1 &&
                 echo applied || true"
        ));
        if said == "applied\n" {
            assert!(step > 8, "only {step} steps");
            break;
        }
        until(&format!("step {step}: finished or undone"), &false, || {
            fabric
                .a
                .sh("ls /var/lib/lxmesh-gen")
                .contains("journal.json")
        });
        if fabric.conf().contains("router bgp 64999") {
            // It was kept already when it died; the guard has finished it.
            fabric.a.sh(&format!(
                "{GEN} apply --target debian-13 --host-file /run/test/host.toml --no-health"
            ));
        }
        assert_eq!(fabric.conf(), old, "step {step}");
        until(&format!("step {step}: the session is back"), &true, || {
            fabric.is_well()
        });
    }
}

#[test]
fn what_nobody_confirms_is_undone_and_what_somebody_confirms_stays() {
    let fabric = Fabric::new();
    let before = fabric.conf();
    let said = fabric.apply(ADD_REFLECTOR, "--confirm 5");
    assert!(said.ends_with("status 0\n"), "{said}");
    assert_ne!(fabric.conf(), before);
    until("nobody answered", &true, || fabric.is_settled());
    assert_eq!(fabric.conf(), before);

    let said = fabric.apply(ADD_REFLECTOR, "--confirm 600");
    assert!(said.ends_with("status 0\n"), "{said}");
    assert_eq!(fabric.a.sh(&format!("{GEN} confirm")), "kept\n");
    assert!(fabric.is_settled());
    assert_ne!(fabric.conf(), before);
    assert!(fabric.is_well());
}

/// The names of a text for nft as an earlier version had them, and its way to empty chains.
const EARLIER: &str = "\
    s/filter_in/arrive/; s/to_tunnel/inward/; s/fabric_hosts/hosts/; s/from_strangers/strangers/
    s/^flush table inet lxmesh_host/flush chain inet lxmesh_host arrive\\n\
    flush chain inet lxmesh_host inward\\nflush chain inet lxmesh_host by_uplink/";

#[test]
fn chains_of_an_earlier_packet_filter_go_with_its_text_and_come_back_with_it() {
    let fabric = Fabric::new();
    let filter = "/etc/lxmesh/firewall.nft";
    fabric.a.sh(&format!(
        "digest() {{ sha256sum {filter} | cut -d' ' -f1; }}
         now=$(digest); sed -i '{EARLIER}' {filter}; sed -i s/$now/$(digest)/ {MANIFEST}
         nft delete table inet lxmesh_host 2>/dev/null || true; nft -f {filter}
         nft add element inet lxmesh_host vteps4 '{{ 198.51.100.77 }}'"
    ));
    let listing = || {
        let text = fabric.a.sh("nft -s list table inet lxmesh_host");
        let (_, parts) = text.split_once('\n').unwrap();
        // What is made anew stands behind what stayed.
        let parts: BTreeSet<&str> = parts.split("\n\t}").map(str::trim).collect();
        parts.into_iter().collect::<Vec<_>>().join("\n")
    };
    let before = listing();
    assert!(before.contains("chain inward {") && before.contains("198.51.100.77"));
    let said = fabric.apply(ADD_REFLECTOR, "--no-health --confirm 5");
    assert_ne!(listing(), before, "{said}");
    until("nobody has confirmed", &true, || fabric.is_settled());
    assert_eq!(listing(), before);
    let said = fabric.apply(ADD_REFLECTOR, "--no-health");
    assert!(said.ends_with("applied\nstatus 0\n"), "{said}");
    let now = listing();
    for gone in ["arrive", "chain inward", "set hosts4", "counter strangers"] {
        assert!(
            before.contains(gone) && !now.contains(gone),
            "{gone}:\n{now}"
        );
    }
    assert!(
        now.contains("chain filter_in {") && now.contains("198.51.100.77"),
        "{now}"
    );
}
