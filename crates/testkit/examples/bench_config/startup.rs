//! The watcher's start with 1,000 files until it says that it is ready, and what it takes of memory; beside programs that only
//! read or hash the same files, and what OpenWrt's `reload_config` does the first time.

use std::{
    fs::{self, File},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use testkit::binary;

use crate::{
    ground::{Ground, Process, cpu_ms, memory, run},
    numbers::{Report, Rounds, Table},
    reload,
    reports::{ms, now, rest},
    suite::{Place, Suite, fill, name},
};

const FILES: usize = 1000;
const READY_GOAL_MS: f64 = 50.0;
const MEMORY_GOAL_KIB: f64 = 4096.0;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let columns = &["wall ms", "CPU ms"];
    let mut table = Table::new("1,000 files of 1.5 KiB", columns);
    let scratch = tempfile::tempdir()?;
    let packages = scratch.path().join("config");
    fill(&packages, FILES)?;
    let readers = ["cat", "md5sum", "sha256sum"];
    let mut bare: [Rounds; 3] = Default::default();
    let (mut first, mut again) = (Rounds::default(), Rounds::default());
    let mut looped = Rounds::default();
    let run_dir = scratch.path().join("run");
    let suite = Suite::start(ground, FILES, "mode = \"manual\"\n", &[], &[], Place::Memory)?;
    let openwrt = reload::Loop::new(&suite)?;
    for round in 0..ground.rounds() {
        for (program, rounds) in readers.iter().zip(&mut bare) {
            let mut command = Command::new(program);
            command.current_dir(&packages).stdout(Stdio::null());
            let cost = ground.cost(&[], || run(command.args((0..FILES).map(name))))?;
            rounds.push(&[cost.wall_ms, cost.cpu_ms()]);
        }
        let _ = fs::remove_dir_all(&run_dir);
        // Each ends before the next one begins.
        first.push(&start(scratch.path())?.1);
        again.push(&start(scratch.path())?.1);
        // It takes seconds.
        if round < 3 {
            openwrt.forget()?;
            let cost = ground.cost(&[], || openwrt.run())?;
            looped.push(&[cost.wall_ms, cost.cpu_ms()]);
        }
    }
    for (program, rounds) in readers.iter().zip(&bare) {
        table.row(*program, &rounds.medians());
    }
    let rows = [
        ("watcher, what it has seen before is there", again.medians()),
        ("watcher, for the first time", first.medians()),
    ];
    for (what, figures) in rows {
        report.goal(format!("1,000 files until ready, {what}: ms"), READY_GOAL_MS, figures[0]);
        table.row(what, &figures);
    }
    table.row("the shell's loop, for the first time", &looped.medians());
    report.add(&table);
    drop(suite);
    weigh(ground, report)
}

fn weigh(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let columns = &["RSS KiB", "PSS KiB", "private KiB", "peak RSS KiB"];
    let mut table = Table::new("memory of the watcher", columns);
    for files in [0, 100, FILES] {
        let mut rounds: [Rounds; 2] = Default::default();
        for _ in 0..ground.rounds() {
            let scratch = tempfile::tempdir()?;
            fill(&scratch.path().join("config"), files)?;
            for rounds in &mut rounds {
                let (watcher, _) = start(scratch.path())?;
                rest(1);
                rounds.push(&memory(watcher.pid())?);
            }
        }
        let [first, again] = rounds.map(|rounds| rounds.medians());
        if files == FILES {
            // As with the supervisor: what it takes beside the others. Its program alone is half of it.
            report.goal("watcher with 1,000 files: PSS KiB", MEMORY_GOAL_KIB, first[1]);
            let what = "watcher with 1,000 files that it has seen before: PSS KiB";
            report.goal(what, MEMORY_GOAL_KIB, again[1]);
        }
        table.row(format!("{files} files, for the first time"), &first);
        table.row(format!("{files} files, seen before"), &again);
    }
    report.add(&table);
    Ok(())
}

/// The watcher alone, when it is ready; how long that took, and its CPU time.
fn start(folder: &Path) -> anyhow::Result<(Process, [f64; 2])> {
    let notify = folder.join("notify");
    let _ = fs::remove_file(&notify);
    let socket = UnixDatagram::bind(&notify)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let mut command = Command::new(binary("vestal-config"));
    command
        .env("VESTAL_RUN_DIR", folder.join("run"))
        .env("VESTAL_CONFIG_DIR", folder.join("etc"))
        .env("VESTAL_UCI_DIR", folder.join("config"))
        .env("NOTIFY_SOCKET", &notify)
        .stderr(File::create(folder.join("log"))?);
    let before = now();
    let watcher = Process::start(&mut command)?;
    let mut said = [0; 64];
    let length = socket.recv(&mut said).with_context(|| {
        format!(
            "the watcher is not ready: {}",
            fs::read_to_string(folder.join("log")).unwrap_or_default()
        )
    })?;
    let wall = ms(now() - before);
    anyhow::ensure!(&said[..length] == b"READY=1", "the watcher says something else");
    let cpu = cpu_ms(&[watcher.pid()]);
    Ok((watcher, [wall, cpu]))
}
