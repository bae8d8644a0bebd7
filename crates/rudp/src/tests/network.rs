//! The fixture: endpoints, a link that loses, delays, repeats, reorders and corrupts, and a clock. Same seed, same run.

use core::net::SocketAddr;
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use crate::{Config, Endpoint, Event, Handle, Limits, Refusal, packet::Transfer};

/// Any moment; tests only count from it.
pub(crate) fn start() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no other way to make an Instant; nothing depends on its value"
    )]
    Instant::now()
}

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// SplitMix64: good enough to shake a link.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What a link does to datagrams, in percent and milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) corruption: u64,
    pub(super) delay: u64,
    pub(super) jitter: u64,
}

/// An event that owns its message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Told {
    Opened,
    Data(Vec<u8>),
    Failed,
    AutoReset,
    PeerRestarted,
    PeerClosed,
    Transfer(Transfer),
    Refused(Refusal),
    Closed,
}

impl From<Event<'_>> for Told {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Opened => Self::Opened,
            Event::Data(message) => Self::Data(message.to_vec()),
            Event::Failed => Self::Failed,
            Event::AutoReset => Self::AutoReset,
            Event::PeerRestarted => Self::PeerRestarted,
            Event::PeerClosed => Self::PeerClosed,
            Event::Transfer(transfer) => Self::Transfer(transfer),
            Event::Refused(refusal) => Self::Refused(refusal),
            Event::Closed => Self::Closed,
        }
    }
}

pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) endpoint: Endpoint,
    pub(super) told: Vec<(Handle, Told)>,
    /// Nothing reaches it and it sends nothing.
    pub(super) silent: bool,
}

/// When it lands, which it is, from whom, to whom, its octets: the first to land is the least.
type Flying = (Instant, u64, SocketAddr, SocketAddr, Vec<u8>);

pub(super) struct Network {
    pub(super) now: Instant,
    pub(super) link: Link,
    pub(super) dice: Dice,
    pub(super) peers: Vec<Peer>,
    /// Every datagram sent, before the link got hold of it: sender, octets.
    pub(super) seen: Vec<(usize, Vec<u8>)>,
    flying: BinaryHeap<Reverse<Flying>>,
    launched: u64,
}

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

impl Network {
    /// Two peers with the same settings on a perfect link.
    pub(super) fn new(config: Config, seed: u64) -> Self {
        Self::between(config, config, seed)
    }

    pub(super) fn between(client: Config, server: Config, seed: u64) -> Self {
        let mut network = Self {
            now: start(),
            link: Link::default(),
            dice: Dice(seed),
            peers: Vec::new(),
            seen: Vec::new(),
            flying: BinaryHeap::new(),
            launched: 0,
        };
        network.add(client, seed ^ 1);
        network.add(server, seed ^ 2);
        network
    }

    fn add(&mut self, config: Config, seed: u64) {
        let port = u16::try_from(7_000 + self.peers.len()).expect("few");
        let endpoint = Endpoint::new(config, Limits::default(), [seed, seed]).expect("valid");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        self.peers.push(Peer { address, endpoint, told: Vec::new(), silent: false });
    }

    /// The process behind a peer dies and another takes its place, with nothing in memory.
    pub(super) fn restart(&mut self, peer: usize, config: Config) {
        let seed = self.dice.roll();
        let endpoint = Endpoint::new(config, Limits::default(), [seed, seed]).expect("valid");
        self.peers[peer].endpoint = endpoint;
    }

    pub(super) fn connect(&mut self, from: usize, to: usize) -> Handle {
        let address = self.peers[to].address;
        self.peers[from].endpoint.connect(address, self.now).expect("not connected yet")
    }

    /// A client and a server that have opened a connection: its handles on either side.
    pub(super) fn open(&mut self) -> (Handle, Handle) {
        let client = self.connect(CLIENT, SERVER);
        self.run_for(ms(10));
        (client, self.opened(SERVER).expect("the link is perfect"))
    }

    /// The connection that a peer was told of last.
    pub(super) fn opened(&self, peer: usize) -> Option<Handle> {
        let told = self.peers[peer].told.iter().rev();
        told.filter(|(_, told)| *told == Told::Opened).map(|(handle, _)| *handle).next()
    }

    pub(super) fn send(&mut self, peer: usize, handle: Handle, message: &[u8]) {
        self.peers[peer].endpoint.send(handle, message, self.now).expect("open, and room for it");
    }

    pub(super) fn told(&self, peer: usize) -> Vec<Told> {
        self.peers[peer].told.iter().map(|(_, told)| told.clone()).collect()
    }

    pub(super) fn messages(&self, peer: usize) -> Vec<Vec<u8>> {
        let data = |told| if let Told::Data(message) = told { Some(message) } else { None };
        self.told(peer).into_iter().filter_map(data).collect()
    }

    pub(super) fn unacknowledged(&self, peer: usize, handle: Handle) -> usize {
        self.peers[peer].endpoint.connection(handle).expect("it is there").unacknowledged()
    }

    /// A datagram that nobody but the test sent.
    pub(super) fn inject(&mut self, from: usize, to: usize, datagram: &[u8]) {
        let from = self.peers[from].address;
        let now = self.now;
        self.peers[to].endpoint.handle_datagram(from, datagram, now);
        self.pump();
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
        self.now = end;
    }

    /// Runs until it is so, or the time is over; says which.
    pub(super) fn run_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> bool {
        let mut steps_at_once = 0;
        loop {
            self.pump();
            if done(self) {
                return true;
            }
            let deadlines = self
                .peers
                .iter()
                .filter(|peer| !peer.silent)
                .filter_map(|peer| peer.endpoint.next_deadline());
            let landings = self.flying.peek().map(|Reverse(landing)| landing.0);
            let Some(next) = deadlines.chain(landings).min().filter(|next| *next <= end) else {
                return false;
            };
            steps_at_once = if next > self.now { 0 } else { steps_at_once + 1 };
            assert!(steps_at_once < 10_000, "time stands still");
            self.now = self.now.max(next);
            self.land();
            for peer in self.peers.iter_mut().filter(|peer| !peer.silent) {
                if peer.endpoint.next_deadline().is_some_and(|deadline| deadline <= self.now) {
                    peer.endpoint.handle_timeout(self.now);
                }
            }
        }
    }

    fn land(&mut self) {
        while self.flying.peek().is_some_and(|Reverse(landing)| landing.0 <= self.now) {
            let Some(Reverse((_, _, from, to, datagram))) = self.flying.pop() else { break };
            if let Some(peer) =
                self.peers.iter_mut().find(|peer| peer.address == to && !peer.silent)
            {
                peer.endpoint.handle_datagram(from, &datagram, self.now);
            }
        }
    }

    /// Takes everything out of the endpoints: events to the record, datagrams to the link.
    fn pump(&mut self) {
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if peer.silent {
                continue;
            }
            let mut opened = Vec::new();
            while let Some((handle, event)) = peer.endpoint.poll_event() {
                peer.told.push((handle, event.into()));
                if matches!(peer.told.last(), Some((_, Told::Opened))) {
                    opened.push(handle);
                }
            }
            for handle in opened {
                peer.endpoint.verify(handle);
            }
            let from = peer.address;
            let mut out = Vec::new();
            while let Some((to, length)) = self.peers[index].endpoint.poll_transmit(&mut out) {
                assert_eq!(length, out.len());
                self.seen.push((index, out.clone()));
                self.carry(from, to, std::mem::take(&mut out));
            }
        }
    }

    fn carry(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        let copies = if self.dice.percent(self.link.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if self.dice.percent(self.link.loss) {
                continue;
            }
            let mut datagram = datagram.clone();
            if self.dice.percent(self.link.corruption) {
                let bits = u64::try_from(datagram.len() * 8).expect("short");
                let bit = usize::try_from(self.dice.below(bits)).expect("short");
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            let jitter = self.dice.below(self.link.jitter + 1);
            let landing = self.now + ms(self.link.delay + jitter);
            self.launched += 1;
            self.flying.push(Reverse((landing, self.launched, from, to, datagram)));
        }
    }
}
