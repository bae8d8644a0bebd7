//! What is said on a connection: HELLO, CHALLENGE, REGISTER, RESULT, then reports. What a peer says before its Register
//! was accepted changes nothing but counters; what it says after changes only the application it registered as.

use core::net::{IpAddr, SocketAddr};

use protocol::{
    heartbeat::{Body, Direction, Key, Message, Nonce, ResultCode, is_authentic, is_keyless},
    time::Moment,
};

use super::{
    Action, Broker, HANDSHAKE, SessionId,
    application::{Application, Origin},
    is_idle,
    schedule::Whose,
};
use crate::settings::App;

/// Connections without a Register; the oldest makes room for a new one.
const UNREGISTERED_MAX: usize = 1_024;

/// One transport connection.
#[derive(Debug)]
pub(super) struct Session {
    from: SocketAddr,
    pub(super) opened: Moment,
    /// For the next Register, which uses it up.
    challenge: Option<Nonce>,
    pub(super) bound: Option<Bound>,
    /// Which application's peer this is, if it speaks plain Reliable UDP.
    legacy: Option<i32>,
}

/// Whom a connection speaks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    app_id: i32,
    /// Its tags are over this; `None`: all it says is a report.
    nonce: Option<Nonce>,
}

/// A Register as it came.
struct Request<'a> {
    session: SessionId,
    from: SocketAddr,
    message: Message,
    octets: &'a [u8],
    nonce: Nonce,
}

impl Broker {
    pub(super) fn opened(&mut self, session: SessionId, from: SocketAddr, now: Moment) {
        // The same connection again: an auto reset, or its peer restarted.
        self.drop_session(session);
        self.counters.sessions += 1;
        let host = foreign(from);
        let others = host.and_then(|host| self.addresses.get(&host)).copied().unwrap_or(0);
        if others >= self.rules.limits.sessions_per_address {
            self.counters.sessions_refused += 1;
            self.actions.push_back(Action::Close { session });
            return;
        }
        if self.unregistered.len() >= UNREGISTERED_MAX
            && let Some((_, oldest)) = self.unregistered.pop_first()
        {
            self.counters.sessions_evicted += 1;
            self.close_session(oldest);
        }
        if let Some(host) = host {
            *self.addresses.entry(host).or_default() += 1;
        }
        let is_peer = |app: &App| app.legacy.is_some_and(|legacy| legacy.is(from));
        let mut apps = self.rules.apps.iter();
        let legacy = apps.find(|(_, app)| is_peer(app)).map(|(id, _)| *id);
        self.unregistered.insert((now, session));
        self.sessions
            .insert(session, Session { from, opened: now, challenge: None, bound: None, legacy });
        self.schedule.add(now + HANDSHAKE, Whose::Session(session));
    }

    pub(super) fn ended(&mut self, session: SessionId, retransmitted: u64) {
        let bound = self.sessions.get(&session).and_then(|session| session.bound);
        if let Some(app) = bound.and_then(|bound| self.apps.get_mut(&bound.app_id)) {
            app.retransmitted += retransmitted;
        }
        self.drop_session(session);
    }

    pub(super) fn message(&mut self, id: SessionId, octets: &[u8], now: Moment) {
        let Some(session) = self.sessions.get_mut(&id) else {
            self.counters.out_of_place += 1;
            return;
        };
        let message = match (Message::decode(octets), session.bound, session.legacy) {
            (_, Some(bound @ Bound { nonce: None, .. }), _) => {
                return self.legacy_report(bound.app_id, now);
            }
            (Ok(message), ..) => message,
            (Err(_), None, Some(app_id)) => return self.legacy_register(id, app_id, now),
            (Err(_), ..) => {
                self.counters.malformed += 1;
                return;
            }
        };
        match message.body {
            Body::Hello => {
                let nonce = self.nonces.draw();
                session.challenge = Some(nonce);
                let body = Body::Challenge { nonce };
                self.send(id, Message { body, ..message }, None);
            }
            Body::Register { .. } => {
                let from = session.from;
                let Some(nonce) = session.challenge.take() else {
                    self.counters.out_of_place += 1;
                    return;
                };
                self.register(&Request { session: id, from, message, octets, nonce }, now);
            }
            Body::Report { status, counter, progress } => {
                let said = (counter, status, Some(progress));
                self.said(id, &message, octets, said, now);
            }
            Body::Bye { status, counter, .. } => {
                self.said(id, &message, octets, (counter, status, None), now);
            }
            Body::Challenge { .. } | Body::Result { .. } => self.counters.wrong_direction += 1,
        }
    }

    fn register(&mut self, request: &Request<'_>, now: Moment) {
        let (app_id, session) = (request.message.app_id, request.session);
        let Body::Register { pid, period_ms } = request.message.body else { return };
        if let Err(code) = self.admit(request, now) {
            let count = match code {
                ResultCode::UnknownApplication => &mut self.counters.unknown_application,
                ResultCode::BadTag => &mut self.counters.bad_tag,
                ResultCode::WrongGeneration => &mut self.counters.wrong_generation,
                ResultCode::Busy => &mut self.counters.busy,
                ResultCode::Ok | ResultCode::Limit => &mut self.counters.limit,
            };
            *count += 1;
            let key = self.apps.get(&app_id).and_then(|app| app.key);
            let body = Body::Result { code, misses: 0, period_ms: 0 };
            let secret = key.as_ref().map(|key| (key, &request.nonce));
            self.send(session, Message { body, ..request.message }, secret);
            // Whoever has registered before goes on; nobody can talk it out of that.
            if self.sessions.get(&session).is_some_and(|session| session.bound.is_none()) {
                self.close_session(session);
            }
            return;
        }
        let Some(app) = self.apps.get_mut(&app_id) else { return };
        if !matches!(app.origin, Origin::Supervisor { .. }) {
            // Nobody counts its starts; the fresh nonce keeps what it said in an earlier life from counting now.
            app.generation = request.message.generation;
            app.begin_counting();
            app.terms.period = self.rules.period_for(app_id, period_ms);
        }
        app.pid = (pid != 0).then_some(pid);
        let (key, terms) = (app.key, app.terms);
        let bound = Bound { app_id, nonce: Some(request.nonce) };
        self.counters.registered += 1;
        self.bind(session, request.from, bound, now);
        let body = Body::Result {
            code: ResultCode::Ok,
            misses: terms.misses,
            period_ms: u32::try_from(terms.period.as_millis()).unwrap_or(u32::MAX),
        };
        if key.is_some() {
            self.actions.push_back(Action::Verify { session });
        }
        let secret = key.as_ref().map(|key| (key, &request.nonce));
        self.send(session, Message { body, ..request.message }, secret);
    }

    /// Whether one may speak for whom he says; makes an application of one who comes by itself and may.
    fn admit(&mut self, request: &Request<'_>, now: Moment) -> Result<(), ResultCode> {
        let Message { app_id, generation, .. } = request.message;
        let limits = self.rules.limits;
        let Some(app) = self.apps.get(&app_id) else {
            let here = request.from.ip().to_canonical().is_loopback();
            if !self.rules.allow_unexpected || !here {
                return Err(ResultCode::UnknownApplication);
            }
            keyless(generation, request.octets)?;
            if self.unexpected.len() >= limits.unexpected && !self.forget_an_idle_one() {
                return Err(ResultCode::Limit);
            }
            if self.is_full() {
                return Err(ResultCode::Limit);
            }
            let terms = self.rules.terms_for(app_id);
            let app = Application::new(app_id, Origin::Itself, None, terms, now);
            self.apps.insert(app_id, app);
            self.unexpected.insert(app_id);
            return Ok(());
        };
        let allowed = match &app.origin {
            Origin::Supervisor { timed, .. } => *timed,
            Origin::Configuration => {
                self.rules.apps.get(&app_id).is_some_and(|app| app.admits(request.from))
            }
            Origin::Itself => request.from.ip().to_canonical().is_loopback(),
        };
        if !allowed {
            return Err(ResultCode::UnknownApplication);
        }
        let Some(key) = &app.key else {
            keyless(generation, request.octets)?;
            // It could be anybody: the first one stays as long as it reports in time.
            let other = app.session.is_some_and(|session| session != request.session);
            let taken = other && app.has_come() && !app.is_late(now);
            return if taken { Err(ResultCode::Busy) } else { Ok(()) };
        };
        if matches!(app.origin, Origin::Supervisor { .. }) && generation != app.generation {
            return Err(ResultCode::WrongGeneration);
        }
        let authentic = is_authentic(request.octets, key, &request.nonce, Direction::ToBroker);
        if authentic { Ok(()) } else { Err(ResultCode::BadTag) }
    }

    /// The connection speaks for the application from now on, another one no longer.
    fn bind(&mut self, id: SessionId, from: SocketAddr, bound: Bound, now: Moment) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        self.unregistered.remove(&(session.opened, id));
        let before = session.bound.replace(bound);
        if let Some(before) = before.filter(|before| before.app_id != bound.app_id)
            && let Some(app) = self.apps.get_mut(&before.app_id)
        {
            app.session = None;
        }
        let Some(app) = self.apps.get_mut(&bound.app_id) else { return };
        let other = app.session.replace(id).filter(|other| *other != id);
        app.address = Some(from);
        let known = app.has_come();
        let recovered = app.registered(now);
        if let Some(other) = other {
            self.close_session(other);
        }
        if recovered {
            self.counters.recovered += 1;
            self.publish(bound.app_id, "heartbeat.recovered", now);
        } else if !known {
            self.publish(bound.app_id, "heartbeat.registered", now);
        }
        self.arm(bound.app_id);
    }

    /// A Report, or without progress a Bye.
    fn said(
        &mut self,
        id: SessionId,
        message: &Message,
        octets: &[u8],
        (counter, status, progress): (u64, u8, Option<u32>),
        now: Moment,
    ) {
        let bound = self.sessions.get(&id).and_then(|session| session.bound);
        let Some(Bound { app_id, nonce: Some(nonce) }) = bound else {
            self.counters.out_of_place += 1;
            return;
        };
        let Some(app) = self.apps.get_mut(&app_id) else { return };
        if message.app_id != app_id {
            self.counters.unknown_application += 1;
            return;
        }
        if message.generation != app.generation {
            self.counters.wrong_generation += 1;
            return;
        }
        if !is_ours(octets, app.key.as_ref(), &nonce) {
            self.counters.bad_tag += 1;
            return;
        }
        if !app.has_come() {
            self.counters.out_of_place += 1;
            return;
        }
        if !app.advance(counter) {
            self.counters.replayed += 1;
            return;
        }
        match progress {
            Some(progress) => self.reported(app_id, status, progress, now),
            None => {
                app.goodbye(status);
                self.counters.byes += 1;
                self.publish(app_id, "heartbeat.gone", now);
            }
        }
    }

    fn reported(&mut self, app_id: i32, status: u8, progress: u32, now: Moment) {
        let Some(app) = self.apps.get_mut(&app_id) else { return };
        self.counters.reports += 1;
        if app.report(status, progress, now, &self.stalls) {
            self.counters.recovered += 1;
            self.publish(app_id, "heartbeat.recovered", now);
        }
        self.arm(app_id);
    }

    /// The first that a peer of plain Reliable UDP says.
    fn legacy_register(&mut self, session: SessionId, app_id: i32, now: Moment) {
        let Some(from) = self.sessions.get(&session).map(|session| session.from) else { return };
        let configured = |app: &Application| app.origin == Origin::Configuration;
        if !self.apps.get(&app_id).is_some_and(configured) {
            self.counters.unknown_application += 1;
            return;
        }
        self.counters.registered += 1;
        self.bind(session, from, Bound { app_id, nonce: None }, now);
        self.legacy_report(app_id, now);
    }

    fn legacy_report(&mut self, app_id: i32, now: Moment) {
        let Some(app) = self.apps.get(&app_id) else { return };
        // It has no progress counter: each message is progress.
        let progress = app.progress.wrapping_add(1);
        self.reported(app_id, 0, progress, now);
    }

    pub(super) fn session_due(&mut self, id: SessionId, when: Moment) {
        let Some(session) = self.sessions.get(&id) else { return };
        if session.opened + HANDSHAKE == when && session.bound.is_none() && session.legacy.is_none()
        {
            self.counters.sessions_timed_out += 1;
            self.close_session(id);
        }
    }

    pub(super) fn close_session(&mut self, session: SessionId) {
        self.drop_session(session);
        self.actions.push_back(Action::Close { session });
    }

    /// Forgets a connection; the application's credit stays.
    fn drop_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.unregistered.remove(&(session.opened, id));
        if let Some(host) = foreign(session.from)
            && let Some(count) = self.addresses.get_mut(&host)
        {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&host);
            }
        }
        if let Some(app) = session.bound.and_then(|bound| self.apps.get_mut(&bound.app_id))
            && app.session == Some(id)
        {
            app.session = None;
        }
    }

    fn forget_an_idle_one(&mut self) -> bool {
        let mut ids = self.unexpected.iter().copied();
        let idle = ids.find(|id| self.apps.get(id).is_some_and(is_idle));
        if let Some(id) = idle {
            self.remove_application(id);
        }
        idle.is_some()
    }

    fn send(&mut self, session: SessionId, message: Message, secret: Option<(&Key, &Nonce)>) {
        self.actions.push_back(Action::Send { session, octets: message.encode(secret) });
    }
}

fn keyless(generation: u32, octets: &[u8]) -> Result<(), ResultCode> {
    match (is_keyless(octets), generation) {
        (false, _) => Err(ResultCode::BadTag),
        (true, 0) => Ok(()),
        (true, _) => Err(ResultCode::WrongGeneration),
    }
}

/// Whether the application itself said it; one without a key says so by a tag of zeros.
fn is_ours(octets: &[u8], key: Option<&Key>, nonce: &Nonce) -> bool {
    match key {
        Some(key) => is_authentic(octets, key, nonce, Direction::ToBroker),
        None => is_keyless(octets),
    }
}

/// The address that connections are counted for; on this host, many programs share one.
fn foreign(from: SocketAddr) -> Option<IpAddr> {
    let host = from.ip().to_canonical();
    (!host.is_loopback()).then_some(host)
}
