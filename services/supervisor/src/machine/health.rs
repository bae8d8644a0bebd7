//! Watchdog deadlines: says when an instance has missed one. Suspects itself, and then the machine, before it suspects the
//! instance.

use std::time::Duration;

use protocol::time::Moment;

/// The shortest period that is believed; a shorter one would make the supervisor itself the load.
const PERIOD_MIN: Duration = Duration::from_millis(10);
/// So often in a row a starved machine excuses an instance; one that is silent for longer hangs, whatever the machine does.
const EXCUSES_MAX: u8 = 3;

/// How an instance is watched.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Health {
    /// Asked for at run time (WATCHDOG_USEC, procd's `watchdog`); counts over the definition's.
    period: Option<Duration>,
    deadline: Option<Moment>,
    /// The present deadline was moved once, because the supervisor came late itself.
    extended: bool,
    /// How often the instance was excused by the machine's pressure since its last sign.
    excuses: u8,
    /// The deadline passed, and the answer whether the machine is starved has not come yet.
    doubted: bool,
}

/// What has become of a deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Look {
    Fine,
    /// It passed, but we looked so late that the instance may have been starved as we were: asked again in a period.
    Starved {
        late: Duration,
    },
    /// It passed, and whether that counts depends on the machine: [`Health::judge`] hears how it is.
    Doubtful,
    Missed,
}

impl Health {
    pub(crate) fn with_period(period: Option<Duration>) -> Self {
        Self { period, ..Self::default() }
    }

    /// The period asked for at run time.
    pub(crate) fn asked(&self) -> Option<Duration> {
        self.period
    }

    pub(crate) fn period(&self, defined: Option<Duration>) -> Option<Duration> {
        self.period.or(defined).filter(|period| !period.is_zero())
    }

    /// Zero switches the watchdog off.
    pub(crate) fn ask(&mut self, period: Duration) {
        self.period = Some(if period.is_zero() { period } else { period.max(PERIOD_MIN) });
    }

    /// The instance is alive: the next sign is due in one period.
    pub(crate) fn pet(&mut self, defined: Option<Duration>, now: Moment) {
        self.deadline = self.period(defined).map(|period| now + period);
        self.extended = false;
        self.excuses = 0;
        self.doubted = false;
    }

    /// Nothing to watch any more; a period that was asked for counts for the next run too, as procd's does.
    pub(crate) fn rest(&mut self) {
        self.deadline = None;
        self.extended = false;
        self.excuses = 0;
        self.doubted = false;
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    pub(crate) fn look(&mut self, defined: Option<Duration>, now: Moment) -> Look {
        let (Some(deadline), Some(period)) = (self.deadline, self.period(defined)) else {
            self.deadline = None;
            return Look::Fine;
        };
        if deadline > now {
            return Look::Fine;
        }
        let late = now.since(deadline);
        if late > period / 2 && !self.extended {
            self.extended = true;
            self.deadline = Some(now + period);
            return Look::Starved { late };
        }
        self.deadline = None;
        if self.excuses >= EXCUSES_MAX {
            return Look::Missed;
        }
        self.doubted = true;
        Look::Doubtful
    }

    /// Answers [`Look::Doubtful`]: how often in a row the instance is excused now, or `None` where it isn't any more because
    /// the machine has what it needs. A sign that came meanwhile has settled it: [`Health::is_doubted`] is asked first.
    pub(crate) fn judge(
        &mut self,
        defined: Option<Duration>,
        starved: bool,
        now: Moment,
    ) -> Option<u8> {
        self.doubted = false;
        let period = self.period(defined).filter(|_| starved)?;
        self.excuses += 1;
        self.deadline = Some(now + period);
        Some(self.excuses)
    }

    /// Whether a missed deadline waits for [`Health::judge`].
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_supervisor_gives_one_more_period_and_only_one() {
        let period = Some(Duration::from_secs(2));
        let mut health = Health::default();
        health.pet(period, Moment(0));
        let jumped = Moment(0) + Duration::from_secs(3600);
        assert!(matches!(health.look(period, jumped), Look::Starved { .. }));
        assert_eq!(health.look(period, jumped + Duration::from_secs(1)), Look::Fine);
        assert_eq!(health.look(period, jumped + Duration::from_secs(20)), Look::Doubtful);
        assert_eq!(health.judge(period, false, jumped + Duration::from_secs(20)), None);
        assert_eq!(health.look(period, jumped + Duration::from_secs(40)), Look::Fine);
    }

    #[test]
    fn a_starved_machine_excuses_three_times_in_a_row_and_a_sign_forgives_all() {
        let second = Duration::from_secs(1);
        let period = Some(second);
        let mut health = Health::default();
        let mut now = Moment(0);
        for _ in 0..2 {
            health.pet(period, now);
            for excuses in 1..=EXCUSES_MAX {
                now += second;
                assert_eq!(health.look(period, now), Look::Doubtful);
                assert!(health.is_doubted());
                assert_eq!(health.judge(period, true, now), Some(excuses));
                assert_eq!(health.deadline(), Some(now + second));
            }
        }
        assert_eq!(health.look(period, now + second), Look::Missed);
    }
}
