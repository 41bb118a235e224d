//! The control socket. A request is one word and a line feed; the answer is one JSON document, or
//! the metrics as text. Who may come in while others are connected is `places`' matter.

use super::peer::{Allowed, Peer};
use super::places::{Connection, Places};
use serde::Deserialize;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Longest request, bytes; longest answer that the client takes.
const MAX_REQUEST: usize = 64;
const MAX_ANSWER: u64 = 64 << 20;
/// How long a client waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client waits before it asks again, if it was closed in favour of others.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a connection may take, and how many there may be.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// A client sends its request at once.
    request: Duration,
    /// From the request until the client has taken the whole answer.
    answer: Duration,
    /// Connections of those who may ask, and of those who may not.
    places: usize,
}

const LIMITS: Limits = Limits {
    request: Duration::from_secs(1),
    answer: TIMEOUT,
    places: 16,
};

/// What somebody who may not ask is told.
const REFUSED: &str = r#"{"error":"only root and the agent's group may ask"}"#;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Status,
    Metrics,
}

impl Question {
    const ALL: [Question; 2] = [Question::Status, Question::Metrics];

    fn word(self) -> &'static str {
        match self {
            Question::Status => "status",
            Question::Metrics => "metrics",
        }
    }

    /// The question that a line asks.
    fn of(line: &[u8]) -> Option<Self> {
        let word = line.strip_suffix(b"\n")?;
        let mut all = Question::ALL.into_iter();
        all.find(|question| question.word().as_bytes() == word)
    }
}

/// A request that the daemon answers.
#[derive(Debug)]
pub struct Request {
    pub question: Question,
    pub answer: oneshot::Sender<String>,
}

/// Opens the socket, replacing a dead one; fails if another agent listens there.
pub async fn listen(path: &Path, allowed: Allowed) -> std::io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another lxmesh agent is running",
        ));
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(allowed.mode()))?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, allowed: Allowed, requests: mpsc::Sender<Request>) {
    serve_within(LIMITS, listener, allowed, requests).await;
}

async fn serve_within(
    limits: Limits,
    listener: UnixListener,
    allowed: Allowed,
    requests: mpsc::Sender<Request>,
) {
    // Apart from each other: who is refused takes no place of those who may ask.
    let mut asking = Places::new(limits.places);
    let mut refused = Places::new(limits.places);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket could not accept");
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        // A peer that the kernel says nothing of is gone.
        let Ok(peer) = Peer::of(stream.as_fd()) else {
            continue;
        };
        // A client that is slow or gone is its own problem, so that errors are nobody's.
        if allowed.admits(&peer) {
            asking.make_room().await;
            let requests = requests.clone();
            asking.put(stream, |connection| async move {
                let _ = converse(&connection, limits, requests).await;
            });
        } else {
            tracing::debug!(user = peer.user, "refused on the control socket");
            refused.make_room().await;
            refused.put(stream, |connection| async move {
                let _ = tokio::time::timeout(limits.request, refuse(&connection)).await;
            });
        }
    }
}

/// Says so at once. The request is read all the same: closing with something unread would take
/// the refusal back.
async fn refuse(connection: &Connection) -> std::io::Result<()> {
    connection.write_all(REFUSED.as_bytes()).await?;
    connection.end()?;
    request(connection).await.map(drop)
}

/// A request and its answer.
async fn converse(
    connection: &Connection,
    limits: Limits,
    requests: mpsc::Sender<Request>,
) -> std::io::Result<()> {
    let Ok(word) = tokio::time::timeout(limits.request, request(connection)).await else {
        return Ok(());
    };
    let word = word?;
    let answer = async {
        let text = match Question::of(&word) {
            Some(question) => {
                connection.is_agents_turn();
                let (answer, answered) = oneshot::channel();
                let asked = requests.send(Request { question, answer }).await;
                match (asked, answered.await) {
                    (Ok(()), Ok(text)) => text,
                    _ => return Ok(()),
                }
            }
            None => {
                let words = Question::ALL.map(Question::word).join(", ");
                format!("{{\"error\":\"the agent understands: {words}\"}}")
            }
        };
        connection.write_all(text.as_bytes()).await
    };
    match tokio::time::timeout(limits.answer, answer).await {
        Ok(result) => result,
        Err(_) => Ok(()),
    }
}

/// What a client sends, up to its first line's end, its own end, or the most that a request may have.
async fn request(connection: &Connection) -> std::io::Result<Vec<u8>> {
    let mut word = Vec::new();
    while !word.ends_with(b"\n") && word.len() < MAX_REQUEST {
        let mut part = [0; MAX_REQUEST];
        match connection.read(&mut part).await? {
            0 => break,
            length => word.extend_from_slice(&part[..length]),
        }
    }
    Ok(word)
}

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the agent does not answer at {path} ({why}); start it: systemctl start lxmesh-agent")]
    NotRunning { path: PathBuf, why: String },
    #[error("may not open {0}; run this as root, or as a member of the group lxmesh")]
    Permission(PathBuf),
    #[error("the agent at {path} says: {why}")]
    Refused { path: PathBuf, why: String },
    #[error("the agent's answer is not understood: {0}; are command and agent of one version?")]
    Answer(String),
}

/// An answer that is none.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Asks the agent for its status.
pub async fn ask(path: &Path) -> Result<super::Status, AskError> {
    let text = answer_to(Question::Status, path).await?;
    serde_json::from_slice(&text).map_err(|error| AskError::Answer(error.to_string()))
}

/// Asks the agent for its metrics.
pub async fn ask_metrics(path: &Path) -> Result<String, AskError> {
    let text = answer_to(Question::Metrics, path).await?;
    String::from_utf8(text).map_err(|error| AskError::Answer(error.to_string()))
}

async fn answer_to(question: Question, path: &Path) -> Result<Vec<u8>, AskError> {
    let not_running = |why: String| AskError::NotRunning {
        path: path.into(),
        why,
    };
    let exchange = async {
        loop {
            let text = exchange(question, path).await?;
            // The agent closes a connection without a word only if others want its place.
            if !text.is_empty() {
                return Ok::<_, std::io::Error>(text);
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let text = match tokio::time::timeout(TIMEOUT, exchange).await {
        Err(_) => return Err(not_running("no answer within 5 s".into())),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(AskError::Permission(path.into()));
        }
        Ok(Err(error)) => return Err(not_running(error.to_string())),
        Ok(Ok(text)) => text,
    };
    if let Ok(Refusal { error: why }) = serde_json::from_slice(&text) {
        let path = path.into();
        return Err(AskError::Refused { path, why });
    }
    Ok(text)
}

/// One connection. What was answered counts even if the agent did not read the question, as it need
/// not to refuse.
async fn exchange(question: Question, path: &Path) -> std::io::Result<Vec<u8>> {
    let closed = |error: &std::io::Error| {
        matches!(
            error.kind(),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
        )
    };
    let mut stream = UnixStream::connect(path).await?;
    let line = format!("{}\n", question.word());
    match stream.write_all(line.as_bytes()).await {
        Err(error) if !closed(&error) => return Err(error),
        _ => {}
    }
    let mut text = Vec::new();
    match stream.take(MAX_ANSWER).read_to_end(&mut text).await {
        Err(error) if !closed(&error) => Err(error),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests;
