//! One application's side of a session, as the client library plays it: greets, registers, reports, and begins anew when
//! the connection ends. Without a socket and without a clock.

use std::time::{Duration, Instant};

use protocol::heartbeat::{Body, Key, Message, Nonce, ResultCode};
use rudp::{Config, Connection, Event};

/// Of all applications: what it is makes no difference to anybody's work.
pub(crate) const KEY: Key = Key([7; 16]);
/// The pauses before a new connection, where the last one came to nothing.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Opening,
    Greeted,
    Asking,
    Registered,
}

pub(crate) struct Session {
    app_id: i32,
    period_ms: u32,
    config: Config,
    connection: Connection,
    connections: u32,
    state: State,
    nonce: Nonce,
    counter: u64,
    /// A report that no connection has taken yet.
    owed: bool,
    again_at: Option<Instant>,
    pause: Duration,
    /// Since when the broker knows this session.
    pub(crate) registered: Option<Instant>,
    pub(crate) refused: Option<ResultCode>,
}

impl Session {
    pub(crate) fn new(app_id: i32, null_ms: u16, period_ms: u32, now: Instant) -> Self {
        let config = Config::heartbeat(null_ms);
        Self {
            app_id,
            period_ms,
            config,
            connection: open(config, app_id, 0, now),
            connections: 1,
            state: State::Opening,
            nonce: Nonce::default(),
            counter: 0,
            owed: false,
            again_at: None,
            pause: PAUSE.0,
            registered: None,
            refused: None,
        }
    }

    /// Registered, and all that it reported has arrived.
    pub(crate) fn is_settled(&self) -> bool {
        self.state == State::Registered && !self.owed && self.connection.unacknowledged() == 0
    }

    pub(crate) fn report(&mut self, now: Instant) {
        self.owed = true;
        self.pay(now);
    }

    pub(crate) fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        self.connection.handle_datagram(datagram, now);
        self.take_events(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.connection = open(self.config, self.app_id, self.connections, now);
            self.connections += 1;
            self.state = State::Opening;
        }
        if self.connection.next_deadline().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        self.take_events(now);
    }

    pub(crate) fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        self.connection.poll_transmit(out)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        [self.connection.next_deadline(), self.again_at].into_iter().flatten().min()
    }

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Data(octets) => {
                    if let Ok(message) = Message::decode(octets) {
                        self.take_message(message.body, now);
                    }
                }
                Event::Opened => {
                    self.state = State::Greeted;
                    self.send(Body::Hello, now);
                }
                Event::AutoReset | Event::PeerRestarted => self.begin_anew(),
                Event::Failed | Event::PeerClosed | Event::Refused(_) | Event::Closed => {
                    self.end(now);
                    return;
                }
                Event::Transfer(_) => {}
            }
        }
    }

    fn take_message(&mut self, body: Body, now: Instant) {
        match (body, self.state) {
            (Body::Challenge { nonce }, State::Greeted) => {
                self.nonce = nonce;
                self.state = State::Asking;
                self.send(Body::Register { pid: 0, period_ms: self.period_ms }, now);
            }
            (Body::Result { code: ResultCode::Ok, .. }, State::Asking) => {
                self.state = State::Registered;
                self.registered = Some(now);
                self.pause = PAUSE.0;
                self.pay(now);
            }
            (Body::Result { code, .. }, State::Asking) => {
                self.refused = Some(code);
                self.connection.close(now);
                self.end(now);
            }
            _ => {}
        }
    }

    /// Another connection follows: at once after one that was good, later each time nothing comes of it.
    fn end(&mut self, now: Instant) {
        let pause = if self.state == State::Registered { Duration::ZERO } else { self.pause };
        self.begin_anew();
        self.pause = (self.pause * 2).min(PAUSE.1);
        if self.again_at.is_none() {
            self.again_at = Some(now + pause);
        }
    }

    /// What was reported last may not have arrived.
    fn begin_anew(&mut self) {
        self.owed |= self.counter > 0;
        self.state = State::Opening;
    }

    fn pay(&mut self, now: Instant) {
        if self.state != State::Registered || !self.owed {
            return;
        }
        self.counter += 1;
        let body = Body::Report { status: 0, counter: self.counter, progress: 0 };
        self.owed = !self.send(body, now);
    }

    fn send(&mut self, body: Body, now: Instant) -> bool {
        let secret = (!matches!(body, Body::Hello)).then_some((&KEY, &self.nonce));
        let message = Message { app_id: self.app_id, generation: 1, body };
        self.connection.send(&message.encode(secret), now).is_ok()
    }
}

/// Numbers that differ between sessions and between connections of one.
fn open(config: Config, app_id: i32, connections: u32, now: Instant) -> Connection {
    let id = app_id.cast_unsigned() ^ connections.rotate_right(8);
    Connection::connect(config, id, [u64::from(id), u64::from(connections)], now)
}
