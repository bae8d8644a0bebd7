//! The keeper's own messages: one line each to stderr, formatted on the stack, at most ten a second.

use std::{
    fmt::{self, Write as _},
    io,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use protocol::keeper::Exit;

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

/// How a process ended, as a person says it.
pub(crate) struct How(pub(crate) Exit);

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Exit::None => f.write_str("has never run"),
            Exit::Code(code) => write!(f, "ended with exit code {code}"),
            Exit::Signal { signal, core } => {
                let dumped = if core { " and left a core" } else { "" };
                write!(f, "was ended by {}{dumped}", Signal(signal.into()))
            }
            Exit::Lost => f.write_str("ended, nobody knows how"),
            Exit::SpawnFailed { stage, errno } => {
                write!(f, "could not be started ({stage:?}): {}", errno_text(errno))
            }
        }
    }
}

/// A signal by its number, and by its name where every architecture agrees on it.
pub(crate) struct Signal(pub(crate) i32);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            libc::SIGHUP => " (SIGHUP)",
            libc::SIGINT => " (SIGINT)",
            libc::SIGABRT => " (SIGABRT)",
            libc::SIGKILL => " (SIGKILL)",
            libc::SIGBUS => " (SIGBUS)",
            libc::SIGSEGV => " (SIGSEGV)",
            libc::SIGPIPE => " (SIGPIPE)",
            libc::SIGTERM => " (SIGTERM)",
            _ => "",
        };
        write!(f, "signal {}{name}", self.0)
    }
}

/// The system's words for an errno.
pub(crate) fn errno_text(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_words() {
        let text = |exit| How(exit).to_string();
        assert_eq!(text(Exit::Code(0)), "ended with exit code 0");
        let killed = Exit::Signal { signal: 9, core: false };
        assert_eq!(text(killed), "was ended by signal 9 (SIGKILL)");
        let dumped = Exit::Signal { signal: 40, core: true };
        assert_eq!(text(dumped), "was ended by signal 40 and left a core");
    }
}
