//! What LXD answers about all instances at once, sorted into those that are here, those of other members
//! of the cluster, and those of which it is not known. Pure.

use super::cluster::{Cluster, Elsewhere, Identity, Place};
use super::inventory::{self, Instance, InstanceId, Unread};
use super::wire::{self, Location};
use crate::text;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::BTreeSet;

/// What LXD has answered about all of them.
#[derive(Debug, Default)]
pub struct Listing {
    pub instances: Vec<Instance>,
    pub unread: Vec<Unread>,
    pub elsewhere: Elsewhere,
    /// `None` if the server is in none.
    pub cluster: Option<Cluster>,
    /// Instances of which something was answered by name while this was asked for: what it says of them may be older.
    pub older: BTreeSet<InstanceId>,
}

/// Reads a list of instances. Keeps of each only what matters while the answer is being read, so that the
/// configuration of a thousand instances is never in memory at once. Whatever else is wrong with an instance
/// of another member costs nothing.
pub(super) fn read(list: &RawValue, identity: &Identity) -> Result<Listing, serde_json::Error> {
    let mut from = serde_json::Deserializer::from_str(list.get());
    Each(identity).deserialize(&mut from)
}

struct Each<'a>(&'a Identity);

impl<'de> DeserializeSeed<'de> for Each<'_> {
    type Value = Listing;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Listing, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Each<'_> {
    type Value = Listing;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of instances")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Listing, A::Error> {
        let mut listing = Listing::default();
        while let Some(entry) = seq.next_element::<&RawValue>()? {
            listing.add(entry, self.0);
        }
        Ok(listing)
    }
}

impl Listing {
    fn add(&mut self, entry: &RawValue, identity: &Identity) {
        match identity.place(&location_of(entry)) {
            Place::Here => match inventory::read(entry) {
                Ok(instance) => self.instances.push(instance),
                Err(unread) => self.unread.push(unread),
            },
            Place::Elsewhere(member) => {
                let wire::Remains { name, project, .. } = wire::Remains::of(entry);
                let id = name.zip(project.filter(|project| !project.is_empty()));
                let id = id.map(|(name, project)| InstanceId::of(&project, &name));
                self.elsewhere.add(member, id);
            }
            Place::Unknown(why) => self.unread.push(placeless(entry, why)),
        }
    }

    /// Leaves out what may be older than what is known.
    pub fn leave_out_older(&mut self) {
        let ids = &std::mem::take(&mut self.older);
        self.instances
            .retain(|instance| !ids.contains(&instance.id));
        let is_other = |unread: &Unread| unread.id.as_ref().is_none_or(|id| !ids.contains(id));
        self.unread.retain(is_other);
        self.elsewhere.forget(ids);
    }

    /// Takes instances on members that the cluster does not have for such whose location cannot be read.
    pub(super) fn check_members(&mut self, members: &BTreeSet<String>) {
        for (member, ids) in self.elsewhere.take_strangers(members) {
            let why = no_member(&member);
            let unread = ids.into_iter().map(|id| {
                let mut unread = Unread::because(id, why.clone());
                // It may have been renamed since.
                unread.try_again = true;
                unread
            });
            self.unread.extend(unread);
        }
    }
}

/// Where an entry says that its instance is.
pub(super) fn location_of(entry: &RawValue) -> Location {
    #[derive(serde::Deserialize)]
    struct Where {
        #[serde(default)]
        location: Location,
    }
    // One that is no object, or has a location twice, has none that could be relied on.
    wire::object::<Where>(entry).map_or(Location::Absent, |found| found.location)
}

/// An entry that does not say on which member its instance is. It may be about to.
pub(super) fn placeless(entry: &RawValue, why: String) -> Unread {
    let mut unread = Unread::of(entry, "");
    unread.why = why;
    unread.try_again = true;
    unread
}

/// Why a location is not believed.
pub(super) fn no_member(location: &str) -> String {
    format!(
        "its location, {}, is no member of the cluster",
        text::shown(location, text::NAME)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_m1(entries: &[&str]) -> Listing {
        let own = Identity {
            clustered: true,
            name: "m1".into(),
        };
        let list = RawValue::from_string(format!("[{}]", entries.join(","))).unwrap();
        let mut listing = read(&list, &own).unwrap();
        listing.check_members(&["m1", "m2"].map(String::from).into());
        listing
    }

    /// Of an entry of another member nothing has to be understood but that.
    #[test]
    fn each_entry_is_here_or_elsewhere_or_unread() {
        let well = r#""status_code":103,"expanded_config":{},"expanded_devices":{}"#;
        let full = |location: &str| format!(r#"{{"name":"a","project":"p",{well},{location}}}"#);
        for (entry, wanted) in [
            (full(r#""location":"m1""#), "here p/a"),
            (full(r#""location":"none""#), "unread p/a"),
            (full(r#""location":"m2""#), "elsewhere p/a"),
            (full(r#""location":"m3""#), "unread p/a"),
            (full(r#""location":null"#), "unread p/a"),
            (full(r#""location":["m2"]"#), "unread p/a"),
            (full(r#""location":"m1","location":"m2""#), "unread -"),
            (
                r#"{"name":"a","project":"p","location":"m1"}"#.into(),
                "unread p/a",
            ),
            (
                r#"{"name":"a","project":"p","location":"m2","status_code":"x"}"#.into(),
                "elsewhere p/a",
            ),
            (
                r#"{"name":"a","project":"p","location":"m2","expanded_devices":7}"#.into(),
                "elsewhere p/a",
            ),
            (r#"{"name":"a","location":"m2"}"#.into(), "elsewhere -"),
            (
                r#"{"name":7,"project":"p","location":"m2"}"#.into(),
                "elsewhere -",
            ),
            (r#"{"location":"m2"}"#.into(), "elsewhere -"),
            (r#"["m2"]"#.into(), "unread -"),
            ("7".into(), "unread -"),
        ] {
            let Listing {
                instances,
                unread,
                elsewhere,
                ..
            } = of_m1(&[&entry]);
            let who = |id: Option<&InstanceId>| id.map_or("-".into(), InstanceId::to_string);
            let here = instances.iter().map(|one| format!("here {}", one.id));
            let unclear = unread
                .iter()
                .map(|one| format!("unread {}", who(one.id.as_ref())));
            let mut found: Vec<String> = here.chain(unclear).collect();
            if elsewhere.count() > 0 {
                found.push(format!("elsewhere {}", who(elsewhere.ids().next())));
            }
            assert_eq!(found, [wanted], "{entry}");
        }
    }
}
