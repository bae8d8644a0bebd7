//! Whatever is written can be read again; whatever is read never panics, and takes no more memory than a frame may have.

use proptest::{collection::vec, prelude::*};
use protocol::{
    frame::{self, BODY_MAX, HEADER, Header},
    message::{Call, Event, Goodbye, Hello, Kind, Message, Object, Reply, Welcome},
};

fn round_trip(id: u32, message: &Message<'_>) {
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, id, message).unwrap();
    let (read_id, read, length) = frame::decode(&bytes).unwrap().unwrap();
    assert_eq!((read_id, &read, length), (id, message, bytes.len()));
    for short in (0..bytes.len()).step_by(7) {
        assert_eq!(frame::decode(&bytes[..short]), Ok(None));
    }
}

/// Reads what comes; what is accepted is written back as the same message.
fn read(bytes: &[u8]) {
    if let Ok(Some((id, message, length))) = frame::decode(bytes) {
        assert!(length <= HEADER + BODY_MAX);
        let mut again = Vec::new();
        frame::encode(&mut again, id, &message).unwrap();
        assert_eq!(frame::decode(&again).unwrap().unwrap().1, message);
    }
}

proptest! {
    #[test]
    fn a_call_survives_its_bytes(
        id in 1_u32.., token: u32, generation: u32, grant: u64, method in "[a-zü_]{0,32}",
        deadline_ms: u32, credit: u32, fds in 0_u8..=16, args in vec(any::<u8>(), 0..300),
    ) {
        let call = Call {
            token, generation, grant, method: &method, deadline_ms, credit, fds, args: &args,
        };
        round_trip(id, &Message::Call(call));
    }

    #[test]
    fn answers_and_events_survive_their_bytes(
        id in 1_u32.., fds in 0_u8..=16, data in vec(any::<u8>(), 0..300),
        topic in "[a-z.*]{0,60}", lost: u32,
    ) {
        round_trip(id, &Message::Reply(Reply::Done { fds, result: &data }));
        round_trip(id, &Message::Reply(Reply::Joined { fds }));
        round_trip(id, &Message::Reply(Reply::Failed { failure: &data }));
        round_trip(id, &Message::Chunk(&data));
        round_trip(id, &Message::Credit(lost));
        round_trip(0, &Message::Event(Event { topic: &topic, lost, data: &data }));
    }

    #[test]
    fn the_handshake_survives_its_bytes(
        majors: (u8, u8), minor: u16, features: u64, nonce: [u8; 16],
        objects in vec(("[a-z/]{0,20}", any::<u32>(), any::<u32>(), any::<u64>()), 0..20),
        text in "[a-z ü]{0,100}",
    ) {
        let hello = Hello { min_major: majors.0, max_major: majors.1, minor, features };
        round_trip(0, &Message::Hello(hello));
        round_trip(0, &Message::Goodbye(Goodbye { code: "gone", text: &text }));
        let objects = objects.iter().map(|(name, token, version, hash)| Object {
            name, token: *token, generation: 1, interface: name, version: *version, hash: *hash,
        });
        let objects = objects.collect();
        round_trip(0, &Message::Welcome(Welcome { major: majors.0, minor, features, nonce, objects }));
    }

    #[test]
    fn noise_is_never_a_panic(bytes in vec(any::<u8>(), 0..400)) {
        read(&bytes);
    }

    #[test]
    fn a_good_header_before_noise_is_never_a_panic(
        kind in 1_u8..=11, id: u32, body in vec(any::<u8>(), 0..200),
    ) {
        let kind = Kind::from_number(kind).unwrap();
        let id = if kind.has_id() { id.max(1) } else { 0 };
        let mut bytes = b"VE".to_vec();
        bytes.extend([kind.major(), kind.number()]);
        bytes.extend(id.to_le_bytes());
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        prop_assert!(Header::decode(bytes[..HEADER].try_into().unwrap()).is_ok());
        bytes.extend(&body);
        read(&bytes);
    }
}

#[test]
fn a_length_inside_a_body_is_not_believed() {
    // A Welcome that says it has 2^32 objects, in a body of 28 bytes.
    let mut bytes = b"VE\x01\x03\0\0\0\0".to_vec();
    let mut body = vec![1, 0, 0];
    body.extend([0; 16]);
    body.extend([253, 0, 0, 0, 0, 1, 0, 0, 0]);
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(body);
    assert!(frame::decode(&bytes).is_err());
}
