//! The keeper itself: one epoll loop over signals, the channel, error pipes and adopted processes.
//!
//! It never waits for a service or for the supervisor, allocates nothing once [`Keeper::run`] has begun, and knows no
//! policy: it does what the requests say and tells what is. Here is the loop; [`crate::requests`] answers the
//! supervisor, [`crate::talk`] tells it what is, [`crate::reap`] sees to what ends.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use daemon::clock;
use protocol::{
    keeper::{Exit, Phase, ShutdownKind, Stage},
    time::Moment,
};
use rustix::{
    event::epoll::{self, Event, EventData, EventFlags},
    process::Rlimit,
    time::Timespec,
};

use crate::{
    channel::Channel,
    deposits::Deposits,
    drain::Drain,
    machine::Machine,
    pid1::{self, Feeding, PidOne},
    proc,
    record::Records,
    reexec::Reexec,
    say::{How, Signal, errno_text, say},
    slot::Slot,
    spawn::{self, Word},
    stop::Stop,
    supervisor::{Command, FAILURES_TO_RESCUE, Life, Verdict},
    sys,
    table::Table,
    tree::{self, Left},
};

/// Slots served and children reaped a round, so that the channel is never kept waiting.
pub(crate) const BATCH: usize = 64;

/// What an epoll event is about. The number tells an event of a descriptor that is gone from one of its successor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Token {
    Signals,
    Channel { start: u32 },
    Errors { slot: u32, generation: u32 },
    Process { slot: u32, generation: u32 },
    Log { slot: u32, stream: u32 },
}

impl Token {
    fn pack(self) -> EventData {
        let (kind, slot, number) = match self {
            Self::Signals => (0, 0, 0),
            Self::Channel { start } => (1, 0, start),
            Self::Errors { slot, generation } => (2, slot, generation),
            Self::Process { slot, generation } => (3, slot, generation),
            Self::Log { slot, stream } => (4, slot, stream),
        };
        EventData::new_u64(kind << 56 | u64::from(slot) << 32 | u64::from(number))
    }

    fn unpack(data: EventData) -> Option<Self> {
        let [a, b, c, d, e, f, g, kind] = data.u64().to_le_bytes();
        let number = u32::from_le_bytes([a, b, c, d]);
        let slot = u32::from_le_bytes([e, f, g, 0]);
        match kind {
            0 => Some(Self::Signals),
            1 => Some(Self::Channel { start: number }),
            2 => Some(Self::Errors { slot, generation: number }),
            3 => Some(Self::Process { slot, generation: number }),
            4 => Some(Self::Log { slot, stream: number }),
            _ => None,
        }
    }
}

/// Everything the keeper has.
pub(crate) struct Keeper {
    pub(crate) epoll: OwnedFd,
    pub(crate) signals: OwnedFd,
    pub(crate) pid_one: Option<PidOne>,
    pub(crate) machine: Option<Machine>,
    pub(crate) records: Records,
    pub(crate) slots: Table,
    pub(crate) deposits: Deposits,
    pub(crate) channel: Option<Channel>,
    /// The channel's epoll interest includes "writable".
    pub(crate) wants_out: bool,
    pub(crate) life: Life,
    pub(crate) command: Command,
    /// Open files as the keeper was given them; its children get the same.
    pub(crate) limit: Rlimit,
    pub(crate) stop: Stop,
    pub(crate) feeding: Option<Feeding>,
    pub(crate) reexec: Reexec,
    pub(crate) drain: Drain,
    /// Children or requests are left over from the last round.
    pub(crate) more: bool,
}

impl Keeper {
    /// Registers what is there from the start; after a re-execution that is everything.
    pub(crate) fn begin(&mut self) -> rustix::io::Result<()> {
        self.watch(self.signals.as_fd(), Token::Signals, EventFlags::IN)?;
        if let Some(channel) = &self.channel {
            let token = Token::Channel { start: self.life.starts };
            self.watch(channel.as_fd(), token, EventFlags::IN)?;
        }
        for slot in self.slots.iter() {
            let (number, generation) = (slot.state.slot, slot.state.generation);
            if let Some(pidfd) = &slot.pidfd {
                let token = Token::Process { slot: number, generation };
                self.watch(pidfd.as_fd(), token, EventFlags::IN)?;
            }
            if let Some(errors) = &slot.errors {
                let token = Token::Errors { slot: number, generation };
                self.watch(errors.as_fd(), token, EventFlags::IN)?;
            }
        }
        // Whatever ended before the signals were watched is still there to be waited for.
        self.more = true;
        Ok(())
    }

    /// The loop; returns the exit code.
    pub(crate) fn run(&mut self) -> u8 {
        loop {
            let now = clock::now();
            if let Some(code) = self.handle_time(now) {
                return code;
            }
            self.talk(now);
            let mut events = [MaybeUninit::<Event>::uninit(); 32];
            let timeout = self.timeout(clock::now());
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) else {
                continue; // EINTR: a stop and a continue of the keeper itself.
            };
            let now = clock::now();
            if std::mem::take(&mut self.more) {
                self.reap_children(now);
            }
            for event in events.iter() {
                let Some(token) = Token::unpack(event.data) else { continue };
                self.handle_event(token, event.flags, now);
            }
        }
    }

    fn handle_event(&mut self, token: Token, flags: EventFlags, now: Moment) {
        match token {
            Token::Signals => self.take_signals(now),
            Token::Channel { start } if start == self.life.starts => {
                // Requests before the end of file: what was sent before a death counts.
                self.take_requests(now);
                if !flags.contains(EventFlags::IN) && flags.contains(EventFlags::HUP) {
                    self.close_channel();
                }
            }
            Token::Errors { slot, generation } if self.is_current(slot, generation) => {
                self.read_executor(slot);
            }
            Token::Process { slot, generation } if self.is_current(slot, generation) => {
                self.adopted_ended(slot, now);
            }
            Token::Log { slot, stream } => self.read_log(slot, stream, now),
            _ => {}
        }
    }

    fn is_current(&mut self, slot: u32, generation: u32) -> bool {
        self.slots.used(slot).is_some_and(|slot| slot.state.generation == generation)
    }

    pub(crate) fn watch(
        &self,
        fd: BorrowedFd<'_>,
        token: Token,
        flags: EventFlags,
    ) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, token.pack(), flags)
    }

    /// Before a descriptor is closed: a child between clone and exec may still hold it open, and epoll would go on.
    pub(crate) fn unwatch(&self, fd: BorrowedFd<'_>) {
        // It may never have been watched.
        let _ = epoll::delete(&self.epoll, fd);
    }

    pub(crate) fn rewatch(&self, fd: BorrowedFd<'_>, token: Token, flags: EventFlags) {
        // Only descriptors that are watched are watched differently.
        let _ = epoll::modify(&self.epoll, fd, token.pack(), flags);
    }

    fn take_signals(&mut self, now: Moment) {
        let mut info = [0; 128];
        while let Ok(128) = rustix::io::read(&self.signals, &mut info) {
            let signal = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            match signal {
                libc::SIGCHLD => self.reap_children(now),
                libc::SIGHUP if self.life.lives() => {
                    // An unreaped child: the pid is its own.
                    let _ = sys::kill(self.life.pid, libc::SIGHUP);
                }
                _ => {
                    if let Some(kind) = pid1::shutdown_of(signal, self.pid_one.is_some()) {
                        self.stop_wanted(kind, now);
                    }
                }
            }
        }
    }

    /// Everything whose time has come. `Some`: the keeper ends with this code.
    fn handle_time(&mut self, now: Moment) -> Option<u8> {
        for _ in 0..BATCH {
            let Some(slot) = self.slots.due(now) else { break };
            self.step(slot, now);
        }
        if let Some(feeding) = &mut self.feeding {
            feeding.feed(now);
        }
        let hangs_at = self.channel.as_ref().and_then(Channel::hangs_at);
        if let Some(signal) = self.life.hangs(hangs_at, now) {
            let pid = self.life.pid;
            say!("supervisor (pid {pid}) does not answer: it gets {}", Signal(signal));
            // An unreaped child: the pid is its own.
            let _ = sys::kill(self.life.pid, signal);
        }
        if self.life.start_at.is_some_and(|at| at <= now) {
            self.start_supervisor(now);
        }
        self.drain_if_alone(now);
        self.handle_stop(now)
    }

    /// What a slot does when its time has come.
    fn step(&mut self, number: u32, now: Moment) {
        let Some(slot) = self.slots.used(number) else { return };
        slot.due = None;
        match slot.state.phase {
            Phase::Emptying | Phase::Unkillable => match tree::kill_all(slot) {
                Left::Nothing => slot.settled(now),
                Left::Something => slot.still_there(now),
            },
            Phase::Waiting => {
                slot.begin(now, true);
                self.attempt(number, now);
            }
            Phase::Executing if slot.state.pid == 0 => self.attempt(number, now),
            // An adopted process whose parent has not told how it ended.
            Phase::Executing | Phase::Running => self.main_ended(number, Exit::Lost, now),
            Phase::Idle => {}
        }
    }

    /// Tries to spawn the slot's current generation.
    pub(crate) fn attempt(&mut self, number: u32, now: Moment) {
        let Some(slot) = self.slots.used(number) else { return };
        slot.oom_kills = tree::oom_kills(slot);
        let generation = slot.state.generation;
        match spawn::spawn(slot, self.records, &self.deposits, &self.limit) {
            Ok(spawned) => {
                slot.started(spawned.pid, spawned.errors.is_some());
                slot.errors = spawned.errors;
                slot.inherited = false;
                let slot = self.slots.used(number);
                let Some(errors) = slot.and_then(|slot| slot.errors.take()) else { return };
                let token = Token::Errors { slot: number, generation };
                if let Err(error) = self.watch(errors.as_fd(), token, EventFlags::IN) {
                    say!("slot {number}: its error pipe can't be watched: {error}");
                }
                if let Some(slot) = self.slots.used(number) {
                    slot.errors = Some(errors);
                }
            }
            Err((stage, errno)) => {
                self.records.idle(number, slot.state.identity, generation);
                spawn_failed(slot, (stage, errno), now);
            }
        }
    }

    fn read_executor(&mut self, number: u32) {
        let Some(slot) = self.slots.used(number) else { return };
        let Some(errors) = slot.errors.take() else { return };
        match spawn::read_errors(errors.as_fd()) {
            Word::Silence => {
                slot.errors = Some(errors);
                return;
            }
            Word::Done if slot.state.phase == Phase::Executing => {
                slot.state.phase = Phase::Running;
                slot.changed = true;
            }
            Word::Done => {}
            // It ends with 127 in a moment.
            Word::Failed(stage, errno) => slot.failure = Some((stage, errno)),
        }
        self.unwatch(errors.as_fd());
    }

    fn start_supervisor(&mut self, now: Moment) {
        self.close_channel();
        self.life.start_at = None;
        if !matches!(self.stop, Stop::No | Stop::Asked { .. }) {
            return;
        }
        let started = Channel::open().map_err(rustix::io::Errno::raw_os_error).and_then(
            |(channel, theirs)| {
                let rescue = self.life.needs_rescue();
                let pid = self.command.start(&theirs, rescue, self.records, &self.limit)?;
                Ok((channel, pid))
            },
        );
        match started {
            Ok((channel, pid)) => {
                self.life.started(pid);
                let token = Token::Channel { start: self.life.starts };
                if let Err(error) = self.watch(channel.as_fd(), token, EventFlags::IN) {
                    say!("the supervisor's channel can't be watched: {error}");
                }
                self.wants_out = false;
                self.channel = Some(channel);
                if let Stop::Asked { told, .. } = &mut self.stop {
                    *told = false;
                }
            }
            Err(errno) => {
                let failed = Exit::SpawnFailed { stage: Stage::Clone, errno };
                let _ = self.life.ended(failed, now, self.pid_one.is_some());
                say!("the supervisor can't be started: {}", errno_text(errno));
            }
        }
    }

    /// The supervisor's process is gone.
    pub(crate) fn supervisor_ended(&mut self, exit: Exit, now: Moment) {
        self.close_channel();
        self.drain.away_since.get_or_insert(now);
        let pid = self.life.pid;
        match self.life.ended(exit, now, self.pid_one.is_some()) {
            Verdict::Wrong => {
                let kind = ShutdownKind::Exit;
                self.stop = Stop::Killing { kind, code: 2, deadline: now };
            }
            Verdict::Restart if matches!(self.stop, Stop::No | Stop::Asked { .. }) => {
                say!("supervisor (pid {pid}) {}", How(exit));
                if self.life.failures == FAILURES_TO_RESCUE {
                    say!("{FAILURES_TO_RESCUE} failures in a row: the next one gets --rescue");
                }
                if self.machine.is_some() && self.life.is_hopeless() {
                    say!("no supervisor has ever taken over: the machine is reset");
                    return self.kill_everything(ShutdownKind::Reboot, 1, now);
                }
                self.stop_alone_if_it_keeps_failing(now);
            }
            Verdict::Restart => self.life.start_at = None,
        }
    }

    pub(crate) fn close_channel(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.unwatch(channel.as_fd());
        }
    }

    /// How long the loop may sleep; `None`: until something happens.
    fn timeout(&mut self, now: Moment) -> Option<Timespec> {
        if self.more {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let hang = self.life.kill_at.or(self.channel.as_ref().and_then(Channel::hangs_at));
        let hang = hang.filter(|_| self.life.lives());
        let feed = self.feeding.as_ref().and_then(|feeding| feeding.next_deadline(now));
        let stop = self.stop_deadline();
        let drain = self.drain_begins();
        let due = self.slots.next_deadline();
        let all = [due, self.life.start_at, stop, hang, feed, drain];
        let left = all.into_iter().flatten().min()?.since(now);
        Some(proc::timespec(left))
    }
}

/// An attempt failed before anything ran: once more, or told.
pub(crate) fn spawn_failed(slot: &mut Slot, failure: (Stage, i32), now: Moment) {
    let (stage, errno) = failure;
    if !slot.try_again(failure, now) {
        slot.ended(Exit::SpawnFailed { stage, errno }, now, true);
        slot.settled(now);
    } else if stage == Stage::Lock {
        slot.empty(now);
    } else {
        slot.settled(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::tests::idle_keeper;

    const NOW: Moment = Moment(9_000_000_000);

    fn events(keeper: &Keeper) -> Vec<Token> {
        let mut events = [MaybeUninit::<Event>::uninit(); 8];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = epoll::wait(&keeper.epoll, &mut events, Some(&at_once)).unwrap();
        events.iter().filter_map(|event| Token::unpack(event.data)).collect()
    }

    #[test]
    fn row_14_a_token_keeps_its_slot_and_its_generation() {
        for token in [
            Token::Signals,
            Token::Channel { start: u32::MAX },
            Token::Errors { slot: 2047, generation: u32::MAX },
            Token::Process { slot: 2047, generation: 1 },
            Token::Log { slot: 1, stream: 1 },
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(EventData::new_u64(u64::MAX)), None);
    }

    #[test]
    fn row_14_a_late_event_of_a_process_that_is_gone_touches_nobody() {
        let (folder, mut keeper) = idle_keeper("late-event");
        let slot = keeper.slots.place(5).unwrap();
        slot.used = true;
        slot.begin(NOW, false);
        slot.started(i32::MAX - 1, false);
        slot.begin(NOW, true);
        slot.started(i32::MAX, true);
        let me = std::process::id().cast_signed();
        slot.pidfd = proc::open(me);
        let (errors, _writer) = rustix::pipe::pipe().unwrap();
        slot.errors = Some(errors);
        let (before, starts) = (slot.state, keeper.life.starts);
        let late = [
            Token::Process { slot: 5, generation: 1 },
            Token::Errors { slot: 5, generation: 1 },
            // Of a slot that has been forgotten since.
            Token::Process { slot: 6, generation: 1 },
            Token::Errors { slot: 6, generation: 1 },
            Token::Channel { start: starts + 1 },
        ];
        for token in late {
            keeper.handle_event(token, EventFlags::IN | EventFlags::HUP, NOW);
            let slot = keeper.slots.used(5).unwrap();
            assert_eq!(slot.state, before, "{token:?}");
            assert!(slot.pidfd.is_some() && slot.errors.is_some(), "{token:?}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn row_14_what_is_no_longer_watched_says_nothing_although_a_child_still_holds_it() {
        for (unwatched, heard) in [(false, 1), (true, 0)] {
            // One each: what another test's child holds of the first pipe would still be heard.
            let (folder, keeper) = idle_keeper(&format!("unwatched-{unwatched}"));
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let token = Token::Process { slot: 0, generation: 1 };
            keeper.watch(reader.as_fd(), token, EventFlags::IN).unwrap();
            // A child between clone and exec has the same open file.
            let of_the_child = reader.try_clone().unwrap();
            if unwatched {
                keeper.unwatch(reader.as_fd());
            }
            drop(reader);
            rustix::io::write(&writer, b"x").unwrap();
            assert_eq!(events(&keeper).len(), heard, "why unwatching comes before closing");
            drop(of_the_child);
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}
