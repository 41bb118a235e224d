//! The rules of `[[vrf]]` and of the routing tables that networks name.

use super::keys::{NetworkTable, VrfTable};
use super::networks::{DeviceNames, name_of, vrf_name};
use super::problem::Findings;
use super::schema::{RouteTable, Vrf};
use crate::addr::IfName;
use std::collections::BTreeMap;
use toml::Spanned;

/// Every VRF that a network names, with its table.
pub fn check_vrfs(
    tables: &[&NetworkTable],
    vrf_tables: &[Spanned<VrfTable>],
    devices: &DeviceNames,
    findings: &mut Findings<'_>,
) -> BTreeMap<IfName, Vrf> {
    let mut declared: BTreeMap<&IfName, Option<u32>> = BTreeMap::new();
    for vrf in vrf_tables.iter().map(Spanned::get_ref) {
        let Some(name) = &vrf.name else { continue };
        if declared.contains_key(name.get_ref()) {
            findings.add(
                name.span(),
                format!("vrf.name: \"{}\" is there twice", name.get_ref()),
                "remove one of them",
            );
            continue;
        }
        let used = tables
            .iter()
            .any(|table| vrf_name(table) == Some(name.get_ref()));
        if !used && findings.complete && !findings.about("network.vrf") {
            findings.add(
                name.span(),
                format!("vrf.name: no network belongs to \"{}\"", name.get_ref()),
                format!(
                    "add vrf = \"{}\" to a network, or remove this [[vrf]]",
                    name.get_ref()
                ),
            );
        }
        if let Some(table) = &vrf.table
            && (253..=255).contains(&table.get_ref().0)
        {
            findings.add(
                table.span(),
                format!(
                    "vrf.table: {} is a table that every host has already",
                    table.get_ref().0
                ),
                "choose a number other than 253, 254 and 255",
            );
        }
        declared.insert(
            name.get_ref(),
            vrf.table.as_ref().map(|table| table.get_ref().get()),
        );
    }
    let mut vrfs: BTreeMap<IfName, Vrf> = BTreeMap::new();
    let mut by_number: BTreeMap<u32, IfName> = BTreeMap::new();
    for table in tables {
        let Some(vrf) = &table.vrf else { continue };
        let name = vrf.get_ref();
        if vrfs.contains_key(name) {
            continue;
        }
        if let Some(owner) = devices.owners.get(name) {
            findings.add(
                vrf.span(),
                format!("network.vrf: \"{name}\" is already the {owner}"),
                "give every device a name of its own",
            );
        }
        let members = tables.iter().filter(|other| vrf_name(other) == Some(name));
        let lowest = members
            .filter_map(|member| member.vni.as_ref())
            .map(|vni| vni.get_ref().get())
            .min();
        let number = match declared.get(name) {
            Some(Some(number)) => *number,
            _ => match lowest {
                Some(vni) => 1000 + vni,
                None => continue,
            },
        };
        if let Some(other) = by_number.get(&number) {
            findings.add(
                vrf.span(),
                format!("network.vrf: \"{name}\" would have routing table {number}, which VRF \"{other}\" has"),
                format!("add [[vrf]] with name = \"{name}\" and a table of its own"),
            );
        }
        by_number.entry(number).or_insert_with(|| name.clone());
        vrfs.insert(
            name.clone(),
            Vrf {
                name: name.clone(),
                table: number,
            },
        );
    }
    vrfs
}

/// Host routes only go to tables that are theirs.
pub fn check_host_routes(
    tables: &[&NetworkTable],
    vrfs: &BTreeMap<IfName, Vrf>,
    findings: &mut Findings<'_>,
) {
    for table in tables {
        let Some(routes) = &table.host_routes else {
            continue;
        };
        match routes.get_ref().0 {
            RouteTable::Main => {}
            RouteTable::Vrf if table.vrf.is_some() => {}
            RouteTable::Vrf => findings.add(
                routes.span(),
                format!(
                    "network.host_routes: \"vrf\", but {} is in no VRF",
                    name_of(table)
                ),
                "add vrf = \"…\" to the network, or write \"main\"",
            ),
            RouteTable::Number(number) => {
                let Some(vrf) = vrfs.values().find(|vrf| vrf.table == number) else {
                    continue;
                };
                let (name, own) = (&vrf.name, vrf_name(table) == Some(&vrf.name));
                findings.add(
                    routes.span(),
                    format!("network.host_routes: {number} is the table of VRF \"{name}\""),
                    match own {
                        true => "write \"vrf\"".to_string(),
                        false => format!("add vrf = \"{name}\" to the network and write \"vrf\", or choose another table"),
                    },
                );
            }
        }
    }
}
