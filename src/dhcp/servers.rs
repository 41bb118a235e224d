//! All dnsmasq processes of a host: one for each configuration that there is.

use super::{Complaint, Order, Seen, State, processes_of, run, terminate};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// How long they may take to end.
const LAST_WORDS: Duration = Duration::from_secs(4);

/// Supervises a dnsmasq for each of its configurations.
#[derive(Debug)]
pub struct Servers {
    program: PathBuf,
    running: BTreeMap<PathBuf, Server>,
}

#[derive(Debug)]
struct Server {
    orders: mpsc::Sender<Order>,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Servers {
    /// None yet; they will be run by this program.
    pub fn new(program: PathBuf) -> Self {
        Servers {
            program,
            running: BTreeMap::new(),
        }
    }

    /// There shall be one for each of these configurations, which are in that directory. The others end,
    /// those of an earlier agent too; new ones wait for their first order.
    pub fn keep(&mut self, directory: &Path, configs: &[PathBuf]) {
        // Its orders end with it, and so does dnsmasq.
        self.running.retain(|config, _| configs.contains(config));
        for (config, pid) in processes_of(directory) {
            if !configs.contains(&config) {
                terminate(pid);
            }
        }
        for config in configs {
            if self.running.contains_key(config) {
                continue;
            }
            let (orders, orders_out) = mpsc::channel(16);
            let (seen_in, seen) = watch::channel(Seen::default());
            let program = self.program.clone();
            let task = tokio::spawn(run(program, config.clone(), orders_out, seen_in));
            let server = Server { orders, seen, task };
            self.running.insert(config.clone(), server);
        }
    }

    /// Tells all of them.
    pub fn order(&self, order: Order) {
        for (config, server) in &self.running {
            if server.orders.try_send(order).is_err() {
                tracing::warn!(config = %config.display(), "the dnsmasq supervisor does not keep up");
            }
        }
    }

    /// What they are doing, in the order of their configurations.
    pub fn states(&self) -> Vec<State> {
        let servers = self.running.values();
        servers
            .map(|server| server.seen.borrow().state.clone())
            .collect()
    }

    /// How often one was started, and how often one ended although nobody had told it to.
    pub fn counts(&self) -> (u64, u64) {
        let servers = self.running.values();
        servers.fold((0, 0), |(starts, exits), server| {
            let seen = server.seen.borrow();
            (starts + seen.starts, exits + seen.exits)
        })
    }

    /// What they complained of lately, and how often they did at all.
    pub fn complaints(&self) -> (Vec<Complaint>, u64) {
        let now = Instant::now();
        let (mut recent, mut total) = (Vec::new(), 0);
        for server in self.running.values() {
            let seen = server.seen.borrow();
            recent.extend(seen.complaints.recent(now).cloned());
            total += seen.complaints.total;
        }
        (recent, total)
    }

    /// Ends them all, and waits for that.
    pub async fn end(self) {
        let tasks: Vec<JoinHandle<()>> = self.running.into_values().map(|s| s.task).collect();
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
    }
}
