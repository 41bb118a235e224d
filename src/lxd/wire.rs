//! The JSON shapes of the LXD and Incus REST API that we read
//! (<https://documentation.ubuntu.com/lxd/en/latest/rest-api/>), and nothing of their meaning.
//! Unknown fields are ignored, so newer servers keep working. Each entry of a list is read by itself:
//! one that is not of its shape costs nothing but itself.

use super::keys;
use crate::text::{self, MAX_LIST, SENTENCE};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// The envelope of every answer. Errors carry `error_code` and `error` in place of `metadata`.
#[derive(Debug, Deserialize)]
pub struct Envelope<T> {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub error_code: u32,
    #[serde(default)]
    pub error: String,
    pub metadata: Option<T>,
}

/// `GET /1.0`. What is not of its type reads as if it were not there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Server {
    /// `trusted` where we may read; over the unix socket it always is.
    #[serde(deserialize_with = "text_or_none")]
    pub auth: Option<String>,
    #[serde(deserialize_with = "environment_or_none")]
    pub environment: Environment,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// `lxd` or `incus`.
    #[serde(deserialize_with = "text_or_none")]
    pub server: Option<String>,
    #[serde(deserialize_with = "text_or_none")]
    pub server_version: Option<String>,
    #[serde(deserialize_with = "truth_or_none")]
    pub server_clustered: Option<bool>,
    /// The member's name in a cluster, else the host's.
    #[serde(deserialize_with = "text_or_none")]
    pub server_name: Option<String>,
}

/// On which member of a cluster an instance is, or an event happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Location {
    /// Not told, null or empty.
    #[default]
    Absent,
    /// A member's name, or [`NOT_CLUSTERED`].
    Named(String),
    /// No text.
    Odd,
}

/// The location of everything on a server that is in no cluster.
pub const NOT_CLUSTERED: &str = "none";

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match serde_json::Value::deserialize(from)? {
            serde_json::Value::Null => Location::Absent,
            serde_json::Value::String(name) if name.is_empty() => Location::Absent,
            serde_json::Value::String(name) => Location::Named(name),
            _ => Location::Odd,
        })
    }
}

fn environment_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Environment, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(Environment::deserialize(value).unwrap_or_default())
}

fn text_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(value.as_str().map(str::to_string))
}

fn truth_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(value.as_bool())
}

/// Why a part of an answer is not of its shape, in one clause. The place within the part, which
/// nobody sees, is left out.
fn clause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let clause = text.split(" at line ").next().unwrap_or_default();
    text::shown(clause, SENTENCE / 3)
}

/// Reads an entry of a list, or says in one clause why it is none. An array is not taken for an object with its
/// values in the order of our fields, as serde would.
pub fn object<'a, T: Deserialize<'a>>(entry: &'a RawValue) -> Result<T, String> {
    let text = entry.get();
    if !text.starts_with('{') {
        let shown = text::shown(text, text::NAME);
        return Err(format!("{shown} is not an object"));
    }
    serde_json::from_str(text).map_err(|error| clause(&error))
}

/// What can be read of an entry that is no [`Instance`]: enough to say which one it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Remains {
    #[serde(deserialize_with = "text_or_none")]
    pub name: Option<String>,
    #[serde(deserialize_with = "text_or_none")]
    pub project: Option<String>,
    #[serde(deserialize_with = "text_or_none")]
    pub status: Option<String>,
    pub location: Location,
}

impl Remains {
    pub fn of(entry: &RawValue) -> Self {
        object(entry).unwrap_or_default()
    }
}

/// One instance of `GET /1.0/instances?recursion=1&all-projects=true`, or
/// `GET /1.0/instances/NAME?project=PROJECT`.
#[derive(Debug, Deserialize)]
pub struct Instance {
    pub name: String,
    #[serde(default = "default_project")]
    pub project: String,
    pub status_code: u32,
    #[serde(default)]
    pub last_used_at: String,
    pub expanded_config: Keys,
    pub expanded_devices: BTreeMap<String, Keys>,
}

/// One access list of `GET /1.0/network-acls?recursion=1&project=PROJECT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    pub name: String,
    pub ingress: Vec<ReadRule>,
    pub egress: Vec<ReadRule>,
}

/// A rule, or why it cannot be read.
pub type ReadRule = Result<AclRule, String>;

/// An access list whose sides have not been looked at.
#[derive(Deserialize)]
struct RawAcl<'a> {
    name: String,
    #[serde(borrow, default, deserialize_with = "some")]
    ingress: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "some")]
    egress: Option<&'a RawValue>,
}

/// Null is a value, unlike what is left out.
fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

impl Acl {
    /// Reads one, with as much of every text as is kept; `None` if it has no name by which a NIC could
    /// refer to it. What cannot be read of a side may forbid something, so it is not left out.
    pub fn read(entry: &RawValue) -> Option<Self> {
        let RawAcl {
            name,
            ingress,
            egress,
        } = match object(entry) {
            Ok(acl) => acl,
            Err(why) => {
                // A key that is there twice, for example: what has a name can be meant.
                let name = Remains::of(entry).name?;
                let nothing = || vec![Err(why.clone())];
                return Some(Acl {
                    name: text::kept(&name, text::NAME),
                    ingress: nothing(),
                    egress: nothing(),
                });
            }
        };
        Some(Acl {
            name: text::kept(&name, text::NAME),
            ingress: side(ingress),
            egress: side(egress),
        })
    }
}

/// Go writes an empty list as null.
fn side(list: Option<&RawValue>) -> Vec<ReadRule> {
    let Some(list) = list else {
        return vec![Err("it is left out".into())];
    };
    match serde_json::from_str::<Option<Vec<&RawValue>>>(list.get()) {
        Ok(rules) => {
            let rules = rules.into_iter().flatten();
            rules
                .map(|rule| object::<AclRule>(rule).map(AclRule::kept))
                .collect()
        }
        Err(error) => vec![Err(clause(&error))],
    }
}

/// A rule of an access list, in LXD's words; what is empty is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AclRule {
    /// `allow`, `reject` or `drop`.
    pub action: String,
    /// Lists of addresses, prefixes, ranges and names, separated by commas.
    pub source: String,
    pub destination: String,
    /// `tcp`, `udp`, `icmp4` or `icmp6`.
    pub protocol: String,
    /// Lists of ports and ranges.
    pub source_port: String,
    pub destination_port: String,
    pub icmp_type: String,
    pub icmp_code: String,
    /// `enabled`, `disabled` or `logged`.
    pub state: String,
}

impl AclRule {
    fn kept(self) -> Self {
        let AclRule {
            action,
            source,
            destination,
            protocol,
            source_port,
            destination_port,
            icmp_type,
            icmp_code,
            state,
        } = self;
        let list = |text: String| text::kept(&text, MAX_LIST);
        let word = |text: String| text::kept(&text, text::NAME);
        AclRule {
            action: word(action),
            source: list(source),
            destination: list(destination),
            protocol: word(protocol),
            source_port: list(source_port),
            destination_port: list(destination_port),
            icmp_type: word(icmp_type),
            icmp_code: word(icmp_code),
            state: word(state),
        }
    }
}

/// Longest key that is kept, bytes.
const MAX_KEY: usize = 255;

/// The most unknown keys of one instance or device that are kept.
const MAX_UNKNOWN: usize = 32;

/// The keys of an instance or a device that mean something to us, or were meant to. An instance has dozens of
/// others, some of them long: those are not kept, not even for the moment.
#[derive(Debug, Default)]
pub struct Keys {
    known: BTreeMap<String, String>,
    unknown: Unknown,
}

/// Keys that look like ours, and are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unknown {
    /// In the order of their texts, the first of them if there are too many.
    pub keys: BTreeSet<String>,
    /// How many there are beyond those.
    pub more: usize,
}

impl Unknown {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn add(&mut self, key: String) {
        self.keys.insert(key);
        if self.keys.len() > MAX_UNKNOWN {
            self.keys.pop_last();
            self.more += 1;
        }
    }
}

impl Keys {
    pub fn get(&self, key: &str) -> Option<&String> {
        self.known.get(key)
    }

    /// All of ours that are known, without what they begin with.
    pub fn ours(&self) -> impl Iterator<Item = &str> {
        let keys = self.known.keys();
        keys.filter_map(|key| key.strip_prefix(keys::PREFIX))
    }

    pub fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    fn matter(key: &str) -> bool {
        let of_a_nic = key.ends_with(".host_name") || key.ends_with(".hwaddr");
        let plain = [
            "type",
            "nictype",
            "hwaddr",
            "host_name",
            "ipv4.routes",
            "ipv6.routes",
        ];
        plain.contains(&key)
            || keys::is_known(key)
            || key.starts_with("volatile.") && of_a_nic && key.len() <= MAX_KEY
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Keys;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Keys::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Known(text) => {
                            let value: String = map.next_value().map_err(|error| {
                                let shown = text::shown(&text, text::NAME);
                                A::Error::custom(format!("{shown}: {error}"))
                            })?;
                            keys.known.insert(text, text::kept(&value, MAX_LIST));
                        }
                        Key::Unknown(text) => {
                            map.next_value::<IgnoredAny>()?;
                            keys.unknown.add(text);
                        }
                        Key::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(keys)
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// A key; its text only if it matters.
enum Key {
    Known(String),
    /// Meant for us.
    Unknown(String),
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        impl Visitor<'_> for Look {
            type Value = Key;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Key, E> {
                Ok(if Keys::matter(text) {
                    Key::Known(text.into())
                } else if keys::is_meant(text) {
                    Key::Unknown(text::kept(text, MAX_KEY))
                } else {
                    Key::Other
                })
            }
        }
        deserializer.deserialize_str(Look)
    }
}

fn default_project() -> String {
    "default".into()
}

/// One message of `GET /1.0/events?type=lifecycle&all-projects=true`.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub project: Option<String>,
    pub metadata: Option<Lifecycle>,
    /// The member that tells of it.
    #[serde(default)]
    pub location: Location,
}

#[derive(Debug, Deserialize)]
pub struct Lifecycle {
    /// E.g. `instance-started`.
    pub action: String,
    /// E.g. `/1.0/instances/web1?project=prod`.
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub project: Option<String>,
    #[serde(default)]
    pub context: Option<BTreeMap<String, serde_json::Value>>,
}
