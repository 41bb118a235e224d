//! What a change of files costs, why, and what has to be run for it. Pure: files and host files
//! in, effects and steps out. `units.rs` knows networkd's files, `frr.rs` FRR's.

mod frr;
mod nft;
mod units;

pub use nft::Declared;

use super::closed;
use super::strongswan::CONNECTION;
use crate::host::{HostFile, Network};
use nft::declared;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// One file that changes; `None` where there is no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// From the root of the host.
    pub path: PathBuf,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// What a change costs, from the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// Nobody notices.
    Nothing,
    /// A program reads its configuration again; no packet is lost.
    Reload,
    /// Something is interrupted for a moment.
    Outage,
}

/// One effect of the change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Effect {
    pub cost: Cost,
    /// What is concerned, and of an outage: what is interrupted.
    pub of: String,
    pub why: String,
}

/// One thing to run, in the order of its variants: what is made comes before what uses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// systemd's own units.
    ReloadUnits,
    LoadModules(PathBuf),
    Sysctl(PathBuf),
    ReloadUdev,
    /// Before the tunnels carry anything that it should encrypt.
    LoadSwanctl,
    /// A connection that is no more; strongSwan keeps what was established by it.
    CloseConnection(String),
    LoadNft {
        path: PathBuf,
        /// What the text before this one has made in its tables and this one does not: it would stay.
        leaves: Vec<Declared>,
    },
    /// A table whose file is gone: it would go on to filter.
    DeleteTable {
        family: String,
        name: String,
    },
    /// A device that networkd made and does not remove or change.
    DeleteLink(String),
    RemoveAddress {
        link: String,
        address: String,
    },
    SetMac {
        link: String,
        mac: String,
    },
    AddAddress {
        link: String,
        address: String,
    },
    RestartNetworkd,
    ReloadNetworkd,
    /// After networkd, which knows no such change of a device that exists.
    SetMtu {
        link: String,
        mtu: String,
    },
    /// Devices that networkd must be told to look at again.
    Reconfigure(String),
    /// Between the two configurations; lines that are needed only where `frr-reload.py` is missing.
    ReloadFrr {
        delta: Vec<String>,
    },
    RestartFrr,
    ReloadAgent,
}

/// The effects, the worst first, and the steps, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub effects: Vec<Effect>,
    pub steps: Vec<Step>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.steps.is_empty()
    }

    /// The worst of the effects.
    pub fn cost(&self) -> Cost {
        let costs = self.effects.iter().map(|effect| effect.cost);
        costs.max().unwrap_or(Cost::Nothing)
    }
}

/// What is collected while the files are looked at.
#[derive(Default)]
struct Draft {
    effects: BTreeSet<Effect>,
    steps: BTreeSet<Step>,
}

impl Draft {
    fn effect(&mut self, cost: Cost, of: impl Into<String>, why: impl Into<String>) {
        self.effects.insert(Effect {
            cost,
            of: of.into(),
            why: why.into(),
        });
    }

    fn step(&mut self, step: Step) {
        self.steps.insert(step);
    }
}

/// From files that change, and the host file that was applied last, if it is known, to what that
/// costs and what has to be run.
pub fn plan(changes: &[FileChange], old: Option<&HostFile>, new: &HostFile) -> Plan {
    let mut draft = Draft::default();
    let names = Names { old, new };
    for change in changes
        .iter()
        .filter(|change| change.before != change.after)
    {
        look(change, &names, &mut draft);
    }
    if old.is_some_and(|old| old != new) || (old.is_none() && !draft.effects.is_empty()) {
        draft.effect(
            Cost::Reload,
            "the agent",
            "it reads the host file again; the kernel keeps what is right",
        );
        draft.step(Step::ReloadAgent);
    }
    if draft.steps.contains(&Step::RestartFrr) {
        draft
            .steps
            .retain(|step| !matches!(step, Step::ReloadFrr { .. }));
    }
    if draft.steps.contains(&Step::RestartNetworkd) {
        draft.steps.remove(&Step::ReloadNetworkd);
    }
    let mut effects: Vec<Effect> = draft.effects.into_iter().collect();
    effects.sort_by(|a, b| b.cost.cmp(&a.cost).then_with(|| a.cmp(b)));
    Plan {
        effects,
        steps: draft.steps.into_iter().collect(),
    }
}

fn look(change: &FileChange, names: &Names<'_>, draft: &mut Draft) {
    let path = change.path.as_path();
    let text = path.to_string_lossy();
    let ending = path.extension().and_then(|ending| ending.to_str());
    if path == Path::new("/etc/frr/frr.conf") {
        frr::look(change, draft);
    } else if path == Path::new("/etc/frr/daemons") {
        draft.effect(
            Cost::Outage,
            "BGP and the entries of other hosts",
            "options of FRR's daemons change, so FRR starts anew: /etc/frr/daemons",
        );
        draft.step(Step::RestartFrr);
    } else if text.starts_with("/etc/systemd/network/") {
        units::look(change, names, draft);
    } else if text.starts_with("/etc/systemd/networkd.conf.d/") {
        draft.effect(
            Cost::Reload,
            "systemd-networkd",
            format!("it reads its own settings only when it starts: {text}"),
        );
        draft.step(Step::RestartNetworkd);
    } else if text.starts_with("/etc/modules-load.d/") {
        draft.effect(
            Cost::Nothing,
            "kernel modules",
            format!("they are loaded: {text}"),
        );
        if change.after.is_some() {
            draft.step(Step::LoadModules(path.into()));
        }
    } else if text.starts_with("/etc/sysctl.d/") {
        let why = match change.after {
            Some(_) => "values are set",
            None => "values stay until the next start of the host",
        };
        draft.effect(Cost::Reload, "kernel settings", format!("{why}: {text}"));
        if change.after.is_some() {
            draft.step(Step::Sysctl(path.into()));
        }
    } else if text.starts_with("/etc/systemd/system/") {
        draft.effect(
            Cost::Reload,
            "systemd",
            format!("units are read again, none is restarted: {text}"),
        );
        draft.step(Step::ReloadUnits);
    } else if text.starts_with("/etc/strongswan.d/") {
        draft.effect(
            Cost::Reload,
            "strongSwan",
            format!("settings are read again: {text}"),
        );
        draft.step(Step::LoadSwanctl);
    } else if text.starts_with("/etc/swanctl/") {
        look_at_swanctl(change, draft);
    } else if text.starts_with("/etc/udev/") {
        draft.effect(
            Cost::Reload,
            "udev",
            format!("rules are read again: {text}"),
        );
        draft.step(Step::ReloadUdev);
    } else if ending == Some("nft") {
        look_at_nft(change, draft);
    } else {
        draft.effect(
            Cost::Nothing,
            path.display().to_string(),
            "its program reads it when it starts next",
        );
    }
}

fn look_at_nft(change: &FileChange, draft: &mut Draft) {
    let path = change.path.display();
    let of = "the host's firewall";
    if change.after.is_none() && change.path.as_path() == Path::new(closed::PATH) {
        let why = format!("its tables stay, and the agent keeps them: {path}");
        return draft.effect(Cost::Nothing, of, why);
    }
    if change.after.is_some() {
        let why = format!("rules are replaced in one transaction: {path}");
        draft.effect(Cost::Reload, of, why);
        let (before, after) = (declared(&change.before), declared(&change.after));
        draft.step(Step::LoadNft {
            path: change.path.clone(),
            leaves: before.difference(&after).cloned().collect(),
        });
        return;
    }
    draft.effect(Cost::Reload, of, format!("it filters no longer: {path}"));
    for line in change.before.iter().flat_map(|text| text.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["table", family, name, ..] | ["add", "table", family, name] = words[..] {
            draft.step(Step::DeleteTable {
                family: family.into(),
                name: name.into(),
            });
        }
    }
}

fn look_at_swanctl(change: &FileChange, draft: &mut Draft) {
    let path = change.path.display();
    let (cost, why) = match (&change.before, &change.after) {
        (Some(_), Some(_)) => (
            Cost::Reload,
            "connections are loaded anew; what is established stays",
        ),
        (None, _) => (
            Cost::Outage,
            "encryption begins: hosts that have it and hosts that do not have it yet cannot talk",
        ),
        (_, None) => (
            Cost::Outage,
            "encryption ends: hosts that have it and hosts that do not have it cannot talk",
        ),
    };
    let of = match cost {
        Cost::Outage => "everything between this host and others",
        _ => "strongSwan",
    };
    draft.effect(cost, of, format!("{why}: {path}"));
    draft.step(Step::LoadSwanctl);
    let (before, after) = (connections(&change.before), connections(&change.after));
    for name in before.difference(&after) {
        draft.step(Step::CloseConnection(name.to_string()));
    }
}

/// The names of the connections in a file of ours, which all begin alike.
fn connections(text: &Option<String>) -> BTreeSet<&str> {
    let lines = text.iter().flat_map(|text| text.lines());
    lines
        .filter_map(|line| line.trim().strip_suffix(" {"))
        .filter(|name| name.starts_with(CONNECTION))
        .collect()
}

/// Networks by the names of their devices.
struct Names<'a> {
    old: Option<&'a HostFile>,
    new: &'a HostFile,
}

impl Names<'_> {
    /// `network "vpc"` for its bridge and its tunnel, else the device's own name.
    fn of(&self, link: &str) -> String {
        let owner = |file: &HostFile| {
            let owns = |network: &&Network| {
                network.bridge.as_str() == link || network.tunnel.as_str() == link
            };
            file.networks
                .iter()
                .find(owns)
                .map(|network| format!("network \"{}\"", network.name))
        };
        let of_vrf = || format!("device \"{link}\"");
        owner(self.new)
            .or_else(|| self.old.and_then(owner))
            .unwrap_or_else(of_vrf)
    }

    /// Bridges in the VRF, now.
    fn bridges_in(&self, vrf: &str) -> Vec<String> {
        let inside = |network: &&Network| {
            network
                .vrf
                .as_ref()
                .is_some_and(|own| own.name.as_str() == vrf)
        };
        let networks = self.new.networks.iter().filter(inside);
        networks.map(|network| network.bridge.to_string()).collect()
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Cost::Nothing => "nothing",
            Cost::Reload => "reload",
            Cost::Outage => "brief outage",
        })
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:12}  {}: {}", self.cost, self.of, self.why)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::ReloadUnits => f.write_str("reload systemd's units"),
            Step::LoadModules(path) => write!(f, "load the modules of {}", path.display()),
            Step::Sysctl(path) => write!(f, "set the values of {}", path.display()),
            Step::ReloadUdev => f.write_str("reload udev's rules"),
            Step::LoadSwanctl => f.write_str("load strongSwan's connections"),
            Step::CloseConnection(name) => write!(f, "close the connection {name}"),
            Step::LoadNft { path, .. } => write!(f, "load {}", path.display()),
            Step::DeleteTable { family, name } => write!(f, "delete table {family} {name}"),
            Step::DeleteLink(link) => write!(f, "delete {link}"),
            Step::RemoveAddress { link, address } => write!(f, "remove {address} from {link}"),
            Step::SetMac { link, mac } => write!(f, "give {link} the address {mac}"),
            Step::AddAddress { link, address } => write!(f, "add {address} to {link}"),
            Step::RestartNetworkd => f.write_str("restart systemd-networkd"),
            Step::ReloadNetworkd => f.write_str("reload systemd-networkd"),
            Step::SetMtu { link, mtu } => write!(f, "give {link} the MTU {mtu}"),
            Step::Reconfigure(link) => write!(f, "reconfigure {link}"),
            Step::ReloadFrr { .. } => f.write_str("reload FRR"),
            Step::RestartFrr => f.write_str("restart FRR"),
            Step::ReloadAgent => f.write_str("reload the agent"),
        }
    }
}
