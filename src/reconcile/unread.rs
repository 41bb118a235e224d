//! Instances that LXD tells of in a way that cannot be understood. Nobody knows whether they run or which
//! NICs they have: what was known of them stays in force, and they are named. Pure but for the saying.

use super::daemon::Agent;
use crate::lxd::{Instance, InstanceId, Inventory, Presence, Program, Unread};
use crate::text::{self, NAME, SENTENCE};
use std::collections::{BTreeMap, BTreeSet};

/// So many are named; the others are counted.
const NAMED: usize = 16;
/// How the subjects of complaints about them begin.
const SUBJECT: &str = "lxd entry ";

/// Those of the last listing, and of what was read since.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unreadable {
    named: BTreeMap<InstanceId, Why>,
    /// Those without a name, each by what is wrong with it.
    nameless: BTreeMap<String, usize>,
}

/// What cannot be understood of one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Why {
    text: String,
    /// It is only the access lists that it names.
    acls: bool,
}

impl Why {
    fn of(unread: &Unread) -> Self {
        Why {
            text: unread.why.clone(),
            acls: unread.but_acls.is_some(),
        }
    }
}

impl Unreadable {
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.nameless.is_empty()
    }

    /// Those of a listing. One whose project is not told is each known instance of its name, but for those
    /// that the same listing tells of well.
    pub fn of(unread: Vec<Unread>, known: &Inventory, well: &[Instance]) -> Self {
        let well: BTreeSet<&InstanceId> = well.iter().map(|instance| &instance.id).collect();
        let mut found = Unreadable::default();
        for one in unread {
            let why = Why::of(&one);
            let Some(id) = one.id else {
                *found.nameless.entry(one.why).or_default() += 1;
                continue;
            };
            if !one.of_any_project {
                found.named.insert(id, why);
                continue;
            }
            let known = known.instances.keys();
            let same: Vec<&InstanceId> = known
                .filter(|other| other.name == id.name && !well.contains(other))
                .collect();
            if same.is_empty() && well.contains(&id) {
                let text = format!("{} of a project that is not told: {}", id.name, one.why);
                *found.nameless.entry(text).or_default() += 1;
            } else if same.is_empty() {
                found.named.insert(id, why);
            } else {
                let same = same.into_iter().map(|id| (id.clone(), why.clone()));
                found.named.extend(same);
            }
        }
        found
    }

    pub fn has(&self, id: &InstanceId) -> bool {
        self.named.contains_key(id)
    }

    pub fn add(&mut self, id: InstanceId, unread: Unread) {
        self.named.insert(id, Why::of(&unread));
    }

    pub fn remove(&mut self, id: &InstanceId) {
        self.named.remove(id);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.named.len() + self.nameless.values().sum::<usize>()
    }

    /// What is wrong with each, by who it is: a bounded number of sentences.
    pub fn problems(
        &self,
        known: Option<&Inventory>,
        program: Program,
    ) -> BTreeMap<String, String> {
        let (server, program) = (program.server(), program.name());
        let named = self.named.iter().map(|(id, Why { text: why, acls })| {
            let known = known.and_then(|all| all.instances.get(id));
            let text = if *acls {
                let effect = match known.is_some_and(|known| known.presence == Presence::Up) {
                    true => "those that were known stay in force, and whichever NIC names another one lets nothing pass",
                    false => "none of its NICs is connected until they can be",
                };
                format!(
                    "instance {id}: the network ACLs that it names cannot be read ({why}); {effect}; see {program} network acl list --project {}",
                    id.project
                )
            } else {
                let effect = match known {
                    Some(_) => "what was known of it stays in force",
                    None => "none of its NICs is connected until it can be",
                };
                let command = match id.is_possible() {
                    true => format!("; see {program} info {} --project {}", id.name, id.project),
                    false => String::new(),
                };
                format!(
                    "instance {id}: what {server} says of it cannot be understood ({why}), so it is not known whether it runs; {effect}{command}"
                )
            };
            (id.to_string(), text)
        });
        let nameless = self.nameless.iter().map(|(why, count)| {
            let what = match count {
                1 => format!("an instance of {server}'s list has"),
                _ => format!("{count} instances of {server}'s list have"),
            };
            let text = format!(
                "{what} no name and project that can be read ({why}); what was known of instances stays in force; see {program} list --all-projects"
            );
            (format!("without a name: {why}"), text)
        });
        let all = named.chain(nameless);
        let shown = |(who, text): (String, String)| {
            (text::shown(&who, 4 * NAME), text::shown(&text, SENTENCE))
        };
        let mut told: BTreeMap<String, String> = all.take(NAMED).map(shown).collect();
        let more = (self.named.len() + self.nameless.len()).saturating_sub(NAMED);
        if more > 0 {
            let text = format!("{more} more instances cannot be understood either");
            told.insert("and more".into(), text);
        }
        told
    }

    /// What is wrong with the instance of that name, if it is one of them.
    pub fn about(&self, name: &str, program: Program) -> Option<String> {
        let is = |id: &&InstanceId| {
            let names = [id.to_string(), format!("{}/{}", id.project, id.name)];
            let mut names = names.iter();
            names.any(|own| {
                own == name || name.strip_prefix(own).is_some_and(|d| d.starts_with('/'))
            })
        };
        let id = self.named.keys().find(is)?;
        let one = Unreadable {
            named: [(id.clone(), self.named[id].clone())].into(),
            nameless: BTreeMap::new(),
        };
        one.problems(None, program).into_values().next()
    }
}

impl Agent {
    /// Names each, once.
    pub(super) fn say_unread(&mut self) {
        let now = self.world.unread_problems();
        let subjects: BTreeSet<String> = now.keys().map(|who| format!("{SUBJECT}{who}")).collect();
        let said = self.said.keys();
        let over = said.filter(|said| said.starts_with(SUBJECT) && !subjects.contains(*said));
        for subject in over.cloned().collect::<Vec<_>>() {
            self.say(&subject, None);
        }
        for (who, text) in now {
            self.say(&format!("{SUBJECT}{who}"), Some(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(name: &str, any: bool, why: &str) -> Unread {
        Unread {
            id: (!name.is_empty()).then(|| InstanceId::of("default", name)),
            of_any_project: any,
            why: why.into(),
            try_again: false,
            but_acls: None,
        }
    }

    #[test]
    fn so_many_are_named_and_the_others_counted() {
        let all = (0..1000).map(|n| unread(&format!("c{n:03}"), false, "bad"));
        let nameless = (0..500).map(|_| unread("", false, "no name"));
        let found = Unreadable::of(all.chain(nameless).collect(), &Inventory::default(), &[]);
        assert_eq!(found.count(), 1500);
        let told = found.problems(None, Program::Incus);
        assert_eq!(told.len(), NAMED + 1);
        assert_eq!(
            told["and more"],
            "985 more instances cannot be understood either"
        );
        assert_eq!(
            told["c000"],
            "instance c000: what Incus says of it cannot be understood (bad), so it is not known whether it runs; none of its NICs is connected until it can be; see incus info c000 --project default"
        );
    }

    #[test]
    fn what_is_named_is_escaped_and_bounded() {
        let odd = "\u{1b}[2J\n".repeat(1000);
        let found = Unreadable::of(
            vec![unread(&odd, false, "bad"), unread("", false, &odd)],
            &Inventory::default(),
            &[],
        );
        for (who, text) in found.problems(None, Program::Lxc) {
            assert!(
                text::is_visible_text(&who) && text::is_visible_text(&text),
                "{text}"
            );
            assert!(who.len() < 600 && text.len() < 700);
            assert!(!text.contains("lxc info"), "{text}");
        }
    }

    #[test]
    fn one_whose_project_is_not_told_is_each_of_that_name() {
        let mut known = Inventory::default();
        for project in ["a", "b"] {
            let json = format!(
                r#"{{"name":"c1","project":"{project}","status_code":103,"expanded_config":{{}},"expanded_devices":{{}}}}"#
            );
            let entry = serde_json::value::RawValue::from_string(json).unwrap();
            let instance = crate::lxd::inventory::read(&entry).unwrap();
            known.instances.insert(instance.id.clone(), instance);
        }
        let found = Unreadable::of(vec![unread("c1", true, "bad")], &known, &[]);
        let problems = found.problems(Some(&known), Program::Lxc);
        let who: Vec<&String> = problems.keys().collect();
        assert_eq!(who, ["a/c1", "b/c1"]);
        let text = &problems["a/c1"];
        assert!(
            text.contains("what was known of it stays in force"),
            "{text}"
        );
        assert!(found.about("a/c1/eth0", Program::Lxc).is_some());
        assert!(found.about("c1", Program::Lxc).is_none());
        let other = Unreadable::of(vec![unread("c2", true, "bad")], &known, &[]);
        assert!(other.has(&InstanceId::of("default", "c2")));
        // Those that the same listing tells of well are not meant.
        let well = |projects: &[&str]| -> Vec<Instance> {
            let all = known.instances.values();
            let all = all.filter(|one| projects.contains(&one.id.project.as_str()));
            all.cloned().collect()
        };
        for (projects, wanted) in [(&["a"][..], "b/c1"), (&["b"], "a/c1"), (&["a", "b"], "c1")] {
            let entry = vec![unread("c1", true, "bad")];
            let found = Unreadable::of(entry, &known, &well(projects));
            let problems = found.problems(Some(&known), Program::Lxc);
            assert_eq!(problems.into_keys().collect::<Vec<_>>(), [wanted]);
        }
        let mut own = well(&["a"]).remove(0);
        own.id.project = "default".into();
        let well = [&well(&["a", "b"])[..], &[own.clone()]].concat();
        known.instances.insert(own.id.clone(), own);
        let found = Unreadable::of(vec![unread("c1", true, "bad")], &known, &well);
        let problems = found.problems(Some(&known), Program::Lxc);
        let who: Vec<&String> = problems.keys().collect();
        assert_eq!(
            who,
            ["without a name: c1 of a project that is not told: bad"]
        );
        assert_eq!(found.count(), 1);
    }
}
