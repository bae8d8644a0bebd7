//! Answers the supervisor's requests. What makes no sense is told so; nothing it can send does harm.

use std::os::fd::{AsFd as _, OwnedFd};

use protocol::{
    keeper::{Disposition, Outcome, Report, Request, ShutdownKind, ring::RING_NAME},
    time::Moment,
};
use rustix::event::epoll::EventFlags;

use crate::{
    channel::{DESCRIPTORS_MAX, Incoming},
    keeper::{BATCH, Keeper, Token},
    pid1, proc,
    say::say,
    slot::After,
    spawn, sys, tree,
};

impl Keeper {
    /// Takes requests, at most a batch, as long as their answers fit.
    pub(crate) fn take_requests(&mut self, now: Moment) {
        for _ in 0..BATCH {
            let Some(channel) = self.channel.as_ref().filter(|it| it.answer.is_none()) else {
                return;
            };
            let mut named = None;
            let (sequence, outcome) = match channel.receive() {
                Incoming::Nothing => return,
                Incoming::Closed => {
                    self.life.hung_up(now);
                    return self.close_channel();
                }
                Incoming::Malformed(malformed) => {
                    say!("a request of the supervisor is refused: {malformed}");
                    (malformed.sequence, Outcome::Malformed)
                }
                Incoming::Request { request: Request::Seen { sequence }, .. } => {
                    self.take_seen(sequence, now);
                    continue;
                }
                Incoming::Request { sequence, request: Request::Reexec, .. } => {
                    // The answer travels in the state: the new keeper gives it.
                    if let Some(channel) = &mut self.channel {
                        channel.answer = Some((sequence, Outcome::Done));
                    }
                    let errno = self.reexec();
                    (sequence, Outcome::Errno(errno))
                }
                Incoming::Request { sequence, request, descriptors } => {
                    named = slot_of(&request);
                    (sequence, self.answer(&request, descriptors, now))
                }
            };
            if let Some(channel) = &mut self.channel {
                // The answer about a slot comes after every change of it. What doesn't fit now waits, the answer with it.
                let changed =
                    named.and_then(|slot| self.slots.used(slot)).filter(|slot| slot.changed);
                if let Some(slot) = changed {
                    slot.changed = !channel.send(&Report::Slot(slot.state), None, now);
                    if slot.changed {
                        channel.answer = Some((sequence, outcome));
                        continue;
                    }
                }
                let ack = Report::Ack { request: sequence, outcome };
                channel.answer = (!channel.send(&ack, None, now)).then_some((sequence, outcome));
            }
        }
        self.more = true;
    }

    fn take_seen(&mut self, sequence: u32, now: Moment) {
        if self.channel.as_mut().is_some_and(|channel| channel.seen(sequence, now)) {
            self.life.ready();
            self.drain.away_since = None;
        }
    }

    fn answer(
        &mut self,
        request: &Request,
        descriptors: [Option<OwnedFd>; DESCRIPTORS_MAX],
        now: Moment,
    ) -> Outcome {
        match *request {
            Request::Define { slot, identity, disposition, cgroup } => {
                self.define(slot, identity, disposition, cgroup, descriptors)
            }
            Request::Dispose { slot, disposition } => match self.slots.used(slot) {
                Some(slot) => {
                    slot.dispose(disposition);
                    Outcome::Done
                }
                None => Outcome::NoSuchSlot,
            },
            Request::Spawn { slot, expected } => self.spawn(slot, expected, now),
            Request::Signal { slot, generation, signal, tree } => {
                self.signal(slot, generation, signal, tree)
            }
            Request::Main { slot, generation, pid } => self.change_main(slot, generation, pid),
            Request::Forget { slot } => self.forget(slot),
            Request::Deposit { name } if name.as_str() == RING_NAME => Outcome::Malformed,
            Request::Deposit { name } => match descriptors {
                [Some(fd), None] => {
                    if self.deposits.put(name, fd) {
                        Outcome::Done
                    } else {
                        Outcome::Full
                    }
                }
                _ => Outcome::Malformed,
            },
            Request::Withdraw { name } if name.as_str() == RING_NAME => {
                self.drain.clear();
                Outcome::Done
            }
            Request::Withdraw { name } => {
                self.deposits.remove(&name);
                Outcome::Done
            }
            Request::Starts => Outcome::Count(self.reexec.starts),
            Request::Watchdog(settings) => {
                pid1::ask_watchdog(self.pid_one, &mut self.feeding, settings, now)
            }
            Request::Shutdown { kind, .. }
                if self.pid_one.is_none() && kind != ShutdownKind::Exit =>
            {
                Outcome::NotPidOne
            }
            Request::Shutdown { kind, exit_code } => {
                self.leave(kind, exit_code, now);
                Outcome::Done
            }
            Request::Seen { .. } | Request::Reexec => {
                unreachable!("`take_requests` has dealt with these")
            }
        }
    }

    fn define(
        &mut self,
        slot: u32,
        identity: u64,
        disposition: Disposition,
        with_cgroup: bool,
        descriptors: [Option<OwnedFd>; DESCRIPTORS_MAX],
    ) -> Outcome {
        let [Some(plan), cgroup] = descriptors else { return Outcome::Malformed };
        let Some(has_executor) = spawn::check_plan(plan.as_fd()) else { return Outcome::Malformed };
        let fits = cgroup.is_some() == with_cgroup
            && cgroup.as_ref().is_none_or(|it| tree::is_cgroup(it.as_fd()));
        if !fits {
            return Outcome::Malformed;
        }
        let Some(slot) = self.slots.place(slot) else { return Outcome::NoSuchSlot };
        let idle = slot.may_spawn(slot.state.generation);
        if slot.used && slot.state.identity != identity && !idle {
            slot.changed = true;
            return Outcome::Stale;
        }
        slot.used = true;
        slot.state.identity = identity;
        slot.plan = Some(plan);
        slot.has_executor = has_executor;
        slot.cgroup = cgroup;
        slot.dispose(disposition);
        if idle {
            self.records.idle(slot.state.slot, identity, slot.state.generation);
        }
        Outcome::Done
    }

    fn spawn(&mut self, number: u32, expected: u32, now: Moment) -> Outcome {
        let defined = self.slots.used(number).filter(|slot| slot.plan.is_some());
        let Some(slot) = defined else { return Outcome::NoSuchSlot };
        if !slot.may_spawn(expected) {
            slot.changed = true;
            return Outcome::Stale;
        }
        slot.begin(now, false);
        // A cgroup that is not empty holds what an earlier keeper left: it goes first.
        if tree::quick_look(slot) == tree::Left::Something && !slot.disposition.main_only {
            slot.after = After::Retry;
            slot.empty(now);
        } else {
            self.attempt(number, now);
        }
        Outcome::Done
    }

    fn signal(&mut self, number: u32, generation: u32, signal: i32, tree: bool) -> Outcome {
        let Some(slot) = self.slots.used(number) else { return Outcome::NoSuchSlot };
        let something = slot.lives() || (tree && slot.state.phase != protocol::keeper::Phase::Idle);
        if slot.state.generation != generation || !something {
            slot.changed = true;
            return Outcome::Stale;
        }
        if tree {
            tree::signal_all(slot, signal);
            return Outcome::Done;
        }
        let sent = match &slot.pidfd {
            Some(pidfd) => sys::kill_pidfd(pidfd.as_fd(), signal),
            None if slot.state.pid > 0 => sys::kill(slot.state.pid, signal),
            None => return Outcome::Stale,
        };
        match sent.map_err(|error| error.raw_os_error()) {
            Ok(()) => Outcome::Done,
            Err(errno) => Outcome::Errno(errno.unwrap_or(libc::EIO)),
        }
    }

    /// Another process becomes the main one. It may be somebody else's child, so it is watched by a pidfd of its own.
    fn change_main(&mut self, number: u32, generation: u32, pid: i32) -> Outcome {
        let Some(slot) = self.slots.used(number) else { return Outcome::NoSuchSlot };
        if slot.state.generation != generation || !slot.lives() {
            slot.changed = true;
            return Outcome::Stale;
        }
        let Some(pidfd) = proc::open(pid) else { return Outcome::Errno(libc::ESRCH) };
        // Asked after the pidfd was opened, so that the answer is about that process.
        if !tree::has(slot, pid) || proc::has_ended(&pidfd) {
            return Outcome::Errno(libc::ESRCH);
        }
        let known = proc::identify(pid, pidfd.as_fd());
        slot.state.pid = pid;
        slot.changed = true;
        let old = slot.pidfd.take();
        self.records.running(number, pid, slot.session, known);
        if let Some(old) = old {
            self.unwatch(old.as_fd());
        }
        let token = Token::Process { slot: number, generation };
        if let Err(error) = self.watch(pidfd.as_fd(), token, EventFlags::IN) {
            return Outcome::Errno(error.raw_os_error());
        }
        if let Some(slot) = self.slots.used(number) {
            slot.pidfd = Some(pidfd);
        }
        Outcome::Done
    }

    fn forget(&mut self, number: u32) -> Outcome {
        let Some(slot) = self.slots.used(number) else { return Outcome::NoSuchSlot };
        if !slot.may_spawn(slot.state.generation) {
            slot.changed = true;
            return Outcome::Stale;
        }
        self.slots.forget(number);
        self.records.free(number);
        Outcome::Done
    }
}

/// The slot that a request is about.
fn slot_of(request: &Request) -> Option<u32> {
    match *request {
        Request::Define { slot, .. }
        | Request::Dispose { slot, .. }
        | Request::Spawn { slot, .. }
        | Request::Signal { slot, .. }
        | Request::Main { slot, .. } => Some(slot),
        _ => None,
    }
}
