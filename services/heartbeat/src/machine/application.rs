//! One application: how it stands, by when it must report again, and what is known of it.
//!
//! ```text
//!            register              report
//! Expected -----------> Registered -------> Alive <-------+
//!    |                       |                |           | report
//!    | grace over            | deadline       | deadline  |
//!    +--------------------> Missed <----------+      Recovered
//!                              |                          ^
//!                              +--- register, report -----+
//! bye leads to Gone, from where register leads back. Late is Registered, Alive or Recovered for more than a period.
//! ```
//!
//! Only an accepted Register or Report moves a deadline; a connection that ends or begins moves none.

use core::net::SocketAddr;
use std::time::Duration;

use protocol::{
    heartbeat::{Key, Missed, Reason, State},
    name::Name,
    time::Moment,
};

use super::{
    contract::{Notice, SessionId},
    detector::Arrivals,
    stalls::Stalls,
};

/// Added to the time that everybody gets after the broker's own absence.
const AFTER_ABSENCE: Duration = Duration::from_secs(1);
/// Without any report in between, so many stalls of the broker are an excuse; then silence counts whatever the reason.
const EXCUSES_MAX: u8 = 8;
/// The adaptive detector waits at most so many times what the fixed one would.
const PATIENCE: u32 = 4;

/// Who said that there is such an application.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Origin {
    /// The supervisor, which is told when it hangs. `timed`: it reports here, not by sd_notify.
    Supervisor {
        service: Name,
        instance: Name,
        timed: bool,
    },
    Configuration,
    /// It came by itself.
    Itself,
}

/// The terms of the supervision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Terms {
    pub(super) period: Duration,
    pub(super) misses: u8,
    /// From when it is expected to its Register; zero is for ever.
    pub(super) grace: Duration,
    /// Zero: a progress counter that stands still is none of our business.
    pub(super) progress: Duration,
    /// The phi at which it counts as hung; without it the deadline is fixed.
    pub(super) phi: Option<f64>,
}

/// Whether the supervisor knows of the miss.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Telling {
    Nothing,
    /// In the line of those that are to be told.
    Queued,
    UnderWay,
    /// It did not work; again then.
    Again(Moment),
    Over,
}

#[derive(Debug)]
pub(super) struct Application {
    pub(super) id: i32,
    pub(super) origin: Origin,
    pub(super) generation: u32,
    pub(super) key: Option<Key>,
    pub(super) terms: Terms,
    pub(super) state: State,
    pub(super) session: Option<SessionId>,
    pub(super) pid: Option<u32>,
    pub(super) address: Option<SocketAddr>,
    /// Of the last accepted Report or Bye.
    counter: u64,
    pub(super) status: u8,
    pub(super) progress: u32,
    /// When the progress counter last moved.
    progressed: Moment,
    /// When it was expected, registered or last reported: what deadlines count from.
    since: Moment,
    pub(super) reported: Option<Moment>,
    pub(super) reports: u64,
    pub(super) arrivals: Arrivals,
    /// The last stall of ours that put its deadline off, and how many have since it was heard.
    excused_by: Moment,
    excuses: u8,
    pub(super) reason: Option<Reason>,
    pub(super) telling: Telling,
    pub(super) told_first: Moment,
    pub(super) attempts: u8,
    /// It is kept from running: it owes nothing.
    pub(super) frozen: bool,
    /// The entry of the schedule that counts.
    pub(super) armed: Option<Moment>,
    pub(super) retransmitted: u64,
    /// The events so far are worth the time until then, where they are limited.
    pub(super) noticed: Moment,
}

impl Application {
    pub(super) fn new(
        id: i32,
        origin: Origin,
        key: Option<Key>,
        terms: Terms,
        now: Moment,
    ) -> Self {
        Self {
            id,
            origin,
            generation: 0,
            key,
            terms,
            state: State::Expected,
            session: None,
            pid: None,
            address: None,
            counter: 0,
            status: 0,
            progress: 0,
            progressed: now,
            since: now,
            reported: None,
            reports: 0,
            arrivals: Arrivals::default(),
            excused_by: Moment(0),
            excuses: 0,
            reason: None,
            telling: Telling::Nothing,
            told_first: now,
            attempts: 0,
            frozen: false,
            armed: None,
            retransmitted: 0,
            noticed: now,
        }
    }

    /// Takes an accepted Register. `true` where it had been missed.
    pub(super) fn registered(&mut self, now: Moment) -> bool {
        if self.reason == Some(Reason::NoProgress) {
            // A new connection is no progress.
            return false;
        }
        let missed = self.state == State::Missed;
        if missed || matches!(self.state, State::Expected | State::Gone) {
            self.progressed = now;
        }
        self.state = if missed { State::Recovered } else { State::Registered };
        self.heard(now);
        missed
    }

    /// Takes an authentic report whose counter rose. `true` where it had been missed and is well again.
    pub(super) fn report(
        &mut self,
        status: u8,
        progress: u32,
        now: Moment,
        stalls: &Stalls,
    ) -> bool {
        let moved = progress != self.progress || self.reported.is_none();
        if let Some(last) = self.reported
            && self.state != State::Missed
            && stalls.that_matters_to(self.terms.period) < last
        {
            self.arrivals.record(now.since(last));
        }
        self.reported = Some(now);
        self.reports += 1;
        self.status = status;
        self.progress = progress;
        let stuck = self.reason == Some(Reason::NoProgress) && !moved;
        if moved || self.reason == Some(Reason::Silent) {
            self.progressed = now;
        }
        if stuck {
            return false;
        }
        let missed = self.state == State::Missed;
        self.state = if missed { State::Recovered } else { State::Alive };
        self.heard(now);
        missed
    }

    pub(super) fn goodbye(&mut self, status: u8) {
        self.status = status;
        self.state = State::Gone;
        self.reason = None;
        self.telling = Telling::Nothing;
    }

    /// Whether this counter is greater than all before; then it is remembered.
    pub(super) fn advance(&mut self, counter: u64) -> bool {
        let rises = counter > self.counter;
        self.counter = self.counter.max(counter);
        rises
    }

    /// A new life under the same key: its counter begins again.
    pub(super) fn begin_counting(&mut self) {
        self.counter = 0;
    }

    fn heard(&mut self, now: Moment) {
        self.since = now;
        self.excuses = 0;
        self.reason = None;
        self.telling = Telling::Nothing;
        self.attempts = 0;
    }

    /// Every deadline of it begins anew, whatever was excused before. Who was missed is still missed.
    pub(super) fn begin_anew(&mut self, now: Moment) {
        self.since = now;
        self.progressed = now;
        self.excuses = 0;
    }

    /// It is kept from running, and nobody is told of what it can't help; or it runs again, and all that was held against it is
    /// forgotten: who hangs is missed again.
    pub(super) fn freeze(&mut self, frozen: bool, now: Moment) {
        if std::mem::replace(&mut self.frozen, frozen) == frozen {
            return;
        }
        self.begin_anew(now);
        self.telling = Telling::Nothing;
        if !frozen && self.state == State::Missed {
            self.state = if self.session.is_some() { State::Registered } else { State::Expected };
            self.reason = None;
        }
    }

    /// By when it counts as hung, unless it is heard before, and why. `None`: it can't be late now.
    pub(super) fn deadline(&self, stalls: &Stalls) -> Option<(Moment, Reason)> {
        let (when, reason) = self.fixed_deadline()?;
        let stall = stalls.that_matters_to(self.terms.period);
        let excused =
            stall > self.since && (self.excuses < EXCUSES_MAX || self.excused_by == stall);
        match excused {
            true => Some((when.max(stall + self.allowance() + AFTER_ABSENCE), reason)),
            false => Some((when, reason)),
        }
    }

    fn fixed_deadline(&self) -> Option<(Moment, Reason)> {
        if self.frozen {
            return None;
        }
        match self.state {
            State::Expected if self.is_timed() && !self.terms.grace.is_zero() => {
                Some((self.since + self.terms.grace, Reason::NeverRegistered))
            }
            State::Registered | State::Alive | State::Recovered => {
                let silent = (self.since + self.allowance(), Reason::Silent);
                if self.terms.progress.is_zero() || self.reported.is_none() {
                    return Some(silent);
                }
                let stuck = (self.progressed + self.terms.progress, Reason::NoProgress);
                Some(if stuck.0 < silent.0 { stuck } else { silent })
            }
            _ => None,
        }
    }

    /// The longest silence that is still a sign of life.
    fn allowance(&self) -> Duration {
        let fixed = self.terms.period * u32::from(self.terms.misses);
        let adaptive = self.terms.phi.and_then(|threshold| self.arrivals.limit(threshold));
        // Never less than half a period of patience, and never for ever.
        adaptive.map_or(fixed, |limit| {
            let least = self.terms.period + self.terms.period / 2;
            limit.clamp(least, (fixed * PATIENCE).max(least))
        })
    }

    /// Notes that a stall of ours put off a deadline that has passed. `true` once for each stall.
    pub(super) fn excuse(&mut self, stalls: &Stalls, now: Moment) -> bool {
        if self.fixed_deadline().is_none_or(|(when, _)| when > now) {
            return false;
        }
        let stall = stalls.that_matters_to(self.terms.period);
        if stall <= self.since || stall == self.excused_by || self.excuses >= EXCUSES_MAX {
            return false;
        }
        self.excused_by = stall;
        self.excuses += 1;
        true
    }

    pub(super) fn missed(&mut self, reason: Reason, now: Moment) {
        self.state = State::Missed;
        self.reason = Some(reason);
        self.told_first = now;
        self.attempts = 0;
    }

    /// When something is to be done for it.
    pub(super) fn next(&self, stalls: &Stalls) -> Option<Moment> {
        if let Telling::Again(when) = self.telling {
            return Some(when);
        }
        self.deadline(stalls).map(|(when, _)| when)
    }

    /// It registered, and hasn't said goodbye.
    pub(super) fn has_come(&self) -> bool {
        !matches!(self.state, State::Expected | State::Gone)
    }

    pub(super) fn is_timed(&self) -> bool {
        matches!(self.origin, Origin::Supervisor { timed: true, .. })
    }

    /// More than a period without a report.
    pub(super) fn is_late(&self, now: Moment) -> bool {
        let owes = self.has_come() && self.state != State::Missed && !self.frozen;
        owes && now.since(self.since) > self.terms.period
    }

    pub(super) fn missed_now(&self, reason: Reason, now: Moment) -> Missed {
        let age_ms = self.age_ms(now);
        Missed { app_id: self.id, generation: self.generation, age_ms, reason }
    }

    /// Since the last accepted report, or since it was expected.
    pub(super) fn age_ms(&self, now: Moment) -> u64 {
        let age = now.since(self.reported.unwrap_or(self.since));
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn names(&self) -> (Option<Name>, Option<Name>) {
        match &self.origin {
            Origin::Supervisor { service, instance, .. } => {
                (Some(service.clone()), Some(instance.clone()))
            }
            Origin::Configuration | Origin::Itself => (None, None),
        }
    }

    pub(super) fn notice(&self, now: Moment) -> Notice {
        let (service, instance) = self.names();
        Notice {
            app_id: self.id,
            service,
            instance,
            generation: self.generation,
            authenticated: self.key.is_some(),
            pid: self.pid,
            age_ms: self.age_ms(now),
            reason: self.reason,
        }
    }
}
