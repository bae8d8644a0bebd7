//! How fast one connection may call: a token bucket, kept as the moment at which it will be full again.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Rate;

pub(super) struct Bucket {
    /// What one call costs.
    cost: Duration,
    /// What the whole bucket holds.
    depth: Duration,
    /// When it is full again; in the past, it is full.
    full: Instant,
}

impl Bucket {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        let cost = Duration::from_secs(1) / rate.per_second.max(1);
        Self { cost, depth: cost * rate.burst.max(1), full: now }
    }

    /// Takes a token, or says how long until there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full = self.full.max(now) + self.cost;
        let owed = full - now;
        if owed > self.depth {
            return Err(owed - self.depth);
        }
        self.full = full;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_call_each_interval() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { per_second: 1000, burst: 1500 }, start);
        let passed = (0..5000).filter(|_| bucket.take(start).is_ok()).count();
        assert_eq!(passed, 1500);
        let wait = bucket.take(start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(1));
        assert!(bucket.take(start + wait).is_ok());
        assert!(bucket.take(start + wait).is_err());
        let later = start + Duration::from_secs(100);
        assert_eq!((0..5000).filter(|_| bucket.take(later).is_ok()).count(), 1500);
    }

    proptest! {
        #[test]
        fn no_span_of_time_lets_more_through_than_the_rate_and_one_burst(
            per_second in 1_u32..5000,
            burst in 1_u32..3000,
            steps in proptest::collection::vec((0_u64..20_000, 1_usize..200), 1..50),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(Rate { per_second, burst }, start);
            let mut passed = 0_u64;
            for (pause_us, calls) in steps {
                now += Duration::from_micros(pause_us);
                for _ in 0..calls {
                    match bucket.take(now) {
                        Ok(()) => passed += 1,
                        // The promise is kept: a call after that time passes.
                        Err(wait) => {
                            let mut then = Bucket { ..bucket };
                            prop_assert!(then.take(now + wait).is_ok());
                        }
                    }
                }
                let most = (now - start).as_secs_f64() * f64::from(per_second) + f64::from(burst);
                prop_assert!(passed as f64 <= most * 1.000_1 + 1.0, "{passed} of {most}");
            }
        }
    }
}
