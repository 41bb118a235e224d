//! Small values parsed once at the door and valid for ever after: MAC addresses, VNIs, interface
//! names. Addresses and prefixes are `std::net` and [`ipnet`] types. Knows nothing of the rest.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use std::net::IpAddr;

/// Why a text is not the value it should be. `Display` is one clause without the value itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddrError(pub String);

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// True for multicast and broadcast addresses (the group bit is set) and for all zeros:
    /// addresses that no station may use as its own.
    pub fn is_unusable(self) -> bool {
        self.0[0] & 1 == 1 || self.0 == [0; 6]
    }

    /// The modified EUI-64 link-local IPv6 address of this MAC (RFC 4291 appendix A).
    pub fn eui64_link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = AddrError;
    /// Six colon-separated pairs of hexadecimal digits, in either case.
    fn from_str(text: &str) -> Result<Self, AddrError> {
        let wrong = || AddrError("is not a MAC address such as 02:00:5e:10:00:01".into());
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            if part.len() != 2 || !part.bytes().all(|c| c.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(Mac(bytes)),
            Some(_) => Err(wrong()),
        }
    }
}

/// A VXLAN network identifier that may be used: 1 to 16777214. Zero and all ones are refused,
/// as several implementations reserve them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vni(u32);

impl Vni {
    pub const MAX: u32 = 16_777_214;

    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = AddrError;
    fn try_from(value: u32) -> Result<Self, AddrError> {
        if (1..=Self::MAX).contains(&value) {
            Ok(Vni(value))
        } else {
            Err(AddrError(format!("is not a VNI from 1 to {}", Self::MAX)))
        }
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network interface name as the kernel takes it: 1 to 15 bytes, no `/`, no `:`, no white
/// space, not `.` or `..` (`dev_valid_name()` in net/core/dev.c). We also insist on printable
/// ASCII without quotes and braces, because names end up in configuration files.
///
/// Kept in place: tables of thousands of objects have a name in every key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName {
    /// Filled up with zeros, so that their order is that of the texts.
    bytes: [u8; IfName::MAX_LEN],
    len: u8,
}

impl IfName {
    pub const MAX_LEN: usize = 15;

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)])
            .expect("from_str takes ASCII only")
    }
}

impl FromStr for IfName {
    type Err = AddrError;
    fn from_str(text: &str) -> Result<Self, AddrError> {
        if text.len() > Self::MAX_LEN {
            return Err(AddrError(format!(
                "is {} bytes long, an interface name has at most {}",
                text.len(),
                Self::MAX_LEN
            )));
        }
        if text.is_empty() || text == "." || text == ".." {
            return Err(AddrError("is not an interface name".into()));
        }
        match text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || "-_.@+".contains(*c)))
        {
            Some(c) => Err(AddrError(format!(
                "has {c:?}; an interface name has letters, digits, '-', '_', '.', '@' and '+'"
            ))),
            None => {
                let mut bytes = [0; Self::MAX_LEN];
                bytes[..text.len()].copy_from_slice(text.as_bytes());
                Ok(IfName {
                    bytes,
                    len: text.len() as u8,
                })
            }
        }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The solicited-node multicast group of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// True if the address can be a station's own: not unspecified, loopback, multicast, broadcast,
/// IPv4 link-local (RFC 3927) or IPv4-mapped.
pub fn is_assignable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            !(a.is_unspecified()
                || a.is_loopback()
                || a.is_multicast()
                || a.is_broadcast()
                || a.is_link_local()
                || a.octets()[0] == 0
                || a.octets()[0] >= 240)
        }
        IpAddr::V6(a) => {
            !(a.is_unspecified()
                || a.is_loopback()
                || a.is_multicast()
                || a.to_ipv4_mapped().is_some())
        }
    }
}

/// True if `address` is the network or broadcast address of `net` (IPv4, longer than /31 only),
/// which no station may have.
pub fn is_network_or_broadcast(net: Ipv4Net, address: Ipv4Addr) -> bool {
    net.prefix_len() < 31 && (address == net.network() || address == net.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_back_as_it_was_written() {
        let mac: Mac = "02:aB:00:01:fe:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:ab:00:01:fe:ff");
        for bad in [
            "",
            "02:ab:00:01:fe",
            "02:ab:00:01:fe:ff:00",
            "2:ab:00:01:fe:ff",
            "+2:ab:00:01:fe:ff",
            "02-ab-00-01-fe-ff",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn link_local_and_solicited_node_follow_the_rfc() {
        let mac: Mac = "00:16:3e:3f:42:16".parse().unwrap();
        let lla = mac.eui64_link_local();
        assert_eq!(lla.to_string(), "fe80::216:3eff:fe3f:4216");
        assert_eq!(solicited_node(lla).to_string(), "ff02::1:ff3f:4216");
    }

    #[test]
    fn vnis_at_both_ends_are_refused() {
        for bad in [0, 16_777_215, u32::MAX] {
            assert!(Vni::try_from(bad).is_err());
        }
        assert_eq!(Vni::try_from(16_777_214).unwrap().get(), 16_777_214);
    }

    #[test]
    fn interface_names_of_more_than_15_bytes_are_refused() {
        assert!("abcdefghijklmno".parse::<IfName>().is_ok());
        let error = "abcdefghijklmnop".parse::<IfName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "is 16 bytes long, an interface name has at most 15"
        );
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "a\"b", "ä"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
    }
}
