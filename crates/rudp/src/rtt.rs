//! The smoothed round trip time. By Karn's rule only segments that were sent once are measured; the caller sees to that.
//!
//! The draft's retransmission time is agreed on and fixed, so this only spaces repeated answers to EACKs, and informs.

use std::time::{Duration, Instant};

#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    /// The one segment that is measured.
    timed: Option<(u8, Instant)>,
}

impl RoundTrip {
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Begins to measure unless another segment is being measured.
    pub(crate) fn begin(&mut self, number: u8, now: Instant) {
        self.timed.get_or_insert((number, now));
    }

    pub(crate) fn timed(&self) -> Option<u8> {
        self.timed.map(|(number, _)| number)
    }

    /// What is measured was sent again, so its acknowledgement would say nothing.
    pub(crate) fn forget(&mut self) {
        self.timed = None;
    }

    /// What is measured was acknowledged. The weights are those of RFC 6298.
    pub(crate) fn end(&mut self, now: Instant) {
        let Some((_, began)) = self.timed.take() else { return };
        let sample = now.saturating_duration_since(began);
        self.smoothed = Some(match self.smoothed {
            None => sample,
            Some(old) => (old * 7 + sample) / 8,
        });
    }
}
