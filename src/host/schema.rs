//! The host file as the rest of the program sees it: checked, and every default filled in.
//! How the text gets here (reading, spans, problems) is in the neighbouring files.

use super::networks::overlap;
use super::service::Service;
use crate::addr::{IfName, IpNet, Ipv4Net, Ipv6Net, Mac, Vni};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// A checked host file. Identical on every host of a fleet unless `[host]` is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFile {
    pub fabric: Fabric,
    pub host: HostOverrides,
    pub bgp: Bgp,
    /// `None`: the underlay is not encrypted.
    pub ipsec: Option<Ipsec>,
    pub firewall: Firewall,
    pub lxd: Lxd,
    pub agent: Agent,
    pub dhcp: Dhcp,
    /// Tag name to bit of the packet mark, 0 to 15 (VXLAN's group-policy field has 16 bits).
    pub tags: BTreeMap<String, u8>,
    /// In the order of the file.
    pub routers: Vec<Router>,
    /// In the order of the file.
    pub networks: Vec<Network>,
    /// What the networks of each VRF have in common. Of the whole file, also where `networks` has been
    /// narrowed to some of them: a network is routed to the others of its VRF whoever looks at it.
    pub vrfs: BTreeMap<IfName, VrfMembers>,
    /// In the order of the file, no project twice.
    pub tenants: Vec<Tenant>,
}

/// `[fabric]`: what the hosts have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fabric {
    pub name: String,
    /// Autonomous system number, 1 to 4294967294 (RFC 6996 lists the private ones).
    pub asn: u32,
    /// Addresses of the BGP route reflectors, of the same family as the supervisors. May be
    /// empty; then all supervisors are single addresses.
    pub reflectors: Vec<IpAddr>,
    /// Prefixes in which supervisors' underlay addresses lie; a single address has full length.
    /// Never empty, all of one family. They overlap only where a reflector inside a prefix is
    /// also listed singly.
    pub supervisors: Vec<IpNet>,
    /// What instances may reach at supervisors and reflectors. Peers are anyone, which means all of
    /// these hosts, or a prefix that has some of them. Default none.
    pub services: Vec<Service>,
    /// Largest IP packet that the underlay carries between any two hosts, bytes. Default 1500.
    pub underlay_mtu: u32,
    /// UDP port of the tunnels. Default 4789 (RFC 7348).
    pub vxlan_port: u16,
    /// VXLAN group policy: tags travel between hosts. Default true.
    pub gbp: bool,
    /// Tags are used without IPsec too. Default false.
    pub unprotected_tags: bool,
    /// How many NICs the fabric may come to have. Default 10000.
    pub instances: u32,
}

/// `[host]`: overrides of what is otherwise detected on this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostOverrides {
    /// The VTEP address of this host.
    pub underlay: Option<IpAddr>,
    pub roles: Option<Vec<Role>>,
    /// What this host calls itself towards IPsec peers.
    pub identity: Option<String>,
    /// Veths and taps that are no instance's: names, or beginnings of names with a `*` behind them.
    pub uplinks: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Supervisor,
    Reflector,
}

/// `[bgp]`: sessions between the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// Its first line is the password of all sessions.
    pub password_file: Option<PathBuf>,
    /// Seconds. Default 3.
    pub keepalive_s: u32,
    /// Seconds, at least three times `keepalive_s`. Default 9.
    pub hold_s: u32,
    /// Seconds. Default 5.
    pub connect_s: u32,
}

/// `[ipsec]`: encryption of the underlay, when it is enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipsec {
    pub trust: Trust,
    /// ESP always in UDP (RFC 3948). Default false.
    pub udp_encapsulation: bool,
}

/// How hosts prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    Certificates {
        /// Identity that peers' certificates must match, e.g. `*.example.org`.
        identity: String,
        /// Files of swanctl's x509ca, or absolute paths; empty: all of that directory.
        ca: Vec<String>,
        /// The same for reflectors. Default: `ca`.
        reflector_ca: Vec<String>,
        revocation: Revocation,
    },
    /// A file in swanctl's syntax with the one secret of all hosts.
    Psk { file: PathBuf },
}

/// What to do about a certificate of whose revocation nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Accept it.
    Relaxed,
    /// Refuse it.
    Strict,
}

/// `[firewall]`: who may talk to the programs of the fabric on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    /// Write the rules. Default true.
    pub enabled: bool,
    /// Beyond the fabric, for BGP and IKE.
    pub also: Vec<IpNet>,
}

impl Firewall {
    /// Its table, of family inet.
    pub const TABLE: &'static str = "lxmesh_host";
    /// The tables, of families inet and arp, that stand whether it is enabled or not.
    pub const CLOSED: &'static str = "lxmesh_closed";
}

/// `[[router]]`: a BGP router outside of the fabric, which is told host routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    /// None of the fabric's own. It is told routes of this family.
    pub address: IpAddr,
    /// Default: the fabric's.
    pub asn: u32,
}

/// `[lxd]`: where the local LXD or Incus is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lxd {
    /// Unix socket; `None` searches the usual places.
    pub socket: Option<PathBuf>,
}

/// `[agent]`: the daemon's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Seconds between two full passes, before jitter. Default 60.
    pub reload_interval_s: u32,
    /// Default `/run/lxmesh/control.sock`.
    pub control_socket: PathBuf,
}

/// `[dhcp]`: address provision to instances by dnsmasq.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// Write dnsmasq's files. Default true.
    pub enabled: bool,
    /// Also run and supervise dnsmasq. Default true.
    pub run: bool,
    /// Directory of the files. Default `/run/lxmesh/dnsmasq`.
    pub directory: PathBuf,
    /// The program. Default `/usr/sbin/dnsmasq`.
    pub program: PathBuf,
    /// Lease time, seconds. Default 3600.
    pub lease_s: u32,
}

/// `[[network]]`: one overlay segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    pub vni: Vni,
    /// The SVI's name. Default `svi-NAME`.
    pub bridge: IfName,
    /// The VXLAN device's name. Default `vxlan-NAME`.
    pub tunnel: IfName,
    pub gateway4: Option<Ipv4Net>,
    pub gateway6: Option<Ipv6Net>,
    /// The SVI's MAC on every host. Default: derived from fabric name and VNI.
    pub gateway_mac: Mac,
    /// Largest IP packet inside the overlay, bytes. Default: computed from the underlay, see
    /// [`super::MtuSum`].
    pub mtu: u32,
    /// UDP port of the tunnel. Default: the fabric's.
    pub vxlan_port: u16,
    /// VXLAN group policy on the tunnel. Default: the fabric's. The same for all networks that
    /// share a port.
    pub gbp: bool,
    /// Multicast between hosts. Default false.
    pub multicast: bool,
    /// The VRF device that the SVI belongs to.
    pub vrf: Option<Vrf>,
    /// Where host routes (/32, /128) of NIC addresses go. Default none.
    pub host_routes: Option<RouteTable>,
    /// Routers are told of them. Then `host_routes` is the main table or a number up to 65535.
    pub announce: bool,
    /// Connection tracking zone, 1 to 65535, unique. Default: the VNI where it fits, else the
    /// remainder of its division by 65535, plus 1.
    pub conntrack_zone: u16,
    /// DNS servers handed out by DHCP.
    pub dns: Vec<IpAddr>,
    /// What every NIC of the network may be reached for, and may reach. Tags in it exist.
    pub in_services: Vec<Service>,
    pub out_services: Vec<Service>,
    /// Limits of NICs that have none of their own.
    pub limits: Limits,
    /// The same of NICs that do not say for themselves.
    pub denied: Denied,
    /// Projects whose instances may have NICs here. Default all.
    pub projects: Option<Vec<String>>,
}

/// `[[tenant]]`: what the NICs of a project's instances may have. `None` instead of a list is all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The project's name, or [`Tenant::OTHERS`].
    pub project: String,
    /// Names of networks that there are.
    pub networks: Option<Vec<String>>,
    pub addresses: Option<Vec<IpNet>>,
    /// Names of tags that there are.
    pub tags: Option<Vec<String>>,
}

impl Tenant {
    /// Stands for every project without a `[[tenant]]` of its own. No project can have this name.
    pub const OTHERS: &'static str = "*";
}

/// What becomes of what no service of a NIC allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Denied {
    /// It passes, and is logged. Only services are meant: what is forged never passes.
    pub audit: bool,
    /// Whatever is dropped at the NIC, for whichever reason, is logged.
    pub log: bool,
}

/// What one NIC may take of the host. The rules know a few values of each, so that looking one up
/// costs the same whatever the number of NICs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Tracked connections that it began, at the same time.
    pub connections: u32,
    /// Connections that it begins, per second; twice as many in a burst.
    pub new_connections: u32,
    /// ARP, ND, DHCP, IGMP and MLD packets, per second; twice as many in a burst.
    pub control_packets: u32,
    /// Multicast groups that it is a member of.
    pub multicast_groups: u32,
}

impl Default for Limits {
    /// What no honest workload meets.
    fn default() -> Self {
        Limits {
            connections: 4096,
            new_connections: 1000,
            control_packets: 100,
            multicast_groups: 64,
        }
    }
}

impl Limits {
    pub const CONNECTIONS: [u32; 6] = [64, 256, 1024, 4096, 16384, 65536];
    pub const NEW_CONNECTIONS: [u32; 4] = [10, 100, 1000, 10000];
    pub const CONTROL_PACKETS: [u32; 3] = [10, 100, 1000];
    /// From 1 to this.
    pub const MULTICAST_GROUPS: u32 = 4096;
}

/// A VRF (Documentation/networking/vrf.rst) that one or more networks belong to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vrf {
    pub name: IfName,
    /// Its routing table. Default: 1000 plus the lowest VNI that uses the VRF.
    pub table: u32,
}

/// What the networks of a VRF have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfMembers {
    /// Connection tracking zone of what is routed between them: the lowest of theirs.
    pub zone: u16,
    /// Their gateways, in the order of the file.
    pub gateways4: Vec<Ipv4Net>,
    pub gateways6: Vec<Ipv6Net>,
}

impl VrfMembers {
    /// Those of each VRF that a network is in.
    pub fn of(networks: &[Network]) -> BTreeMap<IfName, VrfMembers> {
        let mut all: BTreeMap<IfName, VrfMembers> = BTreeMap::new();
        for network in networks {
            let Some(vrf) = &network.vrf else { continue };
            let members = all.entry(vrf.name.clone()).or_insert_with(|| VrfMembers {
                zone: network.conntrack_zone,
                gateways4: Vec::new(),
                gateways6: Vec::new(),
            });
            members.zone = members.zone.min(network.conntrack_zone);
            members.gateways4.extend(network.gateway4);
            members.gateways6.extend(network.gateway6);
        }
        all
    }

    /// Whether an address is in one of the networks.
    pub fn contain(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.gateways4.iter().any(|net| net.contains(&address)),
            IpAddr::V6(address) => self.gateways6.iter().any(|net| net.contains(&address)),
        }
    }
}

/// Where host routes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTable {
    /// Table 254.
    Main,
    /// The table of the network's VRF.
    Vrf,
    /// A table by number.
    Number(u32),
}

impl Network {
    /// The metric of host routes that routers are told of. FRR cannot tell protocols of the kernel
    /// apart, but it can tell metrics, and nobody else uses this one.
    pub const ANNOUNCED_METRIC: u32 = 242;

    /// The number of the table that host routes go to.
    pub fn host_route_table(&self) -> Option<u32> {
        match self.host_routes? {
            RouteTable::Main => Some(254),
            RouteTable::Vrf => Some(self.vrf.as_ref().map_or(254, |vrf| vrf.table)),
            RouteTable::Number(number) => Some(number),
        }
    }

    /// True if its `projects` lets the instances of the project have NICs in it.
    pub fn is_for(&self, project: &str) -> bool {
        let projects = self.projects.as_ref();
        projects.is_none_or(|projects| projects.iter().any(|name| name == project))
    }

    /// The gateways of both families.
    pub fn gateways(&self) -> impl Iterator<Item = IpNet> + '_ {
        let four = self.gateway4.map(IpNet::V4);
        let six = self.gateway6.map(IpNet::V6);
        four.into_iter().chain(six)
    }

    /// True if a gateway's prefix and the other one have addresses in common.
    pub fn overlaps(&self, net: IpNet) -> bool {
        self.gateways().any(|gateway| overlap(gateway, net))
    }

    /// True if a NIC of this network may have the address: inside a gateway's prefix, and
    /// neither the gateway itself nor a network or broadcast address.
    pub fn admits(&self, address: IpAddr) -> bool {
        self.gateways().any(|gateway| {
            gateway.contains(&address)
                && gateway.addr() != address
                && match (gateway, address) {
                    (IpNet::V4(net), IpAddr::V4(a)) => {
                        !crate::addr::is_network_or_broadcast(net, a)
                    }
                    // RFC 4291 section 2.6.1: the subnet-router anycast address.
                    (IpNet::V6(net), IpAddr::V6(a)) => {
                        net.prefix_len() >= 127 || a != net.network()
                    }
                    _ => false,
                }
        })
    }
}

impl HostFile {
    /// Whether the packet filter is to know the tunnel end points that EVPN tells of: where not all
    /// of them are declared, so that others may be let in; and where nothing may leave for any of
    /// them in cleartext, as IPsec is for those declared only.
    pub fn filters_vteps(&self) -> bool {
        let single = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let declared = self.fabric.supervisors.iter().all(single);
        self.firewall.enabled && (!declared || self.ipsec.is_some())
    }
}

impl Fabric {
    /// Where other hosts of the fabric are: supervisors and reflectors, without overlaps, sorted.
    pub fn hosts(&self) -> Vec<IpNet> {
        let reflectors = self.reflectors.iter().copied().map(IpNet::from);
        let mut all =
            IpNet::aggregate(&self.supervisors.iter().copied().chain(reflectors).collect());
        all.sort();
        all
    }

    /// True if the underlay, and so the tunnels, are IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.supervisors.iter().any(|net| net.addr().is_ipv6())
    }
}

impl HostFile {
    /// What the network has in common with the others of its VRF; `None` if it is in no VRF.
    pub fn vrf_members(&self, network: &Network) -> Option<&VrfMembers> {
        self.vrfs.get(&network.vrf.as_ref()?.name)
    }

    /// Connection tracking zone of what a network's instances send by way of their gateway: its VRF's;
    /// 0, which is the host's, outside of VRFs.
    pub fn routed_zone(&self, network: &Network) -> u16 {
        self.vrf_members(network).map_or(0, |vrf| vrf.zone)
    }

    /// The `[[tenant]]` that counts for a project: its own, or that of all others.
    pub fn tenant(&self, project: &str) -> Option<&Tenant> {
        let of = |name: &str| self.tenants.iter().find(|tenant| tenant.project == name);
        of(project).or_else(|| of(Tenant::OTHERS))
    }

    /// The network that a `user.lxmesh.parent` names: by network name, or by bridge name.
    pub fn network(&self, parent: &str) -> Option<&Network> {
        self.networks
            .iter()
            .find(|network| network.name == parent || network.bridge.as_str() == parent)
    }
}
