//! Loss, gaps, broken connections, auto resets and peers that begin anew.

use super::{
    network::{CLIENT, Link, Network, SERVER, Told, ms},
    wire_peer::{WirePeer, data},
};
use crate::{Config, Refusal, packet::Body};

fn config() -> Config {
    Config::draft()
}

#[test]
fn a_segment_sent_again_differs_only_in_acknowledgement_and_checksum() {
    let mut peer = WirePeer::open_client(config(), 10);
    peer.send(b"same");
    let first = peer.octets();
    peer.data(0, 0, b"x");
    peer.wait(ms(600));
    let again = peer.octets();
    let again = again.iter().find(|octets| octets.ends_with(b"same")).unwrap();
    assert_eq!(first[0][..3], again[..3]);
    assert_eq!(first[0][6..], again[6..]);
    assert_eq!((first[0][3], again[3]), (10, 11));
}

#[test]
fn the_timer_sends_everything_unacknowledged_again() {
    let mut peer = WirePeer::open_client(config(), 10);
    for message in [b"a", b"b", b"c"] {
        peer.send(message);
    }
    peer.sent();
    let first = peer.their(1);
    peer.feed(peer.next(0), Some(first), Body::Acknowledgement);
    peer.wait(ms(599));
    assert_eq!(peer.bodies(), Vec::<String>::new());
    peer.wait(ms(1));
    assert_eq!(peer.bodies(), ["b", "c"]);
    assert_eq!(peer.connection.statistics().retransmitted, 2);
}

#[test]
fn a_gap_is_told_when_more_than_three_came_ahead_of_it_and_again_by_the_timer() {
    let mut peer = WirePeer::open_server(config(), 254);
    for step in 1..4 {
        peer.data(step, 0, b"x");
        assert_eq!(peer.sent(), []);
    }
    peer.data(4, 0, b"x");
    let told = (peer.their(1), Some(254), "Extended([0, 1, 2, 3])".to_owned());
    let told = [told];
    assert_eq!(peer.sent(), told);
    peer.wait(ms(300));
    assert_eq!(peer.sent(), told);
    peer.wait(ms(300));
    assert_eq!(peer.sent(), told);
    peer.data(0, 0, b"0");
    assert_eq!(peer.told(), [data("0"), data("x"), data("x"), data("x"), data("x")]);
    assert_eq!(peer.sent(), [(peer.their(1), Some(3), "Acknowledgement".to_owned())]);
}

#[test]
fn a_nul_ahead_of_a_gap_keeps_its_place() {
    let mut peer = WirePeer::open_server(config(), 10);
    peer.feed(peer.next(1), Some(peer.theirs), Body::Null);
    peer.data(2, 0, b"two");
    assert_eq!(peer.told(), []);
    peer.data(0, 0, b"zero");
    assert_eq!(peer.told(), [data("zero"), data("two")]);
}

#[test]
fn an_eack_sends_again_what_is_missing_before_its_last_number() {
    let mut peer = WirePeer::open_client(config(), 10);
    for message in [b"1", b"2", b"3", b"4", b"5", b"6"] {
        peer.send(message);
    }
    peer.sent();
    let numbers = [peer.their(3), peer.their(5)];
    peer.feed(peer.next(0), Some(peer.their(1)), Body::Extended(&numbers));
    assert_eq!(
        peer.bodies(),
        ["2", "4"],
        "not 3 and 5, which came, and not 6, of which nothing is known"
    );
    peer.feed(peer.next(0), Some(peer.their(1)), Body::Extended(&numbers));
    assert_eq!(peer.bodies(), Vec::<String>::new(), "once in a round trip");
    peer.wait(ms(600));
    assert_eq!(peer.bodies(), ["2", "4", "6"], "the timer doesn't send what came");
    assert_eq!(peer.connection.unacknowledged(), 5, "what waits behind a gap is not delivered");
}

#[test]
fn numbers_of_an_eack_outside_the_window_change_nothing() {
    let mut peer = WirePeer::open_client(config(), 10);
    peer.send(b"1");
    peer.sent();
    for numbers in [[peer.their(2), peer.their(90)], [peer.their(0), peer.their(200)]] {
        peer.feed(peer.next(0), Some(peer.their(0)), Body::Extended(&numbers));
        assert_eq!(peer.sent(), []);
    }
    assert_eq!(peer.connection.unacknowledged(), 1);
    let many: Vec<u8> = (0..=248).collect();
    peer.feed(peer.next(0), Some(peer.their(0)), Body::Extended(&many));
    assert_eq!(peer.connection.unacknowledged(), 1, "an EACK alone delivers nothing");
}

#[test]
fn a_full_queue_holds_the_peer_back_without_a_loss() {
    let mut peer = WirePeer::open_server(Config { max_outstanding: 3, ..config() }, 10);
    for step in 0..4 {
        peer.data(step, 0, b"x");
    }
    // The fourth is what a Java peer sends too much; the fifth finds no room.
    peer.data(4, 0, b"fifth");
    peer.sent();
    assert_eq!(peer.told().len(), 4);
    peer.data(4, 0, b"fifth");
    assert_eq!(peer.told(), [data("fifth")]);
}

#[test]
fn a_silent_peer_breaks_the_connection_after_the_retransmissions() {
    let mut peer = WirePeer::open_client(config(), 10);
    peer.send(b"anyone?");
    peer.sent();
    peer.wait(ms(1_799));
    assert_eq!(peer.told(), []);
    peer.wait(ms(1));
    assert_eq!(peer.told(), [Told::Failed]);
    peer.wait(ms(1_000));
    assert_eq!(peer.told(), [Told::AutoReset]);
    let syn = &peer.octets()[0];
    assert_eq!((syn[0], syn[6]), (0x80, 0xa0), "a SYN with REUSE");
    assert_eq!(syn[22..26], [0, 0, 0, 9], "and the identifier that the peer gave");
    // Three SYNs an attempt, three attempts.
    peer.wait(ms(60_000));
    let end = [Told::AutoReset, Told::AutoReset, Told::Refused(Refusal::Broken)];
    assert_eq!(peer.told(), end);
    assert_eq!(peer.bodies().last().map(String::as_str), Some("Reset"));
}

#[test]
fn a_closed_gap_is_acknowledged_at_once() {
    let mut peer = WirePeer::open_server(config(), 10);
    peer.data(1, 0, b"b");
    peer.data(0, 0, b"a");
    assert_eq!(peer.sent(), [(peer.their(1), Some(12), "Acknowledgement".to_owned())]);
}

#[test]
fn a_broken_connection_sends_nothing() {
    let mut peer = WirePeer::open_client(config(), 10);
    peer.send(b"anyone?");
    // Nobody polls, so that everything is due still when the connection breaks.
    peer.wait(ms(1_800));
    assert_eq!(peer.told(), [Told::Failed]);
    assert_eq!(peer.octets(), Vec::<Vec<u8>>::new());
}

#[test]
fn without_a_transfer_time_the_reset_comes_at_once() {
    let mut hasty = config();
    hasty.terms.transfer_ms = 0;
    let mut peer = WirePeer::open_client(hasty, 10);
    peer.send(b"anyone?");
    peer.wait(ms(1_800));
    assert_eq!(peer.told(), [Told::AutoReset]);
}

#[test]
fn an_auto_reset_opens_the_connection_again_on_both_sides() {
    let mut network = Network::new(config(), 11);
    let (client, server) = network.open();
    network.send(CLIENT, client, b"before");
    network.run_for(ms(1_000));
    network.link.loss = 100;
    network.send(CLIENT, client, b"lost");
    network.run_for(ms(2_000));
    network.link.loss = 0;
    network.run_for(ms(5_000));
    assert_eq!(network.told(CLIENT), [Told::Opened, Told::Failed, Told::AutoReset, Told::Opened]);
    assert_eq!(network.told(SERVER), [Told::Opened, data("before"), Told::AutoReset, Told::Opened]);
    network.send(CLIENT, client, b"after");
    network.send(SERVER, server, b"back");
    network.run_for(ms(60_000));
    assert_eq!(network.messages(SERVER), [b"before".to_vec(), b"after".to_vec()]);
    assert_eq!(network.messages(CLIENT), [b"back"]);
}

#[test]
fn both_sides_may_reset_at_once() {
    for seed in 0..200 {
        let mut network = Network::new(config(), seed);
        network.link.delay = 10;
        let (client, server) = {
            let client = network.connect(CLIENT, SERVER);
            network.run_for(ms(100));
            (client, network.opened(SERVER).unwrap())
        };
        network.link.loss = 100;
        network.send(CLIENT, client, b"lost");
        network.send(SERVER, server, b"lost too");
        network.run_for(ms(2_700));
        network.link.loss = 0;
        network.run_for(ms(20_000));
        for peer in [CLIENT, SERVER] {
            assert_eq!(network.told(peer).last(), Some(&Told::Opened), "seed {seed}");
        }
        network.send(CLIENT, client, b"after");
        network.run_for(ms(1_000));
        assert_eq!(network.messages(SERVER), [b"after"], "seed {seed}");
    }
}

#[test]
fn resets_without_end_leave_nothing_behind() {
    let mut network = Network::new(config(), 12);
    let (client, _) = network.open();
    for round in 0..2_000 {
        network.link.loss = 100;
        network.send(CLIENT, client, b"lost");
        network.run_for(ms(2_000));
        network.link.loss = 0;
        network.run_for(ms(3_000));
        assert_eq!(network.told(CLIENT).last(), Some(&Told::Opened), "round {round}");
        network.peers[CLIENT].told.clear();
        network.peers[SERVER].told.clear();
        network.seen.clear();
    }
    assert!(network.peers.iter().all(|peer| peer.endpoint.len() == 1));
}

#[test]
fn a_client_that_begins_anew_is_believed_when_it_insists() {
    let mut network = Network::new(config(), 13);
    let (_, server) = network.open();
    network.restart(CLIENT, config());
    network.peers[CLIENT].told.clear();
    let restarted = network.now;
    let client = network.connect(CLIENT, SERVER);
    let end = restarted + ms(1_250);
    assert!(network.run_until(end, |network| network.opened(CLIENT).is_some()));
    network.run_for(ms(10));
    assert_eq!(network.told(SERVER), [Told::Opened, Told::PeerRestarted, Told::Opened]);
    assert_eq!(network.opened(SERVER), Some(server));
    network.send(CLIENT, client, b"anew");
    network.run_for(ms(10));
    assert_eq!(network.messages(SERVER), [b"anew"]);
}

#[test]
fn a_restarted_server_says_so_when_its_old_client_speaks() {
    let mut network = Network::new(config(), 14);
    let (client, _) = network.open();
    network.send(CLIENT, client, b"x");
    network.run_for(ms(1_000));
    network.restart(SERVER, config());
    network.send(CLIENT, client, b"y");
    network.run_for(ms(1));
    // Its answer to our last acknowledgement shows that it remembers nothing.
    assert_eq!(network.told(CLIENT), [Told::Opened, Told::PeerClosed, Told::Closed]);
    let client = network.connect(CLIENT, SERVER);
    network.run_for(ms(1));
    network.send(CLIENT, client, b"z");
    network.run_for(ms(1));
    assert_eq!(network.messages(SERVER), [b"x".to_vec(), b"z".to_vec()]);
}

#[test]
fn an_auto_reset_that_nobody_remembers_is_refused() {
    let mut network = Network::new(config(), 15);
    let (client, _) = network.open();
    network.peers[SERVER].silent = true;
    network.send(CLIENT, client, b"x");
    network.run_for(ms(2_000));
    network.restart(SERVER, config());
    network.peers[SERVER].silent = false;
    network.run_for(ms(2_000));
    assert_eq!(
        network.told(CLIENT),
        [Told::Opened, Told::Failed, Told::AutoReset, Told::Refused(Refusal::Reset)]
    );
}

#[test]
fn numbers_wrap_many_times_in_both_directions() {
    let mut network = Network::new(Config { send_queue: 64, ..config() }, 16);
    let (client, server) = network.open();
    network.link = Link { loss: 5, duplication: 5, delay: 5, jitter: 10, ..Link::default() };
    let mut sent = [0_u32; 2];
    while sent != [2_000; 2] {
        for (peer, handle) in [(CLIENT, client), (SERVER, server)] {
            let message = sent[peer].to_be_bytes();
            if sent[peer] < 2_000 {
                let now = network.now;
                sent[peer] +=
                    u32::from(network.peers[peer].endpoint.send(handle, &message, now).is_ok());
            }
        }
        network.run_for(ms(1));
    }
    network.run_for(ms(60_000));
    let expected: Vec<_> = (0..2_000_u32).map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(network.messages(SERVER), expected);
    assert_eq!(network.messages(CLIENT), expected);
}

#[test]
fn heartbeats_outlive_a_link_that_loses_every_fifth_datagram() {
    let mut network = Network::new(Config::heartbeat(2_000), 17);
    let (client, _) = network.open();
    network.link = Link { loss: 20, delay: 1, ..Link::default() };
    for round in 0..50_000_u64 {
        network.send(CLIENT, client, &round.to_be_bytes());
        network.run_for(ms(1_000));
        network.seen.clear();
        assert_eq!(network.told(CLIENT), [Told::Opened], "round {round}");
        for (_, told) in network.peers[SERVER].told.drain(..) {
            assert!(matches!(told, Told::Opened | Told::Data(_)), "round {round}: {told:?}");
        }
    }
}

#[test]
fn the_round_trip_is_measured_by_segments_sent_once() {
    let mut network = Network::new(Config::heartbeat(2_000), 18);
    network.link.delay = 20;
    let client = network.connect(CLIENT, SERVER);
    network.run_for(ms(100));
    let round_trip =
        |network: &Network| network.peers[CLIENT].endpoint.connection(client).unwrap().round_trip();
    assert_eq!(round_trip(&network), Some(ms(40)));
    // What is sent again is acknowledged late, and must not be taken for a slow link.
    network.link.loss = 100;
    network.send(CLIENT, client, b"x");
    network.run_for(ms(100));
    network.link.loss = 0;
    network.run_for(ms(500));
    assert_eq!(network.unacknowledged(CLIENT, client), 0);
    assert_eq!(round_trip(&network), Some(ms(40)));
}
