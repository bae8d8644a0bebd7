//! The program against a device on loopback: real TCP and TLS, and an object that keeps chunks in memory.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream},
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use bundle::{
    Manifest, SecretKey, hex,
    index::{Page, Wanted},
};
use endpoint::{
    Code, Description, Failure, Incoming, Serve, Server, Settings,
    tls::{Acceptor, KeyPair},
};
use protocol::{
    policy::{Rule, Verb, Verdict, Who},
    upgrade::{Begun, Entry, PAGE_TABLE, State, Status, Transaction, split_head},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

const DEVICE: [u8; 32] = [1; 32];
const OPERATOR: [u8; 32] = [2; 32];
const STRANGER: [u8; 32] = [3; 32];
const FOREVER: Duration = Duration::from_secs(3600);

/// A host's folder, and a device that it can reach.
struct Bench {
    folder: TempDir,
    address: SocketAddr,
    memory: Memory,
}

#[derive(Clone, Default)]
struct Memory(Arc<(Mutex<Kept>, Notify)>);

#[derive(Default)]
struct Kept {
    page: Option<Page>,
    chunks: BTreeMap<u32, Vec<u8>>,
    /// Chunks that came, again or not.
    received: usize,
    /// The connection is cut when so many have come.
    cut_at: Option<usize>,
    permission: Vec<u8>,
    /// How often it was asked how things stand.
    looks: usize,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, seed) in [("operator.key", OPERATOR), ("stranger.key", STRANGER)] {
            let text = format!("VESTAL-SECRET-KEY-1 {}\n", hex::encode(&seed));
            let path = folder.path().join(name);
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(path);
            std::io::Write::write_all(&mut file.unwrap(), text.as_bytes()).unwrap();
        }
        let memory = Memory::default();
        let address = device(DEVICE, memory.clone());
        Self { folder, address, memory }
    }

    fn run(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vestal"))
            .args(line.split(' '))
            .current_dir(self.folder.path())
            .env_clear()
            .env("XDG_CONFIG_HOME", self.folder.path())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn good(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and the one line of an error.
    #[track_caller]
    fn bad(&self, line: &str) -> (i32, String) {
        let output = self.run(line);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("vestal: "), "{line}: {error}");
        assert_eq!(error.lines().count(), 1, "{line}: {error}");
        (output.status.code().unwrap(), error)
    }

    fn trust(&self) {
        let fingerprint = fingerprint(&DEVICE);
        self.good(&format!("trust add {} --fingerprint {fingerprint}", self.address));
    }

    /// A bundle for `product`.
    fn bundle(&self, product: &str) {
        let path = |name: &str| self.folder.path().join(name);
        let image: Vec<u8> = (0..800_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        fs::write(path("app.img"), image).unwrap();
        let recipe = format!(
            "product = {product:?}\nrevisions = [\"*\"]\nversion = \"2\"\n[components.app]\nimage = \"app.img\"\nrollback-index = 1\n"
        );
        fs::write(path("recipe.toml"), recipe).unwrap();
        self.good("bundle create recipe.toml -o app.vestal");
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.memory.0.0.lock().unwrap()
    }
}

fn fingerprint(seed: &[u8; 32]) -> String {
    hex::encode(&SecretKey::new(seed).public().fingerprint())
}

/// A device that knows the operator, for as long as the test runs.
fn device(key: [u8; 32], memory: Memory) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let operator = *SecretKey::new(&OPERATOR).public().octets();
            let pair = KeyPair::from_seed(&key).unwrap();
            let acceptor = Acceptor::new(&pair, Arc::new(move |shown| *shown == operator)).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok((carrier, _)) = acceptor.accept(stream).await {
                    let memory = memory.clone();
                    let (here, server) = serve(memory.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            ended = carrier.carry(here, FOREVER) => drop(ended),
                            () = memory.0.1.notified() => {}
                        }
                        server.drain(Duration::ZERO).await;
                    });
                }
            }
        });
    });
    address
}

fn serve(memory: Memory) -> (tokio::net::UnixStream, Server) {
    let all = Rule {
        verdict: Verdict::Allow,
        verb: Verb::Call,
        what: "upgrade".to_owned(),
        methods: Vec::new(),
        who: Who { anyone: true, ..Who::default() },
        source: "test".to_owned(),
    };
    let settings = Settings {
        trusting: false,
        rules: Arc::new(vec![all]),
        strangers_frame_max: 512 << 10,
        ..Settings::default()
    };
    let server = Server::new(settings).unwrap();
    server.add("upgrade", memory).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    server.serve(there).unwrap();
    here.set_nonblocking(true).unwrap();
    (tokio::net::UnixStream::from_std(here).unwrap(), server)
}

impl Serve for Memory {
    fn describe(&self) -> Description {
        protocol::upgrade::description()
    }

    async fn call(&mut self, call: Incoming) {
        let mut kept = self.0.0.lock().unwrap();
        match &*call.method {
            "begin" => call.responder.finish(begin(&call.args[12..])),
            "pages" => {
                let (_, _, number, data) = split_head(&call.args).unwrap();
                if number == PAGE_TABLE {
                    return call.responder.reply(&Value::Null);
                }
                let page = Page::parse(number, data).unwrap();
                let mut wanted = Wanted::none(page.chunks.len());
                for at in 0..page.chunks.len() {
                    let number = page.first_chunk() + u32::try_from(at).unwrap();
                    if !kept.chunks.contains_key(&number) {
                        wanted.want(at);
                    }
                }
                kept.page = Some(page);
                call.responder.reply_bytes(wanted.bytes().to_vec());
            }
            "chunk" => {
                let (_, _, number, data) = split_head(&call.args).unwrap();
                if kept.cut_at == Some(kept.received) {
                    kept.cut_at = None;
                    return self.0.1.notify_waiters();
                }
                kept.received += 1;
                kept.chunks.insert(number, data.to_vec());
                call.responder.reply(&Value::Null);
            }
            "finish" => {
                let status = Status { state: State::Verifying, ..Status::default() };
                call.responder.reply(&status);
            }
            "status" => {
                kept.looks += 1;
                let state = [State::Trial, State::Confirmed][usize::from(kept.looks > 1)];
                call.responder.reply(&Status { state, ..Status::default() });
            }
            "permission" => {
                kept.permission.clone_from(&call.args);
                call.responder.reply(&Value::Null);
            }
            "history" => call.responder.reply(&[Entry {
                sequence: 1,
                time: 1_795_320_320,
                state: State::Confirmed,
                transaction: Transaction::default(),
                reason: String::new(),
                outage_ms: None,
            }]),
            other => {
                let text = format!("{other}: not in this test");
                call.responder.fail(Failure::new(Code::Failed, text));
            }
        }
    }
}

fn begin(offer: &[u8]) -> Result<Begun, Failure> {
    let manifest = Manifest::parse(bundle::split(offer).unwrap().manifest).unwrap();
    if manifest.product != "demo" {
        let text = format!("the bundle is for {}, this device is a demo", manifest.product);
        let details = json!({ "reason": "wrong-product" });
        return Err(Failure::new(Code::Denied, text).with_details(details));
    }
    Ok(Begun { session: 1, window: 8, components: vec![0], current: false })
}

#[test]
fn a_device_is_trusted_by_its_fingerprint_and_by_no_other() {
    let bench = Bench::new();
    let address = bench.address;
    let (code, error) = bench.bad(&format!("trust add {address} --fingerprint 00"));
    assert_eq!(code, 1, "{error}");
    // Nobody can be asked here.
    let (code, error) = bench.bad(&format!("trust add {address}"));
    assert!(code == 1 && error.contains(&fingerprint(&DEVICE)), "{error}");
    assert!(!bench.folder.path().join("vestal").exists());
    let (code, error) = bench.bad(&format!("status {address} --key operator.key"));
    assert!(code == 3 && error.contains("vestal trust add"), "{error}");
    bench.trust();
    assert!(bench.good("trust list").contains(&fingerprint(&DEVICE)));
    let status = bench.good(&format!("status {address} --key operator.key --json"));
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["state"], "trial");
    bench.good(&format!("trust remove {address}"));
    assert_eq!(bench.bad(&format!("trust remove {address}")).0, 3);
}

#[test]
fn a_device_with_another_key_than_the_known_one_is_not_talked_to() {
    let bench = Bench::new();
    bench.trust();
    // Somebody else answers where the device was.
    let other = device(STRANGER, Memory::default());
    let path = bench.folder.path().join("vestal/devices.json");
    let known = fs::read_to_string(&path).unwrap();
    fs::write(&path, known.replace(&bench.address.to_string(), &other.to_string())).unwrap();
    let (code, error) = bench.bad(&format!("status {other} --key operator.key"));
    assert_eq!(code, 1, "{error}");
    assert!(
        error.contains(&fingerprint(&STRANGER)) && error.contains(&fingerprint(&DEVICE)),
        "{error}"
    );
}

#[test]
fn a_key_that_the_device_does_not_know_is_named_in_the_error() {
    let bench = Bench::new();
    bench.trust();
    let (code, error) = bench.bad(&format!("status {} --key stranger.key", bench.address));
    let id = SecretKey::new(&STRANGER).public().id().to_string();
    assert!(code == 1 && error.contains(&id), "{error}");
}

#[test]
fn a_device_that_is_away_is_exit_code_4() {
    let bench = Bench::new();
    bench.trust();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let path = bench.folder.path().join("vestal/devices.json");
    let known = fs::read_to_string(&path).unwrap();
    fs::write(&path, known.replace(&bench.address.to_string(), &free.to_string())).unwrap();
    assert_eq!(bench.bad(&format!("status {free} --key operator.key")).0, 4);
    assert_eq!(bench.bad(&format!("trust add {free}")).0, 4);
    fs::write(path, "{").unwrap();
    let (code, error) = bench.bad(&format!("status {free} --key operator.key"));
    assert!(code == 1 && error.contains("devices.json"), "{error}");
}

#[test]
fn a_push_that_is_cut_is_taken_up_again_and_sends_only_what_is_missing() {
    let bench = Bench::new();
    bench.trust();
    bench.bundle("demo");
    bench.kept().cut_at = Some(10);
    let line = format!("push app.vestal {} --key operator.key --wait --json", bench.address);
    let printed = bench.good(&line);
    let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["outcome"], &last["status"]["state"]),
        (&json!("finished"), &json!("confirmed"))
    );
    let kept = bench.kept();
    assert_eq!(kept.cut_at, None, "it was cut");
    assert!(kept.chunks.len() > 20, "{}", kept.chunks.len());
    assert_eq!(kept.received, kept.chunks.len());
}

#[test]
fn a_refusal_is_told_with_its_reason_code_and_is_not_tried_again() {
    let bench = Bench::new();
    bench.trust();
    bench.bundle("other");
    let (code, error) = bench.bad(&format!("push app.vestal {} --key operator.key", bench.address));
    assert_eq!(code, 1, "{error}");
    assert!(error.ends_with("this device is a demo (wrong-product)\n"), "{error}");
}

#[test]
fn a_permission_for_a_known_device_is_handed_to_it_and_its_history_has_dates() {
    let bench = Bench::new();
    bench.trust();
    bench.bundle("demo");
    let address = bench.address;
    // The fake believes any key.
    let line =
        format!("permission create app.vestal --device {address} --key operator.key -o down.json");
    assert!(bench.good(&line).contains(&fingerprint(&DEVICE)));
    bench.good(&format!("permit {address} down.json --key operator.key"));
    let path = bench.folder.path().join("down.json");
    let (permission, signatures) =
        (fs::read(&path).unwrap(), fs::read(path.with_extension("json.sig")).unwrap());
    let length = u32::try_from(permission.len()).unwrap().to_le_bytes();
    assert_eq!(bench.kept().permission, [&length[..], &permission, &signatures].concat());
    let history = bench.good(&format!("history {address} --key operator.key"));
    assert!(history.contains("2026-11-22T04:05:20Z"), "{history}");
}
