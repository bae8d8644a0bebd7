//! Any bytes as a header, as signatures, as a manifest, as a keyring, as a page of an index, as a stored chunk, as a
//! permission, as a range of versions and as a whole bundle: no panic, and what is read is written back as the same bytes
//! or the same meaning.
#![no_main]

use std::{io::Cursor, sync::OnceLock};

use bundle::{
    Codec, HEADER, Header, Keyring, Manifest, Permission, Reader, Role, RoleKeys, Roles, SecretKey, Signatures,
    index::{Page, Wanted},
    version,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(header) = bytes.first_chunk::<HEADER>()
        && let Ok(parsed) = Header::parse(header)
    {
        assert_eq!(parsed.encode(), *header);
    }
    if let Ok(signatures) = Signatures::parse(bytes) {
        assert_eq!(signatures.encode(), bytes);
    }
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(Manifest::parse(&manifest.encode()).expect("it was just written"), manifest);
        let _ = manifest.check_fit("demo", "a1");
        let _ = manifest.check_requires(|_| None);
    }
    if let Ok(keyring) = Keyring::parse(bytes) {
        assert_eq!(Keyring::parse(&keyring.encode()).expect("it was just written"), keyring);
    }
    if let Ok(page) = Page::parse(0, bytes) {
        assert_eq!(page.encode(), bytes);
    }
    let _ = Wanted::parse(bytes, 9);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(range) = version::Range::parse(text)
    {
        let _ = range.contains(text);
    }
    chunk(bytes);
    let _ = bundle::split(bytes);
    let middle = bytes.len() / 2;
    let (one, other) = bytes.split_at(middle);
    assert!(bundle::verify(one, other, keyring(), Role::Bundle).is_err(), "nobody has the key");
    assert!(Permission::verify(one, other, keyring()).is_err(), "nobody has the key");
    if let Ok(mut reader) = Reader::open(Cursor::new(bytes)) {
        let _ = reader.check_all(|_, _| {});
    }
});

fn chunk(bytes: &[u8]) {
    let mut buffer = [0; 4096];
    for codec in [Codec::Store, Codec::Zstd, Codec::Zero] {
        let length = bytes.first().map_or(0, |first| u32::from(*first) * 17);
        let rest = bytes.get(1..).unwrap_or_default();
        if let Ok(raw) = bundle::decode_chunk(codec, rest, length, &mut buffer) {
            assert_eq!(raw.len(), length as usize);
        }
    }
}

fn keyring() -> &'static Keyring {
    static KEYRING: OnceLock<Keyring> = OnceLock::new();
    KEYRING.get_or_init(|| {
        let role = |number| RoleKeys::new(1, &[SecretKey::new(&[number; 32]).public()]);
        let roles =
            Roles { root: role(1), bundle: Some(role(2)), recovery: Some(role(3)), operator: None };
        Keyring { version: 1, roles }
    })
}
