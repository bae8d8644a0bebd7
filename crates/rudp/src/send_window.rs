//! What was sent and is not acknowledged, and what waits to be sent. Knows no time: the connection keeps the timers.
//!
//! Segments get their numbers when they enter the window and keep them, however often they are sent again.

use std::collections::VecDeque;

use crate::{
    pool::Pool,
    sequence::{REACH, Ring},
};

/// Segments that an idle connection keeps room for.
const QUEUE_KEPT: usize = 1;

/// What a segment of the queue is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    Data,
    Null,
    /// RST, or the Java dialect's FIN: the last segment of a connection.
    End,
}

#[derive(Debug)]
struct Outgoing {
    payload: Vec<u8>,
    content: Content,
    /// How often the timer sent it again.
    retries: u8,
}

/// A segment that is due to be sent.
pub(crate) struct Due<'a> {
    pub(crate) number: u8,
    pub(crate) content: Content,
    pub(crate) payload: &'a [u8],
    /// It was sent before.
    pub(crate) again: bool,
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Acknowledged {
    /// So many segments left the window, one of them the one that was measured.
    Progress { measured: bool },
    /// Known already.
    Nothing,
    /// It acknowledges what was never sent.
    Unsent,
}

#[derive(Debug)]
pub(crate) struct SendWindow {
    ring: Ring,
    /// Front: the oldest that is not acknowledged. The first `flying` have numbers.
    queue: VecDeque<Outgoing>,
    /// Number of the front, or the next to be given.
    first: u8,
    flying: u8,
    /// How many from the front were sent at least once.
    sent: u8,
    /// How many numbers the peer allows in flight.
    limit: u8,
    /// Messages among the queue.
    messages: u16,
    /// Bit i is the segment i places behind the front: is to be sent now,
    due: u128,
    /// was received by the peer out of sequence,
    held: u128,
    /// was sent again for an EACK less than a round trip ago.
    recent: u128,
}

impl SendWindow {
    /// `first`: the number of the first segment; `limit`: how many may be in flight, 1 to [`REACH`].
    pub(crate) fn new(ring: Ring, first: u8, limit: u8) -> Self {
        Self {
            ring,
            queue: VecDeque::new(),
            first,
            flying: 0,
            sent: 0,
            limit,
            messages: 0,
            due: 0,
            held: 0,
            recent: 0,
        }
    }

    /// Messages that are not acknowledged, sent or not.
    pub(crate) fn messages(&self) -> usize {
        usize::from(self.messages)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due != 0
    }

    /// The number of the next segment to enter the window.
    pub(crate) fn next_number(&self) -> u8 {
        self.ring.forward(self.first, self.flying)
    }

    pub(crate) fn push(&mut self, content: Content, payload: Vec<u8>) {
        if content == Content::Data {
            self.messages += 1;
        }
        if self.queue.capacity() == 0 {
            self.queue.reserve_exact(QUEUE_KEPT);
        }
        self.queue.push_back(Outgoing { payload, content, retries: 0 });
    }

    /// Gives numbers to what the window has room for. Returns the number of the first, if there was any.
    pub(crate) fn launch(&mut self) -> Option<u8> {
        let before = self.flying;
        while self.flying < self.limit && usize::from(self.flying) < self.queue.len() {
            self.due |= 1 << self.flying;
            self.flying += 1;
        }
        (self.flying > before).then(|| self.ring.forward(self.first, before))
    }

    /// Length of the payload of the next segment to be sent.
    pub(crate) fn due_length(&self) -> Option<usize> {
        let place = self.due_place()?;
        self.queue.get(place).map(|outgoing| outgoing.payload.len())
    }

    /// The next segment to be sent, which is not due any more then.
    pub(crate) fn take_due(&mut self) -> Option<Due<'_>> {
        let place = self.due_place()?;
        self.due &= self.due - 1;
        let steps = u8::try_from(place).expect("a place in 128 bits");
        let again = steps < self.sent;
        self.sent = self.sent.max(steps + 1);
        let outgoing = self.queue.get(place)?;
        let number = self.ring.forward(self.first, steps);
        Some(Due { number, content: outgoing.content, payload: &outgoing.payload, again })
    }

    fn due_place(&self) -> Option<usize> {
        (self.due != 0).then(|| self.due.trailing_zeros() as usize)
    }

    /// Takes everything up to `number` off the window. `measured`: the number whose round trip is measured.
    pub(crate) fn acknowledge(
        &mut self,
        number: u8,
        measured: Option<u8>,
        pool: &mut Pool,
    ) -> Acknowledged {
        if !self.is_acknowledgeable(number) {
            return Acknowledged::Unsent;
        }
        let left = self.unacknowledged_after(number);
        if left >= self.sent {
            return Acknowledged::Nothing;
        }
        let gone = self.sent - left;
        let measured =
            measured.is_some_and(|measured| self.ring.steps(self.first, measured) < gone);
        for _ in 0..gone {
            let Some(outgoing) = self.queue.pop_front() else { break };
            if outgoing.content == Content::Data {
                self.messages -= 1;
                pool.give(outgoing.payload);
            }
        }
        self.first = self.ring.forward(self.first, gone);
        self.flying -= gone;
        self.sent = left;
        for mask in [&mut self.due, &mut self.held, &mut self.recent] {
            *mask = mask.checked_shr(u32::from(gone)).unwrap_or(0);
        }
        Acknowledged::Progress { measured }
    }

    /// Whether [`Self::acknowledge`] would not call it unsent.
    pub(crate) fn is_acknowledgeable(&self, number: u8) -> bool {
        self.ring.contains(number) && self.unacknowledged_after(number) <= REACH
    }

    /// How many of the segments sent are newer than this number; more than [`REACH`] where it was never sent.
    fn unacknowledged_after(&self, number: u8) -> u8 {
        let newest = self.ring.previous(self.ring.forward(self.first, self.sent));
        self.ring.steps(number, newest)
    }

    /// Takes an EACK's numbers: they need not be sent again. What is missing before the last of them becomes due,
    /// but for what became so less than a round trip ago. Numbers that are not in flight are ignored.
    pub(crate) fn hold(&mut self, numbers: &[u8]) {
        let mut last = 0;
        for number in numbers.iter().filter(|number| self.ring.contains(**number)) {
            let place = self.ring.steps(self.first, *number);
            if place < self.sent {
                self.held |= 1 << place;
                self.due &= !(1 << place);
                last = last.max(place);
            }
        }
        let before_last = (1_u128 << last) - 1;
        let missing = before_last & !self.held & !self.recent;
        self.due |= missing;
        self.recent |= missing;
    }

    /// A round trip went by: what is missing still may be sent again for an EACK.
    pub(crate) fn forget_recent(&mut self) {
        self.recent = 0;
    }

    /// Whether anything was sent again for an EACK less than a round trip ago.
    pub(crate) fn has_recent(&self) -> bool {
        self.recent != 0
    }

    /// The timer fired: everything in flight that the peer doesn't have becomes due.
    /// False where the oldest was sent again `max` times already; 0 is for ever.
    pub(crate) fn time_out(&mut self, max: u8) -> bool {
        let Some(oldest) = self.queue.front() else { return true };
        if max != 0 && oldest.retries >= max {
            return false;
        }
        let flying = ((1_u128 << self.flying) - 1) & !self.held;
        self.due |= flying;
        self.recent |= flying;
        for (place, outgoing) in self.queue.iter_mut().take(usize::from(self.flying)).enumerate() {
            if self.held & (1 << place) == 0 {
                outgoing.retries = outgoing.retries.saturating_add(1);
            }
        }
        true
    }

    /// Forgets everything and begins anew at `first`.
    pub(crate) fn flush(&mut self, ring: Ring, first: u8, limit: u8, pool: &mut Pool) {
        for outgoing in self.queue.drain(..) {
            if outgoing.content == Content::Data {
                pool.give(outgoing.payload);
            }
        }
        let queue = std::mem::take(&mut self.queue);
        *self = Self { queue, ..Self::new(ring, first, limit) };
    }

    /// Gives back what the queue doesn't need.
    pub(crate) fn trim(&mut self) {
        if self.queue.capacity() > QUEUE_KEPT {
            self.queue.shrink_to(QUEUE_KEPT);
        }
    }
}
