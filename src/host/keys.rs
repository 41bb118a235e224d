//! The keys of the host file: every table, key, type and default, declared once. The parser, the
//! messages and the JSON Schema all come from here. Rules between keys are in `check.rs`.

use super::problem::Findings;
use super::value::{Int, Key, Map, Reader, Value, Word, not, object_schema, section};
use crate::addr::{IfName, IpAddr, IpNet, Mac, Vni, is_assignable, is_network_or_broadcast};
use serde_json::{Value as Json, json};
use std::path::PathBuf;
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
        optional ipsec: IpsecTable,
        optional lxd: LxdTable,
        optional agent: AgentTable,
        optional dhcp: DhcpTable,
        /// Tags: a name and its bit of the packet mark, 0 to 15. With `gbp`, tags travel between
        /// hosts. The bits must be the same on every host. Default: no tags.
        optional tags: TagBits,
        optional vrf: List<VrfTable>,
        optional network: List<NetworkTable>,
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
        /// Largest IP packet that the underlay carries between any two hosts, bytes. Default: 1500.
        optional underlay_mtu: Int<1280, 65535>,
        /// UDP port of the tunnels. Default: 4789 (RFC 7348).
        optional vxlan_port: Int<1, 65535>,
        /// VXLAN group policy extension: tags travel between hosts. Default: true.
        optional gbp: bool,
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
    }
}

section! {
    /// Encryption of the underlay.
    IpsecTable "[ipsec]" {
        /// Encrypt tunnels and BGP between hosts. Takes up to 45 bytes of the MTU. Default: false.
        optional enabled: bool,
        /// Identity that the peers' certificates must match, such as "*.example.org". Needed when
        /// `enabled` is true.
        optional identity: Identity,
    }
}

section! {
    /// The local LXD or Incus.
    LxdTable "[lxd]" {
        /// Its Unix socket. Default: the first of the LXD snap's, the LXD package's and Incus's.
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
        optional directory: AbsolutePath,
        /// The program. Default: "/usr/sbin/dnsmasq".
        optional program: AbsolutePath,
        /// Lease time, seconds. dnsmasq's least is 120. Default: 3600.
        optional lease_s: Int<120, 31_536_000>,
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
    }
}

/// The titles and keys of all tables.
pub fn sections() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        File::names(),
        FabricTable::names(),
        HostTable::names(),
        IpsecTable::names(),
        LxdTable::names(),
        AgentTable::names(),
        DhcpTable::names(),
        VrfTable::names(),
        NetworkTable::names(),
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
    let mut reader = Reader::new(findings, sections());
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

/// 1 to 32 of `a-z`, `0-9` and `-`.
pub struct FabricName(pub String);

impl Word for FabricName {
    const WANTED: &'static str = "1 to 32 lower-case letters, digits and '-'";
    const EXAMPLE: &'static str = "example";
    const PATTERN: &'static str = "^[a-z0-9-]{1,32}$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        match text.len() {
            1..=32 if is_name(text, "-") => Ok(FabricName(text.into())),
            _ => Err(not::<Self>()),
        }
    }
}

/// A network's name; whether its device names fit is checked where they are known.
pub struct NetworkName(pub String);

impl Word for NetworkName {
    const WANTED: &'static str =
        "1 to 32 lower-case letters, digits, '-' and '_', the first a letter or digit";
    const EXAMPLE: &'static str = "vpc";
    const PATTERN: &'static str = "^[a-z0-9][a-z0-9_-]{0,31}$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        match text.len() {
            1..=32 if is_name(text, "-_") && !text.starts_with(['-', '_']) => {
                Ok(NetworkName(text.into()))
            }
            _ => Err(not::<Self>()),
        }
    }
}

/// A tag's name.
pub struct TagName(pub String);

impl Word for TagName {
    const WANTED: &'static str =
        "1 to 32 lower-case letters, digits, '-' and '_', the first a letter or digit";
    const EXAMPLE: &'static str = "bastion";
    const PATTERN: &'static str = "^[a-z0-9][a-z0-9_-]{0,31}$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        match NetworkName::parse(text) {
            Ok(NetworkName(name)) => Ok(TagName(name)),
            Err(_) => Err(not::<Self>()),
        }
    }
}

fn is_name(text: &str, also: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || also.contains(c))
}

impl Word for IfName {
    const WANTED: &'static str = "an interface name";
    const EXAMPLE: &'static str = "blue";
    const PATTERN: &'static str = "^[A-Za-z0-9_.@+-]{1,15}$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        if ["lo", "all", "default"].contains(&text) || text.starts_with(['-', '.', '@', '+']) {
            return Err((
                "cannot be the name of a network device here".into(),
                "choose another name, beginning with a letter or digit".into(),
            ));
        }
        text.parse().map_err(|error: crate::addr::AddrError| {
            (error.0, "choose a shorter or plainer name".into())
        })
    }
}

/// An address that a host may have.
#[derive(Clone, Copy)]
pub struct HostAddress(pub IpAddr);

impl Word for HostAddress {
    const WANTED: &'static str = "an IP address";
    const EXAMPLE: &'static str = "192.0.2.1";
    const PATTERN: &'static str = "";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let address: IpAddr = text.parse().map_err(|_| not::<Self>())?;
        if !is_usable(address) {
            return Err(unusable());
        }
        Ok(HostAddress(address))
    }
}

fn is_usable(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(six) if six.is_unicast_link_local());
    is_assignable(address) && !link_local
}

fn unusable() -> (String, String) {
    (
        "is not an address that a host can be reached by".into(),
        "choose a unicast address that is neither loopback nor link-local".into(),
    )
}

/// A prefix without host bits; a single address is one of full length.
#[derive(Clone, Copy)]
pub struct PrefixOrAddress(pub IpNet);

impl Word for PrefixOrAddress {
    const WANTED: &'static str = "a prefix or an IP address";
    const EXAMPLE: &'static str = "203.0.113.0/24";
    const PATTERN: &'static str = "";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        if let Ok(HostAddress(address)) = HostAddress::parse(text) {
            return Ok(PrefixOrAddress(address.into()));
        }
        let net: IpNet = match text.parse::<IpAddr>() {
            Ok(_) => return Err(unusable()),
            Err(_) => text.parse().map_err(|_| not::<Self>())?,
        };
        if net.addr() != net.network() {
            return Err((
                format!("has host bits beyond its /{}", net.prefix_len()),
                format!(
                    "write \"{}\" for the prefix, or \"{}\" for the one address",
                    net.trunc(),
                    net.addr()
                ),
            ));
        }
        if net.prefix_len() == 0 || net.network().is_multicast() || net.network().is_loopback() {
            return Err(unusable());
        }
        Ok(PrefixOrAddress(net))
    }
}

/// A host's address with its prefix length.
#[derive(Clone, Copy)]
pub struct Gateway(pub IpNet);

impl Word for Gateway {
    const WANTED: &'static str = "an address with a prefix length";
    const EXAMPLE: &'static str = "192.0.2.1/24";
    const PATTERN: &'static str = "^[0-9A-Fa-f.:]+/[0-9]{1,3}$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let length = if address.is_ipv4() { 24 } else { 64 };
            return Err((
                "has no prefix length".into(),
                format!("write \"{address}/{length}\", for example"),
            ));
        }
        let net: IpNet = text.parse().map_err(|_| not::<Self>())?;
        if !is_usable(net.addr()) {
            return Err(unusable());
        }
        let (longest, shortest) = if net.addr().is_ipv4() {
            (30, 8)
        } else {
            (126, 16)
        };
        if !(shortest..=longest).contains(&net.prefix_len()) {
            return Err((
                format!(
                    "has a prefix length of {}, which leaves no sensible network",
                    net.prefix_len()
                ),
                format!("choose a length from {shortest} to {longest}"),
            ));
        }
        let taken = match net {
            IpNet::V4(four) => is_network_or_broadcast(four, four.addr()),
            IpNet::V6(six) => six.addr() == six.network(),
        };
        if taken {
            let first = net.hosts().nth(usize::from(net.addr().is_ipv6()));
            let example = first.unwrap_or(net.addr());
            return Err((
                "is not a host's address but the network's own or its broadcast address".into(),
                format!(
                    "choose an address inside, such as \"{example}/{}\"",
                    net.prefix_len()
                ),
            ));
        }
        Ok(Gateway(net))
    }
}

impl Word for Mac {
    const WANTED: &'static str = "a MAC address";
    const EXAMPLE: &'static str = "02:00:5e:10:00:01";
    const PATTERN: &'static str = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let mac: Mac = text.parse().map_err(|_| not::<Self>())?;
        if mac.is_unusable() {
            return Err((
                "is a group address or all zeros, which no station can have".into(),
                "leave it out to have one derived, or choose one such as \"02:00:5e:10:00:01\""
                    .into(),
            ));
        }
        Ok(mac)
    }
}

impl Value for Vni {
    fn wanted() -> String {
        format!("a VNI from 1 to {}", Vni::MAX)
    }
    fn example() -> String {
        "100".into()
    }
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        let DeValue::Integer(number) = value.get_ref() else {
            reader.wrong_type::<Self>(value);
            return None;
        };
        let read = u32::from_str_radix(number.as_str(), number.radix()).ok();
        let vni = read.and_then(|read| Vni::try_from(read).ok());
        if vni.is_none() {
            reader.wrong(
                value.span(),
                &format!("{number} is not {}", Self::wanted()),
                "choose a number in that range; 0 and 16777215 are reserved",
            );
        }
        vni
    }
    fn schema() -> Json {
        json!({"type": "integer", "minimum": 1, "maximum": Vni::MAX})
    }
}

/// "supervisor" or "reflector".
#[derive(Clone, Copy)]
pub struct RoleName(pub super::schema::Role);

impl Word for RoleName {
    const WANTED: &'static str = "a role";
    const EXAMPLE: &'static str = "supervisor";
    const PATTERN: &'static str = "^(supervisor|reflector)$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        use super::schema::Role;
        match text {
            "supervisor" => Ok(RoleName(Role::Supervisor)),
            "reflector" => Ok(RoleName(Role::Reflector)),
            _ => Err((
                "is not a role".into(),
                "write \"supervisor\", \"reflector\", or both".into(),
            )),
        }
    }
}

/// What a certificate's identity must match.
pub struct Identity(pub String);

impl Word for Identity {
    const WANTED: &'static str = "an identity";
    const EXAMPLE: &'static str = "*.example.org";
    const PATTERN: &'static str = "^[^\"{}\\\\#\\s][^\"{}\\\\#\\u0000-\\u001f]*$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let forbidden = |c: char| c.is_control() || "\"{}\\#".contains(c);
        if text.trim() != text || text.is_empty() || text.len() > 255 || text.contains(forbidden) {
            return Err(not::<Self>());
        }
        Ok(Identity(text.into()))
    }
}

/// A path from the root.
pub struct AbsolutePath(pub PathBuf);

impl Word for AbsolutePath {
    const WANTED: &'static str = "an absolute path";
    const EXAMPLE: &'static str = "/run/lxmesh/dnsmasq";
    const PATTERN: &'static str = "^/[^\\u0000-\\u001f]*$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        if !text.starts_with('/') || text.contains(char::is_control) || text.len() > 4095 {
            return Err((
                "is not an absolute path".into(),
                format!(
                    "write the path from the root, such as \"{}\"",
                    Self::EXAMPLE
                ),
            ));
        }
        Ok(AbsolutePath(text.into()))
    }
}

/// A path that fits in a socket address (unix(7): 108 bytes with the NUL).
pub struct SocketPath(pub PathBuf);

impl Word for SocketPath {
    const WANTED: &'static str = "an absolute path";
    const EXAMPLE: &'static str = "/var/lib/incus/unix.socket";
    const PATTERN: &'static str = "^/[^\\u0000-\\u001f]{0,106}$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let AbsolutePath(path) = AbsolutePath::parse(text).map_err(|(clause, _)| {
            (
                clause,
                format!(
                    "write the path from the root, such as \"{}\"",
                    Self::EXAMPLE
                ),
            )
        })?;
        if text.len() > 107 {
            return Err((
                format!(
                    "is {} bytes long, a socket's path has at most 107",
                    text.len()
                ),
                "choose a shorter path".into(),
            ));
        }
        Ok(SocketPath(path))
    }
}

/// "main", "vrf", or a table's number.
#[derive(Clone, Copy)]
pub struct HostRoutes(pub super::schema::RouteTable);

impl Value for HostRoutes {
    fn wanted() -> String {
        "\"main\", \"vrf\", or a routing table's number".into()
    }
    fn example() -> String {
        "\"main\"".into()
    }
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
        use super::schema::RouteTable;
        match value.get_ref() {
            DeValue::String(text) => match text.as_ref() {
                "main" => return Some(HostRoutes(RouteTable::Main)),
                "vrf" => return Some(HostRoutes(RouteTable::Vrf)),
                _ => reader.wrong_type::<Self>(value),
            },
            DeValue::Integer(_) => {
                let Int(number) = Int::<0, 4_294_967_295>::read(value, reader)?;
                match number {
                    254 => return Some(HostRoutes(RouteTable::Main)),
                    0 | 253 | 255 => reader.wrong(
                        value.span(),
                        &format!("{number} is a table that the kernel keeps for itself"),
                        "choose another number, \"main\" or \"vrf\"",
                    ),
                    _ => return Some(HostRoutes(RouteTable::Number(number as u32))),
                }
            }
            _ => reader.wrong_type::<Self>(value),
        }
        None
    }
    fn schema() -> Json {
        json!({"anyOf": [
            {"enum": ["main", "vrf"]},
            {"type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32, "not": {"enum": [253, 255]}},
        ]})
    }
}
