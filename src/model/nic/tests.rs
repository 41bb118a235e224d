//! What becomes of one NIC's words, and of NICs that want the same.

use super::super::claims::{Holder, Remote};
use super::*;
use crate::host;

mod tenants;

const HOST: &str = r#"
    version = 1
    [fabric]
    name = "t"
    asn = 64500
    reflectors = ["203.0.113.1"]
    supervisors = ["203.0.113.11"]
    unprotected_tags = true
    [tags]
    bastion = 3
    [[network]]
    name = "vpc"
    vni = 100
    gateway = ["192.0.2.1/24", "2001:db8::1/64"]
    [[network]]
    name = "blue"
    vni = 200
    gateway = ["198.51.100.1/24"]
"#;

fn host_file() -> HostFile {
    host::parse("host.toml", HOST).unwrap_or_else(|problems| panic!("{problems}"))
}

/// An instance with one NIC whose host device and MAC end in its number.
fn instance(number: u8, started: &str, alter: impl Fn(&mut LxdNic)) -> Instance {
    let mut nic = LxdNic {
        device: "eth0".into(),
        parent: "vpc".into(),
        host_name: Some(format!("veth{number}")),
        hwaddr: Some(format!("00:16:3e:00:00:{number:02x}")),
        ipv4: Some(format!("192.0.2.{}", number + 10)),
        ipv6: Some(format!("2001:db8::{number:x}0")),
        in_services: "tcp/80".into(),
        ..LxdNic::default()
    };
    alter(&mut nic);
    Instance {
        id: InstanceId {
            project: "default".into(),
            name: format!("c{number}"),
        },
        presence: Presence::Up,
        last_used_at: started.into(),
        nics: vec![nic],
        unknown: Default::default(),
        misplaced: Vec::new(),
        strays: Vec::new(),
        acls: Default::default(),
        acls_unread: false,
    }
}

fn resolved(instances: &[Instance], before: &[Nic]) -> Resolved {
    let host = host_file();
    let drafts: Vec<Draft> = instances
        .iter()
        .map(|i| draft(&host, i, Program::Lxc))
        .collect();
    resolve(instances.iter().zip(&drafts), before, &Held::default())
}

fn texts(resolved: &Resolved) -> Vec<String> {
    resolved
        .problems
        .iter()
        .map(NicProblem::to_string)
        .collect()
}

#[test]
fn a_nic_is_known_by_network_name_or_bridge_name() {
    let a = instance(1, "", |_| {});
    let b = instance(2, "", |nic| nic.parent = "svi-vpc".into());
    let found = resolved(&[a, b], &[]);
    assert_eq!(texts(&found), Vec::<String>::new());
    assert!(found.nics.iter().all(|nic| nic.network == "vpc"));
    let link_local = found.nics[0].addresses().last().unwrap();
    assert_eq!(link_local.to_string(), "fe80::216:3eff:fe00:1");
}

#[test]
fn whoever_had_an_address_keeps_it_and_the_other_loses_only_the_address() {
    let old = instance(2, "2026-01-02", |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let first = resolved(std::slice::from_ref(&old), &[]);
    // Started earlier, but it had another address until now.
    let thief = instance(1, "2026-01-01", |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let both = resolved(&[thief.clone(), old.clone()], &first.nics);
    assert_eq!(both.nics[0].ipv4, None);
    assert!(both.nics[0].ipv6.is_some());
    assert_eq!(both.nics[1].ipv4, Some("192.0.2.50".parse().unwrap()));
    assert_eq!(
        texts(&both),
        [
            "instance c1 device eth0: address 192.0.2.50 is used in network vpc by c2 device eth0; choose another one"
        ]
    );
    // Nobody remembers: who was started first.
    let anew = resolved(&[thief.clone(), old], &[]);
    assert_eq!(anew.nics[0].ipv4, Some("192.0.2.50".parse().unwrap()));
    assert_eq!(anew.nics[1].ipv4, None);
    // The holder goes: the other has it.
    let alone = resolved(&[thief], &both.nics);
    assert_eq!(alone.nics[0].ipv4, Some("192.0.2.50".parse().unwrap()));
    assert!(alone.problems.is_empty());
}

#[test]
fn a_mac_of_another_nic_costs_the_nic_but_may_be_used_in_another_network() {
    let a = instance(1, "1", |_| {});
    let b = instance(2, "2", |nic| nic.hwaddr = Some("00:16:3e:00:00:01".into()));
    let c = instance(3, "3", |nic| {
        nic.parent = "blue".into();
        nic.hwaddr = Some("00:16:3e:00:00:01".into());
        nic.ipv4 = Some("198.51.100.9".into());
        nic.ipv6 = None;
    });
    let found = resolved(&[a, b, c], &[]);
    let names: Vec<_> = found
        .nics
        .iter()
        .map(|nic| nic.id.instance.name.as_str())
        .collect();
    assert_eq!(names, ["c1", "c3"]);
    assert_eq!(texts(&found).len(), 1);
    assert!(texts(&found)[0].contains("c2 device eth0: hwaddr 00:16:3e:00:00:01 is used"));
}

#[test]
fn each_bad_value_is_named_with_its_key_and_costs_only_itself() {
    type Case = (fn(&mut LxdNic), &'static str, bool);
    let cases: [Case; 10] = [
        (
            |n| n.parent = "nowhere".into(),
            "user.lxmesh.parent=\"nowhere\" is not a network",
            false,
        ),
        (
            |n| n.hwaddr = Some("no".into()),
            "hwaddr \"no\" is not a MAC",
            false,
        ),
        (
            |n| n.hwaddr = Some("01:00:5e:00:00:01".into()),
            "cannot be a NIC's",
            false,
        ),
        (
            |n| n.host_name = Some("a/b".into()),
            "host device name \"a/b\" has '/'",
            false,
        ),
        (
            |n| n.ipv4 = Some("192.0.2.7/24".into()),
            "user.lxmesh.ipv4.address=\"192.0.2.7/24\" is not an address",
            true,
        ),
        (
            |n| n.ipv4 = Some("10.0.0.1".into()),
            "user.lxmesh.ipv4.address=10.0.0.1 cannot be used in network vpc",
            true,
        ),
        (
            |n| n.ipv4 = Some("192.0.2.1".into()),
            "other than the gateway's",
            true,
        ),
        (
            |n| n.ipv6 = Some("2001:db8::".into()),
            "user.lxmesh.ipv6.address=2001:db8:: cannot",
            true,
        ),
        (
            |n| n.in_services = "tcp/80 tcp/x".into(),
            "user.lxmesh.in_services: \"tcp/x\" is not a service",
            true,
        ),
        (
            |n| n.tags = "bastion nobody".into(),
            "user.lxmesh.tags: \"nobody\" is not a tag",
            true,
        ),
    ];
    for (alter, wanted, survives) in cases {
        let found = resolved(&[instance(1, "", alter), instance(2, "", |_| {})], &[]);
        assert_eq!(texts(&found).len(), 1, "{:?}", texts(&found));
        assert!(texts(&found)[0].starts_with("instance c1 device eth0: "));
        assert!(texts(&found)[0].contains(wanted), "{}", texts(&found)[0]);
        assert_eq!(found.nics.len(), if survives { 2 } else { 1 }, "{wanted}");
    }
}

#[test]
fn control_characters_never_reach_the_log_as_they_are() {
    let evil = instance(1, "", |nic| {
        nic.ipv4 = Some("1\n2\u{1b}[2J".into());
        nic.in_services = "tcp/\u{7}".into();
        nic.parent = "vpc".into();
    });
    for text in texts(&resolved(&[evil], &[])) {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}

#[test]
fn a_name_that_cannot_be_one_costs_only_its_own_nics() {
    let mut odd = instance(1, "", |_| {});
    odd.id = InstanceId::of("default", "web\n\u{1b}[2J");
    let mut long = instance(2, "", |_| {});
    long.id = InstanceId::of(&"p".repeat(300), "c2");
    let device = instance(3, "", |nic| {
        nic.device = crate::text::stand_in("eth\u{202e}0")
    });
    let found = resolved(&[odd, long, device, instance(4, "", |_| {})], &[]);
    assert_eq!(found.nics.len(), 1);
    assert_eq!(found.nics[0].id.instance.name, "c4");
    assert_eq!(texts(&found).len(), 3);
    for text in texts(&found) {
        assert!(text.contains("cannot be one") && text.len() < 500, "{text}");
        assert!(crate::text::is_visible_text(&text), "{text:?}");
    }
    // Their devices are put down like those of all that cannot be connected.
    assert_eq!(found.refused.len(), 3);
}

#[test]
fn a_list_without_end_is_one_problem_that_names_the_limit() {
    let many = "web0 ".repeat(3000);
    for list in [
        |nic: &mut LxdNic, many: &str| nic.acls = many.into(),
        |nic: &mut LxdNic, many: &str| nic.in_services = many.into(),
        |nic: &mut LxdNic, many: &str| nic.out_services = many.into(),
        |nic: &mut LxdNic, many: &str| nic.tags = many.into(),
    ] {
        let found = resolved(&[instance(1, "", |nic| list(nic, &many))], &[]);
        let texts = texts(&found);
        let limit = |text: &&String| text.contains("1024");
        assert_eq!(texts.iter().filter(limit).count(), 1, "{texts:#?}");
        assert!(texts.len() <= crate::policy::NAMED + 2, "{texts:#?}");
        assert_eq!(found.nics.len(), 1);
    }
}

#[test]
fn of_one_nic_only_so_many_problems_are_told() {
    let rule = |n: usize| crate::lxd::AclRule {
        action: "allow".into(),
        source: format!("no{n}"),
        ..Default::default()
    };
    let acl = crate::lxd::Acl {
        name: "web".into(),
        ingress: (0..3000).map(rule).map(Ok).collect(),
        egress: Vec::new(),
    };
    let mut one = instance(1, "", |nic| nic.acls = "web".into());
    one.acls.insert("web".into(), Arc::new(acl));
    let texts = texts(&resolved(&[one], &[]));
    assert_eq!(texts.len(), MOST + 1);
    assert!(
        texts
            .iter()
            .any(|text| text.contains(": and 2936 more problems;"))
    );
}

#[test]
fn of_access_lists_without_end_nothing_passes() {
    let found = resolved(&[instance(1, "", |nic| nic.acls = "a ".repeat(1025))], &[]);
    assert_eq!(found.nics[0].inward, Arc::default());
    assert_eq!(found.nics[0].outward, Arc::default());
}

/// Of the device or of the instance: what it may have been meant to forbid is not granted, not even by the network.
#[test]
fn an_unknown_key_closes_its_direction_for_all_that_allows_and_the_nic_stays() {
    let text = HOST.replace(
        "name = \"vpc\"",
        "name = \"vpc\"\nin_services = [\"tcp/22\"]\naudit = true",
    );
    let host = host::parse("host.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    for of_the_instance in [false, true] {
        for (key, open_in, open_out, audit) in [
            ("user.lxmesh.in_service", false, true, false),
            ("user.lxmesh.out_service", true, false, false),
            ("user.lxmesh.acl", false, false, false),
            ("user.lxmesh", false, false, false),
            ("user.lxmesh.audti", true, true, false),
            ("user.lxmesh.limits.bandwidth", true, true, true),
            ("user.lxmesh.ipv4_address", true, true, true),
        ] {
            let mut one = instance(1, "", |nic| {
                nic.in_services = "any".into();
                nic.out_services = "any".into();
            });
            let unknown = match of_the_instance {
                true => &mut one.unknown,
                false => &mut one.nics[0].unknown,
            };
            unknown.keys.insert(key.into());
            let draft = draft(&host, &one, Program::Lxc);
            let [nic] = draft.nics() else {
                panic!("{key}: {:?}", draft.problems)
            };
            let open = [&nic.inward, &nic.outward].map(|side| !side.rules.is_empty());
            assert_eq!(open, [open_in, open_out], "{key}");
            assert_eq!(nic.denied.audit, audit, "{key}");
            assert!(nic.ipv4.is_some() && nic.ipv6.is_some());
            let names = |problem: &&NicProblem| problem.text.starts_with(&format!("{key} "));
            assert_eq!(draft.problems.iter().filter(names).count(), 1, "{key}");
        }
    }
}

#[test]
fn a_rule_of_an_access_list_that_cannot_be_read_closes_its_side() {
    let rule = |ports: &str| crate::lxd::AclRule {
        action: "allow".into(),
        protocol: "tcp".into(),
        destination_port: ports.into(),
        ..Default::default()
    };
    let acl = crate::lxd::Acl {
        name: "web".into(),
        ingress: vec![Ok(rule("7")), Err("it is odd".into())],
        egress: vec![Ok(rule("8"))],
    };
    let mut one = instance(1, "", |nic| nic.acls = "web".into());
    one.acls.insert("web".into(), Arc::new(acl));
    let found = resolved(&[one], &[]);
    assert!(found.nics[0].inward.rules.is_empty());
    assert_eq!(found.nics[0].outward.rules.len(), 1);
    assert!(texts(&found)[0].contains("rule 2 of ingress cannot be understood (it is odd)"));
}

#[test]
fn an_access_list_that_is_not_known_closes_and_its_remedy_is_true() {
    for (unread, said, remedy) in [
        (false, "is not a network ACL", true),
        (true, "project cannot be read", false),
    ] {
        let mut one = instance(1, "", |nic| nic.acls = "web".into());
        one.acls_unread = unread;
        let found = resolved(&[one], &[]);
        let nic = &found.nics[0];
        assert!(nic.inward.rules.is_empty() && nic.outward.rules.is_empty());
        let texts = texts(&found);
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(texts[0].contains(said), "{texts:?}");
        assert_eq!(texts[0].contains("create it"), remedy, "{texts:?}");
    }
}

/// However many keys and devices there are.
#[test]
fn of_keys_that_are_not_known_and_devices_that_are_not_ours_so_many_are_told() {
    let keys: String = (0..1000)
        .map(|n| format!(r#""user.lxmesh.x{n}":"y","#))
        .collect();
    let devices: String = (0..1000)
        .map(|n| format!(r#","br{n}":{{{keys}"type":"nic","nictype":"bridged"}}"#))
        .collect();
    let json = format!(
        r#"{{"name":"c1","status_code":103,"expanded_config":{{{keys}"user.lxmesh.parent":"vpc"}},"expanded_devices":{{
        "eth0":{{{keys}"type":"nic","nictype":"p2p","user.lxmesh.parent":"vpc"}}{devices}}}}}"#
    );
    let json = json.replace(",}", "}");
    let entry = serde_json::value::RawValue::from_string(json).unwrap();
    let found = resolved(&[crate::lxd::inventory::read(&entry).unwrap()], &[]);
    let of = |device: &str| {
        let is = |problem: &&NicProblem| problem.nic.device == device;
        found.problems.iter().filter(is).count()
    };
    // Eight keys and how many more, of the device and of the instance, and the one that belongs on a device.
    assert_eq!(of("eth0"), 2 * 9 + 1);
    assert_eq!(of("br0"), 9);
    assert_eq!(found.problems.len(), of("eth0") + 16 * 9);
    let more = "992 more keys are none of LXMesh's either";
    assert!(texts(&found).iter().any(|text| text.ends_with(more)));
}

#[test]
fn where_no_nic_is_ours_the_first_that_could_be_says_what_is_wrong() {
    for (config, devices, wanted) in [
        (
            r#""user.lxmesh.parent":"vpc""#,
            r#""a":{"type":"disk"},"b":{"type":"nic","nictype":"p2p"},"c":{"type":"nic","nictype":"p2p"}"#,
            "instance c1 device b: user.lxmesh.parent in the instance's configuration has no effect; set it on the device",
        ),
        (
            "",
            r#""b":{"type":"nic","nictype":"p2p","user.lxmesh.parnet":"vpc"}"#,
            "instance c1 device b: user.lxmesh.parnet is not a key of LXMesh; did you mean user.lxmesh.parent? It has no effect",
        ),
        (
            "",
            r#""b":{"type":"nic","nictype":"p2p","user.lxmesh.tags":"x"}"#,
            "instance c1 device b: user.lxmesh.tags has no effect without user.lxmesh.parent",
        ),
        (
            "",
            r#""b":{"type":"nic","network":"lxdbr0","user.lxmesh.parent":"vpc"}"#,
            "instance c1 device b: user.lxmesh.parent has no effect, because the NIC belongs to a network of the server's own",
        ),
        (
            "",
            r#""b":{"type":"disk","user.lxmesh.parent":"vpc"}"#,
            "instance c1 device b: user.lxmesh.parent has no effect on a device that is no NIC",
        ),
    ] {
        let json = format!(
            r#"{{"name":"c1","status_code":103,"expanded_config":{{{config}}},"expanded_devices":{{{devices}}}}}"#
        );
        let entry = serde_json::value::RawValue::from_string(json).unwrap();
        let found = resolved(&[crate::lxd::inventory::read(&entry).unwrap()], &[]);
        let texts = texts(&found);
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert!(texts[0].starts_with(wanted), "{texts:?}");
    }
}

#[test]
fn instances_that_are_not_running_have_no_nics() {
    let mut down = instance(1, "", |_| {});
    down.presence = Presence::Down;
    assert_eq!(resolved(&[down], &[]), Resolved::default());
}

/// As `reconcile` reads it: entries of the network `vpc`.
fn held(addresses: &[(&str, Holder)], ports: &[(u8, &str)]) -> Held {
    let vpc = || "vpc".to_string();
    let addresses = addresses.iter().cloned();
    let ports = ports.iter();
    Held {
        addresses: addresses
            .map(|(address, holder)| ((vpc(), address.parse().unwrap()), holder))
            .collect(),
        ports: ports
            .map(|(mac, port)| ((vpc(), nth_mac(*mac)), port.parse().unwrap()))
            .collect(),
        ..Held::default()
    }
}

fn nth_mac(number: u8) -> Mac {
    Mac([0, 0x16, 0x3e, 0, 0, number])
}

fn resolved_with(instances: &[Instance], before: &[Nic], held: &Held) -> Resolved {
    let host = host_file();
    let drafts: Vec<Draft> = instances
        .iter()
        .map(|i| draft(&host, i, Program::Lxc))
        .collect();
    resolve(instances.iter().zip(&drafts), before, held)
}

#[test]
fn who_has_an_address_by_the_kernel_keeps_it_after_a_restart() {
    let old = instance(2, "2026-01-02", |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let thief = instance(1, "2026-01-01", |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let both = [thief, old];
    let kernel = held(&[("192.0.2.50", Holder::Here(nth_mac(2)))], &[]);
    let found = resolved_with(&both, &[], &kernel);
    assert_eq!(found.nics[0].ipv4, None);
    assert!(found.nics[1].ipv4.is_some());
    assert!(found.nics[0].contested.is_empty());
    // Nobody has the MAC that the kernel names: it is free.
    let kernel = held(&[("192.0.2.50", Holder::Here(nth_mac(9)))], &[]);
    let found = resolved_with(&both, &[], &kernel);
    assert!(found.nics[0].ipv4.is_some());
    // What the agent remembers counts more than the kernel.
    let kernel = held(&[("192.0.2.50", Holder::Here(nth_mac(1)))], &[]);
    let before = resolved_with(&both[1..], &[], &Held::default());
    let found = resolved_with(&both, &before.nics, &kernel);
    assert_eq!(found.nics[0].ipv4, None);
}

#[test]
fn of_two_that_have_the_mac_on_the_device_which_they_name_neither_has_it() {
    let owner = instance(2, "2026-01-02", |_| {});
    let thief = instance(1, "2026-01-01", |nic| {
        nic.hwaddr = Some("00:16:3e:00:00:02".into());
        nic.host_name = Some("veth2".into());
    });
    let kernel = held(&[], &[(2, "veth2")]);
    let found = resolved_with(&[thief.clone(), owner.clone()], &[], &kernel);
    assert_eq!(found.nics, []);
    assert_eq!(found.refused.len(), 2);
    // An agent that has seen it before the other one knows.
    let before = resolved_with(std::slice::from_ref(&owner), &[], &kernel);
    let found = resolved_with(&[thief, owner], &before.nics, &kernel);
    assert_eq!(found.nics, before.nics);
}

#[test]
fn who_has_a_mac_by_the_kernel_is_who_is_at_its_device() {
    let old = instance(2, "2026-01-02", |nic| nic.ipv4 = Some("192.0.2.2".into()));
    let twin = instance(1, "2026-01-01", |nic| {
        nic.hwaddr = Some("00:16:3e:00:00:02".into());
        nic.ipv4 = Some("192.0.2.2".into());
        nic.ipv6 = None;
    });
    let both = [twin, old];
    let address = ("192.0.2.2", Holder::Here(nth_mac(2)));
    let kernel = held(&[address], &[(2, "veth2")]);
    let names = |found: &Resolved| -> Vec<String> {
        let nics = found.nics.iter();
        nics.map(|nic| nic.id.instance.name.clone()).collect()
    };
    assert_eq!(names(&resolved_with(&both, &[], &kernel)), ["c2"]);
    assert_eq!(names(&resolved_with(&both, &[], &Held::default())), ["c1"]);
}

#[test]
fn an_address_of_another_hosts_nic_is_not_given_and_only_the_address_is_lost() {
    let remote = |mac: u8, precedes: bool| {
        Holder::There(Remote {
            mac: nth_mac(mac),
            vtep: Some("203.0.113.12".parse().unwrap()),
            precedes,
        })
    };
    let late = [instance(1, "1", |nic| nic.ipv4 = Some("192.0.2.50".into()))];
    let lost = |found: &Resolved| found.nics[0].ipv4.is_none();
    for precedes in [false, true] {
        let kernel = held(&[("192.0.2.50", remote(9, precedes))], &[]);
        let found = resolved_with(&late, &[], &kernel);
        assert!(lost(&found) && found.nics[0].ipv6.is_some());
        assert_eq!(
            texts(&found),
            [
                "instance c1 device eth0: address 192.0.2.50 is used in network vpc by 00:16:3e:00:00:09 on the host 203.0.113.12; choose another one, or free it there"
            ]
        );
        let signs: Vec<String> = found.nics[0].neighbours().map(|a| a.to_string()).collect();
        assert_eq!(signs.last().unwrap(), "100::c000:232");
    }
    // Its own MAC: it has moved here.
    let kernel = held(&[("192.0.2.50", remote(1, true))], &[]);
    assert!(!lost(&resolved_with(&late, &[], &kernel)));
    // It had it: only the host that precedes gets it, unless it had it for a moment only.
    let before = resolved_with(&late, &[], &Held::default()).nics;
    for (precedes, new) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut kernel = held(&[("192.0.2.50", remote(9, precedes))], &[]);
        if new {
            let key = ("vpc".to_string(), "192.0.2.50".parse().unwrap());
            kernel.new.insert(key);
        }
        let found = resolved_with(&late, &before, &kernel);
        assert_eq!(lost(&found), precedes || new, "{precedes} {new}");
    }
}

#[test]
fn routes_of_lxd_are_named_and_the_nic_is_connected() {
    let found = resolved(
        &[instance(1, "1", |nic| {
            nic.routes = vec!["10.0.0.0/8".parse().unwrap()]
        })],
        &[],
    );
    assert_eq!(found.nics.len(), 1);
    assert!(texts(&found)[0].contains("ipv4.routes and ipv6.routes have no effect"));
}

#[test]
fn an_instance_that_moves_here_has_its_address_and_not_who_has_waited_for_it() {
    let moved = instance(2, "2026-01-02", |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let waiting = instance(1, "2026-01-01", |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let there = Holder::There(Remote {
        mac: nth_mac(2),
        vtep: None,
        precedes: false,
    });
    let kernel = held(&[("192.0.2.50", there)], &[]);
    let before = resolved_with(std::slice::from_ref(&waiting), &[], &kernel).nics;
    assert!(before[0].waits());
    let found = resolved_with(&[waiting, moved], &before, &kernel);
    assert_eq!(found.nics[0].ipv4, None);
    assert_eq!(found.nics[1].ipv4, Some("192.0.2.50".parse().unwrap()));
}

#[test]
fn what_a_nic_got_after_it_had_waited_stays_in_dispute() {
    let late = [instance(1, "1", |nic| nic.ipv4 = Some("192.0.2.50".into()))];
    let address: IpAddr = "192.0.2.50".parse().unwrap();
    let there = Holder::There(Remote {
        mac: nth_mac(9),
        vtep: None,
        precedes: false,
    });
    let waiting = resolved_with(&late, &[], &held(&[("192.0.2.50", there)], &[])).nics;
    let got = resolved_with(&late, &waiting, &Held::default()).nics;
    assert!(got[0].ipv4.is_some() && !got[0].waits());
    assert_eq!(got[0].contested, [address]);
    // Another agent knows by the sign.
    let mut kernel = held(&[("192.0.2.50", Holder::Here(nth_mac(1)))], &[]);
    kernel.signs.insert(("vpc".into(), address), nth_mac(1));
    assert_eq!(
        resolved_with(&late, &[], &kernel).nics[0].contested,
        [address]
    );
}

#[test]
fn a_nic_that_is_refused_keeps_nobody_from_what_it_claimed() {
    let old = instance(3, "2026-01-03", |_| {});
    let before = resolved(std::slice::from_ref(&old), &[]).nics;
    // Loses its MAC, so that it needs no address.
    let refused = instance(1, "2026-01-01", |nic| {
        nic.hwaddr = Some("00:16:3e:00:00:03".into());
        nic.ipv4 = Some("192.0.2.50".into());
    });
    let other = instance(2, "2026-01-02", |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let found = resolved(&[refused, other, old], &before);
    assert_eq!(found.nics[0].ipv4, Some("192.0.2.50".parse().unwrap()));
}

#[test]
fn a_device_that_was_there_in_name_only_is_nobodys() {
    let waiting = instance(1, "1", |nic| nic.host_name = Some("veth2".into()));
    let before = resolved(std::slice::from_ref(&waiting), &[]).nics;
    let mut kernel = Held::default();
    kernel.early.insert(before[0].id.clone());
    // It has the device that nobody else names.
    let alone = resolved_with(std::slice::from_ref(&waiting), &before, &kernel);
    assert_eq!(alone.nics.len(), 1);
    // Not while its owner is being started, and not then.
    let mut owner = instance(2, "2", |_| {});
    for (presence, connected) in [(Presence::Down, vec![]), (Presence::Up, vec!["c2"])] {
        owner.presence = presence;
        let found = resolved_with(&[waiting.clone(), owner.clone()], &before, &kernel);
        let nics = found.nics.iter();
        let names: Vec<_> = nics.map(|nic| nic.id.instance.name.as_str()).collect();
        assert_eq!(names, connected);
        assert!(
            texts(&found)[0]
                .contains("c1 device eth0: host device veth2 is named by c2 device eth0, too")
        );
    }
    // A copy that does not run keeps nobody from it.
    owner.presence = Presence::Up;
    let copy = instance(3, "3", |nic| nic.host_name = Some("veth2".into()));
    let stopped = Instance {
        presence: Presence::Down,
        ..copy.clone()
    };
    assert_eq!(resolved(&[stopped, owner.clone()], &[]).nics.len(), 1);
    // Of two that were both started with it nobody knows.
    let found = resolved(&[copy, owner], &[]);
    assert!(found.nics.is_empty());
    assert_eq!(found.refused.len(), 2);
}
