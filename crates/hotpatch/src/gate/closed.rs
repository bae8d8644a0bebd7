//! Closing: the drain with its limit, what a holder may do, opening.

use std::{
    cell::{Cell, RefCell},
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::*},
    },
    time::Duration,
};

use daemon::clock;
use driver_abi::Op;
use protocol::time::Moment;
use rustix::{thread::futex, time::Timespec};

use super::{CHANGING, Core, Gate, HELD, NAP, ONE_CLOSING, OPEN, PHASE, Seat};
use crate::{
    priority::Raised,
    refusal::{Code, Refusal},
};

/// Looks at a place so often before the drain sleeps: most calls are shorter than going to sleep and waking.
const SPINS: u32 = 200;

/// How to close.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    /// The gate is opened by its watchdog after so long, whatever its holder does.
    pub hold: Duration,
    /// The closing thread, and those that are still inside, run as SCHED_FIFO for as long as it is about them, where that is allowed.
    pub real_time: bool,
}

impl Default for Closing {
    fn default() -> Self {
        Self { hold: Duration::from_secs(2), real_time: true }
    }
}

/// A call that did not end in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stuck {
    pub tid: i32,
    pub operation: Op,
    pub handle: u64,
}

/// Why the gate is open again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Busy {
    /// Empty where another thread kept the gate closed.
    pub stuck: Vec<Stuck>,
    pub waited: Duration,
}

impl std::error::Error for Busy {}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waited = self.waited.as_millis();
        if self.stuck.is_empty() {
            return write!(f, "the gate was closed by another thread for {waited} ms");
        }
        write!(f, "after {waited} ms still inside:")?;
        for (index, Stuck { tid, operation, handle }) in self.stuck.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} thread {tid} in {operation} of handle {handle}")?;
        }
        Ok(())
    }
}

/// Nobody is inside until this is dropped, unless the watchdog opened: [`Closed::change`] says so.
pub struct Closed {
    gate: Arc<Gate>,
    closing: u32,
    since: Moment,
    drain: Cell<Duration>,
    held_before: u64,
    changes: Cell<u32>,
    raised: RefCell<Raised>,
    opened: Cell<Option<Opened>>,
    /// The watchdog looks whether the thread lives that closed.
    _one_thread: PhantomData<*const ()>,
}

/// How it went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    /// How long the gate was closed.
    pub pause: Duration,
    /// Of it: until no call was inside any more.
    pub drain: Duration,
    /// Calls that waited at the gate.
    pub held: u64,
    /// The watchdog opened before.
    pub revoked: bool,
}

impl Closed {
    pub(super) fn new(gate: &Arc<Gate>, limit: Duration, closing: Closing) -> Result<Self, Busy> {
        let core = gate.core();
        let raised = if closing.real_time { Raised::this_thread() } else { Raised::default() };
        core.holder.nudge();
        let asked = clock::now();
        let Some(number) = take_turn(core, asked + limit) else {
            raised.give_back();
            return Err(Busy { stuck: Vec::new(), waited: clock::now().since(asked) });
        };
        // The drain's time is not the holder's.
        let since = core.holder.is_now(number, closing.hold.saturating_add(limit));
        let closed = Self {
            gate: Arc::clone(gate),
            closing: number,
            since,
            drain: Cell::default(),
            held_before: core.held.0.load(Relaxed),
            changes: Cell::default(),
            raised: RefCell::new(raised),
            opened: Cell::default(),
            _one_thread: PhantomData,
        };
        core.barrier();
        let stuck = drain(core, since + limit, closing.real_time);
        let waited = clock::now().since(since);
        if stuck.is_empty() {
            closed.drain.set(waited);
            Ok(closed)
        } else {
            Err(Busy { stuck, waited })
        }
    }

    /// Until this ends the watchdog leaves the gate closed. To be held for as long as what is done can be neither left as it is
    /// nor run, and no longer: no driver's code, no waiting. Changes may be nested.
    ///
    /// # Errors
    /// [`Code::Revoked`]: the gate is open, nothing may be changed.
    pub fn change(&self) -> Result<Change<'_>, Refusal> {
        if self.changes.get() == 0 {
            let (held, changing) = (self.closing | HELD, self.closing | CHANGING);
            let word = &self.gate.core().word.0;
            if word.compare_exchange(held, changing, AcqRel, Relaxed).is_err() {
                let long = clock::now().since(self.since).as_millis();
                return Err(Refusal::new(
                    Code::Revoked,
                    format!("the watchdog opened the gate meanwhile, it was closed {long} ms ago"),
                ));
            }
        }
        self.changes.set(self.changes.get() + 1);
        Ok(Change { closed: self })
    }

    /// How long it took until no call was inside any more.
    #[must_use]
    pub fn drained(&self) -> Duration {
        self.drain.get()
    }

    /// Why the closing thread has no real-time priority, where it should.
    #[must_use]
    pub fn real_time(&self) -> Option<String> {
        self.raised.borrow().refused.clone()
    }

    /// Opens. The same as dropping it, with an answer.
    #[must_use = "drop it where the answer is not wanted"]
    pub fn open(self) -> Opened {
        self.open_once()
    }

    pub(crate) fn of(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(self.gate.core(), core)
    }

    fn open_once(&self) -> Opened {
        if let Some(opened) = self.opened.get() {
            return opened;
        }
        let core = self.gate.core();
        let in_time = core.open(self.closing);
        let opened = Opened {
            pause: clock::now().since(self.since),
            drain: self.drain.get(),
            held: core.held.0.load(Relaxed) - self.held_before,
            revoked: !in_time,
        };
        self.opened.set(Some(opened));
        core.restart_waiters();
        self.raised.take().give_back();
        opened
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.open_once();
    }
}

/// The gate stays closed, whatever happens, until this is dropped.
pub struct Change<'c> {
    closed: &'c Closed,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What was changed in part must not run.
            std::process::abort();
        }
        let changes = self.closed.changes.get() - 1;
        self.closed.changes.set(changes);
        if changes == 0 {
            self.closed.gate.core().word.0.store(self.closed.closing | HELD, Release);
        }
    }
}

/// Closes as soon as nobody else does, and answers the number of this closing.
fn take_turn(core: &Core, deadline: Moment) -> Option<u32> {
    loop {
        let word = core.word.0.load(Relaxed);
        if word & PHASE == OPEN {
            let number = word.wrapping_add(ONE_CLOSING);
            if core.word.0.compare_exchange(word, number | HELD, SeqCst, Relaxed).is_ok() {
                return Some(number);
            }
            continue;
        }
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return None;
        }
        sleep_on(&core.word.0, word, left);
    }
}

/// Waits until nobody is inside; answers who still is at the deadline.
fn drain(core: &Core, deadline: Moment, real_time: bool) -> Vec<Stuck> {
    for _ in 0..SPINS {
        if !core.seats.iter().any(|seat| seat.inside()) {
            return Vec::new();
        }
        std::hint::spin_loop();
    }
    let late: Vec<(usize, &Arc<Seat>)> =
        core.seats.iter().enumerate().filter(|(_, seat)| seat.inside()).collect();
    // Where a thread is just registering, or going, it is done without.
    if let Some(mut roster) = core.roster.try_lock().ok().filter(|_| real_time) {
        for (number, seat) in &late {
            roster[*number] = Raised::thread(seat.tid());
        }
    }
    let stuck = late.iter().filter(|(_, seat)| !empty_by(seat, deadline)).map(|(_, seat)| Stuck {
        tid: seat.tid(),
        operation: seat.operation(),
        handle: seat.handle(),
    });
    let stuck = stuck.collect();
    if real_time {
        core.give_back();
    }
    stuck
}

fn empty_by(seat: &Seat, deadline: Moment) -> bool {
    while seat.inside() {
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return false;
        }
        sleep_on(&seat.active, 1, left.min(NAP));
    }
    true
}

fn sleep_on(word: &AtomicU32, value: u32, limit: Duration) {
    let limit = Timespec::try_from(limit).ok();
    // Any return is a reason to look again.
    let _ = futex::wait(word, futex::Flags::PRIVATE, value, limit.as_ref());
}
