//! A device of its own: folders, a keeper that agrees to everything and runs nothing, and the real supervisor.

use std::{
    fs,
    net::Shutdown,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use endpoint::{CallError, CallOptions, Client, Options};
use protocol::keeper::{MESSAGE_SIZE, Outcome, Report, Request, VERSION};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::unix::pipe,
    sync::mpsc,
    time::timeout,
};

/// Nothing here takes so long, unless it never ends.
const LIMIT: Duration = Duration::from_secs(30);
/// What the supervisor would start without being told to.
const CORE: [&str; 7] = ["registry", "log", "heartbeat", "config", "upgrade", "driver", "autorun"];

pub(crate) struct Device {
    folder: tempfile::TempDir,
    supervisor: Option<(Child, UnixDatagram)>,
    starts: u32,
    /// What scripts have written, line by line.
    lines: BufReader<pipe::Receiver>,
    /// What the supervisor has logged.
    log: BufReader<pipe::Receiver>,
}

impl Device {
    /// A running supervisor with these services.
    pub(crate) async fn with(services: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let services_d = folder.path().join("etc/services.d");
        fs::create_dir_all(&services_d).unwrap();
        for name in CORE {
            let off = "command = [\"off\"]\nenabled = false\n";
            fs::write(services_d.join(format!("{name}.toml")), off).unwrap();
        }
        for (name, triggers) in services {
            let text = format!("command = [\"/bin/true\"]\nautostart = false\n{triggers}");
            fs::write(services_d.join(format!("{name}.toml")), text).unwrap();
        }
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let program = env!("CARGO_BIN_EXE_vestal-supervisor");
        let own = bin.join("vestal-supervisor");
        // Its folder is where it looks for the suite's other programs.
        fs::hard_link(program, &own).or_else(|_| fs::copy(program, &own).map(|_| ())).unwrap();
        let [lines, log] = ["said", "log"].map(|name| reader(&folder.path().join(name)));
        let mut device = Self { folder, supervisor: None, starts: 0, lines, log };
        device.start().await;
        device
    }

    /// As [`Self::with`], with this script as the `vestalctl` beside the supervisor.
    pub(crate) async fn with_vestalctl(script: &str) -> Self {
        let device = Self::with(&[]).await;
        // Written by another process: a descriptor that a child of ours inherits would make it busy.
        let write = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let path = device.folder.path().join("bin/vestalctl");
        let status =
            Command::new("/bin/sh").args(["-c", write]).arg(path).arg(script).status().unwrap();
        assert!(status.success());
        device
    }

    pub(crate) async fn start(&mut self) {
        self.starts += 1;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let ours = UnixDatagram::from(ours);
        let path = |name: &str| self.folder.path().join(name);
        let child = Command::new("/bin/sh")
            // The channel is descriptor 3.
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 0</dev/null"])
            .arg(path("bin/vestal-supervisor"))
            .args([Path::new("--run-dir"), &path("run")])
            .args([Path::new("--config-dir"), &path("etc")])
            .args(["--log-level", "info"])
            .env("VESTAL_INTERFACE_EVENTS", "off")
            .env("SAID", path("said"))
            .env("GATE", path("gate"))
            .stdin(Stdio::from(theirs))
            .stderr(fs::OpenOptions::new().append(true).open(path("log")).unwrap())
            .spawn()
            .unwrap();
        let (ready, mut serves) = mpsc::channel(1);
        let (channel, starts) = (ours.try_clone().unwrap(), self.starts);
        std::thread::spawn(move || keep(&channel, starts, &ready));
        self.supervisor = Some((child, ours));
        timeout(LIMIT, serves.recv()).await.expect("it does not serve").expect("it has ended");
    }

    /// No supervisor any more, from one moment to the next. Its scripts run on.
    pub(crate) fn kill(&mut self) {
        let (mut child, channel) = self.supervisor.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let _ = channel.shutdown(Shutdown::Both);
    }

    /// A change of the package to this digest, until the supervisor has taken it.
    pub(crate) async fn change(&self, package: &str, digest: &str) {
        let data = json!({ "package": package, "digest": digest, "again": true });
        self.call("event", &json!({ "type": "config.change", "data": data })).await;
    }

    pub(crate) async fn call(&self, method: &str, args: &Value) {
        self.ask("service", method, args, LIMIT).await.expect("a refusal");
    }

    /// What an object answers.
    pub(crate) async fn ask(
        &self,
        object: &str,
        method: &str,
        args: &Value,
        deadline: Duration,
    ) -> Result<Value, CallError> {
        let socket = self.folder.path().join("run/supervisor.sock");
        let client = Client::new(socket, Options::default());
        let options = CallOptions { deadline, ..CallOptions::default() };
        let called = client.call(object, method, args, options);
        let answer = timeout(2 * LIMIT, called).await.expect("no answer")?;
        Ok(answer.parse().unwrap())
    }

    /// The data of the next happening of this topic, as it is in the log.
    pub(crate) async fn told(&mut self, topic: &str) -> Value {
        let topic = format!("{topic} ");
        loop {
            let mut line = String::new();
            timeout(LIMIT, self.log.read_line(&mut line)).await.expect("no such log").unwrap();
            let data =
                line.split_once(&topic).and_then(|(_, data)| serde_json::from_str(data).ok());
            if let Some(data) = data {
                return data;
            }
        }
    }

    /// What the supervisor keeps about installations.
    pub(crate) fn is_installing(&self) -> bool {
        self.folder.path().join("run/supervisor/sysupgrade.json").exists()
    }

    /// What a script says next.
    pub(crate) async fn said(&mut self) -> String {
        let mut line = String::new();
        timeout(LIMIT, self.lines.read_line(&mut line)).await.expect("nothing is said").unwrap();
        line.trim_end().to_owned()
    }

    /// A FIFO that scripts find as `$GATE`.
    pub(crate) fn gate(&self) -> PathBuf {
        let path = self.folder.path().join("gate");
        fifo(&path);
        path
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.supervisor.is_some() {
            self.kill();
        }
    }
}

fn reader(path: &Path) -> BufReader<pipe::Receiver> {
    fifo(path);
    // Writers come and go, and that is no end of the file.
    BufReader::new(pipe::OpenOptions::new().read_write(true).open_receiver(path).unwrap())
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

/// Hands nothing over, and says yes to all that is asked; tells when the supervisor begins to ask.
fn keep(channel: &UnixDatagram, supervisor_starts: u32, ready: &mpsc::Sender<()>) {
    let mut sequence = 0;
    let mut report = |report: Report| {
        sequence += 1;
        channel.send(&report.encode(sequence)).is_ok()
    };
    let keeper_pid = std::process::id().cast_signed();
    let welcome =
        Report::Welcome { version: VERSION, keeper_pid, pid_one: false, supervisor_starts };
    let mut goes_on = report(welcome) && report(Report::HandoverEnd);
    let mut message = [0; MESSAGE_SIZE];
    while goes_on && let Ok(length @ 1..) = channel.recv(&mut message) {
        let (request, asked) = Request::decode(&message[..length]).unwrap();
        goes_on = match asked {
            Request::Seen { .. } => true,
            Request::Starts => {
                let _ = ready.try_send(());
                report(Report::Ack { request, outcome: Outcome::Count(1) })
            }
            _ => report(Report::Ack { request, outcome: Outcome::Done }),
        };
    }
}
