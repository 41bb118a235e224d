//! `lxmesh explain`: what it says of each object is compared with what was done to it by other
//! programs, and it does nothing itself.

use super::cold_start::busy_world;
use super::repairs::with_names_of;
use super::support::fake_lxd::{Instance, Status, keys};
use super::support::in_netns;
use super::support::silence::Listeners;
use super::support::world::{Nic, World};
use serde_json::Value;
use std::collections::BTreeSet;

/// The exit status, and the document.
fn explain(world: &World<'_>, name: &str) -> (Option<i32>, Value) {
    let output = world.output(&["explain", name, "--json"]);
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status.code(), document)
}

/// Kind and state of every object of the first NIC that is not there.
fn amiss(document: &Value) -> BTreeSet<(String, String)> {
    let nic = &document["nics"][0];
    let lists = [&nic["objects"], &nic["of_network"]];
    let all = lists.into_iter().flat_map(|list| list.as_array().unwrap());
    let word = |object: &Value, key: &str| object[key].as_str().unwrap().to_string();
    all.map(|object| (word(object, "kind"), word(object, "state")))
        .filter(|(_, state)| state != "there")
        .collect()
}

fn pair(kind: &str, state: &str) -> (String, String) {
    (kind.into(), state.into())
}

fn reasons(document: &Value) -> Vec<String> {
    let list = document["nics"][0]["reasons"].as_array().unwrap();
    list.iter()
        .map(|text| text.as_str().unwrap().into())
        .collect()
}

#[test]
fn a_connected_nic_has_every_object_and_one_that_lost_some_lacks_just_those() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic: Nic = world.nics[0].clone();
        let (status, document) = explain(&world, "c1");
        assert_eq!(status, Some(0), "{document:#}");
        assert_eq!(amiss(&document), BTreeSet::new());
        let told = &document["nics"][0];
        assert_eq!(told["port"], nic.port.as_str());
        assert_eq!(told["network"], "vpc");
        let objects = told["objects"].as_array().unwrap();
        let count = |kind| objects.iter().filter(|o| o["kind"] == kind).count();
        // Two addresses and the link-local one; both IPv6 ones end alike, and so have one group.
        let counts = ["port", "fdb", "neighbour", "mdb", "route", "dnsmasq_file"].map(count);
        assert_eq!(counts, [1, 1, 3, 1, 2, 1], "{document:#}");
        let elements = ns.sh(&format!(
            "nft list table bridge lxmesh | grep -o '{} \\.' | wc -l",
            nic.port
        ));
        assert!(count("nft_element") >= elements.trim().parse().unwrap());
        let text = world.output(&["explain", "c1/eth0"]);
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.contains("eth0: connected to vpc"), "{text}");

        world.stop();
        let mut wanted = BTreeSet::new();
        for (damage, kind, state) in [
            ("bridge fdb del MAC dev PORT master", "fdb", "missing"),
            (
                "ip neighbour replace V4 lladdr 02:66:66:66:66:66 dev SVI nud permanent protocol 242",
                "neighbour",
                "different",
            ),
            (
                "ip route del V4/32 dev SVI protocol 242",
                "route",
                "missing",
            ),
            ("bridge link set dev PORT learning on", "port", "different"),
            (
                "g=$(bridge -d mdb | sed -n 's/.*port PORT grp \\(ff02::1:ff[^ ]*\\) permanent.*/\\1/p' | head -1); bridge mdb del dev SVI port PORT grp $g permanent",
                "mdb",
                "missing",
            ),
            (
                "nft 'delete element bridge lxmesh nic_id4 { \"PORT\" . MAC . V4 }'",
                "nft_element",
                "missing",
            ),
            (
                "bridge link set dev vxlan-vpc neigh_suppress off",
                "tunnel",
                "different",
            ),
        ] {
            ns.sh(&with_names_of(&nic, damage));
            wanted.insert(pair(kind, state));
            let (status, document) = explain(&world, "c1");
            assert_eq!(
                (status, amiss(&document)),
                (Some(2), wanted.clone()),
                "{damage}"
            );
        }
        let hosts = world.path("dnsmasq/hosts");
        ns.sh(&format!("sed -i /{}/d {}", nic.mac, hosts.display()));
        wanted.insert(pair("dnsmasq_file", "different"));
        let listeners = Listeners::new(&world);
        let before = world.differences();
        let (_, document) = explain(&world, "c1");
        assert_eq!(amiss(&document), wanted);
        assert!(
            document["notes"][0].as_str().unwrap().contains("start it"),
            "{document:#}"
        );
        // Nothing of this is the other NICs'.
        let (_, other) = explain(&world, "c2");
        assert_eq!(amiss(&other), [pair("tunnel", "different")].into());
        assert_eq!(listeners.heard(&world), [""; 0]);
        assert_eq!(world.differences(), before);

        ns.sh("nft delete table bridge lxmesh");
        let (_, document) = explain(&world, "c2");
        for kind in ["nft_table", "nft_element"] {
            let state = if kind == "nft_table" {
                "different"
            } else {
                "missing"
            };
            assert!(
                amiss(&document).contains(&pair(kind, state)),
                "{document:#}"
            );
        }
    });
}

#[test]
fn every_reason_not_to_be_connected_is_told_with_its_remedy() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("well", "vpc");
        let stopped = world.nic("stopped", "vpc");
        world.set(&stopped, Status::Stopped);
        let mut paused = world.nic("paused", "vpc");
        paused.project = "prod".into();
        world.set(&paused, Status::Frozen);
        // Its device is not there.
        let unplugged = world.nic("unplugged", "vpc");
        world.set(&unplugged, Status::Running);
        let mut outside = world.nic("outside", "vpc");
        outside.ipv4 = Some("10.0.0.1".into());
        world.plug(&outside);
        world.set(&outside, Status::Running);
        let mut lost = world.nic("lost", "vpc");
        lost.network = "nowhere";
        world.set(&lost, Status::Running);
        let mut others = Instance::new("others");
        others.status = Status::Running;
        others.devices.insert(
            "br".into(),
            keys(&[("type", "nic"), ("nictype", "bridged")]),
        );
        others
            .devices
            .insert("p2p".into(), keys(&[("type", "nic"), ("nictype", "p2p")]));
        world.lxd.put(others);
        world.start();
        world.until("in step with what can be", |world| {
            (world.status()?["nics"].as_array()?.len() == 3).then_some(())
        });

        for (name, text) in [
            (
                "stopped",
                "the instance is stopped, and only running ones are connected; lxc start stopped",
            ),
            (
                "prod/paused",
                "the instance is paused, and only running ones are connected; lxc start --project prod paused",
            ),
            (
                "unplugged",
                "does not exist; LXD makes it when the instance starts",
            ),
            (
                "outside",
                "user.lxmesh.ipv4.address=10.0.0.1 cannot be used in network vpc",
            ),
            ("lost", "the networks are: vpc, dmz"),
            ("others/br", "it is of nictype=bridged"),
            (
                "others/p2p",
                "lxc config device set others p2p user.lxmesh.parent=NETWORK",
            ),
        ] {
            let (status, document) = explain(&world, name);
            let said = reasons(&document);
            assert_eq!((status, said.len()), (Some(2), 1), "{name}: {document:#}");
            assert!(said[0].contains(text), "{text:?} is not in {said:?}");
            assert_eq!(document["nics"][0]["managed"], !name.starts_with("others"));
        }
        // What is not LXMesh's does not count where something else is.
        assert_eq!(explain(&world, "well").0, Some(0));
        assert_eq!(explain(&world, "others").0, Some(2));
        for name in ["nobody", "well/eth9"] {
            let output = world.output(&["explain", name]);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
        }

        ns.sh("ip link delete vxlan-vpc");
        let (status, document) = explain(&world, "well");
        assert_eq!(status, Some(2));
        assert!(
            reasons(&document)[0].contains("tunnel vxlan-vpc does not exist"),
            "{document:#}"
        );
    });
}

#[test]
fn without_the_right_to_read_the_filters_it_cannot_be_told() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        let mut world = world.started();
        world.wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
            .map(str::to_string)
            .into();
        let (status, document) = explain(&world, "c1");
        assert_eq!(status, Some(1), "{document:#}");
        assert!(amiss(&document).contains(&pair("nft_element", "unknown")));
        world.wrapper.clear();
        assert_eq!(explain(&world, "c1").0, Some(0));
    });
}

/// Who has an address that two claim is a matter of who had it before, which the agent knows, and the kernel.
#[test]
fn a_contested_address_is_told_to_be_whose_the_agent_says() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let first = world.launch("first", "vpc");
        let mut world = world.started();
        let mut second = world.nic("second", "vpc");
        second.ipv4 = first.ipv4.clone();
        world.plug(&second);
        world.set(&second, Status::Running);
        // Started long before.
        let mut instance = world.lxd.get("default", "second");
        instance.last_used_at = "2020-01-01T00:00:00Z".into();
        world.lxd.put(instance);
        world.lxd.emit("instance-started", "default", "second");
        world.until("the agent knows both", |world| {
            (world.status()?["nics"].as_array()?.len() == 2).then_some(())
        });
        let (status, document) = explain(&world, "second");
        assert_eq!(status, Some(2), "{document:#}");
        assert!(
            reasons(&document)[0].contains("is used in network vpc by first"),
            "{document:#}"
        );
        assert_eq!(explain(&world, "first").0, Some(0));
        assert_eq!(world.output(&["plan"]).status.code(), Some(0));
        // Without an agent the kernel knows by the agent's entries.
        world.stop();
        let (_, document) = explain(&world, "second");
        assert!(
            reasons(&document)[0].contains("is used in network vpc by first"),
            "{document:#}"
        );
        // Nobody remembers: then it is whoever was started first.
        let all = format!("ip neighbour del {} dev svi-vpc", first.ipv4.unwrap());
        world.ns.sh(&all);
        let (_, document) = explain(&world, "second");
        assert_eq!(reasons(&document), [""; 0]);
    });
}

#[test]
fn a_larger_mtu_than_the_networks_is_remarked_on_and_no_fault() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let nic: Nic = world.nics[0].clone();
        let network = |status: &Value| {
            let networks = status["networks"].as_array()?;
            networks.iter().find(|n| n["name"] == "vpc")?["mtu"].as_u64()
        };
        let own = |status: &Value| {
            let nics = status["nics"].as_array()?;
            nics.iter().find(|n| n["instance"] == "c1")?["mtu"].as_u64()
        };
        let remarks = |status: &Value| {
            let all = status["remarks"].as_array()?.iter();
            let of_it = all.filter(|r| r.as_str().unwrap().contains("instance c1 device"));
            Some(of_it.cloned().collect::<Vec<Value>>())
        };
        let carried = world.status().as_ref().and_then(network).unwrap();
        for (mtu, remarked) in [(carried, false), (carried + 50, true), (carried, false)] {
            ns.sh(&format!("ip link set {} mtu {mtu}", nic.port));
            let status = world.until(&format!("an MTU of {mtu} is seen"), |world| {
                let status = world.status()?;
                (own(&status)? == mtu).then_some(status)
            });
            assert_eq!(status["in_step"], true, "{status:#}");
            let remedy = format!("lxc config device set c1 eth0 mtu={carried}");
            let said = remarks(&status).unwrap();
            assert_eq!(said.len(), usize::from(remarked), "{status:#}");
            assert!(said.iter().all(|r| r.as_str().unwrap().contains(&remedy)));
            let (exit, document) = explain(&world, "c1");
            assert_eq!(exit, Some(0), "{document:#}");
            let explained = document["nics"][0]["remarks"].to_string();
            assert_eq!(explained.contains(&remedy), remarked, "{explained}");
        }
    });
}
