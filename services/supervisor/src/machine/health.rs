//! Signs of life. Watchdog deadlines: says when an instance has missed one, and suspects itself, and then the machine,
//! before it suspects the instance. And the one decision about an instance that shows no sign of life, whoever noticed it:
//! this watchdog, or the heartbeat broker, which suspects itself before it says so.

use std::time::Duration;

use protocol::{
    heartbeat::{Missed, Reason},
    keeper::ShutdownKind,
    system::Cause,
    time::Moment,
};

use super::{
    Action, Ending, Supervisor,
    drive::ABORT_GRACE,
    instance::{State, Why},
};
use crate::settings::OnMiss;

const SIGCONT: i32 = 18;

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
    /// The last sign.
    heard: Option<Moment>,
}

/// No sign of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Miss {
    /// What did not come.
    pub(super) sign: Sign,
    /// Since the last one.
    pub(super) age: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sign {
    /// `WATCHDOG=1`.
    Watchdog,
    Heartbeat(Reason),
}

impl Supervisor {
    /// The broker says that an application missed its deadline. What is about another start than the present one is no news.
    pub(super) fn heartbeat_missed(&mut self, missed: &Missed, now: Moment) {
        let (app_id, generation) = (missed.app_id, missed.generation);
        let mut lives = self.lives.values();
        let meant = lives.find(|life| {
            life.settings().process.app_id == Some(app_id) && life.seen.generation == generation
        });
        let Some(slot) = meant.map(|life| life.slot) else { return };
        let age = Duration::from_millis(missed.age_ms);
        self.missed(slot, Miss { sign: Sign::Heartbeat(missed.reason), age }, now);
    }

    pub(super) fn watchdog_missed(&mut self, slot: u32, now: Moment) {
        let Some(life) = self.lives.get(&slot) else { return };
        let age = life.health.age(now).unwrap_or_default();
        self.missed(slot, Miss { sign: Sign::Watchdog, age }, now);
    }

    /// Decides about an instance that shows no sign of life.
    fn missed(&mut self, slot: u32, miss: Miss, now: Moment) {
        let shutting_down = self.shutdown.is_some();
        let Some(life) = self.lives.get_mut(&slot) else { return };
        let excused = life.frozen.is_some() || matches!(life.state, State::Stopping { .. });
        if shutting_down || !life.running() || excused {
            return;
        }
        let policy = &life.settings().policy;
        let (why, action) = match miss.sign {
            Sign::Watchdog => (Why::Watchdog, policy.watchdog_miss),
            Sign::Heartbeat(_) => (Why::Heartbeat, policy.heartbeat.on_miss),
        };
        life.misses = life.misses.saturating_add(1);
        // Of heartbeats that come again only the broker knows, so that nobody could take it back.
        life.missing = miss.sign == Sign::Watchdog || action != OnMiss::Event;
        let (beside, name) = (life.is_beside(), life.service.name.clone());
        self.happen_missed(slot, &miss, action);
        match action {
            OnMiss::Event => {}
            OnMiss::Signal(signal) => self.abort(slot, why, signal, now),
            // A process that only might take another one's place is no reason for a reboot.
            OnMiss::Reboot if !beside => {
                let reason = format!("service {name} showed no sign of life");
                let ending = Ending { cause: Cause::Critical, reason };
                self.begin_shutdown(ShutdownKind::Reboot, 1, ending, now);
            }
            OnMiss::Restart | OnMiss::Reboot => self.begin_kill(slot, why, now),
        }
        self.dirty.insert(slot);
    }

    fn abort(&mut self, slot: u32, why: Why, signal: i32, now: Moment) {
        self.begin_stop(slot, why, signal, ABORT_GRACE, now);
        let suspended = self.lives.get(&slot).filter(|life| life.seen.suspended);
        if let Some(generation) = suspended.map(|life| life.seen.generation) {
            // Frozen by SIGSTOP it would hear no other signal, and leave no core dump.
            let signal = SIGCONT;
            self.actions.push_back(Action::Signal { slot, generation, signal, tree: false });
        }
    }
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
        self.heard = Some(now);
        self.extended = false;
        self.excuses = 0;
        self.doubted = false;
    }

    /// A whole period from now on, for what is watched at the moment; that nobody was heard meanwhile doesn't change.
    pub(crate) fn begin_anew(&mut self, defined: Option<Duration>, now: Moment) {
        if self.deadline.is_none() && !self.doubted {
            return;
        }
        self.deadline = self.period(defined).map(|period| now + period);
        self.extended = false;
        self.excuses = 0;
        self.doubted = false;
    }

    /// Nothing to watch any more; a period that was asked for counts for the next run too, as procd's does.
    pub(crate) fn rest(&mut self) {
        self.deadline = None;
        self.heard = None;
        self.extended = false;
        self.excuses = 0;
        self.doubted = false;
    }

    /// Since the last sign, or since it was ready.
    pub(crate) fn age(&self, now: Moment) -> Option<Duration> {
        self.heard.map(|heard| now.since(heard))
    }

    pub(crate) fn heard(&self) -> Option<Moment> {
        self.heard
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
