//! From `vestalctl hibernate` to the start of the write, with services that are put away for it, and the way back after a write
//! that failed.

use std::{fs, time::Duration};

use anyhow::Context as _;

use crate::{
    Ground,
    clocks::{between, cpu_ms, now, settle},
    numbers::{NONE, Report, Rounds, Table, Times},
    stand::{Place, SERVICES, Stand, Wanted, service},
};

const GOAL_MS: f64 = 1000.0;

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut stands = Vec::new();
    for (what, journal, services, how) in [
        ("no service, journal on the disk", Place::Disk, 0, ""),
        ("no service, journal in memory", Place::Memory, 0, ""),
        ("5 frozen, journal on the disk", Place::Disk, SERVICES, "freeze"),
        ("5 frozen, journal in memory", Place::Memory, SERVICES, "freeze"),
        ("5 stopped, journal on the disk", Place::Disk, SERVICES, "stop"),
        ("5 stopped, journal in memory", Place::Memory, SERVICES, "stop"),
    ] {
        let mut wanted = Wanted { services, ..Wanted::new(journal) };
        for number in 0..services {
            let name = service(number);
            let text = format!("service = \"{name}\"\nbefore-image = \"{how}\"\n");
            wanted.targets.push((name, text));
        }
        let stand = Stand::start(&wanted)?;
        // The kernel refuses, as it does without a swap: a folder can't be written to.
        let state = stand.device.run_dir().join("fake/sys/power/state.written");
        fs::remove_file(&state)?;
        fs::create_dir(&state)?;
        stands.push((what, services, stand, Vec::new(), Vec::new(), Rounds::default()));
    }
    for round in 0..=ground.rounds {
        for (what, services, stand, armed, back, cpu) in &mut stands {
            let (arming, undoing, cost) =
                fail(stand, *services).with_context(|| (*what).to_owned())?;
            if round > 0 {
                armed.push(arming);
                back.push(undoing);
                cpu.push(&[cost]);
            }
        }
    }
    let columns = &[
        "until the write begins, p50 ms",
        "until the write, p95",
        "until the write, max",
        "back again, p50 ms",
        "back again, p95",
        "back again, max",
        "engine's CPU ms, both",
    ];
    let mut table = Table::new("an image that is not written", columns);
    for (what, services, _, armed, back, cpu) in stands {
        let (armed, back) = (Times::of(armed), Times::of(back));
        let times = [armed.p50, armed.p95, armed.max, back.p50, back.p95, back.max];
        let times = times.map(|us| us / 1e3);
        let cpu = cpu.medians().first().copied().unwrap_or(NONE);
        table.row(what, &[times.as_slice(), &[cpu]].concat());
        if services > 0 {
            report.goal(
                format!("back again after a failed write, {what}: max ms"),
                GOAL_MS,
                times[5],
            );
        }
    }
    report.add(&table);
    Ok(())
}

/// An attempt that fails: how long until the write, from there until all is as before, and what both cost.
fn fail(stand: &Stand, services: usize) -> anyhow::Result<(Duration, Duration, f64)> {
    let engine = stand.engine()?;
    let ran = cpu_ms(engine)?;
    let before = now();
    let mut child = stand.hibernate()?;
    stand.until_writing(&mut child)?;
    let writes = now();
    let output = child.wait_with_output().context("wait for vestalctl")?;
    let back = now();
    let text = String::from_utf8_lossy(&output.stderr);
    let refused = !output.status.success() && text.contains("the machine did not sleep");
    anyhow::ensure!(refused, "vestalctl: {output:?}");
    for number in 0..services {
        let name = service(number);
        let runs = &stand.device.instance(&name, "instance1")["running"];
        anyhow::ensure!(*runs == true, "{name} does not run again");
    }
    let cost = settle(engine)? - ran;
    Ok((between(before, writes)?, between(writes, back)?, cost))
}
