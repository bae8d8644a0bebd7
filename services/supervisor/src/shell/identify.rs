//! Says which instance a process belongs to and what it runs, for those who judge by it (`service.identify`).
//!
//! An instance is its main process's session, or its cgroup; nothing that the process itself says counts. What was found is
//! confirmed by the keeper before it is believed, and the process must still be there when all has been looked at, so that
//! a number that changed hands in between is never taken for its old owner.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use endpoint::Incoming;
use protocol::{
    failure::{Code, Failure},
    keeper::{Outcome, Request as Order},
    name::Name,
    policy::{Identity, Running},
    service,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
    time::Timespec,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Inbound, Pending, Shell, executable};

/// The keeper and the loop answer in microseconds; who waits longer is told so.
const PATIENCE: Duration = Duration::from_secs(5);
/// So often a process is looked for that is starting just now, or whose instance changes while we look.
const LOOKS_MAX: u8 = 8;
/// Looks that found nothing, with the keeper's word in between, until it is believed.
const EMPTY_LOOKS: u8 = 3;
/// What we are called in rules; no instance.
const SUPERVISOR: &str = "supervisor";
/// So many files are read at the same time: everybody may ask, and digests cost the processor.
const DIGESTS: usize = 2;

/// Asks and answers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Identifier {
    inbox: mpsc::Sender<Inbound>,
    digests: Arc<Semaphore>,
    known: executable::Known,
}

/// Whose a process is, asked of the loop.
pub(crate) struct Look {
    pid: i32,
    looks: u8,
    empty: u8,
    answer: oneshot::Sender<Result<Option<Owner>, Failure>>,
}

/// A run of an instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// Whose a process is.
struct Owner {
    place: Place,
    service: Name,
    instance: Name,
}

impl Identifier {
    pub(crate) fn new(inbox: mpsc::Sender<Inbound>) -> Self {
        let digests = Arc::new(Semaphore::new(DIGESTS));
        Self { inbox, digests, known: executable::Known::default() }
    }

    /// The process behind a pidfd, else the one with this number.
    ///
    /// # Errors
    /// `not-found` where it has ended, `busy` where nobody could say in time.
    pub(crate) async fn of(
        self,
        pid: Option<i32>,
        pidfd: Option<OwnedFd>,
    ) -> Result<Identity, Failure> {
        let pidfd = match (pidfd, pid.and_then(Pid::from_raw)) {
            (Some(pidfd), _) => pidfd,
            (None, Some(pid)) => pidfd_open(pid, PidfdFlags::empty()).map_err(|_| ended())?,
            (None, None) => {
                let text = "give a `pid` above 0, or a pidfd beside the call";
                return Err(Failure::new(Code::InvalidArgument, text));
            }
        };
        let pid = number_of(&pidfd)?;
        let (service, instance) = match u32::try_from(pid) == Ok(std::process::id()) {
            true => (Some(SUPERVISOR.to_owned()), None),
            false => match self.owner(pid).await? {
                Some(owner) => (Some(owner.service.to_string()), Some(owner.instance.to_string())),
                None => (None, None),
            },
        };
        let executable = self.executable(pid).await;
        if !is_there(&pidfd) {
            return Err(ended());
        }
        Ok(Identity { service, instance, executable })
    }

    /// The run that a process belongs to, if it is there and belongs to one.
    pub(crate) async fn place(&self, pid: i32) -> Option<Place> {
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let owner = self.owner(pid).await.ok()??;
        is_there(&pidfd).then_some(owner.place)
    }

    async fn owner(&self, pid: i32) -> Result<Option<Owner>, Failure> {
        let (answer, owner) = oneshot::channel();
        let look = Look { pid, looks: 0, empty: 0, answer };
        let asked = async {
            self.inbox.send(Inbound::Look(look)).await.ok()?;
            owner.await.ok()
        };
        let owner = tokio::time::timeout(PATIENCE, asked).await.ok().flatten();
        owner.ok_or_else(|| busy("the supervisor has too much to do"))?
    }

    /// What it runs, if we may know; looked at and read on a thread of its own.
    async fn executable(&self, pid: i32) -> Option<Running> {
        let _turn = self.digests.acquire().await.ok()?;
        let known = self.known.clone();
        tokio::task::spawn_blocking(move || known.of(pid)).await.ok()?
    }
}

impl Shell {
    /// `service.identify`.
    pub(crate) fn identify(&self, mut call: Incoming) {
        let args = match call.parse::<service::Identify>() {
            Ok(args) => args,
            Err(failure) => return call.responder.fail(failure),
        };
        let pidfd = (!call.fds.is_empty()).then(|| call.fds.swap_remove(0));
        let found = self.identifier.clone().of(args.pid, pidfd);
        tokio::spawn(async move { call.responder.finish(found.await) });
    }

    /// Looks, and has the keeper confirm what was found: it answers only after it has told all that happened.
    pub(crate) fn look(&mut self, mut look: Look) {
        if look.answer.is_closed() {
            return;
        }
        look.looks += 1;
        if look.looks > LOOKS_MAX {
            let _ = look.answer.send(Err(busy("the process is changing just now")));
            return;
        }
        let place = self.place_of(look.pid);
        let order = match place {
            Some(Place { slot, generation }) => {
                Order::Signal { slot, generation, signal: 0, tree: false }
            }
            None if look.empty >= EMPTY_LOOKS => {
                let _ = look.answer.send(Ok(None));
                return;
            }
            None => Order::Starts,
        };
        look.empty = if place.is_none() { look.empty + 1 } else { 0 };
        let sequence = self.order(&order, Pending::Look { place });
        self.looks.insert(sequence, look);
    }

    /// The keeper has answered.
    pub(crate) fn looked(&mut self, request: u32, place: Option<Place>, outcome: Outcome) {
        let Some(look) = self.looks.remove(&request) else { return };
        if let (Some(place), Outcome::Done) = (place, outcome)
            && self.place_of(look.pid) == Some(place)
            && let Some((service, instance)) = self.machine.owner(place.slot)
        {
            let (service, instance) = (service.name.clone(), instance.clone());
            let _ = look.answer.send(Ok(Some(Owner { place, service, instance })));
            return;
        }
        self.look(look);
    }

    /// The slot whose main process's session, or whose cgroup, the process is in.
    fn place_of(&self, pid: i32) -> Option<Place> {
        let session = session_of(pid)?;
        let running = || self.states.values().filter(|state| state.pid > 0);
        // A main process that another one has named itself isn't the leader of its session. In session 0, which a leader
        // outside of our pid namespace has, are only strangers.
        let is_in = |main: i32| session != 0 && session_of(main) == Some(session);
        let state = running()
            .find(|state| state.pid == session)
            .or_else(|| running().find(|state| is_in(state.pid)))
            .or_else(|| {
                let slot = self.workshop.slot_of_cgroup(pid)?;
                running().find(|state| state.slot == slot)
            })?;
        Some(Place { slot: state.slot, generation: state.generation })
    }
}

/// The process's number, from the pidfd's own description (pidfd_open(2)); -1 there means that it was reaped.
fn number_of(pidfd: &OwnedFd) -> Result<i32, Failure> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    match number {
        Some(pid) if pid > 0 => Ok(pid),
        Some(-1) => Err(ended()),
        _ => {
            let text = "the descriptor beside the call is no pidfd of a process that we can see";
            Err(Failure::new(Code::InvalidArgument, text))
        }
    }
}

/// The session of a process (proc_pid_stat(5), field 6); 0 where its leader is outside of our pid namespace, which
/// rustix's `getsid` takes for impossible.
fn session_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// Whether the process behind a pidfd has not ended.
fn is_there(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(0))
}

fn ended() -> Failure {
    Failure::new(Code::NotFound, "the process has ended")
}

fn busy(why: &str) -> Failure {
    Failure::new(Code::Busy, format!("{why}: ask again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_also_where_its_leader_is_outside_of_the_namespace() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(session_of(pid).is_some());
        // Kernel threads have session 0 as well; a pid namespace of our own may show none.
        assert!(session_of(2).is_none_or(|session| session >= 0));
        assert_eq!(session_of(i32::MAX), None);
    }

    #[test]
    fn a_pidfd_says_its_number_until_the_process_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        assert_eq!(number_of(&pidfd).unwrap(), pid);
        assert!(is_there(&pidfd));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(number_of(&pidfd).unwrap_err().code, Code::NotFound);
        assert!(!is_there(&pidfd));
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert_eq!(number_of(&file).unwrap_err().code, Code::InvalidArgument);
    }
}
