//! A virtual machine in QEMU, started as LXD and Incus do it where that matters to a NIC: a multi-queue tap that is up, made
//! beforehand, with virtio's header; the machine paused at first (Incus of August 2026: `device/nic_p2p.go`,
//! `device/device_utils_network.go`, `instance/drivers/driver_qemu.go`). Not as they do it: emulated, and without vhost,
//! which a kernel need not have.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{Guest, Host, until};
use crate::support::fake_lxd::Status;

pub struct Machine<'a> {
    host: &'a Host,
    guest: Guest,
    tap: String,
    /// Its sockets and console.
    directory: TempDir,
    qemu: Child,
}

impl<'a> Machine<'a> {
    /// QEMU has it, and has not let it run yet. One that `comes` from elsewhere waits for its memory.
    pub fn arriving(host: &'a Host, guest: &Guest, comes: bool) -> Self {
        let boots = std::env::var_os("LXMESH_GUEST");
        let boots = PathBuf::from(boots.expect("`integration/guest` makes what the guest boots"));
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let at = directory.path();
        let last: String = host.underlay.chars().rev().take(2).collect();
        let tap = format!("tap{last}{}", guest.number);
        host.sh(&format!(
            "ip tuntap add dev {tap} mode tap multi_queue; ip link set {tap} up"
        ));
        let mut qemu = host.enter();
        qemu.args(["qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu"])
            .args(["max,la57=off", "-smp", "2", "-m", "128", "-nodefaults"])
            .args(["-display", "none", "-vga", "none", "-no-reboot", "-S"])
            .arg("-kernel")
            .arg(boots.join("vmlinuz"))
            .arg("-initrd")
            .arg(boots.join("initrd"))
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 mitigations=off nowatchdog net.ifnames=0",
            ])
            .arg("-serial")
            .arg(format!("file:{}", at.join("console").display()))
            .arg("-qmp")
            .arg(format!(
                "unix:{},server=on,wait=off",
                at.join("qmp").display()
            ))
            .arg("-netdev")
            .arg(format!(
                "tap,id=eth0,ifname={tap},script=no,downscript=no,queues=2,vhost=off"
            ))
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=eth0,mq=on,vectors=6,mac={}",
                guest.mac
            ));
        if comes {
            qemu.arg("-incoming")
                .arg(format!("unix:{}", at.join("memory").display()));
        }
        let machine = Machine {
            host,
            guest: guest.clone(),
            tap,
            qemu: qemu.spawn().expect("nsenter can be run"),
            directory,
        };
        until("QEMU answers", &true, || {
            UnixStream::connect(machine.path("qmp")).is_ok()
        });
        machine.put(Status::Frozen);
        machine
    }

    /// A guest that LXD has started, and that has its addresses.
    pub fn started(host: &'a Host, guest: &Guest) -> Self {
        let machine = Self::arriving(host, guest, false);
        machine.run_on();
        machine.says("second 1");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What QEMU answers to a command of its own (QEMU's docs/interop/qmp-spec.rst).
    fn ask(&self, command: &str, arguments: &Value) -> Value {
        let mut stream = UnixStream::connect(self.path("qmp")).expect("QEMU listens");
        let mut lines = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
        let mut answer = json!({});
        for (command, arguments) in [("qmp_capabilities", &json!({})), (command, arguments)] {
            let request = json!({"execute": command, "arguments": arguments});
            writeln!(stream, "{request}").expect("QEMU reads");
            answer = loop {
                let line = lines.next().expect("QEMU answers").expect("UTF-8");
                let said: Value = serde_json::from_str(&line).expect("JSON");
                assert!(said.get("error").is_none(), "{command}: {said}");
                if let Some(answer) = said.get("return") {
                    break answer.clone();
                }
            };
        }
        answer
    }

    fn put(&self, status: Status) {
        self.host.put(&self.guest, status, &self.tap);
    }

    fn emit(&self, action: &str) {
        let name = format!("c{}", self.guest.number);
        self.host.lxd.emit(action, "default", &name);
    }

    /// It runs here from now on; LXD tells of it.
    pub fn run_on(&self) {
        self.ask("cont", &json!({}));
        self.put(Status::Running);
        self.emit("instance-started");
    }

    /// QEMU has paused it, for good, as its memory is elsewhere (`postmigrate`); LXD tells nobody.
    pub fn is_left(&self) {
        self.put(Status::Frozen);
    }

    fn console(&self) -> String {
        fs::read_to_string(self.path("console")).unwrap_or_default()
    }

    /// Waits for a line on its console, and returns the first that begins so.
    pub fn says(&self, beginning: &str) -> String {
        let find = || {
            let console = self.console();
            let line = console.lines().find(|line| line.starts_with(beginning));
            line.map(str::to_string)
        };
        until(&format!("the guest says {beginning:?}"), &true, || {
            find().is_some()
        });
        find().expect("it was there")
    }

    /// All seconds that the guest has told of here, in their order.
    pub fn seconds(&self) -> Vec<u32> {
        let console = self.console();
        let seconds = console
            .lines()
            .filter_map(|line| line.strip_prefix("second "));
        seconds
            .filter_map(|second| second.trim().parse().ok())
            .collect()
    }

    /// Begins to send its memory to one that waits for it, so many bytes a second.
    pub fn moves(&self, to: &Machine<'_>, bandwidth: u64) {
        self.ask(
            "migrate-set-parameters",
            &json!({"max-bandwidth": bandwidth}),
        );
        let uri = format!("unix:{}", to.path("memory").display());
        self.ask("migrate", &json!({"uri": uri}));
    }

    /// How far its move is: "active", "completed", "cancelled" and others.
    pub fn move_is(&self) -> String {
        let status = &self.ask("query-migrate", &json!({}))["status"];
        status.as_str().unwrap_or_default().to_string()
    }

    pub fn cancel_move(&self) {
        self.ask("migrate_cancel", &json!({}));
        until("the move is given up", &"cancelled".to_string(), || {
            self.move_is()
        });
    }

    /// LXD has it, and tells that it came.
    pub fn is_told_of(&self) {
        let path = format!("/1.0/instances/c{}", self.guest.number);
        let reads = self.host.lxd.requests(&path);
        self.emit("instance-created");
        until("the agent has read it", &true, || {
            self.host.lxd.requests(&path) > reads
        });
    }

    /// LXD says that it runs on this host, by this device, or by one of no name.
    pub fn is_said_to_run_on(&self, host: &Host, tap: &str) {
        host.put(&self.guest, Status::Running, tap);
        host.lxd.emit(
            "instance-updated",
            "default",
            &format!("c{}", self.guest.number),
        );
    }

    pub fn tap(&self) -> &str {
        &self.tap
    }

    /// QEMU ends, the tap goes, and LXD has it no more.
    pub fn delete(mut self) {
        self.end();
        let name = format!("c{}", self.guest.number);
        self.host.lxd.remove("default", &name);
        self.host.sh(&format!("ip link delete {}", self.tap));
        self.emit("instance-deleted");
    }

    /// The one that emulates is nsenter's child.
    fn end(&mut self) {
        let pid = self.qemu.id().to_string();
        let _ = Command::new("pkill").args(["-KILL", "-P", &pid]).status();
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "== console of the guest on {}\n{}",
                self.host.underlay,
                self.console()
            );
        }
        self.end();
    }
}
