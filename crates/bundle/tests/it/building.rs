//! What is built is what is read.

use std::io::Cursor;

use bundle::{
    Reader, Role,
    build::{BuildError, Part},
};
use proptest::prelude::*;

use crate::support::{built, built_by, key, keyring, noise, open, part, text};

/// The images of a bundle that is in order.
fn images(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = open(bytes);
    reader.verify(&keyring(1)).expect("it is signed");
    let mut images = vec![Vec::new(); reader.manifest().components.len()];
    let checked = reader.check_all(|component, raw| images[component].extend_from_slice(raw));
    let checked = checked.expect("it is in order");
    assert_eq!(checked.size, reader.manifest().size());
    images
}

#[test]
fn a_large_image_comes_out_as_it_went_in() {
    let large = [noise(1, 3 << 20), vec![0; 2 << 20], text(3 << 20)].concat();
    let small = noise(2, 200_001);
    let bytes = built(&[("rootfs", &large), ("application", &small)]);
    assert_eq!(images(&bytes), [large, small]);
    assert!(bytes.len() < 4 << 20, "zeros and text take next to nothing");
}

#[test]
fn the_same_input_gives_the_same_bytes_whatever_the_number_of_threads() {
    let image = [noise(1, 2 << 20), text(2 << 20)].concat();
    let by = |threads| {
        let parts = vec![part("rootfs", &image), part("application", &image[..999])];
        built_by(parts, &[&key(2)], threads).expect("memory can be written").0
    };
    let one = by(1);
    assert_eq!(one, by(1));
    assert_eq!(one, by(3));
}

#[test]
fn a_signature_can_be_added_until_the_threshold_is_met() {
    let image = noise(1, 1000);
    let (one, _) = built_by(vec![part("kernel", &image)], &[&key(2)], 1).expect("it is built");
    assert_eq!(open(&one).verify(&keyring(2)).unwrap_err().code, bundle::Code::Threshold);
    let (two, _) =
        built_by(vec![part("kernel", &image)], &[&key(2), &key(3)], 1).expect("it is built");
    assert_eq!(open(&two).verify(&keyring(2)).expect("both signed").keys.len(), 2);
    assert_eq!(open(&one).manifest_bytes(), open(&two).manifest_bytes());
}

#[test]
fn an_image_that_changes_while_it_is_read_is_refused() {
    let image = noise(1, 1000);
    let wrong = |size| {
        let part = Part { size, ..part("kernel", &image) };
        built_by(vec![part], &[&key(2)], 1).expect_err("it is refused")
    };
    assert!(matches!(wrong(999), BuildError::Grew { .. }));
    assert!(matches!(wrong(1001), BuildError::Shrank { .. }));
    let none = built_by(vec![part("kernel", &[])], &[&key(2)], 1).expect_err("it is refused");
    assert!(none.to_string().contains("chunks: 0"), "{none}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_images_come_out_as_they_went_in(
        pieces in prop::collection::vec((0_u8..3, 1_usize..150_000, any::<u64>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let piece = |(kind, length, seed): &(u8, usize, u64)| match kind {
            0 => noise(*seed, *length),
            1 => vec![0; *length],
            _ => text(*length),
        };
        let all: Vec<u8> = pieces.iter().flat_map(piece).collect();
        let cut = cut.index(all.len());
        let parts = [("first", &all[..cut]), ("second", &all[cut..])];
        let parts: Vec<_> = parts.into_iter().filter(|(_, image)| !image.is_empty()).collect();
        let wanted: Vec<Vec<u8>> = parts.iter().map(|(_, image)| image.to_vec()).collect();
        prop_assert_eq!(images(&built(&parts)), wanted);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), head in any::<bool>()) {
        if head && bytes.len() >= 48 {
            bytes[..16].copy_from_slice(b"VESTALB1\x01\0\0\0\0\0\0\0");
            bytes[16..40].fill(0);
            bytes[24] = 40;
        }
        if let Ok(mut reader) = Reader::open(Cursor::new(&bytes[..])) {
            let _ = reader.check_all(|_, _| {});
        }
        let _ = bundle::verify(&bytes, &bytes, &keyring(1), Role::Bundle);
        let _ = bundle::Keyring::parse(&bytes);
        let _ = bundle::index::Page::parse(0, &bytes);
        let _ = bundle::split(&bytes);
        let mut buffer = vec![0; 1000];
        for codec in [bundle::Codec::Store, bundle::Codec::Zstd, bundle::Codec::Zero] {
            let _ = bundle::decode_chunk(codec, &bytes, 1000, &mut buffer);
        }
    }
}
