//! What is said over one connection after another, without a socket or a clock: greets the broker, registers, reports,
//! and begins anew whenever a connection ends.
//!
//! ```text
//!          Opened: HELLO            CHALLENGE: REGISTER         RESULT ok
//! Opening ---------------> Greeted -------------------> Asking -----------> Registered
//!    ^                        |                            |                    |
//!    +------------------------+----------------------------+--------------------+
//!       the connection ended, failed, or was reset; or RESULT said no: again after a pause
//! ```

use std::time::{Duration, Instant};

use protocol::heartbeat::{Body, Direction, Key, Message, Nonce, ResultCode, is_authentic};
use rudp::{Config, Connection, Event};

/// The first pause before a new connection; it doubles up to [`PAUSE_MAX`] until something was answered.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who reports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Application {
    pub(crate) app_id: i32,
    pub(crate) generation: u32,
    pub(crate) key: Option<Key>,
    pub(crate) pid: u32,
    pub(crate) period_ms: u32,
    pub(crate) misses: u32,
}

/// What the broker granted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Granted {
    pub(crate) period: Duration,
    pub(crate) misses: u8,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Opening,
    Greeted,
    Asking,
    Registered,
}

/// One report, or the last one.
#[derive(Clone, Copy, Debug)]
struct Owed {
    bye: bool,
    status: u8,
    progress: u32,
}

pub(crate) struct Session {
    application: Application,
    config: Config,
    connection: Connection,
    state: State,
    nonce: Nonce,
    granted: Option<Granted>,
    refused: Option<ResultCode>,
    /// The newest report that no connection has taken yet; older ones say nothing more.
    owed: Option<Owed>,
    /// The one that the connection took last: owed again if the connection ends, whatever was acknowledged on it, since
    /// a broker that knows nothing of us acknowledges what it throws away.
    last: Option<Owed>,
    counter: u64,
    /// When a new connection is to be opened, because the last one ended.
    again_at: Option<Instant>,
    pause: Duration,
    /// New random numbers for a new connection.
    draw: fn() -> [u64; 2],
}

impl Session {
    /// `counter` must be above everything this generation has sent before.
    pub(crate) fn new(
        application: Application,
        counter: u64,
        draw: fn() -> [u64; 2],
        now: Instant,
    ) -> Self {
        // The transport gives up no sooner than the broker's detector, and never watches closer than two seconds.
        let null_ms = application.period_ms.saturating_mul(application.misses).max(2_000);
        let config = Config::heartbeat(u16::try_from(null_ms).unwrap_or(u16::MAX));
        Self {
            application,
            config,
            connection: open(config, draw, now),
            state: State::Opening,
            nonce: Nonce::default(),
            granted: None,
            refused: None,
            owed: None,
            last: None,
            counter,
            again_at: None,
            pause: PAUSE,
            draw,
        }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.state == State::Registered
    }

    /// The broker's last no, until it says yes.
    pub(crate) fn refused(&self) -> Option<ResultCode> {
        self.refused
    }

    /// The broker has said yes, or a no that it would only say again. Of a new start it hears from the supervisor, which
    /// doesn't wait for it: until then it knows nothing of the application, or only its last start.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_registered()
            || match self.refused {
                None
                | Some(
                    ResultCode::UnknownApplication | ResultCode::WrongGeneration | ResultCode::Busy,
                ) => false,
                Some(ResultCode::Ok | ResultCode::BadTag | ResultCode::Limit) => true,
            }
    }

    pub(crate) fn granted(&self) -> Option<Granted> {
        self.granted
    }

    /// Everything that was reported has arrived at the broker; after the last word also where it has hung up.
    pub(crate) fn is_acknowledged(&self) -> bool {
        if self.state != State::Registered {
            return self.last.is_some_and(|last| last.bye);
        }
        self.owed.is_none() && self.connection.unacknowledged() == 0
    }

    /// Reports as soon as there is a session; a newer report takes the place of one that still waits.
    pub(crate) fn report(&mut self, status: u8, progress: u32, now: Instant) {
        self.owed = Some(Owed { bye: false, status, progress });
        self.pay(now);
    }

    /// Says that no more reports will come; `false` where nobody is there to hear it.
    pub(crate) fn bye(&mut self, now: Instant) -> bool {
        if self.state != State::Registered {
            return false;
        }
        self.owed = Some(Owed { bye: true, status: 0, progress: 0 });
        self.pay(now);
        true
    }

    pub(crate) fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        self.connection.handle_datagram(datagram, now);
        self.take_events(now);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
            self.connection = open(self.config, self.draw, now);
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
        loop {
            match self.connection.poll_event() {
                None => return,
                Some(Event::Data(octets)) => {
                    // Longer or shorter messages are not for this version: they are ignored.
                    let Ok(message) = Message::decode(octets) else { continue };
                    let Ok(octets) = octets.try_into() else { continue };
                    self.take_message(message, octets, now);
                }
                Some(Event::Opened) => {
                    self.state = State::Greeted;
                    self.send(Body::Hello, now);
                }
                Some(Event::AutoReset | Event::PeerRestarted) => {
                    self.owe_again();
                    self.state = State::Opening;
                }
                Some(Event::Failed | Event::PeerClosed | Event::Refused(_) | Event::Closed) => {
                    self.end(now);
                    return;
                }
                Some(Event::Transfer(_)) => {}
            }
        }
    }

    fn take_message(&mut self, message: Message, octets: [u8; 40], now: Instant) {
        match (message.body, self.state) {
            (Body::Challenge { nonce }, State::Greeted) => {
                self.nonce = nonce;
                self.state = State::Asking;
                let Application { pid, period_ms, .. } = self.application;
                self.send(Body::Register { pid, period_ms }, now);
            }
            (Body::Result { code, misses, period_ms }, State::Asking) => {
                let authentic = self.application.key.is_none_or(|key| {
                    is_authentic(&octets, &key, &self.nonce, Direction::FromBroker)
                });
                match code {
                    // Whoever isn't the broker can't say yes in its place.
                    ResultCode::Ok if !authentic => self.refuse(ResultCode::BadTag, now),
                    ResultCode::Ok => {
                        self.state = State::Registered;
                        self.refused = None;
                        self.pause = PAUSE;
                        let period = Duration::from_millis(u64::from(period_ms));
                        self.granted = Some(Granted { period, misses });
                        self.pay(now);
                    }
                    code => self.refuse(code, now),
                }
            }
            // Out of place: said twice, or by somebody else.
            _ => {}
        }
    }

    fn refuse(&mut self, code: ResultCode, now: Instant) {
        self.refused = Some(code);
        self.connection.close(now);
        self.end(now);
    }

    /// The connection is over: another one follows, at once after a long life and later each time nothing comes of it.
    fn end(&mut self, now: Instant) {
        let pause = if self.state == State::Registered { Duration::ZERO } else { self.pause };
        self.owe_again();
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.state = State::Opening;
        if self.again_at.is_none() {
            self.again_at = Some(now + pause);
        }
    }

    /// What was reported on a connection that is over may not have arrived.
    fn owe_again(&mut self) {
        if self.owed.is_none() {
            self.owed = self.last.filter(|last| !last.bye);
        }
    }

    /// Hands what is owed to the connection.
    fn pay(&mut self, now: Instant) {
        if self.state != State::Registered {
            return;
        }
        let Some(Owed { bye, status, progress }) = self.owed else { return };
        self.counter += 1;
        let counter = self.counter;
        let body = match bye {
            true => Body::Bye { status, counter, progress },
            false => Body::Report { status, counter, progress },
        };
        if self.send(body, now) {
            self.last = self.owed.take();
        }
    }

    /// `false` where the connection takes nothing at the moment.
    fn send(&mut self, body: Body, now: Instant) -> bool {
        let Application { app_id, generation, key, .. } = self.application;
        let secret = key.as_ref().map(|key| (key, &self.nonce));
        let secret = secret.filter(|_| !matches!(body, Body::Hello));
        let octets = Message { app_id, generation, body }.encode(secret);
        self.connection.send(&octets, now).is_ok()
    }
}

fn open(config: Config, draw: fn() -> [u64; 2], now: Instant) -> Connection {
    let [id, _] = draw();
    let bytes = id.to_le_bytes();
    let id = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Connection::connect(config, id, draw(), now)
}

#[cfg(test)]
mod tests;
