//! Asking LXD or Incus over its unix socket: one request, its limits, and errors that say what to do.
//! Never writes.

use super::cluster::{self, Cluster, Identity, Place};
use super::inventory::{self, Acls, Answer, Details, Instance, InstanceId, Presence, Unread};
use super::listing::{self, Listing};
use super::wire::{self, Envelope, Location};
use crate::text::{self, SENTENCE};
use futures_util::StreamExt;
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Largest answer taken, bytes: a thousand instances need about 4 MB.
const MAX_ANSWER: usize = 256 << 20;
/// The same of one that is only an error.
const MAX_ERROR: usize = 64 << 10;
/// A listing of a busy server may be slow.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The access lists of all projects together: everybody waits for them.
const ACLS_TIMEOUT: Duration = Duration::from_secs(20);
/// How many projects' access lists are read at the same time.
const CONCURRENT_ACLS: usize = 8;
/// The most projects that are remembered to be slow.
const MAX_SLOW: usize = 4096;

/// How often a listing is begun while the server's name changes meanwhile.
const LISTINGS: usize = 2;

/// Why LXD could not be read. Every one is worth trying again.
#[derive(Debug, thiserror::Error)]
pub enum LxdError {
    #[error(
        "no LXD or Incus socket at {tried}; install LXD or Incus, or name its socket by `socket` in [lxd]"
    )]
    NoSocket { tried: String },
    #[error(
        "there are sockets of several servers, {sockets}, and nothing says which of them has the instances; name the one by `socket` in [lxd], or remove what is left of the other"
    )]
    SeveralSockets { sockets: String },
    #[error(
        "the instances were those of {before}, whose socket is gone, and those at {now} may be others; start {before}, or, if they have moved there, restart the agent (systemctl restart lxmesh-agent)"
    )]
    OtherProgram { before: &'static str, now: String },
    #[error(
        "may not connect to {socket}; put the agent's user into the group that owns the socket (usermod --append --groups GROUP lxmesh) and restart the agent"
    )]
    Permission { socket: PathBuf },
    #[error("nothing answers at {socket} ({why}); is the server running?")]
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
    #[error("which instances are here cannot be said: {0}")]
    Identity(String),
    #[error("GET {path} was not answered within {seconds} s")]
    Timeout { path: String, seconds: u64 },
}

/// A client of one server.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    http: reqwest::Client,
    acls_within: Duration,
    /// Projects whose access lists were not read in time: others come before them.
    slow: Arc<Mutex<BTreeSet<String>>>,
    identity: Arc<Mutex<Known>>,
}

/// What the server is.
#[derive(Debug, Default)]
struct Known {
    /// As it was last found to agree with the cluster; `None` if that is in doubt.
    identity: Option<Identity>,
    /// How often it has been doubted.
    doubts: u64,
}

/// The program by which people talk to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Program {
    #[default]
    Lxc,
    Incus,
}

impl Program {
    /// Of a server as [`Client::identify`] names it.
    pub fn of(server: &str) -> Self {
        match server.starts_with("incus") {
            true => Program::Incus,
            false => Program::Lxc,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Program::Lxc => "lxc",
            Program::Incus => "incus",
        }
    }

    /// The server that it talks to.
    pub fn server(self) -> &'static str {
        match self {
            Program::Lxc => "LXD",
            Program::Incus => "Incus",
        }
    }
}

impl Client {
    /// A client for the socket. Connects only when asked something.
    pub fn new(socket: &Path) -> Result<Self, LxdError> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            // A connection for each request. A pool also opens some on which it then sends nothing, and LXD and Incus take no
            // other connection until the last one has sent its first bytes (`endpoints/listeners/starttls.go`; LXD 5.0.2
            // answered nobody for 50 s).
            .pool_max_idle_per_host(0)
            .user_agent(concat!("lxmesh/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| LxdError::NotAnswering {
                socket: socket.to_path_buf(),
                why: error.to_string(),
            })?;
        Ok(Self {
            socket: socket.to_path_buf(),
            http,
            acls_within: ACLS_TIMEOUT,
            slow: Arc::default(),
            identity: Arc::default(),
        })
    }

    /// Gives up access lists that are not read within half of that time, and after all of it the rest.
    pub fn acls_within(self, limit: Duration) -> Self {
        Client {
            acls_within: limit,
            ..self
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes sure that this is LXD or Incus, that we may read, and that it says who it is; returns name and
    /// version.
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
        let identity = Identity::of(&server.environment);
        let wire::Environment {
            server: name,
            server_version,
            ..
        } = server.environment;
        if server.auth.as_deref() == Some("untrusted") {
            return Err(LxdError::Permission {
                socket: self.socket.clone(),
            });
        }
        let Some(name) = name else {
            // A server that has just started says less for a moment.
            return Err(unclear("environment.server is missing or no text".into()));
        };
        let server_version = server_version.unwrap_or_default();
        if !matches!(name.as_str(), "lxd" | "incus") {
            return Err(wrong(format!("it calls itself {name:?}")));
        }
        identity.map_err(unclear)?;
        Ok(format!(
            "{name} {}",
            text::shown(&server_version, text::NAME)
        ))
    }

    /// What the server says of itself now.
    async fn ask_identity(&self) -> Result<Identity, LxdError> {
        let server: wire::Server = self.get("/1.0", REQUEST_TIMEOUT).await?;
        Identity::of(&server.environment).map_err(unclear)
    }

    /// The names of the members, among which has to be the server's own: while it is renamed, it may not be.
    async fn ask_members(&self, own: &Identity) -> Result<BTreeSet<String>, LxdError> {
        if !own.clustered {
            return Ok(BTreeSet::new());
        }
        let urls: Vec<String> = self.get("/1.0/cluster/members", REQUEST_TIMEOUT).await?;
        let members = cluster::members(&urls);
        match members.contains(&own.name) {
            true => Ok(members),
            false => {
                self.doubt_identity();
                Err(LxdError::Identity(format!(
                    "the server calls itself {}, which is no member of its cluster",
                    text::shown(&own.name, text::NAME)
                )))
            }
        }
    }

    /// What the server was last found to be.
    pub fn identity(&self) -> Option<Identity> {
        self.known().identity.clone()
    }

    /// Its name may be another one from now on.
    pub fn doubt_identity(&self) {
        let mut known = self.known();
        known.identity = None;
        known.doubts += 1;
    }

    /// Takes in what was asked for since there were so many doubts; what is older than a doubt may be outdated.
    fn believe(&self, identity: Identity, doubts: u64) {
        let mut known = self.known();
        if known.doubts == doubts {
            known.identity = Some(identity);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let known = self.identity.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    /// All instances of all projects, in one answer. Entries that cannot be understood are named beside
    /// those that are. What the server says of itself has to be the same before and after it, and to
    /// agree with the members of its cluster; otherwise nothing is known.
    pub async fn instances(&self) -> Result<Listing, LxdError> {
        for _ in 0..LISTINGS {
            let doubts = self.known().doubts;
            let before = self.ask_identity().await?;
            let listed = self.list(&before).await;
            if self.ask_identity().await? != before {
                self.doubt_identity();
                continue;
            }
            let mut listing = listed?;
            self.believe(before, doubts);
            self.add_acls(&mut listing, self.acls_within / 2).await?;
            return Ok(listing);
        }
        let text = "the server's name changed while its instances were listed";
        Err(LxdError::Identity(text.into()))
    }

    async fn list(&self, identity: &Identity) -> Result<Listing, LxdError> {
        let path = "/1.0/instances?recursion=1&all-projects=true";
        let body = self.body(path, LISTING_TIMEOUT).await?;
        let mut listing = listing::read(metadata(path, &body)?, identity)
            .map_err(|error| garbage(path, error.to_string()))?;
        drop(body);
        if identity.clustered {
            let members = self.ask_members(identity).await?;
            listing.check_members(&members);
            listing.cluster = Some(Cluster {
                member: identity.name.clone(),
                members: members.len(),
                elsewhere: listing.elsewhere.count(),
            });
        }
        Ok(listing)
    }

    /// Reads the access lists that the instances refer to. Of a project whose lists cannot be read, the
    /// instances that refer to them are understood but for that; an error is only what concerns all of them.
    async fn add_acls(&self, listing: &mut Listing, each: Duration) -> Result<(), LxdError> {
        let asked = listing.instances.iter().filter(|one| needs_acls(one));
        let asked: BTreeSet<String> = asked.map(|one| one.id.project.clone()).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let order = {
            let slow = self.slow();
            let (last, first): (Vec<_>, Vec<_>) =
                asked.iter().cloned().partition(|one| slow.contains(one));
            [first, last].concat()
        };
        let read = within(self.acls_within, order, |project| async move {
            self.acls(&project, each).await
        });
        let mut projects = BTreeMap::new();
        for (project, answer) in read.await {
            match &answer {
                Some(Err(LxdError::Timeout { .. })) => {
                    self.slow().insert(project.clone());
                }
                Some(_) => {
                    self.slow().remove(&project);
                }
                // It may have waited only for others.
                None => {}
            }
            let acls = match answer {
                Some(answer) => of_project(answer)?,
                None => Err(format!(
                    "those of all projects were not read within {} s",
                    self.acls_within.as_secs()
                )),
            };
            projects.insert(project, acls);
        }
        put_acls(listing, &projects);
        Ok(())
    }

    fn slow(&self) -> MutexGuard<'_, BTreeSet<String>> {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        // Projects that are gone are not forgotten one by one.
        if slow.len() >= MAX_SLOW {
            slow.clear();
        }
        slow
    }

    /// The access lists of a project; none where the server knows no such thing.
    async fn acls(&self, project: &str, limit: Duration) -> Result<Acls, LxdError> {
        let path = format!("/1.0/network-acls?recursion=1&project={}", escape(project));
        match self.get::<Vec<Box<RawValue>>>(&path, limit).await {
            Ok(acls) => {
                let acls = acls.iter().filter_map(|entry| wire::Acl::read(entry));
                Ok(acls.map(|acl| (acl.name.clone(), Arc::new(acl))).collect())
            }
            Err(LxdError::Status { status: 404, .. }) => Ok(Acls::new()),
            Err(error) => Err(error),
        }
    }

    /// One instance; gone only if the server says in so many words that there is none (404), or if
    /// there can be none: what stands for an odd name is found in a listing, or is gone.
    pub async fn instance(&self, id: &InstanceId) -> Result<Answer, LxdError> {
        if !id.is_possible() {
            return Ok(Answer::Gone);
        }
        let path = path_of(id);
        let entry = self.get::<Box<RawValue>>(&path, REQUEST_TIMEOUT).await;
        let entry = match entry {
            Ok(entry) => entry,
            Err(LxdError::Status { status: 404, .. }) => return Ok(Answer::Gone),
            Err(error) => return Err(error),
        };
        match self.place(&entry).await? {
            Place::Here => {}
            Place::Elsewhere(member) => return Ok(Answer::Elsewhere(member)),
            Place::Unknown(why) => {
                let mut unread = Unread::because(id.clone(), why);
                unread.try_again = true;
                return Ok(Answer::Unread(unread));
            }
        }
        let instance = inventory::read(&entry);
        let instance = match instance {
            Ok(instance) if instance.id == *id => instance,
            // Instances live in the default project where features.profiles etc. are off,
            // but always under the name asked for.
            Ok(other) => {
                let why = format!("asked for it, the server tells of {}", other.id);
                return Ok(Answer::Unread(Unread::because(id.clone(), why)));
            }
            Err(unread) => {
                let why = unread.why;
                return Ok(Answer::Unread(Unread::because(id.clone(), why)));
            }
        };
        let mut listing = Listing {
            instances: vec![instance],
            ..Listing::default()
        };
        // Few instances are read at once, and whoever waits for a slow project keeps others from it.
        let each = match self.slow().contains(&id.project) {
            true => self.acls_within / 20,
            false => self.acls_within / 2,
        };
        self.add_acls(&mut listing, each).await?;
        Ok(match (listing.instances.pop(), listing.unread.pop()) {
            (Some(instance), _) => Answer::There(instance),
            (None, Some(unread)) => Answer::Unread(unread),
            (None, None) => unreachable!("an instance is in one of the lists"),
        })
    }

    /// Where an instance is. Nothing is taken to be elsewhere because of a name that the server had before.
    async fn place(&self, entry: &RawValue) -> Result<Place, LxdError> {
        let location = listing::location_of(entry);
        let (known, doubts) = {
            let known = self.known();
            (known.identity.clone(), known.doubts)
        };
        // Where none is told depends on whether there is a cluster now.
        let is_told = matches!(location, Location::Named(_));
        if is_told && known.is_some_and(|own| own.place(&location) == Place::Here) {
            return Ok(Place::Here);
        }
        let own = self.ask_identity().await?;
        let members = self.ask_members(&own).await?;
        let place = own.place(&location);
        self.believe(own, doubts);
        Ok(match &place {
            Place::Elsewhere(member) if !members.contains(member) => {
                Place::Unknown(listing::no_member(member))
            }
            _ => place,
        })
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
        let body = self.body(path, limit).await?;
        metadata(path, &body)
    }

    /// The text of an answer that is none of an error.
    async fn body(&self, path: &str, limit: Duration) -> Result<String, LxdError> {
        match tokio::time::timeout(limit, self.body_unbounded(path)).await {
            Ok(answer) => answer,
            Err(_) => Err(LxdError::Timeout {
                path: path.into(),
                seconds: limit.as_secs(),
            }),
        }
    }

    async fn body_unbounded(&self, path: &str) -> Result<String, LxdError> {
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
            .map_err(|error| garbage(path, format!("the answer broke off: {}", chain(&error))))?
        {
            if body.len() + chunk.len() > most {
                return Err(garbage(
                    path,
                    format!("more than {most} bytes, HTTP {status}"),
                ));
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
        // A text in another encoding is wrong in its place, and the rest can be read.
        Ok(match String::from_utf8(body) {
            Ok(body) => body,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
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

/// What is in the envelope of an answer.
fn metadata<'a, T: Deserialize<'a>>(path: &str, body: &'a str) -> Result<T, LxdError> {
    let envelope: Envelope<T> =
        serde_json::from_str(body).map_err(|error| garbage(path, error.to_string()))?;
    if envelope.kind != "sync" || envelope.error_code != 0 {
        let text = format!(
            "type {:?}, error {} {:?}",
            envelope.kind, envelope.error_code, envelope.error
        );
        return Err(garbage(path, text));
    }
    envelope
        .metadata
        .ok_or_else(|| garbage(path, "no metadata".into()))
}

fn garbage(path: &str, why: String) -> LxdError {
    LxdError::Garbage {
        path: path.into(),
        why: text::shown(&why, SENTENCE),
    }
}

fn unclear(why: String) -> LxdError {
    LxdError::Identity(format!("GET /1.0 does not say who the server is: {why}"))
}

/// Whether access lists say something of it. What is stopped has no NIC that they could close.
fn needs_acls(instance: &Instance) -> bool {
    let names_any = instance.acl_names().next().is_some();
    names_any
        && matches!(instance.presence, Presence::Up | Presence::Unknown)
        && instance.id.is_possible()
}

/// Reads what belongs to each key, a few at once, the first ones first. After the limit the rest is not
/// waited for: it has no answer.
async fn within<T, F: Future<Output = T>>(
    limit: Duration,
    keys: Vec<String>,
    read: impl Fn(String) -> F,
) -> BTreeMap<String, Option<T>> {
    let mut all: BTreeMap<String, Option<T>> =
        keys.iter().cloned().map(|key| (key, None)).collect();
    let reads = keys.into_iter().map(|key| {
        let read = read(key.clone());
        async move { (key, read.await) }
    });
    let mut answers = futures_util::stream::iter(reads).buffer_unordered(CONCURRENT_ACLS);
    let each = async {
        while let Some((key, answer)) = answers.next().await {
            all.insert(key, Some(answer));
        }
    };
    // What is there by then counts.
    let _ = tokio::time::timeout(limit, each).await;
    all
}

/// Why a project's access lists cannot be read is its own matter, unless LXD cannot be talked to.
fn of_project(answer: Result<Acls, LxdError>) -> Result<Result<Acls, String>, LxdError> {
    match answer {
        Ok(acls) => Ok(Ok(acls)),
        Err(
            error @ (LxdError::Status { .. } | LxdError::Garbage { .. } | LxdError::Timeout { .. }),
        ) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Gives the instances the access lists that they name. Those of which it is not known whether there are any
/// are no longer among the instances that can be understood.
fn put_acls(listing: &mut Listing, projects: &BTreeMap<String, Result<Acls, String>>) {
    for mut instance in std::mem::take(&mut listing.instances) {
        match projects.get(&instance.id.project) {
            Some(Ok(there)) if needs_acls(&instance) => {
                instance.acls = instance.named_of(there);
                listing.instances.push(instance);
            }
            Some(Err(why)) if needs_acls(&instance) => {
                listing
                    .unread
                    .push(Unread::without_acls(instance, why.clone()));
            }
            _ => listing.instances.push(instance),
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
        assert!(serde_json::from_str::<Envelope<&RawValue>>(text).is_err());
        assert!(serde_json::from_str::<Envelope<&RawValue>>(&format!("{text}]}}")).is_err());
    }

    /// Of a server that is in no cluster.
    fn listed(body: &str) -> Listing {
        let alone = Identity {
            clustered: false,
            name: "member2".into(),
        };
        let list = metadata("/1.0/instances", body).unwrap();
        listing::read(list, &alone).unwrap()
    }

    /// Each among good ones, which are read; what it is known by, and what is said of it.
    #[test]
    fn an_entry_that_cannot_be_understood_costs_only_itself() {
        let good = |name: &str| {
            format!(
                r#"{{"name":"{name}","project":"p","status_code":103,"expanded_config":{{}},"expanded_devices":{{"eth0":{{"type":"nic","nictype":"p2p","user.lxmesh.parent":"vpc"}}}}}}"#
            )
        };
        let bad =
            |rest: &str| format!(r#"{{"name":"bad","project":"p","status_code":103,{rest}}}"#);
        let config = r#""expanded_config":{}"#;
        let devices = r#""expanded_devices":{}"#;
        let both = |a: &str| format!("{a},{devices}");
        let nic = |keys: &str| bad(&format!(r#"{config},"expanded_devices":{{"eth0":{keys}}}"#));
        let table: Vec<(String, Option<&str>, &str)> = vec![
            (
                r#"{"name":"bad","project":"p","status":"Error","status_code":112,"location":"member2","config":null,"devices":null,"profiles":null,"expanded_config":null,"expanded_devices":null}"#.into(),
                Some("p/bad"),
                "null, expected a map of texts; its status is Error; its location is member2",
            ),
            (
                r#"{"name":"bad","status":"Error","status_code":112,"location":"member2","config":null}"#.into(),
                Some("bad"),
                "missing field `expanded_config`; its status is Error; its location is member2",
            ),
            (bad(config), Some("p/bad"), "missing field `expanded_devices`"),
            (bad(devices), Some("p/bad"), "missing field `expanded_config`"),
            (bad(&both(r#""expanded_config":[]"#)), Some("p/bad"), "sequence"),
            (bad(&both(r#""expanded_config":{"user.lxmesh.acls":null}"#)), Some("p/bad"), "user.lxmesh.acls: invalid type: null"),
            (bad(&both(r#""expanded_config":{"volatile.eth0.hwaddr":7}"#)), Some("p/bad"), "volatile.eth0.hwaddr: invalid type: integer"),
            (bad(&format!("{config},{devices},\"last_used_at\":{{}}")), Some("p/bad"), "invalid type: map"),
            (bad(&format!(r#"{config},"expanded_devices":[{{"type":"nic"}}]"#)), Some("p/bad"), "expected a map"),
            (nic("[]"), Some("p/bad"), "sequence"),
            (nic("null"), Some("p/bad"), "null"),
            (nic(r#"{"type":"nic","nictype":"p2p","user.lxmesh.parent":7}"#), Some("p/bad"), "user.lxmesh.parent: invalid type: integer `7`"),
            (nic(r#"{"type":["nic"]}"#), Some("p/bad"), "type: invalid type"),
            (
                format!(r#"{{"name":"bad","project":"p","status_code":"103",{config},{devices}}}"#),
                Some("p/bad"),
                "string \"103\"",
            ),
            (
                format!(r#"{{"name":"bad","project":"p",{config},{devices}}}"#),
                Some("p/bad"),
                "missing field `status_code`",
            ),
            (
                format!(r#"{{"name":"bad","project":7,"status_code":103,{config},{devices}}}"#),
                Some("bad"),
                "integer `7`",
            ),
            (
                format!(r#"{{"name":null,"project":"p","status_code":103,{config},{devices}}}"#),
                None,
                "null",
            ),
            (
                format!(r#"{{"name":["bad"],"project":"p","status_code":103,{config},{devices}}}"#),
                None,
                "sequence",
            ),
            (
                format!(r#"{{"project":"p","status_code":103,{config},{devices}}}"#),
                None,
                "missing field `name`",
            ),
            (
                format!(r#"{{"name":"a","name":"b","status_code":103,{config},{devices}}}"#),
                None,
                "duplicate field `name`",
            ),
            ("null".into(), None, "null is not an object"),
            ("5".into(), None, "5 is not an object"),
            ("\"bad\"".into(), None, "is not an object"),
            (r#"["bad","p",103,"",{},{}]"#.into(), None, "is not an object"),
            (format!("{}{}", "[".repeat(500), "]".repeat(500)), None, "is not an object"),
            (
                bad(&both(&format!(r#""expanded_config":{{"user.lxmesh.acls":{}{}}}"#, "[".repeat(500), "]".repeat(500)))),
                Some("p/bad"),
                "user.lxmesh.acls",
            ),
        ];
        for (entry, name, said) in table {
            let text = format!(
                r#"{{"type":"sync","metadata":[{},{entry},{}]}}"#,
                good("a"),
                good("b")
            );
            let Listing {
                instances, unread, ..
            } = listed(&text);
            let names: Vec<String> = instances.iter().map(|one| one.id.to_string()).collect();
            assert_eq!(names, ["p/a", "p/b"], "{entry}");
            assert!(instances.iter().all(|one| one.nics.len() == 1));
            let [unread] = &unread[..] else {
                panic!("{entry}: {unread:?}")
            };
            let id = unread.id.as_ref().map(InstanceId::to_string);
            assert_eq!(id.as_deref(), name, "{entry}");
            assert!(unread.why.contains(said), "{entry}: {}", unread.why);
            assert!(!unread.why.contains("line 1"), "{}", unread.why);
        }
    }

    fn naming(project: &str, name: &str, status: u32) -> Instance {
        let json = format!(
            r#"{{"name":"{name}","project":"{project}","status_code":{status},"expanded_config":{{}},"expanded_devices":{{"eth0":{{"type":"nic","nictype":"p2p","user.lxmesh.parent":"vpc","user.lxmesh.acls":"web"}}}}}}"#
        );
        inventory::read(&RawValue::from_string(json).unwrap()).unwrap()
    }

    /// Of what could not be read, only who names a list and does not rest is the poorer.
    #[test]
    fn a_projects_access_lists_cost_only_that_project() {
        let path = || "/1.0/network-acls".to_string();
        let socket = || PathBuf::from("/s");
        for (error, is_its_own) in [
            (
                LxdError::Timeout {
                    path: path(),
                    seconds: 20,
                },
                true,
            ),
            (
                LxdError::Status {
                    path: path(),
                    status: 500,
                    text: String::new(),
                },
                true,
            ),
            (
                LxdError::Garbage {
                    path: path(),
                    why: String::new(),
                },
                true,
            ),
            (LxdError::Permission { socket: socket() }, false),
            (
                LxdError::NotAnswering {
                    socket: socket(),
                    why: String::new(),
                },
                false,
            ),
        ] {
            let said = error.to_string();
            let acls = match of_project(Err(error)) {
                Ok(acls) => acls,
                Err(_) => {
                    assert!(!is_its_own, "{said}");
                    continue;
                }
            };
            assert!(is_its_own, "{said}");
            let acl = wire::Acl::read(
                &RawValue::from_string(r#"{"name":"web","ingress":[],"egress":[]}"#.into())
                    .unwrap(),
            );
            let well = Acls::from([("web".into(), Arc::new(acl.unwrap()))]);
            let projects = BTreeMap::from([("slow".into(), acls), ("well".into(), Ok(well))]);
            let mut listing = Listing {
                instances: vec![
                    naming("slow", "runs", 103),
                    naming("slow", "stopped", 102),
                    naming("slow", "errs", 112),
                    naming("well", "runs", 103),
                    naming("unasked", "stopped", 102),
                ],
                ..Listing::default()
            };
            put_acls(&mut listing, &projects);
            let there = listing.instances.iter();
            let there: Vec<(String, usize)> = there
                .map(|one| (one.id.to_string(), one.acls.len()))
                .collect();
            let wanted = [
                ("slow/stopped", 0),
                ("well/runs", 1),
                ("unasked/stopped", 0),
            ];
            assert_eq!(there, wanted.map(|(id, acls)| (id.to_string(), acls)));
            let unread: Vec<String> = listing
                .unread
                .iter()
                .map(|one| {
                    assert!(one.try_again && one.why == said, "{one:?}");
                    one.id.as_ref().unwrap().to_string()
                })
                .collect();
            assert_eq!(unread, ["slow/runs", "slow/errs"]);
        }
    }

    #[tokio::test]
    async fn what_hangs_keeps_nobody_from_what_is_there() {
        let hang = |n: usize| format!("hangs{n}");
        for hanging in [1, CONCURRENT_ACLS - 1, 3 * CONCURRENT_ACLS] {
            // Slow ones come last, as `add_acls` orders them.
            let keys = (0..100)
                .map(|n| format!("well{n}"))
                .chain((0..hanging).map(hang));
            let found = within(
                Duration::from_millis(20),
                keys.collect(),
                |key| async move {
                    match key.starts_with("well") {
                        true => key.len(),
                        false => std::future::pending().await,
                    }
                },
            );
            let found = found.await;
            assert_eq!(found.len(), 100 + hanging);
            for (key, answer) in found {
                assert_eq!(answer.is_some(), key.starts_with("well"), "{key}");
            }
        }
    }

    /// A server whose lists of one project, or of many, are never told.
    #[tokio::test]
    async fn a_listing_is_read_though_some_projects_lists_hang() {
        use std::io::{BufRead, BufReader, Write};
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        // Of more projects than there is time for, all but the last hang.
        let project = |n: usize| format!("p{n:02}");
        let count = 3 * CONCURRENT_ACLS + 1;
        let entries: Vec<String> = (0..count)
            .map(|n| {
                format!(
                    r#"{{"name":"c","project":"{}","status_code":103,"expanded_config":{{}},"expanded_devices":{{"eth0":{{"type":"nic","nictype":"p2p","user.lxmesh.parent":"vpc","user.lxmesh.acls":"web"}}}}}}"#,
                    project(n)
                )
            })
            .collect();
        let well = project(count - 1);
        let is_well = well.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (entries, well) = (entries.clone(), is_well.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut lines = Vec::new();
                    let mut line = String::new();
                    while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
                        if line.trim().is_empty() {
                            let asked: String = std::mem::take(&mut lines).concat();
                            let metadata = match asked.contains("/instances?") {
                                true => format!("[{}]", entries.join(",")),
                                false if asked.contains("GET /1.0 ") => {
                                    r#"{"environment":{"server":"lxd","server_clustered":false,"server_name":"a"}}"#.into()
                                }
                                false if asked.contains("/instances/c?project=p00") => {
                                    entries[0].clone()
                                }
                                false if asked.contains(&well) => {
                                    r#"[{"name":"web","ingress":[],"egress":[]}]"#.into()
                                }
                                false => loop {
                                    std::thread::park();
                                },
                            };
                            let body = format!(
                                r#"{{"type":"sync","error_code":0,"error":"","metadata":{metadata}}}"#
                            );
                            let head = format!(
                                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                                body.len()
                            );
                            let _ = (&stream).write_all((head + &body).as_bytes());
                        }
                        lines.push(std::mem::take(&mut line));
                    }
                });
            }
        });
        let client = Client::new(&socket).unwrap();
        let client = client.acls_within(Duration::from_millis(200));
        // The first times may be too short for the last one. It comes first soon.
        for _ in 0..100 {
            let listing = client.instances().await.unwrap();
            assert_eq!(listing.instances.len() + listing.unread.len(), count);
            if let [one] = &listing.instances[..] {
                assert_eq!((&one.id.project, one.acls.len()), (&well, 1));
                // Those that hang are waited for less where others would have to wait for them.
                assert!(client.slow().contains(&project(0)) && !client.slow().contains(&well));
                let answer = client.instance(&InstanceId::of(&project(0), "c")).await;
                let Ok(Answer::Unread(unread)) = answer else {
                    panic!("{answer:?}")
                };
                assert!(unread.but_acls.is_some() && unread.try_again);
                return;
            }
        }
        panic!("the lists that LXD tells of were never read");
    }

    #[test]
    fn what_is_said_of_an_entry_is_bounded_and_escaped() {
        let odd = "\\u001b[2J\\n".repeat(10_000);
        for entry in [
            format!(
                r#"{{"name":"{odd}","status":"{odd}","location":"{odd}","status_code":"{odd}"}}"#
            ),
            format!(
                r#"{{"name":"bad","status_code":103,"expanded_config":{{"volatile.{odd}.hwaddr":7}}}}"#
            ),
            format!("\"{odd}\""),
        ] {
            let text = format!(r#"{{"type":"sync","metadata":[{entry}]}}"#);
            let unread = &listed(&text).unread[0];
            assert!(
                unread.why.len() < 500 && !unread.why.contains('\u{1b}'),
                "{unread:?}"
            );
            assert!(
                unread
                    .id
                    .as_ref()
                    .is_none_or(|id| id.to_string().len() < 200)
            );
        }
    }

    #[test]
    fn what_cannot_be_read_of_an_access_list_may_forbid_something() {
        let good = r#"{"action":"allow","protocol":"tcp","state":"enabled"}"#;
        let read = |entry: &str| {
            let entry = RawValue::from_string(entry.into()).unwrap();
            wire::Acl::read(&entry)
        };
        let sides = |acl: &wire::Acl| {
            [&acl.ingress, &acl.egress]
                .map(|side| side.iter().map(|rule| rule.is_ok()).collect::<Vec<bool>>())
        };
        for (entry, wanted) in [
            (
                format!(r#"{{"name":"a","ingress":[{good}],"egress":null}}"#),
                [vec![true], vec![]],
            ),
            (
                format!(r#"{{"name":"a","ingress":[{good},7,{good}],"egress":[]}}"#),
                [vec![true, false, true], vec![]],
            ),
            (
                format!(r#"{{"name":"a","ingress":[null],"egress":[{good}]}}"#),
                [vec![false], vec![true]],
            ),
            (
                r#"{"name":"a","ingress":[{"action":null}],"egress":[{"destination_port":80}]}"#
                    .into(),
                [vec![false], vec![false]],
            ),
            (
                r#"{"name":"a","ingress":"all","egress":{}}"#.into(),
                [vec![false], vec![false]],
            ),
            (r#"{"name":"a"}"#.into(), [vec![false], vec![false]]),
            (
                r#"{"name":"a","ingress":[["allow"]],"egress":[]}"#.into(),
                [vec![false], vec![]],
            ),
            (
                r#"{"name":"a","ingress":[],"ingress":[],"egress":[]}"#.into(),
                [vec![false], vec![false]],
            ),
        ] {
            assert_eq!(sides(&read(&entry).unwrap()), wanted, "{entry}");
        }
        for entry in [
            "7",
            "null",
            r#"{"name":7,"ingress":[]}"#,
            r#"{"ingress":[]}"#,
        ] {
            assert_eq!(read(entry), None, "{entry}");
        }
    }

    #[test]
    fn a_text_of_the_server_that_is_none_reads_as_missing() {
        for (json, name) in [
            (
                r#"{"auth":7,"environment":{"server":"lxd","server_version":5}}"#,
                Some("lxd"),
            ),
            (r#"{"auth":"trusted","environment":null}"#, None),
            (r#"{"environment":"lxd","api_status":{}}"#, None),
            ("{}", None),
        ] {
            let server: wire::Server = serde_json::from_str(json).unwrap();
            assert_eq!(server.environment.server.as_deref(), name, "{json}");
        }
    }
}
