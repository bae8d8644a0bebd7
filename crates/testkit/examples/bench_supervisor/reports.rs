//! The one clock of the benchmark, and the FIFO on which the children say when they began.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};

const SECOND: i64 = 1_000_000_000;
/// How long all children may take to begin; nothing that is measured comes near it.
const LIMIT: i64 = 120 * SECOND;
/// What `bench_child` writes.
const REPORT: usize = 24;

/// Nanoseconds of CLOCK_MONOTONIC, which is the same in all processes.
pub(crate) fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * SECOND + time.tv_nsec
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
pub(crate) fn ms(nanoseconds: i64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// Does nothing for this long, so that every supervisor has gone idle.
pub(crate) fn rest(seconds: i64) {
    let end = now() + seconds * SECOND;
    while now() < end {
        let left = end - now();
        // An interrupted wait goes on.
        let _ = poll(&mut [], Some(&Timespec { tv_sec: left / SECOND, tv_nsec: left % SECOND }));
    }
}

/// The children that live, as they told.
pub(crate) struct Reports {
    path: PathBuf,
    fifo: File,
    pub(crate) live: BTreeSet<i32>,
}

impl Reports {
    pub(crate) fn open(path: PathBuf) -> anyhow::Result<Self> {
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, &path, FileType::Fifo, mode, 0).context("make the children's FIFO")?;
        // Read-write, so that it never ends.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).context("the flag fits")?;
        let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path)?;
        // A report is lost by nobody: 1 MiB takes those of 40,000 children.
        rustix::pipe::fcntl_setpipe_size(&fifo, 1 << 20).context("make room in the FIFO")?;
        Ok(Self { path, fifo, live: BTreeSet::new() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until this many children more have begun and gives the moment of the last.
    pub(crate) fn wait(&mut self, count: usize) -> anyhow::Result<i64> {
        let until = now() + LIMIT;
        let (mut seen, mut last) = (0, 0);
        while seen < count {
            let mut report = [0; REPORT];
            match self.fifo.read(&mut report) {
                Ok(REPORT) => {
                    let number = |at: usize| {
                        i64::from_ne_bytes(report[at..at + 8].try_into().unwrap_or_default())
                    };
                    self.live.insert(i32::try_from(number(0)).context("pids fit")?);
                    last = last.max(number(8) * SECOND + number(16));
                    seen += 1;
                }
                Ok(length) => anyhow::bail!("a report of {length} bytes"),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    anyhow::ensure!(now() < until, "{seen} of {count} children have begun");
                    let mut polled = [PollFd::new(&self.fifo, PollFlags::IN)];
                    poll(&mut polled, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))?;
                }
                Err(error) => return Err(error).context("read the children's reports"),
            }
        }
        Ok(last)
    }

    /// Kills a child that lives; gives the moment before.
    pub(crate) fn kill(&mut self, pid: i32) -> anyhow::Result<i64> {
        self.live.remove(&pid);
        let before = now();
        let target = Pid::from_raw(pid).context("a child's pid is not 0")?;
        kill_process(target, Signal::KILL).with_context(|| format!("kill child {pid}"))?;
        Ok(before)
    }
}
