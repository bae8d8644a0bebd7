//! Notices that the machine slept: the time it was suspended has grown since the last look.

use std::time::Duration;

/// Less may as well be the time between the two clocks' readings.
const LEAST: Duration = Duration::from_millis(200);

pub(super) struct Absence {
    /// How long the machine had slept when it was last looked at.
    slept: Duration,
}

impl Absence {
    pub(super) fn new(slept: Duration) -> Self {
        Self { slept }
    }

    /// How long the machine slept since the last question, if it did.
    pub(super) fn noticed(&mut self, slept: Duration) -> Option<Duration> {
        let more = slept.saturating_sub(self.slept);
        if more < LEAST {
            return None;
        }
        self.slept = slept;
        Some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_growing_difference_is_sleep() {
        let seconds = Duration::from_secs;
        let mut absence = Absence::new(seconds(3));
        assert_eq!(absence.noticed(seconds(3) + Duration::from_millis(1)), None);
        assert_eq!(absence.noticed(seconds(10)), Some(seconds(7)));
        assert_eq!(absence.noticed(seconds(10)), None);
    }
}
