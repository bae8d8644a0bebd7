//! Segments that the peer did not send, or should not have.

use super::{
    network::{CLIENT, Dice, Network, SERVER, Told, ms},
    wire_peer::{WirePeer, data, octets_of},
};
use crate::{
    Config, Connection, Dialect, State,
    packet::{Body, Packet, Syn, Transfer, encode},
};

fn config() -> Config {
    Config::draft()
}

#[test]
fn only_the_rst_with_the_very_next_number_ends_a_connection() {
    for number in (0..=255).filter(|number| *number != 11) {
        let mut peer = WirePeer::open_server(config(), 10);
        peer.feed(number, Some(peer.theirs), Body::Reset);
        peer.feed(number, None, Body::Reset);
        assert_eq!(peer.told(), [], "number {number}");
        assert!(peer.sent().len() <= 2);
        peer.data(0, 0, b"alive");
        assert_eq!(peer.told(), [data("alive")]);
    }
    let mut peer = WirePeer::open_server(config(), 10);
    let unsent = peer.their(1);
    peer.feed(11, Some(unsent), Body::Reset);
    assert_eq!(peer.told(), [], "it acknowledges what was never sent");
    peer.feed(11, Some(peer.theirs), Body::Reset);
    assert_eq!(peer.told(), [Told::PeerClosed]);
}

#[test]
fn challenges_are_few_however_many_segments_ask_for_them() {
    let mut peer = WirePeer::open_server(config(), 10);
    let mut answers = 0;
    for _ in 0..1_000 {
        peer.feed(13, Some(peer.theirs), Body::Reset);
        answers += peer.sent().len();
    }
    assert!((1..=10).contains(&answers), "{answers} challenges in one moment");
    assert_eq!(peer.told(), []);
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    let mut peer = WirePeer::open_client(config(), 10);
    peer.send(b"waiting");
    peer.sent();
    for ahead in 2..=120 {
        let unsent = peer.their(ahead);
        let body = Body::Data { payload: b"forged", covered: false };
        peer.feed(11, Some(unsent), body);
    }
    assert_eq!(peer.told(), []);
    assert_eq!(peer.connection.unacknowledged(), 1);
    assert_eq!(peer.connection.statistics().dropped, 119);
}

#[test]
fn a_single_syn_does_not_end_an_open_connection() {
    let mut peer = WirePeer::open_server(config(), 10);
    let forged = config().syn(Dialect::Draft, config().terms, 0xbad);
    peer.feed(99, None, Body::Syn(forged));
    assert_eq!((peer.told(), peer.connection.state()), (vec![], State::Open));
    assert_eq!(peer.sent(), [(peer.their(1), Some(10), "Acknowledgement".to_owned())]);
    peer.feed(99, Some(3), Body::Syn(forged));
    peer.data(0, 0, b"alive");
    assert_eq!(peer.told(), [data("alive")]);
}

#[test]
fn an_auto_reset_needs_the_identifier_that_we_gave() {
    let mut peer = WirePeer::open_server(config(), 10);
    for connection_id in [0, 9, 0xaaaa_0002] {
        let forged =
            Syn { reuse: true, ..config().syn(Dialect::Draft, config().terms, connection_id) };
        peer.feed(99, None, Body::Syn(forged));
        peer.wait(ms(700));
    }
    assert_eq!(peer.told(), []);
    let right = Syn { reuse: true, ..config().syn(Dialect::Draft, config().terms, 0xaaaa_0001) };
    peer.feed(99, None, Body::Syn(right));
    assert_eq!(peer.told(), [Told::AutoReset]);
}

#[test]
fn events_that_nobody_polls_do_not_pile_up() {
    let mut peer = WirePeer::open_server(config(), 10);
    let reset = Syn { reuse: true, ..config().syn(Dialect::Draft, config().terms, 0xaaaa_0001) };
    for number in 0..200 {
        peer.feed(number, None, Body::Syn(reset));
    }
    assert_eq!(peer.told().len(), 16);
}

#[test]
fn a_datagram_longer_than_we_take_is_dropped() {
    let mut peer = WirePeer::open_server(Config { max_segment: 100, ..config() }, 10);
    peer.data(0, 0, &[1; 95]);
    assert_eq!(peer.told(), []);
    peer.data(0, 0, &[1; 94]);
    assert_eq!(peer.told().len(), 1);
}

#[test]
fn a_tcs_from_anyone_changes_nothing() {
    let mut peer = WirePeer::open_client(config(), 10);
    let transfer = Transfer { adjustment: 1, connection_id: 9 };
    for number in 0..=255 {
        peer.feed(number, None, Body::Transfer(transfer));
    }
    assert_eq!((peer.told(), peer.sent()), (vec![], vec![]));
    assert_eq!(peer.connection.state(), State::Open);
}

#[test]
fn a_syn_sent_is_only_answered_by_who_saw_it() {
    let mut network = Network::new(config(), 1);
    network.peers[SERVER].silent = true;
    let client = network.connect(CLIENT, SERVER);
    network.run_for(ms(1));
    let initial = network.seen[0].1[2];
    let syn = config().syn(Dialect::Draft, config().terms, 9);
    for guess in (0..=255).filter(|guess| *guess != initial) {
        for body in [Body::Syn(syn), Body::Reset, Body::Acknowledgement, Body::Null] {
            let mut octets = Vec::new();
            encode(
                &Packet { number: 5, acknowledged: Some(guess), body },
                Dialect::Draft,
                &mut octets,
            );
            network.inject(SERVER, CLIENT, &octets);
        }
    }
    let connection = network.peers[CLIENT].endpoint.connection(client).unwrap();
    assert_eq!(connection.state(), State::SynSent);
    assert_eq!(network.told(CLIENT), []);
}

#[test]
fn any_segments_at_any_time_never_panic_and_never_deliver_twice() {
    let now = super::network::start();
    for seed in 0..2_000 {
        let mut dice = Dice(seed);
        let mut config = Config { max_outstanding: 5, send_queue: 8, transfer: true, ..config() };
        config.terms.null_ms = 500;
        let mut connection = if dice.percent(50) {
            Connection::connect(config, 7, [seed, 0], now)
        } else {
            let syn = config.syn(Dialect::Draft, config.terms, 9);
            Connection::accept(config, 7, [seed, 0], 100, &syn, now).unwrap()
        };
        let mut time = now;
        for _ in 0..200 {
            time += ms(dice.below(200));
            let octets = segment(&mut dice);
            connection.handle_datagram(&octets, time);
            if dice.percent(30) {
                let _ = connection.send(&octets, time);
            }
            if connection.next_deadline().is_some_and(|deadline| deadline <= time) {
                connection.handle_timeout(time);
            }
            if dice.percent(1) {
                connection.close(time);
            }
            if dice.percent(70) {
                while connection.poll_event().is_some() {}
            }
            if dice.percent(70) {
                octets_of(&mut connection);
            }
        }
        let mut ended = false;
        while let Some(event) = connection.poll_event() {
            assert!(!ended, "seed {seed}: {event:?} after the end");
            ended = matches!(event.into(), Told::Closed | Told::Refused(_));
        }
    }
}

/// Any segment with numbers from a small range, so that many of them fit.
fn segment(dice: &mut Dice) -> Vec<u8> {
    let near = |dice: &mut Dice| u8::try_from((100 + dice.below(8)) % 256).expect("a remainder");
    let config = config();
    let mut syn =
        config.syn(Dialect::Draft, config.terms, u32::try_from(dice.below(3)).expect("small") + 7);
    syn.reuse = dice.percent(30);
    let numbers = [near(dice), near(dice), near(dice)];
    let body = match dice.below(8) {
        0 => Body::Syn(syn),
        1 | 2 => Body::Data { payload: b"message", covered: false },
        3 => Body::Null,
        4 => Body::Extended(&numbers),
        5 => Body::Reset,
        6 => Body::Transfer(Transfer { adjustment: 0, connection_id: 7 }),
        _ => Body::Acknowledgement,
    };
    let acknowledged = match body {
        Body::Syn(_) | Body::Reset | Body::Transfer(_) if dice.percent(50) => None,
        _ => Some(u8::try_from(dice.below(256)).expect("a remainder")),
    };
    let number = near(dice);
    let mut octets = Vec::new();
    encode(&Packet { number, acknowledged, body }, Dialect::Draft, &mut octets);
    octets
}
