//! Called under the name `lock`: a lock file for scripts. `lock FILE` returns when it has the lock; a process of its own
//! holds it from then on, until `lock -u FILE` ends that.
//!
//! The holder inherits the lock's descriptor and nothing else of the script: not its output, so that nobody waits for it.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{
    complain, reason,
    words::{Word, Words},
};

/// The first word of a holder's command line; scripts have no use for it.
const HOLD: &str = "--hold";
const FILE_MODE: u32 = 0o700;

const USAGE: &str = "\
Usage: lock [-suwn] <filename>
  -s  Use shared locking
  -u  Unlock
  -w  Wait for the lock to become free, don't acquire lock
  -n  Don't wait for the lock to become free. Fail with exit code";

#[derive(Default)]
struct Options {
    shared: bool,
    unlock: bool,
    only_wait: bool,
    no_wait: bool,
}

pub(super) fn run(args: &[OsString]) -> ExitCode {
    if args.first().is_some_and(|first| first == HOLD) {
        return hold();
    }
    let mut options = Options::default();
    let mut words = Words::new(args, "swun");
    for word in words.by_ref() {
        match word {
            Word::Option(b's', _) => options.shared = true,
            Word::Option(b'u', _) => options.unlock = true,
            Word::Option(b'w', _) => options.only_wait = true,
            Word::Option(b'n', _) => options.no_wait = true,
            _ => return refused(USAGE),
        }
    }
    let Some(file) = words.rest().first() else { return refused(USAGE) };
    let file = Path::new(file);
    let done = if options.unlock { unlock(file) } else { lock(file, &options) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => refused(&text),
    }
}

fn refused(text: &str) -> ExitCode {
    complain(text);
    ExitCode::FAILURE
}

/// Does nothing until it is ended; its standard input is the lock.
fn hold() -> ExitCode {
    loop {
        rustix::event::pause();
    }
}

fn lock(path: &Path, options: &Options) -> Result<(), String> {
    let shown = path.display();
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).mode(FILE_MODE).custom_flags(nonblock());
    let mut file = open.open(path).map_err(|_| format!("Can't open {shown}"))?;
    let how = match (options.shared, options.no_wait) {
        (true, true) => FlockOperation::NonBlockingLockShared,
        (true, false) => FlockOperation::LockShared,
        (false, true) => FlockOperation::NonBlockingLockExclusive,
        (false, false) => FlockOperation::LockExclusive,
    };
    while let Err(error) = flock(&file, how) {
        if error != Errno::INTR {
            return Err(format!("Can't lock {shown}"));
        }
    }
    if options.only_wait {
        return Ok(());
    }
    let holder = holder(path, &file).map_err(|error| format!("Can't hold {shown}: {error}"))?;
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{holder}\n").as_bytes()))
        .map_err(|error| format!("Can't write {shown}: {}", reason(&error)))
}

/// Starts the process that holds the lock.
fn holder(path: &Path, file: &File) -> Result<u32, String> {
    let failed = |error: std::io::Error| reason(&error);
    // Not its name, which may be replaced: the program that runs.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("lock").arg(HOLD).arg(path).current_dir("/");
    command.stdin(file.try_clone().map_err(failed)?).stdout(Stdio::null()).stderr(Stdio::null());
    // The script that took the lock may end, and its terminal too; the lock stays.
    command.process_group(0);
    command.spawn().map(|child| child.id()).map_err(failed)
}

/// Ends the holder. A lock that nobody holds is no error.
fn unlock(path: &Path) -> Result<(), String> {
    let mut open = OpenOptions::new();
    let Ok(file) = open.read(true).custom_flags(nonblock()).open(path) else { return Ok(()) };
    let mut text = String::new();
    // What is no text was not written by a lock.
    let _ = file.take(32).read_to_string(&mut text);
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    let Ok(holder) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    // The number may have another owner by now, who must not be harmed.
    if is_holder(pid, path) {
        pidfd_send_signal(&holder, Signal::TERM)
            .map_err(|error| format!("Can't unlock {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Whether that process was started by [`holder`], for a file of that name.
fn is_holder(pid: Pid, path: &Path) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut words = line.split(|byte| *byte == 0);
    let file = words.nth(2).map(|name| Path::new(OsStr::from_bytes(name)).file_name());
    line.starts_with(b"lock\0--hold\0") && file == Some(path.file_name())
}

/// A FIFO of that name must not stop the script.
fn nonblock() -> i32 {
    OFlags::NONBLOCK.bits().cast_signed()
}
