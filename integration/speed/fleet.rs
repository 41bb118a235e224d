//! A host with one network and any number of instances, each with a real veth, as the fake LXD
//! knows them.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::run;
use crate::support::Ns;
use crate::support::expected::{link_local, solicited};
use crate::support::fake_lxd::{FakeLxd, Instance, Status, keys};
use crate::support::listener::{self, Listener};

pub struct Nic {
    pub instance: String,
    pub port: String,
    pub mac: String,
    pub ipv4: String,
    pub ipv6: String,
}

pub struct Fleet<'a> {
    pub ns: &'a Ns,
    pub directory: tempfile::TempDir,
    pub lxd: FakeLxd,
    pub nics: Vec<Nic>,
    peers: Child,
}

/// What every NIC is allowed.
pub const IN_SERVICES: [&str; 3] = ["tcp/80", "tcp/443", "udp/53"];
pub const OUT_SERVICES: [&str; 2] = ["udp/53", "tcp/443"];

impl Nic {
    fn numbered(n: usize) -> Self {
        // The gateway is the first.
        let host = n + 2;
        Nic {
            instance: format!("bench{n}"),
            port: format!("veth{n:06x}"),
            mac: format!("00:16:3e:00:{:02x}:{:02x}", host >> 8, host & 255),
            ipv4: format!("10.20.{}.{}", host >> 8, host & 255),
            ipv6: format!("2001:db8::{host:x}"),
        }
    }

    /// All three.
    pub fn addresses(&self) -> [String; 3] {
        [self.ipv4.clone(), self.ipv6.clone(), link_local(&self.mac)]
    }

    /// The solicited-node groups of its IPv6 addresses.
    pub fn groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = self.addresses()[1..]
            .iter()
            .map(|address| solicited(address))
            .collect();
        groups.dedup();
        groups
    }
}

impl<'a> Fleet<'a> {
    pub fn new(ns: &'a Ns, count: usize) -> Self {
        Fleet::on_host(ns, 1, 0, count)
    }

    /// On the tunnel end point 203.0.113.`host`, NICs from number `first` on.
    pub fn on_host(ns: &'a Ns, host: u8, first: usize, count: usize) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        ns.sh(&format!("chmod 755 {}", directory.path().display()));
        ns.sh(&format!("sysctl -qw net.ipv6.conf.default.accept_dad=0
               ip address add 203.0.113.{host}/32 dev lo
               ip link add svi-vpc address 02:00:00:00:00:01 type bridge forward_delay 0
               ip link add vxlan-vpc type vxlan id 100 dstport 4789 local 203.0.113.{host} nolearning gbp
               ip link set vxlan-vpc master svi-vpc up
               ip link set svi-vpc up
               ip address add 10.20.0.1/16 dev svi-vpc
               ip address add 2001:db8::1/64 dev svi-vpc nodad"));
        let mut peers = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "sysctl -qw net.ipv6.conf.default.disable_ipv6=1; echo; exec sleep 3600",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare can be run");
        peers
            .stdout
            .as_mut()
            .expect("it was piped")
            .read_exact(&mut [0])
            .expect("the namespace is there");
        let lxd = FakeLxd::start(&directory.path().join("lxd.sock"));
        let nics: Vec<Nic> = (first..first + count).map(Nic::numbered).collect();
        let fleet = Fleet {
            ns,
            directory,
            lxd,
            nics,
            peers,
        };
        let pid = fleet.peers.id();
        let veths: String = fleet
            .nics
            .iter()
            .map(|nic| {
                format!(
                    "link add {0} type veth peer name {0}p address {1} netns {pid}\n",
                    nic.port, nic.mac
                )
            })
            .collect();
        fleet.batch("ip", &veths);
        let up: String = fleet
            .nics
            .iter()
            .map(|nic| format!("link set {}p up\n", nic.port))
            .collect();
        run(
            "nsenter",
            &["-t", &pid.to_string(), "-n", "ip", "-batch", "-"],
            &up,
        );
        for nic in &fleet.nics {
            fleet.put(nic, Status::Running, &OUT_SERVICES);
        }
        fleet
    }

    /// Process whose namespace has the instances' ends of the veths.
    pub fn peers(&self) -> u32 {
        self.peers.id()
    }

    pub fn put(&self, nic: &Nic, status: Status, out_services: &[&str]) {
        let mut instance = Instance::new(&nic.instance);
        instance.status = status;
        instance.config.extend(keys(&[
            ("volatile.vpc.host_name", &nic.port),
            ("volatile.vpc.hwaddr", &nic.mac),
            ("user.lxmesh.out_services", &out_services.join(" ")),
        ]));
        let device = keys(&[
            ("name", "vpc"),
            ("nictype", "p2p"),
            ("type", "nic"),
            ("user.lxmesh.parent", "vpc"),
            ("user.lxmesh.in_services", &IN_SERVICES.join(",")),
            ("user.lxmesh.ipv4.address", &nic.ipv4),
            ("user.lxmesh.ipv6.address", &nic.ipv6),
        ]);
        instance.devices.insert("vpc".into(), device);
        self.lxd.put(instance);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write_host_file(&self, interval_s: u32) {
        let at = self.directory.path().display();
        let text = format!(
            "version = 1\n[fabric]\nname = \"bench\"\nasn = 64500\nreflectors = [\"203.0.113.100\"]\n\
             supervisors = [\"203.0.113.0/24\"]\n[host]\nuplinks = [\"ul\"]\n\
             [lxd]\nsocket = \"{at}/lxd.sock\"\n[agent]\ncontrol_socket = \"{at}/control.sock\"\nreload_interval_s = {interval_s}\n\
             [dhcp]\ndirectory = \"{at}/dnsmasq\"\n\
             [[network]]\nname = \"vpc\"\nvni = 100\ngateway = [\"10.20.0.1/16\", \"2001:db8::1/64\"]\nhost_routes = \"main\"\n"
        );
        fs::write(self.path("host.toml"), text).expect("the directory is ours");
    }

    /// `ip -batch -` or `bridge -batch -`.
    pub fn batch(&self, program: &str, lines: &str) {
        run(program, &["-batch", "-"], lines);
    }

    /// Fails unless `ip`, `bridge` and `nft` show as many objects as there should be.
    pub fn check_complete(&self) {
        let n = self.nics.len();
        let count = |command: &str| -> usize {
            self.ns
                .sh(command)
                .trim()
                .parse()
                .unwrap_or_else(|_| panic!("{command} gives no number"))
        };
        let groups: usize = self.nics.iter().map(|nic| nic.groups().len()).sum();
        for (what, command, wanted) in [
            (
                "nic_ports",
                "ip -o link show master svi-vpc up | grep -c veth",
                n,
            ),
            (
                "FDB entries",
                // Once per VLAN, too, where the kernel's bridges have them.
                "bridge fdb show br svi-vpc | grep 'veth.* extern_learn' | cut -d ' ' -f 1 | sort -u | wc -l",
                n,
            ),
            (
                "neighbours",
                "ip -d neigh show dev svi-vpc | grep -c 'PERMANENT.* proto 242'",
                3 * n,
            ),
            (
                "groups",
                "bridge -d mdb | grep -c 'veth.*permanent'",
                groups,
            ),
            ("IPv4 routes", "ip -4 route show protocol 242 | wc -l", n),
            ("IPv6 routes", "ip -6 route show protocol 242 | wc -l", n),
        ] {
            assert_eq!(count(command), wanted, "{what}");
        }
        let (family, set) = ("bridge", "nic_id6");
        let sets = self.ns.nft_json(&format!("list set {family} lxmesh {set}"));
        assert_eq!(
            sets[0]["set"]["elem"].as_array().map_or(0, Vec::len),
            2 * n,
            "elements of {set}"
        );
    }

    /// Hears of all changes that the kernel tells of.
    pub fn listen(&self) -> Listeners {
        let all = listener::ALL.iter().enumerate();
        let all = all
            .map(|(n, command)| Listener::start(command, self.path(&format!("monitor{n}"))))
            .collect();
        thread::sleep(Duration::from_millis(500));
        Listeners(all)
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        let _ = self.peers.kill();
        let _ = self.peers.wait();
    }
}

pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// Lines so far; the first few are shown to whoever wonders.
    pub fn heard(self) -> usize {
        thread::sleep(Duration::from_millis(300));
        let texts = self.0.iter().map(Listener::text);
        let lines: Vec<String> = texts
            .flat_map(|text| text.lines().map(str::to_string).collect::<Vec<_>>())
            // The kernel tidies up what it knew of groups that it spoke to itself.
            .filter(|line| {
                !line.starts_with("[NEIGH]Deleted ff02::")
                    && !line.starts_with("[NEIGH]Deleted 224.0.0.")
            })
            .collect();
        for line in lines.iter().take(5) {
            eprintln!("heard: {line}");
        }
        lines.len()
    }
}
