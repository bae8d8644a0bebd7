//! Crash windows: says when an instance that must not crash has crashed too often. Does nothing about it.

use std::collections::VecDeque;

use protocol::time::Moment;
use serde::{Deserialize, Serialize};

use crate::settings::{Critical, CriticalAction};

/// More crashes than this are not remembered; no sensible window needs them.
const REMEMBERED_MAX: usize = 256;

/// When an instance crashed lately. Survives the supervisor.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Crashes(VecDeque<Moment>);

impl Crashes {
    /// Counts a crash. What to do, if it was one too many; then the window starts afresh.
    pub(crate) fn add(&mut self, at: Moment, critical: &Critical) -> Option<CriticalAction> {
        self.0.push_back(at);
        while self.0.len() > REMEMBERED_MAX
            || self.0.front().is_some_and(|first| at.since(*first) > critical.window)
        {
            self.0.pop_front();
        }
        let allowed =
            usize::try_from(critical.restarts).unwrap_or(usize::MAX).min(REMEMBERED_MAX - 1);
        (self.0.len() > allowed).then(|| {
            self.0.clear();
            critical.action
        })
    }

    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_crashes_within_the_window_escalate() {
        let critical = Critical {
            restarts: 2,
            window: Duration::from_secs(10),
            action: CriticalAction::Reboot,
        };
        let mut crashes = Crashes::default();
        let at = |seconds| Moment(0) + Duration::from_secs(seconds);
        assert_eq!(crashes.add(at(1), &critical), None);
        assert_eq!(crashes.add(at(2), &critical), None);
        assert_eq!(crashes.add(at(13), &critical), None);
        assert_eq!(crashes.add(at(14), &critical), None);
        assert_eq!(crashes.add(at(15), &critical), Some(CriticalAction::Reboot));
        assert_eq!(crashes.add(at(16), &critical), None);
    }
}
