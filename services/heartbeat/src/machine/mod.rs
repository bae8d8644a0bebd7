//! The broker's decisions: events and `now` in, actions out. Reads no clock, opens no socket, draws no random number.
//!
//! [`application`] has the states and the deadlines, [`session`] what is said on a connection and what it is worth,
//! [`orders`] what the supervisor asks, [`stalls`] why the broker suspects itself before others, [`detector`] the
//! statistics. A connection proves nothing: what moves a deadline is a message with a right tag.

mod application;
mod contract;
mod detector;
mod orders;
mod schedule;
mod session;
mod stalls;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hasher as _,
    time::Duration,
};

use core::net::IpAddr;

use protocol::{
    heartbeat::{Nonce, Reason, State},
    time::Moment,
};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

pub(crate) use self::contract::{Action, CallId, Counters, Event, SessionId};
use self::{
    application::{Application, Origin, Telling},
    schedule::{Schedule, Whose},
    session::Session,
    stalls::Stalls,
};
use crate::settings::Rules;

/// A connection that didn't register by then is closed.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Calls to the supervisor at the same time.
const TELL_AT_ONCE: usize = 16;
/// Waits before the supervisor is told again: doubled from the first to the second.
const TELL_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Then nobody wants to know. A supervisor that comes back says again whom it expects, and is told at once.
const TELL_FOR: Duration = Duration::from_secs(600);
/// Events about an application without a key, which anybody on this host can cause: one in so long, and a few at once.
const UNPROVEN_NOTICE_EVERY: Duration = Duration::from_secs(1);
const UNPROVEN_NOTICES: u32 = 8;

/// Who reports, and how.
#[derive(Debug)]
pub(crate) struct Broker {
    rules: Rules,
    started: Moment,
    apps: HashMap<i32, Application>,
    /// Such as nobody named.
    unexpected: BTreeSet<i32>,
    sessions: HashMap<SessionId, Session>,
    /// Sessions without a Register, by age.
    unregistered: BTreeSet<(Moment, SessionId)>,
    /// Sessions of each address that isn't this host's.
    addresses: HashMap<IpAddr, usize>,
    schedule: Schedule,
    stalls: Stalls,
    to_tell: BTreeSet<i32>,
    telling: usize,
    actions: VecDeque<Action>,
    nonces: Nonces,
    counters: Counters,
}

/// Nonces that nobody without the seed can tell, and none twice.
struct Nonces {
    seed: [u8; 16],
    drawn: u64,
}

impl std::fmt::Debug for Nonces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonces(..)")
    }
}

impl Nonces {
    fn draw(&mut self) -> Nonce {
        self.drawn += 1;
        let mut hasher = SipHasher24::new_with_key(&self.seed);
        hasher.write_u64(self.drawn);
        hasher.finish128().as_bytes()
    }
}

impl Broker {
    /// `seed`: 16 octets that nobody else can guess.
    pub(crate) fn new(rules: Rules, seed: [u8; 16], now: Moment) -> Self {
        let mut broker = Self {
            rules,
            started: now,
            apps: HashMap::new(),
            unexpected: BTreeSet::new(),
            sessions: HashMap::new(),
            unregistered: BTreeSet::new(),
            addresses: HashMap::new(),
            schedule: Schedule::default(),
            stalls: Stalls::new(now),
            to_tell: BTreeSet::new(),
            telling: 0,
            actions: VecDeque::new(),
            nonces: Nonces { seed, drawn: 0 },
            counters: Counters::default(),
        };
        broker.configure(now);
        broker
    }

    /// To be called first whenever the shell wakes up: tells a broker that was late itself.
    pub(crate) fn wake(&mut self, now: Moment) {
        let Some(wanted) = self.schedule.next() else { return };
        if self.stalls.late(now.since(wanted), now) {
            self.counters.stalls += 1;
        }
    }

    /// Takes in what happened. All messages that have come are to be fed before [`Self::handle_timeout`].
    pub(crate) fn handle_event(&mut self, event: Event<'_>, now: Moment) {
        match event {
            Event::Opened { session, from } => self.opened(session, from, now),
            Event::Message { session, octets } => self.message(session, octets, now),
            Event::Ended { session, retransmitted } => self.ended(session, retransmitted),
            Event::Expect { call, expect } => {
                let result = self.expect(expect, now);
                self.actions.push_back(Action::Answer { call, result });
            }
            Event::Forget { call, forget } => {
                self.forget(forget, now);
                self.actions.push_back(Action::Answer { call, result: Ok(()) });
            }
            Event::Told { app_id, generation, heard } => {
                self.telling = self.telling.saturating_sub(1);
                self.told(app_id, generation, heard, now);
            }
            Event::Resumed => {
                self.counters.stalls += 1;
                self.stalls.absent(now);
            }
            Event::BornAgain => {
                self.counters.stalls += 1;
                self.stalls.absent(now);
                self.apps.values_mut().for_each(|app| app.begin_anew(now));
            }
            Event::Rules(rules) => {
                self.rules = rules;
                self.configure(now);
            }
        }
        self.tell_next(now);
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        while let Some((when, whose)) = self.schedule.due(now) {
            match whose {
                Whose::Application(id) => self.application_due(id, when, now),
                Whose::Session(session) => self.session_due(session, when),
            }
        }
        self.tell_next(now);
        if self.schedule.len() > 2 * (self.apps.len() + self.sessions.len()) + 64 {
            let (apps, sessions) = (&self.apps, &self.sessions);
            self.schedule.retain(|when, whose| match whose {
                Whose::Application(id) => apps.get(&id).is_some_and(|app| app.armed == Some(when)),
                Whose::Session(id) => {
                    sessions.get(&id).is_some_and(|session| session.opened + HANDSHAKE == when)
                }
            });
        }
    }

    /// What is to be done, until there is nothing.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called, unless something happens before.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.schedule.next()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    fn application_due(&mut self, id: i32, when: Moment, now: Moment) {
        let Some(app) = self.apps.get_mut(&id).filter(|app| app.armed == Some(when)) else {
            return;
        };
        app.armed = None;
        if matches!(app.telling, Telling::Again(when) if when <= now) {
            app.telling = Telling::Queued;
            self.to_tell.insert(id);
        }
        match app.deadline(&self.stalls) {
            Some((deadline, reason)) if deadline <= now => self.miss(id, reason, now),
            Some(_) if app.excuse(&self.stalls, now) => self.counters.excused += 1,
            _ => {}
        }
        self.arm(id);
    }

    /// It counts as hung from now on.
    fn miss(&mut self, id: i32, reason: Reason, now: Moment) {
        let Some(app) = self.apps.get_mut(&id) else { return };
        app.missed(reason, now);
        self.counters.missed += 1;
        if app.is_timed() {
            app.telling = Telling::Queued;
            self.to_tell.insert(id);
        }
        self.publish(id, "heartbeat.missed", now);
    }

    /// Sees to it that it is looked at when its time comes. A later time than the one it waits for is found then.
    fn arm(&mut self, id: i32) {
        let Some(app) = self.apps.get_mut(&id) else { return };
        let Some(when) = app.next(&self.stalls) else { return };
        if app.armed.is_none_or(|armed| when < armed) {
            app.armed = Some(when);
            self.schedule.add(when, Whose::Application(id));
        }
    }

    fn publish(&mut self, id: i32, topic: &'static str, now: Moment) {
        let Some(app) = self.apps.get_mut(&id) else { return };
        if app.key.is_none() {
            if app.noticed > now + UNPROVEN_NOTICE_EVERY * (UNPROVEN_NOTICES - 1) {
                self.counters.notices_suppressed += 1;
                return;
            }
            app.noticed = app.noticed.max(now) + UNPROVEN_NOTICE_EVERY;
        }
        let notice = Box::new(app.notice(now));
        self.actions.push_back(Action::Publish { topic, notice });
    }

    fn tell_next(&mut self, now: Moment) {
        while self.telling < TELL_AT_ONCE {
            let Some(id) = self.to_tell.pop_first() else { return };
            let Some(app) = self.apps.get_mut(&id) else { continue };
            let Some(reason) = app.reason.filter(|_| app.telling == Telling::Queued) else {
                continue;
            };
            app.telling = Telling::UnderWay;
            self.telling += 1;
            let (missed, attempt) = (app.missed_now(reason, now), app.attempts);
            self.actions.push_back(Action::Tell { missed, attempt });
        }
    }

    fn told(&mut self, id: i32, generation: u32, heard: bool, now: Moment) {
        let meant = |app: &&mut Application| {
            app.generation == generation && app.telling == Telling::UnderWay
        };
        let Some(app) = self.apps.get_mut(&id).filter(meant) else { return };
        app.telling = if heard {
            self.counters.told += 1;
            Telling::Over
        } else if now.since(app.told_first) >= TELL_FOR {
            self.counters.untold += 1;
            Telling::Over
        } else {
            let (first, longest) = TELL_AGAIN;
            let wait = first.saturating_mul(1 << app.attempts.min(16)).min(longest);
            app.attempts = app.attempts.saturating_add(1);
            Telling::Again(now + wait)
        };
        self.arm(id);
    }

    fn is_full(&self) -> bool {
        self.apps.len() >= self.rules.limits.applications
    }
}

/// What one who came by itself is forgotten for, when another one comes.
fn is_idle(app: &Application) -> bool {
    app.origin == Origin::Itself && matches!(app.state, State::Gone | State::Missed)
}
