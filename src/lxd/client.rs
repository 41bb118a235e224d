//! Asking LXD or Incus over its unix socket: where the socket is, one request, its limits, and
//! errors that say what to do. Never writes.

use super::inventory::{Acls, Details, Instance, InstanceId};
use super::wire::{self, Envelope};
use crate::text::{self, SENTENCE};
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Largest answer taken, bytes: a thousand instances need about 4 MB.
const MAX_ANSWER: usize = 256 << 20;
/// The same of one that is only an error.
const MAX_ERROR: usize = 64 << 10;
/// A listing of a busy server may be slow.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Where LXD (snap, package) and Incus put their sockets, in the order that they are tried.
const SOCKETS: [&str; 4] = [
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/lxd/unix.socket",
    "/run/incus/unix.socket",
    "/var/lib/incus/unix.socket",
];

/// Why LXD could not be read. Every one is worth trying again.
#[derive(Debug, thiserror::Error)]
pub enum LxdError {
    #[error(
        "no LXD or Incus socket at {tried}; install LXD or Incus, or name its socket by `socket` in [lxd]"
    )]
    NoSocket { tried: String },
    #[error(
        "may not connect to {socket}; put the agent's user into the group that owns the socket (usermod --append --groups GROUP lxmesh) and restart the agent"
    )]
    Permission { socket: PathBuf },
    #[error("nothing answers at {socket} ({why}); is LXD running?")]
    NotAnswering { socket: PathBuf, why: String },
    #[error("{socket} is not LXD or Incus: {why}; name the right socket by `socket` in [lxd]")]
    WrongServer { socket: PathBuf, why: String },
    #[error("GET {path} answered HTTP {status}: {text}")]
    Status {
        path: String,
        status: u16,
        text: String,
    },
    #[error("GET {path} answered what cannot be understood: {why}")]
    Garbage { path: String, why: String },
    #[error("GET {path} was not answered within {seconds} s")]
    Timeout { path: String, seconds: u64 },
}

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    http: reqwest::Client,
}

/// Finds the socket: the configured one, else `LXD_DIR`, else `INCUS_DIR`, else the usual places.
pub fn find_socket(configured: Option<&Path>) -> Result<PathBuf, LxdError> {
    if let Some(socket) = configured {
        return Ok(socket.to_path_buf());
    }
    let from_environment = ["LXD_DIR", "INCUS_DIR"]
        .iter()
        .filter_map(std::env::var_os)
        .map(|directory| Path::new(&directory).join("unix.socket"))
        .next();
    if let Some(socket) = from_environment {
        return Ok(socket);
    }
    SOCKETS
        .iter()
        .map(PathBuf::from)
        .find(|socket| socket.exists())
        .ok_or_else(|| LxdError::NoSocket {
            tried: SOCKETS.join(", "),
        })
}

impl Client {
    /// A client for the socket. Connects only when asked something.
    pub fn new(socket: &Path) -> Result<Self, LxdError> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .pool_max_idle_per_host(2)
            .user_agent(concat!("lxmesh/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| LxdError::NotAnswering {
                socket: socket.to_path_buf(),
                why: error.to_string(),
            })?;
        Ok(Self {
            socket: socket.to_path_buf(),
            http,
        })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes sure that this is LXD or Incus and that we may read; returns name and version.
    pub async fn identify(&self) -> Result<String, LxdError> {
        let wrong = |why: String| LxdError::WrongServer {
            socket: self.socket.clone(),
            why: text::shown(&why, SENTENCE),
        };
        let server: wire::Server = match self.get("/1.0", REQUEST_TIMEOUT).await {
            Ok(server) => server,
            Err(LxdError::Status { status: 404, .. }) => {
                return Err(wrong("it has no /1.0".into()));
            }
            Err(LxdError::Garbage { why, .. }) => return Err(wrong(why)),
            Err(error) => return Err(error),
        };
        let wire::Environment {
            server: name,
            server_version,
        } = server.environment;
        if !matches!(name.as_str(), "lxd" | "incus") {
            return Err(wrong(format!("it calls itself {name:?}")));
        }
        if server.auth == "untrusted" {
            return Err(LxdError::Permission {
                socket: self.socket.clone(),
            });
        }
        Ok(format!(
            "{name} {}",
            text::shown(&server_version, text::NAME)
        ))
    }

    /// All instances of all projects, in one answer.
    pub async fn instances(&self) -> Result<Vec<Instance>, LxdError> {
        let path = "/1.0/instances?recursion=1&all-projects=true";
        let Listing(mut instances) = self.get(path, LISTING_TIMEOUT).await?;
        self.add_acls(&mut instances).await?;
        Ok(instances)
    }

    /// Reads the access lists that the instances refer to.
    async fn add_acls(&self, instances: &mut [Instance]) -> Result<(), LxdError> {
        let mut projects: BTreeMap<String, Acls> = BTreeMap::new();
        for instance in instances {
            if instance.acl_names().next().is_none() || !instance.id.is_possible() {
                continue;
            }
            let project = &instance.id.project;
            if !projects.contains_key(project) {
                projects.insert(project.clone(), self.acls(project).await?);
            }
            let there = &projects[project];
            let named = instance.acl_names();
            let named = named.filter_map(|name| there.get_key_value(name));
            instance.acls = named
                .map(|(name, acl)| (name.clone(), acl.clone()))
                .collect();
        }
        Ok(())
    }

    /// The access lists of a project; none where the server knows no such thing.
    async fn acls(&self, project: &str) -> Result<Acls, LxdError> {
        let path = format!("/1.0/network-acls?recursion=1&project={}", escape(project));
        match self.get::<Vec<wire::Acl>>(&path, REQUEST_TIMEOUT).await {
            Ok(acls) => Ok(acls
                .into_iter()
                .map(|acl| (acl.name.clone(), Arc::new(acl.kept())))
                .collect()),
            Err(LxdError::Status { status: 404, .. }) => Ok(Acls::new()),
            Err(error) => Err(error),
        }
    }

    /// One instance; `None` only if the server says in so many words that there is none (404), or if
    /// there can be none: what stands for an odd name is found in a listing, or is gone.
    pub async fn instance(&self, id: &InstanceId) -> Result<Option<Instance>, LxdError> {
        if !id.is_possible() {
            return Ok(None);
        }
        let path = path_of(id);
        match self.get::<wire::Instance>(&path, REQUEST_TIMEOUT).await {
            Ok(instance) => {
                let mut instance = Instance::from(instance);
                if instance.id == *id {
                    self.add_acls(std::slice::from_mut(&mut instance)).await?;
                    return Ok(Some(instance));
                }
                // Instances live in the default project where features.profiles etc. are off,
                // but always under the name asked for.
                Err(LxdError::Garbage {
                    why: format!("asked for {id}, got {}", instance.id),
                    path,
                })
            }
            Err(LxdError::Status { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What only a person wants to know of it.
    pub async fn details(&self, id: &InstanceId) -> Result<Option<Details>, LxdError> {
        match self
            .get::<wire::Instance>(&path_of(id), REQUEST_TIMEOUT)
            .await
        {
            Ok(instance) => Ok(Some(instance.into())),
            Err(LxdError::Status { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, limit: Duration) -> Result<T, LxdError> {
        match tokio::time::timeout(limit, self.get_unbounded(path)).await {
            Ok(answer) => answer,
            Err(_) => Err(LxdError::Timeout {
                path: path.into(),
                seconds: limit.as_secs(),
            }),
        }
    }

    async fn get_unbounded<T: DeserializeOwned>(&self, path: &str) -> Result<T, LxdError> {
        let garbage = |why: String| LxdError::Garbage {
            path: path.into(),
            why: text::shown(&why, SENTENCE),
        };
        let mut response = self
            .http
            .get(format!("http://lxd{path}"))
            .send()
            .await
            .map_err(|error| self.connect_error(&error))?;
        let status = response.status();
        let most = match status {
            StatusCode::OK => MAX_ANSWER,
            _ => MAX_ERROR,
        };
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| garbage(format!("the answer broke off: {}", chain(&error))))?
        {
            if body.len() + chunk.len() > most {
                return Err(garbage(format!("more than {most} bytes, HTTP {status}")));
            }
            body.extend_from_slice(&chunk);
        }
        if status != StatusCode::OK {
            let text = serde_json::from_slice::<Envelope<serde_json::Value>>(&body)
                .map(|envelope| envelope.error)
                .unwrap_or_default();
            return Err(LxdError::Status {
                path: path.into(),
                status: status.as_u16(),
                text: text::shown(&text, SENTENCE),
            });
        }
        let envelope: Envelope<T> =
            serde_json::from_slice(&body).map_err(|error| garbage(error.to_string()))?;
        if envelope.kind != "sync" || envelope.error_code != 0 {
            return Err(garbage(format!(
                "type {:?}, error {} {:?}",
                envelope.kind, envelope.error_code, envelope.error
            )));
        }
        envelope
            .metadata
            .ok_or_else(|| garbage("no metadata".into()))
    }

    fn connect_error(&self, error: &reqwest::Error) -> LxdError {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                return socket_error(&self.socket, io);
            }
            source = cause.source();
        }
        LxdError::NotAnswering {
            socket: self.socket.clone(),
            why: chain(error),
        }
    }
}

/// The error of a connect to the socket, in the operator's terms.
pub(super) fn socket_error(socket: &Path, error: &std::io::Error) -> LxdError {
    match error.kind() {
        std::io::ErrorKind::NotFound => LxdError::NoSocket {
            tried: socket.display().to_string(),
        },
        std::io::ErrorKind::PermissionDenied => LxdError::Permission {
            socket: socket.to_path_buf(),
        },
        _ => LxdError::NotAnswering {
            socket: socket.to_path_buf(),
            why: error.to_string(),
        },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn path_of(id: &InstanceId) -> String {
    format!(
        "/1.0/instances/{}?project={}",
        escape(&id.name),
        escape(&id.project)
    )
}

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// A listing that keeps of each instance only what matters while it is being read, so that the
/// configuration of a thousand instances is never in memory at once.
struct Listing(Vec<Instance>);

impl<'de> Deserialize<'de> for Listing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Listing;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of instances")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Listing, A::Error> {
                let mut instances = Vec::new();
                while let Some(instance) = seq.next_element::<wire::Instance>()? {
                    instances.push(Instance::from(instance));
                }
                Ok(Listing(instances))
            }
        }
        deserializer.deserialize_seq(Each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_paths() {
        assert_eq!(escape("web-1.a~b_c"), "web-1.a~b_c");
        assert_eq!(escape("a/b?c d"), "a%2Fb%3Fc%20d");
    }

    #[test]
    fn a_cut_off_listing_is_an_error_and_not_a_shorter_list() {
        let text = r#"{"type":"sync","metadata":[{"name":"c1","status_code":103,"expanded_config":{},"expanded_devices":{}},"#;
        assert!(serde_json::from_str::<Envelope<Listing>>(text).is_err());
    }

    #[test]
    fn an_instance_without_devices_is_garbage_and_not_an_instance_without_nics() {
        let text =
            r#"{"type":"sync","metadata":[{"name":"c1","status_code":103,"expanded_config":{}}]}"#;
        assert!(serde_json::from_str::<Envelope<Listing>>(text).is_err());
    }
}
