//! A host to run the agent on: two networks' bridges and tunnels, strangers beside them, a fake
//! LXD, instances with real veths, and the real `lxmesh agent` as a process. What should be there is
//! worked out here anew, from what the documents say, and compared with what `ip`, `bridge` and
//! `nft` show; nothing is asked of the agent's own code.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Ns;
use super::fake_lxd::{FakeLxd, Instance, Status, keys};

/// For things that take milliseconds, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One NIC that should be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    pub project: String,
    pub instance: String,
    pub device: String,
    pub network: &'static str,
    pub port: String,
    pub mac: String,
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
    /// `tcp/80` and so on.
    pub in_services: Vec<String>,
    pub out_services: Vec<String>,
    pub mark: u16,
    /// `user.lxmesh.limits.*` of the device.
    pub limits: BTreeMap<&'static str, u32>,
    /// `user.lxmesh.audit` and `user.lxmesh.log_drops` of the device, as they are written.
    pub audit: Option<&'static str>,
    pub log_drops: Option<&'static str>,
}

pub struct World<'a> {
    pub ns: &'a Ns,
    pub directory: tempfile::TempDir,
    pub lxd: FakeLxd,
    /// What should be connected.
    pub nics: Vec<Nic>,
    /// Where the host file has hosts of the fabric.
    pub fabric: Vec<&'static str>,
    /// Elements of what the host file opens of the fabric's hosts.
    pub fabric_services: Vec<&'static str>,
    /// Where the other ends of veths live.
    peers: Child,
    agent: Option<Child>,
    starts: usize,
    pub made: usize,
    /// The program under test.
    pub program: PathBuf,
    /// What runs it.
    pub wrapper: Vec<String>,
    pub environment: BTreeMap<String, String>,
}

pub struct Network {
    pub name: &'static str,
    pub vni: u32,
    pub table: u32,
    pub v4: &'static str,
    pub v6: &'static str,
}

pub const NETWORKS: [Network; 2] = [
    Network {
        name: "vpc",
        vni: 100,
        table: 254,
        v4: "192.0.2.",
        v6: "2001:db8::",
    },
    Network {
        name: "dmz",
        vni: 200,
        table: 1200,
        v4: "198.51.100.",
        v6: "2001:db8:2::",
    },
];

pub fn network(name: &str) -> &'static Network {
    NETWORKS
        .iter()
        .find(|network| network.name == name)
        .expect("a network of the tests")
}

/// Cargo names it to tests, not to the benchmark, which shares this file and makes no world.
fn built_program() -> PathBuf {
    match option_env!("CARGO_BIN_EXE_lxmesh") {
        Some(program) => program.into(),
        None => panic!("tests are built with the program"),
    }
}

/// The host file; the lists of `extra` lines go into `[agent]`.
fn host_file(directory: &Path, interval_s: u32) -> String {
    let at = directory.display();
    let mut text = format!(
        "version = 1\n[fabric]\nname = \"test\"\nasn = 64500\nreflectors = [\"203.0.113.100\"]\n\
         supervisors = [\"203.0.113.0/24\"]\nunprotected_tags = true\n[lxd]\nsocket = \"{at}/lxd.sock\"\n\
         [agent]\ncontrol_socket = \"{at}/control.sock\"\nreload_interval_s = {interval_s}\n\
         [dhcp]\ndirectory = \"{at}/dnsmasq\"\n[tags]\nweb = 0\nbastion = 3\n"
    );
    for Network {
        name,
        vni,
        table,
        v4,
        v6,
    } in NETWORKS
    {
        let routes = if table == 254 {
            "\"main\"".into()
        } else {
            table.to_string()
        };
        text.push_str(&format!(
            "[[network]]\nname = \"{name}\"\nvni = {vni}\ngateway = [\"{v4}1/24\", \"{v6}1/64\"]\nhost_routes = {routes}\n"
        ));
    }
    text
}

/// Shell commands that make a network's devices, as systemd-networkd would.
pub fn network_devices(name: &str) -> String {
    let Network { vni, v4, v6, .. } = network(name);
    format!(
        "ip link add svi-{name} address 02:00:00:00:00:{vni:02x} type bridge forward_delay 0
         ip link add vxlan-{name} type vxlan id {vni} dstport 4789 local 203.0.113.1 nolearning gbp
         ip link set vxlan-{name} master svi-{name} up
         ip link set svi-{name} up
         ip address add {v4}1/24 dev svi-{name}
         ip address add {v6}1/64 dev svi-{name} nodad"
    )
}

/// Things of others that nobody must touch, and a question whose answer must stay the same.
const STRANGERS: &str = "
    # Its ports forward at once: half a minute later would be heard as a change.
    ip link add br-other address 02:ee:00:00:00:10 type bridge forward_delay 0
    ip link add vxlan-other type vxlan id 900 dstport 4790 local 203.0.113.1
    ip link set vxlan-other master br-other up
    ip link add other0 type veth peer name other1
    # Reports of the kernel's own groups would be heard as changes.
    for i in other0 other1 br-other; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6; done
    ip link set other0 master br-other up
    ip link set other1 up
    ip link set br-other up
    bridge fdb add 02:ee:00:00:00:01 dev other0 master extern_learn
    bridge fdb add 02:ee:00:00:00:02 dev vxlan-vpc master extern_learn
    bridge fdb append 00:00:00:00:00:00 dev vxlan-vpc dst 203.0.113.2 self
    ip neighbour add 192.0.2.200 lladdr 02:ee:00:00:00:02 dev svi-vpc nud noarp extern_learn protocol zebra
    ip neighbour add 192.0.2.201 lladdr 02:ee:00:00:00:03 dev svi-vpc nud permanent protocol static
    ip route add 192.0.2.202/32 dev svi-vpc protocol static
    ip route add 198.18.0.0/15 dev svi-vpc protocol zebra
    ip route add 192.0.2.203/32 dev svi-dmz protocol static table 1200
    nft add table bridge theirs
    nft add set bridge theirs ports '{ type ifname; elements = { \"a\" }; }'
    nft add chain bridge theirs c '{ type filter hook forward priority 0; }'
    nft add rule bridge theirs c accept
    nft add table inet theirs";
const ASK_STRANGERS: &str = "
    for i in br-other vxlan-other other0; do ip -o -d link show $i | sed 's/[a-z_]*_timer *[0-9.]*//g'; done
    bridge fdb show br br-other | grep 02:ee
    bridge fdb show dev vxlan-vpc | grep 02:ee:00:00:00:02
    bridge fdb show dev vxlan-vpc | grep 00:00:00:00:00:00
    ip neighbour show dev svi-vpc | grep 02:ee
    ip route show table all protocol static; ip route show table all protocol zebra
    nft list table bridge theirs; nft list table inet theirs";

impl<'a> World<'a> {
    /// With networks and strangers, without instances. A full pass comes only after an hour: what
    /// is put right was noticed.
    pub fn new(ns: &'a Ns) -> Self {
        Self::with_interval(ns, 3600)
    }

    pub fn with_interval(ns: &'a Ns, interval_s: u32) -> Self {
        let world = Self::bare(ns, interval_s);
        for Network { name, .. } in NETWORKS {
            world.ns.sh(&network_devices(name));
        }
        world.ns.sh(STRANGERS);
        world.strangers();
        world
    }

    /// Without networks and strangers.
    pub fn bare(ns: &'a Ns, interval_s: u32) -> Self {
        super::checks::load_privately();
        let directory = tempfile::tempdir().expect("a temporary directory");
        // dnsmasq and agents without root have to get in.
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), open).expect("it is ours");
        // Without duplicate address detection, nothing changes by itself a second later.
        ns.sh(
            "sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
               ip address add 203.0.113.1/32 dev lo",
        );
        let peers = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "sysctl -qw net.ipv6.conf.default.disable_ipv6=1; echo; exec sleep 3600",
            ])
            .stdout(Stdio::piped())
            .spawn();
        let mut peers = peers.expect("unshare can be run");
        let mut byte = [0];
        let out = peers.stdout.as_mut().expect("it was piped");
        std::io::Read::read_exact(out, &mut byte).expect("the peers' namespace is there");
        let lxd = FakeLxd::start(&directory.path().join("lxd.sock"));
        let world = World {
            ns,
            lxd,
            nics: Vec::new(),
            fabric: vec!["203.0.113.0/24"],
            fabric_services: Vec::new(),
            peers,
            agent: None,
            starts: 0,
            made: 0,
            program: built_program(),
            wrapper: Vec::new(),
            environment: BTreeMap::from([("LXMESH_TEST_SETS_ONLY".into(), "1".into())]),
            directory,
        };
        world.write_host_file(&host_file(world.directory.path(), interval_s));
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn host_file(&self) -> String {
        fs::read_to_string(self.path("host.toml")).expect("the host file is there")
    }

    pub fn write_host_file(&self, text: &str) {
        fs::write(self.path("host.toml"), text).expect("the directory is ours");
    }

    /// How the strangers are.
    pub fn strangers(&self) -> Vec<String> {
        self.ns
            .sh(ASK_STRANGERS)
            .lines()
            .map(str::to_string)
            .collect()
    }

    /// Fails if the strangers are not as they were.
    pub fn strangers_are(&self, before: &[String]) {
        let now = self.strangers();
        let gone = before
            .iter()
            .filter(|line| !now.contains(line))
            .map(|line| format!("- {line}"));
        let new = now
            .iter()
            .filter(|line| !before.contains(line))
            .map(|line| format!("+ {line}"));
        let all: Vec<String> = gone.chain(new).collect();
        assert!(
            all.is_empty(),
            "strangers were touched:\n{}",
            all.join("\n")
        );
    }

    // Instances.

    /// A NIC of a new number, not yet anywhere.
    pub fn nic(&mut self, instance: &str, network_name: &'static str) -> Nic {
        self.made += 1;
        let n = self.made + 9;
        let Network { v4, v6, .. } = network(network_name);
        Nic {
            project: "default".into(),
            instance: instance.into(),
            device: "eth0".into(),
            network: network_name,
            port: format!("veth{n:08x}"),
            mac: format!("00:16:3e:00:00:{n:02x}"),
            ipv4: Some(format!("{v4}{n}")),
            ipv6: Some(format!("{v6}{n:x}")),
            in_services: vec!["tcp/80".into(), "udp/53".into()],
            out_services: vec!["sctp/2905".into(), "tcp/443".into()],
            mark: 0,
            limits: BTreeMap::new(),
            audit: None,
            log_drops: None,
        }
    }

    /// A running instance with one NIC; LXD tells of it.
    pub fn launch(&mut self, instance: &str, network_name: &'static str) -> Nic {
        let nic = self.nic(instance, network_name);
        self.run(&nic);
        nic
    }

    /// Gives the instance its device and the NIC, runs it, and has LXD tell of it.
    pub fn run(&mut self, nic: &Nic) {
        self.plug(nic);
        self.start_in_lxd(nic);
    }

    /// Runs the instance of a NIC that has its device, and has LXD tell of it.
    pub fn start_in_lxd(&mut self, nic: &Nic) {
        self.set(nic, Status::Running);
        self.expect(nic);
        self.lxd
            .emit("instance-started", &nic.project, &nic.instance);
    }

    /// Makes the veth.
    pub fn plug(&self, nic: &Nic) {
        let (port, peers) = (&nic.port, self.peers.id());
        self.ns.sh(&format!(
            "ip link add {port} type veth peer name {port}p netns {peers}"
        ));
        self.in_peers(&format!("ip link set {port}p address {} up", nic.mac));
    }

    /// Runs a command where the instances' ends of the veths are.
    pub fn in_peers(&self, command: &str) {
        self.ask_peers(command);
    }

    /// The same; what it prints.
    pub fn ask_peers(&self, command: &str) -> String {
        let peers = self.peers.id();
        self.ns.sh(&format!("nsenter -t {peers} -n {command}"))
    }

    /// A process in the network namespace where the instances' ends of the veths are.
    pub fn peers(&self) -> u32 {
        self.peers.id()
    }

    pub fn unplug(&self, nic: &Nic) {
        self.ns.sh(&format!("ip link delete {}", nic.port));
    }

    /// What LXD knows of the NIC's instance. Tells nobody.
    pub fn set(&self, nic: &Nic, status: Status) {
        let mut instance = Instance::new(&nic.instance);
        instance.project = nic.project.clone();
        instance.status = status;
        self.add_device(&mut instance, nic);
        self.lxd.put(instance);
    }

    pub fn add_device(&self, instance: &mut Instance, nic: &Nic) {
        let mut device = keys(&[
            ("name", &nic.device),
            ("nictype", "p2p"),
            ("type", "nic"),
            ("user.lxmesh.parent", nic.network),
            ("user.lxmesh.in_services", &nic.in_services.join(", ")),
        ]);
        for (key, address) in [("ipv4", &nic.ipv4), ("ipv6", &nic.ipv6)] {
            if let Some(address) = address {
                device.insert(format!("user.lxmesh.{key}.address"), address.clone());
            }
        }
        let tags: Vec<&str> = [(1, "web"), (8, "bastion")]
            .iter()
            .filter(|(bit, _)| nic.mark & bit != 0)
            .map(|(_, tag)| *tag)
            .collect();
        device.insert("user.lxmesh.tags".into(), tags.join(" "));
        for (name, limit) in &nic.limits {
            device.insert(format!("user.lxmesh.limits.{name}"), limit.to_string());
        }
        for (name, text) in [("audit", nic.audit), ("log_drops", nic.log_drops)] {
            if let Some(text) = text {
                device.insert(format!("user.lxmesh.{name}"), text.into());
            }
        }
        let Nic {
            device: name,
            port,
            mac,
            ..
        } = nic;
        instance
            .config
            .insert(format!("volatile.{name}.host_name"), port.clone());
        instance
            .config
            .insert(format!("volatile.{name}.hwaddr"), mac.clone());
        instance.config.insert(
            "user.lxmesh.out_services".into(),
            nic.out_services.join(" "),
        );
        instance.devices.insert(name.clone(), device);
    }

    /// From now on this NIC should be connected, so.
    pub fn expect(&mut self, nic: &Nic) {
        self.forget(nic);
        self.nics.push(nic.clone());
    }

    /// From now on nothing of this NIC should be there.
    pub fn forget(&mut self, nic: &Nic) {
        let same = |other: &Nic| {
            (&other.project, &other.instance, &other.device)
                == (&nic.project, &nic.instance, &nic.device)
        };
        self.nics.retain(|other| !same(other));
    }

    // The agent.

    /// A command of the program under test, with this world's host file.
    pub fn lxmesh(&self, arguments: &[&str]) -> Command {
        let mut line: Vec<OsString> = self.wrapper.iter().map(OsString::from).collect();
        line.push(self.program.clone().into());
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .args(arguments)
            .arg("--host-file")
            .arg(self.path("host.toml"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(std::env::var_os("LXMESH_LOG").map(|level| ("LXMESH_LOG", level)))
            .envs(&self.environment)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        self.lxmesh(arguments)
            .output()
            .expect("the program can be run")
    }

    /// Starts the agent; its log goes to a new file.
    pub fn start(&mut self) {
        assert!(self.agent.is_none(), "the agent is running");
        self.starts += 1;
        let log =
            File::create(self.path(&format!("log{}", self.starts))).expect("the directory is ours");
        let agent = self.lxmesh(&["agent"]).stderr(log).spawn();
        self.agent = Some(agent.expect("the program can be run"));
    }

    pub fn pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent was started").id()
    }

    pub fn signal(&self, signal: &str) {
        self.ns.sh(&format!("kill -{signal} {}", self.pid()));
    }

    /// Ends the agent without a warning.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Waits for the agent to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.until("the agent ends", |world| {
            world
                .agent
                .as_mut()
                .expect("the agent was started")
                .try_wait()
                .expect("it is our child")
        });
        self.agent = None;
        status
    }

    /// Whether the agent has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let Some(agent) = &mut self.agent else {
            return true;
        };
        let ended = agent.try_wait().expect("it is our child").is_some();
        if ended {
            self.agent = None;
        }
        ended
    }

    /// SIGTERM, and a clean end.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// What the agent has logged since it was last started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path(&format!("log{}", self.starts))).unwrap_or_default()
    }

    /// Lines of the log that contain the text.
    pub fn logged(&self, text: &str) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| line.contains(text))
            .map(str::to_string)
            .collect()
    }

    pub fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.output(&["status", "--json"]).stdout).ok()
    }

    /// Polls until there is an answer.
    pub fn until<T>(&mut self, what: &str, mut ask: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain: {what}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(30));
        }
    }

    pub fn until_logged(&mut self, text: &str) {
        self.until(&format!("a log line with {text:?}"), |world| {
            (!world.logged(text).is_empty()).then_some(())
        });
    }

    /// Waits until everything is as it should be.
    pub fn in_step(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let differences = self.differences();
            if differences.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "not in step:\n{}\n{}",
                differences.join("\n"),
                self.log()
            );
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// While the agent looks away, breaks something, which must be seen; then waits until it has
    /// been put right.
    pub fn repairs(&mut self, damage: &str) {
        self.signal("STOP");
        self.ns.sh(damage);
        let differences = self.differences();
        assert!(!differences.is_empty(), "no harm done: {damage}");
        self.signal("CONT");
        self.in_step();
    }

    /// A started agent that has done all it has to.
    pub fn started(mut self) -> Self {
        self.start();
        self.in_step();
        self
    }

    /// A whole round of events through LXD and back: all that was asked for before has been
    /// looked at after it. Adds an instance of no consequence.
    pub fn settle(&mut self) {
        let nic = self.launch(&format!("settle{}", self.made), "vpc");
        self.in_step();
        self.lxd.remove("default", &nic.instance);
        self.unplug(&nic);
        self.forget(&nic);
        self.lxd.emit("instance-deleted", "default", &nic.instance);
        self.in_step();
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.kill();
        let _ = self.peers.kill();
        let _ = self.peers.wait();
    }
}
