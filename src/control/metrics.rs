//! The agent's numbers in Prometheus' text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>): what they are called and what
//! they mean. Pure. Names stay; new ones may be added.

use super::status::{NetworkStatus, NicStatus, Status};
use crate::text::{self, SENTENCE};
use std::fmt::{Display, Write};

/// What there is to tell beside the status.
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    /// Seconds since 1970.
    pub started_s: f64,
    pub last_full_pass_s: Option<f64>,
    pub lxd_listed_s: Option<f64>,
    /// How often LXD's event stream was opened.
    pub lxd_connections: u64,
    /// Objects that should be there, by kind.
    pub objects: Vec<(&'static str, usize)>,
    /// Extent, passes, seconds that they took.
    pub passes: Vec<(&'static str, u64, f64)>,
    /// Kind, action, result, how many.
    pub changes: Vec<(&'static str, &'static str, &'static str, u64)>,
    /// Kind, changes that nothing new had called for.
    pub repairs: Vec<(&'static str, u64)>,
    pub events_lost: u64,
    pub filters: Vec<FilterCounter>,
    /// Packets dropped at ports for a deferred checksum that is not their own; `None` if not known.
    pub deferred_checksums: Option<u64>,
    /// `None` where dnsmasq is not the agent's to run.
    pub dnsmasq: Option<Dnsmasq>,
}

/// A named counter of nftables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterCounter {
    pub family: &'static str,
    pub table: &'static str,
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dnsmasq {
    pub running: bool,
    pub starts: u64,
    /// How often it ended although nobody had told it to.
    pub exits: u64,
    /// How often it complained of something.
    pub warnings: u64,
}

/// All of them as text.
pub fn render(status: &Status, numbers: &Numbers) -> String {
    let mut text = Text::default();
    agent(&mut text, status, numbers);
    lxd(&mut text, status, numbers);
    networks(&mut text, status);
    passes(&mut text, status, numbers);
    filters(&mut text, &numbers.filters);
    if let Some(dropped) = numbers.deferred_checksums {
        text.counter(
            "deferred_checksum_dropped_total",
            "Packets of instances dropped because their deferred checksum was not that of their own transport header.",
            dropped,
        );
    }
    if let Some(dnsmasq) = numbers.dnsmasq {
        let Dnsmasq {
            running,
            starts,
            exits,
            warnings,
        } = dnsmasq;
        text.gauge("dnsmasq_running", "Whether dnsmasq runs.", running.into());
        text.counter(
            "dnsmasq_starts_total",
            "How often dnsmasq was started: a new configuration starts it anew.",
            starts,
        );
        text.counter(
            "dnsmasq_exits_total",
            "How often dnsmasq ended by itself.",
            exits,
        );
        text.counter(
            "dnsmasq_warnings_total",
            "Complaints of dnsmasq, those that are not logged again included.",
            warnings,
        );
    }
    text.0
}

fn agent(text: &mut Text, status: &Status, numbers: &Numbers) {
    text.family("build_info", GAUGE, "The agent's version and fabric.");
    let labels = [("version", &*status.version), ("fabric", &status.fabric)];
    text.sample("build_info", &labels, 1);
    text.family("start_time_seconds", GAUGE, "When the agent started.");
    text.sample("start_time_seconds", &[], numbers.started_s);
    text.gauge(
        "in_step",
        "Whether nothing is wrong, waiting or put off, as lxmesh status says.",
        status.in_step.into(),
    );
    text.gauge(
        "problems",
        "Keys and NICs of instances that are not as they should be.",
        status.problems.len(),
    );
    text.gauge(
        "repairs_put_off",
        "Repairs that wait because something else keeps undoing them.",
        status.deferred.len(),
    );
    text.counter(
        "kernel_events_lost_total",
        "How often the kernel said that it had lost events for the agent.",
        numbers.events_lost,
    );
}

fn lxd(text: &mut Text, status: &Status, numbers: &Numbers) {
    let (name, version) = status.lxd.server.split_once(' ').unwrap_or_default();
    text.family("lxd_info", GAUGE, "LXD's or Incus' version.");
    text.sample("lxd_info", &[("server", name), ("version", version)], 1);
    text.gauge(
        "lxd_connected",
        "Whether LXD's event stream is open.",
        status.lxd.connected.into(),
    );
    text.counter(
        "lxd_connections_total",
        "How often LXD's event stream was opened.",
        numbers.lxd_connections,
    );
    if let Some(instances) = status.lxd.instances {
        let help = "Instances of this server; in a cluster, of this member.";
        text.gauge("lxd_instances", help, instances);
    }
    if let Some(cluster) = &status.lxd.cluster {
        text.gauge(
            "lxd_cluster_members",
            "Members of the server's cluster.",
            cluster.members,
        );
        text.gauge(
            "lxd_instances_elsewhere",
            "Instances of the cluster's other members.",
            cluster.elsewhere,
        );
    }
    text.time(
        "lxd_last_listing_timestamp_seconds",
        "When LXD last listed all instances.",
        numbers.lxd_listed_s,
    );
}

fn networks(text: &mut Text, status: &Status) {
    text.family("network_ready", GAUGE, "Whether bridge and tunnel fit.");
    for NetworkStatus {
        name, waiting_for, ..
    } in &status.networks
    {
        let ready = u8::from(waiting_for.is_none());
        text.sample("network_ready", &[("network", name)], ready);
    }
    text.family(
        "network_vteps",
        GAUGE,
        "Other hosts that EVPN tells of in the network.",
    );
    for network in &status.networks {
        let labels = [("network", network.name.as_str())];
        text.sample("network_vteps", &labels, network.vteps.len());
    }
    text.family(
        "nics",
        GAUGE,
        "NICs of running instances by network: in the bridge and up, or waiting.",
    );
    for network in &status.networks {
        for (state, connected) in [("connected", true), ("waiting", false)] {
            let such = |nic: &&NicStatus| nic.network == network.name && nic.connected == connected;
            let count = status.nics.iter().filter(such).count();
            let labels = [("network", network.name.as_str()), ("state", state)];
            text.sample("nics", &labels, count);
        }
    }
    text.family(
        "nics_larger_mtu",
        GAUGE,
        "NICs whose device has a larger MTU than their network.",
    );
    for NetworkStatus { name, mtu, .. } in &status.networks {
        let such = |nic: &&NicStatus| nic.network == *name && nic.mtu > Some(*mtu);
        let count = status.nics.iter().filter(such).count();
        text.sample("nics_larger_mtu", &[("network", name)], count);
    }
}

fn passes(text: &mut Text, status: &Status, numbers: &Numbers) {
    text.family(
        "objects",
        GAUGE,
        "Objects that the agent keeps in order, by kind.",
    );
    for (kind, count) in &numbers.objects {
        text.sample("objects", &[("kind", kind)], count);
    }
    text.family("passes_total", COUNTER, "Looks at the kernel, by extent.");
    for (extent, count, _) in &numbers.passes {
        text.sample("passes_total", &[("extent", extent)], count);
    }
    text.family(
        "pass_seconds_total",
        COUNTER,
        "Time that these took, repairs included.",
    );
    for (extent, _, seconds) in &numbers.passes {
        text.sample("pass_seconds_total", &[("extent", extent)], seconds);
    }
    text.family(
        "last_pass_duration_seconds",
        GAUGE,
        "Time that the last one took.",
    );
    text.sample(
        "last_pass_duration_seconds",
        &[],
        status.passes.last_ms / 1000.0,
    );
    text.time(
        "last_full_pass_timestamp_seconds",
        "When the agent last looked at everything.",
        numbers.last_full_pass_s,
    );
    text.family(
        "changes_total",
        COUNTER,
        "Objects created, changed and deleted, for whatever reason.",
    );
    for (kind, action, result, count) in &numbers.changes {
        let labels = [("kind", *kind), ("action", action), ("result", result)];
        text.sample("changes_total", &labels, count);
    }
    text.family(
        "repairs_total",
        COUNTER,
        "Of these, made while instances, host file and devices were as before: somebody else had changed something.",
    );
    for (kind, count) in &numbers.repairs {
        text.sample("repairs_total", &[("kind", kind)], count);
    }
}

fn filters(text: &mut Text, counters: &[FilterCounter]) {
    let labels = |of: &FilterCounter| {
        let FilterCounter {
            family,
            table,
            name,
            ..
        } = of;
        [("family", *family), ("table", table), ("counter", name)].map(|(k, v)| (k, v.to_string()))
    };
    let mut family = |name: &str, help: &str, value: fn(&FilterCounter) -> u64| {
        text.family(name, COUNTER, help);
        for counter in counters {
            let labels = labels(counter);
            let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
            text.sample(name, &labels, value(counter));
        }
    };
    family(
        "filter_packets_total",
        "Packets that the filters counted: all were dropped, but those of audit_passed.",
        |counter| counter.packets,
    );
    family("filter_bytes_total", "Their bytes.", |counter| {
        counter.bytes
    });
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// The text as it grows. Names get the prefix `lxmesh_` here.
#[derive(Default)]
struct Text(String);

// Writing to a String cannot fail.
impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.0, "# HELP lxmesh_{name} {help}");
        let _ = writeln!(self.0, "# TYPE lxmesh_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "lxmesh_{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) {
        self.family(name, GAUGE, help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, COUNTER, help);
        self.sample(name, &[], value);
    }

    /// A moment, in seconds since 1970; nothing before it came.
    fn time(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.family(name, GAUGE, help);
            self.sample(name, &[], value);
        }
    }
}

/// Label values are UTF-8 between double quotes. What cannot be seen is escaped before, so that it
/// is seen in a dashboard, too. Two names of instances with their projects never become one series: whole,
/// they have fewer characters than this.
fn escape(value: &str) -> String {
    let shown = text::shown(value, SENTENCE);
    shown.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::{ClusterStatus, LxdStatus};

    #[test]
    fn label_values_cannot_end_their_quotes_or_their_line() {
        let mut text = Text::default();
        text.sample("x", &[("a", "b\\c\"d\ne\u{1b}")], 1);
        assert_eq!(text.0, "lxmesh_x{a=\"b\\\\c\\\"d\\\\ne\\\\u{1b}\"} 1\n");
    }

    #[test]
    fn every_sample_follows_its_family_and_every_counter_is_named_total() {
        let status = Status {
            version: "1.2".into(),
            fabric: "f".into(),
            lxd: LxdStatus {
                server: "lxd 5.0.2".into(),
                instances: Some(3),
                cluster: Some(ClusterStatus {
                    member: "m1".into(),
                    members: 5,
                    elsewhere: 40,
                }),
                ..LxdStatus::default()
            },
            networks: vec![NetworkStatus {
                name: "vpc".into(),
                vteps: vec!["192.0.2.1".into()],
                ..NetworkStatus::default()
            }],
            nics: vec![NicStatus {
                network: "vpc".into(),
                connected: true,
                mtu: Some(1500),
                ..NicStatus::default()
            }],
            ..Status::default()
        };
        let numbers = Numbers {
            started_s: 1_700_000_000.5,
            last_full_pass_s: Some(1.0),
            objects: vec![("fdb", 2)],
            passes: vec![("all", 1, 0.25)],
            changes: vec![("fdb", "create", "ok", 2)],
            repairs: vec![("fdb", 1)],
            filters: vec![FilterCounter {
                family: "bridge",
                table: "lxmesh",
                name: "in_denied".into(),
                packets: 7,
                bytes: 700,
            }],
            deferred_checksums: Some(3),
            dnsmasq: Some(Dnsmasq {
                running: true,
                starts: 1,
                exits: 0,
                warnings: 2,
            }),
            ..Numbers::default()
        };
        let text = render(&status, &numbers);
        for line in [
            "lxmesh_build_info{version=\"1.2\",fabric=\"f\"} 1",
            "lxmesh_start_time_seconds 1700000000.5",
            "lxmesh_in_step 0",
            "lxmesh_lxd_info{server=\"lxd\",version=\"5.0.2\"} 1",
            "lxmesh_lxd_instances 3",
            "lxmesh_lxd_cluster_members 5",
            "lxmesh_lxd_instances_elsewhere 40",
            "lxmesh_network_ready{network=\"vpc\"} 1",
            "lxmesh_network_vteps{network=\"vpc\"} 1",
            "lxmesh_nics{network=\"vpc\",state=\"connected\"} 1",
            "lxmesh_nics{network=\"vpc\",state=\"waiting\"} 0",
            "lxmesh_nics_larger_mtu{network=\"vpc\"} 1",
            "lxmesh_pass_seconds_total{extent=\"all\"} 0.25",
            "lxmesh_repairs_total{kind=\"fdb\"} 1",
            "lxmesh_filter_packets_total{family=\"bridge\",table=\"lxmesh\",counter=\"in_denied\"} 7",
            "lxmesh_deferred_checksum_dropped_total 3",
            "lxmesh_dnsmasq_running 1",
            "lxmesh_dnsmasq_warnings_total 2",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        }
        let mut family = ("", "");
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split_once(' ').unwrap();
                assert!(seen.insert(family.0), "{} twice", family.0);
                assert_eq!(family.0.ends_with("_total"), family.1 == "counter");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, family.0);
            }
        }
        assert!(!text.contains("lxd_last_listing"), "{text}");
    }
}
