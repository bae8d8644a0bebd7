//! Key files: one line of text. A secret key is readable by its owner alone.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use bundle::{PublicKey, SecretKey, hex};

use crate::{
    error::Error,
    files::{self, PUBLIC, SECRET},
};

/// What a secret key's file begins with.
const SECRET_HEAD: &str = "VESTAL-SECRET-KEY-1";
/// What a public key's file begins with.
const PUBLIC_HEAD: &str = "VESTAL-PUBLIC-KEY-1";
/// No key file is longer.
const FILE_MAX: u64 = 512;

/// Makes a key of random numbers; writes `path` and `path.pub`, neither of which may be there.
pub(crate) fn make(path: &Path) -> Result<SecretKey, Error> {
    let beside = files::beside(path, "pub");
    if beside.exists() {
        let text =
            "is there already, and belongs to another key: choose another name, or move it away";
        return Err(Error::file(&beside, text));
    }
    let mut seed = [0; 32];
    fill(&mut seed)?;
    let key = SecretKey::new(&seed);
    let line = |head: &str, digits: &str| format!("{head} {digits}\n").into_bytes();
    files::write_new(path, &line(SECRET_HEAD, &hex::encode(key.seed())), SECRET)?;
    let public = line(PUBLIC_HEAD, &key.public().to_string());
    files::write_new(&beside, &public, PUBLIC)?;
    Ok(key)
}

/// Waits, early after a boot, until the kernel has random numbers.
pub(crate) fn fill(seed: &mut [u8; 32]) -> Result<(), Error> {
    let mut filled = 0;
    while filled < seed.len() {
        match rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::failed(format!("get random numbers: {error}"))),
        }
    }
    Ok(())
}

/// Reads a secret key.
pub(crate) fn secret(path: &Path) -> Result<SecretKey, Error> {
    let metadata =
        files::open(path)?.metadata().map_err(|error| Error::io("open", path, &error))?;
    if metadata.mode() & 0o077 != 0 {
        let text = format!("a secret key that others may read: chmod 600 {}", path.display());
        return Err(Error::file(path, text));
    }
    let digits = line(path, SECRET_HEAD, "a secret key; vestal keygen makes one")?;
    let seed = hex::decode(&digits).ok_or_else(|| Error::file(path, "a damaged secret key"))?;
    Ok(SecretKey::new(&seed))
}

/// Reads several.
pub(crate) fn secrets<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<SecretKey>, Error> {
    paths.iter().map(|path| secret(path.as_ref())).collect()
}

/// Reads a public key.
pub(crate) fn public(path: &Path) -> Result<PublicKey, Error> {
    let digits = line(path, PUBLIC_HEAD, "a public key; vestal keygen makes one, ending in .pub")?;
    PublicKey::parse(&digits).ok_or_else(|| Error::file(path, "a damaged public key"))
}

/// What stands behind the head.
fn line(path: &Path, head: &str, wanted: &str) -> Result<String, Error> {
    let bytes = files::read(path, FILE_MAX)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    match text.trim_end().split_once(' ') {
        Some((found, digits)) if found == head => Ok(digits.to_owned()),
        _ => Err(Error::file(path, format!("not {wanted}"))),
    }
}
