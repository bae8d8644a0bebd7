//! What the benchmark's targets, services and fake machine run: says when it began, and ends. It must cost next to nothing, so it
//! has no Rust runtime, and `scripts/bench` links it statically.
//!
//! Without arguments its report goes to the FIFO that `BENCH_FIFO` names. With `stay` it waits to be killed; anything else is what
//! the fake machine is told, of which there is nothing to do.

#![no_main]

use std::{
    ffi::{CStr, c_char, c_int},
    fs,
    io::Write as _,
};

use rustix::time::{ClockId, clock_gettime};

#[expect(unsafe_code, reason = "the C library's start calls this name")]
// SAFETY: the name and the type of C's `main`, and there is no other in this program.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    let began = clock_gettime(ClockId::Monotonic);
    if count < 2 {
        return c_int::from(report(began.tv_sec, began.tv_nsec).is_none());
    }
    // SAFETY: there are `count` of them, each a string that lives as long as the process.
    let word = unsafe { CStr::from_ptr(*words.add(1)) };
    if word == c"stay" {
        rustix::event::pause();
    }
    0
}

/// One write of 16 octets, which a pipe takes whole: seconds and nanoseconds.
fn report(seconds: i64, nanoseconds: i64) -> Option<()> {
    let mut message = [0; 16];
    message[..8].copy_from_slice(&seconds.to_ne_bytes());
    message[8..].copy_from_slice(&nanoseconds.to_ne_bytes());
    let path = std::env::var_os("BENCH_FIFO")?;
    fs::OpenOptions::new().write(true).open(path).ok()?.write_all(&message).ok()
}
