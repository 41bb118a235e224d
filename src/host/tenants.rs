//! The rules of `[[tenant]]`: each project once, and nothing in its lists that it could never have.

use super::check::{check_repeated, list, shown};
use super::keys::{List, NetworkTable, TenantTable};
use super::networks::overlap;
use super::problem::{Findings, quoted};
use super::schema::Tenant;
use super::value::did_you_mean;
use super::words::TagName;
use crate::addr::IpNet;
use std::collections::BTreeMap;
use toml::Spanned;

/// Notes what is wrong.
pub fn check(
    tables: &[Spanned<TenantTable>],
    networks: &[Spanned<NetworkTable>],
    tags: &BTreeMap<String, u8>,
    findings: &mut Findings<'_>,
) {
    let networks: Vec<&NetworkTable> = networks.iter().map(Spanned::get_ref).collect();
    for network in &networks {
        let projects = list(&network.projects);
        check_repeated(
            "network.projects",
            projects,
            |name| name.0.clone(),
            findings,
        );
    }
    let own = check_projects(tables, findings);
    for table in tables.iter().map(Spanned::get_ref) {
        let TenantTable {
            project,
            networks: wanted,
            addresses,
            tags: wanted_tags,
        } = table;
        let name = |name: &str| name.to_string();
        check_repeated("tenant.networks", list(wanted), |n| name(&n.0), findings);
        check_repeated(
            "tenant.addresses",
            list(addresses),
            |a| shown(a.0),
            findings,
        );
        check_repeated("tenant.tags", list(wanted_tags), |t| name(&t.0), findings);
        check_tags(list(wanted_tags), tags, findings);
        let Some(project) = project else { continue };
        let project = project.get_ref().0.as_str();
        let open: Vec<&NetworkTable> = networks
            .iter()
            .copied()
            .filter(|network| is_for(network, project, &own))
            .collect();
        check_networks(table, project, &networks, &open, findings);
        check_addresses(table, project, &open, findings);
    }
}

/// Each project once. Returns those that have an entry of their own, and where it is in the text.
fn check_projects<'t>(
    tables: &'t [Spanned<TenantTable>],
    findings: &mut Findings<'_>,
) -> BTreeMap<&'t str, usize> {
    let mut seen = BTreeMap::new();
    for table in tables.iter().map(Spanned::get_ref) {
        let Some(project) = &table.project else {
            continue;
        };
        let name = project.get_ref().0.as_str();
        let start = project.span().start;
        let first = *seen.entry(name).or_insert(start);
        if first != start {
            let line = findings.line_of(first);
            findings.add(
                project.span(),
                format!(
                    "tenant.project: {} has a [[tenant]] already, in line {line}",
                    quoted(name)
                ),
                "put all that it may have into one of them",
            );
        }
    }
    seen
}

/// Whether a network's `projects` lets the project in; of [`Tenant::OTHERS`], whether it lets one in
/// that may have no entry of its own.
fn is_for(network: &NetworkTable, project: &str, own: &BTreeMap<&str, usize>) -> bool {
    if network.projects.is_none() {
        return true;
    }
    list(&network.projects).iter().any(|name| {
        let name = name.get_ref().0.as_str();
        match project {
            Tenant::OTHERS => !own.contains_key(name),
            _ => name == project,
        }
    })
}

fn check_networks(
    table: &TenantTable,
    project: &str,
    networks: &[&NetworkTable],
    open: &[&NetworkTable],
    findings: &mut Findings<'_>,
) {
    if !findings.complete || findings.about("network.name") {
        return;
    }
    let names: Vec<&str> = networks
        .iter()
        .filter_map(|network| name(network))
        .collect();
    let named = |text: &str| list(&table.networks).iter().any(|n| n.get_ref().0 == text);
    // What may be written instead: it lets them in, and is not in the list yet.
    let others = open.iter().filter_map(|network| name(network));
    let others: Vec<&str> = others.filter(|other| !named(other)).collect();
    for wanted in list(&table.networks) {
        let text = wanted.get_ref().0.as_str();
        if !names.contains(&text) {
            let remedy = did_you_mean(text, others.iter().copied());
            findings.add(
                wanted.span(),
                format!(
                    "tenant.networks: {} is not a network of this file",
                    quoted(text)
                ),
                remedy.unwrap_or_else(|| match others.is_empty() {
                    true => "remove it".into(),
                    false => format!("name one of {}", some_of(&others)),
                }),
            );
        } else if !findings.about("network.projects")
            && !open.iter().any(|network| name(network) == Some(text))
        {
            let (clause, who) = match project {
                Tenant::OTHERS => (
                    "names only projects that have a [[tenant]] of their own".into(),
                    "other projects".into(),
                ),
                _ => (
                    format!("does not name {} in its projects", quoted(project)),
                    quoted(project),
                ),
            };
            findings.add(
                wanted.span(),
                format!("tenant.networks: network {} {clause}", quoted(text)),
                format!("add {who} to projects of that network, or remove the network here"),
            );
        }
    }
}

fn name(network: &NetworkTable) -> Option<&str> {
    Some(network.name.as_ref()?.get_ref().0.as_str())
}

/// Each holds an address of one of its networks.
fn check_addresses(
    table: &TenantTable,
    project: &str,
    open: &[&NetworkTable],
    findings: &mut Findings<'_>,
) {
    let spoiled = [
        "network.name",
        "network.gateway",
        "network.projects",
        "tenant.networks",
    ];
    if !findings.complete || spoiled.iter().any(|key| findings.about(key)) {
        return;
    }
    let is_its_own = |network: &&&NetworkTable| {
        let wanted = list(&table.networks);
        table.networks.is_none()
            || wanted
                .iter()
                .any(|wanted| name(network) == Some(&wanted.get_ref().0))
    };
    let prefixes: Vec<IpNet> = open
        .iter()
        .filter(is_its_own)
        .flat_map(|network| list(&network.gateway))
        .map(|gateway| gateway.get_ref().0.trunc())
        .collect();
    for wanted in list(&table.addresses) {
        let net = wanted.get_ref().0;
        if prefixes.iter().any(|prefix| overlap(*prefix, net)) {
            continue;
        }
        let whose = match project {
            Tenant::OTHERS => "these projects".into(),
            _ => format!("project {}", quoted(project)),
        };
        let shown_prefixes: Vec<String> = prefixes.iter().map(IpNet::to_string).collect();
        let shown_prefixes: Vec<&str> = shown_prefixes.iter().map(String::as_str).collect();
        findings.add(
            wanted.span(),
            format!(
                "tenant.addresses: \"{}\" is in no network that {whose} may use",
                shown(net)
            ),
            match prefixes.is_empty() {
                true => "remove it: none of these networks has a gateway".into(),
                false => format!("remove it, or choose from {}", some_of(&shown_prefixes)),
            },
        );
    }
}

fn check_tags(
    wanted: &[Spanned<TagName>],
    tags: &BTreeMap<String, u8>,
    findings: &mut Findings<'_>,
) {
    for tag in wanted {
        let name = tag.get_ref().0.as_str();
        let spoiled = findings.about(&format!("tags.{name}"));
        if !findings.complete || spoiled || tags.contains_key(name) {
            continue;
        }
        let others = tags.keys().map(String::as_str);
        let others = others.filter(|other| wanted.iter().all(|tag| tag.get_ref().0 != *other));
        let remedy = did_you_mean(name, others);
        findings.add(
            tag.span(),
            format!("tenant.tags: {} is not a tag of [tags]", quoted(name)),
            remedy.unwrap_or_else(|| "add it to [tags], with a bit of its own".into()),
        );
    }
}

/// The first of them; nobody chooses from more.
fn some_of(names: &[&str]) -> String {
    const MOST: usize = 8;
    let more = if names.len() > MOST { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(MOST)].join(", "))
}

/// The names in a list, if there is one.
pub fn names<T>(list: &Option<Spanned<List<T>>>, text: fn(&T) -> &String) -> Option<Vec<String>> {
    let list = list.as_ref()?.get_ref().iter();
    Some(list.map(|name| text(name.get_ref()).clone()).collect())
}

/// Entries without a project were noted when they were read.
pub fn resolve(tables: &[Spanned<TenantTable>]) -> Vec<Tenant> {
    let tenant = |table: &Spanned<TenantTable>| {
        let TenantTable {
            project,
            networks,
            addresses,
            tags,
        } = table.get_ref();
        Some(Tenant {
            project: project.as_ref()?.get_ref().0.clone(),
            networks: names(networks, |name| &name.0),
            addresses: addresses.as_ref().map(|_| {
                let addresses = list(addresses).iter();
                addresses.map(|net| net.get_ref().0).collect()
            }),
            tags: names(tags, |name| &name.0),
        })
    };
    tables.iter().filter_map(tenant).collect()
}
