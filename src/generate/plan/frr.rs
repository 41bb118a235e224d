//! FRR's configuration: which sessions a change costs, and the lines that lead from one
//! configuration to the other, for hosts without FRR's own `frr-reload.py`.

use super::{Cost, Draft, FileChange, Step};
use crate::addr::IpAddr;
use std::collections::BTreeSet;

/// A line below the lines that open its contexts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    contexts: Vec<String>,
    text: String,
}

/// The lines that mean something, in order. Contexts are known by their indentation, which is how
/// our template, and FRR itself, write them.
fn lines(conf: &str) -> Vec<Line> {
    let meaning: Vec<(usize, &str)> = conf
        .lines()
        .map(|line| (line.len() - line.trim_start().len(), line.trim()))
        .filter(|(_, text)| {
            let noise = text.is_empty() || text.starts_with(['!', '#']);
            !noise && !text.starts_with("exit") && !text.starts_with("frr defaults")
        })
        .collect();
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut found = Vec::new();
    for (indent, text) in meaning {
        while open.last().is_some_and(|(of, _)| *of >= indent) {
            open.pop();
        }
        found.push(Line {
            contexts: open.iter().map(|(_, text)| text.clone()).collect(),
            text: text.into(),
        });
        open.push((indent, text.into()));
    }
    found
}

pub fn look(change: &FileChange, draft: &mut Draft) {
    let before = lines(change.before.as_deref().unwrap_or_default());
    let after = lines(change.after.as_deref().unwrap_or_default());
    draft.step(Step::ReloadFrr {
        delta: delta(&before, &after),
    });
    let first = |side: &[Line], start: &str| {
        let mut found = side.iter().filter_map(|line| line.text.strip_prefix(start));
        found.next().map(str::to_string)
    };
    let mut outages = 0;
    for (start, what) in [
        ("router bgp ", "the AS number"),
        ("bgp router-id ", "the BGP identifier"),
        ("bgp cluster-id ", "the reflector's cluster"),
        (
            "neighbor reflectors update-source ",
            "the BGP source address",
        ),
        (
            "neighbor supervisors update-source ",
            "the BGP source address",
        ),
    ] {
        if let (Some(old), Some(new)) = (first(&before, start), first(&after, start))
            && old != new
        {
            outages += 1;
            draft.effect(
                Cost::Outage,
                "BGP and the entries of other hosts",
                format!("{what} changes from {old} to {new}: every session starts anew"),
            );
        }
    }
    if outages == 0 {
        peers(&before, &after, draft);
    }
}

/// Single peers that come and go.
fn peers(before: &[Line], after: &[Line], draft: &mut Draft) {
    let peers = |side: &[Line]| -> BTreeSet<String> {
        let words = side
            .iter()
            .map(|line| line.text.split(' ').collect::<Vec<_>>());
        words
            .filter_map(|words| match words[..] {
                // Groups have an AS number, too.
                ["neighbor", peer, "peer-group" | "remote-as", _]
                    if peer.parse::<IpAddr>().is_ok() =>
                {
                    Some(peer.to_string())
                }
                _ => None,
            })
            .collect()
    };
    let (old, new) = (peers(before), peers(after));
    let mut said = false;
    for peer in new.difference(&old) {
        said = true;
        draft.effect(
            Cost::Reload,
            "FRR",
            format!("a session with {peer} is added"),
        );
    }
    for peer in old.difference(&new) {
        said = true;
        draft.effect(
            Cost::Reload,
            "FRR",
            format!("the session with {peer} ends; what others tell stays"),
        );
    }
    if !said {
        draft.effect(
            Cost::Reload,
            "FRR",
            "it takes over what differs: /etc/frr/frr.conf",
        );
    }
}

/// Lines for `vtysh -f` that lead from one configuration to the other: removals first, from the
/// last line to the first, then what is new.
fn delta(before: &[Line], after: &[Line]) -> Vec<String> {
    let old: BTreeSet<&Line> = before.iter().collect();
    let new: BTreeSet<&Line> = after.iter().collect();
    let mut out = Vec::new();
    // Contexts that go as a whole take their lines along.
    let mut gone: Vec<Vec<String>> = Vec::new();
    for line in before.iter().filter(|line| !new.contains(line)) {
        let opens = before.iter().any(|other| {
            other.contexts.len() == line.contexts.len() + 1
                && other.contexts.starts_with(&line.contexts)
                && other.contexts.last() == Some(&line.text)
        });
        if opens {
            let mut path = line.contexts.clone();
            path.push(line.text.clone());
            gone.push(path);
        }
    }
    for line in before.iter().rev().filter(|line| !new.contains(line)) {
        let within = gone.iter().any(|path| line.contexts.starts_with(path));
        if within || is_overwritten(line, after) {
            continue;
        }
        let no = match line.text.strip_prefix("no ") {
            Some(text) => text.to_string(),
            None => format!("no {}", line.text),
        };
        write(&mut out, &line.contexts, &no);
    }
    for line in after.iter().filter(|line| !old.contains(line)) {
        write(&mut out, &line.contexts, &line.text);
    }
    out
}

/// True if a new line sets the same thing, so that the old one need not be taken back.
fn is_overwritten(line: &Line, after: &[Line]) -> bool {
    let start = |text: &str| -> Option<String> {
        let words: Vec<&str> = text.split(' ').collect();
        match words[..] {
            ["neighbor", peer, key, _, ..] if key != "peer-group" => Some(format!("{peer} {key}")),
            ["bgp", key @ ("router-id" | "cluster-id"), ..] => Some(key.into()),
            _ => None,
        }
    };
    start(&line.text).is_some_and(|own| {
        after.iter().any(|other| {
            other.contexts == line.contexts && start(&other.text).as_ref() == Some(&own)
        })
    })
}

fn write(out: &mut Vec<String>, contexts: &[String], text: &str) {
    out.extend(contexts.iter().cloned());
    out.push(text.into());
    // Back to the top: a context's name means something else elsewhere.
    for context in contexts.iter().rev() {
        out.push(match context.starts_with("address-family") {
            true => "exit-address-family".into(),
            false => "exit".into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(before: &str, after: &str) -> Vec<String> {
        delta(&lines(before), &lines(after))
    }

    const CONF: &str = "frr defaults traditional\n!\nrouter bgp 64500\n neighbor r peer-group\n \
                        neighbor r timers 3 9\n neighbor 192.0.2.1 peer-group r\n !\n \
                        address-family l2vpn evpn\n  neighbor r activate\n exit-address-family\nexit\n";

    #[test]
    fn nothing_leads_from_a_configuration_to_itself() {
        assert_eq!(between(CONF, CONF), [""; 0]);
    }

    #[test]
    fn a_new_peer_is_one_line_in_its_context() {
        let after = CONF.replace(
            " neighbor 192.0.2.1 ",
            " neighbor 192.0.2.2 peer-group r\n neighbor 192.0.2.1 ",
        );
        let added = [
            "router bgp 64500",
            "neighbor 192.0.2.2 peer-group r",
            "exit",
        ];
        assert_eq!(between(CONF, &after), added);
        let removed = [
            "router bgp 64500",
            "no neighbor 192.0.2.2 peer-group r",
            "exit",
        ];
        assert_eq!(between(&after, CONF), removed);
    }

    #[test]
    fn a_value_is_overwritten_and_a_new_as_number_takes_all_away_first() {
        assert_eq!(
            between(CONF, &CONF.replace("3 9", "10 30")),
            ["router bgp 64500", "neighbor r timers 10 30", "exit"]
        );
        let lines = between(CONF, &CONF.replace("64500", "64501"));
        assert_eq!(lines[0], "no router bgp 64500");
        assert!(
            !lines[1..]
                .iter()
                .any(|line| line.contains("64500") || line.starts_with("no "))
        );
        assert!(lines.contains(&"neighbor r activate".to_string()));
    }
}
