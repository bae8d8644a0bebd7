//! The gate: who wants to run the driver's code takes note of it in a place of the thread's own, and goes ahead unless the
//! gate is closed; who changes the code closes it and waits until every place is empty. A caller is never failed here.
//!
//! ```text
//!           close, drained             change                   (change ends)
//!   OPEN -----------------> HELD ---------------> CHANGING -------------------> HELD
//!     ^                      |                        |
//!     |  open; drain limit;  |                        | held for too long, or the holder died
//!     +--- watchdog ---------+                        v
//!                                                  the process ends (SIGABRT)
//! ```
//!
//! # Why nobody is missed
//! A caller stores `active = 1` and then loads the gate's word; who closes stores the word and then loads each `active`. If
//! both could load the old value, a call would run in code that is being replaced. So between store and load of both there
//! has to be a full barrier. The closing side has one, `membarrier(PRIVATE_EXPEDITED)`: when it returns, every running
//! thread of the process has executed a full barrier at some point of its program after the call began (threads that don't
//! run pass one when they are switched in). Of a caller that point lies either
//!
//! - behind its store: then the store is visible before membarrier returns, and the drain that follows sees `active = 1`; or
//! - before its store, so before its load, too: the load comes after the barrier, and sees the word that was stored before.
//!
//! The caller's two instructions must only not be swapped by the compiler: a compiler fence, which costs nothing. Without
//! membarrier ([`Form::Fence`]) both sides execute a `SeqCst` fence of their own, and the same two cases are those of
//! their order in the single total order of such fences.
//!
//! What a caller did inside happens before what the closer does: `active = 0` is a release, the drain's load an acquire. What
//! the closer did happens before later calls: opening is a release, a caller's load of the word an acquire.
//!
//! A caller that leaves looks at the word again, and wakes who drains. Without the barrier this load could come first and
//! read an old word; so the drain never sleeps longer than [`NAP`] at a time. `model.rs` tries out every interleaving.
//!
//! # Why a closed gate does not stay closed
//! In `HELD` nothing has been changed yet, or everything has: the [`watchdog`] may open at any time, and does when the thread
//! that closed is gone or a limit is over. A holder that comes back afterwards is refused by [`Closed::change`], which is the
//! only way to `CHANGING`. There nothing but a few stores, and writes of a few bytes of code, is done, and no code of a driver runs; who
//! stays there cannot be helped by another thread, since half-written code can be neither run nor undone beside a writer that may go
//! on at any moment. So then the process ends, and whoever started it starts it anew with the version before.

mod closed;
#[cfg(test)]
mod model;
mod seat;
mod watchdog;

use std::{
    io, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::*, compiler_fence, fence},
    },
    time::Duration,
};

use daemon::clock;
use rustix::thread::{MembarrierCommand, futex, membarrier};

pub(crate) use self::seat::Seat;
pub use self::{
    closed::{Busy, Change, Closed, Closing, Opened, Stuck},
    seat::{Caller, Ticket},
};

use self::watchdog::Watchdog;
use crate::priority::Raised;

/// The longest sleep of a drain before it looks again.
const NAP: Duration = Duration::from_millis(1);

/// The phase is in the word's lowest bits; above them closings are counted, so that an old holder never takes another
/// one's closing for its own.
const PHASE: u32 = 0b11;
const OPEN: u32 = 0;
const HELD: u32 = 1;
const CHANGING: u32 = 2;
const ONE_CLOSING: u32 = PHASE + 1;

/// Which side of the gate pays for the order of store and load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// Who closes, by membarrier(2); a call pays nothing.
    Membarrier,
    /// Each call, by a fence: for kernels without membarrier.
    Fence,
}

/// See the file's header.
pub struct Gate {
    core: Arc<Core>,
    /// Ends its thread when dropped.
    _watchdog: Watchdog,
}

/// A value with cache lines of its own (two, since lines are fetched in pairs).
#[repr(align(128))]
struct Padded<T>(T);

/// What callers, holder and watchdog share.
pub(crate) struct Core {
    word: Padded<AtomicU32>,
    form: Form,
    seats: Box<[Arc<Seat>]>,
    /// Counts replacements of code, so that who waited outside knows that its frames are of old code.
    generation: AtomicU64,
    /// Calls that found the gate closed.
    held: Padded<AtomicU64>,
    /// What each seat's thread was before a drain raised it. Locked while a seat changes hands, so that nobody gets another one's
    /// priority; never while waiting.
    roster: Mutex<Vec<Raised>>,
    holder: watchdog::Holder,
}

impl Gate {
    /// A gate for this many threads.
    ///
    /// # Errors
    /// No descriptor for each thread, or no thread for the watchdog.
    pub fn new(threads: usize) -> io::Result<Arc<Self>> {
        let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited);
        let form = if registered.is_ok() { Form::Membarrier } else { Form::Fence };
        Self::with(threads, form)
    }

    /// The same in a form of the caller's choice. With [`Form::Membarrier`] the kernel must have it.
    ///
    /// # Errors
    /// As [`Gate::new`]; also a kernel without membarrier.
    pub fn with(threads: usize, form: Form) -> io::Result<Arc<Self>> {
        if form == Form::Membarrier {
            membarrier(MembarrierCommand::RegisterPrivateExpedited)?;
        }
        let core = Arc::new(Core {
            word: Padded(AtomicU32::new(OPEN)),
            form,
            seats: (0..threads).map(|_| Seat::new().map(Arc::new)).collect::<io::Result<_>>()?,
            generation: AtomicU64::new(0),
            held: Padded(AtomicU64::new(0)),
            roster: Mutex::new((0..threads).map(|_| Raised::default()).collect()),
            holder: watchdog::Holder::default(),
        });
        let watchdog = Watchdog::start(&core)?;
        Ok(Arc::new(Self { core, _watchdog: watchdog }))
    }

    #[must_use]
    pub fn form(&self) -> Form {
        self.core.form
    }

    /// A place for the calling thread; none where all are taken.
    #[must_use]
    pub fn register(self: &Arc<Self>) -> Option<Caller> {
        Caller::new(&self.core)
    }

    /// Closes the gate and waits until nobody is inside, with what [`Closing`] has by default.
    ///
    /// # Errors
    /// Someone stayed inside for `limit`. The gate is open again.
    pub fn close(self: &Arc<Self>, limit: Duration) -> Result<Closed, Busy> {
        self.close_with(limit, Closing::default())
    }

    /// # Errors
    /// As [`Gate::close`].
    pub fn close_with(self: &Arc<Self>, limit: Duration, closing: Closing) -> Result<Closed, Busy> {
        Closed::new(self, limit, closing)
    }

    /// How many calls found the gate closed since it was made.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.core.held.0.load(Relaxed)
    }

    /// How often code was replaced.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.core.generation.load(Relaxed)
    }

    /// The oldest generation of code to which a call will yet return: it waits outside the gate. Code of earlier ones, and of
    /// this one where there is none, can be unloaded, if the gate was closed since it was replaced.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.core.seats.iter().filter_map(|seat| seat.frames()).min()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Core {
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// The code is another one from now on.
    pub(crate) fn replaced(&self) {
        self.generation.fetch_add(1, Release);
    }

    /// The seat's thread goes inside, and waits before where the gate is closed.
    #[inline]
    pub(crate) fn enter(&self, seat: &Seat) {
        seat.active.store(1, Relaxed);
        self.between();
        if self.word.0.load(Acquire) & PHASE != OPEN {
            self.enter_later(seat);
        }
    }

    /// It is outside again. What it did is visible to who drained.
    #[inline]
    pub(crate) fn leave(&self, seat: &Seat) {
        seat.active.store(0, Release);
        compiler_fence(SeqCst);
        if self.word.0.load(Relaxed) & PHASE != OPEN {
            wake(&seat.active);
        }
    }

    /// Between the caller's store and its load.
    #[inline]
    fn between(&self) {
        match self.form {
            Form::Membarrier => compiler_fence(SeqCst),
            Form::Fence => fence(SeqCst),
        }
    }

    /// Between the closer's store and its loads.
    fn barrier(&self) {
        match self.form {
            // It was registered when the gate was made, after which it has no way to fail.
            Form::Membarrier => membarrier(MembarrierCommand::PrivateExpedited)
                .expect("membarrier works where registering for it did"),
            Form::Fence => fence(SeqCst),
        }
    }

    #[cold]
    fn enter_later(&self, seat: &Seat) {
        self.held.0.fetch_add(1, Relaxed);
        loop {
            let since = clock::now();
            seat.active.store(0, Release);
            wake(&seat.active);
            loop {
                let word = self.word.0.load(Acquire);
                if word & PHASE == OPEN {
                    break;
                }
                // Any return is a reason to look again.
                let _ = futex::wait(&self.word.0, futex::Flags::PRIVATE, word, None);
            }
            seat.note_wait(since);
            seat.active.store(1, Relaxed);
            self.between();
            if self.word.0.load(Acquire) & PHASE == OPEN {
                return;
            }
        }
    }

    /// Opens, if it is still this closing that keeps it closed; and wakes who waits.
    fn open(&self, closing: u32) -> bool {
        let opened =
            self.word.0.compare_exchange(closing | HELD, closing | OPEN, Release, Relaxed).is_ok();
        wake(&self.word.0);
        opened
    }

    /// Who waits in a driver's `wait` with frames of code that was replaced makes its call again.
    fn restart_waiters(&self) {
        let generation = self.generation();
        for seat in &self.seats {
            if seat.frames().is_some_and(|frames| frames < generation) {
                seat.wake();
            }
        }
    }

    fn roster(&self) -> MutexGuard<'_, Vec<Raised>> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Threads that a drain raised are what they were.
    fn give_back(&self) {
        for raised in self.roster().iter_mut() {
            mem::take(raised).give_back();
        }
    }
}

fn wake(word: &AtomicU32) {
    // It fails for an address that is none only.
    let _ = futex::wake(word, futex::Flags::PRIVATE, u32::MAX >> 1);
}
