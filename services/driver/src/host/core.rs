//! The one way into the driver, for the socket and for the character device alike: open, submit, interrupt, close.
//! Nothing here waits; each answer comes by the closure that was given, once, from whatever thread has it.

use std::{sync::Arc, time::Duration};

use driver_abi::Op;

use super::shell::desk::Desk;

/// A call of the driver through one handle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Request {
    Read {
        length: usize,
    },
    Write {
        data: Vec<u8>,
    },
    Ioctl {
        command: u32,
        argument: Vec<u8>,
        /// Bytes that the answer may have.
        room: usize,
    },
    Poll {
        events: u32,
        /// How long it may take until one of them is there; zero answers at once.
        wait: Duration,
    },
    Own {
        number: u32,
        argument: Vec<u8>,
        room: usize,
    },
}

/// Instead of an answer: this host ends, and nothing was done. A process makes the call again; calls of the kernel's get no answer then,
/// the next host finds them.
pub(crate) const AGAIN: i64 = driver_abi::RESTART;

/// What the driver answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Outcome {
    /// 0 or more, or -errno; or [`AGAIN`].
    pub(crate) result: i64,
    /// What was read; empty for all that answer a number only.
    pub(crate) data: Vec<u8>,
}

/// Who has a handle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Owner {
    /// The handle ends with this process; `start` tells it from a later one of the same pid.
    Process { pid: i32, start: u64 },
    /// The kernel, for a character device: it says itself when the handle ends, also to a host that was started anew.
    Kernel,
}

/// One call that was submitted, to interrupt it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Ticket(pub(crate) u64);

/// What gets the answer.
pub(crate) type Done = Box<dyn FnOnce(Outcome) + Send>;

/// The driver, for those who bring calls. Clones are the same.
#[derive(Clone)]
pub(crate) struct Core {
    desk: Arc<Desk>,
}

impl Outcome {
    pub(crate) fn of(result: i64) -> Self {
        Self { result, data: Vec::new() }
    }
}

impl Request {
    pub(crate) fn op(&self) -> Op {
        match self {
            Self::Read { .. } => Op::Read,
            Self::Write { .. } => Op::Write,
            Self::Ioctl { .. } => Op::Ioctl,
            Self::Poll { .. } => Op::Poll,
            Self::Own { number, .. } => Op::Own(*number),
        }
    }

    /// Bytes that it brings or needs.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Read { length } => *length,
            Self::Write { data } => data.len(),
            Self::Ioctl { argument, room, .. } | Self::Own { argument, room, .. } => {
                argument.len().max(*room)
            }
            Self::Poll { .. } => 0,
        }
    }
}

impl Core {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }

    /// Opens a handle. `done` gets it, or -errno: the driver's own, or -EMFILE where there are too many.
    pub(crate) fn open(
        &self,
        owner: Owner,
        flags: u32,
        done: impl FnOnce(Result<u64, i64>) + Send + 'static,
    ) {
        self.desk.open(owner, flags, Box::new(done));
    }

    /// Makes a call: after those of the same handle that were submitted before. `sequence` is as in
    /// [`protocol::driver::Head`], 0 for a call that is never made again. Errors of the host's own: -EBADF where `owner` has no such handle,
    /// -EAGAIN where too many calls of the handle wait, -ENOBUFS where too many bytes do, -EINVAL where it asks for too much.
    pub(crate) fn submit(
        &self,
        owner: Owner,
        handle: u64,
        sequence: u64,
        request: Request,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) -> Ticket {
        self.desk.submit(owner, handle, sequence, request, Box::new(done))
    }

    /// The caller waits no longer: a call that has not begun is answered -EINTR, and so is a `poll` that waits; one that runs
    /// is told by the driver's `interrupt`, and whatever it waits for in `host->wait` answers -EINTR. Its answer comes as ever.
    pub(crate) fn interrupt(&self, ticket: Ticket) {
        self.desk.interrupt(ticket);
    }

    /// Ends a handle, after the calls that were submitted before; what these wait for is interrupted. The driver's answer, or -EBADF.
    pub(crate) fn close(&self, owner: Owner, handle: u64, done: impl FnOnce(i64) + Send + 'static) {
        self.desk.close(owner, handle, Box::new(move |outcome| done(outcome.result)));
    }
}
