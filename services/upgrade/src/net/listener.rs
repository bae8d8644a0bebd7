//! TLS: shakes hands with operators and carries each one's connection to an endpoint of its own, which serves the object
//! `upgrade` and nothing else. Who is no operator is gone before a frame is read; however many come, they cost a few places.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::DirBuilderExt as _, fs::OpenOptionsExt as _, net::UnixStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bundle::PublicKey;
use daemon::clock;
use endpoint::{
    Server, Settings,
    tls::{Acceptor, Carrier, KeyPair},
};
use protocol::{
    policy::{Rule, Verb, Verdict, Who},
    time::Moment,
};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};

use super::{
    desk::{Desk, WINDOW},
    object::{Callers, Full, UpgradeObject},
};

/// The limits of the network. The defaults are what `docs/upgrade.md` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Handshakes at once; whoever comes while there are so many is cut off.
    pub(super) handshakes: usize,
    /// Of these from one address, so that one that falls silent keeps nobody else out.
    pub(super) from_one: usize,
    pub(super) handshake: Duration,
    /// Operators that are connected at once.
    pub(super) sessions: usize,
    /// A connection on which nothing is said for so long ends.
    pub(super) idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 8,
            from_one: 2,
            handshake: Duration::from_secs(10),
            sessions: 2,
            idle: Duration::from_secs(30),
        }
    }
}

/// How long a host that is one too many is told so.
const TOLD: Duration = Duration::from_secs(5);
/// After an accept that failed, for want of descriptors most of the time.
const PAUSE: Duration = Duration::from_millis(200);
/// What strangers do is written to the log at most so often.
const LOUD: Duration = Duration::from_secs(10);
/// A chunk, or a manifest with its signatures, and what stands around it.
const FRAME_MAX: usize = 320 << 10;
/// Calls of a session that have no answer yet: the window, and a few that ask how it goes.
const CALLS: usize = WINDOW + 8;

/// Listens on TCP. Where the system has no IPv6, `[::]` is `0.0.0.0`.
///
/// # Errors
/// As bind(2).
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).or_else(|error| match address {
        SocketAddr::V6(six)
            if six.ip().is_unspecified()
                && error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, six.port()))
        }
        _ => Err(error),
    });
    bound.and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
}

/// Writes `addr` into the folder: where it listens, readable by all. Without an address the file goes.
///
/// # Errors
/// As write(2).
pub(super) fn publish(folder: &Path, address: Option<SocketAddr>) -> io::Result<()> {
    let path = folder.join("addr");
    let Some(address) = address else {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    match DirBuilder::new().mode(0o755).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let fresh = folder.join(".addr");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&fresh)?;
    writeln!(file, "{address}")?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    File::open(folder)?.sync_all()
}

/// What all connections share.
struct Network {
    desk: Arc<Desk>,
    acceptor: Acceptor,
    limits: Limits,
    sessions: Arc<Semaphore>,
    servers: AtomicU64,
    log: Log,
}

/// Accepts for ever. Dropped, it ends all sessions.
///
/// # Errors
/// Where TLS can't be set up, or the socket can't be watched.
pub(super) async fn run(
    listener: TcpListener,
    key: &KeyPair,
    desk: Arc<Desk>,
    limits: Limits,
) -> io::Result<()> {
    let operators = Arc::clone(&desk);
    let acceptor = Acceptor::new(key, Arc::new(move |shown| operators.is_operator(shown)))?;
    let sessions = Arc::new(Semaphore::new(limits.sessions));
    // 0 is the Unix socket's.
    let (servers, log) = (AtomicU64::new(1), Log::default());
    let network = Arc::new(Network { desk, acceptor, limits, sessions, servers, log });
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Places::new(limits);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                network.log.say(|| format!("accept a connection: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !network.desk.has_operators() {
            let text = "nobody may come in: the device's keyring names no operator; install a keyring with one (vestalctl upgrade keyring install)";
            network.log.say(|| format!("{from} was turned away; {text}"));
            continue;
        }
        let place = match places.take(from.ip()) {
            Ok(place) => place,
            Err(why) => {
                network.log.say(|| format!("{from} was turned away: {why}"));
                continue;
            }
        };
        let network = Arc::clone(&network);
        connections.spawn(async move {
            if let Some((carrier, key)) = network.shake(stream, from).await {
                network.serve(carrier, key, from, place).await;
            }
        });
    }
}

/// Where handshakes are made: few, and fewer from one address.
struct Places {
    limits: Limits,
    taken: Arc<Mutex<Vec<IpAddr>>>,
}

/// One of them, until it is dropped.
struct Place {
    of: IpAddr,
    taken: Arc<Mutex<Vec<IpAddr>>>,
}

impl Places {
    fn new(limits: Limits) -> Self {
        Self { limits, taken: Arc::default() }
    }

    /// # Errors
    /// Why there is none.
    fn take(&self, of: IpAddr) -> Result<Place, String> {
        // The same peer, whichever way it came in.
        let of = of.to_canonical();
        let Limits { handshakes, from_one, .. } = self.limits;
        let mut taken = lock(&self.taken);
        if taken.len() >= handshakes {
            return Err(format!("{handshakes} handshakes are under way"));
        }
        if taken.iter().filter(|other| **other == of).count() >= from_one {
            return Err(format!("{from_one} handshakes from its address are under way"));
        }
        taken.push(of);
        Ok(Place { of, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(at) = taken.iter().position(|of| *of == self.of) {
            taken.swap_remove(at);
        }
    }
}

fn lock(taken: &Mutex<Vec<IpAddr>>) -> std::sync::MutexGuard<'_, Vec<IpAddr>> {
    taken.lock().expect("nothing panics while it holds the places")
}

impl Network {
    async fn shake(&self, stream: TcpStream, from: SocketAddr) -> Option<(Carrier, PublicKey)> {
        // Small calls and their answers wait for nothing.
        let _ = stream.set_nodelay(true);
        let shaken = match timeout(self.limits.handshake, self.acceptor.accept(stream)).await {
            Ok(shaken) => shaken,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        match shaken.map(|(carrier, key)| (carrier, PublicKey::new(key))) {
            Ok((carrier, Some(key))) => Some((carrier, key)),
            Ok((_, None)) => None,
            Err(error) => {
                self.log.say(|| format!("{from} was turned away: {error}"));
                None
            }
        }
    }

    /// Serves one operator. The place of the handshake is given back once it is one of the few sessions.
    async fn serve(&self, carrier: Carrier, key: PublicKey, from: SocketAddr, place: Place) {
        let session = Arc::clone(&self.sessions).try_acquire_owned().ok();
        let fingerprint = bundle::hex::encode(&key.fingerprint());
        let served = match &session {
            Some(_) => {
                drop(place);
                tracing::info!(%from, operator = fingerprint, "an operator is connected");
                let object = UpgradeObject {
                    desk: Arc::clone(&self.desk),
                    callers: Callers::Operator { fingerprint: fingerprint.clone() },
                    server: self.servers.fetch_add(1, Relaxed),
                };
                server(|server| server.add("upgrade", object))
            }
            None => server(|server| server.add("upgrade", Full { sessions: self.limits.sessions })),
        };
        let (server, carried) = match served {
            Ok(served) => served,
            Err(error) => return tracing::error!("serve {from}: {error}"),
        };
        let carrying = carrier.carry(carried, self.limits.idle);
        let ended = if session.is_some() {
            tokio::select! {
                ended = carrying => ended,
                () = self.desk.until_stranger(key.octets()) => {
                    Err(io::Error::other("its key is no operator's any more"))
                }
            }
        } else {
            timeout(TOLD, carrying).await.unwrap_or(Ok(()))
        };
        // Programs that just end say no goodbye.
        let gone = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
        let ended = match ended {
            Err(error) if gone.contains(&error.kind()) => Ok(()),
            ended => ended,
        };
        match ended {
            Ok(()) => tracing::info!(%from, "the connection was closed"),
            Err(error) => tracing::info!(%from, "the connection ended: {error}"),
        }
        server.drain(Duration::ZERO).await;
    }
}

/// A server of its own for one connection, and the other end of that.
fn server(
    add: impl FnOnce(&Server) -> Result<(), endpoint::AddError>,
) -> io::Result<(Server, tokio::net::UnixStream)> {
    let all = Rule {
        verdict: Verdict::Allow,
        verb: Verb::Call,
        what: "upgrade".to_owned(),
        methods: Vec::new(),
        who: Who { anyone: true, ..Who::default() },
        source: "an operator's key".to_owned(),
    };
    let server = Server::new(Settings {
        rules: Arc::new(vec![all]),
        trusting: false,
        rate: None,
        queue: CALLS,
        connections: 1,
        strangers_frame_max: FRAME_MAX,
        calls_per_connection: CALLS,
        output_max: 2 << 20,
        ..Settings::default()
    })?;
    add(&server).map_err(io::Error::other)?;
    let (here, there) = UnixStream::pair()?;
    server.serve(there)?;
    here.set_nonblocking(true)?;
    Ok((server, tokio::net::UnixStream::from_std(here)?))
}

/// Says what strangers do, but doesn't let them fill the log.
#[derive(Default)]
struct Log(Mutex<(Option<Moment>, u64)>);

impl Log {
    fn say(&self, text: impl FnOnce() -> String) {
        let now = clock::now();
        let mut state = self.0.lock().expect("nothing panics while it holds the log");
        let (last, unsaid) = &mut *state;
        if last.is_some_and(|last| now.since(last) < LOUD) {
            *unsaid += 1;
            return;
        }
        *last = Some(now);
        match std::mem::take(unsaid) {
            0 => tracing::warn!("{}", text()),
            more => tracing::warn!("{} ({more} more like it were not written)", text()),
        }
    }
}
