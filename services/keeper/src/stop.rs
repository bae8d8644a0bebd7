//! The end of everything: asked of the supervisor, done by the keeper itself where there is none, forced when time is up.
//!
//! ```text
//!   No --> Asked --> Leaving ----> Killing --> the keeper ends
//!    |        +-------- time is up ---^  ^
//!    +--> Terminating -------------------+
//! ```

use std::{os::fd::AsFd as _, time::Duration};

use protocol::{
    keeper::{Phase, ShutdownKind},
    time::Moment,
};

use crate::{keeper::Keeper, say::say, slot::Slot, sys, tree};

/// After being asked to stop everything the supervisor has this long.
const STOP_TIME: Duration = Duration::from_secs(90);
/// So many failures before a hand-over, and the keeper stops everything itself.
const FAILURES_TO_STOP_ALONE: u32 = 3;
/// Between SIGTERM and SIGKILL where the keeper stops everything itself, and the wait for what was killed.
const KILL_TIME: Duration = Duration::from_secs(5);

/// How far the end of everything is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    No,
    /// The supervisor is asked to stop everything.
    Asked {
        kind: ShutdownKind,
        told: bool,
        deadline: Moment,
    },
    /// The supervisor has stopped everything and may leave.
    Leaving {
        kind: ShutdownKind,
        code: u8,
        deadline: Moment,
    },
    /// There is no supervisor: the keeper has sent SIGTERM to all.
    Terminating {
        kind: ShutdownKind,
        deadline: Moment,
    },
    /// SIGKILL was sent to all.
    Killing {
        kind: ShutdownKind,
        code: u8,
        deadline: Moment,
    },
}

impl Keeper {
    /// Somebody wants everything stopped; who says so twice is in a hurry.
    pub(crate) fn stop_wanted(&mut self, kind: ShutdownKind, now: Moment) {
        match self.stop {
            Stop::No if self.life.lives() => {
                self.stop = Stop::Asked { kind, told: false, deadline: now + STOP_TIME };
            }
            Stop::No => {
                self.signal_everything(libc::SIGTERM);
                self.stop = Stop::Terminating { kind, deadline: now + KILL_TIME };
            }
            Stop::Asked { .. } | Stop::Terminating { .. } => self.kill_everything(kind, 0, now),
            Stop::Leaving { .. } | Stop::Killing { .. } => {}
        }
    }

    pub(crate) fn kill_everything(&mut self, kind: ShutdownKind, code: u8, now: Moment) {
        self.signal_everything(libc::SIGKILL);
        if self.life.lives() {
            // An unreaped child: the pid is its own.
            let _ = sys::kill(self.life.pid, libc::SIGKILL);
        }
        self.stop = Stop::Killing { kind, code, deadline: now + KILL_TIME };
    }

    /// The supervisor said that everything is stopped.
    pub(crate) fn leave(&mut self, kind: ShutdownKind, code: u8, now: Moment) {
        self.stop = Stop::Leaving { kind, code, deadline: now + KILL_TIME };
    }

    /// A supervisor that was asked to stop everything and fails again and again never will.
    pub(crate) fn stop_alone_if_it_keeps_failing(&mut self, now: Moment) {
        if let Stop::Asked { kind, .. } = self.stop
            && self.life.failures >= FAILURES_TO_STOP_ALONE
        {
            self.life.start_at = None;
            self.stop = Stop::No;
            self.stop_wanted(kind, now);
        }
    }

    /// Nothing is answered any more, and whatever lives gets this signal.
    fn signal_everything(&mut self, signal: i32) {
        let all = |_: &Slot| true;
        self.slots.each(all, |slot| {
            slot.dispose(Default::default());
            if slot.lives() {
                tree::signal_all(slot, signal);
            }
        });
    }

    /// When [`Keeper::handle_stop`] has to be asked again.
    pub(crate) fn stop_deadline(&self) -> Option<Moment> {
        match self.stop {
            Stop::No => None,
            Stop::Asked { deadline, .. }
            | Stop::Leaving { deadline, .. }
            | Stop::Terminating { deadline, .. }
            | Stop::Killing { deadline, .. } => Some(deadline),
        }
    }

    /// `Some`: everything has ended, and so does the keeper, with this code.
    pub(crate) fn handle_stop(&mut self, now: Moment) -> Option<u8> {
        let rest = |slot: &Slot| matches!(slot.state.phase, Phase::Idle | Phase::Waiting);
        let quiet = || !self.life.lives() && self.slots.iter().all(rest);
        match self.stop {
            Stop::No => None,
            Stop::Asked { kind, deadline, .. } => {
                if deadline <= now {
                    say!("the supervisor has not stopped everything in time: all is killed");
                    self.kill_everything(kind, 1, now);
                }
                None
            }
            Stop::Leaving { kind, code, deadline } => {
                if self.life.lives() && now < deadline {
                    return None;
                }
                self.kill_everything(kind, code, now);
                // Usually nothing is left, and nothing would wake us again.
                self.handle_stop(now)
            }
            Stop::Terminating { kind, deadline } => {
                if !quiet() && now < deadline {
                    return None;
                }
                self.kill_everything(kind, 0, now);
                self.handle_stop(now)
            }
            Stop::Killing { kind, code, deadline } => {
                if !quiet() && now < deadline {
                    return None;
                }
                if let Some(pid_one) = self.pid_one {
                    let (machine, feeding) = (self.machine.as_ref(), self.feeding.take());
                    pid_one.end_machine(kind, machine, feeding, self.signals.as_fd());
                }
                Some(code)
            }
        }
    }
}
