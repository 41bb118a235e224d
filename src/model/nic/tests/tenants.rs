//! What the host file lets the NICs of a project have.

use super::*;

/// The host file with `projects` for network blue, and entries of tenants behind it.
fn with(projects: &str, tenants: &str) -> HostFile {
    let text = format!("{HOST}    {projects}\n{tenants}");
    let text = text.replace("bastion = 3", "bastion = 3\n    web = 0\n    db = 15");
    host::parse("host.toml", &text).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A NIC of instance `cNUMBER` of a project.
fn of(project: &str, number: u8, alter: impl Fn(&mut LxdNic)) -> Instance {
    let mut instance = instance(number, "", alter);
    instance.id.project = project.into();
    instance
}

fn in_blue(nic: &mut LxdNic) {
    nic.parent = "blue".into();
    (nic.ipv4, nic.ipv6) = (Some("198.51.100.9".into()), None);
}

fn resolved_by(host: &HostFile, instances: &[Instance]) -> Resolved {
    let drafts: Vec<Draft> = instances
        .iter()
        .map(|i| draft(host, i, Program::Lxc))
        .collect();
    resolve(instances.iter().zip(&drafts), &[], &Held::default())
}

/// The NIC of the only instance, and what was wrong.
fn one(host: &HostFile, instance: Instance) -> (Option<Nic>, Vec<String>) {
    let found = resolved_by(host, &[instance]);
    assert_eq!(found.nics.len() + found.refused.len(), 1, "{found:#?}");
    (found.nics.first().cloned(), texts(&found))
}

#[test]
fn where_nothing_is_said_every_project_may_have_everything() {
    let host = with("", "");
    for project in ["default", "blog", "*", "…"] {
        let rights = Rights::of(&host, project);
        for network in &host.networks {
            assert_eq!(rights.network(network), Ok(()));
            let address = "192.0.2.7".parse().unwrap();
            assert_eq!(rights.address(network, address), Ok(()));
        }
        assert_eq!(rights.tags(0xffff), (0xffff, None));
    }
    let (nic, texts) = one(&host, of("blog", 1, |nic| nic.tags = "bastion db".into()));
    assert_eq!(texts, [""; 0]);
    assert_eq!(nic.unwrap().tags, 0x8008);
}

#[test]
fn a_network_is_for_the_projects_that_it_names() {
    let host = with("projects = [\"default\", \"shop\"]", "");
    for project in ["default", "shop"] {
        let (nic, texts) = one(&host, of(project, 1, in_blue));
        assert!(nic.is_some() && texts.is_empty(), "{texts:?}");
    }
    // By the bridge's name, too; and names are compared as they are.
    for parent in ["blue", "svi-blue"] {
        for project in ["blog", "Shop", "shop.", "*"] {
            let nic = |nic: &mut LxdNic| {
                in_blue(nic);
                nic.parent = parent.into();
            };
            let (nic, texts) = one(&host, of(project, 1, nic));
            assert_eq!(nic, None);
            assert_eq!(
                texts,
                [format!(
                    "instance {project}/c1 device eth0: project \"{project}\" may not use network blue; name another one in user.lxmesh.parent, or add the project to projects of the network in the host file; those that may: default, shop"
                )]
            );
        }
    }
    let (nic, _) = one(&host, of("blog", 1, |_| ()));
    assert_eq!(nic.unwrap().network, "vpc");
    let (nic, texts) = one(&with("projects = []", ""), of("default", 1, in_blue));
    assert_eq!(nic, None);
    assert!(texts[0].ends_with("those that may: none"), "{texts:?}");
}

#[test]
fn a_tenant_may_use_the_networks_that_its_entry_names() {
    let host = with(
        "",
        "[[tenant]]\nproject = \"shop\"\nnetworks = [\"vpc\"]\n[[tenant]]\nproject = \"none\"\nnetworks = []\n",
    );
    let (nic, texts) = one(&host, of("shop", 1, |_| ()));
    assert!(nic.is_some() && texts.is_empty());
    let (nic, texts) = one(&host, of("shop", 1, in_blue));
    assert_eq!(nic, None);
    assert_eq!(
        texts,
        [
            "instance shop/c1 device eth0: project \"shop\" may not use network blue; name another one in user.lxmesh.parent, or add the network to networks of its [[tenant]] in the host file; it may use: vpc"
        ]
    );
    let (nic, texts) = one(&host, of("none", 1, |_| ()));
    assert_eq!(nic, None);
    assert!(texts[0].ends_with("it may use: none"), "{texts:?}");
    // Of others nothing is said.
    assert!(one(&host, of("blog", 1, in_blue)).0.is_some());
}

#[test]
fn both_keys_have_to_let_a_project_in() {
    let host = with(
        "projects = [\"shop\"]",
        "[[tenant]]\nproject = \"shop\"\ntags = []\n[[tenant]]\nproject = \"blog\"\n",
    );
    assert!(one(&host, of("shop", 1, in_blue)).0.is_some());
    assert!(one(&host, of("blog", 1, in_blue)).0.is_none());
    assert!(one(&host, of("blog", 1, |_| ())).0.is_some());
}

#[test]
fn the_star_is_for_projects_without_an_entry_of_their_own() {
    let host = with(
        "",
        "[[tenant]]\nproject = \"*\"\nnetworks = [\"vpc\"]\ntags = []\n[[tenant]]\nproject = \"shop\"\n",
    );
    assert!(one(&host, of("shop", 1, in_blue)).0.is_some());
    for project in ["default", "blog"] {
        let (nic, texts) = one(&host, of(project, 1, in_blue));
        assert_eq!(nic, None);
        let wanted = "or add the network to networks of [[tenant]] \"*\" in the host file";
        assert!(texts[0].contains(wanted), "{texts:?}");
        let (nic, texts) = one(&host, of(project, 1, |nic| nic.tags = "web".into()));
        assert_eq!((nic.unwrap().tags, texts.len()), (0, 1));
    }
}

#[test]
fn an_address_that_is_not_granted_costs_only_itself() {
    let host = with(
        "",
        "[[tenant]]\nproject = \"shop\"\naddresses = [\"192.0.2.64/26\", \"192.0.2.7\", \"2001:db8::a:0/112\"]\n",
    );
    let nic = |four: &str, six: &str| {
        one(
            &host,
            of("shop", 1, |nic| {
                (nic.ipv4, nic.ipv6) = (Some(four.into()), Some(six.into()));
            }),
        )
    };
    for four in ["192.0.2.64", "192.0.2.127", "192.0.2.7"] {
        for six in ["2001:db8::a:1", "2001:db8::a:ffff"] {
            let (nic, texts) = nic(four, six);
            let nic = nic.unwrap();
            assert_eq!(texts, [""; 0]);
            assert_eq!(nic.ipv4.unwrap().to_string(), four);
            assert_eq!(nic.ipv6.unwrap().to_string(), six);
        }
    }
    for four in [
        "192.0.2.63",
        "192.0.2.128",
        "192.0.2.6",
        "10.0.0.1",
        "192.0.2.1",
    ] {
        let (nic, texts) = nic(four, "2001:db8::a:1");
        let nic = nic.unwrap();
        assert!(nic.ipv4.is_none() && nic.ipv6.is_some());
        // The one of its MAC is left.
        assert_eq!(nic.addresses().count(), 2);
        let or_add = match ["10.0.0.1", "192.0.2.1"].contains(&four) {
            true => "",
            false => ", or add it to addresses of its [[tenant]] in the host file",
        };
        assert_eq!(
            texts,
            [format!(
                "instance shop/c1 device eth0: user.lxmesh.ipv4.address={four} may not be used by project \"shop\"; choose another one{or_add}; in network vpc it may use: 192.0.2.64/26, 192.0.2.7/32"
            )]
        );
    }
    for six in [
        "2001:db8::9:ffff",
        "2001:db8::b:0",
        "2001:db8::40",
        "::ffff:192.0.2.64",
    ] {
        let (nic, texts) = nic("192.0.2.64", six);
        let nic = nic.unwrap();
        assert!(nic.ipv4.is_some() && nic.ipv6.is_none());
        assert!(
            texts[0].ends_with("it may use: 2001:db8::a:0/112"),
            "{texts:?}"
        );
    }
    // What is granted must still be an address of the network.
    let wide = with(
        "",
        "[[tenant]]\nproject = \"shop\"\naddresses = [\"192.0.0.0/8\"]\n",
    );
    let (nic, texts) = one(
        &wide,
        of("shop", 1, |nic| nic.ipv4 = Some("192.0.3.1".into())),
    );
    assert_eq!(nic.unwrap().ipv4, None);
    assert!(
        texts[0].contains("=192.0.3.1 cannot be used in network vpc"),
        "{texts:?}"
    );
}

#[test]
fn an_empty_list_of_addresses_grants_none() {
    let host = with("", "[[tenant]]\nproject = \"shop\"\naddresses = []\n");
    let (nic, texts) = one(&host, of("shop", 1, |_| ()));
    let nic = nic.unwrap();
    assert!(nic.ipv4.is_none() && nic.ipv6.is_none());
    assert_eq!(texts.len(), 2);
    assert!(
        texts[0].ends_with("in network vpc it may use: none"),
        "{texts:?}"
    );
}

#[test]
fn an_address_that_is_not_granted_is_not_claimed_either() {
    let host = with("", "[[tenant]]\nproject = \"blog\"\naddresses = []\n");
    // By its name it comes first, and would keep the address.
    let thief = of("blog", 1, |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let owner = of("shop", 2, |nic| nic.ipv4 = Some("192.0.2.50".into()));
    let found = resolved_by(&host, &[thief, owner]);
    let addresses: Vec<_> = found.nics.iter().map(|nic| nic.ipv4).collect();
    assert_eq!(addresses, [None, Some([192, 0, 2, 50].into())]);
}

#[test]
fn a_tag_that_is_not_granted_costs_only_itself() {
    let host = with(
        "",
        "[[tenant]]\nproject = \"shop\"\ntags = [\"web\"]\n[[tenant]]\nproject = \"blog\"\ntags = []\n",
    );
    let nic = |project: &str, tags: &str| {
        let (nic, texts) = one(&host, of(project, 1, |nic| nic.tags = tags.into()));
        (nic.unwrap().tags, texts)
    };
    assert_eq!(nic("shop", "web"), (1, vec![]));
    assert_eq!(nic("default", "web db"), (0x8001, vec![]));
    let said = |project: &str, tags: &str| {
        format!(
            "instance {project}/c1 device eth0: user.lxmesh.tags: project \"{project}\" may not use some of them; remove these, or add them to tags of its [[tenant]] in the host file: {tags}"
        )
    };
    assert_eq!(
        nic("shop", "db web bastion db"),
        (1, vec![said("shop", "bastion, db")])
    );
    assert_eq!(nic("blog", "web"), (0, vec![said("blog", "web")]));
    // A word that is no tag is said by itself.
    assert_eq!(nic("shop", "web nobody").1.len(), 1);
}

/// Whom a service lets in is up to the NIC that has it.
#[test]
fn a_tag_of_others_may_be_named_in_services() {
    let host = with("", "[[tenant]]\nproject = \"shop\"\ntags = []\n");
    let service = |nic: &mut LxdNic| nic.in_services = "tcp/22@tag:bastion".into();
    assert_eq!(one(&host, of("shop", 1, service)).1, [""; 0]);
}

#[test]
fn a_refused_nic_does_not_touch_the_others() {
    let host = with("projects = [\"default\"]", "");
    let mut both = of("shop", 1, in_blue);
    both.nics.push(LxdNic {
        device: "eth1".into(),
        ..instance(2, "", |_| ()).nics.remove(0)
    });
    let found = resolved_by(&host, &[both, of("default", 3, in_blue)]);
    let ids: Vec<String> = found.nics.iter().map(|nic| nic.id.to_string()).collect();
    assert_eq!(ids, ["c3 device eth0", "shop/c1 device eth1"]);
    // Its device is put down, and it holds neither its MAC nor its address.
    assert_eq!(found.refused.len(), 1);
    assert_eq!(found.refused[0].port.as_str(), "veth1");
    assert_eq!(found.problems.len(), 1);
}

#[test]
fn a_project_with_an_impossible_name_gets_nothing_by_it() {
    let host = with(
        "projects = [\"shop\"]",
        "[[tenant]]\nproject = \"*\"\nnetworks = []\n",
    );
    for project in ["shop\n", "\u{202e}pohs", &"p".repeat(300), ""] {
        let mut odd = instance(1, "", in_blue);
        odd.id = InstanceId::of(project, "c1");
        let (nic, texts) = one(&host, odd);
        assert_eq!((nic, texts.len()), (None, 1), "{project:?}");
    }
}

#[test]
fn what_is_said_is_bounded_however_much_there_is() {
    let names: Vec<String> = (0..200).map(|n| format!("\"project-{n:0>60}\"")).collect();
    let host = with(&format!("projects = [{}]", names.join(", ")), "");
    let (_, texts) = one(&host, of(&"p".repeat(253), 1, in_blue));
    assert!(texts[0].chars().count() < 1000, "{texts:?}");
    assert!(
        texts[0].contains("add the project to projects of the network"),
        "{texts:?}"
    );
}
