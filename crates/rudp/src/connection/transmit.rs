//! Which segment goes out next. Data before acknowledgements, which it carries.

use std::time::Instant;

use super::{Connection, State};
use crate::{
    packet::{self, Body, Dialect, HEADER, Packet, SYN, SYN_JAVA},
    send_window::Content,
    timer::Timer,
};

impl Connection {
    /// Appends the next datagram for the peer to `out` and returns its length; `None` where nothing is to be sent.
    /// No datagram is longer than the `max_segment` of our settings.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        let sent = if self.syn_due {
            self.transmit_syn(out)
        } else if self.reset_due {
            self.transmit_reset(out)
        } else if self.has_segment_due() {
            self.transmit_sequenced(out)
        } else if self.ack_due {
            self.transmit_acknowledgement(out)
        } else {
            false
        };
        if !sent {
            // Nobody will ask again for the last words of what is over.
            if self.state == State::Closed {
                (self.syn_due, self.reset_due, self.ack_due) = (false, false, false);
            }
            return None;
        }
        self.statistics.sent += 1;
        Some(out.len() - start)
    }

    /// Whether [`Self::poll_transmit`] has something, were it not for an unverified peer's limit.
    pub(crate) fn wants_to_transmit(&self) -> bool {
        self.syn_due || self.reset_due || self.has_segment_due() || self.ack_due
    }

    /// A broken connection keeps its segments until its reset, and sends none.
    fn has_segment_due(&self) -> bool {
        self.state != State::Broken && self.send.is_due()
    }

    /// Whether so many octets may go to the peer; if so they are counted.
    fn allowed(&mut self, length: usize) -> bool {
        let Some(allowance) = &mut self.allowance else { return true };
        let left = u32::try_from(length).ok().and_then(|length| allowance.checked_sub(length));
        if let Some(left) = left {
            *allowance = left;
        }
        left.is_some()
    }

    fn transmit_syn(&mut self, out: &mut Vec<u8>) -> bool {
        let mut syn = self.config.syn(self.dialect, self.terms, self.own_id);
        if self.reuse {
            syn.reuse = true;
            syn.connection_id = self.peer_id;
        }
        let length = if self.dialect == Dialect::Java {
            // It takes our values for both directions.
            syn.max_outstanding = syn.max_outstanding.min(self.peer.max_outstanding);
            syn.max_segment = syn.max_segment.min(self.peer.max_segment);
            SYN_JAVA
        } else {
            SYN
        };
        if !self.allowed(length) {
            return false;
        }
        self.syn_due = false;
        let acknowledged = (self.state == State::SynReceived).then_some(self.peer_initial);
        let packet = Packet { number: self.own_initial, acknowledged, body: Body::Syn(syn) };
        packet::encode(&packet, self.dialect, out);
        true
    }

    /// The last word of a connection that is over; nobody waits for its acknowledgement.
    fn transmit_reset(&mut self, out: &mut Vec<u8>) -> bool {
        if !self.allowed(HEADER) {
            return false;
        }
        self.reset_due = false;
        let packet = Packet {
            number: self.send.next_number(),
            acknowledged: Some(self.receive.last()),
            body: Body::Reset,
        };
        packet::encode(&packet, self.dialect, out);
        true
    }

    fn transmit_sequenced(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(length) = self.send.due_length() else { return false };
        if !self.allowed(HEADER + length) {
            return false;
        }
        let Some(due) = self.send.take_due() else { return false };
        let covered = self.terms.checksum_data;
        let (acknowledged, body) = match (due.content, self.dialect) {
            (Content::Data, _) => (true, Body::Data { payload: due.payload, covered }),
            (Content::Null, _) => (true, Body::Null),
            (Content::End, Dialect::Draft) => (true, Body::Reset),
            (Content::End, Dialect::Java) => (false, Body::Finish),
        };
        let (number, again) = (due.number, due.again);
        let acknowledged = acknowledged.then_some(self.receive.last());
        packet::encode(&Packet { number, acknowledged, body }, self.dialect, out);
        if again {
            self.statistics.retransmitted += 1;
            if self.round_trip.timed() == Some(number) {
                self.round_trip.forget();
            }
        }
        if acknowledged.is_some() {
            self.note_acknowledged();
        }
        true
    }

    fn transmit_acknowledgement(&mut self, out: &mut Vec<u8>) -> bool {
        let number = self.send.next_number();
        let acknowledged = Some(self.receive.last());
        let mut numbers = [0; 128];
        let mut count = 0;
        // An EACK is cut to what the peer takes; it learns of the rest from the next one.
        let room = usize::from(self.peer.max_segment).saturating_sub(HEADER).min(numbers.len());
        for (slot, number) in numbers[..room].iter_mut().zip(self.receive.held_numbers()) {
            *slot = number;
            count += 1;
        }
        if !self.allowed(HEADER + count) {
            return false;
        }
        self.ack_due = false;
        let body = match count {
            0 => Body::Acknowledgement,
            _ => Body::Extended(&numbers[..count]),
        };
        packet::encode(&Packet { number, acknowledged, body }, self.dialect, out);
        self.receive.told();
        self.note_acknowledged();
        true
    }

    /// Everything in sequence is acknowledged. While something is out of sequence the timer goes on,
    /// so that the peer is told of it again.
    fn note_acknowledged(&mut self) {
        self.receive.acknowledged();
        if !self.receive.has_gap() {
            self.ack_due = false;
            self.timers.stop(Timer::Acknowledge);
        }
    }

    /// Sends an acknowledgement to whoever claims to be the peer, so that only the true one can answer rightly.
    pub(super) fn challenge(&mut self, now: Instant, shared: &mut crate::budget::Budget) {
        self.statistics.dropped += 1;
        if self.challenges.take(now) && shared.take(now) {
            self.ack_due = true;
        }
    }
}
