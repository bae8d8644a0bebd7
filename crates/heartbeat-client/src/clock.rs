//! The only place that reads clocks.

use std::time::Instant;

/// Now, for timers.
#[expect(
    clippy::disallowed_methods,
    reason = "this crate has no daemon below it whose clock it could read"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds since the machine was booted, sleep included. A report's counter starts here, so that it rises over
/// everything this generation has sent before, whichever part of the program sent it.
pub(crate) fn since_boot() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanoseconds) =
        (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
