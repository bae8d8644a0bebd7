//! A keeper in a temporary folder, and the supervisor's part played by the test.
//!
//! The keeper starts a script, the script this test program with the one test [`supervisor_role`]; that connects to the
//! test's socket, passes descriptor 3 over it, and then ends when and how the test says.

use std::{
    collections::HashMap,
    fs,
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::PathBuf,
    process::{Child, Command},
    time::Duration,
};

use protocol::keeper::{
    DepositName, Disposition, MESSAGE_SIZE, Outcome, Report, Request, SlotState, plan::Plan,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{MemfdFlags, SealFlags},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
    },
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
    time::Timespec,
};
use tempfile::TempDir;

/// One generous limit for everything that is waited for.
const LIMIT: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
const RELAY: &str = "VESTAL_TEST_RELAY";

/// Not a test: the supervisor's process, where the variable says so.
#[test]
fn supervisor_role() {
    let Some(relay) = std::env::var_os(RELAY) else { return };
    let stream = UnixStream::connect(relay).unwrap();
    let mut stream_after = stream.try_clone().unwrap();
    // Descriptor 3 is the channel; opening it by path is not possible for sockets, so it is taken by number.
    let channel = [rustix_channel()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = channel.each_ref().map(AsFd::as_fd);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let pid = std::process::id().to_le_bytes();
    sendmsg(stream, &[IoSlice::new(&pid)], &mut control, SendFlags::empty()).unwrap();
    let mut code = [1];
    // End of file: the test is over or dropped its supervisor.
    let _ = stream_after.read(&mut code);
    std::process::exit(code[0].into());
}

/// A duplicate of descriptor 3, taken without `unsafe` by pidfd.
fn rustix_channel() -> OwnedFd {
    use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
    let me = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(me, 3, PidfdGetfdFlags::empty()).unwrap()
}

pub(crate) struct Device {
    folder: TempDir,
    relay: UnixListener,
    keeper: Option<Child>,
    cgroup: std::cell::RefCell<Option<PathBuf>>,
    variables: Vec<(&'static str, &'static str)>,
    /// Where it is PID 1 of a namespace of its own: what the shell does there first.
    first: Option<String>,
}

impl Device {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A keeper with these variables.
    pub(crate) fn start_with(variables: &[(&'static str, &'static str)]) -> Self {
        Self::start_after(variables, |_| None)
    }

    /// A keeper that is PID 1 of its own pid and mount namespaces (root only), after these commands for the shell.
    pub(crate) fn start_as_pid_one(commands: fn(&Self) -> String) -> Self {
        Self::start_after(&[], |device| Some(commands(device)))
    }

    fn start_after(
        variables: &[(&'static str, &'static str)],
        first: impl FnOnce(&Self) -> Option<String>,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let relay = UnixListener::bind(folder.path().join("relay")).unwrap();
        let script = folder.path().join("supervisor");
        let program = std::env::current_exe().unwrap();
        let text = format!(
            "#!/bin/sh\necho \"$*\" >> '{folder}/supervisors'\n[ -e '{folder}/down' ] && exit 1\n\
             exec '{program}' --exact device::supervisor_role --nocapture >/dev/null\n",
            folder = folder.path().display(),
            program = program.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let (keeper, cgroup) = (None, None.into());
        let variables = variables.to_vec();
        let mut device = Self { folder, relay, keeper, cgroup, variables, first: None };
        device.first = first(&device);
        device.start_keeper();
        device
    }

    pub(crate) fn keeper_command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_vestal-keeper");
        let mut command = match &self.first {
            None => Command::new(program),
            Some(first) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
                command.args(["sh", "-c", &format!("{first}\nexec \"$0\" \"$@\""), program]);
                command
            }
        };
        command.arg("--run-dir").arg(self.folder.path().join("run"));
        command.env("VESTAL_SUPERVISOR", self.folder.path().join("supervisor"));
        command.env(RELAY, self.folder.path().join("relay"));
        command.envs(self.variables.iter().copied());
        command
    }

    pub(crate) fn start_keeper(&mut self) {
        self.keeper = Some(self.keeper_command().spawn().unwrap());
    }

    pub(crate) fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().unwrap().id()
    }

    pub(crate) fn kill_keeper(&mut self) {
        let mut keeper = self.keeper.take().unwrap();
        keeper.kill().unwrap();
        keeper.wait().unwrap();
    }

    pub(crate) fn stop_keeper(&self) {
        kill_process(Pid::from_child(self.keeper.as_ref().unwrap()), Signal::STOP).unwrap();
    }

    pub(crate) fn go_on_keeper(&self) {
        kill_process(Pid::from_child(self.keeper.as_ref().unwrap()), Signal::CONT).unwrap();
    }

    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(self.keeper.as_ref().unwrap());
        kill_process(pid, Signal::TERM).unwrap();
    }

    pub(crate) fn wait_keeper(&mut self) -> Option<i32> {
        let mut keeper = self.keeper.take().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&keeper), PidfdFlags::empty()).unwrap();
        readable(pidfd.as_fd(), "the keeper's end");
        keeper.wait().unwrap().code()
    }

    /// The next supervisor, with nothing said yet.
    pub(crate) fn supervisor_before_handover(&self) -> Supervisor {
        readable(self.relay.as_fd(), "a supervisor");
        let (stream, _) = self.relay.accept().unwrap();
        readable(stream.as_fd(), "the channel");
        let mut pid = [0; 4];
        let (_, mut fds) = receive(stream.as_fd(), &mut pid);
        let channel = fds.pop().unwrap();
        sockopt::set_socket_timeout(
            &channel,
            sockopt::Timeout::Recv,
            Some(Duration::from_secs(30)),
        )
        .unwrap();
        Supervisor {
            pid: i32::from_le_bytes(pid),
            stream,
            channel,
            asked: 0,
            starts: 0,
            slots: HashMap::new(),
            deposits: Vec::new(),
        }
    }

    /// The next supervisor, after its hand-over.
    pub(crate) fn supervisor(&self) -> Supervisor {
        let mut supervisor = self.supervisor_before_handover();
        supervisor.wait_report(|report| matches!(report, Report::HandoverEnd));
        supervisor
    }

    pub(crate) fn plan(&self, slot: u32, script: &str) -> Plan {
        let path = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        Plan {
            programs: vec!["/none/sh".into(), "/bin/sh".into()],
            argv: vec!["sh".into(), "-c".into(), script.into()],
            env: vec![
                "PATH=/usr/bin:/bin".into(),
                format!("VESTAL_RUN_DIR={}", path("run")),
                format!("VESTAL_SERVICE=s{slot}"),
                "VESTAL_INSTANCE=instance1".into(),
            ],
            directory: path(""),
            stdin: "/dev/null".into(),
            stdout: "/dev/null".into(),
            stderr: "/dev/null".into(),
            lock: path(&format!("lock.{slot}")),
            ..Plan::default()
        }
    }

    /// A cgroup's folder where there can be one; `None`: it was asked for and there is none.
    pub(crate) fn cgroup(&self, wanted: bool) -> Option<Option<OwnedFd>> {
        if !wanted {
            return Some(None);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let name = format!("vestal-test-{}", self.keeper_pid());
        let path = PathBuf::from(line.split(' ').nth(4)?).join(own).join(name);
        fs::create_dir(&path).ok()?;
        let folder = fs::File::open(&path).unwrap().into();
        *self.cgroup.borrow_mut() = Some(path);
        Some(Some(folder))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// While it is down every supervisor fails at once.
    pub(crate) fn supervisors_are_down(&self, down: bool) {
        let flag = self.path("down");
        if down { fs::write(flag, "").unwrap() } else { fs::remove_file(flag).unwrap() }
    }

    /// The arguments of every supervisor that was started, once this is so of them.
    pub(crate) fn wait_starts(&self, wanted: impl Fn(&[&str]) -> bool) {
        let read = || fs::read_to_string(self.path("supervisors")).unwrap_or_default();
        until("supervisors", || wanted(&read().lines().collect::<Vec<_>>()));
    }

    pub(crate) fn wait_file(&self, name: &str) {
        until(name, || self.path(name).exists());
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    /// Pids in a file, once it has so many lines.
    pub(crate) fn wait_lines(&self, name: &str, count: usize) -> Vec<i32> {
        let path = self.folder.path().join(name);
        let read = || fs::read_to_string(&path).unwrap_or_default();
        until(name, || read().lines().count() >= count && read().ends_with('\n'));
        read().lines().map(|line| line.parse().unwrap()).collect()
    }

    pub(crate) fn wait_corpses(&self, pids: &[i32]) {
        until("their death", || !pids.iter().any(|pid| lives(*pid)));
    }

    pub(crate) fn kill_hard(&self, pid: i32) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.keeper.is_some() {
            self.terminate();
            self.terminate();
            self.terminate();
            // Two signals at the same moment are one to the kernel: the supervisor that is asked is gone with the relay.
            let mut keeper = self.keeper.take().unwrap();
            let pidfd = pidfd_open(Pid::from_child(&keeper), PidfdFlags::empty()).unwrap();
            for _ in 0..100 {
                let mut wait = [PollFd::new(&pidfd, PollFlags::IN)];
                let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                if poll(&mut wait, Some(&pause)).unwrap_or(0) > 0 {
                    break;
                }
                let _ = kill_process(Pid::from_child(&keeper), Signal::TERM);
            }
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        if let Some(path) = self.cgroup.borrow().as_ref() {
            let _ = fs::remove_dir(path);
        }
    }
}

pub(crate) struct Supervisor {
    pid: i32,
    stream: UnixStream,
    channel: OwnedFd,
    asked: u32,
    pub(crate) starts: u32,
    pub(crate) slots: HashMap<u32, SlotState>,
    pub(crate) deposits: Vec<(String, OwnedFd)>,
}

impl Supervisor {
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it and says which process it was.
    pub(crate) fn kill(self) -> i32 {
        kill_process(Pid::from_raw(self.pid).unwrap(), Signal::KILL).unwrap();
        self.pid
    }

    pub(crate) fn exit(mut self, code: u8) {
        self.stream.write_all(&[code]).unwrap();
    }

    pub(crate) fn send_raw(&self, message: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let parts = [IoSlice::new(message)];
        sendmsg(&self.channel, &parts, &mut control, SendFlags::empty()).unwrap();
    }

    /// The next report, acknowledged.
    fn next(&mut self) -> Report {
        let mut message = [0; MESSAGE_SIZE];
        let (length, mut fds) = receive(self.channel.as_fd(), &mut message);
        assert_ne!(length, 0, "the keeper has closed the channel");
        let (sequence, report) = Report::decode(&message[..length]).unwrap();
        self.send_raw(&Request::Seen { sequence }.encode(0), &[]);
        match &report {
            Report::Welcome { supervisor_starts, .. } => self.starts = *supervisor_starts,
            Report::Slot(state) => drop(self.slots.insert(state.slot, *state)),
            Report::Deposit { name } => {
                self.deposits.push((name.as_str().to_owned(), fds.pop().unwrap()));
            }
            _ => {}
        }
        report
    }

    pub(crate) fn wait_report(&mut self, wanted: impl Fn(&Report) -> bool) {
        while !wanted(&self.next()) {}
    }

    pub(crate) fn wait(&mut self, slot: u32, wanted: impl Fn(&SlotState) -> bool) -> SlotState {
        loop {
            if let Some(state) = self.slots.get(&slot).filter(|state| wanted(state)) {
                return *state;
            }
            readable(
                self.channel.as_fd(),
                &format!("slot {slot}, now {:?}", self.slots.get(&slot)),
            );
            self.next();
        }
    }

    pub(crate) fn answer_to(&mut self, sequence: u32) -> Outcome {
        loop {
            if let Report::Ack { request, outcome } = self.next()
                && request == sequence
            {
                return outcome;
            }
        }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Outcome {
        self.ask_with(request, &[])
    }

    pub(crate) fn ask_with(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Outcome {
        self.asked += 1;
        self.send_raw(&request.encode(self.asked), fds);
        self.answer_to(self.asked)
    }

    pub(crate) fn deposit(&mut self, name: &str) {
        let fd = fs::File::open("/dev/null").unwrap();
        let name = DepositName::new(name).unwrap();
        assert_eq!(self.ask_with(&Request::Deposit { name }, &[fd.as_fd()]), Outcome::Done);
    }

    pub(crate) fn define(&mut self, slot: u32, plan: &Plan, disposition: Disposition) {
        self.define_in(slot, plan, disposition, None);
    }

    pub(crate) fn define_in(
        &mut self,
        slot: u32,
        plan: &Plan,
        disposition: Disposition,
        cgroup: Option<BorrowedFd<'_>>,
    ) {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("plan", flags).unwrap();
        let mut file = fs::File::from(memfd);
        file.write_all(&plan.encode().unwrap()).unwrap();
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        let identity = 100 + u64::from(slot);
        let define = Request::Define { slot, identity, disposition, cgroup: cgroup.is_some() };
        let fds: Vec<_> = std::iter::once(file.as_fd()).chain(cgroup).collect();
        assert_eq!(self.ask_with(&define, &fds), Outcome::Done);
    }

    /// Defines, spawns for the first time, and waits until it runs.
    pub(crate) fn run(&mut self, slot: u32, plan: &Plan, disposition: Disposition) -> SlotState {
        self.define(slot, plan, disposition);
        assert_eq!(self.ask(&Request::Spawn { slot, expected: 0 }), Outcome::Done);
        self.wait(slot, |state| state.phase == protocol::keeper::Phase::Running)
    }
}

fn receive(socket: BorrowedFd<'_>, message: &mut [u8]) -> (usize, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(message)];
    let got = recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        .expect("a report within the limit");
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    (got.bytes, fds)
}

fn readable(fd: BorrowedFd<'_>, what: &str) {
    let mut wait = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    assert!(poll(&mut wait, Some(&LIMIT)).unwrap() > 0, "waited in vain for {what}");
}

/// Looks until something is so that makes no event.
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if so() {
            return;
        }
        let _ = poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 }));
    }
    panic!("waited in vain for {what}");
}

/// Whether a process is there and is not a corpse.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The executor beside the keeper, where it has been built.
pub(crate) fn executor() -> Option<String> {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_vestal-keeper")).with_file_name("vestal-exec");
    path.exists().then(|| path.to_str().unwrap().to_owned())
}
