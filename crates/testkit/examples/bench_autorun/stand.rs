//! A device whose engine thinks that a folder is its machine. Its run directory is in memory, as `/run` is on a device; its journal
//! lies there or on the disk.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use endpoint::Bus;
use protocol::{
    autorun::{STATE, State, Status},
    registry::Subscribe,
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, PidfdFlags, pidfd_open},
};
use testkit::{Device, Process, binary};
use tokio::sync::oneshot;

use crate::clocks::{SECOND, between, children_ms, comes_first, cpu_ms, now, pause, settle, take};

/// Services that are there to be put away.
pub(crate) const SERVICES: usize = 5;
/// How long the power is off.
const OFF_MS: i64 = 20;
const DEFINITION: &str = include_str!("../../../../configs/core/autorun.toml");
const MOUNTS: &str = "22 1 254:2 / / ro,relatime - ext4 /dev/vda2 ro\n\
                      23 22 0:5 / /proc rw - proc proc rw\n";
const SWAPS: &str = "Filename Type Size Used Priority\n/dev/vda1 partition 524284 0 -2\n";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Memory,
    Disk,
}

/// What a device is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) journal: Place,
    /// Targets have cgroups of their own.
    pub(crate) groups: bool,
    /// Further lines of `autorun.toml`.
    pub(crate) settings: String,
    /// Name and text of each file of `autorun.d`.
    pub(crate) targets: Vec<(String, String)>,
    pub(crate) services: usize,
}

/// A device that runs.
pub(crate) struct Stand {
    pub(crate) device: Device,
    mounted: bool,
    /// On which targets tell when they began.
    begun: File,
    /// Where the kernel is told how to switch the power off.
    mode: File,
    ear: Option<Ear>,
}

/// When something happened in one life, and what it cost.
pub(crate) struct Life {
    pub(crate) woke: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) done: i64,
    /// CPU time of the engine after the write, until it rests.
    pub(crate) engine_ms: f64,
    /// That of its children: the writer, the hook, the targets.
    pub(crate) children_ms: f64,
}

/// Targets that all run this program, in one level.
pub(crate) fn programs(count: usize, rest: &str) -> Vec<(String, String)> {
    let program = binary("bench_autorun_child");
    let target = |number| {
        (format!("part-{number:02}"), format!("command = [{program:?}]\nphase = \"late\"\n{rest}"))
    };
    (0..count).map(target).collect()
}

impl Wanted {
    /// With one target, and an engine that stays.
    pub(crate) fn new(journal: Place) -> Self {
        let settings = "linger = \"stay\"\n".to_owned();
        Self { journal, groups: true, settings, targets: programs(1, ""), services: 0 }
    }
}

impl Stand {
    pub(crate) fn start(wanted: &Wanted) -> anyhow::Result<Self> {
        let device = Device::with_core();
        for name in ["log", "heartbeat", "config", "upgrade", "driver"] {
            device.define(name, "command = [\"off\"]\nenabled = false\n");
        }
        let child = binary("bench_autorun_child");
        for number in 0..wanted.services {
            let text = format!("command = [{child:?}, \"stay\"]\n");
            device.define(&service(number), &text);
        }
        let run = device.run_dir();
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&run).status();
        let mounted = status.context("run mount")?.success();
        anyhow::ensure!(mounted, "no memory could be mounted on {}", run.display());
        let (begun, mode) = (run.join("begun"), run.join("fake/sys/power/disk.written"));
        // As it is built in; the supervisor keeps variables of the suite's own to itself.
        let fake = run.join("fake");
        let env = format!("env = {{ VESTAL_AUTORUN_FAKE = {fake:?}, BENCH_FIFO = {begun:?} }}\n");
        device.define("autorun", &(env + DEFINITION));
        make_machine(&fake, wanted.groups)?;
        make_settings(device.folder(), wanted)?;
        let (begun, mode) = (fifo(&begun)?, fifo(&mode)?);
        let mut stand = Self { device, mounted, begun, mode, ear: None };
        stand.device.start();
        stand.device.ctl_ok(&["wait-for", "service", "autorun"]);
        for number in 0..wanted.services {
            stand.device.until_pid(&service(number));
        }
        stand.ear = Some(Ear::open(run)?);
        settle(stand.engine()?)?;
        Ok(stand)
    }

    /// The engine's process, which is not the one that writes the image.
    pub(crate) fn engine(&self) -> anyhow::Result<i32> {
        let all = self.engines();
        let is_child = |one: &Process| all.iter().any(|other| other.pid == one.parent);
        let engine = all.iter().find(|one| !is_child(one));
        Ok(engine.context("there is no engine")?.pid)
    }

    /// Every process of the engine's service.
    pub(crate) fn engines(&self) -> Vec<Process> {
        self.device.processes("autorun")
    }

    pub(crate) fn hibernate(&self) -> anyhow::Result<Child> {
        let mut command = self.device.command("vestalctl");
        command.arg("hibernate").stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        child.context("start vestalctl")
    }

    /// Waits until the image begins to be written; where it doesn't, `vestalctl` says why.
    pub(crate) fn until_writing(&self, hibernate: &mut Child) -> anyhow::Result<()> {
        let ends = pidfd_open(Pid::from_child(hibernate), PidfdFlags::empty())?;
        if !comes_first("the image is written", &self.mode, &ends)? {
            let mut said = String::new();
            hibernate.stderr.take().context("it is ours")?.read_to_string(&mut said)?;
            anyhow::bail!("vestalctl did not hibernate: {said}");
        }
        let mode: [u8; 8] = take("the image is written", &self.mode)?;
        anyhow::ensure!(mode == *b"shutdown", "the kernel is told {mode:?}");
        Ok(())
    }

    /// Arms, and waits until the power is off.
    pub(crate) fn sleep(&self) -> anyhow::Result<(Child, Duration)> {
        self.set_clock()?;
        let before = now();
        let mut child = self.hibernate()?;
        self.until_writing(&mut child)?;
        let armed = between(before, now())?;
        pause(OFF_MS);
        self.set_clock()?;
        Ok((child, armed))
    }

    /// The RTC is right, so that there is nothing to set.
    fn set_clock(&self) -> anyhow::Result<()> {
        let seconds = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let path = self.device.run_dir().join("fake/sys/class/rtc/rtc0/since_epoch");
        Ok(fs::write(path, format!("{seconds}\n"))?)
    }

    /// The power comes back: the write returns, a little after the moment that this gives.
    pub(crate) fn wake(&self) -> anyhow::Result<i64> {
        let path = self.device.run_dir().join("fake/sys/power/state.written");
        let before = now();
        let mut said = String::new();
        File::open(path)?.read_to_string(&mut said)?;
        anyhow::ensure!(said == "disk", "the kernel is told {said:?}");
        Ok(before)
    }

    /// When the first and the last of so many targets began.
    pub(crate) fn begun(&self, count: usize) -> anyhow::Result<(i64, i64)> {
        begun(&self.begun, count)
    }

    /// One image and its life, with so many targets, by an engine that stays.
    pub(crate) fn live(&self, targets: usize) -> anyhow::Result<Life> {
        let engine = self.engine()?;
        let ear = self.ear.as_ref().context("it listens since its start")?;
        let (child, _) = self.sleep()?;
        let (ran, children) = (cpu_ms(engine)?, children_ms(engine)?);
        ear.forget();
        let woke = self.wake()?;
        let (first, last) = self.begun(targets)?;
        let done = ear.hear(State::Done)?;
        slept(child)?;
        let engine_ms = settle(engine)? - ran;
        let children_ms = children_ms(engine)? - children;
        Ok(Life { woke, first, last, done, engine_ms, children_ms })
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.ear = None;
        if self.mounted {
            // The processes that still use it end with the device.
            let _ = Command::new("umount").arg("-l").arg(self.device.run_dir()).status();
        }
    }
}

/// What `vestalctl` says of a life.
pub(crate) fn slept(child: Child) -> anyhow::Result<Output> {
    let output = child.wait_with_output().context("wait for vestalctl")?;
    anyhow::ensure!(output.status.success(), "vestalctl: {output:?}");
    Ok(output)
}

pub(crate) fn service(number: usize) -> String {
    format!("player-{number}")
}

/// When the first and the last of so many programs began.
pub(crate) fn begun(fifo: &File, count: usize) -> anyhow::Result<(i64, i64)> {
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for _ in 0..count {
        let report: [u8; 16] = take("a target begins", fifo)?;
        let number =
            |at: usize| report[at..].first_chunk().map_or(0, |bytes| i64::from_ne_bytes(*bytes));
        let moment = number(0) * SECOND + number(8);
        (first, last) = (first.min(moment), last.max(moment));
    }
    Ok((first, last))
}

/// Open on both sides, so that nobody waits for us and it never ends.
pub(crate) fn fifo(path: &Path) -> anyhow::Result<File> {
    make_fifo(path)?;
    Ok(File::options().read(true).write(true).open(path)?)
}

fn make_fifo(path: &Path) -> anyhow::Result<()> {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).context("make a FIFO")
}

/// Files in the place of the machine's.
fn make_machine(fake: &Path, groups: bool) -> anyhow::Result<()> {
    let mut mounts = MOUNTS.to_owned();
    if groups {
        let real = fs::read_to_string("/proc/self/mountinfo")?;
        let found = real.lines().find(|line| line.contains(" - cgroup2 "));
        mounts += found.context("there are no cgroups of version 2")?;
        mounts += "\n";
    }
    for folder in ["dev", "proc/self", "proc/sys/kernel/random", "sys/power", "sys/class/rtc/rtc0"]
    {
        fs::create_dir_all(fake.join(folder))?;
    }
    let block = "sys/dev/block/254:1";
    fs::create_dir_all(fake.join(block))?;
    for (name, text) in [
        ("proc/self/mountinfo", &*mounts),
        ("proc/swaps", SWAPS),
        ("proc/sys/kernel/random/boot_id", "first\n"),
        ("proc/meminfo", "MemTotal: 262144 kB\nMemFree: 131072 kB\n"),
        ("sys/power/state", "freeze mem disk\n"),
        ("sys/power/disk", "[platform] shutdown reboot suspend\n"),
        ("sys/power/resume", "254:1\n"),
        ("sys/power/resume_offset", "0\n"),
        ("sys/power/image_size", "104857600\n"),
        ("sys/dev/block/254:1/uevent", "MAJOR=254\nMINOR=1\nDEVNAME=vda1\n"),
    ] {
        fs::write(fake.join(name), text)?;
    }
    fs::write(fake.join("dev/vda2"), [7; 8192])?;
    make_fifo(&fake.join("sys/power/state.written"))?;
    symlink("/proc/self/cgroup", fake.join("proc/self/cgroup"))?;
    Ok(symlink(binary("bench_autorun_child"), fake.join("hook"))?)
}

/// `autorun.toml`, `autorun.d`, the journal and a device that is guarded.
fn make_settings(folder: &Path, wanted: &Wanted) -> anyhow::Result<()> {
    let place = match wanted.journal {
        Place::Memory => folder.join("run"),
        Place::Disk => folder.to_owned(),
    };
    let (journal, guard): (PathBuf, PathBuf) = (place.join("journal"), place.join("guard"));
    for (path, octet) in [(&journal, 0), (&guard, 7)] {
        fs::write(path, [octet; 8192])?;
        File::open(path)?.sync_all()?;
    }
    let etc = folder.join("etc");
    fs::create_dir_all(etc.join("autorun.d"))?;
    let settings = &wanted.settings;
    let text = format!("journal = {journal:?}\nguard = [{guard:?}]\n{settings}");
    fs::write(etc.join("autorun.toml"), text)?;
    for (name, text) in &wanted.targets {
        fs::write(etc.join(format!("autorun.d/{name}.toml")), text)?;
    }
    Ok(())
}

/// Hears what the engine publishes, when it comes.
struct Ear {
    heard: Receiver<(i64, State)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    fn open(run: PathBuf) -> anyhow::Result<Self> {
        let (sender, heard) = channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listens = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = listen(&run, &sender) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { heard, stop: Some(stop), thread: Some(listens) })
    }

    /// What came before doesn't count.
    fn forget(&self) {
        while self.heard.try_recv().is_ok() {}
    }

    fn hear(&self, wanted: State) -> anyhow::Result<i64> {
        loop {
            let heard = self.heard.recv_timeout(Duration::from_secs(60));
            let (moment, state) = heard.with_context(|| format!("the engine is {wanted:?}"))?;
            if state == wanted {
                return Ok(moment);
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn listen(run: &Path, sender: &Sender<(i64, State)>) {
    let bus = Bus::new(run, endpoint::Options::default());
    let patterns = vec![STATE.to_owned()];
    let mut events = bus.subscribe(Subscribe { patterns, retained: false, ..Subscribe::default() });
    while let Ok(event) = events.next().await {
        let moment = now();
        if let Ok(status) = serde_json::from_slice::<Status>(&event.data) {
            // Nobody listens where the device is leaving.
            let _ = sender.send((moment, status.state));
        }
    }
}
