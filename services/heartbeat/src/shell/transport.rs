//! The UDP sockets with their Reliable UDP endpoints, and the numbers by which the machine knows their connections.
//! Decides nothing about applications.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{SocketAddr, UdpSocket},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rudp::{Config, Endpoint, Handle};
use serde::Serialize;
use tokio::io::{Interest, unix::AsyncFd};

use super::batch::{BATCH, Inbox, Outbox};
use crate::{machine::SessionId, settings::Rules};

/// Connections beside the applications': half-open ones, such as have not registered yet, such as are being closed.
const STRANGERS: usize = 4_096;
/// RSTs a second for each application that the file names: after a restart of ours it needs one within its period, and its
/// acknowledgement of that, like all that it repeated meanwhile, draws another. Strangers get no more than are left of them.
const RESETS_EACH: usize = 4;
/// Connections that we closed and whose peers have not said that they know; beyond that, the oldest is forgotten.
const CLOSING_MAX: usize = 1_024;
/// Ours matters only where we open a connection, which a broker never does; what a peer proposes is granted.
const NULL_MS: u16 = 2_000;

/// All sockets.
pub(super) struct Transports {
    all: Vec<Transport>,
    sessions: HashMap<SessionId, (usize, Handle)>,
    next_session: SessionId,
    closing: VecDeque<SessionId>,
    inbox: Inbox,
    oversized: u64,
    refused: u64,
    errors: u64,
}

struct Transport {
    /// Watched for what comes only: otherwise every peer that takes an acknowledgement off its queue, and so makes room in
    /// ours, would wake us.
    socket: AsyncFd<UdpSocket>,
    address: SocketAddr,
    endpoint: Endpoint,
    handles: HashMap<Handle, SessionId>,
    outbox: Outbox,
    /// The socket takes nothing at the moment; watched until it does.
    full: Option<AsyncFd<UdpSocket>>,
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum Happening<'a> {
    Opened { session: SessionId, from: SocketAddr },
    Message { session: SessionId, octets: &'a [u8] },
    Ended { session: SessionId, retransmitted: u64 },
}

/// How much was taken in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Received {
    pub(super) count: usize,
    /// There may be more.
    pub(super) more: bool,
}

/// What came and belonged to no connection, or was lost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Noise {
    connections: u64,
    half_open: u64,
    /// Connections since the start.
    opened: u64,
    /// SYNs not answered for a limit.
    refused: u64,
    /// Half-open connections that made room for others.
    evicted: u64,
    /// No segment at all.
    corrupt: u64,
    /// Segments of strangers that were answered with RST, and such that were not.
    reset: u64,
    ignored: u64,
    oversized: u64,
    /// Datagrams that the system would not send, and other errors of the sockets.
    unsent: u64,
    errors: u64,
}

impl Transports {
    pub(super) fn new(sockets: Vec<UdpSocket>, rules: &Rules) -> anyhow::Result<Self> {
        let all = sockets.into_iter().map(|socket| Transport::new(socket, rules));
        Ok(Self {
            all: all.collect::<anyhow::Result<_>>()?,
            sessions: HashMap::new(),
            next_session: 0,
            closing: VecDeque::new(),
            inbox: Inbox::new(),
            oversized: 0,
            refused: 0,
            errors: 0,
        })
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.all.iter().map(|transport| transport.address).collect()
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Ready when a socket has something, or takes something again.
    pub(super) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut ready = Poll::Pending;
        for transport in &self.all {
            let room =
                transport.full.as_ref().is_some_and(|full| full.poll_write_ready(cx).is_ready());
            if room || transport.socket.poll_read_ready(cx).is_ready() {
                ready = Poll::Ready(());
            }
        }
        ready
    }

    /// Takes in a batch of what has come on each socket, and tells what happened. One after another, so that what a batch
    /// touched is answered while it is still at hand.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        mut tell: impl FnMut(Happening<'_>),
    ) -> Received {
        let mut received = Received::default();
        for at in 0..self.all.len() {
            let Received { count, more } = self.take(at, now);
            received.count += count;
            received.more |= more;
            self.tell(at, &mut tell);
        }
        received
    }

    /// Does what is due, and tells what happened. To be called when everything that has come was received.
    pub(super) fn handle_timeout(&mut self, now: Instant, mut tell: impl FnMut(Happening<'_>)) {
        for at in 0..self.all.len() {
            let endpoint = &mut self.all[at].endpoint;
            if endpoint.next_deadline().is_some_and(|deadline| deadline <= now) {
                endpoint.handle_timeout(now);
                self.tell(at, &mut tell);
            }
        }
    }

    fn take(&mut self, at: usize, now: Instant) -> Received {
        let Transport { socket, endpoint, .. } = &mut self.all[at];
        let take = |from, octets: &[u8]| endpoint.handle_datagram(from, octets, now);
        let (count, more) = match self.inbox.receive(socket.get_ref(), take) {
            Ok(received) => {
                self.oversized += received.oversized;
                (received.datagrams, received.datagrams == BATCH)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, false),
            // An ICMP message about an earlier datagram, a signal: the next call goes on behind it.
            Err(_) => {
                self.errors += 1;
                (1, true)
            }
        };
        if !more {
            // So that the runtime waits for the next one. One that has come meanwhile wakes it again.
            let nothing = |_: &UdpSocket| Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::READABLE, nothing);
        }
        Received { count, more }
    }

    fn tell(&mut self, at: usize, tell: &mut impl FnMut(Happening<'_>)) {
        let Self { all, sessions, next_session, .. } = self;
        let Transport { endpoint, handles, .. } = &mut all[at];
        while let Some((handle, event)) = endpoint.poll_event() {
            match event {
                rudp::Event::Data(octets) => {
                    if let Some(session) = handles.get(&handle) {
                        tell(Happening::Message { session: *session, octets });
                    }
                }
                rudp::Event::Opened => {
                    let Some(from) = endpoint.address(handle) else { continue };
                    let session = *handles.entry(handle).or_insert_with(|| {
                        *next_session += 1;
                        sessions.insert(*next_session, (at, handle));
                        *next_session
                    });
                    tell(Happening::Opened { session, from });
                }
                rudp::Event::Closed | rudp::Event::Refused(_) => {
                    let Some(session) = handles.remove(&handle) else { continue };
                    sessions.remove(&session);
                    let retransmitted = figures(endpoint, handle).map_or(0, |(_, again)| again);
                    tell(Happening::Ended { session, retransmitted });
                }
                // The transport is in trouble, which is no news about the process. What comes of it is told above.
                rudp::Event::Failed
                | rudp::Event::AutoReset
                | rudp::Event::PeerRestarted
                | rudp::Event::PeerClosed
                | rudp::Event::Transfer(_) => {}
            }
        }
    }

    pub(super) fn send(&mut self, session: SessionId, octets: &[u8], now: Instant) {
        let Some((at, handle)) = self.sessions.get(&session) else { return };
        if let Err(error) = self.all[*at].endpoint.send(*handle, octets, now) {
            tracing::debug!(session, "an answer is not sent: {error}");
            self.refused += 1;
        }
    }

    pub(super) fn verify(&mut self, session: SessionId) {
        if let Some((at, handle)) = self.sessions.get(&session) {
            self.all[*at].endpoint.verify(*handle);
        }
    }

    /// Ends it after what was sent on it. Somebody who opens connections without end can't fill the table with closed ones.
    pub(super) fn close(&mut self, session: SessionId, now: Instant) {
        let Some((at, handle)) = self.sessions.get(&session) else { return };
        self.all[*at].endpoint.close(*handle, now);
        self.closing.push_back(session);
        if self.closing.len() <= CLOSING_MAX {
            return;
        }
        let oldest = self.closing.pop_front();
        if let Some((at, handle)) = oldest.and_then(|oldest| self.sessions.remove(&oldest)) {
            self.all[at].handles.remove(&handle);
            self.all[at].endpoint.forget(handle);
        }
    }

    /// Sends what there is to be sent, as far as the sockets take it.
    pub(super) fn transmit(&mut self) {
        for Transport { socket, endpoint, outbox, full, .. } in &mut self.all {
            *full = None;
            loop {
                outbox.fill(|octets| endpoint.poll_transmit(octets));
                if outbox.is_empty() {
                    break;
                }
                let (sent, refused) = outbox.flush(socket.get_ref());
                self.refused += refused;
                if sent.is_err() {
                    // Where it can't be watched the next turn tries again.
                    let again = socket.get_ref().try_clone();
                    *full = again.and_then(|again| watched(again, Interest::WRITABLE)).ok();
                    break;
                }
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(|transport| transport.endpoint.next_deadline()).min()
    }

    /// Round trip time, and segments that were sent again by either side.
    pub(super) fn figures(&self, session: SessionId) -> Option<(Option<Duration>, u64)> {
        let (at, handle) = self.sessions.get(&session)?;
        figures(&self.all[*at].endpoint, *handle)
    }

    pub(super) fn noise(&self) -> Noise {
        let mut noise = Noise {
            oversized: self.oversized,
            unsent: self.refused,
            errors: self.errors,
            ..Noise::default()
        };
        for Transport { endpoint, .. } in &self.all {
            let statistics = endpoint.statistics();
            noise.connections += endpoint.len() as u64;
            noise.half_open += endpoint.half_open() as u64;
            noise.opened += statistics.opened;
            noise.refused += statistics.refused;
            noise.evicted += statistics.evicted;
            noise.corrupt += statistics.corrupt;
            noise.reset += statistics.reset;
            noise.ignored += statistics.ignored;
        }
        noise
    }
}

impl Transport {
    fn new(socket: UdpSocket, rules: &Rules) -> anyhow::Result<Self> {
        let mut seed = [0; 16];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .context("draw random octets")?;
        let [one, other] = [0, 8].map(|at| {
            let mut half = [0; 8];
            half.copy_from_slice(&seed[at..at + 8]);
            u64::from_ne_bytes(half)
        });
        let plain = rudp::Limits::default();
        let resets = u16::try_from(rules.apps.len() * RESETS_EACH).unwrap_or(u16::MAX);
        let limits = rudp::Limits {
            connections: rules.limits.applications + STRANGERS,
            resets_per_second: plain.resets_per_second.max(resets),
            ..plain
        };
        let endpoint = Endpoint::new(Config::heartbeat(NULL_MS), limits, [one, other])?;
        Ok(Self {
            address: socket.local_addr().context("ask for a socket's address")?,
            socket: watched(socket, Interest::READABLE).context("watch a socket")?,
            endpoint,
            handles: HashMap::new(),
            outbox: Outbox::default(),
            full: None,
        })
    }
}

#[expect(
    deprecated,
    reason = "what follows it is unsafe, for descriptors that others may close; this owns its socket"
)]
fn watched(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    AsyncFd::with_interest(socket, interest)
}

fn figures(endpoint: &Endpoint, handle: Handle) -> Option<(Option<Duration>, u64)> {
    let connection = endpoint.connection(handle)?;
    let statistics = connection.statistics();
    Some((connection.round_trip(), statistics.retransmitted + statistics.duplicates))
}
