//! `lxmesh metrics` and `lxmesh status --watch` beside a running agent.

use super::cold_start::{busy_world, dnsmasq_listens};
use super::support::fake_lxd::Fault;
use super::support::in_netns;
use super::support::world::World;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

/// The value of a sample, named with its labels as they are printed.
fn value(world: &World<'_>, sample: &str) -> Option<f64> {
    let output = world.output(&["metrics"]);
    let text = String::from_utf8(output.stdout).expect("it is UTF-8");
    let line = text.lines().find_map(|line| line.strip_prefix(sample))?;
    line.strip_prefix(' ')?.parse().ok()
}

fn until_is(world: &mut World<'_>, sample: &str, wanted: f64) {
    world.until(&format!("{sample} {wanted}"), |world| {
        (value(world, sample)? == wanted).then_some(())
    });
}

fn repairs(world: &World<'_>) -> Vec<String> {
    let output = world.output(&["metrics"]);
    let text = String::from_utf8(output.stdout).expect("it is UTF-8");
    let of = |line: &&str| line.starts_with("lxmesh_repairs_total{") && !line.ends_with(" 0");
    text.lines().filter(of).map(str::to_string).collect()
}

#[test]
fn numbers_follow_what_happens() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        world.until("dnsmasq listens", dnsmasq_listens);
        until_is(&mut world, "lxmesh_in_step", 1.0);
        for (sample, wanted) in [
            ("lxmesh_nics{network=\"vpc\",state=\"connected\"}", 3.0),
            ("lxmesh_nics{network=\"dmz\",state=\"connected\"}", 1.0),
            ("lxmesh_network_vteps{network=\"vpc\"}", 1.0),
            ("lxmesh_objects{kind=\"fdb\"}", 4.0),
            ("lxmesh_objects{kind=\"neighbour\"}", 12.0),
            ("lxmesh_lxd_info{server=\"lxd\",version=\"5.0.2\"}", 1.0),
            ("lxmesh_lxd_connections_total", 1.0),
            ("lxmesh_dnsmasq_running", 1.0),
            ("lxmesh_kernel_events_lost_total", 0.0),
        ] {
            assert_eq!(value(&world, sample), Some(wanted), "{sample}");
        }
        let started = value(&world, "lxmesh_start_time_seconds").unwrap();
        let now: f64 = ns.sh("date +%s").trim().parse().unwrap();
        assert!(
            (now - 3600.0..=now + 1.0).contains(&started),
            "{started} and {now}"
        );

        // The counters are those of the tables, all of them.
        let output = world.output(&["metrics"]);
        let text = String::from_utf8(output.stdout).unwrap();
        for (family, table) in [("bridge", "lxmesh"), ("inet", "lxmesh")] {
            let named = ns.nft_json(&format!("list counters table {family} {table}"));
            assert!(named.len() > 2, "{named:?}");
            for counter in named {
                let name = counter["counter"]["name"].as_str().unwrap();
                let sample = format!(
                    "lxmesh_filter_packets_total{{family=\"{family}\",table=\"{table}\",counter=\"{name}\"}} 0"
                );
                assert!(text.lines().any(|line| line == sample), "{sample}\n{text}");
            }
        }

        // What LXD asks for is no repair, what somebody else did is one.
        world.launch("c9", "vpc");
        world.in_step();
        until_is(&mut world, "lxmesh_objects{kind=\"fdb\"}", 5.0);
        assert_eq!(repairs(&world), [""; 0]);
        let nic = world.nics[0].clone();
        world.repairs(&format!(
            "bridge fdb del {} dev {} master",
            nic.mac, nic.port
        ));
        until_is(&mut world, "lxmesh_repairs_total{kind=\"fdb\"}", 1.0);
        world.repairs("nft delete table inet lxmesh");
        until_is(&mut world, "lxmesh_repairs_total{kind=\"nft_table\"}", 1.0);
        assert_eq!(repairs(&world).len(), 2, "{:?}", repairs(&world));

        let sockets = ns.sh("ss -Hlnup 'sport = :67'");
        let pid = sockets.split("pid=").nth(1).expect("dnsmasq listens");
        let pid = pid.split(',').next().unwrap_or_default();
        ns.sh(&format!("kill {pid}"));
        until_is(&mut world, "lxmesh_dnsmasq_exits_total", 1.0);
        until_is(&mut world, "lxmesh_dnsmasq_running", 1.0);

        world.lxd.fail(Fault::Refuse);
        until_is(&mut world, "lxmesh_lxd_connected", 0.0);
        until_is(&mut world, "lxmesh_in_step", 0.0);
        world.lxd.heal();
        until_is(&mut world, "lxmesh_lxd_connections_total", 2.0);

        // Nobody on the network can ask.
        let sockets = ns.sh("ss -Hlnptuw");
        assert!(
            !sockets.contains(&format!("pid={},", world.pid())),
            "{sockets}"
        );
        world.stop();
        assert_eq!(world.output(&["metrics"]).status.code(), Some(1));
    });
}

#[test]
fn a_watched_status_is_shown_again_until_nobody_reads_it() {
    in_netns(|ns| {
        let mut world = busy_world(ns);
        let watch = |world: &World<'_>, more: &[&str]| {
            let words = [&["status", "--watch", "1"], more].concat();
            let mut command = world.lxmesh(&words);
            command.stdout(Stdio::piped());
            command.spawn().expect("the program can be run")
        };
        let mut plain = watch(&world, &[]);
        let mut lines = BufReader::new(plain.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            let head = |line: &std::io::Result<String>| {
                let line = line.as_ref().expect("it is text");
                assert!(!line.contains('\x1b'), "{line}");
                line.starts_with("lxmesh ")
            };
            assert!(lines.any(|line| head(&line)), "it ended");
        }
        // The agent may come and go.
        world.stop();
        assert!(lines.any(|line| line.unwrap().contains("start it")));
        drop(lines);
        let ended = world.until("it ends", |_| plain.try_wait().unwrap());
        assert!(ended.success(), "{ended}");

        world.start();
        world.in_step();
        let mut json = watch(&world, &["--json"]);
        let mut lines = BufReader::new(json.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            let line = lines.next().expect("it goes on").unwrap();
            let document: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(document["fabric"], "test");
        }
        drop(lines);
        assert!(
            world
                .until("it ends", |_| json.try_wait().unwrap())
                .success()
        );

        // A terminal is written over.
        let line = format!(
            "{} status --watch 1 --host-file {}",
            world.program.display(),
            world.path("host.toml").display()
        );
        let mut terminal = std::process::Command::new("script")
            .args(["-qefc", &line, "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script can be run");
        let mut out = terminal.stdout.take().unwrap();
        let mut seen = Vec::new();
        while String::from_utf8_lossy(&seen)
            .matches("\x1b[Hlxmesh ")
            .count()
            < 2
        {
            let mut byte = [0];
            assert_eq!(
                out.read(&mut byte).unwrap(),
                1,
                "{}",
                String::from_utf8_lossy(&seen)
            );
            seen.push(byte[0]);
        }
        terminal.kill().unwrap();
        terminal.wait().unwrap();
    });
}
