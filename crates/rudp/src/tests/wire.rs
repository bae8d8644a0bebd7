//! The decoder against everything that is not a segment.

use proptest::{collection::vec, prelude::*};

use super::golden::octets;
use crate::{
    PacketError,
    packet::{Body, Dialect, Packet, decode, encode},
};

const SEGMENTS: &[&str] = &[
    "801c64001020800005780258012c07d003e802030303c0ffee01c306",
    "c01cb1641020800005780258012c07d003e802030303c0ffee0135a2",
    "400665b15a48",
    "440665b17d754842303030303030",
    "440665b17da548423030303030",
    "480666b15148",
    "1006670088f9",
    "500667b14848",
    "6007b267698490",
    "6008b267696a8425",
    "6009b267696a6b1924",
    "420c68b10500c0ffee01a140",
];

#[test]
fn a_single_flipped_bit_is_always_found() {
    for hex in SEGMENTS {
        let bytes = octets(hex);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, Dialect::Draft).is_err(), "bit {bit} of {hex}");
        }
    }
}

#[test]
fn every_cut_is_an_error_but_for_data_that_is_not_covered() {
    for hex in SEGMENTS {
        let bytes = octets(hex);
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], Dialect::Draft).is_err(), "{length} octets of {hex}");
        }
    }
    assert!(decode(&octets("400665b15a4848"), Dialect::Draft).is_ok());
}

/// A segment with these first octets, and a checksum that is right.
fn with(flags: u8, header: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[0] = flags;
    bytes[1] = header;
    if length > 4 {
        bytes[4] = 0x10;
    }
    let header = usize::from(header);
    if header >= 6 && header <= length {
        bytes[header - 2..header].fill(0);
        let mut sum = 0_u32;
        for pair in bytes[..header].chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let value = !u16::try_from(sum).unwrap();
        bytes[header - 2..header].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

#[test]
fn only_the_drafts_flags_and_header_lengths_are_segments() {
    let base = [(0x40, 6), (0x48, 6), (0x10, 6), (0x50, 6), (0x02, 12), (0x42, 12)];
    let syn = [(0x80, 28), (0xc0, 28), (0x80, 22), (0xc0, 22)];
    for flags in 0..=u8::MAX {
        for header in 0..=64 {
            let bytes = with(flags, header, 64.max(usize::from(header)));
            let exact = &bytes[..usize::from(header).max(6)];
            let plain = flags & !0x04;
            let known = base.contains(&(plain, header))
                || syn.contains(&(plain, header))
                || (plain == 0x60 && header >= 7);
            assert_eq!(
                decode(exact, Dialect::Draft).is_ok(),
                known,
                "flags {flags:#04x} header {header}"
            );
        }
    }
}

#[test]
fn user_data_is_refused_where_the_draft_forbids_it() {
    for (flags, header) in [(0x80, 28), (0x48, 6), (0x50, 6), (0x60, 7), (0x42, 12)] {
        let bytes = with(flags, header, usize::from(header) + 1);
        assert_eq!(decode(&bytes, Dialect::Draft), Err(PacketError::Payload { length: 1 }));
    }
}

#[test]
fn another_version_is_refused() {
    for version in [0_u8, 2, 15] {
        let mut bytes = with(0x80, 28, 28);
        let old = bytes[4];
        bytes[4] = version << 4;
        let sum = u16::from_be_bytes([bytes[26], bytes[27]]);
        // Ones' complement: what the octet lost, the checksum gains.
        let difference = (i32::from(old) - i32::from(bytes[4])) * 256;
        let value = (i32::from(sum) + difference).rem_euclid(0xffff);
        bytes[26..].copy_from_slice(&u16::try_from(value).unwrap().to_be_bytes());
        assert_eq!(decode(&bytes, Dialect::Draft), Err(PacketError::Version { version }));
    }
}

#[test]
fn ones_are_read_as_zero_where_the_sum_is_zero() {
    // 4006 + bff9 = ffff, so the checksum is 0.
    assert!(decode(&octets("4006bff90000"), Dialect::Draft).is_ok());
    assert!(decode(&octets("4006bff9ffff"), Dialect::Draft).is_ok());
}

#[test]
fn a_sum_that_carries_twice_is_folded_twice() {
    let payload = [0xff; 600];
    let body = Body::Data { payload: &payload, covered: true };
    let packet = Packet { number: 0xff, acknowledged: Some(0xff), body };
    let mut bytes = Vec::new();
    encode(&packet, Dialect::Draft, &mut bytes);
    assert_eq!(decode(&bytes, Dialect::Draft), Ok(packet));
}

proptest! {
    #[test]
    fn random_octets_never_panic_and_what_is_read_can_be_written(
        bytes in vec(any::<u8>(), 0..300),
        flags in any::<u8>(),
        header in 0_u8..40,
        fixed in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if fixed && bytes.len() > 40 {
            let made = with(flags, header, 40);
            bytes[..2].copy_from_slice(&made[..2]);
        }
        for dialect in [Dialect::Draft, Dialect::Java] {
            if let Ok(packet) = decode(&bytes, dialect) {
                let mut again = Vec::new();
                encode(&packet, dialect, &mut again);
                let written = match packet.body {
                    Body::Syn(syn) if syn.reuse => continue,
                    _ => decode(&again, dialect),
                };
                prop_assert_eq!(written, Ok(packet));
            }
        }
    }
}
