//! What sessions cost that say nothing: memory, wake-ups, CPU time.

use std::{process::Command, time::Duration};

use anyhow::Context as _;

use crate::{
    broker::{Broker, Company},
    fleet::Fleet,
    ground::{Cores, Ground, cpu_us, memory, now, sleeps},
    numbers::{NONE, Report, Table, float},
};

/// Until what a start and ten thousand handshakes leave behind is done.
const SETTLE: Duration = Duration::from_secs(8);
const WATCHED: Duration = Duration::from_secs(10);
const PERIOD_MS: u32 = 3_600_000;
/// They don't even ask whether the broker is there.
const QUIET: u16 = 0;
/// The shortest of the client library, so that every session does so many times while it is watched.
const ASKING: u16 = 2_000;

pub(crate) fn measure(ground: &Ground, sizes: &[usize], report: &mut Report) -> anyhow::Result<()> {
    let columns = &[
        "PSS KiB",
        "private KiB",
        "private octets a session",
        "wake-ups a second",
        "CPU ms a second",
        "CPU ms a second with NULs every 2 s",
    ];
    let mut table = Table::new("idle sessions", columns);
    ground.stand(Cores::Two)?;
    let mut empty = None;
    for sessions in [&[0], sizes].concat() {
        let quiet = watch(ground, sessions, QUIET)?;
        let asking = if sessions == 0 { [NONE; 4] } else { watch(ground, sessions, ASKING)? };
        let [pss, private, wakeups, cpu] = quiet;
        let base = *empty.get_or_insert(private);
        let each = if sessions < 100 { NONE } else { (private - base) * 1024.0 / float(sessions) };
        table.row(sessions.to_string(), &[pss, private, each, wakeups, cpu, asking[3]]);
        if sessions >= 10_000 {
            let what = format!("wake-ups a second with {sessions} sessions that say nothing");
            report.goal(what, 0.5, wakeups);
        }
    }
    let alone = transport_alone()?;
    table.row("10000, rudp alone", &[NONE, NONE, alone, NONE, NONE, NONE]);
    report.goal("octets of an idle connection in rudp", 1024.0, alone);
    report.add(&table);
    Ok(())
}

/// Octets a connection, in a process that holds nothing else.
fn transport_alone() -> anyhow::Result<f64> {
    let program = std::env::current_exe().context("find this program")?;
    let output = Command::new(program).arg("connections").output().context("weigh rudp")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().with_context(|| format!("understand {text:?}"))
}

/// PSS, private memory, wake-ups and CPU ms a second.
fn watch(ground: &Ground, sessions: usize, null_ms: u16) -> anyhow::Result<[f64; 4]> {
    let broker = Broker::start(ground, Company::Registry, sessions)?;
    let mut fleet = Fleet::register(broker.address, sessions, null_ms, PERIOD_MS)?;
    let mut live = |time: Duration| {
        let until = now() + time;
        while now() < until {
            fleet.pump(Some(until - now()), |_, _| {})?;
        }
        anyhow::Ok(())
    };
    live(SETTLE)?;
    let (slept, ran) = (sleeps(broker.pid()), cpu_us(broker.pid()));
    live(WATCHED)?;
    let seconds = WATCHED.as_secs_f64();
    let wakeups = (sleeps(broker.pid()) - slept) / seconds;
    let cpu = (cpu_us(broker.pid()) - ran) / 1e3 / seconds;
    let [pss, private] = memory(broker.pid())?;
    let known = broker.count("sessions")?;
    anyhow::ensure!(float(sessions) <= float(usize::try_from(known)?), "{known} sessions are left");
    Ok([pss, private, wakeups, cpu])
}
