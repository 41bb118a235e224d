//! Keys that look like ours and are none: what was meant by one, and what it costs. Whoever misspells
//! `acls` may have meant to forbid something; what was to be forbidden then is not allowed.

use crate::lxd::{NotOurs, Program, Stray, Unknown, keys};
use crate::policy::{Direction, NAMED};
use crate::text::{self, NAME};

/// What may have been meant by an unknown key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meant {
    /// The nearest key that is known, without what all begin with.
    pub nearest: Option<&'static str>,
    /// It may have been meant to forbid something to the NIC, or from it.
    pub closes: [bool; 2],
    /// It may have been meant to end an audit.
    pub ends_audit: bool,
}

/// Words that are none of our keys and that others use for the same.
const OTHERS: [(&str, &str); 9] = [
    ("ipv4", "ipv4.address"),
    ("ipv6", "ipv6.address"),
    ("network", "parent"),
    ("bridge", "parent"),
    ("security.acls", "acls"),
    ("ingress", "in_services"),
    ("egress", "out_services"),
    ("services.in", "in_services"),
    ("services.out", "out_services"),
];

/// What may have been meant by a key, given without what all begin with (`acl`). The rule:
///
/// - near `acls`: both directions are closed; near `in_services` or `out_services`, that one;
/// - near another key that is known, or one of the limits: nothing is closed, since none of these forbids
///   traffic;
/// - near none: both are closed, or the one that its first or last part names.
///
/// If it is near several, what each of them closes is closed.
pub fn meant(rest: &str) -> Meant {
    let whole = rest.to_ascii_lowercase();
    // Whoever has several of something may number them: `acls.10`.
    let plain = whole
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches(SEPARATORS);
    let mut near: Vec<&'static str> = near_to(&whole);
    if near.is_empty() {
        near = near_to(plain);
    }
    let mut meant = Meant {
        nearest: near.first().copied(),
        ..Meant::default()
    };
    for key in &near {
        let [inward, outward] = closed_by(key);
        meant.closes[0] |= inward;
        meant.closes[1] |= outward;
        meant.ends_audit |= *key == "audit";
    }
    let is_a_limit = plain
        .split(SEPARATORS)
        .next()
        .is_some_and(|first| ["limits", "limit"].contains(&first));
    if near.is_empty() && !is_a_limit {
        meant.closes = directions(plain);
    }
    meant
}

const SEPARATORS: [char; 5] = ['.', '_', '-', ' ', ':'];

/// Known keys that it is near, the nearest first.
fn near_to(plain: &str) -> Vec<&'static str> {
    let other = OTHERS.iter().find(|(word, _)| *word == plain);
    if let Some((_, key)) = other {
        return vec![key];
    }
    // Others have no such length.
    if plain.len() > NAME {
        return Vec::new();
    }
    let all = keys::OF_DEVICES.iter().chain(&keys::OF_BOTH);
    let most = 2.min(plain.len() / 2);
    let mut near: Vec<(usize, &'static str)> = all
        .map(|key| (strsim::damerau_levenshtein(key, plain), *key))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    near.sort();
    near.into_iter().map(|(_, key)| key).collect()
}

/// What a known key forbids, or what lists itself what is allowed: inward and outward.
fn closed_by(key: &str) -> [bool; 2] {
    match key {
        "acls" => [true, true],
        "in_services" => [true, false],
        "out_services" => [false, true],
        _ => [false, false],
    }
}

/// The direction that the first or the last part of a key names, if no part names the other one; else both.
fn directions(plain: &str) -> [bool; 2] {
    if plain.ends_with(text::CUT) {
        return [true, true];
    }
    const IN: [&str; 4] = ["in", "ingress", "inbound", "inward"];
    const OUT: [&str; 4] = ["out", "egress", "outbound", "outward"];
    let parts: Vec<&str> = plain.split(SEPARATORS).collect();
    let ends = [parts.first(), parts.last()];
    let names = |words: &[&str]| {
        let mut ends = ends.iter().flatten();
        ends.any(|part| words.contains(part))
    };
    let has = |words: &[&str]| parts.iter().any(|part| words.contains(part));
    match (names(&IN) && !has(&OUT), names(&OUT) && !has(&IN)) {
        (true, false) => [true, false],
        (false, true) => [false, true],
        _ => [true, true],
    }
}

/// What all unknown keys of a NIC cost together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    closes: [bool; 2],
    pub ends_audit: bool,
}

impl Cost {
    /// Of those of its device and of its instance.
    pub fn of(unknown: [&Unknown; 2]) -> Self {
        let mut cost = Cost::default();
        for Unknown { keys, more } in unknown {
            let all = keys.iter().map(|key| meant(rest(key)));
            for meant in all {
                cost.closes[0] |= meant.closes[0];
                cost.closes[1] |= meant.closes[1];
                cost.ends_audit |= meant.ends_audit;
            }
            // What those are that were not kept is not known.
            if *more > 0 {
                cost.closes = [true, true];
            }
        }
        cost
    }

    pub fn closes(&self, direction: Direction) -> bool {
        self.closes[match direction {
            Direction::In => 0,
            Direction::Out => 1,
        }]
    }
}

fn rest(key: &str) -> &str {
    keys::rest_of(key).unwrap_or(key)
}

/// Where keys stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Device,
    Instance,
}

/// A sentence about each unknown key, so many of them at most, and one about the others. `attached` is false
/// where there is no NIC of ours that it could cost anything.
pub fn problems(unknown: &Unknown, place: Place, attached: bool) -> Vec<String> {
    let Unknown { keys, more } = unknown;
    let sentence = |key: &String| {
        let shown = text::shown(key, 2 * NAME);
        let place = match place {
            Place::Device => "",
            Place::Instance => " in the instance's configuration",
        };
        let meant = meant(rest(key));
        let remedy = match meant.nearest {
            Some(key) if place.is_empty() || !keys::OF_DEVICES.contains(&key) => {
                format!("did you mean {}{key}?", keys::PREFIX)
            }
            Some(key) => format!("did you mean {}{key}, on the device?", keys::PREFIX),
            None => {
                let known = keys::OF_BOTH.iter();
                let known: Vec<&str> = match place.is_empty() {
                    true => keys::OF_DEVICES.iter().chain(known).copied().collect(),
                    false => known.copied().collect(),
                };
                format!("{}* are: {}", keys::PREFIX, known.join(", "))
            }
        };
        let cost = match (attached, meant.closes) {
            (false, _) | (_, [false, false]) if meant.ends_audit && attached => {
                " As it may have been meant to end an audit, there is none; correct or remove it"
            }
            (false, _) | (_, [false, false]) => " It has no effect; correct or remove it",
            (true, [true, true]) => {
                " As it may have been meant to forbid something, nothing is allowed to or from this NIC until it is corrected or removed"
            }
            (true, [true, false]) => {
                " As it may have been meant to forbid something, nothing is allowed to this NIC until it is corrected or removed"
            }
            (true, [false, true]) => {
                " As it may have been meant to forbid something, nothing is allowed from this NIC until it is corrected or removed"
            }
        };
        let stop = if remedy.ends_with('?') { "" } else { "." };
        format!("{shown}{place} is not a key of LXMesh; {remedy}{stop}{cost}")
    };
    let mut told: Vec<String> = keys.iter().take(NAMED).map(sentence).collect();
    let more = keys.len().saturating_sub(NAMED) + more;
    if more > 0 {
        let place = match place {
            Place::Device => "",
            Place::Instance => " in the instance's configuration",
        };
        told.push(format!(
            "{more} more keys{place} are none of LXMesh's either"
        ));
    }
    told
}

/// A sentence about keys of an instance that only a device has.
pub fn misplaced(keys: &[&str], program: Program) -> Option<String> {
    if keys.is_empty() {
        return None;
    }
    let names: Vec<String> = keys
        .iter()
        .map(|key| format!("{}{key}", keys::PREFIX))
        .collect();
    Some(format!(
        "{} in the instance's configuration has no effect; set it on the device ({} config device set INSTANCE DEVICE KEY=VALUE, or in the profile's device), and remove it there",
        names.join(" and "),
        program.name()
    ))
}

/// A sentence about a device that is not ours, and what else is wrong with its keys.
pub fn stray(stray: &Stray) -> Vec<String> {
    let Stray {
        device: _,
        why,
        keys,
        unknown,
    } = stray;
    let names: Vec<String> = keys
        .iter()
        .map(|key| format!("{}{key}", keys::PREFIX))
        .collect();
    let have = match names.len() {
        1 => format!("{} has", names[0]),
        _ => format!("{} have", names.join(", ")),
    };
    let mut told = Vec::new();
    if !keys.is_empty() {
        told.push(match why {
            NotOurs::NoNic => format!("{have} no effect on a device that is no NIC; remove what is meant for another device"),
            NotOurs::NotP2p(kind) => {
                let kind = match kind.as_str() {
                    "" => "belongs to a network of the server's own".to_string(),
                    kind => format!("is of nictype={kind}"),
                };
                format!("{have} no effect, because the NIC {kind}; LXMesh connects NICs of nictype=p2p only: make it one, or remove the keys")
            }
            NotOurs::NoParent => format!("{have} no effect without {}parent, which names the network; set it on the device", keys::PREFIX),
        });
    }
    told.extend(problems(unknown, Place::Device, false));
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_meant_to_forbid_closes_and_nothing_else() {
        let (both, inward, outward, none) =
            ([true, true], [true, false], [false, true], [false, false]);
        for (key, nearest, closes) in [
            // Near what forbids, or lists what is allowed.
            ("acl", Some("acls"), both),
            ("ACLS", Some("acls"), both),
            ("aclss", Some("acls"), both),
            ("acls.1", Some("acls"), both),
            ("acls2", Some("acls"), both),
            ("acls.10", Some("acls"), both),
            ("acls", Some("acls"), both),
            ("security.acls", Some("acls"), both),
            ("in_service", Some("in_services"), inward),
            ("in-services", Some("in_services"), inward),
            ("in_services.0", Some("in_services"), inward),
            ("ingress", Some("in_services"), inward),
            ("out_service", Some("out_services"), outward),
            ("outservices", Some("out_services"), outward),
            // Near what forbids nothing.
            ("ipv4_address", Some("ipv4.address"), none),
            ("ipv4.adress", Some("ipv4.address"), none),
            ("ipv4", Some("ipv4.address"), none),
            ("ipv6.address2", Some("ipv6.address"), none),
            ("parnet", Some("parent"), none),
            ("network", Some("parent"), none),
            ("log_drop", Some("log_drops"), none),
            ("tag", Some("tags"), none),
            ("limits.bandwidth", None, none),
            ("limit.connections", Some("limits.connections"), none),
            ("limits.conections", Some("limits.connections"), none),
            ("limits", None, none),
            // Nobody knows.
            ("", None, both),
            ("1", None, both),
            ("deny", None, both),
            ("firewall", None, both),
            ("limitless", None, both),
            ("ipv4.deny", None, both),
            ("ipv4.acls", None, both),
            ("deny.in", None, inward),
            ("in.deny", None, inward),
            ("egress_deny", None, outward),
            ("deny.in.and.out", None, both),
            ("in_or_out", None, both),
            ("block.in.all", None, both),
            ("x", None, both),
        ] {
            let found = meant(key);
            assert_eq!((found.nearest, found.closes), (nearest, closes), "{key}");
        }
        assert!(meant("audti").ends_audit && meant("audit.1").ends_audit);
        assert_eq!(meant("audti").closes, none);
        // What is too long to be kept whole may have named the other one.
        let long = text::kept(&"in.".repeat(100), NAME);
        assert_eq!(meant(&long).closes, both);
    }

    /// Two letters may be wrong; what is near several keys closes what any of them would.
    #[test]
    fn what_is_near_several_keys_closes_for_each() {
        let found = meant("tacs");
        assert_eq!((found.nearest, found.closes), (Some("tags"), [true, true]));
        assert_eq!(near_to("tacs"), ["tags", "acls"]);
    }

    #[test]
    fn each_known_key_says_what_it_forbids() {
        let closing: Vec<&str> = keys::OF_DEVICES
            .iter()
            .chain(&keys::OF_BOTH)
            .filter(|key| closed_by(key) != [false, false])
            .copied()
            .collect();
        assert_eq!(closing, ["in_services", "out_services", "acls"]);
        for limit in crate::lxd::inventory::LIMITS {
            assert!(keys::OF_BOTH.contains(&format!("limits.{limit}").as_str()));
        }
    }

    #[test]
    fn so_many_are_named_and_all_of_them_count() {
        let mut unknown = Unknown::default();
        assert_eq!(Cost::of([&unknown, &unknown]), Cost::default());
        unknown.keys = (0..30)
            .map(|n| format!("user.lxmesh.limits.x{n:02}"))
            .collect();
        assert_eq!(Cost::of([&unknown, &Unknown::default()]), Cost::default());
        let told = problems(&unknown, Place::Device, true);
        assert_eq!(told.len(), NAMED + 1);
        assert_eq!(told[NAMED], "22 more keys are none of LXMesh's either");
        unknown.more = 5;
        let cost = Cost::of([&Unknown::default(), &unknown]);
        assert!(cost.closes(Direction::In) && cost.closes(Direction::Out));
        // The last of many is not told, and counts.
        unknown.more = 0;
        unknown.keys.insert("user.lxmesh.zacl.in".into());
        let cost = Cost::of([&unknown, &Unknown::default()]);
        assert!(cost.closes(Direction::In) && !cost.closes(Direction::Out));
    }

    #[test]
    fn what_is_told_of_a_key_is_true_where_it_stands() {
        let one = |key: &str, place, attached| {
            let unknown = Unknown {
                keys: [key.to_string()].into(),
                more: 0,
            };
            problems(&unknown, place, attached).remove(0)
        };
        for (key, place, attached, wanted) in [
            (
                "user.lxmesh.acl",
                Place::Device,
                true,
                "user.lxmesh.acl is not a key of LXMesh; did you mean user.lxmesh.acls? As it may have been meant to forbid something, nothing is allowed to or from this NIC until it is corrected or removed",
            ),
            (
                "user.lxmesh.acl",
                Place::Device,
                false,
                "user.lxmesh.acl is not a key of LXMesh; did you mean user.lxmesh.acls? It has no effect; correct or remove it",
            ),
            (
                "user.lxmesh_acls",
                Place::Instance,
                true,
                "user.lxmesh_acls in the instance's configuration is not a key of LXMesh; did you mean user.lxmesh.acls? As it may have been meant to forbid something, nothing is allowed to or from this NIC until it is corrected or removed",
            ),
            (
                "user.lxmesh.in_service",
                Place::Device,
                true,
                "user.lxmesh.in_service is not a key of LXMesh; did you mean user.lxmesh.in_services? As it may have been meant to forbid something, nothing is allowed to this NIC until it is corrected or removed",
            ),
            (
                "user.lxmesh.ipv4_address",
                Place::Instance,
                true,
                "user.lxmesh.ipv4_address in the instance's configuration is not a key of LXMesh; did you mean user.lxmesh.ipv4.address, on the device? It has no effect; correct or remove it",
            ),
            (
                "user.lxmesh.audti",
                Place::Device,
                true,
                "user.lxmesh.audti is not a key of LXMesh; did you mean user.lxmesh.audit? As it may have been meant to end an audit, there is none; correct or remove it",
            ),
            (
                "user.lxmesh.limits.bandwidth",
                Place::Instance,
                true,
                "user.lxmesh.limits.bandwidth in the instance's configuration is not a key of LXMesh; user.lxmesh.* are: in_services, out_services, tags, acls, audit, log_drops, limits.connections, limits.new_connections, limits.control_packets, limits.multicast_groups. It has no effect; correct or remove it",
            ),
        ] {
            assert_eq!(one(key, place, attached), wanted);
        }
        let odd = one(
            &format!("user.lxmesh.\u{1b}[2J{}", "x".repeat(255)),
            Place::Device,
            true,
        );
        assert!(
            odd.contains("\\u{1b}[2J") && odd.chars().count() < text::SENTENCE,
            "{odd}"
        );
    }
}
