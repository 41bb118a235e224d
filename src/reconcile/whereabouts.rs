//! Which events of a cluster matter on this member. Every member hears the events of all: if each of them
//! were followed, every member would read every instance. Pure.

use super::lxd_task::Update;
use crate::lxd::events::{Event, Knock};
use crate::lxd::{Answer, Identity, InstanceId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Instances that are said to be elsewhere although something happened to them here are asked about again after
/// these times: a member starts what it receives before the database says that it is there.
const ARRIVAL: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// The most that are waited for. A listing finds the others.
const MAX_ARRIVING: usize = 256;

/// What has been learned of which instances are here.
#[derive(Debug, Default)]
pub struct Whereabouts {
    /// Those that are here, as far as LXD has not said otherwise: at least those that the daemon knows.
    here: BTreeSet<InstanceId>,
    /// Those that may be about to come here, each with how often it was said to be elsewhere.
    arriving: BTreeMap<InstanceId, usize>,
}

impl Whereabouts {
    /// What of an event is to be followed by a server that is `own`.
    pub fn heed(&mut self, event: Event, own: Option<&Identity>) -> Vec<Knock> {
        let elsewhere = event.is_elsewhere(own);
        let may_bring = event.may_bring;
        // A rename concerns both names.
        let concerns_us = event.knocks.iter().any(|knock| match knock {
            Knock::Instance(id) | Knock::InstanceSoon(id) => {
                self.here.contains(id) || self.arriving.contains_key(id)
            }
            Knock::Everything | Knock::Identity => true,
        });
        if elsewhere && !concerns_us && !may_bring {
            return Vec::new();
        }
        let knocks = event.knocks.into_iter();
        knocks
            .flat_map(|knock| match knock {
                Knock::Instance(id) if self.here.contains(&id) => {
                    // What leaves is said to be here for a moment more.
                    let soon = may_bring.then(|| Knock::InstanceSoon(id.clone()));
                    [Some(Knock::Instance(id)), soon]
                }
                Knock::Instance(id) => {
                    self.expect(&id);
                    match elsewhere && may_bring {
                        true => [Some(Knock::InstanceSoon(id)), None],
                        false => [Some(Knock::Instance(id)), None],
                    }
                }
                knock => [Some(knock), None],
            })
            .flatten()
            .collect()
    }

    fn expect(&mut self, id: &InstanceId) {
        // Whatever happened to it now, it is waited for anew.
        let is_awaited = self.arriving.contains_key(id);
        if is_awaited || self.arriving.len() < MAX_ARRIVING {
            self.arriving.insert(id.clone(), 0);
        }
    }

    /// Those that may be about to come here.
    pub fn arriving(&self) -> impl Iterator<Item = &InstanceId> {
        self.arriving.keys()
    }

    /// Whether an instance is neither here nor awaited, so that nobody needs to know more of it.
    pub fn is_given_up(&self, id: &InstanceId) -> bool {
        !self.here.contains(id) && !self.arriving.contains_key(id)
    }

    /// Another one of its answers was not that it is here: after which time to ask again, if at all.
    fn still_arriving(&mut self, id: &InstanceId) -> Option<Duration> {
        let times = self.arriving.get_mut(id)?;
        let pause = ARRIVAL.get(*times).copied();
        *times += 1;
        if pause.is_none() {
            self.arriving.remove(id);
        }
        pause
    }

    /// Takes in what LXD has answered; returns those that are to be asked for again because they may be about to
    /// come, each with the time after which.
    pub fn learn(&mut self, update: &Update) -> Vec<(InstanceId, Duration)> {
        match update {
            Update::Listing(listing) => {
                let unread = listing
                    .unread
                    .iter()
                    .filter_map(|unread| unread.id.as_ref());
                let listed = listing.instances.iter().map(|instance| &instance.id);
                let named: BTreeSet<&InstanceId> = listed.chain(unread).collect();
                let is_news = |id: &&InstanceId| !listing.older.contains(*id);
                let elsewhere = listing.elsewhere.ids().filter(is_news);
                for id in elsewhere.filter(|id| !named.contains(id)) {
                    self.here.remove(id);
                }
                for id in named.into_iter().filter(is_news) {
                    self.arriving.remove(id);
                    self.here.insert(id.clone());
                }
                let arriving: Vec<InstanceId> = self.arriving.keys().cloned().collect();
                let again = arriving.into_iter().filter_map(|id| {
                    let pause = self.still_arriving(&id)?;
                    Some((id, pause))
                });
                again.collect()
            }
            Update::Instance(id, Answer::There(_) | Answer::Unread(_)) => {
                self.arriving.remove(id);
                self.here.insert(id.clone());
                Vec::new()
            }
            Update::Instance(id, Answer::Gone) => {
                self.arriving.remove(id);
                self.here.remove(id);
                Vec::new()
            }
            Update::Instance(id, Answer::Elsewhere(_)) => {
                self.here.remove(id);
                let pause = self.still_arriving(id);
                let again = pause.map(|pause| (id.clone(), pause));
                again.into_iter().collect()
            }
            Update::Connected(_) | Update::Confirmed(_) | Update::Failed(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lxd::{Listing, Unread};

    fn own() -> Identity {
        Identity {
            clustered: true,
            name: "m1".into(),
        }
    }

    fn id(name: &str) -> InstanceId {
        InstanceId::of("default", name)
    }

    fn event(action: &str, location: &str, name: &str, old_name: Option<&str>) -> Event {
        let context = old_name.map(|old| format!(r#","context":{{"old_name":"{old}"}}"#));
        let text = format!(
            r#"{{"type":"lifecycle","location":"{location}","project":"default","metadata":{{"action":"{action}","name":"{name}"{}}}}}"#,
            context.unwrap_or_default()
        );
        crate::lxd::events::read(text.as_bytes())
    }

    fn unread(name: &str) -> Answer {
        Answer::Unread(Unread::because(id(name), String::new()))
    }

    fn knowing(names: &[&str]) -> Whereabouts {
        let mut all = Whereabouts::default();
        for name in names {
            all.learn(&Update::Instance(id(name), unread(name)));
        }
        all
    }

    #[test]
    fn of_other_members_only_what_concerns_known_instances_is_followed() {
        let (read, soon) = (Knock::Instance, Knock::InstanceSoon);
        for (action, location, name, old_name, wanted) in [
            ("instance-started", "m1", "new", None, vec![read(id("new"))]),
            (
                "instance-started",
                "none",
                "new",
                None,
                vec![read(id("new"))],
            ),
            ("instance-started", "m2", "new", None, vec![]),
            ("instance-updated", "m2", "new", None, vec![]),
            ("instance-paused", "m2", "new", None, vec![]),
            ("instance-renamed", "m2", "new", Some("old"), vec![]),
            (
                "instance-started",
                "m2",
                "web1",
                None,
                vec![read(id("web1"))],
            ),
            (
                "instance-deleted",
                "m2",
                "web1",
                None,
                vec![read(id("web1"))],
            ),
            (
                "instance-renamed",
                "m2",
                "new",
                Some("web1"),
                vec![read(id("new")), read(id("web1"))],
            ),
            (
                "instance-migrated",
                "m2",
                "new",
                None,
                vec![soon(id("new"))],
            ),
            (
                "instance-migrated",
                "m2",
                "web1",
                None,
                vec![read(id("web1")), soon(id("web1"))],
            ),
            (
                "instance-migrated",
                "m1",
                "web1",
                None,
                vec![read(id("web1")), soon(id("web1"))],
            ),
            ("profile-updated", "m2", "p", None, vec![Knock::Everything]),
            (
                "network-acl-updated",
                "m2",
                "a",
                None,
                vec![Knock::Everything],
            ),
            ("project-renamed", "m2", "p", None, vec![Knock::Everything]),
            (
                "cluster-member-renamed",
                "m2",
                "",
                None,
                vec![Knock::Identity],
            ),
        ] {
            let event = event(action, location, name, old_name);
            let found = knowing(&["web1"]).heed(event.clone(), Some(&own()));
            assert_eq!(found, wanted, "{event:?}");
            // Who does not know who it is follows everything.
            assert!(!knowing(&["web1"]).heed(event, None).is_empty());
        }
    }

    #[test]
    fn what_may_be_about_to_come_is_asked_about_until_it_is_here() {
        let elsewhere = || Update::Instance(id("new"), Answer::Elsewhere("m2".into()));
        let mut all = knowing(&["web1"]);
        // Nothing happened to it here.
        assert_eq!(all.learn(&elsewhere()), []);
        for (action, location) in [("instance-started", "m1"), ("instance-migrated", "m2")] {
            let event = || event(action, location, "new", None);
            assert!(!all.heed(event(), Some(&own())).is_empty());
            let ask = || all.learn(&elsewhere()).pop();
            let times: Vec<_> = std::iter::from_fn(ask).collect();
            assert_eq!(times, ARRIVAL.map(|pause| (id("new"), pause)));
            assert!(all.arriving.is_empty() && all.is_given_up(&id("new")));
        }
        all.heed(event("instance-started", "m1", "new", None), Some(&own()));
        // Meanwhile, whoever tells of it is heard.
        let other = event("instance-updated", "m2", "new", None);
        assert_eq!(all.heed(other, Some(&own())), [Knock::Instance(id("new"))]);
        all.learn(&Update::Instance(id("new"), unread("new")));
        assert!(all.arriving.is_empty() && all.here.contains(&id("new")));
        for n in 0..10_000 {
            let name = format!("c{n}");
            all.heed(event("instance-started", "m1", &name, None), Some(&own()));
        }
        assert_eq!(all.arriving.len(), MAX_ARRIVING);
        // Nobody is awaited for ever, though nothing but listings is heard of them.
        for _ in ARRIVAL {
            let again = all.learn(&Update::Listing(Listing::default()));
            assert_eq!(again.len(), MAX_ARRIVING);
        }
        assert!(all.learn(&Update::Listing(Listing::default())).is_empty());
        all.heed(event("instance-started", "m1", "late", None), Some(&own()));
        assert_eq!(Vec::from_iter(all.arriving()), [&id("late")]);
    }

    /// It takes no place of its own, and its count begins anew.
    #[test]
    fn what_is_awaited_already_is_awaited_anew() {
        let mut all = Whereabouts::default();
        let start = |name: &str| event("instance-started", "m1", name, None);
        for n in 0..MAX_ARRIVING {
            all.heed(start(&format!("c{n}")), Some(&own()));
        }
        let elsewhere = || Update::Instance(id("c0"), Answer::Elsewhere("m2".into()));
        all.learn(&elsewhere());
        all.heed(start("c0"), Some(&own()));
        assert_eq!(all.learn(&elsewhere()), [(id("c0"), ARRIVAL[0])]);
    }

    #[test]
    fn a_listing_tells_who_is_elsewhere_but_not_who_is_gone() {
        let mut all = knowing(&["moved", "both", "unnamed", "came"]);
        let mut listing = Listing::default();
        // It came after the server had begun to list.
        listing.older.insert(id("came"));
        for name in ["moved", "both", "other", "came"] {
            listing.elsewhere.add("m2".into(), Some(id(name)));
        }
        listing
            .unread
            .push(Unread::because(id("both"), String::new()));
        all.learn(&Update::Listing(listing));
        let here = ["both", "came", "unnamed"].map(id);
        assert_eq!(Vec::from_iter(all.here), here);
    }
}
