//! The only place that reads the clock, and the only one that sleeps.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Now, for deadlines.
#[expect(
    clippy::disallowed_methods,
    reason = "this crate has no daemon below it whose clock it could read"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets the calling task rest before it tries again.
#[expect(clippy::disallowed_methods, reason = "who calls a driver waits for it, without a runtime")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}
