//! The real broker in a run directory of its own, and a supervisor that only notes which misses it is told of.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixListener},
    },
    path::PathBuf,
    sync::mpsc,
    thread::JoinHandle,
    time::Instant,
};

use anyhow::Context as _;
use endpoint::{CallOptions, Client, Incoming, Options, Serve, Server, Settings};
use protocol::{
    heartbeat::{Expect, Missed},
    name::Name,
    objects::{Description, version},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::{
    ground::{Ground, LIMIT, Process, now},
    session::KEY,
};

pub(crate) struct Broker {
    process: Process,
    pub(crate) address: SocketAddr,
    notify: UnixDatagram,
    client: Client,
    runtime: tokio::runtime::Runtime,
    /// So that the broker has nobody to look for any more.
    _registry: Option<Process>,
    folder: TempDir,
}

/// Who else runs beside the broker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Company {
    Nobody,
    Registry,
}

impl Broker {
    /// Ready. `configured`: so many applications are in its file; the others are to be expected.
    pub(crate) fn start(
        ground: &Ground,
        company: Company,
        configured: usize,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vb").tempdir_in("/tmp")?;
        fs::create_dir(folder.path().join("run"))?;
        fs::write(folder.path().join("heartbeat.toml"), file(configured))?;
        let key = folder.path().join("key");
        fs::write(&key, KEY.0)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        let registry = match company {
            Company::Nobody => None,
            Company::Registry => {
                let mut command = ground.command(&testkit::binary("vestal-registry"));
                command.env("VESTAL_RUN_DIR", folder.path().join("run"));
                command.env("VESTAL_STATE_DIR", folder.path().join("state"));
                command.env("VESTAL_CONFIG_DIR", folder.path());
                let log = fs::File::create(folder.path().join("registry.log"))?;
                Some(Process::start(command.stderr(log))?)
            }
        };
        let notify = UnixDatagram::bind(folder.path().join("notify"))?;
        notify.set_read_timeout(Some(LIMIT))?;
        let options = Options { patience: LIMIT, ..Options::default() };
        let client = Client::new(folder.path().join("run/heartbeat.sock"), options);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let process = spawn(ground, &folder)?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut broker =
            Self { process, address, notify, client, runtime, _registry: registry, folder };
        broker.wait()?;
        Ok(broker)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        // Before it, it leaves its sockets with the supervisor.
        let mut said = [0; 64];
        while !said.starts_with(b"READY=1") {
            self.notify.recv(&mut said).context("the broker gets ready")?;
        }
        let text = fs::read_to_string(self.folder.path().join("run/heartbeat/addr"))?;
        self.address = text.trim().parse().with_context(|| format!("understand {text:?}"))?;
        Ok(())
    }

    /// Kills it and starts another one; gives the moment of the kill and the moment at which the next one is ready.
    pub(crate) fn replace(&mut self, ground: &Ground) -> anyhow::Result<[Instant; 2]> {
        let before = self.address;
        let killed = now();
        self.process.kill();
        self.process = spawn(ground, &self.folder)?;
        self.wait()?;
        anyhow::ensure!(self.address == before, "the next broker listens elsewhere");
        Ok([killed, now()])
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// As the supervisor does before it starts an instance, for applications 1 to `count`.
    pub(crate) fn expect(&self, count: usize, period_ms: u32, misses: u32) -> anyhow::Result<()> {
        for app_id in 1..=i32::try_from(count)? {
            let expect = Expect {
                service: Name::new("bench").context("a valid name")?,
                instance: Name::new(format!("i{app_id}")).context("a valid name")?,
                app_id,
                generation: 1,
                key: Some("07".repeat(KEY.0.len())),
                period_ms,
                misses,
                grace_ms: 600_000,
                progress_ms: 0,
                adaptive: false,
                frozen: false,
            };
            self.call("expect", &serde_json::to_value(expect)?)?;
        }
        Ok(())
    }

    /// A counter of `heartbeat.status`, such as `machine/reports`.
    pub(crate) fn count(&self, which: &str) -> anyhow::Result<u64> {
        let status = self.call("status", &json!({}))?;
        let count = status.pointer(&format!("/{which}")).and_then(Value::as_u64);
        count.with_context(|| format!("no {which} in {status}"))
    }

    fn call(&self, method: &str, args: &Value) -> anyhow::Result<Value> {
        let call = self.client.call("heartbeat", method, args, CallOptions::safe());
        Ok(self.runtime.block_on(call)?.parse()?)
    }

    pub(crate) fn supervisor(&self) -> anyhow::Result<Supervisor> {
        Supervisor::start(self.folder.path().join("run/supervisor.sock"))
    }
}

fn file(configured: usize) -> String {
    let mut text = "[limits]\nperiod-max = \"24h\"\n".to_owned();
    for app_id in 1..=configured {
        text.push_str(&format!("[apps.{app_id}]\nkey-file = \"key\"\n"));
    }
    text
}

fn spawn(ground: &Ground, folder: &TempDir) -> anyhow::Result<Process> {
    let mut command = ground.command(&testkit::binary("vestal-heartbeat"));
    command.args(["--listen", "127.0.0.1:0"]);
    command.env("VESTAL_RUN_DIR", folder.path().join("run"));
    command.env("VESTAL_STATE_DIR", folder.path().join("state"));
    command.env("VESTAL_CONFIG_DIR", folder.path());
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env_remove("LISTEN_FDS");
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.path().join("log"))?;
    Process::start(command.stderr(log))
}

/// Takes `service.missed` and does nothing about it but note the moment.
pub(crate) struct Supervisor {
    pub(crate) told: mpsc::Receiver<(Missed, Instant)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

struct Service(mpsc::Sender<(Missed, Instant)>);

impl Serve for Service {
    fn describe(&self) -> Description {
        Description::new("vestal.service", version(1, 0)).method("missed", &[], "", "")
    }

    async fn call(&mut self, call: Incoming) {
        let time = now();
        match call.parse::<Missed>() {
            // Who measures has ended where nobody listens any more.
            Ok(missed) => drop(self.0.send((missed, time))),
            Err(failure) => return call.responder.fail(failure),
        }
        call.responder.reply(&());
    }
}

impl Supervisor {
    fn start(socket: PathBuf) -> anyhow::Result<Self> {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = UnixListener::bind(socket)?;
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let server = Server::new(Settings::default())?;
                server.add("service", Service(tell))?;
                server.listen(listener)?;
                // An end without a word is an end, too.
                let _ = stopped.await;
                Ok(())
            })
        });
        Ok(Self { told, stop: Some(stop), thread: Some(thread) })
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
