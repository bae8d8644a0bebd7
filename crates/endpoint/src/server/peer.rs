//! A connection as a handler keeps it: to send events to, and to ask who is at the other end.

use std::{os::fd::OwnedFd, sync::Arc};

use protocol::{failure::Failure, policy::Identity, registry::Overflow};

use super::link::{Caller, Link};

/// A connection, kept to send events to it. It does not hold the connection open.
#[derive(Clone)]
pub struct Peer {
    link: Arc<Link>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("id", &self.link.id)
            .field("caller", &self.link.caller)
            .finish()
    }
}

impl Peer {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// Different for each connection of this server.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.link.id
    }

    #[must_use]
    pub fn caller(&self) -> Caller {
        self.link.caller
    }

    /// Root, or the user this process runs as: what no rule speaks of is open to it.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.link.trusted
    }

    /// A descriptor of the process that connected (kernel 6.5); `None` where there is none, or the connection is gone.
    #[must_use]
    pub fn pidfd(&self) -> Option<OwnedFd> {
        self.link.pidfd()
    }

    /// The supplementary groups of the process that connected; `None` where the kernel doesn't tell, or the connection is gone.
    #[must_use]
    pub fn groups(&self) -> Option<Arc<[u32]>> {
        let stream = self.link.stream();
        self.link.groups(stream.as_deref())
    }

    /// What the process is: asked once a connection, by the function in the settings.
    ///
    /// # Errors
    /// Where it can't be found out now; the next call tries again.
    pub async fn identify(&self) -> Result<Arc<Identity>, Failure> {
        self.link.identify().await
    }

    /// Sends an event (JSON). A reader that is too slow loses some, as [`Peer::set_events`] says, and is told how many.
    /// `false` once the connection is gone.
    pub fn event(&self, topic: &str, data: Vec<u8>) -> bool {
        self.link.event(topic.into(), data.into())
    }

    /// As [`Peer::event`], for an event that many get: they share its bytes while it waits.
    pub fn event_shared(&self, topic: &Arc<str>, data: &Arc<[u8]>) -> bool {
        self.link.event(Arc::clone(topic), Arc::clone(data))
    }

    /// How many events may wait for this reader, and what happens when more want to; the 256 newest at first.
    pub fn set_events(&self, limit: usize, overflow: Overflow) {
        self.link.set_events(limit, overflow);
    }

    /// How many events wait, and how many were lost since the connection began.
    #[must_use]
    pub fn events_state(&self) -> (usize, u64) {
        let state = self.link.lock();
        (state.events.len(), state.events.lost())
    }

    /// Returns when the connection is gone.
    pub async fn closed(&self) {
        self.link.closed().await;
    }
}
