//! A device of its own: a run directory, a folder of configuration, a supervisor that only takes changes, and the real watcher.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use endpoint::{
    CallError, CallOptions, Client, Code, Description, Failure, Incoming, Options, Serve, Server,
    Settings,
};
use protocol::config::{Change, Reloaded, State, Status};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixDatagram, sync::watch, time::timeout};

/// Nothing here takes so long, unless it never ends.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Device {
    folder: tempfile::TempDir,
    pub(crate) supervisor: Arc<Supervisor>,
    server: Option<Server>,
    notify: UnixDatagram,
    child: Option<Child>,
    client: Client,
}

/// Takes changes as the real one does: one it has taken already sets off nothing.
#[derive(Default)]
pub(crate) struct Supervisor {
    state: Mutex<Taken>,
    /// What `service.list` answers.
    pub(crate) list: Mutex<serde_json::Value>,
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Taken {
    last: BTreeMap<String, String>,
    changes: Vec<Change>,
    calls: usize,
    /// So many calls are refused first.
    refuse: usize,
}

struct Service(Arc<Supervisor>);

#[derive(serde::Deserialize)]
struct Event {
    r#type: String,
    data: Change,
}

impl Serve for Service {
    fn describe(&self) -> Description {
        protocol::service::description()
    }

    async fn call(&mut self, call: Incoming) {
        if &*call.method == "list" {
            return call.responder.reply(&*self.0.list.lock().unwrap());
        }
        let event: Event = call.parse().unwrap();
        assert_eq!(event.r#type, "config.change");
        let refused = self.0.take(event.data);
        match refused {
            true => call.responder.fail(Failure::new(Code::Busy, "not now")),
            false => call.responder.reply(&serde_json::json!({})),
        }
    }
}

impl Supervisor {
    fn take(&self, change: Change) -> bool {
        let mut taken = self.state.lock().unwrap();
        taken.calls += 1;
        if taken.refuse > 0 {
            taken.refuse -= 1;
            return true;
        }
        let before = taken.last.insert(change.package.clone(), change.digest.clone());
        if before.as_ref() != Some(&change.digest) {
            taken.changes.push(change);
            self.count.send_replace(taken.changes.len());
        }
        false
    }

    pub(crate) fn refuse(&self, calls: usize) {
        self.state.lock().unwrap().refuse = calls;
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.state.lock().unwrap().changes.clone()
    }

    pub(crate) fn packages(&self) -> Vec<String> {
        self.changes().into_iter().map(|change| change.package).collect()
    }

    /// Waits until so many changes were taken.
    pub(crate) async fn taken(&self, count: usize) -> Vec<Change> {
        let mut seen = self.count.subscribe();
        timeout(LIMIT, seen.wait_for(|there| *there >= count))
            .await
            .expect("no change came")
            .unwrap();
        self.changes()
    }
}

impl Device {
    /// A device with a supervisor; the watcher isn't started.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config", "uci", "settings"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let client = Client::new(folder.path().join("config.sock"), Options::default());
        let supervisor = Arc::default();
        let mut device = Self { folder, supervisor, server: None, notify, child: None, client };
        device.supervise();
        device
    }

    /// The supervisor begins to answer.
    pub(crate) fn supervise(&mut self) {
        let socket = self.path("supervisor.sock");
        let _ = fs::remove_file(&socket);
        let server = Server::new(Settings::default()).unwrap();
        server.add("service", Service(Arc::clone(&self.supervisor))).unwrap();
        server.listen(std::os::unix::net::UnixListener::bind(socket).unwrap()).unwrap();
        self.server = Some(server);
    }

    /// The supervisor leaves.
    pub(crate) async fn abandon(&mut self) {
        self.server.take().unwrap().drain(LIMIT).await;
        fs::remove_file(self.path("supervisor.sock")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file among OpenWrt's.
    pub(crate) fn uci(&self, name: &str) -> PathBuf {
        self.path("uci").join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.uci(name), text).unwrap();
    }

    /// As `uci commit` and good editors do.
    pub(crate) fn write_over(&self, name: &str, text: &str) {
        let fresh = self.uci(&format!(".{name}.new"));
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.uci(name)).unwrap();
    }

    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.path("settings/config.toml"), text).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vestal-config"));
        let path = |name: &str| self.path(name);
        command
            .args([Path::new("--run-dir"), self.folder.path()])
            .args([Path::new("--config-dir"), &path("settings")])
            .args([Path::new("--uci-dir"), &path("uci")])
            .args(["--log-level", "error"])
            .env("NOTIFY_SOCKET", path("notify"))
            .stdin(Stdio::null());
        command
    }

    /// Starts the watcher and waits until it has compared everything.
    pub(crate) async fn start(&mut self) {
        self.spawn();
        assert_eq!(self.said().await, "READY=1");
    }

    pub(crate) fn spawn(&mut self) {
        self.child = Some(self.command().spawn().unwrap());
    }

    /// What the watcher says to its supervisor next.
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

    async fn ended(&mut self) -> ExitStatus {
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

    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        args: &impl Serialize,
    ) -> Result<T, Failure> {
        match self.client.call("config", method, args, CallOptions::safe()).await {
            Ok(reply) => Ok(reply.parse().unwrap()),
            Err(CallError::Refused(failure)) => Err(failure),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn reload(&self) -> Reloaded {
        self.call("reload", &serde_json::json!({})).await.unwrap()
    }

    pub(crate) async fn status(&self) -> Status {
        self.call("status", &serde_json::json!({})).await.unwrap()
    }

    pub(crate) async fn state(&self, package: &str) -> State {
        let status = self.status().await;
        status.packages.iter().find(|it| it.package == package).expect("it is watched").state
    }

    /// Waits until the watcher has seen what was done before, by a file that it is to announce.
    pub(crate) async fn settled(&self) {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("mark{count}");
        self.write(&name, &text("mark", &count.to_string()));
        let mut seen = self.supervisor.count.subscribe();
        let there = seen.wait_for(|_| self.supervisor.packages().contains(&name));
        timeout(LIMIT, there).await.expect("nothing is seen any more").unwrap();
    }

    /// The packages that were announced, without the marks.
    pub(crate) fn announced(&self) -> Vec<String> {
        let packages = self.supervisor.packages().into_iter();
        packages.filter(|name| !name.starts_with("mark")).collect()
    }

    /// Waits until a package stands so.
    pub(crate) async fn until(&self, package: &str, state: State) {
        let there = async {
            while self.state(package).await != state {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, there).await.expect("it never stands so");
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

/// A package with one value.
pub(crate) fn text(section: &str, value: &str) -> String {
    format!("config service '{section}'\n\toption value '{value}'\n")
}
