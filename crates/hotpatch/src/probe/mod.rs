//! Looks at calls of single functions: arguments, result, time. Applied and undone like an upgrade, with the gate closed.
//!
//! ```text
//! caller --> entry --jump--> stub --> collector (time, arguments, return address kept) --> entry, behind the jump
//! caller <-- collector (time, result) <-- trampoline <----------------------- return -----------+
//! ```
//!
//! Only functions with room that a compiler left: what the jump is written over needn't be run elsewhere. A function that is left
//! by an exception, and not by its return, must not be probed: there is no way to tell who unwinds the stack.

mod collector;
mod ring;
#[cfg(test)]
mod tests;

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), path = "none.rs")]
mod machine;

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::*},
    },
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

pub use self::ring::{Hit, Ring};

use self::collector::Site;
use crate::{Closed, Code, Function, Refusal, Room, Sealed, entry::Jump, text::Text};

/// A function that is looked at. Dropped while it is, it stays so.
pub struct Probe {
    jump: Jump,
    site: Arc<Site>,
    stub: Stub,
}

impl Probe {
    /// Nothing is written yet.
    ///
    /// # Errors
    /// [`Code::NoRoom`]: no compiler left room; [`Code::Unsupported`]: on this machine, or where the processor guards return
    /// addresses; [`Code::System`].
    pub fn new(function: &Function, ring: Arc<Ring>) -> Result<Self, Refusal> {
        if !matches!(function.room, Room::Patchable { .. }) {
            return Err(Refusal::new(
                Code::NoRoom,
                format!(
                    "no room for a probe at the function {}: compile it with -fpatchable-function-entry=16",
                    function.name
                ),
            ));
        }
        if guards_returns() {
            return Err(Refusal::new(
                Code::Unsupported,
                "a probe replaces return addresses, which this process has guarded (shadow stack)",
            ));
        }
        let site = Arc::new(Site { function: function.address, ring, resume: AtomicUsize::new(0) });
        let stub = Stub::new(&machine::stub(Arc::as_ptr(&site).expose_provenance()))?;
        Ok(Self { jump: Jump::new(function, stub.address)?, site, stub })
    }

    #[must_use]
    pub fn function(&self) -> &Function {
        self.jump.function()
    }

    #[must_use]
    pub fn is_applied(&self) -> bool {
        self.jump.is_written()
    }

    /// Calls from now on are seen.
    ///
    /// # Errors
    /// As [`crate::Redirect::apply`].
    pub fn apply(&mut self, closed: &Closed) -> Result<(), Refusal> {
        let Self { jump, site, .. } = self;
        jump.write(closed, |resume| site.resume.store(resume, Relaxed))
    }

    /// Calls from now on aren't seen. Those under way still are.
    ///
    /// # Errors
    /// As [`crate::Redirect::undo`].
    pub fn undo(&mut self, closed: &Closed) -> Result<(), Refusal> {
        self.jump.take_back(closed)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.jump.is_written() {
            // The entry leads there.
            self.stub.keep();
            std::mem::forget(Arc::clone(&self.site));
        }
    }
}

/// Generated code, in a page that was never to be written to.
struct Stub {
    address: usize,
    length: usize,
}

impl Stub {
    fn new(code: &[u8]) -> Result<Self, Refusal> {
        let map = || -> std::io::Result<*mut std::ffi::c_void> {
            let file = Sealed::new("driver-probe", code)?;
            #[expect(unsafe_code, reason = "maps generated code")]
            // SAFETY: a new mapping at an address of the kernel's choice, of a file that can't change any more.
            let start = unsafe {
                mmap(
                    std::ptr::null_mut(),
                    code.len(),
                    ProtFlags::READ | ProtFlags::EXEC,
                    MapFlags::PRIVATE,
                    file.fd().as_fd(),
                    0,
                )?
            };
            Ok(start)
        };
        let start = map().map_err(|error| {
            Refusal::new(Code::System, format!("map a page of code for a probe: {error}"))
        })?;
        let stub = Self { address: start.expose_provenance(), length: code.len() };
        // Another page may have been here, and been run.
        Text::sync(stub.address, stub.length)
            .map_err(|error| Refusal::new(Code::System, format!("make code known: {error}")))?;
        Ok(stub)
    }

    /// Stays mapped.
    fn keep(&mut self) {
        self.length = 0;
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if self.length > 0 {
            #[expect(unsafe_code, reason = "gives a page of generated code back")]
            // SAFETY: it was mapped by `new`. No entry leads there any more; the gate was closed when the last one stopped to, so
            // nobody runs it, and calls under way return to the trampoline, which is no part of it.
            let unmapped =
                unsafe { munmap(std::ptr::with_exposed_provenance_mut(self.address), self.length) };
            // Fails for ranges that were never mapped only.
            let _ = unmapped;
        }
    }
}

/// Whether the processor compares return addresses with a stack of its own.
#[expect(unsafe_code, reason = "asks the kernel")]
fn guards_returns() -> bool {
    let mut status = 0u64;
    // SAFETY: each request writes one word, or fails with EINVAL where the kernel doesn't know it.
    #[cfg(target_arch = "x86_64")]
    let answer = unsafe {
        const ARCH_SHSTK_STATUS: libc::c_int = 0x5005;
        libc::syscall(libc::SYS_arch_prctl, ARCH_SHSTK_STATUS, &raw mut status)
    };
    // SAFETY: as above.
    #[cfg(not(target_arch = "x86_64"))]
    let answer = unsafe {
        const PR_GET_SHADOW_STACK_STATUS: libc::c_int = 74;
        libc::prctl(PR_GET_SHADOW_STACK_STATUS, &raw mut status, 0, 0, 0)
    };
    answer == 0 && status & 1 == 1
}
