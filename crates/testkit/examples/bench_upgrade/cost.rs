//! What it costs to run programs to their end: time, CPU time, peak memory and bytes, theirs and that of the daemons that work
//! for them.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context as _;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use rustix::{
    event::{Timespec, poll},
    process::{Pid, WaitId, WaitIdOptions, waitid},
    time::{ClockId, clock_gettime},
};

use crate::numbers::float;

const SECOND: i64 = 1_000_000_000;
/// Between two looks at the memory of the programs; the peak is never forgotten while they run.
const LOOK_MS: i64 = 20;
/// How long a daemon may go on with it.
const LIMIT: i64 = 60 * SECOND;

/// What something cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) wall_ms: f64,
    /// Programs and daemons.
    pub(crate) cpu_ms: f64,
    /// Peak of each program, added up.
    pub(crate) programs_kib: f64,
    /// Peak of each daemon, added up.
    pub(crate) daemons_kib: f64,
    /// What the programs read of files.
    pub(crate) read: f64,
    /// What all of them wrote to the storage.
    pub(crate) written: f64,
}

/// Nanoseconds of CLOCK_MONOTONIC, which is the same in all processes.
pub(crate) fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * SECOND + time.tv_nsec
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
pub(crate) fn ms(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// Does nothing for this long.
pub(crate) fn pause(milliseconds: i64) {
    let end = now() + milliseconds * (SECOND / 1000);
    while now() < end {
        let left = end - now();
        // An interrupted wait goes on.
        let _ = poll(&mut [], Some(&Timespec { tv_sec: left / SECOND, tv_nsec: left % SECOND }));
    }
}

/// Runs what `begin` starts, all at once, to a good end of each. What is written later because of it counts as well.
pub(crate) fn costs_of(
    daemons: &[i32],
    begin: impl FnOnce() -> anyhow::Result<Vec<Child>>,
) -> anyhow::Result<Cost> {
    // What others wrote must not have to be written meanwhile.
    rustix::fs::sync();
    let ran = settle(daemons)?;
    for pid in daemons {
        fs::write(format!("/proc/{pid}/clear_refs"), "5").context("forget a peak of memory")?;
    }
    let (children, bytes) = (children()?, written(daemons));
    let before = now();
    let mut programs = begin()?;
    let (peaks, read) = watch(&programs)?;
    let wall_ms = ms(now() - before);
    for program in &mut programs {
        let status = program.wait()?;
        anyhow::ensure!(status.success(), "a program that is measured ended with {status}");
    }
    let settled = settle(daemons)?;
    let after = self::children()?;
    Ok(Cost {
        wall_ms,
        cpu_ms: after.0 - children.0 + settled - ran,
        programs_kib: peaks,
        daemons_kib: daemons.iter().map(|pid| peak(*pid)).sum(),
        read,
        written: after.1 - children.1 + written(daemons) - bytes,
    })
}

/// Runs one program.
pub(crate) fn cost_of(daemons: &[i32], command: &mut Command) -> anyhow::Result<Cost> {
    let begin = || Ok(vec![command.spawn().with_context(|| format!("start {command:?}"))?]);
    costs_of(daemons, begin)
}

/// Until all have ended: their peaks, and what they read. They are still to be reaped.
fn watch(programs: &[Child]) -> anyhow::Result<(f64, f64)> {
    let done = AtomicBool::new(false);
    let pids: Vec<i32> = programs.iter().map(|program| program.id().cast_signed()).collect();
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut peaks = vec![0.0; pids.len()];
            while !done.load(Ordering::Relaxed) {
                for (pid, last) in pids.iter().zip(&mut peaks) {
                    // One that has ended has none any more.
                    *last = peak(*pid).max(*last);
                }
                pause(LOOK_MS);
            }
            peaks.iter().sum::<f64>()
        });
        let mut read = 0.0;
        for pid in &pids {
            let id = Pid::from_raw(*pid).context("a pid is not 0")?;
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let waited = waitid(WaitId::Pid(id), options);
            read += number(&format!("/proc/{pid}/io"), "rchar:");
            if let Err(error) = waited {
                done.store(true, Ordering::Relaxed);
                return Err(error).context("wait for a program");
            }
        }
        done.store(true, Ordering::Relaxed);
        let peaks = watching.join().map_err(|_| anyhow::anyhow!("the watching thread failed"))?;
        Ok((peaks, read))
    })
}

/// Milliseconds of CPU time, and bytes written, of all children that ended and of those that these waited for.
fn children() -> anyhow::Result<(f64, f64)> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask what children cost")?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let blocks = usage.block_writes();
    let count = |number: i64| usize::try_from(number).context("it only grows").map(float);
    Ok((count(us)? / 1e3, count(blocks)? * 512.0))
}

/// Waits until these processes do nothing any more; the CPU time that they have used by then, in milliseconds.
pub(crate) fn settle(pids: &[i32]) -> anyhow::Result<f64> {
    let until = now() + LIMIT;
    let mut before = cpu_ms(pids);
    while !pids.is_empty() {
        pause(50);
        let after = cpu_ms(pids);
        if after <= before {
            break;
        }
        anyhow::ensure!(now() < until, "the daemons never come to rest");
        before = after;
    }
    Ok(before)
}

/// The time these processes ran so far, all their threads and those that ended.
fn cpu_ms(pids: &[i32]) -> f64 {
    let ticks = pids.iter().filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        let field = |at| rest.split_whitespace().nth(at)?.parse::<usize>().ok();
        Some(field(11)? + field(12)?)
    });
    float(ticks.sum()) * 1e3 / float(TICKS)
}

/// Of a second, in /proc: the same on all of Linux's architectures.
const TICKS: usize = 100;

fn written(pids: &[i32]) -> f64 {
    pids.iter().map(|pid| number(&format!("/proc/{pid}/io"), "write_bytes:")).sum()
}

/// Peak of a process's memory in KiB.
fn peak(pid: i32) -> f64 {
    number(&format!("/proc/{pid}/status"), "VmHWM:")
}

fn number(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(PathBuf::from(path)).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    float(number.unwrap_or(0))
}
