//! The agent as lxmesh-agent.service runs it: a user of its own, three capabilities, no root.

use super::support::checks::share_with;
use super::support::fake_lxd::keys;
use super::support::in_netns;
use super::support::world::{Nic, World};
use std::os::unix::net::UnixStream;
use std::process::Command;

/// No user and no group of any machine's.
const USER: u32 = 64_240;
const GROUP: u32 = 64_241;
const LXD_GROUP: u32 = 64_242;
const CAPABILITIES: &str = "+net_admin,+net_raw,+net_bind_service";
const BOUNDS: &str = "-all,+net_admin,+net_raw,+net_bind_service";

/// A world whose agent is USER in GROUP, and whose LXD is open to LXD_GROUP.
fn world_of_a_user(ns: &super::support::Ns) -> World<'_> {
    let mut world = World::new(ns);
    share_with(USER);
    ns.sh(&format!(
        "chgrp {LXD_GROUP} {at}/lxd.sock; chmod 660 {at}/lxd.sock; chown root {at}; chmod 755 {at}
         mkdir {at}/run {at}/dnsmasq; chown {USER}:{GROUP} {at}/run {at}/dnsmasq; chmod 644 {at}/host.toml",
        at = world.directory.path().display()
    ));
    let text = world
        .host_file()
        .replace("/control.sock", "/run/control.sock");
    world.write_host_file(&text);
    world.wrapper = wrapper(USER, GROUP, &[LXD_GROUP]);
    let capabilities = [
        format!("--inh-caps={CAPABILITIES}"),
        format!("--ambient-caps={CAPABILITIES}"),
        format!("--bounding-set={BOUNDS}"),
        "--no-new-privs".into(),
    ];
    world.wrapper.extend(capabilities);
    // Programs of the build are not everybody's. (Copied by another process: a child of another test
    // would hold a file of ours open for writing, and it could not be run.)
    let copy = world.path("lxmesh");
    ns.sh(&format!(
        "cp {} {}",
        env!("CARGO_BIN_EXE_lxmesh"),
        copy.display()
    ));
    world.program = copy;
    world
}

fn wrapper(user: u32, group: u32, groups: &[u32]) -> Vec<String> {
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    vec![
        "setpriv".into(),
        format!("--reuid={user}"),
        format!("--regid={group}"),
        if groups.is_empty() {
            "--clear-groups".into()
        } else {
            format!("--groups={}", groups.join(","))
        },
    ]
}

/// `lxmesh COMMAND` by root, beside an agent that is not.
fn by_root(world: &mut World<'_>, command: &[&str]) -> (Option<i32>, String) {
    let theirs = std::mem::take(&mut world.wrapper);
    let output = world.output(command);
    world.wrapper = theirs;
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// The value of a line of /proc/PID/status.
fn process_line(pid: &str, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_string()
}

#[test]
fn a_user_with_three_capabilities_does_all_of_the_agents_work() {
    in_netns(|ns| {
        let mut world = world_of_a_user(ns);
        let nic: Nic = world.launch("c1", "vpc");
        world.launch("c2", "dmz");
        world.start();
        world.in_step();
        let agent = world.pid().to_string();
        assert_eq!(
            process_line(&agent, "Uid:").split('\t').next(),
            Some(USER.to_string().as_str())
        );
        // net_bind_service (10), net_admin (12), net_raw (13)
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(process_line(&agent, set), "0000000000003400", "{set}");
        }

        // netlink, nft and /proc/sys, at the start and afterwards
        world.repairs(&format!(
            "bridge fdb del {} dev {} master",
            nic.mac, nic.port
        ));
        world.repairs("nft delete table inet lxmesh");
        world.launch("c3", "vpc");
        world.in_step();

        // dnsmasq is a child that runs as the same user and has port 67 on the bridges
        let dnsmasq = world.until("dnsmasq runs", |world| {
            let said = world.status()?["dhcp"].as_str()?.to_string();
            let pid = said.split_whitespace().find_map(|word| {
                let digits = word.trim_matches(|c: char| !c.is_ascii_digit());
                digits.parse::<u32>().ok()
            })?;
            said.contains("running").then(|| pid.to_string())
        });
        world.until("port 67", |world| {
            world
                .ns
                .sh("ss -Hlun 'sport = :67'")
                .contains(":67")
                .then_some(())
        });
        assert_eq!(
            process_line(&dnsmasq, "Uid:").split('\t').next(),
            Some(USER.to_string().as_str())
        );
        // it is told of what is new, and stopped with the agent
        world.stop();
        world.until("dnsmasq ends", |_| {
            (!std::path::Path::new(&format!("/proc/{dnsmasq}")).exists()).then_some(())
        });

        // an agent that died leaves it behind; the next one ends it
        world.start();
        world.until_logged("dnsmasq started");
        world.kill();
        world.start();
        world.until_logged("dnsmasq started");
        world.in_step();

        // root's commands beside it
        assert_eq!(
            by_root(&mut world, &["plan"]),
            (Some(0), "nothing to do\n".into())
        );
        world.stop();
        let (code, said) = by_root(&mut world, &["purge", "--yes"]);
        assert_eq!(code, Some(0), "{said}");
        let left = ns.sh("nft list tables | grep lxmesh | grep -v lxmesh_closed || true");
        assert_eq!(left, "");
        // and what root took away, the user makes again
        world.start();
        world.in_step();
    });
}

#[test]
fn taking_a_service_away_ends_its_flows_without_root() {
    in_netns(|ns| {
        let mut world = world_of_a_user(ns);
        let nic = world.launch("c1", "vpc");
        world.start();
        world.in_step();
        let mut instance = world.lxd.get("default", "c1");
        let device = instance.devices.get_mut("eth0").unwrap();
        device.extend(keys(&[("user.lxmesh.in_services", "udp/53")]));
        world.lxd.put(instance);
        world.lxd.emit("instance-updated", "default", "c1");
        let mut changed = nic;
        changed.in_services = vec!["udp/53".into()];
        world.expect(&changed);
        world.in_step();
        assert_eq!(world.logged("flows"), [""; 0], "{}", world.log());
    });
}

#[test]
fn the_control_socket_answers_root_and_the_agents_group_only() {
    in_netns(|ns| {
        let mut world = world_of_a_user(ns);
        world.start();
        world.until("status for the agent's own user", |world| world.status());
        let (code, said) = by_root(&mut world, &["status"]);
        assert!(code != Some(1), "{said}");
        let socket = world.path("run/control.sock");
        let stat = ns.sh(&format!("stat -c '%u %g %a' {}", socket.display()));
        assert_eq!(stat.trim(), format!("{USER} {GROUP} 660"));

        let ask = |who: &[String]| {
            let mut command = Command::new(&who[0]);
            command.args(&who[1..]).arg(&world.program);
            command
                .args(["status", "--host-file"])
                .arg(world.path("host.toml"));
            let output = command.output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (
                output.status.code(),
                String::from_utf8_lossy(&said).into_owned(),
            )
        };
        let (main, more) = (
            wrapper(64_300, GROUP, &[]),
            wrapper(64_300, 64_300, &[4, GROUP]),
        );
        for who in [&main, &more] {
            let (code, said) = ask(who);
            assert!(
                code != Some(1) && said.contains("fabric test"),
                "{who:?}: {said}"
            );
        }
        let stranger = wrapper(64_300, 64_300, &[4, LXD_GROUP]);
        let (code, said) = ask(&stranger);
        assert_eq!(code, Some(1));
        assert!(
            said.contains("may not open") && said.contains("group lxmesh"),
            "{said}"
        );
        // even when the mode lets everybody in
        ns.sh(&format!("chmod 666 {}", socket.display()));
        let (code, said) = ask(&stranger);
        assert_eq!(code, Some(1));
        assert!(said.contains("only root and the agent's group"), "{said}");
        assert!(ask(&main).1.contains("fabric test"));
    });
}

/// Connections that say nothing, of a user's.
fn idle_connections(world: &World<'_>, user: u32, count: usize) -> Vec<UnixStream> {
    let socket = world.path("run/control.sock");
    let connect = || {
        // Of this thread alone.
        let user = rustix::process::Uid::from_raw(user);
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        let all = (0..count).map(|_| UnixStream::connect(&socket).unwrap());
        all.collect()
    };
    std::thread::scope(|scope| scope.spawn(connect).join().unwrap())
}

/// Each of them may be idle longer than a command waits, if many of them have to be waited for.
#[test]
fn idle_connections_to_the_control_socket_keep_no_command_waiting() {
    in_netns(|ns| {
        let mut world = world_of_a_user(ns);
        world.start();
        world.until("status for the agent's own user", |world| world.status());
        // The socket's mode keeps others away already; this is about what holds beside it.
        ns.sh(&format!(
            "chmod 666 {}",
            world.path("run/control.sock").display()
        ));
        for user in [0, 64_300] {
            for count in [16, 200] {
                let idle = idle_connections(&world, user, count);
                let (code, said) = by_root(&mut world, &["status"]);
                assert!(
                    code != Some(1) && said.contains("fabric test"),
                    "{count} of {user}: {said}"
                );
                drop(idle);
            }
        }
    });
}

/// It gives up every right to read what is not root's.
#[test]
fn an_agent_that_root_starts_can_use_what_is_loaded_for_the_user() {
    in_netns(|ns| {
        let world = World::new(ns);
        share_with(USER);
        let mut world = world.started();
        let kept = process_line(&world.pid().to_string(), "CapEff:");
        assert_eq!(u64::from_str_radix(&kept, 16).unwrap() & 0b110, 0, "{kept}");
        world.stop();
    });
}
