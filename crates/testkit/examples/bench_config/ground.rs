//! The ground everything is measured on: namespaces and a core of our own, processes that end with their owner, and what they
//! cost.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use rustix::event::{Timespec, poll};

use crate::{
    numbers::{NONE, float},
    reports::{ms, now},
};

/// What the kernel leaves out when its pids begin anew.
const RESERVED_PIDS: i64 = 300;
const MILLISECOND: i64 = 1_000_000;
/// Nothing that is measured comes near it.
const LIMIT: i64 = 60_000 * MILLISECOND;

/// How thoroughly to measure, and what may be.
pub(crate) struct Ground {
    quick: bool,
    /// Mounts and pids are our own.
    inside: bool,
}

impl Ground {
    /// Everything that is measured runs on the first core, ourselves as well: we wait meanwhile.
    pub(crate) fn new(quick: bool, inside: bool) -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("read which cores to use")?;
        let all = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let all = all.context("/proc/self/status does not name the cores")?.trim();
        let core = all.split([',', '-']).next().unwrap_or_default();
        let mut command = Command::new("taskset");
        command.args(["-a", "-c", "-p", core, &std::process::id().to_string()]);
        let status = command.stdout(Stdio::null()).status().context("run taskset")?;
        anyhow::ensure!(status.success(), "taskset to {core} ended with {status}");
        Ok(Self { quick, inside })
    }

    pub(crate) fn rounds(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    /// So many, or a fifth of it.
    pub(crate) fn scaled(&self, count: usize) -> usize {
        if self.quick { count.div_ceil(5) } else { count }
    }

    /// Whether folders can be in memory, and starts are counted.
    pub(crate) fn is_inside(&self) -> bool {
        self.inside
    }

    /// Processes and threads that were begun so far.
    fn begun(&self) -> anyhow::Result<Option<i64>> {
        if !self.inside {
            return Ok(None);
        }
        let text = fs::read_to_string("/proc/loadavg").context("read the last pid")?;
        let last = text.split_whitespace().last().and_then(|pid| pid.parse().ok());
        Ok(Some(last.context("/proc/loadavg does not end with a pid")?))
    }

    /// What it costs to run this, together with what these daemons do meanwhile and because of it.
    pub(crate) fn cost(
        &self,
        daemons: &[i32],
        run: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Cost> {
        let settled = settle(daemons)?;
        let (children, begun) = (children_ms()?, self.begun()?);
        let before = now();
        run()?;
        let wall_ms = ms(now() - before);
        let daemons_ms = settle(daemons)? - settled;
        let starts = match (begun, self.begun()?) {
            (Some(before), Some(after)) => starts(before, after)?,
            _ => NONE,
        };
        Ok(Cost { wall_ms, callers_ms: children_ms()? - children, daemons_ms, starts })
    }
}

fn starts(before: i64, after: i64) -> anyhow::Result<f64> {
    let mut count = after - before;
    if count < 0 {
        let max = fs::read_to_string("/proc/sys/kernel/pid_max").context("read the largest pid")?;
        count += max.trim().parse::<i64>().context("the largest pid is a number")? - RESERVED_PIDS;
    }
    Ok(float(usize::try_from(count).context("pids only grow")?))
}

/// What something cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall_ms: f64,
    /// CPU time of the processes that we began, and of all of theirs.
    pub(crate) callers_ms: f64,
    /// CPU time of the daemons.
    pub(crate) daemons_ms: f64,
    /// Processes and threads that were begun by anybody.
    pub(crate) starts: f64,
}

impl Cost {
    pub(crate) const COLUMNS: [&str; 4] =
        ["CPU ms, all", "of it the daemons", "process starts", "wall ms"];

    pub(crate) fn cpu_ms(&self) -> f64 {
        self.callers_ms + self.daemons_ms
    }

    pub(crate) fn figures(&self) -> [f64; 4] {
        [self.cpu_ms(), self.daemons_ms, self.starts, self.wall_ms]
    }
}

/// CPU time of all children that ended, and of all that these waited for.
fn children_ms() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask what children cost")?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(float(usize::try_from(us).context("times only grow")?) / 1e3)
}

/// Waits until these processes do nothing any more; the CPU time that they have used by then, in milliseconds.
pub(crate) fn settle(pids: &[i32]) -> anyhow::Result<f64> {
    let until = now() + LIMIT;
    let mut before = cpu_ms(pids);
    while !pids.is_empty() {
        pause(20);
        let after = cpu_ms(pids);
        if after <= before {
            break;
        }
        anyhow::ensure!(now() < until, "the daemons never come to rest");
        before = after;
    }
    Ok(before)
}

/// The time these processes ran so far, all their threads.
pub(crate) fn cpu_ms(pids: &[i32]) -> f64 {
    let threads = |pid: &i32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let ran = pids.iter().flat_map(threads).flatten().filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<usize>().ok()
    });
    float(ran.sum()) / 1e6
}

/// Resident, proportional, private and peak memory of a process in KiB.
pub(crate) fn memory(pid: i32) -> anyhow::Result<[f64; 4]> {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/{pid}/{name}")).context("read how large it is")
    };
    let (rollup, status) = (read("smaps_rollup")?, read("status")?);
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        float(number.unwrap_or(0))
    };
    let private = field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:");
    Ok([field(&rollup, "Rss:"), field(&rollup, "Pss:"), private, field(&status, "VmHWM:")])
}

/// Does nothing for this long.
pub(crate) fn pause(milliseconds: i64) {
    let end = now() + milliseconds * MILLISECOND;
    while now() < end {
        let left = end - now();
        let left =
            Timespec { tv_sec: left / (1000 * MILLISECOND), tv_nsec: left % (1000 * MILLISECOND) };
        // An interrupted wait goes on.
        let _ = poll(&mut [], Some(&left));
    }
}

/// Runs a program to its end, which must be a good one.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    anyhow::ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Ends with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("start {command:?}"))?))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes a file as `uci commit` does: whoever looks sees the one before or the whole new one. The moment before it is there.
pub(crate) fn write_over(path: &Path, text: &str) -> anyhow::Result<i64> {
    let name = path.file_name().context("a file has a name")?.to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    fs::write(&fresh, text)?;
    let before = now();
    fs::rename(fresh, path)?;
    Ok(before)
}

const NAMESPACES: [&str; 5] = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Whether namespaces can be made.
pub(crate) fn may_enter() -> bool {
    let mut command = Command::new("unshare");
    let status = command.args(NAMESPACES).arg("true").stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs this program again in namespaces of its own, to its end.
pub(crate) fn enter(arguments: &[String]) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new("unshare");
    run(command.args(NAMESPACES).arg(program).arg("--inside").args(arguments))
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
