//! Who installs: one at a time. A transfer belongs to the connection that began it. Where that has ended, its owner has a
//! minute to come back before others may begin; where it has only fallen silent, its owner may go on over another one.
//! Decides only; the writer has the transfer itself.

use std::time::Duration;

use protocol::{
    failure::{Code, Failure},
    time::Moment,
};
use serde_json::json;

/// How long a transfer without a connection is kept for its owner.
const KEPT: Duration = Duration::from_secs(60);
/// A connection that said nothing for so long may be one that was cut and does not know it yet.
const SILENT: Duration = Duration::from_secs(5);

/// A connection: of which server, and which of its.
pub(super) type Line = (u64, u64);

/// Who has the transfer.
#[derive(Debug, Default)]
pub(super) struct Hold(Option<Held>);

#[derive(Debug)]
struct Held {
    who: String,
    line: Line,
    /// As the writer names it; nothing while it is asked.
    session: Option<u64>,
    /// Seconds since 1970, for people.
    since: u64,
    heard: Moment,
    left: Option<Moment>,
}

impl Hold {
    /// Somebody wants to begin; from then on it is his. Answers the session that the writer has to leave first.
    ///
    /// # Errors
    /// `busy` with who and since when.
    pub(super) fn begin(
        &mut self,
        who: &str,
        line: Line,
        wall: u64,
        now: Moment,
    ) -> Result<Option<u64>, Failure> {
        let before = match &self.0 {
            None => None,
            Some(held) if held.is_open_to(who, line, now) => held.session,
            Some(held) => return Err(held.busy(now)),
        };
        let who = who.to_owned();
        self.0 = Some(Held { who, line, session: None, since: wall, heard: now, left: None });
        Ok(before)
    }

    /// The writer has begun. `false`: whoever asked for it has left meanwhile, or somebody else has begun.
    pub(super) fn begun(&mut self, line: Line, session: u64) -> bool {
        match &mut self.0 {
            Some(held) if held.line == line => {
                held.session = Some(session);
                held.left.is_none()
            }
            _ => false,
        }
    }

    /// A call of a transfer.
    ///
    /// # Errors
    /// `gone` where the session is not this connection's.
    pub(super) fn goes_on(&mut self, line: Line, session: u64, now: Moment) -> Result<(), Failure> {
        match &mut self.0 {
            Some(held) if held.line == line && held.session == Some(session) => {
                held.heard = now;
                Ok(())
            }
            _ => {
                let text = format!(
                    "session {session} is not under way on this connection; begin again, what was written is used"
                );
                Err(Failure::new(Code::Gone, text))
            }
        }
    }

    /// Some other call: the connection is alive.
    pub(super) fn heard(&mut self, line: Line, now: Moment) {
        if let Some(held) = self.0.as_mut().filter(|held| held.line == line) {
            held.heard = now;
        }
    }

    /// A connection has ended. Answers the session that the writer has to leave.
    pub(super) fn leave(&mut self, line: Line, now: Moment) -> Option<u64> {
        let held = self.0.as_mut().filter(|held| held.line == line && held.left.is_none())?;
        held.left = Some(now);
        held.session
    }

    /// Nothing of this connection is under way any more.
    pub(super) fn done(&mut self, line: Line) {
        if self.0.as_ref().is_some_and(|held| held.line == line) {
            self.0 = None;
        }
    }

    /// Nothing is under way at all.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Whether somebody may give up what is under way.
    ///
    /// # Errors
    /// `denied` where it is another one's, and that one may still come back.
    pub(super) fn may_abort(&self, who: &str, root: bool, now: Moment) -> Result<(), Failure> {
        match &self.0 {
            Some(held) if !root && held.who != who && !held.is_abandoned(now) => {
                let text = format!(
                    "the upgrade is that of {}; ask there, or abort it as root on the device",
                    held.who
                );
                Err(Failure::new(Code::Denied, text))
            }
            _ => Ok(()),
        }
    }
}

impl Held {
    fn is_abandoned(&self, now: Moment) -> bool {
        self.left.is_some_and(|left| now.since(left) >= KEPT)
    }

    fn is_open_to(&self, who: &str, line: Line, now: Moment) -> bool {
        let own = self.who == who;
        // While the writer is asked nobody knows which session it would have to leave.
        let settled = self.session.is_some() || self.left.is_some();
        match self.left {
            Some(_) => own || self.is_abandoned(now),
            None => settled && (self.line == line || own && now.since(self.heard) >= SILENT),
        }
    }

    fn busy(&self, now: Moment) -> Failure {
        let mut details = json!({ "who": self.who, "since": self.since });
        let mut text = format!("{} installs an upgrade", self.who);
        if let Some(left) = self.left {
            let open = KEPT.saturating_sub(now.since(left));
            details["retry_after_ms"] = u64::try_from(open.as_millis()).unwrap_or(u64::MAX).into();
            text.push_str(&format!(
                ", and lost the connection; others may begin in {} s if it does not come back",
                open.as_secs() + 1
            ));
        } else {
            text.push_str("; wait until it is done, or abort it there or as root on the device");
        }
        Failure::new(Code::Busy, text).with_details(details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNA: Line = (1, 1);
    const BOB: Line = (2, 1);

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    fn of_anna() -> Hold {
        let mut hold = Hold::default();
        assert_eq!(hold.begin("anna", ANNA, 7, at(0)), Ok(None));
        assert!(hold.begun(ANNA, 3));
        hold
    }

    #[test]
    fn a_second_one_is_told_who_installs_and_since_when() {
        let mut hold = of_anna();
        let refused = hold.begin("bob", BOB, 9, at(1000)).unwrap_err();
        assert_eq!(refused.code, Code::Busy);
        let details = refused.details.unwrap();
        assert_eq!((&details["who"], &details["since"]), (&json!("anna"), &json!(7)));
    }

    #[test]
    fn only_the_connection_that_began_goes_on() {
        let mut hold = of_anna();
        assert_eq!(hold.goes_on(ANNA, 3, at(1)), Ok(()));
        for (line, session) in [(BOB, 3), (ANNA, 2), ((1, 2), 3)] {
            assert_eq!(hold.goes_on(line, session, at(1)).unwrap_err().code, Code::Gone);
        }
    }

    #[test]
    fn a_lost_connection_keeps_its_place_for_a_minute_and_its_owner_takes_it_at_once() {
        let mut hold = of_anna();
        assert_eq!(hold.leave(BOB, at(9)), None);
        assert_eq!(hold.leave(ANNA, at(10)), Some(3));
        assert_eq!(hold.leave(ANNA, at(11)), None);
        let refused = hold.begin("bob", BOB, 0, at(69)).unwrap_err();
        assert_eq!(refused.details.unwrap()["retry_after_ms"], 1000);
        assert!(hold.begin("anna", (1, 2), 0, at(12)).is_ok());
        let mut hold = of_anna();
        hold.leave(ANNA, at(10));
        assert!(hold.begin("bob", BOB, 0, at(70)).is_ok());
    }

    #[test]
    fn the_same_owner_goes_on_over_another_connection_only_where_the_first_fell_silent() {
        let mut hold = of_anna();
        assert_eq!(hold.goes_on(ANNA, 3, at(10)), Ok(()));
        assert!(hold.begin("anna", (1, 2), 0, at(14)).is_err());
        hold.heard(ANNA, at(14));
        assert!(hold.begin("anna", (1, 2), 0, at(18)).is_err());
        assert_eq!(hold.begin("anna", (1, 2), 0, at(19)), Ok(Some(3)));
        // The end of the first one is heard of later, and means nothing any more.
        assert_eq!(hold.leave(ANNA, at(20)), None);
        assert!(hold.begun((1, 2), 4));
    }

    #[test]
    fn who_left_before_the_writer_answered_has_begun_nothing() {
        let mut hold = Hold::default();
        assert_eq!(hold.begin("anna", ANNA, 0, at(0)), Ok(None));
        assert!(hold.begin("bob", BOB, 0, at(100)).is_err());
        assert_eq!(hold.leave(ANNA, at(1)), None);
        assert!(!hold.begun(ANNA, 3));
    }

    #[test]
    fn its_owner_and_root_may_abort_and_others_once_it_is_abandoned() {
        let mut hold = of_anna();
        assert!(hold.may_abort("anna", false, at(1)).is_ok());
        assert!(hold.may_abort("uid 0", true, at(1)).is_ok());
        assert_eq!(hold.may_abort("bob", false, at(1)).unwrap_err().code, Code::Denied);
        hold.leave(ANNA, at(1));
        assert!(hold.may_abort("bob", false, at(60)).is_err());
        assert!(hold.may_abort("bob", false, at(61)).is_ok());
    }
}
