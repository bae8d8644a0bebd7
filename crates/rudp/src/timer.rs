//! The deadlines of one connection. Reads no clock: whoever sets a deadline brings it.

use std::time::Instant;

/// What a connection may wait for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Timer {
    /// An acknowledgement of something we sent, or the answer to a SYN.
    Retransmit,
    /// The moment our acknowledgement is due, if nothing else has carried it.
    Acknowledge,
    /// The client's next NUL, or the end of the server's patience.
    Null,
    /// The end of a broken connection's wait, or of a closed one's.
    Transfer,
}

impl Timer {
    pub(crate) const ALL: [Self; 4] =
        [Self::Acknowledge, Self::Retransmit, Self::Null, Self::Transfer];
}

/// At most one deadline a timer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    const fn place(timer: Timer) -> usize {
        match timer {
            Timer::Retransmit => 0,
            Timer::Acknowledge => 1,
            Timer::Null => 2,
            Timer::Transfer => 3,
        }
    }

    pub(crate) fn set(&mut self, timer: Timer, deadline: Instant) {
        self.0[Self::place(timer)] = Some(deadline);
    }

    /// As [`Self::set`], but a deadline that stands already stays.
    pub(crate) fn start(&mut self, timer: Timer, deadline: Instant) {
        self.0[Self::place(timer)].get_or_insert(deadline);
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[Self::place(timer)] = None;
    }

    pub(crate) fn stop_all(&mut self) {
        self.0 = Default::default();
    }

    /// Whether the timer is due; if so it is stopped.
    pub(crate) fn take_due(&mut self, timer: Timer, now: Instant) -> bool {
        let slot = &mut self.0[Self::place(timer)];
        let due = slot.is_some_and(|deadline| deadline <= now);
        if due {
            *slot = None;
        }
        due
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }
}
