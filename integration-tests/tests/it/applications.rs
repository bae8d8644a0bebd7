//! Applications that report to a device's broker, and what the broker says of them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use heartbeat_client::{Client, Settings};
use protocol::heartbeat::{Key, Row, State};
use serde_json::{Value, json};
use testkit::{Device, until};

use crate::c_interface::compile;

/// Of the applications that a test expects itself.
pub(crate) const KEY: Key = Key([0xa7; 16]);

/// The topic that says that everything before it was seen.
pub(crate) const MARKER: &str = "marker";

/// A device with the core daemons, the broker answers.
pub(crate) fn device() -> Device {
    let mut device = Device::with_core();
    device.start();
    device.ctl_ok(&["wait-for", "service", "heartbeat"]);
    device
}

/// The definition of a program that is told its application id, and where to report if not to the broker itself.
pub(crate) fn reports(program: &Path, app_id: i32, port: Option<u16>, heartbeat: &str) -> String {
    let port = port.map_or_else(String::new, |port| format!(", \"{port}\""));
    format!(
        "command = [{program:?}, \"{app_id}\"{port}]\n[heartbeat]\napp-id = {app_id}\n{heartbeat}"
    )
}

/// Adds a service to a device that runs.
#[track_caller]
pub(crate) fn add(device: &Device, name: &str, definition: &str) {
    device.define(name, definition);
    device.ctl_ok(&["service", "reread"]);
}

/// The shipped example in C, compiled: it reports every 100 ms.
pub(crate) fn example(device: &Device) -> PathBuf {
    compile("crates/heartbeat-client/examples/c/heartbeat.c", device.folder())
}

/// Waits until the application has reported at least so often since it was started.
#[track_caller]
pub(crate) fn until_reports(device: &Device, app_id: i32, reports: u64) -> Row {
    until(&format!("application {app_id} has reported {reports} times"), || {
        row(device, app_id).filter(|row| row.reports >= reports && row.state == State::Alive)
    })
}

/// Where the broker listens.
pub(crate) fn broker(device: &Device) -> SocketAddr {
    let file = device.run_dir().join("heartbeat/addr");
    until("the broker says where it listens", || {
        fs::read_to_string(&file).ok()?.lines().next()?.parse().ok()
    })
}

/// As the supervisor does before a start.
pub(crate) fn expect(device: &Device, app_id: i32, generation: u32, period_ms: u32) {
    let key: String = KEY.0.iter().map(|octet| format!("{octet:02x}")).collect();
    let args = json!({
        "service": "tested", "instance": format!("i{app_id}"), "app_id": app_id, "generation": generation,
        "key": key, "period_ms": period_ms, "misses": 3, "grace_ms": 600_000,
    });
    device.ctl_ok(&["call", "heartbeat", "expect", &args.to_string()]);
}

/// The broker's rows.
pub(crate) fn rows(device: &Device) -> Vec<Row> {
    serde_json::from_value(device.json(&["call", "heartbeat", "list"])).unwrap()
}

/// The broker's row of one application, where it knows it.
pub(crate) fn row(device: &Device, app_id: i32) -> Option<Row> {
    rows(device).into_iter().find(|row| row.app_id == app_id)
}

/// A counter of the broker's `status`, such as `machine/bad_tag`.
#[track_caller]
pub(crate) fn count(device: &Device, which: &str) -> u64 {
    let status = device.json(&["call", "heartbeat", "status"]);
    let found = status.pointer(&format!("/{which}")).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no {which} in {status}"))
}

/// For an application that was expected in the test's own name.
pub(crate) fn settings(broker: SocketAddr, app_id: i32, generation: u32) -> Settings {
    Settings { server: broker, key: Some(KEY), generation, ..Settings::new(app_id) }
}

/// A healthy application in a thread of its own: reports every 50 ms until it is dropped, then says goodbye.
pub(crate) struct Reporter {
    stop: Option<mpsc::Sender<()>>,
    reports: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Reporter {
    /// It is registered when this returns.
    pub(crate) fn start(settings: Settings) -> Self {
        const PACE: Duration = Duration::from_millis(50);
        let mut client = Client::open(settings).unwrap();
        client.register().unwrap();
        let (stop, stopped) = mpsc::channel();
        let reports = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&reports);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                client.report().unwrap();
                counter.fetch_add(1, Relaxed);
            }
            client.close();
        });
        Self { stop: Some(stop), reports, thread: Some(thread) }
    }

    pub(crate) fn reports(&self) -> u64 {
        self.reports.load(Relaxed)
    }

    /// Waits until it has reported so many times more.
    #[track_caller]
    pub(crate) fn until_more(&self, reports: u64) {
        let wanted = self.reports() + reports;
        until("the application reports", || {
            let failed = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!failed, "a report failed");
            (self.reports() >= wanted).then_some(())
        });
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What `vestalctl listen` prints, from when the registry knows it as a subscriber.
pub(crate) struct Events {
    child: Child,
    printed: PathBuf,
    taken: usize,
}

impl Events {
    #[track_caller]
    pub(crate) fn start(device: &Device, patterns: &[&str]) -> Self {
        let printed = tempfile::NamedTempFile::new_in(device.folder()).unwrap();
        let (file, printed) = printed.keep().unwrap();
        let mut command = device.command("vestalctl");
        command.args(["--json", "listen", "--no-retained"]).args(patterns);
        let child = command.stdout(file).spawn().expect("vestalctl is executable");
        let wanted = json!(patterns);
        let pid = json!(child.id());
        until("the registry knows the listener", || {
            let status = device.json(&["registry", "status"]);
            let mut all = status["subscribers"].as_array()?.iter();
            all.any(|one| one["pid"] == pid && one["patterns"] == wanted).then_some(())
        });
        Self { child, printed, taken: 0 }
    }

    /// The next event; waits for it.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        let line = until("an event", || {
            let text = fs::read_to_string(&self.printed).ok()?;
            let line = text.split_inclusive('\n').nth(self.taken)?;
            line.ends_with('\n').then(|| line.to_owned())
        });
        self.taken += 1;
        serde_json::from_str(&line).unwrap()
    }

    /// Nothing has happened up to now: the next event is one that this publishes, under a topic it listens to.
    #[track_caller]
    pub(crate) fn assert_none(&mut self, device: &Device) {
        device.ctl_ok(&["publish", MARKER, "{}"]);
        let event = self.next();
        assert_eq!(event["topic"], MARKER, "{event}");
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
