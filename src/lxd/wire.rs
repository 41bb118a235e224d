//! The JSON shapes of the LXD and Incus REST API that we read
//! (<https://documentation.ubuntu.com/lxd/en/latest/rest-api/>), and nothing of their meaning.
//! Unknown fields are ignored, so newer servers keep working.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The envelope of every answer. Errors carry `error_code` and `error` in place of `metadata`.
#[derive(Debug, Deserialize)]
pub struct Envelope<T> {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub error_code: u32,
    #[serde(default)]
    pub error: String,
    pub metadata: Option<T>,
}

/// `GET /1.0`.
#[derive(Debug, Deserialize)]
pub struct Server {
    #[serde(default)]
    pub api_status: String,
    /// `trusted` where we may read; over the unix socket it always is.
    #[serde(default)]
    pub auth: String,
    #[serde(default)]
    pub environment: Environment,
}

#[derive(Debug, Default, Deserialize)]
pub struct Environment {
    /// `lxd` or `incus`.
    #[serde(default)]
    pub server: String,
    #[serde(default)]
    pub server_version: String,
}

/// One instance of `GET /1.0/instances?recursion=1&all-projects=true`, or
/// `GET /1.0/instances/NAME?project=PROJECT`.
#[derive(Debug, Deserialize)]
pub struct Instance {
    pub name: String,
    #[serde(default = "default_project")]
    pub project: String,
    pub status_code: u32,
    #[serde(default)]
    pub last_used_at: String,
    pub expanded_config: BTreeMap<String, String>,
    pub expanded_devices: BTreeMap<String, BTreeMap<String, String>>,
}

fn default_project() -> String {
    "default".into()
}

/// One message of `GET /1.0/events?type=lifecycle&all-projects=true`.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub project: Option<String>,
    pub metadata: Option<Lifecycle>,
}

#[derive(Debug, Deserialize)]
pub struct Lifecycle {
    /// E.g. `instance-started`.
    pub action: String,
    /// E.g. `/1.0/instances/web1?project=prod`.
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub project: Option<String>,
    #[serde(default)]
    pub context: Option<BTreeMap<String, serde_json::Value>>,
}
