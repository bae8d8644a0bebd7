//! What came from the peer: the last number in sequence, and what waits for a gap to close. Knows no time and sends nothing.

use crate::sequence::{REACH, Ring};

/// Where a number lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Next,
    /// Ahead of a gap, within the window.
    Ahead,
    /// Ahead, and here already.
    AheadAgain,
    /// Received before.
    Old,
    /// Farther ahead than the window, or not a number of this dialect.
    Beyond,
}

#[derive(Debug)]
struct Held {
    number: u8,
    /// `None` for a NUL, which only holds its number.
    payload: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    ring: Ring,
    /// The last number received in sequence: what our acknowledgements say.
    last: u8,
    /// How far ahead of `last` a number may be.
    limit: u8,
    /// In ascending order.
    held: Vec<Held>,
    /// Received in sequence and not acknowledged.
    unacknowledged: u8,
    /// Received out of sequence since the last EACK.
    out_of_sequence: u8,
}

impl ReceiveWindow {
    /// `last`: the peer's initial number. One more than we advertise is taken: Java peers send one more.
    pub(crate) fn new(ring: Ring, last: u8, advertised: u8) -> Self {
        let limit = advertised.saturating_add(1).min(REACH);
        Self { ring, last, limit, held: Vec::new(), unacknowledged: 0, out_of_sequence: 0 }
    }

    pub(crate) fn last(&self) -> u8 {
        self.last
    }

    pub(crate) fn has_gap(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn unacknowledged(&self) -> u8 {
        self.unacknowledged
    }

    /// How many segments arrived out of sequence since the last EACK.
    pub(crate) fn out_of_sequence(&self) -> u8 {
        self.out_of_sequence
    }

    pub(crate) fn place(&self, number: u8) -> Place {
        if !self.ring.contains(number) {
            return Place::Beyond;
        }
        match self.ring.steps(self.last, number) {
            1 => Place::Next,
            0 => Place::Old,
            steps if steps <= self.limit => {
                if self.held.iter().any(|held| held.number == number) {
                    Place::AheadAgain
                } else {
                    Place::Ahead
                }
            }
            steps if steps <= REACH => Place::Beyond,
            _ => Place::Old,
        }
    }

    /// The next number has come.
    pub(crate) fn advance(&mut self) {
        self.last = self.ring.next(self.last);
        self.unacknowledged = self.unacknowledged.saturating_add(1);
    }

    /// Keeps what [`Self::place`] called [`Place::Ahead`].
    pub(crate) fn hold(&mut self, number: u8, payload: Option<Vec<u8>>) {
        let steps = self.ring.steps(self.last, number);
        let behind =
            self.held.partition_point(|held| self.ring.steps(self.last, held.number) < steps);
        self.held.insert(behind, Held { number, payload });
        self.out_of_sequence = self.out_of_sequence.saturating_add(1);
    }

    /// Moves on over what was held, as far as the next gap, and hands over the messages in order.
    pub(crate) fn drain(&mut self, mut deliver: impl FnMut(Vec<u8>)) {
        let mut next = self.ring.next(self.last);
        let mut count = 0;
        for held in &self.held {
            if held.number != next {
                break;
            }
            next = self.ring.next(next);
            count += 1;
        }
        for held in self.held.drain(..count) {
            self.last = held.number;
            self.unacknowledged = self.unacknowledged.saturating_add(1);
            if let Some(payload) = held.payload {
                deliver(payload);
            }
        }
        if self.held.is_empty() {
            self.out_of_sequence = 0;
        }
    }

    /// The numbers for an EACK, ascending.
    pub(crate) fn held_numbers(&self) -> impl Iterator<Item = u8> {
        self.held.iter().map(|held| held.number)
    }

    /// An acknowledgement was sent.
    pub(crate) fn acknowledged(&mut self) {
        self.unacknowledged = 0;
    }

    /// An EACK was sent.
    pub(crate) fn told(&mut self) {
        self.out_of_sequence = 0;
    }

    /// Forgets everything; hands back the buffers.
    pub(crate) fn flush(&mut self, mut give: impl FnMut(Vec<u8>)) {
        for payload in self.held.drain(..).filter_map(|held| held.payload) {
            give(payload);
        }
        self.unacknowledged = 0;
        self.out_of_sequence = 0;
    }

    /// Gives back what an idle connection doesn't need.
    pub(crate) fn trim(&mut self) {
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }
}
