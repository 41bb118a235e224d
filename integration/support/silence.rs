//! Listening to everything the kernel tells about changes, to show that there were none. No
//! sleeping: a change of our own, seen by all listeners, marks the beginning and the end.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::world::{PATIENCE, World};

pub struct Listeners {
    children: Vec<Child>,
    files: Vec<PathBuf>,
    from: Vec<usize>,
}

const COMMANDS: [&[&str]; 3] = [
    &["ip", "monitor", "all"],
    &["bridge", "monitor", "all"],
    &["nft", "monitor"],
];
const MARK: &str = "02:ee:00:00:aa";

impl Listeners {
    pub fn new(world: &World<'_>) -> Self {
        let mut listeners = Listeners {
            children: Vec::new(),
            files: Vec::new(),
            from: Vec::new(),
        };
        for (n, command) in COMMANDS.iter().enumerate() {
            let path = world.path(&format!("monitor{n}"));
            let out = File::create(&path).expect("the directory is ours");
            let child = Command::new(command[0])
                .args(&command[1..])
                .stdin(Stdio::null())
                .stdout(out)
                .spawn();
            listeners
                .children
                .push(child.expect("the monitor can be run"));
            listeners.files.push(path);
        }
        listeners.from = listeners.mark(world, 1);
        listeners
    }

    fn texts(&self) -> Vec<String> {
        self.files
            .iter()
            .map(|path| fs::read_to_string(path).expect("the file is there"))
            .collect()
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
        all.filter(|line| !ours(line) && !announced(line) && !line.trim().is_empty())
            .map(str::to_string)
            .collect()
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
