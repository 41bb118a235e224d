//! The host file: what is accepted, what is refused, and in which words.
//! `UPDATE_GOLDEN=1` rewrites the messages; read the difference before committing it.

#![expect(
    clippy::disallowed_methods,
    reason = "nobody reads a test's files half written"
)]

use lxmesh::addr::IpNet;
use lxmesh::host::{self, HostFile, Ipsec, LoadError, Role, Trust};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

const MINIMAL: &str = include_str!("golden/fleets/minimal/host.toml");

fn golden(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("integration/golden")
        .join(directory)
}

fn parse(text: &str) -> HostFile {
    host::parse("host.toml", text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn every_rule_is_explained_in_the_exact_words_of_its_golden_file() {
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(golden("host-errors")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let found = match host::parse(name, &text) {
            Ok(_) => "accepted\n".to_string(),
            Err(problems) => format!("{problems}\n"),
        };
        let expected = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &found).unwrap();
        }
        if std::fs::read_to_string(&expected).unwrap_or_default() != found || found == "accepted\n"
        {
            wrong.push(format!("{name}:\n{found}"));
        }
    }
    assert!(seen >= 40, "only {seen} examples");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_minimal_file_is_accepted_and_all_defaults_are_safe() {
    let file = parse(MINIMAL);
    assert_eq!(file.fabric.underlay_mtu, 1500);
    assert_eq!(file.fabric.vxlan_port, 4789);
    assert!(file.fabric.gbp && file.dhcp.enabled && file.dhcp.run && file.firewall.enabled);
    assert!(matches!(
        file.ipsec,
        Some(Ipsec {
            trust: Trust::Certificates { .. },
            udp_encapsulation: false
        })
    ));
    assert_eq!(
        (file.bgp.keepalive_s, file.bgp.hold_s, file.bgp.connect_s),
        (3, 9, 5)
    );
    assert_eq!(
        (file.agent.reload_interval_s, file.dhcp.lease_s),
        (60, 3600)
    );
    let [network] = &file.networks[..] else {
        panic!("one network")
    };
    assert_eq!(network.bridge.as_str(), "svi-vpc");
    assert_eq!(network.tunnel.as_str(), "vxlan-vpc");
    assert_eq!(network.mtu, 1416);
    assert_eq!(network.conntrack_zone, 100);
    assert_eq!(
        (network.vxlan_port, network.gbp, network.multicast),
        (4789, true, false)
    );
    assert!(network.vrf.is_none() && network.host_routes.is_none());
}

/// A changed formula would give the hosts of a fleet different gateways during an upgrade.
#[test]
fn the_derived_gateway_mac_is_what_it_always_was() {
    assert_eq!(
        parse(MINIMAL).networks[0].gateway_mac.to_string(),
        "ea:cb:fc:d0:15:85"
    );
}

#[test]
fn computed_defaults_follow_the_rest_of_the_file() {
    let file = parse(
        r#"
version = 1
[fabric]
name = "six"
asn = 4200000000
reflectors = ["2001:db8:ffff::1"]
supervisors = ["2001:db8:ffff::/64", "2001:db8:ffff::1"]
underlay_mtu = 9000
gbp = false
[host]
roles = ["reflector", "supervisor"]
[tags]
web = 3
[[vrf]]
name = "red"
table = 77
[[network]]
name = "a"
vni = 70000
vrf = "red"
host_routes = "vrf"
[[network]]
name = "b"
vni = 16777214
vrf = "blue"
gbp = true
vxlan_port = 4790
[[network]]
name = "c"
vni = 9
vrf = "blue"
host_routes = 254
"#,
    );
    let [a, b, c] = &file.networks[..] else {
        panic!("three networks")
    };
    assert_eq!((a.mtu, a.conntrack_zone), (8930, 4466));
    assert_eq!(u32::from(b.conntrack_zone), 16_777_214 % 65535 + 1);
    assert_eq!(a.host_route_table(), Some(77));
    assert_eq!(b.vrf.as_ref().unwrap().table, 1009);
    assert_eq!(c.host_route_table(), Some(254));
    assert!(b.gbp && !a.gbp && b.vxlan_port == 4790);
    assert_eq!(
        file.host.roles,
        Some(vec![Role::Supervisor, Role::Reflector])
    );
    assert_eq!(file.tags["web"], 3);
    assert!(
        file.fabric
            .supervisors
            .contains(&"2001:db8:ffff::1/128".parse::<IpNet>().unwrap())
    );
}

#[test]
fn networks_of_different_vrfs_may_use_the_same_prefix() {
    let network = |name: &str, vni: u32| {
        format!(
            "[[network]]\nname = \"{name}\"\nvni = {vni}\nvrf = \"{name}\"\ngateway = [\"198.51.100.1/24\"]\n"
        )
    };
    let fabric = MINIMAL.split("[[network]]").next().unwrap();
    parse(&format!(
        "{fabric}{}{}",
        network("red", 1),
        network("blue", 2)
    ));
}

#[test]
fn an_unreadable_file_is_named_with_the_reason_and_a_remedy() {
    let error = host::load(Path::new("/nonexistent/host.toml")).unwrap_err();
    assert!(matches!(error, LoadError::Unreadable { .. }));
    assert_eq!(
        error.to_string(),
        "cannot read the host file /nonexistent/host.toml: No such file or directory (os error 2)\n  \
         remedy: write /nonexistent/host.toml, or name another file with --host-file"
    );
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(
        host::load(directory.path()).unwrap_err(),
        LoadError::Unreadable { .. }
    ));
    let bytes = directory.path().join("host.toml");
    std::fs::write(&bytes, [0xff, 0xfe, 0]).unwrap();
    let error = host::load(&bytes).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn a_file_is_loaded_and_its_path_is_in_the_messages() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.toml");
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(host::load(&path).unwrap(), parse(MINIMAL));
    std::fs::write(&path, "version = 1\n").unwrap();
    let message = host::load(&path).unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("{}:1:1: ", path.display())),
        "{message}"
    );
}

#[test]
fn the_schema_knows_every_key_and_says_what_it_means() {
    let schema = host::json_schema();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert_eq!(schema["properties"]["version"]["const"], 1);
    let network = &schema["properties"]["network"]["items"];
    assert_eq!(network["properties"]["vni"]["maximum"], 16_777_214);
    assert_eq!(network["additionalProperties"], false);
    assert_eq!(network["required"], serde_json::json!(["name", "vni"]));
    fn described(schema: &serde_json::Value, path: &str) {
        for (key, child) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            assert!(
                child["description"].is_string() || child["items"]["description"].is_string(),
                "{path}"
            );
            described(child, &path);
            described(&child["items"], &path);
        }
    }
    described(&schema, "");
}

#[test]
fn a_hopeless_file_is_refused_with_as_many_problems_as_one_reads() {
    let text: String = (0..5000).map(|number| format!("k{number} = 1\n")).collect();
    let problems = host::parse("x", &text).unwrap_err();
    assert_eq!(problems.0.len(), 201);
    assert_eq!(problems.0[200].message, "and 4802 more problems");
    for deep in [
        "a = ".to_string() + &"[".repeat(100_000),
        "a.".repeat(100_000) + "a = 1",
    ] {
        assert!(host::parse("x", &deep).is_err());
    }
}

/// A host file under correction, as a person would correct it.
struct Draft(toml::Table);

impl Draft {
    fn problems(&self) -> Vec<host::Problem> {
        let text = toml::to_string(&self.0).unwrap();
        host::parse("x", &text).map_or_else(|problems| problems.0, |_| vec![])
    }

    /// The tables of a title as messages write it; one is made where there is none.
    fn tables(&mut self, title: &str) -> Vec<&mut toml::Table> {
        let name = title.trim_matches(['[', ']']);
        let empty = || toml::Value::Table(toml::Table::new());
        match title.find(|c| c != '[').unwrap() {
            0 => vec![&mut self.0],
            1 => vec![
                self.0
                    .entry(name)
                    .or_insert_with(empty)
                    .as_table_mut()
                    .unwrap(),
            ],
            _ => {
                let list = || toml::Value::Array(vec![empty()]);
                let list = self
                    .0
                    .entry(name)
                    .or_insert_with(list)
                    .as_array_mut()
                    .unwrap();
                list.iter_mut()
                    .map(|table| table.as_table_mut().unwrap())
                    .collect()
            }
        }
    }

    /// Puts a key where a remedy says; it must not be there yet.
    fn put(&mut self, title: &str, key: &str, value: &toml::Value) {
        let mut tables = self.tables(title);
        let free = tables.iter_mut().find(|table| !table.contains_key(key));
        let free = free.unwrap_or_else(|| panic!("{title} has {key} already"));
        free.insert(key.into(), value.clone());
    }

    /// Does what the remedy for the key of the table says, to the letter.
    fn follow(&mut self, remedy: &str, title: &str, key: &str, value: &toml::Value) {
        let mut tables = self.tables(title);
        let holder = tables
            .iter_mut()
            .find(|table| table.contains_key(key))
            .unwrap();
        holder.remove(key);
        let has = |name: &str| holder.contains_key(name);
        // "name", [name] or [[name]]
        let named = |text: &str| {
            let (_, rest) = text.split_once(['"', '[']).unwrap();
            let rest = rest.trim_start_matches('[');
            rest[..rest.find(['"', ']']).unwrap()].to_string()
        };
        if remedy.starts_with("did you mean") {
            let name = named(remedy);
            match holder.get_mut(&name) {
                // Another [[name]] below the first one.
                Some(toml::Value::Array(list)) if remedy.contains("[[") => {
                    list.extend(
                        value
                            .as_array()
                            .cloned()
                            .unwrap_or_else(|| vec![value.clone()]),
                    );
                }
                Some(_) => panic!("{name} is there already"),
                None => {
                    holder.insert(name, value.clone());
                }
            }
        } else if let Some(rest) = remedy.strip_suffix(" already") {
            let (_, name) = rest.split_once(&format!("{title} has ")).unwrap();
            assert!(has(&named(name)), "{remedy}");
        } else if remedy.starts_with("move it to the beginning") {
            self.put("the host file", key, value);
        } else if let Some(other) = remedy.strip_prefix("move it to ") {
            self.put(other, key, value);
        } else if remedy.starts_with("write [") {
            self.put("the host file", &named(remedy), value);
        } else {
            assert!(remedy.starts_with("remove it"), "{remedy}");
        }
    }
}

#[test]
fn whoever_follows_the_remedy_for_an_unknown_key_is_rid_of_it() {
    let schema = host::json_schema();
    let mut titles = vec!["the host file".to_string()];
    let mut names: Vec<String> = vec!["colour".into(), "vlan".into(), "l3vni".into()];
    for (name, section) in schema["properties"].as_object().unwrap() {
        names.push(name.clone());
        for section in [section, &section["items"]] {
            titles.extend(section["title"].as_str().map(String::from));
            names.extend(
                section["properties"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, _)| key.clone()),
            );
        }
    }
    assert!(
        titles.len() == 13 && names.len() > 60,
        "{titles:?} {names:?}"
    );
    let misspelt = |name: &String| [name.clone(), format!("{name}s")];
    let names: std::collections::BTreeSet<String> = names.iter().flat_map(misspelt).collect();
    let values = ["1", "{ a = 1 }", "[{ a = 1 }]"].map(|text| {
        let table: toml::Table = format!("v = {text}").parse().unwrap();
        table["v"].clone()
    });
    let mut forms = std::collections::BTreeMap::new();
    let minimal: toml::Table = MINIMAL.parse().unwrap();
    let mut cases = Vec::new();
    for title in &titles {
        for name in &names {
            cases.extend(values.iter().map(|value| (title, name, value)));
        }
    }
    for (title, name, value) in cases {
        let mut draft = Draft(minimal.clone());
        if draft.tables(title)[0]
            .insert(name.clone(), value.clone())
            .is_some()
        {
            continue;
        }
        let unknown = format!("unknown key \"{name}\" in {title}");
        let Some(problem) = draft
            .problems()
            .into_iter()
            .find(|problem| problem.message == unknown)
        else {
            continue;
        };
        let about = format!("{unknown} with {value}: {}", problem.remedy);
        draft.follow(&problem.remedy, title, name, value);
        for left in draft.problems() {
            let inner = left.message.contains("\"a\"");
            assert!(
                inner || !left.message.starts_with("unknown key"),
                "{about}: {left}"
            );
            // A table is no number and a number no table; one bracket more is told next.
            let other = left.message.contains(" 1 is not a table")
                || left.message.contains(" 1 is not a list") && left.remedy.starts_with("write [[")
                || left.message.contains("a table is not ")
                    && !left.remedy.contains("two brackets");
            assert!(!other, "{about}: {left}");
        }
        let form = problem
            .remedy
            .split([' ', '['])
            .take(2)
            .collect::<Vec<_>>()
            .join(" ");
        *forms.entry(form).or_insert(0) += 1;
    }
    // Each form of remedy was followed, and more often than by chance.
    assert!(
        forms.len() == 4 && forms.values().all(|times| *times >= 10),
        "{forms:?}"
    );
}

/// docs/host-file.md, from the same declarations as the parser.
fn reference(schema: &serde_json::Value) -> String {
    fn table(text: &mut String, schema: &serde_json::Value) {
        *text += &format!(
            "\n## {}\n\n{}\n\n",
            schema["title"].as_str().unwrap(),
            schema["description"].as_str().unwrap()
        );
        *text += "| key | type | meaning |\n|---|---|---|\n";
        let required = schema["required"].as_array().unwrap();
        for (key, value) in schema["properties"].as_object().unwrap() {
            if value["title"].is_string() || value["items"]["title"].is_string() {
                continue;
            }
            let kind = match (&value["type"], &value["items"]["type"]) {
                (serde_json::Value::String(kind), serde_json::Value::String(item)) => {
                    format!("{kind} of {item}")
                }
                (serde_json::Value::String(kind), _) => kind.clone(),
                _ if value.get("const").is_some() => "integer".into(),
                _ => "string or integer".into(),
            };
            let must = if required.contains(&serde_json::json!(key)) {
                " **Required.**"
            } else {
                ""
            };
            let meaning = value["description"].as_str().unwrap().replace('|', "\\|");
            *text += &format!("| `{key}` | {kind} | {meaning}{must} |\n");
        }
        for value in schema["properties"].as_object().unwrap().values() {
            for section in [value, &value["items"]] {
                if section["title"].is_string() {
                    table(text, section);
                }
            }
        }
    }
    let mut text = String::from(
        "# The host file: every key\n\nMade from the declarations in `src/host/keys.rs` by `UPDATE_GOLDEN=1 cargo test --test host_file`; \
         `lxmesh-gen schema` prints\nthe same as a JSON Schema for editors, `lxmesh-gen check` reports all problems of a file at once.\n",
    );
    table(&mut text, schema);
    text
}

#[test]
fn the_reference_documents_every_key_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/host-file.md");
    let text = reference(&host::json_schema());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text);
}

/// The NixOS module takes its options from there.
#[test]
fn the_schema_in_the_tree_is_the_one_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("nix/schema.json");
    let wanted = serde_json::to_string_pretty(&host::json_schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == wanted,
        "nix/schema.json is not what the program says; UPDATE_GOLDEN=1 writes it anew"
    );
}

fn tomlish() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "version",
        "fabric",
        "name",
        "asn",
        "network",
        "vni",
        "gateway",
        "tags",
        "vrf",
        "table",
        "mtu",
        "gbp",
        "reflectors",
        "supervisors",
        "=",
        "=",
        "=",
        "\n",
        "\n",
        "\n",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ",",
        ".",
        "1",
        "0",
        "-7",
        "16777215",
        "99999999999999999999",
        "0x1F",
        "true",
        "nan",
        "\"vpc\"",
        "\"ä\u{0}\"",
        "\"192.0.2.1/24\"",
        "\"2001:db8::/64\"",
        "\"198.51.100.0/24\"",
        "'''",
        "\"\"\"",
        "#",
        "1979-05-27T07:32:00Z",
        "\u{feff}",
        "\r",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = host::parse("x", &text).map_err(|problems| problems.to_string());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = host::parse("x", &text).map_err(|problems| problems.to_string());
    }

    #[test]
    fn nothing_like_toml_makes_it_panic(text in tomlish()) {
        let _ = host::parse("x", &text).map_err(|problems| problems.to_string());
    }

    #[test]
    fn a_cut_or_disturbed_file_is_refused_with_a_place_or_accepted(at in 0..500usize, insert in "[ -~\n]{0,3}") {
        let at = (0..=at.min(MINIMAL.len())).rev().find(|at| MINIMAL.is_char_boundary(*at)).unwrap();
        for text in [MINIMAL[..at].to_string(), format!("{}{insert}{}", &MINIMAL[..at], &MINIMAL[at..])] {
            if let Err(problems) = host::parse("x", &text) {
                prop_assert!(!problems.0.is_empty());
                for problem in &problems.0 {
                    prop_assert!(problem.line >= 1 && problem.column >= 1 && !problem.remedy.is_empty());
                    prop_assert!(problem.line <= text.matches('\n').count() + 1);
                }
            }
        }
    }

    /// An independent look at what was accepted: no VNI, name, device or zone twice, no overlap.
    #[test]
    fn what_is_accepted_has_nothing_twice(
        networks in prop::collection::vec((0..6u32, 1..8u32, 0..6u8, prop::option::of(0..4u16)), 1..5)
    ) {
        let mut text = MINIMAL.split("[[network]]").next().unwrap().to_string();
        for (name, vni, third, zone) in &networks {
            text += &format!("[[network]]\nname = \"n{name}\"\nvni = {vni}\ngateway = [\"10.0.{third}.1/23\"]\n");
            if let Some(zone) = zone {
                text += &format!("conntrack_zone = {zone}\n");
            }
        }
        let distinct = |mut keys: Vec<String>| {
            let all = keys.len();
            keys.sort();
            keys.dedup();
            keys.len() == all
        };
        if let Ok(file) = host::parse("x", &text) {
            let of = |key: fn(&host::Network) -> String| file.networks.iter().map(key).collect::<Vec<_>>();
            prop_assert!(distinct(of(|network| network.vni.to_string())));
            prop_assert!(distinct(of(|network| network.name.clone())));
            prop_assert!(distinct(of(|network| network.bridge.to_string())));
            prop_assert!(distinct(of(|network| network.conntrack_zone.to_string())));
            prop_assert!(distinct(of(|network| network.gateway4.unwrap().trunc().to_string())));
        } else {
            let vnis = networks.iter().map(|(_, vni, _, _)| vni.to_string()).collect();
            let names = networks.iter().map(|(name, ..)| name.to_string()).collect();
            let nets = networks.iter().map(|(_, _, third, _)| (third / 2).to_string()).collect();
            let zones = networks.iter().map(|(_, vni, _, zone)| zone.map_or(*vni, u32::from).to_string()).collect();
            let zero = networks.iter().any(|(.., zone)| *zone == Some(0));
            prop_assert!(zero || ![vnis, names, nets, zones].into_iter().all(distinct), "{text}");
        }
    }
}
