//! What the programs around us understand, by their versions: of a distribution that is named, or
//! of what is installed here. Other modules ask this one, and nobody else looks at a version.

use super::roles::Here;
use crate::host::{HostFile, Network, RouteTable};
use std::fmt;
use std::process::Command;
use std::str::FromStr;

/// Major, minor, patch; what is not said is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32, pub u32, pub u32);

/// The versions that files are rendered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As it was asked for.
    pub name: String,
    pub systemd: Version,
    pub frr: Version,
    pub strongswan: Version,
    pub nft: Version,
    /// Where nft is.
    pub nft_program: &'static str,
}

/// Names that `--target` takes beside "detect", and what they have: systemd, FRR, strongSwan, nft.
/// Ubuntu has FRR from FRR's own archive, as its own is too old.
const KNOWN: &[(&str, [Version; 4], &str)] = &[
    (
        "debian-13",
        [
            Version(257, 0, 0),
            Version(10, 3, 0),
            Version(6, 0, 1),
            Version(1, 1, 3),
        ],
        "/usr/sbin/nft",
    ),
    (
        "debian-12",
        [
            Version(252, 0, 0),
            Version(8, 4, 4),
            Version(5, 9, 8),
            Version(1, 0, 6),
        ],
        "/usr/sbin/nft",
    ),
    (
        "ubuntu-24.04",
        [
            Version(255, 0, 0),
            Version(10, 0, 0),
            Version(5, 9, 13),
            Version(1, 0, 9),
        ],
        "/usr/sbin/nft",
    ),
    (
        "nixos-25.05",
        [
            Version(257, 0, 0),
            Version(10, 3, 0),
            Version(6, 0, 1),
            Version(1, 1, 3),
        ],
        NIXOS_NFT,
    ),
];

/// Where NixOS keeps nft.
const NIXOS_NFT: &str = "/run/current-system/sw/bin/nft";

/// An unknown target, or an unreadable version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown target {0:?}\n  remedy: write detect, {names}; versions may follow: debian-13,frr=10.6", names = names())]
pub struct TargetError(String);

fn names() -> String {
    let names: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
    names.join(", ")
}

impl Default for Target {
    /// The reference platform.
    fn default() -> Self {
        Target::of(&KNOWN[0])
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// A name, or "detect"; then versions that differ: `debian-13,frr=10.6`.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let unknown = || TargetError(text.into());
        let mut parts = text.split(',');
        let name = parts.next().unwrap_or_default();
        let mut target = match KNOWN.iter().find(|(known, ..)| *known == name) {
            Some(known) => Target::of(known),
            None if name == "detect" => Target::detect(),
            None => return Err(unknown()),
        };
        for part in parts {
            let (program, version) = part.split_once('=').ok_or_else(unknown)?;
            let version = Version::first_in(version).ok_or_else(unknown)?;
            match program {
                "systemd" => target.systemd = version,
                "frr" => target.frr = version,
                "strongswan" => target.strongswan = version,
                "nft" => target.nft = version,
                _ => return Err(unknown()),
            }
        }
        target.name = text.into();
        Ok(target)
    }
}

impl Target {
    fn of(
        (name, [systemd, frr, strongswan, nft], nft_program): &(&str, [Version; 4], &'static str),
    ) -> Self {
        Target {
            name: (*name).into(),
            systemd: *systemd,
            frr: *frr,
            strongswan: *strongswan,
            nft: *nft,
            nft_program,
        }
    }

    /// What is installed here; of what is not, the reference platform's version.
    pub fn detect() -> Self {
        let reference = Target::default();
        let ask = |program: &str, argument: &str, or: Version| {
            let output = Command::new(program).arg(argument).output();
            let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            said.ok()
                .as_deref()
                .and_then(Version::first_in)
                .unwrap_or(or)
        };
        Target {
            name: "detect".into(),
            systemd: ask("systemctl", "--version", reference.systemd),
            frr: ask("/usr/lib/frr/bgpd", "--version", reference.frr),
            strongswan: ask("swanctl", "--help", reference.strongswan),
            nft: ask("nft", "--version", reference.nft),
            nft_program: match std::path::Path::new(NIXOS_NFT).exists() {
                true => NIXOS_NFT,
                false => reference.nft_program,
            },
        }
    }

    /// Whether units are made by NixOS, whose directories are read-only.
    pub fn is_nixos(&self) -> bool {
        self.nft_program == NIXOS_NFT
    }

    /// `ManageForeignNextHops=` of networkd.conf(5).
    pub fn networkd_knows_next_hops(&self) -> bool {
        self.systemd >= Version(256, 0, 0)
    }

    /// What this target cannot do for this host, by the key that asks for it.
    pub fn cannot(&self, file: &HostFile, here: &Here) -> Vec<String> {
        let mut all = Vec::new();
        if file.fabric.is_ipv6() && here.supervisor && self.frr < Version(10, 6, 0) {
            all.push(format!(
                "fabric.supervisors: FRR {} knows IPv4 tunnel end points only; IPv6 needs FRR 10.6",
                self.frr
            ));
        }
        let announced = |network: &&Network| {
            network.announce && matches!(network.host_routes, Some(RouteTable::Number(_)))
        };
        if let Some(network) = file.networks.iter().find(announced)
            && here.supervisor
            && self.frr < Version(10, 0, 0)
        {
            all.push(format!(
                "network.announce: FRR {} announces routes of the main table only, and those of \"{}\" are elsewhere; that needs FRR 10.0",
                self.frr, network.name
            ));
        }
        if file.ipsec.is_some() && self.strongswan < Version(5, 9, 6) {
            all.push(format!(
                "ipsec.enabled: strongSwan {} knows no start_action = trap|start; that needs 5.9.6",
                self.strongswan
            ));
        }
        all
    }

    /// Programs that are older than what LXMesh is made for.
    pub fn too_old(&self) -> Vec<String> {
        let needs = [
            ("systemd", self.systemd, Version(252, 0, 0)),
            ("FRR", self.frr, Version(9, 0, 1)),
            ("nftables", self.nft, Version(1, 0, 9)),
        ];
        let old = needs.iter().filter(|(_, has, least)| has < least);
        old.map(|(program, has, least)| {
            format!(
                "{program} {has} of target {} is older than {least}, which LXMesh needs",
                self.name
            )
        })
        .collect()
    }
}

impl Version {
    /// The first number in a text, with what follows it: "nftables v1.0.6 (…)", "systemd 252 (…)".
    pub fn first_in(text: &str) -> Option<Self> {
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let end = text[start..].find(|c: char| !c.is_ascii_digit() && c != '.');
        let numbers = &text[start..end.map_or(text.len(), |end| start + end)];
        let mut parts = numbers.split('.').map(|part| part.parse().unwrap_or(0));
        let mut next = || parts.next().unwrap_or(0);
        Some(Version(next(), next(), next()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version(major, minor, patch) = self;
        write!(f, "{major}")?;
        if (*minor, *patch) != (0, 0) {
            write!(f, ".{minor}")?;
        }
        if *patch != 0 {
            write!(f, ".{patch}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("nftables v1.0.6 (Lester Gooch #5)", Version(1, 0, 6)),
            ("systemd 252 (252.38-1~deb12u1)", Version(252, 0, 0)),
            ("strongSwan 6.0.1 swanctl", Version(6, 0, 1)),
            ("vtysh version 10.3", Version(10, 3, 0)),
        ] {
            assert_eq!(Version::first_in(said), Some(version), "{said}");
        }
        assert_eq!(Version::first_in("not found"), None);
    }

    #[test]
    fn targets_have_names_and_may_differ_in_versions() {
        let target: Target = "debian-13,frr=10.6".parse().unwrap();
        assert_eq!(
            (target.systemd, target.frr),
            (Version(257, 0, 0), Version(10, 6, 0))
        );
        for wrong in [
            "",
            "debian-9",
            "debian-13,frr",
            "debian-13,bird=2",
            "debian-13,frr=new",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
        assert_eq!("debian-12".parse::<Target>().unwrap().too_old().len(), 2);
        assert!(Target::default().too_old().is_empty());
    }
}
