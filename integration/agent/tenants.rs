//! What the host file lets the NICs of a project have: refused, granted and withdrawn as it changes.

use super::cold_start::busy_world;
use super::support::fake_lxd::Status;
use super::support::in_netns;
use super::support::world::{Nic, World};

/// Gives network vpc these projects, puts entries of tenants behind, and has the agent read it.
fn reload(world: &mut World<'_>, file: &str, projects: &str, tenants: &str) {
    let with = format!("vni = 100\n{projects}\n");
    world.write_host_file(&(file.replace("vni = 100\n", &with) + tenants));
    let read = world.logged("host file read again").len();
    world.signal("HUP");
    world.until("the host file is read", |world| {
        (world.logged("host file read again").len() > read).then_some(())
    });
}

/// A running instance of a project of which LXD tells; nobody expects anything of it yet.
fn run(world: &mut World<'_>, project: &str, nic: &Nic) -> Nic {
    let nic = Nic {
        project: project.into(),
        ..nic.clone()
    };
    world.set(&nic, Status::Running);
    world
        .lxd
        .emit("instance-started", &nic.project, &nic.instance);
    nic
}

/// The agent refuses the NIC, says why, and its device is down and in no bridge.
fn refused(world: &mut World<'_>, nic: &Nic, why: &str) {
    let port = nic.port.as_str();
    world.until("the NIC is refused", |world| {
        let status = world.status()?;
        let mut refused = status["refused"].as_array()?.iter();
        refused.find(|nic| nic["port"] == port && nic["down"] == true)?;
        let named = format!("instance {}/{} ", nic.project, nic.instance);
        let mut problems = status["problems"].as_array()?.iter();
        problems.find(|text| {
            let text = text.as_str().unwrap_or_default();
            text.starts_with(&named) && text.contains(why)
        })?;
        Some(())
    });
    let link = world.ns.link(port);
    assert!(link.get("master").is_none(), "{link:#}");
    let flags = link["flags"].as_array().unwrap();
    assert!(!flags.contains(&"UP".into()), "{link:#}");
    let name = format!("{}/{}", nic.project, nic.instance);
    let explained = world.output(&["explain", &name]);
    let text = String::from_utf8(explained.stdout).unwrap();
    assert!(
        explained.status.code() == Some(2) && text.contains(why),
        "{text}"
    );
    // All others are as they were.
    world.in_step();
}

#[test]
fn a_nic_is_connected_as_long_as_its_project_may_use_the_network() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let strangers = world.strangers();
        let file = world.host_file();
        reload(&mut world, &file, "projects = [\"default\"]", "");
        let nic = world.nic("web", "vpc");
        world.plug(&nic);
        let nic = run(&mut world, "blog", &nic);
        let why = "project \"blog\" may not use network vpc";
        refused(&mut world, &nic, why);
        // It may.
        reload(&mut world, &file, "projects = [\"default\", \"blog\"]", "");
        world.expect(&nic);
        world.in_step();
        // It may no longer, by either key.
        world.forget(&nic);
        reload(&mut world, &file, "projects = [\"default\"]", "");
        refused(&mut world, &nic, why);
        world.expect(&nic);
        reload(&mut world, &file, "", "");
        world.in_step();
        world.forget(&nic);
        let tenant = "[[tenant]]\nproject = \"blog\"\nnetworks = [\"dmz\"]\n";
        reload(&mut world, &file, "", tenant);
        refused(&mut world, &nic, "it may use: dmz");
        world.strangers_are(&strangers);
    });
}

/// As `lxc move` does it: the instance goes, and comes in another project.
#[test]
fn an_instance_that_moves_to_another_project_has_what_that_one_may() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let file = world.host_file();
        reload(&mut world, &file, "projects = [\"default\", \"shop\"]", "");
        let nic = world.nic("web", "vpc");
        world.plug(&nic);
        let shop = run(&mut world, "shop", &nic);
        world.expect(&shop);
        world.in_step();
        world.lxd.remove("shop", "web");
        world.forget(&shop);
        world.lxd.emit("instance-deleted", "shop", "web");
        let blog = run(&mut world, "blog", &nic);
        refused(
            &mut world,
            &blog,
            "project \"blog\" may not use network vpc",
        );
        world.lxd.remove("blog", "web");
        world.lxd.emit("instance-deleted", "blog", "web");
        let shop = run(&mut world, "shop", &nic);
        world.expect(&shop);
        world.in_step();
    });
}

#[test]
fn a_nic_has_the_addresses_and_tags_that_its_project_may_have() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let file = world.host_file();
        let nic = Nic {
            mark: 9,
            ..world.nic("web", "vpc")
        };
        world.plug(&nic);
        let nic = run(&mut world, "blog", &nic);
        world.expect(&nic);
        world.in_step();
        let four = nic.ipv4.clone().unwrap();
        let narrow =
            format!("[[tenant]]\nproject = \"blog\"\naddresses = [\"{four}\"]\ntags = [\"web\"]\n");
        let narrowed = Nic {
            ipv6: None,
            mark: 1,
            ..nic.clone()
        };
        reload(&mut world, &file, "", &narrow);
        world.expect(&narrowed);
        world.in_step();
        for text in [
            "user.lxmesh.ipv6.address=2001:db8::",
            "may not be used by project \"blog\"",
            "user.lxmesh.tags: project \"blog\" may not use some of them",
        ] {
            world.until_logged(text);
        }
        // An agent that starts with that file does the same.
        world.kill();
        world.start();
        world.in_step();
        let none = "[[tenant]]\nproject = \"*\"\naddresses = []\ntags = []\n[[tenant]]\nproject = \"default\"\n";
        reload(&mut world, &file, "", none);
        world.expect(&Nic {
            ipv4: None,
            mark: 0,
            ..narrowed
        });
        world.in_step();
        reload(&mut world, &file, "", "");
        world.expect(&nic);
        world.in_step();
    });
}

/// An agent older than the file, for instance.
#[test]
fn a_key_that_the_agent_does_not_know_leaves_the_old_file_in_force() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let file = world.host_file();
        let nowhere = file.replace("vni = 100\n", "vni = 100\nprojects = []\n");
        world.write_host_file(&format!("{nowhere}[[tennant]]\nproject = \"blog\"\n"));
        world.signal("HUP");
        world.until_logged("the old one stays in force");
        world.until_logged("unknown key \"tennant\" in the host file");
        assert_eq!(world.differences(), [""; 0]);
        reload(&mut world, &file, "", "");
        world.in_step();
        let problems = world.status().unwrap()["problems"].to_string();
        assert!(!problems.contains("the old one"), "{problems}");
    });
}
