//! How a client behaves, how one call is made, and what comes back.

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use protocol::objects::Wanted;
use serde::de::DeserializeOwned;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a call waits for a server that can't be reached, within its own deadline. Zero: one attempt.
    pub patience: Duration,
    /// Events that wait for a subscriber before it loses the oldest.
    pub events: usize,
    /// Longest result that is put together from chunks.
    pub result_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { patience: Duration::from_secs(5), events: 256, result_max: 64 << 20 }
    }
}

/// How one call is made.
#[derive(Clone, Copy, Debug)]
pub struct CallOptions<'a> {
    /// Until the answer; `Duration::MAX` is for ever (a stream that is followed).
    pub deadline: Duration,
    /// Carrying it out twice does no harm: it is repeated when the connection ended and nobody knows whether it was done.
    pub safe_to_repeat: bool,
    /// Where the other side's queue is full, the call waits here for its turn, until its deadline; else it fails with `busy` at once.
    pub wait_when_busy: bool,
    /// Descriptors that go with it, at most 16.
    pub fds: &'a [BorrowedFd<'a>],
    /// What the object must be; checked before anything is sent.
    pub wanted: Wanted<'a>,
}

impl Default for CallOptions<'_> {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            safe_to_repeat: false,
            wait_when_busy: true,
            fds: &[],
            wanted: Wanted::default(),
        }
    }
}

impl CallOptions<'_> {
    /// The usual deadline, and repeated if need be: for calls that only read.
    #[must_use]
    pub fn safe() -> Self {
        Self { safe_to_repeat: true, ..Self::default() }
    }
}

/// The answer to a call.
#[derive(Debug)]
pub struct Received {
    /// JSON, or raw bytes where the method says so.
    pub result: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Received {
    /// The result as a value.
    ///
    /// # Errors
    /// Where it is not JSON of this shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.result)
    }
}

/// An event that the server sent to this connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    pub topic: String,
    /// JSON.
    pub data: Vec<u8>,
    /// How many events before this one were lost because this side was too slow.
    pub lost: u32,
}

impl Event {
    /// Not an event but a mark of [`crate::Subscription`]: the registry was away, and what was published meanwhile, if
    /// anything, is missed. What is retained comes again behind it.
    #[must_use]
    pub fn is_gap(&self) -> bool {
        self.topic.is_empty()
    }

    /// The data as a value.
    ///
    /// # Errors
    /// Where it is not JSON of this shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.data)
    }
}
