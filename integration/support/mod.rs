//! What privileged tests share: a fresh network namespace, programs run in it, and their JSON. The
//! truth about the kernel comes from `ip`, `bridge` and `nft`, never from our own reader.
//!
//! A test that cannot have its namespace fails.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod checks;
pub mod expected;
pub mod fake_lxd;
pub mod listener;
pub mod nft_names;
pub mod silence;
pub mod taps;
pub mod world;

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use lxmesh::kernel::rtnl::{Op, Rtnl};
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;
use serde_json::Value;

/// The network namespace of the thread it was made on. Its programs, and sockets opened on the
/// same thread, are in it.
pub struct Ns(());

/// Runs `body` on a thread in a fresh network namespace, with `lo` up. The namespace goes away
/// with the last socket in it.
pub fn in_netns<T: Send>(body: impl FnOnce(&Ns) -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: CLONE_NEWNET changes the thread's network namespace and nothing else.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap_or_else(|e| {
                panic!(
                    "this test makes network namespaces and must run as root (CAP_SYS_ADMIN): {e}"
                )
            });
            let ns = Ns(());
            ns.sh("ip link set lo up");
            body(&ns)
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Ends what was started there and still runs, such as the dnsmasq of an agent that was killed: the
/// namespace would stay as long.
impl Drop for Ns {
    fn drop(&mut self) {
        let here = fs::read_link("/proc/thread-self/ns/net").expect("a thread has a namespace");
        let own = rustix::process::getpid();
        for entry in fs::read_dir("/proc").expect("there is /proc").flatten() {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(Pid::from_raw).filter(|pid| *pid != own) else {
                continue;
            };
            if fs::read_link(entry.path().join("ns/net")).is_ok_and(|other| other == here) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Whether iproute2 shows a flag in an object: as true, or without a value (null).
pub fn is_set(object: &Value, flag: &str) -> bool {
    object.get(flag).is_some_and(|value| *value != false)
}

impl Ns {
    /// The namespace that this thread is in.
    pub fn of_this_thread() -> Self {
        Ns(())
    }

    /// Runs a shell command; its output. Panics, with what it said, if it fails.
    pub fn sh(&self, command: &str) -> String {
        self.try_sh(command)
            .unwrap_or_else(|complaint| panic!("{command}\n{complaint}"))
    }

    /// Runs a shell command; its output, or what it said to standard error when it failed.
    pub fn try_sh(&self, command: &str) -> Result<String, String> {
        let output = Command::new("sh")
            .args(["-ec", command])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .output()
            .expect("sh can be run");
        let text = |bytes| String::from_utf8(bytes).expect("programs write UTF-8");
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(format!("{}: {}", output.status, text(output.stderr)))
        }
    }

    /// The JSON that a command writes; an empty list if it writes nothing.
    pub fn json(&self, command: &str) -> Value {
        let output = self.sh(command);
        match output.trim() {
            "" => Value::Array(Vec::new()),
            text => serde_json::from_str(text).unwrap_or_else(|e| panic!("{command}: {e}\n{text}")),
        }
    }

    /// The interface index of a link.
    pub fn index(&self, link: &str) -> u32 {
        let links = self.json(&format!("ip -j link show dev {link}"));
        links[0]["ifindex"].as_u64().expect("ip gives an ifindex") as u32
    }

    /// `ip -d -j link show` of one link.
    pub fn link(&self, link: &str) -> Value {
        self.json(&format!("ip -d -j link show dev {link}"))[0].take()
    }

    /// Runs an `nft` script.
    pub fn nft(&self, script: &str) {
        self.sh(&format!("nft -f - <<'END'\n{script}\nEND"));
    }

    /// The objects that an nft list command gives, without the metainfo. `list` is what follows
    /// `nft -j`, such as `list table bridge t`.
    pub fn nft_json(&self, list: &str) -> Vec<Value> {
        let mut all = self.json(&format!("nft -j {list}"));
        let objects = all["nftables"].take();
        let Value::Array(mut objects) = objects else {
            panic!("nft -j {list} gives no list: {all}");
        };
        objects.retain(|o| o.get("metainfo").is_none());
        objects
    }
}

/// A bridge `br0` with the veth `v0` (and its free end `p0`) and `v1` (`p1`) in it, all up. They learn
/// nothing, so that only the test changes the FDB.
pub fn with_bridge(body: impl FnOnce(&Ns, &mut Rtnl) + Send) {
    in_netns(|ns| {
        ns.sh(
            "ip link add br0 type bridge mcast_snooping 1
             ip link add v0 type veth peer name p0
             ip link add v1 type veth peer name p1
             # What the kernel itself would join and report is nobody's here.
             for i in p0 p1; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done
             for i in v0 v1; do ip link set $i master br0; bridge link set dev $i learning off; ip link set $i up; done
             for i in p0 p1 br0; do ip link set $i up; done",
        );
        let mut rtnl = Rtnl::open().unwrap();
        body(ns, &mut rtnl);
    });
}

/// Makes the changes, all of which must succeed.
pub fn apply(rtnl: &mut Rtnl, ops: &[Op]) {
    for result in rtnl.apply(ops) {
        result.unwrap();
    }
}

/// The errno of a change that must fail.
pub fn errno(rtnl: &mut Rtnl, op: Op) -> Option<i32> {
    let results = rtnl.apply(std::slice::from_ref(&op));
    assert_eq!(results.len(), 1);
    results[0]
        .as_ref()
        .expect_err(&format!("{op} was done"))
        .errno()
}
