//! The names in nft's texts: a word may be part of the grammar of nft's next version, as `tunnel` has become
//! one, and the text is refused then. No word of it has an underscore.

use std::collections::BTreeSet;

const FAMILIES: [&str; 6] = ["bridge", "inet", "arp", "ip", "ip6", "netdev"];
const VERBS: [&str; 9] = [
    "add", "create", "delete", "destroy", "flush", "insert", "rename", "replace", "reset",
];
/// Besides these: our own name, and the sets whose elements an agent has added to tables of earlier versions.
const KEPT: [&str; 3] = ["lxmesh", "vteps4", "vteps6"];

/// Names that a later version of nft may not take.
pub fn unsafe_names(text: &str) -> BTreeSet<String> {
    let mut names = names(text);
    names.retain(|name| !is_safe(name));
    names
}

fn is_safe(name: &str) -> bool {
    let mut parts = name.split('_');
    let is_word = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
            && chars.all(|c| c.is_ascii_alphanumeric())
    };
    KEPT.contains(&name) || name.contains('_') && parts.all(is_word)
}

/// All names of tables, chains, sets, objects and variables.
pub fn names(text: &str) -> BTreeSet<String> {
    text.lines().flat_map(names_of_line).collect()
}

fn names_of_line(line: &str) -> Vec<String> {
    // Nothing that is quoted is a name.
    let plain: String = line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    let plain = plain.split('#').next().unwrap_or_default();
    let spaced = plain.replace(';', " ; ").replace('{', " { ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let at = |index: usize| words.get(index).copied().unwrap_or_default();
    let mut found: Vec<&str> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let verb = index > 0 && VERBS.contains(&at(index - 1));
        let begins = verb || index == 0 || [";", "{"].contains(&at(index - 1));
        match *word {
            "goto" | "jump" | "define" => found.push(at(index + 1)),
            "counter" | "quota" | "limit" if at(index + 1) == "name" => found.push(at(index + 2)),
            "table" if begins => found.push(at(index + 2)),
            "chain" | "set" | "map" | "rule" | "element" if begins => {
                match FAMILIES.contains(&at(index + 1)) {
                    true => found.extend([at(index + 2), at(index + 3)]),
                    false => found.push(at(index + 1)),
                }
            }
            "counter" | "quota" | "limit" if verb => found.extend([at(index + 2), at(index + 3)]),
            "counter" | "quota" | "limit" if begins && at(index + 2) == "{" => {
                found.push(at(index + 1));
            }
            // With commas it is a place in the packet.
            _ if word.starts_with('@') && !word.contains(',') => found.push(&word[1..]),
            _ if word.starts_with('$') => found.push(&word[1..]),
            _ => {}
        }
    }
    let found = found.iter().map(|name| name.trim_end_matches(','));
    found.map(str::to_string).collect()
}

/// Words of the grammar for protocols. All others are looked up in `/etc/protocols`.
const PROTOCOLS: [&str; 7] = ["tcp", "udp", "icmp", "icmpv6", "sctp", "esp", "igmp"];

/// Protocols that nft knows only where there is such a file.
pub fn foreign_protocols(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        for field in ["ip6 nexthdr ", "ip protocol ", "meta l4proto "] {
            for (at, _) in line.match_indices(field) {
                let compared = line[at + field.len()..].trim_start_matches("!= ");
                let several = compared.strip_prefix("{ ");
                let words = match several {
                    Some(words) => words.split(" }").next().unwrap_or_default(),
                    None => compared.split(' ').next().unwrap_or_default(),
                };
                let words = words.split(", ").map(str::trim);
                let words =
                    words.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()));
                found.extend(
                    words
                        .filter(|word| !PROTOCOLS.contains(word))
                        .map(str::to_string),
                );
            }
        }
    }
    found
}

#[test]
fn protocols_of_a_file_are_seen() {
    let text = "meta protocol ip6 ip6 nexthdr != { tcp, hopopt, $x } ip protocol ospf accept\n\
        ip protocol igmp iif . meta l4proto . th dport @a_b meta l4proto ipv6-icmp ip6 nexthdr 44\n";
    let expected = ["hopopt", "ospf", "ipv6-icmp"].map(str::to_string);
    assert_eq!(foreign_protocols(text), expected.into());
}

#[test]
fn a_name_of_one_word_is_seen_wherever_it_stands() {
    let text = r#"
define one = 1
table inet two {
	set three { type mark; comment "goto nowhere"; }
	map four { typeof iif : verdict; }
	counter five { }
	chain six {   # goto nobody
		@nh,0,8 6 iif @seven ip saddr $eight update @nine { iif limit rate 5/second } counter name ten drop
		meta mark set iif map @eleven ct zone set meta mark vmap { 1 : goto twelve, 2 : jump thirteen }
		log prefix "fourteen" iifname "fifteen" counter accept
	}
}
add chain inet sixteen seventeen; insert rule inet lxmesh eighteen accept
flush set bridge lxmesh nineteen
add counter arp lxmesh twenty
add element inet two_words right_ so_called4 _left vteps4 { 1 }
"#;
    let expected = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
        "right_",
    ];
    assert_eq!(unsafe_names(text), expected.map(str::to_string).into());
    assert!(names(text).contains("two_words"));
}
