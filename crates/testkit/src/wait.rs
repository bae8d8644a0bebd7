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
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    let caller = Location::caller();
    within(LIMIT, look)
        .unwrap_or_else(|| panic!("waited {LIMIT:?} at {caller} and did not see: {what}"))
}

/// Looks until `look` returns something, at most so long.
#[expect(
    clippy::disallowed_methods,
    reason = "a limit for a test that hangs; nothing is decided by it"
)]
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        let found = look();
        if found.is_some() || started.elapsed() > limit {
            return found;
        }
        // An interrupted wait only means that we look a little earlier.
        let _ = poll(&mut [], Some(&LOOK_AGAIN));
    }
}
