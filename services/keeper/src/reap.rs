//! What ends, stops or goes on: children by waitid, adopted processes by their pidfds.

use std::os::fd::AsFd as _;

use protocol::{keeper::Exit, time::Moment};
use rustix::event::epoll::EventFlags;

use crate::{
    keeper::{BATCH, Keeper, Token, spawn_failed},
    proc,
    slot::Slot,
    spawn::{self, Word},
    sys::{self, Fate},
    tree::{self, Left},
};

/// How long an adopted process that has ended may stay a corpse before its end counts as lost.
const CORPSE_TIME: std::time::Duration = std::time::Duration::from_secs(1);

impl Keeper {
    /// Takes the children to which something happened, at most a batch.
    pub(crate) fn reap_children(&mut self, now: Moment) {
        let mut orphans = false;
        for _ in 0..BATCH {
            let Some((pid, fate)) = sys::look_at_child(None, false) else {
                return self.look_again(orphans, now);
            };
            if pid == self.life.pid {
                sys::look_at_child(Some(pid), true);
                if let Fate::Ended(exit) = fate {
                    self.supervisor_ended(exit, now);
                }
                continue;
            }
            let Some(slot) = self.slots.of_pid(pid) else {
                sys::look_at_child(Some(pid), true);
                orphans = true;
                continue;
            };
            let number = slot.state.slot;
            match fate {
                Fate::Ended(exit) => {
                    if slot.cgroup.is_none() && !slot.disposition.main_only && slot.session == pid {
                        tree::kill_group_of_corpse(pid);
                    }
                    sys::look_at_child(Some(pid), true);
                    self.main_ended(number, exit, now);
                }
                Fate::Stopped | Fate::Continued => {
                    slot.state.suspended = fate == Fate::Stopped;
                    slot.changed = true;
                    sys::look_at_child(Some(pid), true);
                }
            }
        }
        self.more = true;
        self.look_again(orphans, now);
    }

    /// Where orphans died, a tree may be empty now.
    fn look_again(&mut self, orphans: bool, now: Moment) {
        if orphans {
            self.slots.each(is_emptying, |slot| slot.due = Some(now));
        }
    }

    /// A main process is gone.
    pub(crate) fn main_ended(&mut self, number: u32, exit: Exit, now: Moment) {
        let supervised = self.life.lives();
        let Some(slot) = self.slots.used(number) else { return };
        let (errors, pidfd) = (slot.errors.take(), slot.pidfd.take());
        if let Some(errors) = &errors
            && let Word::Failed(stage, errno) = spawn::read_errors(errors.as_fd())
        {
            slot.failure = Some((stage, errno));
        }
        self.records.idle(number, slot.state.identity, slot.state.generation);
        match slot.failure.take() {
            Some(failure) => spawn_failed(slot, failure, now),
            None => {
                slot.state.oom = tree::oom_kills(slot) > slot.oom_kills;
                slot.ended(exit, now, supervised);
                if slot.disposition.main_only || tree::quick_look(slot) == Left::Nothing {
                    slot.settled(now);
                } else {
                    slot.empty(now);
                }
            }
        }
        for fd in errors.iter().chain(&pidfd) {
            self.unwatch(fd.as_fd());
        }
    }

    /// The pidfd of a process that was not our child says that it has ended.
    pub(crate) fn adopted_ended(&mut self, number: u32, now: Moment) {
        let Some(slot) = self.slots.used(number) else { return };
        let Some(pidfd) = &slot.pidfd else { return };
        let told = sys::foreign_exit(pidfd.as_fd());
        let corpse = || proc::status_of_corpse(slot.state.pid, pidfd.as_fd());
        let exit = told.as_ref().ok().copied().flatten();
        if let Some(exit) = exit.or_else(|| corpse().map(sys::exit_of)) {
            return self.main_ended(number, exit, now);
        }
        match told {
            // Kernels before 6.15 don't tell.
            Err(_) => self.main_ended(number, Exit::Lost, now),
            Ok(_) => {
                // Its parent has yet to reap it, and we may not look. Only the hang-up that follows is waited for, as
                // "readable" stays true.
                slot.due = Some(now + CORPSE_TIME);
                let token = Token::Process { slot: number, generation: slot.state.generation };
                let pidfd = slot.pidfd.take();
                if let Some(pidfd) = &pidfd {
                    self.rewatch(pidfd.as_fd(), token, EventFlags::empty());
                }
                if let Some(slot) = self.slots.used(number) {
                    slot.pidfd = pidfd;
                }
            }
        }
    }
}

fn is_emptying(slot: &Slot) -> bool {
    use protocol::keeper::Phase::{Emptying, Unkillable};
    matches!(slot.state.phase, Emptying | Unkillable)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use protocol::keeper::Phase;

    use super::*;
    use crate::start::tests::idle_keeper;

    #[test]
    fn row_17_an_out_of_memory_kill_is_told_apart_from_a_crash_by_the_groups_own_count() {
        let (folder, mut keeper) = idle_keeper("oom");
        let group = folder.join("group");
        fs::create_dir(&group).unwrap();
        let count = |kills: u32| {
            let text = format!("low 0\nhigh 0\nmax 9\noom 9\noom_kill {kills}\noom_group_kill 0\n");
            fs::write(group.join("memory.events"), text).unwrap();
        };
        count(3);
        let slot = keeper.slots.place(4).unwrap();
        slot.used = true;
        slot.cgroup = Some(fs::File::open(&group).unwrap().into());
        let killed = Exit::Signal { signal: 9, core: false };
        // How many it had at the spawn, how many at the end, and what that means.
        for (generation, (end, oom)) in (1..).zip([(3, false), (4, true), (4, false), (6, true)]) {
            let slot = keeper.slots.used(4).unwrap();
            slot.oom_kills = tree::oom_kills(slot);
            slot.begin(Moment(generation), false);
            slot.started(i32::MAX, false);
            count(end);
            keeper.main_ended(4, killed, Moment(generation + 1));
            let state = keeper.slots.used(4).unwrap().state;
            assert_eq!((state.exit, state.oom, state.phase), (killed, oom, Phase::Idle), "{end}");
        }
        // Without the file (no memory controller) nothing is claimed.
        fs::remove_file(group.join("memory.events")).unwrap();
        assert_eq!(tree::oom_kills(keeper.slots.used(4).unwrap()), 0);
        fs::remove_dir_all(folder).unwrap();
    }
}
