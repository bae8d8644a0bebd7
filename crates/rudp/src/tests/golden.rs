//! Octets computed from the draft, and a session captured between two Java peers.
//! If a test fails here, do not edit the example: a deployed peer speaks those bytes.

use crate::{
    Config, PacketError,
    packet::{Body, Dialect, Packet, Syn, Terms, Transfer, decode, encode},
};

pub(super) fn octets(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().as_chunks::<2>().0;
    let octet = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.iter().map(octet).collect()
}

fn check(hex: &str, dialect: Dialect, packet: Packet<'_>) {
    let bytes = octets(hex);
    assert_eq!(decode(&bytes, dialect), Ok(packet), "reading {hex}");
    let mut written = Vec::new();
    encode(&packet, dialect, &mut written);
    assert_eq!(written, bytes, "writing {hex}");
}

fn draft_syn() -> Syn {
    Config::draft().syn(Dialect::Draft, Config::draft().terms, 0xc0ff_ee01)
}

#[test]
fn every_segment_of_the_draft_has_its_octets() {
    let payload = b"HB00000000";
    let check = |hex: &str, number, acknowledged, body| {
        check(hex, Dialect::Draft, Packet { number, acknowledged, body });
    };
    check(
        "801c64001020800005780258012c07d003e802030303c0ffee01c306",
        0x64,
        None,
        Body::Syn(draft_syn()),
    );
    check(
        "c01cb1641020800005780258012c07d003e802030303c0ffee0135a2",
        0xb1,
        Some(0x64),
        Body::Syn(draft_syn()),
    );
    check("400665b15a48", 0x65, Some(0xb1), Body::Acknowledgement);
    check(
        "400665b15a484842303030303030",
        0x65,
        Some(0xb1),
        Body::Data { payload: &payload[..8], covered: false },
    );
    check(
        "440665b17d754842303030303030",
        0x65,
        Some(0xb1),
        Body::Data { payload: &payload[..8], covered: true },
    );
    check(
        "440665b17da548423030303030",
        0x65,
        Some(0xb1),
        Body::Data { payload: &payload[..7], covered: true },
    );
    check("480666b15148", 0x66, Some(0xb1), Body::Null);
    check("1006670088f9", 0x67, None, Body::Reset);
    check("500667b14848", 0x67, Some(0xb1), Body::Reset);
    check("6007b267698490", 0xb2, Some(0x67), Body::Extended(&[0x69]));
    check("6008b267696a8425", 0xb2, Some(0x67), Body::Extended(&[0x69, 0x6a]));
    check("6009b267696a6b1924", 0xb2, Some(0x67), Body::Extended(&[0x69, 0x6a, 0x6b]));
    check(
        "420c68b10500c0ffee01a140",
        0x68,
        Some(0xb1),
        Body::Transfer(Transfer { adjustment: 5, connection_id: 0xc0ff_ee01 }),
    );
}

#[test]
fn an_auto_reset_leaves_out_what_stays() {
    let bytes = octets("801c09001020a00000000000000007d003e800000000c0ffee010c09");
    let packet = decode(&bytes, Dialect::Draft).unwrap();
    let Body::Syn(syn) = packet.body else { panic!("{packet:?}") };
    assert!(syn.reuse);
    assert_eq!((syn.max_outstanding, syn.connection_id), (32, 0xc0ff_ee01));
    assert_eq!((syn.terms.null_ms, syn.terms.transfer_ms), (2_000, 1_000));
    // Whatever its terms are, an auto reset is written without them.
    let reset = Packet {
        number: 9,
        acknowledged: None,
        body: Body::Syn(Syn { reuse: true, ..draft_syn() }),
    };
    let mut written = Vec::new();
    encode(&reset, Dialect::Draft, &mut written);
    assert_eq!(written, bytes);
}

#[test]
fn the_default_syn_reads_the_same_at_the_places_where_java_looks() {
    let config = Config::default();
    let body = Body::Syn(config.syn(Dialect::Draft, config.terms, 1));
    let mut bytes = Vec::new();
    encode(&Packet { number: 0, acknowledged: None, body }, Dialect::Draft, &mut bytes);
    // Retransmissions, acknowledgements, out of sequence, auto resets: first as the draft has them, then as Java does.
    assert_eq!(bytes[18..22], [3, 3, 3, 3]);
    assert_eq!(bytes[16..20], [3, 3, 3, 3]);
    let heartbeat = Config::heartbeat(2_000);
    let body = Body::Syn(heartbeat.syn(Dialect::Draft, heartbeat.terms, 1));
    bytes.clear();
    encode(&Packet { number: 0, acknowledged: None, body }, Dialect::Draft, &mut bytes);
    assert_eq!(bytes[16..18], [15, 3]);
}

#[test]
fn a_session_between_java_peers_is_read_and_written() {
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
    let syn = Syn {
        dialect: Dialect::Java,
        max_outstanding: 3,
        max_segment: 128,
        reuse: false,
        terms,
        connection_id: 0,
    };
    let read = |hex: &str| {
        let bytes = octets(hex);
        let packet = decode(&bytes, Dialect::Java).unwrap();
        (packet.number, packet.acknowledged, format!("{:?}", packet.body))
    };
    let syn_text = format!("{:?}", Body::Syn(syn));
    // Where its ACK flag is not set, the acknowledgement is ff, which is not written but read.
    assert_eq!(read("80162cff1003010000800258012c07d0000303030000"), (44, None, syn_text));
    let check = |hex: &str, number, acknowledged, body| {
        check(hex, Dialect::Java, Packet { number, acknowledged, body });
    };
    check("c0160b2c1003010000800258012c07d0000303030000", 11, Some(44), Body::Syn(syn));
    check("40060c0b0000", 12, Some(11), Body::Acknowledgement);
    assert_eq!(read("08062dff0000"), (45, None, "Null".to_owned()));
    check("40062e2d0000", 46, Some(45), Body::Acknowledgement);
    let payload = b"HB000000";
    check("40062e0c00004842303030303030", 46, Some(12), Body::Data { payload, covered: false });
    assert_eq!(read("020635ff0000"), (53, None, "Finish".to_owned()));
    check("400636350000", 54, Some(53), Body::Acknowledgement);
}

#[test]
fn a_java_syn_is_told_by_its_length_alone() {
    let bytes = octets("80162cff1003010000800258012c07d0000303030000");
    let packet = decode(&bytes, Dialect::Draft).unwrap();
    assert!(matches!(packet.body, Body::Syn(syn) if syn.dialect == Dialect::Java));
}

#[test]
fn zero_as_a_checksum_is_only_believed_from_java() {
    let bytes = octets("40060c0b0000");
    assert!(matches!(decode(&bytes, Dialect::Draft), Err(PacketError::Checksum { .. })));
    let wrong = octets("40060c0b0001");
    assert!(matches!(decode(&wrong, Dialect::Java), Err(PacketError::Checksum { .. })));
}
