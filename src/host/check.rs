//! From what could be read to a checked [`HostFile`]: the rules of everything but the networks.
//! Each rule works on what is there, so that one mistake does not hide another.

use super::keys::{self, FabricTable, File, List, TagBits};
use super::mtu::Esp;
use super::networks;
use super::policies;
use super::problem::{Findings, quoted};
use super::routers;
use super::schema::{
    Agent, Dhcp, Fabric, Firewall, HostFile, HostOverrides, Lxd, Role, VrfMembers,
};
use super::security;
use super::tenants;
use super::words::{DeviceName, HostAddress, Identity, PrefixOrAddress, RoleName};
use crate::addr::{IpAddr, IpNet};
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Spanned;

/// Notes what is wrong. `None` only if something is, here or before.
pub fn check(file: &File, findings: &mut Findings<'_>) -> Option<HostFile> {
    let File {
        version,
        fabric,
        host,
        bgp,
        ipsec,
        firewall,
        lxd,
        agent,
        dhcp,
        tags,
        router,
        vrf,
        network,
        tenant,
    } = file;
    if let Some(version) = version
        && version.get_ref().0 != 1
    {
        findings.add(
            version.span(),
            format!(
                "version: {} is a format that this LXMesh does not know",
                version.get_ref().0
            ),
            "write version = 1, or install a newer LXMesh",
        );
    }
    let empty = FabricTable::default();
    let fabric_table = fabric.as_ref().map_or(&empty, Spanned::get_ref);
    let bgp = security::check_bgp(bgp, findings);
    let ipsec = security::check_ipsec(ipsec, host, findings);
    let supervisors = check_fabric(fabric_table, findings);
    let firewall = check_firewall(firewall, &supervisors, findings);
    routers::check_routers(
        list(router),
        list(network),
        fabric_table,
        ipsec.esp,
        findings,
    );
    let networks = networks::check(
        list(network),
        list(vrf),
        &networks::Surroundings {
            fabric: fabric_table,
            supervisors: &supervisors,
            esp: ipsec.esp,
        },
        findings,
    );
    let tags = check_tags(tags, findings);
    let protected = ipsec.esp != Esp::None || or(&fabric_table.unprotected_tags, |on| *on, false);
    policies::check_services(list(network), fabric_table, &tags, protected, findings);
    tenants::check(list(tenant), list(network), &tags, findings);
    let host = check_host(host, fabric_table, findings);
    let fabric = resolve_fabric(fabric_table);
    let (fabric, networks) = (fabric?, networks?);
    Some(HostFile {
        routers: routers::resolve(list(router), fabric.asn),
        fabric,
        host,
        bgp,
        ipsec: ipsec.checked,
        firewall,
        lxd: Lxd {
            socket: lxd
                .as_ref()
                .and_then(|lxd| lxd.get_ref().socket.as_ref())
                .map(|socket| socket.get_ref().0.clone()),
        },
        agent: resolve_agent(agent.as_ref().map(Spanned::get_ref)),
        dhcp: resolve_dhcp(dhcp.as_ref().map(Spanned::get_ref)),
        tags,
        vrfs: VrfMembers::of(&networks),
        networks,
        tenants: tenants::resolve(list(tenant)),
    })
}

/// The elements of an optional list.
pub fn list<T>(list: &Option<Spanned<List<T>>>) -> &[Spanned<T>] {
    list.as_ref().map_or(&[], |list| list.get_ref())
}

/// Notes elements that appeared before, by `key`.
pub fn check_repeated<T, K: Ord + std::fmt::Display>(
    path: &str,
    items: &[Spanned<T>],
    key: impl Fn(&T) -> K,
    findings: &mut Findings<'_>,
) {
    let mut seen = BTreeMap::new();
    for item in items {
        let value = key(item.get_ref());
        if seen.contains_key(&value) {
            let shown = quoted(&value.to_string());
            findings.add(
                item.span(),
                format!("{path}: {shown} is there twice"),
                "remove one of them",
            );
        }
        seen.entry(value).or_insert(());
    }
}

/// Notes what is wrong with the fabric; returns the supervisors that are right by themselves.
fn check_fabric(fabric: &FabricTable, findings: &mut Findings<'_>) -> Vec<IpNet> {
    let FabricTable {
        name: _,
        asn,
        reflectors,
        supervisors,
        services,
        underlay_mtu: _,
        vxlan_port: _,
        gbp: _,
        unprotected_tags: _,
        instances: _,
    } = fabric;
    if let Some(asn) = asn
        && let Some(reason) = reserved_asn(asn.get_ref().0)
    {
        findings.add(
            asn.span(),
            format!("fabric.asn: {} is {reason}", asn.get_ref().0),
            "choose a private number, such as one from 64512 to 65534",
        );
    }
    let reflector_list = list(reflectors);
    check_repeated(
        "fabric.reflectors",
        reflector_list,
        |address| address.0,
        findings,
    );
    let supervisor_list = list(supervisors);
    if let Some(supervisors) = supervisors
        && supervisors.get_ref().is_empty()
        && !findings.about("fabric.supervisors")
    {
        findings.add(
            supervisors.span(),
            "fabric.supervisors: an empty list leaves no host to run instances",
            "list the supervisors' prefixes or addresses",
        );
    }
    check_supervisors(supervisor_list, reflector_list, findings);
    check_families(supervisor_list, reflector_list, findings);
    if reflector_list.is_empty() && findings.complete && !findings.about("fabric.reflectors") {
        for net in supervisor_list
            .iter()
            .filter(|net| !is_single(net.get_ref().0))
        {
            findings.add(
                net.span(),
                format!("fabric.supervisors: {} is a prefix, but there are no reflectors", net.get_ref().0),
                "name at least one reflector in [fabric] reflectors, or list every supervisor's address",
            );
        }
    }
    let supervisors: Vec<IpNet> = supervisor_list.iter().map(|net| net.get_ref().0).collect();
    let reflectors = reflector_list
        .iter()
        .map(|address| address.get_ref().0.into());
    let hosts: Vec<IpNet> = supervisors.iter().copied().chain(reflectors).collect();
    let vxlan_port = or(&fabric.vxlan_port, |port| port.get(), DEFAULT_VXLAN_PORT);
    policies::check_fabric_services(list(services), &hosts, vxlan_port, findings);
    supervisors
}

/// What an AS number is set aside for, if no router has it.
pub fn reserved_asn(asn: i64) -> Option<&'static str> {
    match asn {
        23456 => Some("AS_TRANS, which stands in for large numbers (RFC 6793)"),
        65535 => Some("reserved (RFC 7300)"),
        _ => None,
    }
}

fn is_single(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// Overlaps: only a reflector may be listed singly inside a prefix.
fn check_supervisors(
    supervisors: &[Spanned<PrefixOrAddress>],
    reflectors: &[Spanned<HostAddress>],
    findings: &mut Findings<'_>,
) {
    for (index, later) in supervisors.iter().enumerate() {
        for earlier in &supervisors[..index] {
            let (a, b) = (later.get_ref().0, earlier.get_ref().0);
            if a == b {
                let shown = shown(a);
                findings.add(
                    later.span(),
                    format!("fabric.supervisors: \"{shown}\" is there twice"),
                    "remove one of them",
                );
                break;
            }
            let reflector = |net: IpNet| {
                is_single(net)
                    && reflectors
                        .iter()
                        .any(|address| address.get_ref().0 == net.addr())
            };
            if (a.contains(&b) || b.contains(&a)) && !reflector(a) && !reflector(b) {
                let (inner, outer) = if a.contains(&b) { (b, a) } else { (a, b) };
                findings.add(
                    later.span(),
                    format!(
                        "fabric.supervisors: \"{}\" and \"{}\" overlap",
                        shown(a),
                        shown(b)
                    ),
                    format!(
                        "remove \"{}\", which lies in \"{}\"",
                        shown(inner),
                        shown(outer)
                    ),
                );
                break;
            }
        }
    }
}

/// As the file has it: a single address without its length.
pub fn shown(net: IpNet) -> String {
    match is_single(net) {
        true => net.addr().to_string(),
        false => net.to_string(),
    }
}

fn check_families(
    supervisors: &[Spanned<PrefixOrAddress>],
    reflectors: &[Spanned<HostAddress>],
    findings: &mut Findings<'_>,
) {
    let Some(first) = supervisors.first().map(|net| net.get_ref().0) else {
        return;
    };
    let family = |six: bool| if six { "IPv6" } else { "IPv4" };
    let wanted = first.addr().is_ipv6();
    let supervisors = supervisors
        .iter()
        .map(|net| ("supervisors", net.span(), net.get_ref().0));
    let reflectors = reflectors.iter().map(|address| {
        (
            "reflectors",
            address.span(),
            IpNet::from(address.get_ref().0),
        )
    });
    for (key, span, net) in supervisors.chain(reflectors) {
        if net.addr().is_ipv6() != wanted {
            findings.add(
                span,
                format!(
                    "fabric.{key}: \"{}\" is {}, but the first supervisor, \"{}\", is {}",
                    shown(net),
                    family(!wanted),
                    shown(first),
                    family(wanted)
                ),
                "use one address family for the whole underlay; the overlay carries both in any case",
            );
        }
    }
}

/// Only addresses that the underlay's family can have.
fn check_firewall(
    table: &Option<Spanned<keys::FirewallTable>>,
    supervisors: &[IpNet],
    findings: &mut Findings<'_>,
) -> Firewall {
    let empty = keys::FirewallTable::default();
    let keys::FirewallTable { enabled, also } = table.as_ref().map_or(&empty, Spanned::get_ref);
    if let Some(wanted) = supervisors.first().map(|net| net.addr().is_ipv6()) {
        for net in list(also) {
            let found = net.get_ref().0;
            if found.addr().is_ipv6() != wanted {
                findings.add(
                    net.span(),
                    format!(
                        "firewall.also: \"{}\" is not of the underlay's address family",
                        shown(found)
                    ),
                    "remove it: nothing of the fabric listens there",
                );
            }
        }
    }
    check_repeated("firewall.also", list(also), |net| shown(net.0), findings);
    Firewall {
        enabled: or(enabled, |on| *on, true),
        also: list(also).iter().map(|net| net.get_ref().0).collect(),
    }
}

fn check_tags(
    tags: &Option<Spanned<TagBits>>,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, u8> {
    let mut bits: BTreeMap<u8, &str> = BTreeMap::new();
    let mut checked = BTreeMap::new();
    let Some(tags) = tags else {
        return checked;
    };
    let mut in_order: Vec<_> = tags.get_ref().0.values().collect();
    in_order.sort_by_key(|(name, _)| name.span().start);
    for (name, bit) in in_order {
        let number: u8 = bit.get_ref().get();
        let name = &name.get_ref().0;
        match bits.get(&number) {
            Some(first) => findings.add(
                bit.span(),
                format!(
                    "tags.{name}: bit {number} is already that of {}",
                    quoted(first)
                ),
                "give every tag a bit of its own, 0 to 15",
            ),
            None => {
                bits.insert(number, name);
                checked.insert(name.clone(), number);
            }
        }
    }
    checked
}

fn check_host(
    host: &Option<Spanned<keys::HostTable>>,
    fabric: &FabricTable,
    findings: &mut Findings<'_>,
) -> HostOverrides {
    let Some(host) = host else {
        return HostOverrides::default();
    };
    let keys::HostTable {
        underlay,
        roles,
        identity,
        uplinks,
    } = host.get_ref();
    let is_reflector = |address: IpAddr| {
        list(&fabric.reflectors)
            .iter()
            .any(|known| known.get_ref().0 == address)
    };
    let is_supervisor = |address: IpAddr| {
        list(&fabric.supervisors)
            .iter()
            .any(|net| net.get_ref().0.contains(&address))
    };
    if let Some(underlay) = underlay {
        let address = underlay.get_ref().0;
        if !is_reflector(address) && !is_supervisor(address) {
            findings.add(
                underlay.span(),
                format!("host.underlay: \"{address}\" is neither a reflector nor a supervisor of [fabric]"),
                "correct it, or add it to [fabric] supervisors",
            );
        }
        for role in list(roles) {
            let (missing, key) = match role.get_ref().0 {
                Role::Reflector => (!is_reflector(address), "reflectors"),
                Role::Supervisor => (!is_supervisor(address), "supervisors"),
            };
            if missing {
                findings.add(
                    role.span(),
                    format!(
                        "host.roles: host.underlay, \"{address}\", is not among [fabric] {key}"
                    ),
                    format!("add it to [fabric] {key}, or remove the role"),
                );
            }
        }
    }
    if let Some(roles) = roles
        && roles.get_ref().is_empty()
        && !findings.about("host.roles")
    {
        findings.add(
            roles.span(),
            "host.roles: an empty list leaves this host nothing to do",
            "write \"supervisor\", \"reflector\", or both, or remove the key to detect the roles",
        );
    }
    let name = |role: &RoleName| match role.0 {
        Role::Supervisor => "supervisor",
        Role::Reflector => "reflector",
    };
    check_repeated("host.roles", list(roles), name, findings);
    let device = |name: &DeviceName| name.0.clone();
    check_repeated("host.uplinks", list(uplinks), device, findings);
    HostOverrides {
        underlay: underlay.as_ref().map(|address| address.get_ref().0),
        roles: roles.as_ref().map(|_| {
            let mut roles: Vec<Role> = list(roles).iter().map(|role| role.get_ref().0).collect();
            roles.sort();
            roles
        }),
        identity: identity.as_ref().map(|identity| {
            let Identity(text) = identity.get_ref();
            text.clone()
        }),
        uplinks: uplinks.as_ref().map(|_| {
            let names = list(uplinks).iter();
            names.map(|name| name.get_ref().0.clone()).collect()
        }),
    }
}

/// `None` if a required key is missing or wrong.
fn resolve_fabric(fabric: &FabricTable) -> Option<Fabric> {
    let FabricTable {
        name,
        asn,
        reflectors,
        supervisors,
        services,
        underlay_mtu,
        vxlan_port,
        gbp,
        unprotected_tags,
        instances,
    } = fabric;
    Some(Fabric {
        name: name.as_ref()?.get_ref().0.clone(),
        asn: asn.as_ref()?.get_ref().get(),
        reflectors: list(reflectors)
            .iter()
            .map(|address| address.get_ref().0)
            .collect(),
        supervisors: supervisors
            .as_ref()
            .map(|_| list(supervisors))?
            .iter()
            .map(|net| net.get_ref().0)
            .collect(),
        services: list(services)
            .iter()
            .map(|service| service.get_ref().clone())
            .collect(),
        underlay_mtu: or(underlay_mtu, |mtu| mtu.get(), DEFAULT_UNDERLAY_MTU),
        vxlan_port: or(vxlan_port, |port| port.get(), DEFAULT_VXLAN_PORT),
        gbp: or(gbp, |gbp| *gbp, true),
        unprotected_tags: or(unprotected_tags, |on| *on, false),
        instances: or(instances, |count| count.get(), DEFAULT_INSTANCES),
    })
}

pub const DEFAULT_UNDERLAY_MTU: u32 = 1500;
const DEFAULT_INSTANCES: u32 = 10_000;
/// RFC 7348.
pub const DEFAULT_VXLAN_PORT: u16 = 4789;

/// A key's value, or its default.
pub fn or<T, R>(value: &Option<Spanned<T>>, read: impl Fn(&T) -> R, default: R) -> R {
    value
        .as_ref()
        .map_or(default, |value| read(value.get_ref()))
}

fn resolve_agent(agent: Option<&keys::AgentTable>) -> Agent {
    let empty = keys::AgentTable::default();
    let keys::AgentTable {
        reload_interval_s,
        control_socket,
    } = agent.unwrap_or(&empty);
    Agent {
        reload_interval_s: or(reload_interval_s, |seconds| seconds.get(), 60),
        control_socket: or(
            control_socket,
            |path| path.0.clone(),
            PathBuf::from("/run/lxmesh/control.sock"),
        ),
    }
}

fn resolve_dhcp(dhcp: Option<&keys::DhcpTable>) -> Dhcp {
    let empty = keys::DhcpTable::default();
    let keys::DhcpTable {
        enabled,
        run,
        directory,
        program,
        lease_s,
    } = dhcp.unwrap_or(&empty);
    Dhcp {
        enabled: or(enabled, |on| *on, true),
        run: or(run, |on| *on, true),
        directory: or(
            directory,
            |path| path.0.clone(),
            PathBuf::from("/run/lxmesh/dnsmasq"),
        ),
        program: or(
            program,
            |path| path.0.clone(),
            PathBuf::from("/usr/sbin/dnsmasq"),
        ),
        lease_s: or(lease_s, |seconds| seconds.get(), 3600),
    }
}
