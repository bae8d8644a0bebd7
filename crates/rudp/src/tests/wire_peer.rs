//! The fixture for single segments: one connection, and a peer that the test plays by hand.

use std::time::{Duration, Instant};

use super::network::{Told, start};
use crate::{
    Config, Connection, Dialect, Event,
    packet::{Body, Packet, Syn, decode, encode},
};

/// What the connection sent: number, acknowledgement, body as text.
pub(super) type Line = (u8, Option<u8>, String);

pub(super) struct WirePeer {
    pub(super) now: Instant,
    pub(super) connection: Connection,
    pub(super) dialect: Dialect,
    /// Initial number of the connection under test.
    pub(super) theirs: u8,
    /// Initial number of the peer the test plays.
    pub(super) ours: u8,
}

impl WirePeer {
    /// The connection under test is the server; the test has sent this SYN and acknowledged the answer.
    pub(super) fn client_of(config: Config, ours: u8, syn: Syn) -> Self {
        let now = start();
        let mut connection = Connection::accept(config, 0xaaaa_0001, [7, 7], ours, &syn, now)
            .expect("it takes messages");
        let answer = octets_of(&mut connection);
        let answer = decode(&answer[0], Dialect::Draft).expect("a SYN+ACK");
        assert_eq!(answer.acknowledged, Some(ours));
        let theirs = answer.number;
        let mut peer = Self { now, connection, dialect: syn.dialect, theirs, ours };
        peer.feed(peer.next(0), Some(theirs), Body::Acknowledgement);
        assert_eq!(peer.told(), [Told::Opened]);
        peer.connection.verify();
        peer
    }

    /// The connection under test is the client; the test has answered its SYN.
    pub(super) fn server_of(config: Config, ours: u8, answer: Syn) -> Self {
        let now = start();
        let mut connection = Connection::connect(config, 0xaaaa_0001, [7, 7], now);
        let syn = octets_of(&mut connection);
        let theirs = decode(&syn[0], Dialect::Draft).expect("a SYN").number;
        let mut peer = Self { now, connection, dialect: answer.dialect, theirs, ours };
        peer.feed(ours, Some(theirs), Body::Syn(answer));
        peer
    }

    pub(super) fn open_client(config: Config, ours: u8) -> Self {
        let mut peer = Self::server_of(config, ours, config.syn(Dialect::Draft, config.terms, 9));
        assert_eq!(peer.told(), [Told::Opened]);
        assert_eq!(peer.sent().len(), 1);
        peer
    }

    pub(super) fn open_server(config: Config, ours: u8) -> Self {
        Self::client_of(config, ours, config.syn(Dialect::Draft, config.terms, 9))
    }

    fn ring(&self, first: u8, steps: u8) -> u8 {
        let size = if self.dialect == Dialect::Java { 255 } else { 256 };
        u8::try_from((u16::from(first) + u16::from(steps)) % size).expect("a remainder")
    }

    /// The number so many steps after our SYN's.
    pub(super) fn next(&self, steps: u8) -> u8 {
        self.ring(self.ours, 1 + steps)
    }

    /// The number of the connection's segment so many steps after its SYN.
    pub(super) fn their(&self, steps: u8) -> u8 {
        self.ring(self.theirs, steps)
    }

    pub(super) fn feed(&mut self, number: u8, acknowledged: Option<u8>, body: Body<'_>) {
        let mut out = Vec::new();
        encode(&Packet { number, acknowledged, body }, self.dialect, &mut out);
        self.connection.handle_datagram(&out, self.now);
    }

    /// Our message number so many, counted from 0, acknowledging what the connection sent up to `acknowledged`.
    pub(super) fn data(&mut self, steps: u8, acknowledged: u8, payload: &[u8]) {
        let body = Body::Data { payload, covered: false };
        self.feed(self.next(steps), Some(self.their(acknowledged)), body);
    }

    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) =
            self.connection.next_deadline().filter(|deadline| *deadline <= end)
        {
            self.now = deadline.max(self.now);
            self.connection.handle_timeout(self.now);
        }
        self.now = end;
    }

    pub(super) fn octets(&mut self) -> Vec<Vec<u8>> {
        octets_of(&mut self.connection)
    }

    pub(super) fn sent(&mut self) -> Vec<Line> {
        let dialect = self.dialect;
        let line = |octets: &Vec<u8>| {
            let packet = decode(octets, dialect).expect("ours");
            let text = match packet.body {
                Body::Data { payload, .. } => String::from_utf8_lossy(payload).into_owned(),
                Body::Syn(_) => "Syn".to_owned(),
                body => format!("{body:?}"),
            };
            (packet.number, packet.acknowledged, text)
        };
        self.octets().iter().map(line).collect()
    }

    /// Only the bodies of what was sent.
    pub(super) fn bodies(&mut self) -> Vec<String> {
        self.sent().into_iter().map(|(_, _, body)| body).collect()
    }

    pub(super) fn told(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        while let Some(event) = self.connection.poll_event() {
            told.push(Told::from(event));
        }
        told
    }

    pub(super) fn send(&mut self, message: &[u8]) {
        self.connection.send(message, self.now).expect("open, and room for it");
    }
}

pub(super) fn octets_of(connection: &mut Connection) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut out = Vec::new();
    while connection.poll_transmit(&mut out).is_some() {
        all.push(std::mem::take(&mut out));
    }
    all
}

/// The event that a message is.
pub(super) fn data(text: &str) -> Told {
    Told::from(Event::Data(text.as_bytes()))
}
