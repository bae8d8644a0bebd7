//! Watchdog deadlines: says when an instance has missed one. Suspects itself before it suspects the instance.

use std::time::Duration;

use protocol::time::Moment;

/// The shortest period that is believed; a shorter one would make the supervisor itself the load.
const PERIOD_MIN: Duration = Duration::from_millis(10);

/// How an instance is watched.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Health {
    /// Asked for at run time (WATCHDOG_USEC, procd's `watchdog`); counts over the definition's.
    period: Option<Duration>,
    deadline: Option<Moment>,
    /// The present deadline was moved once, because the supervisor came late itself.
    extended: bool,
}

/// What has become of a deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Look {
    Fine,
    /// It passed, but we looked so late that the instance may have been starved as we were: asked again in a period.
    Starved {
        late: Duration,
    },
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
    }

    /// Nothing to watch any more; a period that was asked for counts for the next run too, as procd's does.
    pub(crate) fn rest(&mut self) {
        self.deadline = None;
        self.extended = false;
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
        Look::Missed
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
        assert_eq!(health.look(period, jumped + Duration::from_secs(20)), Look::Missed);
        assert_eq!(health.look(period, jumped + Duration::from_secs(40)), Look::Fine);
    }
}
