//! `vestalctl driver` against a manager and a host that say what each test needs.

use std::{
    fs,
    io::Read as _,
    os::unix::net::UnixListener,
    sync::{Arc, Mutex, mpsc},
};

use endpoint::{Code, Description, Failure, Incoming, Serve, Server, Settings};
use protocol::driver::{
    Answer, Head, Hit, Outcome, Report, Settled, Standing, Status, Version, description,
    host_description,
};
use rustix::fs::SealFlags;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::fake::{Reply, command, run};

/// A run directory with a manager and the host of `can0` in it; dropping it ends both.
struct Device {
    folder: TempDir,
    kept: Arc<Mutex<Kept>>,
    _end: oneshot::Sender<()>,
}

#[derive(Default)]
struct Kept {
    /// What was handed over: the call's arguments, the object, its seals.
    upgraded: Option<(Value, Vec<u8>, SealFlags)>,
    outcome: Outcome,
    written: Vec<u8>,
    closed: u64,
    reason: Option<String>,
}

struct Manager(Arc<Mutex<Kept>>);
struct Host(Arc<Mutex<Kept>>);

fn of(version: &str) -> Version {
    Version { version: version.to_owned(), hash: "ab".repeat(32), rollback_index: 4 }
}

fn status() -> Status {
    Status {
        name: "can0".to_owned(),
        standing: Standing::Serving,
        version: of("1"),
        previous: Some(of("0")),
        pid: Some(12),
        handles: 3,
        calls: 4000,
        errors: 5,
        own: vec!["reset".to_owned(), "peek".to_owned()],
        notes: vec!["no real-time priority".to_owned()],
        ..Status::default()
    }
}

fn report() -> Report {
    Report {
        name: "can0".to_owned(),
        from: of("1"),
        to: of("2"),
        pause_us: 77,
        probation_ms: 1000,
        ..Report::default()
    }
}

impl Serve for Manager {
    fn describe(&self) -> Description {
        description()
    }

    async fn call(&mut self, mut call: Incoming) {
        let args: Value = call.parse().unwrap_or_default();
        let mut kept = self.0.lock().unwrap();
        let answer = match &*call.method {
            "list" => json!([status()]),
            "load" if args["name"] == "can0" => json!(status()),
            "load" => {
                let text = "driver.toml names no driver \"cam0\"";
                return call.responder.fail(Failure::new(Code::NotFound, text));
            }
            "upgrade" => {
                let object = call.fds.pop().expect("the object comes along");
                let seals = rustix::fs::fcntl_get_seals(&object).unwrap();
                let mut bytes = Vec::new();
                fs::File::from(object).read_to_end(&mut bytes).unwrap();
                if bytes.ends_with(b"bad") {
                    let failure = Failure::new(Code::Failed, "the object has a run path")
                        .with_details(json!({ "reason": "search-path" }));
                    return call.responder.fail(failure);
                }
                kept.upgraded = Some((args, bytes, seals));
                json!(report())
            }
            "settled" => json!(Settled {
                name: "can0".to_owned(),
                outcome: kept.outcome,
                tried: of("2"),
                serves: of(if kept.outcome == Outcome::Confirmed { "2" } else { "1" }),
                reason: (kept.outcome == Outcome::RolledBack)
                    .then(|| "SIGSEGV in write".to_owned()),
            }),
            "rollback" => {
                kept.reason = args["reason"].as_str().map(str::to_owned);
                json!(report())
            }
            _ => Value::Null,
        };
        call.responder.finish(Ok(answer));
    }
}

impl Serve for Host {
    fn describe(&self) -> Description {
        host_description()
    }

    async fn call(&mut self, call: Incoming) {
        let mut kept = self.0.lock().unwrap();
        let json = match &*call.method {
            "open" => json!({ "result": 0, "handle": 7 }),
            "close" => {
                kept.closed += 1;
                json!({ "result": 0 })
            }
            "status" => json!(status()),
            "map" => {
                json!([{ "name": "counter_write", "address": 4096, "size": 64, "hash": "cd".repeat(32),
                "entry": "nops", "operation": "write" }])
            }
            "state" => {
                json!([{ "id": 1, "name": "calls", "value": 7 }, { "id": 9, "value": "0a" }])
            }
            "probe" => {
                drop(kept);
                return probed(call).await;
            }
            raw => {
                let (head, data) = Head::parse(&call.args).unwrap();
                assert_eq!((head.handle, head.sequence), (7, 0));
                let (result, back): (i64, &[u8]) = match raw {
                    "write" => {
                        kept.written = data.to_vec();
                        (i64::try_from(data.len()).unwrap(), b"")
                    }
                    "ioctl" => (-25, b""),
                    "poll" => (5, b""),
                    "call" if head.word == 1 => (4, b"peek"),
                    _ => (3, b"a\nb"),
                };
                call.responder.reply_bytes(Answer { result, data: back }.encode());
                return;
            }
        };
        call.responder.finish(Ok(json));
    }
}

async fn probed(call: Incoming) {
    let hit = Hit {
        function: "write".to_owned(),
        tid: 12,
        at_us: 1_000_002,
        arguments: [7, 4096, 16, 0, 0, 0],
        result: Some(16),
        duration_ns: Some(3456),
        lost: 0,
    };
    let mut chunks = call.responder.chunks();
    let note = json!({ "note": "write can't be probed at its entry" });
    let text = format!("{note}\n{}\n", json!(hit)).repeat(3);
    // Who has seen enough leaves.
    let _ = chunks.send(text.as_bytes()).await;
    std::future::pending::<()>().await;
}

impl Device {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("vd").tempdir_in("/tmp").unwrap();
        let kept = Arc::new(Mutex::new(Kept::default()));
        let (end, ended) = oneshot::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let (run_dir, shared) = (folder.path().to_owned(), Arc::clone(&kept));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let manager = Server::new(Settings::default()).unwrap();
                manager.add("driver", Manager(Arc::clone(&shared))).unwrap();
                manager.listen(UnixListener::bind(run_dir.join("driver.sock")).unwrap()).unwrap();
                let host = Server::new(Settings::default()).unwrap();
                host.add("driver/can0", Host(shared)).unwrap();
                host.listen(UnixListener::bind(run_dir.join("driver.can0.sock")).unwrap()).unwrap();
                ready.send(()).unwrap();
                let _ = ended.await;
            });
        });
        is_ready.recv().unwrap();
        Self { folder, kept, _end: end }
    }

    fn ctl(&self, args: &[&str]) -> Reply {
        let args: Vec<&str> = std::iter::once("driver").chain(args.iter().copied()).collect();
        run(&mut command(self.folder.path(), "vestalctl", &args), "")
    }

    fn object(&self, bytes: &[u8]) -> String {
        let path = self.folder.path().join("new.so");
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }
}

#[test]
fn the_list_says_what_serves_and_what_falls_short() {
    let device = Device::start();
    let listed = device.ctl(&["list"]);
    let row = "can0  serving  1        0        12     3   4000       5         0     0\n\ncan0: no real-time priority\n";
    assert!(listed.stdout.ends_with(row), "{}", listed.stdout);
    assert_eq!(device.ctl(&["list", "--json"]).json()[0]["own"], json!(["reset", "peek"]));
    device.ctl(&["load", "cam0"]).fails(3, "vestalctl driver list");
    assert_eq!(device.ctl(&["unload", "can0"]).code, 0);
}

#[test]
fn an_object_is_handed_over_sealed_and_waited_for() {
    let device = Device::start();
    let object = device.object(b"\x7fELF...");
    let upgraded =
        device.ctl(&["upgrade", "can0", &object, "--dev", "--version", "2", "--mode", "jump"]);
    assert_eq!(upgraded.code, 0, "{upgraded:?}");
    assert!(
        upgraded.stdout.contains("1 -> 2") && upgraded.stdout.contains("proved itself"),
        "{upgraded:?}"
    );
    let (args, bytes, seals) = device.kept().upgraded.take().unwrap();
    assert_eq!(bytes, b"\x7fELF...");
    assert_eq!(seals, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE);
    assert_eq!(
        (&args["mode"], &args["dev"], &args["rollback_index"]),
        (&json!("jump"), &json!(true), &json!(4))
    );
    assert_eq!(args["hash"], bundle::hex::encode(&bundle::sha256(b"\x7fELF...")));

    device.kept().outcome = Outcome::RolledBack;
    let back = device.ctl(&["upgrade", "can0", &object, "--dev", "--version", "2"]);
    assert_eq!(back.code, 1, "{back:?}");
    assert!(back.stderr.contains("SIGSEGV in write"), "{back:?}");
    assert_eq!(
        device.ctl(&["upgrade", "can0", &object, "--dev", "--version", "2", "--no-wait"]).code,
        0
    );
}

#[test]
fn what_cannot_be_an_upgrade_is_told_with_the_cure() {
    let device = Device::start();
    let object = device.object(b"\x7fELF...");
    device.ctl(&["upgrade", "can0", &object]).fails(2, "give --dev");
    let nameless = device.ctl(&["upgrade", "can0", &object, "--dev"]);
    assert_eq!(nameless.code, 2, "{nameless:?}");
    assert!(nameless.stderr.contains("--version"), "{nameless:?}");
    device
        .ctl(&["upgrade", "cam0", &object, "--dev", "--version", "2"])
        .fails(3, "vestalctl driver list");
    let bad = device.object(b"\x7fELF...bad");
    device.ctl(&["upgrade", "can0", &bad, "--dev", "--version", "2"]).fails(1, "(search-path)");
    let none = device.object(b"none");
    device.ctl(&["upgrade", "can0", &none, "--dev", "--version", "2"]).fails(2, "no shared object");
    assert!(device.kept().upgraded.is_none());
}

#[test]
fn a_rollback_carries_its_reason() {
    let device = Device::start();
    assert_eq!(device.ctl(&["rollback", "can0", "--reason", "too loud"]).code, 0);
    assert_eq!(device.kept().reason.as_deref(), Some("too loud"));
}

#[test]
fn a_call_opens_calls_and_closes() {
    let device = Device::start();
    assert_eq!(device.ctl(&["call", "can0", "write", "--hex", "0a 0b"]).stdout, "2\n");
    assert_eq!(device.kept().written, [10, 11]);
    assert_eq!(device.ctl(&["call", "can0", "read"]).stdout, "a\nb");
    assert_eq!(device.ctl(&["call", "can0", "peek", "--json"]).json()["text"], "peek");
    assert_eq!(device.ctl(&["call", "can0", "poll"]).stdout, "in out\n");
    device.ctl(&["call", "can0", "ioctl", "--ioctl", "0x1"]).fails(1, "ioctl");
    device.ctl(&["call", "can0", "pek"]).fails(3, "reset, peek");
    assert_eq!(device.kept().closed, 5);
}

#[test]
fn a_probe_is_a_line_a_call_and_a_note_is_no_call() {
    let device = Device::start();
    let probed = device.ctl(&["probe", "can0", "write", "-n", "2"]);
    let line = "1.000002 [12] write(0x7, 0x1000, 0x10, 0x0) = 16 3.4 us\n";
    assert_eq!((probed.code, probed.stdout), (0, line.repeat(2)));
    assert!(probed.stderr.contains("can't be probed at its entry"), "{}", probed.stderr);
    assert_eq!(device.ctl(&["probe", "can0"]).code, 2);
}

#[test]
fn state_and_map_are_shown_by_name() {
    let device = Device::start();
    let looks = device.ctl(&["probe", "can0", "--state", "--every", "1ms", "-n", "2"]);
    assert_eq!(looks.stdout, "calls    7\nfield 9  0a\n\ncalls    7\nfield 9  0a\n");
    assert_eq!(device.ctl(&["state", "can0"]).stdout, "calls    7\nfield 9  0a\n");
    let map = device.ctl(&["map", "can0"]);
    assert!(map.stdout.contains("counter_write  0x1000     64  nops  write"), "{}", map.stdout);
}

#[test]
fn a_driver_that_is_not_there_is_told_with_the_cure() {
    let device = Device::start();
    device.ctl(&["state", "gone"]).fails(4, "vestalctl driver load gone");
}
