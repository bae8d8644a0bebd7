//! A supervisor that serves `service` and `system` from a script, in a scratch run directory.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{net::UnixListener, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use endpoint::{
    ArgumentKind, Code, Description, Failure, Incoming, Responder, Serve, Server, Settings,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::bus::{self, Shared};

/// The running fake; dropping it ends it.
pub(crate) struct Fake {
    folder: TempDir,
    pub(crate) bus: Shared,
    end: Option<oneshot::Sender<()>>,
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Reply {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// One line on stderr, nothing on stdout.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, text: &str) {
        assert_eq!((self.code, &*self.stdout), (code, ""), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.contains(text), "{self:?}");
    }
}

impl Fake {
    /// Only the supervisor.
    pub(crate) fn start() -> Self {
        Self::begin(false)
    }

    /// With a registry, a log and a camera.
    pub(crate) fn with_bus() -> Self {
        Self::begin(true)
    }

    fn begin(whole: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("vc").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(folder.path().join("supervisor.sock")).unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let shared = Shared::default();
        let (run_dir, told) = (folder.path().to_owned(), shared.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let server = Server::new(Settings::default()).unwrap();
                server.add("service", Service::default()).unwrap();
                server.add("system", System).unwrap();
                server.listen(listener).unwrap();
                let _servers = whole.then(|| bus::serve(&run_dir, &told));
                ready.send(()).unwrap();
                let _ = ended.await;
            });
        });
        is_ready.recv().unwrap();
        Self { folder, bus: shared, end: Some(end) }
    }

    pub(crate) fn run_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the scratch folder.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn ctl(&self, args: &[&str]) -> Reply {
        run(&mut command(self.run_dir(), "vestalctl", args), "")
    }

    pub(crate) fn ctl_with_input(&self, args: &[&str], input: &str) -> Reply {
        run(&mut command(self.run_dir(), "vestalctl", args), input)
    }

    /// Starts a command that lasts.
    pub(crate) fn start_ctl(&self, name: &str, args: &[&str]) -> Running {
        let mut command = command(self.run_dir(), name, args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (printed, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                // A test that has seen enough reads no more.
                let _ = printed.send(line.unwrap());
            }
        });
        Running { child, lines }
    }

    pub(crate) fn ubus(&self, args: &[&str]) -> Reply {
        run(&mut command(self.run_dir(), "ubus", args), "")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.end.take());
    }
}

/// No test waits longer for one thing.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A command that lasts; dropping it kills it.
pub(crate) struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    /// The next line it prints, without its end; empty once it prints no more.
    pub(crate) fn line(&mut self) -> String {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(Disconnected) => String::new(),
            Err(Timeout) => panic!("it printed nothing within {LIMIT:?}"),
        }
    }

    /// Its exit code, when it ends by itself.
    pub(crate) fn code(&mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The built program under a name, with nothing but the run directory in its environment.
pub(crate) fn command(run_dir: &Path, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vestalctl"));
    command.arg0(name).args(args).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("VESTAL_RUN_DIR", run_dir);
    command
}

pub(crate) fn run(command: &mut Command, input: &str) -> Reply {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that reads no input has closed it already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Reply {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[derive(Default)]
struct Service {
    /// Calls that never get an answer.
    kept: Vec<Responder>,
    /// Looks at the report so far: the supervisor has been replaced from the third on.
    looks: u64,
    /// The instance that can be replaced has been, so often.
    replaced: u64,
}

const NAME: (&str, ArgumentKind, bool) = ("name", ArgumentKind::String, true);

impl Serve for Service {
    fn describe(&self) -> Description {
        let names = [
            "set",
            "add",
            "list",
            "start",
            "stop",
            "delete",
            "signal",
            "state",
            "get_data",
            "report",
            "reread",
            "update_start",
            "raw",
            "nothing",
            "replace",
            "event",
        ];
        let spawn = ("spawn", ArgumentKind::Boolean, true);
        let start = Description::new("vestal.service", 1).event("service.start");
        names.iter().fold(start, |description, name| {
            let args = if *name == "state" { vec![NAME, spawn] } else { vec![NAME] };
            description.method(name, &args, "does it", "")
        })
    }

    async fn call(&mut self, call: Incoming) {
        let args: Value = call.parse().unwrap();
        let fail = |code, text: &str| Err(Failure::new(code, text));
        let answer = match &*call.method {
            "list" if args["name"] == "live" => {
                let pid = 500 + self.replaced;
                Ok(
                    json!({ "live": { "instances": { "instance1": { "running": true, "pid": pid } } } }),
                )
            }
            "list" => Ok(listed(&args)),
            "replace" if args["name"] == "live" => {
                self.replaced += 1;
                Ok(json!({}))
            }
            "replace" => {
                fail(Code::Failed, "the new one was not ready within 30s; the old one still runs")
            }
            "stop" => {
                self.kept.push(call.responder);
                return;
            }
            "start" => match args["name"].as_str() {
                Some("web") => Ok(json!({ "wait": args["wait"] })),
                Some("secret") => fail(Code::Denied, "service.start is for root\nask root"),
                _ => fail(Code::NotFound, "there is no service of that name"),
            },
            "report" => {
                self.looks += 1;
                Ok(json!({
                    "problems": ["a.toml:4: unknown key \"x\""], "skipped": ["log: no binary"],
                    "supervisor": { "pid": 100 + self.looks, "starts": self.looks / 3 },
                    "keeper": { "pid": 1, "pid_one": true },
                }))
            }
            "reread" => Ok(json!({ "problems": ["a.toml:4: unknown key \"x\""] })),
            "raw" => return call.responder.reply_bytes(b"\x01raw".to_vec()),
            "nothing" => return call.responder.reply_bytes(Vec::new()),
            // The others say what they were sent.
            _ => Ok(args),
        };
        call.responder.finish(answer);
    }
}

fn listed(args: &Value) -> Value {
    let all = json!({
        "web": { "instances": {
            "a": { "running": true, "pid": std::process::id(), "command": ["/bin/web", "-f"],
                "state": "ready", "ready": true, "restarts": 2, "uptime_ms": 250_000,
                "status": "evil \u{1b}[31m" },
            "b": { "running": false, "command": ["/bin/web"], "state": "held",
                "last_exit": "exit 3", "restarts": 5 },
        }},
        "idle": {},
    });
    match args["name"].as_str() {
        None => all,
        Some(name) => match all.get(name) {
            Some(service) => json!({ name: service }),
            None => json!({}),
        },
    }
}

struct System;

impl Serve for System {
    fn describe(&self) -> Description {
        let names = ["board", "info", "watchdog", "signal", "reboot", "reexec", "boot"];
        names.iter().fold(Description::new("vestal.system", 1), |description, name| {
            description.method(name, &[], "", "")
        })
    }

    async fn call(&mut self, call: Incoming) {
        let args: Value = call.parse().unwrap();
        call.responder.finish(Ok(match &*call.method {
            "board" => json!({ "kernel": "6.18", "release": { "version": "1" } }),
            "reboot" => {
                let reason = args["reason"].as_str().map_or(String::new(), |it| format!(": {it}"));
                json!({ "text": format!("stopping everything, then reboot{reason}") })
            }
            "boot" => json!({
                "reset": { "cause": "power", "detail": "it lost its power" }, "keeper_ms": 0,
                "supervisor_ms": 10, "all_ready_ms": 500, "services": [
                    { "name": "log", "instance": "instance1", "spawned_ms": 20, "ready_ms": 90,
                        "took_ms": 70, "core": true },
                    { "name": "web", "instance": "instance1", "spawned_ms": 90, "ready_ms": 500,
                        "took_ms": 410 },
                ],
            }),
            _ => args,
        }));
    }
}
