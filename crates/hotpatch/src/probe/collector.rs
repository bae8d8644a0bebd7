//! What a probe does at the entry and at the return of a function, on the thread that calls it.
//!
//! So as to see the return, the return address is replaced by that of a trampoline, and kept on a stack of the thread's own,
//! which is bounded: where it is full, a call goes through unseen and is counted. Nothing here may panic, wait or allocate.

use std::{
    cell::Cell,
    process::abort,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::*},
    },
};

use daemon::clock;

use super::ring::{Hit, Ring};

/// Most probed calls that are inside one another on one thread.
pub(super) const DEPTH: usize = 32;

/// A probed function. Known by its address to the stub and to the calls under way, each with a count of its own.
pub(super) struct Site {
    pub(super) function: usize,
    pub(super) ring: Arc<Ring>,
    /// Where the function goes on behind the jump to the stub.
    pub(super) resume: AtomicUsize,
}

/// One probed call that has not returned.
#[derive(Clone, Copy)]
struct Frame {
    site: *const Site,
    /// Where its caller's stack ends: no two calls under way have the same, but one that ends by jumping to the other.
    stack: usize,
    back: usize,
    started_ns: u64,
    args: [u64; 6],
}

struct Shadow {
    depth: Cell<usize>,
    tid: Cell<i32>,
    frames: [Cell<Frame>; DEPTH],
}

const NO_FRAME: Frame = Frame { site: ptr::null(), stack: 0, back: 0, started_ns: 0, args: [0; 6] };

thread_local! {
    // No destructor and no lazy part. A thread that ends within a probed call keeps a count of its site, which is never freed.
    static SHADOW: Shadow = const {
        Shadow { depth: Cell::new(0), tid: Cell::new(0), frames: [const { Cell::new(NO_FRAME) }; DEPTH] }
    };
}

impl Shadow {
    fn top(&self) -> Option<Frame> {
        Some(self.frames.get(self.depth.get().checked_sub(1)?)?.get())
    }

    fn pop(&self) {
        self.depth.set(self.depth.get().saturating_sub(1));
    }

    /// Forgets calls that were left without a return: their part of the stack is another call's now.
    fn drop_left(&self, stack: usize) {
        while let Some(frame) = self.top().filter(|frame| frame.stack < stack) {
            self.pop();
            release(frame.site);
        }
    }

    fn tid(&self) -> i32 {
        if self.tid.get() == 0 {
            self.tid.set(rustix::thread::gettid().as_raw_nonzero().get());
        }
        self.tid.get()
    }
}

#[expect(unsafe_code, reason = "ends a count that was taken at the entry")]
fn release(site: *const Site) {
    // SAFETY: `enter` took a count for this frame, which was popped.
    drop(unsafe { Arc::from_raw(site) });
}

/// At the entry: answers where the function goes on. `back` is where the return address is kept until then.
///
/// # Safety
/// `site` is one that its stub keeps, `args` leads to six words, and `back` to the return address of the call.
#[expect(unsafe_code, reason = "called with addresses by the assembly beside it")]
pub(super) unsafe extern "C" fn enter(
    site: *const Site,
    args: *const [u64; 6],
    back: *mut usize,
    stack: usize,
) -> usize {
    // SAFETY: promised.
    let (known, args) = unsafe { (&*site, *args) };
    SHADOW.with(|shadow| {
        shadow.drop_left(stack);
        match shadow.frames.get(shadow.depth.get()) {
            None => known.ring.lose(),
            Some(place) => {
                // SAFETY: the site is alive, and its count goes up for this frame. `back` is the return address.
                let back = unsafe {
                    Arc::increment_strong_count(site);
                    back.replace(super::machine::trampoline())
                };
                place.set(Frame { site, stack, back, started_ns: clock::now().0, args });
                shadow.depth.set(shadow.depth.get() + 1);
            }
        }
    });
    known.resume.load(Relaxed)
}

/// At the return: answers where to return to.
#[expect(unsafe_code, reason = "reads what the entry kept")]
pub(super) extern "C" fn leave(result: i64, stack: usize) -> usize {
    SHADOW.with(|shadow| {
        shadow.drop_left(stack);
        let Some(frame) = shadow.top().filter(|frame| frame.stack == stack) else {
            // The trampoline is returned to once for each frame; without one there is nowhere to go.
            abort();
        };
        shadow.pop();
        // SAFETY: the frame keeps a count of it until `release`.
        let site = unsafe { &*frame.site };
        site.ring.push(&Hit {
            function: site.function,
            tid: shadow.tid(),
            started_ns: frame.started_ns,
            duration_ns: clock::now().0.saturating_sub(frame.started_ns),
            args: frame.args,
            result,
        });
        release(frame.site);
        frame.back
    })
}
