//! When the state is written down: a while after the first call that may have changed it.

use std::time::Duration;

use protocol::time::Moment;

/// The times of the checkpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoint {
    period: Duration,
    last: Moment,
    /// Calls that had been made then.
    calls: u64,
}

impl Checkpoint {
    pub(crate) fn new(period: Duration, now: Moment) -> Self {
        Self { period, last: now, calls: 0 }
    }

    /// When the state has to be written down next; never while nothing is called.
    pub(crate) fn next(&self, calls: u64) -> Option<Moment> {
        (calls != self.calls).then(|| self.last + self.period)
    }

    pub(crate) fn is_due(&self, calls: u64, now: Moment) -> bool {
        self.next(calls).is_some_and(|next| next <= now)
    }

    /// It was written; or it couldn't be, and the next attempt has time until the next period.
    pub(crate) fn tried(&mut self, calls: Option<u64>, now: Moment) {
        self.last = now;
        self.calls = calls.unwrap_or(self.calls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_written_while_nothing_is_called() {
        let start = Moment(0);
        let checkpoint = Checkpoint::new(SECOND, start);
        assert_eq!(checkpoint.next(0), None);
        assert!(!checkpoint.is_due(0, start + 100 * SECOND));
    }

    #[test]
    fn calls_are_written_down_once_a_period() {
        let start = Moment(0);
        let mut checkpoint = Checkpoint::new(SECOND, start);
        assert!(!checkpoint.is_due(3, start + SECOND / 2));
        assert!(checkpoint.is_due(3, start + SECOND));
        checkpoint.tried(Some(3), start + SECOND);
        assert_eq!(checkpoint.next(3), None);
        assert_eq!(checkpoint.next(4), Some(start + 2 * SECOND));
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_a_period_later() {
        let start = Moment(0);
        let mut checkpoint = Checkpoint::new(SECOND, start);
        checkpoint.tried(None, start + SECOND);
        assert_eq!(checkpoint.next(3), Some(start + 2 * SECOND));
    }
}
