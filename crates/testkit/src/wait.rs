//! Waiting for something that has no event of its own, with one generous limit.

use std::{
    panic::Location,
    time::{Duration, Instant},
};

use rustix::event::{Timespec, poll};

/// How long anything may take on a busy machine before a test fails. Nothing is measured by it.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks; short, so that a fast machine is not held up.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Looks until `look` returns something; panics with `what` after [`LIMIT`].
#[track_caller]
#[expect(
    clippy::disallowed_methods,
    reason = "a limit for a test that hangs; nothing is decided by it"
)]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            started.elapsed() < LIMIT,
            "waited {LIMIT:?} at {} and did not see: {what}",
            Location::caller()
        );
        // An interrupted wait only means that we look a little earlier.
        let _ = poll(&mut [], Some(&LOOK_AGAIN));
    }
}
