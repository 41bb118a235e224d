//! Wire shapes → what LXMesh needs to know of each instance, still in the operator's words.
//! Pure. What the words mean (networks, addresses, services) is decided in `model::nic`.

use super::keys::{self, PREFIX};
use super::wire::{self, Unknown};
use crate::addr::IpNet;
use crate::text::{self, MAX_LIST};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// An instance's name is unique within its project only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    pub project: String,
    pub name: String,
}

/// Longest name of an instance, bytes: it is the host's name, too (RFC 1123 section 2.1, RFC 1035
/// section 2.3.4).
const MAX_NAME: usize = 63;
/// Longest name of a project, bytes: PROJECT_INSTANCE is the name of a directory (NAME_MAX of
/// limits.h). LXD itself sets no limit.
const MAX_PROJECT: usize = 253;
/// Longest name of a device, bytes.
const MAX_DEVICE: usize = 64;
/// The most devices of one instance that are kept because they are not ours and seem to have been meant to be.
const MAX_STRAYS: usize = 16;
/// The most that is kept of a value that is one address, name or number, bytes.
const MAX_SINGLE: usize = 256;

impl InstanceId {
    /// By names that LXD sent. Where they cannot be names, something bounded stands for them that
    /// can be shown and is no name: [`InstanceId::is_possible`] says so.
    pub fn of(project: &str, name: &str) -> Self {
        let part = |text: &str, most| match is_part(text, most) {
            true => text.to_string(),
            false => text::stand_in(text),
        };
        InstanceId {
            project: part(project, MAX_PROJECT),
            name: part(name, MAX_NAME),
        }
    }

    /// Whether an instance can have that name.
    pub fn is_possible(&self) -> bool {
        is_part(&self.project, MAX_PROJECT) && is_part(&self.name, MAX_NAME)
    }
}

/// Whether a text can be the name of a project or of an instance, which stand in paths.
fn is_part(text: &str, most: usize) -> bool {
    text::is_name(text, most) && !text.contains('/')
}

/// The name of a device, or what stands for one that cannot be.
fn device_name(text: &str) -> String {
    match text::is_name(text, MAX_DEVICE) {
        true => text.into(),
        false => text::stand_in(text),
    }
}

impl fmt::Display for InstanceId {
    /// `web1`, or `prod/web1` outside the default project.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.project != "default" {
            write!(f, "{}/", self.project)?;
        }
        f.write_str(&self.name)
    }
}

/// Whether an instance takes part in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Running.
    Up,
    /// Stopped, or on its way there.
    Down,
    /// Paused, or on its way there: it carries no traffic, and its devices are there.
    Paused,
    /// LXD does not know (status Error): what was known before stays in force.
    Unknown,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub id: InstanceId,
    pub presence: Presence,
    /// RFC 3339 time of the last start, as LXD gave it: earlier holders of an address win.
    pub last_used_at: String,
    /// Devices with `user.lxmesh.parent`, by device name order.
    pub nics: Vec<LxdNic>,
    /// Keys of its configuration that look like ours, and are none.
    pub unknown: Unknown,
    /// Keys of its configuration that only a device has.
    pub misplaced: Vec<&'static str>,
    /// Devices that are not ours and yet were meant to be, it seems.
    pub strays: Vec<Stray>,
    /// Of the access lists that the devices name, those that the project has.
    pub acls: Acls,
    /// The project's lists cannot be read: these are those that were known, and there may be others.
    pub acls_unread: bool,
}

/// A device that is not ours and has keys for LXMesh, or whose instance has keys that it should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    pub device: String,
    pub why: NotOurs,
    /// Those that are known.
    pub keys: Vec<&'static str>,
    pub unknown: Unknown,
}

/// What LXD says of an instance that cannot be understood. It does not say whether the instance runs, nor
/// which NICs it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// `None` if not even its name can be read.
    pub id: Option<InstanceId>,
    /// Its project is not told: it is any instance of that name.
    pub of_any_project: bool,
    /// What cannot be understood.
    pub why: String,
    /// The answer may be another one soon.
    pub try_again: bool,
    /// All of it but the access lists that it names could be read.
    pub but_acls: Option<Box<Instance>>,
}

/// What LXD has answered about one instance.
#[derive(Debug)]
pub enum Answer {
    There(Instance),
    /// It has said in so many words that there is none.
    Gone,
    /// It is on that other member of the cluster.
    Elsewhere(String),
    Unread(Unread),
}

/// Reads one entry. Whatever is wrong with it costs only itself.
pub fn read(entry: &RawValue) -> Result<Instance, Unread> {
    wire::object::<wire::Instance>(entry)
        .map(Instance::from)
        .map_err(|why| Unread::of(entry, &why))
}

impl Unread {
    pub(super) fn of(entry: &RawValue, why: &str) -> Self {
        let wire::Remains {
            name,
            project,
            status,
            location,
        } = wire::Remains::of(entry);
        let project = project.filter(|project| !project.is_empty());
        let location = match location {
            wire::Location::Named(name) => Some(name),
            wire::Location::Absent | wire::Location::Odd => None,
        };
        let says = [("status", status), ("location", location)];
        let says = says.into_iter().filter_map(|(key, value)| {
            let value = value.filter(|value| !value.is_empty())?;
            Some(format!(
                "; its {key} is {}",
                text::shown(&value, text::NAME)
            ))
        });
        Unread {
            id: name.map(|name| InstanceId::of(project.as_deref().unwrap_or("default"), &name)),
            of_any_project: project.is_none(),
            why: format!("{why}{}", says.collect::<String>()),
            try_again: false,
            but_acls: None,
        }
    }

    /// Of an instance that was asked for by that name.
    pub fn because(id: InstanceId, why: String) -> Self {
        Unread {
            id: Some(id),
            of_any_project: false,
            why,
            try_again: false,
            but_acls: None,
        }
    }

    /// Of an instance that could be read, but not the access lists that it names.
    pub fn without_acls(instance: Instance, why: String) -> Self {
        Unread {
            id: Some(instance.id.clone()),
            of_any_project: false,
            why,
            try_again: true,
            but_acls: Some(Box::new(instance)),
        }
    }
}

/// Access lists by name.
pub type Acls = BTreeMap<String, Arc<wire::Acl>>;

impl Instance {
    /// Names of access lists that its devices refer to.
    pub fn acl_names(&self) -> impl Iterator<Item = &str> {
        self.nics.iter().flat_map(|nic| nic.acl_names())
    }

    /// Of these access lists, those that its devices refer to.
    pub fn named_of(&self, acls: &Acls) -> Acls {
        let named = self.acl_names();
        let named = named.filter_map(|name| acls.get_key_value(name));
        let named = named.map(|(name, acl)| (name.clone(), acl.clone()));
        named.collect()
    }
}

impl LxdNic {
    /// Those of access lists, the first of them if there are too many.
    pub fn acl_names(&self) -> impl Iterator<Item = &str> {
        text::words(&self.acls).take(text::MAX_WORDS)
    }

    pub fn has_too_many_acls(&self) -> bool {
        text::words(&self.acls).nth(text::MAX_WORDS).is_some()
    }

    /// Whether a device can have that name; else something stands for it.
    pub fn has_possible_name(&self) -> bool {
        text::is_name(&self.device, MAX_DEVICE)
    }
}

/// One device of `type=nic`, `nictype=p2p` that has `user.lxmesh.parent`. Texts as LXD gave them, as
/// far as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LxdNic {
    pub device: String,
    pub parent: String,
    /// `volatile.DEVICE.host_name`, or the device's own `host_name`.
    pub host_name: Option<String>,
    /// `volatile.DEVICE.hwaddr`, or the device's own `hwaddr`.
    pub hwaddr: Option<String>,
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
    /// Those that LXD has given the host-side device: `ipv4.routes` and `ipv6.routes`.
    pub routes: Vec<IpNet>,
    /// Device key and instance key joined by a blank.
    pub in_services: String,
    pub out_services: String,
    pub tags: String,
    pub acls: String,
    /// `user.lxmesh.limits.*`, each by the rest of its key; the device's before the instance's.
    pub limits: BTreeMap<&'static str, String>,
    /// `user.lxmesh.audit` and `user.lxmesh.log_drops`; the device's before the instance's.
    pub audit: Option<String>,
    pub log_drops: Option<String>,
    /// Keys of the device that look like ours, and are none.
    pub unknown: Unknown,
}

/// Why a device is none of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOurs {
    /// No network device.
    NoNic,
    /// Its `nictype`; empty if it belongs to a network of LXD's own.
    NotP2p(String),
    /// No `user.lxmesh.parent`.
    NoParent,
}

/// What only a person wants to know of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Of LXD's `shared/api/status_code.go`.
    pub status_code: u32,
    /// Its NICs that are none of ours.
    pub others: Vec<(String, NotOurs)>,
}

impl From<wire::Instance> for Details {
    fn from(instance: wire::Instance) -> Self {
        let devices = instance.expanded_devices.iter();
        let others = devices.filter_map(|(device, keys)| {
            let why = nic(device, keys, &instance.expanded_config).err()?;
            (why != NotOurs::NoNic).then(|| (device_name(device), why))
        });
        Details {
            status_code: instance.status_code,
            others: others.collect(),
        }
    }
}

/// What can be limited.
pub const LIMITS: [&str; 4] = [
    "connections",
    "new_connections",
    "control_packets",
    "multicast_groups",
];

/// All instances of the local server, as last read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    pub instances: BTreeMap<InstanceId, Instance>,
}

impl From<wire::Instance> for Instance {
    fn from(instance: wire::Instance) -> Self {
        let wire::Instance {
            name,
            project,
            status_code,
            last_used_at,
            expanded_config: config,
            expanded_devices: devices,
        } = instance;
        let mut nics = Vec::new();
        let mut strays = Vec::new();
        let misplaced: Vec<&'static str> = known(&config, &keys::OF_DEVICES);
        let looks_wrong = !misplaced.is_empty() || !config.unknown().is_empty();
        for (device, keys) in &devices {
            match nic(device, keys, &config) {
                Ok(nic) => nics.push(nic),
                Err(why) => {
                    let own = [&keys::OF_DEVICES[..], &keys::OF_BOTH];
                    let own = own.map(|of| known(keys, of)).concat();
                    let may_be_meant = looks_wrong && why == NotOurs::NoParent;
                    let is_stray = !own.is_empty() || !keys.unknown().is_empty() || may_be_meant;
                    if is_stray && strays.len() < MAX_STRAYS {
                        strays.push(Stray {
                            device: device_name(device),
                            why,
                            keys: own,
                            unknown: keys.unknown().clone(),
                        });
                    }
                }
            }
        }
        Instance {
            id: InstanceId::of(&project, &name),
            presence: presence(status_code),
            last_used_at: text::kept(&last_used_at, MAX_SINGLE),
            nics,
            unknown: config.unknown().clone(),
            misplaced,
            strays,
            acls: Acls::new(),
            acls_unread: false,
        }
    }
}

/// Which of these keys of ours there are.
fn known(keys: &wire::Keys, of: &[&'static str]) -> Vec<&'static str> {
    let there: Vec<&str> = keys.ours().collect();
    let known = of.iter().filter(|key| there.contains(*key));
    known.copied().collect()
}

/// Status codes of LXD's `shared/api/status_code.go`: 103 Running, 111 Thawed, 113 Ready;
/// 109 Freezing, 110 Frozen; 112 Error. Everything else does not carry traffic.
fn presence(status_code: u32) -> Presence {
    match status_code {
        103 | 111 | 113 => Presence::Up,
        109 | 110 => Presence::Paused,
        112 => Presence::Unknown,
        _ => Presence::Down,
    }
}

fn nic(device: &str, keys: &wire::Keys, config: &wire::Keys) -> Result<LxdNic, NotOurs> {
    let own = |key: &str| keys.get(key).filter(|text| !text.is_empty());
    let ours = |key: &str| own(&format!("{PREFIX}{key}"));
    if own("type").is_none_or(|kind| kind != "nic") {
        return Err(NotOurs::NoNic);
    }
    if own("nictype").is_none_or(|kind| kind != "p2p") {
        let kind = own("nictype").map_or("", String::as_str);
        return Err(NotOurs::NotP2p(text::shown(kind, text::NAME)));
    }
    let single = |value: &String| text::kept(value, MAX_SINGLE);
    let parent = single(ours("parent").ok_or(NotOurs::NoParent)?);
    let volatile = |key: &str| {
        config
            .get(&format!("volatile.{device}.{key}"))
            .filter(|text| !text.is_empty())
            .or_else(|| {
                if key == "host_name" {
                    own("host_name")
                } else {
                    None
                }
            })
            .map(single)
    };
    // Lists may be given on the device and on the instance; both count.
    let merged = |key: &str| {
        let list =
            |value: Option<&String>| value.map_or(String::new(), |list| text::kept(list, MAX_LIST));
        let instance = list(config.get(&format!("{PREFIX}{key}")));
        let device = list(ours(key));
        format!("{device} {instance}").trim().to_string()
    };
    let first = |key: &str| {
        let text = ours(key).or_else(|| config.get(&format!("{PREFIX}{key}")))?;
        (!text.is_empty()).then(|| single(text))
    };
    let routes = [own("ipv4.routes"), own("ipv6.routes")].into_iter();
    let routes = routes.flatten().flat_map(|list| text::words(list));
    let routes = routes
        .take(text::MAX_WORDS)
        .filter_map(|word| word.parse::<IpNet>().ok());
    Ok(LxdNic {
        device: device_name(device),
        parent,
        host_name: volatile("host_name"),
        hwaddr: own("hwaddr").map(single).or_else(|| volatile("hwaddr")),
        ipv4: ours("ipv4.address").map(single),
        ipv6: ours("ipv6.address").map(single),
        routes: routes.map(|net| net.trunc()).collect(),
        in_services: merged("in_services"),
        out_services: merged("out_services"),
        tags: merged("tags"),
        acls: merged("acls"),
        limits: LIMITS
            .iter()
            .filter_map(|name| Some((*name, first(&format!("limits.{name}"))?)))
            .collect(),
        audit: first("audit"),
        log_drops: first("log_drops"),
        unknown: keys.unknown().clone(),
    })
}

impl Inventory {
    /// Takes in one freshly read instance, or its absence. An instance of unknown presence keeps
    /// what was known of it. Returns whether anything is different now.
    pub fn put(&mut self, id: InstanceId, instance: Option<Instance>) -> bool {
        let known = self.instances.get(&id);
        match instance {
            None => self.instances.remove(&id).is_some(),
            Some(fresh) if fresh.presence == Presence::Unknown && known.is_some() => false,
            Some(fresh) if known == Some(&fresh) => false,
            Some(fresh) => {
                self.instances.insert(id, fresh);
                true
            }
        }
    }

    /// Takes in what could be read of an instance whose access lists could not be: of these, those that
    /// were known stay in force, and another one that it names closes. One that was not known to run is not
    /// known by it. Returns whether it is known, and whether anything is different now.
    pub fn put_but_acls(&mut self, mut fresh: Instance) -> (bool, bool) {
        let id = fresh.id.clone();
        match self.instances.get(&id) {
            Some(known) if known.presence == Presence::Up => {
                fresh.acls = fresh.named_of(&known.acls);
                fresh.acls_unread = true;
                (true, self.put(id, Some(fresh)))
            }
            _ => (false, false),
        }
    }

    /// The instances of `self` that a fresh listing lacks. A listing alone is not believed when
    /// it says that something is gone: each is asked for by name before it is withdrawn.
    pub fn missing_from(&self, listing: &[Instance]) -> Vec<InstanceId> {
        let listed: BTreeSet<_> = listing.iter().map(|i| &i.id).collect();
        self.instances
            .keys()
            .filter(|id| !listed.contains(id))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Instance {
        serde_json::from_str::<wire::Instance>(json).unwrap().into()
    }

    #[test]
    fn a_p2p_nic_with_a_parent_is_managed_and_others_are_not() {
        let instance = read(
            r#"{"name":"c1","project":"prod","status":"Running","status_code":103,"new_field":1,
            "expanded_config":{"user.lxmesh.out_services":"tcp/53","volatile.vpc.host_name":"veth1","volatile.vpc.hwaddr":"00:16:3e:00:00:01"},
            "expanded_devices":{
              "root":{"type":"disk","path":"/"},
              "br":{"type":"nic","nictype":"bridged","user.lxmesh.parent":"vpc"},
              "bare":{"type":"nic","nictype":"p2p"},
              "vpc":{"type":"nic","nictype":"p2p","user.lxmesh.parent":"vpc","user.lxmesh.out_services":"udp/53","user.lxmesh.ipv4.address":"192.0.2.10"}}}"#,
        );
        assert_eq!(instance.id.to_string(), "prod/c1");
        assert_eq!(instance.presence, Presence::Up);
        assert_eq!(
            instance.nics,
            [LxdNic {
                device: "vpc".into(),
                parent: "vpc".into(),
                host_name: Some("veth1".into()),
                hwaddr: Some("00:16:3e:00:00:01".into()),
                ipv4: Some("192.0.2.10".into()),
                out_services: "udp/53 tcp/53".into(),
                ..LxdNic::default()
            }]
        );
    }

    #[test]
    fn of_every_text_only_so_much_is_kept() {
        let long = "x".repeat(1 << 20);
        let keys = [
            "parent",
            "ipv4.address",
            "ipv6.address",
            "in_services",
            "out_services",
            "tags",
            "acls",
            "limits.connections",
            "audit",
            "log_drops",
        ];
        let keys: String = keys
            .map(|key| format!(r#""user.lxmesh.{key}":"{long}","#))
            .concat();
        let instance = read(&format!(
            r#"{{"name":"{long}","project":"{long}","status_code":103,"last_used_at":"{long}",
            "expanded_config":{{{keys}"volatile.{long}.hwaddr":"{long}"}},
            "expanded_devices":{{"{long}":{{{keys}"type":"nic","nictype":"p2p","host_name":"{long}","hwaddr":"{long}"}},
              "{long}y":{{"type":"nic","nictype":"{long}"}}}}}}"#
        ));
        let nic = &instance.nics[0];
        for text in [&nic.in_services, &nic.out_services, &nic.tags, &nic.acls] {
            // The device's, a blank, and the instance's.
            assert!(text.len() <= 2 * (MAX_LIST + 3) + 1, "{}", text.len());
        }
        let LxdNic {
            device,
            parent,
            host_name,
            hwaddr,
            ipv4,
            ipv6,
            limits,
            audit,
            log_drops,
            ..
        } = nic;
        let optional = [host_name, hwaddr, ipv4, ipv6, audit, log_drops];
        let all = optional.into_iter().flatten().chain(limits.values());
        let InstanceId { project, name } = &instance.id;
        for text in all.chain([device, parent, name, project, &instance.last_used_at]) {
            assert!(text.len() <= MAX_SINGLE + 3, "{}", text.len());
            assert!(text.contains(text::CUT));
        }
        assert!(!instance.id.is_possible() && !nic.has_possible_name());
    }

    #[test]
    fn devices_that_are_not_ours_say_why() {
        let json = r#"{"name":"c1","status_code":102,"expanded_config":{},"expanded_devices":{
            "root":{"type":"disk","path":"/"},
            "br":{"type":"nic","nictype":"bridged","user.lxmesh.parent":"vpc"},
            "net":{"type":"nic","network":"lxdbr0"},
            "bare":{"type":"nic","nictype":"p2p","user.lxmesh.parent":""},
            "vpc":{"type":"nic","nictype":"p2p","user.lxmesh.parent":"vpc"}}}"#;
        let details = Details::from(serde_json::from_str::<wire::Instance>(json).unwrap());
        assert_eq!(details.status_code, 102);
        assert_eq!(
            details.others,
            [
                ("bare".into(), NotOurs::NoParent),
                ("br".into(), NotOurs::NotP2p("bridged".into())),
                ("net".into(), NotOurs::NotP2p(String::new())),
            ]
        );
    }

    #[test]
    fn paused_is_neither_up_nor_down_and_error_is_unknown() {
        assert_eq!(presence(110), Presence::Paused);
        assert_eq!(presence(102), Presence::Down);
        assert_eq!(presence(113), Presence::Up);
        assert_eq!(presence(112), Presence::Unknown);
    }

    #[test]
    fn an_instance_in_error_keeps_what_was_known_of_it() {
        let up =
            read(r#"{"name":"c1","status_code":103,"expanded_config":{},"expanded_devices":{}}"#);
        let mut error = up.clone();
        error.presence = Presence::Unknown;
        let mut inventory = Inventory::default();
        assert!(inventory.put(up.id.clone(), Some(up.clone())));
        assert!(!inventory.put(up.id.clone(), Some(up.clone())));
        inventory.put(up.id.clone(), Some(error));
        assert_eq!(inventory.instances[&up.id], up);
        assert_eq!(inventory.missing_from(&[]), std::slice::from_ref(&up.id));
        inventory.put(up.id.clone(), None);
        assert!(inventory.instances.is_empty());
    }
}
