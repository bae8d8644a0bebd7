//! Beyond 4 GiB: what counts bytes in 32 bits loses them here.

use std::io::{Cursor, Read};

use bundle::{
    Reader,
    build::{Options, Part, build},
};

use crate::support::{key, keyring, noise, outline, part};

#[test]
fn an_image_of_more_than_4_gib_is_built_and_its_last_bytes_are_where_they_belong() {
    let (first, last) = (noise(1, 5000), noise(2, 5000));
    let hole = 4_u64 << 30;
    let size = hole + 10_000;
    let image = first.chain(std::io::repeat(0).take(hole)).chain(&last[..]);
    let sparse = Part { image: Box::new(image), size, ..part("rootfs", &[]) };
    let after = noise(3, 700);
    let (mut scratch, mut output) = (Cursor::new(Vec::new()), Vec::new());
    let mut read = 0;
    let parts = vec![sparse, part("application", &after)];
    let (signer, options) = (key(2), Options::default());
    let keys = [&signer];
    let manifest =
        build(outline(), parts, &keys, options, &mut scratch, &mut output, &mut |bytes| {
            read = bytes
        });
    let manifest = manifest.expect("memory can be written");
    assert_eq!(read, size + 700);
    assert_eq!((manifest.size(), manifest.components[0].size), (size + 700, size));
    assert!(output.len() < 2 << 20, "{} bytes for a hole", output.len());

    let mut reader = Reader::open(Cursor::new(&output[..])).expect("it is a bundle");
    reader.verify(&keyring(1)).expect("it is signed");
    let table = reader.table(0).expect("it is signed");
    let page = reader.page(0, &table, manifest.components[0].pages - 1).expect("it is signed");
    assert_eq!(page.end_target(), size);
    let (chunk, target, stored_at) = page.placed().last().expect("it has one");
    assert!(target > u64::from(u32::MAX));
    let stored = reader.stored(chunk, stored_at).expect("it is there");
    let mut buffer = vec![0; bundle::CHUNK_MAX];
    let raw =
        bundle::decode_chunk(chunk.codec, &stored, chunk.raw_len, &mut buffer).expect("it decodes");
    assert!(raw.ends_with(&last));
}
