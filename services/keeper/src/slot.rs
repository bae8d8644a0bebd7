//! One slot, and what the keeper decides about it: who answers an exit, what comes after emptying, how long
//! to wait. Decides only; it makes no system call and reads no clock.
//!
//! ```text
//!            spawn            exec'd             main process ended
//!   Idle ----------> Executing ----> Running ---------------------> Emptying ----> Idle
//!     ^                  |                                           |  ^ |
//!     |                  | failed                          10 s over |  | | empty, to be answered
//!     +------------------+                                           v  | v
//!                                                           Unkillable -+ Waiting --> Executing
//! ```

use std::{os::fd::OwnedFd, time::Duration};

use protocol::{
    keeper::{Disposition, Exit, Phase, SlotState, Stage},
    time::Moment,
};

/// A tree that doesn't die within this time is called unkillable.
pub(crate) const UNKILLABLE_AFTER: Duration = Duration::from_secs(10);
/// How often an unkillable tree is looked at.
const UNKILLABLE_LOOK: Duration = Duration::from_secs(1);
/// Bounds of the time between two looks at a dying tree.
const LOOK_MIN: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(200);
/// An upgrade that writes the program may hold it open this long (`ETXTBSY`).
const BUSY_PROGRAM: Duration = Duration::from_secs(2);
/// How often a spawn that met a busy program or a held lock is tried again.
pub(crate) const TRY_AGAIN: Duration = Duration::from_millis(50);
/// A lock that is still held after so many rounds of emptying is held by something that is not ours to kill.
const LOCK_TRIES: u8 = 4;

/// What becomes of a slot once nothing of it is left.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum After {
    #[default]
    Rest,
    /// A new generation, spawned by the keeper alone.
    Respawn { at: Moment },
    /// The same generation once more: its lock was held.
    Retry,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Slot {
    /// What is reported.
    pub(crate) state: SlotState,
    /// Defined, or known from the records.
    pub(crate) used: bool,
    pub(crate) disposition: Disposition,
    /// The state must be reported.
    pub(crate) changed: bool,
    pub(crate) after: After,
    /// When time alone makes something happen here.
    pub(crate) due: Option<Moment>,
    /// When emptying began.
    pub(crate) emptying_since: Moment,
    pub(crate) lock_tries: u8,
    /// The session that the main process led when it was spawned.
    pub(crate) session: i32,
    /// Out-of-memory kills of the cgroup when the generation was spawned.
    pub(crate) oom_kills: u32,
    /// What the error pipe said, until the child has ended.
    pub(crate) failure: Option<(Stage, i32)>,
    /// Its processes may have been orphaned by an earlier keeper: their parent says nothing.
    pub(crate) inherited: bool,
    /// The cgroup has been killed as a whole once. What CLONE_INTO_CGROUP puts into such a group afterwards was seen to be
    /// killed at once too (kernel 6.18), so the child enters it by itself.
    pub(crate) enters_itself: bool,
    /// The plan's program is started by `vestal-exec`.
    pub(crate) has_executor: bool,
    /// The sealed spawn plan.
    pub(crate) plan: Option<OwnedFd>,
    pub(crate) cgroup: Option<OwnedFd>,
    /// A main process that is not our child.
    pub(crate) pidfd: Option<OwnedFd>,
    /// The error pipe of an executor at work.
    pub(crate) errors: Option<OwnedFd>,
    /// Its log pipes, stdout's and stderr's, while the keeper drains them.
    pub(crate) logs: [Option<OwnedFd>; 2],
}

impl Slot {
    pub(crate) fn free(slot: u32) -> Self {
        Self {
            state: SlotState {
                slot,
                identity: 0,
                generation: 0,
                phase: Phase::Idle,
                pid: 0,
                suspended: false,
                spawned_at: Moment(0),
                exit: Exit::None,
                exit_generation: 0,
                exited_at: Moment(0),
                answered_alone: false,
                oom: false,
            },
            used: false,
            disposition: Disposition::default(),
            changed: false,
            after: After::Rest,
            due: None,
            emptying_since: Moment(0),
            lock_tries: 0,
            session: 0,
            oom_kills: 0,
            failure: None,
            inherited: false,
            enters_itself: false,
            has_executor: false,
            plan: None,
            cgroup: None,
            pidfd: None,
            errors: None,
            logs: [None, None],
        }
    }

    /// Whether a main process is there.
    pub(crate) fn lives(&self) -> bool {
        matches!(self.state.phase, Phase::Executing | Phase::Running)
    }

    /// Whether a spawn may begin now.
    pub(crate) fn may_spawn(&self, expected: u32) -> bool {
        self.state.generation == expected
            && matches!(self.state.phase, Phase::Idle | Phase::Waiting)
    }

    /// A new generation begins; the attempt follows.
    pub(crate) fn begin(&mut self, now: Moment, alone: bool) {
        self.state.generation = self.state.generation.wrapping_add(1);
        self.state.spawned_at = now;
        self.state.answered_alone = alone;
        self.state.suspended = false;
        self.state.phase = Phase::Executing;
        self.lock_tries = 0;
        self.after = After::Rest;
        self.due = None;
        self.changed = true;
    }

    /// The main process is there; `executing` while an executor has not exec'd the program yet.
    pub(crate) fn started(&mut self, pid: i32, executing: bool) {
        self.state.pid = pid;
        self.session = pid;
        self.state.phase = if executing { Phase::Executing } else { Phase::Running };
        self.failure = None;
        self.due = None;
        self.changed = true;
    }

    /// Whether a failed attempt is made again without being a new generation; the next one is due then.
    pub(crate) fn try_again(&mut self, failure: (Stage, i32), now: Moment) -> bool {
        let again = match failure {
            (Stage::Lock, libc::EWOULDBLOCK) => {
                self.lock_tries += 1;
                self.lock_tries < LOCK_TRIES
            }
            (Stage::Exec, libc::ETXTBSY) => now.since(self.state.spawned_at) < BUSY_PROGRAM,
            _ => false,
        };
        if again {
            self.after = After::Retry;
            self.state.pid = 0;
        }
        again
    }

    /// The main process is gone, or never came to be: notes how, and decides who answers.
    pub(crate) fn ended(&mut self, exit: Exit, now: Moment, supervised: bool) {
        self.state.exit = exit;
        self.state.exit_generation = self.state.generation;
        self.state.exited_at = now;
        self.state.pid = 0;
        self.state.suspended = false;
        self.failure = None;
        self.changed = true;
        self.after = match self.answer(exit, supervised) {
            Some(delay) => After::Respawn { at: now + delay },
            None => After::Rest,
        };
    }

    /// The delay after which the keeper alone answers this exit.
    fn answer(&mut self, exit: Exit, supervised: bool) -> Option<Duration> {
        let answered = match exit {
            Exit::Code(0) => self.disposition.on_success,
            Exit::Code(_) | Exit::Signal { .. } | Exit::Lost => true,
            // What can't be spawned won't be by trying at once; the supervisor knows how slowly to try.
            Exit::None | Exit::SpawnFailed { .. } => false,
        };
        if !answered {
            return None;
        }
        let armed = self.disposition.armed_after_ms.take();
        let alone = self.disposition.alone_after_ms.filter(|_| !supervised);
        armed.or(alone).map(|ms| Duration::from_millis(ms.into()))
    }

    /// Something may be left: it is looked at now, and again until nothing is.
    pub(crate) fn empty(&mut self, now: Moment) {
        self.state.phase = Phase::Emptying;
        self.emptying_since = now;
        self.due = Some(now);
        self.changed = true;
    }

    /// Something was left: when to look again.
    pub(crate) fn still_there(&mut self, now: Moment) {
        let since = now.since(self.emptying_since);
        let pause = if since < UNKILLABLE_AFTER {
            (since / 2).clamp(LOOK_MIN, LOOK_MAX)
        } else {
            if self.state.phase != Phase::Unkillable {
                self.state.phase = Phase::Unkillable;
                self.changed = true;
            }
            UNKILLABLE_LOOK
        };
        self.due = Some(now + pause);
    }

    /// Nothing is left.
    pub(crate) fn settled(&mut self, now: Moment) {
        // Without members a session's number is free to be somebody else's.
        self.session = 0;
        (self.state.phase, self.due) = match self.after {
            After::Rest => (Phase::Idle, None),
            After::Respawn { at } => (Phase::Waiting, Some(at)),
            After::Retry => (Phase::Executing, Some(now + TRY_AGAIN)),
        };
        self.changed = true;
    }

    /// A new disposition; one that answers nothing ends a wait.
    pub(crate) fn dispose(&mut self, disposition: Disposition) {
        self.disposition = disposition;
        if disposition.armed_after_ms.or(disposition.alone_after_ms).is_some() {
            return;
        }
        if matches!(self.after, After::Respawn { .. }) {
            self.after = After::Rest;
        }
        if self.state.phase == Phase::Waiting {
            self.state.phase = Phase::Idle;
            self.due = None;
            self.changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRASH: Exit = Exit::Signal { signal: 11, core: false };

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn running(disposition: Disposition) -> Slot {
        let mut slot = Slot::free(3);
        slot.used = true;
        slot.disposition = disposition;
        slot.begin(at(0), false);
        slot.started(100, false);
        slot
    }

    #[test]
    fn an_armed_slot_answers_one_crash_alone_and_is_disarmed_then() {
        let armed = Disposition { armed_after_ms: Some(5), ..Disposition::default() };
        let mut slot = running(armed);
        slot.ended(CRASH, at(10), true);
        assert_eq!(slot.after, After::Respawn { at: at(15) });
        slot.settled(at(11));
        assert_eq!((slot.state.phase, slot.due), (Phase::Waiting, Some(at(15))));

        slot.begin(at(15), true);
        slot.started(101, false);
        assert!(slot.state.answered_alone);
        slot.ended(CRASH, at(20), true);
        assert_eq!((slot.after, slot.state.generation), (After::Rest, 2));
    }

    #[test]
    fn without_a_supervisor_every_crash_is_answered_and_with_one_it_is_the_supervisors() {
        let alone = Disposition { alone_after_ms: Some(100), ..Disposition::default() };
        for (supervised, after) in [(false, After::Respawn { at: at(110) }), (true, After::Rest)] {
            let mut slot = running(alone);
            slot.ended(CRASH, at(10), supervised);
            assert_eq!(slot.after, after);
        }
    }

    #[test]
    fn a_clean_exit_is_answered_only_where_the_disposition_says_so() {
        for (on_success, answered) in [(false, false), (true, true)] {
            let armed = Some(0);
            let mut slot = running(Disposition {
                armed_after_ms: armed,
                on_success,
                ..Disposition::default()
            });
            slot.ended(Exit::Code(0), at(10), true);
            assert_eq!(slot.after != After::Rest, answered);
            assert_eq!(slot.disposition.armed_after_ms.is_none(), answered);
        }
    }

    #[test]
    fn what_cannot_be_spawned_is_not_tried_by_the_keeper() {
        let mut slot = running(Disposition { alone_after_ms: Some(1), ..Disposition::default() });
        slot.ended(Exit::SpawnFailed { stage: Stage::Clone, errno: libc::EAGAIN }, at(1), false);
        assert_eq!(slot.after, After::Rest);
    }

    #[test]
    fn a_held_lock_is_tried_a_few_times_and_a_busy_program_for_two_seconds() {
        let mut slot = running(Disposition::default());
        let lock = (Stage::Lock, libc::EWOULDBLOCK);
        let tries = (0..10).take_while(|_| slot.try_again(lock, at(0))).count();
        assert_eq!(tries, usize::from(LOCK_TRIES) - 1);
        let busy = (Stage::Exec, libc::ETXTBSY);
        assert!(slot.try_again(busy, at(1_999)));
        assert!(!slot.try_again(busy, at(2_000)));
        assert_eq!(slot.state.generation, 1);
    }

    #[test]
    fn a_tree_that_does_not_die_is_called_unkillable_after_ten_seconds() {
        let mut slot = running(Disposition::default());
        slot.ended(CRASH, at(0), true);
        slot.empty(at(0));
        slot.still_there(at(0));
        assert_eq!(slot.due, Some(at(2)));
        slot.still_there(at(9_999));
        assert_eq!((slot.state.phase, slot.due), (Phase::Emptying, Some(at(10_199))));
        slot.still_there(at(10_000));
        assert_eq!((slot.state.phase, slot.due), (Phase::Unkillable, Some(at(11_000))));
        slot.settled(at(12_000));
        assert_eq!(slot.state.phase, Phase::Idle);
    }

    #[test]
    fn a_disposition_that_answers_nothing_ends_a_wait() {
        let mut slot = running(Disposition { armed_after_ms: Some(50), ..Disposition::default() });
        slot.ended(CRASH, at(0), true);
        slot.settled(at(0));
        slot.dispose(Disposition::default());
        assert_eq!((slot.state.phase, slot.due), (Phase::Idle, None));
        assert!(slot.may_spawn(1));
    }
}
