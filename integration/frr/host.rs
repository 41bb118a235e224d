//! One host of the fabric: its namespaces, devices, FRR, fake LXD and agent; instances on it; and
//! what the kernel and BGP hold there, as comparable lines of text.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lxmesh::addr::Mac;
use lxmesh::generate::{self, LocalFacts};
use lxmesh::host;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::fake_lxd::{FakeLxd, Instance, Status, keys};

/// For things that take a second or ten, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// Appended to the example fleet's file: where things are for this test. Full passes come often.
const TEST_KEYS: &str = "
[lxd]
socket = \"/run/test/lxd.sock\"

[agent]
reload_interval_s = 5

[dhcp]
enabled = false
";

/// Makes a host of fresh namespaces: nothing of the machine's `/run` or FRR configuration.
const FURNISH: &str = "
mount -t tmpfs tmpfs /run
mkdir /run/test /run/frr /run/netns /run/lxmesh
mount --bind $HOST_DIRECTORY /run/test
# Nothing of the machine's own is written.
cp -a /etc /run/etc
mount --bind /run/etc /etc
mount --bind /run/test/etc/frr /etc/frr
chown -R frr:frr /etc/frr /run/frr
ip link set lo up
sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv6.conf.all.forwarding=1
echo
# Ends, and all processes of the host with it, when the test's end of the pipe does.
exec cat >/dev/null";

/// The network that the instances are in, and one that has none.
pub const NETWORKS: [(&str, u32); 2] = [("vpc", 100), ("blue", 200)];

pub type Lines = BTreeSet<String>;

/// A host of the fabric.
pub struct Host {
    directory: TempDir,
    pub underlay: &'static str,
    /// First process of its namespaces; they all die with it.
    holder: Child,
    pub lxd: FakeLxd,
    agent: Option<Child>,
}

/// An instance with one NIC in `vpc`.
#[derive(Clone, Debug)]
pub struct Guest {
    pub number: u8,
    pub mac: Mac,
}

impl Host {
    pub fn new(underlay: &'static str) -> Self {
        Self::of_fleet(underlay, |file| file)
    }

    /// A host of the example fleet with something changed in its host file.
    pub fn of_fleet(underlay: &'static str, change: impl Fn(String) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let fleet = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/integration/golden/fleets/lab/host.toml"
        );
        let text = change(fs::read_to_string(fleet).unwrap() + TEST_KEYS);
        fs::write(at.join("host.toml"), text).unwrap();
        let file = host::load(&at.join("host.toml")).unwrap_or_else(|error| panic!("{error}"));
        let facts = LocalFacts::of(underlay.parse().unwrap());
        for output in generate::render(&file, &facts).unwrap() {
            let path = at.join(output.path.strip_prefix("/").unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, output.contents).unwrap();
        }
        Self::furnish(directory, underlay)
    }

    /// A host that is not of the fleet: only FRR, with this configuration.
    pub fn outside(underlay: &'static str, conf: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let frr = directory.path().join("etc/frr");
        fs::create_dir_all(&frr).unwrap();
        fs::write(frr.join("frr.conf"), conf).unwrap();
        let daemons = "frr_profile=traditional\nmgmtd_options=\nzebra_options=\nbgpd_options=\n";
        fs::write(frr.join("daemons"), daemons).unwrap();
        Self::furnish(directory, underlay)
    }

    fn furnish(directory: TempDir, underlay: &'static str) -> Self {
        let at = directory.path();
        fs::write(at.join("etc/frr/vtysh.conf"), "").unwrap();
        let mut holder = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--propagation=private",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["--mount-proc", "sh", "-euc", FURNISH])
            .env("HOST_DIRECTORY", at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be run");
        let out = holder.stdout.as_mut().expect("it was piped");
        out.read_exact(&mut [0])
            .expect("the host is furnished; needs root and FRR");
        let lxd = FakeLxd::start(&at.join("lxd.sock"));
        Host {
            directory,
            underlay,
            holder,
            lxd,
            agent: None,
        }
    }

    /// The first process inside, as the test's own namespace numbers it: `unshare`'s only child.
    pub fn pid(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.holder.id());
        fs::read_to_string(children)
            .unwrap()
            .trim()
            .parse()
            .expect("unshare has one child")
    }

    pub fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--net",
                "--mount",
                "--pid",
                "--target",
                &self.pid().to_string(),
            ])
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin:/usr/lib/frr")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell script on the host; its output. Panics, with what it said, if it fails.
    pub fn sh(&self, script: &str) -> String {
        run(self.enter().args(["timeout", "120", "sh", "-euc", script]))
    }

    fn json(&self, command: &str) -> Value {
        let text = self.sh(command);
        let text = if text.trim().is_empty() { "[]" } else { &text };
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{command}: {error}\n{text}"))
    }

    fn list(&self, command: &str) -> Vec<Value> {
        let Value::Array(list) = self.json(command) else {
            panic!("{command} gives no list")
        };
        list
    }

    /// Starts FRR's daemons as its service does: options from `daemons`, then one configuration. Where there is mgmtd it
    /// runs before the others, and keeps its standard output open.
    pub fn start_frr(&self, daemons: &str) {
        self.sh(&format!(
            ". /etc/frr/daemons
             mgmtd=; [ ! -x /usr/lib/frr/mgmtd ] || kill -0 $(cat /run/frr/mgmtd.pid 2>/dev/null) 2>/dev/null || mgmtd=mgmtd
             for daemon in $mgmtd {daemons}; do
                 eval options=\\$${{daemon}}_options
                 $daemon -d -F $frr_profile $options --log file:/run/frr/$daemon.log >/dev/null 2>/run/frr/$daemon.err ||
                     {{ cat /run/frr/$daemon.err >&2; exit 1; }}
             done
             vtysh -b >&2"
        ));
    }

    /// Ends daemons with a signal; returns when they are gone.
    pub fn stop_frr(&self, signal: &str, daemons: &str) {
        self.sh(&format!(
            "for daemon in {daemons}; do
                 pid=$(cat /run/frr/$daemon.pid)
                 kill -{signal} $pid
                 while grep -qs '^State:.[^Z]' /proc/$pid/status; do sleep 0.05; done
             done"
        ));
    }

    pub fn signal_frr(&self, signal: &str, daemon: &str) {
        self.sh(&format!("kill -{signal} $(cat /run/frr/{daemon}.pid)"));
    }

    /// The supervisor's bridges and tunnels, as networkd would make them of the generated files.
    pub fn make_devices(&self) {
        for (name, vni) in NETWORKS {
            let netdev = format!("etc/systemd/network/10-lxmesh-svi-{name}.netdev");
            let netdev = fs::read_to_string(self.directory.path().join(netdev)).unwrap();
            let mac = netdev
                .lines()
                .find_map(|line| line.strip_prefix("MACAddress="))
                .unwrap();
            let (v4, v6) = if name == "vpc" {
                ("192.0.2", "2001:db8:")
            } else {
                ("203.0.113", "2001:db8:b:")
            };
            self.sh(&format!(
                "ip link add svi-{name} address {mac} type bridge mcast_snooping 1
                 ip link add vxlan-{name} type vxlan id {vni} dstport 4789 local {} nolearning gbp
                 ip link set vxlan-{name} master svi-{name}
                 bridge link set dev vxlan-{name} learning off neigh_suppress on flood off mcast_flood off
                 ip link set vxlan-{name} addrgenmode none up
                 ip link set svi-{name} up
                 ip address add {v4}.1/24 dev svi-{name} scope host noprefixroute
                 ip route add {v4}.0/24 dev svi-{name} scope link
                 ip address add {v6}:1/64 dev svi-{name} nodad preferred_lft 0",
                self.underlay
            ));
        }
    }

    pub fn start_agent(&mut self) {
        let log = fs::File::create(self.directory.path().join("agent.log")).unwrap();
        self.sh(concat!(env!("CARGO_BIN_EXE_lxmesh"), " prepare"));
        let mut command = self.enter();
        command
            .args([
                env!("CARGO_BIN_EXE_lxmesh"),
                "--host-file",
                "/run/test/host.toml",
                "agent",
            ])
            .env("LXMESH_TEST_SETS_ONLY", "1")
            .env_remove("JOURNAL_STREAM")
            .stderr(log);
        self.agent = Some(command.spawn().expect("nsenter can be run"));
    }

    /// What the agent says of itself. It exits with 2 if it is not in step.
    pub fn status(&self) -> Value {
        let lxmesh = env!("CARGO_BIN_EXE_lxmesh");
        self.json(&format!(
            "{lxmesh} --host-file /run/test/host.toml status --json || [ $? = 2 ]"
        ))
    }

    /// Full passes of the agent, and changes it has made, so far.
    pub fn passes(&self) -> (u64, u64) {
        let passes = &self.status()["passes"];
        (
            passes["full"].as_u64().unwrap(),
            passes["changes"].as_u64().unwrap(),
        )
    }

    pub fn launch(&self, guest: &Guest) {
        let Guest { number, mac } = guest;
        self.sh(&format!(
            "ip netns add c{number}
             ip link add veth{number} type veth peer name eth0 address {mac} netns c{number}
             ip -n c{number} address add 192.0.2.{number}/24 dev eth0
             ip -n c{number} link set eth0 up"
        ));
        self.tell(guest, Status::Running, "instance-started");
    }

    pub fn stop(&self, guest: &Guest) {
        self.tell(guest, Status::Stopped, "instance-stopped");
    }

    fn tell(&self, guest: &Guest, status: Status, action: &str) {
        self.put(guest, status, &format!("veth{}", guest.number));
        let name = format!("c{}", guest.number);
        self.lxd.emit(action, "default", &name);
    }

    /// From now on LXD says so of the guest, whose device this is. Tells nobody.
    pub fn put(&self, guest: &Guest, status: Status, device_name: &str) {
        let Guest { number, mac } = guest;
        let mut instance = Instance::new(&format!("c{number}"));
        instance.status = status;
        let device = keys(&[
            ("name", "eth0"),
            ("nictype", "p2p"),
            ("type", "nic"),
            ("user.lxmesh.parent", "vpc"),
            ("user.lxmesh.ipv4.address", &format!("192.0.2.{number}")),
            ("user.lxmesh.ipv6.address", &format!("2001:db8::{number}")),
        ]);
        instance.devices.insert("eth0".into(), device);
        instance
            .config
            .insert("volatile.eth0.host_name".into(), device_name.into());
        instance
            .config
            .insert("volatile.eth0.hwaddr".into(), mac.to_string());
        self.lxd.put(instance);
    }

    /// FDB entries on the ports of instances, without those that the kernel made for the port.
    pub fn local_fdb(&self) -> Lines {
        let all = self.list("bridge -j fdb show br svi-vpc");
        let local = all
            .iter()
            .filter(|e| {
                ["veth", "tap"]
                    .iter()
                    .any(|own| text(&e["ifname"]).starts_with(own))
            })
            .filter(|e| e["state"] != "permanent");
        local
            .map(|e| {
                format!(
                    "{} {} {}",
                    text(&e["mac"]),
                    text(&e["ifname"]),
                    text(&e["flags"][0])
                )
            })
            .collect()
    }

    /// FDB entries on the tunnel, of the bridge (`master`) and of the VXLAN device (`self`), without
    /// those that the kernel made for the tunnel itself.
    pub fn remote_fdb(&self, network: &str) -> Lines {
        let all = self.list(&format!("bridge -j fdb show dev vxlan-{network}"));
        let remote = all
            .iter()
            .filter(|e| e["state"] != "permanent" || e["dst"].is_string());
        remote
            .map(|e| match e["dst"].as_str() {
                Some(dst) => format!("{} dst {dst}", text(&e["mac"])),
                None => format!("{} {}", text(&e["mac"]), text(&e["flags"][0])),
            })
            .collect()
    }

    /// Neighbours on the SVI that a program has made.
    pub fn neighbours(&self, protocol: &str) -> Lines {
        let all = self.list("ip -j neighbour show dev svi-vpc nud all");
        let made = all
            .iter()
            .filter(|e| e["protocol"].as_str() == Some(protocol));
        made.map(|e| {
            let state = text(&e["state"][0]);
            let learned = if e.get("extern_learn").is_some_and(|value| *value != false) {
                " extern_learn"
            } else {
                ""
            };
            format!(
                "{} {} {state}{learned}",
                text(&e["dst"]),
                text(&e["lladdr"])
            )
        })
        .collect()
    }

    /// Whether the packet filter has been told of a tunnel end point.
    pub fn lets_in(&self, vtep: &str) -> bool {
        let set = self.sh("nft list set inet lxmesh_host vteps4");
        set.contains(&format!("{vtep} comment"))
    }

    /// Writes down from now on what is done to neighbours and FDB entries.
    pub fn listen(&self) {
        until("nothing more to announce", &json!(0), || {
            self.status()["passes"]["announcements"].clone()
        });
        self.sh("(exec ip monitor neigh >/run/test/neigh 2>&1 </dev/null) &
                 (exec bridge monitor fdb >/run/test/fdb 2>&1 </dev/null) &");
        self.mark("02:ee:00:00:01:01");
    }

    /// What was done to the entries of guests since. Counters and timers are not in it.
    pub fn heard_of(&self, guests: &[&Guest]) -> Vec<String> {
        self.mark("02:ee:00:00:01:02");
        let all = self.sh("cat /run/test/neigh /run/test/fdb");
        let of_guest = |line: &&str| {
            guests
                .iter()
                .any(|guest| line.contains(&guest.mac.to_string()))
        };
        all.lines().filter(of_guest).map(str::to_string).collect()
    }

    /// Makes changes that nobody minds until both listeners have heard of them.
    fn mark(&self, mac: &str) {
        until("the listeners hear", &true, || {
            self.sh(&format!(
                "ip neighbour replace 198.51.100.250 lladdr {mac} dev underlay nud permanent
                 ip neighbour del 198.51.100.250 dev underlay
                 bridge fdb replace {mac} dev underlay self
                 bridge fdb del {mac} dev underlay self"
            ));
            ["neigh", "fdb"]
                .iter()
                .all(|file| self.sh(&format!("cat /run/test/{file}")).contains(mac))
        });
    }

    /// What BGP has learned of a family, as "PREFIX via NEXT-HOP".
    pub fn unicast(&self, family: &str) -> Lines {
        let table = self.json(&format!("vtysh -c 'show bgp {family} unicast json'"));
        let routes = table["routes"].as_object().cloned().unwrap_or_default();
        routes
            .iter()
            .map(|(prefix, paths)| {
                let hops = paths[0]["nexthops"].as_array().expect("next hops");
                let hop = hops.iter().find(|hop| hop["scope"] != "link-local");
                format!("{prefix} via {}", text(&hop.expect("one of them")["ip"]))
            })
            .collect()
    }

    /// All EVPN routes of a type that BGP has, without their distinguishers.
    pub fn routes(&self, kind: u8) -> Vec<String> {
        let table = self.json("vtysh -c 'show bgp l2vpn evpn route json'");
        let all = table.as_object().expect("a table").values();
        let prefixes = all
            .filter_map(Value::as_object)
            .flat_map(|of_one| of_one.keys());
        let mut routes: Vec<_> = prefixes
            .filter(|p| p.starts_with(&format!("[{kind}]")))
            .cloned()
            .collect();
        routes.sort();
        routes
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("agent.log"));
            eprintln!("== agent on {}\n{}", self.underlay, log.unwrap_or_default());
        }
        // Closes the pipe that keeps the first process, and takes the whole tree along.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.wait();
        }
    }
}

impl Guest {
    pub fn new(number: u8) -> Self {
        Guest {
            number,
            mac: Mac([0x00, 0x16, 0x3e, 0, 0, number]),
        }
    }

    pub fn addresses(&self) -> [String; 3] {
        let n = self.number;
        [
            format!("192.0.2.{n}"),
            format!("2001:db8::{n}"),
            self.mac.eui64_link_local().to_string(),
        ]
    }

    /// Its type-2 routes: of the MAC alone, and with each address.
    pub fn routes(&self) -> Vec<String> {
        let mac = format!("[2]:[0]:[48]:[{}]", self.mac);
        let with = self.addresses().map(|address| {
            let bits = if address.contains(':') { 128 } else { 32 };
            format!("{mac}:[{bits}]:[{address}]")
        });
        [mac].into_iter().chain(with).collect()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("it can be run");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{complaint}",
        output.status
    );
    String::from_utf8(output.stdout).expect("programs write UTF-8")
}

/// Polls until a look gives what is expected.
pub fn until<T: PartialEq + Debug>(what: &str, expected: &T, look: impl Fn() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if found == *expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "waited in vain: {what}\nexpected {expected:#?}\nfound {found:#?}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}
