//! `vestal bundle sign`: adds a signature. Only header and signatures change; what is signed stays as it is.

use std::{
    fs::File,
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use bundle::{Header, Reader, Signatures, sign_manifest};

use crate::{
    bundle_inspect,
    cli::BundleSign,
    error::Error,
    files::{self, Draft, PUBLIC},
    keys,
    output::Output,
};

pub(crate) fn run(out: Output, given: &BundleSign) -> Result<(), Error> {
    let keys = keys::secrets(&given.key)?;
    let path = &given.file;
    let wrong = |refusal: bundle::Refusal| Error::file(path, refusal.text);
    let reader = Reader::open(files::open(path)?).map_err(|error| Error::file(path, error))?;
    let mut signatures = Signatures::parse(reader.signatures()).map_err(wrong)?;
    for key in &keys {
        signatures.add(sign_manifest(reader.manifest_bytes(), key)).map_err(wrong)?;
    }
    let output = given.output.as_deref().unwrap_or(path);
    let mut draft = Draft::new(output, PUBLIC)?;
    let old = *reader.header();
    copy(reader.into_inner(), old, &signatures.encode(), draft.file())
        .map_err(|error| Error::io("write", output, &error))?;
    let shown = shown(draft.file(), output)?;
    draft.keep()?;
    out.either(&shown, || shown.text())
}

/// The same bundle with other signatures.
fn copy(mut input: File, old: Header, signatures: &[u8], output: &mut File) -> io::Result<()> {
    let rest = old.total_len - old.manifest_at();
    let signatures_len = signatures.len() as u64;
    let total_len = old.signatures_at() + signatures_len + rest;
    let mut output = BufWriter::new(output);
    output.write_all(&Header { signatures_len, total_len, ..old }.encode())?;
    output.write_all(signatures)?;
    input.seek(SeekFrom::Start(old.manifest_at()))?;
    let copied = io::copy(&mut input.take(rest), &mut output)?;
    output.flush()?;
    if copied == rest {
        Ok(())
    } else {
        Err(io::Error::other("the bundle became shorter meanwhile"))
    }
}

fn shown(file: &mut File, path: &Path) -> Result<bundle_inspect::Shown, Error> {
    let reader = Reader::open(file).map_err(|error| Error::file(path, error))?;
    Ok(bundle_inspect::shown(&reader, path))
}
