//! The key that the supervisor hands to each start of an instance, through the descriptor that `GMI_KEY_FD` names.
//!
//! Read once, then kept in memory for this process only: a child of it must not be able to report in its parent's name
//! while that one hangs.

#![expect(
    unsafe_code,
    reason = "an inherited descriptor is known by its number only; the environment is the process's"
)]

use std::{
    env,
    fs::File,
    io::Read as _,
    os::fd::{FromRawFd as _, OwnedFd},
    sync::Mutex,
};

use protocol::heartbeat::{KEY_BLOCK_LENGTH, KeyBlock};

use crate::Error;

const VARIABLE: &str = "GMI_KEY_FD";

/// What was read, and by which process.
static KEPT: Mutex<Option<(u32, KeyBlock)>> = Mutex::new(None);

/// The key block of this process; `None` where nobody gave it one.
pub(crate) fn inherited() -> Result<Option<KeyBlock>, Error> {
    let own = std::process::id();
    let mut kept = KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, block)) = kept.filter(|(pid, _)| *pid == own) {
        return Ok(Some(block));
    }
    let Ok(text) = env::var(VARIABLE) else { return Ok(None) };
    // SAFETY: only this function touches the variable from Rust; who reads the environment in C at the same time must
    // not, as unsetenv(3) says and gmi_daemon.h repeats.
    unsafe { env::remove_var(VARIABLE) };
    let fd = text.parse::<i32>().ok().filter(|fd| *fd > 2);
    let bad = |fd, reason: &str| Error::Key { fd, reason: reason.to_owned() };
    let fd = fd.ok_or_else(|| bad(-1, &format!("{text:?} is no inherited descriptor's number")))?;
    // SAFETY: fcntl(F_GETFD) on a number that is not open fails, and does nothing else.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(bad(fd, &std::io::Error::last_os_error().to_string()));
    }
    // SAFETY: it is open, the variable says that it was opened for us, and the variable is gone: nobody takes it twice.
    let mut pipe = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut octets = [0; KEY_BLOCK_LENGTH];
    pipe.read_exact(&mut octets).map_err(|error| bad(fd, &error.to_string()))?;
    let block = KeyBlock::decode(&octets);
    let block = block.ok_or_else(|| bad(fd, "its octets are no key of this version"))?;
    *kept = Some((own, block));
    Ok(Some(block))
}
