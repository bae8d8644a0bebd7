//! The executor's system calls. Each does one thing to this process and says what went wrong.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_ulong},
    io,
    mem::MaybeUninit,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    ptr,
};

/// Highest capability number that is tried; the kernel says EINVAL above its own last one.
const CAPABILITY_MAX: u32 = 63;

fn checked(result: c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn prctl(option: c_int, a: c_ulong, b: c_ulong) -> io::Result<()> {
    let zero: c_ulong = 0;
    // SAFETY: the options used here take numbers only.
    checked(unsafe { libc::prctl(option, a, b, zero, zero) })
}

/// Takes a descriptor that the keeper passed by number; `None` where it is not open.
pub(crate) fn own(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on a number is harmless.
    let open = fd > 2 && unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1;
    // SAFETY: it is open, and `main` asks for each number once, before anything else is opened.
    open.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    checked(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })
}

pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let value = |limit: u64| libc::rlim_t::try_from(limit).unwrap_or(libc::RLIM_INFINITY);
    let limit = libc::rlimit { rlim_cur: value(soft), rlim_max: value(hard) };
    // SAFETY: `limit` is initialised; an unknown resource is refused by the kernel.
    checked(unsafe { libc::setrlimit(resource as _, &raw const limit) })
}

pub(crate) fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length belong together.
    checked(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) })
}

pub(crate) fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    checked(unsafe { libc::setresgid(gid, gid, gid) })
}

pub(crate) fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    checked(unsafe { libc::setresuid(uid, uid, uid) })
}

pub(crate) fn set_umask(umask: u32) {
    // SAFETY: takes a number only; the old mask is not wanted.
    unsafe { libc::umask(umask & 0o777) };
}

pub(crate) fn change_directory(folder: &CStr) -> io::Result<()> {
    // SAFETY: the path ends with NUL.
    checked(unsafe { libc::chdir(folder.as_ptr()) })
}

pub(crate) fn forbid_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

pub(crate) fn keep_capabilities_over_setuid() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)
}

/// Nothing outside `kept` can ever be had again, not even by a setuid program.
pub(crate) fn limit_bounding_set(kept: u64) -> io::Result<()> {
    for capability in (0..=CAPABILITY_MAX).filter(|number| kept & (1 << number) == 0) {
        match prctl(libc::PR_CAPBSET_DROP, capability.into(), 0) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            done => done?,
        }
    }
    Ok(())
}

/// The kernel's `struct __user_cap_header_struct`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// The kernel's `struct __user_cap_data_struct`, half of the 64 bits each.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Exactly `kept`; `ambient` ones survive the exec of a program without file capabilities.
pub(crate) fn set_capabilities(kept: u64, ambient: bool) -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let [a, b, c, d, e, f, g, h] = kept.to_le_bytes();
    let data = [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
        .map(|half| CapabilityData { effective: half, permitted: half, inheritable: half });
    // SAFETY: header and data have the layout of version 3.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if ambient {
        for capability in (0..=CAPABILITY_MAX).filter(|number| kept & (1 << number) != 0) {
            let raise = libc::PR_CAP_AMBIENT_RAISE.cast_unsigned().into();
            prctl(libc::PR_CAP_AMBIENT, raise, capability.into())?;
        }
    }
    Ok(())
}

/// A mount namespace of one's own in which these paths can't be written. What is mounted below one keeps its own mode.
pub(crate) fn make_read_only(paths: &[String]) -> io::Result<()> {
    let none = ptr::null::<c_char>();
    let mount = |path: &CStr, source: *const c_char, flags: c_ulong| {
        // SAFETY: both texts end with NUL; no file system type and no data are needed for these flags.
        checked(unsafe { libc::mount(source, path.as_ptr(), none, flags, ptr::null()) })
    };
    // SAFETY: takes a number only; this process has one thread.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"/", none, libc::MS_REC | libc::MS_SLAVE)?;
    for path in paths {
        let path =
            CString::new(path.as_str()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        mount(&path, path.as_ptr(), libc::MS_BIND | libc::MS_REC)?;
        let kept = mount_flags(&path)?;
        mount(&path, none, libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | kept)?;
    }
    Ok(())
}

/// Flags that a remount must repeat: without them it would take nosuid, nodev or noexec away.
fn mount_flags(path: &CStr) -> io::Result<c_ulong> {
    let mut found = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with NUL, `found` is writable; all zeros are a valid statvfs.
    let found = unsafe {
        checked(libc::statvfs(path.as_ptr(), found.as_mut_ptr()))?;
        found.assume_init()
    };
    // statvfs' ST_NOSUID, ST_NODEV and ST_NOEXEC have the numbers of MS_NOSUID, MS_NODEV and MS_NOEXEC.
    Ok(found.f_flag & (libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC))
}

/// Rust's start-up code ignores SIGPIPE, and an ignored signal stays ignored over exec.
pub(crate) fn restore_broken_pipe_signal() {
    // SAFETY: SIG_DFL is valid for SIGPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// execve(2); returns only the error.
pub(crate) fn exec(program: &CStr, argv: &[&CStr], env: &[&CStr]) -> i32 {
    let pointers = |texts: &[&CStr]| -> Vec<*const c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with null and point to texts that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
