//! Why the NICs of an instance are, or are not, connected: what stands in the way, and every object
//! that they should have with its state. Pure; who looks at LXD and the kernel is `reconcile`.

mod name;
mod text;

pub use name::named;

use super::facts::{Facts, Readiness};
use super::mtu::LargerMtu;
use super::nic::{Nic, NicId, Resolved};
use crate::addr::IfName;
use crate::host::HostFile;
use crate::lxd::{Details, Instance, LxdNic, NotOurs, Program};
use crate::text::{NAME, shown};
use serde::Serialize;

/// The JSON of `lxmesh explain --json` has exactly these fields; new ones may be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub instance: String,
    /// `running`, `stopped` and so on.
    pub state: String,
    /// All of its NICs that are ours, of which there is one at least, are connected as they ask for.
    pub in_step: bool,
    /// What concerns all of them.
    pub notes: Vec<String>,
    pub nics: Vec<NicExplanation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NicExplanation {
    pub device: String,
    /// False: LXMesh has nothing to do with it.
    pub managed: bool,
    /// Everything that it needs is there.
    pub connected: bool,
    pub network: Option<String>,
    pub port: Option<String>,
    pub mac: Option<String>,
    pub addresses: Vec<String>,
    /// Why it is not connected, or not as it asks for, and what to do.
    pub reasons: Vec<String>,
    /// What is not wrong and may still cost something.
    pub remarks: Vec<String>,
    /// What it should have.
    pub objects: Vec<Object>,
    /// What its network should have and has not.
    pub of_network: Vec<Object>,
}

/// One object in the kernel, or in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Object {
    pub kind: &'static str,
    pub object: String,
    pub state: State,
    pub want: String,
    /// What is there in its stead.
    pub have: Option<String>,
    /// Why it is not put right at once.
    pub note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    There,
    Missing,
    Different,
    /// It could not be read.
    Unknown,
}

/// What is known of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub host: &'a HostFile,
    pub instance: &'a Instance,
    pub details: &'a Details,
    pub resolved: &'a Resolved,
    pub facts: &'a Facts,
    /// By which people talk to the server.
    pub program: Program,
}

impl Known<'_> {
    /// Its NICs, ours and others; of one device if one is named. Objects are not in yet.
    pub fn nics(&self, device: Option<&str>) -> Vec<NicExplanation> {
        let asked = |name: &str| device.is_none_or(|device| device == name);
        let ours = self.instance.nics.iter();
        let mut all: Vec<NicExplanation> = ours
            .filter(|raw| asked(&raw.device))
            .map(|raw| self.ours(raw))
            .collect();
        let others = self.details.others.iter();
        all.extend(
            others
                .filter(|(name, _)| asked(name))
                .map(|(name, why)| self.other(name, why)),
        );
        all.sort_by(|a, b| a.device.cmp(&b.device));
        all
    }

    /// In one word or two.
    pub fn state(&self) -> String {
        match self.details.status_code {
            102 => "stopped".into(),
            103 | 111 | 113 => "running".into(),
            110 => "paused".into(),
            112 => "in error".into(),
            code => format!("on its way up or down (status code {code})"),
        }
    }

    fn ours(&self, raw: &LxdNic) -> NicExplanation {
        let id = NicId {
            instance: self.instance.id.clone(),
            device: raw.device.clone(),
        };
        let problems = self.resolved.problems.iter();
        let mut reasons: Vec<String> = problems
            .filter(|problem| problem.nic == id)
            .map(|problem| problem.text.clone())
            .collect();
        let nic = self.nic(&raw.device);
        let obstacle = match nic {
            Some(nic) => self.obstacle(nic),
            None if reasons.is_empty() => Some(self.absent(raw)),
            None => None,
        };
        let connected = nic.is_some() && obstacle.is_none();
        reasons.extend(obstacle);
        reasons.extend(self.left_over(raw, nic));
        NicExplanation {
            device: raw.device.clone(),
            managed: true,
            connected,
            network: self.host.network(&raw.parent).map(|n| n.name.clone()),
            port: match nic {
                Some(nic) => Some(nic.port.to_string()),
                None => raw.host_name.as_ref().map(|name| shown(name, NAME)),
            },
            mac: raw.hwaddr.as_ref().map(|mac| shown(mac, NAME)),
            addresses: nic
                .map(|nic| nic.addresses().map(|a| a.to_string()).collect())
                .unwrap_or_default(),
            reasons,
            remarks: nic
                .and_then(|nic| {
                    let mtu = LargerMtu::of(nic, self.host, self.facts)?;
                    Some(mtu.remark(nic, self.program.name()))
                })
                .into_iter()
                .collect(),
            objects: Vec::new(),
            of_network: Vec::new(),
        }
    }

    /// The NIC of this device, if the instance runs and nothing speaks against it.
    fn nic(&self, device: &str) -> Option<&Nic> {
        let mut nics = self.resolved.nics.iter();
        nics.find(|nic| nic.id.instance == self.instance.id && nic.id.device == device)
    }

    /// Why there is no NIC although nobody complained of it.
    fn absent(&self, raw: &LxdNic) -> String {
        let (state, name) = (self.state(), &self.instance.id.name);
        let project = match self.instance.id.project.as_str() {
            "default" => String::new(),
            other => format!(" --project {other}"),
        };
        match self.details.status_code {
            103 | 111 | 113 if raw.host_name.is_none() || raw.hwaddr.is_none() => format!(
                "{} has not told yet which device and MAC the NIC has: the instance is being started, or the NIC was added just now",
                self.program.server()
            ),
            103 | 111 | 113 => "the instance was started just now; ask again".into(),
            112 => "the instance is in error, and nothing is known of it from before".into(),
            _ => format!(
                "the instance is {state}, and only running ones are connected; {} start{project} {name}",
                self.program.name()
            ),
        }
    }

    /// What the NIC waits for.
    fn obstacle(&self, nic: &Nic) -> Option<String> {
        let network = self.host.network(&nic.network)?;
        if let Readiness::Waiting(what) = self.facts.readiness(network) {
            return Some(what);
        }
        if self.facts.link(&nic.port).is_none() {
            return Some(format!(
                "its device {} does not exist; {} makes it when the instance starts: restart the instance",
                nic.port,
                self.program.server()
            ));
        }
        nic.misfit(self.facts)
    }

    /// A port that should have been withdrawn.
    fn left_over(&self, raw: &LxdNic, nic: Option<&Nic>) -> Option<String> {
        if nic.is_some() {
            return None;
        }
        let port: IfName = raw.host_name.as_ref()?.parse().ok()?;
        let others = self.resolved.nics.iter();
        if others.clone().any(|other| other.port == port) {
            return None;
        }
        let master = self.facts.link(&port)?.master?;
        let bridge = self.facts.name_of(master)?;
        let mut networks = self.host.networks.iter();
        networks.find(|network| network.bridge == *bridge)?;
        Some(format!(
            "its device {port} is in bridge {bridge} all the same, and will be taken out of it by the agent"
        ))
    }

    fn other(&self, device: &str, why: &NotOurs) -> NicExplanation {
        let (client, instance) = (self.program.name(), &self.instance.id.name);
        let is_its = |id: &NicId| id.device == device && id.instance == self.instance.id;
        let problems = self.resolved.problems.iter();
        let of_its_keys = problems
            .filter(|problem| is_its(&problem.nic))
            .map(|problem| problem.text.clone());
        let reason = match why {
            NotOurs::NotP2p(kind) if kind.is_empty() => {
                "it belongs to a network of LXD or Incus; LXMesh connects NICs of nictype=p2p only"
                    .to_string()
            }
            NotOurs::NotP2p(kind) => {
                format!("it is of nictype={kind}; LXMesh connects NICs of nictype=p2p only")
            }
            NotOurs::NoNic => "it is no network device".into(),
            NotOurs::NoParent => format!(
                "it names no network; {client} config device set {instance} {device} user.lxmesh.parent=NETWORK (or on its profile)"
            ),
        };
        NicExplanation {
            device: device.into(),
            managed: false,
            connected: false,
            network: None,
            port: None,
            mac: None,
            addresses: Vec::new(),
            reasons: std::iter::once(reason).chain(of_its_keys).collect(),
            remarks: Vec::new(),
            objects: Vec::new(),
            of_network: Vec::new(),
        }
    }
}

impl NicExplanation {
    /// Something could not be read, so that nobody can tell.
    pub fn cannot_be_told(&self) -> bool {
        let mut all = self.objects.iter().chain(&self.of_network);
        all.any(|object| object.state == State::Unknown)
    }

    /// Takes in what it and its network should have.
    pub fn put(&mut self, objects: Vec<Object>, of_network: Vec<Object>) {
        let there = |object: &Object| object.state == State::There;
        self.connected &= objects.iter().chain(&of_network).all(there);
        self.objects = objects;
        self.of_network = of_network.into_iter().filter(|o| !there(o)).collect();
    }

    pub fn in_step(&self) -> bool {
        self.connected && self.reasons.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;
    use crate::kernel::link::{BridgeData, Link, LinkKind, VxlanData};
    use crate::lxd::{InstanceId, Presence};
    use crate::model::nic::{draft, resolve};

    fn host_file() -> HostFile {
        let text = "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"203.0.113.1\"]\n\
            supervisors = [\"203.0.113.11\"]\n[[network]]\nname = \"vpc\"\nvni = 100\n\
            gateway = [\"192.0.2.1/24\"]\n";
        host::parse("x", text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn link(index: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Link {
        Link {
            addr_gen_mode: Some(1),
            ..Link::sample(index, name, kind, master)
        }
    }

    fn links() -> Vec<Link> {
        let bridge = BridgeData {
            mcast_snooping: true,
            mcast_querier: true,
            mcast_igmp_version: 3,
            mcast_mld_version: 2,
            mcast_router: 1,
            mcast_query_response_interval: 1000,
            vlan_filtering: false,
        };
        let vxlan = VxlanData {
            vni: 100,
            local: None,
            port: 4789,
            learning: false,
            gbp: true,
            drops_marked: Some(false),
        };
        vec![
            link(1, "svi-vpc", LinkKind::Bridge(bridge), None),
            link(2, "vxlan-vpc", LinkKind::Vxlan(vxlan), Some(1)),
            link(3, "veth1", LinkKind::Veth, Some(1)),
        ]
    }

    fn web1() -> Instance {
        let nic = LxdNic {
            device: "eth0".into(),
            parent: "vpc".into(),
            host_name: Some("veth1".into()),
            hwaddr: Some("00:16:3e:00:00:01".into()),
            ipv4: Some("192.0.2.11".into()),
            ..LxdNic::default()
        };
        instance("default", "web1", nic)
    }

    fn instance(project: &str, name: &str, nic: LxdNic) -> Instance {
        Instance {
            id: InstanceId {
                project: project.into(),
                name: name.into(),
            },
            presence: Presence::Up,
            last_used_at: String::new(),
            nics: vec![nic],
            unknown: Default::default(),
            misplaced: Vec::new(),
            strays: Vec::new(),
            acls: Default::default(),
            acls_unread: false,
        }
    }

    /// How web1's NIC is explained, after something was changed.
    fn explained(change: impl Fn(&mut Instance, &mut Details, &mut Vec<Link>)) -> NicExplanation {
        let (mut instance, mut links) = (web1(), links());
        let mut details = Details {
            status_code: 103,
            others: Vec::new(),
        };
        change(&mut instance, &mut details, &mut links);
        let host = host_file();
        let draft = draft(&host, &instance, Program::Lxc);
        let mut facts = Facts::new(links);
        facts.svis.insert("svi-vpc".parse().unwrap());
        let known = Known {
            host: &host,
            instance: &instance,
            details: &details,
            resolved: &resolve([(&instance, &draft)].into_iter(), &[], &Default::default()),
            facts: &facts,
            program: Program::Lxc,
        };
        known.nics(None).remove(0)
    }

    #[test]
    fn each_obstacle_is_named_with_its_remedy() {
        let well = explained(|_, _, _| ());
        assert!(well.in_step(), "{well:#?}");
        assert_eq!(well.addresses, ["192.0.2.11", "fe80::216:3eff:fe00:1"]);
        type Change = fn(&mut Instance, &mut Details, &mut Vec<Link>);
        let cases: [(Change, bool, &[&str]); 9] = [
            (
                |instance, details, links| {
                    instance.presence = Presence::Down;
                    details.status_code = 102;
                    links.pop();
                },
                false,
                &["the instance is stopped, and only running ones are connected; lxc start web1"],
            ),
            (
                |instance, details, _| {
                    instance.presence = Presence::Down;
                    details.status_code = 110;
                },
                false,
                &[
                    "the instance is paused",
                    "its device veth1 is in bridge svi-vpc all the same",
                ],
            ),
            (
                |instance, _, _| instance.nics[0].parent = "vpn".into(),
                false,
                &[
                    "user.lxmesh.parent=\"vpn\" is not a network of the host file; the networks are: vpc",
                    "its device veth1 is in bridge",
                ],
            ),
            (
                |instance, _, _| instance.nics[0].ipv4 = Some("198.51.100.1".into()),
                true,
                &["cannot be used in network vpc: choose a free address"],
            ),
            (
                |instance, _, _| instance.nics[0].host_name = None,
                false,
                &["LXD has not told yet which device and MAC the NIC has"],
            ),
            (
                |instance, _, _| instance.nics[0].in_services = "tcp/0".into(),
                true,
                &["user.lxmesh.in_services"],
            ),
            (
                |_, _, links| links.truncate(2),
                false,
                &["its device veth1 does not exist; LXD makes it"],
            ),
            (
                |_, _, links| {
                    links.remove(0);
                },
                false,
                &["bridge svi-vpc does not exist"],
            ),
            (
                |_, _, links| links[1].up = false,
                false,
                &["tunnel vxlan-vpc is down"],
            ),
        ];
        for (change, connected, reasons) in cases {
            let nic = explained(change);
            assert_eq!(nic.connected, connected, "{nic:#?}");
            assert!(!nic.in_step());
            assert_eq!(nic.reasons.len(), reasons.len(), "{nic:#?}");
            for (said, wanted) in nic.reasons.iter().zip(reasons) {
                assert!(said.contains(wanted), "{wanted:?} is not in {said:?}");
            }
        }
    }

    #[test]
    fn a_larger_mtu_than_the_networks_is_a_remark_and_no_reason() {
        let nic = explained(|_, _, links| links[2].mtu = 1500);
        assert!(nic.in_step(), "{nic:#?}");
        assert!(
            nic.remarks[0].contains("lxc config device set web1 eth0 mtu=1450"),
            "{nic:#?}"
        );
        assert!(explained(|_, _, _| ()).remarks.is_empty());
    }

    #[test]
    fn nics_that_are_not_ours_say_why() {
        for (why, word) in [
            (
                NotOurs::NoParent,
                "names no network; lxc config device set web1 eth1 user.lxmesh.parent=",
            ),
            (NotOurs::NotP2p("bridged".into()), "of nictype=bridged;"),
            (NotOurs::NotP2p(String::new()), "a network of LXD or Incus;"),
        ] {
            let nic = explained(|instance, details, _| {
                instance.nics.clear();
                details.others = vec![("eth1".into(), why.clone())];
            });
            assert!(!nic.managed && nic.reasons[0].contains(word), "{nic:#?}");
        }
    }
}
