//! The audit log of refusals: one line each, as many a second as a person or a disk can take, and how many were left out.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::link::Caller;

/// Most lines in each [`SPAN`].
const LINES: u32 = 20;
const SPAN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Audit {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the span began.
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Audit {
    pub(super) fn denied(&self, caller: Caller, object: &str, method: &str, rule: &str) {
        if let Some(suppressed) = self.admit(Instant::now()) {
            let Caller { pid, uid, .. } = caller;
            tracing::warn!(target: "audit", pid, uid, object, method, rule, suppressed, "audit: denied");
        }
    }

    /// Whether there is room for a line now, and how many had none since the last one.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.saturating_duration_since(since) >= SPAN) {
            (state.since, state.lines) = (Some(now), 0);
        }
        if state.lines >= LINES {
            state.suppressed += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_writes_few_lines_and_counts_the_rest() {
        let audit = Audit::default();
        let start = Instant::now();
        let written = (0..1000).filter(|_| audit.admit(start).is_some()).count();
        assert_eq!(written, 20);
        assert_eq!(audit.admit(start + SPAN / 2), None);
        assert_eq!(audit.admit(start + SPAN), Some(981));
        assert_eq!(audit.admit(start + SPAN), Some(0));
    }
}
