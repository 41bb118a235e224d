//! What was seen, against what the host file and docs/install.md ask for; bridges, tunnels and
//! sessions are in `network.rs`. Pure.

use super::Finding;
use super::files::{Module, Setting, fits, settings};
use super::look::Seen;
use super::network::{bgp, devices, paths};
use crate::control::Status;
use crate::generate::secrets::Exposed;
use crate::generate::{self, Version};
use crate::host::{Firewall, HostFile};
use crate::lxd::Program;

/// Every finding, in the order in which things depend on one another.
pub fn judge(host: &HostFile, seen: &Seen) -> Vec<Finding> {
    let mut all = Vec::new();
    let supervisor = match &seen.here {
        Ok(here) => {
            all.push(Finding::ok(
                "host",
                format!("{here} of fabric {}", host.fabric.name),
            ));
            here.supervisor
        }
        Err(error) => {
            let (what, remedy) = error.split_once("\n  remedy: ").unwrap_or((error, ""));
            all.push(Finding::problem("host", what, remedy.trim()));
            true
        }
    };
    all.push(kernel(&seen.kernel));
    programs(seen, &mut all);
    if supervisor {
        features(seen, &mut all);
        all.push(checks(&seen.checks));
        modules_there(seen, &mut all);
        sysctls(host, seen, &mut all);
        closed(host, seen, &mut all);
        all.push(lxd(&seen.lxd, &seen.unread));
        devices(host, seen, &mut all);
    }
    paths(host, seen, &mut all);
    all.push(bgp(host, seen));
    all.extend(secrets(host, seen));
    if let Some(strongswan) = &seen.strongswan {
        all.push(match strongswan {
            Ok(()) => Finding::ok("strongswan", "charon answers"),
            Err(_) => Finding::problem(
                "strongswan",
                "charon does not answer (swanctl --stats)",
                "systemctl enable --now strongswan; without it nothing of the fabric leaves this host",
            ),
        });
    }
    if supervisor {
        all.push(agent(&seen.agent));
        all.extend(dnsmasq(&seen.agent));
    }
    all
}

/// Whether the fabric's secrets are root's alone; nothing where there are none.
fn secrets(host: &HostFile, seen: &Seen) -> Vec<Finding> {
    let some = host.bgp.password_file.is_some() || host.ipsec.is_some();
    if some && seen.exposed.is_empty() {
        let well = "files with passwords and keys are closed to others";
        return vec![Finding::ok("secrets", well)];
    }
    let problem = |Exposed { what, remedy }: &Exposed| Finding::problem("secrets", what, remedy);
    seen.exposed.iter().map(problem).collect()
}

/// Linux 6.6 is the oldest that has all that ports need: programs beside LXD's limits (tcx).
fn kernel(release: &str) -> Finding {
    match Version::first_in(release) {
        Some(version) if version < Version(6, 6, 0) => Finding::problem(
            "kernel",
            format!("Linux {release} is older than 6.6"),
            "install a newer kernel (Debian: linux-image of trixie or of bookworm-backports) and restart",
        ),
        Some(_) => Finding::ok("kernel", format!("Linux {release}")),
        None => Finding::warning("kernel", "its version cannot be read", "mount /proc"),
    }
}

/// The oldest version that will do, and the package that brings it.
fn least(program: &str) -> (Option<Version>, &'static str) {
    match program {
        "nftables" => (Some(Version(1, 0, 9)), "nftables"),
        "FRR" => (Some(Version(9, 0, 1)), "frr"),
        "systemd" => (Some(Version(252, 0, 0)), "systemd"),
        "strongSwan" => (Some(Version(5, 9, 6)), "charon-systemd strongswan-swanctl"),
        _ => (None, "dnsmasq-base"),
    }
}

fn programs(seen: &Seen, all: &mut Vec<Finding>) {
    for (program, said) in &seen.versions {
        let (least, package) = least(program);
        let version = said.as_deref().map(Version::first_in);
        all.push(match (version, least) {
            (Err(error), _) => Finding::problem(
                "programs",
                format!("{program}: {error}"),
                format!("install it (Debian: apt install {package})"),
            ),
            (Ok(Some(version)), Some(least)) if version < least => Finding::problem(
                "programs",
                format!("{program} {version} is older than {least}"),
                format!("install a newer {package}; docs/install.md says from where"),
            ),
            (Ok(Some(version)), _) => Finding::ok("programs", format!("{program} {version}")),
            (Ok(None), _) => Finding::warning(
                "programs",
                format!("{program} does not tell its version"),
                "see whether it is what LXMesh needs",
            ),
        });
    }
}

fn features(seen: &Seen, all: &mut Vec<Finding>) {
    if let Some(Err(_)) = seen.versions.get("nftables") {
        return;
    }
    let failed: Vec<_> = seen
        .features
        .iter()
        .filter_map(|(name, result)| Some((name, result.as_ref().err()?)))
        .collect();
    for (name, error) in &failed {
        let said = error.text().unwrap_or("no reason was given");
        let first = said.lines().next().unwrap_or_default();
        // Where in the script it is means nothing to anybody.
        let why = first.split_once("Error: ").map_or(first, |(_, why)| why);
        let remedy = match **name {
            "ruleset" => "install a newer kernel and nftables; the agent does not start like this"
                .to_string(),
            module => format!(
                "modprobe {module}; if there is no such module, install the distribution's own kernel (Debian: linux-image-amd64)"
            ),
        };
        let what = format!("the packet filter lacks {name}: {why}");
        all.push(Finding::problem("filter", what, remedy));
    }
    if failed.is_empty() && !seen.features.is_empty() {
        all.push(Finding::ok("filter", "the kernel takes the agent's rules"));
    }
}

/// Without it the agent does not start.
fn checks(loaded: &Result<bool, String>) -> Finding {
    let what = match loaded {
        Ok(true) => return Finding::ok("filter", "deferred checksums are checked"),
        Ok(false) => "the check of deferred checksums is not loaded".to_string(),
        Err(error) => format!("the check of deferred checksums: {error}"),
    };
    Finding::problem(
        "filter",
        what,
        "systemctl restart lxmesh-prepare; if that fails, it says what the kernel lacks",
    )
}

/// Those that have a rule of their own to try are judged by it.
fn modules_there(seen: &Seen, all: &mut Vec<Finding>) {
    let mut well = Vec::new();
    for (name, place) in &seen.modules {
        let tried = seen.features.iter().any(|(feature, _)| feature == name);
        match place {
            Module::Loaded | Module::BuiltIn => well.push(name.as_str()),
            _ if tried => {}
            Module::OnDisk => all.push(Finding::warning(
                "modules",
                format!("{name} is not loaded, and the agent may not load it"),
                format!("modprobe {name}; lxmesh-gen apply has it loaded at boot"),
            )),
            Module::Absent => all.push(Finding::problem(
                "modules",
                format!("this kernel has no {name}"),
                "install the distribution's own kernel (Debian: linux-image-amd64)",
            )),
            Module::Unknown => {}
        }
    }
    if !well.is_empty() {
        all.push(Finding::ok(
            "modules",
            format!("loaded: {}", well.join(", ")),
        ));
    }
}

fn sysctls(host: &HostFile, seen: &Seen, all: &mut Vec<Finding>) {
    let files = match generate::kernel_files(host) {
        Ok(files) => files,
        Err(error) => {
            all.push(Finding::problem("sysctl", error.to_string(), "report this"));
            return;
        }
    };
    let mut well = 0;
    for setting in files.iter().flat_map(settings) {
        let Setting {
            key,
            value,
            optional,
        } = &setting;
        let have = seen.sysctls.get(key).cloned().flatten();
        let remedy = format!(
            "lxmesh-gen apply, or sysctl -w {key}={value} for now; if it comes back, another file of sysctl.d sets it"
        );
        match have {
            Some(have) if fits(key, &have, value) => well += 1,
            None if *optional => {}
            None => all.push(Finding::problem(
                "sysctl",
                format!("this kernel has no {key}"),
                "load the modules named above, or install the distribution's own kernel",
            )),
            Some(have) => {
                let text = format!("{key} is {have}, not {value}");
                all.push(match *optional {
                    true => Finding::warning("sysctl", text, remedy),
                    false => Finding::problem("sysctl", text, remedy),
                });
            }
        }
    }
    if well > 0 {
        all.push(Finding::ok("sysctl", format!("{well} settings fit")));
    }
}

/// What keeps closed a device that nobody attached, and from when on.
fn closed(host: &HostFile, seen: &Seen, all: &mut Vec<Finding>) {
    const OPEN: &str = "this host's services, other instances and the tunnels, in anybody's name";
    let there = match &seen.closed {
        Ok(there) => *there,
        Err(error) => {
            let text = format!("tables {} cannot be read: {error}", Firewall::CLOSED);
            return all.push(Finding::warning("closed", text, "run this as root"));
        }
    };
    if !there {
        all.push(Finding::problem(
            "closed",
            format!(
                "tables {} are not there: a device of an instance that nobody attached reaches {OPEN}",
                Firewall::CLOSED
            ),
            "systemctl start lxmesh-agent; with [firewall], lxmesh-gen apply and systemctl restart lxmesh-firewall, too",
        ));
    }
    match (host.firewall.enabled, seen.firewall_at_boot) {
        (false, _) => all.push(Finding::warning(
            "closed",
            format!(
                "[firewall] is off: after a start of the host, and until the agent has loaded tables {}, instances reach {OPEN}",
                Firewall::CLOSED
            ),
            "set [firewall] enabled = true, which has them loaded before LXD starts",
        )),
        (true, false) => all.push(Finding::warning(
            "closed",
            format!(
                "lxmesh-firewall.service does not start with the host, or does not load them: until the agent has loaded tables {}, instances reach {OPEN}",
                Firewall::CLOSED
            ),
            "lxmesh-gen apply",
        )),
        (true, true) if there => all.push(Finding::ok(
            "closed",
            "what nobody attached is closed, from before LXD starts",
        )),
        (true, true) => {}
    }
}

/// So many instances are named in one finding.
const NAMED: usize = 8;

fn lxd(said: &Result<String, String>, unread: &Result<Vec<String>, String>) -> Finding {
    let server = match said {
        Ok(server) => server,
        Err(error) => {
            let elsewhere = "systemctl status lxd snap.lxd.daemon incus";
            let (what, remedy) = error.rsplit_once("; ").unwrap_or((error, elsewhere));
            return Finding::problem("lxd", what, remedy);
        }
    };
    let least = match server.starts_with("incus") {
        true => Version(6, 0, 0),
        false => Version(5, 0, 0),
    };
    match Version::first_in(server) {
        Some(version) if version < least => Finding::problem(
            "lxd",
            format!("{server} is older than {least}"),
            "install a newer one",
        ),
        _ => match unread {
            Ok(unread) if unread.is_empty() => Finding::ok("lxd", format!("{server} answers")),
            Ok(unread) => {
                let names = unread.iter().take(NAMED).cloned().collect::<Vec<_>>();
                let more = match unread.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!("; and {more} more"),
                };
                let count = match unread.len() {
                    1 => "an instance".to_string(),
                    count => format!("{count} instances"),
                };
                let program = Program::of(server).name();
                Finding::problem(
                    "lxd",
                    format!(
                        "{server} answers, but what it says of {count} cannot be understood: {}{more}",
                        names.join("; ")
                    ),
                    format!(
                        "see what {program} info says of them; until then their NICs stay as the running agent knew them, and none is connected anew"
                    ),
                )
            }
            Err(error) => Finding::problem(
                "lxd",
                format!("{server} answers, but not with a list of its instances: {error}"),
                "journalctl -u snap.lxd.daemon -u lxd -u incus",
            ),
        },
    }
}

/// What dnsmasq complained of lately.
fn dnsmasq(said: &Result<Status, String>) -> Option<Finding> {
    let warnings = &said.as_ref().ok()?.dhcp_warnings;
    let texts: Vec<String> = warnings.iter().map(|w| w.text.clone()).collect();
    (!texts.is_empty()).then(|| {
        let text = format!("dnsmasq says: {}", first_few(&texts));
        Finding::warning("dhcp", text, "lxmesh status; journalctl -u lxmesh-agent")
    })
}

fn agent(said: &Result<Status, String>) -> Finding {
    let status = match said {
        Ok(status) => status,
        Err(error) => {
            let (what, remedy) = error
                .split_once("; ")
                .unwrap_or((error, "journalctl -u lxmesh-agent"));
            return Finding::problem("agent", what, remedy);
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    if status.version != own {
        return Finding::warning(
            "agent",
            format!("it is version {}, and this program {own}", status.version),
            "systemctl restart lxmesh-agent",
        );
    }
    if status.in_step {
        let nics = status.nics.len();
        return Finding::ok("agent", format!("in step, {nics} NICs"));
    }
    let waiting = status.networks.iter();
    let waiting = waiting.filter_map(|network| network.waiting_for.clone());
    let nics = status.nics.iter().filter(|nic| !nic.connected);
    let why: Vec<String> = status
        .lxd
        .error
        .clone()
        .into_iter()
        .chain(waiting)
        .chain(nics.map(|nic| format!("{}/{} is not connected", nic.instance, nic.device)))
        .chain(
            status
                .deferred
                .iter()
                .map(|what| format!("{what} is put off")),
        )
        .collect();
    Finding::problem(
        "agent",
        format!("not in step: {}", first_few(&why)),
        "lxmesh status; lxmesh explain INSTANCE; journalctl -u lxmesh-agent",
    )
}

fn first_few(all: &[String]) -> String {
    const FEW: usize = 3;
    match all.len() {
        0 => "it says no more".into(),
        count if count > FEW => format!("{} and {} more", all[..FEW].join(", "), count - FEW),
        _ => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{complaints, each_is_found, host_file, well};
    use super::*;
    use crate::control::status::{DhcpWarning, NicStatus};
    use crate::generate::Here;
    use crate::kernel::KernelError;
    use crate::model::Facts;
    use std::collections::BTreeSet;

    #[test]
    fn a_host_that_lacks_nothing_has_no_complaints_and_every_topic_is_looked_at() {
        let seen = well();
        assert_eq!(complaints(&seen), []);
        let all = judge(&host_file(), &seen);
        let topics: BTreeSet<&str> = all.iter().map(|finding| finding.topic).collect();
        let wanted = [
            "agent", "bgp", "closed", "devices", "filter", "host", "kernel", "lxd", "modules",
            "programs", "sysctl", "underlay",
        ];
        assert_eq!(topics, wanted.into());
    }

    fn says(seen: &mut Seen, program: &'static str, said: Result<&str, &str>) {
        let said = said.map(str::to_string).map_err(str::to_string);
        seen.versions.insert(program, said);
    }

    fn sysctl(seen: &mut Seen, key: &str, value: &str) {
        seen.sysctls.insert(key.into(), Some(value.into()));
    }

    fn module(seen: &mut Seen, name: &str, place: Module) {
        seen.modules.insert(name.into(), place);
    }

    #[test]
    fn kernel_and_programs() {
        each_is_found(&[
            (
                |s| s.kernel = "6.1.0-40-amd64".into(),
                "Problem kernel: Linux 6.1.0-40-amd64 is older than 6.6",
                "newer kernel",
            ),
            (
                |s| s.kernel = "6.5.13".into(),
                "Problem kernel: Linux 6.5.13 is older than 6.6",
                "newer kernel",
            ),
            (
                |s| s.checks = Ok(false),
                "Problem filter: the check of deferred checksums is not loaded",
                "systemctl restart lxmesh-prepare",
            ),
            (
                |s| s.checks = Err("EACCES".into()),
                "Problem filter: the check of deferred checksums: EACCES",
                "systemctl restart lxmesh-prepare",
            ),
            (
                |s| says(s, "FRR", Ok("bgpd version 8.4.4")),
                "Problem programs: FRR 8.4.4 is older than 9.0.1",
                "docs/install.md",
            ),
            (
                |s| says(s, "dnsmasq", Err("not installed")),
                "Problem programs: dnsmasq: not installed",
                "apt install dnsmasq-base",
            ),
            (
                |s| {
                    let said = Some("stdin:1: Error: no\nmore".into());
                    s.features[0].1 = Err(KernelError::new("x", None, said));
                },
                "Problem filter: the packet filter lacks nft_meta_bridge: no",
                "modprobe nft_meta_bridge",
            ),
            (
                |s| module(s, "vxlan", Module::Absent),
                "Problem modules: this kernel has no vxlan",
                "distribution's own kernel",
            ),
            (
                |s| module(s, "vxlan", Module::OnDisk),
                "Warning modules: vxlan is not loaded",
                "modprobe vxlan",
            ),
            (
                |s| sysctl(s, "net.ipv4.ip_forward", "0"),
                "Problem sysctl: net.ipv4.ip_forward is 0, not 1",
                "sysctl -w net.ipv4.ip_forward=1",
            ),
            (
                |s| sysctl(s, "net.bridge.bridge-nf-call-iptables", "1"),
                "Warning sysctl: net.bridge.bridge-nf-call-iptables is 1, not 0",
                "lxmesh-gen apply",
            ),
            (
                |s| s.closed = Ok(false),
                "Problem closed: tables lxmesh_closed are not there",
                "start lxmesh-agent",
            ),
            (
                |s| s.firewall_at_boot = false,
                "Warning closed: lxmesh-firewall.service does not start with the host",
                "lxmesh-gen apply",
            ),
        ]);
    }

    #[test]
    fn without_a_packet_filter_is_said_what_is_open_before_the_agent() {
        let mut host = host_file();
        host.firewall.enabled = false;
        let all = judge(&host, &well());
        let found: Vec<_> = all.iter().filter(|f| f.topic == "closed").collect();
        assert_eq!(found.len(), 1);
        assert!(
            found[0].text.contains("until the agent has loaded"),
            "{}",
            found[0].text
        );
    }

    #[test]
    fn lxd_strongswan_agent_and_the_host_itself() {
        each_is_found(&[
            (
                |s| s.lxd = Ok("incus 0.7".into()),
                "Problem lxd: incus 0.7 is older than 6",
                "newer",
            ),
            (
                |s| s.lxd = Err("no socket; install LXD".into()),
                "Problem lxd: no socket",
                "install LXD",
            ),
            (
                |s| s.unread = Ok(vec!["prod/broken (missing field)".into()]),
                "Problem lxd: lxd 5.0.2 answers, but what it says of an instance cannot be understood: prod/broken (missing field)",
                "lxc info",
            ),
            (
                |s| {
                    s.lxd = Ok("incus 6.0.0".into());
                    s.unread = Ok(vec!["c1 (missing field)".into()]);
                },
                "Problem lxd: incus 6.0.0 answers, but what it says of an instance cannot be understood: c1 (missing field)",
                "see what incus info says",
            ),
            (
                |s| s.unread = Ok((0..20).map(|n| format!("c{n}")).collect()),
                "Problem lxd: lxd 5.0.2 answers, but what it says of 20 instances cannot be understood: c0; c1; c2; c3; c4; c5; c6; c7; and 12 more",
                "lxc info",
            ),
            (
                |s| s.unread = Err("HTTP 500".into()),
                "Problem lxd: lxd 5.0.2 answers, but not with a list of its instances: HTTP 500",
                "journalctl",
            ),
            (
                |s| {
                    s.exposed.push(Exposed {
                        what: "ipsec.psk_file: /x has mode 0644".into(),
                        remedy: "chmod o= /x".into(),
                    });
                },
                "Problem secrets: ipsec.psk_file: /x has mode 0644",
                "chmod o= /x",
            ),
            (
                |s| s.strongswan = Some(Err("no".into())),
                "Problem strongswan: charon does not answer",
                "enable --now strongswan",
            ),
            (
                |s| s.agent = Err("it does not answer; start it".into()),
                "Problem agent: it does not answer",
                "start it",
            ),
            (
                |s| {
                    let version = "0.0.1".into();
                    let status = Status::default();
                    s.agent = Ok(Status { version, ..status });
                },
                "Warning agent: it is version 0.0.1",
                "restart lxmesh-agent",
            ),
            (
                |s| {
                    let warning = DhcpWarning {
                        text: "no leases left".into(),
                        ..DhcpWarning::default()
                    };
                    if let Ok(status) = &mut s.agent {
                        status.dhcp_warnings.push(warning);
                    }
                },
                "Warning dhcp: dnsmasq says: no leases left",
                "lxmesh status",
            ),
            (
                |s| {
                    let nic = NicStatus {
                        instance: "web1".into(),
                        device: "eth0".into(),
                        ..NicStatus::default()
                    };
                    s.agent = Ok(Status {
                        version: env!("CARGO_PKG_VERSION").into(),
                        nics: vec![nic],
                        ..Status::default()
                    });
                },
                "Problem agent: not in step: web1/eth0 is not connected",
                "lxmesh explain",
            ),
            (
                |s| s.here = Err("none of them\n  remedy: add one".into()),
                "Problem host: none of them",
                "add one",
            ),
        ]);
    }

    #[test]
    fn a_reflector_alone_needs_no_agent_and_no_devices() {
        let mut seen = well();
        seen.here = Ok(Here {
            underlay: "203.0.113.1".parse().unwrap(),
            supervisor: false,
            reflector: true,
        });
        seen.agent = Err("not there".into());
        seen.lxd = Err("not there".into());
        seen.facts = Ok(Facts::default());
        assert_eq!(complaints(&seen), []);
    }
}
