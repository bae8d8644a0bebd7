//! What the times between reports say: their mean and spread, how unlikely a silence is (phi), and how long one may last.
//!
//! The suspicion is that of Hayashibara's phi accrual detector over exponentially weighted moments of a normal distribution.

use std::time::Duration;

/// Reports before the statistics say anything.
const ENOUGH: u32 = 8;
/// The weight of a new interval, once there are enough.
const WEIGHT: f64 = 1.0 / 16.0;
/// The least spread that is assumed, as a share of the mean: a clockwork must not die of one late tick.
const SPREAD_MIN: f64 = 0.1;
/// Below so many deviations the tail is a logistic function (of Bowling et al., good to 0.0002), above a continued fraction.
const NEAR: f64 = 1.5;
/// Terms of the fraction: five digits at 1.5 deviations, more beyond.
const TERMS: u8 = 40;

/// The times between an application's reports, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrivals {
    seen: u32,
    mean: f64,
    variance: f64,
    deviation: f64,
}

impl Arrivals {
    pub(super) fn record(&mut self, interval: Duration) {
        let interval = interval.as_secs_f64();
        self.seen = self.seen.saturating_add(1);
        if self.seen == 1 {
            self.mean = interval;
            return;
        }
        let weight = (1.0 / f64::from(self.seen)).max(WEIGHT);
        let off = interval - self.mean;
        self.mean += weight * off;
        self.variance = (1.0 - weight) * (self.variance + weight * off * off);
        self.deviation += weight * (off.abs() - self.deviation);
    }

    /// Mean deviation of the time between reports.
    pub(super) fn jitter(&self) -> Option<Duration> {
        (self.seen > 1).then(|| Duration::from_secs_f64(self.deviation.max(0.0)))
    }

    /// -log10 of the likelihood that a live application is silent for so long.
    pub(super) fn phi(&self, silence: Duration) -> Option<f64> {
        let spread = self.spread()?;
        Some(phi((silence.as_secs_f64() - self.mean) / spread))
    }

    /// The silence at which phi reaches `threshold`.
    pub(super) fn limit(&self, threshold: f64) -> Option<Duration> {
        let seconds = self.mean + distance(threshold) * self.spread()?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    fn spread(&self) -> Option<f64> {
        let spread = self.variance.max(0.0).sqrt().max(self.mean * SPREAD_MIN).max(0.001);
        (self.seen >= ENOUGH).then_some(spread)
    }
}

/// By standard deviations above the mean.
fn phi(distance: f64) -> f64 {
    if distance < NEAR {
        let odds = distance * (1.597_6 + 0.070_566 * distance * distance);
        return odds.exp().ln_1p() * std::f64::consts::LOG10_E;
    }
    // Laplace's continued fraction of the tail, from its far end; in logarithms, so that nothing underflows.
    let fraction = (1..=TERMS).rev().fold(distance, |below, k| distance + f64::from(k) / below);
    let density = distance * distance / 2.0 + std::f64::consts::TAU.ln() / 2.0;
    (density + fraction.ln()) * std::f64::consts::LOG10_E
}

/// The inverse, which rises with it: halving an interval 50 times finds it.
fn distance(threshold: f64) -> f64 {
    let (mut low, mut high) = (-10.0, 100.0);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        if phi(middle) < threshold {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_is_the_tail_of_the_normal_distribution() {
        // -log10(1 - F(x)) of the normal distribution, from tables.
        for (at, expected) in
            [(0.0, 0.301), (1.0, 0.799), (1.499, 1.174), (1.501, 1.176), (3.0, 2.870), (5.612, 8.0)]
        {
            assert!((phi(at) - expected).abs() < 0.002, "{at}: {}", phi(at));
        }
        assert!(phi(1_000.0).is_finite() && phi(-1_000.0) >= 0.0);
    }

    #[test]
    fn the_limit_is_where_phi_reaches_its_threshold_and_grows_with_the_spread() {
        let fed = |intervals: [u64; 2]| {
            let mut arrivals = Arrivals::default();
            for at in 0..40 {
                arrivals.record(Duration::from_millis(intervals[at % 2]));
            }
            arrivals
        };
        let (steady, shaky) = (fed([1_000, 1_000]), fed([500, 1_500]));
        let limit = steady.limit(8.0).unwrap();
        assert!((steady.phi(limit).unwrap() - 8.0).abs() < 0.01);
        assert!(shaky.limit(8.0).unwrap() > limit * 2);
        assert!(steady.jitter().unwrap() < Duration::from_millis(1));
        assert!(shaky.jitter().unwrap() > Duration::from_millis(400));
    }

    #[test]
    fn a_few_reports_say_nothing() {
        let mut arrivals = Arrivals::default();
        for _ in 0..ENOUGH - 1 {
            arrivals.record(Duration::from_secs(1));
        }
        assert_eq!((arrivals.phi(Duration::from_secs(9)), arrivals.limit(8.0)), (None, None));
    }
}
