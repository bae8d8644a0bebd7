//! Any bytes as Reliable UDP: no panic, what is read is written back as the same segment, and an endpoint that is fed
//! any segments at any times keeps its limits.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use rudp::{
    Config, Dialect, Endpoint, Event, Limits, PacketError,
    packet::{Body, decode, encode},
};

fuzz_target!(|bytes: &[u8]| {
    for dialect in [Dialect::Draft, Dialect::Java] {
        check(&repaired(bytes, dialect), dialect);
    }
    drive(bytes);
});

/// The same octets, with the checksum that they should have had.
fn repaired(bytes: &[u8], dialect: Dialect) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Err(PacketError::Checksum { expected, .. }) = decode(&bytes, dialect) {
        let header = usize::from(bytes[1]);
        bytes[header - 2..header].copy_from_slice(&expected.to_be_bytes());
        let again = decode(&bytes, dialect);
        assert!(!matches!(again, Err(PacketError::Checksum { .. })), "{again:?}");
    }
    bytes
}

fn check(bytes: &[u8], dialect: Dialect) {
    let Ok(packet) = decode(bytes, dialect) else { return };
    let mut written = Vec::new();
    encode(&packet, dialect, &mut written);
    assert!(written.len() <= bytes.len());
    // An auto reset is written without the terms it was read with.
    if !matches!(packet.body, Body::Syn(syn) if syn.reuse) {
        assert_eq!(decode(&written, dialect), Ok(packet));
    }
}

/// Pieces of the input, each behind an octet with its length and two that say when and from whom.
fn drive(mut bytes: &[u8]) {
    let mut config =
        Config { transfer: true, max_outstanding: 4, send_queue: 4, ..Config::draft() };
    config.terms.null_ms = 3_000;
    let limits = Limits { connections: 4, half_open: 2, ..Limits::default() };
    let mut endpoint = Endpoint::new(config, limits, [1, 2]).expect("valid");
    let mut now = moment();
    let mut out = Vec::new();
    while let &[length, wait, from, ref rest @ ..] = bytes {
        let (datagram, rest) = rest.split_at(usize::from(length).min(rest.len()));
        bytes = rest;
        now += Duration::from_millis(u64::from(wait) * 8);
        let address = ([127, 0, 0, 1], 1_000 + u16::from(from % 8)).into();
        let dialect = if from & 0x40 == 0 { Dialect::Draft } else { Dialect::Java };
        endpoint.handle_datagram(address, &repaired(datagram, dialect), now);
        if endpoint.next_deadline().is_some_and(|deadline| deadline <= now) {
            endpoint.handle_timeout(now);
        }
        let mut opened = Vec::new();
        while let Some((handle, event)) = endpoint.poll_event() {
            if event == Event::Opened {
                opened.push(handle);
            }
        }
        for handle in opened {
            let _ = endpoint.send(handle, b"answer", now);
            if from & 0x80 == 0 {
                endpoint.close(handle, now);
            }
        }
        while let Some((_, length)) = endpoint.poll_transmit(&mut out) {
            assert!(length <= usize::from(config.max_segment));
            check(&out, Dialect::Java);
            out.clear();
        }
        assert!(endpoint.len() <= 4 && endpoint.half_open() <= 2);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make an Instant; nothing depends on its value"
)]
fn moment() -> Instant {
    Instant::now()
}
