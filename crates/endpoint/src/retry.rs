//! How often, and how long, the registry is tried. Pure: the time that has passed and the jitter are given.

use std::time::Duration;

/// When to try again, and when to give up. A try is a connect and its handshake; one without Welcome in 5 seconds has failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryPolicy {
    pace: Pace,
    /// From the first try on; then no more are made.
    end: Duration,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pace {
    /// A pause after each failed try, twice as long as the one before.
    Doubling { first: Duration, most: Duration },
    /// The tries begin so long after the first one.
    Fixed(&'static [Duration]),
}

/// What comes after a failed try.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Another one, so long from now.
    Try(Duration),
    /// Nothing any more; it is over so long from now.
    GiveUp(Duration),
}

/// Three tries 5 seconds apart, three times, with 10 seconds between them: what SAMGR's endpoints did.
const SEED: [Duration; 9] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(25),
    Duration::from_secs(30),
    Duration::from_secs(40),
    Duration::from_secs(45),
    Duration::from_secs(50),
];

impl RetryPolicy {
    /// After 50 ms, doubling up to 5 s, 60 s in all.
    pub const DEFAULT: Self =
        Self::doubling(Duration::from_millis(50), Duration::from_secs(5), Duration::from_secs(60));

    /// Nine tries, at 0, 5, 10, 20, 25, 30, 40, 45 and 50 s; over at 60 s.
    pub const SEED: Self = Self { pace: Pace::Fixed(&SEED), end: Duration::from_secs(60) };

    /// A pause of `first` after the first failed try, then twice as long each time up to `most`; over after `end`.
    #[must_use]
    pub const fn doubling(first: Duration, most: Duration, end: Duration) -> Self {
        Self { pace: Pace::Doubling { first, most }, end }
    }

    /// What comes after `made` tries (at least one), the last of which failed `elapsed` after the first one began.
    /// `jitter` spreads those who began together: 0 to 255 lengthen a doubling pause by up to an eighth.
    #[must_use]
    pub fn next(&self, made: u32, elapsed: Duration, jitter: u8) -> Next {
        let give_up = Next::GiveUp(self.end.saturating_sub(elapsed));
        let pause = match self.pace {
            Pace::Doubling { first, most } => {
                let doublings = made.saturating_sub(1).min(31);
                let pause = first.saturating_mul(1 << doublings).min(most);
                pause + pause / 8 * u32::from(jitter) / 255
            }
            Pace::Fixed(times) => {
                let at = usize::try_from(made).ok().and_then(|made| times.get(made));
                let Some(at) = at else { return give_up };
                at.saturating_sub(elapsed)
            }
        };
        if elapsed + pause >= self.end { give_up } else { Next::Try(pause) }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the tries begin, each taking `lasts`, and when it is over.
    fn run(policy: RetryPolicy, lasts: Duration, jitter: u8) -> (Vec<Duration>, Duration) {
        let (mut clock, mut tries) = (Duration::ZERO, Vec::new());
        loop {
            tries.push(clock);
            clock += lasts;
            let made = u32::try_from(tries.len()).unwrap();
            match policy.next(made, clock, jitter) {
                Next::Try(pause) => clock += pause,
                Next::GiveUp(rest) => return (tries, clock + rest),
            }
        }
    }

    #[test]
    fn the_seed_tries_nine_times_in_a_minute() {
        let seconds = [0, 5, 10, 20, 25, 30, 40, 45, 50].map(Duration::from_secs);
        // Refused at once, after a moment, and after the whole five seconds of a server that says nothing.
        for lasts in [0, 3, 5].map(Duration::from_secs) {
            let (tries, over) = run(RetryPolicy::SEED, lasts, 255);
            assert_eq!(tries, seconds, "a try of {lasts:?}");
            assert_eq!(over, Duration::from_secs(60), "a try of {lasts:?}");
        }
    }

    #[test]
    fn the_default_doubles_up_to_five_seconds_and_ends_after_a_minute() {
        let (tries, over) = run(RetryPolicy::DEFAULT, Duration::ZERO, 0);
        let pauses: Vec<_> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(pauses[..8], [50, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert!(pauses[8..].iter().all(|pause| *pause == 5000), "{pauses:?}");
        assert_eq!(over, Duration::from_secs(60));
    }

    #[test]
    fn jitter_spreads_the_tries_by_at_most_an_eighth() {
        let pause = |jitter| match RetryPolicy::DEFAULT.next(8, Duration::ZERO, jitter) {
            Next::Try(pause) => pause.as_millis(),
            Next::GiveUp(_) => panic!("it has just begun"),
        };
        assert_eq!((pause(0), pause(255)), (5000, 5625));
        assert!((5001..5625).contains(&pause(100)));
    }

    #[test]
    fn more_tries_than_anyone_makes_are_still_counted() {
        assert_eq!(
            RetryPolicy::DEFAULT.next(u32::MAX, Duration::from_secs(3600), 255),
            Next::GiveUp(Duration::ZERO)
        );
    }
}
