//! Any bytes as a driver's object: an image or a refusal, and an image's functions lie where it says and have room within themselves.
#![no_main]

use hotpatch::{Image, Room};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Image::check(bytes) else { return };
    for function in image.functions() {
        assert!(function.size > 0 && function.offset.checked_add(function.size).is_some());
        if let Room::Patchable { at, length } | Room::Code { at, length } = function.room {
            assert!((at + length) as u64 <= function.size);
        }
    }
});
