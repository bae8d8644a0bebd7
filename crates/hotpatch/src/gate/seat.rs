//! A thread's place at the gate: whether it is inside, in which operation, and how its waiting is ended.

use std::{
    io,
    marker::PhantomData,
    mem,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*, fence},
    },
    time::Duration,
};

use daemon::clock;
use driver_abi::Op;
use protocol::time::Moment;
use rustix::event::{EventfdFlags, eventfd};

use super::Core;
use crate::fault::Stack;

/// Two cache lines of its own: other threads' calls must not slow this one's down.
#[repr(align(128))]
pub(crate) struct Seat {
    /// 1: inside. Also what a drain sleeps on.
    pub(super) active: AtomicU32,
    operation: AtomicU32,
    handle: AtomicU64,
    /// Counts the calls of this seat; written by its thread only.
    sequence: AtomicU64,
    /// The call that shall not wait any longer.
    interrupted: AtomicU64,
    /// Where its thread waits outside: the generation of the code that it returns to, and one more. Else 0.
    frames: AtomicU64,
    /// How long its call has waited, for what the driver waits for or at the gate, in nanoseconds.
    waited: AtomicU64,
    /// When it came back from the last of these waits; 0: it has not waited.
    returned: AtomicU64,
    /// Of the thread whose seat it is; 0: free.
    tid: AtomicI32,
    /// Readable: look again why you wait.
    wake: OwnedFd,
}

impl Seat {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            active: AtomicU32::new(0),
            operation: AtomicU32::new(0),
            handle: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            interrupted: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            tid: AtomicI32::new(0),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// A call begins.
    #[inline]
    pub(crate) fn begin(&self, operation: Op, handle: u64) {
        self.operation.store(operation.index(), Relaxed);
        self.handle.store(handle, Relaxed);
        self.waited.store(0, Relaxed);
        self.returned.store(0, Relaxed);
        self.sequence.store(self.sequence.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(crate) fn operation(&self) -> Op {
        Op::at(self.operation.load(Relaxed))
    }

    pub(crate) fn handle(&self) -> u64 {
        self.handle.load(Relaxed)
    }

    pub(crate) fn tid(&self) -> i32 {
        self.tid.load(Relaxed)
    }

    pub(super) fn inside(&self) -> bool {
        self.active.load(Acquire) != 0
    }

    /// The generation of the code to which its thread, waiting outside, will return.
    pub(super) fn frames(&self) -> Option<u64> {
        self.frames.load(Acquire).checked_sub(1)
    }

    pub(crate) fn keep_frames(&self, generation: u64) {
        self.frames.store(generation + 1, Release);
    }

    /// Answers whether there were any.
    #[inline]
    pub(crate) fn drop_frames(&self) -> bool {
        self.frames.load(Relaxed) != 0 && {
            self.frames.store(0, Release);
            true
        }
    }

    /// It has waited since this moment, and goes inside again: who finds it there knows since when.
    pub(crate) fn note_wait(&self, since: Moment) {
        let now = clock::now();
        let waited = u64::try_from(now.since(since).as_nanos()).unwrap_or(u64::MAX);
        self.waited.store(self.waited.load(Relaxed).saturating_add(waited), Relaxed);
        self.returned.store(now.0, Relaxed);
        // Before `active`, which is set next.
        fence(Release);
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Acquire) == self.sequence.load(Relaxed)
    }

    pub(super) fn wake(&self) {
        // Full means that it is readable already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(crate) fn waker(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(crate) fn heard(&self) {
        // Empty: someone else's reason, looked at already.
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
    }
}

/// The right of one thread to call: it stays with the thread that registered.
pub struct Caller {
    core: Arc<Core>,
    seat: Arc<Seat>,
    number: usize,
    /// Faults of this thread are written down on it.
    _stack: Stack,
    _one_thread: PhantomData<*const ()>,
}

impl Caller {
    pub(super) fn new(core: &Arc<Core>) -> Option<Self> {
        let _roster = core.roster();
        let number = core.seats.iter().position(|seat| seat.tid() == 0)?;
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        core.seats[number].tid.store(tid, Relaxed);
        Some(Self {
            core: Arc::clone(core),
            seat: Arc::clone(&core.seats[number]),
            number,
            _stack: Stack::for_this_thread(),
            _one_thread: PhantomData,
        })
    }

    #[inline]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    #[inline]
    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// How long the last call waited, in the host's `wait` and at the closed gate.
    #[must_use]
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.seat().waited.load(Relaxed))
    }

    /// For who wants to interrupt the next call that this caller makes, or to know whether it comes back.
    #[must_use]
    pub fn next_call(&self) -> Ticket {
        let sequence = self.seat().sequence.load(Relaxed).wrapping_add(1);
        Ticket { seat: Arc::clone(&self.seat), sequence }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut roster = self.core.roster();
        mem::take(&mut roster[self.number]).give_back();
        self.seat().tid.store(0, Relaxed);
    }
}

/// Names one call, for other threads.
#[derive(Clone)]
pub struct Ticket {
    seat: Arc<Seat>,
    sequence: u64,
}

impl Ticket {
    /// Since when the thread is in the driver's code without a wait, if it is there at this moment, in this call; `began` is when the
    /// call was made. Nothing where it waits in the host's `wait`, stands at the gate, or the call is over or yet to begin.
    #[must_use]
    pub fn inside_since(&self, began: Moment) -> Option<Moment> {
        let seat = &self.seat;
        let inside = seat.inside() && seat.sequence.load(Acquire) == self.sequence;
        let returned = Moment(seat.returned.load(Relaxed));
        inside.then(|| began.max(returned))
    }

    /// The host's `wait` answers `-EINTR` to this call from now on; nothing happens if the call is over.
    pub fn interrupt(&self) {
        let seat = &self.seat;
        // An older call's ticket must not take the place of a newer one's.
        let newer = |before: u64| (before < self.sequence).then_some(self.sequence);
        if seat.interrupted.fetch_update(Release, Relaxed, newer).is_ok() {
            seat.wake();
        }
    }
}
