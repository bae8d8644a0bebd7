//! What a process writes down when a fault ends it: which signal, where, in which operation. Nothing is repaired, and nothing is
//! done that a signal handler must not do; the signal then takes its ordinary way.

use std::{
    ffi::{c_int, c_void},
    io, mem, ptr,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering::*},
};

use driver_abi::Op;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::{inside, shared::Shared};

/// How many numbers a fault takes.
pub const WORDS: usize = 8;

const STATE: usize = 0;
const SIGNAL: usize = 1;
const CODE: usize = 2;
const ADDRESS: usize = 3;
const PC: usize = 4;
const TID: usize = 5;
/// Its place in the table and one more; 0: not in the driver.
const OPERATION: usize = 6;
const HANDLE: usize = 7;

const NONE: u64 = 0;
const WRITING: u64 = 1;
const THERE: u64 = 2;

const SIGNALS: [c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// How a process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// What was accessed, or the instruction; who sent it, where a process did.
    pub address: u64,
    /// Of the instruction; 0 on machines where it is not looked up.
    pub pc: u64,
    pub tid: i32,
    /// The driver's operation and its handle; nothing where the thread was not in one.
    pub inside: Option<(Op, u64)>,
}

static TARGET: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());

/// From now on these signals are written into the first [`WORDS`] of `shared`, the first one only. Threads that registered at a gate
/// have the stack for it, and those of std.
///
/// # Errors
/// Fewer words, or sigaction's.
#[expect(unsafe_code, reason = "installs signal handlers")]
pub fn install(shared: &'static Shared) -> io::Result<()> {
    if shared.words().len() < WORDS {
        return Err(io::Error::other(format!("a fault takes {WORDS} words")));
    }
    TARGET.store(shared.words().as_ptr().cast_mut(), Release);
    for signal in SIGNALS {
        // SAFETY: all zeros are a sigaction without flags, with an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        // The default action comes back before the handler runs: a fault of the handler ends the process, too.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: the handler does what signal handlers may do, and has the signature that SA_SIGINFO asks for.
        if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The fault that is written down there.
#[must_use]
pub fn read(shared: &Shared) -> Option<Fault> {
    let words = shared.words().first_chunk::<WORDS>()?;
    if words[STATE].load(Acquire) != THERE {
        return None;
    }
    let word = |index: usize| words[index].load(Relaxed);
    let number = |index: usize| i32::try_from(word(index).cast_signed()).unwrap_or(0);
    let operation = u32::try_from(word(OPERATION)).ok().and_then(|index| index.checked_sub(1));
    Some(Fault {
        signal: number(SIGNAL),
        code: number(CODE),
        address: word(ADDRESS),
        pc: word(PC),
        tid: number(TID),
        inside: operation.map(|index| (Op::at(index), word(HANDLE))),
    })
}

/// Room for the next one.
pub fn clear(shared: &Shared) {
    if let Some(words) = shared.words().first_chunk::<WORDS>() {
        words[STATE].store(NONE, Release);
    }
}

/// Atomics, the thread's own variables and three system calls: async-signal-safe.
#[expect(unsafe_code, reason = "reads what the kernel gives a signal handler")]
extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: no pointers.
    let (process, tid) = unsafe { (libc::getpid(), libc::gettid()) };
    let words = TARGET.load(Acquire);
    if !words.is_null() {
        // SAFETY: `install` was given words that stay for as long as the process.
        let words: &[AtomicU64; WORDS] = unsafe { &*words.cast() };
        if words[STATE].compare_exchange(NONE, WRITING, AcqRel, Relaxed).is_ok() {
            // SAFETY: SA_SIGINFO gives both, valid while the handler runs; the address is at its place for all five signals.
            let (code, address, pc) = unsafe {
                ((*info).si_code, (*info).si_addr(), program_counter(context.cast_const().cast()))
            };
            let (operation, handle) =
                inside::with(|inside| (inside.seat.operation().index() + 1, inside.seat.handle()))
                    .unwrap_or((0, 0));
            words[SIGNAL].store(i64::from(signal).cast_unsigned(), Relaxed);
            words[CODE].store(i64::from(code).cast_unsigned(), Relaxed);
            words[ADDRESS].store(address.addr() as u64, Relaxed);
            words[PC].store(pc, Relaxed);
            words[TID].store(tid.cast_unsigned().into(), Relaxed);
            words[OPERATION].store(operation.into(), Relaxed);
            words[HANDLE].store(handle, Relaxed);
            words[STATE].store(THERE, Release);
        }
    }
    // It is delivered when the handler returns, with the default action.
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, process, tid, signal) };
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "reads the interrupted thread's registers")]
unsafe fn program_counter(context: *const libc::ucontext_t) -> u64 {
    let register = usize::try_from(libc::REG_RIP).expect("registers are counted from 0");
    // SAFETY: the caller has it from the kernel.
    unsafe { (&(*context).uc_mcontext.gregs)[register].cast_unsigned() }
}

#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "reads the interrupted thread's registers")]
unsafe fn program_counter(context: *const libc::ucontext_t) -> u64 {
    // SAFETY: the caller has it from the kernel.
    unsafe { (*context).uc_mcontext.pc }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[expect(unsafe_code, reason = "the same signature on all machines")]
unsafe fn program_counter(_: *const libc::ucontext_t) -> u64 {
    0
}

/// A stack for signal handlers: a driver's recursion without end leaves no room on its own.
pub(crate) struct Stack {
    /// Nothing where the thread had one.
    start: Option<*mut c_void>,
}

const STACK: usize = 64 << 10;

impl Stack {
    /// Where there is no memory for one the thread goes without.
    #[expect(unsafe_code, reason = "sigaltstack, which neither std nor rustix has")]
    pub(crate) fn for_this_thread() -> Self {
        // SAFETY: all zeros are a stack_t.
        let mut before: libc::stack_t = unsafe { mem::zeroed() };
        // SAFETY: asks only, into one stack_t.
        let asked = unsafe { libc::sigaltstack(ptr::null(), &raw mut before) };
        if asked < 0 || before.ss_flags & libc::SS_DISABLE == 0 {
            return Self { start: None };
        }
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), STACK, rights, MapFlags::PRIVATE) };
        let Ok(start) = start else { return Self { start: None } };
        let stack = libc::stack_t { ss_sp: start, ss_flags: 0, ss_size: STACK };
        // SAFETY: the mapping stays until `drop` has taken it back.
        unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
        Self { start: Some(start) }
    }
}

impl Drop for Stack {
    #[expect(unsafe_code, reason = "takes the stack back")]
    fn drop(&mut self) {
        let Some(start) = self.start else { return };
        let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: it was set for this thread (what holds a Stack stays on its thread), nobody runs on it now, and it is unmapped after.
        unsafe {
            libc::sigaltstack(&raw const none, ptr::null_mut());
            let _ = munmap(start, STACK);
        }
    }
}
