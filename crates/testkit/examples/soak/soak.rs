//! One run: the device, what is known of it, and what must hold of it after every step.

use std::{collections::BTreeMap, fs, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use daemon::clock;
use protocol::time::Moment;
use serde_json::Value;
use testkit::machine::{Image, Machine};

use crate::{
    guest::{self, View},
    host::Host,
    plan::{Plan, Step, Target},
    report::Report,
};

/// How long everything may take to be well again.
const RECOVERY: Duration = Duration::from_secs(90);
/// Between two looks at everything.
const THOROUGH: Duration = Duration::from_secs(20);
/// What `critical` lets pass, less one: whom, how often, within which time.
const CRITICAL: [(&str, usize, Duration); 2] =
    [("upgrade", 3, Duration::from_secs(250)), ("vital", 2, Duration::from_secs(70))];
/// What nobody should ever print.
const FORBIDDEN: [&str; 4] = ["panicked at", "assertion", "Kernel panic", "BUG:"];

pub(crate) struct Soak<'image> {
    image: &'image Image,
    pub(crate) machine: Machine,
    pub(crate) host: Host,
    pub(crate) report: Report,
    /// What `option port` was last set to.
    pub(crate) port: u16,
    /// The application that was last confirmed; none: the factory's.
    pub(crate) version: Option<String>,
    /// How often a service may have been restarted by what we did since the boot.
    restarts: BTreeMap<String, u64>,
    /// When those that are critical were killed.
    killed: BTreeMap<&'static str, Vec<Moment>>,
    folder: tempfile::TempDir,
}

impl<'image> Soak<'image> {
    pub(crate) fn start(image: &'image Image, seed: u64) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("soak").tempdir_in("/tmp")?;
        let machine = guest::start(image, folder.path());
        machine.until_lab();
        machine.until("vestalctl --json boot blame | grep -q all_ready_ms");
        let host = Host::new(image, &machine, folder.path())?;
        let report = Report::new(seed);
        let (restarts, killed) = Default::default();
        Ok(Self {
            image,
            machine,
            host,
            report,
            port: 1000,
            version: None,
            restarts,
            killed,
            folder,
        })
    }

    /// Step after step until the time is over; then everything is looked at, and the machine switched off.
    pub(crate) fn run(&mut self, plan: Plan, time: Duration) -> anyhow::Result<()> {
        self.settle(None)?;
        let began = clock::now();
        self.look_at_everything()?;
        let mut looked = clock::now();
        for step in plan {
            if clock::now().since(began) >= time {
                break;
            }
            self.step(step)?;
            if clock::now().since(looked) >= THOROUGH {
                self.look_at_everything()?;
                looked = clock::now();
            }
        }
        self.look_at_everything()?;
        self.report.judge_growth();
        self.switch_off()
    }

    fn step(&mut self, step: Step) -> anyhow::Result<()> {
        let number = self.report.steps() + 1;
        self.report.begin(format!("{number}: {step}"));
        let began = clock::now();
        let done = self.perform(step).with_context(|| format!("step {number}: {step}"))?;
        self.settle(None).with_context(|| format!("after step {number}: {step}"))?;
        let took = clock::now().since(began);
        eprintln!(
            "{number}: {step}{} {} ms",
            if done { ":" } else { ": left out," },
            took.as_millis()
        );
        if done {
            self.report.end(step.kind(), took);
        } else {
            self.report.skipped += 1;
        }
        Ok(())
    }

    /// What runs, as soon as the supervisor tells it.
    pub(crate) fn view(&self) -> anyhow::Result<View> {
        let mut failed = None;
        let view = testkit::within(RECOVERY, || match guest::look(&self.machine) {
            Ok(view) => view,
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        view.with_context(|| {
            format!("the supervisor has not answered for {RECOVERY:?}: {failed:?}")
        })
    }

    /// Waits until every service is ready, nobody is a zombie, nobody's process is unknown, and no restart unexplained.
    pub(crate) fn settle(&self, gone: Option<u64>) -> anyhow::Result<()> {
        let mut wrong = vec!["the supervisor does not answer".to_owned()];
        let well = testkit::within(RECOVERY, || {
            let view = guest::look(&self.machine).ok()??;
            wrong = view.wrong(gone);
            wrong.is_empty().then_some(view)
        });
        let view = well.with_context(|| format!("not well after {RECOVERY:?}: {wrong:?}"))?;
        for service in view.services.keys() {
            let (restarts, explained) = (
                view.number(service, "restarts"),
                self.restarts.get(service).copied().unwrap_or(0),
            );
            ensure!(
                restarts <= explained,
                "{service} was restarted {restarts} times, and we are to blame for {explained}"
            );
        }
        Ok(())
    }

    pub(crate) fn expect_restart(&mut self, service: &str) {
        *self.restarts.entry(service.to_owned()).or_default() += 1;
    }

    pub(crate) fn forget_restarts(&mut self) {
        self.restarts.clear();
        self.killed.clear();
    }

    /// Whether it may be killed once more without a reboot; counts it.
    pub(crate) fn allowed(&mut self, target: Target) -> bool {
        let Some(service) = target.service() else { return true };
        if let Some((name, most, window)) = CRITICAL.iter().find(|(name, ..)| *name == service) {
            let now = clock::now();
            let killed = self.killed.entry(name).or_default();
            killed.retain(|at| now.since(*at) < *window);
            if killed.len() >= *most {
                return false;
            }
            killed.push(now);
        }
        self.expect_restart(service);
        true
    }

    /// The slots of the application.
    fn slots(&self) -> Vec<Value> {
        let slots = self.machine.json("vestalctl --json upgrade slots");
        let slots = slots.as_array().cloned().unwrap_or_default();
        slots.into_iter().filter(|slot| slot["component"] == "application").collect()
    }

    /// Version of the application in use.
    pub(crate) fn active_version(&self) -> anyhow::Result<Option<String>> {
        let slots = self.slots();
        let active = slots.iter().find(|slot| slot["state"] == "active");
        let active = active.with_context(|| format!("no slot is active: {slots:?}"))?;
        Ok(active["version"].as_str().map(str::to_owned))
    }

    /// Waits until no upgrade is under way.
    pub(crate) fn until_idle(&self) -> anyhow::Result<()> {
        let mut last = Value::Null;
        let idle = testkit::within(RECOVERY, || {
            let (code, text) = self.machine.run("vestalctl --json upgrade status");
            last = serde_json::from_str(&text).ok().filter(|_| code == 0)?;
            let quiet = match last["state"].as_str()? {
                "idle" | "confirmed" | "rolled-back" => true,
                // It waits for a host that does not come again.
                "receiving" => last["progress"].is_null(),
                _ => false,
            };
            quiet.then_some(())
        });
        idle.with_context(|| format!("an upgrade is still under way: {last}"))
    }

    /// What is in use is what was confirmed last, it is what is mounted, and it is what runs.
    pub(crate) fn check_version(&self) -> anyhow::Result<()> {
        let active = self.active_version()?;
        ensure!(active == self.version, "{active:?} is active, not {:?}", self.version);
        if let Some(version) = active {
            let running = self.machine.run(&format!(
                "n=0; until [ \"$(cat /run/soak.application)\" = {version} ]; do n=$((n+1)); \
                 [ $n -lt 100 ] || {{ cat /run/soak.application; exit 1; }}; usleep 100000; done"
            ));
            ensure!(running.0 == 0, "{version} is active, and what runs is {}", running.1);
        }
        let slots = self.slots();
        let target =
            slots.iter().find(|slot| slot["state"] == "active").map(|slot| slot["target"].clone());
        let mounted = self.machine.ok("readlink -f /run/application");
        let expected = target.as_ref().and_then(Value::as_str).context("a slot has a target")?;
        let expected = self.machine.ok(&format!("readlink -f {expected}"));
        ensure!(mounted == expected, "{mounted} is in use, not {expected}");
        Ok(())
    }

    fn look_at_everything(&mut self) -> anyhow::Result<()> {
        self.check_version()?;
        let said = self.machine.console();
        if let Some(forbidden) = FORBIDDEN.iter().find(|text| said.contains(**text)) {
            anyhow::bail!("the console says {forbidden:?}");
        }
        let logged = self.machine.ok("vestalctl log -g 'panicked at|assertion'");
        ensure!(logged.is_empty(), "the log says {logged}");
        ensure!(!self.machine.ok("vestalctl log -n 3").is_empty(), "the log is empty");
        for readable in ["upgrade history", "boot blame", "registry status"] {
            self.machine.json(&format!("vestalctl --json {readable}"));
        }
        let status = self.machine.json("vestalctl --json status");
        ensure!(status["problems"].as_array().is_none_or(Vec::is_empty), "{}", status["problems"]);
        self.check_configuration()?;
        let view = self.view()?;
        let supervisor = view.pid(Target::Supervisor).context("the supervisor runs")?;
        for (name, pid) in [("keeper", 1), ("supervisor", supervisor)] {
            let text = self.machine.ok(&format!(
                "awk '/^VmRSS/ {{ print $2 }}' /proc/{pid}/status; ls /proc/{pid}/fd | wc -l"
            ));
            let mut numbers = text.lines().map(str::parse);
            let (Some(Ok(memory)), Some(Ok(descriptors))) = (numbers.next(), numbers.next()) else {
                anyhow::bail!("{name}: {text}");
            };
            self.report.sample(name, [memory, descriptors]);
        }
        Ok(())
    }

    /// What is announced is what the files say, and the service runs with it.
    fn check_configuration(&self) -> anyhow::Result<()> {
        self.machine.ok("vestalctl config reload");
        let status = self.machine.json("vestalctl --json config status");
        let packages = status["packages"].as_array().context("config watches packages")?;
        for name in ["network", "soak"] {
            let package = packages.iter().find(|package| package["package"] == name);
            let state = package.map(|package| &package["state"]);
            ensure!(state == Some(&"current".into()), "{name} is {state:?}");
        }
        let (port, seen) =
            (self.machine.ok("uci get soak.main.port"), self.machine.ok("cat /run/soak.seen"));
        ensure!(port == self.port.to_string(), "the file has {port}, we wrote {}", self.port);
        ensure!(seen == port, "the file has {port}, the service was started with {seen}");
        Ok(())
    }

    /// Everything is written, and the file system needs no repair.
    fn switch_off(&mut self) -> anyhow::Result<()> {
        self.machine.send("vestalctl system poweroff");
        let why = self.machine.until_off();
        ensure!(why == "guest-shutdown", "QEMU ended by {why}");
        let data = self.folder.path().join("data");
        fs::write(&data, self.image.read_partition(&self.machine.disk(), "data"))?;
        let checked = Command::new("e2fsck").arg("-fn").arg(&data).output().context("e2fsck")?;
        let text = String::from_utf8_lossy(&checked.stdout);
        ensure!(checked.status.success(), "the disk is not clean: {text}");
        // A check that changes nothing passes over a journal that was not played back.
        let head = Command::new("dumpe2fs").arg("-h").arg(&data).output().context("dumpe2fs")?;
        let head = String::from_utf8_lossy(&head.stdout);
        let clean = head.lines().any(|line| {
            line.starts_with("Filesystem state:") && line.split_whitespace().last() == Some("clean")
        });
        ensure!(clean && !head.contains("needs_recovery"), "the disk was not unmounted");
        Ok(())
    }
}
