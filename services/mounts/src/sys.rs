//! The system calls that no safe wrapper has.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Command,
};

fn path(device: &str) -> io::Result<CString> {
    CString::new(device).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the keeper of the machine has started this program.
pub(crate) fn is_asked_by_pid_one() -> bool {
    rustix::process::getppid().is_some_and(rustix::process::Pid::is_init)
}

pub(crate) fn swap_on(device: &str) -> io::Result<()> {
    let device = path(device)?;
    // SAFETY: the path ends with NUL and outlives the call.
    checked(unsafe { libc::swapon(device.as_ptr(), 0) })
}

pub(crate) fn swap_off(device: &str) -> io::Result<()> {
    let device = path(device)?;
    // SAFETY: as above.
    checked(unsafe { libc::swapoff(device.as_ptr()) })
}

/// `LOOP_CLR_FD`: the device lets go of its file.
pub(crate) fn free_loop(device: &File) -> io::Result<()> {
    const LOOP_CLR_FD: libc::Ioctl = 0x4C01;
    // SAFETY: takes no argument besides the descriptor, which is open.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, 0) })
}

/// If this program is killed, the child is too: it must not go on writing to what others believe unused.
pub(crate) fn die_with_us(command: &mut Command) {
    let die = || {
        // SAFETY: takes numbers only.
        checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
    };
    // SAFETY: prctl may be called between fork and exec.
    unsafe { command.pre_exec(die) };
}
