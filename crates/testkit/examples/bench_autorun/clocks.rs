//! The one clock of the benchmark, and what processes have used of theirs.

use std::{fs, io::Read, os::fd::AsFd, time::Duration};

use anyhow::Context as _;
use nix::libc;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    time::{ClockId, clock_gettime},
};

use crate::numbers::float;

pub(crate) const SECOND: i64 = 1_000_000_000;
/// Nothing that is measured comes near it.
const LIMIT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// Of a second, in /proc: the same on all of Linux's architectures.
const TICKS: usize = 100;

/// Nanoseconds of CLOCK_MONOTONIC, which is the same in all processes.
pub(crate) fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * SECOND + time.tv_nsec
}

/// From one moment to a later one.
pub(crate) fn between(from: i64, to: i64) -> anyhow::Result<Duration> {
    let length = u64::try_from(to - from).context("what was begun later ended earlier")?;
    Ok(Duration::from_nanos(length))
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

/// Waits until it can be read, or has ended where it is a process.
pub(crate) fn wait_for(what: &str, descriptor: impl AsFd) -> anyhow::Result<()> {
    wait(what, &mut [PollFd::new(&descriptor, PollFlags::IN)])
}

/// Waits for either; whether `wanted` is there then.
pub(crate) fn comes_first(what: &str, wanted: impl AsFd, other: impl AsFd) -> anyhow::Result<bool> {
    let mut polled =
        [wanted.as_fd(), other.as_fd()].map(|it| PollFd::from_borrowed_fd(it, PollFlags::IN));
    wait(what, &mut polled)?;
    Ok(!polled[0].revents().is_empty())
}

fn wait(what: &str, polled: &mut [PollFd<'_>]) -> anyhow::Result<()> {
    let ready = poll(polled, Some(&LIMIT)).context("wait")?;
    anyhow::ensure!(ready > 0, "waited {} s and did not see: {what}", LIMIT.tv_sec);
    Ok(())
}

/// Reads so much of a FIFO once it is there.
pub(crate) fn take<const LENGTH: usize>(
    what: &str,
    mut fifo: impl AsFd + Read,
) -> anyhow::Result<[u8; LENGTH]> {
    wait_for(what, &fifo)?;
    let mut taken = [0; LENGTH];
    fifo.read_exact(&mut taken).with_context(|| what.to_owned())?;
    Ok(taken)
}

/// Milliseconds of CPU time of a process, with its threads that ended.
#[expect(unsafe_code, reason = "no safe function reads the clock of another process")]
pub(crate) fn cpu_ms(pid: i32) -> anyhow::Result<f64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both only write to the variables of ours that they are given, of their types.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    anyhow::ensure!(!failed, "process {pid} has no clock: it has ended");
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?);
    Ok(Duration::new(seconds, nanoseconds).as_secs_f64() * 1e3)
}

/// The same of all its children that it has waited for, and of theirs; by the kernel in steps of 10 ms.
pub(crate) fn children_ms(pid: i32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("read what it cost")?;
    let (_, rest) = text.rsplit_once(')').context("a name is in brackets")?;
    let mut fields = rest.split_whitespace().skip(13);
    let mut ticks = || fields.next().and_then(|field| field.parse::<usize>().ok());
    let (user, system) = ticks().zip(ticks()).context("there is what its children cost")?;
    Ok(float(user + system) * 1e3 / float(TICKS))
}

/// Waits until the process does nothing any more; the CPU time that it has used by then, in milliseconds.
pub(crate) fn settle(pid: i32) -> anyhow::Result<f64> {
    let until = now() + LIMIT.tv_sec * SECOND;
    let mut before = cpu_ms(pid)?;
    loop {
        pause(50);
        let after = cpu_ms(pid)?;
        if after <= before {
            return Ok(before);
        }
        anyhow::ensure!(now() < until, "process {pid} never comes to rest");
        before = after;
    }
}
