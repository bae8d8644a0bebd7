//! SYNs: opening from either side and from both at once, auto resets, and peers that began anew.

use std::time::{Duration, Instant};

use super::{AMPLIFICATION, Connection, Event, Rival, State};
use crate::{
    budget::Budget,
    config::{self, Config, PeerLimits},
    error::Refusal,
    packet::{Body, Dialect, Packet, SYN, Syn},
    receive_window::ReceiveWindow,
    send_window::SendWindow,
    timer::Timer,
};

/// How often a peer's SYN must be repeated, challenged each time, before it is believed that the peer began anew.
const RIVAL_REPEATS: u8 = 2;
/// Longest time between two SYN+ACKs to a peer that has not answered yet.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

impl Connection {
    /// Answers a client's SYN. `None` where the peer's limits leave no room for a message.
    pub(crate) fn accept(
        config: Config,
        connection_id: u32,
        seed: [u64; 2],
        number: u8,
        syn: &Syn,
        now: Instant,
    ) -> Option<Self> {
        let mut connection = Self::new(config, connection_id, seed);
        connection.adopt(number, syn, now).then_some(connection)
    }

    /// Chooses a new initial number and sends the SYN of this state.
    pub(super) fn begin_handshake(&mut self, state: State, now: Instant) {
        self.state = state;
        // 255 is no number in the Java dialect, and whether the peer speaks it is not known yet.
        self.own_initial = u8::try_from(self.random.draw() % 255)
            .expect("a remainder of 255 fits into eight bits");
        self.tries = 0;
        self.rival = None;
        self.syn_due = true;
        self.ack_due = false;
        self.timers.stop_all();
        self.timers.set(Timer::Retransmit, now + self.handshake_time());
        self.round_trip.begin(self.own_initial, now);
        self.send = SendWindow::new(self.ring(), self.ring().next(self.own_initial), 1);
    }

    /// How long to wait for the answer to our SYN.
    pub(super) fn handshake_time(&self) -> Duration {
        match self.state {
            State::SynReceived => self.retransmission_time().min(ANSWER_TIME_MAX),
            _ => self.retransmission_time(),
        }
    }

    /// Becomes the server of a peer that opens anew: takes its limits and terms, and answers.
    fn adopt(&mut self, number: u8, syn: &Syn, now: Instant) -> bool {
        let Some(peer) = PeerLimits::of(syn) else { return false };
        self.flush();
        self.client = false;
        self.reuse = false;
        self.dialect = syn.dialect;
        self.peer = peer;
        self.terms = self.config.answer(syn.terms);
        self.peer_id = syn.connection_id;
        self.auto_resets = 0;
        let length = u32::try_from(SYN).expect("28");
        self.allowance = Some(length * AMPLIFICATION);
        self.meet(number, syn);
        self.begin_handshake(State::SynReceived, now);
        true
    }

    /// Notes the numbers of the peer's SYN.
    fn meet(&mut self, number: u8, syn: &Syn) {
        self.peer_initial = number;
        self.syn_id = syn.connection_id;
        self.receive = ReceiveWindow::new(self.ring(), number, self.config.max_outstanding);
    }

    pub(super) fn on_syn(
        &mut self,
        packet: &Packet<'_>,
        syn: &Syn,
        now: Instant,
        shared: &mut Budget,
    ) {
        let number = packet.number;
        let same = number == self.peer_initial && syn.connection_id == self.syn_id;
        match (self.state, packet.acknowledged) {
            (State::SynSent, Some(ack)) if ack == self.own_initial => {
                self.on_answer(number, syn, now)
            }
            (State::SynSent, None) => self.on_crossing(number, syn, now),
            (State::SynReceived, Some(ack)) if ack == self.own_initial && same => {
                self.open(now);
                self.ack_due = true;
            }
            (State::SynReceived, None) if same => self.syn_due = true,
            (State::SynReceived, None) if !syn.reuse => {
                self.adopt(number, syn, now);
            }
            (State::Open | State::CloseWait, Some(_)) if same => self.ack_due = true,
            (State::Open, Some(_)) => self.challenge(now, shared),
            (State::Open, None) if same && !self.is_stale(syn) => self.ack_due = true,
            (State::Open | State::Broken | State::SynReceived, None) if syn.reuse => {
                self.on_auto_reset(number, syn, now);
            }
            (State::Open, None) => self.on_rival(number, syn, now, shared),
            (State::Broken, None) if self.adopt(number, syn, now) => {
                self.tell(Event::PeerRestarted)
            }
            _ => self.statistics.dropped += 1,
        }
    }

    /// A SYN without an identifier, after the peer went on to send: it can't be a copy that was late.
    fn is_stale(&self, syn: &Syn) -> bool {
        syn.dialect == Dialect::Java && self.receive.last() != self.peer_initial
    }

    /// SYN+ACK: the server's answer.
    fn on_answer(&mut self, number: u8, syn: &Syn, now: Instant) {
        let kept = self.reuse && syn.reuse;
        self.dialect = syn.dialect;
        self.meet(number, syn);
        let limits = if kept { Some(self.peer) } else { PeerLimits::of(syn) };
        match limits {
            Some(peer) if kept || config::acceptable(&syn.terms) => {
                self.peer = peer;
                if !kept {
                    self.terms = syn.terms;
                    self.peer_id = syn.connection_id;
                }
                self.open(now);
                self.ack_due = true;
            }
            _ => {
                self.reset_due = true;
                self.end(Event::Refused(Refusal::Parameters));
            }
        }
    }

    /// SYN while ours is on its way: both opened at once. The higher identifier plays the client and its terms count.
    fn on_crossing(&mut self, number: u8, syn: &Syn, now: Instant) {
        if syn.dialect == Dialect::Java || (syn.reuse && !self.reuse) {
            self.statistics.dropped += 1;
            return;
        }
        if self.reuse && !syn.reuse {
            self.adopt(number, syn, now);
            return;
        }
        if !syn.reuse {
            let Some(peer) = PeerLimits::of(syn) else { return };
            self.peer = peer;
            self.peer_id = syn.connection_id;
            self.client = (self.own_id, self.own_initial) >= (syn.connection_id, number);
            self.terms =
                self.config.answer(if self.client { self.config.terms } else { syn.terms });
        } else if syn.connection_id != self.own_id {
            self.statistics.dropped += 1;
            return;
        }
        self.meet(number, syn);
        self.state = State::SynReceived;
        self.tries = 0;
        self.syn_due = true;
        self.timers.set(Timer::Retransmit, now + self.handshake_time());
    }

    /// The peer resets the connection and keeps its terms. Only who holds the identifier we gave can ask for it.
    fn on_auto_reset(&mut self, number: u8, syn: &Syn, now: Instant) {
        if syn.connection_id != self.own_id || self.dialect == Dialect::Java {
            self.statistics.dropped += 1;
            return;
        }
        self.flush();
        self.reuse = true;
        self.meet(number, syn);
        self.begin_handshake(State::SynReceived, now);
        self.tell(Event::AutoReset);
    }

    /// Another SYN while the connection is open: the peer began anew, or somebody wants us to believe so.
    fn on_rival(&mut self, number: u8, syn: &Syn, now: Instant, shared: &mut Budget) {
        let known = self
            .rival
            .filter(|rival| rival.connection_id == syn.connection_id && rival.number == number);
        let mut rival = known.unwrap_or(Rival {
            connection_id: syn.connection_id,
            number,
            since: now,
            repeats: 0,
        });
        let waited = now.saturating_duration_since(rival.since) >= self.retransmission_time();
        let believed = known.is_some() && (rival.repeats + 1 >= RIVAL_REPEATS || waited);
        if believed && self.adopt(number, syn, now) {
            self.tell(Event::PeerRestarted);
            return;
        }
        if known.is_some() {
            rival.repeats += 1;
        }
        self.rival = Some(rival);
        self.challenge(now, shared);
    }

    /// The SYN was answered: numbers are known on both sides.
    fn open(&mut self, now: Instant) {
        self.state = State::Open;
        self.announced = true;
        self.auto_resets = 0;
        self.syn_due = false;
        if self.round_trip.timed() == Some(self.own_initial) {
            self.round_trip.end(now);
        }
        self.timers.stop_all();
        let ring = self.ring();
        let first = ring.next(self.own_initial);
        self.send = SendWindow::new(ring, first, self.peer.max_outstanding);
        self.start_null_timer(now);
        self.tell(Event::Opened);
    }

    /// Only an RST that acknowledges our SYN ends the attempt.
    pub(super) fn on_segment_syn_sent(&mut self, packet: &Packet<'_>) {
        if packet.body == Body::Reset && packet.acknowledged == Some(self.own_initial) {
            self.end(Event::Refused(Refusal::Reset));
        } else {
            self.statistics.dropped += 1;
        }
    }

    pub(super) fn on_segment_syn_received(
        &mut self,
        packet: &Packet<'_>,
        now: Instant,
        shared: &mut Budget,
    ) {
        let answers = packet.acknowledged == Some(self.own_initial);
        match packet.body {
            Body::Reset if answers || packet.number == self.ring().next(self.peer_initial) => {
                self.end(Event::Refused(Refusal::Reset));
            }
            Body::Acknowledgement | Body::Data { .. } | Body::Null | Body::Extended(_)
                if answers =>
            {
                self.open(now);
                self.on_segment(packet, now, shared);
            }
            _ => self.statistics.dropped += 1,
        }
    }
}
