//! What the benchmark's supervisors run: says when it began, then waits to be killed. It must cost next to nothing, so it has
//! no Rust runtime, and `scripts/bench` links it statically.
//!
//! It takes no arguments, since some supervisors give none: `BENCH_FIFO` in the environment is where its report goes, and
//! `BENCH_READY`, where it is set, is where a line says that it is ready.

#![no_main]

use std::{ffi::c_int, fs, io::Write as _};

use rustix::time::{ClockId, clock_gettime};

#[expect(unsafe_code, reason = "the C library's start calls this name")]
// SAFETY: the name and the type of C's `main`, and there is no other in this program.
#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    let began = clock_gettime(ClockId::Monotonic);
    match report(began.tv_sec, began.tv_nsec) {
        Some(()) => {
            rustix::event::pause();
            0
        }
        None => 1,
    }
}

/// One write of 24 octets, which a pipe takes whole: pid, seconds and nanoseconds.
fn report(seconds: i64, nanoseconds: i64) -> Option<()> {
    let mut message = [0; 24];
    message[..8].copy_from_slice(&i64::from(std::process::id()).to_ne_bytes());
    message[8..16].copy_from_slice(&seconds.to_ne_bytes());
    message[16..].copy_from_slice(&nanoseconds.to_ne_bytes());
    let path = std::env::var_os("BENCH_FIFO")?;
    let mut fifo = fs::OpenOptions::new().write(true).open(path).ok()?;
    fifo.write_all(&message).ok()?;
    if let Some(ready) = std::env::var_os("BENCH_READY") {
        fs::OpenOptions::new().write(true).open(ready).ok()?.write_all(b"\n").ok()?;
    }
    Some(())
}
