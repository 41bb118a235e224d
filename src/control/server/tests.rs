//! Limits are an hour in all of these, so that an answer can only come because nobody has to wait
//! for them.

use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Blocking;
use std::thread;

const HOUR: Duration = Duration::from_secs(3600);
/// How long a test waits before it says that something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const UNHURRIED: Limits = Limits {
    request: HOUR,
    answer: HOUR,
    places: 16,
};

/// Nobody but root and the users that the machine does not have.
const NOBODY_ELSE: Allowed = Allowed {
    user: 64_240,
    group: None,
};

struct Server {
    directory: tempfile::TempDir,
}

impl Server {
    /// A server, for as long as the test runs, whose every answer is `answer`.
    fn start(limits: Limits, answer: String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = Server { directory };
        let path = server.path();
        let (ready, started) = std::sync::mpsc::channel();
        thread::spawn(move || {
            runtime().block_on(async {
                let listener = listen(&path, NOBODY_ELSE).await.unwrap();
                ready.send(()).unwrap();
                let (requests_in, mut requests) = mpsc::channel::<Request>(16);
                tokio::spawn(serve_within(limits, listener, NOBODY_ELSE, requests_in));
                while let Some(request) = requests.recv().await {
                    let _ = request.answer.send(answer.clone());
                }
            })
        });
        started.recv().unwrap();
        // The socket's mode is another matter: this is about what holds beside it.
        for path in [server.directory.path().to_path_buf(), server.path()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        server
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn connect(&self) -> Blocking {
        let stream = Blocking::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Connections of a user who may not ask.
    fn connect_as_another(&self, count: usize) -> Vec<Blocking> {
        thread::scope(|scope| {
            let connected = scope.spawn(|| {
                // Of this thread alone.
                let user = rustix::process::Uid::from_raw(64_999);
                rustix::thread::set_thread_res_uid(user, user, user).expect("root runs this test");
                (0..count).map(|_| self.connect()).collect()
            });
            connected.join().unwrap()
        })
    }

    fn ask(&self) -> String {
        let path = self.path();
        let asked = async { tokio::time::timeout(PATIENCE, ask_metrics(&path)).await };
        let answer = runtime().block_on(asked);
        answer.expect("an answer in time").unwrap()
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn read(stream: &mut Blocking) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn idle_connections_keep_nobody_waiting() {
    for count in [16, 200] {
        let server = Server::start(UNHURRIED, "well".into());
        let mut idle: Vec<_> = (0..count).map(|_| server.connect()).collect();
        assert_eq!(server.ask(), "well", "{count}");
        // The last of them are there still: for the one that asked, only the longest idle one went.
        for stream in idle.iter_mut().rev().take(15) {
            stream.write_all(b"metrics\n").unwrap();
            assert_eq!(read(stream), "well");
        }
    }
}

#[test]
fn those_who_may_not_ask_take_no_place_of_those_who_may() {
    let server = Server::start(UNHURRIED, "well".into());
    let mut admitted: Vec<_> = (0..16).map(|_| server.connect()).collect();
    let idle = server.connect_as_another(200);
    for stream in &mut admitted {
        stream.write_all(b"metrics\n").unwrap();
        assert_eq!(read(stream), "well");
    }
    assert_eq!(server.ask(), "well");
    drop(idle);
}

#[test]
fn who_may_not_ask_is_told_so_at_once_whether_it_asks_or_not() {
    let server = Server::start(UNHURRIED, "well".into());
    let mut streams = server.connect_as_another(2);
    assert_eq!(read(&mut streams[0]), REFUSED);
    streams[1].write_all(b"status\n").unwrap();
    assert_eq!(read(&mut streams[1]), REFUSED);
}

#[test]
fn a_client_that_does_not_take_its_answer_keeps_nobody_waiting() {
    // More than a socket holds.
    let server = Server::start(UNHURRIED, "well ".repeat(1 << 20));
    let mut stuck: Vec<_> = (0..16).map(|_| server.connect()).collect();
    for stream in &mut stuck {
        stream.write_all(b"metrics\n").unwrap();
    }
    assert_eq!(server.ask().len(), 5 << 20);
}

#[test]
fn as_many_as_there_are_places_may_ask_at_once() {
    let server = Server::start(UNHURRIED, "well".into());
    let mut all: Vec<_> = (0..64).map(|_| server.connect()).collect();
    thread::scope(|scope| {
        for stream in &mut all[48..] {
            scope.spawn(|| {
                stream.write_all(b"metrics\n").unwrap();
                assert_eq!(read(stream), "well");
            });
        }
    });
}

#[test]
fn an_idle_connection_is_closed_after_a_while() {
    let limits = Limits {
        request: Duration::from_millis(10),
        ..UNHURRIED
    };
    let server = Server::start(limits, "well".into());
    assert_eq!(read(&mut server.connect()), "");
}
