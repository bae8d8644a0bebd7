//! What anybody who can reach the socket can send: counted, bounded, answered with little, and no harm to the living.

use std::net::UdpSocket;

use protocol::heartbeat::State;

use crate::device::Device;

/// The golden SYN of the draft's dialect, with another initial number.
fn syn(number: u8) -> Vec<u8> {
    let mut octets = vec![
        0x80, 0x1c, number, 0, 0x10, 0x20, 0x80, 0, 0x05, 0x78, 0x02, 0x58, 0x01, 0x2c, 0x07, 0xd0,
        0x03, 0xe8, 2, 3, 3, 3, 0xc0, 0xff, 0xee, 0x01, 0, 0,
    ];
    let sum: u32 = octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    octets[26..].copy_from_slice(&sum.to_be_bytes());
    octets
}

/// Octets that came back so far.
fn answered(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).unwrap();
    let mut octets = [0; 2_000];
    std::iter::from_fn(|| socket.recv(&mut octets).ok()).sum()
}

#[test]
fn the_golden_syn_is_what_the_draft_says() {
    let golden = "801c64001020800005780258012c07d003e802030303c0ffee01c306";
    let hex: String = syn(0x64).iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(hex, golden);
}

#[test]
fn garbage_is_counted_never_answered_and_harms_nobody() {
    let device = Device::new("");
    let mut peer = device.application(7, 2_000);
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    attacker.connect(device.broker).unwrap();
    let mut noise = 1_u8;
    for length in (0..200).chain([1_399, 1_400, 1_401, 1_536, 2_000, 9_000, 60_000]) {
        let octets: Vec<u8> = (0..length)
            .map(|_| {
                noise = noise.wrapping_mul(37).wrapping_add(11);
                noise
            })
            .collect();
        attacker.send(&octets).unwrap();
        // Every beginning of a SYN, too.
        attacker.send(&syn(1)[..length.min(27)]).unwrap();
    }
    assert!(peer.report());
    assert_eq!(answered(&attacker), 0);
    assert_eq!(device.count("transport/oversized"), 3);
    assert!(device.count("transport/corrupt") >= 400);
    assert_eq!(device.row(7).state, State::Alive);
}

#[test]
fn a_flood_of_syns_is_bounded_answered_with_little_and_harms_nobody() {
    let device = Device::new("");
    let mut peer = device.application(7, 5_000);
    let attackers: Vec<UdpSocket> = (0..400)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(device.broker).unwrap();
            socket
        })
        .collect();
    for round in 0..20 {
        for (at, attacker) in attackers.iter().enumerate() {
            let number = u8::try_from((at + round * 7) % 256).unwrap();
            let _ = attacker.send(&syn(number));
        }
        assert!(peer.report());
    }
    assert!(device.count("transport/half_open") <= 1_024);
    let sent = 20 * 28;
    for attacker in &attackers {
        let answered = answered(attacker);
        assert!(answered <= 3 * sent, "{answered} octets for {sent}");
    }
    let mut other = device.application(8, 5_000);
    assert!(other.report() && peer.report());
    assert_eq!(device.count("machine/missed"), 0);
    assert_eq!(device.row(7).reports, 21);
}

#[test]
fn strangers_without_a_connection_get_a_limited_number_of_resets() {
    let device = Device::new("");
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    attacker.connect(device.broker).unwrap();
    // The golden data segment.
    let data = [0x40, 6, 0x65, 0xb1, 0x5a, 0x48, 0x48, 0x42, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30];
    for _ in 0..2_000 {
        attacker.send(&data).unwrap();
    }
    let mut peer = device.application(7, 2_000);
    assert!(peer.report());
    let resets = device.count("transport/reset");
    assert!((1..=500).contains(&resets), "{resets}");
    assert!(answered(&attacker) <= 2_000 * data.len());
}

#[test]
fn a_recorded_session_that_is_played_again_gives_no_credit() {
    let device = Device::new("");
    let mut peer = device.application(7, 2_000);
    assert!(peer.report() && peer.report());
    // Its own datagrams from another port: a connection may open, and nothing else.
    let attacker = UdpSocket::bind("127.0.0.1:0").unwrap();
    attacker.connect(device.broker).unwrap();
    let mut sent = 0;
    for datagram in &peer.sent {
        attacker.send(datagram).unwrap();
        sent += datagram.len();
    }
    // And once more from its own: duplicates.
    for datagram in peer.sent.clone() {
        peer.socket.send(&datagram).unwrap();
    }
    assert!(peer.report());
    let row = device.row(7);
    assert_eq!((row.reports, row.state), (3, State::Alive));
    assert_eq!(row.address, Some(peer.socket.local_addr().unwrap().to_string()));
    assert!(answered(&attacker) <= 3 * sent);
}

#[test]
fn forged_segments_from_its_own_address_do_not_end_a_session() {
    let device = Device::new("");
    let mut peer = device.application(7, 2_000);
    assert!(peer.report());
    let expected = peer.sent.last().unwrap()[2];
    for number in 0..=255_u8 {
        // The one number of 256 that a blind attacker has to guess is left out.
        if number.wrapping_sub(expected) < 4 {
            continue;
        }
        let sum = !(0x1006_u16.wrapping_add(u16::from(number) << 8));
        let [high, low] = sum.to_be_bytes();
        peer.socket.send(&[0x10, 6, number, 0, high, low]).unwrap();
    }
    assert!(peer.report());
    assert_eq!((device.row(7).reports, device.count("machine/sessions")), (2, 1));
}

#[test]
fn more_connections_than_are_kept_make_room_for_one_another() {
    let device = Device::new("");
    let mut peer = device.application(7, 10_000);
    // Each opens, says nothing a broker understands, and leaves without a word.
    for count in 0..1_200 {
        drop(crate::peer::Peer::open(device.broker, (8, 1), None));
        if count % 50 == 0 {
            assert!(peer.report());
        }
    }
    assert!(peer.report());
    let gone =
        device.count("machine/sessions_evicted") + device.count("machine/sessions_timed_out");
    // Some got a port again that another one had had: a restart of the same peer.
    assert!(gone >= 100, "{gone}");
    assert!(device.count("transport/connections") <= 2_100);
    assert_eq!(device.count("machine/missed"), 0);
}

#[test]
fn the_death_of_one_application_s_socket_leaves_the_others_alone() {
    let device = Device::new("");
    let mut peer = device.application(7, 5_000);
    let dead = device.application(8, 5_000);
    // What the broker sends to it now comes back as an ICMP message.
    let _ = dead.socket.send(&[0x40, 6, 0, 0, 0xbf, 0xf9]);
    drop(dead);
    for _ in 0..10 {
        assert!(peer.report());
    }
    assert_eq!(device.row(7).reports, 10);
}
