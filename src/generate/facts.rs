//! What rendering needs to know of the host it is for: its addresses, routes and name from /proc, the
//! versions of its programs, and the password that the host file says is in a file. Decides
//! nothing.

use super::closed::Devices;
use super::strongswan::name_of_address;
use super::target::Target;
use crate::host::HostFile;
use crate::kernel::rtnl::Rtnl;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::{fs, io};

/// Facts of one host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalFacts {
    /// Its own addresses; without loopback, link-local, temporary (RFC 8981) and deprecated ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Its name, as `hostname` prints it.
    pub name: String,
    /// What its programs understand.
    pub target: Target,
    /// What stands in the file of `[bgp] password_file`.
    pub bgp_password: Option<String>,
    /// Devices that could be an instance's by their kind.
    pub devices: Devices,
}

/// A file that the host file names holds no password.
#[derive(Debug, thiserror::Error)]
#[error("bgp.password_file: {}: {why}\n  remedy: write the password, 1 to 80 printable characters without blanks, into its first line; and run as root", .path.display())]
pub struct PasswordError {
    path: PathBuf,
    why: String,
}

/// The host's addresses could not be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot read this host's addresses from {path}\n  remedy: mount /proc, or name this host's address with --host ADDRESS"
)]
pub struct FactsError {
    path: &'static str,
    source: io::Error,
}

const HOST_NAME: &str = "/proc/sys/kernel/hostname";
const FIB_TRIE: &str = "/proc/net/fib_trie";
const IF_INET6: &str = "/proc/net/if_inet6";

impl LocalFacts {
    /// Those of the host that this program runs on.
    pub fn read() -> Result<Self, FactsError> {
        Ok(LocalFacts {
            target: Target::detect(),
            ..Self::read_without_programs()?
        })
    }

    /// The same as if it had the reference platform's programs, so that none has to be run.
    pub fn read_without_programs() -> Result<Self, FactsError> {
        Ok(LocalFacts {
            name: read(HOST_NAME)?.trim().to_string(),
            devices: soft_devices(),
            ..Self::read_addresses()?
        })
    }

    /// Its addresses alone.
    pub fn read_addresses() -> Result<Self, FactsError> {
        let four = ipv4_of_fib_trie(&read(FIB_TRIE)?);
        let six = ipv6_of_if_inet6(&read(IF_INET6)?);
        let all = four
            .into_iter()
            .map(IpAddr::from)
            .chain(six.into_iter().map(IpAddr::from));
        Ok(LocalFacts {
            addresses: all.collect(),
            ..LocalFacts::default()
        })
    }

    /// Those of the host with this address, on the reference platform. Its name is not known: one
    /// is made of the address.
    pub fn of(address: IpAddr) -> Self {
        LocalFacts {
            addresses: BTreeSet::from([address]),
            name: name_of_address(address),
            target: Target::default(),
            bgp_password: None,
            devices: Devices::default(),
        }
    }

    /// With the secrets that the host file says are in files of this host.
    pub fn with_secrets(mut self, file: &HostFile) -> Result<Self, PasswordError> {
        let Some(path) = &file.bgp.password_file else {
            return Ok(self);
        };
        let wrong = |why: String| PasswordError {
            path: path.clone(),
            why,
        };
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let password = text.lines().next().unwrap_or_default().trim();
        // TCP_MD5SIG_MAXKEYLEN is 80; FRR reads one word.
        let usable = password.chars().all(|c| c.is_ascii_graphic());
        if !usable || !(1..=80).contains(&password.len()) {
            return Err(wrong("its first line is no password".into()));
        }
        self.bgp_password = Some(password.to_string());
        Ok(self)
    }
}

fn read(path: &'static str) -> Result<String, FactsError> {
    match fs::read_to_string(path) {
        // Without IPv6 in the kernel there is no such file.
        Err(source) if path == IF_INET6 && source.kind() == io::ErrorKind::NotFound => {
            Ok(String::new())
        }
        read => read.map_err(|source| FactsError { path, source }),
    }
}

/// None where the kernel cannot be asked: the agent looks once more.
fn soft_devices() -> Devices {
    let find = || {
        let mut rtnl = Rtnl::open()?;
        let links = rtnl.links()?;
        Devices::find(&mut rtnl, links.iter())
    };
    find().unwrap_or_default()
}

/// `|-- 192.0.2.1` followed by `/32 host LOCAL`.
fn ipv4_of_fib_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in text.lines().map(str::trim_start) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.trim().parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.filter(|address| !address.is_loopback()));
        }
    }
    found
}

/// Address in hexadecimal, index, prefix length, scope, flags, device: `if6_seq_show()` in
/// net/ipv6/addrconf.c.
fn ipv6_of_if_inet6(text: &str) -> Vec<Ipv6Addr> {
    const SCOPE_GLOBAL: u32 = 0;
    const IFA_F_TEMPORARY: u32 = 0x01;
    const IFA_F_DEPRECATED: u32 = 0x20;
    let address = |line: &str| {
        let mut fields = line.split_whitespace();
        let bits = u128::from_str_radix(fields.next()?, 16).ok()?;
        let scope = u32::from_str_radix(fields.nth(2)?, 16).ok()?;
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let usable = scope == SCOPE_GLOBAL && flags & (IFA_F_TEMPORARY | IFA_F_DEPRECATED) == 0;
        usable.then(|| Ipv6Addr::from(bits))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_addresses_are_the_local_leaves_of_the_routing_tables() {
        let text = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 198.51.100.0
        /24 link UNICAST
Local:
  +-- 0.0.0.0/0 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 198.51.100.11
           /32 host LOCAL
        |-- 198.51.100.255
           /32 link BROADCAST
";
        assert_eq!(
            ipv4_of_fib_trie(text),
            ["198.51.100.11".parse::<Ipv4Addr>().unwrap()]
        );
    }

    #[test]
    fn temporary_and_deprecated_ipv6_addresses_are_left_out() {
        let text = "\
00000000000000000000000000000001 01 80 10 80       lo
20010db8ffff00000000000000000011 02 40 00 80     eth0
20010db8ffff000011223344556677aa 02 40 00 01     eth0
20010db8000000000000000000000001 03 40 00 a0  svi-vpc
fe80000000000000021122fffe334455 02 40 20 80     eth0
";
        assert_eq!(
            ipv6_of_if_inet6(text),
            ["2001:db8:ffff::11".parse::<Ipv6Addr>().unwrap()]
        );
    }

    #[test]
    fn garbage_has_no_addresses() {
        for text in [
            "",
            "|-- \n/32 host LOCAL",
            "zz",
            "ff 1",
            "|-- 1.2.3\n  /32 host LOCAL\n",
        ] {
            assert!(ipv4_of_fib_trie(text).is_empty() && ipv6_of_if_inet6(text).is_empty());
        }
    }
}
