//! A registry process, and endpoints in this one.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use endpoint::{
    ArgumentKind, Bus, CallOptions, Client, Description, Incoming, Options, Registration,
    RetryPolicy, Serve, Server, Settings, State,
};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes that long, on the slowest machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct House {
    pub(crate) folder: TempDir,
    registry: Option<Child>,
}

impl House {
    /// With a registry.
    pub(crate) fn new() -> Self {
        let mut house = Self::empty();
        house.start();
        house
    }

    pub(crate) fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("config/policy.d")).unwrap();
        Self { folder, registry: None }
    }

    pub(crate) fn start(&mut self) {
        let child = self.command().spawn().unwrap();
        self.registry = Some(child);
    }

    /// SIGKILL, and until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.registry.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn registry_pid(&self) -> u32 {
        self.registry.as_ref().unwrap().id()
    }

    /// Starts another one beside it, then ends it by SIGTERM; whether it ended well.
    pub(crate) fn replace(&mut self) -> bool {
        let mut old = self.registry.take().unwrap();
        self.registry = Some(self.command().env("VESTAL_REPLACES", "1").spawn().unwrap());
        let pid = rustix::process::Pid::from_child(&old);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        old.wait().unwrap().success()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vestal-registry"));
        command
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--config-dir")
            .arg(self.folder.path().join("config"))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn bus(&self) -> Bus {
        Bus::new(self.run_dir(), Options::default())
    }

    pub(crate) fn policy(&self, name: &str, text: &str) {
        let place = self.folder.path().join("config/policy.d");
        fs::write(place.join(format!(".{name}")), text).unwrap();
        fs::rename(place.join(format!(".{name}")), place.join(name)).unwrap();
    }

    /// A server of these objects in this process, registered.
    pub(crate) async fn serve(&self, socket: &str, names: &[&str]) -> Provider {
        let path = self.folder.path().join(socket);
        let server = Server::new(Settings::default()).unwrap();
        for name in names {
            server.add(name, Echo).unwrap();
        }
        let _ = fs::remove_file(&path);
        server.listen(UnixListener::bind(&path).unwrap()).unwrap();
        let bus = self.bus();
        let registration = bus.register(&server, path, RetryPolicy::DEFAULT);
        let provider = Provider { bus, server, registration };
        provider.registered().await;
        provider
    }

    /// A call of the registry on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, args: Value) -> Value {
        let client = Client::new(self.run_dir().join("registry.sock"), Options::default());
        let answer = client.call("registry", method, &args, CallOptions::safe()).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}")).parse().unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(mut child) = self.registry.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) struct Provider {
    pub(crate) bus: Bus,
    pub(crate) server: Server,
    pub(crate) registration: Registration,
}

impl Provider {
    /// Its handle, once it has one.
    pub(crate) async fn registered(&self) -> String {
        let mut state = self.registration.state();
        let there = state.wait_for(|state| matches!(state, State::Registered { .. }));
        let state = tokio::time::timeout(LIMIT, there).await.expect("in time").unwrap();
        match &*state {
            State::Registered { handle } => handle.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

/// Answers its arguments.
pub(crate) struct Echo;

impl Serve for Echo {
    fn describe(&self) -> Description {
        Description::new("demo.echo", 1 << 16).method(
            "echo",
            &[("text", ArgumentKind::String, false)],
            "answers its arguments",
            "text",
        )
    }

    async fn call(&mut self, call: Incoming) {
        let args = call.args;
        call.responder.reply_bytes(args);
    }
}
