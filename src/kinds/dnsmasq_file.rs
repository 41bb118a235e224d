//! dnsmasq's files: one with interfaces, ranges and options, one with the NICs' addresses.
//! Addresses are static: dnsmasq answers only whom the second file names.
//! (<https://thekelleys.org.uk/dnsmasq/docs/dnsmasq-man.html>)

use super::{KernelKind, KindError, Look, Scope};
use crate::host::{Dhcp, HostFile, Network};
use crate::kernel::files::{read_if_exists, write_atomic};
use crate::kernel::{Kernel, fault};
use crate::model::{About, Change, Facts, FollowUp, Inputs, Kind, Nic, Owns, Table};
use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A file that dnsmasq reads.
#[derive(Debug)]
pub struct DnsmasqFile;

/// Name of the file with interfaces, ranges and options: a change needs a restart of dnsmasq.
pub const CONFIG: &str = "dnsmasq.conf";
/// Name of the file with one line per NIC: a change needs SIGHUP.
pub const HOSTS: &str = "hosts";
/// Larger files were not written by us.
const MAX_SIZE: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub PathBuf);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attrs(pub String);

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines", self.0.lines().count())
    }
}

impl Kind for DnsmasqFile {
    const NAME: &'static str = "dnsmasq_file";
    const OWNS: Owns = Owns::WholeObjects;
    const ABOUT: About = About::AllNics;
    type Key = Key;
    type Attrs = Attrs;

    /// dnsmasq holds leases in memory and gives an address to nobody else before its lease ends, so
    /// it starts anew when a NIC went or changed: an instance made again may have another DUID.
    fn follow_up(change: &Change<Self>) -> Option<FollowUp> {
        match change {
            Change::Create { key, .. } | Change::Update { key, .. } if key.0.ends_with(CONFIG) => {
                Some(FollowUp::RestartDnsmasq)
            }
            Change::Update { have, want, .. } => {
                let staying: BTreeSet<&str> = want.0.lines().collect();
                let went = have.0.lines().any(|line| !staying.contains(line));
                Some(if went {
                    FollowUp::RestartDnsmasq
                } else {
                    FollowUp::ReloadDnsmasq
                })
            }
            Change::Create { .. } => Some(FollowUp::ReloadDnsmasq),
            Change::Delete { .. } => None,
        }
    }

    /// Its line; what is not by NICs stays away.
    fn share(attrs: &Attrs, nic: &Nic) -> Attrs {
        let start = format!("{},", nic.mac);
        let own = attrs.0.lines().filter(|line| line.starts_with(&start));
        Attrs(own.map(|line| format!("{line}\n")).collect())
    }

    fn derive(inputs: &Inputs<'_>) -> Table<Self> {
        if !inputs.host.dhcp.enabled {
            return Table::<Self>::new();
        }
        let directory = &inputs.host.dhcp.directory;
        Table::<Self>::from([
            (Key(directory.join(CONFIG)), Attrs(config(inputs.host))),
            (Key(directory.join(HOSTS)), Attrs(hosts(inputs.nics))),
        ])
    }
}

/// Interfaces, ranges and options. Names, addresses and numbers only: nothing here can hold a
/// line break or a comma of somebody else's.
fn config(host: &HostFile) -> String {
    let Dhcp {
        directory, lease_s, ..
    } = &host.dhcp;
    let mut out = format!(
        "# Written by the lxmesh agent; changes are undone.\n\
         port=0\n\
         bind-dynamic\n\
         except-interface=lo\n\
         dhcp-authoritative\n\
         leasefile-ro\n\
         no-ping\n\
         dhcp-hostsfile={}\n",
        directory.join(HOSTS).display()
    );
    for network in &host.networks {
        network_config(&mut out, network, *lease_s);
    }
    out
}

fn network_config(out: &mut String, network: &Network, lease_s: u32) {
    let Network {
        bridge,
        gateway4,
        gateway6,
        mtu,
        dns,
        ..
    } = network;
    // Writing to a String cannot fail.
    let _ = writeln!(out, "interface={bridge}");
    let dns_of = |four: bool| {
        let texts = dns
            .iter()
            .filter(|a| a.is_ipv4() == four)
            .map(|address| match address {
                IpAddr::V4(a) => format!(",{a}"),
                IpAddr::V6(a) => format!(",[{a}]"),
            });
        texts.collect::<String>()
    };
    if let Some(gateway) = gateway4 {
        let _ = write!(
            out,
            "dhcp-range=set:{bridge}-4,{},static,{},{lease_s}\n\
             dhcp-option=tag:{bridge}-4,option:router,{}\n\
             dhcp-option=tag:{bridge}-4,option:mtu,{mtu}\n\
             dhcp-option=tag:{bridge}-4,option:dns-server{}\n",
            gateway.network(),
            gateway.netmask(),
            gateway.addr(),
            dns_of(true),
        );
    }
    if let Some(gateway) = gateway6 {
        let _ = write!(
            out,
            "dhcp-range=set:{bridge}-6,{},static,{},{lease_s}\n\
             dhcp-option=tag:{bridge}-6,option6:dns-server{}\n",
            gateway.network(),
            gateway.prefix_len(),
            dns_of(false),
        );
    }
}

/// One line per NIC that has an address. An instance gives its name to its first NIC only.
fn hosts(nics: &[Nic]) -> String {
    let mut lines = Vec::new();
    let mut named = BTreeSet::new();
    for Nic {
        id,
        mac,
        ipv4,
        ipv6,
        ..
    } in nics
    {
        if ipv4.is_none() && ipv6.is_none() {
            continue;
        }
        let mut line = mac.to_string();
        if let Some(address) = ipv4 {
            let _ = write!(line, ",{address}");
        }
        if let Some(address) = ipv6 {
            let _ = write!(line, ",[{address}]");
        }
        if is_label(&id.instance.name) && named.insert(&id.instance) {
            let _ = write!(line, ",{}", id.instance.name);
        }
        line.push('\n');
        lines.push(line);
    }
    lines.sort();
    lines.concat()
}

/// A DNS label (RFC 1123 section 2.1): what may stand in a line of dnsmasq's without quoting.
fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        && name.as_bytes()[0].is_ascii_alphabetic()
}

fn failed(attempt: &str, path: &Path, error: &std::io::Error) -> KindError {
    KindError::File {
        what: format!("{attempt} {}", path.display()),
        why: error.to_string(),
    }
}

impl KernelKind for DnsmasqFile {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        _: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let mut found = Table::<Self>::new();
        for name in [CONFIG, HOSTS] {
            let path = look.host.dhcp.directory.join(name);
            let key = Key(path.clone());
            if !scope.has(&key) {
                continue;
            }
            let bytes = read_if_exists(&path, MAX_SIZE)
                .map_err(|error| failed("reading", &path, &error))?;
            if let Some(bytes) = bytes {
                found.insert(key, Attrs(String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        Ok(found)
    }

    fn apply(_: &mut Kernel, _: &Facts, changes: &[Change<Self>]) -> Vec<Result<(), KindError>> {
        let write = |path: &Path, text: &str| {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .map_err(|error| failed("creating", directory, &error))?;
            }
            write_atomic(path, text.as_bytes(), 0o644)
                .map_err(|error| failed("writing", path, &error))
        };
        changes
            .iter()
            .map(|change| {
                fault::point();
                match change {
                    Change::Create { key, want } | Change::Update { key, want, .. } => {
                        write(&key.0, &want.0)
                    }
                    Change::Delete { key, .. } => std::fs::remove_file(&key.0)
                        .map_err(|error| failed("removing", &key.0, &error)),
                }
            })
            .collect()
    }
}
