//! The serving side: accepts connections, checks who calls, routes calls to the objects' queues.
//!
//! A peer can fill its own queue, its own outbox and its own share of connections, never another's: everything a peer
//! can make grow is counted for that peer and has a limit in [`Settings`].

mod accept;
mod connection;
mod incoming;
mod link;
mod queue;
mod router;

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    objects::Served,
};
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};

pub use self::{
    incoming::{Chunks, Ended, Incoming, Peer, Responder},
    link::Caller,
    router::{AddError, Serve},
};
use self::{link::Link, queue::Limits, router::Router};

/// Says who may call what: caller, object, method.
pub type Policy = Arc<dyn Fn(&Caller, &str, &str) -> Result<(), Failure> + Send + Sync>;

/// The limits of a server. The defaults suit every daemon of the suite.
#[derive(Clone)]
pub struct Settings {
    /// Asked before each call; introspection is open to all.
    pub policy: Policy,
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
            policy: root_and_own_user(),
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

/// The default policy: root, and the user this process runs as.
#[must_use]
pub fn root_and_own_user() -> Policy {
    let own = rustix::process::geteuid().as_raw();
    Arc::new(move |caller, object, method| {
        if caller.uid == 0 || caller.uid == own {
            return Ok(());
        }
        let text = format!(
            "{object}.{method} is for root and user {own}, not for user {} (pid {})",
            caller.uid, caller.pid
        );
        Err(Failure::new(Code::Denied, text))
    })
}

/// Serves objects. Clones are the same server; its tasks end with [`Server::drain`] or the runtime.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
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
    /// Refused because a queue was full.
    pub busy: u64,
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
struct Counts {
    connections: AtomicU64,
    connections_refused: AtomicU64,
    calls: AtomicU64,
    denied: AtomicU64,
    busy: AtomicU64,
    timeouts: AtomicU64,
    cancelled: AtomicU64,
    violations: AtomicU64,
    slow_readers: AtomicU64,
    events_lost: AtomicU64,
    out_of_descriptors: AtomicU64,
}

struct Shared {
    settings: Settings,
    router: Router,
    counters: Counts,
    nonce: [u8; 16],
    own_uid: u32,
    connections: Mutex<Connections>,
    /// A connection closed, or draining began.
    changed: Notify,
}

#[derive(Default)]
struct Connections {
    open: HashMap<u64, Arc<Link>>,
    per_user: HashMap<u32, usize>,
    next: u64,
    draining: bool,
}

impl Server {
    /// # Errors
    /// Where the kernel gives no random bytes for the nonce.
    pub fn new(settings: Settings) -> io::Result<Self> {
        let limits =
            Limits { lane: settings.queue, user: settings.queue * 8, total: settings.queue * 16 };
        let shared = Shared {
            router: Router::new(limits),
            settings,
            counters: Counts::default(),
            nonce: accept::nonce()?,
            own_uid: rustix::process::geteuid().as_raw(),
            connections: Mutex::default(),
            changed: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Serves an object from now on. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Where the name is taken or can't be one.
    pub fn add<S: Serve>(&self, name: &str, handler: S) -> Result<(), AddError> {
        self.shared.router.add(name, handler)
    }

    /// Serves it no longer: calls that wait are answered `gone`. `false` where there is no such object.
    #[must_use]
    pub fn remove(&self, name: &str) -> bool {
        self.shared.router.remove(name)
    }

    /// What is served.
    #[must_use]
    pub fn objects(&self) -> Vec<Served> {
        self.shared.router.served()
    }

    /// Accepts on a bound, listening socket, which is made non-blocking. May be called for several sockets.
    ///
    /// # Errors
    /// Where the socket can't be watched.
    pub fn listen(&self, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let reserve = accept::Reserve::new();
        tokio::spawn(accept::run(Arc::clone(&self.shared), listener, reserve));
        Ok(())
    }

    /// Serves one connection that was accepted, or made as a pair, elsewhere.
    ///
    /// # Errors
    /// Where the socket can't be watched, or the kernel doesn't say who the peer is.
    pub fn serve(&self, stream: std::os::unix::net::UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        accept::admit(&self.shared, tokio::net::UnixStream::from_std(stream)?)
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        let counts = &self.shared.counters;
        Counters {
            connections: counts.connections.load(Relaxed),
            connections_open: self.shared.lock().open.len() as u64,
            connections_refused: counts.connections_refused.load(Relaxed),
            calls: counts.calls.load(Relaxed),
            denied: counts.denied.load(Relaxed),
            busy: counts.busy.load(Relaxed),
            timeouts: counts.timeouts.load(Relaxed),
            cancelled: counts.cancelled.load(Relaxed),
            violations: counts.violations.load(Relaxed),
            slow_readers: counts.slow_readers.load(Relaxed),
            events_lost: counts.events_lost.load(Relaxed),
            out_of_descriptors: counts.out_of_descriptors.load(Relaxed),
        }
    }

    /// Ends in order: accepts nothing, refuses new calls as `gone`, lets open ones finish until `within` has passed (these
    /// are answered `failed` then), says Goodbye and returns when all connections are closed.
    pub async fn drain(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let links: Vec<_> = {
            let mut connections = self.shared.lock();
            connections.draining = true;
            connections.open.values().map(Arc::clone).collect()
        };
        self.shared.changed.notify_waiters();
        links.iter().for_each(|link| link.drain());
        if tokio::time::timeout_at(deadline, self.shared.empty()).await.is_ok() {
            return;
        }
        for link in &links {
            link.abandon_calls("the service was stopped while this ran");
        }
        // What is written now is written within a stall at most; who doesn't read has lost it.
        let last = Duration::from_secs(1).min(self.shared.settings.stall);
        if tokio::time::timeout(last, self.shared.empty()).await.is_err() {
            links.iter().for_each(|link| link.cut());
            self.shared.empty().await;
        }
    }
}

impl Shared {
    fn is_trusted(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connections> {
        self.connections.lock().expect("nothing panics while it holds the connections")
    }

    fn forget(&self, link: &Link) {
        let mut connections = self.lock();
        if connections.open.remove(&link.id).is_some()
            && let Some(count) = connections.per_user.get_mut(&link.caller.uid)
        {
            *count -= 1;
            if *count == 0 {
                connections.per_user.remove(&link.caller.uid);
            }
        }
        drop(connections);
        self.changed.notify_waiters();
    }

    async fn empty(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().open.is_empty() {
                return;
            }
            changed.await;
        }
    }
}
