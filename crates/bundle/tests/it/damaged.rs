//! A damaged bundle is refused, whichever bit it is.

use std::io::Cursor;

use bundle::{Code, Header, Reader};

use crate::support::{built, built_by, key, keyring, noise, open, part, text};

/// The images, if all is in order.
fn read(bytes: &[u8], threshold: u32) -> Option<Vec<u8>> {
    let mut reader = Reader::open(Cursor::new(bytes)).ok()?;
    reader.verify(&keyring(threshold)).ok()?;
    let mut all = Vec::new();
    reader.check_all(|_, raw| all.extend_from_slice(raw)).ok()?;
    Some(all)
}

#[test]
fn every_flipped_bit_of_header_signatures_manifest_index_and_stored_chunks_is_refused() {
    let (noise, zeros) = (noise(1, 300), [0; 500]);
    let parts = vec![part("kernel", &noise), part("rootfs", &zeros)];
    let (bytes, _) = built_by(parts, &[&key(2), &key(3)], 1).expect("it is built");
    assert!(read(&bytes, 2).is_some());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&flipped, 2).is_none(), "bit {} of byte {}", bit % 8, bit / 8);
    }
}

#[test]
fn a_flipped_bit_of_a_compressed_chunk_is_refused_or_means_the_same() {
    let image = text(3000);
    let bytes = built(&[("kernel", &image)]);
    let data = usize::try_from(open(&bytes).header().data_at()).expect("it is small");
    assert!(bytes.len() - data < 1000, "it is compressed");
    let mut refused = 0;
    for bit in data * 8..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match read(&flipped, 1) {
            Some(same) => assert_eq!(same, image),
            None => refused += 1,
        }
    }
    assert!(refused > (bytes.len() - data) * 7, "{refused} were refused");
}

#[test]
fn lengths_that_are_not_those_of_the_manifest_are_refused_before_anything_is_read() {
    let bytes = built(&[("kernel", &noise(1, 300))]);
    let reader = open(&bytes);
    let (good, manifest) = (*reader.header(), reader.manifest());
    assert_eq!(good.check(manifest), Ok(()));
    let longer = Header { index_len: good.index_len + 1, total_len: good.total_len + 1, ..good };
    let shorter = Header { total_len: good.total_len - 1, ..good };
    for wrong in [longer, shorter] {
        assert_eq!(wrong.check(manifest).unwrap_err().code, Code::BadHeader);
    }
}

#[test]
fn a_bundle_of_another_length_is_refused() {
    let mut bytes = built(&[("kernel", &noise(1, 300))]);
    for length in 0..bytes.len() {
        assert!(Reader::open(Cursor::new(&bytes[..length])).is_err(), "{length} bytes");
    }
    bytes.push(0);
    let error = Reader::open(Cursor::new(&bytes[..])).expect_err("it is refused").to_string();
    assert!(error.contains("the header says") && error.ends_with("(too-long)"), "{error}");
}

#[test]
fn chunks_and_components_cannot_change_places() {
    let (one, other) = (noise(1, 300), noise(2, 300));
    let bytes = built(&[("kernel", &one), ("rootfs", &other)]);
    let data = usize::try_from(open(&bytes).header().data_at()).expect("it is small");
    let mut swapped = bytes[..data].to_vec();
    swapped.extend([&other[..], &one[..]].concat());
    assert_eq!(swapped.len(), bytes.len());
    assert_eq!(read(&swapped, 1), None);
}

#[test]
fn an_image_of_good_chunks_that_is_not_the_signed_one_is_refused() {
    let bytes = built_by(vec![part("kernel", &noise(1, 300))], &[], 1).expect("it is built").0;
    let mut manifest = open(&bytes).manifest().clone();
    manifest.components[0].image_hash = [7; 32];
    let (at, other) = (48, manifest.encode());
    let changed = [&bytes[..at], &other, &bytes[at + other.len()..]].concat();
    let error = open(&changed).check_all(|_, _| {}).expect_err("it is refused").to_string();
    assert!(error.ends_with("(bad-image)"), "{error}");
}

#[test]
fn a_wrong_signature_is_refused_with_a_code_that_says_why() {
    let image = noise(1, 300);
    let code = |keys: &[u8], threshold| {
        let keys: Vec<_> = keys.iter().map(|number| key(*number)).collect();
        let keys: Vec<_> = keys.iter().collect();
        let (bytes, _) = built_by(vec![part("kernel", &image)], &keys, 1).expect("it is built");
        open(&bytes).verify(&keyring(threshold)).map(|_| ()).map_err(|refusal| refusal.code)
    };
    assert_eq!(code(&[2], 1), Ok(()));
    assert_eq!(code(&[9, 3], 1), Ok(()), "a key of tomorrow's keyring does no harm");
    assert_eq!(code(&[], 1), Err(Code::Unsigned));
    assert_eq!(code(&[9], 1), Err(Code::UnknownKey));
    assert_eq!(code(&[2], 2), Err(Code::Threshold));
    assert_eq!(code(&[1], 1), Err(Code::WrongRole));
    assert_eq!(code(&[4], 1), Err(Code::WrongRole));
}
