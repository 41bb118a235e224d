//! The status screen: one screenful that answers "is this host in step, and if not, why".

use super::status::{DhcpWarning, NetworkStatus, NicStatus, RefusedStatus, Status};
use crate::text::{self, SENTENCE};
use std::fmt::Write;

/// Longest cell of a table, and longest line, characters.
const CELL: usize = 400;
const LINE: usize = 4 * SENTENCE;

/// Renders the status as text, without colours or cursor movements, whatever is in it.
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    let Status {
        version,
        pid,
        fabric,
        uptime_s,
        in_step,
        lxd,
        networks,
        nics,
        refused,
        problems,
        remarks,
        deferred,
        dhcp,
        dhcp_warnings,
        passes,
        last_error,
    } = status;
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "lxmesh {version} (pid {pid}, up {})  fabric {fabric}  {}",
        duration(*uptime_s),
        if *in_step { "IN STEP" } else { "NOT IN STEP" }
    );
    let listed = lxd
        .listed_s_ago
        .map_or("never".into(), |ago| format!("{} ago", duration(ago)));
    let instances = lxd
        .instances
        .map_or("instances unknown".into(), |n| format!("{n} instances"));
    let server = match lxd.server.as_str() {
        "" => "LXD".into(),
        server => text::shown(server, CELL),
    };
    let state = if lxd.connected {
        "connected"
    } else {
        "NOT CONNECTED"
    };
    let _ = writeln!(out, "{server}: {state}, {instances}, listed {listed}");
    if let Some(error) = &lxd.error {
        let _ = writeln!(out, "  {}", text::shown(error, LINE));
    }
    if let Some(cluster) = &lxd.cluster {
        let _ = writeln!(
            out,
            "cluster: this is {} of {} members; {} instances are on others",
            text::shown(&cluster.member, text::NAME),
            cluster.members,
            cluster.elsewhere
        );
    }
    let _ = writeln!(out, "dhcp: {}", text::shown(dhcp, LINE));
    let _ = writeln!(
        out,
        "passes: {} full, {} scoped; {} changes, {} failed; last took {:.1} ms",
        passes.full, passes.scoped, passes.changes, passes.failures, passes.last_ms
    );
    out.push('\n');
    table(
        &mut out,
        &[
            "NETWORK", "VNI", "BRIDGE", "TUNNEL", "MTU", "NICS", "VTEPS", "STATE",
        ],
        networks.iter().map(network_row),
    );
    out.push('\n');
    table(
        &mut out,
        &[
            "INSTANCE",
            "DEVICE",
            "NETWORK",
            "PORT",
            "MAC",
            "ADDRESSES",
            "STATE",
        ],
        nics.iter().map(nic_row),
    );
    let refused: Vec<String> = refused.iter().map(refused_line).collect();
    section(&mut out, "Refused", &refused);
    section(&mut out, "Problems", problems);
    section(&mut out, "Remarks", remarks);
    section(
        &mut out,
        "Put off, because something else keeps undoing it",
        deferred,
    );
    let warnings: Vec<String> = dhcp_warnings.iter().map(warning_line).collect();
    section(&mut out, "dnsmasq says", &warnings);
    if let Some((error, ago)) = last_error {
        let error = text::shown(error, LINE);
        let _ = writeln!(out, "\nLast error ({} ago): {error}", duration(*ago));
    }
    out
}

fn network_row(network: &NetworkStatus) -> Vec<String> {
    let NetworkStatus {
        name,
        vni,
        bridge,
        tunnel,
        mtu,
        waiting_for,
        nics,
        vteps,
    } = network;
    let state = waiting_for
        .as_ref()
        .map_or("ready".into(), |what| format!("waiting: {what}"));
    vec![
        name.clone(),
        vni.to_string(),
        bridge.clone(),
        tunnel.clone(),
        mtu.to_string(),
        nics.to_string(),
        vteps.len().to_string(),
        state,
    ]
}

fn nic_row(nic: &NicStatus) -> Vec<String> {
    let NicStatus {
        instance,
        device,
        network,
        port,
        mac,
        addresses,
        connected,
        mtu: _,
    } = nic;
    vec![
        instance.clone(),
        device.clone(),
        network.clone(),
        port.clone(),
        mac.clone(),
        addresses.join(" "),
        if *connected { "connected" } else { "waiting" }.into(),
    ]
}

fn refused_line(nic: &RefusedStatus) -> String {
    let RefusedStatus {
        instance,
        device,
        port,
        down,
    } = nic;
    let state = if *down { "down" } else { "not down" };
    format!("instance {instance} device {device}: {port} is {state}")
}

fn warning_line(warning: &DhcpWarning) -> String {
    let DhcpWarning {
        text,
        times,
        last_s_ago,
    } = warning;
    let ago = duration(*last_s_ago);
    match times {
        1 => format!("{text} ({ago} ago)"),
        _ => format!("{text} ({times} times, last {ago} ago)"),
    }
}

fn table(out: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let shown = |row: Vec<String>| row.iter().map(|cell| text::shown(cell, CELL)).collect();
    let mut rows: Vec<Vec<String>> = rows.map(shown).collect();
    rows.insert(0, head.iter().map(|text| text.to_string()).collect());
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
}

fn section(out: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = write!(out, "\n{title}:\n");
        for line in lines {
            let _ = writeln!(out, "  {}", text::shown(line, LINE));
        }
    }
}

/// Two units at most: `42s`, `3m 5s`, `2h 1m`, `9d 4h`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{ClusterStatus, LxdStatus};

    #[test]
    fn the_screen_says_which_member_of_a_cluster_this_is() {
        let mut status = Status::default();
        assert!(!render(&status).contains("cluster"));
        status.lxd.cluster = Some(ClusterStatus {
            member: "m1".into(),
            members: 3,
            elsewhere: 17,
        });
        let screen = render(&status);
        let wanted = "\ncluster: this is m1 of 3 members; 17 instances are on others\n";
        assert!(screen.contains(wanted), "{screen}");
    }

    #[test]
    fn the_screen_names_what_is_wrong() {
        let status = Status {
            networks: vec![NetworkStatus {
                name: "vpc".into(),
                waiting_for: Some("bridge svi-vpc does not exist".into()),
                ..NetworkStatus::default()
            }],
            problems: vec!["instance web1 device eth0: bad".into()],
            remarks: vec!["instance web2 device eth0: large".into()],
            dhcp_warnings: vec![DhcpWarning {
                text: "no leases left".into(),
                times: 7,
                last_s_ago: 61,
            }],
            last_error: Some(("no luck".into(), 3700)),
            ..Status::default()
        };
        let screen = render(&status);
        for wanted in [
            "NOT IN STEP",
            "NOT CONNECTED",
            "waiting: bridge svi-vpc",
            "web1 device eth0",
            "\nRemarks:\n  instance web2",
            "no leases left (7 times, last 1m 1s ago)",
            "(1h 1m ago): no luck",
        ] {
            assert!(screen.contains(wanted), "{wanted} is missing in:\n{screen}");
        }
    }

    #[test]
    fn nothing_moves_the_cursor_or_makes_a_line() {
        let odd = || "a\u{1b}[2J\nb\u{202e}".to_string();
        let status = Status {
            lxd: LxdStatus {
                server: odd(),
                error: Some(odd()),
                cluster: Some(ClusterStatus {
                    member: odd(),
                    ..ClusterStatus::default()
                }),
                ..LxdStatus::default()
            },
            nics: vec![NicStatus {
                instance: odd(),
                device: odd(),
                ..NicStatus::default()
            }],
            refused: vec![RefusedStatus {
                instance: odd(),
                device: odd(),
                ..RefusedStatus::default()
            }],
            problems: vec![odd(), "x".repeat(100_000)],
            remarks: vec![odd()],
            deferred: vec![odd()],
            dhcp: odd(),
            last_error: Some((odd(), 1)),
            ..Status::default()
        };
        let screen = render(&status);
        assert!(screen.lines().all(text::is_visible_text), "{screen:?}");
        assert!(screen.lines().all(|line| line.chars().count() < 3000));
        assert!(
            !screen.lines().any(|line| line.starts_with('b')),
            "{screen}"
        );
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(59), "59s");
        assert_eq!(duration(3661), "1h 1m");
        assert_eq!(duration(100_000), "1d 3h");
    }
}
