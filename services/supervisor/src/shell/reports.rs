//! What the keeper reports and acknowledges, handed on to the machine and to whoever waits for it.

use daemon::clock;
use protocol::{
    keeper::{Outcome, Phase, Report, Request as Order, SlotState},
    system::Cause,
};
use rustix::io::Errno;

use super::{Pending, Shell, channel::Received};
use crate::machine::Event;

impl Shell {
    pub(super) fn take_reports(&mut self, reports: &mut Vec<Received>) {
        let mut last = None;
        for received in reports.drain(..) {
            last = Some(received.sequence);
            match received.report {
                Report::Slot(state) => self.slot_changed(state),
                Report::Ack { request, outcome } => self.acknowledged(request, outcome),
                Report::ShutdownWanted { kind } => {
                    tracing::info!("everything is to stop: {kind:?}");
                    let reason = "the keeper got a signal, or ctrl-alt-del was pressed".to_owned();
                    self.end_everything(kind, Cause::Ordered, reason);
                }
                // Only at hand-over, which is behind us.
                Report::Welcome { .. } | Report::Deposit { .. } | Report::HandoverEnd => {}
            }
        }
        if let Some(sequence) = last {
            self.channel.send(&Order::Seen { sequence }, Vec::new());
        }
    }

    fn slot_changed(&mut self, state: SlotState) {
        let known = self.states.insert(state.slot, state);
        let ended = known.is_some_and(|known| known.exit_generation != state.exit_generation);
        if let Some(prepared) = self.workshop.slot(state.slot) {
            if ended {
                prepared.flush_log();
                prepared.probe = None;
            }
            let fresh = known.is_none_or(|known| known.pid != state.pid);
            if fresh && state.phase == Phase::Running {
                prepared.write_pidfile(state.pid);
            }
        }
        self.workshop.key_taken(&state, &mut self.channel);
        self.pipes_changed(state.slot, ended);
        self.look_at_registry(state.slot, state.phase);
        self.machine.handle_event(Event::Slot(state), clock::now());
    }

    fn acknowledged(&mut self, request: u32, outcome: Outcome) {
        let Some(pending) = self.pending.remove(&request) else { return };
        let refused = |slot, errno: i32| Event::SpawnRefused { slot, errno };
        match (pending, outcome) {
            (Pending::Leave, Outcome::Done) => self.leaving = true,
            (Pending::Leave, outcome) => {
                tracing::error!(
                    "the keeper does not leave: {outcome:?}; stopping, so that the next supervisor tries again"
                );
                self.leaving = true;
            }
            (Pending::Notification { slot }, _) => {
                if let (Some(notification), Some(state)) =
                    (self.held.remove(&request), self.states.get(&slot))
                {
                    self.deliver(slot, state.generation, notification);
                }
            }
            (Pending::Freeze { slot, generation }, outcome) => {
                self.may_freeze(slot, generation, outcome);
            }
            (Pending::Suspend { slot, generation }, outcome) => {
                self.suspended(slot, generation, outcome);
            }
            (Pending::Reexec(id), outcome) => {
                self.order(&Order::Starts, Pending::Starts);
                self.answer_outcome(id, outcome);
            }
            (Pending::Watchdog(id), outcome) => self.watchdog_changed(id, outcome),
            (Pending::OwnWatchdog, outcome) => self.watchdog_begun(outcome),
            (Pending::Starts, Outcome::Count(starts)) => self.keeper_starts = starts,
            (Pending::Look { place }, outcome) => self.looked(request, place, outcome),
            (_, Outcome::Done) => {}
            (Pending::Spawn { slot }, outcome) => {
                let errno = match outcome {
                    Outcome::Errno(errno) => errno,
                    Outcome::Full => Errno::AGAIN.raw_os_error(),
                    _ => Errno::STALE.raw_os_error(),
                };
                self.machine.handle_event(refused(slot, errno), clock::now());
            }
            (Pending::Define { slot }, outcome) => {
                tracing::error!(
                    "{}: the keeper refused its definition: {outcome:?}",
                    self.owner(slot)
                );
            }
            (Pending::Main { slot }, outcome) => tracing::warn!(
                "{}: the process that it named as its main one is not taken: {outcome:?}",
                self.owner(slot)
            ),
            (Pending::Other(what), outcome) => tracing::debug!("keeper: {what}: {outcome:?}"),
            (Pending::Starts, outcome) => tracing::debug!("keeper: starts: {outcome:?}"),
        }
    }
}
