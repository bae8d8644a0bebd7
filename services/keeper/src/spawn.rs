//! From a checked plan to a running process: the clone, and all that the child does before exec.
//!
//! The child is a copy of this single-threaded process (no shared memory), so nothing it does can harm the keeper; it
//! allocates nothing all the same, and every failure of it comes back as a stage and an errno through a pipe.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
};

use protocol::keeper::{
    Stage,
    plan::{PLAN_SIZE_MAX, PlanView, READY_FD_MAX, SOCKETS_FD, write_listen_pid},
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, SealFlags},
    io::{Errno, fcntl_dupfd_cloexec},
    pipe::PipeFlags,
    process::{Resource, Rlimit},
};

use crate::{
    deposits::Deposits,
    memory::PrivateCopy,
    oom, proc,
    record::{Identity, Records},
    say::Text,
    slot::Slot,
    sys::{self, Side},
    tree,
};

/// In the child every source is moved up here first, out of the way of the numbers that the service gets.
const PARKED: RawFd = 512;
/// Bytes of a failure in the error pipe: the stage, three zeros, the errno.
const FAILURE_SIZE: usize = 8;

/// A process that came to be.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: i32,
    /// An executor is at work: the error pipe tells how it goes.
    pub(crate) errors: Option<OwnedFd>,
}

/// What an error pipe says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Word {
    /// Nothing yet.
    Silence,
    /// Every writer has exec'd or ended.
    Done,
    Failed(Stage, i32),
}

/// Reads an error pipe, without waiting.
pub(crate) fn read_errors(pipe: BorrowedFd<'_>) -> Word {
    let mut failure = [0; FAILURE_SIZE];
    match rustix::io::read(pipe, &mut failure) {
        Ok(FAILURE_SIZE) => {
            let [stage, _, _, _, a, b, c, d] = failure;
            let errno = i32::from_le_bytes([a, b, c, d]);
            Word::Failed(Stage::from_number(stage).unwrap_or(Stage::Settings), errno)
        }
        Err(Errno::AGAIN | Errno::INTR) => Word::Silence,
        _ => Word::Done,
    }
}

/// Checks that a descriptor is a sealed memfd with a plan in it, and says whether that has an executor.
pub(crate) fn check_plan(plan: BorrowedFd<'_>) -> Option<bool> {
    let needed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    rustix::fs::fcntl_get_seals(plan).ok().filter(|seals| seals.contains(needed))?;
    let copy = map(plan).ok()?;
    PlanView::check(copy.bytes()).ok().map(|view| view.executor().is_some())
}

/// The plan, mapped.
pub(crate) fn map(plan: BorrowedFd<'_>) -> io::Result<PrivateCopy> {
    let size = usize::try_from(rustix::fs::fstat(plan)?.st_size).unwrap_or(0);
    if size == 0 || size > PLAN_SIZE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    PrivateCopy::map(plan, size)
}

/// Spawns the slot's current generation. The record names the child before it runs.
pub(crate) fn spawn(
    slot: &Slot,
    records: Records,
    deposits: &Deposits,
    limit: &Rlimit,
) -> Result<Spawned, (Stage, i32)> {
    let failed = |stage| move |error: Errno| (stage, error.raw_os_error());
    let plan = slot.plan.as_ref().ok_or((Stage::Plan, libc::ENOENT))?.as_fd();
    let pipe_flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (read, write) = rustix::pipe::pipe_with(pipe_flags).map_err(failed(Stage::Clone))?;

    let number = slot.state.slot;
    records.starting(number, slot.state.identity, slot.state.generation, slot.state.spawned_at);
    let cgroup = slot.cgroup.as_ref().map(AsFd::as_fd);
    let (into, entered) = if slot.enters_itself { (None, cgroup) } else { (cgroup, None) };
    match sys::clone_process(records.pid_place(number), into) {
        Ok(Side::Child) => {
            let main_only = slot.disposition.main_only;
            let in_cgroup = entered.map_or(Ok(()), tree::enter);
            let (stage, errno) = match in_cgroup.map_err(|error| error.raw_os_error()) {
                Ok(()) => child(plan, write.as_fd(), deposits, main_only, limit),
                Err(errno) => (Stage::Clone, errno.unwrap_or(libc::EIO)),
            };
            report(write.as_fd(), stage, errno);
            sys::exit_now(127)
        }
        Ok(Side::Parent { pid, pidfd, execed }) => {
            drop(write);
            let inode = pidfd.as_ref().map_or(0, |pidfd| proc::inode(pidfd.as_fd()));
            let started =
                if inode == 0 { proc::stat(pid).map_or(0, |stat| stat.started) } else { 0 };
            let known = Identity { inode, started };
            let errors = match read_errors(read.as_fd()) {
                Word::Failed(stage, errno) => {
                    sys::wait_for(pid);
                    return Err((stage, errno));
                }
                // What has exec'd can't fail any more, even if the kernel has not closed its end of the pipe yet.
                Word::Silence if execed && !slot.has_executor => None,
                Word::Silence => Some(read),
                Word::Done => None,
            };
            records.running(number, pid, pid, known);
            Ok(Spawned { pid, errors })
        }
        Err(error) => Err((Stage::Clone, error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

fn report(pipe: BorrowedFd<'_>, stage: Stage, errno: i32) {
    let [a, b, c, d] = errno.to_le_bytes();
    // The keeper sees the end of the pipe and exit code 127 even if this could not be written.
    let _ = rustix::io::write(pipe, &[stage.number(), 0, 0, 0, a, b, c, d]);
}

/// All that happens between clone and exec; returns only when something failed.
fn child(
    plan: BorrowedFd<'_>,
    errors: BorrowedFd<'_>,
    deposits: &Deposits,
    main_only: bool,
    limit: &Rlimit,
) -> (Stage, i32) {
    match prepare_and_exec(plan, errors, deposits, main_only, limit) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

enum Never {}

fn prepare_and_exec(
    plan: BorrowedFd<'_>,
    errors: BorrowedFd<'_>,
    deposits: &Deposits,
    main_only: bool,
    limit: &Rlimit,
) -> Result<Never, (Stage, i32)> {
    let stage = |stage| move |error: Errno| (stage, error.raw_os_error());
    let copied = |stage| move |error: io::Error| (stage, error.raw_os_error().unwrap_or(libc::EIO));
    sys::reset_signals();
    oom::restore();
    rustix::process::setsid().map_err(stage(Stage::Plan))?;
    let mut copy = map(plan).map_err(copied(Stage::Plan))?;
    fill_listen_pid(&mut copy).map_err(|errno| (Stage::Plan, errno))?;
    let view = PlanView::check(copy.bytes()).map_err(|_| (Stage::Plan, libc::EINVAL))?;

    // First everything that is needed, moved up; then the low numbers are free to be given.
    let errors = park(errors).map_err(stage(Stage::Plan))?;
    let plan = park(plan).map_err(stage(Stage::Plan))?;
    let lock = take_lock(view.lock(), main_only).map_err(stage(Stage::Lock))?;
    let ready = match view.ready() {
        Some((path, fd)) => Some((open(path, OFlags::RDWR).map_err(stage(Stage::Stdio))?, fd)),
        None => None,
    };
    let mut sockets = [const { None::<OwnedFd> }; protocol::keeper::plan::SOCKETS_MAX];
    for (place, name) in sockets.iter_mut().zip(view.sockets()) {
        let deposit = deposits.get(name.to_bytes()).ok_or((Stage::Sockets, libc::ENOENT))?;
        *place = Some(park(deposit.as_fd()).map_err(stage(Stage::Sockets))?);
    }
    let paths = [view.stdin(), view.stdout(), view.stderr()];
    let modes = [OFlags::RDONLY, OFlags::RDWR, OFlags::RDWR];
    for ((path, mode), target) in paths.into_iter().zip(modes).zip(0..) {
        let fd = open(path, mode).map_err(stage(Stage::Stdio))?;
        sys::place(fd.as_fd(), target).map_err(copied(Stage::Stdio))?;
    }
    let mut next = SOCKETS_FD.cast_signed();
    for socket in sockets.iter().flatten() {
        sys::place(socket.as_fd(), next).map_err(copied(Stage::Sockets))?;
        next += 1;
    }
    let mut ready_at = -1;
    if let Some((fd, target)) = &ready {
        ready_at = target.cast_signed();
        sys::place(fd.as_fd(), ready_at).map_err(copied(Stage::Stdio))?;
    }
    let mut free = (next..).filter(|fd| *fd != ready_at);
    let mut put = |fd: &OwnedFd| {
        let target = free.next().unwrap_or(READY_FD_MAX.cast_signed());
        sys::place(fd.as_fd(), target).map(|()| target)
    };
    put(&lock).map_err(copied(Stage::Lock))?;
    if let Some(executor) = view.executor() {
        let plan = put(&plan).map_err(copied(Stage::Plan))?;
        let errors_at = put(&errors).map_err(copied(Stage::Plan))?;
        restore_limit(limit).map_err(stage(Stage::Limits))?;
        return Err(exec_executor(executor, plan, errors_at, view));
    }
    restore_limit(limit).map_err(stage(Stage::Limits))?;
    rustix::process::chdir(view.directory()).map_err(stage(Stage::Directory))?;
    let mut errno = libc::ENOENT;
    for program in view.programs() {
        errno = sys::exec(program, view.argv(), view.env());
        if !matches!(errno, libc::ENOENT | libc::ENOTDIR) {
            break;
        }
    }
    Err((Stage::Exec, errno))
}

/// The executor learns the descriptors' numbers from its arguments; it exits or execs, and so closes the pipe.
fn exec_executor(executor: &CStr, plan: RawFd, errors: RawFd, view: PlanView<'_>) -> (Stage, i32) {
    let plan = Text::<16>::new(format_args!("{plan}\0"));
    let errors = Text::<16>::new(format_args!("{errors}\0"));
    let number = |text| CStr::from_bytes_until_nul(text).expect("the text ends with NUL");
    let argv = [c"vestal-exec", number(plan.as_bytes()), number(errors.as_bytes())];
    (Stage::Settings, sys::exec(executor, argv.into_iter(), view.env()))
}

fn fill_listen_pid(copy: &mut PrivateCopy) -> Result<(), i32> {
    let view = PlanView::check(copy.bytes()).map_err(|_| libc::EINVAL)?;
    if let Some(at) = view.listen_pid() {
        write_listen_pid(copy.bytes_mut(), at, std::process::id());
    }
    Ok(())
}

fn park(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    fcntl_dupfd_cloexec(fd, PARKED)
}

/// Opens a path without ever waiting for a FIFO's other end, far from the low numbers.
fn open(path: &CStr, mode: OFlags) -> Result<OwnedFd, Errno> {
    let flags = mode | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::fcntl_setfl(&fd, mode)?;
    park(fd.as_fd())
}

/// Every process that inherits this descriptor holds the lock.
fn take_lock(path: &CStr, main_only: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    let lock = if main_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    rustix::fs::flock(&file, lock)?;
    park(file.as_fd())
}

/// The keeper raised its own limit of open files; a service gets what the keeper was given.
fn restore_limit(limit: &Rlimit) -> Result<(), Errno> {
    rustix::process::setrlimit(Resource::Nofile, *limit)
}
