//! Services' log pipes while no supervisor drains them: after a few seconds everything they print goes into one ring, so
//! that no service ever waits for a reader. The next supervisor is given the ring; who reads a ring is not here.
//!
//! A slot that was adopted from an earlier keeper has no plan until a supervisor defines it: its pipes are not known.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use protocol::{
    keeper::{
        DepositName,
        plan::PlanView,
        ring::{self, RING_NAME, RING_SIZE, Stream, TEXT_MAX},
    },
    time::Moment,
};
use rustix::{
    event::epoll::EventFlags,
    fs::{FallocateFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags},
};

use crate::{
    channel::Handover,
    keeper::{Keeper, Token},
    memory,
    slot::Slot,
    spawn,
};

/// No supervisor for so long, and the keeper drains. Until then a pipe's own 64 KiB must do.
const ALONE_FOR: Duration = Duration::from_secs(5);
/// Reads of one pipe a round: as much as a pipe holds.
const READS: usize = 16;
const STREAMS: [Stream; 2] = [Stream::Out, Stream::Err];

/// The ring, and when it is filled.
#[derive(Debug)]
pub(crate) struct Drain {
    memory: &'static mut [u8],
    pub(crate) memfd: OwnedFd,
    /// The ring's name as a deposit.
    pub(crate) name: DepositName,
    /// Since when no supervisor has been there that took the hand-over.
    pub(crate) away_since: Option<Moment>,
    /// The pipes are open.
    draining: bool,
}

impl Drain {
    /// Maps the ring that an earlier image of this keeper left, or a new one. Called before the loop.
    pub(crate) fn new(memfd: Option<OwnedFd>, away_since: Option<Moment>) -> io::Result<Self> {
        let (memfd, fresh) = match memfd {
            Some(memfd) => (memfd, false),
            None => (new_memory()?, true),
        };
        let memory = memory::map_shared_bytes(memfd.as_fd(), RING_SIZE)?;
        if fresh {
            ring::clear(memory);
        }
        let name = DepositName::new(RING_NAME).expect("the name is short, and a text");
        Ok(Self { memory, memfd, name, away_since, draining: false })
    }

    /// Whether there is anything to hand over.
    pub(crate) fn has_something(&self) -> bool {
        self.draining || !ring::is_empty(self.memory)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    pub(crate) fn clear(&mut self) {
        ring::clear(self.memory);
    }

    /// Takes what a pipe holds. `false`: it can't be read.
    fn take(&mut self, pipe: BorrowedFd<'_>, slot: u32, stream: Stream, now: Moment) -> bool {
        let mut text = [0; TEXT_MAX];
        for _ in 0..READS {
            match rustix::io::read(pipe, &mut text) {
                Ok(length @ 1..) => ring::push(self.memory, slot, stream, now, &text[..length]),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
                Ok(_) | Err(_) => return false,
            }
        }
        true
    }
}

/// Its size can't change, so that no reader can take pages away from under the keeper.
fn new_memory() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create(c"keeper-ring", flags)?;
    rustix::fs::fallocate(&memfd, FallocateFlags::empty(), 0, RING_SIZE as u64)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(memfd)
}

impl Keeper {
    /// When draining begins; `None` while it goes on, and while a supervisor is there to do it.
    pub(crate) fn drain_begins(&self) -> Option<Moment> {
        let has_ring = |handover| {
            matches!(
                handover,
                Handover::Deposits { .. } | Handover::Sent { .. } | Handover::Acknowledged
            )
        };
        let taken_over = self.channel.as_ref().is_some_and(|channel| has_ring(channel.handover));
        let since = self.drain.away_since.filter(|_| !self.drain.draining && !taken_over);
        since.map(|since| since + ALONE_FOR)
    }

    /// Opens all pipes once nobody has drained them for long enough.
    pub(crate) fn drain_if_alone(&mut self, now: Moment) {
        if self.drain_begins().is_none_or(|at| at > now) {
            return;
        }
        self.drain.draining = true;
        self.slots.each(|slot| slot.plan.is_some(), |slot| slot.logs = open_pipes(slot));
        for slot in self.slots.iter() {
            for (pipe, stream) in slot.logs.iter().zip(0..) {
                let token = Token::Log { slot: slot.state.slot, stream };
                if let Some(pipe) = pipe {
                    // A pipe that can't be watched is read when draining stops.
                    let _ = self.watch(pipe.as_fd(), token, EventFlags::IN);
                }
            }
        }
    }

    /// Takes what is still in the pipes and closes them.
    pub(crate) fn stop_draining(&mut self, now: Moment) {
        if !std::mem::take(&mut self.drain.draining) {
            return;
        }
        let (drain, epoll) = (&mut self.drain, &self.epoll);
        self.slots.each(
            |slot| slot.logs.iter().any(Option::is_some),
            |slot| {
                for (place, stream) in slot.logs.iter_mut().zip(STREAMS) {
                    if let Some(pipe) = place.take() {
                        drain.take(pipe.as_fd(), slot.state.slot, stream, now);
                        // One that could not be watched is not there.
                        let _ = rustix::event::epoll::delete(epoll, &pipe);
                    }
                }
            },
        );
    }

    /// A pipe has something to read.
    pub(crate) fn read_log(&mut self, number: u32, stream: u32, now: Moment) {
        let at = usize::from(stream != 0);
        let Some(slot) = self.slots.used(number) else { return };
        let Some(pipe) = slot.logs[at].take() else { return };
        if self.drain.take(pipe.as_fd(), number, STREAMS[at], now) {
            slot.logs[at] = Some(pipe);
        } else {
            self.unwatch(pipe.as_fd());
        }
    }
}

/// The slot's pipes by the paths of its plan. Opened for writing too, as services do, so that there is no end of file.
fn open_pipes(slot: &Slot) -> [Option<OwnedFd>; 2] {
    let plan = slot.plan.as_ref().and_then(|plan| spawn::map(plan.as_fd()).ok());
    let view = plan.as_ref().and_then(|plan| PlanView::check(plan.bytes()).ok());
    let Some(view) = view else { return [None, None] };
    let open = |path| {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let pipe = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&pipe).ok()?.st_mode);
        (kind == FileType::Fifo).then_some(pipe)
    };
    let same = view.stdout() == view.stderr();
    [open(view.stdout()), if same { None } else { open(view.stderr()) }]
}
