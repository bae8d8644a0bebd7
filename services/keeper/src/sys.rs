//! The system calls that need `unsafe`: clone, exec, signals, waiting, mappings. Nothing else in the keeper does.
//!
//! No function here allocates, so all of them may be called between clone and exec.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use protocol::keeper::{
    Exit,
    plan::{ARGUMENTS_MAX, VARIABLES_MAX},
};

/// What happened to a child.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    Ended(Exit),
    Stopped,
    Continued,
}

/// Which side of [`clone_process`] this is.
pub(crate) enum Side {
    Child,
    /// `execed`: by now the child has become another program, or has ended.
    Parent {
        pid: i32,
        pidfd: Option<OwnedFd>,
        execed: bool,
    },
}

/// The kernel's `struct clone_args` (clone3(2)), first version with cgroup.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// For tests: do as on a kernel that has neither clone3 nor cgroup.kill.
static OLD_KERNEL: AtomicBool = AtomicBool::new(false);

pub(crate) fn pretend_old_kernel() {
    OLD_KERNEL.store(true, Relaxed);
}

pub(crate) fn is_old_kernel() -> bool {
    OLD_KERNEL.load(Relaxed)
}

/// Clones this single-threaded process without sharing memory; the parent goes on once the child has exec'd or ended.
/// The kernel writes the child's pid into `record` before the child runs. Old kernels: fork, then pidfd_open.
pub(crate) fn clone_process(
    record: &AtomicU32,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Side> {
    if is_old_kernel() {
        return fork_process(record, cgroup);
    }
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID;
    let mut args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()),
        pidfd: (&raw mut pidfd).addr() as u64,
        parent_tid: record.as_ptr().addr() as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // Both pointers go through the kernel as numbers.
    (&raw mut pidfd).expose_provenance();
    record.as_ptr().expose_provenance();
    // SAFETY: `args` is a valid clone_args, its two pointers outlive the call, and without CLONE_VM the child runs on its
    // own copy of this memory; this process has one thread, so no lock is held by another one in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        0 => Ok(Side::Child),
        1.. => Ok(Side::Parent {
            pid: i32::try_from(pid).expect("a pid fits into 31 bits"),
            pidfd: own(pidfd),
            execed: true,
        }),
        _ => match io::Error::last_os_error() {
            old if matches!(old.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
                fork_process(record, cgroup)
            }
            error => Err(error),
        },
    }
}

fn fork_process(record: &AtomicU32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    // SAFETY: one thread, as above.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            if let Some(cgroup) = cgroup {
                // Outside its cgroup it must not run: a failure ends it before it has become anything.
                if crate::tree::enter(cgroup).is_err() {
                    exit_now(127);
                }
            }
            Ok(Side::Child)
        }
        pid => {
            record.store(pid.cast_unsigned(), Relaxed);
            let pidfd = rustix::process::Pid::from_raw(pid).and_then(|pid| {
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
            });
            Ok(Side::Parent { pid, pidfd, execed: false })
        }
    }
}

/// Takes a descriptor whose number came from the kernel, from a state file of our own, or from our own options.
pub(crate) fn own(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the callers pass each number once, and nobody else in this process owns it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Ends this process without running anything of it.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` touches nothing of this process' memory.
    unsafe { libc::_exit(code) }
}

/// Default dispositions: whoever started the keeper may have ignored some, and its children would inherit that.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is valid for every signal; for SIGKILL, SIGSTOP and libc's own two the call fails harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// In a child: nothing is blocked and nothing ignored, as a program expects it. The keeper itself ignores SIGPIPE only.
pub(crate) fn reset_signals() {
    let set = signal_set(&[]);
    // SAFETY: SIG_DFL is valid; `set` is initialised, the old mask is not wanted.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset only changes it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Blocks these signals and returns a descriptor from which they are read; SIGPIPE is ignored.
pub(crate) fn signal_descriptor(signals: &[c_int]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        own(fd).ok_or_else(io::Error::last_os_error)
    }
}

/// Children that this process' descendants leave behind become its own.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A child to which something happened; with `reap` it is taken off the list, else it stays and pins its pid.
pub(crate) fn look_at_child(which: Option<i32>, reap: bool) -> Option<(i32, Fate)> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let (kind, id) = match which {
        None => (libc::P_ALL, 0),
        Some(pid) => (libc::P_PID, pid.cast_unsigned()),
    };
    let keep = if reap { 0 } else { libc::WNOWAIT };
    let options = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | keep;
    // SAFETY: `info` is writable; waitid fills it, and all zeros are a valid siginfo_t.
    let (info, pid, status) = unsafe {
        if libc::waitid(kind, id, info.as_mut_ptr(), options) != 0 {
            return None;
        }
        let info = info.assume_init();
        (info, info.si_pid(), info.si_status())
    };
    let signal = || u8::try_from(status).unwrap_or(0);
    let fate = match info.si_code {
        libc::CLD_EXITED => Fate::Ended(Exit::Code((status & 0xff).try_into().unwrap_or(255))),
        libc::CLD_KILLED => Fate::Ended(Exit::Signal { signal: signal(), core: false }),
        libc::CLD_DUMPED => Fate::Ended(Exit::Signal { signal: signal(), core: true }),
        libc::CLD_STOPPED | libc::CLD_TRAPPED => Fate::Stopped,
        _ => Fate::Continued,
    };
    (pid > 0).then_some((pid, fate))
}

/// Waits for one child that is about to end, takes it off the list and says its exit code.
pub(crate) fn wait_for(pid: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is writable.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1 {
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return None;
        }
    }
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

/// kill(2): `pid` below zero means a process group.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Signals the process of a pidfd.
pub(crate) fn kill_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = ptr::null::<c_void>();
    // SAFETY: a null siginfo means "as kill would".
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) }
    {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's `struct pidfd_info`, first version (6.13; the exit code since 6.15).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)` with the first version's 64 bytes.
const PIDFD_GET_INFO: u64 = 0xC040_FF0B;

/// How a process that is not our child ended; `Ok(None)`: nobody has reaped it yet, or it lives.
pub(crate) fn foreign_exit(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request number says 64 bytes, the size of `info`.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then(|| exit_of(info.exit_code)))
}

/// A status as wait(2) has it.
pub(crate) fn exit_of(status: i32) -> Exit {
    let [low, high, ..] = status.to_le_bytes();
    match low & 0x7f {
        0 => Exit::Code(high),
        signal => Exit::Signal { signal, core: low & 0x80 != 0 },
    }
}

/// In a child: makes `fd` the descriptor `target`, kept over exec.
pub(crate) fn place(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: only called between clone and exec, where descriptors are numbers and nothing is dropped any more.
    match unsafe { libc::dup3(fd.as_raw_fd(), target, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Keeps a descriptor over exec, or no longer.
pub(crate) fn keep_over_exec(fd: impl AsFd, keep: bool) -> io::Result<()> {
    let flags = if keep { rustix::io::FdFlags::empty() } else { rustix::io::FdFlags::CLOEXEC };
    Ok(rustix::io::fcntl_setfd(fd, flags)?)
}

/// Descriptors that whoever started the keeper left open are not for its children.
pub(crate) fn close_all_over_exec() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: takes numbers only, and closes nothing in this process.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Pointers to strings, ended by null, on the stack.
struct Pointers<const N: usize>([*const c_char; N]);

impl<const N: usize> Pointers<N> {
    fn to<'a>(strings: impl Iterator<Item = &'a CStr>) -> Self {
        let mut all = [ptr::null(); N];
        for (place, string) in all[..N - 1].iter_mut().zip(strings) {
            *place = string.as_ptr();
        }
        Self(all)
    }
}

/// execve(2); returns only the error.
pub(crate) fn exec<'a>(
    program: &CStr,
    argv: impl Iterator<Item = &'a CStr>,
    env: impl Iterator<Item = &'a CStr>,
) -> i32 {
    let argv = Pointers::<{ ARGUMENTS_MAX + 1 }>::to(argv);
    let env = Pointers::<{ VARIABLES_MAX + 1 }>::to(env);
    // SAFETY: both arrays end with null and point to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.0.as_ptr(), env.0.as_ptr()) };
    errno()
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// The kernel leaves ctrl-alt-del to this process, as SIGINT. The caller has checked that this is PID 1.
pub(crate) fn take_ctrl_alt_del() -> io::Result<()> {
    // SAFETY: takes a number only.
    match unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_CAD_OFF) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// reboot(2) with one of its commands. The caller has checked that this is PID 1.
pub(crate) fn reboot(command: c_int) -> io::Error {
    // SAFETY: takes a number only.
    unsafe { libc::reboot(command) };
    io::Error::last_os_error()
}

/// An ioctl of the watchdog driver that takes a pointer to one int.
pub(crate) fn watchdog_timeout(device: BorrowedFd<'_>, seconds: u16) -> io::Result<()> {
    /// `WDIOC_SETTIMEOUT`, `_IOWR('W', 6, int)`.
    const SET_TIMEOUT: u64 = 0xC004_5706;
    let mut seconds = c_int::from(seconds);
    // SAFETY: the request takes a pointer to an int.
    match unsafe { libc::ioctl(device.as_raw_fd(), SET_TIMEOUT as _, &raw mut seconds) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
