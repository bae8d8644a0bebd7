//! The serving side: accepts connections, judges who calls what, routes calls to the objects' queues.
//!
//! A peer can fill its own queue, its own outbox and its own share of connections, never another's: everything a peer
//! can make grow is counted for that peer and has a limit in [`Settings`].

mod accept;
mod audit;
mod connection;
mod control;
mod events;
mod gate;
mod incoming;
mod kernel;
mod link;
mod monitor;
mod peer;
mod queue;
mod rate;
mod router;
mod rules;
mod session;
mod settings;

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

use protocol::{failure::Failure, objects::Served, registry::Policy};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use self::{
    audit::Audit,
    link::Link,
    monitor::Monitor,
    queue::Limits,
    router::{Router, View},
    settings::Counts,
};
pub use self::{
    gate::ClosedGate,
    incoming::{Chunks, Ended, Incoming, Responder},
    link::Caller,
    peer::Peer,
    router::{AddError, Serve},
    settings::{Counters, Identify, Identifying, Rate, SetLogLevel, Settings},
};

/// Serves objects. Clones are the same server; its tasks end with [`Server::drain`] or the runtime.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    router: Router,
    counters: Counts,
    audit: Audit,
    monitor: Arc<Monitor>,
    nonce: [u8; 16],
    own_uid: u32,
    closers: AtomicU64,
    connections: Mutex<Connections>,
    /// How many connections are open.
    usage: watch::Sender<usize>,
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
        let policy = Policy { epoch: 0, rules: settings.rules.to_vec() };
        let shared = Shared {
            router: Router::new(limits, policy),
            settings,
            counters: Counts::default(),
            audit: Audit::default(),
            monitor: Arc::default(),
            nonce: accept::nonce()?,
            own_uid: rustix::process::geteuid().as_raw(),
            closers: AtomicU64::new(0),
            connections: Mutex::default(),
            usage: watch::Sender::new(0),
            changed: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Serves an object from now on. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Where the name is taken or can't be one.
    pub fn add<S: Serve>(&self, name: &str, handler: S) -> Result<(), AddError> {
        self.shared.router.add(name, handler, false)
    }

    /// Serves an object to callers in this very process only: for all others it isn't there.
    ///
    /// # Errors
    /// Where the name is taken or can't be one.
    pub fn add_local<S: Serve>(&self, name: &str, handler: S) -> Result<(), AddError> {
        self.shared.router.add(name, handler, true)
    }

    /// Serves it no longer: calls that wait are answered `gone`. `false` where there is no such object.
    #[must_use]
    pub fn remove(&self, name: &str) -> bool {
        self.shared.router.remove(name)
    }

    /// What is served to others: all but the local objects.
    #[must_use]
    pub fn objects(&self) -> Vec<Served> {
        self.shared.router.served(View::Exported)
    }

    /// Changes whenever [`Server::objects`] does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.router.changes()
    }

    /// What Welcome says: drawn once a server, it proves that a connection leads here.
    #[must_use]
    pub fn nonce(&self) -> [u8; 16] {
        self.shared.nonce
    }

    /// How many connections are open.
    #[must_use]
    pub fn usage(&self) -> watch::Receiver<usize> {
        self.shared.usage.subscribe()
    }

    /// Judges by these rules from now on, instead of those before. Open calls whose caller may no longer make them are
    /// answered `denied`.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        self.shared.router.set_policy(policy);
        let links: Vec<_> = self.shared.lock().open.values().map(Arc::clone).collect();
        links.iter().for_each(|link| link.rejudge());
    }

    /// Of the rules it judges by; 0 before [`Server::set_policy`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.router.epoch()
    }

    /// Closes the gate of an object, or of all that are served now: calls wait, at most `hold`, until the gate is opened
    /// or what this returns is dropped. Needs a running tokio runtime.
    ///
    /// # Errors
    /// `not-found` where there is no such object.
    pub fn close_gate(&self, object: Option<&str>, hold: Duration) -> Result<ClosedGate, Failure> {
        ClosedGate::new(&self.shared, object, hold)
    }

    /// Opens it, whoever closed it.
    ///
    /// # Errors
    /// `not-found` where there is no such object.
    pub fn open_gate(&self, object: Option<&str>) -> Result<(), Failure> {
        for target in self.shared.router.targets(object)? {
            target.queue.open_gate(None);
        }
        Ok(())
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
        let open = self.shared.lock().open.len();
        self.shared.counters.read(open)
    }

    /// Ends in order: accepts nothing, refuses calls that have not begun as `gone`, lets the others finish until `within`
    /// has passed (these are answered `failed` then), says Goodbye and returns when all connections are closed.
    pub async fn drain(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let links: Vec<_> = {
            let mut connections = self.shared.lock();
            connections.draining = true;
            connections.open.values().map(Arc::clone).collect()
        };
        self.shared.changed.notify_waiters();
        links.iter().for_each(|link| link.drain());
        for target in self.shared.router.targets(None).unwrap_or_default() {
            target.withdraw();
        }
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
        self.settings.trusting && (uid == 0 || uid == self.own_uid)
    }

    fn next_closer(&self) -> u64 {
        self.closers.fetch_add(1, Relaxed)
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
        self.usage.send_replace(connections.open.len());
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
