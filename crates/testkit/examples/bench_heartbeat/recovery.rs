//! The broker is killed and another one started: how long until every application is registered with it and heard again.

use std::time::{Duration, Instant};

use crate::{
    broker::{Broker, Company},
    fleet::{Fleet, Rhythm},
    ground::{Cores, Ground, LIMIT, now},
    numbers::{Report, Table, float},
};

const PERIOD: Duration = Duration::from_secs(1);
const PERIOD_MS: u32 = 1_000;
/// Period times the three misses that an application has without further words.
const NULL_MS: u16 = 3_000;

pub(crate) fn measure(ground: &Ground, sizes: &[usize], report: &mut Report) -> anyhow::Result<()> {
    let columns = &[
        "ready ms after the kill",
        "p50 ms after that",
        "p95",
        "last",
        "last ms after the kill",
        "missed",
    ];
    let mut table = Table::new("recovery", columns);
    ground.stand(Cores::Two)?;
    for &sessions in sizes {
        let mut broker = Broker::start(ground, Company::Nobody, sessions)?;
        let mut fleet = Fleet::register(broker.address, sessions, NULL_MS, PERIOD_MS)?;
        let mut rhythm = Rhythm::new(PERIOD, sessions)?;
        fleet.live(&mut rhythm, now() + 2 * PERIOD, |_, _| {})?;
        let [killed, ready] = broker.replace(ground)?;
        let times = recover(&mut fleet, &mut rhythm, killed)?;
        let ms = |time: Instant| (time.saturating_duration_since(ready)).as_secs_f64() * 1e3;
        let at = |percent: usize| ms(times[(times.len() * percent / 100).min(times.len() - 1)]);
        let down = (ready - killed).as_secs_f64() * 1e3;
        // Until a start's excuses are over.
        fleet.live(&mut rhythm, now() + 4 * PERIOD, |_, _| {})?;
        let missed = float(usize::try_from(broker.count("machine/missed")?)?);
        let figures = [down, at(50), at(95), at(100), at(100) + down, missed];
        table.row(format!("{sessions} sessions"), &figures);
        let what = format!("all {sessions} sessions heard again, ms after the broker is ready");
        report.goal(what, f64::from(PERIOD_MS), at(100));
    }
    report.add(&table);
    Ok(())
}

/// When each of them was heard again, in order.
fn recover(
    fleet: &mut Fleet,
    rhythm: &mut Rhythm,
    killed: Instant,
) -> anyhow::Result<Vec<Instant>> {
    let mut heard = vec![None; fleet.members.len()];
    let until = now() + LIMIT;
    let mut settled = Vec::new();
    while heard.iter().any(Option::is_none) {
        fleet.live(rhythm, now() + Duration::from_millis(50), |place, time| {
            settled.push((place, time));
        })?;
        for (place, time) in settled.drain(..) {
            let registered = fleet.members[place].session.registered;
            if registered.is_some_and(|registered| registered > killed) {
                heard[place].get_or_insert(time);
            }
        }
        let missing = heard.iter().filter(|heard| heard.is_none()).count();
        anyhow::ensure!(now() < until, "{missing} sessions did not recover");
    }
    let mut times: Vec<Instant> = heard.into_iter().flatten().collect();
    times.sort();
    Ok(times)
}
