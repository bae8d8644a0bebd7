//! The only place that reads the clock.

use protocol::time::Moment;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Now, on `CLOCK_MONOTONIC`.
#[must_use]
pub fn now() -> Moment {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// Seconds since 1970, for people and log files; never for a decision.
#[must_use]
pub fn wall() -> std::time::Duration {
    std::time::Duration::from_nanos(nanoseconds(clock_gettime(ClockId::Realtime)).0)
}

/// How long the machine has been suspended since it was booted: what `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`.
#[must_use]
pub fn suspended() -> std::time::Duration {
    let awake = now();
    nanoseconds(clock_gettime(ClockId::Boottime)).since(awake)
}

/// A moment as tokio and std want it, for sleeping.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn instant(moment: Moment) -> std::time::Instant {
    std::time::Instant::now() + moment.since(now())
}

fn nanoseconds(time: Timespec) -> Moment {
    // The kernel's clocks are never negative; a clock set before 1970 counts as 1970.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}
