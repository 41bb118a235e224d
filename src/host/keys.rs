//! The keys of the host file: every table, key, type and default, declared once. The parser, the
//! messages and the JSON Schema all come from here. The types' own rules are in `words.rs`, rules
//! between keys in `check.rs` and `networks.rs`.

use super::problem::Findings;
use super::service::Service;
use super::value::{Int, Key, Map, Reader, Section, Shape, Value, object_schema, section};
use super::words::{
    AbsolutePath, CertFile, ConfDirectory, ConfPath, DeviceName, FabricName, Gateway, HostAddress,
    HostRoutes, Identity, NetworkName, PrefixOrAddress, ProjectName, RevocationName, RoleName,
    SocketPath, TagName, TenantName,
};
use crate::addr::{IfName, Mac, Vni};
use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub type List<T> = Vec<Spanned<T>>;
pub type TagBits = Map<TagName, Int<0, 15>>;

section! {
    /// The host file of LXMesh, `/etc/lxmesh/host.toml`. It may be byte-identical on every host of
    /// a fleet; what differs between hosts is detected, or overridden in `[host]`.
    File "the host file" {
        /// Version of this format: 1.
        required version: Int<1, { i32::MAX as i64 }>,
        required fabric: FabricTable,
        optional host: HostTable,
        optional bgp: BgpTable,
        optional ipsec: IpsecTable,
        optional firewall: FirewallTable,
        optional lxd: LxdTable,
        optional agent: AgentTable,
        optional dhcp: DhcpTable,
        /// Tags: a name and its bit of the packet mark, 0 to 15. With `gbp`, tags travel between
        /// hosts. The bits must be the same on every host. Default: no tags.
        optional tags: TagBits,
        optional router: List<RouterTable>,
        optional vrf: List<VrfTable>,
        optional network: List<NetworkTable>,
        optional tenant: List<TenantTable>,
    }
}

section! {
    /// What the hosts of a fabric have in common.
    FabricTable "[fabric]" {
        /// Name of the fabric: 1 to 32 lower-case letters, digits and `-`. Gateway MAC addresses
        /// are derived from it.
        required name: FabricName,
        /// Autonomous system number of all hosts. RFC 6996 sets aside 64512 to 65534 and
        /// 4200000000 to 4294967294 for private use.
        required asn: Int<1, 4_294_967_294>,
        /// Addresses of the BGP route reflectors. Without any, the supervisors peer with one
        /// another and must be listed as single addresses. Default: none.
        optional reflectors: List<HostAddress>,
        /// Where supervisors are: prefixes, or single addresses. All of one address family, that
        /// of the tunnels. A reflector inside a prefix is a supervisor too only if its address is
        /// listed singly as well, or `[host] roles` says so.
        required supervisors: List<PrefixOrAddress>,
        /// What instances may reach at addresses of `supervisors` and `reflectors`, this host's own included,
        /// if their own `out_services` allow it, too; nothing else there, ping included. The words are those
        /// of `out_services`; `@PREFIX` is an address or prefix of such hosts, and without it all of them
        /// are meant. Requests of DHCP and the tunnels' ports stay closed. Default: nothing.
        optional services: List<Service>,
        /// Largest IP packet that the underlay carries between any two hosts, bytes. Default: 1500.
        optional underlay_mtu: Int<1280, 65535>,
        /// UDP port of the tunnels. Default: 4789 (RFC 7348).
        optional vxlan_port: Int<1, 65535>,
        /// VXLAN group policy extension: tags travel between hosts. Default: true.
        optional gbp: bool,
        /// Use tags although the underlay is not encrypted: whoever reaches a tunnel's UDP port
        /// can then forge them. Default: false, tags need `[ipsec]`.
        optional unprotected_tags: bool,
        /// How many NICs the fabric may come to have. The kernel's neighbour and connection
        /// tables are sized for that. Default: 10000.
        optional instances: Int<1, 1_000_000>,
    }
}

section! {
    /// Overrides of what is otherwise detected on this host.
    HostTable "[host]" {
        /// This host's tunnel and BGP address. Default: its one address among the supervisors and
        /// reflectors of `[fabric]`.
        optional underlay: HostAddress,
        /// "supervisor", "reflector", or both. Default: by this host's addresses.
        optional roles: List<RoleName>,
        /// What this host calls itself towards its IPsec peers; its certificate must say so too.
        /// Default: the host's name, put in the place of the `*` of `[ipsec] identity`.
        optional identity: Identity,
        /// Devices of the host's own that are a veth or a tap, such as the underlay of a host that is a
        /// container itself, or a tap of a VPN: names, or beginnings of names with a `*` behind them.
        /// Other such devices count as instances', from which nothing is accepted unless it is bridged
        /// or routed. Name a bridge if other hosts' packets arrive by it and answers leave by another device.
        /// No instance's device may have such a name. Default: veths and taps on the way to other hosts and to
        /// everywhere, and those that have an address.
        optional uplinks: List<DeviceName>,
    }
}

section! {
    /// BGP between the hosts.
    BgpTable "[bgp]" {
        /// A file on every host, readable for root only, whose first line is the password of all
        /// BGP sessions (TCP MD5, RFC 2385). Default: none.
        optional password_file: ConfPath,
        /// Seconds between two keepalives. Default: 3.
        optional keepalive_s: Int<1, 21845>,
        /// Seconds of silence after which a peer counts as gone, at least three times
        /// `keepalive_s`. Default: 9, or three times `keepalive_s` if that is more.
        optional hold_s: Int<3, 65535>,
        /// Seconds between two attempts to connect. Default: 5.
        optional connect_s: Int<1, 65535>,
    }
}

section! {
    /// Encryption of the underlay, by strongSwan: ESP in transport mode for tunnels and BGP. Hosts
    /// prove who they are by certificates (`identity`), or by a key that all share (`psk_file`).
    IpsecTable "[ipsec]" {
        /// Encrypt tunnels and BGP between hosts. Takes 34 to 37 bytes of the MTU. Default: false.
        optional enabled: bool,
        /// Identity that the peers' certificates must match, such as "*.example.org".
        optional identity: Identity,
        /// Certificates of the authorities that sign the hosts' certificates: files of
        /// /etc/swanctl/x509ca, or absolute paths. Default: whatever is in that directory.
        optional ca: List<CertFile>,
        /// The same for the reflectors, so that no supervisor can pose as one. Default: `ca`.
        optional reflector_ca: List<CertFile>,
        /// "relaxed" refuses a certificate that a list in /etc/swanctl/x509crl revokes; "strict"
        /// also one for whose authority there is no list that has not expired. Default: "relaxed".
        optional revocation: RevocationName,
        /// Instead of certificates: a file on every host, readable for root only, with one line
        /// `secret = 0x…` and 32 or more hexadecimal digits, the same everywhere.
        optional psk_file: ConfPath,
        /// Put ESP into UDP (RFC 3948), for underlays that drop ESP. Takes 8 more bytes. The same
        /// on every host. Default: false.
        optional udp_encapsulation: bool,
    }
}

section! {
    /// The host's own packet filter: only the fabric reaches BGP, the tunnels, and with `[ipsec]`
    /// IKE and ESP. It touches nothing else.
    FirewallTable "[firewall]" {
        /// Write its rules. Default: true.
        optional enabled: bool,
        /// Further prefixes or addresses that may reach BGP and IKE here. Default: none.
        optional also: List<PrefixOrAddress>,
    }
}

section! {
    /// The local LXD or Incus.
    LxdTable "[lxd]" {
        /// Its Unix socket. Default: the one in the usual places; needed if both LXD and Incus have one there.
        optional socket: SocketPath,
    }
}

section! {
    /// Settings of the agent itself.
    AgentTable "[agent]" {
        /// Seconds between two full passes, before jitter. Default: 60.
        optional reload_interval_s: Int<5, 3600>,
        /// Where `lxmesh status` and others reach the agent. Default: "/run/lxmesh/control.sock".
        optional control_socket: SocketPath,
    }
}

section! {
    /// Addresses for instances, provided by dnsmasq.
    DhcpTable "[dhcp]" {
        /// Write dnsmasq's files. Default: true.
        optional enabled: bool,
        /// Also run dnsmasq and watch over it. Default: true.
        optional run: bool,
        /// Where dnsmasq's files go. Default: "/run/lxmesh/dnsmasq".
        optional directory: ConfDirectory,
        /// The program. Default: "/usr/sbin/dnsmasq".
        optional program: AbsolutePath,
        /// Lease time, seconds. dnsmasq's least is 120. Default: 3600.
        optional lease_s: Int<120, 31_536_000>,
    }
}

section! {
    /// A BGP router outside of the fabric. Every supervisor has a session with it, tells it the host
    /// routes of the networks with `announce`, and takes nothing from it. It is told routes of the
    /// family of its own address: name both of its addresses if it is to have both.
    RouterTable "[[router]]" {
        /// Its address, of either family.
        required address: HostAddress,
        /// Its autonomous system number. Default: the fabric's.
        optional asn: Int<1, 4_294_967_294>,
    }
}

section! {
    /// A VRF with a table of one's choice. A VRF that a network names needs no such entry.
    VrfTable "[[vrf]]" {
        /// Name of the VRF device, at most 15 bytes.
        required name: IfName,
        /// Its routing table. Default: 1000 plus the lowest VNI among its networks.
        optional table: Int<1, 4_294_967_295>,
    }
}

section! {
    /// One overlay network: one VNI, one bridge (SVI) and one tunnel on every supervisor.
    NetworkTable "[[network]]" {
        /// Name: lower-case letters, digits, `-` and `_`. "svi-NAME" and "vxlan-NAME" must fit in
        /// 15 bytes, unless `bridge` and `tunnel` are given.
        required name: NetworkName,
        /// VXLAN network identifier, 1 to 16777214.
        required vni: Vni,
        /// Name of the bridge (SVI). Default: "svi-NAME".
        optional bridge: IfName,
        /// Name of the VXLAN device. Default: "vxlan-NAME".
        optional tunnel: IfName,
        /// The gateway's address with its prefix length, the same on every host: at most one IPv4
        /// and one IPv6. Default: none, a network without a gateway.
        optional gateway: List<Gateway>,
        /// The gateway's MAC address, the same on every host. Default: derived from the fabric's
        /// name and the VNI.
        optional gateway_mac: Mac,
        /// Largest IP packet in the overlay, bytes. Default: the most that the underlay carries,
        /// `underlay_mtu` less 50 over IPv4, less 70 over IPv6, and less ESP with `[ipsec]`.
        optional mtu: Int<1, 65535>,
        /// Carry multicast between hosts. Default: false.
        optional multicast: bool,
        /// The VRF device that the bridge belongs to. Default: none.
        optional vrf: IfName,
        /// Where host routes (/32 and /128) of instances go: "main", "vrf", or a table's number.
        /// Default: nowhere.
        optional host_routes: HostRoutes,
        /// Tell the routers of `[[router]]` of these host routes, by BGP. Routes in a VRF's table
        /// cannot be. Default: false.
        optional announce: bool,
        /// Connection tracking zone. Default: the VNI if it is at most 65535, else the remainder
        /// of its division by 65535, plus 1.
        optional conntrack_zone: Int<1, 65535>,
        /// Addresses of DNS servers that DHCP and router advertisements hand out. Default: none.
        optional dns: List<HostAddress>,
        /// This network's UDP port, where `[fabric] vxlan_port` does not do.
        optional vxlan_port: Int<1, 65535>,
        /// This network's group policy extension, where `[fabric] gbp` does not do. Tunnels that
        /// share a UDP port must agree.
        optional gbp: bool,
        /// What may be reached at every NIC of the network, besides what its own
        /// `user.lxmesh.in_services` allow; the same words. Default: nothing.
        optional in_services: List<Service>,
        /// What every NIC of the network may reach. Default: nothing.
        optional out_services: List<Service>,
        /// Tracked connections that a NIC may have begun at the same time: 64, 256, 1024, 4096,
        /// 16384 or 65536. A NIC's `user.lxmesh.limits.connections` comes first. Default: 4096.
        optional max_connections: Int<64, 65536>,
        /// Connections that a NIC may begin per second: 10, 100, 1000 or 10000. A NIC's
        /// `user.lxmesh.limits.new_connections` comes first. Default: 1000.
        optional new_connections_per_s: Int<10, 10000>,
        /// ARP, ND, DHCP, IGMP and MLD packets that a NIC may send per second: 10, 100 or 1000. A
        /// NIC's `user.lxmesh.limits.control_packets` comes first. Default: 100.
        optional control_packets_per_s: Int<10, 1000>,
        /// Multicast groups that a NIC may be a member of. A NIC's
        /// `user.lxmesh.limits.multicast_groups` comes first. Default: 64.
        optional max_multicast_groups: Int<1, 4096>,
        /// Let pass what no service allows, and log it: to find out which services are needed. What
        /// is forged is dropped all the same. A NIC's `user.lxmesh.audit` comes first. Default:
        /// false.
        optional audit: bool,
        /// Log what is dropped of what NICs send and are sent, at most five lines per second and
        /// NIC. A NIC's `user.lxmesh.log_drops` comes first. Default: false.
        optional log_drops: bool,
        /// LXD projects whose instances may have NICs in the network. An empty list: none. Default: all.
        optional projects: List<ProjectName>,
    }
}

section! {
    /// What the NICs of one LXD project's instances may have, whatever its users write. Where neither its
    /// own entry nor one of "*" is there, the project may have any address and any tag, in every network
    /// whose `projects` lets it in.
    TenantTable "[[tenant]]" {
        /// The project's name, or "*": every project that has no `[[tenant]]` of its own.
        required project: TenantName,
        /// Names of the networks that its NICs may be in; `projects` of the network has to let them in,
        /// too. An empty list: none. Default: all that let them in.
        optional networks: List<NetworkName>,
        /// Prefixes or single addresses that its NICs may have, in whichever of its networks they are.
        /// An empty list: none but the link-local one, which every NIC has. Default: every address.
        optional addresses: List<PrefixOrAddress>,
        /// Tags that its NICs' packets may bear. An empty list: none. Default: all.
        optional tags: List<TagName>,
    }
}

/// All sections, as they are in the file `root`.
pub fn sections(root: &DeTable<'_>) -> Vec<Section> {
    vec![
        File::section(root),
        FabricTable::section(root),
        HostTable::section(root),
        BgpTable::section(root),
        IpsecTable::section(root),
        FirewallTable::section(root),
        LxdTable::section(root),
        AgentTable::section(root),
        DhcpTable::section(root),
        RouterTable::section(root),
        VrfTable::section(root),
        NetworkTable::section(root),
        TenantTable::section(root),
    ]
}

/// Reads the text: syntax, keys and types. What could be read is returned; the rest is in
/// `findings`.
pub fn read(text: &str, findings: &mut Findings<'_>) -> File {
    let (table, errors) = DeTable::parse_recoverable(text);
    findings.complete = errors.is_empty();
    let mut errors: Vec<_> = errors
        .iter()
        .map(|error| {
            (
                error.span().unwrap_or(text.len()..text.len()),
                error.message(),
            )
        })
        .collect();
    errors.sort_by_key(|(span, _)| span.start);
    let mut line_before = 0;
    for (span, message) in errors {
        // One mistake often makes several errors in its line.
        let line = findings.line_of(span.start);
        if line != line_before {
            findings.add(
                span,
                format!("not TOML: {message}"),
                "correct the syntax (https://toml.io)",
            );
        }
        line_before = line;
    }
    let broken = findings.lines();
    let mut reader = Reader::new(findings, sections(table.get_ref()));
    let file = File::read_table(table.get_ref(), 0..0, &mut reader);
    // What else is wrong with a line that is not TOML follows from that.
    findings.retain(|problem| {
        problem.message.starts_with("not TOML") || !broken.contains(&problem.line)
    });
    file
}

/// The JSON Schema (draft 2020-12) of the file.
pub fn json_schema() -> Json {
    let mut schema = File::schema();
    if let Some(object) = schema.as_object_mut() {
        object.insert(
            "$schema".into(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        object.insert("title".into(), json!("LXMesh host file"));
    }
    schema["properties"]["version"] = json!({
        "const": 1,
        "description": "Version of this format: 1.",
    });
    schema
}
