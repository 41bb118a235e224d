//! A program that prints what the kernel tells of changes, and what it has printed so far.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Together they hear of every change that the agent can make in the kernel.
pub const ALL: [&[&str]; 3] = [
    &["ip", "monitor", "all"],
    &["bridge", "monitor", "all"],
    &["nft", "monitor"],
];

/// Runs until it is dropped.
pub struct Listener {
    child: Child,
    path: PathBuf,
}

impl Listener {
    /// It may not hear yet when this returns.
    pub fn start(command: &[&str], path: PathBuf) -> Self {
        let out = File::create(&path).expect("the directory is ours");
        let child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(out)
            .spawn()
            .expect("the monitor can be run");
        Self { child, path }
    }

    pub fn text(&self) -> String {
        fs::read_to_string(&self.path).expect("the file is there")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
