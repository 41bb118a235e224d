//! `lxmesh-gen` as one types it: what it prints where, and its exit status.

#![expect(
    clippy::disallowed_methods,
    reason = "nobody reads a test's files half written"
)]

use lxmesh::generate::write::{self, MANIFEST};
use std::fs;
use std::os::unix::fs::PermissionsExt;
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
fn check_warns_of_a_resolver_that_instances_do_not_reach() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.toml");
    let lines = fs::read_to_string(lab()).unwrap();
    let dns = "vni     = 100\ndns     = [\"198.51.100.12\", \"9.9.9.9\"]";
    assert!(lines.contains("vni     = 100"), "{lines}");
    fs::write(&path, lines.replacen("vni     = 100", dns, 1)).unwrap();
    let output = lxmesh_gen(&["check", path.to_str().unwrap(), "--host", "198.51.100.12"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let warnings: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("warning"))
        .collect();
    assert_eq!(warnings.len(), 1, "{said}");
    assert!(
        warnings[0].contains("network vpc hands out the DNS server 198.51.100.12"),
        "{said}"
    );
    // The remedy is true.
    let services = "services = [\"udp/53@198.51.100.12\", \"tcp/53@198.51.100.12\"]";
    let lines = fs::read_to_string(&path).unwrap();
    let opened: Vec<&str> = lines
        .lines()
        .map(|line| {
            if line.starts_with("services") {
                services
            } else {
                line
            }
        })
        .collect();
    assert!(opened.contains(&services), "{lines}");
    fs::write(&path, opened.join("\n")).unwrap();
    let output = lxmesh_gen(&["check", path.to_str().unwrap(), "--host", "198.51.100.12"]);
    assert!(
        !text(&output.stdout).contains("warning"),
        "{}",
        text(&output.stdout)
    );
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

/// Every file below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path],
        })
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn check_warns_of_secrets_that_others_may_read_or_replace() {
    let directory = tempfile::tempdir().unwrap();
    // Whoever cannot enter it reads nothing in it.
    set_mode(directory.path(), 0o755);
    let inside = directory.path().join("keys");
    fs::create_dir(&inside).unwrap();
    let (password, psk) = (inside.join("password"), inside.join("psk"));
    fs::write(&password, "tell-nobody\n").unwrap();
    fs::write(&psk, format!("secret = 0x{}\n", "0f".repeat(32))).unwrap();
    let host_file = lab().with_file_name("../ipsec-psk/host.toml");
    let text_of = fs::read_to_string(host_file).unwrap();
    let keys = |line: &str| !line.starts_with("psk_file") && !line.starts_with("password_file");
    let mut lines: Vec<String> = text_of
        .lines()
        .filter(|line| keys(line))
        .map(str::to_string)
        .collect();
    let at = lines.iter().position(|line| line == "[ipsec]").unwrap();
    lines.insert(at + 1, format!("psk_file = \"{}\"", psk.display()));
    match lines.iter().position(|line| line == "[bgp]") {
        Some(at) => lines.insert(
            at + 1,
            format!("password_file = \"{}\"", password.display()),
        ),
        None => lines.push(format!("[bgp]\npassword_file = \"{}\"", password.display())),
    }
    let path = directory.path().join("host.toml");
    fs::write(&path, lines.join("\n")).unwrap();
    let warnings = |arguments: &[&str]| -> Vec<String> {
        let output = lxmesh_gen(&[&["check", path.to_str().unwrap()], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(
            !said.contains("tell-nobody") && !said.contains("0f0f"),
            "{said}"
        );
        let here = |line: &&str| line.contains(&directory.path().display().to_string());
        said.lines()
            .filter(here)
            .skip(1)
            .map(str::to_string)
            .collect()
    };
    set_mode(&password, 0o640);
    set_mode(&psk, 0o600);
    assert_eq!(warnings(&[]), [""; 0]);
    set_mode(&password, 0o644);
    set_mode(&psk, 0o606);
    let (shown, keys) = (password.display(), inside.display());
    let every = "every user of this host may";
    let replace = "if others than root can log in here, replace the secret, too";
    assert_eq!(
        warnings(&[]),
        [
            format!("warning: bgp.password_file: {shown} has mode 0644: {every} read it"),
            format!("  remedy: chmod o= {shown}; {replace}"),
            format!(
                "warning: ipsec.psk_file: {} has mode 0606: {every} read and change it",
                psk.display()
            ),
            format!("  remedy: chmod o= {}; {replace}", psk.display()),
        ]
    );
    // Files of this host are no other host's.
    let other = warnings(&["--host", "198.51.100.11"]);
    assert!(
        !other.iter().any(|line| line.starts_with("warning")),
        "{other:?}"
    );
    set_mode(&password, 0o600);
    set_mode(&psk, 0o600);
    set_mode(&inside, 0o757);
    assert_eq!(
        warnings(&[]),
        [
            format!(
                "warning: bgp.password_file: {keys}, above {shown}, has mode 0757: {every} put another file in its place"
            ),
            format!("  remedy: chmod o-w {keys}"),
        ]
    );
    set_mode(&inside, 0o755);
    std::os::unix::fs::chown(&password, Some(64_300), None).unwrap();
    assert_eq!(
        warnings(&[]),
        [
            format!(
                "warning: bgp.password_file: {shown} belongs to user 64300, who may read and change it"
            ),
            format!("  remedy: chown root {shown}"),
        ]
    );
}

#[test]
fn what_has_a_secret_in_it_is_written_for_nobody_else_to_read() {
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    let file = directory.path().join("host.toml");
    fs::write(&password, "tell-nobody\n").unwrap();
    let host_file = fs::read_to_string(lab()).unwrap();
    let bgp = format!("\n[bgp]\npassword_file = \"{}\"\n", password.display());
    fs::write(&file, host_file + &bgp).unwrap();
    let root = directory.path().join("root");
    fs::create_dir(&root).unwrap();
    let render = || {
        let output = Command::new("sh")
            .args([
                "-c",
                "umask 0; exec \"$@\"",
                "sh",
                env!("CARGO_BIN_EXE_lxmesh-gen"),
                "render",
                "--host",
                "198.51.100.12",
                "--host-file",
            ])
            .args([&file, Path::new("--root"), &root])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    };
    render();
    let manifest = write::under(&root, Path::new(MANIFEST));
    // As an older version has left it.
    set_mode(&manifest, 0o644);
    render();
    let files = files_below(&root);
    let secret = |path: &&PathBuf| fs::read_to_string(path).unwrap().contains("tell-nobody");
    assert_eq!(files.iter().filter(secret).count(), 1, "{files:?}");
    for path in files.iter().filter(secret).chain([&manifest]) {
        assert_eq!(mode(path) & 0o7, 0, "{} {:o}", path.display(), mode(path));
    }
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
        "  remedy: move the changes to the host file, then `lxmesh-gen adopt FILE` for each; a copy is kept; \
         lines of your own for FRR go to /etc/lxmesh/extra/frr.conf and /etc/lxmesh/extra/frr-daemons\n"
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
