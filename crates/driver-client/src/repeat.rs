//! What follows a try that brought no answer: another one, or the end. Decides only; sleeps and sends nothing.
//!
//! A try that may have reached the host is made again with the same sequence: the host knows by it what was done already. So
//! nothing here asks whether a call may be repeated, only whether a repetition can help.

use std::{io, time::Duration};

use protocol::failure::{Code, Failure};

/// Between two tries, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Tries of a call without a deadline: some minutes of a host that dies again and again.
const TRIES_MAX: u32 = 1000;

/// How a try ended.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No connection came about: nothing was sent.
    Unreachable(io::Error),
    /// The connection ended; nobody knows how far it came.
    Lost,
    /// Connected, but the object is not served yet, or no longer.
    Absent,
    /// The host said why not: it was not carried out.
    Refused(Failure),
    /// The time is over.
    Late,
    /// Not our protocol.
    Violation(String),
}

/// What to do about it.
#[derive(Debug)]
pub(crate) enum Next {
    /// Again, after this time.
    Again(Duration),
    End(Trouble),
}

/// One call's tries.
#[derive(Debug)]
pub(crate) struct Tries {
    pause: Duration,
    /// How long somebody who is not there at all is waited for.
    patience: Duration,
    made: u32,
}

impl Tries {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { pause: PAUSE_MIN, patience, made: 0 }
    }

    /// After a try that ended so; `away` is how long nobody has been there.
    pub(crate) fn after(&mut self, trouble: Trouble, away: Duration) -> Next {
        self.made += 1;
        let helps = match &trouble {
            _ if self.made >= TRIES_MAX => false,
            Trouble::Lost => true,
            // A host that is started again keeps its socket; who has none is not started at all.
            Trouble::Unreachable(_) | Trouble::Absent => away < self.patience,
            Trouble::Refused(failure) => match failure.code {
                // An endpoint that drains before it ends, or a generation that has ended.
                Code::Gone => away < self.patience,
                Code::Busy => true,
                _ => false,
            },
            Trouble::Late | Trouble::Violation(_) => false,
        };
        if !helps {
            return Next::End(trouble);
        }
        let pause = self.pause.max(asked(&trouble)).min(PAUSE_MAX);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Next::Again(pause)
    }
}

/// How long the host wants to be left alone.
fn asked(trouble: &Trouble) -> Duration {
    let Trouble::Refused(failure) = trouble else { return Duration::ZERO };
    let details = failure.details.as_ref();
    let ms = details.and_then(|details| details["retry_after_ms"].as_u64());
    Duration::from_millis(ms.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn refused(code: Code) -> Trouble {
        Trouble::Refused(Failure::new(code, "no"))
    }

    fn again(trouble: Trouble, away: Duration) -> bool {
        matches!(Tries::new(PATIENCE).after(trouble, away), Next::Again(_))
    }

    #[test]
    fn what_was_lost_is_tried_again_however_long_it_takes() {
        assert!(again(Trouble::Lost, PATIENCE * 100));
        assert!(again(refused(Code::Busy), PATIENCE * 100));
    }

    #[test]
    fn who_is_not_there_is_waited_for_with_patience_only() {
        let missing = Trouble::Unreachable(io::ErrorKind::NotFound.into());
        for trouble in [Trouble::Absent, missing, refused(Code::Gone)] {
            assert!(again(trouble, PATIENCE / 2));
        }
        assert!(!again(Trouble::Absent, PATIENCE));
        assert!(!again(refused(Code::Gone), PATIENCE));
    }

    #[test]
    fn even_a_call_without_a_deadline_is_given_up_at_last() {
        let mut tries = Tries::new(PATIENCE);
        let ended = (0..=TRIES_MAX)
            .position(|_| matches!(tries.after(Trouble::Lost, Duration::ZERO), Next::End(_)));
        assert_eq!(ended, Some(TRIES_MAX as usize - 1));
    }

    #[test]
    fn a_no_is_a_no() {
        for code in [Code::Denied, Code::NotFound, Code::InvalidArgument, Code::Failed, Code::Limit]
        {
            assert!(!again(refused(code), Duration::ZERO), "{code:?}");
        }
        assert!(!again(Trouble::Late, Duration::ZERO));
        assert!(!again(Trouble::Violation(String::new()), Duration::ZERO));
    }

    #[test]
    fn a_busy_host_is_left_alone_as_long_as_it_asks_within_the_limit() {
        let busy = |ms: u64| {
            let failure =
                Failure::new(Code::Busy, "full").with_details(json!({ "retry_after_ms": ms }));
            Tries::new(PATIENCE).after(Trouble::Refused(failure), Duration::ZERO)
        };
        assert!(matches!(busy(50), Next::Again(pause) if pause == Duration::from_millis(50)));
        assert!(matches!(busy(u64::MAX), Next::Again(pause) if pause == PAUSE_MAX));
    }

    proptest! {
        #[test]
        fn pauses_grow_and_stay_within_their_limits(tries in 1_usize..40) {
            let mut all = Tries::new(PATIENCE);
            let mut before = Duration::ZERO;
            for _ in 0..tries {
                let Next::Again(pause) = all.after(Trouble::Lost, Duration::ZERO) else { panic!() };
                prop_assert!(pause >= before && pause >= PAUSE_MIN && pause <= PAUSE_MAX);
                before = pause;
            }
        }
    }
}
