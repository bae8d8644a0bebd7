//! Two real endpoints over a socket in a scratch directory, and peers that misbehave.

mod calls;
mod carried;
mod events;
mod gates;
mod hostile;
mod local;
mod monitor;
mod policy;
mod quotas;
mod raw;
mod replacement;
mod restart;
mod streams;

use std::{
    os::{fd::AsFd as _, unix::net::UnixListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use endpoint::{
    ArgumentKind, CallOptions, Client, Code, Description, Failure, Incoming, Options, Responder,
    Serve, Server, Settings, Wanted,
};
use serde::Deserialize;
use tokio::sync::mpsc;

/// Longer than any of these tests takes; only a broken one meets it.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// For who wants to hear of a full queue.
pub(crate) const IMPATIENT: CallOptions<'static> = CallOptions {
    deadline: SOON,
    safe_to_repeat: false,
    wait_when_busy: false,
    fds: &[],
    wanted: Wanted { interface: None, version: None, hash: None },
};

/// An object that does what a test needs.
pub(crate) struct Demo {
    pub(crate) counted: Arc<AtomicU32>,
    pub(crate) parked: mpsc::UnboundedSender<Responder>,
}

#[derive(Deserialize)]
struct Size {
    bytes: usize,
}

impl Serve for Demo {
    fn describe(&self) -> Description {
        let size: &[_] = &[("bytes", ArgumentKind::Integer, true)];
        Description::new("test.demo", 1)
            .method("echo", &[("bytes", ArgumentKind::Raw, true)], "answers its arguments", "bytes")
            .method("count", &[], "counts its calls", "how many")
            .method("park", &[], "gives the responder to the test", "")
            .method("text", size, "answers a text of this length", "a text")
            .method("stream", size, "answers in pieces", "raw bytes")
            .method("descriptors", &[], "answers with the descriptors it got", "their number")
            .method("events", size, "sends this many events first", "")
            .method("forget", &[], "drops the call", "")
    }

    async fn call(&mut self, mut call: Incoming) {
        let size = || call.parse::<Size>().map(|size| size.bytes);
        match &*call.method {
            "echo" => call.responder.reply_bytes(call.args),
            "count" => call.responder.reply(&(self.counted.fetch_add(1, SeqCst) + 1)),
            "park" => self.parked.send(call.responder).unwrap(),
            "text" => {
                let outcome = size().map(|bytes| "x".repeat(bytes));
                call.responder.finish(outcome);
            }
            "stream" => {
                let bytes = size().unwrap();
                let mut chunks = call.responder.chunks();
                tokio::spawn(async move {
                    let data: Vec<u8> = (0..=250).cycle().take(bytes).collect();
                    if chunks.send(&data).await.is_ok() {
                        chunks.finish(&"end");
                    }
                });
            }
            "descriptors" => {
                let fds = std::mem::take(&mut call.fds);
                call.responder.reply_with(&fds.len(), fds);
            }
            "events" => {
                let peer = call.responder.peer();
                for at in 0..size().unwrap() {
                    assert!(peer.event("tick", at.to_string().into_bytes()));
                }
                call.responder.reply(&());
            }
            "forget" => drop(call),
            other => unreachable!("{other} is not described"),
        }
    }
}

/// A server and its socket.
pub(crate) struct Fixture {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) server: Server,
    pub(crate) counted: Arc<AtomicU32>,
    pub(crate) parked: mpsc::UnboundedReceiver<Responder>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let counted = Arc::new(AtomicU32::new(0));
        let (server, parked) = serve(settings, &counted);
        let fixture = Self { directory, server, counted, parked };
        fixture.server.listen(UnixListener::bind(fixture.path()).unwrap()).unwrap();
        fixture
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("demo.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.path(), Options { patience: SOON, ..Options::default() })
    }
}

pub(crate) fn serve(
    settings: Settings,
    counted: &Arc<AtomicU32>,
) -> (Server, mpsc::UnboundedReceiver<Responder>) {
    let server = Server::new(settings).unwrap();
    let (parked, receiver) = mpsc::unbounded_channel();
    server.add("demo", Demo { counted: Arc::clone(counted), parked }).unwrap();
    (server, receiver)
}

/// A pipe's read end with this text in it.
pub(crate) fn pipe_with(text: &[u8]) -> std::os::fd::OwnedFd {
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::io::write(write.as_fd(), text).unwrap();
    read
}

pub(crate) fn refused(error: endpoint::CallError) -> Failure {
    match error {
        endpoint::CallError::Refused(failure) => failure,
        other => panic!("not refused: {other:?}"),
    }
}

/// Gives other tasks turns until it holds; fails the test where it never does.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it never came true");
}

/// As `until`, for what takes longer: another thread's work, or thousands of calls.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("it never came true");
}

pub(crate) const DENIED: Code = Code::Denied;
