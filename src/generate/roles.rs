//! Which address of this host is its underlay address, and what the host is in the fabric.

use super::facts::LocalFacts;
use crate::addr::IpAddr;
use crate::host::{Fabric, HostFile, Role};
use std::collections::BTreeSet;
use std::fmt;

/// This host's place in the fabric. At least one of the roles is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// Tunnel end point and BGP source.
    pub underlay: IpAddr,
    pub supervisor: bool,
    pub reflector: bool,
}

impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = match (self.supervisor, self.reflector) {
            (true, true) => "supervisor and reflector",
            (true, false) => "supervisor",
            (false, _) => "reflector",
        };
        write!(f, "{} ({roles})", self.underlay)
    }
}

/// Why this host has no place in the fabric.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    #[error(
        "none of this host's addresses ({addresses}) is among fabric.supervisors or fabric.reflectors\n  \
         remedy: add one to the host file, set [host] underlay, or name a host with --host ADDRESS"
    )]
    Stranger { addresses: String },
    #[error(
        "this host has several addresses among fabric.supervisors and fabric.reflectors: {addresses}\n  \
         remedy: list its underlay address singly, or set [host] underlay"
    )]
    Ambiguous { addresses: String },
    #[error(
        "host.roles: this host's address, {address}, is not among fabric.{key}\n  \
         remedy: add it there, or remove the role from [host] roles"
    )]
    NotListed { address: IpAddr, key: &'static str },
}

pub fn detect(file: &HostFile, facts: &LocalFacts) -> Result<Here, RoleError> {
    let fabric = &file.fabric;
    let underlay = match file.host.underlay {
        Some(address) => address,
        None => underlay_among(fabric, &facts.addresses)?,
    };
    let listed_reflector = fabric.reflectors.contains(&underlay);
    let listed_singly = is_listed_singly(fabric, underlay);
    let in_supervisors = fabric.supervisors.iter().any(|net| net.contains(&underlay));
    let (supervisor, reflector) = match &file.host.roles {
        Some(roles) => (
            roles.contains(&Role::Supervisor),
            roles.contains(&Role::Reflector),
        ),
        // A reflector that merely lies in the supervisors' prefix runs no instances.
        None => (
            listed_singly || (in_supervisors && !listed_reflector),
            listed_reflector,
        ),
    };
    let not_listed = |key| RoleError::NotListed {
        address: underlay,
        key,
    };
    if supervisor && !in_supervisors {
        return Err(not_listed("supervisors"));
    }
    if reflector && !listed_reflector {
        return Err(not_listed("reflectors"));
    }
    if !supervisor && !reflector {
        return Err(RoleError::Stranger {
            addresses: underlay.to_string(),
        });
    }
    Ok(Here {
        underlay,
        supervisor,
        reflector,
    })
}

fn is_listed_singly(fabric: &Fabric, address: IpAddr) -> bool {
    fabric.supervisors.contains(&address.into())
}

/// An address that the file lists by itself goes before one that lies in a prefix.
fn underlay_among(fabric: &Fabric, addresses: &BTreeSet<IpAddr>) -> Result<IpAddr, RoleError> {
    let singly: Vec<IpAddr> = addresses
        .iter()
        .copied()
        .filter(|address| is_listed_singly(fabric, *address) || fabric.reflectors.contains(address))
        .collect();
    let in_prefix = addresses
        .iter()
        .copied()
        .filter(|address| fabric.supervisors.iter().any(|net| net.contains(address)));
    let candidates = if singly.is_empty() {
        in_prefix.collect()
    } else {
        singly
    };
    match candidates[..] {
        [address] => Ok(address),
        [] => Err(RoleError::Stranger {
            addresses: listed(addresses.iter()),
        }),
        _ => Err(RoleError::Ambiguous {
            addresses: listed(candidates.iter()),
        }),
    }
}

fn listed<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> String {
    let all: Vec<String> = addresses.map(IpAddr::to_string).collect();
    match all.is_empty() {
        true => "it has none".into(),
        false => all.join(", "),
    }
}
