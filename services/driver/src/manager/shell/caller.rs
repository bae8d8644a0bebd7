//! Who calls: looked up so that a pid that another process has got meanwhile is not believed; and the audit line of each attempt.

use std::{
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use daemon::files::read_text;
use endpoint::Peer;
use protocol::failure::{Code, Failure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
    time::Timespec,
};

use crate::manager::machine::{
    privilege::{Facts, Status},
    refusal,
};

/// A status file has some 1,500 bytes.
const STATUS_MAX: u64 = 64 << 10;

/// May this caller change what drivers run?
///
/// # Errors
/// `denied`, with the reason `privilege`.
pub(super) fn check(peer: &Peer, run: &Path) -> Result<(), Failure> {
    let own_uid = rustix::process::geteuid().as_raw();
    let caller = peer.caller();
    let owner = std::fs::metadata(run).map_or(own_uid, |about| about.uid());
    let status = if own_uid == 0 && caller.uid == 0 {
        status_of(peer.pidfd(), caller.pid)
    } else {
        Err("nobody needs to know".to_owned())
    };
    let facts = Facts { uid: caller.uid, pid: caller.pid, own_uid, owner, status };
    facts.judge().map_err(|why| refusal(Code::Denied, "privilege", why))
}

/// Reads the status of a process, and then makes sure that it still is the process that connected: as long as that one is
/// there nobody else has its pid. `pidfd` is the connected process's own (kernel 6.5); without it one is opened by number.
fn status_of(pidfd: Option<OwnedFd>, pid: i32) -> Result<Status, String> {
    let pid = Pid::from_raw(pid).ok_or("it is in another pid namespace")?;
    let gone = |_| "the process that connected is gone".to_owned();
    let pidfd = match pidfd {
        Some(pidfd) => pidfd,
        None => pidfd_open(pid, PidfdFlags::empty()).map_err(gone)?,
    };
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let text =
        read_text(Path::new(&path), STATUS_MAX).map_err(|error| format!("{path}: {error}"))?;
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    match poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(0) => {}
        Ok(_) => return Err("the process that connected is gone".to_owned()),
        Err(error) => return Err(format!("whether it is still there can't be seen: {error}")),
    }
    Status::parse(&text).ok_or_else(|| format!("{path} is not understood"))
}

/// One attempt to change what a driver runs, for the audit.
pub(super) struct Attempt<'a> {
    pub(super) peer: Peer,
    pub(super) what: &'a str,
    pub(super) driver: &'a str,
    /// As the caller wrote it; shown escaped and cut.
    pub(super) hash: &'a str,
}

impl Attempt<'_> {
    /// Every attempt ends here, once.
    pub(super) fn audit(&self, outcome: Result<&str, &Failure>) {
        let caller = self.peer.caller();
        let (uid, pid, what) = (caller.uid, caller.pid, self.what);
        let driver: String =
            self.driver.chars().filter(|letter| !letter.is_control()).take(64).collect();
        let hash: String = self.hash.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        match outcome {
            Ok(verdict) => {
                tracing::info!(target: "audit", uid, pid, what, driver, hash, verdict, "audit: allowed");
            }
            Err(failure) => {
                let reason =
                    failure.details.as_ref().and_then(|details| details["reason"].as_str());
                let verdict =
                    format!("{}: {}", reason.unwrap_or(failure.code.as_str()), failure.text);
                tracing::warn!(target: "audit", uid, pid, what, driver, hash, verdict, "audit: refused");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_is_there_is_believed_and_one_that_ended_is_not_though_its_pid_is_taken() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = || pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        let fd = pidfd();
        let status = status_of(Some(pidfd()), pid).unwrap();
        assert_eq!(status.effective_uid, rustix::process::geteuid().as_raw());
        child.kill().unwrap();
        child.wait().unwrap();
        // Its number is now ours, as far as the caller says.
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(status_of(Some(fd), own).unwrap_err().contains("gone"));
        assert!(status_of(None, pid).is_err());
        assert!(status_of(None, 0).unwrap_err().contains("namespace"));
    }
}
