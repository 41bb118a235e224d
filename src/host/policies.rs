//! The rules of what the host file says of NICs' policy: services that name tags, services of the
//! fabric's hosts, and limits.

use super::check::{check_repeated, list};
use super::keys::{FabricTable, NetworkTable};
use super::networks::gbp_of;
use super::problem::{Findings, quoted};
use super::schema::Limits;
use super::service::{Peer, Ports, Protocol, Service, Traffic};
use super::value::Int;
use crate::addr::IpNet;
use std::collections::BTreeMap;
use toml::Spanned;

/// Services that name a tag: it exists, travels, and is matched where it arrives.
pub fn check_services(
    tables: &[Spanned<NetworkTable>],
    fabric: &FabricTable,
    tags: &BTreeMap<String, u8>,
    protected: bool,
    findings: &mut Findings<'_>,
) {
    for table in tables.iter().map(Spanned::get_ref) {
        let inward = list(&table.in_services)
            .iter()
            .map(|service| ("in_services", service));
        let outward = list(&table.out_services)
            .iter()
            .map(|service| ("out_services", service));
        for (key, service) in inward.chain(outward) {
            let Peer::Tag(name) = &service.get_ref().peer else {
                continue;
            };
            let (what, remedy) = if key == "out_services" {
                (
                    "names a tag, but tags are matched where a packet arrives",
                    "use in_services, or name a prefix or @network",
                )
            } else if !tags.contains_key(name) {
                (
                    "names a tag that [tags] does not have",
                    "add it to [tags], with a bit of its own",
                )
            } else if !gbp_of(table, fabric) {
                (
                    "names a tag, but tags do not travel where gbp is false",
                    "set gbp = true on every host, or name a prefix",
                )
            } else if !protected {
                (
                    "names a tag, but without [ipsec] whoever reaches a tunnel's UDP port can forge tags",
                    "enable [ipsec], or accept that with unprotected_tags = true in [fabric]",
                )
            } else {
                continue;
            };
            let shown = quoted(&service.get_ref().to_string());
            findings.add(
                service.span(),
                format!("network.{key}: {shown} {what}"),
                remedy,
            );
        }
    }
}

/// Services of `[fabric]`: each is one of some host, and can be opened.
pub fn check_fabric_services(
    services: &[Spanned<Service>],
    hosts: &[IpNet],
    vxlan_port: u16,
    findings: &mut Findings<'_>,
) {
    check_repeated("fabric.services", services, Service::to_string, findings);
    for service in services {
        if let Some((what, remedy)) = unfit(service.get_ref(), hosts, vxlan_port) {
            let shown = quoted(&service.get_ref().to_string());
            findings.add(
                service.span(),
                format!("fabric.services: {shown} {what}"),
                remedy,
            );
        }
    }
}

/// What is wrong with a service of `[fabric]`, and the remedy. Without hosts something else is wrong.
fn unfit(
    service: &Service,
    hosts: &[IpNet],
    vxlan_port: u16,
) -> Option<(&'static str, &'static str)> {
    let six = hosts.first()?.addr().is_ipv6();
    let overlaps =
        |net: &IpNet, host: &IpNet| net.contains(&host.network()) || host.contains(&net.network());
    match &service.peer {
        Peer::Tag(_) => {
            return Some((
                "names a tag, but the fabric's hosts bear none",
                "name an address or prefix of [fabric], or leave out the @ and what follows",
            ));
        }
        Peer::SameNetwork => {
            return Some((
                "names an instance's network, but the fabric's hosts are in none",
                "name an address or prefix of [fabric], or leave out the @ and what follows",
            ));
        }
        Peer::Net(net) if !hosts.iter().any(|host| overlaps(net, host)) => {
            return Some((
                "is of no host of the fabric",
                "name an address or prefix of [fabric] supervisors or reflectors; elsewhere, out_services alone decide",
            ));
        }
        Peer::Net(_) | Peer::Anyone => {}
    }
    match service.traffic {
        Traffic::Of(Protocol::Icmp, _) if six => Some((
            "is IPv4, but the underlay is IPv6",
            "write icmpv6, which goes with IPv6",
        )),
        Traffic::Of(Protocol::IcmpV6, _) if !six => Some((
            "is IPv6, but the underlay is IPv4",
            "write icmp, which goes with IPv4",
        )),
        Traffic::Of(Protocol::Udp, Ports { first, last })
            if first == last && [67, 547, vxlan_port].contains(&first) =>
        {
            Some((
                "is DHCP or the tunnels, which stay closed to instances in any case",
                "remove it",
            ))
        }
        _ => None,
    }
}

/// Limits are among the values that the rules know.
pub fn check_limits(table: &NetworkTable, findings: &mut Findings<'_>) {
    fn one<const MIN: i64, const MAX: i64>(
        key: &str,
        value: &Option<Spanned<Int<MIN, MAX>>>,
        known: &[u32],
        findings: &mut Findings<'_>,
    ) {
        if let Some(value) = value
            && !known.contains(&value.get_ref().get())
        {
            let number = value.get_ref().0;
            let known: Vec<String> = known.iter().map(u32::to_string).collect();
            findings.add(
                value.span(),
                format!("network.{key}: {number} is not one of the limits that there are"),
                format!("choose one of {}", known.join(", ")),
            );
        }
    }
    let NetworkTable {
        max_connections,
        new_connections_per_s,
        control_packets_per_s,
        ..
    } = table;
    one(
        "max_connections",
        max_connections,
        &Limits::CONNECTIONS,
        findings,
    );
    one(
        "new_connections_per_s",
        new_connections_per_s,
        &Limits::NEW_CONNECTIONS,
        findings,
    );
    one(
        "control_packets_per_s",
        control_packets_per_s,
        &Limits::CONTROL_PACKETS,
        findings,
    );
}
