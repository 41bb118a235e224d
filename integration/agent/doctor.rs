//! `lxmesh doctor`: what it says is compared with what other programs say, and with what was done to
//! the host before. Programs that hang do not make it hang, and it changes nothing.

use super::cold_start::busy_world;
use super::support::in_netns;
use super::support::silence::Listeners;
use super::support::world::World;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

/// The exit status, and the document.
fn doctor(world: &World<'_>) -> (Option<i32>, Value) {
    let output = world.output(&["doctor", "--json"]);
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), document)
}

/// Level and text of what was found about a topic.
fn about(document: &Value, topic: &str) -> Vec<(String, String)> {
    let findings = document["findings"].as_array().unwrap().iter();
    let of = findings.filter(|finding| finding["topic"] == topic);
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_string();
    of.map(|finding| {
        let well = finding["level"] == "ok";
        assert_eq!(finding["remedy"].is_null(), well, "{finding:#}");
        (word(finding, "level"), word(finding, "text"))
    })
    .collect()
}

#[track_caller]
fn says(document: &Value, topic: &str, level: &str, text: &str) {
    let all = about(document, topic);
    let found = all.iter().any(|(l, t)| l == level && t.contains(text));
    assert!(found, "no {level} {topic} with {text:?} in {all:#?}");
}

/// Instead of FRR's: what runs is the machine's.
fn vtysh(world: &mut World<'_>, script: &str) {
    let bin = world.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let program = bin.join("vtysh");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    world.environment.insert("PATH".into(), path);
}

/// What networkd would do besides, and the same MACs in the host file as here.
fn complete(world: &mut World<'_>) {
    let mut text = world.host_file();
    world.ns.sh(
        "ip link add under type veth peer name beyond; ip link set beyond up; ip link set under up
        ip route add 203.0.113.0/24 dev under
        sysctl -qw net.ipv6.conf.all.forwarding=1",
    );
    for (name, vni) in [("vpc", 100), ("dmz", 200)] {
        let line = format!("name = \"{name}\"\n");
        let mac = format!("{line}gateway_mac = \"02:00:00:00:00:{vni:02x}\"\n");
        text = text.replace(&line, &mac);
        world.ns.sh(&format!(
            "ip link set svi-{name} mtu 1450; ip link set vxlan-{name} mtu 1450"
        ));
    }
    world.write_host_file(&text);
    // At the pass that the bridges call for, the agent finds the uplink.
    world.until("the uplink is known", |world| {
        let set = world.ns.sh("nft list set inet lxmesh_closed uplink_names");
        set.contains("\"under\"").then_some(())
    });
}

const ESTABLISHED: &str = r#"echo '{"peers":{"203.0.113.100":{"state":"Established"},"203.0.113.101":{"state":"Active"}}}'"#;

#[test]
fn findings_are_what_other_programs_say() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        vtysh(&mut world, ESTABLISHED);
        complete(&mut world);
        let listeners = Listeners::new(&world);
        let (status, document) = doctor(&world);
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), [""; 0]);

        let problems = document["problems"].as_u64().unwrap();
        assert_eq!(
            status,
            Some(if problems == 0 { 0 } else { 2 }),
            "{document:#}"
        );
        says(
            &document,
            "host",
            "ok",
            "203.0.113.1 (supervisor) of fabric test",
        );
        let release = ns.sh("uname -r");
        assert!(
            about(&document, "kernel")[0].1.contains(release.trim()),
            "{document:#}"
        );
        let programs = about(&document, "programs");
        for (program, command) in [
            ("nftables", "nft --version"),
            ("FRR", "/usr/lib/frr/bgpd --version"),
            ("systemd", "systemctl --version"),
            ("dnsmasq", "/usr/sbin/dnsmasq --version"),
        ] {
            let number = ns.sh(&format!("{command} | grep -o '[0-9][0-9.]*' | head -1"));
            let start = format!("{program} {}", number.trim());
            let found = programs.iter().any(|(_, text)| text.starts_with(&start));
            assert!(found, "no {start:?} in {programs:#?}");
        }
        // This machine's kernel may have them or not.
        ns.sh("nft add table bridge probe; nft 'add chain bridge probe c { type filter hook prerouting priority 0; }'");
        for (feature, rule) in [
            ("nft_meta_bridge", "meta ibrname a accept"),
            ("nf_conntrack_bridge", "ct state new accept"),
            ("nft_log", "log group 242"),
        ] {
            let has = ns
                .try_sh(&format!("nft add rule bridge probe c {rule}"))
                .is_ok();
            let filter = about(&document, "filter");
            let lacks = filter
                .iter()
                .any(|(level, text)| level == "problem" && text.contains(feature));
            assert_eq!(lacks, !has, "{feature}: {filter:#?}");
            assert!(!format!("{filter:?}").contains("syntax"), "{filter:#?}");
        }
        ns.sh("nft delete table bridge probe");
        says(&document, "lxd", "ok", "lxd 5.0.2");
        says(
            &document,
            "devices",
            "ok",
            "network vpc: svi-vpc and vxlan-vpc, MTU 1450",
        );
        says(&document, "devices", "ok", "network dmz");
        says(&document, "underlay", "ok", "1500 bytes");
        says(&document, "bgp", "ok", "1 EVPN sessions are established");
        says(&document, "agent", "ok", "in step, 4 NICs");
        let text = world.output(&["doctor"]);
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.contains("ok       agent: in step"), "{text}");

        ns.sh("sysctl -qw net.ipv4.ip_forward=0
            ip link set under mtu 1400
            ip link set svi-vpc mtu 1400
            ip link delete vxlan-dmz");
        vtysh(&mut world, "echo '{\"peers\":{}}'");
        world.stop();
        let (status, document) = doctor(&world);
        assert_eq!(status, Some(2));
        says(
            &document,
            "sysctl",
            "problem",
            "net.ipv4.ip_forward is 0, not 1",
        );
        says(
            &document,
            "underlay",
            "problem",
            "the way to 203.0.113.100 carries 1400 bytes, not 1500",
        );
        says(
            &document,
            "devices",
            "problem",
            "svi-vpc has MTU 1400, not 1450",
        );
        says(
            &document,
            "devices",
            "problem",
            "tunnel vxlan-dmz does not exist",
        );
        says(
            &document,
            "bgp",
            "problem",
            "203.0.113.100 is not configured",
        );
        says(&document, "agent", "problem", "does not answer");
    });
}

#[test]
fn nothing_that_hangs_makes_it_hang() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let sleep = format!("sleep 1{:08}", std::process::id());
        vtysh(&mut world, &sleep);
        let silent = ["lxd", "control"].map(|name| {
            let path = world.path(&format!("silent-{name}.sock"));
            UnixListener::bind(path).unwrap()
        });
        let text = world.host_file();
        let text = text.replace("/lxd.sock", "/silent-lxd.sock");
        world.write_host_file(&text.replace("/control.sock", "/silent-control.sock"));
        let (status, document) = doctor(&world);
        assert_eq!(status, Some(2));
        says(&document, "bgp", "problem", "not within 10 s");
        says(&document, "lxd", "problem", "does not answer within 10 s");
        says(&document, "agent", "problem", "no answer within 5 s");
        drop(silent);
        // What was run has ended with it.
        let left = ns.sh(&format!("pgrep -fx '{sleep}' || true"));
        assert_eq!(left, "");
    });
}

#[test]
fn a_host_file_with_a_mistake_is_an_error() {
    in_netns(|ns| {
        let world = World::new(ns);
        world.write_host_file("version = ");
        let output = world.output(&["doctor"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty());
    });
}
