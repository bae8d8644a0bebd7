//! What can be set of a server, and what it counts.

use std::{
    future::Future,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use protocol::{
    failure::Failure,
    policy::{Identity, Rule, built_in},
};
use serde::Serialize;

use super::link::Caller;

/// The answer of an [`Identify`], when it is there.
pub type Identifying = Pin<Box<dyn Future<Output = Result<Identity, Failure>> + Send>>;
/// Finds out what a calling process is; the descriptor is its pidfd, where the kernel gives one.
pub type Identify = Arc<dyn Fn(Caller, Option<OwnedFd>) -> Identifying + Send + Sync>;
/// Reads (`None`) or changes the level of the process's own log; the level that holds then, or what was wrong.
pub type SetLogLevel = Arc<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

/// How many calls a connection may make: a bucket of `burst` that fills with `per_second`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

/// The limits of a server. The defaults suit every daemon of the suite.
#[derive(Clone)]
pub struct Settings {
    /// Judge each call until [`super::Server::set_policy`] brings others. What no rule speaks of is open to root and to the user
    /// this process runs as. Introspection is open to all.
    pub rules: Arc<Vec<Rule>>,
    /// Whether root and the user this process runs as may do what no rule speaks of. Without it a connection that is served on
    /// another one's behalf, such as a network's, has no more rights than the rules give.
    pub trusting: bool,
    /// Asked once a connection, when a rule can't be judged without it. Without it such calls are denied.
    pub identify: Option<Identify>,
    /// What the endpoint's `_log_level` does; without it the method is unsupported.
    pub log_level: Option<SetLogLevel>,
    /// How fast a connection of a user who is neither root nor ours may call; `None` is without limit.
    pub rate: Option<Rate>,
    /// How fast a connection of root or of our own user may call.
    pub rate_trusted: Option<Rate>,
    /// Calls of one connection that wait for one object. All of a user's connections have 8 times as many, all users 16 times.
    pub queue: usize,
    /// Connections of one user.
    pub connections_per_user: usize,
    /// Connections in all.
    pub connections: usize,
    /// Bytes of an incomplete frame that are kept for a user who is neither root nor ours: times the connections of a user,
    /// that is the memory which somebody without any rights can take.
    pub strangers_frame_max: usize,
    /// Calls of one connection that have no answer yet.
    pub calls_per_connection: usize,
    /// Bytes that wait for a slow reader before it is disconnected.
    pub output_max: usize,
    /// How long a reader may take nothing at all before it is disconnected.
    pub stall: Duration,
    /// How long a new connection may take to say Hello.
    pub handshake: Duration,
    /// How long a frame may take from its first byte to its last.
    pub frame_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rules: Arc::new(built_in()),
            trusting: true,
            identify: None,
            log_level: None,
            rate: Some(Rate { per_second: 1000, burst: 1500 }),
            rate_trusted: None,
            queue: 64,
            connections_per_user: 256,
            connections: 16_384,
            strangers_frame_max: 64 << 10,
            calls_per_connection: 256,
            output_max: 16 << 20,
            stall: Duration::from_secs(30),
            handshake: Duration::from_secs(5),
            frame_time: Duration::from_secs(30),
        }
    }
}

/// What happened since the server was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counters {
    pub connections: u64,
    pub connections_open: u64,
    /// Over the limit of a user or of all.
    pub connections_refused: u64,
    pub calls: u64,
    /// By the policy.
    pub denied: u64,
    /// Of those denied: they had begun when the policy changed.
    pub revoked: u64,
    /// Refused because a queue was full, or a gate closed for too long.
    pub busy: u64,
    /// Refused because a connection called faster than it may.
    pub throttled: u64,
    pub timeouts: u64,
    pub cancelled: u64,
    /// Peers that broke the protocol, or speak no common version.
    pub violations: u64,
    /// Disconnected because they did not read.
    pub slow_readers: u64,
    /// Events dropped on connections that are closed now.
    pub events_lost: u64,
    /// Accepts that failed for want of descriptors.
    pub out_of_descriptors: u64,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicU64,
    pub(super) connections_refused: AtomicU64,
    pub(super) calls: AtomicU64,
    pub(super) denied: AtomicU64,
    pub(super) revoked: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) throttled: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) violations: AtomicU64,
    pub(super) slow_readers: AtomicU64,
    pub(super) events_lost: AtomicU64,
    pub(super) out_of_descriptors: AtomicU64,
}

impl Counts {
    pub(super) fn count_busy(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self, connections_open: usize) -> Counters {
        let read = |count: &AtomicU64| count.load(Relaxed);
        Counters {
            connections: read(&self.connections),
            connections_open: connections_open as u64,
            connections_refused: read(&self.connections_refused),
            calls: read(&self.calls),
            denied: read(&self.denied),
            revoked: read(&self.revoked),
            busy: read(&self.busy),
            throttled: read(&self.throttled),
            timeouts: read(&self.timeouts),
            cancelled: read(&self.cancelled),
            violations: read(&self.violations),
            slow_readers: read(&self.slow_readers),
            events_lost: read(&self.events_lost),
            out_of_descriptors: read(&self.out_of_descriptors),
        }
    }
}
