//! What the generator writes for the hosts of the example fleets, to the byte.
//! `UPDATE_GOLDEN=1` rewrites the expected files; read the difference before committing it.

#![expect(
    clippy::disallowed_methods,
    reason = "nobody reads a test's files half written"
)]

#[path = "support/nft_names.rs"]
mod nft_names;

use lxmesh::generate::{self, LocalFacts, MARKER, OutputFile, RenderError, RoleError, Target};
use lxmesh::host::{self, HostFile};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Fleet, its hosts' golden directories, and their underlay addresses.
const HOSTS: &[(&str, &str, &str)] = &[
    ("minimal", "supervisor", "203.0.113.7"),
    ("minimal", "reflector", "198.51.100.200"),
    ("lab", "supervisor", "198.51.100.11"),
    ("lab", "reflector", "198.51.100.101"),
    ("ipv6-underlay", "supervisor", "2001:db8:ffff:1::5"),
    ("ipv6-underlay", "reflector", "2001:db8:ffff::1"),
    ("vrf", "supervisor", "198.51.100.11"),
    ("mesh", "supervisor", "198.51.100.12"),
    ("reflector-supervisor", "inside-prefix", "198.51.100.1"),
    ("reflector-supervisor", "outside-prefix", "203.0.113.1"),
    ("reflector-supervisor", "reflector-only", "203.0.113.2"),
    ("ipv6-overlay", "supervisor", "198.51.100.11"),
    ("ipsec-certificates", "supervisor", "198.51.100.11"),
    ("ipsec-certificates", "reflector", "203.0.113.1"),
    ("ipsec-certificates", "reflector-supervisor", "198.51.100.1"),
    ("ipsec-psk", "supervisor", "198.51.100.11"),
    ("ipsec-psk", "reflector", "198.51.100.101"),
    ("ipsec-mesh", "supervisor", "198.51.100.12"),
    ("routers", "supervisor", "198.51.100.11"),
    ("routers", "reflector", "198.51.100.101"),
];

/// Programs of the hosts of a fleet, where the reference platform's do not do.
const TARGETS: &[(&str, &str)] = &[
    ("ipv6-underlay", "debian-13,frr=10.6"),
    ("ipsec-psk", "ubuntu-24.04"),
    ("ipsec-mesh", "nixos-25.05"),
];

fn fleets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/golden/fleets")
}

fn load(fleet: &str) -> HostFile {
    host::load(&fleets().join(fleet).join("host.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn render(fleet: &str, address: &str) -> Vec<OutputFile> {
    generate::render(&load(fleet), &facts(fleet, address)).unwrap()
}

fn facts(fleet: &str, address: &str) -> LocalFacts {
    let target = TARGETS.iter().find(|(of, _)| *of == fleet);
    LocalFacts {
        name: "host1".into(),
        bgp_password: Some("not-a-secret".into()),
        target: target.map_or(Target::default(), |(_, target)| target.parse().unwrap()),
        ..LocalFacts::of(address.parse().unwrap())
    }
}

fn files_under(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![directory.to_path_buf()];
    while let Some(next) = ahead.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                ahead.push(path);
            } else {
                let name = Path::new("/").join(path.strip_prefix(directory).unwrap());
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_example_host_gets_exactly_its_golden_files() {
    for (fleet, name, address) in HOSTS {
        let directory = fleets().join(fleet).join(name);
        let rendered: BTreeMap<PathBuf, String> = render(fleet, address)
            .into_iter()
            .map(|output| (output.path, output.contents))
            .collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let _ = fs::remove_dir_all(&directory);
            for (path, contents) in &rendered {
                let path = directory.join(path.strip_prefix("/").unwrap());
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, contents).unwrap();
            }
        }
        let golden = files_under(&directory);
        let paths = |files: &BTreeMap<PathBuf, String>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(paths(&rendered), paths(&golden), "{fleet}/{name}");
        for (path, contents) in &rendered {
            assert_eq!(contents, &golden[path], "{fleet}/{name}{}", path.display());
        }
    }
}

#[test]
fn every_example_fleet_is_among_the_golden_hosts() {
    let mut known: BTreeSet<&str> = HOSTS.iter().map(|(fleet, ..)| *fleet).collect();
    known.insert("large");
    for entry in fs::read_dir(fleets()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(name.as_str()), "{name} has no golden hosts");
    }
}

#[test]
fn every_file_says_that_it_is_ours_and_is_named_so() {
    for (fleet, _, address) in HOSTS {
        let outputs = render(fleet, address);
        assert!(
            outputs.is_sorted_by(|a, b| a.path < b.path),
            "{fleet}: sorted, each path once"
        );
        for OutputFile {
            path,
            mode,
            contents,
        } in outputs
        {
            let place = format!("{fleet}: {}", path.display());
            assert!(contents.lines().next().unwrap().contains(MARKER), "{place}");
            assert!(
                contents.ends_with('\n') && !contents.ends_with("\n\n"),
                "{place}"
            );
            assert!(
                !contents.contains("{{") && !contents.contains("{%"),
                "{place}"
            );
            assert!(
                contents.lines().all(|line| line.trim_end() == line),
                "{place}: blanks at a line's end"
            );
            let ours = path.to_str().unwrap().contains("lxmesh") || path.starts_with("/etc/frr");
            assert!(ours, "{place}");
            assert!([0o640, 0o644].contains(&mode), "{place}");
        }
    }
}

/// Too many files to look at one by one: their names and SHA-256 are the golden file.
#[test]
fn two_hundred_networks_are_always_rendered_to_the_same_bytes() {
    use sha2::{Digest, Sha256};
    let path = fleets().join("large/host.toml");
    let facts = facts("large", "198.51.100.11");
    let start = std::time::Instant::now();
    let outputs = generate::render(&load("large"), &facts).unwrap();
    println!("rendered in {:?}, without optimisation", start.elapsed());
    assert!(outputs.len() > 800);
    let again = generate::render(&load("large"), &facts).unwrap();
    assert_eq!(outputs, again);
    let sums: String = outputs
        .iter()
        .map(|output| {
            let sum = Sha256::digest(&output.contents);
            let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{sum}  {}\n", output.path.display())
        })
        .collect();
    let golden = path.with_file_name("supervisor.sha256");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &sums).unwrap();
    }
    assert!(
        fs::read_to_string(&golden).unwrap() == sums,
        "{} differs",
        golden.display()
    );
}

#[test]
fn what_a_target_cannot_do_is_refused_by_name() {
    let refused = |fleet: &str, address: &str, target: &str| {
        let facts = LocalFacts {
            target: target.parse().unwrap(),
            ..facts(fleet, address)
        };
        match generate::render(&load(fleet), &facts) {
            Err(error @ RenderError::Target { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        refused("ipv6-underlay", "2001:db8:ffff:1::5", "debian-13"),
        "fabric.supervisors: FRR 10.3 knows IPv4 tunnel end points only; IPv6 needs FRR 10.6\n  \
         remedy: change those keys, install newer programs, or name another target than debian-13"
    );
    let old = refused("routers", "198.51.100.11", "debian-12");
    assert!(
        old.starts_with("network.announce: FRR 8.4.4 announces routes of the main table only, and those of \"amber\""),
        "{old}"
    );
    let old = refused("ipsec-psk", "198.51.100.11", "debian-13,strongswan=5.9.5");
    assert!(
        old.starts_with("ipsec.enabled: strongSwan 5.9.5 knows no"),
        "{old}"
    );
}

#[test]
fn no_secret_is_in_a_file_that_others_may_read() {
    let outputs = render("ipsec-psk", "198.51.100.11");
    let has_password = |output: &&OutputFile| output.contents.contains("not-a-secret");
    let with: Vec<_> = outputs.iter().filter(has_password).collect();
    assert_eq!(with.len(), 1, "the BGP password is in frr.conf");
    assert_eq!(
        (with[0].path.to_str(), with[0].mode),
        (Some("/etc/frr/frr.conf"), 0o640)
    );
    let unread = LocalFacts {
        bgp_password: None,
        ..facts("ipsec-psk", "198.51.100.11")
    };
    let error = generate::render(&load("ipsec-psk"), &unread).unwrap_err();
    assert!(matches!(error, RenderError::NoPassword(_)), "{error}");
}

fn detect(text: &str, addresses: &[&str]) -> Result<String, RoleError> {
    let file = host::parse("host.toml", text).unwrap_or_else(|problems| panic!("{problems}"));
    let facts = LocalFacts {
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        ..LocalFacts::default()
    };
    generate::detect(&file, &facts).map(|here| here.to_string())
}

const FABRIC: &str = r#"
version = 1
[fabric]
name = "t"
asn = 64500
reflectors = ["198.51.100.1", "203.0.113.1"]
supervisors = ["198.51.100.0/24", "192.0.2.9", "203.0.113.1"]
"#;

#[test]
fn roles_follow_from_the_hosts_addresses() {
    let detect = |addresses: &[&str]| detect(FABRIC, addresses).unwrap();
    assert_eq!(
        detect(&["198.51.100.7", "10.0.0.1", "2001:db8::7"]),
        "198.51.100.7 (supervisor)"
    );
    // Inside the prefix only: reflectors run no instances unless somebody says so.
    assert_eq!(detect(&["198.51.100.1"]), "198.51.100.1 (reflector)");
    assert_eq!(
        detect(&["203.0.113.1"]),
        "203.0.113.1 (supervisor and reflector)"
    );
    // Listed singly goes before lying in a prefix.
    assert_eq!(
        detect(&["198.51.100.7", "192.0.2.9"]),
        "192.0.2.9 (supervisor)"
    );
}

#[test]
fn the_host_table_overrides_what_is_detected() {
    let roles =
        |more: &str, addresses: &[&str]| detect(&format!("{FABRIC}\n[host]\n{more}"), addresses);
    assert_eq!(
        roles("roles = [\"supervisor\", \"reflector\"]", &["198.51.100.1"]).unwrap(),
        "198.51.100.1 (supervisor and reflector)"
    );
    assert_eq!(
        roles(
            "underlay = \"198.51.100.8\"",
            &["198.51.100.7", "198.51.100.8"]
        )
        .unwrap(),
        "198.51.100.8 (supervisor)"
    );
    assert_eq!(
        roles("roles = [\"reflector\"]", &["198.51.100.7"]).unwrap_err(),
        RoleError::NotListed {
            address: "198.51.100.7".parse().unwrap(),
            key: "reflectors"
        }
    );
}

#[test]
fn a_host_without_a_place_or_with_two_is_refused_with_a_remedy() {
    let stranger = detect(FABRIC, &["10.0.0.1"]).unwrap_err();
    assert!(matches!(stranger, RoleError::Stranger { .. }));
    assert!(stranger.to_string().contains("10.0.0.1") && stranger.to_string().contains("remedy:"));
    assert!(matches!(
        detect(FABRIC, &[]).unwrap_err(),
        RoleError::Stranger { .. }
    ));
    let ambiguous = detect(FABRIC, &["198.51.100.7", "198.51.100.8"]).unwrap_err();
    assert!(
        ambiguous.to_string().contains("198.51.100.7, 198.51.100.8"),
        "{ambiguous}"
    );
}

/// A template's text with something in place of its values.
fn filled_in(template: &str) -> String {
    let mut text = template.replace("{{ table }}", "lxmesh_x");
    for value in ["{{ family }}", "{{ other.family }}"] {
        text = text.replace(value, "4");
    }
    text.replace("{{", "").replace("}}", "")
}

#[test]
fn no_name_in_a_text_for_nft_can_become_a_word_of_its_grammar_and_no_protocol_needs_a_file() {
    let mut texts = BTreeMap::new();
    for (fleet, host, address) in HOSTS {
        let outputs = render(fleet, address).into_iter();
        let outputs = outputs.filter(|output| output.path.extension().is_some_and(|e| e == "nft"));
        texts.extend(
            outputs.map(|o| (format!("{fleet}, {host}: {}", o.path.display()), o.contents)),
        );
    }
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    for directory in [templates.join("firewall"), templates] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "nft") {
                let text = filled_in(&fs::read_to_string(&path).unwrap());
                texts.insert(path.display().to_string(), text);
            }
        }
    }
    let mut all = BTreeSet::new();
    for (place, text) in &texts {
        assert_eq!(nft_names::unsafe_names(text), BTreeSet::new(), "{place}");
        assert_eq!(
            nft_names::foreign_protocols(text),
            BTreeSet::new(),
            "{place}"
        );
        all.extend(nft_names::names(text));
    }
    // Of each template.
    for name in [
        "filter_in",
        "device_pace",
        "egress_accept",
        "nic_ports",
        "icmp_errors",
    ] {
        assert!(all.contains(name), "{name} was not found");
    }
}
