//! Who is connected to the control socket. Places are few, because each is a file that the agent has
//! open; a connection that does nothing keeps its place only as long as nobody else wants it.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, Weak};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// One client's end. Closed when the task that serves it drops it.
pub(super) struct Connection {
    stream: UnixStream,
    turn: Mutex<Turn>,
    /// Woken whenever a place may have become free, or idle.
    changed: Arc<Notify>,
}

/// Who has to do something, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The client: it has not sent its whole request.
    Request(Instant),
    /// The agent.
    Agent,
    /// The client: it has not taken its whole answer.
    Answer(Instant),
}

impl Connection {
    fn set_turn(&self, turn: Turn) {
        *self
            .turn
            .lock()
            .expect("nothing panics while it holds this") = turn;
        self.changed.notify_one();
    }

    /// From now on, until something is written, the client waits for the agent.
    pub(super) fn is_agents_turn(&self) {
        self.set_turn(Turn::Agent);
    }

    /// Something that the client has sent; nothing at its end.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    self.set_turn(Turn::Request(Instant::now()));
                    return read;
                }
            }
        }
    }

    /// Sends all of it. A client that takes some of it is not idle.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.set_turn(Turn::Answer(Instant::now()));
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(written) => bytes = &bytes[written..],
            }
        }
        Ok(())
    }

    /// Tells the client that nothing more will come.
    pub(super) fn end(&self) -> io::Result<()> {
        let write = rustix::net::Shutdown::Write;
        Ok(rustix::net::shutdown(self.stream.as_fd(), write)?)
    }

    /// Since when it is idle. What a client has sent and nobody has read yet is the agent's turn.
    fn idle_since(&self) -> Option<Instant> {
        let turn = *self
            .turn
            .lock()
            .expect("nothing panics while it holds this");
        match turn {
            Turn::Request(since) => (!self.has_unread()).then_some(since),
            Turn::Agent => None,
            Turn::Answer(since) => Some(since),
        }
    }

    fn has_unread(&self) -> bool {
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(self.stream.as_fd(), &mut [0; 1][..], flags);
        matches!(peeked, Ok((_, 1..)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// Connections that are served at the same time.
pub(super) struct Places {
    most: usize,
    taken: Vec<(Weak<Connection>, AbortHandle)>,
    changed: Arc<Notify>,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Places {
            most,
            taken: Vec::new(),
            changed: Arc::new(Notify::new()),
        }
    }

    /// Returns when there is a free place, for which the one that has been idle longest is closed.
    /// Waits only while it is the agent's turn everywhere.
    pub(super) async fn make_room(&mut self) {
        loop {
            self.taken.retain(|(there, _)| there.strong_count() > 0);
            if self.taken.len() < self.most {
                return;
            }
            let idle_since = |at: usize| Some((self.taken[at].0.upgrade()?.idle_since()?, at));
            match (0..self.taken.len()).filter_map(idle_since).min() {
                Some((_, at)) => self.taken.swap_remove(at).1.abort(),
                None => self.changed.notified().await,
            }
        }
    }

    /// Serves a connection. To be called when there is room.
    pub(super) fn put<F>(&mut self, stream: UnixStream, serve: impl FnOnce(Arc<Connection>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connection = Arc::new(Connection {
            stream,
            turn: Mutex::new(Turn::Request(Instant::now())),
            changed: self.changed.clone(),
        });
        let place = Arc::downgrade(&connection);
        let task = tokio::spawn(serve(connection));
        self.taken.push((place, task.abort_handle()));
    }
}
