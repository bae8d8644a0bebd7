//! Whether a new version proves itself: it may not fail more, take longer, need more memory or hang, compared with what
//! the one before did.

use std::time::Duration;

use protocol::time::Moment;

use super::histogram::Histogram;

/// Calls of the new version before its share of errors or its times say anything.
const CALLS_MIN: u64 = 20;
/// So many errors in a row say something at once.
const FAILURES_IN_A_ROW: u64 = 5;
/// Slower than this by any factor is still fast: a wait for the processor is no fault of the code's.
const FAST: Duration = Duration::from_millis(5);
/// Where the version before had no call to compare with.
const PLAIN_P99: Duration = Duration::from_millis(10);

/// How far it may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    pub(crate) window: Duration,
    /// By how much the share of errors may grow.
    pub(crate) max_errors: f64,
    /// How many times as long as before calls may take.
    pub(crate) max_latency: f64,
    /// By how many bytes the process may grow.
    pub(crate) max_memory: u64,
}

/// What a version did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Deeds {
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    /// Errors since the last call that was none.
    pub(crate) failing: u64,
    /// Of all calls, less what they waited for.
    pub(crate) times: Histogram,
}

/// A version on probation.
#[derive(Clone, Debug)]
pub(crate) struct Probation {
    limits: Limits,
    until: Moment,
    before: Deeds,
    /// Of the process, when it began.
    memory: u64,
}

/// What is said of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// It is too early to say.
    Open,
    Proven,
    /// It has to go, because of this.
    Failed(String),
}

impl Deeds {
    /// One call more, and how long the driver's code ran.
    pub(crate) fn add(&mut self, is_error: bool, took: Duration) {
        self.calls += 1;
        if is_error {
            self.errors += 1;
            self.failing += 1;
        } else {
            self.failing = 0;
        }
        self.times.add(took);
    }

    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
    fn share(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { self.errors as f64 / self.calls as f64 }
    }
}

impl Probation {
    pub(crate) fn new(limits: Limits, before: Deeds, memory: u64, now: Moment) -> Self {
        Self { limits, until: now + limits.window, before, memory }
    }

    /// Judges what the new version did until now.
    pub(crate) fn judge(&self, deeds: &Deeds, memory: u64, now: Moment) -> Verdict {
        let reason = self.errors(deeds).or_else(|| self.slowness(deeds)).or_else(|| {
            let grown = memory.saturating_sub(self.memory);
            let limit = self.limits.max_memory;
            (grown > limit).then(|| {
                format!(
                    "the process grew by {} KiB, max-memory is {} KiB",
                    grown >> 10,
                    limit >> 10
                )
            })
        });
        match reason {
            Some(reason) => Verdict::Failed(reason),
            None if now >= self.until => Verdict::Proven,
            None => Verdict::Open,
        }
    }

    fn errors(&self, deeds: &Deeds) -> Option<String> {
        let (share, before) = (deeds.share(), self.before.share());
        let allowed = before + self.limits.max_errors;
        let too_many = deeds.calls >= CALLS_MIN && share > allowed;
        // Where nothing failed before, a row of failures is no accident.
        let row = deeds.failing >= FAILURES_IN_A_ROW && self.before.errors == 0 && allowed < 1.0;
        (too_many || (row && share > allowed)).then(|| {
            format!(
                "{} of {} calls failed ({:.1} %), before it were {:.1} %, max-errors allows {:.1} % more",
                deeds.errors,
                deeds.calls,
                share * 100.0,
                before * 100.0,
                self.limits.max_errors * 100.0
            )
        })
    }

    fn slowness(&self, deeds: &Deeds) -> Option<String> {
        if deeds.times.total() < CALLS_MIN {
            return None;
        }
        let p99 = deeds.times.p99()?;
        // Too few calls before are as good as none.
        let known = Some(&self.before.times).filter(|times| times.total() >= CALLS_MIN);
        let before = known.and_then(Histogram::p99).unwrap_or(PLAIN_P99);
        let limit = before.mul_f64(self.limits.max_latency).max(FAST);
        (p99 > limit).then(|| {
            format!(
                "99 of 100 calls take up to {p99:?}, before it were {before:?}, max-latency allows {limit:?}"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        window: Duration::from_secs(30),
        max_errors: 0.05,
        max_latency: 10.0,
        max_memory: 1 << 20,
    };
    const START: Moment = Moment(0);
    const SOON: Moment = Moment(1_000_000_000);

    fn deeds(good: u64, bad: u64, took: Duration) -> Deeds {
        let mut deeds = Deeds::default();
        (0..bad).for_each(|_| deeds.add(true, took));
        (0..good).for_each(|_| deeds.add(false, took));
        deeds
    }

    fn probation() -> Probation {
        Probation::new(LIMITS, deeds(1000, 0, Duration::from_micros(20)), 5 << 20, START)
    }

    fn failed(verdict: Verdict) -> String {
        match verdict {
            Verdict::Failed(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_version_that_does_well_is_proven_when_its_time_is_over() {
        let good = deeds(500, 0, Duration::from_micros(25));
        assert_eq!(probation().judge(&good, 5 << 20, SOON), Verdict::Open);
        assert_eq!(probation().judge(&good, 5 << 20, START + LIMITS.window), Verdict::Proven);
    }

    #[test]
    fn a_version_that_nobody_calls_is_proven_too() {
        let end = START + LIMITS.window;
        assert_eq!(probation().judge(&Deeds::default(), 5 << 20, end), Verdict::Proven);
    }

    #[test]
    fn more_errors_than_before_end_it() {
        let verdict = probation().judge(&deeds(90, 10, Duration::ZERO), 0, SOON);
        let told = failed(verdict);
        assert!(
            told.contains("10 of 100 calls failed (10.0 %)") && told.contains("max-errors"),
            "{told}"
        );
        let few = deeds(97, 3, Duration::ZERO);
        assert_eq!(probation().judge(&few, 0, SOON), Verdict::Open);
    }

    #[test]
    fn what_failed_before_may_go_on_failing() {
        let before = deeds(50, 50, Duration::ZERO);
        let probation = Probation::new(LIMITS, before, 0, START);
        assert_eq!(probation.judge(&deeds(48, 52, Duration::ZERO), 0, SOON), Verdict::Open);
        let worse = deeds(10, 90, Duration::ZERO);
        failed(probation.judge(&worse, 0, SOON));
    }

    #[test]
    fn one_error_says_nothing_yet_and_five_in_a_row_do() {
        assert_eq!(probation().judge(&deeds(0, 1, Duration::ZERO), 0, SOON), Verdict::Open);
        assert_eq!(probation().judge(&deeds(0, 4, Duration::ZERO), 0, SOON), Verdict::Open);
        failed(probation().judge(&deeds(0, 5, Duration::ZERO), 0, SOON));
    }

    #[test]
    fn calls_that_take_many_times_as_long_end_it() {
        let told = failed(probation().judge(&deeds(50, 0, Duration::from_millis(20)), 0, SOON));
        assert!(told.contains("max-latency"), "{told}");
        let noise = deeds(50, 0, Duration::from_millis(3));
        assert_eq!(probation().judge(&noise, 0, SOON), Verdict::Open, "still fast");
        let few = deeds(5, 0, Duration::from_secs(1));
        assert_eq!(probation().judge(&few, 0, SOON), Verdict::Open, "too few to say");
    }

    #[test]
    fn memory_that_grows_ends_it() {
        let good = deeds(500, 0, Duration::ZERO);
        assert_eq!(probation().judge(&good, 6 << 20, SOON), Verdict::Open);
        let told = failed(probation().judge(&good, (6 << 20) + 1024, SOON));
        assert!(told.contains("max-memory is 1024 KiB"), "{told}");
    }
}
