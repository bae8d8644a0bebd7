//! Starts the writing process: the same program with `--writer`, one end of a pair of sockets as descriptor 3, and with the
//! rights that this process still has.

use std::{
    ffi::OsString,
    io,
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// Which descriptor the writer finds its end at.
const DESCRIPTOR: i32 = 3;
/// What the supervisor means for this process alone.
const NOT_PASSED_ON: [&str; 7] = [
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "VESTAL_REPLACES",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// How the writer is started.
#[derive(Clone, Debug)]
pub(super) struct Starter {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
}

impl Starter {
    /// # Errors
    /// As fork(2) and exec(2).
    pub(super) fn start(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null());
        for name in NOT_PASSED_ON {
            command.env_remove(name);
        }
        give(&mut command, theirs);
        let child = command.spawn()?;
        Ok((child, ours))
    }
}

#[expect(unsafe_code, reason = "the child finds its socket by a number that both know")]
fn give(command: &mut Command, theirs: UnixStream) {
    let place = move || {
        if theirs.as_raw_fd() == DESCRIPTOR {
            // It must only stay open over exec.
            return Ok(rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?);
        }
        // SAFETY: between fork and exec nobody else uses descriptors, whatever this number stood for was the parent's and is
        // not needed by the child; it is never dropped here, so nothing is closed twice.
        let mut three = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(DESCRIPTOR) });
        Ok(rustix::io::dup2(&theirs, &mut three)?)
    };
    // SAFETY: the closure makes one system call on descriptors, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(place) };
}
