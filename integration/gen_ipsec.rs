//! Rendered IPsec at work: hosts with strongSwan on their generated files, tunnels between them,
//! and a look at the wire. Many kernels of test machines have no ESP, so these run on Debian's
//! user-mode kernel, which is a program like any other. Needs the packages that `integration/test`
//! installs; without them these tests fail.

#![expect(
    clippy::disallowed_methods,
    reason = "nobody reads a test's files half written"
)]

use lxmesh::generate::{self, LocalFacts};
use lxmesh::host;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const KERNEL: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";

/// Hosts: name and underlay address. The first is 192.0.2.1 in the overlay, and so on.
type Hosts = &'static [(&'static str, &'static str)];

const FLEET: &str = r#"
version = 1
[fabric]
name        = "wire"
asn         = 64500
reflectors  = ["198.51.100.101"]
supervisors = ["198.51.100.0/24"]
[[network]]
name    = "vpc"
vni     = 100
gateway = ["192.0.2.254/24"]
[ipsec]
enabled = true
"#;

/// Everything that the scenario in the user-mode kernel reads.
struct Scene {
    work: tempfile::TempDir,
}

impl Scene {
    fn new(ipsec: &str, hosts: Hosts, pings: &[(&str, &str, &str)]) -> Self {
        let scene = Scene {
            work: tempfile::tempdir().unwrap(),
        };
        let file = host::parse("host.toml", &format!("{FLEET}{ipsec}"))
            .unwrap_or_else(|problems| panic!("{problems}"));
        for (name, address) in hosts {
            let facts = LocalFacts {
                name: (*name).into(),
                ..LocalFacts::of(address.parse().unwrap())
            };
            for output in generate::render(&file, &facts).unwrap() {
                let path = output.path.strip_prefix("/").unwrap();
                scene.put(Path::new(name).join(path), &output.contents);
            }
            scene.put(Path::new(name).join("address"), address);
        }
        let names: Vec<&str> = hosts.iter().map(|(name, _)| *name).collect();
        let pings: Vec<String> = pings
            .iter()
            .map(|(from, to, address)| format!("{from},{to},{address}"))
            .collect();
        scene.put("hosts", &names.join(" "));
        scene.put("pings", &pings.join(" "));
        scene.put("mtu", &file.networks[0].mtu.to_string());
        scene.put(
            "secret",
            "secret = 0x000102030405060708090a0b0c0d0e0f101112131415161718\n",
        );
        scene.put("scenario", include_str!("ipsec/scenario"));
        scene.put("init", include_str!("ipsec/init"));
        fs::create_dir_all(scene.path("modules/lib")).unwrap();
        symlink(MODULES, scene.path("modules/lib/modules")).unwrap();
        scene
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.work.path().join(path)
    }

    fn put(&self, path: impl AsRef<Path>, contents: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Boots, and returns the results.
    fn run(&self) -> BTreeMap<String, String> {
        for needed in [
            KERNEL,
            MODULES,
            "/usr/sbin/charon-systemd",
            "/usr/sbin/modprobe",
        ] {
            assert!(
                Path::new(needed).exists(),
                "{needed} is needed by this test"
            );
        }
        sh("chmod +x init", self.work.path());
        let work = self.work.path().display();
        let output = Command::new("timeout")
            .args(["--kill-after=10", "600", KERNEL, "mem=768M", "quiet", "ro"])
            .args([
                "root=/dev/root",
                "rootfstype=hostfs",
                "rootflags=/",
                "con0=null,fd:1",
                "con=null",
            ])
            .arg(format!("init={work}/init"))
            .arg(format!("work={work}"))
            .env("TMPDIR", self.work.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(
            said.contains("STATUS 0"),
            "{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        if std::env::var_os("VERBOSE").is_some() {
            println!("{said}");
        }
        let results = said.lines().filter_map(|line| line.strip_prefix("RESULT "));
        let pairs = results.filter_map(|line| line.split_once(' '));
        pairs
            .map(|(what, value)| (what.to_string(), value.to_string()))
            .collect()
    }
}

fn sh(script: &str, directory: &Path) {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn with_a_shared_key_no_first_packet_is_lost_and_none_is_in_cleartext_or_in_pieces() {
    const HOSTS: Hosts = &[
        ("a", "198.51.100.11"),
        ("b", "198.51.100.12"),
        ("rr", "198.51.100.101"),
    ];
    for (more, wire) in [("", "esp"), ("udp_encapsulation = true\n", "esp in udp")] {
        let ipsec = format!("psk_file = \"/etc/lxmesh/ipsec.secret\"\n{more}");
        let scene = Scene::new(&ipsec, HOSTS, &[("a", "b", "192.0.2.2")]);
        scene.put("bgp", "");
        let results = scene.run();
        let result = |what: &str| results[what].as_str();
        // In UDP, packets that wait are lost now and then, so there only those after are counted on.
        let enough = if more.is_empty() { "5" } else { "1" };
        assert!(result("ping-a-b") >= enough, "{wire}: {results:?}");
        assert_eq!(result("bgp"), "hello", "{wire}: {results:?}");
        assert_eq!(result("cleartext"), "0", "{wire}: {results:?}");
        assert!(
            result("esp").parse::<u32>().unwrap() > 10,
            "{wire}: {results:?}"
        );
        // The computed MTU is what fits, and not a byte less than that.
        assert_eq!(
            (result("full-passes"), result("full-fragments")),
            ("yes", "0"),
            "{wire}: {results:?}"
        );
        assert_ne!(result("more-fragments"), "0", "{wire}: {results:?}");
    }
}

/// One authority for supervisors and one for reflectors, a stranger's, and a list of what is revoked.
const AUTHORITIES: &str = r#"
for ca in supervisors reflectors strangers; do
    pki --gen --type ecdsa --size 256 --outform pem > $ca.key
    pki --self --ca --in $ca.key --type ecdsa --dn "CN=$ca" --outform pem > $ca.pem
done
issue() {
    mkdir -p $1/etc/swanctl/x509 $1/etc/swanctl/x509ca $1/etc/swanctl/x509crl $1/etc/swanctl/private
    pki --gen --type ecdsa --size 256 --outform pem > $1/etc/swanctl/private/host.pem
    pki --pub --in $1/etc/swanctl/private/host.pem --type ecdsa |
        pki --issue --cacert $2.pem --cakey $2.key --dn "CN=$1" --san $1.example.org --outform pem \
        > $1/etc/swanctl/x509/host.pem
}
issue a supervisors
issue b supervisors
issue rr reflectors
issue revoked supervisors
issue stranger strangers
pki --signcrl --cacert supervisors.pem --cakey supervisors.key --reason key-compromise \
    --cert revoked/etc/swanctl/x509/host.pem --outform pem > supervisors.crl
pki --signcrl --cacert reflectors.pem --cakey reflectors.key --outform pem > reflectors.crl
for host in a b rr revoked stranger; do
    cp supervisors.pem reflectors.pem $host/etc/swanctl/x509ca/
    cp supervisors.crl reflectors.crl $host/etc/swanctl/x509crl/
done
# They would believe anybody.
cp strangers.pem stranger/etc/swanctl/x509ca/
"#;

#[test]
fn with_certificates_a_revoked_host_and_one_of_another_authority_stay_outside() {
    const HOSTS: Hosts = &[
        ("a", "198.51.100.11"),
        ("b", "198.51.100.12"),
        ("rr", "198.51.100.101"),
        ("revoked", "198.51.100.14"),
        ("stranger", "198.51.100.15"),
    ];
    let ipsec = "identity = \"*.example.org\"\nca = [\"supervisors.pem\"]\nreflector_ca = [\"reflectors.pem\"]\nrevocation = \"strict\"\n";
    let scene = Scene::new(
        ipsec,
        HOSTS,
        &[
            ("a", "b", "192.0.2.2"),
            ("revoked", "a", "192.0.2.1"),
            ("stranger", "b", "192.0.2.2"),
        ],
    );
    sh(AUTHORITIES, scene.work.path());
    scene.put("bgp", "");
    let results = scene.run();
    let result = |what: &str| results[what].as_str();
    assert_eq!(result("ping-a-b"), "5", "{results:?}");
    assert_eq!(result("bgp"), "hello", "{results:?}");
    assert_eq!(
        (result("ping-revoked-a"), result("ping-stranger-b")),
        ("0", "0"),
        "{results:?}"
    );
    assert_eq!(
        (result("sas-revoked"), result("sas-stranger")),
        ("0", "0"),
        "{results:?}"
    );
    assert_eq!(result("cleartext"), "0", "{results:?}");
}
