//! What can be seen of this host. Every question has a time limit, and none changes anything: nft
//! checks without loading, and `show` is all that vtysh is told. Decides nothing.

use super::files::{self, Module};
use crate::addr::IpAddr;
use crate::apply::{commands, health};
use crate::control::Status;
use crate::control::server;
use crate::generate::{self, Here, LocalFacts, closed, secrets};
use crate::host::{Firewall, HostFile};
use crate::kernel::link::LinkKind;
use crate::kernel::nft::Family;
use crate::kernel::{Kernel, KernelError};
use crate::kinds::nft_table;
use crate::lxd::{Client, LxdError, Unread, sockets};
use crate::model::Facts;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// Seconds that a program, or LXD, may take.
const LIMIT_S: u32 = 10;
/// Other tunnel end points whose path is looked at: they share its first hops, where MTUs differ.
const PATHS: usize = 8;

/// All that was seen; what could not be is an error's text.
pub struct Seen {
    pub here: Result<Here, String>,
    /// `uname -r`.
    pub kernel: String,
    /// What the kernel's packet filter was asked for, by name of the module that has it.
    pub features: Vec<(&'static str, Result<(), KernelError>)>,
    /// Whether the check of deferred checksums is loaded.
    pub checks: Result<bool, String>,
    /// Of the modules that are to be loaded at boot, which are there.
    pub modules: BTreeMap<String, Module>,
    /// What the programs say of their versions.
    pub versions: BTreeMap<&'static str, Result<String, String>>,
    pub strongswan: Option<Result<(), String>>,
    /// What others may read or replace.
    pub exposed: Vec<secrets::Exposed>,
    /// Name and version of the server.
    pub lxd: Result<String, String>,
    /// Instances of its list that cannot be understood.
    pub unread: Result<Vec<String>, String>,
    /// Values of kernel settings; `None` where the kernel has no such setting.
    pub sysctls: BTreeMap<String, Option<String>>,
    /// Whether both tables are there that keep closed what nobody attached.
    pub closed: Result<bool, String>,
    /// Whether the unit that loads them starts at boot.
    pub firewall_at_boot: bool,
    pub facts: Result<Facts, String>,
    pub addresses: BTreeSet<IpAddr>,
    /// Bytes that the route to another host of the fabric carries, as the kernel knows.
    pub paths: BTreeMap<IpAddr, Result<u32, String>>,
    pub bgp: Result<BTreeMap<IpAddr, String>, String>,
    pub agent: Result<Status, String>,
}

/// Programs, and how they tell their version.
pub const PROGRAMS: [(&str, &[&str]); 4] = [
    ("nftables", &["nft", "--version"]),
    ("FRR", &["/usr/lib/frr/bgpd", "--version"]),
    ("systemd", &["systemctl", "--version"]),
    ("strongSwan", &["swanctl", "--help"]),
];

const FIREWALL_UNIT: &str = "/etc/systemd/system/lxmesh-firewall.service";
/// By what systemd starts the unit of the packet filter: the generator's drop-in, or the
/// administrator's `systemctl enable`.
const FIREWALL_AT_BOOT: [&str; 2] = [
    "/etc/systemd/system/multi-user.target.d/lxmesh-firewall.conf",
    "/etc/systemd/system/multi-user.target.wants/lxmesh-firewall.service",
];

/// A rule for each thing that the ruleset needs of the kernel and that is a module of its own.
const RULES: [(&str, &str); 3] = [
    ("nft_meta_bridge", "meta ibrname \"lxmesh\" accept"),
    ("nf_conntrack_bridge", "ct state new accept"),
    ("nft_log", "log prefix \"lxmesh\" group 242"),
];

pub async fn look(host: &HostFile) -> Seen {
    let local = LocalFacts::read_without_programs();
    let here = match &local {
        Ok(local) => generate::detect(host, local).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let wanted = generate::kernel_files(host).unwrap_or_default();
    let modules = wanted.iter().flat_map(files::modules);
    let modules = modules.map(|name| {
        let place = module(&name, &release);
        (name, place)
    });
    let settings = wanted.iter().flat_map(files::settings);
    let sysctls = settings.map(|setting| {
        let path = format!("/proc/sys/{}", setting.key.replace('.', "/"));
        (setting.key, read(&path))
    });
    let mut kernel = Kernel::open();
    let features = match &mut kernel {
        Ok(kernel) => features(kernel),
        Err(_) => Vec::new(),
    };
    let facts = match &mut kernel {
        Ok(kernel) => kernel.rtnl.links().map(Facts::new),
        Err(error) => Err(error.clone()),
    };
    let closed = match &mut kernel {
        Ok(kernel) => closed(kernel),
        Err(error) => Err(error.clone()),
    };
    let mut others: BTreeSet<IpAddr> = host.fabric.reflectors.iter().copied().collect();
    if let (Ok(kernel), Ok(facts)) = (&mut kernel, &facts) {
        others.extend(vteps(kernel, facts).into_iter().take(PATHS));
    }
    if let Ok(here) = &here {
        others.remove(&here.underlay);
    }
    let bgp = health::bgp(LIMIT_S);
    let (lxd, unread) = lxd(host).await;
    Seen {
        here,
        kernel: release.clone(),
        features,
        checks: match &kernel {
            Ok(Kernel {
                checks: Ok(checks), ..
            }) => Ok(checks.is_some()),
            Ok(Kernel {
                checks: Err(error), ..
            })
            | Err(error) => Err(error.to_string()),
        },
        modules: modules.collect(),
        versions: versions(host),
        strongswan: host.ipsec.as_ref().map(|_| {
            let stats = commands::run(LIMIT_S, &["swanctl", "--stats"]);
            stats.map(drop).map_err(|error| error.to_string())
        }),
        exposed: secrets::exposed(host),
        lxd,
        unread,
        sysctls: sysctls.collect(),
        closed: closed.map_err(|error| error.to_string()),
        firewall_at_boot: firewall_at_boot(),
        facts: facts.map_err(|error| error.to_string()),
        addresses: local.map(|local| local.addresses).unwrap_or_default(),
        paths: others.into_iter().map(|to| (to, path_mtu(to))).collect(),
        bgp: bgp.map_err(|error| error.to_string()),
        agent: server::ask(&host.agent.control_socket)
            .await
            .map_err(|error| error.to_string()),
    }
}

/// Whether the unit starts with the host, and loads the tables: one that an older version has rendered
/// does not.
fn firewall_at_boot() -> bool {
    let unit = std::fs::read_to_string(FIREWALL_UNIT).unwrap_or_default();
    FIREWALL_AT_BOOT.iter().any(|path| Path::new(path).exists())
        && unit.contains(closed::PATH)
        && Path::new(closed::PATH).exists()
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Asks the kernel as the agent does at its start, by a check that loads nothing.
fn features(kernel: &mut Kernel) -> Vec<(&'static str, Result<(), KernelError>)> {
    let mut all: Vec<(&'static str, Result<(), KernelError>)> = RULES
        .iter()
        .map(|(name, rule)| {
            let hook = "type filter hook prerouting priority 0;";
            let script =
                format!("table bridge lxmesh_doctor {{\nchain c {{\n{hook}\n{rule}\n}}\n}}\n");
            (*name, kernel.nft.check(&script))
        })
        .collect();
    if all.iter().all(|(_, result)| result.is_ok()) {
        let whole = nft_table::check(kernel).map_err(|error| {
            KernelError::ours("the agent's ruleset", libc::EINVAL, error.to_string())
        });
        all.push(("ruleset", whole));
    }
    all
}

fn closed(kernel: &mut Kernel) -> Result<bool, KernelError> {
    let inet = kernel.nft.structure(Family::Inet, Firewall::CLOSED)?;
    let arp = kernel.nft.structure(Family::Arp, Firewall::CLOSED)?;
    Ok(inet.is_some() && arp.is_some())
}

fn versions(host: &HostFile) -> BTreeMap<&'static str, Result<String, String>> {
    let mut all = BTreeMap::new();
    for (name, words) in PROGRAMS {
        if name != "strongSwan" || host.ipsec.is_some() {
            let mut said = commands::run(LIMIT_S, words);
            // Not every distribution has bgpd there, and vtysh tells its version among its help.
            if name == "FRR" && said.is_err() {
                said = commands::run(LIMIT_S, &["vtysh", "--help"]);
            }
            all.insert(name, said.map_err(|error| error.to_string()));
        }
    }
    if host.dhcp.enabled && host.dhcp.run {
        let program = host.dhcp.program.display().to_string();
        let said = commands::run(LIMIT_S, &[&program, "--version"]);
        all.insert("dnsmasq", said.map_err(|error| error.to_string()));
    }
    all
}

/// Who LXD is, and what of its list cannot be understood.
async fn lxd(host: &HostFile) -> (Result<String, String>, Result<Vec<String>, String>) {
    let client = sockets::find(host.lxd.socket.as_deref(), None)
        .and_then(|(socket, _)| Client::new(&socket))
        .map(|client| client.acls_within(Duration::from_secs(u64::from(LIMIT_S) / 2)))
        .map_err(|error| error.to_string());
    let client = match client {
        Ok(client) => client,
        Err(error) => return (Err(error), Ok(Vec::new())),
    };
    let server = match in_time(client.identify()).await {
        Ok(server) => server,
        // There is nobody to ask for a list.
        Err(error) => return (Err(error), Ok(Vec::new())),
    };
    let listing = in_time(client.instances()).await;
    (Ok(server), listing.map(|listing| unread(&listing.unread)))
}

async fn in_time<T>(asked: impl Future<Output = Result<T, LxdError>>) -> Result<T, String> {
    match tokio::time::timeout(Duration::from_secs(LIMIT_S.into()), asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the server does not answer within {LIMIT_S} s")),
    }
}

fn unread(entries: &[Unread]) -> Vec<String> {
    let who = entries.iter().map(|entry| match &entry.id {
        Some(id) if entry.but_acls.is_some() => format!("{id} (its network ACLs: {})", entry.why),
        Some(id) => format!("{id} ({})", entry.why),
        None => format!("one without a name that can be read ({})", entry.why),
    });
    who.collect()
}

/// Where tunnels flood to.
fn vteps(kernel: &mut Kernel, facts: &Facts) -> BTreeSet<IpAddr> {
    let tunnels: Vec<u32> = facts
        .links()
        .filter(|link| matches!(link.kind, LinkKind::Vxlan(_)))
        .map(|link| link.index)
        .collect();
    let vteps = tunnels
        .into_iter()
        .flat_map(|tunnel| kernel.rtnl.vteps(tunnel).unwrap_or_default());
    vteps.filter(|vtep| !vtep.is_multicast()).collect()
}

/// What the kernel would send to an address without a fragment. Nothing is sent.
fn path_mtu(to: IpAddr) -> Result<u32, String> {
    const DISCARD: u16 = 9;
    let (from, level, option): (IpAddr, _, _) = match to {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (
            Ipv6Addr::UNSPECIFIED.into(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU,
        ),
    };
    let failed = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind((from, 0)).map_err(failed)?;
    socket.connect((to, DISCARD)).map_err(failed)?;
    let mut mtu: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `mtu` has room for the `length` bytes that are announced.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut mtu).cast(),
            &mut length,
        )
    };
    match result {
        0 => Ok(mtu.unsigned_abs()),
        _ => Err(failed(std::io::Error::last_os_error())),
    }
}

/// Where a module is. `/sys/module` shows those that are loaded, and of those that are built in only
/// some; modules.builtin and modules.dep list the rest.
fn module(name: &str, release: &str) -> Module {
    if Path::new("/sys/module").join(name).exists() {
        return Module::Loaded;
    }
    let roots = ["", "/run/current-system/kernel-modules"];
    let list = |file: &str| {
        let paths = roots.map(|root| format!("{root}/lib/modules/{release}/{file}"));
        paths
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
    };
    files::place_of(
        name,
        list("modules.builtin").as_deref(),
        list("modules.dep").as_deref(),
    )
}
