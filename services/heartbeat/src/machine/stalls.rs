//! The broker suspects itself first: remembers when it was late itself, so that nobody is blamed for its own absence.

use std::time::Duration;

use protocol::time::Moment;

/// A lateness below this is an ordinary day of a loaded machine.
const LEAST: Duration = Duration::from_millis(50);
/// Classes of lateness by powers of two in milliseconds; the last one is a start or a resume.
const CLASSES: usize = 24;

/// When the broker was last late by how much.
#[derive(Debug)]
pub(super) struct Stalls {
    /// The last time it was late by at least two to the power of the index, in milliseconds.
    last: [Moment; CLASSES],
}

impl Stalls {
    /// The broker starts, and has heard nobody so far.
    pub(super) fn new(now: Moment) -> Self {
        Self { last: [now; CLASSES] }
    }

    /// The broker woke up so much later than it wanted to. `true` where that is a stall.
    pub(super) fn late(&mut self, by: Duration, now: Moment) -> bool {
        if by < LEAST {
            return false;
        }
        let class = class(by);
        self.last[..=class].fill(now);
        true
    }

    /// The machine slept, or time jumped: nobody could have been heard, however long that took.
    pub(super) fn absent(&mut self, now: Moment) {
        self.last.fill(now);
    }

    /// The last stall that matters to somebody who reports this often: half a period.
    pub(super) fn that_matters_to(&self, period: Duration) -> Moment {
        // The next class up where it doesn't fit exactly: a shorter stall is none for this one.
        let matters = (period / 2).max(LEAST);
        self.last[(class(matters) + 1).min(CLASSES - 1)]
    }
}

fn class(by: Duration) -> usize {
    let milliseconds = u64::try_from(by.as_millis()).unwrap_or(u64::MAX).max(1);
    usize::try_from(milliseconds.ilog2()).expect("at most 63").min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_stall_matters_to_those_who_report_more_often_than_it_took() {
        let mut stalls = Stalls::new(Moment(1));
        assert!(!stalls.late(ms(49), Moment(2)));
        assert!(stalls.late(ms(700), Moment(3)));
        assert_eq!(stalls.that_matters_to(ms(100)), Moment(3));
        assert_eq!(stalls.that_matters_to(ms(500)), Moment(3));
        assert_eq!(stalls.that_matters_to(ms(10_000)), Moment(1));
        stalls.absent(Moment(4));
        assert_eq!(stalls.that_matters_to(Duration::from_secs(3_600)), Moment(4));
    }
}
