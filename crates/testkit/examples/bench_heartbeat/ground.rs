//! The ground everything is measured on: cores, processes that end with their owner, and what they cost.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::numbers::float;

/// Until anything that is waited for has happened; nothing that is measured comes near it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The machine, and how thoroughly to measure.
pub(crate) struct Ground {
    pub(crate) quick: bool,
    /// Where what is measured runs, and the other core: the same on a machine with one.
    server: String,
    other: String,
}

/// Where those run who make what is measured work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cores {
    /// On the same core: work comes in batches, and nothing is spent on waking another core.
    One,
    Two,
}

impl Cores {
    pub(crate) const BOTH: [Self; 2] = [Self::One, Self::Two];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "one core",
            Self::Two => "two cores",
        }
    }
}

impl Ground {
    pub(crate) fn new(quick: bool) -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("read which cores to use")?;
        let all = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let all = all.context("/proc/self/status does not name the cores")?.trim();
        let mut cores = all.split([',', '-']);
        let server = cores.next().unwrap_or_default().to_owned();
        let other = cores.next_back().unwrap_or(&server).to_owned();
        Ok(Self { quick, server, other })
    }

    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    /// So many, or a tenth of it.
    pub(crate) fn scaled(&self, count: usize) -> usize {
        if self.quick { count.div_ceil(10) } else { count }
    }

    /// Moves this process and its threads.
    pub(crate) fn stand(&self, cores: Cores) -> anyhow::Result<()> {
        let core = if cores == Cores::One { &self.server } else { &self.other };
        let mut command = Command::new("taskset");
        command.args(["-a", "-c", "-p", core, &std::process::id().to_string()]);
        let status = command.stdout(Stdio::null()).status().context("run taskset")?;
        anyhow::ensure!(status.success(), "taskset to {core} ended with {status}");
        Ok(())
    }

    /// A program on the core of what is measured.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("taskset");
        command.args(["-c", &self.server]).arg(program);
        command
    }

    /// Another process of this benchmark, and the address it serves.
    pub(crate) fn start(&self, role: &str) -> anyhow::Result<(Process, SocketAddr)> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = self.command(&program);
        let mut process = Process::start(command.arg(role).stdout(Stdio::piped()))?;
        let stdout = process.0.stdout.take().context("its output was asked for")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("{role} says {line:?}"))?;
        Ok((process, address))
    }
}

/// Ends with its owner.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("start {command:?}"))?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Proportional and private memory of a process in KiB.
pub(crate) fn memory(pid: u32) -> anyhow::Result<[f64; 2]> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("read memory")?;
    let field = |name: &str| float(number_of(&rollup, name));
    Ok([field("Pss:"), field("Private_Clean:") + field("Private_Dirty:")])
}

/// The time a process ran so far, all its threads, in microseconds.
pub(crate) fn cpu_us(pid: u32) -> f64 {
    let ran = threads(pid, "schedstat").into_iter().filter_map(|text| {
        let first = text.split_whitespace().next()?;
        first.parse::<usize>().ok()
    });
    float(ran.sum()) / 1e3
}

/// How often a process went to sleep by itself so far: each time somebody had to wake it.
pub(crate) fn sleeps(pid: u32) -> f64 {
    let all = threads(pid, "status");
    float(all.iter().map(|text| number_of(text, "voluntary_ctxt_switches:")).sum())
}

fn threads(pid: u32, file: &str) -> Vec<String> {
    let folders = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    folders.filter_map(|thread| fs::read_to_string(thread.path().join(file)).ok()).collect()
}

fn number_of(text: &str, name: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
