//! What a heartbeat costs the broker, beside a server that does nothing but receive and answer: the same load generator on the
//! same sockets, in turn.

use std::time::Duration;

use crate::{
    broker::{Broker, Company},
    fleet::{Fleet, Peer, Rhythm},
    ground::{Cores, Ground, Process, cpu_us, now},
    numbers::{Report, Rounds, Table, float},
};

/// Reports of a round with many under way, and with one.
const MANY: usize = 100_000;
const FEW: usize = 20_000;
/// Reports under way where there are enough sessions.
const WINDOW: usize = 512;
/// How long everybody reports once a second.
const PACED: Duration = Duration::from_secs(3);
const RATIO: f64 = 1.35;
/// Nobody is late and nothing is due meanwhile.
const PERIOD_MS: u32 = 3_600_000;
const NULL_MS: u16 = u16::MAX;

/// How the applications report.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// The first so many as fast as they are answered, so many at a time.
    Full { active: usize, window: usize },
    /// All of them once a second, evenly spread.
    Paced,
}

pub(crate) fn measure(ground: &Ground, sizes: &[usize], report: &mut Report) -> anyhow::Result<()> {
    let columns = &[
        "sessions",
        "bare µs each",
        "broker µs each",
        "times bare",
        "bare a second and core",
        "broker a second and core",
        "broker a second as measured",
    ];
    let mut table = Table::new("heartbeats", columns);
    let (bare, address) = ground.start("beats")?;
    for &sessions in sizes {
        ground.stand(Cores::One)?;
        let broker = Broker::start(ground, Company::Nobody, sessions)?;
        let mut fleet = Fleet::register(broker.address, sessions, NULL_MS, PERIOD_MS)?;
        let window = sessions.min(WINDOW);
        let full = Load::Full { active: sessions, window };
        let mut cases = vec![(Cores::One, full), (Cores::Two, full)];
        if sessions > 1 {
            cases.push((Cores::One, Load::Full { active: 1, window: 1 }));
            cases.push((Cores::One, Load::Paced));
        }
        for (cores, load) in cases {
            ground.stand(cores)?;
            let mut rounds = Rounds::default();
            for _ in 0..ground.rounds() {
                fleet.turn_to(Peer::Bare, address)?;
                let (raw, _) = round(ground, &mut fleet, load, bare.pid())?;
                fleet.turn_to(Peer::Broker, broker.address)?;
                let before = broker.count("machine/reports")?;
                let (ours, rate) = round(ground, &mut fleet, load, broker.pid())?;
                anyhow::ensure!(broker.count("machine/reports")? > before, "no report counted");
                rounds.push(&[raw, ours, ours / raw, 1e6 / raw, 1e6 / ours, rate]);
            }
            let medians = rounds.medians();
            let what = describe(cores, load);
            table.row(&what, &[&[float(sessions)], &*medians].concat());
            if matches!(load, Load::Full { window, .. } if window == WINDOW) && cores == Cores::One
            {
                let what = format!("CPU of a heartbeat, {sessions} sessions, {what}, times bare");
                report.goal(what, RATIO, medians[2]);
            }
        }
    }
    report.add(&table);
    drop::<Process>(bare);
    Ok(())
}

fn describe(cores: Cores, load: Load) -> String {
    match load {
        Load::Full { window: 1, .. } => format!("{}, one at a time", cores.name()),
        Load::Full { window, .. } => format!("{}, {window} at a time", cores.name()),
        Load::Paced => format!("{}, each once a second", cores.name()),
    }
}

/// The server's CPU time in µs a report, and reports a second.
fn round(
    ground: &Ground,
    fleet: &mut Fleet,
    load: Load,
    server: u32,
) -> anyhow::Result<(f64, f64)> {
    let (ran, began) = (cpu_us(server), now());
    let count = match load {
        Load::Full { active, window } => {
            let count = ground.scaled(if window == 1 { FEW } else { MANY });
            fleet.saturate(active, window, count)?;
            float(count)
        }
        Load::Paced => {
            let mut arrived = 0;
            let mut rhythm = Rhythm::new(Duration::from_secs(1), fleet.members.len())?;
            fleet.live(&mut rhythm, began + PACED, |_, _| arrived += 1)?;
            float(arrived)
        }
    };
    let took = (now() - began).as_secs_f64();
    Ok(((cpu_us(server) - ran) / count, count / took))
}
