//! Whether the machine slept, by its clocks: CLOCK_BOOTTIME goes on where CLOCK_MONOTONIC stands still. Never says that an
//! image was resumed: a suspend looks the same, and a board without an RTC shows nothing.

use std::time::Duration;

use protocol::{autorun::Sleep, time::Moment};

use super::{Engine, Later, Samples, Stage, What};

/// Less is what a failed attempt to sleep makes the clocks differ.
const JUMP: Duration = Duration::from_secs(2);
/// Word of the same wake-up may come so much later from somebody else.
const SAME: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(super) struct Clocks {
    /// By so much they differed when last looked at.
    offset: Duration,
    /// The last wake-up that was answered.
    woke: Option<Moment>,
}

/// A wake-up of no image of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wake {
    pub(super) kind: Sleep,
    pub(super) inferred: bool,
    pub(super) clocks: Samples,
    pub(super) off: Duration,
}

impl Clocks {
    pub(super) fn new(samples: Samples) -> Self {
        Self { offset: offset(samples), woke: None }
    }

    /// How much longer than before the machine was off.
    pub(super) fn look(&mut self, samples: Samples) -> Duration {
        let now = offset(samples);
        let jump = now.saturating_sub(self.offset);
        self.offset = now;
        jump
    }

    pub(super) fn woke(&mut self, now: Moment) {
        self.woke = Some(now);
    }

    fn just_woke(&self, now: Moment) -> bool {
        self.woke.is_some_and(|woke| now.since(woke) < SAME)
    }
}

impl Engine {
    /// A hint, never a proof.
    pub(super) fn clocks_set(&mut self, clocks: Samples, now: Moment) {
        if self.works.values().any(|work| matches!(work.what, What::Write)) {
            // Who writes the image says what came of it.
            return;
        }
        let off = self.clocks.look(clocks);
        if off > JUMP {
            self.wake(Wake { kind: Sleep::Suspend, inferred: true, clocks, off }, now);
        }
    }

    /// Somebody else put the machine to sleep, and says so. Whether it is news.
    pub(super) fn notified(&mut self, kind: Sleep, clocks: Samples, now: Moment) -> bool {
        let off = self.clocks.look(clocks);
        if self.armed && kind == Sleep::Hibernate {
            match self.stage {
                Stage::Armed { .. } => self.resume(clocks, off, now),
                _ => self.remember(Later::Life(clocks)),
            }
            return true;
        }
        if off <= JUMP && self.clocks.just_woke(now) {
            return false;
        }
        self.wake(Wake { kind, inferred: false, clocks, off }, now);
        true
    }

    pub(super) fn wake(&mut self, wake: Wake, now: Moment) {
        self.clocks.woke(now);
        match self.stage {
            Stage::Cold | Stage::Done | Stage::Armed { .. } => self.wake_up(wake, now),
            Stage::Over => {}
            _ => self.remember(Later::Wake(wake)),
        }
    }

    /// One of each kind is enough: the latest.
    fn remember(&mut self, later: Later) {
        let same = |one: &Later| std::mem::discriminant(one) == std::mem::discriminant(&later);
        self.later.retain(|one| !same(one));
        self.later.push_back(later);
    }

    /// What came while something else went on.
    pub(super) fn catch_up(&mut self, now: Moment) {
        if !matches!(self.stage, Stage::Cold | Stage::Done | Stage::Armed { .. }) {
            return;
        }
        match self.later.pop_front() {
            Some(Later::Life(clocks)) if self.armed => {
                self.resume(clocks, Duration::ZERO, now);
            }
            Some(Later::Life(_)) | None => {}
            Some(Later::Wake(wake)) => self.wake_up(wake, now),
        }
    }
}

fn offset(samples: Samples) -> Duration {
    samples.boottime.saturating_sub(samples.monotonic)
}
