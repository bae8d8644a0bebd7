//! Any bytes as a request of /dev/cuse: no panic, and what a request contains lies within its bytes. Then the same bytes with a header that
//! is right, so that the operations are reached; and every answer says how long it is.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The binary that it belongs to is no library for others; this file needs nothing else of it.
#[expect(dead_code, reason = "the answers' other half is the service's")]
#[path = "../../services/driver/src/cuse/wire.rs"]
mod wire;

use wire::{IN_HEADER, Operation, Request};

fuzz_target!(|bytes: &[u8]| {
    let _ = Request::parse(bytes);
    let mut whole = bytes.to_vec();
    if whole.len() < IN_HEADER {
        return;
    }
    let length = u32::try_from(whole.len()).expect("the fuzzer's inputs are short");
    whole[..4].copy_from_slice(&length.to_ne_bytes());
    // Fourteen of them are known; others are rarely worth a try.
    if whole[4] < 250 {
        let opcode = match whole[4] % 48 {
            47 => 4096,
            small => u32::from(small),
        };
        whole[4..8].copy_from_slice(&opcode.to_ne_bytes());
    }
    let Ok(request) = Request::parse(&whole) else { return };
    assert_ne!(request.unique, 0, "it is a notice's");
    match request.operation {
        Operation::Write { data, .. } | Operation::Ioctl { data, .. } => {
            assert!(whole.ends_with(data), "what is written is the rest");
            check(&wire::controlled(request.unique, 1, data));
            check(&wire::data(request.unique, data));
        }
        Operation::Open { flags } => check(&wire::opened(request.unique, u64::from(flags))),
        Operation::Poll { waiter, events, .. } => {
            check(&wire::polled(request.unique, events));
            check(&wire::notice(waiter));
        }
        Operation::Init { .. } => {
            if let Ok(answer) = wire::init(request.unique, &String::from_utf8_lossy(bytes)) {
                check(&answer);
            }
        }
        Operation::Read { size, .. } => check(&wire::failed(request.unique, i64::from(size))),
        _ => check(&wire::done(request.unique)),
    }
});

fn check(answer: &[u8]) {
    let length = answer.first_chunk().map(|word| u32::from_ne_bytes(*word));
    assert_eq!(length, u32::try_from(answer.len()).ok());
    let error = answer[4..].first_chunk().map(|word| i32::from_ne_bytes(*word));
    assert!(error.is_some_and(|error| (-511..=1).contains(&error)), "{error:?}");
}
