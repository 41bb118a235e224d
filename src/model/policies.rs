//! A NIC's policy from everything that says something of it: the network's services in the host
//! file, its own service lists, LXD's access lists. Whatever is wrong costs as little as it safely
//! can, and is said.

use super::acl;
use super::nic::unknown::Cost;
use crate::addr::IpAddr;
use crate::host::{Denied, Limits};
use crate::lxd::{Acls, LxdNic, Program};
use crate::policy::{self, Compiled, Direction, Rule, Surroundings, parse_services};
use crate::text::{self, MAX_WORDS, NAME};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What says something of one NIC's policy.
pub struct Words<'a> {
    pub around: Surroundings<'a>,
    pub raw: &'a LxdNic,
    /// The access lists that there are.
    pub there: &'a Acls,
    /// There may be others, which cannot be read.
    pub unread: bool,
    /// Its addresses.
    pub own: &'a [IpAddr],
    /// What keys that are not known cost it.
    pub unknown: Cost,
    /// By which people talk to the server.
    pub program: Program,
}

impl Words<'_> {
    /// Inward and outward; and false if something was not understood that may forbid.
    pub fn policies(&self, mut complain: impl FnMut(String)) -> ([Arc<Compiled>; 2], bool) {
        let too_many = self.raw.has_too_many_acls();
        if too_many {
            complain(format!(
                "user.lxmesh.acls: a list has at most {MAX_WORDS} entries, and one that is left out may forbid something, so nothing is allowed to or from this NIC; shorten the list"
            ));
        }
        let missing: BTreeSet<&str> = self
            .raw
            .acl_names()
            .filter(|name| !self.there.contains_key(*name))
            .collect();
        for name in missing.iter().take(policy::NAMED) {
            let shown = text::shown(name, NAME);
            complain(match self.unread {
                false => format!(
                    "user.lxmesh.acls: \"{shown}\" is not a network ACL of the instance's project, so nothing is allowed to or from this NIC; create it ({} network acl create) or remove the name",
                    self.program.name()
                ),
                true => format!(
                    "user.lxmesh.acls: \"{shown}\" is not known, because the network ACLs of the instance's project cannot be read, so nothing is allowed to or from this NIC until they can be"
                ),
            });
        }
        if let Some(more @ 1..) = missing.len().checked_sub(policy::NAMED) {
            complain(format!(
                "user.lxmesh.acls: {more} more names are of no network ACL that is known either"
            ));
        }
        let mut understood = true;
        let both = [Direction::In, Direction::Out].map(|direction| {
            let mut rules = self.services(direction, &mut complain);
            let whole = self.acls(direction, &mut rules, &mut complain);
            let unknown = self.unknown.closes(direction);
            let closed = !whole || too_many || !missing.is_empty() || unknown;
            if closed {
                understood = false;
                // What is not understood might forbid any of it.
                return Arc::default();
            }
            let (compiled, problem) = policy::compile(direction, rules);
            if let Some(problem) = problem {
                complain(format!("user.lxmesh.{}: {problem}", key(direction)));
            }
            Arc::new(compiled)
        });
        (both, understood)
    }

    /// What becomes of what is denied. Whoever is not understood is not let pass: a policy that
    /// is not `understood` as a whole is never only watched.
    pub fn denied(&self, understood: bool, mut complain: impl FnMut(String)) -> Denied {
        let of_network = self.around.network.denied;
        let mut says = |key: &str, text: &Option<String>, of_network: bool, unknown: bool| {
            let Some(text) = text else { return of_network };
            match text.trim() {
                "true" => true,
                "false" => false,
                _ => {
                    let shown = text::shown(text, NAME);
                    complain(format!(
                        "user.lxmesh.{key}=\"{shown}\" is neither true nor false; {unknown} applies"
                    ));
                    unknown
                }
            }
        };
        let wanted = Denied {
            audit: says("audit", &self.raw.audit, of_network.audit, false),
            log: says("log_drops", &self.raw.log_drops, of_network.log, true),
        };
        if wanted.audit && !understood {
            complain(
                "audit does not apply, and nothing passes, as long as its ACLs or keys are not understood"
                    .into(),
            );
        }
        Denied {
            audit: wanted.audit && understood && !self.unknown.ends_audit,
            ..wanted
        }
    }

    /// Its own limits, and the network's where it has none or a wrong one.
    pub fn limits(&self, mut complain: impl FnMut(String)) -> Limits {
        let mut limits = self.around.network.limits.clone();
        let Limits {
            connections,
            new_connections,
            control_packets,
            multicast_groups,
        } = &mut limits;
        for (name, text) in &self.raw.limits {
            let (limit, known): (&mut u32, &[u32]) = match *name {
                "connections" => (&mut *connections, &Limits::CONNECTIONS),
                "new_connections" => (&mut *new_connections, &Limits::NEW_CONNECTIONS),
                "control_packets" => (&mut *control_packets, &Limits::CONTROL_PACKETS),
                _ => (&mut *multicast_groups, &[]),
            };
            let read = text.trim().parse().ok().filter(|number| match known {
                [] => (1..=Limits::MULTICAST_GROUPS).contains(number),
                known => known.contains(number),
            });
            if let Some(number) = read {
                *limit = number;
                continue;
            }
            let known: Vec<String> = known.iter().map(u32::to_string).collect();
            let wanted = match known.len() {
                0 => format!("a number from 1 to {}", Limits::MULTICAST_GROUPS),
                _ => format!("one of {}", known.join(", ")),
            };
            let shown = text::shown(text, NAME);
            complain(format!(
                "user.lxmesh.limits.{name}=\"{shown}\" is not a limit; write {wanted}. The network's, {limit}, applies"
            ));
        }
        limits
    }

    fn services(&self, direction: Direction, complain: &mut impl FnMut(String)) -> Vec<Rule> {
        let Words { around, raw, .. } = self;
        let key = key(direction);
        let (of_network, list) = match direction {
            Direction::In => (&around.network.in_services, &raw.in_services),
            Direction::Out => (&around.network.out_services, &raw.out_services),
        };
        let mut rules: Vec<Rule> = Vec::new();
        for service in of_network {
            let origin = format!("{key} of network {}: {service}", around.network.name).into();
            // The host file's check has seen to it that none is refused.
            let made = around.rules(service, direction, &origin);
            rules.extend(made.into_iter().flatten());
        }
        let (own, errors) = parse_services(list);
        for error in errors {
            complain(format!("user.lxmesh.{key}: {error}"));
        }
        for service in own {
            let origin = format!("user.lxmesh.{key}: {service}").into();
            match around.rules(&service, direction, &origin) {
                Ok(made) => rules.extend(made),
                Err(why) => complain(format!("user.lxmesh.{key}: \"{service}\" {why}")),
            }
        }
        rules
    }

    /// Adds the rules of the access lists. False if one that may drop could not be expressed.
    fn acls(
        &self,
        direction: Direction,
        rules: &mut Vec<Rule>,
        complain: &mut impl FnMut(String),
    ) -> bool {
        let mut whole = true;
        for acl in self.raw.acl_names().filter_map(|name| self.there.get(name)) {
            let (side, list) = match direction {
                Direction::In => ("ingress", &acl.ingress),
                Direction::Out => ("egress", &acl.egress),
            };
            for (index, rule) in list.iter().enumerate() {
                let name = text::shown(&acl.name, NAME);
                let number = index + 1;
                let rule = match rule {
                    Ok(rule) => rule,
                    Err(why) => {
                        whole = false;
                        complain(format!(
                            "user.lxmesh.acls: ACL \"{name}\", rule {number} of {side} cannot be understood ({why}); as it may forbid something, {side} is closed"
                        ));
                        continue;
                    }
                };
                let action = text::shown(&rule.action, NAME);
                let origin = format!("ACL {name} {side} rule {number} ({action})");
                let place = format!("user.lxmesh.acls: ACL \"{name}\", rule {number} of {side}");
                if rule.state == "logged" {
                    complain(format!(
                        "{place} is in force, but nothing is logged: LXMesh keeps no log of packets; set its state to enabled"
                    ));
                }
                match acl::rules(rule, direction, self.own, &origin.into()) {
                    Ok(made) => rules.extend(made),
                    Err(why) if acl::may_drop(rule) => {
                        whole = false;
                        complain(format!(
                            "{place} {why}; as it may forbid something, {side} is closed"
                        ));
                    }
                    Err(why) => complain(format!("{place} {why}; the rule allows nothing")),
                }
            }
        }
        whole
    }
}

fn key(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in_services",
        Direction::Out => "out_services",
    }
}
