//! The driver as a character device: takes the kernel's requests from /dev/cuse, brings them to the host's [`Core`], and writes the
//! answers. Knows nothing of drivers but that.
//!
//! The descriptor is the device: while anybody holds it the node stays, and callers wait. So the manager keeps a copy, and a host that was
//! started anew goes on where the old one died: what the old one had taken is in the [`journal`], and is carried out if the driver never
//! began with it. Nothing that was begun is begun twice.

mod journal;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use driver_abi::events;
use hotpatch::Shared;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use self::{
    journal::Journal,
    wire::{Operation, Request},
};
use crate::host::core::{Core, Outcome, Owner, Request as Call, Ticket};

/// How long a poll waits within the host before the kernel is told to ask again.
const WATCH: Duration = Duration::from_secs(3_600);
/// What else the kernel calls IN and OUT (`<poll.h>`: RDNORM, WRNORM).
const READ_NORMAL: u32 = 0x40;
const WRITE_NORMAL: u32 = 0x100;

/// A character device that is served.
pub(crate) struct Cuse {
    line: Arc<Line>,
}

struct Line {
    device: OwnedFd,
    shared: &'static Shared,
    name: String,
    core: Core,
    state: Mutex<State>,
}

struct State {
    journal: Journal<'static>,
    /// Calls that run or wait, by the number of their request.
    tickets: HashMap<u64, Ticket>,
    /// Polls that wait within the host: file and events.
    watched: HashSet<(u64, u32)>,
}

impl Cuse {
    /// Serves an open /dev/cuse, fresh or taken over from a host that died, as /dev/`name`. What is in `file`, in the run directory, says
    /// how far that one had come. It ends with the process.
    ///
    /// # Errors
    /// The file can't be opened, or no thread be started.
    pub(crate) fn start(
        device: OwnedFd,
        name: &str,
        file: &Path,
        core: Core,
    ) -> Result<Self, String> {
        let shared = Shared::open(file, journal::WORDS)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        // There is one in a process, and it is used until the process ends.
        let shared: &'static Shared = Box::leak(Box::new(shared));
        let state = State {
            journal: Journal::new(shared.words()),
            tickets: HashMap::new(),
            watched: HashSet::new(),
        };
        let line = Arc::new(Line {
            device,
            shared,
            name: name.to_owned(),
            core,
            state: Mutex::new(state),
        });
        let reader = Arc::clone(&line);
        thread::Builder::new()
            .name("cuse".to_owned())
            .spawn(move || {
                if let Err(error) = reader.serve() {
                    tracing::error!(device = reader.name, "the device is gone: {error}");
                }
            })
            .map_err(|error| format!("no thread for /dev/{name}: {error}"))?;
        Ok(Self { line })
    }

    /// A copy of the descriptor, for somebody who keeps it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn device(&self) -> io::Result<OwnedFd> {
        self.line.device.try_clone()
    }
}

impl Line {
    /// # Errors
    /// The kernel has ended the device.
    fn serve(self: &Arc<Self>) -> io::Result<()> {
        let lost = self.lock().journal.landed_before();
        // A fresh connection has its first request in it from the beginning.
        let first = if self.is_readable()? { self.read()? } else { Vec::new() };
        if !is_first(&first) {
            self.take_over(&lost.unwrap_or_default());
        }
        self.handle(&first);
        loop {
            let request = self.read()?;
            self.handle(&request);
        }
    }

    fn is_readable(&self) -> io::Result<bool> {
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.device, PollFlags::IN)];
        Ok(poll(&mut polled, Some(&now))? > 0)
    }

    /// The next request; nothing where somebody went away before it was read.
    fn read(&self) -> io::Result<Vec<u8>> {
        let landing = self.lock().journal.landing();
        match self.shared.read(self.device.as_fd(), landing) {
            Ok(length) => Ok(self.lock().journal.landed(length)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::INTR | Errno::NOENT | Errno::AGAIN) => Ok(Vec::new()),
                _ => Err(error),
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics who holds it: its maps are only looked up")
    }

    /// Carries out what the host before has left, and last what it had `lost`: the request that it had read and not noted.
    fn take_over(self: &Arc<Self>, lost: &[u8]) {
        let (left, waiters) = {
            let mut state = self.lock();
            (state.journal.left(), state.journal.waiters())
        };
        if !left.is_empty() {
            tracing::info!(device = self.name, "{} requests are left", left.len());
        }
        for left in left {
            match Request::parse(&left.request) {
                Ok(request) if request.unique == left.unique && !left.hopeless => {
                    self.carry_out(&request);
                }
                _ => self.fail(left.unique, Errno::IO),
            }
        }
        self.handle(lost);
        for waiter in waiters {
            self.write(&wire::notice(waiter));
        }
    }

    fn handle(self: &Arc<Self>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(error) => {
                tracing::error!(device = self.name, "the kernel sent what is no request: {error}");
                return;
            }
        };
        if let Operation::Interrupt { unique } = request.operation {
            let ticket = self.lock().tickets.get(&unique).copied();
            if let Some(ticket) = ticket {
                self.core.interrupt(ticket);
            }
            return;
        }
        if matches!(request.operation, Operation::Init { .. }) {
            let files = self.lock().journal.begin();
            for file in files {
                self.core.close(Owner::Kernel, file, |_| ());
            }
        }
        let noted = self.lock().journal.take(request.unique, bytes);
        // A file that ends does so also where there is no room.
        if noted || matches!(request.operation, Operation::Release { .. }) {
            self.carry_out(&request);
        } else {
            self.fail(request.unique, Errno::BUSY);
        }
    }

    fn carry_out(self: &Arc<Self>, request: &Request<'_>) {
        let unique = request.unique;
        match request.operation {
            Operation::Init { .. } => match wire::init(unique, &self.name) {
                Ok(answer) => self.answer(unique, &answer),
                Err(error) => {
                    tracing::error!("/dev/{}: {error}", self.name);
                    self.fail(unique, Errno::INVAL);
                }
            },
            Operation::Open { flags } => self.open(unique, flags),
            Operation::Read { file, size } => {
                let length = room(size);
                self.submit(unique, file, Call::Read { length }, move |outcome| {
                    wire::data(unique, some(&outcome.data, length))
                });
            }
            Operation::Write { file, data } => {
                let length = data.len();
                self.submit(unique, file, Call::Write { data: data.to_vec() }, move |outcome| {
                    let written = usize::try_from(outcome.result).unwrap_or(0).min(length);
                    wire::written(unique, u32::try_from(written).expect("it is at most 16 KiB"))
                });
            }
            Operation::Ioctl { file, command, data, room: size } => {
                let room = room(size);
                let call = Call::Ioctl { command, argument: data.to_vec(), room };
                self.submit(unique, file, call, move |outcome| {
                    let result = i32::try_from(outcome.result).unwrap_or(i32::MAX);
                    wire::controlled(unique, result, some(&outcome.data, room))
                });
            }
            Operation::Poll { file, waiter, events, notify } => {
                self.poll(unique, file, waiter, events, notify);
            }
            Operation::Release { file } => {
                let line = Arc::clone(self);
                self.core.close(Owner::Kernel, file, move |_| {
                    line.lock().journal.closed(file);
                    line.answer(unique, &wire::done(unique));
                });
            }
            Operation::Destroy => self.answer(unique, &wire::done(unique)),
            Operation::Interrupt { .. } => {}
            Operation::Unknown { opcode } => {
                tracing::debug!(device = self.name, "operation {opcode} is none of a device");
                self.fail(unique, Errno::NOSYS);
            }
        }
    }

    fn open(self: &Arc<Self>, unique: u64, flags: u32) {
        let before = self.lock().journal.opened_by(unique);
        if let Some(file) = before {
            self.answer(unique, &wire::opened(unique, file));
            return;
        }
        let line = Arc::clone(self);
        self.core.open(Owner::Kernel, flags & !driver_abi::REOPEN, move |opened| match opened {
            Ok(file) => {
                let noted = line.lock().journal.opened(unique, file);
                if noted {
                    line.answer(unique, &wire::opened(unique, file));
                } else {
                    line.core.close(Owner::Kernel, file, |_| ());
                    line.fail(unique, Errno::NFILE);
                }
            }
            Err(error) => line.answer(unique, &wire::failed(unique, error.saturating_neg())),
        });
    }

    /// Makes a call; `answer` is written where it went well.
    fn submit(
        self: &Arc<Self>,
        unique: u64,
        file: u64,
        call: Call,
        answer: impl FnOnce(Outcome) -> Vec<u8> + Send + 'static,
    ) {
        let sequence = self.lock().journal.sequence(unique, file);
        let Some(sequence) = sequence else { return self.fail(unique, Errno::BADF) };
        let line = Arc::clone(self);
        let ticket = self.core.submit(Owner::Kernel, file, sequence, call, move |outcome| {
            let answer = match outcome.result {
                failed @ ..0 => wire::failed(unique, failed.saturating_neg()),
                _ => answer(outcome),
            };
            line.answer(unique, &answer);
        });
        self.note_ticket(unique, ticket);
    }

    /// What is answered already has no ticket any more.
    fn note_ticket(&self, unique: u64, ticket: Ticket) {
        let mut state = self.lock();
        if state.journal.is_open(unique) {
            state.tickets.insert(unique, ticket);
        }
    }

    /// Answers what is there now. Where that is nothing, and somebody waits, the driver is asked to wait, too.
    fn poll(self: &Arc<Self>, unique: u64, file: u64, waiter: u64, events: u32, notify: bool) {
        self.lock().journal.polled(file, waiter);
        let wanted = to_driver(events);
        let call = Call::Poll { events: wanted, wait: Duration::ZERO };
        let line = Arc::clone(self);
        let ticket = self.core.submit(Owner::Kernel, file, 0, call, move |outcome| {
            let there = to_kernel(outcome.result, events);
            line.answer(unique, &wire::polled(unique, there));
            if there == 0 && notify {
                line.watch(file, wanted);
            }
        });
        self.note_ticket(unique, ticket);
    }

    fn watch(self: &Arc<Self>, file: u64, events: u32) {
        if !self.lock().watched.insert((file, events)) {
            return;
        }
        let line = Arc::clone(self);
        let call = Call::Poll { events, wait: WATCH };
        self.core.submit(Owner::Kernel, file, 0, call, move |_| {
            let waiter = {
                let mut state = line.lock();
                state.watched.remove(&(file, events));
                state.journal.waiter(file)
            };
            // Whatever came, who polls finds it out by asking again.
            if let Some(waiter) = waiter {
                line.write(&wire::notice(waiter));
            }
        });
    }

    fn fail(&self, unique: u64, errno: Errno) {
        self.answer(unique, &wire::failed(unique, i64::from(errno.raw_os_error())));
    }

    /// Written first and forgotten then: in between a new host answers once more, which the kernel refuses.
    fn answer(&self, unique: u64, bytes: &[u8]) {
        self.write(bytes);
        let mut state = self.lock();
        state.journal.answered(unique);
        state.tickets.remove(&unique);
    }

    fn write(&self, bytes: &[u8]) {
        match rustix::io::write(&self.device, bytes) {
            // Nobody waits for that answer any more, or the device is gone, which the reader notices.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV | Errno::PERM) => {}
            Err(error) => tracing::error!(device = self.name, "an answer is refused: {error}"),
        }
    }
}

fn is_first(bytes: &[u8]) -> bool {
    let first = |request: Request<'_>| matches!(request.operation, Operation::Init { .. });
    Request::parse(bytes).is_ok_and(first)
}

/// No more than one answer carries.
fn room(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX).min(wire::DATA_MAX)
}

fn some(data: &[u8], most: usize) -> &[u8] {
    &data[..data.len().min(most)]
}

/// What the driver is asked for, of what the kernel wants to know.
fn to_driver(wanted: u32) -> u32 {
    let mut asked = wanted & (events::IN | events::OUT);
    if wanted & READ_NORMAL != 0 {
        asked |= events::IN;
    }
    if wanted & WRITE_NORMAL != 0 {
        asked |= events::OUT;
    }
    // These are never asked for, and always told.
    asked | events::ERR | events::HUP
}

/// What the kernel is told. A driver that doesn't poll is always ready, as the kernel has it for all files.
fn to_kernel(result: i64, wanted: u32) -> u32 {
    let no_poll = -i64::from(Errno::NOSYS.raw_os_error());
    let there = match u32::try_from(result) {
        Ok(there) => there,
        Err(_) if result == no_poll => events::IN | events::OUT,
        Err(_) => events::ERR,
    };
    let mut told = there;
    if there & events::IN != 0 {
        told |= READ_NORMAL;
    }
    if there & events::OUT != 0 {
        told |= WRITE_NORMAL;
    }
    told & (wanted | events::ERR | events::HUP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_select_asks_for_is_asked_of_the_driver_and_told_back() {
        assert_eq!(to_driver(READ_NORMAL), events::IN | events::ERR | events::HUP);
        assert_eq!(to_kernel(i64::from(events::IN), READ_NORMAL), READ_NORMAL);
        assert_eq!(to_kernel(i64::from(events::IN | events::OUT), events::OUT), events::OUT);
        assert_eq!(to_kernel(i64::from(events::HUP), events::IN), events::HUP);
    }

    #[test]
    fn a_driver_that_does_not_poll_is_always_ready_and_one_that_fails_has_an_error() {
        assert_eq!(to_kernel(-38, events::IN), events::IN);
        assert_eq!(to_kernel(-5, events::IN), events::ERR);
    }
}
