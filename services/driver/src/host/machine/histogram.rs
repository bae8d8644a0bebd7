//! How long calls took: counts by length, four steps to each doubling, so that a share of the slowest is known to a fifth.

use std::time::Duration;

const STEPS: u32 = 4;
const BUCKETS: usize = 64 * STEPS as usize;

/// Lengths, counted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, length: Duration) {
        let nanoseconds = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanoseconds)) {
            *count += 1;
            self.total += 1;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// What 99 of a hundred did not exceed, rounded up to the end of its step; nothing where there was no call.
    pub(crate) fn p99(&self) -> Option<Duration> {
        let rank = self.total - self.total / 100;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && seen > 0 {
                return Some(Duration::from_nanos(end(at)));
            }
        }
        None
    }
}

/// The place of a length: its highest bit, and the two bits behind it.
fn bucket(nanoseconds: u64) -> usize {
    let Some(high) = nanoseconds.checked_ilog2() else { return 0 };
    let behind = if high >= 2 { (nanoseconds >> (high - 2)) & 3 } else { 0 };
    (high * STEPS) as usize + usize::try_from(behind).unwrap_or_default()
}

/// The first length that is beyond a place.
fn end(at: usize) -> u64 {
    let at = at as u64 + 1;
    let (high, behind) = (at / u64::from(STEPS), at % u64::from(STEPS));
    let whole = 1u128 << high;
    u64::try_from(whole + whole * u128::from(behind) / u128::from(STEPS)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_slowest_hundredth_does_not_count() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.p99(), None);
        for _ in 0..99 {
            histogram.add(Duration::from_micros(10));
        }
        histogram.add(Duration::from_secs(1));
        let p99 = histogram.p99().unwrap();
        assert!((10..=13).contains(&p99.as_micros()), "{p99:?}");
        histogram.add(Duration::from_secs(1));
        histogram.add(Duration::from_secs(1));
        assert!(histogram.p99().unwrap() >= Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn a_length_lies_before_the_end_of_its_step_and_not_far(nanoseconds in 4u64..u64::MAX / 2) {
            let end = end(bucket(nanoseconds));
            prop_assert!(nanoseconds < end);
            prop_assert!(u128::from(end) <= u128::from(nanoseconds) * 5 / 4 + 1, "{nanoseconds} {end}");
        }
    }
}
