//! Segments of an open connection: acknowledgements, data, NUL, and the ways to end it.

use std::time::{Duration, Instant};

use super::{Connection, Ending, Event, State};
use crate::{
    budget::Budget,
    packet::{Body, Dialect, Packet},
    receive_window::Place,
    send_window::Acknowledged,
    timer::Timer,
};

/// Longest time that a closed connection stays to acknowledge the peer's RST again.
const LINGER_MAX: Duration = Duration::from_secs(10);
/// Shortest time between two repetitions for EACKs: a round trip on this machine is too short to tell them apart.
const REPAIR_MIN: Duration = Duration::from_millis(10);

impl Connection {
    pub(super) fn on_segment(&mut self, packet: &Packet<'_>, now: Instant, shared: &mut Budget) {
        let number = packet.number;
        if packet.body == Body::Reset {
            self.on_reset(packet, now, shared);
            return;
        }
        if packet.acknowledged.is_some_and(|ack| !self.on_acknowledgement(ack, now)) {
            self.statistics.dropped += 1;
            return;
        }
        match packet.body {
            Body::Data { payload, .. } => self.on_sequenced(number, Some(payload), now),
            Body::Null => self.on_sequenced(number, None, now),
            Body::Extended(numbers) => self.on_extended(numbers, now),
            Body::Finish if self.receive.place(number) == Place::Next => self.on_end(now),
            Body::Finish => self.on_stray(number, now, shared),
            Body::Transfer(transfer) if self.config.transfer => {
                self.ack_due = true;
                self.tell(Event::Transfer(transfer));
            }
            Body::Transfer(_) => self.statistics.dropped += 1,
            Body::Acknowledgement | Body::Reset | Body::Syn(_) => {}
        }
        self.launch(now);
        if self.state == State::CloseWait && self.ending == Ending::Us && self.send.is_empty() {
            self.end(Event::Closed);
        }
    }

    /// False where it acknowledges what was never sent; nothing has changed then.
    fn on_acknowledgement(&mut self, number: u8, now: Instant) -> bool {
        let measured = self.round_trip.timed();
        match self.send.acknowledge(number, measured, &mut self.pool) {
            Acknowledged::Unsent => return false,
            Acknowledged::Nothing => {}
            Acknowledged::Progress { measured } => {
                if measured {
                    self.round_trip.end(now);
                }
                self.timers.stop(Timer::Retransmit);
                if !self.send.is_empty() {
                    self.timers.set(Timer::Retransmit, now + self.retransmission_time());
                }
            }
        }
        true
    }

    /// An EACK: what is missing is sent again, but not more than once in a round trip.
    fn on_extended(&mut self, numbers: &[u8], now: Instant) {
        let round_trip = self.round_trip.smoothed().unwrap_or_else(|| self.retransmission_time());
        let pause = round_trip.max(REPAIR_MIN);
        let repaired_long_ago =
            self.repaired.is_some_and(|at| now.saturating_duration_since(at) >= pause);
        if repaired_long_ago {
            self.send.forget_recent();
        }
        let before = self.send.has_recent();
        self.send.hold(numbers);
        if !before && self.send.has_recent() {
            self.repaired = Some(now);
        }
    }

    /// A segment with a number of its own; `None` is a NUL.
    fn on_sequenced(&mut self, number: u8, payload: Option<&[u8]>, now: Instant) {
        match self.receive.place(number) {
            Place::Next => self.on_next(payload, now),
            Place::Ahead => {
                self.statistics.out_of_sequence += 1;
                self.refresh_null_timer(now);
                let kept = payload.map(|payload| self.pool.copy(payload));
                self.receive.hold(number, kept);
                self.start_acknowledge_timer(now);
                if self.receive.out_of_sequence() > self.terms.max_out_of_sequence {
                    self.ack_due = true;
                }
            }
            // Unless it is acknowledged again, a lost acknowledgement would stop the peer.
            Place::AheadAgain | Place::Old => {
                self.statistics.duplicates += 1;
                self.ack_due = true;
            }
            Place::Beyond => self.statistics.dropped += 1,
        }
    }

    fn on_next(&mut self, payload: Option<&[u8]>, now: Instant) {
        let room = u16::from(self.config.max_outstanding) + 1;
        if payload.is_some() && self.ready >= room {
            // Without an acknowledgement the peer holds back, and sends it again.
            self.statistics.dropped += 1;
            return;
        }
        self.refresh_null_timer(now);
        self.receive.advance();
        let wanted = self.state == State::Open;
        match payload {
            Some(payload) if wanted => {
                let message = self.pool.copy(payload);
                self.deliver(message);
            }
            Some(_) => {}
            None => self.trim(),
        }
        let had_gap = self.receive.has_gap();
        if had_gap {
            self.close_gap(wanted);
        }
        let at_once = payload.is_none()
            || had_gap
            || self.config.acknowledge_at_once
            || self.state != State::Open
            || self.receive.unacknowledged() > self.terms.max_cumulative_ack;
        if at_once {
            self.ack_due = true;
        } else {
            self.start_acknowledge_timer(now);
        }
    }

    /// Delivers what waited for the segment that has just come.
    fn close_gap(&mut self, wanted: bool) {
        let Self { receive, pool, events, ready, .. } = self;
        receive.drain(|message| {
            if wanted {
                *ready += 1;
                events.push_back(super::Queued::Data(message));
            } else {
                pool.give(message);
            }
        });
    }

    fn start_acknowledge_timer(&mut self, now: Instant) {
        let wait = Duration::from_millis(u64::from(self.terms.cumulative_ack_ms));
        self.timers.start(Timer::Acknowledge, now + wait);
    }

    /// RST: only the very next number, acknowledging nothing unsent, ends the connection.
    fn on_reset(&mut self, packet: &Packet<'_>, now: Instant, shared: &mut Budget) {
        let next = self.receive.place(packet.number) == Place::Next;
        let plausible = packet.acknowledged.is_none_or(|ack| self.send.is_acknowledgeable(ack));
        if !next || !plausible {
            self.on_stray(packet.number, now, shared);
            return;
        }
        if let Some(ack) = packet.acknowledged {
            self.on_acknowledgement(ack, now);
        }
        if self.state == State::CloseWait && self.ending == Ending::Peer {
            // Another RST with another number: the peer has forgotten the connection, and answers without a state.
            self.end(Event::Closed);
            return;
        }
        self.on_end(now);
        if self.ending == Ending::Us && self.send.is_empty() {
            self.end(Event::Closed);
        }
    }

    /// The peer ends the connection with the segment that has just come.
    fn on_end(&mut self, now: Instant) {
        self.receive.advance();
        self.ack_due = true;
        if self.state == State::CloseWait {
            return;
        }
        self.state = State::CloseWait;
        self.ending = Ending::Peer;
        self.timers.stop(Timer::Null);
        let tries = u32::from(self.terms.max_retransmissions) + 1;
        let linger = (self.retransmission_time() * tries).min(LINGER_MAX);
        self.timers.set(Timer::Transfer, now + linger);
        self.tell(Event::PeerClosed);
        self.launch(now);
    }

    /// An RST or FIN that doesn't fit: the true peer corrects it after a challenge.
    fn on_stray(&mut self, number: u8, now: Instant, shared: &mut Budget) {
        match self.receive.place(number) {
            Place::Beyond => self.statistics.dropped += 1,
            _ => self.challenge(now, shared),
        }
    }

    /// Data or NUL has come from the client, for the first time.
    fn refresh_null_timer(&mut self, now: Instant) {
        if !self.client && self.state == State::Open {
            self.start_null_timer(now);
        }
    }

    pub(super) fn start_null_timer(&mut self, now: Instant) {
        let null = Duration::from_millis(u64::from(self.terms.null_ms));
        if null.is_zero() {
            return;
        }
        let times = match (self.client, self.dialect) {
            (true, _) => 1,
            (false, Dialect::Draft) => 2,
            // As long as such peers wait themselves.
            (false, Dialect::Java) => 6,
        };
        self.timers.set(Timer::Null, now + null * times);
    }
}
