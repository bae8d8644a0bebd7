//! Keeps instances from running: by their cgroup where there is one, else by SIGSTOP to each process, which the keeper sends.
//! The keeper is told first not to answer the instance's end alone: what it would spawn into a frozen cgroup would not run, and
//! the keeper would wait for it.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use daemon::clock;
use protocol::keeper::{Disposition, Outcome, Phase, Request as Order};
use rustix::fs::{Mode, OFlags};
use tokio::{io::Interest, task::JoinHandle};

use super::{Inbound, Pending, Shell, interfaces::watched};
use crate::machine::{Event, Means};

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
/// Between two looks whether a process has stopped, which nobody tells of one that isn't our child; doubles up to the second.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Waits until nothing of an instance runs; ends when dropped.
#[derive(Debug)]
pub(crate) struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shell {
    pub(super) fn freeze(&mut self, slot: u32, generation: u32, disposition: Disposition) {
        self.workshop.disposed(slot, disposition);
        let pending = Pending::Freeze { slot, generation };
        self.order(&Order::Dispose { slot, disposition }, pending);
    }

    /// The keeper answers nothing alone from here on, whatever it had answered before: that came first.
    pub(super) fn may_freeze(&mut self, slot: u32, generation: u32, outcome: Outcome) {
        if !self.machine.freezes(slot, generation) {
            return;
        }
        if outcome != Outcome::Done {
            let why = format!("the keeper knows nothing of it: {outcome:?}");
            return self.froze(slot, generation, Err(why));
        }
        // Without the file (before Linux 5.2) there is a group, but it can't be frozen.
        let group = self.workshop.group(slot);
        let group = group.filter(|group| fs::write(group.join("cgroup.freeze"), "1").is_ok());
        match group {
            Some(group) => {
                let events = group.join("cgroup.events");
                self.watch_freezing(slot, generation, Means::Group, async move {
                    until_frozen(&events).await.map_err(|error| format!("{events:?}: {error}"))
                });
            }
            None => {
                let order = Order::Signal { slot, generation, signal: SIGSTOP, tree: true };
                self.order(&order, Pending::Suspend { slot, generation });
            }
        }
    }

    /// SIGSTOP was sent to all that was found.
    pub(super) fn suspended(&mut self, slot: u32, generation: u32, outcome: Outcome) {
        if !self.machine.freezes(slot, generation) {
            return;
        }
        let pid = self.states.get(&slot).map(|state| state.pid).filter(|pid| *pid > 0);
        match (pid, outcome) {
            (Some(pid), Outcome::Done) => {
                self.watch_freezing(slot, generation, Means::Signals, async move {
                    until_stopped(pid).await;
                    Ok(())
                });
            }
            (_, outcome) => {
                let why = format!("the keeper can't send SIGSTOP: {outcome:?}");
                self.froze(slot, generation, Err(why));
            }
        }
    }

    pub(super) fn froze(&mut self, slot: u32, generation: u32, result: Result<Means, String>) {
        self.machine.handle_event(Event::Frozen { slot, generation, result }, clock::now());
    }

    pub(super) fn thaw(&mut self, slot: u32, generation: u32, means: Option<Means>) {
        self.freezing.remove(&slot);
        if let Some(group) = self.workshop.group(slot)
            && let Err(error) = fs::write(group.join("cgroup.freeze"), "0")
            && means == Some(Means::Group)
        {
            tracing::error!("{}: {} can't be thawed: {error}", self.owner(slot), group.display());
        }
        let runs = self.states.get(&slot).is_some_and(|state| {
            state.generation == generation && !matches!(state.phase, Phase::Idle | Phase::Waiting)
        });
        if means != Some(Means::Group) && runs {
            let order = Order::Signal { slot, generation, signal: SIGCONT, tree: true };
            self.order(&order, Pending::Other("thaw"));
        }
    }

    fn watch_freezing(
        &mut self,
        slot: u32,
        generation: u32,
        means: Means,
        frozen: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let inbox = self.back.clone();
        let watcher = tokio::spawn(async move {
            let result = frozen.await.map(|()| means);
            // Nobody listens where the supervisor is leaving.
            let _ = inbox.send(Inbound::Frozen { slot, generation, result }).await;
        });
        self.freezing.insert(slot, Watcher(watcher));
    }
}

/// The kernel wakes whoever polls this file for exceptions, whenever it changes (cgroup-v2.rst).
async fn until_frozen(events: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(events, flags, Mode::empty())?;
    let file = watched(file, Interest::PRIORITY)?;
    while !says_frozen(file.get_ref())? {
        // A change since the file was read is told as well.
        file.ready(Interest::PRIORITY).await?.clear_ready();
    }
    Ok(())
}

fn says_frozen(events: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 256];
    let length = rustix::io::pread(events.as_fd(), &mut buffer, 0)?;
    Ok(buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"frozen 1"))
}

/// Until the process is stopped, or gone: then the keeper says so.
async fn until_stopped(pid: i32) {
    let (mut pause, longest) = LOOK;
    while fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| !is_stopped(&stat)) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// The state comes after the name, which is in parentheses and may hold anything (proc_pid_stat(5)).
fn is_stopped(stat: &[u8]) -> bool {
    let end = stat.iter().rposition(|byte| *byte == b')').map_or(0, |at| at + 1);
    matches!(stat[end..].trim_ascii_start().first(), Some(b'T' | b't'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_stopped_by_its_state_and_not_by_its_name() {
        assert!(is_stopped(b"7 (a) T 1 7"));
        assert!(is_stopped(b"7 (a) t 1 7"));
        assert!(!is_stopped(b"7 (a) S 1 7"));
        assert!(!is_stopped(b"7 (x) T ) R 1 7"));
        assert!(!is_stopped(b""));
    }
}
