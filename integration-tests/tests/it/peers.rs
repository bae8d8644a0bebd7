//! Peers of the suite that a test is itself: objects it serves, calls it makes beside what it does, frames written by hand.

use std::{
    fs,
    io::{Read, Write as _},
    os::fd::AsFd,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use endpoint::{
    ArgumentKind, Bus, CallError, CallOptions, Client, Code, Description, Incoming, Options,
    Registration, RetryPolicy, Serve, Server, Settings, State,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use testkit::Device;
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
            Provider { server, bus, registration }
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
    pub(crate) bus: Bus,
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

/// A program of the suite as our own child. Dropped, it is killed.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(device: &Device, name: &str, args: &[&str], user: Option<u32>) -> Self {
        let mut command = device.command(name);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command.args(args).stdin(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// The demo object, on a socket of its own that is for everybody, as the supervisor's are.
    pub(crate) fn serve(device: &Device, name: &str, socket: &Path, user: Option<u32>) -> Self {
        // Of a process that was killed.
        let _ = fs::remove_file(socket);
        let args = [name, "--socket", socket.to_str().unwrap()];
        let program = Self::start(device, "vestal-demo-object", &args, user);
        testkit::until("its socket is there", || {
            fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).ok()
        });
        program
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// The first line of its log that holds this; waits for it.
    pub(crate) fn until_said(&mut self, text: &str) -> String {
        let mut said = Said::new(self.0.stderr.take().unwrap());
        loop {
            let line = said.next().expect("it says so before it ends");
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines that another process says, each of them soon: a test that waits for one that never comes fails.
pub(crate) struct Said<R> {
    source: R,
    bytes: Vec<u8>,
}

impl<R: Read + AsFd> Said<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, bytes: Vec::new() }
    }

    /// The next line; `None` at the end.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&self.source, PollFlags::IN)], Some(&limit));
            assert_eq!(ready, Ok(1), "nothing more was said: {:?}", self.bytes);
            let mut piece = [0; 4096];
            match self.source.read(&mut piece).unwrap() {
                0 => return None,
                length => self.bytes.extend_from_slice(&piece[..length]),
            }
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
        // Version and hash.
        for _ in 0..2 {
            fields.number();
        }
        (name, token, generation)
    };
    (0..count).map(one).collect()
}

/// Where an object is served, as the registry says; `None` while nobody does.
pub(crate) fn socket_of(device: &Device, object: &str) -> Option<PathBuf> {
    let args = json!({ "object": object }).to_string();
    let found = device.ctl(&["--json", "call", "registry", "lookup", &args]);
    let found: Value = serde_json::from_str(&found.stdout).ok()?;
    Some(PathBuf::from(found["socket"].as_str()?))
}
