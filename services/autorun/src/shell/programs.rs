//! Programs: targets, network commands, probes, a vendor's fast boot. Each in a process group of its own, and a target in a
//! cgroup of its own where we may make one; when it has ended, or is given up, nothing of it is left.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use protocol::name::Name;
use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, kill_process, kill_process_group, pidfd_open, waitpid,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use super::world::World;
use crate::{clone, settings::Identity, sys};

/// Names the target in the environment of its program and of all that it starts.
pub(super) const TARGET: &str = "VESTAL_AUTORUN_TARGET";
/// What describes our own start.
const PRIVATE: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "GMI_KEY_FD",
];
const DEFAULT_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// A killed process leaves its cgroup a little later.
const LEAVES: Duration = Duration::from_millis(5);
const LOOKS: u32 = 40;

/// A program that runs. Dropped, it is killed with all that it started.
pub(super) struct Program {
    child: Option<Born>,
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    group: Option<Group>,
    /// Where there is no cgroup: its environment tells what it started.
    trace: Option<(PathBuf, Name)>,
}

/// A child of ours that was not waited for yet.
enum Born {
    Spawned(Child),
    Cloned(Pid),
}

/// A cgroup.
#[derive(Debug)]
struct Group {
    path: PathBuf,
    /// Nothing in it was ever killed: what is born into one where something was is killed, seen on Linux 6.18.
    fresh: bool,
}

/// Whose program it is.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) run: PathBuf,
    /// Our own cgroup, below which others are made.
    pub(super) own: Option<PathBuf>,
    pub(super) target: Name,
}

/// A command as the engine runs it: without input, in the root folder, in our environment.
pub(super) fn command(words: &[String]) -> Command {
    let (program, args) = words.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
    let mut command = Command::new(program);
    for name in PRIVATE {
        command.env_remove(name);
    }
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", DEFAULT_PATH);
    }
    command.args(args).current_dir("/").stdin(Stdio::null());
    command
}

impl Program {
    pub(super) fn start(
        mut command: Command,
        identity: Option<&Identity>,
        owner: Option<&Owner>,
    ) -> Result<Self, String> {
        let name = command.get_program().display().to_string();
        let told = |error: io::Error| format!("{name}: {error}");
        let mut group = owner.and_then(|owner| Group::make(owner.own.as_deref()?, owner));
        if let Some(owner) = owner {
            command.env("VESTAL_RUN_DIR", &owner.run).env(TARGET, owner.target.as_str());
        }
        let own = rustix::process::geteuid();
        let identity = identity.filter(|it| own.is_root() || it.uid != own.as_raw());
        let cloned = match group.as_ref().filter(|group| group.fresh) {
            Some(group) => clone_into(group, &command, identity).map_err(told)?,
            None => None,
        };
        let born = match cloned {
            Some(pid) => Born::Cloned(pid),
            None => Born::Spawned(spawn(command, &mut group, identity).map_err(told)?),
        };
        let pid = born.pid();
        let watch = pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| watched(pidfd, Interest::READABLE));
        let pidfd = match watch {
            Ok(pidfd) => pidfd,
            Err(error) => {
                // Nobody would notice its end.
                let _ = kill_process_group(pid, Signal::KILL);
                reap(born);
                return Err(told(error));
            }
        };
        let trace = owner.filter(|_| group.is_none());
        let trace = trace.map(|owner| (owner.run.clone(), owner.target.clone()));
        Ok(Self { child: Some(born), pid, pidfd, group, trace })
    }

    /// What the program printed, where its output is ours.
    pub(super) fn output(&mut self) -> Option<std::process::ChildStdout> {
        match self.child.as_mut()? {
            Born::Spawned(child) => child.stdout.take(),
            Born::Cloned(_) => None,
        }
    }

    /// Runs until it ends; TERM or KILL when it is told to stop. Its exit status, or the negative number of its signal.
    pub(super) async fn finish(mut self, stops: &mut mpsc::Receiver<bool>) -> Result<i32, String> {
        loop {
            tokio::select! {
                biased;
                ready = self.pidfd.readable() => match ready {
                    Ok(_) => break,
                    Err(error) => return Err(format!("wait for a program: {error}")),
                },
                Some(kill) = stops.recv() => self.signal(kill),
            }
        }
        // Its number is taken until it is waited for: the group is still its own.
        self.kill();
        let status = self.child.take().map(|mut child| child.wait());
        if let Some(group) = self.group.take() {
            group.remove().await;
        }
        match status {
            Some(Ok(status)) => Ok(status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))),
            Some(Err(error)) => Err(format!("wait for a program: {error}")),
            None => Err("a program that was waited for already".to_owned()),
        }
    }

    fn signal(&self, kill: bool) {
        if kill {
            self.kill();
        } else {
            let _ = kill_process_group(self.pid, Signal::TERM);
        }
    }

    /// All of it. What is gone can't be killed; that is no fault.
    fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
        if let Some(group) = &self.group {
            group.kill();
        }
        if let Some((run, target)) = &self.trace {
            sweep(run, std::slice::from_ref(target));
        }
    }
}

/// `None` where the kernel can't.
fn clone_into(
    group: &Group,
    command: &Command,
    identity: Option<&Identity>,
) -> io::Result<Option<Pid>> {
    let folder = File::open(&group.path)?;
    match clone::spawn_into(folder.as_fd(), command, identity) {
        Ok(pid) => Ok(Some(pid)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

/// It enters the group by itself; without the group, where it can't.
fn spawn(
    mut command: Command,
    group: &mut Option<Group>,
    identity: Option<&Identity>,
) -> io::Result<Child> {
    let open = |made: &Group| OpenOptions::new().write(true).open(made.path.join("cgroup.procs"));
    let entry = group.as_ref().and_then(|made| open(made).ok()).map(OwnedFd::from);
    if entry.is_none() {
        *group = None;
    }
    if entry.is_some() || identity.is_some() {
        sys::prepare(&mut command, entry, identity);
    }
    command.process_group(0).spawn()
}

impl Born {
    fn pid(&self) -> Pid {
        match self {
            Self::Spawned(child) => Pid::from_child(child),
            Self::Cloned(pid) => *pid,
        }
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Spawned(child) => child.wait(),
            Self::Cloned(pid) => loop {
                match waitpid(Some(*pid), WaitOptions::empty()) {
                    Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
                    Ok(None) | Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            },
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Self::Spawned(child) => matches!(child.try_wait(), Ok(Some(_))),
            Self::Cloned(pid) => matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(Some(_))),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            self.kill();
            reap(child);
        }
    }
}

impl Drop for Group {
    /// Where somebody is still in it, it is for whoever makes it again.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Waits beside everything else for what was killed; it may hang in the kernel.
fn reap(mut child: Born) {
    if !child.has_ended() {
        let waits = std::thread::Builder::new().name("reap".to_owned());
        // Without a thread it stays a zombie until we end.
        let _ = waits.spawn(move || child.wait());
    }
}

#[expect(
    deprecated,
    reason = "the function in its place is unsafe for types whose descriptor may change; an OwnedFd's can't"
)]
pub(super) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

impl Group {
    fn make(own: &Path, owner: &Owner) -> Option<Self> {
        let path = group_path(own, owner);
        // What an earlier program has left, unless somebody is still in it.
        let _ = fs::remove_dir(&path);
        match fs::create_dir(&path) {
            Ok(()) => Some(Self { path, fresh: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Some(Self { path, fresh: false })
            }
            Err(_) => None,
        }
    }

    fn kill(&self) {
        if fs::write(self.path.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        // A kernel before 5.14.
        let members = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Once they have left it.
    async fn remove(self) {
        for _ in 0..LOOKS {
            match fs::remove_dir(&self.path) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                _ => return,
            }
            self.kill();
            tokio::time::sleep(LEAVES).await;
        }
        tracing::warn!("{}: somebody in it can't be killed", self.path.display());
    }
}

fn group_path(own: &Path, owner: &Owner) -> PathBuf {
    // Engines of other run directories may have the same group.
    let hash = crate::journal::NameHash::of(&owner.run.to_string_lossy()).0;
    let hash: String = hash[..4].iter().map(|octet| format!("{octet:02x}")).collect();
    own.join(format!("autorun-{hash}-{}", owner.target.escaped()))
}

/// Our own group of cgroup v2, where we may make others in it.
pub(super) fn own_group(world: &World) -> Option<PathBuf> {
    let mounts = world.text("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let text = world.text("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = Path::new(mount).join(own);
    let writable = rustix::fs::access(&own, rustix::fs::Access::WRITE_OK).is_ok();
    writable.then_some(own)
}

/// Kills what an earlier engine left of targets: their groups, and whoever's environment names one.
pub(super) fn sweep_targets(owners: &[Owner]) {
    for owner in owners {
        if let Some(own) = &owner.own {
            let group = Group { path: group_path(own, owner), fresh: false };
            if group.path.exists() {
                group.kill();
            }
        }
    }
    let names: Vec<Name> = owners.iter().map(|owner| owner.target.clone()).collect();
    if let Some(owner) = owners.first() {
        sweep(&owner.run, &names);
    }
}

fn sweep(run: &Path, targets: &[Name]) {
    let own = std::process::id().to_string();
    let run = format!("VESTAL_RUN_DIR={}", run.display());
    let targets: Vec<String> = targets.iter().map(|target| format!("{TARGET}={target}")).collect();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| *name != own) else { continue };
        let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) else { continue };
        // First the descriptor, then the look: the number can't become somebody else's unnoticed.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let Ok(environment) = environment(&entry.path().join("environ")) else { continue };
        let has = |wanted: &str| {
            environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
        };
        if has(&run) && targets.iter().any(|target| has(target)) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

fn environment(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    File::open(path)?.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}
