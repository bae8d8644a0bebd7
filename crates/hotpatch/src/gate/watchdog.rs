//! Opens a gate that its holder does not open: see the header of `gate/mod.rs` for when it may, and what it does when it may not.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*, fence},
    },
    thread::JoinHandle,
    time::Duration,
};

use daemon::clock;
use protocol::time::Moment;
use rustix::{thread::futex, time::Timespec};

use super::{CHANGING, Core, OPEN, PHASE, wake};
use crate::priority::{self, Raised};

/// How often it looks at a gate that is closed, or was a short while ago.
const TICK: Duration = Duration::from_millis(10);
/// After so many ticks with an open gate it sleeps until it is called.
const QUIET: u32 = 20;
/// A closing that never said who holds it is over after so long: its thread died right there.
const UNKNOWN: Duration = Duration::from_millis(200);
/// A change takes microseconds. One that began at the end of the limit has so long yet.
const CHANGE: Duration = Duration::from_millis(500);

/// Who keeps the gate closed, and until when at most.
#[derive(Default)]
pub(super) struct Holder {
    /// 1: the watchdog sleeps until it is woken.
    idle: AtomicU32,
    ended: AtomicU32,
    closing: AtomicU32,
    tid: AtomicI32,
    until: AtomicU64,
}

impl Holder {
    /// Calls the watchdog: a gate is about to be closed.
    pub(super) fn nudge(&self) {
        if self.idle.swap(0, SeqCst) != 0 {
            wake(&self.idle);
        }
    }

    /// The calling thread holds this closing, from now on.
    pub(super) fn is_now(&self, closing: u32, hold: Duration) -> Moment {
        let now = clock::now();
        self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Relaxed);
        self.until.store((now + hold).0, Relaxed);
        self.closing.store(closing, Release);
        // Either it sees the gate closed before it sleeps, or it is seen sleeping here.
        fence(SeqCst);
        if self.idle.load(Relaxed) != 0 {
            self.nudge();
        }
        now
    }
}

/// Its thread.
pub(super) struct Watchdog {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub(super) fn start(core: &Arc<Core>) -> io::Result<Self> {
        let watched = Arc::clone(core);
        let thread = std::thread::Builder::new()
            .name("gate-watchdog".to_owned())
            .stack_size(64 << 10)
            .spawn(move || watch(&watched))?;
        Ok(Self { core: Arc::clone(core), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.core.holder.ended.store(1, SeqCst);
        wake(&self.core.holder.ended);
        self.core.holder.nudge();
        if let Some(thread) = self.thread.take() {
            // It answers nothing.
            let _ = thread.join();
        }
    }
}

fn watch(core: &Core) {
    // A holder that never ends must not starve it. Where that is refused it runs when it can.
    let _raised = Raised::this_thread_to(priority::WATCHDOG);
    let mut quiet = 0;
    let mut seen = None;
    while core.holder.ended.load(SeqCst) == 0 {
        let word = core.word.0.load(SeqCst);
        if word & PHASE != OPEN {
            quiet = 0;
            let closing = word & !PHASE;
            let first = match seen {
                Some((number, first)) if number == closing => first,
                _ => clock::now(),
            };
            seen = Some((closing, first));
            look(core, word, first);
        } else if seen.take().is_some() {
            // Its holder may have died between opening and waking.
            wake(&core.word.0);
        }
        quiet += 1;
        if quiet < QUIET {
            nap(&core.holder.ended, 0, Some(TICK));
        } else {
            sleep_until_called(core);
            quiet = 0;
        }
    }
}

fn sleep_until_called(core: &Core) {
    core.holder.idle.store(1, SeqCst);
    fence(SeqCst);
    let open = core.word.0.load(SeqCst) & PHASE == OPEN;
    if open && core.holder.ended.load(SeqCst) == 0 {
        nap(&core.holder.idle, 1, None);
    }
    core.holder.idle.store(0, SeqCst);
}

fn look(core: &Core, word: u32, first: Moment) {
    let closing = word & !PHASE;
    let known = core.holder.closing.load(Acquire) == closing;
    let (dead, until) = if known {
        (!lives(core.holder.tid.load(Relaxed)), Moment(core.holder.until.load(Relaxed)))
    } else {
        (false, first + UNKNOWN)
    };
    let now = clock::now();
    if word & PHASE == CHANGING {
        // Looked at again: the change may have ended since, and another closing begun.
        if (dead || now >= until + CHANGE) && core.word.0.load(SeqCst) == word {
            give_up(dead);
        }
    } else if dead || now >= until {
        core.open(closing);
        core.give_back();
    }
}

/// Code may be half-written, and nobody is left who could finish or undo it.
fn give_up(dead: bool) -> ! {
    let why = if dead { "the thread that changed it died" } else { "changing it did not end" };
    eprintln!("hotpatch: the driver's code is changed in part: {why}; this process ends");
    std::process::abort();
}

#[expect(unsafe_code, reason = "tgkill, which neither std nor rustix has")]
fn lives(tid: i32) -> bool {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: signal 0 is sent nowhere; there are no pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, process, tid, 0) == 0 }
}

fn nap(word: &AtomicU32, value: u32, limit: Option<Duration>) {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // Any return is a reason to look again.
    let _ = futex::wait(word, futex::Flags::PRIVATE, value, limit.as_ref());
}
