//! Which instances are this server's. In a cluster, every member tells of the instances of all members,
//! each with its location. Pure.
//!
//! A member may be renamed, and a server may join a cluster or leave it, at any time. The server changes
//! its database first and its own name a moment later (`clusterNodePost` of LXD and Incus), so that what it
//! says of itself and of its instances may disagree.

use super::inventory::InstanceId;
use super::wire::{Environment, Location, NOT_CLUSTERED};
use crate::text;
use std::collections::{BTreeMap, BTreeSet};

/// Longest name of a member, bytes: LXD takes the host's name (`HOST_NAME_MAX` of limits.h is 64), and
/// sets no limit to others.
const MAX_MEMBER: usize = 253;
/// So many members of a cluster are counted.
const MAX_MEMBERS: usize = 10_000;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub clustered: bool,
    /// The member's name in a cluster, else the host's.
    pub name: String,
}

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Here,
    /// On the member of that name.
    Elsewhere(String),
    /// Why it cannot be said.
    Unknown(String),
}

impl Identity {
    /// What is missing or no name is an error: everything else depends on it.
    pub fn of(environment: &Environment) -> Result<Self, String> {
        let clustered = environment
            .server_clustered
            .ok_or("server_clustered is missing or neither true nor false")?;
        let name = environment
            .server_name
            .as_deref()
            .ok_or("server_name is missing or no text")?;
        if clustered && !text::is_name(name, MAX_MEMBER) {
            let shown = text::shown(name, text::NAME);
            return Err(format!("server_name {shown:?} cannot be a name"));
        }
        Ok(Identity {
            clustered,
            name: text::kept(name, MAX_MEMBER),
        })
    }

    pub fn place(&self, location: &Location) -> Place {
        match location {
            Location::Named(name) if *name == self.name => Place::Here,
            Location::Named(name) if name == NOT_CLUSTERED && !self.clustered => Place::Here,
            // It has just joined one, or left it; or a member has that name.
            Location::Named(name) if name == NOT_CLUSTERED => {
                Place::Unknown("it is said to be in no cluster, and the server to be in one".into())
            }
            Location::Named(name) if self.clustered && text::is_name(name, MAX_MEMBER) => {
                Place::Elsewhere(name.clone())
            }
            Location::Absent if !self.clustered => Place::Here,
            Location::Named(name) if !self.clustered => Place::Unknown(format!(
                "it is on member {}, and the server says that it is in no cluster",
                text::shown(name, text::NAME)
            )),
            Location::Named(_) | Location::Odd => {
                Place::Unknown("its location cannot be the name of a member".into())
            }
            Location::Absent => {
                Place::Unknown("it does not say on which member of the cluster it is".into())
            }
        }
    }
}

/// Names of a cluster's members, from what `GET /1.0/cluster/members` lists.
pub fn members(urls: &[String]) -> BTreeSet<String> {
    let names = urls.iter().take(MAX_MEMBERS).filter_map(|url| {
        let (_, name) = url.rsplit_once('/')?;
        let name = unescape(name.split('?').next()?);
        (!name.is_empty()).then_some(name)
    });
    names.collect()
}

/// Undoes percent-encoding (RFC 3986 section 2.1).
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after
            .get(..2)
            .filter(|two| two.iter().all(u8::is_ascii_hexdigit))
            .and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match (*first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The cluster, as of one listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The name of this member.
    pub member: String,
    pub members: usize,
    /// Instances of other members.
    pub elsewhere: usize,
}

/// Instances of other members, by member. Nobody keeps them for longer than a listing is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elsewhere {
    by_member: BTreeMap<String, Vec<InstanceId>>,
    /// Those whose project or name cannot be read.
    nameless: usize,
}

impl Elsewhere {
    pub(crate) fn add(&mut self, member: String, id: Option<InstanceId>) {
        let of_member = self.by_member.entry(member).or_default();
        match id {
            Some(id) => of_member.push(id),
            None => self.nameless += 1,
        }
    }

    /// Takes out those of members that are none, by what was said of them.
    pub(super) fn take_strangers(
        &mut self,
        members: &BTreeSet<String>,
    ) -> BTreeMap<String, Vec<InstanceId>> {
        let all = std::mem::take(&mut self.by_member).into_iter();
        let (ours, strangers) = all.partition(|(member, _)| members.contains(member));
        self.by_member = ours;
        strangers
    }

    /// Leaves out these.
    pub(super) fn forget(&mut self, ids: &BTreeSet<InstanceId>) {
        for of_member in self.by_member.values_mut() {
            of_member.retain(|id| !ids.contains(id));
        }
    }

    pub fn count(&self) -> usize {
        self.by_member.values().map(Vec::len).sum::<usize>() + self.nameless
    }

    pub fn ids(&self) -> impl Iterator<Item = &InstanceId> {
        self.by_member.values().flatten()
    }

    /// The instance that a text means, and its member: INSTANCE, PROJECT/INSTANCE, or either with /DEVICE
    /// behind it.
    pub fn named(&self, text: &str) -> Option<(&InstanceId, &str)> {
        let means = |id: &InstanceId| {
            let names = [id.to_string(), format!("{}/{}", id.project, id.name)];
            names.iter().any(|name| {
                let rest = text.strip_prefix(name.as_str());
                rest.is_some_and(|rest| {
                    rest.is_empty()
                        || rest
                            .strip_prefix('/')
                            .is_some_and(|device| !device.contains('/'))
                })
            })
        };
        let mut all = self.by_member.iter();
        all.find_map(|(member, ids)| {
            let id = ids.iter().find(|id| means(id))?;
            Some((id, member.as_str()))
        })
    }

    /// A sentence about the instance that a text means, if it is one of these.
    pub fn about(&self, name: &str) -> Option<String> {
        let (id, member) = self.named(name)?;
        let member = text::shown(member, text::NAME);
        Some(format!(
            "instance {id} is on member {member} of the cluster, and the agent there connects it; ask on {member}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lxd::wire::Server;

    fn identity(clustered: bool, name: &str) -> Identity {
        Identity {
            clustered,
            name: name.into(),
        }
    }

    #[test]
    fn local_is_what_has_no_location_or_the_servers_own() {
        let named = |name: &str| Location::Named(name.into());
        let (alone, member) = (identity(false, "host1"), identity(true, "m1"));
        let place = |of: &Identity, location: &Location| match of.place(location) {
            Place::Here => "here".to_string(),
            Place::Elsewhere(name) => format!("at {name}"),
            Place::Unknown(_) => "?".into(),
        };
        for (location, of_alone, of_member) in [
            (named("none"), "here", "?"),
            (Location::Absent, "here", "?"),
            (Location::Odd, "?", "?"),
            (named("m1"), "?", "here"),
            (named("M1"), "?", "at M1"),
            (named("m10"), "?", "at m10"),
            (named("host1"), "here", "at host1"),
            (named("\u{1b}[2J"), "?", "?"),
            (named(&"m".repeat(254)), "?", "?"),
        ] {
            assert_eq!(place(&alone, &location), of_alone, "{location:?}");
            assert_eq!(place(&member, &location), of_member, "{location:?}");
        }
    }

    #[test]
    fn a_server_that_does_not_say_who_it_is_has_no_identity() {
        for (environment, wanted) in [
            (
                r#"{"server_clustered":true,"server_name":"m1"}"#,
                Ok((true, "m1")),
            ),
            (
                r#"{"server_clustered":false,"server_name":"host1"}"#,
                Ok((false, "host1")),
            ),
            (
                r#"{"server_clustered":false,"server_name":""}"#,
                Ok((false, "")),
            ),
            (
                r#"{"server_clustered":true,"server_name":""}"#,
                Err("cannot be a name"),
            ),
            (
                r#"{"server_clustered":true,"server_name":"a\u001b"}"#,
                Err("cannot be a name"),
            ),
            (
                r#"{"server_clustered":true,"server_name":7}"#,
                Err("server_name is missing"),
            ),
            (
                r#"{"server_clustered":true}"#,
                Err("server_name is missing"),
            ),
            (
                r#"{"server_clustered":"true","server_name":"m1"}"#,
                Err("server_clustered is missing"),
            ),
            (
                r#"{"server_name":"m1"}"#,
                Err("server_clustered is missing"),
            ),
            ("null", Err("server_clustered is missing")),
        ] {
            let server = format!(r#"{{"environment":{environment}}}"#);
            let server: Server = serde_json::from_str(&server).unwrap();
            match (Identity::of(&server.environment), wanted) {
                (Ok(found), Ok((clustered, name))) => {
                    assert_eq!(found, identity(clustered, name), "{environment}");
                }
                (Err(why), Err(wanted)) => assert!(why.contains(wanted), "{why}"),
                (found, _) => panic!("{environment}: {found:?}"),
            }
        }
    }

    #[test]
    fn members_are_named_by_their_urls() {
        let urls = [
            "/1.0/cluster/members/m1",
            "/1.0/cluster/members/a%20b%2Fc",
            "/1.0/cluster/members/m3?project=default",
            "/1.0/cluster/members/x%",
            "/1.0/cluster/members/x%+1",
            "/1.0/cluster/members/",
            "",
        ];
        let names = members(&urls.map(String::from));
        assert_eq!(Vec::from_iter(names), ["a b/c", "m1", "m3", "x%", "x%+1"]);
    }

    #[test]
    fn an_instance_elsewhere_is_found_by_what_people_call_it() {
        let mut all = Elsewhere::default();
        all.add("m2".into(), Some(InstanceId::of("default", "web1")));
        all.add("m3".into(), Some(InstanceId::of("prod", "db1")));
        all.add("m3".into(), None);
        assert_eq!(all.count(), 3);
        for (text, wanted) in [
            ("web1", Some("m2")),
            ("default/web1", Some("m2")),
            ("web1/eth0", Some("m2")),
            ("default/web1/eth0", Some("m2")),
            ("prod/db1", Some("m3")),
            ("prod/db1/eth0", Some("m3")),
            ("db1", None),
            ("web", None),
            ("web10", None),
            ("web1/eth0/x", None),
            ("prod/web1", None),
        ] {
            assert_eq!(all.named(text).map(|(_, member)| member), wanted, "{text}");
        }
        let said = all.about("prod/db1/eth0").unwrap();
        assert!(
            said.starts_with("instance prod/db1 is on member m3"),
            "{said}"
        );
    }
}
