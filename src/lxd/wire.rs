//! The JSON shapes of the LXD and Incus REST API that we read
//! (<https://documentation.ubuntu.com/lxd/en/latest/rest-api/>), and nothing of their meaning.
//! Unknown fields are ignored, so newer servers keep working.

use crate::text::{self, MAX_LIST};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;

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

/// `GET /1.0`.
#[derive(Debug, Deserialize)]
pub struct Server {
    #[serde(default)]
    pub api_status: String,
    /// `trusted` where we may read; over the unix socket it always is.
    #[serde(default)]
    pub auth: String,
    #[serde(default)]
    pub environment: Environment,
}

#[derive(Debug, Default, Deserialize)]
pub struct Environment {
    /// `lxd` or `incus`.
    #[serde(default)]
    pub server: String,
    #[serde(default)]
    pub server_version: String,
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

/// One access list of `GET /1.0/network-acls?recursion=1&project=PROJECT`. Go writes an empty list
/// as null.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Acl {
    pub name: String,
    #[serde(default)]
    pub ingress: Option<Vec<AclRule>>,
    #[serde(default)]
    pub egress: Option<Vec<AclRule>>,
}

impl Acl {
    /// With as much of every text as is kept.
    pub fn kept(self) -> Self {
        let Acl {
            name,
            ingress,
            egress,
        } = self;
        let side = |rules: Option<Vec<AclRule>>| {
            rules.map(|rules| rules.into_iter().map(AclRule::kept).collect())
        };
        Acl {
            name: text::kept(&name, text::NAME),
            ingress: side(ingress),
            egress: side(egress),
        }
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

/// The keys of an instance or a device that mean something to us. An instance has dozens of
/// others, some of them long: those are not kept, not even for the moment.
#[derive(Debug, Default)]
pub struct Keys(BTreeMap<String, String>);

impl Keys {
    pub fn get(&self, key: &str) -> Option<&String> {
        self.0.get(key)
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
            || key.starts_with("user.lxmesh.") && key.len() <= MAX_KEY
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
                let mut keys = BTreeMap::new();
                while let Some(Key { text, matters }) = map.next_key()? {
                    if matters {
                        let value: String = map.next_value()?;
                        keys.insert(text, text::kept(&value, MAX_LIST));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// A key; its text only if it matters.
struct Key {
    text: String,
    matters: bool,
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
                let matters = Keys::matter(text);
                let text = if matters { text.into() } else { String::new() };
                Ok(Key { text, matters })
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
