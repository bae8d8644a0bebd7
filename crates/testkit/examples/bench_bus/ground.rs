//! The ground everything is measured on: cores, scratch folders, processes that end with their owner, and what they cost.

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use endpoint::{CallOptions, Client, Options};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::numbers::{float, micros};

/// A user without any rights.
pub(crate) const STRANGER: u32 = 65_534;
/// Until anything that is waited for has happened; nothing that is measured comes near it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The machine, and how thoroughly to measure.
pub(crate) struct Ground {
    pub(crate) quick: bool,
    /// Where what is measured runs, and where those run that make it work: the same on a machine with one core.
    pub(crate) server: String,
    pub(crate) client: String,
    all: String,
}

impl Ground {
    pub(crate) fn new(quick: bool) -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("read which cores to use")?;
        let all = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let all = all.context("/proc/self/status does not name the cores")?.trim();
        let mut cores = all.split([',', '-']);
        let server = cores.next().unwrap_or_default().to_owned();
        let client = cores.next_back().unwrap_or(&server).to_owned();
        Ok(Self { quick, server, client, all: all.to_owned() })
    }

    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    /// So many, or a tenth of it.
    pub(crate) fn scaled(&self, count: usize) -> usize {
        if self.quick { count.div_ceil(10) } else { count }
    }

    /// Moves this process there.
    pub(crate) fn pin(&self, core: &str) -> anyhow::Result<()> {
        let mut command = Command::new("taskset");
        command.args(["-a", "-c", "-p", core, &std::process::id().to_string()]);
        let status = command.stdout(Stdio::null()).status().context("run taskset")?;
        anyhow::ensure!(status.success(), "taskset to {core} ended with {status}");
        Ok(())
    }

    /// Lets this process run anywhere again.
    pub(crate) fn unpin(&self) -> anyhow::Result<()> {
        self.pin(&self.all)
    }

    /// A program on one core, or on any.
    pub(crate) fn command(&self, core: Option<&str>, program: &Path) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", core.unwrap_or(&self.all)]).arg(program);
        command
    }

    /// Another process of this benchmark, in a role of [`crate::roles`].
    pub(crate) fn start(&self, core: Option<&str>, arguments: &[&str]) -> anyhow::Result<Process> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = self.command(core, &program);
        Process::start(command.args(arguments))
    }

    /// The same as another user; only root can do that.
    pub(crate) fn start_stranger(
        &self,
        core: Option<&str>,
        arguments: &[&str],
    ) -> anyhow::Result<Process> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = self.command(core, &program);
        Process::start(command.args(arguments).uid(STRANGER).gid(STRANGER))
    }
}

/// Whether we may start a process of another user; says so where not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: what needs a process of another user is left out");
    }
    root
}

/// Where a run directory may lie: on the machine's disk, or in memory as a device's `/run` does.
pub(crate) const DISK: &str = "/tmp";
pub(crate) const MEMORY: &str = "/dev/shm";

/// A folder that any user may look into.
pub(crate) fn scratch(place: &str) -> anyhow::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("vb").tempdir_in(place)?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// Ends with its owner.
pub(crate) struct Process {
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("start {command:?}"))?;
        let lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Ok(Self { child, lines })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::KILL).context("kill a process")
    }

    /// The next line it prints.
    pub(crate) fn line(&mut self) -> anyhow::Result<String> {
        let lines = self.lines.as_mut().context("its output was asked for")?;
        let line = lines.next().context("a process of the benchmark ended before its answer")?;
        line.context("read the answer of a process")
    }

    /// Ends its input, on which it tells what it has to tell.
    pub(crate) fn finish(mut self) -> anyhow::Result<Value> {
        drop(self.child.stdin.take());
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("understand {line:?}"))
    }
}

/// The real registry in a run directory of its own, without any other daemon.
pub(crate) struct Registry {
    pub(crate) process: Process,
    pub(crate) client: Client,
    folder: TempDir,
}

impl Registry {
    pub(crate) async fn start(ground: &Ground) -> anyhow::Result<Self> {
        Self::start_at(ground, DISK).await
    }

    pub(crate) async fn start_at(ground: &Ground, place: &str) -> anyhow::Result<Self> {
        let folder = scratch(place)?;
        let (run, etc) = (folder.path().join("run"), folder.path().join("etc"));
        fs::create_dir_all(&run)?;
        fs::create_dir_all(etc.join("policy.d"))?;
        let mut command = ground.command(Some(&ground.server), &testkit::binary("vestal-registry"));
        command.env("VESTAL_RUN_DIR", &run).env("VESTAL_CONFIG_DIR", &etc);
        command.env("VESTAL_STATE_DIR", folder.path().join("state"));
        let log = fs::File::create(folder.path().join("log"))?;
        let process = Process::start(command.stderr(log))?;
        let options = Options { patience: LIMIT, ..Options::default() };
        let client = Client::new(run.join("registry.sock"), options);
        client.objects().await.context("the registry answers")?;
        // Strangers may connect, as to the socket that the supervisor binds.
        fs::set_permissions(run.join("registry.sock"), fs::Permissions::from_mode(0o666))?;
        Ok(Self { process, client, folder })
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn policies(&self) -> PathBuf {
        self.folder.path().join("etc/policy.d")
    }

    pub(crate) async fn ask(&self, method: &str) -> anyhow::Result<Value> {
        let answer = self.client.call("registry", method, &(), CallOptions::safe()).await?;
        Ok(answer.parse()?)
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(
        &self,
        method: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let until = Instant::now() + LIMIT;
        loop {
            let answer = self.ask(method).await?;
            if wanted(&answer) {
                return Ok(answer);
            }
            anyhow::ensure!(Instant::now() < until, "registry.{method} goes on saying {answer}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A client that waits for an endpoint that is only just starting.
pub(crate) fn patient(socket: &Path) -> Client {
    Client::new(socket, Options { patience: LIMIT, ..Options::default() })
}

/// Resident, proportional and private memory of a process in KiB.
pub(crate) fn memory(pid: u32) -> anyhow::Result<[f64; 3]> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("read memory")?;
    let field = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        float(number.unwrap_or(0))
    };
    let private = field("Private_Clean:") + field("Private_Dirty:");
    Ok([field("Rss:"), field("Pss:"), private])
}

/// The time a process ran so far, all its threads, in microseconds.
pub(crate) fn cpu_us(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let ran = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    micros(Duration::from_nanos(ran.sum()))
}

/// How this process, and what it starts, is scheduled: field 41 of proc_pid_stat(5).
pub(crate) fn scheduler() -> &'static str {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    match after_name.split_whitespace().nth(38) {
        Some("1") => "SCHED_FIFO",
        Some("2") => "SCHED_RR",
        Some(_) => "ordinary, so other work on the machine counts",
        None => "unknown",
    }
}

/// CLOCK_MONOTONIC, which is the same in all processes, in nanoseconds.
pub(crate) fn now_ns() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Calls one after another, and what each of them cost whoever serves them.
pub(crate) struct Timed {
    pub(crate) times: Vec<Duration>,
    pub(crate) cpu_us_each: f64,
}

/// Makes `count` calls after a tenth of it that don't count; `server` is who serves them.
pub(crate) async fn timed(
    count: usize,
    server: u32,
    mut call: impl AsyncFnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Timed> {
    for at in 0..count / 10 {
        call(at).await?;
    }
    let ran = cpu_us(server);
    let mut times = Vec::with_capacity(count);
    for at in 0..count {
        let before = Instant::now();
        call(at).await?;
        times.push(before.elapsed());
    }
    Ok(Timed { times, cpu_us_each: (cpu_us(server) - ran) / float(count) })
}
