//! A UDP relay between applications and the broker: loses, doubles and reorders datagrams as it is told, and keeps a copy of each.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a datagram is held back that nothing overtakes.
const HELD: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// A SYN's; an EACK of a client has at most as many octets in these tests.
const LONGEST_HEADER: usize = 28;
/// Forged datagrams in one turn.
const FORGED_AT_ONCE: usize = 16;
/// More than any test has applications.
const CLIENTS_MAX: usize = 64;

/// What happens to datagrams, each way; chances of 256.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u8,
    pub(crate) doubling: u8,
    pub(crate) reordering: u8,
}

impl Faults {
    /// Every fifth datagram is lost.
    pub(crate) const FIFTH: Self = Self { loss: 51, doubling: 0, reordering: 0 };
    /// Nothing comes through.
    pub(crate) const CUT: Self = Self { loss: 255, doubling: 0, reordering: 0 };
}

/// One datagram as its sender sent it; what a test forges isn't among them.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) to_broker: bool,
    /// The application's port.
    pub(crate) client: u16,
    pub(crate) lost: bool,
    pub(crate) octets: Vec<u8>,
}

/// Runs until it is dropped.
pub(crate) struct Relay {
    /// Where applications find it, on loopback.
    pub(crate) port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
}

struct State {
    faults: Faults,
    /// So many messages to the broker are lost next, whatever the chances are.
    lose: u32,
    /// To be sent in the name of one side to the other: whether to the broker, and what.
    forged: VecDeque<(bool, Vec<u8>)>,
    random: u64,
    record: Vec<Sent>,
}

/// One application's way: its own socket to the broker, and what is held back in either direction.
struct Way {
    socket: UdpSocket,
    held: [Option<Vec<u8>>; 2],
}

impl Relay {
    pub(crate) fn start(broker: SocketAddr) -> Self {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        front.set_nonblocking(true).unwrap();
        let port = front.local_addr().unwrap().port();
        // Not random: a run that fails can be looked at again.
        let state = State {
            faults: Faults::default(),
            lose: 0,
            forged: VecDeque::new(),
            random: 0x9e37_79b9,
            record: Vec::new(),
        };
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), state: Mutex::new(state) });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut ways = BTreeMap::new();
            while !theirs.stop.load(Relaxed) {
                turn(&front, broker, &mut ways, &theirs);
            }
        });
        Self { port, shared, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub(crate) fn set(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Loses the next so many datagrams to the broker that carry a message.
    pub(crate) fn lose(&self, messages: u32) {
        self.state().lose = messages;
    }

    /// Sends datagrams from the address that one side knows as the other's; for every application that there is.
    pub(crate) fn forge(&self, to_broker: bool, datagrams: impl IntoIterator<Item = Vec<u8>>) {
        let datagrams = datagrams.into_iter().map(|octets| (to_broker, octets));
        self.state().forged.extend(datagrams);
        testkit::until("forged datagrams are sent", || {
            self.state().forged.is_empty().then_some(())
        });
    }

    /// Everything that either side has sent so far.
    pub(crate) fn record(&self) -> Vec<Sent> {
        self.state().record.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for datagrams and passes on what has come; where nothing comes, what was held back.
fn turn(
    front: &UdpSocket,
    broker: SocketAddr,
    ways: &mut BTreeMap<SocketAddr, Way>,
    shared: &Shared,
) {
    // No more at once than the other side reads meanwhile.
    for _ in 0..FORGED_AT_ONCE {
        let forged = shared.state.lock().unwrap().forged.pop_front();
        let Some((to_broker, octets)) = forged else { break };
        for (client, way) in &*ways {
            deliver(front, *client, way, to_broker, &octets);
        }
    }
    let mut watched = vec![PollFd::new(front, PollFlags::IN)];
    watched.extend(ways.values().map(|way| PollFd::new(&way.socket, PollFlags::IN)));
    let ready = poll(&mut watched, Some(&HELD)).unwrap_or(0);
    if ready == 0 {
        for (client, way) in ways {
            for to_broker in [false, true] {
                if let Some(octets) = way.held[usize::from(to_broker)].take() {
                    deliver(front, *client, way, to_broker, &octets);
                }
            }
        }
        return;
    }
    let mut octets = [0; 2_048];
    while let Some((length, client)) = received(|| front.recv_from(&mut octets)) {
        if ways.len() >= CLIENTS_MAX && !ways.contains_key(&client) {
            continue;
        }
        let way = ways.entry(client).or_insert_with(|| way(broker));
        pass(front, client, way, true, &octets[..length], shared);
    }
    for (client, way) in ways {
        while let Some(length) = received(|| way.socket.recv(&mut octets)) {
            pass(front, *client, way, false, &octets[..length], shared);
        }
    }
}

fn way(broker: SocketAddr) -> Way {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(broker).unwrap();
    socket.set_nonblocking(true).unwrap();
    Way { socket, held: [None, None] }
}

/// What there is to read. A broker or an application that isn't there is told of once and then forgotten.
fn received<T>(mut receive: impl FnMut() -> io::Result<T>) -> Option<T> {
    match receive() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => receive().ok(),
        other => other.ok(),
    }
}

/// Decides what becomes of a datagram.
fn pass(
    front: &UdpSocket,
    client: SocketAddr,
    way: &mut Way,
    to_broker: bool,
    octets: &[u8],
    shared: &Shared,
) {
    let mut state = shared.state.lock().unwrap();
    let faults = state.faults;
    let chosen = to_broker && state.lose > 0 && octets.len() > LONGEST_HEADER;
    state.lose -= u32::from(chosen);
    let lost = state.happens(faults.loss) || chosen;
    let twice = state.happens(faults.doubling);
    let late = state.happens(faults.reordering);
    state.record.push(Sent { to_broker, client: client.port(), lost, octets: octets.to_vec() });
    drop(state);
    if lost {
        return;
    }
    if late {
        // It follows the next one, or goes when nothing comes; what was held before goes now.
        let before = way.held[usize::from(to_broker)].replace(octets.to_vec());
        if let Some(before) = before {
            deliver(front, client, way, to_broker, &before);
        }
        return;
    }
    deliver(front, client, way, to_broker, octets);
    if twice {
        deliver(front, client, way, to_broker, octets);
    }
    if let Some(held) = way.held[usize::from(to_broker)].take() {
        deliver(front, client, way, to_broker, &held);
    }
}

/// What can't be delivered is lost, as on any network.
fn deliver(front: &UdpSocket, client: SocketAddr, way: &Way, to_broker: bool, octets: &[u8]) {
    let _ = if to_broker { way.socket.send(octets) } else { front.send_to(octets, client) };
}

impl State {
    /// By Marsaglia's xorshift.
    fn happens(&mut self, chance: u8) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 32 & 0xff < u64::from(chance)
    }
}
