//! What `/proc` and pidfds say of a process. Reads into the stack; allocates nothing.

use std::{
    ffi::CStr,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::OnceLock,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::{Mode, OFlags, RawDir},
    process::{Pid, PidfdFlags},
    time::Timespec,
};

use crate::{record::Identity, say::Text, sys};

/// `PID_FS_MAGIC` (linux/magic.h): pidfds have unique inodes only where this file system is behind them.
const PID_FS_MAGIC: u64 = 0x5049_4446;

/// The fields of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stat {
    pub(crate) zombie: bool,
    /// By a signal or a debugger.
    pub(crate) stopped: bool,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// In clock ticks since boot.
    pub(crate) started: u64,
    /// How a corpse ended, as wait(2) has it. 0 too where we may not know.
    pub(crate) status: i32,
}

/// A descriptor of a process.
pub(crate) fn open(pid: i32) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// By what the process can be known again: the pidfs inode, or where there is no pidfs the start time.
/// A pid whose process is still starting is known by its time, so both are asked of it.
pub(crate) fn identify(pid: i32, pidfd: BorrowedFd<'_>) -> Identity {
    Identity { inode: inode(pidfd), started: stat(pid).map_or(0, |stat| stat.started) }
}

/// The pidfs inode, 0 on kernels before 6.9.
pub(crate) fn inode(pidfd: BorrowedFd<'_>) -> u64 {
    // The same for every pidfd of a kernel, so that it is asked once.
    static ON_PIDFS: OnceLock<bool> = OnceLock::new();
    let ask = || {
        rustix::fs::fstatfs(pidfd)
            .is_ok_and(|it| u64::try_from(it.f_type).is_ok_and(|magic| magic == PID_FS_MAGIC))
    };
    if *ON_PIDFS.get_or_init(ask) { rustix::fs::fstat(pidfd).map_or(0, |it| it.st_ino) } else { 0 }
}

/// Reads a small file of the kernel below `folder`, whose text comes in one piece as far as it fits.
pub(crate) fn read_at<'a>(
    folder: BorrowedFd<'_>,
    name: &CStr,
    buffer: &'a mut [u8],
) -> io::Result<&'a [u8]> {
    let file = rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let length = rustix::io::read(&file, &mut *buffer)?;
    Ok(&buffer[..length])
}

/// A file of `/proc/PID`.
fn file(pid: i32, name: &str) -> io::Result<OwnedFd> {
    let path = Text::<48>::new(format_args!("/proc/{pid}/{name}"));
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path.as_bytes(), flags, Mode::empty())?)
}

pub(crate) fn stat(pid: i32) -> Option<Stat> {
    let mut buffer = [0; 1024];
    let length = rustix::io::read(file(pid, "stat").ok()?, &mut buffer).ok()?;
    parse_stat(&buffer[..length])
}

fn parse_stat(line: &[u8]) -> Option<Stat> {
    // The name in parentheses may hold anything, parentheses too: what counts begins after the last one.
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(line.get(end + 1..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(15)?.parse().ok()?;
    let status = fields.nth(29).and_then(|field| field.parse().ok()).unwrap_or(0);
    let (zombie, stopped) = (matches!(state, "Z" | "X"), matches!(state, "T" | "t"));
    Some(Stat { zombie, stopped, parent, session, started, status })
}

/// How a process ended that nobody has reaped yet. `None`: it lives, was reaped, or we may not know.
pub(crate) fn status_of_corpse(pid: i32, pidfd: BorrowedFd<'_>) -> Option<i32> {
    let stat = stat(pid).filter(|stat| stat.zombie)?;
    // Who may not know is told 0. The same right is asked for by this link, which a corpse does not have.
    let path = Text::<32>::new(format_args!("/proc/{pid}/exe"));
    let mut link = [MaybeUninit::uninit(); 1];
    let exe = rustix::fs::readlinkat_raw(rustix::fs::CWD, path.as_bytes(), &mut link);
    let may_know = exe.is_err_and(|error| error == rustix::io::Errno::NOENT);
    // As long as the pidfd still knows it the pid was its own all the time.
    let was_it = sys::kill_pidfd(pidfd, 0).is_ok();
    (may_know && was_it).then_some(stat.status)
}

/// Whether the process' environment has every one of these variables, each given as `NAME=value`.
pub(crate) fn environment_has(pid: i32, wanted: [&[u8]; 4]) -> bool {
    let Ok(file) = file(pid, "environ") else { return false };
    let mut found = [false; 4];
    let mut chunk = [0; 4096];
    let mut variable = [0; 512];
    let mut length = 0;
    while let Ok(read @ 1..) = rustix::io::read(&file, &mut chunk) {
        for byte in &chunk[..read] {
            if *byte == 0 {
                for (found, wanted) in found.iter_mut().zip(wanted) {
                    *found |= variable.get(..length) == Some(wanted);
                }
                length = 0;
            } else {
                if let Some(place) = variable.get_mut(length) {
                    *place = *byte;
                }
                length += 1;
            }
        }
        if found == [true; 4] {
            return true;
        }
    }
    false
}

/// Calls `each` with every process of the machine.
pub(crate) fn every_process(mut each: impl FnMut(i32)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(c"/proc", flags, Mode::empty()) else { return };
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(folder, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_str().unwrap_or("");
        if let Ok(pid @ 1..) = name.parse() {
            each(pid);
        }
    }
}

/// The boot's id, as four words.
pub(crate) fn boot_id() -> io::Result<[u32; 4]> {
    let path = c"/proc/sys/kernel/random/boot_id";
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; 64];
    let length = rustix::io::read(file, &mut text)?;
    let mut words = [0_u32; 4];
    let digits = text[..length].iter().filter_map(|byte| char::from(*byte).to_digit(16));
    for (at, digit) in digits.take(32).enumerate() {
        words[at / 8] = words[at / 8] << 4 | digit;
    }
    Ok(words)
}

/// Now, as [`Stat::started`] counts: clock ticks since boot, sleep included.
pub(crate) fn ticks_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let hertz = rustix::param::clock_ticks_per_second();
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * hertz + nanoseconds * hertz / 1_000_000_000
}

/// Whether a process with this pid is there and is not a corpse.
pub(crate) fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| !stat.zombie)
}

/// A pidfd says that its process has ended.
pub(crate) fn has_ended(pidfd: &OwnedFd) -> bool {
    wait_end(pidfd, Duration::ZERO)
}

/// Waits until a process has ended, but no longer than this. `false`: it is still there.
pub(crate) fn wait_end(pidfd: &OwnedFd, limit: Duration) -> bool {
    let mut wait = [PollFd::new(pidfd, PollFlags::IN)];
    rustix::event::poll(&mut wait, Some(&timespec(limit))).is_ok_and(|ready| ready > 0)
}

/// Waits where there is no event to wait for.
pub(crate) fn pause(time: Duration) {
    // An interruption only shortens it.
    let _ = rustix::event::poll(&mut [], Some(&timespec(time)));
}

pub(crate) fn timespec(time: Duration) -> Timespec {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: time.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_process_name_full_of_parentheses_does_not_confuse_the_stat_line() {
        let line = b"42 (a) S (b) R 7 42 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        let stat = parse_stat(line).unwrap();
        let expected = Stat {
            zombie: false,
            stopped: false,
            parent: 7,
            session: 40,
            started: 98_765,
            status: 0,
        };
        assert_eq!(stat, expected);
        assert_eq!(parse_stat(b"42 (a"), None);
    }

    #[test]
    fn a_corpse_says_how_it_ended_and_a_living_process_nothing() {
        let mut child = std::process::Command::new("sh").args(["-c", "exit 42"]).spawn().unwrap();
        let pid = child.id().cast_signed();
        let pidfd = open(pid).unwrap();
        assert!(wait_end(&pidfd, Duration::from_secs(20)));
        assert_eq!(status_of_corpse(pid, pidfd.as_fd()), Some(42 << 8));
        child.wait().unwrap();
        assert_eq!(status_of_corpse(pid, pidfd.as_fd()), None);
        let me = std::process::id().cast_signed();
        assert_eq!(status_of_corpse(me, open(me).unwrap().as_fd()), None);
    }

    #[test]
    fn this_process_is_found_with_its_environment_and_start_time() {
        let me = std::process::id().cast_signed();
        let mut seen = false;
        every_process(|pid| seen |= pid == me);
        assert!(seen && lives(me));
        assert!(stat(me).unwrap().started <= ticks_now() + 1);
        let path = [b"PATH=", std::env::var("PATH").unwrap().as_bytes()].concat();
        assert!(environment_has(me, [&path, &path, &path, &path]) || path.len() > 512);
        assert!(!environment_has(me, [&path, b"VESTAL_NOT=there", &path, &path]));
    }
}
