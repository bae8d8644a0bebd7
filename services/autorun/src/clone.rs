//! Starts a program in a cgroup from its first moment. A process that moves itself there, as `pre_exec` would have it, makes
//! the kernel wait for all processors first: 15 ms, seen on 6.18, and more on a busy machine.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsString, c_char},
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    process::Command,
    ptr,
};

use rustix::{
    io::Errno,
    process::Pid,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::settings::Identity;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

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

/// Texts as execve(2) wants them.
struct Texts {
    _owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Texts {
    fn new(texts: impl IntoIterator<Item = Vec<u8>>) -> io::Result<Self> {
        let owned: Vec<CString> = texts.into_iter().map(CString::new).collect::<Result<_, _>>()?;
        let ends = [ptr::null()];
        let pointers = owned.iter().map(|text| text.as_ptr()).chain(ends).collect();
        Ok(Self { _owned: owned, pointers })
    }
}

/// The command in a process group of its own, without input, in the root folder. An error of kind `Unsupported` where the kernel
/// can't do it (before 5.7, or under qemu-user).
pub(crate) fn spawn_into(
    group: BorrowedFd<'_>,
    command: &Command,
    identity: Option<&Identity>,
) -> io::Result<Pid> {
    let program = CString::new(command.get_program().as_bytes())?;
    let words = command.get_args().map(|word| word.as_bytes().to_vec());
    let words = Texts::new(std::iter::once(program.as_bytes().to_vec()).chain(words))?;
    let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => drop(environment.insert(name.to_owned(), value.to_owned())),
            None => drop(environment.remove(name)),
        }
    }
    let environment = Texts::new(environment.into_iter().map(|(name, value)| {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend(value.into_vec());
        entry
    }))?;
    let user = identity.map(|identity| {
        use rustix::fs::{Gid, Uid};
        let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        (groups, Gid::from_raw(identity.gid), Uid::from_raw(identity.uid))
    });
    let input = File::open("/dev/null")?;
    let (mut errors, told) = io::pipe()?;
    let told = OwnedFd::from(told);
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP | u64::from(libc::CLONE_VFORK.cast_unsigned()),
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: u64::from(group.as_raw_fd().cast_unsigned()),
        ..CloneArgs::default()
    };
    // SAFETY: `args` is a valid clone_args without pointers; without CLONE_VM the child runs on its own copy of this memory. It
    // allocates nothing and takes no lock, which another thread may hold in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        0 => {
            let become_it = || {
                rustix::process::setpgid(None, None)?;
                if let Some((groups, gid, uid)) = &user {
                    set_thread_groups(groups)?;
                    set_thread_res_gid(*gid, *gid, *gid)?;
                    set_thread_res_uid(*uid, *uid, *uid)?;
                }
                rustix::process::chdir(c"/")?;
                // SAFETY: two numbers; what was open as 0 is closed in this copy only.
                match unsafe { libc::dup2(input.as_raw_fd(), 0) } {
                    -1 => Err(Errno::BADF),
                    _ => Ok(()),
                }
            };
            let failed: Errno = match become_it() {
                Err(errno) => errno,
                // SAFETY: signals of this process only; both arrays end with a null pointer, and their texts are alive.
                Ok(()) => unsafe {
                    let mut none = std::mem::zeroed();
                    libc::sigemptyset(&raw mut none);
                    libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
                    libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                    libc::execve(
                        program.as_ptr(),
                        words.pointers.as_ptr(),
                        environment.pointers.as_ptr(),
                    );
                    Errno::from_raw_os_error(*libc::__errno_location())
                },
            };
            let _ = rustix::io::write(told.as_fd(), &failed.raw_os_error().to_ne_bytes());
            // SAFETY: ends this copy at once.
            unsafe { libc::_exit(127) }
        }
        1.. => {
            drop(told);
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| io::Error::other("a pid fits into 31 bits"))?;
            let mut errno = [0; 4];
            if errors.read_exact(&mut errno).is_ok() {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)));
            }
            Ok(pid)
        }
        _ => Err(match io::Error::last_os_error() {
            old if matches!(old.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
                io::ErrorKind::Unsupported.into()
            }
            error => error,
        }),
    }
}
