//! Many connections on one socket: routing, limits, strangers, and what idle connections cost.

use core::net::SocketAddr;
use std::time::Instant;

use super::network::{CLIENT, Dice, Network, SERVER, Told, ms, start};
use crate::{
    Config, ConnectError, Dialect, Endpoint, Handle, Limits,
    packet::{Body, Packet, decode, encode},
};

fn endpoint(limits: Limits) -> Endpoint {
    Endpoint::new(Config::heartbeat(2_000), limits, [1, 2]).unwrap()
}

fn address(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], port))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn octets(number: u8, acknowledged: Option<u8>, body: Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&Packet { number, acknowledged, body }, Dialect::Draft, &mut out);
    out
}

fn syn(number: u8) -> Vec<u8> {
    let config = Config::heartbeat(2_000);
    octets(number, None, Body::Syn(config.syn(Dialect::Draft, config.terms, 9)))
}

fn sent(endpoint: &mut Endpoint) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut all = Vec::new();
    let mut out = Vec::new();
    while let Some((to, _)) = endpoint.poll_transmit(&mut out) {
        all.push((to, std::mem::take(&mut out)));
    }
    all
}

/// Opens a connection by hand; the peer's SYN has number 10. Returns its handle and the endpoint's initial number.
fn open(endpoint: &mut Endpoint, from: SocketAddr, now: Instant) -> (Handle, u8) {
    endpoint.handle_datagram(from, &syn(10), now);
    let answer = sent(endpoint);
    let initial = decode(&answer[0].1, Dialect::Draft).unwrap().number;
    endpoint.handle_datagram(from, &octets(11, Some(initial), Body::Acknowledgement), now);
    let (handle, event) = endpoint.poll_event().expect("opened");
    assert_eq!(Told::from(event), Told::Opened);
    assert!(endpoint.poll_event().is_none());
    (handle, initial)
}

#[test]
fn a_flood_of_syns_stays_within_the_table_and_harms_nobody() {
    let mut broker = endpoint(Limits::default());
    let now = start();
    let (live, initial) = open(&mut broker, local(1), now);
    let mut dice = Dice(1);
    for _ in 0..100_000 {
        let port = u16::try_from(2 + dice.below(60_000)).unwrap();
        broker.handle_datagram(local(port), &syn(1), now);
        sent(&mut broker);
    }
    assert_eq!(broker.half_open(), 1_024);
    assert_eq!(broker.len(), 1_025);
    let message = Body::Data { payload: b"still here", covered: false };
    broker.handle_datagram(local(1), &octets(11, Some(initial), message), now);
    let (handle, event) = broker.poll_event().expect("a message");
    assert_eq!((handle, Told::from(event)), (live, Told::Data(b"still here".to_vec())));
    // What never answers is forgotten without a word.
    broker.handle_timeout(now + ms(130));
    broker.handle_timeout(now + ms(260));
    broker.handle_timeout(now + ms(390));
    sent(&mut broker);
    assert!(broker.poll_event().is_none());
    assert_eq!((broker.half_open(), broker.len()), (0, 1));
}

#[test]
fn one_host_may_hold_only_a_few_places_but_this_machine_all() {
    let mut broker = endpoint(Limits::default());
    let now = start();
    for port in 1..100 {
        broker.handle_datagram(address(5, port), &syn(1), now);
        broker.handle_datagram(local(port), &syn(1), now);
    }
    assert_eq!(broker.half_open(), 4 + 99);
    broker.handle_datagram(address(6, 1), &syn(1), now);
    assert_eq!(broker.half_open(), 4 + 99 + 1);
    // Who has opened doesn't count any more.
    let answers = sent(&mut broker);
    let (to, answer) = answers.iter().find(|(to, _)| to.ip() == address(5, 1).ip()).unwrap();
    let initial = decode(answer, Dialect::Draft).unwrap().number;
    broker.handle_datagram(*to, &octets(2, Some(initial), Body::Acknowledgement), now);
    broker.handle_datagram(address(5, 200), &syn(1), now);
    assert_eq!(broker.half_open(), 4 + 99 + 1);
}

#[test]
fn connections_are_limited() {
    let mut broker = endpoint(Limits { connections: 2, ..Limits::default() });
    let now = start();
    open(&mut broker, local(1), now);
    broker.connect(local(2), now).unwrap();
    assert_eq!(broker.connect(local(2), now), Err(ConnectError::Exists));
    assert_eq!(broker.connect(local(3), now), Err(ConnectError::Full { limit: 2 }));
    broker.handle_datagram(local(4), &syn(1), now);
    assert_eq!((broker.len(), broker.statistics().refused), (2, 1));
}

#[test]
fn an_unverified_peer_gets_three_times_what_it_sent() {
    let mut broker = endpoint(Limits::default());
    let now = start();
    let (handle, _) = open(&mut broker, local(1), now);
    let received = 28 + 6;
    let spent = 28;
    for _ in 0..10 {
        broker.send(handle, &[0; 40], now).unwrap();
    }
    let octets: usize = sent(&mut broker).iter().map(|(_, octets)| octets.len()).sum();
    assert_eq!(octets, 46);
    assert!(spent + octets <= 3 * received && spent + octets + 46 > 3 * received);
    broker.handle_timeout(now + ms(120));
    assert_eq!(sent(&mut broker), [], "nor by the timer");
    broker.verify(handle);
    assert_eq!(sent(&mut broker).len(), 10);
}

#[test]
fn strangers_are_told_that_there_is_no_connection_and_not_too_often() {
    let mut broker = endpoint(Limits::default());
    let now = start();
    let message = Body::Data { payload: b"?", covered: false };
    let segment = octets(50, Some(70), message);
    broker.handle_datagram(local(1), &segment, now);
    let reset = octets(71, Some(50), Body::Reset);
    assert_eq!(sent(&mut broker), [(local(1), reset)]);
    // What only acknowledges carries a number that was never sent.
    broker.handle_datagram(local(1), &octets(50, Some(70), Body::Acknowledgement), now);
    assert_eq!(sent(&mut broker), [(local(1), octets(71, Some(49), Body::Reset))]);
    // A Java peer is told in its dialect, which wraps at 255.
    broker.handle_datagram(local(1), &[0x40, 6, 0, 254, 0, 0, b'x'], now);
    assert_eq!(sent(&mut broker), [(local(1), vec![0x50, 6, 0, 0, 0, 0])]);
    broker.handle_datagram(local(1), &octets(1, Some(1), Body::Reset), now);
    assert_eq!(sent(&mut broker), [], "an RST is never answered");
    for port in 0..1_000 {
        broker.handle_datagram(local(port), &segment, now);
    }
    assert_eq!(sent(&mut broker).len(), 97);
    for port in 0..1_000 {
        broker.handle_datagram(local(port), &segment, now + ms(1_000));
    }
    assert_eq!(sent(&mut broker).len(), 100);
    assert!(broker.is_empty());
}

#[test]
fn a_lingering_connection_makes_room_for_a_new_one() {
    let mut broker = endpoint(Limits::default());
    let now = start();
    let (old, initial) = open(&mut broker, local(1), now);
    broker.handle_datagram(local(1), &octets(11, Some(initial), Body::Reset), now);
    let (handle, event) = broker.poll_event().expect("the peer closed");
    assert_eq!((handle, Told::from(event)), (old, Told::PeerClosed));
    sent(&mut broker);
    broker.handle_datagram(local(1), &syn(10), now);
    let (handle, event) = broker.poll_event().expect("the end of the old one");
    assert_eq!((handle, Told::from(event)), (old, Told::Closed));
    assert!(broker.connection(old).is_none());
    assert_eq!(broker.half_open(), 1);
    assert_eq!(broker.send(old, b"x", now), Err(crate::SendError::NotOpen));
}

#[test]
fn ten_thousand_idle_connections_are_looked_at_only_when_due() {
    let mut broker = endpoint(Limits::default());
    let now = start();
    for port in 1..=10_000_u64 {
        let at = now + ms(port % 1_000);
        let (handle, _) = open(&mut broker, local(u16::try_from(port).unwrap()), at);
        broker.verify(handle);
    }
    sent(&mut broker);
    assert_eq!(broker.len(), 10_000);
    // The handshakes' timers stand in the schedule still; they go as they come.
    broker.handle_timeout(now + ms(1_500));
    assert_eq!(broker.next_deadline(), Some(now + ms(4_000)), "twice the null time of the first");
    broker.handle_timeout(now + ms(4_000));
    let mut failed = 0;
    while let Some((_, event)) = broker.poll_event() {
        assert_eq!(Told::from(event), Told::Failed);
        failed += 1;
    }
    assert_eq!(failed, 10, "those whose time was over, and no others");
}

#[test]
fn connections_to_many_peers_do_not_mix() {
    let mut network = Network::new(Config::draft(), 3);
    let (client, server) = network.open();
    assert_eq!(network.peers[CLIENT].endpoint.address(client), Some(network.peers[SERVER].address));
    assert_eq!(network.peers[SERVER].endpoint.address(server), Some(network.peers[CLIENT].address));
    let stranger = local(9);
    let message = Body::Data { payload: b"forged", covered: false };
    let initial = network.seen[0].1[2];
    let segment = octets(initial.wrapping_add(1), Some(network.seen[1].1[2]), message);
    let now = network.now;
    network.peers[SERVER].endpoint.handle_datagram(stranger, &segment, now);
    network.run_for(ms(1));
    assert_eq!(network.messages(SERVER), Vec::<Vec<u8>>::new());
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let mut network = Network::new(Config::draft(), 4);
    for round in 0..5_000_u32 {
        let (client, _) = network.open();
        network.send(CLIENT, client, &round.to_be_bytes());
        let now = network.now;
        network.peers[CLIENT].endpoint.close(client, now);
        network.run_for(ms(2_000));
        assert_eq!(network.messages(SERVER), [round.to_be_bytes()]);
        for peer in &mut network.peers {
            assert!(peer.endpoint.is_empty(), "round {round}");
            assert_eq!(peer.endpoint.next_deadline(), None);
            peer.told.clear();
        }
        network.seen.clear();
    }
}
