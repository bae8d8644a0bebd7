//! A limit on answers to segments that anyone could have sent: so many a second, in bursts of as many.

use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub(crate) struct Budget {
    per_second: u16,
    left: u16,
    refilled: Option<Instant>,
}

impl Budget {
    pub(crate) fn new(per_second: u16) -> Self {
        Self { per_second, left: per_second, refilled: None }
    }

    /// Whether one more answer may be given now.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let refilled = *self.refilled.get_or_insert(now);
        if now.saturating_duration_since(refilled) >= Duration::from_secs(1) {
            self.left = self.per_second;
            self.refilled = Some(now);
        }
        let allowed = self.left > 0;
        self.left -= u16::from(allowed);
        allowed
    }
}
