//! How long an application is away while its other slot takes over: from the end of the first process of the old version to the
//! beginning of the last process of the new one.

use std::{
    fs::{self, File},
    io::Read as _,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, PidfdFlags, pidfd_open},
};
use testkit::binary;

use crate::{
    Ground,
    cost::now,
    images::{pack, run},
    numbers::{Report, Table, Times},
    suite::Suite,
};

/// Switches of a round.
const SWITCHES: usize = 5;
const GOAL_MS: f64 = 200.0;
const IMAGE: usize = 1 << 20;
/// What `bench_child` writes: pid, seconds, nanoseconds.
const REPORT: usize = 24;
const LIMIT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let scratch = tempfile::Builder::new().prefix("vt").tempdir_in("/tmp")?;
    let folder = scratch.path();
    run(Command::new(binary("vestal")).args(["keygen", "--dev"]).arg(folder.join("keys")))?;
    for version in ["1", "2"] {
        let image = folder.join("image");
        fs::write(&image, version.repeat(IMAGE))?;
        pack(folder, &folder.join("keys"), version, &image)?;
    }
    let columns = &["p50 ms", "p95 ms", "p99 ms", "max ms", "told by the agent, p50 ms"];
    let mut table = Table::new("an application is away", columns);
    for count in [1, 10] {
        let (found, told) = switches(ground, folder, count)?;
        let (found, told) = (Times::of(found), Times::of(told));
        let figures = [found.p50, found.p95, found.p99, found.max, told.p50];
        table.row(format!("{count} services, one after the other"), &figures.map(|us| us / 1e3));
        // Their own start is in it.
        report.goal(format!("{count} services are away: p95 ms"), GOAL_MS, found.p95 / 1e3);
    }
    report.add(&table);
    Ok(())
}

/// What was seen, and what the agent says of it.
fn switches(
    ground: &Ground,
    folder: &Path,
    count: usize,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let mut begun = Begun::open(folder.join(format!("fifo-{count}")))?;
    let names: Vec<String> = (0..count).map(|number| format!("part-{number}")).collect();
    let text = format!("command = [{:?}]\n", binary("bench_child"));
    let definitions: Vec<_> = names.iter().map(|name| (name.clone(), text.clone())).collect();
    let link = folder.join(format!("link-{count}"));
    let component = format!("method = \"symlink\"\nlink = {link:?}\nservices = {names:?}\n");
    let fifo = begun.path.display().to_string();
    let environment = [("BENCH_FIFO", fifo.as_str())];
    let suite = Suite::start(&folder.join("keys"), &component, &definitions, &environment)?;
    for letter in ['a', 'b'] {
        fs::write(suite.slot(letter), vec![0xff; IMAGE])?;
    }
    begun.wait(count)?;
    let (mut found, mut told) = (Vec::new(), Vec::new());
    for number in 0..=ground.rounds * SWITCHES {
        let version = number % 2 + 1;
        let ending = begun.ending()?;
        let mut command = suite.install(&folder.join(format!("{version}.vestal")));
        let mut install = command.stderr(Stdio::inherit()).spawn().context("start vestalctl")?;
        let ended = ending.join().map_err(|_| anyhow::anyhow!("the waiting thread failed"))??;
        let last = begun.wait(count)?;
        let status = install.wait()?;
        anyhow::ensure!(status.success(), "vestalctl ended with {status}");
        suite.confirmed();
        // The first one makes the link, and finds nothing in its place.
        if number > 0 {
            found.push(Duration::from_nanos(u64::try_from(last - ended)?));
            let history = suite.device.json(&["upgrade", "history"]);
            let entries = history.as_array().or_else(|| history["entries"].as_array());
            let entry = entries.and_then(|entries| entries.last()).context("it has a history")?;
            let outage = entry["outage_ms"].as_u64().context("the history tells the outage")?;
            told.push(Duration::from_millis(outage));
        }
    }
    Ok((found, told))
}

/// The processes that run, as they told.
struct Begun {
    path: PathBuf,
    fifo: File,
    live: Vec<i32>,
}

impl Begun {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).context("make a FIFO")?;
        // Read-write, so that it never ends.
        let fifo = File::options().read(true).write(true).open(&path)?;
        Ok(Self { path, fifo, live: Vec::new() })
    }

    /// Waits until this many have begun, which are those that live then; the moment of the last.
    fn wait(&mut self, count: usize) -> anyhow::Result<i64> {
        self.live.clear();
        let mut last = 0;
        while self.live.len() < count {
            let ready = poll(&mut [PollFd::new(&self.fifo, PollFlags::IN)], Some(&LIMIT))?;
            anyhow::ensure!(ready > 0, "only {} of {count} have begun", self.live.len());
            let mut report = [0; REPORT];
            self.fifo.read_exact(&mut report)?;
            let number =
                |at: usize| i64::from_ne_bytes(report[at..at + 8].try_into().unwrap_or_default());
            self.live.push(i32::try_from(number(0))?);
            last = last.max(number(8) * 1_000_000_000 + number(16));
        }
        Ok(last)
    }

    /// Waits for the end of the first one that lives, and gives its moment.
    fn ending(&self) -> anyhow::Result<std::thread::JoinHandle<anyhow::Result<i64>>> {
        let open = |pid: &i32| {
            let pid = Pid::from_raw(*pid).context("a pid is not 0")?;
            pidfd_open(pid, PidfdFlags::empty()).context("one that runs has a descriptor")
        };
        let processes: Vec<OwnedFd> = self.live.iter().map(open).collect::<Result<_, _>>()?;
        Ok(std::thread::spawn(move || {
            let mut polled: Vec<_> =
                processes.iter().map(|process| PollFd::new(process, PollFlags::IN)).collect();
            anyhow::ensure!(poll(&mut polled, Some(&LIMIT))? > 0, "no service was stopped");
            Ok(now())
        }))
    }
}
