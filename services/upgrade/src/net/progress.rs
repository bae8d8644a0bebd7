//! How often a progress is told: at most ten times a second, and the last one always.

use std::time::Duration;

use protocol::{time::Moment, upgrade::Progress};

/// Between two of them.
const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Progresses {
    waiting: Option<Progress>,
    told: Option<Moment>,
    due: Option<Moment>,
}

impl Progresses {
    /// A newer one takes the place of the one that waits.
    pub(super) fn reached(&mut self, progress: Progress, now: Moment) {
        self.waiting = Some(progress);
        self.due = Some(self.told.map_or(now, |told| (told + INTERVAL).max(now)));
    }

    /// When to [`take`](Self::take).
    pub(super) fn due(&self) -> Option<Moment> {
        self.due
    }

    /// The one that is to be told now.
    pub(super) fn take(&mut self, now: Moment) -> Option<Progress> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        self.told = Some(now);
        self.waiting.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_a_second_are_told_and_the_last_one() {
        let mut progresses = Progresses::default();
        let mut told = Vec::new();
        for ms in 0..1000 {
            let now = Moment(ms * 1_000_000);
            progresses.reached(Progress { done: ms, ..Progress::default() }, now);
            told.extend(progresses.take(now).map(|progress| progress.done));
        }
        assert_eq!(told.len(), 10);
        let due = progresses.due().unwrap();
        assert_eq!(progresses.take(due).unwrap().done, 999);
        assert_eq!((progresses.due(), progresses.take(due)), (None, None));
    }
}
