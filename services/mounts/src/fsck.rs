//! A file system checked before it is mounted, by e2fsck(8) where the device has it: first what is safe to repair, then all.
//!
//! Whatever comes of it the file system is mounted: a device with half of its files is better than one with none.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use daemon::clock;
use protocol::time::Moment;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags},
};

use crate::{say, sys};

const FOLDERS: [&str; 3] = ["/sbin", "/usr/sbin", "/bin"];
/// One run of a checker.
const TIME: Duration = Duration::from_secs(120);

/// How a checker ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ended {
    Code(i32),
    Signal,
    /// It had its time and was killed.
    Late,
}

impl Ended {
    /// The file system is in order: it was, or it is now. 2 is "restart, if this was mounted", and it was not.
    fn is_good(self) -> bool {
        matches!(self, Self::Code(0..=3))
    }
}

/// Checks the device, if there is a checker for this type and it can be run. Nothing runs longer than until `end`.
pub(crate) fn check(device: &str, kind: &str, end: Moment) {
    if !matches!(kind, "ext2" | "ext3" | "ext4") {
        return;
    }
    let Some(checker) = find() else { return };
    for repair in ["-p", "-y"] {
        let now = clock::now();
        if end <= now {
            return say(&format!("{device}: no time is left to check it: it is mounted as it is"));
        }
        match run(&checker, repair, device, TIME.min(end.since(now))) {
            Ok(ended) if ended.is_good() => return,
            Ok(Ended::Code(code)) => {
                say(&format!("{device}: e2fsck {repair} ended with exit code {code}"));
            }
            Ok(Ended::Signal) => say(&format!("{device}: e2fsck {repair} was killed")),
            Ok(Ended::Late) => {
                return say(&format!("{device}: e2fsck {repair} took too long and was killed"));
            }
            Err(error) => return say(&format!("{}: {error}", checker.display())),
        }
    }
    say(&format!("{device}: it may still have faults: it is mounted as it is"));
}

fn find() -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join("e2fsck")).find(|path| path.exists())
}

fn run(checker: &Path, repair: &str, device: &str, limit: Duration) -> io::Result<Ended> {
    let mut command = Command::new(checker);
    command.arg(repair).arg(device).stdin(Stdio::null());
    sys::die_with_us(&mut command);
    let mut child = command.spawn()?;
    if wait(&child, limit)? {
        let status = child.wait()?;
        return Ok(status.code().map_or(Ended::Signal, Ended::Code));
    }
    child.kill()?;
    // One that waits for a disk may not even be killable.
    if wait(&child, Duration::from_secs(1))? {
        child.wait()?;
    }
    Ok(Ended::Late)
}

/// Whether the child ends in time.
fn wait(child: &Child, limit: Duration) -> io::Result<bool> {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let end = clock::now() + limit;
    loop {
        let left = Timespec::try_from(end.since(clock::now())).unwrap_or_default();
        let mut wait = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut wait, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn checker(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("e2fsck");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_checkers_code_says_whether_the_file_system_is_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(60);
        for (code, good) in [(0, true), (1, true), (2, true), (4, false), (8, false)] {
            let path = checker(folder.path(), &format!("[ $1 = -p ] && exit {code}"));
            let ended = run(&path, "-p", "/dev/null", limit).unwrap();
            assert_eq!((ended, ended.is_good()), (Ended::Code(code), good));
        }
        let path = checker(folder.path(), "kill -9 $$");
        assert_eq!(run(&path, "-p", "/dev/null", limit).unwrap(), Ended::Signal);
    }

    #[test]
    fn a_checker_without_end_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = checker(folder.path(), "exec sleep 1000");
        let ended = run(&path, "-p", "/dev/null", Duration::from_millis(50)).unwrap();
        assert_eq!(ended, Ended::Late);
    }
}
