//! One keeper a run directory: flock on `RUN_DIR/keeper.lock`. Unlike the other daemons' lock it is waited for while its
//! holder dies, and handed on over a re-execution.

use std::{io, os::fd::OwnedFd, path::Path, time::Duration};

use protocol::time::Moment;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};

use crate::proc;

/// A holder that is being killed has this long to be gone.
const DYING_TIME: Duration = Duration::from_secs(5);
/// One that lives may still be about to die: somebody has killed it and started us in the same breath.
const LIVING_TIME: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum Refused {
    /// By this pid; 0 where the file doesn't say.
    Held(i32),
    Io(io::Error),
}

/// Takes the lock, and writes our pid into it.
pub(crate) fn take(path: &Path, now: fn() -> Moment) -> Result<OwnedFd, Refused> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let io = |error: Errno| Refused::Io(error.into());
    // Whoever can open it can lock it: only ours, also where the file is there already with another mode.
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::open(path, flags, mode).map_err(io)?;
    rustix::fs::fchmod(&file, mode).map_err(io)?;
    let began = now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(io(error)),
        }
        let pid = holder(&file);
        let limit = if proc::lives(pid) { LIVING_TIME } else { DYING_TIME };
        if now().since(began) >= limit {
            return Err(Refused::Held(pid));
        }
        match proc::open(pid) {
            Some(pidfd) => drop(proc::wait_end(&pidfd, LOOK)),
            None => proc::pause(LOOK),
        }
    }
    rustix::fs::ftruncate(&file, 0).map_err(io)?;
    let pid = format!("{}\n", std::process::id());
    rustix::io::pwrite(&file, pid.as_bytes(), 0).map_err(io)?;
    Ok(file)
}

fn holder(file: &OwnedFd) -> i32 {
    let mut text = [0; 16];
    let length = rustix::io::pread(file, &mut text, 0).unwrap_or(0);
    std::str::from_utf8(&text[..length]).ok().and_then(|it| it.trim().parse().ok()).unwrap_or(0)
}
