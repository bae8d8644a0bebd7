//! How long to wait before the next respawn, ours and procd's, and when to give up. Never looks at a process.

use std::time::Duration;

use protocol::time::Moment;
use serde::{Deserialize, Serialize};

use super::identity::scatter;
use crate::settings::Respawn;

const DELAY_MIN_MS: u64 = 100;
const DELAY_MAX_MS: u64 = 30_000;
/// A program that can't be executed is not there yet: looking for it more often would only cost.
const EXEC_MIN_MS: u64 = 5_000;
const EXEC_MAX_MS: u64 = 60_000;
/// The system is out of processes or memory: it may be over soon, and nobody crashed.
const REFUSED_MAX_MS: u64 = 5_000;
/// A service that stayed ready this long has earned a fresh start.
pub(crate) const FORGIVE_AFTER: Duration = Duration::from_secs(60);
/// How many delayed respawns the whole system may do in a second.
const RESPAWNS_A_SECOND: u32 = 50;

/// How often an instance ended lately. Survives the supervisor.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Backoff {
    /// Respawns since the last fresh start.
    respawns: u32,
    /// procd's counter: runs in a row that were shorter than the threshold.
    short_runs: u32,
    exec_failures: u32,
    refusals: u32,
    last_delay_ms: u32,
}

/// What follows the end of a process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Respawn { delay: Duration },
    GiveUp { reason: String },
}

impl Backoff {
    /// After a minute of readiness the past is forgiven.
    pub(crate) fn forgive(&mut self, ready_for: Duration) {
        if ready_for >= FORGIVE_AFTER {
            // procd counts by its own threshold.
            *self = Self { short_runs: self.short_runs, ..Self::default() };
        }
    }

    /// Counts a run of length `runtime` that ended by itself and has to be followed by another one.
    pub(crate) fn ended(&mut self, slot: u32, respawn: &Respawn, runtime: Duration) -> Verdict {
        let (max, delay) = match *respawn {
            Respawn::Never => {
                return Verdict::GiveUp { reason: "it is never respawned".to_owned() };
            }
            Respawn::Procd { threshold, timeout, retry } => {
                return self.ended_procd(threshold, timeout, retry, runtime);
            }
            Respawn::Backoff { max_restarts, .. } => (max_restarts, self.own_delay(slot)),
        };
        if max.is_some_and(|max| self.respawns >= max) {
            let reason = format!(
                "it ended {} times, at most {} restarts are allowed",
                self.respawns + 1,
                self.respawns
            );
            return Verdict::GiveUp { reason };
        }
        self.respawns = self.respawns.saturating_add(1);
        self.respawn_after(delay)
    }

    fn ended_procd(
        &mut self,
        threshold: u32,
        timeout: u32,
        retry: u32,
        runtime: Duration,
    ) -> Verdict {
        if runtime.as_secs() < u64::from(threshold) {
            self.short_runs = self.short_runs.saturating_add(1);
        } else {
            self.short_runs = 0;
        }
        if retry > 0 && self.short_runs > retry {
            let reason = format!(
                "it is in a crash loop: {} crashes, {} seconds since the last one",
                self.short_runs,
                runtime.as_secs()
            );
            return Verdict::GiveUp { reason };
        }
        self.respawns = self.respawns.saturating_add(1);
        self.respawn_after(u64::from(timeout) * 1000)
    }

    /// Whether one more crash right now would be followed by a respawn; asked before the keeper may answer alone.
    pub(crate) fn allows_one(&self, respawn: &Respawn) -> bool {
        match *respawn {
            Respawn::Never => false,
            Respawn::Backoff { max_restarts, .. } => max_restarts.is_none_or(|max| max > 0),
            Respawn::Procd { retry, .. } => retry == 0 || self.short_runs < retry,
        }
    }

    fn respawn_after(&mut self, delay_ms: u64) -> Verdict {
        self.last_delay_ms = u32::try_from(delay_ms).unwrap_or(u32::MAX);
        Verdict::Respawn { delay: Duration::from_millis(delay_ms) }
    }

    /// Nothing for the first respawn, then 100 ms doubling to 30 s, up to a tenth more or less.
    fn own_delay(&self, slot: u32) -> u64 {
        if self.respawns == 0 {
            return 0;
        }
        let delay = doubled(DELAY_MIN_MS, self.respawns - 1, DELAY_MAX_MS);
        let spread = delay / 5;
        delay - delay / 10 + scatter(slot, self.respawns) % (spread + 1)
    }

    /// The program could not be executed: 5 s doubling to 60 s, for ever.
    pub(crate) fn exec_failed(&mut self) -> Duration {
        let delay = doubled(EXEC_MIN_MS, self.exec_failures, EXEC_MAX_MS);
        self.exec_failures = self.exec_failures.saturating_add(1);
        Duration::from_millis(delay)
    }

    /// The system had no process for us: 100 ms doubling to 5 s, for ever.
    pub(crate) fn refused(&mut self) -> Duration {
        let delay = doubled(DELAY_MIN_MS, self.refusals, REFUSED_MAX_MS);
        self.refusals = self.refusals.saturating_add(1);
        Duration::from_millis(delay)
    }

    /// The program runs.
    pub(crate) fn executed(&mut self) {
        self.exec_failures = 0;
        self.refusals = 0;
    }

    /// What the keeper waits while no supervisor lives. Never nothing: a crash loop must stay slow without us, too.
    pub(crate) fn alone_ms(&self) -> u32 {
        self.last_delay_ms.max(100)
    }

    /// procd's `respawn_count`.
    pub(crate) fn respawns(&self) -> u32 {
        self.respawns
    }
}

fn doubled(first_ms: u64, times: u32, max_ms: u64) -> u64 {
    // 2^20 times the smallest delay is far beyond every maximum.
    (first_ms << times.min(20)).min(max_ms)
}

/// Limits how many delayed respawns the whole system does in a second. Ordered starts and first respawns don't count.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: u32,
    filled_at: Moment,
}

impl Bucket {
    pub(crate) fn new(now: Moment) -> Self {
        Self { tokens: RESPAWNS_A_SECOND, filled_at: now }
    }

    /// # Errors
    /// When the bucket is empty: the moment to ask again.
    pub(crate) fn take(&mut self, now: Moment) -> Result<(), Moment> {
        let one = Duration::from_secs(1) / RESPAWNS_A_SECOND;
        let gained = now.since(self.filled_at).as_nanos() / one.as_nanos();
        if gained >= u128::from(RESPAWNS_A_SECOND - self.tokens) {
            *self = Self { tokens: RESPAWNS_A_SECOND, filled_at: now };
        } else {
            let gained = u32::try_from(gained).expect("it is less than the bucket holds");
            self.tokens += gained;
            self.filled_at += one * gained;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(self.filled_at + one),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::RespawnWhen;

    const OURS: Respawn = Respawn::Backoff { when: RespawnWhen::OnFailure, max_restarts: None };

    fn delays(respawn: &Respawn, runs: usize) -> Vec<u64> {
        let mut backoff = Backoff::default();
        (0..runs)
            .map_while(|_| match backoff.ended(7, respawn, Duration::from_secs(1)) {
                Verdict::Respawn { delay } => Some(u64::try_from(delay.as_millis()).unwrap()),
                Verdict::GiveUp { .. } => None,
            })
            .collect()
    }

    #[test]
    fn ours_respawns_at_once_then_doubles_to_thirty_seconds() {
        let delays = delays(&OURS, 14);
        assert_eq!(delays[0], 0);
        for (n, delay) in delays[1..].iter().enumerate() {
            let plain = (100u64 << n).min(30_000);
            assert!(
                plain * 9 / 10 <= *delay && *delay <= plain * 11 / 10,
                "delay {n} is {delay} ms"
            );
        }
    }

    #[test]
    fn procd_gives_up_at_the_sixth_short_run() {
        let procd = Respawn::Procd { threshold: 3600, timeout: 5, retry: 5 };
        assert_eq!(delays(&procd, 20), [5000; 5]);
        assert_eq!(delays(&Respawn::Procd { threshold: 3600, timeout: 0, retry: 0 }, 20), [0; 20]);
        assert_eq!(delays(&Respawn::Procd { threshold: 0, timeout: 0, retry: 1 }, 20), [0; 20]);
    }

    #[test]
    fn the_bucket_lets_fifty_a_second_through() {
        let mut now = Moment(1);
        let mut bucket = Bucket::new(now);
        let mut taken = 0;
        let end = now + Duration::from_secs(2);
        while now <= end {
            match bucket.take(now) {
                Ok(()) => taken += 1,
                Err(again) => {
                    assert!(again > now);
                    now = again;
                }
            }
        }
        assert!((149..=151).contains(&taken), "{taken} respawns in two seconds and a full bucket");
    }
}
