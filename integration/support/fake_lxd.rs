//! An LXD that exists only on a Unix socket, for scale and for faults: what LXD really does is the
//! lab's matter. Answers have the shapes of LXD 5.0.2's. It knows instances, tells of events, fails
//! in every way one asks for, and remembers what it was asked and when it answered.

#![allow(dead_code, reason = "tests and the benchmark each use a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Answers remembered.
const MAX_ANSWERS: usize = 10_000;

/// One instance, of one profile that has nothing.
#[derive(Clone, Debug)]
pub struct Instance {
    pub project: String,
    pub name: String,
    pub status: Status,
    pub last_used_at: String,
    pub config: BTreeMap<String, String>,
    pub devices: BTreeMap<String, BTreeMap<String, String>>,
    /// The member of the cluster.
    pub location: String,
}

/// The cluster that the server is in, as the server sees it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What the server calls itself: any JSON.
    pub server_name: Value,
    pub server_clustered: Value,
    pub members: Vec<String>,
    /// Members that do not answer: their instances cannot be asked for by name.
    pub silent: Vec<String>,
}

impl Cluster {
    /// Of these members, the first of which is the server.
    pub fn of(members: &[&str]) -> Self {
        Cluster {
            server_name: members[0].into(),
            server_clustered: true.into(),
            members: members.iter().map(|member| member.to_string()).collect(),
            silent: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Stopped = 102,
    Running = 103,
    Frozen = 110,
    Error = 112,
}

/// A way to fail. In force until [`FakeLxd::heal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// HTTP 500 to every question about instances.
    Status500,
    /// The same with a text that is long and would clear a screen.
    OddError,
    /// The length that was promised, and half of the answer.
    CutOff,
    /// Half of the JSON, as if it were all.
    CutOffJson,
    /// A listing without instances.
    EmptyListing,
    /// A listing that lacks the first half of the instances.
    ShortListing,
    /// 200, and no JSON.
    Garbage,
    /// JSON of another shape.
    WrongShape,
    /// No answer until healed.
    Hang,
    /// Another program's answer to `GET /1.0`.
    WrongServer,
    /// Connections are closed at once.
    Refuse,
}

/// One answer: what was asked, and when the last byte had been written.
#[derive(Clone, Debug)]
pub struct Answer {
    pub path: String,
    pub at: Instant,
}

/// The server. Stops answering when dropped.
pub struct FakeLxd {
    socket: PathBuf,
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// With their answers, rendered once.
    instances: BTreeMap<(String, String), (Instance, String)>,
    /// Access lists of a project.
    acls: BTreeMap<String, Value>,
    /// `None` if the server is in none.
    cluster: Option<Cluster>,
    /// What it says of itself after the next listing.
    cluster_after_listing: Option<Cluster>,
    /// `lxd` or `incus`.
    program: Option<&'static str>,
    subscribers: Vec<UnixStream>,
    connections: Vec<UnixStream>,
    /// Connections that were closed before anything was sent on them.
    silent: usize,
    fault: Option<Fault>,
    requests: BTreeMap<String, usize>,
    answers: VecDeque<Answer>,
    gone: bool,
}

impl Instance {
    /// A stopped container without devices.
    pub fn new(name: &str) -> Self {
        Instance {
            project: "default".into(),
            name: name.into(),
            status: Status::Stopped,
            last_used_at: "2026-11-22T07:46:49.417417668Z".into(),
            config: BTreeMap::new(),
            devices: BTreeMap::from([(
                "root".into(),
                keys(&[("path", "/"), ("pool", "default"), ("type", "disk")]),
            )]),
            location: "none".into(),
        }
    }

    /// As LXD shows it, with about as many bytes.
    fn json(&self) -> Value {
        let Instance {
            project,
            name,
            status,
            last_used_at,
            config,
            devices,
            location,
        } = self;
        let idmap = r#"[{"Isuid":true,"Isgid":false,"Hostid":100000,"Nsid":0,"Maprange":10000001},{"Isuid":false,"Isgid":true,"Hostid":100000,"Nsid":0,"Maprange":10000001}]"#;
        let mut all = keys(&[
            ("image.architecture", "amd64"),
            ("image.description", "busybox mini"),
            ("image.os", "busybox"),
            ("image.release", "mini"),
            (
                "volatile.base_image",
                "5cbdf01b5853c0aeef9496f5ef97ccf4656cef77aced0b5594bd7d490dba6696",
            ),
            (
                "volatile.cloud-init.instance-id",
                "e5d44839-8002-4303-92a6-7e746835eb2c",
            ),
            ("volatile.idmap.base", "0"),
            ("volatile.idmap.current", idmap),
            ("volatile.idmap.next", idmap),
            ("volatile.last_state.idmap", "[]"),
            ("volatile.last_state.power", "RUNNING"),
            ("volatile.uuid", "7a8dafe0-06a8-4b95-8d90-b0637fc22d6b"),
            (
                "volatile.uuid.generation",
                "7a8dafe0-06a8-4b95-8d90-b0637fc22d6b",
            ),
        ]);
        all.extend(config.clone());
        let own: BTreeMap<_, _> = devices.iter().filter(|(name, _)| *name != "root").collect();
        json!({
            "architecture": "x86_64", "config": all, "devices": own, "ephemeral": false,
            "profiles": ["default"], "stateful": false, "description": "",
            "created_at": "2026-11-22T07:46:25.229265198Z",
            "expanded_config": all, "expanded_devices": devices,
            "name": name, "status": format!("{status:?}"), "status_code": *status as u32,
            "last_used_at": last_used_at, "location": location, "type": "container", "project": project,
        })
    }
}

/// A map of texts.
pub fn keys(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

impl FakeLxd {
    /// Listens at the path.
    pub fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("the socket's path is free");
        let shared = Arc::new(Mutex::new(State::default()));
        let state = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // As LXD does: until this one has sent something, or is closed, nobody else gets in.
                let first = recv(&stream, &mut [0u8], RecvFlags::PEEK);
                let mut now = state.lock().expect("no thread panics while it holds this");
                if now.gone {
                    return;
                }
                if now.fault == Some(Fault::Refuse) {
                    continue;
                }
                if !matches!(first, Ok((1, _))) {
                    now.silent += 1;
                    continue;
                }
                let Ok(copy) = stream.try_clone() else {
                    continue;
                };
                now.connections.push(copy);
                drop(now);
                let state = state.clone();
                // Ends with the connection; its errors are the client's.
                thread::spawn(move || serve(stream, &state));
            }
        });
        FakeLxd {
            socket: socket.to_path_buf(),
            shared,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .lock()
            .expect("no thread panics while it holds this")
    }

    /// Adds an instance or puts another in its place; in a cluster, on this member if it is on none. Tells nobody.
    pub fn put(&self, mut instance: Instance) {
        if instance.location == "none" {
            instance.location = self.location();
        }
        let text = instance.json().to_string();
        let key = (instance.project.clone(), instance.name.clone());
        self.state().instances.insert(key, (instance, text));
    }

    /// Puts any text in the place of what LXD says of an instance, in a listing and asked by name. Tells nobody.
    pub fn put_entry(&self, project: &str, name: &str, text: &str) {
        let key = (project.to_string(), name.to_string());
        let mut state = self.state();
        state
            .instances
            .insert(key, (Instance::new(name), text.into()));
    }

    /// Puts these access lists, a JSON array, in place of the project's. Tells nobody.
    pub fn put_acls(&self, project: &str, acls: Value) {
        self.state().acls.insert(project.into(), acls);
    }

    /// The server is in that cluster from now on. Tells nobody, and moves no instance.
    pub fn join(&self, cluster: Cluster) {
        self.state().cluster = Some(cluster);
    }

    /// The same, but only when all instances have been listed the next time.
    pub fn join_after_listing(&self, cluster: Cluster) {
        self.state().cluster_after_listing = Some(cluster);
    }

    /// Where what happens here happens.
    fn location(&self) -> String {
        let state = self.state();
        let name = state.cluster.as_ref().map(|cluster| &cluster.server_name);
        let name = name.and_then(Value::as_str);
        name.unwrap_or("none").into()
    }

    /// Makes it an Incus.
    pub fn be_incus(&self) {
        self.state().program = Some("incus");
    }

    /// Moves an instance to another member. Tells nobody.
    pub fn relocate(&self, project: &str, name: &str, member: &str) {
        let mut instance = self.get(project, name);
        instance.location = member.into();
        self.put(instance);
    }

    /// Moves all instances of one member to another, as when a member gets another name. Tells nobody.
    pub fn relocate_all(&self, from: &str, to: &str) {
        let mut state = self.state();
        for (instance, text) in state.instances.values_mut() {
            if instance.location == from {
                instance.location = to.into();
                *text = instance.json().to_string();
            }
        }
    }

    /// What is known of an instance. Panics if there is none.
    pub fn get(&self, project: &str, name: &str) -> Instance {
        let state = self.state();
        let found = state.instances.get(&(project.into(), name.into()));
        found.expect("the instance is there").0.clone()
    }

    /// Takes an instance away. Tells nobody.
    pub fn remove(&self, project: &str, name: &str) {
        self.state()
            .instances
            .remove(&(project.into(), name.into()));
    }

    /// Tells all listeners what LXD would, e.g. `instance-started`.
    pub fn emit(&self, action: &str, project: &str, name: &str) {
        self.emit_with(action, project, name, &json!(null));
    }

    /// The same with a context, such as the old name.
    pub fn emit_with(&self, action: &str, project: &str, name: &str, context: &Value) {
        self.emit_at(&self.location(), action, project, name, context);
    }

    /// The same as another member of the cluster tells it.
    pub fn emit_at(
        &self,
        location: &str,
        action: &str,
        project: &str,
        name: &str,
        context: &Value,
    ) {
        let query = if project == "default" {
            String::new()
        } else {
            format!("?project={project}")
        };
        let mut metadata = json!({
            "action": action, "source": format!("/1.0/instances/{name}{query}"),
            "requestor": {"username": "root", "protocol": "unix", "address": "@"},
            "name": name, "project": project,
        });
        if !context.is_null() {
            metadata["context"] = context.clone();
        }
        let event = json!({
            "type": "lifecycle", "timestamp": "2026-11-22T07:54:44.444986254Z",
            "metadata": metadata, "location": location, "project": project,
        });
        self.say(&event.to_string());
    }

    /// Sends any text to all listeners.
    pub fn say(&self, text: &str) {
        let frame = frame(text.as_bytes());
        self.state()
            .subscribers
            .retain_mut(|stream| stream.write_all(&frame).is_ok());
    }

    /// How many listen to events.
    pub fn listeners(&self) -> usize {
        self.state().subscribers.len()
    }

    /// Ends all event streams.
    pub fn close_events(&self) {
        for stream in self.state().subscribers.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Connections so far that were closed before anything was sent on them.
    pub fn silent(&self) -> usize {
        self.state().silent
    }

    /// Fails from now on, also on connections that are open.
    pub fn fail(&self, fault: Fault) {
        self.state().fault = Some(fault);
        if matches!(fault, Fault::Refuse | Fault::WrongServer) {
            self.close_all();
        }
    }

    pub fn heal(&self) {
        self.state().fault = None;
    }

    fn close_all(&self) {
        let mut state = self.state();
        state.subscribers.clear();
        for stream in state.connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Requests so far whose path starts so.
    pub fn requests(&self, start: &str) -> usize {
        let state = self.state();
        let ours = state
            .requests
            .iter()
            .filter(|(path, _)| path.starts_with(start));
        ours.map(|(_, count)| count).sum()
    }

    /// The last answer to a path that starts so.
    pub fn last_answer(&self, start: &str) -> Option<Answer> {
        self.state()
            .answers
            .iter()
            .rev()
            .find(|answer| answer.path.starts_with(start))
            .cloned()
    }
}

impl State {
    /// Whether an instance is on a member that does not answer.
    fn is_silent(&self, text: &str) -> bool {
        let silent = self.cluster.iter().flat_map(|cluster| &cluster.silent);
        let entry: Value = serde_json::from_str(text).unwrap_or_default();
        silent
            .into_iter()
            .any(|member| entry["location"] == *member)
    }
}

impl Drop for FakeLxd {
    fn drop(&mut self) {
        self.state().gone = true;
        self.close_all();
        // Wakes the accepting thread.
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// An unmasked text frame (RFC 6455 section 5.2).
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len => match u16::try_from(len) {
            Ok(len) => {
                frame.push(126);
                frame.extend(len.to_be_bytes());
            }
            Err(_) => {
                frame.push(127);
                frame.extend((len as u64).to_be_bytes());
            }
        },
    }
    frame.extend(payload);
    frame
}

/// One connection: request, answer, and again.
fn serve(mut stream: UnixStream, shared: &Mutex<State>) {
    let lock = || shared.lock().expect("no thread panics while it holds this");
    let Ok(reader) = stream.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(reader);
    while let Some((path, websocket_key)) = read_request(&mut reader) {
        *lock().requests.entry(path.clone()).or_default() += 1;
        if let (true, Some(key)) = (path.starts_with("/1.0/events"), websocket_key) {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                derive_accept_key(key.as_bytes())
            );
            {
                // Under the lock, so that no event comes before the head.
                let mut state = lock();
                if stream.write_all(head.as_bytes()).is_err() {
                    return;
                }
                let Ok(copy) = stream.try_clone() else { return };
                state.subscribers.push(copy);
            }
            // Whatever the client says means nothing; its end is ours.
            let _ = reader.read_to_end(&mut Vec::new());
            return;
        }
        while lock().fault == Some(Fault::Hang) && path.starts_with("/1.0/instances") {
            thread::sleep(Duration::from_millis(20));
        }
        let (head, body) = {
            let state = lock();
            if state.gone {
                return;
            }
            answer(&state, &path)
        };
        if path.starts_with("/1.0/instances?") {
            let mut state = lock();
            if let Some(cluster) = state.cluster_after_listing.take() {
                state.cluster = Some(cluster);
            }
        }
        let sent = stream
            .write_all(&head)
            .and_then(|()| stream.write_all(&body));
        let answer = Answer {
            path,
            at: Instant::now(),
        };
        let cut_off = {
            let mut state = lock();
            state.answers.push_back(answer);
            if state.answers.len() > MAX_ANSWERS {
                state.answers.pop_front();
            }
            state.fault == Some(Fault::CutOff)
        };
        if sent.is_err() || cut_off {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Path and, of a websocket's beginning, the key. None at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> Option<(String, Option<String>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.strip_prefix("GET ")?.split(' ').next()?.to_string();
    let mut key = None;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim_end();
        if header.is_empty() {
            return Some((path, key));
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("sec-websocket-key")
        {
            key = Some(value.trim().to_string());
        }
    }
}

/// Head and body of the answer to a path.
fn answer(state: &State, path: &str) -> (Vec<u8>, Vec<u8>) {
    let about_instances = path.starts_with("/1.0/instances");
    let fault = state
        .fault
        .filter(|fault| about_instances || *fault == Fault::WrongServer);
    let (status, mut body) = match (fault, path.strip_prefix("/1.0")) {
        (Some(Fault::WrongServer), _) => (200, r#"{"message":"page not found"}"#.to_string()),
        (Some(Fault::Status500), _) => (500, error(500, "Database is locked")),
        (Some(Fault::OddError), _) => (
            500,
            error(500, &format!("odd\u{1b}[2J\n{}", "x".repeat(50_000))),
        ),
        (Some(Fault::Garbage), _) => (200, "<html><body>It works!</body></html>".into()),
        (Some(Fault::WrongShape), _) => (200, sync(r#"{"name":["x"]}"#)),
        (Some(Fault::EmptyListing), Some(rest)) if rest.starts_with("/instances?") => {
            (200, sync("[]"))
        }
        (_, Some("")) => {
            let (name, clustered) = match &state.cluster {
                None => (json!("host1"), json!(false)),
                Some(cluster) => (
                    cluster.server_name.clone(),
                    cluster.server_clustered.clone(),
                ),
            };
            let (server, version) = match state.program {
                Some(program) => (program, "6.0.4"),
                None => ("lxd", "5.0.2"),
            };
            let environment = json!({"server": server, "server_version": version, "kernel": "Linux", "server_name": name, "server_clustered": clustered});
            let server = json!({"api_status": "stable", "api_version": "1.0", "auth": "trusted", "environment": environment});
            (200, sync(&server.to_string()))
        }
        (fault, Some(rest)) if rest.starts_with("/instances?") => {
            let skip = if fault == Some(Fault::ShortListing) {
                state.instances.len() / 2
            } else {
                0
            };
            let all = state.instances.values().skip(skip);
            let texts: Vec<&str> = all.map(|(_, text)| text.as_str()).collect();
            (200, sync(&format!("[{}]", texts.join(","))))
        }
        (_, Some(rest)) if rest.starts_with("/instances/") => {
            let rest = &rest["/instances/".len()..];
            let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
            let project = query.strip_prefix("project=").unwrap_or("default");
            match state
                .instances
                .get(&(project.to_string(), name.to_string()))
            {
                Some((_, text)) if state.is_silent(text) => {
                    (503, error(503, "dial tcp: connect: no route to host"))
                }
                Some((_, text)) => (200, sync(text)),
                None => (404, error(404, "Instance not found")),
            }
        }
        (_, Some("/cluster/members")) => {
            let members = state.cluster.iter().flat_map(|cluster| &cluster.members);
            let urls: Vec<String> = members
                .map(|member| format!("/1.0/cluster/members/{member}"))
                .collect();
            (200, sync(&json!(urls).to_string()))
        }
        (_, Some(rest)) if rest.starts_with("/network-acls?recursion=1&project=") => {
            let project = rest.rsplit('=').next().unwrap_or_default();
            let acls = state.acls.get(project).cloned().unwrap_or(json!([]));
            (200, sync(&acls.to_string()))
        }
        _ => (404, error(404, "not found")),
    };
    let promised = body.len();
    if matches!(fault, Some(Fault::CutOff | Fault::CutOffJson)) {
        body.truncate(body.len() / 2);
    }
    let promised = if fault == Some(Fault::CutOffJson) {
        body.len()
    } else {
        promised
    };
    let reason = if status == 200 { "OK" } else { "Sorry" };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {promised}\r\n\r\n"
    );
    (head.into_bytes(), body.into_bytes())
}

fn sync(metadata: &str) -> String {
    format!(
        r#"{{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":{metadata}}}"#
    )
}

fn error(code: u32, text: &str) -> String {
    json!({"type": "error", "status": "", "status_code": 0, "operation": "", "error_code": code, "error": text, "metadata": null}).to_string()
}
