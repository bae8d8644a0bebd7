//! Opening, talking, keeping alive, closing: what the draft asks for, segment by segment.

use super::{
    network::{CLIENT, Link, Network, SERVER, Told, ms},
    wire_peer::{WirePeer, data},
};
use crate::{
    Config, Dialect, Refusal, SendError, State, Terms,
    packet::{Body, Syn, Transfer},
};

fn config() -> Config {
    Config::draft()
}

#[test]
fn a_syn_takes_one_number_an_acknowledgement_none() {
    let mut peer = WirePeer::open_client(config(), 250);
    peer.send(b"first");
    assert_eq!(peer.sent(), [(peer.their(1), Some(250), "first".to_owned())]);
    peer.data(0, 1, b"answer");
    peer.wait(ms(300));
    assert_eq!(peer.sent(), [(peer.their(2), Some(251), "Acknowledgement".to_owned())]);
    peer.send(b"second");
    assert_eq!(peer.sent(), [(peer.their(2), Some(251), "second".to_owned())]);
}

#[test]
fn a_syn_is_repeated_and_then_given_up() {
    let mut network = Network::new(config(), 1);
    network.peers[SERVER].silent = true;
    network.connect(CLIENT, SERVER);
    network.run_for(ms(1_799));
    assert_eq!(network.seen.len(), 3, "the SYN and two repetitions");
    assert_eq!(network.seen[0], network.seen[2]);
    network.run_for(ms(2));
    assert_eq!(network.told(CLIENT), [Told::Refused(Refusal::Timeout)]);
    assert!(network.peers[CLIENT].endpoint.is_empty());
}

#[test]
fn the_same_syn_gets_the_same_answer_and_one_connection() {
    let mut network = Network::new(config(), 2);
    network.link = Link { duplication: 100, delay: 5, jitter: 30, ..Link::default() };
    network.connect(CLIENT, SERVER);
    network.run_for(ms(1_500));
    let answers: Vec<_> = network.seen.iter().filter(|(_, octets)| octets[0] == 0xc0).collect();
    assert!(answers.len() >= 2);
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(network.told(CLIENT), [Told::Opened]);
    assert_eq!(network.told(SERVER), [Told::Opened]);
}

#[test]
fn a_lost_answer_is_repeated_at_most_twice_and_forgotten() {
    let mut network = Network::new(config(), 3);
    network.connect(CLIENT, SERVER);
    let first = network.run_until(network.now, |network| network.seen.len() == 1);
    assert!(first);
    network.run_until(network.now, |network| network.seen.len() == 2);
    network.peers[CLIENT].silent = true;
    network.run_for(ms(10_000));
    let answers = network.seen.iter().filter(|(peer, _)| *peer == SERVER).count();
    assert_eq!(answers, 3);
    assert!(network.peers[SERVER].endpoint.is_empty());
    assert_eq!(network.told(SERVER), [], "nobody was promised anything");
}

#[test]
fn both_may_open_at_once() {
    let mut network = Network::new(config(), 4);
    network.link.delay = 5;
    let one = network.connect(CLIENT, SERVER);
    let other = network.connect(SERVER, CLIENT);
    network.run_for(ms(100));
    assert_eq!(network.told(CLIENT), [Told::Opened]);
    assert_eq!(network.told(SERVER), [Told::Opened]);
    network.send(CLIENT, one, b"to the server");
    network.send(SERVER, other, b"to the client");
    network.run_for(ms(10_000));
    assert_eq!(network.messages(SERVER), [b"to the server"]);
    assert_eq!(network.messages(CLIENT), [b"to the client"]);
    let nulls = |peer| {
        network.seen.iter().filter(|(from, octets)| *from == peer && octets[0] == 0x48).count()
    };
    assert!((nulls(CLIENT) == 0) != (nulls(SERVER) == 0), "one of them plays the client");
}

#[test]
fn opening_at_once_survives_any_link() {
    for seed in 0..300 {
        let mut network = Network::new(Config { terms: patient(), ..config() }, seed);
        network.link = Link { loss: 20, duplication: 20, delay: 20, jitter: 50, ..Link::default() };
        let handles = [network.connect(CLIENT, SERVER), network.connect(SERVER, CLIENT)];
        let end = network.now + ms(600_000);
        for (peer, handle) in handles.into_iter().enumerate() {
            let open = network.run_until(end, |network| {
                let connection = network.peers[peer].endpoint.connection(handle);
                connection.is_none_or(|connection| connection.state() == State::Open)
            });
            assert!(open, "seed {seed}");
            if network.peers[peer].endpoint.connection(handle).is_some() {
                network.send(peer, handle, b"hello");
            }
        }
        network.run_for(ms(60_000));
        for peer in [CLIENT, SERVER] {
            let opened = network.told(peer).iter().filter(|told| **told == Told::Opened).count();
            assert!(opened <= 1, "seed {seed}: {:?}", network.told(peer));
        }
    }
}

fn patient() -> Terms {
    Terms { max_retransmissions: 0, null_ms: 20_000, ..Config::draft().terms }
}

#[test]
fn the_fourth_segment_is_acknowledged_when_three_may_wait() {
    let mut peer = WirePeer::open_server(config(), 10);
    for step in 0..3 {
        peer.data(step, 0, b"x");
        assert_eq!(peer.sent(), []);
    }
    peer.data(3, 0, b"x");
    assert_eq!(peer.sent(), [(peer.their(1), Some(14), "Acknowledgement".to_owned())]);
}

#[test]
fn an_acknowledgement_waits_for_its_timer_and_for_data_to_travel_with() {
    let mut peer = WirePeer::open_server(config(), 10);
    peer.data(0, 0, b"x");
    peer.wait(ms(299));
    assert_eq!(peer.sent(), []);
    peer.wait(ms(1));
    assert_eq!(peer.bodies(), ["Acknowledgement"]);
    peer.data(1, 0, b"y");
    peer.send(b"z");
    assert_eq!(peer.sent(), [(peer.their(1), Some(12), "z".to_owned())]);
    peer.wait(ms(400));
    assert_eq!(peer.sent(), [], "the data has acknowledged it");
}

#[test]
fn a_broker_acknowledges_at_once() {
    let mut peer = WirePeer::open_server(Config::heartbeat(2_000), 10);
    peer.data(0, 0, b"x");
    assert_eq!(peer.bodies(), ["Acknowledgement"]);
}

#[test]
fn a_nul_is_acknowledged_at_once_and_discarded() {
    let mut peer = WirePeer::open_server(config(), 10);
    peer.feed(peer.next(0), Some(peer.theirs), Body::Null);
    assert_eq!(peer.sent(), [(peer.their(1), Some(11), "Acknowledgement".to_owned())]);
    assert_eq!(peer.told(), []);
    peer.data(1, 0, b"after it");
    assert_eq!(peer.told(), [data("after it")]);
}

#[test]
fn a_duplicate_is_acknowledged_again_and_not_delivered() {
    let mut peer = WirePeer::open_server(config(), 10);
    peer.data(0, 0, b"once");
    assert_eq!(peer.told(), [data("once")]);
    peer.data(0, 0, b"once");
    assert_eq!(peer.told(), []);
    assert_eq!(peer.sent(), [(peer.their(1), Some(11), "Acknowledgement".to_owned())]);
    assert_eq!(peer.connection.statistics().duplicates, 1);
}

#[test]
fn nulls_keep_an_idle_connection_open() {
    let mut network = Network::new(config(), 5);
    network.open();
    network.run_for(ms(60_000));
    assert_eq!(network.told(CLIENT), [Told::Opened]);
    assert_eq!(network.told(SERVER), [Told::Opened]);
    let nulls = network.seen.iter().filter(|(_, octets)| octets[0] == 0x48).count();
    assert_eq!(nulls, 30, "one every two seconds, from the client");
}

#[test]
fn data_takes_the_place_of_a_nul() {
    let mut peer = WirePeer::open_client(config(), 10);
    peer.wait(ms(1_900));
    peer.send(b"x");
    peer.sent();
    peer.data(0, 1, b"y");
    peer.wait(ms(1_900));
    assert!(!peer.bodies().contains(&"Null".to_owned()));
    peer.wait(ms(101));
    assert!(peer.bodies().contains(&"Null".to_owned()));
}

#[test]
fn a_null_time_of_zero_means_never() {
    let mut quiet = config();
    quiet.terms.null_ms = 0;
    let mut network = Network::new(quiet, 6);
    let (client, _) = network.open();
    let seen = network.seen.len();
    network.run_for(ms(3_600_000));
    assert_eq!(network.seen.len(), seen);
    assert_eq!(network.told(SERVER), [Told::Opened]);
    assert_eq!(network.peers[SERVER].endpoint.next_deadline(), None, "idle is idle");
    network.send(CLIENT, client, b"x");
    network.run_for(ms(2_000));
    assert!(network.peers.iter().all(|peer| peer.endpoint.next_deadline().is_none()));
}

#[test]
fn the_server_gives_up_after_twice_the_null_time_whatever_else_it_hears() {
    let mut peer = WirePeer::open_server(config(), 10);
    peer.data(0, 0, b"old");
    assert_eq!(peer.told(), [data("old")]);
    peer.send(b"x");
    peer.sent();
    for _ in 0..7 {
        peer.wait(ms(500));
        // Acknowledgements and old data show that somebody is there, not that the client's timer runs.
        for _ in 0..2 {
            peer.feed(peer.next(1), Some(peer.their(1)), Body::Acknowledgement);
            peer.data(0, 1, b"old");
        }
    }
    assert_eq!(peer.told(), []);
    peer.wait(ms(500));
    assert_eq!(peer.told(), [Told::Failed]);
    assert_eq!(peer.connection.state(), State::Broken);
}

#[test]
fn only_what_was_agreed_on_counts() {
    let odd = Terms {
        checksum_data: true,
        retransmission_ms: 5,
        cumulative_ack_ms: 700,
        null_ms: 65_535,
        transfer_ms: 7,
        max_retransmissions: 9,
        max_cumulative_ack: 0,
        max_out_of_sequence: 255,
        max_auto_reset: 0,
    };
    let syn = config().syn(Dialect::Draft, odd, 9);
    let peer = WirePeer::client_of(config(), 10, syn);
    let expected = Terms { retransmission_ms: 100, cumulative_ack_ms: 100, ..odd };
    assert_eq!(peer.connection.terms(), expected);
    assert_eq!(peer.connection.max_message(), 1_394);
}

#[test]
fn a_client_refuses_an_answer_outside_the_legal_range() {
    let mut terms = config().terms;
    terms.retransmission_ms = 99;
    let mut peer = WirePeer::server_of(config(), 10, config().syn(Dialect::Draft, terms, 9));
    assert_eq!(peer.told(), [Told::Refused(Refusal::Parameters)]);
    assert_eq!(peer.sent(), [(peer.their(1), Some(10), "Reset".to_owned())]);
    let tiny = Syn { max_segment: 6, ..config().syn(Dialect::Draft, config().terms, 9) };
    let mut peer = WirePeer::server_of(config(), 10, tiny);
    assert_eq!(peer.told(), [Told::Refused(Refusal::Parameters)]);
}

#[test]
fn a_covered_payload_is_agreed_on_by_either_side() {
    let mut covering = config();
    covering.terms.checksum_data = true;
    let mut network = Network::between(config(), covering, 7);
    let (client, server) = network.open();
    network.send(CLIENT, client, b"x");
    network.send(SERVER, server, b"y");
    network.run_for(ms(10));
    let all = network.seen.iter().filter(|(_, octets)| octets.len() == 7);
    assert!(all.clone().count() == 2 && all.clone().all(|(_, octets)| octets[0] == 0x44));
}

#[test]
fn never_more_is_in_flight_than_the_peer_allows() {
    for (advertised, expected) in [(0, 1), (1, 1), (3, 3), (127, 127), (255, 127)] {
        let answer =
            Syn { max_outstanding: advertised, ..config().syn(Dialect::Draft, config().terms, 9) };
        let mut peer = WirePeer::server_of(Config { send_queue: 300, ..config() }, 200, answer);
        peer.sent();
        for _ in 0..300 {
            peer.send(b"x");
        }
        assert_eq!(peer.connection.send(b"x", peer.now), Err(SendError::Full { limit: 300 }));
        assert_eq!(peer.sent().len(), expected, "advertised {advertised}");
        let first = peer.their(1);
        peer.feed(peer.next(0), Some(first), Body::Acknowledgement);
        assert_eq!(peer.sent().len(), 1);
        assert_eq!(peer.connection.unacknowledged(), 299);
    }
}

#[test]
fn messages_that_can_not_be_carried_are_refused() {
    let mut peer = WirePeer::open_client(config(), 10);
    let now = peer.now;
    assert_eq!(peer.connection.send(b"", now), Err(SendError::Empty));
    let long = vec![0; 1_395];
    assert_eq!(
        peer.connection.send(&long, now),
        Err(SendError::Long { length: 1_395, limit: 1_394 })
    );
    assert_eq!(peer.connection.send(&long[..1_394], now), Ok(()));
    peer.connection.close(now);
    assert_eq!(peer.connection.send(b"late", now), Err(SendError::NotOpen));
}

#[test]
fn closing_sends_what_was_taken_and_then_tells_both() {
    let mut network = Network::new(config(), 8);
    network.link = Link { loss: 0, delay: 20, ..Link::default() };
    network.connect(CLIENT, SERVER);
    network.run_for(ms(100));
    let client = network.opened(CLIENT).unwrap();
    for message in [b"one", b"two"] {
        network.send(CLIENT, client, message);
    }
    let now = network.now;
    network.peers[CLIENT].endpoint.close(client, now);
    network.run_for(ms(30_000));
    assert_eq!(network.told(CLIENT), [Told::Opened, Told::Closed]);
    assert_eq!(
        network.told(SERVER),
        [Told::Opened, data("one"), data("two"), Told::PeerClosed, Told::Closed]
    );
    assert!(network.peers.iter().all(|peer| peer.endpoint.is_empty()));
}

#[test]
fn closing_survives_any_link_with_one_end_on_either_side() {
    for seed in 0..500 {
        let mut network = Network::new(config(), seed);
        let (client, server) = network.open();
        network.link = Link { loss: 30, duplication: 30, delay: 20, jitter: 50, ..Link::default() };
        network.send(CLIENT, client, b"last words");
        let now = network.now;
        network.peers[CLIENT].endpoint.close(client, now);
        if seed % 2 == 0 {
            network.peers[SERVER].endpoint.close(server, now);
        }
        network.run_for(ms(60_000));
        for peer in [CLIENT, SERVER] {
            let told = network.told(peer);
            let ends = told.iter().filter(|told| matches!(told, Told::Closed | Told::Refused(_)));
            assert_eq!(ends.count(), 1, "seed {seed}: {told:?}");
            assert!(
                matches!(told.last(), Some(Told::Closed | Told::Refused(_))),
                "seed {seed}: {told:?}"
            );
            assert!(network.peers[peer].endpoint.is_empty(), "seed {seed}: {told:?}");
        }
    }
}

#[test]
fn a_tcs_is_dropped_unless_it_is_wanted() {
    let transfer = Transfer { adjustment: 5, connection_id: 77 };
    let mut peer = WirePeer::open_server(config(), 10);
    peer.feed(peer.next(0), Some(peer.theirs), Body::Transfer(transfer));
    assert_eq!((peer.told(), peer.sent()), (vec![], vec![]));
    let mut peer = WirePeer::open_server(Config { transfer: true, ..config() }, 10);
    peer.feed(peer.next(0), Some(peer.theirs), Body::Transfer(transfer));
    assert_eq!(peer.told(), [Told::Transfer(transfer)]);
    assert_eq!(peer.bodies(), ["Acknowledgement"]);
}

#[test]
fn what_was_taken_is_still_sent_after_the_peer_closed() {
    let mut peer = WirePeer::client_of(
        config(),
        10,
        Syn { max_outstanding: 1, ..config().syn(Dialect::Draft, config().terms, 9) },
    );
    for message in [b"1", b"2", b"3", b"4", b"5", b"6"] {
        peer.send(message);
    }
    peer.feed(peer.next(0), Some(peer.theirs), Body::Reset);
    assert_eq!(peer.told(), [Told::PeerClosed]);
    for step in 1..=6 {
        assert!(peer.bodies().contains(&step.to_string()), "message {step}");
        peer.wait(ms(500));
        let acknowledged = peer.their(step);
        peer.feed(peer.next(1), Some(acknowledged), Body::Acknowledgement);
    }
    peer.wait(ms(600));
    assert_eq!(peer.told(), [Told::Closed]);
}
