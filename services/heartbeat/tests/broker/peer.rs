//! An application: Reliable UDP over a socket of its own, and the messages of `protocol::heartbeat`.

use std::{
    collections::VecDeque,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use daemon::clock;
use protocol::heartbeat::{Body, Direction, Key, Message, Nonce, ResultCode, is_authentic};
use rudp::{Config, Connection, Event, State};

/// Nothing here takes so long, however busy the machine is.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn now() -> Instant {
    clock::instant(clock::now())
}

pub(crate) struct Peer {
    pub(crate) socket: UdpSocket,
    connection: Connection,
    messages: VecDeque<Vec<u8>>,
    /// Every datagram that was sent.
    pub(crate) sent: Vec<Vec<u8>>,
    app_id: i32,
    generation: u32,
    key: Option<Key>,
    nonce: Nonce,
    counter: u64,
}

impl Peer {
    /// Opens a connection to the broker.
    pub(crate) fn open(
        broker: SocketAddr,
        (app_id, generation): (i32, u32),
        key: Option<Key>,
    ) -> Self {
        let socket = UdpSocket::bind((broker.ip(), 0)).unwrap();
        socket.connect(broker).unwrap();
        let mut peer = Self {
            connection: connect(&socket),
            socket,
            messages: VecDeque::new(),
            sent: Vec::new(),
            app_id,
            generation,
            key,
            nonce: [0; 16],
            counter: 0,
        };
        peer.until(|peer| peer.connection.state() == State::Open);
        peer
    }

    /// Opens anew, as after the broker's RST, and registers.
    pub(crate) fn reopen(&mut self) -> ResultCode {
        self.connection = connect(&self.socket);
        self.messages.clear();
        self.until(|peer| peer.connection.state() == State::Open);
        self.register(200)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.state() == State::Open
    }

    pub(crate) fn register(&mut self, period_ms: u32) -> ResultCode {
        self.say(Body::Hello);
        let Body::Challenge { nonce } = self.hear().body else { panic!("no challenge") };
        self.nonce = nonce;
        self.say(Body::Register { pid: std::process::id(), period_ms });
        let Body::Result { code, .. } = self.hear().body else { panic!("no result") };
        code
    }

    /// Says it and waits until it is acknowledged; `false` where the connection ended instead.
    pub(crate) fn report(&mut self) -> bool {
        self.counter += 1;
        let progress = u32::try_from(self.counter).unwrap();
        self.say(Body::Report { status: 0, counter: self.counter, progress });
        self.until(|peer| peer.connection.unacknowledged() == 0 || !peer.is_open());
        self.is_open()
    }

    pub(crate) fn bye(&mut self) {
        self.counter += 1;
        self.say(Body::Bye { status: 0, counter: self.counter, progress: 0 });
        self.until(|peer| peer.connection.unacknowledged() == 0);
    }

    fn say(&mut self, body: Body) {
        let secret = self.key.as_ref().map(|key| (key, &self.nonce));
        let message = Message { app_id: self.app_id, generation: self.generation, body };
        self.connection.send(&message.encode(secret), now()).unwrap();
    }

    fn hear(&mut self) -> Message {
        self.until(|peer| !peer.messages.is_empty());
        let octets = self.messages.pop_front().unwrap();
        let message = Message::decode(&octets).unwrap();
        if let (Some(key), Body::Result { code: ResultCode::Ok, .. }) = (&self.key, message.body) {
            assert!(is_authentic(&octets, key, &self.nonce, Direction::FromBroker));
        }
        message
    }

    /// Lives until something holds.
    pub(crate) fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        let end = now() + LIMIT;
        while !holds(self) {
            let now = now();
            assert!(now < end, "the broker doesn't answer: {:?}", self.connection);
            if self.connection.next_deadline().is_some_and(|deadline| deadline <= now) {
                self.connection.handle_timeout(now);
            }
            self.flush();
            while let Some(event) = self.connection.poll_event() {
                if let Event::Data(octets) = event {
                    self.messages.push_back(octets.to_vec());
                }
            }
            if holds(self) {
                break;
            }
            self.receive(now);
        }
        // The last acknowledgement, too.
        self.flush();
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        while self.connection.poll_transmit(&mut out).is_some() {
            // A broker that is away refuses; it is sent again.
            let _ = self.socket.send(&out);
            self.sent.push(std::mem::take(&mut out));
        }
    }

    /// Waits for a datagram or the next deadline.
    fn receive(&mut self, now: Instant) {
        let wait =
            self.connection.next_deadline().map_or(LIMIT, |at| at.saturating_duration_since(now));
        let wait = wait.clamp(Duration::from_millis(1), Duration::from_millis(100));
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let mut octets = [0; 1_500];
        if let Ok(length) = self.socket.recv(&mut octets) {
            self.connection.handle_datagram(&octets[..length], self::now());
        }
    }
}

fn connect(socket: &UdpSocket) -> Connection {
    let port = u64::from(socket.local_addr().unwrap().port());
    // No two of a process have the same nanosecond; a port may come again.
    let seed = clock::now().0;
    let id = u32::try_from(seed & u64::from(u32::MAX)).unwrap();
    Connection::connect(Config::heartbeat(2_000), id, [seed, port], now())
}
