//! An engine that leaves after the last target: how soon it is gone, that nothing of it is left, and how long arming takes where
//! it is started for that.

use anyhow::Context as _;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use testkit::until;

use crate::{
    Ground,
    clocks::{between, now, wait_for},
    numbers::{Report, Table, Times, float},
    stand::{Place, Stand, Wanted, slept},
};

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let columns = &[
        "its start and arming, p50 ms",
        "its start and arming, p95",
        "the write returns until it has ended, p50 ms",
        "until it has ended, p95",
        "until it has ended, max",
        "processes left",
    ];
    let mut table = Table::new("an engine that leaves", columns);
    for (what, journal) in
        [("journal on the disk", Place::Disk), ("journal in memory", Place::Memory)]
    {
        let stand = Stand::start(&Wanted { settings: String::new(), ..Wanted::new(journal) })?;
        let (mut armed, mut ended, mut left) = (Vec::new(), Vec::new(), 0);
        // In the first round the engine is there already.
        for round in 0..=ground.rounds {
            let (child, time) = stand.sleep()?;
            let pid = Pid::from_raw(stand.engine()?).context("a pid is not 0")?;
            let engine = pidfd_open(pid, PidfdFlags::empty()).context("watch the engine")?;
            let woke = stand.wake()?;
            stand.begun(1)?;
            wait_for("the engine leaves", &engine)?;
            let gone = now();
            slept(child)?;
            if round > 0 {
                armed.push(time);
                ended.push(between(woke, gone)?);
            }
            until("the supervisor knows that it has left", || {
                (stand.device.instance("autorun", "instance1")["running"] == false).then_some(())
            });
            left += stand.engines().len();
        }
        let (armed, ended) = (Times::of(armed), Times::of(ended));
        let figures = [armed.p50, armed.p95, ended.p50, ended.p95, ended.max].map(|us| us / 1e3);
        table.row(what, &[figures.as_slice(), &[float(left)]].concat());
        report.goal(format!("processes left, {what}"), 0.0, float(left));
    }
    report.add(&table);
    Ok(())
}
