//! The neighbour sysctls of a device. Through `/proc`, because `RTM_GETNEIGHTBL` can only dump them
//! for every device at once.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens the file.

use std::fs;
use std::io;

use crate::addr::IfName;

/// How many solicitations the host sends before it calls an address absent. All zero: it never
/// asks (every neighbour is installed).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighSolicit {
    pub v4_mcast: u32,
    pub v4_ucast: u32,
    pub v6_mcast: u32,
    pub v6_ucast: u32,
}

fn path(family: &str, device: &IfName, name: &str) -> String {
    format!("/proc/sys/net/{family}/neigh/{device}/{name}")
}

fn read(family: &str, device: &IfName, name: &str) -> io::Result<u32> {
    let path = path(family, device, name);
    let text = fs::read_to_string(&path)?;
    text.trim().parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path} is {text:?}, not a number"),
        )
    })
}

fn named(path: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// `mcast_solicit` and `ucast_solicit` of a device. None if the device is not there (or has no
/// IPv6).
pub fn neigh_solicit(device: &IfName) -> io::Result<Option<NeighSolicit>> {
    let all = || -> io::Result<NeighSolicit> {
        Ok(NeighSolicit {
            v4_mcast: read("ipv4", device, "mcast_solicit")?,
            v4_ucast: read("ipv4", device, "ucast_solicit")?,
            v6_mcast: read("ipv6", device, "mcast_solicit")?,
            v6_ucast: read("ipv6", device, "ucast_solicit")?,
        })
    };
    match all() {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(&format!("neighbour sysctls of {device}"), error)),
    }
}

/// Sets all four. The first failure ends it; its error names the file.
pub fn set_neigh_solicit(device: &IfName, value: &NeighSolicit) -> io::Result<()> {
    let NeighSolicit {
        v4_mcast,
        v4_ucast,
        v6_mcast,
        v6_ucast,
    } = *value;
    for (family, name, value) in [
        ("ipv4", "mcast_solicit", v4_mcast),
        ("ipv4", "ucast_solicit", v4_ucast),
        ("ipv6", "mcast_solicit", v6_mcast),
        ("ipv6", "ucast_solicit", v6_ucast),
    ] {
        let path = path(family, device, name);
        // Without O_CREAT and O_TRUNC, so that a missing device is ENOENT and not EACCES.
        let file = fs::OpenOptions::new().write(true).open(&path);
        file.and_then(|mut f| io::Write::write_all(&mut f, value.to_string().as_bytes()))
            .map_err(|error| named(&path, error))?;
    }
    Ok(())
}
