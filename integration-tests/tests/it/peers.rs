//! Peers of the suite that a test is itself: objects it serves, calls it makes beside what it does, frames written by hand.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use endpoint::{
    ArgumentKind, Bus, CallError, CallOptions, Client, Code, Description, Incoming, Options,
    Registration, RetryPolicy, Serve, Server, Settings, State,
};
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = testkit::LIMIT;
/// Version 1.0 of an interface.
pub(crate) const ONE: u32 = 1 << 16;

/// A runtime that goes on while the test waits for something else.
pub(crate) struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
        let thread = std::thread::spawn(move || {
            // Dropped or sent: both are the end.
            let _ = runtime.block_on(stopped);
        });
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        self.handle.block_on(future)
    }

    /// Goes on beside the test.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle.spawn(future)
    }

    pub(crate) fn bus(&self, run_dir: &Path) -> Bus {
        self.run(async { Bus::new(run_dir, Options::default()) })
    }

    pub(crate) fn client(&self, socket: &Path) -> Client {
        self.run(async { Client::new(socket, Options::default()) })
    }

    /// Serves these objects from here; everybody may connect. Registers them with the registry of `run_dir`, if there is one.
    pub(crate) fn serve(&self, run_dir: &Path, socket: &Path, names: &[String]) -> Provider {
        let listener = UnixListener::bind(socket).unwrap();
        fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).unwrap();
        self.run(async {
            let bus = Bus::new(run_dir, Options::default());
            let identify = Some(bus.identify());
            let server = Server::new(Settings { identify, ..Settings::default() }).unwrap();
            names.iter().for_each(|name| server.add(name, Echo).unwrap());
            server.listen(listener).unwrap();
            let registration = bus.register(&server, socket, RetryPolicy::DEFAULT);
            Provider { server, registration }
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// An endpoint within the test.
pub(crate) struct Provider {
    pub(crate) server: Server,
    pub(crate) registration: Registration,
}

impl Provider {
    /// The handle, as soon as the registry has given one.
    pub(crate) fn handle(&self) -> Option<String> {
        match &*self.registration.state().borrow() {
            State::Registered { handle } => Some(handle.to_string()),
            _ => None,
        }
    }

    #[track_caller]
    pub(crate) fn until_registered(&self) -> String {
        testkit::until("the registry has given a handle", || self.handle())
    }
}

/// Answers what it was asked.
struct Echo;

impl Serve for Echo {
    fn describe(&self) -> Description {
        let bytes = [("bytes", ArgumentKind::Raw, true)];
        Description::new("test.echo", ONE)
            .method("echo", &bytes, "answers its arguments", "bytes")
            .method("ping", &[], "answers", "")
            .method("pong", &[], "answers", "")
    }

    async fn call(&mut self, call: Incoming) {
        match &*call.method {
            "echo" => call.responder.reply_bytes(call.args),
            _ => call.responder.reply(&json!({})),
        }
    }
}

/// The value a call answered.
pub(crate) async fn ask(bus: &Bus, object: &str, method: &str, args: Value) -> Value {
    let answer = bus.call(object, method, &args, within(LONG)).await;
    answer.unwrap_or_else(|error| panic!("{object}.{method}: {error}")).parse().unwrap()
}

/// The failure a call was answered with.
pub(crate) fn failure<T>(outcome: Result<T, CallError>) -> endpoint::Failure {
    match outcome {
        Err(CallError::Refused(failure)) => failure,
        Err(other) => panic!("no failure but {other}"),
        Ok(_) => panic!("it was done"),
    }
}

pub(crate) fn within(deadline: Duration) -> CallOptions<'static> {
    CallOptions { deadline, ..CallOptions::default() }
}

/// How long the failure says to wait; `None` where it isn't `busy` or doesn't say.
pub(crate) fn retry_after_ms(failure: &endpoint::Failure) -> Option<u64> {
    let details = failure.details.as_ref().filter(|_| failure.code == Code::Busy)?;
    details["retry_after_ms"].as_u64()
}

/// A connection whose frames the test writes itself.
pub(crate) struct Raw {
    stream: UnixStream,
    /// Name, token and generation.
    pub(crate) objects: Vec<(String, u32, u32)>,
}

const HELLO: u8 = 1;
const WELCOME: u8 = 3;
const CALL: u8 = 4;
const REPLY: u8 = 5;

impl Raw {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut raw = Self { stream, objects: Vec::new() };
        raw.send(0, HELLO, 0, &[1, 1, 0, 0]);
        let (kind, body) = raw.next();
        assert_eq!(kind, WELCOME, "{body:?}");
        raw.objects = objects_of(&body);
        raw
    }

    fn send(&mut self, major: u8, kind: u8, id: u8, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        let head = [&[b'V', b'E', major, kind, id, 0, 0, 0], length.as_slice()].concat();
        self.stream.write_all(&[&head, body].concat()).unwrap();
    }

    /// The next frame: kind and body.
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).unwrap();
        let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        (head[3], body)
    }

    /// Sends a call to whatever is at this place, and reads nothing.
    pub(crate) fn call(&mut self, id: u8, token: u32, generation: u32, method: &str, args: &Value) {
        let args = serde_json::to_vec(args).unwrap();
        let number = |value: u32| [&[0xfc], value.to_le_bytes().as_slice()].concat();
        let small = |value: u32| match u8::try_from(value) {
            Ok(value) if value < 251 => vec![value],
            _ => number(value),
        };
        let length = u8::try_from(args.len()).ok().filter(|length| *length < 251);
        let body = [
            small(token).as_slice(),
            &small(generation),
            &[0, u8::try_from(method.len()).unwrap()],
            method.as_bytes(),
            &[0, 0, 0, length.expect("short arguments are enough")],
            &args,
        ]
        .concat();
        self.send(1, CALL, id, &body);
    }

    /// Calls an object by its name in Welcome.
    pub(crate) fn call_named(&mut self, id: u8, name: &str, method: &str, args: &Value) {
        let found = self.objects.iter().find(|(known, ..)| known == name).unwrap();
        let (token, generation) = (found.1, found.2);
        self.call(id, token, generation, method, args);
    }

    /// The reply, as a result or a failure.
    pub(crate) fn reply(&mut self) -> Result<Vec<u8>, Value> {
        loop {
            let (kind, body) = self.next();
            if kind != REPLY {
                continue;
            }
            let mut fields = Fields(&body);
            return match fields.number() {
                0 => {
                    fields.number();
                    Ok(fields.bytes().to_vec())
                }
                2 => Err(serde_json::from_slice(fields.bytes()).unwrap()),
                other => panic!("variant {other}"),
            };
        }
    }
}

struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, length: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn number(&mut self) -> u64 {
        let length = match self.take(1)[0] {
            251 => 2,
            252 => 4,
            253 => 8,
            small => return small.into(),
        };
        let bytes = self.take(length);
        bytes.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }

    fn bytes(&mut self) -> &'b [u8] {
        let length = usize::try_from(self.number()).unwrap();
        self.take(length)
    }
}

fn objects_of(welcome: &[u8]) -> Vec<(String, u32, u32)> {
    let mut fields = Fields(welcome);
    // Major and minor version, features; then the nonce.
    for _ in 0..3 {
        fields.number();
    }
    fields.take(16);
    let count = fields.number();
    let one = |_| {
        let name = String::from_utf8(fields.bytes().to_vec()).unwrap();
        let [token, generation] = [(), ()].map(|()| u32::try_from(fields.number()).unwrap());
        fields.bytes();
        (fields.number(), fields.number());
        (name, token, generation)
    };
    (0..count).map(one).collect()
}

/// Where an object is served, as the registry says.
pub(crate) fn socket_of(device: &testkit::Device, object: &str) -> PathBuf {
    let args = json!({ "object": object }).to_string();
    let found = device.json(&["call", "registry", "lookup", &args]);
    PathBuf::from(found["socket"].as_str().unwrap())
}
