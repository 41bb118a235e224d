//! The agent.yaml of the Python LXMesh: what of it a host file can say, and a note for each key
//! that it cannot. Knows its keys, not its program.

use saphyr_parser::{Event, Parser, Span};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a host file can say of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Yaml {
    pub svis: Vec<Svi>,
    pub tags: BTreeMap<String, u8>,
    pub reload_interval_s: Option<u32>,
    pub lease_s: Option<u32>,
    pub dnsmasq: Option<PathBuf>,
    pub run_dnsmasq: Option<bool>,
    /// One line per key that has no equal: `FILE:LINE:COLUMN: key: why`.
    pub notes: Vec<String>,
}

/// One bridge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Svi {
    pub name: String,
    pub multicast: Option<bool>,
    /// As a host file has it: `"main"`, in quotation marks, or a number.
    pub host_routes: Option<String>,
}

/// Why the file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    #[error("cannot read {}: {source}\n  remedy: name the agent.yaml of the Python LXMesh", .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{at}: {message}\n  remedy: name the agent.yaml of the Python LXMesh, as it reads it")]
    Wrong { at: String, message: String },
}

/// A value with its place.
#[derive(Debug)]
struct Node {
    line: usize,
    column: usize,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, with the places of the keys.
    Map(Vec<(Node, Node)>),
}

const MAX_BYTES: u64 = 1 << 20;
const MAX_DEPTH: usize = 16;

/// Reads a file.
pub fn read(path: &Path) -> Result<Yaml, YamlError> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
        .map_err(|source| YamlError::Unreadable {
            path: path.into(),
            source,
        })?;
    parse(&path.display().to_string(), &text)
}

/// Reads a text; `name` is what messages call it.
pub fn parse(name: &str, text: &str) -> Result<Yaml, YamlError> {
    let mut events = Events {
        name,
        parser: Parser::new_from_str(text),
    };
    let mut sink = Sink {
        name,
        yaml: Yaml::default(),
    };
    if let Some(root) = events.document()? {
        sink.root(&root);
    }
    Ok(sink.yaml)
}

struct Events<'a> {
    name: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Events<'a> {
    fn wrong(&self, line: usize, column: usize, message: impl Into<String>) -> YamlError {
        YamlError::Wrong {
            at: format!("{}:{line}:{column}", self.name),
            message: message.into(),
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, YamlError> {
        match self.parser.next().transpose() {
            Ok(event) => Ok(event),
            Err(error) => {
                let mark = error.marker();
                Err(self.wrong(
                    mark.line(),
                    mark.col() + 1,
                    format!("not YAML: {}", error.info()),
                ))
            }
        }
    }

    /// The first document's value; `None` if the file has none.
    fn document(&mut self) -> Result<Option<Node>, YamlError> {
        while let Some((event, span)) = self.next()? {
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd | Event::DocumentEnd => return Ok(None),
                event => return self.node(event, span, 0).map(Some),
            }
        }
        Ok(None)
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        let (line, column) = (span.start.line(), span.start.col() + 1);
        if depth > MAX_DEPTH {
            return Err(self.wrong(line, column, "nested too deeply"));
        }
        let value = match event {
            Event::Scalar(text, ..) => Value::Text(text.into_owned()),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                while let Some(child) = self.child(&Event::SequenceEnd, depth)? {
                    list.push(child);
                }
                Value::List(list)
            }
            Event::MappingStart(..) => {
                let mut map = Vec::new();
                while let Some(key) = self.child(&Event::MappingEnd, depth)? {
                    let value = self.child(&Event::MappingEnd, depth)?;
                    let value =
                        value.ok_or_else(|| self.wrong(line, column, "a key without a value"))?;
                    map.push((key, value));
                }
                Value::Map(map)
            }
            _ => return Err(self.wrong(line, column, "aliases are not understood here")),
        };
        Ok(Node {
            line,
            column,
            value,
        })
    }

    /// The next node; `None` at the end of the collection.
    fn child(&mut self, end: &Event<'a>, depth: usize) -> Result<Option<Node>, YamlError> {
        match self.next()? {
            Some((event, _)) if event == *end => Ok(None),
            Some((event, span)) => self.node(event, span, depth + 1).map(Some),
            None => Ok(None),
        }
    }
}

impl Node {
    fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text.trim()),
            _ => None,
        }
    }

    fn list(&self) -> &[Node] {
        match &self.value {
            Value::List(list) => list,
            _ => &[],
        }
    }

    fn map(&self) -> &[(Node, Node)] {
        match &self.value {
            Value::Map(map) => map,
            _ => &[],
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self.text(), Some("" | "~" | "null"))
    }
}

/// Takes keys in, and notes what it cannot use.
struct Sink<'a> {
    name: &'a str,
    yaml: Yaml,
}

impl Sink<'_> {
    fn note(&mut self, at: &Node, key: &str, why: &str) {
        let text = format!("{}:{}:{}: {key}: {why}", self.name, at.line, at.column);
        self.yaml.notes.push(text);
    }

    fn root(&mut self, root: &Node) {
        if root.map().is_empty() {
            self.note(root, "the file", "has no keys");
        }
        for (section, value) in root.map() {
            let section_name = section.text().unwrap_or_default().to_string();
            match section_name.as_str() {
                "svi" => value.list().iter().for_each(|svi| self.svi(svi)),
                "tags" => value.list().iter().for_each(|tag| self.tag(tag)),
                "general" | "dhcp" | "lxd" | "netlink" => {
                    for (key, value) in value.map() {
                        let path = format!("{section_name}.{}", key.text().unwrap_or_default());
                        self.setting(key, &path, value);
                    }
                }
                other => self.note(section, other, "is not known"),
            }
        }
    }

    fn setting(&mut self, key: &Node, path: &str, value: &Node) {
        if value.is_empty() {
            return;
        }
        let text = value.text().unwrap_or_default().to_string();
        match path {
            "dhcp.ip4-lease-time" | "dhcp.ip6-lease-time" => match seconds(&text) {
                Some(lease) => {
                    let known = self.yaml.lease_s;
                    if known.is_some_and(|known| known != lease) {
                        self.note(
                            key,
                            path,
                            "both families have one lease time, the longer one",
                        );
                    }
                    self.yaml.lease_s = Some(lease.max(known.unwrap_or(0)).clamp(120, 31_536_000));
                }
                None => self.note(key, path, &format!("\"{text}\" is not understood")),
            },
            "lxd.reload-interval" | "netlink.reload-interval" => {
                match seconds(&text) {
                    Some(interval) => {
                        let least = self.yaml.reload_interval_s.unwrap_or(u32::MAX);
                        if least != u32::MAX && least != interval {
                            self.note(key, path, "LXD and the kernel are looked at together, at the shorter interval");
                        }
                        self.yaml.reload_interval_s = Some(interval.min(least).clamp(5, 3600));
                    }
                    None => self.note(key, path, &format!("\"{text}\" is not understood")),
                }
            }
            "dhcp.server" => self.server(value),
            _ => {
                let why = no_equal(path);
                self.note(key, path, why);
            }
        }
    }

    fn server(&mut self, server: &Node) {
        for (key, value) in server.map() {
            let name = key.text().unwrap_or_default();
            let path = format!("dhcp.server.{name}");
            match (name, value.text()) {
                ("executable", Some(program)) if program.starts_with('/') => {
                    self.yaml.dnsmasq = Some(program.into());
                }
                // The usual one is found by itself.
                ("executable", Some("dnsmasq")) => {}
                ("executable", Some("")) => self.yaml.run_dnsmasq = Some(false),
                _ => {
                    let why = no_equal(&path);
                    self.note(key, &path, why);
                }
            }
        }
    }

    fn tag(&mut self, tag: &Node) {
        let mut name = None;
        let mut mark = None;
        for (key, value) in tag.map() {
            match key.text() {
                Some("name") => name = value.text().map(str::to_string),
                Some("netfilter-mark") => mark = value.text().and_then(number),
                other => {
                    let path = format!("tags.{}", other.unwrap_or_default());
                    self.note(key, &path, "is not known");
                }
            }
        }
        let Some(name) = name else {
            return self.note(tag, "tags", "one has no name");
        };
        let is_word = !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c));
        if !is_word || self.yaml.tags.contains_key(&name) {
            return self.note(
                tag,
                &format!("tags.{name}"),
                "a tag's name is made of lower-case letters, digits, - and _, and is used once",
            );
        }
        match mark.filter(|mark| mark.is_power_of_two() && *mark <= 1 << 15) {
            Some(mark)
                if !self
                    .yaml
                    .tags
                    .values()
                    .any(|bit| u32::from(*bit) == mark.trailing_zeros()) =>
            {
                let bit = u8::try_from(mark.trailing_zeros()).expect("at most 15");
                self.yaml.tags.insert(name, bit);
            }
            _ => self.note(
                tag,
                &format!("tags.{name}"),
                "a tag is one bit of the lower sixteen, and no other tag's",
            ),
        }
    }

    fn svi(&mut self, svi: &Node) {
        let mut made = Svi::default();
        let mut routes = false;
        let mut table = String::from("\"main\"");
        for (key, value) in svi.map() {
            let name = key.text().unwrap_or_default();
            let text = value.text().unwrap_or_default();
            match name {
                "name" => made.name = text.into(),
                "multicast" => made.multicast = truth(text),
                "host-routes" => routes = truth(text).unwrap_or(false),
                "host-routes-table" if matches!(text, "unspec" | "main" | "" | "254") => {}
                "host-routes-table" => match number(text) {
                    Some(number) => table = number.to_string(),
                    None => self.note(
                        key,
                        "svi.host-routes-table",
                        "a table is \"main\", \"vrf\", or a number",
                    ),
                },
                "netfilter-mark" if number(text) == Some(0) || text.is_empty() => {}
                "netfilter-mark" => self.note(
                    key,
                    "svi.netfilter-mark",
                    "has no equal: marks are the tags' alone; use a tag on the instances",
                ),
                other => self.note(key, &format!("svi.{other}"), "is not known"),
            }
        }
        if made.name.parse::<crate::addr::IfName>().is_err() {
            return self.note(svi, "svi", "one has no usable name");
        }
        made.host_routes = routes.then_some(table);
        self.yaml.svis.push(made);
    }
}

fn no_equal(path: &str) -> &'static str {
    match path {
        "general.log-level" => "has no equal: set RUST_LOG in the service",
        "general.ip4-all-nodes-address" | "general.ip6-all-nodes-address" => {
            "has no equal: multicast between hosts is a network's `multicast`"
        }
        "dhcp.config-file" | "dhcp.hosts-file" => {
            "has no equal: names of files are fixed, their directory is `[dhcp] directory`"
        }
        "lxd.enforce-eth-address" | "lxd.enforce-ip6-ll-address" => {
            "has no equal: addresses are always enforced"
        }
        "lxd.id-attribute" => "has no equal: DHCPv6 identifies an instance by its MAC address",
        "netlink.table" => "has no equal: the table is `bridge lxmesh`",
        "dhcp.server.arguments" => "has no equal: dnsmasq gets a configuration of its own",
        _ if path.ends_with("jitter")
            || path.ends_with("retry-interval")
            || path.ends_with("-timeout")
            || path.ends_with("-interval")
            || path.ends_with("reload-interval") =>
        {
            "has no equal: this time is chosen by the program"
        }
        _ => "has no equal",
    }
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => Some(true),
        "no" | "off" | "false" => Some(false),
        _ => None,
    }
}

/// `90`, `90s`, `1h30m`.
fn seconds(text: &str) -> Option<u32> {
    let mut total: u32 = 0;
    let mut digits = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return None,
        };
        let count: u32 = digits.parse().ok()?;
        total = total.checked_add(count.checked_mul(unit)?)?;
        digits.clear();
    }
    match digits.is_empty() {
        true => (!text.is_empty()).then_some(total),
        false => total.checked_add(digits.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_used_or_named_with_its_place() {
        let text = "general:\n  log-level: debug\ndhcp:\n  ip4-lease-time: 1h\n  ip6-lease-time: 2h\n  \
                    server:\n    executable: /opt/dnsmasq\n    arguments: [-k]\nlxd:\n  reload-interval: 90s\n\
                    strange:\n  key: 1\nsvi:\n  - name: svi-a\n    netfilter-mark: 4\n    host-routes: yes\n    host-routes-table: 77\n";
        let yaml = parse("agent.yaml", text).unwrap();
        assert_eq!(
            (yaml.lease_s, yaml.reload_interval_s),
            (Some(7200), Some(90))
        );
        assert_eq!(yaml.dnsmasq, Some("/opt/dnsmasq".into()));
        assert_eq!(yaml.svis[0].host_routes.as_deref(), Some("77"));
        let starts = [
            "agent.yaml:2:3: general.log-level: has no equal",
            "agent.yaml:5:3: dhcp.ip6-lease-time: both families",
            "agent.yaml:8:5: dhcp.server.arguments: has no equal",
            "agent.yaml:11:1: strange: is not known",
            "agent.yaml:15:5: svi.netfilter-mark: has no equal",
        ];
        assert_eq!(yaml.notes.len(), starts.len(), "{:#?}", yaml.notes);
        for (note, start) in yaml.notes.iter().zip(starts) {
            assert!(note.starts_with(start), "{note}");
        }
    }

    #[test]
    fn tags_are_bits() {
        let text = "tags:\n- {name: a, netfilter-mark: 0x8000}\n- {name: b, netfilter-mark: 3}\n- {name: c, netfilter-mark: 0x8000}\n";
        let yaml = parse("x", text).unwrap();
        assert_eq!(yaml.tags, BTreeMap::from([("a".into(), 15)]));
        assert_eq!(yaml.notes.len(), 2);
    }

    #[test]
    fn what_is_no_yaml_is_said_with_its_place_and_never_panics() {
        for text in ["a: [", "a: *b", "{", &"[".repeat(100), "a: b: c"] {
            let error = parse("x", text).unwrap_err().to_string();
            assert!(error.starts_with("x:"), "{text}: {error}");
        }
        for text in ["", "# nothing", "a", "svi: 3", "svi: [3, {name: [x]}]"] {
            parse("x", text).unwrap();
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("90", Some(90)),
            ("1h30m", Some(5400)),
            ("x", None),
            ("", None),
            ("9999999d", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
