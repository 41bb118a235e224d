//! Pings from a container to another instance, one by one.

use crate::host::{Guest, Host, until};

/// Pings come so often, in milliseconds.
const EVERY_MS: u32 = 20;

/// Pings from a container, written down by the container's host.
pub struct Pings<'a> {
    host: &'a Host,
    from: u8,
}

impl<'a> Pings<'a> {
    pub fn start(host: &'a Host, from: &Guest, to: &Guest) -> Self {
        let (from, to) = (from.number, to.number);
        let every = f64::from(EVERY_MS) / 1000.0;
        host.sh(&format!(
            "(exec ip netns exec c{from} ping -i {every} 192.0.2.{to} >/run/test/pings-c{from} 2>&1 </dev/null) &
             echo $! >/run/test/pings-c{from}.pid"
        ));
        let pings = Pings { host, from };
        pings.until_answered(0);
        pings
    }

    pub fn answered(&self) -> Vec<u32> {
        let text = self.host.sh(&format!("cat /run/test/pings-c{}", self.from));
        let answers = text.lines().filter_map(|line| {
            let (_, number) = line.split_once("icmp_seq=")?;
            line.contains("time=").then_some(())?;
            number.split(' ').next()?.parse().ok()
        });
        answers.collect()
    }

    pub fn last(&self) -> u32 {
        self.answered().last().copied().unwrap_or(0)
    }

    /// More than a second of pings is answered after this one.
    pub fn until_answered(&self, after: u32) {
        let name = format!("pings of c{} are answered", self.from);
        until(&name, &true, || {
            let answered = self.answered();
            let later = answered.iter().filter(|number| **number > after);
            later.count() > 50
        });
    }

    /// Ends, and says how many were lost, and in how many milliseconds at most none was answered.
    pub fn end(self) -> (usize, u32) {
        self.host.sh(&format!(
            "kill -INT $(cat /run/test/pings-c{}.pid) || true",
            self.from
        ));
        let answered = self.answered();
        let gaps = answered.windows(2).map(|pair| pair[1] - pair[0]);
        let lost: u32 = gaps.clone().map(|gap| gap.saturating_sub(1)).sum();
        (lost as usize, gaps.max().unwrap_or(0) * EVERY_MS)
    }
}
