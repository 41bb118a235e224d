//! Somebody else changes the nftables tables, also while the agent loads them, or keeps it from loading them.

use super::cold_start::busy_world;
use super::repairs::each_is_repaired;
use super::support::listener::Listener;
use super::support::nft_names;
use super::support::world::World;
use super::support::{Ns, in_netns};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is no element like ours opens a set for everything, or narrows it.
#[test]
fn elements_of_another_form_are_damage() {
    each_is_repaired(&[
        "nft 'add element bridge lxmesh out_svc { * }; add element bridge lxmesh in_svc { * }'",
        "nft 'add element inet lxmesh nic_ports { * }'",
        "nft 'add element bridge lxmesh vrf_zones { * : 7 }'",
    ]);
}

/// Whoever changes the tables at any moment, even while they are loaded, is not taken for us.
#[test]
fn a_writer_who_never_rests_is_never_taken_for_us() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        world.launch("c1", "vpc");
        // The chain is there without rules, as this kernel may not take them.
        let writer = Listener::start(
            &[
                "sh",
                "-c",
                "while :; do nft list chain bridge lxmesh egress_denied 2>&1 | grep -q 'rogue\\|No such' || { nft 'insert rule bridge lxmesh egress_denied accept comment \"rogue\"' && echo written; }; done",
            ],
            world.path("written"),
        );
        let mut world = world.started();
        for _ in 0..3 {
            world.until("it has written a lot", |_| {
                (writer.text().lines().count() > 30).then_some(())
            });
            world.kill();
            world.start();
        }
        drop(writer);
        // Whatever it has hit, the last of it is found.
        world.until("its rule is gone", |_| {
            let rules = ns.sh("nft list chain bridge lxmesh egress_denied");
            (!rules.contains("rogue")).then_some(())
        });
        world.in_step();
        let said = world.logged("something else keeps undoing this");
        assert!(said.iter().all(|line| line.contains("at once")), "{said:?}");
        assert_eq!(planned_tables(&world), [""; 0]);
    });
}

/// What `plan` would change of the tables.
fn planned_tables(world: &World<'_>) -> Vec<String> {
    let said = String::from_utf8(world.output(&["plan"]).stdout).unwrap();
    let about = said.lines().filter(|line| line.contains("nft_table"));
    about.map(str::to_string).collect()
}

#[test]
fn nothing_is_merged_into_tables_that_another_made() {
    for before in [
        "add table bridge lxmesh { flags dormant; }",
        "add table inet lxmesh; add chain inet lxmesh hole",
        "add table bridge lxmesh; add set bridge lxmesh load_stamp { type mark; }; add element bridge lxmesh load_stamp { 1 comment \"0 0\" }",
    ] {
        in_netns(|ns| {
            ns.nft(before);
            let mut world = World::new(ns).started();
            let wrong = [
                "dormant",
                "chain hole",
                "chain other",
                "comment \"a\"",
                "0 0",
            ];
            let is_whole = || {
                let now = ns.sh("nft list ruleset");
                // Those of the closed tables, too.
                let stamped = now.matches("comment \"2 ").count() == 2;
                (stamped && !wrong.iter().any(|one| now.contains(one))).then_some(())
            };
            world.until(before, |_| is_whole());
            assert_eq!(planned_tables(&world), [""; 0], "{before}");
            // Neither what is changed in place nor what comes while one is there.
            for damage in [
                "add table bridge lxmesh { flags dormant; }",
                "rename chain bridge lxmesh egress_denied other",
                "flush set bridge lxmesh load_stamp; add element bridge lxmesh load_stamp { 1 comment \"2 0 0\" }",
                "flush set bridge lxmesh load_stamp; add element bridge lxmesh load_stamp { 1 comment \"0 0\" }",
                "flush set bridge lxmesh load_stamp",
                "insert rule bridge lxmesh egress_denied accept comment \"a\"",
            ] {
                world.signal("STOP");
                ns.nft(damage);
                assert_eq!(is_whole(), None, "no harm done: {damage}");
                world.signal("CONT");
                world.until(damage, |_| is_whole());
            }
        });
    }
}

/// However often: nothing may wait for a repair of filters.
#[test]
fn flushed_filters_are_never_put_off() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        for _ in 0..12 {
            ns.sh("nft flush ruleset");
            world.until("the tables are back", |_| {
                ns.try_sh("nft list chain bridge lxmesh egress_denied").ok()
            });
        }
        world.in_step();
        let status = world.status().unwrap();
        assert_eq!(
            status["deferred"].as_array().map(Vec::len),
            Some(0),
            "{status}"
        );
        assert_eq!(
            world.logged("repairing it each time at once").len(),
            2,
            "once for each of the two"
        );
    });
}

/// While the file that is returned is there, `nft` fails: always, or, if the file has a text, for scripts with that.
fn break_nft(world: &mut World<'_>) -> PathBuf {
    let broken = world.path("broken");
    let bin = world.path("bin");
    fs::create_dir(&bin).unwrap();
    let program = format!(
        "#!/bin/sh\n[ -e {0} ] || exec /usr/sbin/nft \"$@\"\n[ -s {0} ] || exit 1\nscript=$(mktemp); cat > $script\n\
         if grep -qFf {0} $script; then rm $script; exit 1; fi\n/usr/sbin/nft \"$@\" < $script; done=$?; rm $script; exit $done\n",
        broken.display()
    );
    fs::write(bin.join("nft"), program).unwrap();
    fs::set_permissions(bin.join("nft"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    world.environment.insert("PATH".into(), path);
    broken
}

/// What was prepared for a replacement that failed is not prepared again by each attempt.
#[test]
fn loads_that_fail_leave_one_gate_and_are_tried_once_a_second() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let broken = break_nft(&mut world);
        world.launch("c1", "vpc");
        let mut world = world.started();
        fs::write(&broken, "add element bridge lxmesh load_stamp").unwrap();
        ns.nft("add chain bridge lxmesh hole { type filter hook forward priority -500; }");
        let failures = |world: &World<'_>| world.status()?["passes"]["failures"].as_u64();
        world.until("it has tried several times", |world| {
            failures(world).filter(|failures| *failures >= 4)
        });
        let passes = |world: &World<'_>| {
            let passes = &world.status().unwrap()["passes"];
            passes["full"].as_u64().unwrap() + passes["scoped"].as_u64().unwrap()
        };
        // Those that no template has among them.
        let of_ours = ns.sh("for f in bridge inet arp; do nft list table $f lxmesh; done");
        assert!(nft_names::names(&of_ours).contains("open_gate"));
        assert_eq!(nft_names::unsafe_names(&of_ours), ["hole".into()].into());
        let rules = ns.sh("nft list chain bridge lxmesh hole");
        assert_eq!(rules.matches("@open_gate accept").count(), 1, "{rules}");
        // The port is not trusted to tables that are not what they should be.
        world.until("the port is down", |world| {
            (!is_up(ns, &world.nics[0].port)).then_some(())
        });
        // And stays so, whatever happens to it.
        ns.sh(&format!(
            "ip link set {0} up; ip link set {0} alias x",
            world.nics[0].port
        ));
        world.until("the port is down again", |world| {
            (!is_up(ns, &world.nics[0].port)).then_some(())
        });
        let (before, began) = (passes(&world), Instant::now());
        world.until("more attempts", |world| {
            (passes(world) >= before + 3).then_some(())
        });
        assert!(
            began.elapsed() > Duration::from_secs(1),
            "it does not rest in between"
        );
        assert!(!is_up(ns, &world.nics[0].port));
        // Not for a moment: no look at the NIC alone, which sees nothing wrong, has brought it up.
        assert_eq!(world.logged("scope=\"c1\""), [""; 0]);
        fs::remove_file(&broken).unwrap();
        world.in_step();
        let rules = ns.sh("nft list table bridge lxmesh");
        assert!(
            !rules.contains("hole") && !rules.contains("set open_gate {"),
            "{rules}\n{}",
            world.log()
        );
    });
}

fn is_up(ns: &Ns, port: &str) -> bool {
    let flags = ns.link(port)["flags"].clone();
    flags.as_array().unwrap().contains(&"UP".into())
}

/// Ports that nothing filters are down until something does. What was planned meanwhile and could not be done was
/// undone by nobody.
#[test]
fn while_no_tables_can_be_loaded_ports_are_down_and_nothing_is_learnt() {
    in_netns(|ns| {
        let mut world = World::new(ns);
        let broken = break_nft(&mut world);
        let first = world.launch("c1", "vpc");
        let mut world = world.started();
        // Other tables are left, and dormant or empty ones are as good as none.
        for damage in [
            "delete table bridge lxmesh",
            "add table bridge lxmesh { flags dormant; }",
            "delete table bridge lxmesh; add table bridge lxmesh",
        ] {
            fs::write(&broken, "").unwrap();
            ns.nft(damage);
            world.until(damage, |_| (!is_up(ns, &first.port)).then_some(()));
            fs::remove_file(&broken).unwrap();
            world.in_step();
            assert!(is_up(ns, &first.port));
        }
        fs::write(&broken, "").unwrap();
        ns.sh("nft flush ruleset");
        world.until("the port is down", |_| {
            (!is_up(ns, &first.port)).then_some(())
        });
        // One that comes now is not connected.
        let second = world.nic("c2", "vpc");
        world.run(&second);
        world.until("it has tried several times", |world| {
            (world.status()?["passes"]["failures"].as_u64()? > 4).then_some(())
        });
        assert!(!is_up(ns, &first.port));
        assert_eq!(ns.link(&second.port)["master"], serde_json::Value::Null);
        fs::remove_file(&broken).unwrap();
        world.in_step();
        assert!(is_up(ns, &first.port) && is_up(ns, &second.port));
        // The tables it was that somebody undid.
        let mut said = world.logged("keeps undoing this");
        said.retain(|line| !line.contains("nft_table") && !line.contains("lxmesh_closed"));
        assert_eq!(said, [""; 0]);
        // An agent that cannot start does not leave them open either.
        world.stop();
        ns.sh("nft flush ruleset");
        fs::write(&broken, "").unwrap();
        world.start();
        world.until("it gives up", |world| world.has_ended().then_some(()));
        assert!(!is_up(ns, &first.port) && !is_up(ns, &second.port));
        fs::remove_file(&broken).unwrap();
        world.start();
        world.in_step();
        assert!(is_up(ns, &first.port) && is_up(ns, &second.port));
    });
}
