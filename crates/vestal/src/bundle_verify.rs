//! `vestal bundle verify`: what a device would check, and every chunk besides.

use bundle::{Reader, hex, sha256};
use serde::Serialize;

use crate::{
    cli::BundleVerify,
    error::Error,
    files, keyring,
    output::{Output, size},
    progress::Progress,
};

/// What was found to be in order.
#[derive(Serialize)]
struct Verified {
    file: String,
    id: String,
    /// Keys of the keyring that signed; empty where nobody asked.
    signed_by: Vec<String>,
    chunks: u64,
    size: u64,
    stored: u64,
}

pub(crate) fn run(out: Output, given: &BundleVerify) -> Result<(), Error> {
    let path = &given.file;
    let mut reader = Reader::open(files::open(path)?).map_err(|error| Error::file(path, error))?;
    let signed_by = match &given.keyring {
        Some(file) => {
            let (_, keyring) = keyring::read(file)?;
            let verified = reader.verify(&keyring).map_err(|refusal| Error::file(path, refusal))?;
            verified.keys.iter().map(ToString::to_string).collect()
        }
        None => Vec::new(),
    };
    let mut progress = Progress::new("verify", reader.manifest().size());
    let mut done = 0;
    let checked = reader.check_all(|_, raw| {
        done += raw.len() as u64;
        progress.reach(done);
    });
    drop(progress);
    let checked = checked.map_err(|error| Error::file(path, error))?;
    let verified = Verified {
        file: path.display().to_string(),
        id: hex::encode(&sha256(reader.manifest_bytes())),
        signed_by,
        chunks: checked.chunks,
        size: checked.size,
        stored: checked.stored,
    };
    out.either(&verified, || {
        let signed = match &verified.signed_by[..] {
            [] => "signatures were not checked".to_owned(),
            keys => format!("signed by {}", keys.join(" ")),
        };
        let (chunks, size) = (verified.chunks, size(verified.size));
        format!("{}: in order, {size} in {chunks} chunks; {signed}\n", verified.file)
    })
}
