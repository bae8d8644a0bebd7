//! What an earlier keeper of this boot left behind: who lives is adopted, who doesn't is lost, its supervisor is ended.

use std::os::fd::AsFd as _;

use protocol::{
    keeper::{Exit, Phase, SLOTS_MAX},
    time::Moment,
};

use crate::{keeper::Keeper, proc};

impl Keeper {
    /// Fills the table from the records.
    pub(crate) fn adopt(&mut self, now: Moment) {
        for number in 0..SLOTS_MAX {
            let Some(record) = self.records.read(number) else { continue };
            let Some(slot) = self.slots.place(number) else { continue };
            slot.used = true;
            slot.inherited = true;
            slot.enters_itself = true;
            slot.state.identity = record.identity;
            slot.state.generation = record.generation;
            slot.state.spawned_at = record.spawned_at;
            if let Some(known) = record.process
                && let Some(pidfd) = known.open()
            {
                slot.state.phase = Phase::Running;
                slot.state.pid = known.pid;
                slot.session = record.session;
                let identity = proc::identify(known.pid, pidfd.as_fd());
                self.records.running(number, known.pid, record.session, identity);
                slot.pidfd = Some(pidfd);
            } else if record.generation > 0 {
                slot.state.exit = Exit::Lost;
                slot.state.exit_generation = record.generation;
                slot.state.exited_at = now;
                self.records.idle(number, record.identity, record.generation);
            }
        }
    }
}
