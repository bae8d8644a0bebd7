//! A device of its own: a run directory, a supervisor that only knows pipes, and the real log.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use endpoint::{
    CallOptions, Client, Description, Incoming, Options, Serve, Server, Settings, Stream,
};
use protocol::{
    keeper::ring,
    log::{Record, Select, Status},
    name::Name,
    service::{Pipes, Ring, RingSlot, push_ring_part},
    time::Moment,
};
use rustix::fs::{CWD, Mode, OFlags};
use tokio::{net::UnixDatagram, sync::mpsc, time::timeout};

/// Nothing here takes so long, unless it never ends.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Device {
    folder: tempfile::TempDir,
    pub(crate) supervisor: Arc<Mutex<Supervisor>>,
    _server: Server,
    notify: UnixDatagram,
    child: Option<Child>,
    pub(crate) client: Client,
    /// The supervisor holds them open, as the real one does.
    pipes: Vec<File>,
}

/// What the supervisor says.
#[derive(Default)]
pub(crate) struct Supervisor {
    pub(crate) list: Vec<Pipes>,
    /// Parts of the ring, by id.
    pub(crate) ring: Vec<(u64, Vec<u8>)>,
    changes: Option<mpsc::UnboundedSender<Pipes>>,
}

struct Service(Arc<Mutex<Supervisor>>);

impl Serve for Service {
    fn describe(&self) -> Description {
        protocol::service::description()
    }

    async fn call(&mut self, call: Incoming) {
        match &*call.method {
            "pipes" => {
                let (sender, mut changes) = mpsc::unbounded_channel();
                let mut supervisor = self.0.lock().unwrap();
                supervisor.changes = Some(sender);
                let list: Vec<String> = supervisor.list.iter().map(line).collect();
                tokio::spawn(async move {
                    let mut chunks = call.responder.chunks();
                    let _ = chunks.send((list.concat() + "\n").as_bytes()).await;
                    while let Some(change) = changes.recv().await {
                        let _ = chunks.send(line(&change).as_bytes()).await;
                    }
                });
            }
            "ring" => {
                let Ring { stored } = call.parse().unwrap();
                let mut supervisor = self.0.lock().unwrap();
                supervisor.ring.retain(|(id, _)| *id > stored);
                let mut answer = Vec::new();
                for (id, memory) in supervisor.ring.iter().take(1) {
                    let slot = RingSlot { slot: 0, service: name("web"), instance: name("one") };
                    push_ring_part(&mut answer, *id, vec![slot], memory);
                }
                call.responder.reply_bytes(answer);
            }
            _ => {}
        }
    }
}

fn line(pipes: &Pipes) -> String {
    serde_json::to_string(pipes).unwrap() + "\n"
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Device {
    /// A device with a supervisor; the log isn't started.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("config")).unwrap();
        let supervisor = Arc::<Mutex<Supervisor>>::default();
        let server = Server::new(Settings::default()).unwrap();
        server.add("service", Service(Arc::clone(&supervisor))).unwrap();
        let socket = folder.path().join("supervisor.sock");
        server.listen(std::os::unix::net::UnixListener::bind(socket).unwrap()).unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let client = Client::new(folder.path().join("log.sock"), Options::default());
        let pipes = Vec::new();
        Self { folder, supervisor, _server: server, notify, child: None, client, pipes }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.path("config/log.toml"), text).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vestal-log"));
        command
            .arg("--run-dir")
            .arg(self.folder.path())
            .arg("--config-dir")
            .arg(self.path("config"))
            .env("NOTIFY_SOCKET", self.path("notify"))
            .stdin(Stdio::null());
        command
    }

    /// Starts the log and waits until it is ready.
    pub(crate) async fn start(&mut self) {
        self.child = Some(self.command().spawn().unwrap());
        self.notified().await;
    }

    /// Waits until a log says that it is ready.
    pub(crate) async fn notified(&self) {
        assert_eq!(self.said().await, "READY=1");
    }

    /// What a log says to its supervisor next.
    pub(crate) async fn said(&self) -> String {
        let mut text = [0; 64];
        let length = timeout(LIMIT, self.notify.recv(&mut text)).await.unwrap().unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id().try_into().unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the log's end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let waiting = tokio::task::spawn_blocking(move || child.wait().unwrap());
        timeout(LIMIT, waiting).await.unwrap().unwrap()
    }

    pub(crate) async fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.ended().await;
    }

    pub(crate) async fn terminate(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert!(self.ended().await.success());
    }

    /// A service of this name and number with one pipe, of which the log is told: what it prints to.
    pub(crate) fn service(&mut self, service: &str, slot: u32) -> File {
        let path = self.path(&format!("{slot}.out"));
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let open = |flags: OFlags| {
            let flags = i32::try_from((flags | OFlags::NONBLOCK).bits()).unwrap();
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).unwrap()
        };
        self.pipes.push(open(OFlags::empty()));
        let pipes = Pipes {
            slot,
            service: name(service),
            instance: name("one"),
            generation: 1,
            pid: 100,
            out: Some(path.to_str().unwrap().to_owned()),
            err: None,
            gone: false,
        };
        self.tell(pipes);
        open(OFlags::empty())
    }

    /// A change of the supervisor's list.
    pub(crate) fn tell(&self, line: Pipes) {
        let mut supervisor = self.supervisor.lock().unwrap();
        supervisor.list.retain(|known| known.slot != line.slot);
        if !line.gone {
            supervisor.list.push(line.clone());
        }
        if let Some(changes) = &supervisor.changes {
            // Nobody may read it at the moment.
            let _ = changes.send(line);
        }
    }

    /// The known line of a slot, changed.
    pub(crate) fn change(&self, slot: u32, change: impl FnOnce(&mut Pipes)) {
        let known = self.supervisor.lock().unwrap().list.iter().find(|it| it.slot == slot).cloned();
        let mut line = known.unwrap();
        change(&mut line);
        self.tell(line);
    }

    /// What is kept in the supervisor's ring for service `web`.
    pub(crate) fn ring(&self, id: u64, texts: &[&str]) {
        let mut memory = vec![0; 8192];
        ring::clear(&mut memory);
        for text in texts {
            ring::push(&mut memory, 0, ring::Stream::Out, Moment(1), text.as_bytes());
        }
        self.supervisor.lock().unwrap().ring.push((id, memory));
    }

    pub(crate) async fn status(&self) -> Status {
        let args = serde_json::json!({});
        let reply = self.client.call("log", "status", &args, CallOptions::safe()).await;
        reply.unwrap().parse().unwrap()
    }

    pub(crate) async fn read(&self, select: &Select) -> Vec<Record> {
        let reply = self.client.call("log", "read", select, CallOptions::safe()).await.unwrap();
        let lines = reply.result.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .filter(|line| *line != b"null")
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    pub(crate) async fn follow(&self, select: &Select) -> Following {
        let args = serde_json::to_vec(select).unwrap();
        let options = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
        let stream = self.client.call_stream("log", "follow", &args, options).await.unwrap();
        Following { stream, bytes: Vec::new() }
    }

    /// All records up to the first of this text, or to the first that begins so.
    pub(crate) async fn until(&self, text: &str) -> Vec<Record> {
        let mut following = self.follow(&Select::default()).await;
        let mut records = Vec::new();
        loop {
            records.push(following.next().await);
            if records.last().unwrap().text.starts_with(text) {
                return records;
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A `follow`.
pub(crate) struct Following {
    pub(crate) stream: Stream,
    bytes: Vec<u8>,
}

impl Following {
    pub(crate) async fn next(&mut self) -> Record {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.bytes.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let piece = timeout(LIMIT, self.stream.next()).await.expect("nothing more came");
            self.bytes.extend(piece.unwrap().expect("the log ended the stream"));
        }
    }
}

/// Prints without ever waiting: a pipe that is full is a failure.
pub(crate) fn print(pipe: &mut File, text: &str) {
    pipe.write_all(text.as_bytes()).expect("whoever prints never waits");
}

pub(crate) fn texts(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.text.as_str()).collect()
}
