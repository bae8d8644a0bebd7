//! Engines that wait: for something to do, for the image, and after the last target.

use std::fs;

use anyhow::Context as _;

use crate::{
    Ground,
    clocks::{cpu_ms, pause, settle},
    numbers::{Report, Table, float},
    stand::{Place, Stand, Wanted},
};

const GOAL_KIB: f64 = 4096.0;

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let columns =
        &["seconds", "wake-ups", "CPU ms", "PSS KiB", "RSS KiB", "private KiB", "threads"];
    let mut table = Table::new("an engine that waits", columns);
    let seconds = float(usize::try_from(ground.watch_ms)?) / 1e3;
    // One after another: two of them would share their memory.
    for what in ["cold", "armed", "done, and it stays"] {
        let stand = Stand::start(&Wanted::new(Place::Memory))?;
        match what {
            "cold" => {}
            "armed" => {
                stand.device.ctl_ok(&["autorun", "arm"]);
            }
            _ => {
                stand.live(1)?;
            }
        }
        let engine = stand.engine()?;
        let ran = settle(engine)?;
        let woken = wakeups(engine)?;
        pause(ground.watch_ms);
        let (woken, ran) = (wakeups(engine)? - woken, cpu_ms(engine)? - ran);
        let [pss, rss, private] = memory(engine)?;
        let threads = number(&text(engine, "status")?, "Threads:")?;
        table.row(what, &[seconds, woken, ran, pss, rss, private, threads]);
        report.goal(format!("wake-ups of an engine that is {what}"), 0.0, woken);
        report.goal(format!("PSS of an engine that is {what}, KiB"), GOAL_KIB, pss);
        report.goal(format!("RSS of an engine that is {what}, KiB"), GOAL_KIB, rss);
    }
    report.add(&table);
    Ok(())
}

/// How often threads of it went to sleep, which each was woken up from.
fn wakeups(pid: i32) -> anyhow::Result<f64> {
    let mut all = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        all += number(&status, "voluntary_ctxt_switches:")?;
    }
    Ok(all)
}

fn memory(pid: i32) -> anyhow::Result<[f64; 3]> {
    let rollup = text(pid, "smaps_rollup")?;
    let private = number(&rollup, "Private_Clean:")? + number(&rollup, "Private_Dirty:")?;
    Ok([number(&rollup, "Pss:")?, number(&rollup, "Rss:")?, private])
}

fn text(pid: i32, name: &str) -> anyhow::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{name}")).with_context(|| format!("read {name}"))
}

fn number(text: &str, name: &str) -> anyhow::Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    Ok(float(number.with_context(|| format!("there is no {name}"))?))
}
