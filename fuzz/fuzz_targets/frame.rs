//! Any bytes as frames: no panic, and what is accepted is written back as the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{failure::Failure, frame, message::{Message, Reply}};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((id, message, length))) = frame::decode(rest) {
        let mut again = Vec::new();
        frame::encode(&mut again, id, &message).expect("what was read can be written");
        let (same_id, same, _) = frame::decode(&again).expect("ours").expect("whole");
        assert_eq!((same_id, same), (id, message.clone()));
        if let Message::Reply(Reply::Failed { failure }) = message {
            let _ = serde_json::from_slice::<Failure>(failure);
        }
        rest = &rest[length..];
    }
});
