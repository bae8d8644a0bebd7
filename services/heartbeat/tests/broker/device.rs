//! A run directory with the real broker, and a supervisor that notes what it is told.

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::{UnixDatagram, UnixListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::JoinHandle,
};

use endpoint::{CallOptions, Client, Incoming, Options, Serve, Server, Settings};
use protocol::{
    heartbeat::{Expect, Key, Missed, Row},
    name::Name,
    objects::Description,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::peer::{LIMIT, Peer};

pub(crate) const KEY: Key = Key([7; 16]);

pub(crate) struct Device {
    pub(crate) folder: tempfile::TempDir,
    notify: UnixDatagram,
    child: Option<Child>,
    pub(crate) broker: SocketAddr,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Device {
    /// A broker that is ready, with these settings.
    pub(crate) fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("heartbeat.toml"), settings).unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(LIMIT)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Client::new(folder.path().join("heartbeat.sock"), Options::default());
        let broker = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut device = Self { folder, notify, child: None, broker, runtime, client };
        device.start();
        device
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vestal-heartbeat"));
        command
            .args(["--listen", "127.0.0.1:0", "--log-level", "debug"])
            .arg("--run-dir")
            .arg(self.folder.path())
            .arg("--config-dir")
            .arg(self.folder.path())
            .env_remove("LISTEN_FDS")
            .env_remove("VESTAL_HEARTBEAT_LISTEN")
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&mut self) {
        self.child = Some(self.spawn(None));
        self.ready();
        self.broker = self.addresses()[0];
    }

    /// As `service replace` does it: the next one is prepared beside the old one, which then leaves.
    pub(crate) fn replace(&mut self) {
        let next = self.spawn(Some("1"));
        self.ready();
        assert_eq!(self.terminate().code(), Some(0));
        self.child = Some(next);
        self.ready();
        self.broker = self.addresses()[0];
    }

    fn spawn(&self, replaces: Option<&str>) -> Child {
        let mut command = self.command();
        if let Some(replaces) = replaces {
            command.env("VESTAL_REPLACES", replaces);
        }
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .unwrap();
        command.stderr(log).spawn().unwrap()
    }

    fn ready(&self) {
        // It leaves its sockets with us before.
        let mut said = [0; 256];
        while {
            let length = self.notify.recv(&mut said).unwrap();
            &said[..length] != b"READY=1"
        } {}
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let text = fs::read_to_string(self.folder.path().join("heartbeat/addr")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.child.as_ref().unwrap())
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        self.child.take().unwrap().wait().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn call(&self, method: &str, args: &Value) -> Result<Value, String> {
        let call = self.client.call("heartbeat", method, args, CallOptions::safe());
        let answer = self.runtime.block_on(call).map_err(|error| error.to_string())?;
        Ok(serde_json::from_slice(&answer.result).unwrap())
    }

    pub(crate) fn expect(&self, app_id: i32, generation: u32, period_ms: u32) {
        let expect = Expect {
            service: Name::new("camera").unwrap(),
            instance: Name::new("instance1").unwrap(),
            app_id,
            generation,
            key: Some("07".repeat(16)),
            period_ms,
            misses: 3,
            grace_ms: 60_000,
            progress_ms: 0,
            adaptive: false,
            frozen: false,
        };
        self.call("expect", &serde_json::to_value(expect).unwrap()).unwrap();
    }

    /// Expected, connected and registered.
    pub(crate) fn application(&self, app_id: i32, period_ms: u32) -> Peer {
        self.expect(app_id, 1, period_ms);
        let mut peer = Peer::open(self.broker, (app_id, 1), Some(KEY));
        assert_eq!(peer.register(0), protocol::heartbeat::ResultCode::Ok);
        peer
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        serde_json::from_value(self.call("list", &json!({})).unwrap()).unwrap()
    }

    pub(crate) fn row(&self, app_id: i32) -> Row {
        self.rows().into_iter().find(|row| row.app_id == app_id).unwrap()
    }

    /// A counter of `status`, such as `machine/bad_tag`.
    pub(crate) fn count(&self, which: &str) -> u64 {
        let status = self.call("status", &json!({})).unwrap();
        status.pointer(&format!("/{which}")).and_then(Value::as_u64).unwrap()
    }

    pub(crate) fn supervisor(&self) -> Supervisor {
        Supervisor::start(self.folder.path().join("supervisor.sock"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Takes `service.missed` and does nothing about it.
pub(crate) struct Supervisor {
    pub(crate) missed: mpsc::Receiver<Missed>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Service(mpsc::Sender<Missed>);

impl Serve for Service {
    fn describe(&self) -> Description {
        Description::new("vestal.service", 1).method("missed", &[], "", "")
    }

    async fn call(&mut self, call: Incoming) {
        let missed = call.parse::<Missed>().unwrap();
        // A test that doesn't want to know has dropped the other end.
        let _ = self.0.send(missed);
        call.responder.reply(&());
    }
}

impl Supervisor {
    fn start(socket: PathBuf) -> Self {
        let (tell, missed) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::new(Settings::default()).unwrap();
                server.add("service", Service(tell)).unwrap();
                server.listen(listener).unwrap();
                let _ = stopped.await;
            });
            let _ = fs::remove_file(socket);
        });
        Self { missed, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn next(&self) -> Missed {
        self.missed.recv_timeout(LIMIT).unwrap()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
