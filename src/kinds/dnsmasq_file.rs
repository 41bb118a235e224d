//! dnsmasq's files: one with interfaces, ranges and options, one with the NICs' addresses.
//! Addresses are static: dnsmasq answers only whom the second file names. It gives no address to two
//! of them, so a network whose prefixes another one has, too (in another VRF), gets two files and a
//! process of its own.
//! (<https://thekelleys.org.uk/dnsmasq/docs/dnsmasq-man.html>)

use super::{KernelKind, KindError, Look, Scope};
use crate::host::{HostFile, Network};
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
const CONFIG: &str = "dnsmasq.conf";
/// Name of the file with one line per NIC: a change needs SIGHUP.
const HOSTS: &str = "hosts";
/// How the names of files begin that are of one network alone.
const OF_ONE: &str = "lxmesh-";
/// DHCPv6's name of the server (RFC 8415 section 11.3: a DUID-EN of nobody's enterprise number), the same on all hosts
/// as the gateway is.
const DUID: &str = "0,6c:78:6d:65:73:68";
/// Larger files were not written by us.
const MAX_SIZE: u64 = 64 << 20;
/// dnsmasq's own limit is 1,000 leases of both families together. This one is never reached: the
/// filters know 16,384 ports, and each NIC has one address of each family. As a constant it needs no
/// restart when NICs come.
const MAX_LEASES: u32 = 2 * 16_384;

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

/// What one process of dnsmasq serves.
struct Server<'a> {
    config: PathBuf,
    hosts: PathBuf,
    networks: Vec<&'a Network>,
}

/// The first has all networks but those that overlap one that it has.
fn servers(host: &HostFile) -> Vec<Server<'_>> {
    let directory = &host.dhcp.directory;
    let mut all = vec![Server {
        config: directory.join(CONFIG),
        hosts: directory.join(HOSTS),
        networks: Vec::new(),
    }];
    for network in &host.networks {
        if !all[0].networks.iter().any(|other| overlap(network, other)) {
            all[0].networks.push(network);
            continue;
        }
        let name = &network.bridge;
        all.push(Server {
            config: directory.join(format!("{OF_ONE}{name}.conf")),
            hosts: directory.join(format!("{OF_ONE}{name}.hosts")),
            networks: vec![network],
        });
    }
    all
}

fn overlap(one: &Network, other: &Network) -> bool {
    let four = one.gateway4.zip(other.gateway4);
    let six = one.gateway6.zip(other.gateway6);
    four.is_some_and(|(a, b)| a.contains(&b.network()) || b.contains(&a.network()))
        || six.is_some_and(|(a, b)| a.contains(&b.network()) || b.contains(&a.network()))
}

/// The configurations that there are, each for a process of its own.
pub fn configs(host: &HostFile) -> Vec<PathBuf> {
    servers(host)
        .into_iter()
        .map(|server| server.config)
        .collect()
}

fn is_config(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "conf")
}

/// Files of ours that are there for networks that are served otherwise now, or no more.
fn left_behind(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let ours = names.filter(|name| {
        name.starts_with(OF_ONE) && (name.ends_with(".conf") || name.ends_with(".hosts"))
    });
    ours.map(|name| directory.join(name)).collect()
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
            Change::Create { key, .. } | Change::Update { key, .. } if is_config(&key.0) => {
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
        let mut wanted = Table::<Self>::new();
        for server in servers(inputs.host) {
            let text = config(inputs.host.dhcp.lease_s, &server);
            let names: BTreeSet<&str> = server.networks.iter().map(|n| n.name.as_str()).collect();
            let nics = inputs
                .nics
                .iter()
                .filter(|nic| names.contains(nic.network.as_str()));
            wanted.insert(Key(server.hosts), Attrs(hosts(nics)));
            wanted.insert(Key(server.config), Attrs(text));
        }
        wanted
    }
}

/// Interfaces, ranges and options. Names, addresses and numbers only: nothing here can hold a
/// line break or a comma of somebody else's.
///
/// Without `dhcp-ignore-clid` dnsmasq prefers the DHCPv4 client identifier to the MAC, and nobody
/// checks the identifier: whoever sends a neighbour's would move the neighbour's lease to his own
/// address. Without `dhcp-duid` it calls itself after the first interface that it finds, which is another one
/// on each host and may be another one after a restart, and does not answer who renews what that one gave: the
/// filters let no client ask all servers by REBIND instead.
fn config(lease_s: u32, server: &Server<'_>) -> String {
    let mut out = format!(
        "# Written by the lxmesh agent; changes are undone.\n\
         port=0\n\
         bind-dynamic\n\
         except-interface=lo\n\
         dhcp-authoritative\n\
         dhcp-ignore-clid\n\
         dhcp-duid={DUID}\n\
         dhcp-lease-max={MAX_LEASES}\n\
         leasefile-ro\n\
         no-ping\n\
         dhcp-hostsfile={}\n",
        server.hosts.display()
    );
    for network in &server.networks {
        network_config(&mut out, network, lease_s);
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
fn hosts<'a>(nics: impl Iterator<Item = &'a Nic>) -> String {
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
        if let Some(label) = label(&id.instance.name)
            && named.insert(&id.instance)
        {
            let _ = write!(line, ",{label}");
        }
        line.push('\n');
        lines.push(line);
    }
    lines.sort();
    lines.concat()
}

/// The name as it may stand in a line of dnsmasq's, which knows no quoting: a DNS label (RFC 1123 section 2.1) that
/// begins with a letter, so that it is neither an address nor a lease time, and is no keyword. `ignore` would keep the
/// lease from the instance, `infinite` end it never.
///
/// In lower case, in which dnsmasq (2.90) hands it out anyway: it gives a name with capitals to libidn2, which refuses
/// `Ab--c` and `A-`, and the whole line is lost.
fn label(name: &str) -> Option<String> {
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
        && name.as_bytes()[0].is_ascii_alphabetic();
    let label = name.to_ascii_lowercase();
    (fits && !["ignore", "infinite"].contains(&label.as_str())).then_some(label)
}

fn failed(attempt: &str, path: &Path, error: &std::io::Error) -> KindError {
    KindError::File {
        what: format!("{attempt} {}", path.display()),
        why: error.to_string(),
    }
}

/// What a file has; `None` if there is none. One that cannot be read, such as a directory of that name, is there and
/// has nothing of ours: it is written anew or taken away, and keeps no other file from that. But whoever may not read
/// them does not know them.
fn text_of(read: std::io::Result<Option<Vec<u8>>>) -> std::io::Result<Option<String>> {
    match read {
        Ok(bytes) => Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(error),
        Err(_) => Ok(Some(String::new())),
    }
}

impl KernelKind for DnsmasqFile {
    fn observe(
        look: &mut Look<'_>,
        scope: &Scope<Self>,
        _: &Table<Self>,
    ) -> Result<Table<Self>, KindError> {
        let mut found = Table::<Self>::new();
        let directory = &look.host.dhcp.directory;
        let mut paths = BTreeSet::from([directory.join(CONFIG), directory.join(HOSTS)]);
        paths.extend(left_behind(directory));
        for path in paths {
            let key = Key(path.clone());
            if !scope.has(&key) {
                continue;
            }
            let text = text_of(read_if_exists(&path, MAX_SIZE))
                .map_err(|error| failed("reading", &path, &error))?;
            if let Some(text) = text {
                found.insert(key, Attrs(text));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_a_name_only_if_dnsmasq_takes_it_for_one() {
        let line = |name: &str| {
            let mut nic = Nic::sample(1);
            nic.id.instance.name = name.into();
            hosts([&nic].into_iter())
        };
        for (name, label) in [
            ("web1", ",web1"),
            ("set", ",set"),
            ("e1h", ",e1h"),
            ("Web1", ",web1"),
            ("Ab--c", ",ab--c"),
            ("ignore", ""),
            ("IGNORE", ""),
            ("infinite", ""),
            ("1h", ""),
            ("3600", ""),
            ("set:x", ""),
            ("id:*", ""),
            ("192.0.2.1", ""),
            ("a,ignore", ""),
            ("", ""),
        ] {
            let wanted = format!("00:16:3e:00:00:01,192.0.2.1{label}\n");
            assert_eq!(line(name), wanted, "{name}");
        }
    }
}
