//! What happens when nothing happens: retransmission, late acknowledgements, keep-alive, broken connections and their reset.

use std::time::{Duration, Instant};

use super::{Connection, Ending, Event, State};
use crate::{error::Refusal, packet::Dialect, send_window::Content, timer::Timer};

/// A SYN+ACK is sent at most three times: 84 octets for the 28 of a SYN.
const ANSWER_REPEATS: u8 = 2;

impl Connection {
    /// Does what is due. Feed all datagrams that have come before this.
    pub fn handle_timeout(&mut self, now: Instant) {
        for timer in Timer::ALL {
            if !self.timers.take_due(timer, now) {
                continue;
            }
            match timer {
                Timer::Acknowledge => self.on_acknowledge_timer(now),
                Timer::Retransmit => self.on_retransmit_timer(now),
                Timer::Null => self.on_null_timer(now),
                Timer::Transfer => self.on_transfer_timer(now),
            }
        }
    }

    fn on_acknowledge_timer(&mut self, now: Instant) {
        self.ack_due |= self.receive.unacknowledged() > 0;
        if self.receive.has_gap() {
            self.ack_due = true;
            let wait = Duration::from_millis(u64::from(self.terms.cumulative_ack_ms));
            self.timers.set(Timer::Acknowledge, now + wait);
        }
    }

    fn on_retransmit_timer(&mut self, now: Instant) {
        match self.state {
            State::SynSent | State::SynReceived => self.repeat_syn(now),
            State::Open | State::CloseWait => {
                if self.send.time_out(self.terms.max_retransmissions) {
                    self.repaired = Some(now);
                    self.timers.set(Timer::Retransmit, now + self.retransmission_time());
                } else if self.state == State::Open {
                    self.fail(now);
                } else {
                    self.end(Event::Closed);
                }
            }
            State::Broken | State::Closed => {}
        }
    }

    fn repeat_syn(&mut self, now: Instant) {
        let limit = match self.state {
            State::SynReceived => ANSWER_REPEATS,
            _ => self.terms.max_retransmissions,
        };
        let for_ever = limit == 0;
        if for_ever || self.tries < limit {
            self.tries = self.tries.saturating_add(1);
            self.round_trip.forget();
            self.syn_due = true;
            self.timers.set(Timer::Retransmit, now + self.handshake_time());
        } else if self.reuse && self.state == State::SynSent {
            self.auto_reset(now);
        } else {
            self.end(Event::Refused(Refusal::Timeout));
        }
    }

    fn on_null_timer(&mut self, now: Instant) {
        if self.state != State::Open {
            return;
        }
        if !self.client {
            self.fail(now);
            return;
        }
        // What is on its way probes the peer as well as a NUL would.
        if self.send.is_empty() {
            self.trim();
            self.send.push(Content::Null, Vec::new());
            self.launch(now);
        }
        self.start_null_timer(now);
    }

    fn on_transfer_timer(&mut self, now: Instant) {
        match (self.state, self.ending) {
            (State::Broken, _) => self.auto_reset(now),
            (State::CloseWait, Ending::Peer) => {
                if self.send.is_empty() || self.terms.max_retransmissions == 0 {
                    self.end(Event::Closed);
                } else {
                    // It ends with the retransmissions.
                    self.timers.set(Timer::Transfer, now + self.retransmission_time());
                }
            }
            _ => {}
        }
    }

    /// The connection is broken: waits for the transfer time, then resets it.
    fn fail(&mut self, now: Instant) {
        if self.dialect == Dialect::Java {
            // It has no auto reset that both sides understand.
            self.tell(Event::Failed);
            self.end(Event::Refused(Refusal::Broken));
            return;
        }
        if self.terms.transfer_ms == 0 {
            self.auto_reset(now);
            return;
        }
        self.state = State::Broken;
        self.ack_due = false;
        self.timers.stop_all();
        let wait = Duration::from_millis(u64::from(self.terms.transfer_ms));
        self.timers.set(Timer::Transfer, now + wait);
        self.tell(Event::Failed);
    }

    fn auto_reset(&mut self, now: Instant) {
        if self.auto_resets >= self.terms.max_auto_reset {
            self.reset_due = true;
            self.end(Event::Refused(Refusal::Broken));
            return;
        }
        self.auto_resets += 1;
        self.flush();
        self.reuse = true;
        self.begin_handshake(State::SynSent, now);
        self.tell(Event::AutoReset);
    }
}
