//! Many connections on one socket: routes datagrams by address, opens and accepts connections, keeps their deadlines.
//! Never reads a clock, never touches a socket, never looks at a connection that nothing happened to.

mod half_open;
mod slots;

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};
// Only the type: this crate opens no socket.
use core::net::SocketAddr;

use self::{half_open::HalfOpen, slots::Slots};
use crate::{
    budget::Budget,
    config::Config,
    connection::{Connection, Event, State},
    error::{ConfigError, ConnectError, SendError},
    packet::{self, Body, Dialect, Packet, Syn},
    random::{Identifiers, Keyed, Random},
    sequence::Ring,
};

/// Names one connection of an endpoint, and never another one after it is gone.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Handle {
    slot: u32,
    generation: u32,
}

/// What an endpoint allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections whose peer has not shown yet that it receives what is sent to it. The table is full: a random one makes room.
    pub half_open: usize,
    /// The same from one host, if that is not this one: here many programs share the address.
    pub half_open_per_host: u8,
    /// RSTs a second to peers without a connection.
    pub resets_per_second: u16,
    /// Answers a second to suspicious segments, all connections together.
    pub challenges_per_second: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            half_open: 1_024,
            half_open_per_host: 4,
            resets_per_second: 100,
            challenges_per_second: 100,
        }
    }
}

/// What happened to datagrams that belong to no connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EndpointStatistics {
    /// Connections accepted and made.
    pub opened: u64,
    /// SYNs not answered for a limit.
    pub refused: u64,
    /// Half-open connections that made room for others.
    pub evicted: u64,
    /// Datagrams from strangers that were no segment.
    pub corrupt: u64,
    /// Segments from strangers that were answered with RST.
    pub reset: u64,
    /// Segments from strangers that were not answered.
    pub ignored: u64,
}

/// One socket's connections.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    limits: Limits,
    slots: Slots,
    routes: HashMap<SocketAddr, u32, Keyed>,
    half_open: HalfOpen,
    schedule: crate::schedule::Schedule,
    /// Connections that may have something to send, or to tell; each at most once.
    to_transmit: VecDeque<u32>,
    to_tell: VecDeque<u32>,
    /// Ends of connections whose place was needed at once, before they were told.
    ended: VecDeque<Handle>,
    /// RSTs to strangers.
    strays: VecDeque<Stray>,
    resets: Budget,
    challenges: Budget,
    identifiers: Identifiers,
    random: Random,
    statistics: EndpointStatistics,
}

#[derive(Clone, Copy, Debug)]
struct Stray {
    to: SocketAddr,
    number: u8,
    acknowledged: u8,
    dialect: Dialect,
}

impl Endpoint {
    /// `seed`: 16 octets that nobody else can guess.
    ///
    /// # Errors
    /// Where the settings can't be used.
    pub fn new(config: Config, limits: Limits, seed: [u64; 2]) -> Result<Self, ConfigError> {
        let config = config.checked()?;
        let [one, other] = seed;
        let mut random = Random::new(Keyed::new([one, !other]));
        Ok(Self {
            config,
            limits,
            slots: Slots::default(),
            routes: HashMap::with_hasher(Keyed::new([random.draw(), random.draw()])),
            half_open: HalfOpen::default(),
            schedule: crate::schedule::Schedule::default(),
            to_transmit: VecDeque::new(),
            to_tell: VecDeque::new(),
            ended: VecDeque::new(),
            strays: VecDeque::new(),
            resets: Budget::new(limits.resets_per_second),
            challenges: Budget::new(limits.challenges_per_second),
            identifiers: Identifiers::new(Keyed::new([random.draw(), random.draw()])),
            random,
            statistics: EndpointStatistics::default(),
        })
    }

    /// Connections, half-open ones included.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Connections whose peer has not answered yet.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    pub fn statistics(&self) -> EndpointStatistics {
        self.statistics
    }

    pub fn connection(&self, handle: Handle) -> Option<&Connection> {
        self.slots.get(handle).map(|entry| &entry.connection)
    }

    pub fn address(&self, handle: Handle) -> Option<SocketAddr> {
        self.slots.get(handle).map(|entry| entry.address)
    }

    /// Opens a connection as client.
    ///
    /// # Errors
    /// Where there is one to this address already, or the limit is reached.
    pub fn connect(&mut self, to: SocketAddr, now: Instant) -> Result<Handle, ConnectError> {
        if self.routes.contains_key(&to) {
            return Err(ConnectError::Exists);
        }
        if self.routes.len() >= self.limits.connections {
            return Err(ConnectError::Full { limit: self.limits.connections });
        }
        let (id, seed) = self.fresh();
        let connection = Connection::connect(self.config, id, seed, now);
        Ok(self.insert(to, connection))
    }

    /// As [`Connection::send`].
    ///
    /// # Errors
    /// As there; also where the connection is gone.
    pub fn send(&mut self, handle: Handle, message: &[u8], now: Instant) -> Result<(), SendError> {
        let entry = self.slots.get_mut(handle).ok_or(SendError::NotOpen)?;
        entry.connection.send(message, now)?;
        self.touch(handle.slot);
        Ok(())
    }

    /// As [`Connection::close`].
    pub fn close(&mut self, handle: Handle, now: Instant) {
        if let Some(entry) = self.slots.get_mut(handle) {
            entry.connection.close(now);
            self.touch(handle.slot);
        }
    }

    /// As [`Connection::verify`].
    pub fn verify(&mut self, handle: Handle) {
        if let Some(entry) = self.slots.get_mut(handle) {
            entry.connection.verify();
            self.touch(handle.slot);
        }
    }

    /// Forgets a connection without a word and without an event. The peer learns of it when it sends something.
    pub fn forget(&mut self, handle: Handle) {
        if self.slots.get(handle).is_some() {
            self.remove(handle.slot);
        }
    }

    /// Feeds what the socket received. Feed all datagrams that have come before timers are looked at.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let Some(&slot) = self.routes.get(&from) else {
            self.on_stranger(from, datagram, now);
            return;
        };
        if self.makes_room_for(slot, datagram) {
            if let Some(entry) = self.slots.at(slot) {
                let handle = Handle { slot, generation: entry.generation };
                self.ended.push_back(handle);
            }
            self.remove(slot);
            self.on_stranger(from, datagram, now);
            return;
        }
        if let Some(entry) = self.slots.at_mut(slot) {
            entry.connection.receive(datagram, now, &mut self.challenges);
        }
        self.touch(slot);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(slot) = self.schedule.take_due(now) {
            if let Some(entry) = self.slots.at_mut(slot) {
                entry.connection.handle_timeout(now);
            }
            self.touch(slot);
        }
    }

    /// When [`Self::handle_timeout`] is to be called, unless something happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Appends the next datagram to `out`; returns for whom it is, and its length.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<(SocketAddr, usize)> {
        if let Some(stray) = self.strays.pop_front() {
            let start = out.len();
            let packet = Packet {
                number: stray.number,
                acknowledged: Some(stray.acknowledged),
                body: Body::Reset,
            };
            packet::encode(&packet, stray.dialect, out);
            return Some((stray.to, out.len() - start));
        }
        while let Some(&slot) = self.to_transmit.front() {
            if let Some(entry) = self.slots.at_mut(slot) {
                if let Some(length) = entry.connection.poll_transmit(out) {
                    return Some((entry.address, length));
                }
                entry.will_transmit = false;
            }
            self.to_transmit.pop_front();
            self.remove_if_over(slot);
        }
        None
    }

    /// The next event and whose it is; a message is lent until the next call.
    pub fn poll_event(&mut self) -> Option<(Handle, Event<'_>)> {
        if let Some(handle) = self.ended.pop_front() {
            return Some((handle, Event::Closed));
        }
        while let Some(&slot) = self.to_tell.front() {
            if self.slots.at(slot).is_some_and(|entry| entry.connection.has_event()) {
                let entry = self.slots.at_mut(slot)?;
                let handle = Handle { slot, generation: entry.generation };
                return entry.connection.poll_event().map(|event| (handle, event));
            }
            self.to_tell.pop_front();
            if let Some(entry) = self.slots.at_mut(slot) {
                entry.will_tell = false;
                // Takes back the message that was lent last.
                let nothing = entry.connection.poll_event();
                debug_assert!(nothing.is_none(), "there was no event a moment ago");
            }
            self.remove_if_over(slot);
        }
        None
    }

    /// A closed connection that only lingers gives way to a new one from the same address.
    fn makes_room_for(&self, slot: u32, datagram: &[u8]) -> bool {
        let lingers = self.slots.at(slot).is_some_and(|entry| {
            let over = matches!(entry.connection.state(), State::CloseWait | State::Closed);
            // What it has to tell is told first; the client asks again.
            over && !entry.connection.has_event()
        });
        lingers
            && packet::decode(datagram, Dialect::Draft).is_ok_and(|packet| {
                matches!(packet.body, Body::Syn(syn) if !syn.reuse && packet.acknowledged.is_none())
            })
    }

    /// A datagram from an address without a connection.
    fn on_stranger(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let draft = packet::decode(datagram, Dialect::Draft);
        let read = draft.map(|packet| (packet, Dialect::Draft));
        let read = read.or_else(|_| {
            packet::decode(datagram, Dialect::Java).map(|packet| (packet, Dialect::Java))
        });
        let Ok((packet, dialect)) = read else {
            self.statistics.corrupt += 1;
            return;
        };
        match (packet.body, packet.acknowledged) {
            (Body::Syn(syn), None) if !syn.reuse => self.on_open(from, packet.number, &syn, now),
            (Body::Reset, _) => self.statistics.ignored += 1,
            _ => self.reset(from, &packet, dialect, now),
        }
    }

    /// A stranger asks for a connection.
    fn on_open(&mut self, from: SocketAddr, number: u8, syn: &Syn, now: Instant) {
        let host = half_open::host(&from);
        if self.half_open.count(host) >= self.limits.half_open_per_host && host.is_some() {
            self.statistics.refused += 1;
            return;
        }
        if self.half_open.len() >= self.limits.half_open {
            let Some(victim) = self.half_open.pick(self.random.draw()) else {
                self.statistics.refused += 1;
                return;
            };
            self.statistics.evicted += 1;
            self.remove(victim);
        }
        if self.routes.len() >= self.limits.connections {
            self.statistics.refused += 1;
            return;
        }
        let (id, seed) = self.fresh();
        match Connection::accept(self.config, id, seed, number, syn, now) {
            Some(connection) => {
                let handle = self.insert(from, connection);
                let place = self.half_open.insert(handle.slot, host);
                if let Some(entry) = self.slots.get_mut(handle) {
                    entry.half_open = Some(place);
                }
            }
            None => self.statistics.refused += 1,
        }
    }

    /// Tells a stranger that there is no connection, with the numbers that its connection believes.
    fn reset(&mut self, to: SocketAddr, packet: &Packet<'_>, dialect: Dialect, now: Instant) {
        let full = self.strays.len() >= usize::from(self.limits.resets_per_second);
        if full || !self.resets.take(now) {
            self.statistics.ignored += 1;
            return;
        }
        self.statistics.reset += 1;
        let ring = if dialect == Dialect::Java { Ring::Short } else { Ring::Full };
        let number = packet.acknowledged.map_or(0, |ack| ring.next(ack));
        // An acknowledgement alone carries the number of the next segment, which was never sent.
        let acknowledged = match packet.body {
            Body::Acknowledgement | Body::Extended(_) => ring.previous(packet.number),
            _ => packet.number,
        };
        self.strays.push_back(Stray { to, number, acknowledged, dialect });
    }

    fn fresh(&mut self) -> (u32, [u64; 2]) {
        (self.identifiers.next(), [self.random.draw(), self.random.draw()])
    }

    fn insert(&mut self, address: SocketAddr, connection: Connection) -> Handle {
        self.statistics.opened += 1;
        let handle = self.slots.insert(address, connection);
        self.routes.insert(address, handle.slot);
        self.touch(handle.slot);
        handle
    }

    /// Something happened to the connection: notes what it wants now.
    fn touch(&mut self, slot: u32) {
        let Some(entry) = self.slots.at_mut(slot) else { return };
        if entry.connection.state() != State::SynReceived
            && let Some(place) = entry.half_open.take()
        {
            let moved = self.half_open.remove(place);
            if let Some((slot, place)) = moved
                && let Some(other) = self.slots.at_mut(slot)
            {
                other.half_open = Some(place);
            }
        }
        let Some(entry) = self.slots.at_mut(slot) else { return };
        if let Some(deadline) = entry.connection.next_deadline() {
            self.schedule.no_later(slot, deadline);
        }
        if !entry.will_transmit && entry.connection.wants_to_transmit() {
            entry.will_transmit = true;
            self.to_transmit.push_back(slot);
        }
        if !entry.will_tell && entry.connection.has_event() {
            entry.will_tell = true;
            self.to_tell.push_back(slot);
        }
        self.remove_if_over(slot);
    }

    fn remove_if_over(&mut self, slot: u32) {
        if self.slots.at(slot).is_some_and(|entry| entry.connection.is_over()) {
            self.remove(slot);
        }
    }

    fn remove(&mut self, slot: u32) {
        let Some(entry) = self.slots.remove(slot) else { return };
        self.routes.remove(&entry.address);
        self.schedule.remove(slot);
        if let Some(place) = entry.half_open
            && let Some((slot, place)) = self.half_open.remove(place)
            && let Some(other) = self.slots.at_mut(slot)
        {
            other.half_open = Some(place);
        }
    }
}
