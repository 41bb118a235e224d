//! The types of the host file's values: how each is written, what each refuses and why, and its
//! part of the JSON Schema.

use super::schema::{Revocation, Role, RouteTable, Tenant};
use super::value::{Int, Reader, Value, Word, not};
use crate::addr::{
    AddrError, IfName, IpAddr, IpNet, Mac, Vni, is_assignable, is_network_or_broadcast,
};
use crate::text;
use serde_json::{Value as Json, json};
use std::path::PathBuf;
use toml::Spanned;
use toml::de::DeValue;

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

/// The name of a project of LXD or Incus, as far as they agree on what can be one (`projectValidateName`
/// of LXD 5.0's lxd/api_project.go).
pub struct ProjectName(pub String);

impl Word for ProjectName {
    const WANTED: &'static str =
        "the name of a project, 1 to 253 visible characters without blanks, quotes and '/'";
    const EXAMPLE: &'static str = "shop";
    const PATTERN: &'static str = "^[^/\\s\"']{1,253}$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        if text == "*" {
            return Err((
                "stands for no project here".into(),
                "name the projects, or remove the key to let all have it".into(),
            ));
        }
        let forbidden = |c: char| c.is_whitespace() || "/\"'".contains(c);
        if [".", ".."].contains(&text) || !text::is_name(text, 253) || text.contains(forbidden) {
            return Err(not::<Self>());
        }
        Ok(ProjectName(text.into()))
    }
}

/// A project's name, or "*" for all that are not named.
pub struct TenantName(pub String);

impl Word for TenantName {
    const WANTED: &'static str = "the name of a project, or \"*\"";
    const EXAMPLE: &'static str = ProjectName::EXAMPLE;
    const PATTERN: &'static str = ProjectName::PATTERN;
    fn parse(text: &str) -> Result<Self, (String, String)> {
        match text {
            Tenant::OTHERS => Ok(TenantName(text.into())),
            _ => ProjectName::parse(text).map(|ProjectName(name)| TenantName(name)),
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
        if is_number(text) {
            return Err((
                "is a number, which systemd-networkd does not take for the name of a device".into(),
                "choose another name, beginning with a letter".into(),
            ));
        }
        existing_device(text)
    }
}

/// A number as systemd reads one: `100`, `0x10`, `0b1`, `0o7`.
fn is_number(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let (digits, radix) = match text.get(..2) {
        Some("0x") => (&text[2..], 16),
        Some("0b") => (&text[2..], 2),
        Some("0o") => (&text[2..], 8),
        _ => (&*text, 10),
    };
    !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix))
}

/// The name of a device that somebody else may have made.
fn existing_device(text: &str) -> Result<IfName, (String, String)> {
    if ["lo", "all", "default"].contains(&text) || text.starts_with(['-', '.', '@', '+']) {
        return Err((
            "cannot be the name of a network device here".into(),
            "choose another name, beginning with a letter or digit".into(),
        ));
    }
    text.parse()
        .map_err(|error: AddrError| (error.0, "choose a shorter or plainer name".into()))
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
pub struct RoleName(pub Role);

impl Word for RoleName {
    const WANTED: &'static str = "a role";
    const EXAMPLE: &'static str = "supervisor";
    const PATTERN: &'static str = "^(supervisor|reflector)$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
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

/// A device of the host, or several by the beginning of their names.
#[derive(Clone)]
pub struct DeviceName(pub String);

impl Word for DeviceName {
    const WANTED: &'static str = "the name of a device";
    const EXAMPLE: &'static str = "host0";
    const PATTERN: &'static str = "^[A-Za-z0-9_.@+-]{1,14}[A-Za-z0-9_.@+*-]?$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let (name, all_of_them) = match text.strip_suffix('*') {
            Some(beginning) => (beginning, true),
            None => (text, false),
        };
        // LXD's own choice of names for instances' devices.
        let instances = ["veth", "tap"].iter().any(|own| own.starts_with(name));
        if all_of_them && instances {
            return Err((
                "would hold instances' devices, too".into(),
                "write more of the name, or the names one by one".into(),
            ));
        }
        existing_device(name)?;
        Ok(DeviceName(text.into()))
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

/// Neither quotes nor what ends a value in the files of swanctl and FRR.
fn is_plain(text: &str) -> bool {
    !text
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || "\"'{}\\#,;".contains(c))
}

/// A path that other programs' files can name as it is.
pub struct ConfPath(pub PathBuf);

impl Word for ConfPath {
    const WANTED: &'static str = "an absolute path without blanks, quotes, braces, commas and '#'";
    const EXAMPLE: &'static str = "/etc/lxmesh/secret";
    const PATTERN: &'static str = "^/[^\\u0000-\\u0020\"'{}\\\\#,;]*$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        match AbsolutePath::parse(text) {
            Ok(AbsolutePath(path)) if is_plain(text) => Ok(ConfPath(path)),
            _ => Err(not::<Self>()),
        }
    }
}

/// A directory whose files dnsmasq's can name.
pub struct ConfDirectory(pub PathBuf);

impl Word for ConfDirectory {
    const WANTED: &'static str = ConfPath::WANTED;
    const EXAMPLE: &'static str = "/run/lxmesh/dnsmasq";
    const PATTERN: &'static str = ConfPath::PATTERN;
    fn parse(text: &str) -> Result<Self, (String, String)> {
        match ConfPath::parse(text) {
            Ok(ConfPath(path)) => Ok(ConfDirectory(path)),
            Err(_) => Err(not::<Self>()),
        }
    }
}

/// A certificate: a file of swanctl's directory, or an absolute path.
pub struct CertFile(pub String);

impl Word for CertFile {
    const WANTED: &'static str = "the name of a file in /etc/swanctl/x509ca, or an absolute path";
    const EXAMPLE: &'static str = "fleet.pem";
    const PATTERN: &'static str =
        "^(/|[^/])[^\\u0000-\\u0020\"'{}\\\\#,;/]*(/[^\\u0000-\\u0020\"'{}\\\\#,;]*)?$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let has_place = text.starts_with('/') || !text.contains('/');
        match text.len() {
            1..=4095 if has_place && is_plain(text) => Ok(CertFile(text.into())),
            _ => Err(not::<Self>()),
        }
    }
}

/// "relaxed" or "strict".
pub struct RevocationName(pub Revocation);

impl Word for RevocationName {
    const WANTED: &'static str = "\"relaxed\" or \"strict\"";
    const EXAMPLE: &'static str = "relaxed";
    const PATTERN: &'static str = "^(relaxed|strict)$";
    fn parse(text: &str) -> Result<Self, (String, String)> {
        match text {
            "relaxed" => Ok(RevocationName(Revocation::Relaxed)),
            "strict" => Ok(RevocationName(Revocation::Strict)),
            _ => Err(not::<Self>()),
        }
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
pub struct HostRoutes(pub RouteTable);

impl Value for HostRoutes {
    fn wanted() -> String {
        "\"main\", \"vrf\", or a routing table's number".into()
    }
    fn example() -> String {
        "\"main\"".into()
    }
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_, '_>) -> Option<Self> {
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
