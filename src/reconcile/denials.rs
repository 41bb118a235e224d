//! Tells the journal what the filters logged: which NIC, which packet, and by which rule.

use crate::kernel::KernelError;
use crate::kernel::nflog::{Logged, PacketLog};
use crate::model::{Facts, Nic};
use std::time::Duration;
use tokio::time::Instant;

/// Lines per second for all NICs together; the filters have a limit for each.
const LINES_PER_S: u32 = 100;

/// The filters' log and how much was told of it.
pub(super) struct Denials {
    /// None where the kernel cannot log.
    log: Option<PacketLog>,
    second: Instant,
    told: u32,
    untold: u64,
}

impl Denials {
    /// Listens. Without the kernel's part for it, nothing is logged, which is said.
    pub(super) fn open() -> Self {
        let log = PacketLog::open()
            .map_err(|error| {
                tracing::warn!("what the filters drop is counted, but cannot be logged: {error}");
            })
            .ok();
        Denials {
            log,
            second: Instant::now(),
            told: 0,
            untold: 0,
        }
    }

    /// Waits for what was logged; for ever where nothing is.
    pub(super) async fn next(&mut self) -> Result<Vec<Logged>, KernelError> {
        match &mut self.log {
            Some(log) => log.next().await,
            None => std::future::pending().await,
        }
    }

    /// Tells of each, as long as there are not too many.
    pub(super) fn tell(
        &mut self,
        read: Result<Vec<Logged>, KernelError>,
        facts: Option<&Facts>,
        nics: &[Nic],
    ) {
        let packets = match read {
            Ok(packets) => packets,
            Err(error) => {
                tracing::warn!("no more is logged of what the filters drop: {error}");
                self.log = None;
                return;
            }
        };
        for logged in &packets {
            if self.second.elapsed() >= Duration::from_secs(1) {
                if self.untold > 0 {
                    tracing::warn!("{} more packets were logged than are told", self.untold);
                }
                (self.second, self.told, self.untold) = (Instant::now(), 0, 0);
            }
            if self.told == LINES_PER_S {
                self.untold += 1;
                continue;
            }
            self.told += 1;
            let nic = nics.iter().find(|nic| {
                let link = facts.and_then(|facts| facts.link(&nic.port));
                link.is_some_and(|link| link.index == logged.port)
            });
            let text = line(logged, nic);
            match nic {
                Some(nic) => tracing::warn!(
                    instance = %nic.id.instance, device = nic.id.device, port = %nic.port,
                    rule = logged.rule, "{text}"
                ),
                None => tracing::warn!(rule = logged.rule, "{text}"),
            }
        }
    }
}

/// One line about one packet. Nothing in it is text that an instance chose.
fn line(logged: &Logged, nic: Option<&Nic>) -> String {
    let who = nic.map_or_else(
        || format!("the device with index {}", logged.port),
        |nic| format!("instance {}", nic.id),
    );
    let way = if logged.from_nic { "from" } else { "to" };
    let what = match logged.rule.as_str() {
        "audit_in" | "audit_out" => "passed in audit only",
        _ => "dropped",
    };
    let claimed = match (logged.from_nic, logged.source_mac, nic) {
        (true, Some(mac), Some(nic)) if mac != nic.mac => format!(", with the MAC {mac}"),
        _ => String::new(),
    };
    format!(
        "{what} {way} {who}: {}{claimed} (rule {})",
        logged.packet, logged.rule
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nflog::Packet;

    #[test]
    fn a_line_says_who_what_and_why() {
        let mut logged = Logged {
            port: 7,
            from_nic: false,
            rule: "in_denied".into(),
            source_mac: None,
            packet: Packet::Ip {
                protocol: 6,
                source: "192.0.2.11".parse().unwrap(),
                destination: "192.0.2.12".parse().unwrap(),
                ports: Some((40000, 22)),
            },
        };
        assert_eq!(
            line(&logged, None),
            "dropped to the device with index 7: tcp from 192.0.2.11 port 40000 to 192.0.2.12 port 22 (rule in_denied)"
        );
        logged.rule = "audit_out".into();
        logged.from_nic = true;
        assert_eq!(
            line(&logged, None),
            "passed in audit only from the device with index 7: tcp from 192.0.2.11 port 40000 to 192.0.2.12 port 22 (rule audit_out)"
        );
    }
}
