//! Whose a handle is: the process that connected. When it ends its handles end; a pid that is used again is somebody else's.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use daemon::files::read_text;
use endpoint::Peer;
use protocol::failure::{Code, Failure};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::path::PathBuf;
use tokio::io::{Interest, unix::AsyncFd};

use super::desk::Desk;
use crate::host::core::Owner;

/// Processes with handles.
const OWNERS_MAX: usize = 1024;
const STAT_MAX: u64 = 4096;

/// The processes that have handles, each watched once.
#[derive(Default)]
pub(super) struct Owners {
    watched: Mutex<HashMap<i32, u64>>,
}

impl Owners {
    /// The owner of the handles that are opened on this connection. Its end is watched from now on.
    ///
    /// # Errors
    /// Where it can't be known.
    pub(super) fn of(self: &Arc<Self>, peer: &Peer, desk: &Arc<Desk>) -> Result<Owner, Failure> {
        let pid = peer.caller().pid;
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(start) = watched.get(&pid) {
            return Ok(Owner::Process { pid, start: *start });
        }
        let failed = |text: String| Failure::new(Code::Failed, text);
        let Some(process) = Pid::from_raw(pid) else {
            return Err(failed(
                "the caller's process is not known here, so its handles would have no end"
                    .to_owned(),
            ));
        };
        if watched.len() >= OWNERS_MAX {
            let text = format!("{OWNERS_MAX} processes have handles already, no more are allowed");
            return Err(Failure::new(Code::Limit, text));
        }
        let pidfd = match peer.pidfd() {
            Some(pidfd) => pidfd,
            None => pidfd_open(process, PidfdFlags::empty())
                .map_err(|error| failed(format!("watch process {pid}: {error}")))?,
        };
        let start = start_time(pid).ok_or_else(|| failed(format!("process {pid} has ended")))?;
        let owner = Owner::Process { pid, start };
        self.watch(pid, owner, pidfd, desk)
            .map_err(|error| failed(format!("watch process {pid}: {error}")))?;
        watched.insert(pid, start);
        Ok(owner)
    }

    /// Watches an owner of the host before. `false` where the process is another one by now, or none.
    pub(super) fn adopt(self: &Arc<Self>, owner: Owner, desk: &Arc<Desk>) -> bool {
        let Owner::Process { pid, start } = owner else { return true };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = watched.get(&pid) {
            return *known == start;
        }
        let Some(process) = Pid::from_raw(pid) else { return false };
        let Ok(pidfd) = pidfd_open(process, PidfdFlags::empty()) else { return false };
        // Looked at after it is held: it is the process that the descriptor is of, or that one has ended.
        if start_time(pid) != Some(start) || self.watch(pid, owner, pidfd, desk).is_err() {
            return false;
        }
        watched.insert(pid, start);
        true
    }

    fn watch(
        self: &Arc<Self>,
        pid: i32,
        owner: Owner,
        pidfd: OwnedFd,
        desk: &Arc<Desk>,
    ) -> std::io::Result<()> {
        let _runtime = desk.runtime.enter();
        #[expect(deprecated, reason = "a pidfd stays open as long as AsyncFd owns it")]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        let (owners, desk) = (Arc::downgrade(self), Arc::downgrade(desk));
        tokio::spawn(async move {
            // Its end; or watching failed, which is the same for who can't be watched.
            let _ = pidfd.readable().await;
            if let Some(owners) = owners.upgrade() {
                owners.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
            }
            if let Some(desk) = desk.upgrade() {
                desk.owner_ended(owner);
            }
        });
        Ok(())
    }
}

/// When a process was started, in clock ticks since the boot: field 22 of its stat.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = read_text(&path, STAT_MAX).ok()?;
    // The name before may have anything in it, brackets and blanks included.
    let (_, behind) = text.rsplit_once(')')?;
    behind.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_known_and_stays_the_same() {
        let own = i32::try_from(std::process::id()).unwrap();
        let start = start_time(own).unwrap();
        assert!(start > 0);
        assert_eq!(start_time(own), Some(start));
        assert_eq!(start_time(i32::MAX), None);
    }
}
