//! Bytes of version 1. If a test fails here, do not change the files: bundles that people keep have those bytes.

use bundle::{Keyring, Signatures, hex, sha256};

use crate::support::{built, key, keyring, noise, open, text};

const STORED: &[u8] = include_bytes!("../golden/stored.vestal");
const COMPRESSED: &[u8] = include_bytes!("../golden/compressed.vestal");
const KEYRING: &[u8] = include_bytes!("../golden/keyring.json");
const SIGNATURES: &[u8] = include_bytes!("../golden/keyring.json.sig");

#[test]
fn a_bundle_of_version_1_is_built_with_the_same_bytes() {
    let (noise, zeros) = (noise(1, 300), [0; 500]);
    assert_eq!(built(&[("kernel", &noise), ("rootfs", &zeros)]), STORED);
}

#[test]
fn a_bundle_of_version_1_that_another_zstd_compressed_is_read() {
    let mut reader = open(COMPRESSED);
    reader.verify(&keyring(1)).expect("it is signed");
    let mut image = Vec::new();
    reader.check_all(|_, raw| image.extend_from_slice(raw)).expect("it is in order");
    assert_eq!(image, text(3000));
    assert!(COMPRESSED.len() < 1500, "it is compressed");
}

#[test]
fn the_fields_are_where_the_document_says() {
    assert_eq!(STORED[..8], *b"VESTALB1");
    assert_eq!(STORED[8..16], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(STORED[16..24], 76_u64.to_le_bytes());
    assert_eq!(STORED[40..48], (STORED.len() as u64).to_le_bytes());
    assert_eq!(STORED[48..52], [1, 1, 0, 0], "algorithm, role, zeros");
    assert_eq!(STORED[52..60], key(2).public().id().0);
    assert_eq!(STORED[STORED.len() - 300..], noise(1, 300), "the only chunk that is stored");
    let index = &STORED[STORED.len() - 300 - 2 * (32 + 24 + 48)..];
    assert_eq!(index[..32], sha256(&index[32..104]), "the page's hash");
    assert_eq!(index[48..56], [1, 0, 0, 0, 0, 0, 0, 0], "entries, zeros");
    assert_eq!(index[56..88], sha256(&noise(1, 300)), "the chunk's hash");
    assert_eq!(index[88..104], [44, 1, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(index[104 + 88..208], [244, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_keyring_of_version_1_is_written_and_signed_with_the_same_bytes() {
    assert_eq!(keyring(1).encode(), KEYRING);
    let mut signatures = Signatures::default();
    signatures.add(Keyring::sign(KEYRING, &key(1))).expect("it fits");
    assert_eq!(signatures.encode(), SIGNATURES);
    assert_eq!(Keyring::verify_first(KEYRING, SIGNATURES), Ok(keyring(1)));
}

#[test]
fn a_keys_name_is_the_beginning_of_its_fingerprint() {
    let public = key(1).public();
    let named = [&b"VESTAL-KEY-1\0"[..], public.octets()].concat();
    assert_eq!(public.id().to_string(), hex::encode(&sha256(&named)[..8]));
}
