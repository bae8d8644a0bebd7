//! A device in a scratch folder: keeper, supervisor and what they start, driven by the real `vestalctl`.

use std::{
    fs,
    os::unix::{
        fs::chown,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, groups::remove_groups_of, processes_of, until};

/// The daemons that the supervisor starts without being told to.
const CORE: [&str; 7] = ["registry", "log", "heartbeat", "config", "upgrade", "driver", "autorun"];

/// One copy of the suite. Dropping it kills whatever is left of it.
pub struct Device {
    folder: TempDir,
    keeper: Option<Child>,
    user: Option<u32>,
    keeper_args: Vec<String>,
    processes_max: Option<u32>,
    programs: Option<PathBuf>,
    wrapper: Vec<String>,
    env: Vec<(String, String)>,
}

/// What a run of `vestalctl` gave.
#[derive(Debug)]
pub struct Reply {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// The built binary of this name, beside the running test.
///
/// # Panics
/// Where it wasn't built: `cargo build --workspace` comes first.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let found = test
        .ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built: run `cargo build --workspace` first"))
}

impl Device {
    /// An empty device, not started: keeper and supervisor alone, the core daemons switched off.
    #[must_use]
    pub fn new() -> Self {
        let device = Self::with_core();
        for name in CORE {
            device.define(name, "command = [\"off\"]\nenabled = false\n");
        }
        device
    }

    /// A device with the core daemons, as they are built in.
    #[must_use]
    pub fn with_core() -> Self {
        let folder =
            tempfile::Builder::new().prefix("vt").tempdir_in("/tmp").expect("/tmp is writable");
        for name in ["run", "etc/services.d"] {
            fs::create_dir_all(folder.path().join(name)).expect("the scratch folder is ours");
        }
        // Many devices share one loopback.
        fs::write(folder.path().join("etc/heartbeat.toml"), "listen = \"127.0.0.1:0\"\n")
            .expect("the scratch folder is ours");
        Self {
            folder,
            keeper: None,
            user: None,
            keeper_args: Vec::new(),
            processes_max: None,
            programs: None,
            wrapper: Vec::new(),
            env: Vec::new(),
        }
    }

    /// As [`Device::new`], but run by an ordinary user: `nobody` where the test is root, else whoever runs the test.
    #[must_use]
    pub fn of_an_ordinary_user() -> Self {
        const NOBODY: u32 = 65534;
        match rustix::process::geteuid().is_root() {
            true => Self::of_user(NOBODY),
            false => Self::new(),
        }
    }

    /// As [`Device::new`], but run by this user; only root can do that.
    #[must_use]
    pub fn of_user(user: u32) -> Self {
        let mut device = Self::new();
        device.belong_to(user);
        device
    }

    /// Everything runs as this user; only root can do that.
    pub fn belong_to(&mut self, user: u32) {
        self.user = Some(user);
        for path in ["", "run", "etc", "etc/services.d"] {
            chown(self.folder.path().join(path), Some(user), Some(user))
                .expect("root may give a folder away");
        }
    }

    /// The keeper's user may have at most this many processes and threads (RLIMIT_NPROC).
    pub fn limit_processes(&mut self, most: u32) {
        self.processes_max = Some(most);
    }

    /// Uses the suite's programs of this folder, which the test may replace.
    pub fn use_programs(&mut self, folder: &Path) {
        self.programs = Some(folder.to_owned());
    }

    /// Words before the keeper's own: a program that makes its surroundings and then execs the rest.
    pub fn wrap(&mut self, words: &[String]) {
        self.wrapper = words.to_vec();
    }

    /// Sets an environment variable of everything that runs on this device.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Adds arguments for the keeper.
    pub fn keeper_args(&mut self, args: &[&str]) {
        self.keeper_args.extend(args.iter().map(|arg| (*arg).to_owned()));
    }

    /// The scratch folder; `run`, `etc` and `state` are in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Writes a definition into `services.d`; it counts from the next start or `service reload` of the folder.
    pub fn define(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("etc/services.d").join(format!("{name}.toml")), text)
            .expect("the scratch folder is ours");
    }

    /// Starts the keeper and waits until the supervisor answers.
    pub fn start(&mut self) {
        self.spawn();
        until("the supervisor answers", || {
            let keeper = self.keeper.as_mut().expect("it was just started");
            if let Some(status) = keeper.try_wait().expect("it is our child") {
                panic!("the keeper ended with {status}:\n{}", self.console());
            }
            self.ctl(&["status"]).status.success().then_some(())
        });
    }

    /// Starts the keeper and does not wait.
    pub fn spawn(&mut self) {
        let console = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("console"))
            .expect("the scratch folder is ours");
        let mut command = match self.processes_max {
            // Only the keeper and what it starts: `vestalctl` isn't part of what is tried.
            Some(most) => {
                let mut command = self.environment(Command::new("prlimit"));
                command.arg(format!("--nproc={most}:{most}")).arg(self.program("vestal-keeper"));
                command
            }
            None => match self.wrapper.split_first() {
                Some((first, words)) => {
                    let mut command = self.in_environment(first);
                    command.args(words).arg(self.program("vestal-keeper"));
                    command
                }
                None => self.command("vestal-keeper"),
            },
        };
        command.args(&self.keeper_args).stdin(Stdio::null());
        command.stdout(console.try_clone().expect("descriptors are left")).stderr(console);
        self.keeper = Some(command.spawn().expect("the keeper is executable"));
    }

    /// A binary of the suite, as this device's user and with its folders in the environment.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        self.environment(Command::new(self.program(name)))
    }

    /// Another program, in the same way.
    #[must_use]
    pub fn in_environment(&self, program: &str) -> Command {
        self.environment(Command::new(program))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.programs.as_ref().map_or_else(|| binary(name), |folder| folder.join(name))
    }

    fn environment(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("VESTAL_RUN_DIR", self.run_dir())
            .env("VESTAL_CONFIG_DIR", self.folder.path().join("etc"))
            .env("VESTAL_STATE_DIR", self.run_dir().join("state"))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// Runs `vestalctl`.
    #[must_use]
    pub fn ctl(&self, args: &[&str]) -> Reply {
        let output =
            self.command("vestalctl").args(args).output().expect("vestalctl is executable");
        Reply {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs `vestalctl`, which must succeed.
    #[track_caller]
    pub fn ctl_ok(&self, args: &[&str]) -> String {
        let reply = self.ctl(args);
        assert!(reply.status.success(), "vestalctl {args:?}: {reply:?}\n{}", self.console());
        reply.stdout
    }

    /// Runs `vestalctl --json`, which must succeed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ctl_ok(&[&["--json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// What procd's `service list` says of one instance; `Null` where there is none.
    #[track_caller]
    pub fn instance(&self, service: &str, instance: &str) -> Value {
        self.json(&["service", "list", service])[service]["instances"][instance].take()
    }

    /// Waits until `service list` shows the instance in this state.
    #[track_caller]
    pub fn until_state(&self, service: &str, state: &str) -> Value {
        until(&format!("{service} is {state}"), || {
            let found = self.instance(service, "instance1");
            (found["state"] == state).then_some(found)
        })
    }

    /// The main pid of `instance1`, once it runs.
    #[track_caller]
    pub fn until_pid(&self, service: &str) -> i32 {
        until(&format!("{service} runs"), || {
            self.instance(service, "instance1")["pid"]
                .as_i64()
                .and_then(|pid| i32::try_from(pid).ok())
        })
    }

    /// Live processes of one service.
    #[must_use]
    pub fn processes(&self, service: &str) -> Vec<Process> {
        let mine = |process: &Process| process.service.as_deref() == Some(service);
        processes_of(&self.run_dir()).into_iter().filter(mine).collect()
    }

    /// The supervisor's pid: the process of that name whose parent is none of it. What a supervisor forks is called the same until it executes something else.
    #[must_use]
    pub fn supervisor_pid(&self) -> i32 {
        until("the supervisor runs", || {
            let mut called_so = processes_of(&self.run_dir());
            called_so.retain(|process| process.command.contains("vestal-supervisor"));
            let forked = |process: &Process| called_so.iter().any(|it| it.pid == process.parent);
            let found = called_so.iter().find(|process| process.state != 'Z' && !forked(process));
            found.map(|process| process.pid)
        })
    }

    #[must_use]
    pub fn keeper_pid(&self) -> i32 {
        let keeper = self.keeper.as_ref().expect("the device is started");
        i32::try_from(keeper.id()).expect("pids fit")
    }

    /// What keeper and supervisor printed.
    #[must_use]
    pub fn console(&self) -> String {
        fs::read_to_string(self.folder.path().join("console")).unwrap_or_default()
    }

    /// Sends SIGKILL to the keeper and reaps it.
    pub fn kill_keeper(&mut self) {
        let mut keeper = self.keeper.take().expect("the device is started");
        keeper.kill().expect("it is our child");
        keeper.wait().expect("it is our child");
    }

    /// Asks the keeper to stop everything and waits for its end.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        signal(self.keeper_pid(), Signal::TERM);
        self.wait()
    }

    /// Waits for the keeper's end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut keeper = self.keeper.take().expect("the device is started");
        let status = until("the keeper ends", || keeper.try_wait().expect("it is our child"));
        let crashed = matches!(status.signal(), Some(4 | 6 | 7 | 8 | 11));
        assert!(!crashed, "{status}:\n{}", self.console());
        status
    }
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        // Whatever is left has our run directory in its environment; twice, for what was being born meanwhile.
        for _ in 0..2 {
            for process in processes_of(&self.run_dir()) {
                signal(process.pid, Signal::KILL);
            }
        }
        remove_groups_of(&self.run_dir());
        if std::thread::panicking() {
            eprintln!("--- console of {}:\n{}", self.folder.path().display(), self.console());
        }
    }
}

/// Signals a process that may be gone already.
fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
