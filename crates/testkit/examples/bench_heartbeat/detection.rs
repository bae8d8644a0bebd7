//! From the last report of an application to the supervisor's being told, beyond period times misses.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{
    broker::{Broker, Company, Supervisor},
    fleet::{Fleet, Rhythm},
    ground::{Cores, Ground, LIMIT, now},
    numbers::{Report, Table, Times, float},
};

const PERIOD: Duration = Duration::from_millis(500);
const PERIOD_MS: u32 = 500;
const MISSES: u32 = 3;
/// Applications that fall silent, one after another.
const VICTIMS: usize = 100;
/// The same where there is only one.
const TIMES: usize = 8;
const LATE_US: f64 = 5_000.0;

pub(crate) fn measure(ground: &Ground, sizes: &[usize], report: &mut Report) -> anyhow::Result<()> {
    let columns = &[
        "p50 µs late",
        "p95",
        "max",
        "false alarms",
        "all at once, last told ms late",
        "reports that the broker took",
    ];
    let mut table = Table::new("detection", columns);
    ground.stand(Cores::Two)?;
    for &sessions in sizes {
        let broker = Broker::start(ground, Company::Nobody, 0)?;
        broker.expect(sessions, PERIOD_MS, MISSES)?;
        let mut fleet = Fleet::register(broker.address, sessions, 2_000, PERIOD_MS)?;
        let watch = Watch { supervisor: broker.supervisor()? };
        let mut rhythm = Rhythm::new(PERIOD, sessions)?;
        // So that no excuse of the broker's start is left.
        fleet.live(&mut rhythm, now() + 3 * PERIOD, |_, _| {})?;
        let (late, false_alarms) = watch.victims(ground, &mut fleet, &mut rhythm)?;
        let times = Times::of(late);
        let burst = watch.burst(&mut fleet)?;
        let reports = float(usize::try_from(broker.count("machine/reports")?)?);
        let last = burst.as_secs_f64() * 1e3;
        let figures = [times.p50, times.p95, times.max, float(false_alarms), last, reports];
        table.row(format!("{sessions} sessions"), &figures);
        let what = format!("a miss is told, µs after period x misses, {sessions} sessions (max)");
        report.goal(what, LATE_US, times.max);
    }
    report.add(&table);
    Ok(())
}

struct Watch {
    supervisor: Supervisor,
}

impl Watch {
    /// Lets applications fall silent and takes the time; they come back afterwards.
    fn victims(
        &self,
        ground: &Ground,
        fleet: &mut Fleet,
        rhythm: &mut Rhythm,
    ) -> anyhow::Result<(Vec<Duration>, usize)> {
        let sessions = fleet.members.len();
        let mut late = Vec::new();
        let mut false_alarms = 0;
        let at_a_time = (sessions / 10).clamp(1, VICTIMS);
        let times = if at_a_time == 1 { TIMES } else { 1 };
        for _ in 0..if ground.quick { 1 } else { times } {
            let mut silent = BTreeSet::new();
            for number in 0..at_a_time {
                let place = number * sessions / at_a_time;
                fleet.members[place].silent = true;
                silent.insert(place);
                let pause = PERIOD / u32::try_from(at_a_time)?;
                fleet.live(rhythm, now() + pause, |_, _| {})?;
            }
            fleet.live(rhythm, now() + PERIOD * (MISSES + 1), |_, _| {})?;
            for (missed, time) in self.supervisor.told.try_iter() {
                let place = usize::try_from(missed.app_id - 1)?;
                if silent.remove(&place) {
                    late.push(beyond(fleet.members[place].reported, time));
                    fleet.members[place].silent = false;
                } else {
                    false_alarms += 1;
                }
            }
            anyhow::ensure!(silent.is_empty(), "{} misses were not told", silent.len());
            // They are heard again.
            fleet.live(rhythm, now() + 2 * PERIOD, |_, _| {})?;
        }
        Ok((late, false_alarms))
    }

    /// All report once more and fall silent together; gives how late the last one was told.
    fn burst(&self, fleet: &mut Fleet) -> anyhow::Result<Duration> {
        let sessions = fleet.members.len();
        fleet.saturate(sessions, sessions.min(512), sessions)?;
        let last = now();
        let (mut told, mut end) = (0, last);
        while told < sessions {
            let (_, time) = self.supervisor.told.recv_timeout(LIMIT)?;
            told += 1;
            end = end.max(time);
        }
        Ok(beyond(last, end))
    }
}

/// How much later than it had to be.
fn beyond(reported: Instant, told: Instant) -> Duration {
    told.saturating_duration_since(reported + PERIOD * MISSES)
}
