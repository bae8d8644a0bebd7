//! A host as a process of its own, without a supervisor; the test plays the manager.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use endpoint::{CallError, CallOptions, Client, Options};
use hotpatch::Sealed;
use protocol::driver::{Answer, Head, Opened, Report, Settled, Status};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::drivers::build;
use tokio::task::JoinHandle;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vestal-driver");
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Bench {
    folder: TempDir,
    name: &'static str,
    host: Option<Child>,
    client: Client,
}

/// A version: its object's file, and what it is called.
pub(crate) struct Object {
    pub(crate) path: PathBuf,
    version: String,
}

impl Bench {
    /// A host of this example driver, with further lines of settings.
    pub(crate) fn new(example: &'static str, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::create_dir(at.join("config")).unwrap();
        let object = build(at, example, &[]);
        let text = format!("[drivers.{example}]\nobject = {object:?}\n{settings}\n");
        fs::write(at.join("config/driver.toml"), text).unwrap();
        let socket = at.join("run").join(format!("driver.{example}.sock"));
        let client = Client::new(socket, Options::default());
        let mut bench = Self { folder, name: example, host: None, client };
        bench.start();
        bench
    }

    pub(crate) fn start(&mut self) {
        let at = |name: &str| self.folder.path().join(name);
        let host = Command::new(PROGRAM)
            .args(["--host", self.name])
            .arg("--run-dir")
            .arg(at("run"))
            .arg("--config-dir")
            .arg(at("config"))
            .arg("--state-dir")
            .arg(at("state"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.host = Some(host);
    }

    pub(crate) fn object(&self, version: &str, options: &[&str]) -> Object {
        let named = testkit::drivers::version(version);
        let options: Vec<&str> = [&*named].into_iter().chain(options.iter().copied()).collect();
        Object { path: build(self.folder.path(), self.name, &options), version: version.to_owned() }
    }

    /// What the manager writes before it asks the host.
    pub(crate) fn record_probation(&self, object: &Object) {
        let folder = self.folder.path().join("state/driver").join(self.name);
        fs::create_dir_all(&folder).unwrap();
        let text = fs::read_to_string(self.folder.path().join("config/driver.toml")).unwrap();
        let factory = text.split('"').nth(1).unwrap();
        let version = |path: &Path, version: &str| {
            let bytes = fs::read(path).unwrap();
            let hash = hash(&bytes);
            fs::write(folder.join(format!("{hash}.so")), bytes).unwrap();
            json!({ "version": version, "hash": hash, "rollback_index": 0 })
        };
        let before = version(Path::new(factory), "");
        let record = json!({
            "current": version(&object.path, &object.version),
            "previous": before,
            "probation": true,
            "floor": 0,
            "factory": before["hash"],
        });
        fs::write(folder.join("record.json"), record.to_string()).unwrap();
    }

    pub(crate) async fn replace(&self, object: &Object) -> Result<Report, CallError> {
        let bytes = fs::read(&object.path).unwrap();
        let sealed = Sealed::new("object", &bytes).unwrap();
        let replacement = json!({
            "name": self.name, "hash": hash(&bytes), "version": object.version,
            "rollback_index": 0, "dev": true,
        });
        let fds = [sealed.fd()];
        let options = CallOptions { deadline: DEADLINE, fds: &fds, ..CallOptions::default() };
        let args = json!({ "replacement": replacement });
        let answer = self.client.call(&self.at(), "replace", &args, options).await?;
        Ok(answer.parse().unwrap())
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Another task's connection.
    pub(crate) fn another_client(&self) -> Client {
        Client::new(self.run_dir().join(format!("driver.{}.sock", self.name)), Options::default())
    }

    /// Waits until the driver was given the call of this number of a handle, as the journal says.
    pub(crate) fn until_started(&self, handle: u64, sequence: u64) {
        let journal = self.run_dir().join("driver").join(self.name).join("handles");
        testkit::until("the driver has the call", || {
            let bytes = fs::read(&journal).ok()?;
            let (words, _) = bytes.as_chunks::<8>();
            let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
            let at = words.iter().position(|word| *word == handle)?;
            (words.get(at + 4) == Some(&sequence)).then_some(())
        });
    }

    pub(crate) fn at(&self) -> String {
        format!("driver/{}", self.name)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) async fn ask<T: DeserializeOwned>(&self, method: &str, args: Value) -> T {
        let options = CallOptions { deadline: DEADLINE, ..CallOptions::safe() };
        self.client.call(&self.at(), method, &args, options).await.unwrap().parse().unwrap()
    }

    pub(crate) async fn status(&self) -> Status {
        self.ask("status", json!({})).await
    }

    pub(crate) async fn settled(&self) -> Settled {
        self.ask("settled", json!({})).await
    }

    pub(crate) async fn open(&self) -> u64 {
        let opened: Opened = self.ask("open", json!({})).await;
        assert_eq!(opened.result, 0);
        opened.handle
    }

    /// A call, made again where the host went away.
    pub(crate) async fn data(
        &self,
        method: &'static str,
        head: Head,
        data: &[u8],
    ) -> (i64, Vec<u8>) {
        self.repeated(method, head.encode(data)).await
    }

    /// The same beside the test, without data.
    pub(crate) fn repeating(
        &self,
        method: &'static str,
        head: Head,
    ) -> impl Future<Output = (i64, Vec<u8>)> + use<> {
        self.repeated(method, head.encode(&[]))
    }

    fn repeated(
        &self,
        method: &'static str,
        bytes: Vec<u8>,
    ) -> impl Future<Output = (i64, Vec<u8>)> + use<> {
        let (client, at) = (self.client.clone(), self.at());
        async move {
            loop {
                let options = CallOptions { deadline: DEADLINE, ..CallOptions::default() };
                match client.call_bytes(&at, method, &bytes, options).await {
                    Ok(answer) => {
                        let answer = Answer::parse(&answer.result).unwrap();
                        return (answer.result, answer.data.to_vec());
                    }
                    Err(CallError::Refused(failure)) if failure.code != endpoint::Code::Gone => {
                        panic!("{failure}")
                    }
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        }
    }

    pub(crate) async fn write(&self, handle: u64, sequence: u64, data: &[u8]) -> i64 {
        let head = Head { handle, sequence, word: 0, length: 0 };
        self.data("write", head, data).await.0
    }

    pub(crate) async fn line(&self, handle: u64) -> String {
        let head = Head { handle, sequence: 0, word: 0, length: 200 };
        String::from_utf8(self.data("read", head, &[]).await.1).unwrap()
    }

    /// A call beside the test.
    pub(crate) fn begin(
        &self,
        method: &'static str,
        head: Head,
        data: &[u8],
    ) -> JoinHandle<(i64, Vec<u8>)> {
        let (client, at, bytes) = (self.client.clone(), self.at(), head.encode(data));
        tokio::spawn(async move {
            let options = CallOptions { deadline: DEADLINE, ..CallOptions::default() };
            let answer = client.call_bytes(&at, method, &bytes, options).await.unwrap();
            let answer = Answer::parse(&answer.result).unwrap();
            (answer.result, answer.data.to_vec())
        })
    }

    /// A call that nobody waits for.
    pub(crate) fn begin_write(&self, handle: u64, sequence: u64, data: &[u8]) {
        let head = Head { handle, sequence, word: 0, length: 0 };
        let (client, at, bytes) = (self.client.clone(), self.at(), head.encode(data));
        tokio::spawn(async move {
            let options = CallOptions { deadline: DEADLINE, ..CallOptions::default() };
            client.call_bytes(&at, "write", &bytes, options).await.map(drop)
        });
    }

    /// How many sockets the host has.
    pub(crate) fn sockets(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.host.as_ref().unwrap().id());
        let links =
            fs::read_dir(folder).unwrap().flatten().map(|entry| fs::read_link(entry.path()));
        links.flatten().filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.host.as_ref().unwrap().id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// How the host ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut host = self.host.take().unwrap();
        tokio::task::spawn_blocking(move || host.wait()).await.unwrap().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mut host) = self.host.take() {
            let _ = host.kill();
            let _ = host.wait();
        }
    }
}

pub(crate) fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|octet| format!("{octet:02x}")).collect()
}
