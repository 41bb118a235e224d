//! `lxmesh-gen` as one types it: what it prints where, and its exit status.

#![expect(
    clippy::disallowed_methods,
    reason = "nobody reads a test's files half written"
)]

use lxmesh::generate::write::MANIFEST;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/golden/fleets/lab/host.toml")
}

fn lxmesh_gen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lxmesh-gen"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_says_what_a_correct_file_means_for_a_host() {
    let path = lab();
    let output = lxmesh_gen(&["check", path.to_str().unwrap(), "--host", "198.51.100.12"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text(&output.stdout).starts_with(&format!(
            "{}: correct\n\
             fabric lab: AS 64500, underlay MTU 1500, 2 reflectors\n\
             network vpc: VNI 100, svi-vpc and vxlan-vpc, MTU 1450, gateway 192.0.2.1/24 2001:db8::1/64 (a2:56:e1:da:07:70)\n\
             network blue: VNI 200, svi-blue and vxlan-blue, MTU 1450, gateway 203.0.113.1/24 2001:db8:b::1/64 (02:1d:67:0b:4e:0d)\n\
             this host: 198.51.100.12 (supervisor)\n",
            path.display()
        )),
        "{}",
        text(&output.stdout)
    );
    // What the programs here say of their files.
    for line in [
        "/etc/frr/frr.conf: vtysh takes it\n",
        "/etc/lxmesh/closed.nft: nft takes it\n",
        "/etc/lxmesh/firewall.nft: nft takes it\n",
    ] {
        assert!(
            text(&output.stdout).contains(line),
            "{}",
            text(&output.stdout)
        );
    }
}

#[test]
fn mtu_shows_the_sum_line_by_line() {
    let path = lab().with_file_name("../ipsec-psk/host.toml");
    let output = lxmesh_gen(&["mtu", path.to_str().unwrap()]);
    assert_eq!(
        text(&output.stdout),
        "  9000  underlay: the largest IP packet between hosts
   -20  IPv4 header
    -8  UDP header of ESP (RFC 3948)
    -8  ESP header
    -8  ESP initialisation vector
   -16  ESP integrity check value
     0  ESP padding to a multiple of 4
    -2  ESP pad length and next header
    -8  UDP header
    -8  VXLAN header
   -14  Ethernet header inside
  8908  overlay: the largest IP packet between instances
network vpc: 8908
"
    );
}

#[test]
fn a_target_is_named_and_an_unknown_one_refused() {
    let path = lab();
    let path = path.to_str().unwrap();
    let with = |target: &str| {
        lxmesh_gen(&[
            "render",
            "--host-file",
            path,
            "--host",
            "198.51.100.12",
            "--target",
            target,
        ])
    };
    let old = with("debian-12");
    assert!(!text(&old.stdout).contains("ManageForeignNextHops"));
    assert!(text(&old.stderr).contains("note: FRR 8.4.4 of target debian-12 is older than 9.0.1"));
    assert!(text(&with("debian-13").stdout).contains("ManageForeignNextHops=no"));
    let unknown = with("debian-9");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("remedy: write detect, debian-13"));
}

#[test]
fn a_bgp_password_is_read_from_its_file_or_refused_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    let file = directory.path().join("host.toml");
    let host_file = fs::read_to_string(lab()).unwrap();
    let bgp = format!("\n[bgp]\npassword_file = \"{}\"\n", password.display());
    fs::write(&file, host_file + &bgp).unwrap();
    let render = || {
        lxmesh_gen(&[
            "render",
            "--host-file",
            file.to_str().unwrap(),
            "--host",
            "198.51.100.12",
        ])
    };
    let missing = render();
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        text(&missing.stderr).contains("bgp.password_file: "),
        "{}",
        text(&missing.stderr)
    );
    fs::write(&password, "tell-nobody\n").unwrap();
    assert!(text(&render().stdout).contains(" neighbor reflectors password tell-nobody\n"));
    fs::write(&password, "two words\n").unwrap();
    assert!(text(&render().stderr).contains("remedy: write the password"));
}

#[test]
fn check_reports_all_problems_on_standard_error_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.toml");
    fs::write(&path, "version = 1\n[fabric]\nasn = 0\nnmae = \"x\"\n").unwrap();
    let output = lxmesh_gen(&["check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let report = text(&output.stderr);
    for part in [
        ":3:7: fabric.asn: 0",
        ":4:1: unknown key \"nmae\"",
        "did you mean \"name\"?",
        "has no \"supervisors\"",
    ] {
        assert!(report.contains(part), "{part} is missing:\n{report}");
    }
}

#[test]
fn a_missing_file_and_a_stranger_fail_with_a_remedy() {
    let path = lab();
    for arguments in [
        &["check", "/nonexistent"][..],
        &["check", path.to_str().unwrap(), "--host", "192.0.2.200"],
        &[
            "render",
            "--host-file",
            path.to_str().unwrap(),
            "--host",
            "192.0.2.200",
        ],
    ] {
        let output = lxmesh_gen(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains("remedy: "), "{arguments:?}");
    }
}

#[test]
fn wrong_arguments_have_a_status_of_their_own() {
    for arguments in [
        &["paint"][..],
        &["render", "--force"],
        &["render", "--host", "there"],
    ] {
        assert_eq!(
            lxmesh_gen(arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}

#[test]
fn render_prints_without_a_root_and_writes_with_one() {
    let path = lab();
    let common = [
        "render",
        "--host-file",
        path.to_str().unwrap(),
        "--host",
        "198.51.100.101",
    ];
    let printed = text(&lxmesh_gen(&common).stdout);
    assert!(
        printed.starts_with("==> /etc/frr/daemons (mode 0640)\n# Managed by lxmesh-gen"),
        "{printed}"
    );
    let root = tempfile::tempdir().unwrap();
    let write = [&common[..], &["--root", root.path().to_str().unwrap()]].concat();
    let output = lxmesh_gen(&write);
    assert_eq!(
        text(&output.stdout),
        "/etc/frr/daemons: created\n/etc/frr/frr.conf: created\n\
         \
         /etc/lxmesh/firewall.nft: created\n\
         /etc/systemd/system/lxmesh-firewall.service: created\n\
         /etc/systemd/system/multi-user.target.d/lxmesh-firewall.conf: created\n"
    );
    assert!(root.path().join(MANIFEST.trim_start_matches('/')).exists());
    fs::write(root.path().join("etc/frr/frr.conf"), "! mine\n").unwrap();
    let output = lxmesh_gen(&write);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(
        complaint.starts_with(
            "will not overwrite /etc/frr/frr.conf: it was not written by lxmesh-gen\n\
             --- /etc/frr/frr.conf\n+++ /etc/frr/frr.conf\n@@ -1 +1,"
        ),
        "{complaint}"
    );
    assert!(
        complaint.contains("\n-! mine\n+! Managed by lxmesh-gen"),
        "{complaint}"
    );
    assert!(complaint.ends_with(
        "  remedy: move the changes to the host file, then `lxmesh-gen adopt FILE` for each; a copy is kept\n"
    ), "{complaint}");
    let output = lxmesh_gen(&[&write[..], &["--force"]].concat());
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn schema_prints_json() {
    let output = lxmesh_gen(&["schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["title"], "LXMesh host file");
}
