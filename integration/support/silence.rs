//! Listening to everything the kernel tells about changes, to show that there were none. No
//! sleeping: a change of our own, seen by all listeners, marks the beginning and the end.

use std::thread;
use std::time::{Duration, Instant};

use super::listener::{self, Listener};
use super::world::{PATIENCE, World};

pub struct Listeners {
    all: Vec<Listener>,
    from: Vec<usize>,
}

const MARK: &str = "02:ee:00:00:aa";

impl Listeners {
    pub fn new(world: &World<'_>) -> Self {
        let all = listener::ALL.iter().enumerate();
        let all = all
            .map(|(n, command)| Listener::start(command, world.path(&format!("monitor{n}"))))
            .collect();
        let mut listeners = Listeners {
            all,
            from: Vec::new(),
        };
        listeners.from = listeners.mark(world, 1);
        listeners
    }

    fn texts(&self) -> Vec<String> {
        self.all.iter().map(Listener::text).collect()
    }

    /// Makes changes that name the number until every listener has heard of one.
    fn mark(&self, world: &World<'_>, number: u8) -> Vec<usize> {
        let (mac, table) = (format!("{MARK}:{number:02}"), format!("lxmark{number}"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            world.ns.sh(&format!(
                "bridge fdb add {mac} dev other0 master; bridge fdb del {mac} dev other0 master
                 nft 'add table ip {table}; delete table ip {table}'"
            ));
            let texts = self.texts();
            if texts
                .iter()
                .all(|text| text.contains(&mac) || text.contains(&table))
            {
                return texts.iter().map(String::len).collect();
            }
            assert!(
                Instant::now() < deadline,
                "the listeners hear nothing: {texts:?}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What was changed since the beginning by others than this.
    pub fn heard(self, world: &World<'_>) -> Vec<String> {
        self.mark(world, 2);
        let texts = self.texts();
        let all = texts
            .iter()
            .zip(&self.from)
            .flat_map(|(text, from)| text[*from..].lines());
        let ours =
            |line: &&str| line.contains(MARK) || line.contains("lxmark") || line.ends_with("(nft)");
        // Zebra is told again of ports that joined lately; nothing is changed by that.
        let announced = |line: &&str| {
            let again = line.contains("extern_learn") && !line.contains("Deleted");
            again && world.nics.iter().any(|nic| line.contains(&nic.mac))
        };
        // The kernel's own membership of groups, which it says in its own time; ours are permanent.
        let own = |line: &&str| line.starts_with("[MDB]") && line.contains(" temp");
        all.filter(|line| !ours(line) && !announced(line) && !own(line) && !line.trim().is_empty())
            .map(str::to_string)
            .collect()
    }
}
