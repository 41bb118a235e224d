//! Virtual machines that move while they run, as others see it: FRR, agents and taps are real. Of the guest there is
//! what answers on its tap (`guest.py`), and LXD's part is replayed as it was read in its source and in Incus'
//! (`driver_qemu.go`): the target has the machine, paused, for as long as its memory is copied; then the source
//! pauses it, the target lets it run, and the source takes it away.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::fabric::{Fabric, remote, taken_back};
use crate::host::{Guest, Host, Lines, until};
use crate::pings::Pings;
use crate::support::fake_lxd::Status;

/// A guest's tap on a host, and what answers there.
struct Machine<'a> {
    host: &'a Host,
    guest: Guest,
    tap: String,
    answers: Child,
}

impl<'a> Machine<'a> {
    /// Not running yet; LXD has it, and names a tap that nobody else's is called.
    fn arriving(host: &'a Host, guest: &Guest) -> Self {
        let last: String = host.underlay.chars().rev().take(2).collect();
        let tap = format!("tap{last}{}", guest.number);
        host.sh(&format!(
            "ip tuntap add dev {tap} mode tap multi_queue; ip link set {tap} up"
        ));
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/frr/guest.py");
        let address = format!("192.0.2.{}", guest.number);
        let mut answers = host
            .enter()
            .args(["python3", program, &tap, &guest.mac.to_string(), &address])
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter can be run");
        let out = answers.stdout.as_mut().expect("it was piped");
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line, "open\n");
        let machine = Machine {
            host,
            guest: guest.clone(),
            tap,
            answers,
        };
        machine.pause();
        machine
    }

    /// The one that answers is nsenter's child.
    fn signal(&self, signal: &str) {
        let pid = self.answers.id();
        let done = Command::new("pkill")
            .args([&format!("-{signal}"), "-P", &pid.to_string()])
            .status();
        assert!(done.expect("pkill can be run").success());
    }

    fn pause(&self) {
        self.signal("STOP");
        self.host.put(&self.guest, Status::Frozen, &self.tap);
    }

    /// It runs; LXD tells of it.
    fn start(&self) {
        self.signal("CONT");
        self.host.put(&self.guest, Status::Running, &self.tap);
        self.emit("instance-started");
    }

    fn emit(&self, action: &str) {
        let name = format!("c{}", self.guest.number);
        self.host.lxd.emit(action, "default", &name);
    }

    fn delete(self) {
        self.host
            .lxd
            .remove("default", &format!("c{}", self.guest.number));
        self.host.sh(&format!("ip link delete {}", self.tap));
        self.emit("instance-deleted");
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let pid = self.answers.id().to_string();
        let _ = Command::new("pkill").args(["-KILL", "-P", &pid]).status();
        // nsenter has stopped with its child, and would not see that end.
        let _ = self.answers.kill();
        let _ = self.answers.wait();
    }
}

/// A machine on the first host, with a container on either host that knows it.
fn with_machine(body: impl FnOnce(&Fabric, Machine<'_>, [Pings<'_>; 2], [&Guest; 3])) {
    let fabric = Fabric::new();
    let [c10, c20, vm] = [10, 20, 30].map(Guest::new);
    fabric.a.launch(&c10);
    fabric.b.launch(&c20);
    fabric.in_step(&[&c10], &[&c20]);
    let machine = Machine::arriving(&fabric.a, &vm);
    machine.start();
    until("it is known on b", &true, || {
        fabric
            .b
            .remote_fdb("vpc")
            .is_superset(&remote(fabric.a.underlay, &[&c10, &vm]))
    });
    let pings = [
        Pings::start(&fabric.a, &c10, &vm),
        Pings::start(&fabric.b, &c20, &vm),
    ];
    body(&fabric, machine, pings, [&c10, &c20, &vm]);
}

/// The target has it, and its agent has read that.
fn arrive<'a>(host: &'a Host, vm: &Guest) -> Machine<'a> {
    let target = Machine::arriving(host, vm);
    let path = format!("/1.0/instances/c{}", vm.number);
    let reads = host.lxd.requests(&path);
    target.emit("instance-created");
    until("the target's agent has read it", &true, || {
        host.lxd.requests(&path) > reads
    });
    target
}

fn two_full_looks(host: &Host) {
    let (full, _) = host.passes();
    until("two full looks", &true, || host.passes().0 >= full + 2);
}

/// FDB entries of a MAC on the ports of a host.
fn local(host: &Host, guest: &Guest) -> Lines {
    let all = host.local_fdb();
    let mac = guest.mac.to_string();
    all.into_iter().filter(|line| line.contains(&mac)).collect()
}

#[test]
fn a_machine_that_moves_while_it_runs_is_away_for_a_moment_only() {
    with_machine(|fabric, source, pings, [c10, c20, vm]| {
        let Fabric { a, b, .. } = fabric;
        let target = arrive(b, vm);
        for pings in &pings {
            pings.until_answered(pings.last());
        }
        assert_eq!(
            local(b, vm),
            Lines::new(),
            "a paused machine is not connected"
        );
        a.listen();
        // The guest runs on there. The source has it still, and tells nobody that it is paused now.
        source.pause();
        target.start();
        for pings in &pings {
            pings.until_answered(pings.last());
        }
        two_full_looks(a);
        source.delete();
        until("it is b's", &true, || {
            a.remote_fdb("vpc")
                .is_superset(&remote(b.underlay, &[c20, vm]))
        });
        assert_eq!(local(a, vm), Lines::new());
        assert_eq!(local(a, c10).len(), 1);
        for (pings, from) in pings.into_iter().zip(["its first host", "its last host"]) {
            pings.until_answered(pings.last());
            let (lost, gap) = pings.end();
            println!("moved, seen from {from}: {lost} pings lost, longest gap {gap} ms");
        }
    });
}

#[test]
fn a_move_that_fails_costs_nothing() {
    with_machine(|fabric, source, pings, [_, _, vm]| {
        let Fabric { a, b, .. } = fabric;
        a.listen();
        let before: Vec<u32> = pings.iter().map(Pings::last).collect();
        let target = arrive(b, vm);
        // In a cluster there is one record of it, which has the target's device, and then none.
        for device in [target.tap.as_str(), ""] {
            a.put(vm, Status::Running, device);
            source.emit("instance-updated");
            two_full_looks(a);
        }
        target.delete();
        two_full_looks(a);
        assert_eq!(a.heard_of(&[vm]), Vec::<String>::new());
        assert_eq!(local(a, vm).len(), 1);
        for (pings, before) in pings.into_iter().zip(before) {
            pings.until_answered(pings.last());
            let answered = pings.answered();
            let lost = answered
                .windows(2)
                .filter(|pair| pair[0] > before && pair[1] != pair[0] + 1);
            assert_eq!(lost.count(), 0, "{answered:?}");
        }
    });
}

/// As after a copy of a machine that runs, until somebody stops one of them.
#[test]
fn a_machine_that_runs_on_two_hosts_does_not_go_back_and_forth() {
    with_machine(|fabric, source, pings, [_, c20, vm]| {
        let Fabric { a, b, .. } = fabric;
        let target = arrive(b, vm);
        a.listen();
        let begun = Instant::now();
        target.start();
        until("b has it", &1, || local(b, vm).len());
        for host in [a, b] {
            two_full_looks(host);
            two_full_looks(host);
        }
        // Because LXD says that it runs here; for two minutes not once more.
        let back = taken_back(a, vm, &source.tap);
        println!("on both hosts: the first one took it back {back} times");
        assert!(back <= 1 + begun.elapsed().as_secs() / 120);
        for host in [a, b] {
            let found = host.sh("vtysh -c 'show evpn mac vni all duplicate json'");
            let found: Value = serde_json::from_str(&found).expect("JSON");
            assert!(!found.to_string().contains(&vm.mac.to_string()), "{found}");
        }
        source.delete();
        until("it is b's", &true, || {
            a.remote_fdb("vpc")
                .is_superset(&remote(b.underlay, &[c20, vm]))
        });
        for pings in pings {
            pings.until_answered(pings.last());
        }
    });
}
