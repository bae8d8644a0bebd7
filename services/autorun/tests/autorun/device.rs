//! A run directory, a configuration, a journal that is a file, a folder that stands for the machine, and a supervisor that
//! notes what it is asked for.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use endpoint::{
    ArgumentKind, CallError, CallOptions, Client, Code, Description, Failure, Incoming, Options,
    Serve, Server, Settings,
};
use protocol::autorun::{Slept, State, Status};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use testkit::until;
use vestal_autorun::journal::{NameHash, Record, Stage};

const HOOK: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
echo "$*" >> calls
if [ -e "kill/$1" ]; then rm "kill/$1"; kill -9 $PPID; fi
if [ -e "slow/$1" ]; then read x < "slow/$1"; fi
if [ -e "fail/$1" ]; then cat "fail/$1"; exit 1; fi
case "$1" in
  unmount) grep -v " $2 " proc/self/mountinfo > new; mv new proc/self/mountinfo ;;
  mount) echo "40 22 254:11 / $2 rw - ext4 /dev/vda11 rw" >> proc/self/mountinfo ;;
  swapoff) grep -v "^$2 " proc/swaps > new; mv new proc/swaps ;;
  swapon) echo "$2 partition 2048 0 -3" >> proc/swaps ;;
esac
"#;
const MOUNTS: &str = "22 1 254:2 / / ro,relatime - ext4 /dev/vda2 ro
23 22 0:5 / /proc rw - proc proc rw
30 22 254:9 / /var rw,noatime - ext4 /dev/vda9 rw
36 22 254:11 / /data rw,noatime - ext4 /dev/vda11 rw
";
const SWAPS: &str = "Filename Type Size Used Priority
/dev/vda1 partition 524284 0 -2
/dev/vda5 partition 2048 0 -3
";

pub(crate) struct Device {
    pub(crate) folder: tempfile::TempDir,
    child: Option<Child>,
    runtime: tokio::runtime::Runtime,
    supervisor: Arc<Mutex<Supervisor>>,
    _server: Server,
}

/// What the supervisor is asked for, and what it refuses.
#[derive(Default)]
pub(crate) struct Supervisor {
    pub(crate) asked: Vec<String>,
    /// Methods that it doesn't have.
    pub(crate) lacks: Vec<&'static str>,
    /// Services that run.
    pub(crate) runs: Vec<&'static str>,
}

struct Service(Arc<Mutex<Supervisor>>);

impl Serve for Service {
    fn describe(&self) -> Description {
        const NAME: (&str, ArgumentKind, bool) = ("name", ArgumentKind::String, true);
        let methods = ["list", "start", "stop", "restart", "signal", "freeze", "thaw"];
        let plain = Description::new("vestal.service", 1);
        methods.into_iter().fold(plain, |all, method| all.method(method, &[NAME], "", ""))
    }

    async fn call(&mut self, call: Incoming) {
        let args: Value = call.parse().unwrap();
        let name = args["name"].as_str().unwrap();
        let mut supervisor = self.0.lock().unwrap();
        if &*call.method == "list" {
            let runs = supervisor.runs.contains(&name);
            let state = if runs { "running" } else { "done" };
            let instances = json!({ "instance1": { "running": runs, "state": state } });
            return call.responder.reply(&json!({ name: { "instances": instances } }));
        }
        if supervisor.lacks.contains(&&*call.method) {
            let failure = Failure::new(Code::UnknownMethod, "there is no such method");
            return call.responder.fail(failure);
        }
        supervisor.asked.push(format!("{} {name}", call.method));
        call.responder.reply(&json!({}));
    }
}

impl Device {
    /// Not started, with these lines in `autorun.toml` beside the journal.
    pub(crate) fn new(settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("va").tempdir_in("/tmp").unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in [
            "run",
            "etc/autorun.d",
            "fake/fail",
            "fake/kill",
            "fake/slow",
            "fake/dev",
            "fake/proc/self",
            "fake/proc/sys/kernel/random",
            "fake/sys/power",
            "fake/sys/dev/block/254:1",
            "fake/sys/class/rtc/rtc0",
        ] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for (name, text) in [
            ("proc/self/mountinfo", MOUNTS),
            ("proc/swaps", SWAPS),
            ("proc/sys/kernel/random/boot_id", "first\n"),
            ("proc/meminfo", "MemTotal: 262144 kB\nMemFree: 131072 kB\n"),
            ("sys/power/state", "freeze mem disk\n"),
            ("sys/power/disk", "[platform] shutdown reboot suspend\n"),
            ("sys/power/disk.written", ""),
            ("sys/power/resume", "254:1\n"),
            ("sys/power/resume_offset", "0\n"),
            ("sys/power/image_size", "104857600\n"),
            ("sys/dev/block/254:1/uevent", "MAJOR=254\nMINOR=1\nDEVNAME=vda1\n"),
            ("sys/class/rtc/rtc0/since_epoch", "1700000000\n"),
            ("hook", HOOK),
        ] {
            fs::write(at("fake").join(name), text).unwrap();
        }
        fs::set_permissions(at("fake/hook"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("fake/dev/vda2"), [7; 8192]).unwrap();
        fs::write(at("journal"), [0; 8192]).unwrap();
        let journal = at("journal");
        fs::write(at("etc/autorun.toml"), format!("journal = {journal:?}\n{settings}")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fake/sys/power/state.written"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let supervisor: Arc<Mutex<Supervisor>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = {
            let _here = runtime.enter();
            let server = Server::new(Settings::default()).unwrap();
            server.add("service", Service(Arc::clone(&supervisor))).unwrap();
            server.listen(UnixListener::bind(at("run/supervisor.sock")).unwrap()).unwrap();
            server
        };
        Self { folder, child: None, runtime, supervisor, _server: server }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn supervisor(&self) -> std::sync::MutexGuard<'_, Supervisor> {
        self.supervisor.lock().unwrap()
    }

    /// Targets get cgroups of their own, where the test may make some.
    pub(crate) fn with_cgroups(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let groups = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap_or_default();
        fs::write(self.at("fake/proc/self/mountinfo"), format!("{MOUNTS}{groups}\n")).unwrap();
        fs::copy("/proc/self/cgroup", self.at("fake/proc/self/cgroup")).unwrap();
    }

    pub(crate) fn target(&self, name: &str, text: &str) {
        fs::write(self.at("etc/autorun.d").join(format!("{name}.toml")), text).unwrap();
    }

    /// A target that writes its name into a file, and then does what the script says.
    pub(crate) fn script(&self, name: &str, script: &str, rest: &str) {
        let log = self.at("ran");
        let script = format!("echo {name} >> {}; {script}", log.display());
        self.target(name, &format!("command = [\"/bin/sh\", \"-c\", {script:?}]\n{rest}"));
    }

    /// What ran, in its order.
    pub(crate) fn ran(&self) -> Vec<String> {
        lines(&fs::read_to_string(self.at("ran")).unwrap_or_default())
    }

    /// What was done to the machine.
    pub(crate) fn calls(&self) -> Vec<String> {
        lines(&fs::read_to_string(self.at("fake/calls")).unwrap_or_default())
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vestal-autorun"));
        command
            .args(["--log-level", "debug"])
            .env("VESTAL_RUN_DIR", self.at("run"))
            .env("VESTAL_CONFIG_DIR", self.at("etc"))
            .env("VESTAL_AUTORUN_FAKE", self.at("fake"))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::null());
        command
    }

    /// Starts the engine and waits until it answers.
    pub(crate) fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.at("log")).unwrap();
        let mut command = self.command();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        until("the engine answers", || self.call::<Value>("status", json!({})).ok());
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id().try_into().unwrap()
    }

    /// Waits until somebody has killed the engine.
    pub(crate) fn until_killed(&mut self) {
        assert_eq!(self.ended().code(), None);
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until the engine has left by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        until("the engine leaves", || child.try_wait().unwrap())
    }

    pub(crate) fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        args: impl Serialize,
    ) -> Result<T, Failure> {
        let client = Client::new(self.at("run/autorun.sock"), Options::default());
        let options = CallOptions::default();
        match self.runtime.block_on(client.call("autorun", method, &args, options)) {
            Ok(reply) => Ok(reply.parse().unwrap()),
            Err(CallError::Refused(failure)) => Err(failure),
            Err(error) => Err(Failure::new(Code::Unknown, error.to_string())),
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.call("status", json!({})).unwrap()
    }

    pub(crate) fn until_state(&self, state: State) -> Status {
        until(&format!("{state:?}"), || {
            // Between two looks it may have left.
            self.call::<Status>("status", json!({})).ok().filter(|status| status.state == state)
        })
    }

    /// Asks for a hibernation; the answer comes later.
    pub(crate) fn hibernate(&self) -> JoinHandle<Result<Slept, Failure>> {
        self.sleep("hibernate")
    }

    pub(crate) fn sleep(&self, kind: &str) -> JoinHandle<Result<Slept, Failure>> {
        let args = json!({ "kind": kind });
        let client = Client::new(self.at("run/autorun.sock"), Options::default());
        let handle = self.runtime.handle().clone();
        std::thread::spawn(move || {
            let call = client.call("autorun", "sleep", &args, CallOptions::default());
            match handle.block_on(call) {
                Ok(reply) => Ok(reply.parse().unwrap()),
                Err(CallError::Refused(failure)) => Err(failure),
                Err(error) => panic!("{error}"),
            }
        })
    }

    /// The image is written, and the power is off.
    pub(crate) fn until_off(&self) {
        let written = self.at("fake/sys/power/disk.written");
        until("the image is written", || {
            (fs::read_to_string(&written).unwrap() == "shutdown").then_some(())
        });
        fs::write(written, "").unwrap();
    }

    /// The power comes back, and the image is resumed.
    pub(crate) fn resume(&self) {
        let said = fs::read_to_string(self.at("fake/sys/power/state.written")).unwrap();
        assert_eq!(said, "disk");
    }

    pub(crate) fn journal(&self) -> Vec<u8> {
        fs::read(self.at("journal")).unwrap()
    }

    pub(crate) fn set_journal(&self, journal: &[u8]) {
        fs::write(self.at("journal"), journal).unwrap();
    }

    /// The newest record of the journal.
    pub(crate) fn record(&self) -> Record {
        let journal = self.journal();
        let records =
            journal.chunks(4096).filter_map(|block| Record::decode(block.try_into().unwrap()).ok());
        records.max_by_key(|record| record.sequence).unwrap_or_default()
    }

    /// What the names of its cgroups begin with.
    pub(crate) fn group(&self) -> String {
        let NameHash(hash) = NameHash::of(&self.at("run").to_string_lossy());
        format!("autorun-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3])
    }

    /// Everything but the journal and what was done is as it was before the first boot.
    pub(crate) fn reset(&self) {
        assert!(self.child.is_none());
        let _ = fs::remove_dir_all(self.at("run/autorun"));
        fs::write(self.at("fake/proc/self/mountinfo"), MOUNTS).unwrap();
        fs::write(self.at("fake/proc/swaps"), SWAPS).unwrap();
    }

    /// Nothing that belongs to this device runs.
    pub(crate) fn is_quiet(&self) -> bool {
        testkit::processes_of(&self.at("run")).is_empty()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for process in testkit::processes_of(&self.at("run")) {
            if let Some(pid) = rustix::process::Pid::from_raw(process.pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.at("log")).unwrap_or_default());
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// The journal of a device that was never armed.
pub(crate) fn is_invalid(record: &Record) -> bool {
    record.image == [0; 32] && record.stage != Stage::Armed
}
