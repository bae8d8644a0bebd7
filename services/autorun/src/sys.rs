//! The system calls that no safe wrapper has. Each does one thing and says what went wrong.

use std::{
    ffi::{CString, c_int},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
};

use rustix::{
    ioctl::{Getter, NoArg, Opcode, ioctl, opcode},
    process::{Signal, set_parent_process_death_signal},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::settings::Identity;

/// `FIFREEZE` and `FITHAW` of linux/fs.h; the argument that their numbers speak of is not looked at.
const FREEZE: Opcode = opcode::read_write::<c_int>(b'X', 119);
const THAW: Opcode = opcode::read_write::<c_int>(b'X', 120);
/// `RNDRESEEDCRNG` of linux/random.h.
const RESEED: Opcode = opcode::none(b'R', 7);
/// Of linux/suspend_ioctls.h.
const SNAPSHOT_FREEZE: Opcode = opcode::none(b'3', 1);
const SNAPSHOT_RESTORE: Opcode = opcode::none(b'3', 4);
const SNAPSHOT_SIZE: Opcode = opcode::read::<i64>(b'3', 14);
const SNAPSHOT_CREATE: Opcode = opcode::write::<c_int>(b'3', 17);

/// Nothing is written to this file system any more, until [`thaw`].
pub(crate) fn freeze(folder: &File) -> io::Result<()> {
    // SAFETY: the kernel reads and writes nothing of ours for this number, whatever the descriptor is.
    let freeze = unsafe { NoArg::<FREEZE>::new() };
    // SAFETY: as above.
    unsafe { ioctl(folder.as_fd(), freeze) }.map_err(Into::into)
}

pub(crate) fn thaw(folder: &File) -> io::Result<()> {
    // SAFETY: as for `freeze`.
    let thaw = unsafe { NoArg::<THAW>::new() };
    // SAFETY: as above.
    unsafe { ioctl(folder.as_fd(), thaw) }.map_err(Into::into)
}

/// The kernel's generator takes its next key from what was written to it.
pub(crate) fn reseed(urandom: &File) -> io::Result<()> {
    // SAFETY: it has no argument.
    let reseed = unsafe { NoArg::<RESEED>::new() };
    // SAFETY: as above.
    unsafe { ioctl(urandom.as_fd(), reseed) }.map_err(Into::into)
}

/// Every other process stands still from now on, until the device is closed.
pub(crate) fn snapshot_freeze(device: &File) -> io::Result<()> {
    // SAFETY: it has no argument.
    let freeze = unsafe { NoArg::<SNAPSHOT_FREEZE>::new() };
    // SAFETY: as above.
    unsafe { ioctl(device.as_fd(), freeze) }.map_err(Into::into)
}

/// Takes the image. Whether this is the life in which it was taken: it comes back in every life of the image, too.
pub(crate) fn snapshot_create(device: &File) -> io::Result<bool> {
    // SAFETY: the kernel writes one int, whatever its number says of the direction.
    let create = unsafe { Getter::<SNAPSHOT_CREATE, c_int>::new() };
    // SAFETY: as above.
    let first: c_int = unsafe { ioctl(device.as_fd(), create) }?;
    Ok(first != 0)
}

/// Octets of the stream.
pub(crate) fn snapshot_size(device: &File) -> io::Result<u64> {
    // SAFETY: the kernel writes one loff_t, which has 64 bits everywhere.
    let size = unsafe { Getter::<SNAPSHOT_SIZE, i64>::new() };
    // SAFETY: as above.
    let size: i64 = unsafe { ioctl(device.as_fd(), size) }?;
    u64::try_from(size).map_err(|_| io::Error::other(format!("an image of {size} octets")))
}

/// Goes on in the image that was written to the device. Comes back only where that failed.
pub(crate) fn snapshot_restore(device: &File) -> io::Result<()> {
    // SAFETY: it has no argument.
    let restore = unsafe { NoArg::<SNAPSHOT_RESTORE>::new() };
    // SAFETY: as above.
    unsafe { ioctl(device.as_fd(), restore) }.map_err(Into::into)
}

/// Everything that this process has, and will have, stays in memory: nobody could bring it back while all others stand still.
pub(crate) fn lock_memory() -> io::Result<()> {
    // SAFETY: two flags; nothing is written.
    checked(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) })
}

pub(crate) fn swap_on(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with NUL and outlives the call.
    checked(unsafe { libc::swapon(path.as_ptr(), 0) })
}

pub(crate) fn swap_off(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: as above.
    checked(unsafe { libc::swapoff(path.as_ptr()) })
}

fn checked(result: c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// If this process is killed, the child is too: an image that nobody waits for must not be written.
pub(crate) fn die_with_us(command: &mut Command) {
    // SAFETY: one system call with a number; nothing is allocated, no lock is taken.
    unsafe {
        command
            .pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
}

/// Before it becomes a program, the child enters the group (its open `cgroup.procs`) and becomes the user, for good.
pub(crate) fn prepare(command: &mut Command, group: Option<OwnedFd>, identity: Option<&Identity>) {
    use rustix::fs::{Gid, Uid};
    let user = identity.map(|identity| {
        let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        (groups, Gid::from_raw(identity.gid), Uid::from_raw(identity.uid))
    });
    let change = move || {
        if let Some(group) = &group {
            rustix::io::write(group, b"0")?;
        }
        if let Some((groups, gid, uid)) = &user {
            set_thread_groups(groups)?;
            set_thread_res_gid(*gid, *gid, *gid)?;
            set_thread_res_uid(*uid, *uid, *uid)?;
        }
        Ok(())
    };
    // SAFETY: four system calls; nothing is allocated, no lock is taken. The child has one thread, so that these change the
    // whole process.
    unsafe { command.pre_exec(change) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm"))]
    fn the_numbers_are_those_of_the_kernels_headers() {
        assert_eq!((FREEZE, THAW, RESEED), (0xC004_5877, 0xC004_5878, 0x5207));
        assert_eq!((SNAPSHOT_FREEZE, SNAPSHOT_RESTORE), (0x3301, 0x3304));
        assert_eq!((SNAPSHOT_SIZE, SNAPSHOT_CREATE), (0x8008_330E, 0x4004_3311));
    }

    #[test]
    fn what_is_no_mount_is_refused_by_the_kernel() {
        // On no file system that could be frozen.
        let (pipe, _other) = io::pipe().unwrap();
        let pipe = File::from(OwnedFd::from(pipe));
        assert!(freeze(&pipe).is_err() && thaw(&pipe).is_err() && reseed(&pipe).is_err());
        assert!(
            swap_on(Path::new("/no/such")).is_err() && swap_off(Path::new("/no/such")).is_err()
        );
    }
}
