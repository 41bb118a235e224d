//! What dnsmasq says to standard error: which of it is worth a warning, and what it said lately.
//! Clients cause many of its lines, with words of their own in them, so nothing here grows with them.

use crate::text;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// How long a complaint is shown after it was last said.
const SHOWN: Duration = Duration::from_secs(600);
/// How often the same one is logged at most.
const LOGGED_EVERY: Duration = Duration::from_secs(300);
/// How many different ones are kept. What is said beside them is counted only.
const MAX_KEPT: usize = 16;
/// Longer lines and texts are cut.
const MAX_LINE_BYTES: usize = 1000;
const MAX_TEXT_CHARS: usize = 200;

/// What every NIC beyond the last lease is told. The address and the MAC before it are left out:
/// one text for all of them.
const NO_LEASES: &str = "no leases left";

/// How lines begin that are said at a start, a reload, an end or an interface's coming and going.
const ROUTINE: [&str; 12] = [
    "started, version ",
    "compile time options: ",
    "DHCP, ",
    "DHCPv6, ",
    "DHCP relay ",
    "read ",
    "cleared cache",
    "listening on ",
    "stopped listening on ",
    "exiting on receipt of SIGTERM",
    "inotify: ",
    "warning: no upstream servers configured",
];

/// How lines begin that a client causes at will: by what it declines, releases, asks for, calls
/// itself, or says its address or its link is (dnsmasq 2.90 to 2.93, src/rfc2131.c, rfc3315.c,
/// dhcp.c, lease.c). As warnings they would be its means to fill the journal.
const BY_CLIENTS: [&str; 15] = [
    "disabling DHCP static address ",
    "not using configured address ",
    "abandoning lease to ",
    "no address range available for DHCP request with subnet selector ",
    "no address range available for DHCPv6 request from relay ",
    "cannot send DHCP/BOOTP option ",
    "cannot send RFC3925 option",
    "PXE ",
    "leasequery ",
    "Error sending DHCP packet to ",
    "Ignoring domain ",
    "not giving name ",
    "Working around kernel bug: ",
    "vendor class",
    "user class",
];

/// The complaint in a line of dnsmasq's, if it is one: everything that is not known for routine.
pub(super) fn complaint(line: &str) -> Option<String> {
    let said = message(line);
    // One line per packet, with what came of it at the end. A client's name has no blanks.
    if is_packet(said) {
        return said.ends_with(NO_LEASES).then(|| NO_LEASES.to_string());
    }
    let mut known = ROUTINE.iter().chain(&BY_CLIENTS);
    let is_known = said.is_empty() || known.any(|start| said.starts_with(start));
    (!is_known).then(|| printable(said))
}

/// The line without the program's name and its process: `dnsmasq-dhcp[4711]: `.
fn message(line: &str) -> &str {
    match line.split_once(": ") {
        Some((name, rest)) if name.starts_with("dnsmasq") && !name.contains(' ') => rest.trim(),
        _ => line.trim(),
    }
}

/// `DHCPDISCOVER(svi-vpc) …`, also as `123456 DHCPSOLICIT(…) …`, and what `log-dhcp` adds, which
/// begins with the number of the transaction.
fn is_packet(said: &str) -> bool {
    let said = match said.split_once(' ') {
        Some((number, rest)) if number.bytes().all(|c| c.is_ascii_digit()) => {
            return !rest.is_empty();
        }
        _ => said,
    };
    let name = said.split('(').next().unwrap_or_default();
    let capitals = |name: &str| name.bytes().all(|c| c.is_ascii_uppercase() || c == b'-');
    said.contains('(') && !name.is_empty() && capitals(name)
}

/// What cannot be seen escaped, and cut to its length.
pub(super) fn printable(text: &str) -> String {
    text::shown(text, MAX_TEXT_CHARS)
}

/// Something that dnsmasq complained of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    pub text: String,
    /// How often it was said.
    pub times: u64,
    pub last: Instant,
    logged: Instant,
}

/// What was complained of lately, the longest known first, and how often at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Complaints {
    kept: VecDeque<Complaint>,
    pub total: u64,
}

impl Complaints {
    /// Takes one in. Returns whether it is to be logged.
    pub(super) fn add(&mut self, text: String, now: Instant) -> bool {
        self.total += 1;
        self.kept
            .retain(|kept| now.duration_since(kept.last) < SHOWN);
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.text == text) {
            kept.times += 1;
            kept.last = now;
            let due = now.duration_since(kept.logged) >= LOGGED_EVERY;
            if due {
                kept.logged = now;
            }
            return due;
        }
        if self.kept.len() == MAX_KEPT {
            return false;
        }
        self.kept.push_back(Complaint {
            text,
            times: 1,
            last: now,
            logged: now,
        });
        true
    }

    /// Those of the last minutes.
    pub fn recent(&self, now: Instant) -> impl Iterator<Item = &Complaint> {
        let kept = self.kept.iter();
        kept.filter(move |kept| now.duration_since(kept.last) < SHOWN)
    }
}

/// Lines of at most [`MAX_LINE_BYTES`]; what is longer loses its end.
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Lines {
            reader,
            line: Vec::new(),
        }
    }

    /// The next one, or None at the end. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<String>> {
        loop {
            let bytes = self.reader.fill_buf().await?;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            let room = MAX_LINE_BYTES - self.line.len();
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            let (used, over) = (part.len() + usize::from(end.is_some()), bytes.is_empty());
            self.reader.consume(used);
            if end.is_some() || over && !self.line.is_empty() {
                let line = std::mem::take(&mut self.line);
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if over {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_routine_or_a_client_s_doing_is_no_complaint() {
        for line in [
            "dnsmasq[7]: started, version 2.90 DNS disabled",
            "dnsmasq[7]: compile time options: IPv6 GNU-getopt",
            "dnsmasq-dhcp[7]: DHCP, static leases only on 192.0.2.0, lease time 1h",
            "dnsmasq-dhcp[7]: DHCPv6, static leases only on 2001:db8::, lease time 1h",
            "dnsmasq-dhcp[7]: DHCP, sockets bound exclusively to interface svi-vpc",
            "dnsmasq-dhcp[7]: read /run/lxmesh/dnsmasq/hosts",
            "dnsmasq[7]: exiting on receipt of SIGTERM",
            "dnsmasq-dhcp[7]: DHCPDISCOVER(svi-vpc) 00:16:3e:00:00:01 ",
            "dnsmasq-dhcp[7]: DHCPDISCOVER(svi-vpc) 00:16:3e:66:66:66 no address available",
            "dnsmasq-dhcp[7]: DHCPACK(svi-vpc) 192.0.2.10 00:16:3e:00:00:01 bob",
            "dnsmasq-dhcp[7]: DHCPINFORMATION-REQUEST(svi-vpc) 00:03:00:01",
            "dnsmasq-dhcp[7]: 2150025 DHCPSOLICIT(svi) 00:03:00:01:00:16:3e:00:00:01 ",
            "dnsmasq-dhcp[7]: 2150025 client provides name: bad address",
            "dnsmasq-dhcp[7]: BOOTP(svi-vpc) 00:16:3e:00:00:01 no address configured",
            "dnsmasq-dhcp[7]: disabling DHCP static address 192.0.2.11 for 10m",
            "dnsmasq-dhcp[7]: not using configured address 192.0.2.11 because it was previously declined",
            "dnsmasq-dhcp[7]: Error sending DHCP packet to 240.0.0.1: Invalid argument",
            "dnsmasq-dhcp[7]: no address range available for DHCP request with subnet selector 192.0.2.77",
            "dnsmasq-dhcp[7]: cannot send DHCP/BOOTP option 3: no space left in packet",
            "",
        ] {
            assert_eq!(complaint(line), None, "{line}");
        }
    }

    #[test]
    fn no_leases_and_everything_that_is_not_known_is_a_complaint() {
        for (line, wanted) in [
            (
                "dnsmasq-dhcp[7]: DHCPDISCOVER(svi-vpc) 00:16:3e:00:00:01 no leases left",
                "no leases left",
            ),
            (
                "dnsmasq-dhcp[7]: no address range available for DHCP request via svi-vpc",
                "no address range available for DHCP request via svi-vpc",
            ),
            (
                "dnsmasq[7]: cannot read /run/hosts: Permission denied",
                "cannot read /run/hosts: Permission denied",
            ),
            (
                "dnsmasq-dhcp[7]: duplicate IP address 192.0.2.10 (bob) in dhcp-config directive",
                "duplicate IP address 192.0.2.10 (bob) in dhcp-config directive",
            ),
            (
                "dnsmasq[7]: bad hex constant at line 1 of /run/hosts",
                "bad hex constant at line 1 of /run/hosts",
            ),
            ("something: else", "something: else"),
            ("dnsmasq[7]: a\x1b[2Jb\u{85}c", "a\\u{1b}[2Jb\\u{85}c"),
        ] {
            assert_eq!(complaint(line).as_deref(), Some(wanted));
        }
        let long = complaint(&"x".repeat(5000)).unwrap();
        assert_eq!(long.chars().count(), MAX_TEXT_CHARS + 1, "{long}");
    }

    #[test]
    fn the_same_is_logged_once_in_a_while_and_forgotten_after_a_while() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(complaints.add("a".into(), at(0)));
        assert!(!complaints.add("a".into(), at(299)));
        assert!(complaints.add("a".into(), at(300)));
        let recent = |complaints: &Complaints, seconds| -> Vec<(String, u64)> {
            let recent = complaints.recent(at(seconds));
            recent.map(|c| (c.text.clone(), c.times)).collect()
        };
        assert_eq!(recent(&complaints, 899), [("a".into(), 3)]);
        assert_eq!(recent(&complaints, 900), []);
        assert!(complaints.add("a".into(), at(900)));
        assert_eq!(recent(&complaints, 900), [("a".into(), 1)]);
        assert_eq!(complaints.total, 4);
    }

    #[test]
    fn a_thousand_different_texts_take_no_more_room_than_sixteen() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        let logged = (0..1000).filter(|n| complaints.add(n.to_string(), now));
        assert_eq!(logged.count(), MAX_KEPT);
        assert_eq!(complaints.recent(now).count(), MAX_KEPT);
        assert_eq!(complaints.total, 1000);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_without_an_end_takes_no_more_room_than_others() {
        let mut text = b"first\n\n".to_vec();
        text.extend(vec![b'x'; 100_000]);
        text.extend(b"\nlast");
        let mut lines = Lines::new(tokio::io::BufReader::with_capacity(64, &text[..]));
        let mut sizes = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            assert!(lines.line.capacity() <= 2 * MAX_LINE_BYTES);
            sizes.push(line.len());
        }
        assert_eq!(sizes, [5, 0, MAX_LINE_BYTES, 4]);
    }
}
