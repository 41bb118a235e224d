//! The agent's state as the operator sees it. The JSON of `lxmesh status --json` has exactly
//! these fields; new ones may be added, none changes its meaning.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    pub pid: u32,
    /// Name of the fabric.
    pub fabric: String,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// True if nothing is wrong, waiting or put off.
    pub in_step: bool,
    pub lxd: LxdStatus,
    pub networks: Vec<NetworkStatus>,
    pub nics: Vec<NicStatus>,
    /// NICs that ask to be connected and cannot be; `problems` says why.
    #[serde(default)]
    pub refused: Vec<RefusedStatus>,
    /// What is wrong with instances' configuration.
    pub problems: Vec<String>,
    /// What is not wrong and may still cost something; the first of each sort, and how many more there are.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Repairs that are put off because something else keeps undoing them.
    pub deferred: Vec<String>,
    pub dhcp: String,
    /// What dnsmasq complained of in the last ten minutes.
    #[serde(default)]
    pub dhcp_warnings: Vec<DhcpWarning>,
    pub passes: PassStatus,
    /// The last thing that could not be done, and when (seconds ago).
    pub last_error: Option<(String, u64)>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LxdStatus {
    /// E.g. `lxd 5.0.2`; empty before the first answer.
    pub server: String,
    pub connected: bool,
    /// Why it is not connected, or what was last wrong.
    pub error: Option<String>,
    /// Instances known, of this member alone; `None` before the first listing.
    pub instances: Option<usize>,
    /// Seconds since the last complete listing.
    pub listed_s_ago: Option<u64>,
    /// `None` if the server is in no cluster.
    #[serde(default)]
    pub cluster: Option<ClusterStatus>,
}

/// The cluster that the server is in, as of the last listing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The name of this member.
    pub member: String,
    /// How many members there are.
    pub members: usize,
    /// Instances of the other members.
    pub elsewhere: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkStatus {
    pub name: String,
    pub vni: u32,
    pub bridge: String,
    pub tunnel: String,
    pub mtu: u32,
    /// `None` if ready, else what it waits for.
    pub waiting_for: Option<String>,
    /// NICs of running instances on this host.
    pub nics: usize,
    /// VTEPs of other hosts that FRR has installed.
    pub vteps: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NicStatus {
    pub instance: String,
    pub device: String,
    pub network: String,
    pub port: String,
    pub mac: String,
    pub addresses: Vec<String>,
    /// Whether the port is in its bridge and up, as of the last pass.
    pub connected: bool,
    /// Of the port, bytes, as of the last pass; `None` if there is none.
    #[serde(default)]
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RefusedStatus {
    pub instance: String,
    pub device: String,
    pub port: String,
    /// Whether the port is down, as of the last pass.
    pub down: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DhcpWarning {
    /// dnsmasq's words, in part perhaps an instance's: without control characters, and cut.
    pub text: String,
    /// How often it was said.
    pub times: u64,
    /// Seconds since it was last said.
    pub last_s_ago: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PassStatus {
    pub full: u64,
    pub scoped: u64,
    /// Kernel objects created, changed or deleted since the start.
    pub changes: u64,
    /// Of these, failed.
    pub failures: u64,
    /// How long the last pass took, milliseconds.
    pub last_ms: f64,
    /// Seconds since the last full pass.
    pub last_full_s_ago: Option<u64>,
    /// Times still to come at which zebra is told again of MACs whose ports joined lately.
    #[serde(default)]
    pub announcements: usize,
}
