//! The rules of `[[router]]`, and of the networks whose host routes routers are told of.

use super::check::{check_repeated, list, reserved_asn};
use super::keys::{FabricTable, NetworkTable, RouterTable};
use super::mtu::Esp;
use super::networks::name_of;
use super::problem::Findings;
use super::schema::{RouteTable, Router};
use crate::addr::IpNet;
use toml::Spanned;

/// FRR names a table to announce from in 16 bits.
const LAST_TABLE: u32 = 65535;

/// Notes what is wrong.
pub fn check_routers(
    routers: &[Spanned<RouterTable>],
    networks: &[Spanned<NetworkTable>],
    fabric: &FabricTable,
    esp: Esp,
    findings: &mut Findings<'_>,
) {
    let announced = |network: &&Spanned<NetworkTable>| {
        let announce = network.get_ref().announce.as_ref();
        announce.is_some_and(|on| *on.get_ref())
    };
    let heard = networks.iter().any(|network| announced(&network));
    for network in networks.iter().filter(announced) {
        check_announced(network.get_ref(), routers.is_empty(), findings);
    }
    for router in routers {
        if !heard && findings.complete && !findings.about("network.announce") {
            findings.add(
                router.span(),
                "router: no network tells routers of its host routes",
                "add announce = true and host_routes to a network, or remove this [[router]]",
            );
        }
        check_router(router.get_ref(), fabric, esp, findings);
    }
    let addresses: Vec<_> = routers
        .iter()
        .filter_map(|router| router.get_ref().address.clone())
        .collect();
    check_repeated("router.address", &addresses, |address| address.0, findings);
}

fn check_router(router: &RouterTable, fabric: &FabricTable, esp: Esp, findings: &mut Findings<'_>) {
    let RouterTable { address, asn } = router;
    if let Some(asn) = asn
        && let Some(reason) = reserved_asn(asn.get_ref().0)
    {
        findings.add(
            asn.span(),
            format!("router.asn: {} is {reason}", asn.get_ref().0),
            "write the number that the router has",
        );
    }
    let Some(address) = address else { return };
    let own = address.get_ref().0;
    let supervisors = || list(&fabric.supervisors).iter().map(|net| net.get_ref().0);
    let reflector = list(&fabric.reflectors)
        .iter()
        .any(|other| other.get_ref().0 == own);
    if reflector || supervisors().any(|net| net == IpNet::from(own)) {
        findings.add(
            address.span(),
            format!("router.address: \"{own}\" is a host of the fabric"),
            "name routers outside of it: hosts of the fabric need no host routes",
        );
    } else if let Some(net) = supervisors().find(|net| esp != Esp::None && net.contains(&own)) {
        findings.add(
            address.span(),
            format!("router.address: \"{own}\" lies in \"{net}\", whose hosts BGP reaches by IPsec only"),
            "use an address of the router outside of it, or list the supervisors in smaller prefixes",
        );
    }
}

/// A network whose host routes routers are told of has some, in a table that FRR can look into.
fn check_announced(network: &NetworkTable, nobody: bool, findings: &mut Findings<'_>) {
    let Some(announce) = &network.announce else {
        return;
    };
    let name = name_of(network);
    if nobody && findings.complete && !findings.about("router") {
        findings.add(
            announce.span(),
            format!("network.announce: true for {name}, but there is no router to tell"),
            "add [[router]] with an address, or remove announce",
        );
    }
    let Some(routes) = &network.host_routes else {
        if findings.lacks("network.host_routes", &network.host_routes) {
            findings.add(
                announce.span(),
                format!("network.announce: true, but {name} has no host routes"),
                "add host_routes = \"main\" to the network, or remove announce",
            );
        }
        return;
    };
    match routes.get_ref().0 {
        RouteTable::Vrf => findings.add(
            announce.span(),
            format!("network.announce: the host routes of {name} are in a VRF, which routers outside are not part of"),
            "write host_routes = \"main\" or a table's number, or remove announce",
        ),
        RouteTable::Number(number) if number > LAST_TABLE => findings.add(
            routes.span(),
            format!("network.host_routes: {number}, but FRR announces from tables up to {LAST_TABLE} only"),
            "choose a smaller number, or \"main\"",
        ),
        RouteTable::Main | RouteTable::Number(_) => {}
    }
}

/// Routers with what follows from the fabric. Those that lack something were complained about.
pub fn resolve(routers: &[Spanned<RouterTable>], asn: u32) -> Vec<Router> {
    let of_one = |router: &Spanned<RouterTable>| {
        let RouterTable { address, asn: own } = router.get_ref();
        Some(Router {
            address: address.as_ref()?.get_ref().0,
            asn: own.as_ref().map_or(asn, |own| own.get_ref().get()),
        })
    };
    routers.iter().filter_map(of_one).collect()
}
