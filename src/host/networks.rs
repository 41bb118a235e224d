//! The rules of `[[network]]`: names, VNIs, gateways, MTU, ports and zones, each by itself and
//! against one another; and the defaults that are computed from other keys.

use super::check::{self, DEFAULT_UNDERLAY_MTU, DEFAULT_VXLAN_PORT, list, or};
use super::keys::{FabricTable, NetworkTable, VrfTable};
use super::mtu::{Esp, MtuSum};
use super::policies;
use super::problem::{Findings, quoted};
use super::schema::{Denied, Limits, Network, Vrf};
use super::service::Service;
use super::tenants;
use super::vrfs;
use super::words::Gateway;
use crate::addr::{IfName, IpNet, Mac, Vni};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;

/// What networks are checked against.
pub struct Surroundings<'a> {
    pub fabric: &'a FabricTable,
    pub supervisors: &'a [IpNet],
    pub esp: Esp,
}

/// Notes what is wrong. `None` only if something is, here or before.
pub fn check(
    tables: &[Spanned<NetworkTable>],
    vrf_tables: &[Spanned<VrfTable>],
    around: &Surroundings<'_>,
    findings: &mut Findings<'_>,
) -> Option<Vec<Network>> {
    let tables: Vec<&NetworkTable> = tables.iter().map(Spanned::get_ref).collect();
    let devices = check_names(&tables, findings);
    check_vnis(&tables, findings);
    check_gateways(&tables, around, findings);
    check_gbp(&tables, around.fabric, findings);
    let zones = check_zones(&tables, findings);
    let vrfs = vrfs::check_vrfs(&tables, vrf_tables, &devices, findings);
    vrfs::check_host_routes(&tables, &vrfs, findings);
    let checked =
        tables
            .iter()
            .zip(zones)
            .zip(&devices.of_networks)
            .map(|((table, zone), devices)| {
                policies::check_limits(table, findings);
                let mtu = check_mtu(table, around, findings);
                resolve(table, zone, devices, mtu, &vrfs, around.fabric)
            });
    // Every network is looked at, whatever is wrong with the others.
    let checked: Vec<Option<Network>> = checked.collect();
    checked.into_iter().collect()
}

/// The gateway MAC of a network whose file gives none: the first six bytes of SHA-256 over
/// `"lxmesh gateway\0" FABRIC "\0" VNI` (the VNI in decimal), with the group bit of the first byte
/// cleared and its local bit set. It must never change: hosts of a fleet are upgraded one by one.
pub fn derived_gateway_mac(fabric: &str, vni: Vni) -> Mac {
    let digest = Sha256::digest(format!("lxmesh gateway\0{fabric}\0{vni}"));
    let [a, b, c, d, e, f, ..] = digest.0;
    Mac([(a & 0xfc) | 2, b, c, d, e, f])
}

pub fn name_of(table: &NetworkTable) -> String {
    match &table.name {
        Some(name) => format!("network {}", quoted(&name.get_ref().0)),
        None => "another network".into(),
    }
}

/// Bridge and tunnel of one network, where they are known.
type Devices = (Option<IfName>, Option<IfName>);

pub struct DeviceNames {
    of_networks: Vec<Devices>,
    /// Every name, and who has it.
    pub owners: BTreeMap<IfName, String>,
}

/// Names of networks and of their devices: each once, and not too long.
fn check_names(tables: &[&NetworkTable], findings: &mut Findings<'_>) -> DeviceNames {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut owners: BTreeMap<IfName, String> = BTreeMap::new();
    let mut of_networks = Vec::new();
    for table in tables {
        if let Some(name) = &table.name {
            let text = name.get_ref().0.as_str();
            match names.get(text) {
                Some(first) => {
                    findings.add(
                        name.span(),
                        format!(
                            "network.name: {} is already the name of the network in line {first}",
                            quoted(text)
                        ),
                        "give every network a name of its own",
                    );
                    // Its default device names follow from that.
                    of_networks.push((None, None));
                    continue;
                }
                None => {
                    names.insert(text, findings.line_of(name.span().start));
                }
            }
        }
        let mut device = |given: &Option<Spanned<IfName>>, key: &str, prefix: &str| {
            let (span, device) = device_name(table, given, key, prefix, findings)?;
            if let Some(owner) = owners.get(&device) {
                findings.add(
                    span,
                    format!("network.{key}: \"{device}\" is already the {owner}"),
                    "give every device a name of its own",
                );
                return None;
            }
            owners.insert(device.clone(), format!("{key} of {}", name_of(table)));
            Some(device)
        };
        let bridge = device(&table.bridge, "bridge", "svi");
        let tunnel = device(&table.tunnel, "tunnel", "vxlan");
        of_networks.push((bridge, tunnel));
    }
    check_parents(tables, &of_networks, findings);
    DeviceNames {
        of_networks,
        owners,
    }
}

/// The name given, or the default with where it comes from.
fn device_name(
    table: &NetworkTable,
    given: &Option<Spanned<IfName>>,
    key: &str,
    prefix: &str,
    findings: &mut Findings<'_>,
) -> Option<(Range<usize>, IfName)> {
    if let Some(given) = given {
        return Some((given.span(), given.get_ref().clone()));
    }
    let name = table.name.as_ref()?;
    let text = format!("{prefix}-{}", name.get_ref().0);
    match text.parse() {
        Ok(device) => Some((name.span(), device)),
        Err(_) => {
            findings.add(
                name.span(),
                format!(
                    "network.name: {} makes the {key}'s name {}, {} bytes long where the kernel takes {}",
                    quoted(&name.get_ref().0),
                    quoted(&text),
                    text.len(),
                    IfName::MAX_LEN
                ),
                format!(
                    "choose a name of at most {} bytes, or give the {key} a name with {key} = \"…\"",
                    IfName::MAX_LEN - prefix.len() - 1
                ),
            );
            None
        }
    }
}

/// `user.lxmesh.parent` names a network or a bridge: one name must not mean two networks.
fn check_parents(tables: &[&NetworkTable], devices: &[Devices], findings: &mut Findings<'_>) {
    for (index, table) in tables.iter().enumerate() {
        let Some(name) = &table.name else { continue };
        let text = name.get_ref().0.as_str();
        let other = devices.iter().enumerate().find(|(at, (bridge, _))| {
            *at != index
                && bridge
                    .as_ref()
                    .is_some_and(|bridge| bridge.as_str() == text)
        });
        if let Some((other, _)) = other {
            findings.add(
                name.span(),
                format!(
                    "network.name: {} is also the bridge of {}",
                    quoted(text),
                    name_of(tables[other])
                ),
                "rename one of them: user.lxmesh.parent takes either name",
            );
        }
    }
}

fn check_vnis(tables: &[&NetworkTable], findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<Vni, &NetworkTable> = BTreeMap::new();
    for table in tables {
        let Some(vni) = &table.vni else { continue };
        match seen.get(vni.get_ref()) {
            Some(first) => findings.add(
                vni.span(),
                format!(
                    "network.vni: {} is already the VNI of {}",
                    vni.get_ref(),
                    name_of(first)
                ),
                "give every network a VNI of its own",
            ),
            None => {
                seen.insert(*vni.get_ref(), table);
            }
        }
    }
}

pub fn vrf_name(table: &NetworkTable) -> Option<&IfName> {
    table.vrf.as_ref().map(Spanned::get_ref)
}

/// Whether two prefixes have addresses in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// One gateway per family, and no prefix that is elsewhere too.
fn check_gateways(
    tables: &[&NetworkTable],
    around: &Surroundings<'_>,
    findings: &mut Findings<'_>,
) {
    let reflectors = list(&around.fabric.reflectors)
        .iter()
        .map(|address| IpNet::from(address.get_ref().0));
    let underlay: Vec<IpNet> = around
        .supervisors
        .iter()
        .copied()
        .chain(reflectors)
        .collect();
    for (index, table) in tables.iter().enumerate() {
        let gateways = list(&table.gateway);
        for (at, gateway) in gateways.iter().enumerate() {
            let Gateway(net) = *gateway.get_ref();
            let family = if net.addr().is_ipv6() { "IPv6" } else { "IPv4" };
            let before = |other: &&Spanned<Gateway>| {
                other.get_ref().0.addr().is_ipv6() == net.addr().is_ipv6()
            };
            if let Some(first) = gateways[..at].iter().find(before) {
                findings.add(
                    gateway.span(),
                    format!(
                        "network.gateway: \"{net}\" is a second {family} gateway beside \"{}\"",
                        first.get_ref().0
                    ),
                    format!("keep one {family} gateway per network"),
                );
                continue;
            }
            let taken = tables[..index]
                .iter()
                .filter(|other| vrf_name(other) == vrf_name(table))
                .flat_map(|other| {
                    list(&other.gateway)
                        .iter()
                        .map(move |theirs| (other, theirs.get_ref().0))
                })
                .find(|(_, theirs)| overlap(net, *theirs));
            if let Some((other, theirs)) = taken {
                findings.add(
                    gateway.span(),
                    format!(
                        "network.gateway: \"{net}\" overlaps \"{theirs}\" of {}",
                        name_of(other)
                    ),
                    "use prefixes that do not overlap, or put the networks into different VRFs",
                );
            }
            if table.vrf.is_none()
                && let Some(theirs) = underlay.iter().find(|theirs| overlap(net, **theirs))
            {
                findings.add(
                    gateway.span(),
                    format!("network.gateway: \"{net}\" overlaps \"{theirs}\", where hosts of the underlay are"),
                    "use a prefix outside the underlay, or put the network into a VRF",
                );
            }
        }
    }
}

fn port_of(table: &NetworkTable, fabric: &FabricTable) -> u16 {
    let common = or(&fabric.vxlan_port, |port| port.get(), DEFAULT_VXLAN_PORT);
    or(&table.vxlan_port, |port| port.get(), common)
}

pub fn gbp_of(table: &NetworkTable, fabric: &FabricTable) -> bool {
    or(&table.gbp, |gbp| *gbp, or(&fabric.gbp, |gbp| *gbp, true))
}

/// The kernel has one socket per UDP port, and one set of extensions per socket.
fn check_gbp(tables: &[&NetworkTable], fabric: &FabricTable, findings: &mut Findings<'_>) {
    let mut ports: BTreeMap<u16, &NetworkTable> = BTreeMap::new();
    for table in tables {
        let port = port_of(table, fabric);
        let first = *ports.entry(port).or_insert(table);
        let (ours, theirs) = (gbp_of(table, fabric), gbp_of(first, fabric));
        // One of the two says so itself: the fabric's own setting cannot differ from itself.
        let said = table.gbp.as_ref().or(first.gbp.as_ref());
        if ours != theirs
            && let Some(said) = said
        {
            findings.add(
                said.span(),
                format!(
                    "network.gbp: {} has gbp = {ours} and {} has gbp = {theirs}, but both use UDP port {port}",
                    name_of(table),
                    name_of(first)
                ),
                "make gbp equal, or give one of them another vxlan_port",
            );
        }
    }
}

/// Each network's connection tracking zone, where it is known.
fn check_zones(tables: &[&NetworkTable], findings: &mut Findings<'_>) -> Vec<Option<u16>> {
    let zone_of = |table: &NetworkTable| match (&table.conntrack_zone, &table.vni) {
        (Some(zone), _) => Some((zone.span(), zone.get_ref().get::<u16>())),
        (None, Some(vni)) => Some((vni.span(), default_zone(*vni.get_ref()))),
        (None, None) => None,
    };
    let mut seen: BTreeMap<u16, &NetworkTable> = BTreeMap::new();
    let zones: Vec<_> = tables.iter().map(|table| zone_of(table)).collect();
    let used: Vec<u16> = zones.iter().flatten().map(|(_, zone)| *zone).collect();
    for (table, found) in tables.iter().zip(&zones) {
        let Some((span, zone)) = found else { continue };
        let Some(first) = seen.get(zone) else {
            seen.insert(*zone, table);
            continue;
        };
        // Equal VNIs have equal zones; that was said already.
        let same_vni =
            matches!((&first.vni, &table.vni), (Some(a), Some(b)) if a.get_ref() == b.get_ref());
        if same_vni && first.conntrack_zone.is_none() && table.conntrack_zone.is_none() {
            continue;
        }
        let free = (1..=u16::MAX)
            .rev()
            .find(|zone| !used.contains(zone))
            .unwrap_or(1);
        findings.add(
            span.clone(),
            format!(
                "network.conntrack_zone: {zone} is already the zone of {}",
                name_of(first)
            ),
            format!("set conntrack_zone to a number of its own, such as {free}"),
        );
    }
    zones
        .into_iter()
        .map(|zone| zone.map(|(_, zone)| zone))
        .collect()
}

fn default_zone(vni: Vni) -> u16 {
    let vni = vni.get();
    u16::try_from(vni).unwrap_or((vni % 65535) as u16 + 1)
}

/// The smallest MTU that a host must be able to use: RFC 8200 section 5, RFC 791 page 25.
fn least_mtu(table: &NetworkTable) -> (u32, &'static str) {
    let ipv6 = list(&table.gateway)
        .iter()
        .any(|gateway| gateway.get_ref().0.addr().is_ipv6());
    match ipv6 {
        true => (1280, "IPv6 needs"),
        false => (576, "IPv4 hosts may expect"),
    }
}

/// The network's MTU. `None` if that is not possible or the fabric's is not known.
fn check_mtu(
    table: &NetworkTable,
    around: &Surroundings<'_>,
    findings: &mut Findings<'_>,
) -> Option<u32> {
    let underlay = or(
        &around.fabric.underlay_mtu,
        |mtu| mtu.get(),
        DEFAULT_UNDERLAY_MTU,
    );
    let ipv6 = around
        .supervisors
        .first()
        .is_some_and(|net| net.addr().is_ipv6());
    let sum = MtuSum::new(underlay, ipv6, around.esp);
    let (least, who) = least_mtu(table);
    let most = sum.overlay();
    if most < least {
        let anchor = around.fabric.underlay_mtu.as_ref().map(Spanned::span);
        let name = table.name.as_ref().map(Spanned::span);
        findings.add(
            anchor.or(name)?,
            format!("fabric.underlay_mtu: {underlay} leaves {} {most} bytes, less than the {least} that {who}", name_of(table)),
            format!("raise the underlay's MTU by at least {} ({sum})", least - most),
        );
        return None;
    }
    let Some(given) = &table.mtu else {
        return Some(most);
    };
    let mtu: u32 = given.get_ref().get();
    if mtu > most {
        findings.add(
            given.span(),
            format!("network.mtu: {mtu} does not fit into the underlay"),
            format!("leave mtu out, or choose at most {most} ({sum})"),
        );
    } else if mtu < least {
        findings.add(
            given.span(),
            format!("network.mtu: {mtu} is less than the {least} that {who}"),
            format!("leave mtu out, or choose {least} to {most} ({sum})"),
        );
    }
    Some(mtu)
}

/// `None` if a required key is missing or wrong.
fn resolve(
    table: &NetworkTable,
    zone: Option<u16>,
    devices: &Devices,
    mtu: Option<u32>,
    vrfs: &BTreeMap<IfName, Vrf>,
    fabric: &FabricTable,
) -> Option<Network> {
    let NetworkTable {
        name,
        vni,
        bridge: _,
        tunnel: _,
        gateway,
        gateway_mac,
        mtu: _,
        multicast,
        vrf,
        host_routes,
        announce,
        conntrack_zone: _,
        dns,
        vxlan_port: _,
        gbp: _,
        in_services,
        out_services,
        max_connections,
        new_connections_per_s,
        control_packets_per_s,
        max_multicast_groups,
        audit,
        log_drops,
        projects,
    } = table;
    let usual = Limits::default();
    let limits = Limits {
        connections: or(max_connections, |n| n.get(), usual.connections),
        new_connections: or(new_connections_per_s, |n| n.get(), usual.new_connections),
        control_packets: or(control_packets_per_s, |n| n.get(), usual.control_packets),
        multicast_groups: or(max_multicast_groups, |n| n.get(), usual.multicast_groups),
    };
    let services = |key| {
        list(key)
            .iter()
            .map(|service: &Spanned<Service>| service.get_ref().clone())
            .collect()
    };
    let vni = *vni.as_ref()?.get_ref();
    let (bridge, tunnel) = devices.clone();
    let mut gateway4 = None;
    let mut gateway6 = None;
    for gateway in list(gateway) {
        match gateway.get_ref().0 {
            IpNet::V4(net) => gateway4 = Some(net),
            IpNet::V6(net) => gateway6 = Some(net),
        }
    }
    let fabric_name = &fabric.name.as_ref()?.get_ref().0;
    Some(Network {
        name: name.as_ref()?.get_ref().0.clone(),
        vni,
        bridge: bridge?,
        tunnel: tunnel?,
        gateway4,
        gateway6,
        gateway_mac: check::or(
            gateway_mac,
            |mac| *mac,
            derived_gateway_mac(fabric_name, vni),
        ),
        mtu: mtu?,
        vxlan_port: port_of(table, fabric),
        gbp: gbp_of(table, fabric),
        multicast: or(multicast, |on| *on, false),
        vrf: match vrf {
            Some(vrf) => Some(vrfs.get(vrf.get_ref())?.clone()),
            None => None,
        },
        host_routes: host_routes.as_ref().map(|routes| routes.get_ref().0),
        announce: or(announce, |on| *on, false),
        conntrack_zone: zone?,
        dns: list(dns)
            .iter()
            .map(|address| address.get_ref().0)
            .collect(),
        in_services: services(in_services),
        out_services: services(out_services),
        limits,
        denied: Denied {
            audit: or(audit, |on| *on, false),
            log: or(log_drops, |on| *on, false),
        },
        projects: tenants::names(projects, |project| &project.0),
    })
}
