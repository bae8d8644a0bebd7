//! From a rename over a package's file until the program of its trigger has begun, less the quiet time; beside a loop that does
//! nothing but wait for inotify and a quiet time, read the file, hash it and start the program.

use std::{fs, mem::MaybeUninit, path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use testkit::binary;

use crate::{
    ground::{Ground, Process, settle, write_over},
    numbers::{Report, Rounds, Table, Times},
    reports::{Reports, rest},
    suite::{Place, Suite, name, text},
};

/// Edits of a round.
const EDITS: usize = 20;
/// What the watcher waits by default.
const QUIET_MS: i64 = 50;
const PACKAGES: usize = 100;
const GOAL_MS: f64 = 10.0;

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut reports = Reports::open(scratch.path().join("fifo"))?;
    let fifo = reports.path().to_str().context("the scratch folder's name is text")?.to_owned();
    let columns = &["min ms", "p50 ms", "p95 ms", "p99 ms", "max ms", "daemons' CPU ms each"];
    let mut table = Table::new("edit to the trigger's process, less the quiet time", columns);
    let folder = scratch.path().join("floor");
    fs::create_dir(&folder)?;
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    let floor = Process::start(command.arg("floor").arg(&folder).env("BENCH_FIFO", &fifo))?;
    rest(1);
    let places =
        [(Place::Memory, "run directory in memory"), (Place::Disk, "run directory on the disk")];
    let mut value = 0;
    for (place, what) in places {
        if place == Place::Memory && !ground.is_inside() {
            continue;
        }
        let trigger = format!(
            "command = [\"/bin/sleep\", \"100000\"]\n[[triggers]]\nevent = \"config.change\"\n\
             package = \"{}\"\nrun = [{:?}]\n",
            name(0),
            binary("bench_child")
        );
        let definitions = [("watched", trigger)];
        let environment = [("BENCH_FIFO", fifo.as_str())];
        let suite = Suite::start(ground, PACKAGES, "", &definitions, &environment, place)?;
        let mut ours = Measured::default();
        let mut bare = Measured::default();
        for _ in 0..ground.rounds() * ground.scaled(EDITS) {
            value += 1;
            bare.add(&mut reports, &[floor.pid()], || {
                write_over(&folder.join("package"), &text(value))
            })?;
            ours.add(&mut reports, &suite.daemons, || suite.edit(0, value))?;
        }
        suite.check()?;
        let figures = ours.figures();
        table.row(format!("inotify, hash and spawn alone ({what})"), &bare.figures());
        table.row(format!("vestal, {what}"), &figures);
        report.goal(format!("edit to trigger, {what}: p95 ms"), GOAL_MS, figures[2]);
    }
    report.add(&table);
    Ok(())
}

#[derive(Default)]
struct Measured {
    times: Vec<Duration>,
    cpu: Rounds,
}

impl Measured {
    fn add(
        &mut self,
        reports: &mut Reports,
        daemons: &[i32],
        edit: impl FnOnce() -> anyhow::Result<i64>,
    ) -> anyhow::Result<()> {
        let ran = settle(daemons)?;
        let before = edit()?;
        let began = reports.wait(1)?;
        // Its end is part of what the daemons have to do.
        let pid = *reports.live.first().context("it has begun")?;
        reports.kill(pid)?;
        self.cpu.push(&[settle(daemons)? - ran]);
        let beyond = u64::try_from(began - before - QUIET_MS * 1_000_000);
        self.times.push(Duration::from_nanos(beyond.context("it began in the quiet time")?));
        Ok(())
    }

    fn figures(&self) -> [f64; 6] {
        let times = Times::of(self.times.clone());
        let min = self.times.iter().min().map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
        let cpu = self.cpu.medians().first().copied().unwrap_or(f64::NAN);
        [min, times.p50 / 1e3, times.p95 / 1e3, times.p99 / 1e3, times.max / 1e3, cpu]
    }
}

/// The loop that it is compared with, in a process of its own.
pub(crate) fn floor(folder: &Path) -> anyhow::Result<()> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&inotify, folder, WatchFlags::MOVED_TO)?;
    let quiet = Timespec { tv_sec: 0, tv_nsec: QUIET_MS * 1_000_000 };
    let mut last = [0; 32];
    loop {
        poll(&mut [PollFd::new(&inotify, PollFlags::IN)], None)?;
        loop {
            drain(&inotify)?;
            if poll(&mut [PollFd::new(&inotify, PollFlags::IN)], Some(&quiet))? == 0 {
                break;
            }
        }
        let digest: [u8; 32] = Sha256::digest(fs::read(folder.join("package"))?).into();
        if digest != last {
            last = digest;
            // Whoever measures kills it.
            Command::new(binary("bench_child")).spawn()?.wait()?;
        }
    }
}

fn drain(inotify: &impl std::os::fd::AsFd) -> anyhow::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                anyhow::bail!("the queue is full")
            }
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
