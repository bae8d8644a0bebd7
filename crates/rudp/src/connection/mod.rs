//! One connection: what the user calls and polls. Never reads a clock, never touches a socket.
//!
//! ```text
//!             connect                    SYN+ACK
//!   (none) ------------> SynSent -----------------------> Open --+-- retries, silence --> Broken
//!             SYN           |                ACK of SYN+ACK ^    |                           |
//!   (none) ------------> SynReceived -----------------------+    | close, RST                | wait over
//!                           ^  ^                                 v                           v
//!                           |  +---- SYN of a reset peer    CloseWait --> Closed     SynSent (auto reset)
//!                           +------- both opened at once
//! ```

mod established;
mod handshake;
mod timeouts;
mod transmit;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    budget::Budget,
    config::{Config, PeerLimits},
    error::{Refusal, SendError},
    packet::{self, Body, Dialect, HEADER, Terms, Transfer},
    pool::Pool,
    random::{Keyed, Random},
    receive_window::ReceiveWindow,
    rtt::RoundTrip,
    send_window::{Content, SendWindow},
    sequence::Ring,
    timer::{Timer, Timers},
};

/// What a connection tells its user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// Messages can be sent. Also after an auto reset, and after a peer's restart.
    Opened,
    /// The next message of the peer, in order, once.
    Data(&'a [u8]),
    /// The peer is not heard any more. An auto reset follows after the transfer time; sending is refused until then.
    Failed,
    /// What was not acknowledged is lost; `Opened` or `Refused` follows.
    AutoReset,
    /// The peer began anew from the same address: what was not acknowledged is lost; `Opened` or `Refused` follows.
    PeerRestarted,
    /// The peer closed or reset the connection; what was accepted is still sent. `Closed` follows.
    PeerClosed,
    /// The peer moves another connection to this one. The draft doesn't say what is to be done, so nothing was.
    Transfer(Transfer),
    /// The end without having been closed. Nothing follows.
    Refused(Refusal),
    /// The end. Nothing follows.
    Closed,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    SynSent,
    SynReceived,
    Open,
    /// Not heard any more; an auto reset is due when the transfer time is over.
    Broken,
    /// One side has closed; what was accepted is still being sent.
    CloseWait,
    Closed,
}

/// What happened since the connection was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Statistics {
    /// Datagrams sent, those sent again included.
    pub sent: u64,
    /// Of these, segments with a number that were sent again.
    pub retransmitted: u64,
    /// Datagrams received that were segments.
    pub received: u64,
    /// Of these, segments that had come before.
    pub duplicates: u64,
    /// Of these, segments that came before one of a lower number.
    pub out_of_sequence: u64,
    /// Of these, segments that did not fit: outside the window, acknowledging the unsent, over our limits.
    pub dropped: u64,
    /// Datagrams that were no segment: wrong checksum, length or flags.
    pub corrupt: u64,
}

#[derive(Debug)]
enum Queued {
    Data(Vec<u8>),
    Event(Event<'static>),
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ending {
    Us,
    Peer,
}

/// A peer that asks to begin anew while a connection is open.
#[derive(Clone, Copy, Debug)]
struct Rival {
    connection_id: u32,
    number: u8,
    since: Instant,
    repeats: u8,
}

/// One connection, by either side.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    state: State,
    ending: Ending,
    dialect: Dialect,
    /// We play the client, who sends the NULs.
    client: bool,
    /// The SYN we send is an auto reset's.
    reuse: bool,
    /// The user was told of this connection.
    announced: bool,
    terms: Terms,
    peer: PeerLimits,
    own_id: u32,
    peer_id: u32,
    /// The identifier in the peer's last SYN: its own, or ours in an auto reset.
    syn_id: u32,
    own_initial: u8,
    peer_initial: u8,
    /// How often the SYN was sent again.
    tries: u8,
    auto_resets: u8,
    rival: Option<Rival>,
    /// A SYN, an acknowledgement, a last RST are to be sent.
    syn_due: bool,
    ack_due: bool,
    reset_due: bool,
    /// Octets we may still send to a peer that nobody verified; `None` for one that was.
    allowance: Option<u32>,
    /// When segments were last sent again for an EACK.
    repaired: Option<Instant>,
    challenges: Budget,
    timers: Timers,
    round_trip: RoundTrip,
    send: SendWindow,
    receive: ReceiveWindow,
    events: VecDeque<Queued>,
    /// Messages among the events.
    ready: u16,
    /// Lent out by the last `poll_event`.
    delivered: Option<Vec<u8>>,
    pool: Pool,
    random: Random,
    statistics: Statistics,
}

/// Events that may wait beside messages before datagrams are dropped.
const SIGNALS_MAX: usize = 16;
/// Events that an idle connection keeps room for.
const EVENTS_KEPT: usize = 2;

impl Connection {
    /// Opens a connection as client. `connection_id` should be unique among the caller's; `seed` gives the initial numbers.
    pub fn connect(config: Config, connection_id: u32, seed: [u64; 2], now: Instant) -> Self {
        let mut connection = Self::new(config, connection_id, seed);
        connection.client = true;
        connection.announced = true;
        connection.allowance = None;
        connection.begin_handshake(State::SynSent, now);
        connection
    }

    fn new(config: Config, own_id: u32, seed: [u64; 2]) -> Self {
        let mut random = Random::new(Keyed::new(seed));
        let challenges = 5 + u16::try_from(random.draw() % 6).expect("less than 6");
        Self {
            config,
            state: State::Closed,
            ending: Ending::Us,
            dialect: Dialect::Draft,
            client: false,
            reuse: false,
            announced: false,
            terms: config.terms,
            peer: PeerLimits { max_outstanding: 1, max_segment: config.max_segment },
            own_id,
            peer_id: 0,
            syn_id: 0,
            own_initial: 0,
            peer_initial: 0,
            tries: 0,
            auto_resets: 0,
            rival: None,
            syn_due: false,
            ack_due: false,
            reset_due: false,
            allowance: Some(0),
            repaired: None,
            challenges: Budget::new(challenges),
            timers: Timers::default(),
            round_trip: RoundTrip::default(),
            send: SendWindow::new(Ring::Full, 0, 1),
            receive: ReceiveWindow::new(Ring::Full, 0, config.max_outstanding),
            events: VecDeque::new(),
            ready: 0,
            delivered: None,
            pool: Pool::default(),
            random,
            statistics: Statistics::default(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Which reading of the draft the peer speaks; known once the connection was open.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What was agreed on.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The smoothed round trip time, by segments that were sent once. The peer's wait before it acknowledges is part of it.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip.smoothed()
    }

    /// Messages that the peer has not acknowledged, sent or not.
    pub fn unacknowledged(&self) -> usize {
        self.send.messages()
    }

    /// Longest message that can be sent, which the peer's limit may shorten.
    pub fn max_message(&self) -> usize {
        usize::from(self.peer.max_segment.min(self.config.max_segment)) - HEADER
    }

    /// The peer is who it says: from now on it may be sent more than three times what it sent.
    pub fn verify(&mut self) {
        self.allowance = None;
    }

    /// Takes a message to be delivered once and in order.
    ///
    /// # Errors
    /// Where the connection isn't open, the message can't be carried, or too many wait already.
    pub fn send(&mut self, message: &[u8], now: Instant) -> Result<(), SendError> {
        if self.state != State::Open {
            return Err(SendError::NotOpen);
        }
        let limit = self.max_message();
        if message.len() > limit {
            return Err(SendError::Long { length: message.len(), limit });
        }
        if message.is_empty() {
            return Err(SendError::Empty);
        }
        let limit = usize::from(self.config.send_queue);
        if self.send.messages() >= limit {
            return Err(SendError::Full { limit });
        }
        self.send.push(Content::Data, self.pool.copy(message));
        self.launch(now);
        Ok(())
    }

    /// Ends the connection after all that was taken is sent. `Closed` tells when it is over.
    pub fn close(&mut self, now: Instant) {
        match self.state {
            State::Open => {
                self.state = State::CloseWait;
                self.ending = Ending::Us;
                self.timers.stop(Timer::Null);
                self.send.push(Content::End, Vec::new());
                self.launch(now);
            }
            State::SynSent | State::SynReceived | State::Broken => {
                self.reset_due = self.state != State::SynSent;
                self.end(Event::Closed);
            }
            State::CloseWait | State::Closed => {}
        }
    }

    /// Feeds what the socket received from the peer. Feed all datagrams that have come before timers are looked at.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        self.receive(datagram, now, &mut Budget::new(u16::MAX));
    }

    /// As [`Self::handle_datagram`]; `shared` limits the challenges of all connections together.
    pub(crate) fn receive(&mut self, datagram: &[u8], now: Instant, shared: &mut Budget) {
        if self.state == State::Closed {
            return;
        }
        let Ok(packet) = packet::decode(datagram, self.dialect) else {
            self.statistics.corrupt += 1;
            return;
        };
        self.statistics.received += 1;
        let waiting = self.events.len() - usize::from(self.ready);
        let fits = datagram.len() <= usize::from(self.config.max_segment);
        if waiting >= SIGNALS_MAX || !fits {
            self.statistics.dropped += 1;
            return;
        }
        if let Some(allowance) = &mut self.allowance {
            let length = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
            *allowance = allowance.saturating_add(length.saturating_mul(AMPLIFICATION));
        }
        match (packet.body, self.state) {
            (Body::Syn(syn), _) => self.on_syn(&packet, &syn, now, shared),
            (_, State::SynSent) => self.on_segment_syn_sent(&packet),
            (_, State::SynReceived) => self.on_segment_syn_received(&packet, now, shared),
            (_, State::Open | State::CloseWait) => self.on_segment(&packet, now, shared),
            (_, State::Broken | State::Closed) => self.statistics.dropped += 1,
        }
    }

    /// The next event; a message is lent until the next call.
    pub fn poll_event(&mut self) -> Option<Event<'_>> {
        if let Some(read) = self.delivered.take() {
            self.pool.give(read);
        }
        match self.events.pop_front()? {
            Queued::Data(message) => {
                self.ready -= 1;
                Some(Event::Data(self.delivered.insert(message)))
            }
            Queued::Event(event) => Some(event),
        }
    }

    /// When [`Self::handle_timeout`] is to be called, unless something happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether [`Self::poll_event`] has something.
    pub(crate) fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Nothing is left to be done with it.
    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Closed && self.events.is_empty() && !self.wants_to_transmit()
    }

    /// An event that nobody was promised is not told: a peer that never opened has no user.
    fn tell(&mut self, event: Event<'static>) {
        if self.announced {
            self.queue(Queued::Event(event));
        }
    }

    fn queue(&mut self, queued: Queued) {
        if self.events.capacity() == 0 {
            self.events.reserve_exact(EVENTS_KEPT);
        }
        self.events.push_back(queued);
    }

    fn deliver(&mut self, message: Vec<u8>) {
        self.ready += 1;
        self.queue(Queued::Data(message));
    }

    /// Gives numbers to what may be sent now, and watches over it.
    fn launch(&mut self, now: Instant) {
        let Some(first) = self.send.launch() else { return };
        self.timers.start(Timer::Retransmit, now + self.retransmission_time());
        self.round_trip.begin(first, now);
        if self.client && self.state == State::Open {
            self.start_null_timer(now);
        }
    }

    /// The end: nothing but a last RST or acknowledgement is sent, and nothing follows the event.
    fn end(&mut self, event: Event<'static>) {
        self.state = State::Closed;
        self.timers.stop_all();
        self.flush();
        self.syn_due = false;
        self.tell(event);
    }

    /// Forgets both windows. What was delivered stays.
    fn flush(&mut self) {
        let next = self.send.next_number();
        self.send.flush(self.ring(), next, 1, &mut self.pool);
        let pool = &mut self.pool;
        self.receive.flush(|buffer| pool.give(buffer));
        self.round_trip.forget();
        self.repaired = None;
    }

    /// Nothing has been said for a while: keeps little.
    fn trim(&mut self) {
        self.pool.trim();
        self.send.trim();
        self.receive.trim();
        if self.events.capacity() > EVENTS_KEPT {
            self.events.shrink_to(EVENTS_KEPT);
        }
    }

    fn ring(&self) -> Ring {
        match self.dialect {
            Dialect::Draft => Ring::Full,
            Dialect::Java => Ring::Short,
        }
    }

    fn retransmission_time(&self) -> Duration {
        Duration::from_millis(u64::from(self.terms.retransmission_ms))
    }
}

/// Octets that may be sent for each octet received, until the peer is verified.
const AMPLIFICATION: u32 = 3;
