//! For want of memory the keeper is killed last; its children are as killable as it was before it began.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use rustix::fs::{Mode, OFlags};

use crate::say::Text;

const SCORE: &std::ffi::CStr = c"/proc/self/oom_score_adj";
/// Never killed.
const NEVER: i32 = -1000;
/// What the score was; [`NEVER`]: it is as it was.
static BEFORE: AtomicI32 = AtomicI32::new(NEVER);

/// Lowers the keeper's own score where it may.
pub(crate) fn protect() {
    let before = std::fs::read_to_string("/proc/self/oom_score_adj");
    let before = before.ok().and_then(|text| text.trim().parse().ok());
    if let Some(before) = before.filter(|before| *before != NEVER)
        && write(NEVER)
    {
        BEFORE.store(before, Relaxed);
    }
}

/// In a child, and before another program takes this process over: the score as it was.
pub(crate) fn restore() {
    let before = BEFORE.load(Relaxed);
    if before != NEVER {
        // Where it could be lowered it can be raised; and a child that can't be killed is better than none.
        let _ = write(before);
    }
}

/// That program did not come.
pub(crate) fn protect_again() {
    if BEFORE.load(Relaxed) != NEVER {
        let _ = write(NEVER);
    }
}

fn write(score: i32) -> bool {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let text = Text::<8>::new(format_args!("{score}"));
    rustix::fs::open(SCORE, flags, Mode::empty())
        .and_then(|file| rustix::io::write(file, text.as_bytes()))
        .is_ok()
}
