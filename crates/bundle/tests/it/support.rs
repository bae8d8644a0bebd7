//! Keys, images and bundles that are the same every time.

use std::{io::Cursor, num::NonZeroUsize};

use bundle::{
    Keyring, Kind, Manifest, Reader, RoleKeys, Roles, SecretKey,
    build::{BuildError, Options, Outline, Part, build},
};

pub(crate) fn key(number: u8) -> SecretKey {
    SecretKey::new(&[number; 32])
}

/// Root 1, bundle 2 and 3 of which so many must sign, recovery 4.
pub(crate) fn keyring(threshold: u32) -> Keyring {
    let role = |threshold, numbers: &[u8]| {
        let keys: Vec<_> = numbers.iter().map(|number| key(*number).public()).collect();
        RoleKeys::new(threshold, &keys)
    };
    let (root, bundle, recovery) = (role(1, &[1]), role(threshold, &[2, 3]), role(1, &[4]));
    let roles = Roles { root, bundle: Some(bundle), recovery: Some(recovery), operator: None };
    Keyring { version: 1, roles }
}

/// Bytes without a pattern, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Lines of text: what zstd likes.
pub(crate) fn text(length: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|line| format!("line {line} of a text\n").into_bytes());
    lines.take(length).collect()
}

pub(crate) fn outline() -> Outline {
    Outline {
        product: "demo-board".to_owned(),
        revisions: vec!["a1".to_owned()],
        version: "2.4.1".to_owned(),
        ..Outline::default()
    }
}

pub(crate) fn part<'p>(id: &str, image: &'p [u8]) -> Part<'p> {
    Part {
        id: id.to_owned(),
        version: "2.4.1".to_owned(),
        rollback_index: 7,
        kind: Kind::Image,
        allow_special: false,
        requires: Vec::new(),
        image: Box::new(image),
        size: image.len() as u64,
    }
}

pub(crate) fn built_by(
    parts: Vec<Part<'_>>,
    keys: &[&SecretKey],
    threads: usize,
) -> Result<(Vec<u8>, Manifest), BuildError> {
    let options =
        Options { threads: NonZeroUsize::new(threads).expect("it is one"), ..Options::default() };
    let (mut scratch, mut output) = (Cursor::new(Vec::new()), Vec::new());
    let manifest = build(outline(), parts, keys, options, &mut scratch, &mut output, &mut |_| {})?;
    Ok((output, manifest))
}

/// A bundle of these images, signed by the key 2.
pub(crate) fn built(images: &[(&str, &[u8])]) -> Vec<u8> {
    let parts = images.iter().map(|(id, image)| part(id, image)).collect();
    built_by(parts, &[&key(2)], 1).expect("memory can be written").0
}

pub(crate) fn open(bytes: &[u8]) -> Reader<Cursor<&[u8]>> {
    Reader::open(Cursor::new(bytes)).expect("it is a bundle")
}
