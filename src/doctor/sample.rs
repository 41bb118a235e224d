//! A host that lacks nothing, to take something away from in tests.

use super::files::{Module, modules, settings};
use super::judge::judge;
use super::look::Seen;
use super::{Finding, Level};
use crate::control::Status;
use crate::generate::Here;
use crate::host::{self, HostFile};
use crate::kernel::link::{BridgeData, Link, LinkKind, VxlanData};
use crate::model::Facts;
use std::collections::{BTreeMap, BTreeSet};

pub fn host_file() -> HostFile {
    let text = "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\n\
        reflectors = [\"203.0.113.1\", \"203.0.113.2\"]\nsupervisors = [\"203.0.113.11\"]\n\
        [[network]]\nname = \"vpc\"\nvni = 100\ngateway = [\"192.0.2.1/24\"]\n\
        gateway_mac = \"02:00:00:00:00:64\"\nmtu = 1450\n";
    host::parse("x", text).unwrap_or_else(|problems| panic!("{problems}"))
}

pub fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Link {
    Link {
        mac: "02:00:00:00:00:64".parse().ok(),
        ..Link::sample(index, name, kind, master)
    }
}

pub fn bridge() -> Link {
    let data = BridgeData {
        mcast_snooping: true,
        mcast_querier: true,
        mcast_igmp_version: 3,
        mcast_mld_version: 2,
        mcast_router: 1,
        mcast_query_response_interval: 1000,
        vlan_filtering: false,
    };
    link(1, "svi-vpc", LinkKind::Bridge(data), None)
}

pub fn tunnel(change: impl FnOnce(&mut VxlanData)) -> Link {
    let mut data = VxlanData {
        vni: 100,
        local: "203.0.113.11".parse().ok(),
        port: 4789,
        learning: false,
        gbp: true,
        drops_marked: Some(false),
    };
    change(&mut data);
    link(2, "vxlan-vpc", LinkKind::Vxlan(data), Some(1))
}

/// A host that lacks nothing.
pub fn well() -> Seen {
    let host = host_file();
    let files = crate::generate::kernel_files(&host).unwrap();
    let sysctls = files
        .iter()
        .flat_map(settings)
        .map(|s| (s.key, Some(s.value)));
    let modules = files.iter().flat_map(modules);
    let ip = |text: &str| text.parse().unwrap();
    let said = [
        ("nftables", "nftables v1.1.3 (Commodore Bullmoose)"),
        ("FRR", "bgpd version 10.3"),
        ("systemd", "systemd 257 (257.8)"),
        ("dnsmasq", "Dnsmasq version 2.91"),
    ];
    Seen {
        here: Ok(Here {
            underlay: ip("203.0.113.11"),
            supervisor: true,
            reflector: false,
        }),
        kernel: "6.12.48+deb13-amd64".into(),
        checks: Ok(true),
        features: [
            "nft_meta_bridge",
            "nf_conntrack_bridge",
            "nft_log",
            "ruleset",
        ]
        .map(|name| (name, Ok(())))
        .into(),
        modules: modules.map(|name| (name, Module::Loaded)).collect(),
        versions: said.map(|(name, said)| (name, Ok(said.into()))).into(),
        strongswan: None,
        exposed: Vec::new(),
        lxd: Ok("lxd 5.0.2".into()),
        unread: Ok(Vec::new()),
        sysctls: sysctls.collect(),
        closed: Ok(true),
        firewall_at_boot: true,
        facts: Ok(Facts::new([bridge(), tunnel(|_| ())])),
        addresses: BTreeSet::from([ip("203.0.113.11"), ip("192.0.2.1")]),
        paths: BTreeMap::from([(ip("203.0.113.1"), Ok(1500))]),
        bgp: Ok(["203.0.113.1", "203.0.113.2"]
            .map(|peer| (ip(peer), "Established".to_string()))
            .into()),
        agent: Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            in_step: true,
            ..Status::default()
        }),
    }
}

/// Whatever is not well.
pub fn complaints(seen: &Seen) -> Vec<Finding> {
    let mut all = judge(&host_file(), seen);
    all.retain(|finding| finding.level != Level::Ok);
    all
}

/// What was changed; level, topic and text of the one finding that there must be for it; a part of
/// its remedy.
pub type Case = (fn(&mut Seen), &'static str, &'static str);

pub fn each_is_found(cases: &[Case]) {
    for (change, wanted, remedy) in cases {
        let mut seen = well();
        change(&mut seen);
        let found = complaints(&seen);
        let [one] = found.as_slice() else {
            panic!("{wanted}: {found:#?}");
        };
        let line = format!("{:?} {}: {}", one.level, one.topic, one.text);
        assert!(line.contains(wanted), "{wanted:?} is not in {line:?}");
        let said = one.remedy.as_deref().unwrap_or_default();
        assert!(said.contains(remedy), "{one:#?}");
    }
}
