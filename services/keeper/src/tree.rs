//! All processes of an instance, wherever they have forked to: by its cgroup, else by session and environment.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use protocol::keeper::plan::PlanView;
use rustix::fs::{Mode, OFlags};

use crate::{proc, slot::Slot, spawn, sys};

/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// cgroup.procs is read in pieces of this size; a rest is met at the next look.
const LIST_SIZE: usize = 4096;
/// So often what forks while it is being stopped is looked for.
const STOP_ROUNDS: u8 = 8;

/// Whether something of the instance was there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Left {
    Nothing,
    Something,
}

/// Whether a descriptor is a folder of cgroup2.
pub(crate) fn is_cgroup(folder: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(folder)
        .is_ok_and(|it| u64::try_from(it.f_type).is_ok_and(|magic| magic == CGROUP2_MAGIC))
}

/// Puts the calling process into a cgroup, where clone could not do it.
pub(crate) fn enter(cgroup: BorrowedFd<'_>) -> io::Result<()> {
    write(cgroup, c"cgroup.procs", b"0")
}

/// Just before a main process is reaped, while its pid still belongs to it: kills what is in its session's group.
pub(crate) fn kill_group_of_corpse(pid: i32) {
    // ESRCH can't be: the corpse is there. EPERM would mean that it gave all its processes to another user.
    let _ = sys::kill(-pid, libc::SIGKILL);
}

/// The quick look after a main process was reaped: one system call where there is no cgroup, three where there is.
/// What has left its session is not seen without a cgroup; it holds the lock, and is found when the next spawn meets that.
pub(crate) fn quick_look(slot: &Slot) -> Left {
    match &slot.cgroup {
        Some(cgroup) => populated(cgroup.as_fd()),
        None if slot.session <= 0 => Left::Nothing,
        None => match sys::kill(-slot.session, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Left::Nothing,
            _ => Left::Something,
        },
    }
}

/// Kills everything of the instance and says whether anything was there.
pub(crate) fn kill_all(slot: &mut Slot) -> Left {
    let Some(cgroup) = &slot.cgroup else { return signal_scanned(slot, libc::SIGKILL) };
    let cgroup = cgroup.as_fd();
    if populated(cgroup) == Left::Nothing {
        return Left::Nothing;
    }
    slot.enters_itself = true;
    if sys::is_old_kernel() || write(cgroup, c"cgroup.kill", b"1").is_err() {
        // Before 5.14: nothing may fork while the list is read. A failed freeze only makes another round likelier.
        let _ = write(cgroup, c"cgroup.freeze", b"1");
        signal_listed(cgroup, libc::SIGKILL);
        let _ = write(cgroup, c"cgroup.freeze", b"0");
    }
    populated(cgroup)
}

/// Sends a signal to everything of the instance. What is stopped is looked at again, because it may have forked meanwhile.
pub(crate) fn signal_all(slot: &mut Slot, signal: i32) {
    let rounds = if signal == libc::SIGSTOP { STOP_ROUNDS } else { 1 };
    for _ in 0..rounds {
        let left = match &slot.cgroup {
            Some(_) if signal == libc::SIGKILL => kill_all(slot),
            Some(cgroup) => signal_listed(cgroup.as_fd(), signal),
            None => signal_scanned(slot, signal),
        };
        if left == Left::Nothing {
            return;
        }
    }
}

/// Whether a process belongs to the instance.
pub(crate) fn has(slot: &Slot, pid: i32) -> bool {
    if let Some(cgroup) = &slot.cgroup {
        let mut found = false;
        each_listed(cgroup.as_fd(), |listed| found |= listed == pid);
        return found;
    }
    proc::stat(pid).is_some_and(|stat| stat.session == slot.session)
        || with_identity(slot, |wanted| proc::environment_has(pid, wanted)).unwrap_or(false)
}

/// How often the cgroup's processes were killed for want of memory.
pub(crate) fn oom_kills(slot: &Slot) -> u32 {
    let Some(cgroup) = &slot.cgroup else { return 0 };
    let mut buffer = [0; 512];
    let text = proc::read_at(cgroup.as_fd(), c"memory.events", &mut buffer).unwrap_or(b"");
    let lines = std::str::from_utf8(text).unwrap_or("").lines();
    lines.filter_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).next().unwrap_or(0)
}

fn populated(cgroup: BorrowedFd<'_>) -> Left {
    let mut buffer = [0; 256];
    match proc::read_at(cgroup, c"cgroup.events", &mut buffer) {
        Ok(text) if text.windows(11).any(|it| it == b"populated 1") => Left::Something,
        // A folder that was removed has no processes.
        _ => Left::Nothing,
    }
}

fn write(folder: BorrowedFd<'_>, name: &CStr, text: &[u8]) -> io::Result<()> {
    let file = rustix::fs::openat(folder, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text)?;
    Ok(())
}

fn each_listed(cgroup: BorrowedFd<'_>, mut each: impl FnMut(i32)) {
    let mut buffer = [0; LIST_SIZE];
    let Ok(text) = proc::read_at(cgroup, c"cgroup.procs", &mut buffer) else { return };
    let complete = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
    for line in text[..complete].split(|byte| *byte == b'\n') {
        if let Some(pid @ 1..) = std::str::from_utf8(line).ok().and_then(|it| it.parse().ok()) {
            each(pid);
        }
    }
}

/// Between the reading of the list and the opening of a pidfd a pid may change hands: it is looked up again after that.
fn signal_listed(cgroup: BorrowedFd<'_>, signal: i32) -> Left {
    let mut left = Left::Nothing;
    each_listed(cgroup, |pid| {
        let Some(pidfd) = proc::open(pid) else { return };
        let mut still = false;
        each_listed(cgroup, |again| still |= again == pid);
        if still && !(signal == libc::SIGSTOP && is_stopped(pid)) {
            left = Left::Something;
            // It may end at any moment; that is as good.
            let _ = sys::kill_pidfd(pidfd.as_fd(), signal);
        }
    });
    left
}

/// Signals the session's processes and orphans whose environment names the instance; /proc is asked again after the
/// pidfd was opened, so that no process is hit that only got the number.
fn signal_scanned(slot: &Slot, signal: i32) -> Left {
    let scan = |wanted: Option<[&[u8]; 4]>| {
        let me = std::process::id().cast_signed();
        let mut left = Left::Nothing;
        proc::every_process(|pid| {
            if pid == me || !is_of(slot, pid, wanted) {
                return;
            }
            let Some(pidfd) = proc::open(pid) else { return };
            if is_of(slot, pid, wanted) && !(signal == libc::SIGSTOP && is_stopped(pid)) {
                left = Left::Something;
                // It may end at any moment; that is as good.
                let _ = sys::kill_pidfd(pidfd.as_fd(), signal);
            }
        });
        left
    };
    with_identity(slot, |wanted| scan(Some(wanted))).unwrap_or_else(|| scan(None))
}

/// It needs no other SIGSTOP.
fn is_stopped(pid: i32) -> bool {
    proc::stat(pid).is_none_or(|stat| stat.zombie || stat.stopped)
}

fn is_of(slot: &Slot, pid: i32, wanted: Option<[&[u8]; 4]>) -> bool {
    let Some(stat) = proc::stat(pid).filter(|stat| !stat.zombie) else { return false };
    if slot.session > 0 && stat.session == slot.session {
        return true;
    }
    let orphan = slot.inherited || stat.parent == std::process::id().cast_signed();
    orphan && wanted.is_some_and(|wanted| proc::environment_has(pid, wanted))
}

/// The variables by which a process says whose it is, as the plan gives them. Two processes of one instance, while one
/// replaces the other, differ by their seat.
fn with_identity<T>(slot: &Slot, then: impl FnOnce([&[u8]; 4]) -> T) -> Option<T> {
    let copy = spawn::map(slot.plan.as_ref()?.as_fd()).ok()?;
    let view = PlanView::check(copy.bytes()).ok()?;
    let whole = |name: &[u8]| {
        let mut all = view.env().map(CStr::to_bytes);
        all.find(|variable| {
            variable.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b'='))
        })
    };
    let instance = whole(b"VESTAL_INSTANCE")?;
    let seat = whole(b"VESTAL_SEAT").unwrap_or(instance);
    Some(then([whole(b"VESTAL_RUN_DIR")?, whole(b"VESTAL_SERVICE")?, instance, seat]))
}
