//! A broker, a clock the test owns, and applications that talk to it as the real ones do.

use core::net::SocketAddr;
use std::time::Duration;

use protocol::{
    heartbeat::{
        Body, Direction, Expect, Forget, Key, MESSAGE_LENGTH, Message, Missed, Nonce, ResultCode,
        Row, State, is_authentic,
    },
    name::Name,
    time::Moment,
};

use crate::{
    machine::{Action, Broker, Event, SessionId},
    settings::Rules,
};

pub(super) const KEY: Key = Key([7; 16]);
pub(super) const PERIOD: Duration = Duration::from_secs(1);
pub(super) const GRACE: Duration = Duration::from_secs(30);

pub(super) struct Device {
    pub(super) broker: Broker,
    pub(super) now: Moment,
    next_session: SessionId,
    /// Topics, with the application.
    pub(super) events: Vec<(&'static str, i32)>,
    pub(super) told: Vec<Missed>,
    pub(super) sent: Vec<(SessionId, [u8; MESSAGE_LENGTH])>,
    pub(super) closed: Vec<SessionId>,
    pub(super) verified: Vec<SessionId>,
    pub(super) failures: Vec<String>,
}

/// What an application has after its Register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Talker {
    pub(super) session: SessionId,
    pub(super) app_id: i32,
    pub(super) generation: u32,
    pub(super) key: Option<Key>,
    pub(super) nonce: Nonce,
    pub(super) counter: u64,
    pub(super) progress: u32,
}

pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub(super) fn expected(app_id: i32, generation: u32) -> Expect {
    Expect {
        service: Name::new("camera").unwrap(),
        instance: Name::new("instance1").unwrap(),
        app_id,
        generation,
        key: Some("07".repeat(16)),
        period_ms: 1_000,
        misses: 3,
        grace_ms: 30_000,
        progress_ms: 0,
        adaptive: false,
        frozen: false,
    }
}

impl Device {
    pub(super) fn new() -> Self {
        Self::with(Rules::default())
    }

    /// A broker that has been running for an hour.
    pub(super) fn with(rules: Rules) -> Self {
        let start = Moment(1_000_000_000);
        let mut device = Self {
            broker: Broker::new(rules, [3; 16], start),
            now: start,
            next_session: 0,
            events: Vec::new(),
            told: Vec::new(),
            sent: Vec::new(),
            closed: Vec::new(),
            verified: Vec::new(),
            failures: Vec::new(),
        };
        device.now += Duration::from_secs(3_600);
        device
    }

    pub(super) fn event(&mut self, event: Event<'_>) {
        self.broker.handle_event(event, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.broker.poll_action() {
            match action {
                Action::Send { session, octets } => self.sent.push((session, octets)),
                Action::Verify { session } => self.verified.push(session),
                Action::Close { session } => self.closed.push(session),
                Action::Answer { result, .. } => {
                    self.failures.extend(result.err().map(|failure| failure.text));
                }
                Action::Publish { topic, notice } => self.events.push((topic, notice.app_id)),
                Action::Tell { missed, .. } => self.told.push(missed),
            }
        }
    }

    /// Time passes; the broker is woken whenever it wants to be, and at the end.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(when) = self.broker.next_deadline().filter(|when| *when <= end) {
            self.now = self.now.max(when);
            self.wake();
        }
        self.now = end;
        self.wake();
    }

    /// Time passes while the broker doesn't run.
    pub(super) fn stall(&mut self, by: Duration) {
        self.now += by;
        self.broker.wake(self.now);
    }

    pub(super) fn wake(&mut self) {
        self.broker.wake(self.now);
        self.timeout();
    }

    /// The end of a turn of the loop that a stall began.
    pub(super) fn timeout(&mut self) {
        self.broker.handle_timeout(self.now);
        self.drain();
    }

    pub(super) fn expect(&mut self, expect: Expect) {
        self.event(Event::Expect { call: 1, expect });
    }

    pub(super) fn forget(&mut self, app_id: i32, generation: u32) {
        self.event(Event::Forget { call: 1, forget: Forget { app_id, generation } });
    }

    pub(super) fn open(&mut self, from: SocketAddr) -> SessionId {
        self.next_session += 1;
        self.event(Event::Opened { session: self.next_session, from });
        self.next_session
    }

    pub(super) fn say(&mut self, session: SessionId, octets: &[u8]) {
        self.event(Event::Message { session, octets });
    }

    pub(super) fn hello(&mut self, session: SessionId, app_id: i32, generation: u32) -> Nonce {
        let hello = Message { app_id, generation, body: Body::Hello }.encode(None);
        self.say(session, &hello);
        match Message::decode(&self.sent.last().unwrap().1).unwrap().body {
            Body::Challenge { nonce } => nonce,
            other => panic!("{other:?} instead of a challenge"),
        }
    }

    /// Opens a connection and registers; the broker's code says how that went.
    pub(super) fn try_register(
        &mut self,
        from: SocketAddr,
        (app_id, generation): (i32, u32),
        key: Option<Key>,
    ) -> (ResultCode, Talker) {
        let session = self.open(from);
        let nonce = self.hello(session, app_id, generation);
        let body = Body::Register { pid: 99, period_ms: 0 };
        let secret = key.as_ref().map(|key| (key, &nonce));
        let octets = Message { app_id, generation, body }.encode(secret);
        self.say(session, &octets);
        let (to, answer) = *self.sent.last().unwrap();
        assert_eq!(to, session);
        let Body::Result { code, .. } = Message::decode(&answer).unwrap().body else {
            panic!("no result");
        };
        if let (ResultCode::Ok, Some(key)) = (code, &key) {
            assert!(is_authentic(&answer, key, &nonce, Direction::FromBroker));
        }
        (code, Talker { session, app_id, generation, key, nonce, counter: 0, progress: 0 })
    }

    pub(super) fn register(&mut self, app_id: i32, generation: u32) -> Talker {
        let (code, talker) = self.try_register(local(4_000), (app_id, generation), Some(KEY));
        assert_eq!(code, ResultCode::Ok);
        talker
    }

    /// Expected, registered, and reporting once.
    pub(super) fn running(&mut self, app_id: i32) -> Talker {
        self.expect(expected(app_id, 1));
        let mut talker = self.register(app_id, 1);
        self.report(&mut talker);
        talker
    }

    pub(super) fn report(&mut self, talker: &mut Talker) {
        talker.counter += 1;
        talker.progress += 1;
        self.say(talker.session, &talker.report());
    }

    pub(super) fn bye(&mut self, talker: &mut Talker) {
        talker.counter += 1;
        let body = Body::Bye { status: 0, counter: talker.counter, progress: 0 };
        self.say(talker.session, &talker.encode(body));
    }

    /// Reports once a period for so many periods.
    pub(super) fn live(&mut self, talker: &mut Talker, periods: u32) {
        for _ in 0..periods {
            self.advance(PERIOD);
            self.report(talker);
        }
    }

    pub(super) fn answer(&mut self, missed: &Missed, heard: bool) {
        let Missed { app_id, generation, .. } = *missed;
        self.event(Event::Told { app_id, generation, heard });
    }

    pub(super) fn row(&self, app_id: i32) -> Row {
        let rows = self.broker.rows(self.now);
        rows.into_iter().map(|(row, _)| row).find(|row| row.app_id == app_id).unwrap()
    }

    pub(super) fn state(&self, app_id: i32) -> State {
        self.row(app_id).state
    }
}

impl Talker {
    pub(super) fn encode(&self, body: Body) -> [u8; MESSAGE_LENGTH] {
        let secret = self.key.as_ref().map(|key| (key, &self.nonce));
        Message { app_id: self.app_id, generation: self.generation, body }.encode(secret)
    }

    pub(super) fn report(&self) -> [u8; MESSAGE_LENGTH] {
        let (counter, progress) = (self.counter, self.progress);
        self.encode(Body::Report { status: 0, counter, progress })
    }
}
