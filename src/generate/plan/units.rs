//! networkd's files: what a changed key means for a device that exists. networkd before 257 takes
//! nothing of a changed `.netdev` over, and no version removes a device whose file is gone
//! (networkctl(1), `reload`).

use super::{Cost, Draft, FileChange, Names, Step};
use std::collections::BTreeSet;

/// `Key=value` with its section, and which of several sections of that name it stands in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Setting {
    section: String,
    key: String,
    value: String,
}

fn settings(text: &str) -> BTreeSet<Setting> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.into();
        } else if let (false, Some((key, value))) =
            (line.starts_with(['#', ';']), line.split_once('='))
        {
            found.insert(Setting {
                section: section.clone(),
                key: key.into(),
                value: value.into(),
            });
        }
    }
    found
}

/// The device that a file is about: the `Name=` of either kind of file.
fn link_of(settings: &BTreeSet<Setting>) -> Option<&str> {
    value(settings, "Name")
}

fn value<'a>(settings: &'a BTreeSet<Setting>, key: &str) -> Option<&'a str> {
    settings
        .iter()
        .find(|setting| setting.key == key)
        .map(|setting| setting.value.as_str())
}

pub fn look(change: &FileChange, names: &Names<'_>, draft: &mut Draft) {
    let side = |text: &Option<String>| settings(text.as_deref().unwrap_or_default());
    let (before, after) = (side(&change.before), side(&change.after));
    let Some(link) = link_of(&after).or_else(|| link_of(&before)) else {
        draft.effect(
            Cost::Reload,
            "systemd-networkd",
            format!("it reads {} again", change.path.display()),
        );
        draft.step(Step::ReloadNetworkd);
        return;
    };
    draft.step(Step::ReloadNetworkd);
    let of = names.of(link);
    let device = change
        .path
        .extension()
        .is_some_and(|ending| ending == "netdev");
    match (&change.before, &change.after) {
        (None, _) if device => draft.effect(Cost::Reload, of, format!("{link} is made")),
        (_, None) if device => {
            draft.step(Step::DeleteLink(link.into()));
            draft.effect(Cost::Outage, of, format!("{link} is removed"));
        }
        (None, _) | (_, None) => {
            draft.effect(Cost::Reload, of, format!("{link} is configured"));
        }
        _ if device => netdev(link, &of, &before, &after, names, draft),
        _ => network(link, &of, &before, &after, draft),
    }
}

/// Settings that differ, as "VNI 100 becomes 101".
fn differences(before: &BTreeSet<Setting>, after: &BTreeSet<Setting>) -> Vec<(String, String)> {
    let keys: BTreeSet<(&str, &str)> = before
        .symmetric_difference(after)
        .map(|setting| (setting.section.as_str(), setting.key.as_str()))
        .collect();
    let values = |side: &BTreeSet<Setting>, section: &str, key: &str| {
        let all: Vec<&str> = side
            .iter()
            .filter(|setting| setting.section == section && setting.key == key)
            .map(|setting| setting.value.as_str())
            .collect();
        match all.is_empty() {
            true => "none".to_string(),
            false => all.join(" "),
        }
    };
    keys.into_iter()
        .map(|(section, key)| {
            let text = format!(
                "{key} {} becomes {}",
                values(before, section, key),
                values(after, section, key)
            );
            (key.to_string(), text)
        })
        .collect()
}

fn netdev(
    link: &str,
    of: &str,
    before: &BTreeSet<Setting>,
    after: &BTreeSet<Setting>,
    names: &Names<'_>,
    draft: &mut Draft,
) {
    let kind = value(after, "Kind").unwrap_or_default();
    for (key, text) in differences(before, after) {
        let new = value(after, &key).unwrap_or_default().to_string();
        match (kind, key.as_str()) {
            (_, "MTUBytes") if !new.is_empty() => {
                let link = link.to_string();
                draft.effect(
                    Cost::Outage,
                    of,
                    format!(
                        "{text} on {link}: instances keep the old one until they ask DHCP again"
                    ),
                );
                draft.step(Step::SetMtu { link, mtu: new });
            }
            ("bridge", "MACAddress") if !new.is_empty() => {
                draft.effect(
                    Cost::Outage,
                    of,
                    format!("{text}: instances must learn their gateway's address again"),
                );
                draft.step(Step::SetMac {
                    link: link.into(),
                    mac: new,
                });
                draft.step(Step::Reconfigure(link.into()));
            }
            ("bridge", _) => draft.effect(
                Cost::Nothing,
                of,
                format!("{text} when {link} is made next, at the next start of the host"),
            ),
            _ => {
                draft.effect(Cost::Outage, of, format!("{text}: {link} is made anew"));
                draft.step(Step::DeleteLink(link.into()));
                if kind == "vrf" {
                    for bridge in names.bridges_in(link) {
                        draft.effect(
                            Cost::Outage,
                            names.of(&bridge),
                            format!("its VRF {link} is made anew"),
                        );
                        draft.step(Step::Reconfigure(bridge));
                    }
                }
            }
        }
    }
}

fn network(
    link: &str,
    of: &str,
    before: &BTreeSet<Setting>,
    after: &BTreeSet<Setting>,
    draft: &mut Draft,
) {
    let addresses = |side: &BTreeSet<Setting>| -> BTreeSet<String> {
        let all = side.iter().filter(|setting| setting.key == "Address");
        all.map(|setting| setting.value.clone()).collect()
    };
    for gone in addresses(before).difference(&addresses(after)) {
        draft.effect(
            Cost::Outage,
            format!("the gateway of {of}"),
            format!("{gone} goes from {link}: instances must learn another gateway"),
        );
        // What KeepConfiguration= keeps, networkd keeps when its file no longer has it, too.
        draft.step(Step::RemoveAddress {
            link: link.into(),
            address: gone.clone(),
        });
    }
    let mut reasons = Vec::new();
    for (key, text) in differences(before, after) {
        match key.as_str() {
            "VRF" | "Bridge" => draft.effect(
                Cost::Outage,
                of,
                format!("{text}: {link} moves, and its routes with it"),
            ),
            _ => reasons.push(text),
        }
    }
    if !reasons.is_empty() {
        draft.effect(
            Cost::Reload,
            of,
            format!("on {link}, {}", reasons.join("; ")),
        );
    }
}
