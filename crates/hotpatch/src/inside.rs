//! Where the calling thread is: in which call, behind which gate. The host's services and the fault handler ask for it.

use std::{cell::Cell, ptr};

use crate::gate::{Core, Seat};

thread_local! {
    // No destructor and no lazy part: a signal handler reads it.
    static INNERMOST: Cell<*const Inside<'static>> = const { Cell::new(ptr::null()) };
}

/// A call under way, on the stack of its thread.
pub(crate) struct Inside<'c> {
    pub(crate) core: &'c Core,
    pub(crate) seat: &'c Seat,
    /// Of the code that the call began in.
    pub(crate) generation: u64,
}

impl Inside<'_> {
    /// Runs `call`, in which [`with`] finds this.
    #[inline]
    pub(crate) fn during<R>(&self, call: impl FnOnce() -> R) -> R {
        /// Also when `call` unwinds.
        struct Restore(*const Inside<'static>);
        impl Drop for Restore {
            fn drop(&mut self) {
                INNERMOST.set(self.0);
            }
        }
        let _restore = Restore(INNERMOST.replace(ptr::from_ref(self).cast()));
        call()
    }
}

/// Whether the calling thread is in any call.
#[inline]
pub(crate) fn anywhere() -> bool {
    !INNERMOST.get().is_null()
}

/// The innermost call that the calling thread is in.
#[inline]
#[expect(
    unsafe_code,
    reason = "the call under way is on this thread's stack, where only a pointer leads"
)]
pub(crate) fn with<R>(ask: impl FnOnce(&Inside<'_>) -> R) -> Option<R> {
    let innermost = INNERMOST.get();
    // SAFETY: not null means that `during` of this thread has not returned: it resets the pointer before. It borrows what the
    // pointer leads to for that long, and `ask` cannot keep it.
    (!innermost.is_null()).then(|| ask(unsafe { &*innermost }))
}
