//! How many lines one sender may fill the log with: a token bucket each.
//!
//! A sender that has used up its burst is silenced until a second's worth of lines has come together, and then told how
//! many were dropped: one remark a second, not one a line. Reads no clock and knows no store.

use std::{collections::HashMap, sync::Arc, time::Duration};

use protocol::time::Moment;

/// Senders that are counted one by one; all others share a bucket.
const SENDERS_MAX: usize = 4096;
/// The name of the bucket that is shared.
const OTHERS: &str = "other senders\n";
/// How long a sender that was silenced waits at most.
const REFILL: Duration = Duration::from_secs(1);

/// A rate and a burst, in lines and lines a second.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

/// The rates as they were configured; `None` is no limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rates {
    pub(crate) default: Option<Rate>,
    pub(crate) services: HashMap<String, Option<Rate>>,
}

/// Lines that a sender was not allowed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Dropped {
    pub(crate) sender: Arc<str>,
    pub(crate) lines: u64,
    pub(crate) rate: Rate,
}

/// All buckets.
#[derive(Debug)]
pub(crate) struct Limiter {
    rates: Rates,
    buckets: HashMap<Arc<str>, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Lines, in millionths.
    tokens: u64,
    filled_at: Moment,
    /// Silenced until then, with so many lines dropped.
    silenced: Option<(Moment, u64)>,
    /// Since the start, those of `silenced` among them.
    dropped: u64,
}

const MILLION: u64 = 1_000_000;

impl Limiter {
    pub(crate) fn new(rates: Rates) -> Self {
        Self { rates, buckets: HashMap::new() }
    }

    /// Other rates from now on; what was dropped stays counted.
    pub(crate) fn set(&mut self, rates: Rates) {
        self.rates = rates;
    }

    /// Whether a line may be kept. Before the first that may be again, it says what was dropped.
    pub(crate) fn admit(&mut self, sender: &Arc<str>, now: Moment) -> (bool, Option<Dropped>) {
        let known = self.buckets.contains_key(sender) || self.buckets.len() < SENDERS_MAX;
        let sender = if known { Arc::clone(sender) } else { OTHERS.into() };
        let Some(rate) = self.rates.of(&sender) else { return (true, self.release(&sender, now)) };
        let bucket = self.buckets.entry(Arc::clone(&sender)).or_insert_with(|| Bucket {
            tokens: u64::from(rate.burst) * MILLION,
            filled_at: now,
            silenced: None,
            dropped: 0,
        });
        bucket.fill(rate, now);
        let mut told = None;
        match bucket.silenced {
            Some((until, lines)) if until <= now => {
                bucket.silenced = None;
                told = Some(Dropped { sender, lines, rate });
            }
            Some((_, ref mut lines)) => {
                *lines += 1;
                bucket.dropped += 1;
                return (false, None);
            }
            None => {}
        }
        if let Some(left) = bucket.tokens.checked_sub(MILLION) {
            bucket.tokens = left;
            return (true, told);
        }
        let until = now + rate.refill();
        bucket.silenced = Some((until, 1));
        bucket.dropped += 1;
        (false, told)
    }

    /// What senders dropped that have been silent since, and may print again.
    pub(crate) fn due(&mut self, now: Moment) -> Vec<Dropped> {
        let over = |bucket: &Bucket| bucket.silenced.is_some_and(|(until, _)| until <= now);
        let senders = self.buckets.iter().filter(|(_, bucket)| over(bucket));
        let senders: Vec<Arc<str>> = senders.map(|(sender, _)| Arc::clone(sender)).collect();
        senders.iter().filter_map(|sender| self.release(sender, now)).collect()
    }

    /// When [`Limiter::due`] has something to say.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.buckets.values().filter_map(|bucket| bucket.silenced).map(|(until, _)| until).min()
    }

    /// Lines dropped since the start, by sender.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let counts = self.buckets.iter().map(|(sender, bucket)| (sender, bucket.dropped));
        counts.filter(|(_, dropped)| *dropped > 0)
    }

    fn release(&mut self, sender: &Arc<str>, now: Moment) -> Option<Dropped> {
        let rate = self.rates.of(sender).unwrap_or(Rate { per_second: 0, burst: 0 });
        let bucket = self.buckets.get_mut(sender)?;
        bucket.fill(rate, now);
        let (_, lines) = bucket.silenced.take()?;
        Some(Dropped { sender: Arc::clone(sender), lines, rate })
    }
}

impl Rates {
    fn of(&self, sender: &str) -> Option<Rate> {
        self.services.get(sender).copied().unwrap_or(self.default)
    }
}

impl Rate {
    /// How long a sender is silenced: until a second's worth, or the burst where that is less, has come together.
    fn refill(self) -> Duration {
        if self.per_second <= self.burst {
            return REFILL;
        }
        REFILL * self.burst.max(1) / self.per_second
    }
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Moment) {
        let passed = now.since(self.filled_at).as_micros();
        let gained =
            u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(rate.per_second.into());
        self.tokens =
            self.tokens.saturating_add(gained).min(u64::from(rate.burst).saturating_mul(MILLION));
        self.filled_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 20 };

    fn limiter() -> Limiter {
        let services = HashMap::from([("free".to_owned(), None)]);
        Limiter::new(Rates { default: Some(RATE), services })
    }

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    #[test]
    fn a_flood_is_cut_to_its_burst_and_then_told_once_a_second() {
        let mut limiter = limiter();
        let web = Arc::from("web");
        let kept = (0..1000).filter(|_| limiter.admit(&web, at(0)).0).count();
        assert_eq!(kept, 20);
        assert_eq!(limiter.next_deadline(), Some(at(1000)));
        assert_eq!(limiter.due(at(999)), []);
        let dropped = Dropped { sender: Arc::clone(&web), lines: 980, rate: RATE };
        assert_eq!(limiter.admit(&web, at(1000)), (true, Some(dropped)));
        let kept = (0..1000).filter(|_| limiter.admit(&web, at(1000)).0).count();
        assert_eq!(kept, 9);
        assert_eq!(limiter.dropped().collect::<Vec<_>>(), [(&web, 980 + 991)]);
    }

    #[test]
    fn who_falls_silent_after_a_flood_is_told_of_all_the_same() {
        let mut limiter = limiter();
        let web = Arc::from("web");
        (0..25).for_each(|_| drop(limiter.admit(&web, at(0))));
        let due = limiter.due(at(1000));
        assert_eq!(due, [Dropped { sender: web, lines: 5, rate: RATE }]);
        assert_eq!((limiter.next_deadline(), limiter.due(at(2000))), (None, Vec::new()));
    }

    #[test]
    fn one_sender_does_not_use_up_another_ones_lines_and_some_have_no_limit() {
        let mut limiter = limiter();
        let (web, cam, free) = (Arc::from("web"), Arc::from("cam"), Arc::from("free"));
        (0..100).for_each(|_| drop(limiter.admit(&web, at(0))));
        assert!(limiter.admit(&cam, at(0)).0);
        assert!((0..1000).all(|_| limiter.admit(&free, at(0)).0));
        limiter.set(Rates { default: None, services: HashMap::new() });
        let (kept, told) = limiter.admit(&web, at(1));
        assert_eq!((kept, told.unwrap().lines), (true, 80));
    }

    #[test]
    fn senders_without_number_share_one_bucket() {
        let mut limiter = limiter();
        for sender in 0..SENDERS_MAX + 100 {
            limiter.admit(&sender.to_string().into(), at(0));
        }
        assert_eq!(limiter.buckets.len(), SENDERS_MAX + 1);
        assert_eq!(limiter.dropped().map(|(_, lines)| lines).sum::<u64>(), 80);
    }
}
