//! A host in the test's own process: it speaks the frames, keeps a journal as a real one does, and fails as it is told.

use std::{
    collections::{HashMap, VecDeque},
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    thread,
};

use protocol::{
    driver::{Answer, Head},
    failure::{Code, Failure},
    frame,
    message::{Call, Goodbye, Message, Object, Reply, Welcome},
};
use serde_json::json;
use tempfile::TempDir;

/// What goes wrong at the next call (or at the next connection, for the two last).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The host dies before it has read the call.
    Unread,
    /// The host dies after the driver did it, before the answer is out.
    Unanswered,
    /// Half of the answer is out.
    Torn,
    /// The driver crashes in it.
    Crash,
    Busy,
    Gone,
    /// It says that it leaves, and ends.
    Goodbye,
    /// It connects, but serves nothing yet.
    Starting,
    /// It asks whether the caller lives, and then goes on.
    Ping,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) faults: VecDeque<Fault>,
    /// What the driver was given, in its order.
    pub(crate) written: Vec<Vec<u8>>,
    opened: u64,
    /// By handle and sequence: the answer; none while it is in the driver.
    journal: HashMap<(u64, u64), Option<i64>>,
    /// Calls that wait for `release`.
    pub(crate) holds: bool,
    pub(crate) held: u32,
    pub(crate) closed: Vec<u64>,
}

pub(crate) struct Host {
    pub(crate) folder: TempDir,
    inner: Arc<(Mutex<Inner>, Condvar)>,
}

impl Host {
    pub(crate) fn start(faults: &[Fault]) -> Self {
        let folder = tempfile::Builder::new().prefix("dc").tempdir_in("/tmp").unwrap();
        let inner = Inner { faults: faults.iter().copied().collect(), ..Inner::default() };
        let host = Self { folder, inner: Arc::new((Mutex::new(inner), Condvar::new())) };
        host.serve("driver.can0.sock", "driver/can0");
        host
    }

    pub(crate) fn run_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Serves an object on a socket of the run directory, a thread a connection, until the test's process ends.
    pub(crate) fn serve(&self, socket: &str, object: &'static str) {
        let listener = UnixListener::bind(self.run_dir().join(socket)).unwrap();
        let inner = Arc::clone(&self.inner);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let inner = Arc::clone(&inner);
                thread::spawn(move || connection(stream.unwrap(), object, &inner));
            }
        });
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.inner.0.lock().unwrap())
    }

    /// Waits until so many calls are held.
    pub(crate) fn wait_held(&self, count: u32) {
        let guard = self.inner.0.lock().unwrap();
        drop(self.inner.1.wait_while(guard, |inner| inner.held < count).unwrap());
    }

    pub(crate) fn release(&self) {
        self.with(|inner| inner.holds = false);
        self.inner.1.notify_all();
    }
}

fn send(stream: &mut UnixStream, id: u32, message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode(&mut out, id, message).unwrap();
    // Who called may have gone.
    let _ = stream.write_all(&out);
    out
}

/// `None` ends the connection.
fn connection(
    mut stream: UnixStream,
    object: &'static str,
    inner: &(Mutex<Inner>, Condvar),
) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let Some((id, message, length)) = frame::decode(&bytes).unwrap() else {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
            bytes.extend_from_slice(&piece[..count]);
            continue;
        };
        match message {
            Message::Hello(_) => welcome(&mut stream, object, inner),
            Message::Call(call) => answer(&mut stream, id, &call, inner)?,
            Message::Pong => {}
            other => panic!("{other:?}"),
        }
        bytes.drain(..length);
    }
}

fn welcome(stream: &mut UnixStream, object: &'static str, inner: &(Mutex<Inner>, Condvar)) {
    let mut inner = inner.0.lock().unwrap();
    let starting = inner.faults.pop_front_if(|fault| *fault == Fault::Starting).is_some();
    let object = Object {
        name: object,
        token: 3,
        generation: 9,
        interface: "vestal.driver-host",
        version: 1 << 16,
        hash: 1,
    };
    let objects = if starting { Vec::new() } else { vec![object] };
    let welcome = Welcome { major: 1, minor: 0, features: 0, nonce: [7; 16], objects };
    send(stream, 0, &Message::Welcome(welcome));
}

fn done(stream: &mut UnixStream, id: u32, result: &[u8]) -> Option<()> {
    send(stream, id, &Message::Reply(Reply::Done { fds: 0, result }));
    Some(())
}

fn refuse(stream: &mut UnixStream, id: u32, code: Code) -> Option<()> {
    let failure = serde_json::to_vec(&Failure::new(code, "told so")).unwrap();
    send(stream, id, &Message::Reply(Reply::Failed { failure: &failure }));
    Some(())
}

fn answer(
    stream: &mut UnixStream,
    id: u32,
    call: &Call<'_>,
    all: &(Mutex<Inner>, Condvar),
) -> Option<()> {
    assert_eq!((call.token, call.generation), (3, 9));
    let mut inner = all.0.lock().unwrap();
    let raw = matches!(call.method, "read" | "write" | "ioctl" | "call");
    let fault = if raw { inner.faults.pop_front() } else { None };
    match fault {
        Some(Fault::Unread) => return None,
        Some(Fault::Busy) => return refuse(stream, id, Code::Busy),
        Some(Fault::Gone) => return refuse(stream, id, Code::Gone),
        Some(Fault::Goodbye) => {
            send(stream, 0, &Message::Goodbye(Goodbye { code: "gone", text: "it leaves" }));
            return None;
        }
        Some(Fault::Ping) => {
            send(stream, 77, &Message::Ping);
        }
        _ => {}
    }
    match call.method {
        "open" if call.args.starts_with(b"{\"name\"") => {
            let place = json!({ "object": "driver/can0", "socket": place(stream) });
            return done(stream, id, place.to_string().as_bytes());
        }
        "open" => {
            let opened = json!({ "result": 0, "handle": 7 + inner.opened });
            inner.opened += 1;
            return done(stream, id, opened.to_string().as_bytes());
        }
        "status" => return done(stream, id, br#"{"name":"can0","own":["reset","","peek"]}"#),
        "close" => {
            let args: serde_json::Value = serde_json::from_slice(call.args).unwrap();
            inner.closed.push(args["handle"].as_u64().unwrap());
            return done(stream, id, br#"{"result":0}"#);
        }
        _ => {}
    }
    let (head, data) = Head::parse(call.args).unwrap();
    if call.method == "poll" {
        let result = i64::from(head.word & 1);
        return done(stream, id, &Answer { result, data: &[] }.encode());
    }
    assert!(head.sequence > 0);
    if inner.holds {
        inner.held += 1;
        all.1.notify_all();
        inner = all.1.wait_while(inner, |inner| inner.holds).unwrap();
    }
    let key = (head.handle, head.sequence);
    let result = match inner.journal.get(&key) {
        // Done before; what it read is lost.
        Some(Some(result)) if call.method != "write" && *result > 0 => -5,
        Some(Some(result)) => *result,
        Some(None) => -5,
        None if fault == Some(Fault::Crash) => {
            inner.journal.insert(key, None);
            return None;
        }
        None => {
            let result = match call.method {
                "write" if data == b"no" => -28,
                "write" => {
                    inner.written.push(data.to_vec());
                    i64::try_from(data.len()).unwrap()
                }
                _ => i64::from(head.length.min(4)),
            };
            inner.journal.insert(key, Some(result));
            result
        }
    };
    let back: &[u8] = if call.method == "write" || result < 0 {
        &[]
    } else {
        &b"data"[..usize::try_from(result).unwrap()]
    };
    let bytes = Answer { result, data: back }.encode();
    match fault {
        Some(Fault::Unanswered) => None,
        Some(Fault::Torn) => {
            let mut out = Vec::new();
            let message = Message::Reply(Reply::Done { fds: 0, result: &bytes });
            frame::encode(&mut out, id, &message).unwrap();
            let _ = stream.write_all(&out[..out.len() / 2]);
            None
        }
        _ => done(stream, id, &bytes),
    }
}

/// Where the manager says that the driver is: a socket of another name beside its own.
fn place(stream: &UnixStream) -> String {
    let manager = stream.local_addr().unwrap();
    let folder = manager.as_pathname().unwrap().parent().unwrap();
    folder.join("elsewhere.sock").display().to_string()
}
