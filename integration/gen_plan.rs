//! What `lxmesh-gen plan` says of each kind of change of the host file: its cost, and what is run.

use lxmesh::generate::plan::{Cost, FileChange, Plan, Step, plan};
use lxmesh::generate::{self, LocalFacts};
use lxmesh::host::{self, HostFile};
use std::collections::BTreeMap;
use std::path::PathBuf;

const BASE: &str = r#"
version = 1
[fabric]
name = "lab"
asn = 64500
reflectors = ["198.51.100.101"]
supervisors = ["198.51.100.0/24"]
[[network]]
name = "vpc"
vni = 100
gateway = ["192.0.2.1/24"]
[[network]]
name = "blue"
vni = 200
"#;

fn parse(text: &str) -> HostFile {
    host::parse("host.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn files(file: &HostFile, address: &str) -> BTreeMap<PathBuf, String> {
    let facts = LocalFacts::of(address.parse().unwrap());
    let outputs = generate::render(file, &facts).unwrap();
    outputs
        .into_iter()
        .map(|output| (output.path, output.contents))
        .collect()
}

fn plan_of(before: &str, after: &str) -> Plan {
    let (old, new) = (parse(before), parse(after));
    let (mut one, mut two) = (files(&old, "198.51.100.11"), files(&new, "198.51.100.11"));
    let paths: Vec<PathBuf> = one.keys().chain(two.keys()).cloned().collect();
    let mut changes: Vec<FileChange> = paths
        .into_iter()
        .map(|path| FileChange {
            before: one.remove(&path),
            after: two.remove(&path),
            path,
        })
        .filter(|change| change.before != change.after)
        .collect();
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    plan(&changes, Some(&old), &new)
}

/// The plan for a change of one piece of text.
fn change(from: &str, to: &str) -> Plan {
    assert!(BASE.contains(from));
    plan_of(BASE, &BASE.replace(from, to))
}

fn outages(plan: &Plan) -> Vec<&str> {
    let effects = plan.effects.iter();
    effects
        .filter(|effect| effect.cost == Cost::Outage)
        .map(|effect| effect.of.as_str())
        .collect()
}

#[test]
fn the_same_host_file_is_nothing_to_do() {
    assert_eq!(plan_of(BASE, BASE), Plan::default());
}

#[test]
fn a_new_network_and_a_new_reflector_interrupt_nothing() {
    let red = format!("{BASE}[[network]]\nname = \"red\"\nvni = 300\n");
    let plan = plan_of(BASE, &red);
    assert_eq!(plan.cost(), Cost::Reload);
    assert!(
        matches!(
            plan.steps[..],
            [
                Step::ReloadNetworkd,
                Step::ReloadFrr { .. },
                Step::ReloadAgent
            ]
        ),
        "{:?}",
        plan.steps
    );

    let plan = change(
        r#"["198.51.100.101"]"#,
        r#"["198.51.100.101", "198.51.100.102"]"#,
    );
    assert_eq!(plan.cost(), Cost::Reload);
    let mut deltas = plan.steps.iter().filter_map(|step| match step {
        Step::ReloadFrr { delta } => Some(delta),
        _ => None,
    });
    let delta = deltas.next().unwrap();
    let filter = Step::LoadNft {
        path: "/etc/lxmesh/firewall.nft".into(),
        leaves: Vec::new(),
    };
    assert!(plan.steps.contains(&filter), "{:?}", plan.steps);
    assert_eq!(
        delta,
        &[
            "router bgp 64500",
            "neighbor 198.51.100.102 peer-group reflectors",
            "exit"
        ]
    );
    let text = plan
        .effects
        .iter()
        .map(ToString::to_string)
        .collect::<String>();
    assert!(
        text.contains("a session with 198.51.100.102 is added"),
        "{text}"
    );
}

#[test]
fn a_removed_network_takes_its_devices_along_and_no_other() {
    let plan = plan_of(
        &format!("{BASE}[[network]]\nname = \"red\"\nvni = 300\n"),
        BASE,
    );
    assert_eq!(outages(&plan), ["network \"red\"", "network \"red\""]);
    assert_eq!(
        plan.steps[..2],
        [
            Step::DeleteLink("svi-red".into()),
            Step::DeleteLink("vxlan-red".into())
        ]
    );
}

#[test]
fn a_changed_vni_makes_one_tunnel_anew() {
    let plan = change("vni = 200", "vni = 201");
    // The gateway's MAC address, which comes from the VNI, is the other reason.
    assert_eq!(outages(&plan), ["network \"blue\""; 2]);
    let said = |effect: &lxmesh::generate::plan::Effect| effect.why.contains("VNI 200 becomes 201");
    assert!(plan.effects.iter().any(said), "{plan:?}");
    assert!(plan.steps.contains(&Step::DeleteLink("vxlan-blue".into())));
    assert!(!plan.steps.contains(&Step::DeleteLink("vxlan-vpc".into())));
}

#[test]
fn a_changed_mtu_is_set_on_tunnels_that_stay() {
    let plan = change("asn = 64500", "asn = 64500\nunderlay_mtu = 1400");
    assert_eq!(outages(&plan), ["network \"blue\"", "network \"vpc\""]);
    let mtu = Step::SetMtu {
        link: "vxlan-vpc".into(),
        mtu: "1350".into(),
    };
    assert!(plan.steps.contains(&mtu), "{:?}", plan.steps);
    assert!(
        !plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::DeleteLink(_)))
    );
}

#[test]
fn a_changed_gateway_and_its_mac_concern_their_network_only() {
    let plan = change("192.0.2.1/24", "192.0.2.254/24");
    assert_eq!(outages(&plan), ["the gateway of network \"vpc\""]);
    let gone = Step::RemoveAddress {
        link: "svi-vpc".into(),
        address: "192.0.2.1/24".into(),
    };
    assert!(plan.steps.contains(&gone), "{:?}", plan.steps);

    let plan = change(
        "vni = 100\n",
        "vni = 100\ngateway_mac = \"02:00:00:00:00:01\"\n",
    );
    assert_eq!(outages(&plan), ["network \"vpc\""]);
    let mac = Step::SetMac {
        link: "svi-vpc".into(),
        mac: "02:00:00:00:00:01".into(),
    };
    assert!(plan.steps.contains(&mac), "{:?}", plan.steps);
}

#[test]
fn another_as_number_starts_every_session_anew() {
    let plan = change("asn = 64500", "asn = 64501");
    assert_eq!(outages(&plan), ["BGP and the entries of other hosts"]);
    assert!(
        plan.effects[0].why.contains("from 64500 to 64501"),
        "{plan:?}"
    );
}

#[test]
fn what_only_the_agent_reads_is_the_agents() {
    for more in [
        "[tags]\nweb = 3\n",
        "projects = [\"shop\"]\n",
        "[[tenant]]\nproject = \"shop\"\naddresses = [\"192.0.2.7\"]\n",
    ] {
        let plan = plan_of(BASE, &format!("{BASE}{more}"));
        assert_eq!(plan.steps, [Step::ReloadAgent], "{more}");
        assert_eq!(plan.cost(), Cost::Reload, "{more}");
    }
}

#[test]
fn options_of_the_daemons_restart_frr_and_no_reload_is_left() {
    let path = |path: &str, before: &str, after: &str| FileChange {
        path: path.into(),
        before: Some(before.into()),
        after: Some(after.into()),
    };
    let changes = [
        path("/etc/frr/daemons", "bgpd=no\n", "bgpd=yes\n"),
        path("/etc/frr/frr.conf", "router bgp 1\n", "router bgp 2\n"),
    ];
    let file = parse(BASE);
    let plan = plan(&changes, Some(&file), &file);
    assert_eq!(plan.steps, [Step::RestartFrr]);
}

#[test]
fn a_packet_filter_whose_file_goes_filters_no_longer() {
    let file = parse(BASE);
    let text = "add table inet ours\n";
    let change = |before: Option<&str>, after: Option<&str>| {
        let change = FileChange {
            path: "/etc/lxmesh/firewall.nft".into(),
            before: before.map(str::to_string),
            after: after.map(str::to_string),
        };
        plan(&[change], Some(&file), &file).steps
    };
    let load = Step::LoadNft {
        path: "/etc/lxmesh/firewall.nft".into(),
        leaves: Vec::new(),
    };
    assert_eq!(change(None, Some(text)), [load]);
    let delete = Step::DeleteTable {
        family: "inet".into(),
        name: "ours".into(),
    };
    assert_eq!(change(Some(text), None), [delete]);
    let closed = FileChange {
        path: "/etc/lxmesh/closed.nft".into(),
        before: Some(text.into()),
        after: None,
    };
    assert_eq!(plan(&[closed], Some(&file), &file).steps, [], "it stays");
}

#[test]
fn connections_that_are_no_more_are_closed_and_no_others() {
    let encrypted = format!("{BASE}[ipsec]\nenabled = true\nidentity = \"*.example.org\"\n");
    let closed = |before: &str, after: &str| -> Vec<String> {
        let steps = plan_of(before, after).steps;
        let close = |step: &Step| matches!(step, Step::CloseConnection(_));
        steps
            .iter()
            .filter(|step| close(step))
            .map(Step::to_string)
            .collect()
    };
    assert_eq!(closed(BASE, &encrypted), [""; 0]);
    let both = encrypted.replacen("reflectors = [", "reflectors = [\"198.51.100.199\", ", 1);
    assert_ne!(both, encrypted);
    assert_eq!(closed(&encrypted, &both), [""; 0]);
    assert_eq!(
        closed(&both, &encrypted),
        ["close the connection lxmesh-198-51-100-199"]
    );
    let all = closed(&both, BASE);
    assert!(
        all.contains(&"close the connection lxmesh-fleet".to_string()),
        "{all:?}"
    );
    assert_eq!(all.len(), 3, "{all:?}");
}

#[test]
fn a_router_outside_is_one_more_session() {
    let announced = BASE.replace(
        "vni = 100\n",
        "vni = 100\nhost_routes = \"main\"\nannounce = true\n",
    );
    let told = format!("{announced}[[router]]\naddress = \"203.0.113.1\"\nasn = 64511\n");
    let there = plan_of(BASE, &told);
    assert_eq!(there.cost(), Cost::Reload);
    let says =
        |plan: &Plan, what: &str| plan.effects.iter().any(|effect| effect.why.contains(what));
    assert!(
        says(&there, "a session with 203.0.113.1 is added"),
        "{there:?}"
    );
    let back = plan_of(&told, BASE);
    assert!(says(&back, "the session with 203.0.113.1 ends"), "{back:?}");
    assert_eq!(back.cost(), Cost::Reload);
}

#[test]
fn services_of_the_fabric_concern_the_agent_alone() {
    let opened = plan_of(
        BASE,
        &BASE.replace(
            "[[network]]\nname = \"vpc\"",
            "services = [\"tcp/3128\"]\n[[network]]\nname = \"vpc\"",
        ),
    );
    assert_eq!(opened.cost(), Cost::Reload);
    assert_eq!(opened.steps, [Step::ReloadAgent]);
}
