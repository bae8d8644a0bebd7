//! Notices that the machine slept: CLOCK_BOOTTIME went on, CLOCK_MONOTONIC did not. Their difference says how long; it is
//! no time of day and no deadline.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Less may as well be the time between the two readings.
const LEAST: Duration = Duration::from_millis(200);

pub(super) struct Absence {
    slept: Duration,
}

impl Absence {
    pub(super) fn new() -> Self {
        Self { slept: slept() }
    }

    /// How long the machine slept since the last question, if it did.
    pub(super) fn noticed(&mut self) -> Option<Duration> {
        let slept = slept();
        let more = slept.saturating_sub(self.slept);
        if more < LEAST {
            return None;
        }
        self.slept = slept;
        Some(more)
    }
}

fn slept() -> Duration {
    let monotonic = duration(clock_gettime(ClockId::Monotonic));
    duration(clock_gettime(ClockId::Boottime)).saturating_sub(monotonic)
}

fn duration(time: Timespec) -> Duration {
    // These two clocks count from the boot and are never negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_growing_difference_is_sleep() {
        let mut absence = Absence::new();
        assert_eq!(absence.noticed(), None);
        let time = slept();
        absence.slept = time.saturating_sub(Duration::from_secs(7));
        let expected = time - absence.slept;
        let noticed = absence.noticed();
        assert_eq!(noticed.is_some(), expected >= LEAST);
        assert_eq!(absence.noticed(), None);
    }
}
