//! A peer of the Java dialect, written from what such peers were seen to send: SYN of 22 octets, numbers modulo 255, no
//! checksums, the acknowledgement's number one after what it acknowledges, NULs from either side and without ACK, FIN.

use super::{
    network::{Dice, Told, ms, start},
    wire_peer::{WirePeer, data, octets_of},
};
use crate::{
    Config, Connection, Dialect, State, Terms,
    packet::{self, Body, Packet, Syn},
};

fn java_syn() -> Syn {
    let terms = Terms {
        checksum_data: false,
        retransmission_ms: 600,
        cumulative_ack_ms: 300,
        null_ms: 2_000,
        transfer_ms: 0,
        max_retransmissions: 0,
        max_cumulative_ack: 3,
        max_out_of_sequence: 3,
        max_auto_reset: 3,
    };
    Syn {
        dialect: Dialect::Java,
        max_outstanding: 3,
        max_segment: 128,
        reuse: false,
        terms,
        connection_id: 0,
    }
}

/// Just as much of a Java peer as there is to talk to.
struct Java {
    /// The last number it used, and the last it received in sequence.
    used: u8,
    received: Option<u8>,
    /// What it has sent and not seen acknowledged.
    waiting: Vec<(u8, Vec<u8>)>,
    messages: Vec<Vec<u8>>,
    finished: bool,
    out: Vec<Vec<u8>>,
}

fn after(number: u8) -> u8 {
    if number >= 254 { 0 } else { number + 1 }
}

impl Java {
    fn new(initial: u8) -> Self {
        Self {
            used: initial,
            received: None,
            waiting: Vec::new(),
            messages: Vec::new(),
            finished: false,
            out: Vec::new(),
        }
    }

    fn syn(&mut self) {
        let mut octets = vec![0x80, 22, self.used, 0xff];
        octets.extend([0x10, 3, 1, 0, 0, 128, 2, 88, 1, 44, 7, 208, 0, 3, 3, 3, 0, 0]);
        self.out.push(octets);
    }

    fn say(&mut self, message: &[u8]) {
        self.used = after(self.used);
        let mut octets = vec![0x40, 6, self.used, self.received.unwrap_or(0xff), 0, 0];
        octets.extend_from_slice(message);
        self.waiting.push((self.used, octets.clone()));
        self.out.push(octets);
    }

    fn null(&mut self) {
        self.used = after(self.used);
        let octets = vec![0x08, 6, self.used, 0xff, 0, 0];
        self.waiting.push((self.used, octets.clone()));
        self.out.push(octets);
    }

    fn finish(&mut self) {
        self.used = after(self.used);
        self.out.push(vec![0x02, 6, self.used, 0xff, 0, 0]);
    }

    fn repeat(&mut self) {
        // The old acknowledgement too.
        self.out.extend(self.waiting.iter().map(|(_, octets)| octets.clone()));
    }

    fn acknowledge(&mut self) {
        let ack = self.received.expect("something came");
        self.out.push(vec![0x40, 6, after(ack), ack, 0, 0]);
    }

    fn take(&mut self, octets: &[u8]) {
        assert!(octets.len() >= 6, "such a peer dies of short datagrams");
        let (flags, number, ack) = (octets[0], octets[2], octets[3]);
        assert_ne!(number, 255, "255 is no number");
        if flags & 0x40 != 0
            && let Some(place) = self.waiting.iter().position(|(waiting, _)| *waiting == ack)
        {
            self.waiting.drain(..=place);
        }
        if flags & 0x80 != 0 {
            assert_eq!(octets.len(), 22);
            self.received = Some(number);
            self.acknowledge();
        } else if flags & 0x02 != 0 {
            self.finished = true;
            self.received = Some(number);
            self.acknowledge();
        } else if octets.len() > 6 || flags & 0x08 != 0 {
            if self.received.is_some_and(|last| after(last) == number) {
                self.received = Some(number);
                if octets.len() > 6 {
                    self.messages.push(octets[6..].to_vec());
                }
            }
            self.acknowledge();
        }
    }
}

/// Carries everything in both directions until nobody has anything to say.
fn carry(java: &mut Java, connection: &mut Connection, now: std::time::Instant) {
    loop {
        for octets in std::mem::take(&mut java.out) {
            connection.handle_datagram(&octets, now);
        }
        for octets in octets_of(connection) {
            java.take(&octets);
        }
        if java.out.is_empty() {
            return;
        }
    }
}

fn accepted(java: &mut Java, config: Config) -> Connection {
    java.syn();
    let syn = java.out.remove(0);
    let packet = packet::decode(&syn, Dialect::Draft).unwrap();
    let Body::Syn(syn) = packet.body else { panic!("{packet:?}") };
    Connection::accept(config, 1, [3, 3], packet.number, &syn, start()).unwrap()
}

fn told(connection: &mut Connection) -> Vec<Told> {
    let mut all = Vec::new();
    while let Some(event) = connection.poll_event() {
        all.push(event.into());
    }
    all
}

#[test]
fn a_java_client_is_answered_in_its_own_dialect() {
    let mut java = Java::new(44);
    let mut connection = accepted(&mut java, Config::heartbeat(2_000));
    connection.verify();
    let now = start();
    let answer = octets_of(&mut connection);
    assert_eq!(answer.len(), 1);
    let expected = [0x10, 3, 1, 0, 0, 128, 2, 88, 1, 44, 7, 208, 0, 3, 3, 3, 0, 0];
    assert_eq!((answer[0][0], answer[0][1], answer[0][3]), (0xc0, 22, 44));
    assert_eq!(answer[0][4..], expected);
    java.take(&answer[0]);
    carry(&mut java, &mut connection, now);
    java.null();
    java.say(b"HB000000");
    carry(&mut java, &mut connection, now);
    assert!(java.waiting.is_empty());
    assert_eq!(told(&mut connection), [Told::Opened, data("HB000000")]);
    connection.send(b"answer", now).unwrap();
    carry(&mut java, &mut connection, now);
    assert_eq!(java.messages, [b"answer"]);
    assert_eq!(connection.unacknowledged(), 0);
    java.finish();
    carry(&mut java, &mut connection, now);
    assert_eq!(told(&mut connection), [Told::PeerClosed]);
    connection.handle_timeout(now + ms(20_000));
    assert_eq!(told(&mut connection), [Told::Closed]);
}

#[test]
fn a_java_server_turns_the_default_client_to_its_dialect() {
    let config = Config::default();
    // It reads our SYN at its own places and answers with what it read.
    let answer = Syn {
        dialect: Dialect::Java,
        terms: Terms { transfer_ms: 0, ..config.terms },
        ..config.syn(Dialect::Java, config.terms, 0)
    };
    let mut peer = WirePeer::server_of(config, 10, answer);
    assert_eq!(peer.told(), [Told::Opened]);
    assert_eq!(peer.connection.dialect(), Dialect::Java);
    assert_eq!(peer.octets(), [[0x40, 6, peer.their(1), 10, 0, 0]]);
    peer.send(b"x");
    assert_eq!(peer.octets(), [[0x40, 6, peer.their(1), 10, 0, 0, b'x']]);
    peer.feed(0, Some(peer.their(1)), Body::Acknowledgement);
    assert_eq!(peer.connection.unacknowledged(), 0);
    peer.connection.close(peer.now);
    assert_eq!(peer.octets(), [[0x02, 6, peer.their(2), 0, 0, 0]]);
    peer.feed(0, Some(peer.their(2)), Body::Acknowledgement);
    assert_eq!(peer.told(), [Told::Closed]);
}

#[test]
fn numbers_wrap_from_254_to_0_and_255_is_dropped() {
    let mut java = Java::new(250);
    let mut connection = accepted(&mut java, Config::heartbeat(2_000));
    connection.verify();
    let now = start();
    carry(&mut java, &mut connection, now);
    let mut dice = Dice(1);
    let mut sent: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    let mut received = Vec::new();
    for round in 0..1_000_u16 {
        let message = round.to_be_bytes();
        if dice.percent(70) {
            java.say(&message);
            sent[0].push(message.to_vec());
        }
        if dice.percent(50) {
            connection.send(&message, now).unwrap();
            sent[1].push(message.to_vec());
        }
        if dice.percent(20) {
            java.out.clear();
            java.repeat();
        }
        carry(&mut java, &mut connection, now);
        received.extend(told(&mut connection));
    }
    let expected: Vec<Told> = sent[0].iter().cloned().map(Told::Data).collect();
    assert_eq!(received[1..], expected);
    assert_eq!(java.messages, sent[1]);
    let dropped = connection.statistics().dropped;
    connection.handle_datagram(&[0x40, 6, 255, 0, 0, 0, b'x'], now);
    assert_eq!(told(&mut connection), []);
    assert_eq!(connection.statistics().dropped, dropped + 1);
}

#[test]
fn one_segment_more_than_advertised_is_taken() {
    let mut peer =
        WirePeer::client_of(Config { max_outstanding: 3, ..Config::draft() }, 10, java_syn());
    for step in [1, 2, 3] {
        peer.data(step, 0, b"ahead");
    }
    peer.data(0, 0, b"first");
    assert_eq!(peer.told().len(), 4);
}

#[test]
fn a_java_peer_is_given_up_after_six_times_the_null_time() {
    let mut peer = WirePeer::client_of(Config::draft(), 10, java_syn());
    peer.wait(ms(11_999));
    assert_eq!(peer.told(), []);
    peer.wait(ms(1));
    assert_eq!(peer.connection.state(), State::Closed);
    assert_eq!(peer.told()[0], Told::Failed);
}

#[test]
fn the_draft_reads_what_the_model_never_sends() {
    // The model above and the codec agree on an acknowledgement's octets.
    let packet = Packet { number: 12, acknowledged: Some(11), body: Body::Acknowledgement };
    let mut octets = Vec::new();
    packet::encode(&packet, Dialect::Java, &mut octets);
    let mut java = Java::new(0);
    java.received = Some(11);
    java.acknowledge();
    assert_eq!(java.out, [octets]);
}

#[test]
fn a_java_client_that_begins_anew_with_the_same_number_is_told_from_a_late_syn() {
    let mut peer = WirePeer::client_of(Config::draft(), 10, java_syn());
    peer.feed(10, None, Body::Syn(java_syn()));
    assert_eq!(peer.bodies(), ["Acknowledgement"], "nothing has come since: a copy");
    peer.data(0, 0, b"x");
    assert_eq!(peer.told(), [data("x")]);
    peer.feed(10, None, Body::Syn(java_syn()));
    peer.wait(ms(600));
    peer.feed(10, None, Body::Syn(java_syn()));
    assert_eq!(peer.told(), [Told::PeerRestarted]);
}
