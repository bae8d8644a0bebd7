//! The keeper's own messages: one line each to stderr, formatted on the stack, at most ten a second.

use std::{
    fmt::{self, Write as _},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// A device's console must survive a storm.
const LINES_A_SECOND: u32 = 10;
const NANOSECONDS: u64 = 1_000_000_000;
static SECOND: AtomicU64 = AtomicU64::new(0);
static LINES: AtomicU32 = AtomicU32::new(0);

/// Writes one line to stderr, `format!`'s way.
macro_rules! say {
    ($($arguments:tt)*) => { $crate::say::line(format_args!($($arguments)*)) };
}
pub(crate) use say;

/// Text in a fixed place; what doesn't fit is cut off.
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    pub(crate) fn new(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self { bytes: [0; N], length: 0 };
        // Only a full buffer fails, and that cuts the line.
        let _ = text.write_fmt(arguments);
        text
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = N - self.length;
        let taken = text.len().min(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Use [`say!`].
pub(crate) fn line(arguments: fmt::Arguments<'_>) {
    let second = daemon::clock::now().0 / NANOSECONDS;
    if SECOND.swap(second, Ordering::Relaxed) != second {
        LINES.store(0, Ordering::Relaxed);
    }
    if LINES.fetch_add(1, Ordering::Relaxed) >= LINES_A_SECOND {
        return;
    }
    let text = Text::<512>::new(format_args!("keeper: {arguments}"));
    let stderr = rustix::stdio::stderr();
    // There is nobody to tell that nobody listens.
    let _ = rustix::io::write(stderr, text.as_bytes());
    let _ = rustix::io::write(stderr, b"\n");
}
