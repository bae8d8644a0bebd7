//! A device in a scratch folder with the real writing process, the network side of it, and a supervisor that plays along.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Read as _, Write as _},
    num::NonZeroUsize,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bundle::{
    Keyring, Kind, Reader, RoleKeys, Roles, SecretKey, Signatures,
    build::{Options, Outline, Part, build},
    decode_chunk,
    push::{Outcome, Sender, Step},
};
use endpoint::{Code, Description, Failure, Incoming, Serve, Server};
use protocol::upgrade::{PAGE_TABLE, split_head};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything here takes; only a broken test meets it.
const SOON: Duration = Duration::from_secs(60);

pub(crate) fn key(number: u8) -> SecretKey {
    SecretKey::new(&[number; 32])
}

/// Bytes without a pattern, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A component of a bundle: its name, its kind and its image.
pub(crate) type Carried<'p> = (&'p str, Kind, &'p [u8]);

/// A bundle of these components, signed by the key 2.
pub(crate) fn bundle(version: &str, index: u64, carried: &[Carried<'_>]) -> Vec<u8> {
    let outline = Outline {
        product: "demo".to_owned(),
        revisions: vec!["a1".to_owned()],
        version: version.to_owned(),
        ..Outline::default()
    };
    let part = |(id, kind, image): &Carried<'_>| Part {
        id: (*id).to_owned(),
        version: version.to_owned(),
        rollback_index: index,
        kind: *kind,
        allow_special: false,
        requires: Vec::new(),
        image: Box::new(Cursor::new(image.to_vec())),
        size: image.len() as u64,
    };
    let options = Options { level: 1, threads: NonZeroUsize::MIN };
    let (mut scratch, mut output) = (Cursor::new(Vec::new()), Vec::new());
    let parts = carried.iter().map(part).collect();
    build(outline, parts, &[&key(2)], options, &mut scratch, &mut output, &mut |_| {}).unwrap();
    output
}

/// The device's files, and what its supervisor says.
pub(crate) struct Device {
    folder: TempDir,
    pub(crate) supervisor: Supervisor,
    runtime: tokio::runtime::Runtime,
    _server: Server,
}

impl Device {
    /// `settings` is `upgrade.toml` without product and revision, and a rule for health unless it has one; `DIR` stands for the device's folder.
    pub(crate) fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["run", "config", "state", "factory"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let path = folder.path().to_str().unwrap();
        let health = "health = { timeout = \"20s\", stable = \"0s\" }\n";
        let health = if settings.contains("health") { "" } else { health };
        let text = format!("product = \"demo\"\nrevision = \"a1\"\n{health}{settings}")
            .replace("DIR", path);
        fs::write(folder.path().join("config/upgrade.toml"), text).unwrap();
        let role = |number: u8| RoleKeys::new(1, &[key(number).public()]);
        let roles =
            Roles { root: role(1), bundle: Some(role(2)), recovery: None, operator: Some(role(5)) };
        let keyring = Keyring { version: 1, roles }.encode();
        let mut signatures = Signatures::default();
        signatures.add(Keyring::sign(&keyring, &key(1))).unwrap();
        fs::write(folder.path().join("factory/keyring.json"), &keyring).unwrap();
        fs::write(folder.path().join("factory/keyring.json.sig"), signatures.encode()).unwrap();
        fs::write(folder.path().join("cmdline"), "quiet").unwrap();
        fs::write(folder.path().join("boot-id"), "1").unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let supervisor = Supervisor::default();
        let socket = folder.path().join("run/supervisor.sock");
        let server = runtime.block_on(async { supervisor.serve(&socket) });
        Self { folder, supervisor, runtime, _server: server }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the writer.
    pub(crate) fn writer(&self) -> Writer {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(SOON)).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$0\" --writer \"$@\" 3<&0 0</dev/null"]);
        let installed = self.path("bin/vestal-upgrade");
        let built = Path::new(env!("CARGO_BIN_EXE_vestal-upgrade"));
        command.arg(if installed.exists() { &installed } else { built });
        for (option, name) in
            [("--run-dir", "run"), ("--config-dir", "config"), ("--state-dir", "state")]
        {
            command.arg(option).arg(self.path(name));
        }
        command.env("VESTAL_FACTORY_DIR", self.path("factory"));
        command.env("VESTAL_CMDLINE", self.path("cmdline"));
        command.env("VESTAL_BOOT_ID", self.path("boot-id"));
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().unwrap();
        Writer { child, stream: ours, number: 0, words: Vec::new() }
    }

    /// An autorun engine.
    pub(crate) fn autorun(&self) -> (Server, Autorun) {
        let autorun = Autorun::default();
        let server = self.runtime.block_on(async {
            let server = Server::new(endpoint::Settings::default()).unwrap();
            server.add("autorun", autorun.clone()).unwrap();
            let socket = self.path("run/autorun.sock");
            server.listen(std::os::unix::net::UnixListener::bind(socket).unwrap()).unwrap();
            server
        });
        (server, autorun)
    }

    /// Writers that are started from now on find this script as the engine's program.
    pub(crate) fn install_autorun(&self, script: &str) {
        fs::create_dir(self.path("bin")).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_vestal-upgrade"), self.path("bin/vestal-upgrade")).unwrap();
        let program = self.path("bin/vestal-autorun");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Lets time pass for whoever serves; the supervisor's calls are carried out by another thread.
    pub(crate) fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        let _guard = self.runtime.enter();
        testkit::until(what, look)
    }
}

/// The writing process as the network side sees it.
pub(crate) struct Writer {
    pub(crate) child: Child,
    stream: UnixStream,
    number: u64,
    /// What it said without being asked.
    pub(crate) words: Vec<Value>,
}

/// What a push was stopped by, or its end.
#[derive(Debug)]
pub(crate) enum Pushed {
    Done,
    Refused(Value),
    /// So many chunks were sent, as was wanted.
    Stopped,
    /// The writer is gone.
    Gone,
}

impl Writer {
    fn read(&mut self) -> Option<(Value, Vec<u8>)> {
        let mut lengths = [0; 8];
        self.stream.read_exact(&mut lengths).ok()?;
        let length = |at: usize| {
            let bytes = *lengths[at..].first_chunk::<4>().unwrap();
            usize::try_from(u32::from_le_bytes(bytes)).unwrap()
        };
        let (mut head, mut data) = (vec![0; length(0)], vec![0; length(4)]);
        self.stream.read_exact(&mut head).ok()?;
        self.stream.read_exact(&mut data).ok()?;
        Some((serde_json::from_slice(&head).unwrap(), data))
    }

    /// Gives an order; `None` where the writer is gone.
    pub(crate) fn ask(&mut self, what: &Value, data: &[u8]) -> Option<(Value, Vec<u8>)> {
        self.number += 1;
        let order =
            json!({ "number": self.number, "who": "uid 0", "local_root": true, "what": what });
        let head = serde_json::to_vec(&order).unwrap();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let frame = [&length(&head)[..], &length(data), &head, data].concat();
        self.stream.write_all(&frame).ok()?;
        loop {
            let (word, data) = self.read()?;
            match word.get("answer") {
                Some(answer) if answer["number"] == self.number => {
                    return Some((answer["outcome"].clone(), data));
                }
                _ => self.words.push(word),
            }
        }
    }

    /// As [`ask`](Self::ask), and it must go well.
    pub(crate) fn answer(&mut self, what: &Value) -> Value {
        let (outcome, _) = self.ask(what, &[]).expect("the writer is there");
        assert!(outcome.get("Ok").is_some(), "{what}: {outcome}");
        outcome["Ok"].clone()
    }

    pub(crate) fn status(&mut self) -> Value {
        self.answer(&json!("status"))
    }

    /// Waits for a word, or a state in one, that nobody asked for.
    pub(crate) fn until_ready(&mut self) {
        while !self.words.contains(&json!("ready")) {
            let (word, _) = self.read().expect("the writer is there");
            self.words.push(word);
        }
    }

    pub(crate) fn until_state(&mut self, wanted: &[&str]) -> Value {
        let mut last = Value::Null;
        let found = testkit::within(SOON, || {
            last = self.status();
            wanted.contains(&last["state"].as_str()?).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("waited for {wanted:?}: {last}"))
    }

    /// Pushes a bundle, until so many chunks were sent.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        activate: Option<bool>,
        chunks: u64,
    ) -> (Pushed, u64) {
        let reader = || Reader::open(Cursor::new(bytes.to_vec())).unwrap();
        let (mut index, mut sender) = (reader(), Sender::new(reader(), 0, activate));
        let mut coded = BTreeMap::new();
        loop {
            let sent = sender.sent().chunks;
            let call = match sender.next_step().unwrap() {
                Step::Done(Outcome::Finished(_)) => return (Pushed::Done, sent),
                Step::Done(other) => panic!("{other:?}"),
                Step::Wait => panic!("everything is answered at once"),
                Step::Call(call) if call.method == "chunk" && sent > chunks => {
                    return (Pushed::Stopped, sent);
                }
                Step::Call(call) => call,
            };
            let (what, data) = match call.method {
                "begin" => (json!({ "begin": { "flags": 0 } }), call.args[12..].to_vec()),
                "finish" => {
                    let finish: Value = serde_json::from_slice(&call.args).unwrap();
                    (json!({ "finish": finish }), Vec::new())
                }
                method => {
                    let (session, component, number, data) = split_head(&call.args).unwrap();
                    let row = usize::try_from(component).unwrap();
                    if method == "pages" {
                        if number != PAGE_TABLE {
                            let table = index.table(row).unwrap();
                            let page = index.page(row, &table, number).unwrap();
                            let first = page.first_chunk();
                            coded.extend(
                                (first..).zip(page.chunks).map(|(at, chunk)| ((row, at), chunk)),
                            );
                        }
                        let what =
                            json!({ "session": session, "component": component, "page": number });
                        (json!({ "pages": what }), data.to_vec())
                    } else {
                        let chunk = &coded[&(row, number)];
                        let mut buffer = vec![0; bundle::CHUNK_MAX];
                        let raw = decode_chunk(chunk.codec, data, chunk.raw_len, &mut buffer)
                            .unwrap()
                            .to_vec();
                        let what =
                            json!({ "session": session, "component": component, "chunk": number });
                        (json!({ "chunk": what }), raw)
                    }
                }
            };
            let Some((outcome, data)) = self.ask(&what, &data) else { return (Pushed::Gone, sent) };
            if let Some(failure) = outcome.get("Err") {
                return (Pushed::Refused(failure.clone()), sent);
            }
            let answer = match call.method {
                "pages" => data,
                "chunk" => Vec::new(),
                _ => serde_json::to_vec(&outcome["Ok"]).unwrap(),
            };
            sender.answered(call.id, &answer).unwrap();
        }
    }

    /// Pushes all of it, which must go well.
    pub(crate) fn install(&mut self, bytes: &[u8]) -> u64 {
        match self.push(bytes, None, u64::MAX) {
            (Pushed::Done, sent) => sent,
            (other, _) => panic!("{other:?}"),
        }
    }

    /// The network side goes away; the writer must end by itself.
    pub(crate) fn end(self) {
        let Self { mut child, stream, .. } = self;
        drop(stream);
        let status =
            testkit::until("the writer ends with the network side", || child.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

/// `service`, `system`, and what was asked of them.
#[derive(Clone, Default)]
pub(crate) struct Supervisor(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    /// Running, ready, generation.
    services: BTreeMap<String, (bool, bool, u64)>,
    /// Services that don't become ready while this file's link shows the given text.
    broken: Option<(PathBuf, Vec<u8>)>,
    calls: Vec<String>,
}

struct Object(Supervisor, &'static str);

impl Supervisor {
    fn serve(&self, socket: &Path) -> Server {
        let server = Server::new(endpoint::Settings::default()).unwrap();
        server.add("service", Object(self.clone(), "service")).unwrap();
        server.add("system", Object(self.clone(), "system")).unwrap();
        server.listen(std::os::unix::net::UnixListener::bind(socket).unwrap()).unwrap();
        server
    }

    pub(crate) fn add(&self, service: &str) {
        self.0.lock().unwrap().services.insert(service.to_owned(), (true, true, 1));
    }

    /// Whatever is started while `path` holds these bytes never becomes ready.
    pub(crate) fn breaks_with(&self, path: PathBuf, bytes: &[u8]) {
        self.0.lock().unwrap().broken = Some((path, bytes.to_vec()));
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.lock().unwrap().calls.clone()
    }

    pub(crate) fn is_running(&self, service: &str) -> bool {
        self.0.lock().unwrap().services[service].0
    }

    /// Stops it as if the agent had, and had then been killed.
    pub(crate) fn stop(&self, service: &str) {
        self.0.lock().unwrap().services.insert(service.to_owned(), (false, false, 1));
    }

    fn answer(&self, object: &str, method: &str, args: &Value) -> Result<Value, Failure> {
        let mut said = self.0.lock().unwrap();
        if method == "list" {
            let rows = said.services.iter().map(|(name, (running, ready, generation))| {
                let desired = if *running { "up" } else { "down" };
                let state = if *ready { "ready" } else { "stopped" };
                let row = json!({ "desired": desired, "ready": ready, "state": state, "generation": generation });
                (name.clone(), json!({ "instances": { "main": row } }))
            });
            return Ok(Value::Object(rows.collect()));
        }
        let name = args["name"].as_str().unwrap_or_default().to_owned();
        said.calls.push(format!("{object}.{method} {name}").trim().to_owned());
        if object == "system" {
            return Ok(json!({}));
        }
        // Only the autorun engine's start is nobody's concern.
        assert_eq!(args["wait"], method == "stop" || name != "autorun");
        let broken = said.broken.as_ref();
        let broken =
            broken.is_some_and(|(path, bytes)| fs::read(path).is_ok_and(|there| there == *bytes));
        let Some(entry) = said.services.get_mut(&name) else {
            return Err(Failure::new(Code::NotFound, "no such service"));
        };
        let start = method == "start";
        *entry = (start, start && !broken, entry.2 + u64::from(start));
        match start && broken {
            true => Err(Failure::new(Code::Failed, format!("{name} crashes"))),
            false => Ok(json!({})),
        }
    }
}

impl Serve for Object {
    fn describe(&self) -> Description {
        match self.1 {
            "service" => protocol::service::description(),
            _ => protocol::system::description(),
        }
    }

    async fn call(&mut self, call: Incoming) {
        let args = call.parse::<Value>().unwrap_or_default();
        let outcome = self.0.answer(self.1, &call.method, &args);
        call.responder.finish(outcome);
    }
}

/// How often it was asked to invalidate its image, and why it refuses that, if it does.
#[derive(Clone, Default)]
pub(crate) struct Autorun(pub(crate) Arc<Mutex<(u32, Option<Failure>)>>);

impl Serve for Autorun {
    fn describe(&self) -> Description {
        protocol::autorun::description()
    }

    async fn call(&mut self, call: Incoming) {
        assert_eq!(&*call.method, "invalidate");
        let args = call.parse::<Value>().unwrap();
        assert!(args["reason"].as_str().unwrap().contains("version"), "{args}");
        let (asked, refusal) = &mut *self.0.lock().unwrap();
        *asked += 1;
        call.responder.finish(refusal.clone().map_or(Ok(Value::Null), Err));
    }
}
