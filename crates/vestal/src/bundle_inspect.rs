//! `vestal bundle inspect`: what a bundle says of itself, and who says to have signed it. Believes nothing.

use std::{
    fmt::Write as _,
    io::{Read, Seek},
    path::Path,
};

use bundle::{Manifest, Reader, Signatures, hex, sha256};
use serde::Serialize;

use crate::{
    error::Error,
    files,
    output::{Output, size},
};

/// What is told of a bundle.
#[derive(Serialize)]
pub(crate) struct Shown {
    file: String,
    bytes: u64,
    /// SHA-256 of the manifest: what a history names the bundle by.
    id: String,
    signatures: Vec<ShownSignature>,
    manifest: Manifest,
}

#[derive(Serialize)]
struct ShownSignature {
    key: String,
    role: &'static str,
}

pub(crate) fn run(out: Output, path: &Path) -> Result<(), Error> {
    let reader = Reader::open(files::open(path)?).map_err(|error| Error::file(path, error))?;
    let shown = shown(&reader, path);
    out.either(&shown, || shown.text())
}

pub(crate) fn shown<R: Read + Seek>(reader: &Reader<R>, path: &Path) -> Shown {
    let signatures = Signatures::parse(reader.signatures()).unwrap_or_default();
    let signature = |entry: &bundle::Signature| ShownSignature {
        key: entry.key.to_string(),
        role: entry.role.name(),
    };
    Shown {
        file: path.display().to_string(),
        bytes: reader.header().total_len,
        id: hex::encode(&sha256(reader.manifest_bytes())),
        signatures: signatures.entries().iter().map(signature).collect(),
        manifest: reader.manifest().clone(),
    }
}

impl Shown {
    pub(crate) fn text(&self) -> String {
        let manifest = &self.manifest;
        let mut text = format!(
            "{}: {} {} for revision {}, {}\n",
            self.file,
            manifest.product,
            manifest.version,
            manifest.revisions.join(", "),
            size(self.bytes)
        );
        let _ = writeln!(text, "id {}", self.id);
        if let Some(build) = &manifest.build {
            let _ = writeln!(text, "build {build}");
        }
        for row in &manifest.components {
            let _ = writeln!(
                text,
                "  {:<16} {:<12} rollback index {}, {} as {} in {} chunks, sha256 {}",
                row.id,
                row.version,
                row.rollback_index,
                size(row.size),
                size(row.stored),
                row.chunks,
                hex::encode(&row.image_hash)
            );
            for require in &row.requires {
                let _ = writeln!(text, "    requires {}{}", require.component, conditions(require));
            }
        }
        match &self.signatures[..] {
            [] => text.push_str("not signed: vestal bundle sign adds a signature\n"),
            entries => {
                for entry in entries {
                    let _ = writeln!(text, "signed by {} as {}", entry.key, entry.role);
                }
            }
        }
        text
    }
}

fn conditions(require: &bundle::Require) -> String {
    let mut text = String::new();
    if let Some(range) = &require.version {
        let _ = write!(text, " {range}");
    }
    if let Some(least) = require.rollback_index {
        let _ = write!(text, " of rollback index {least} or more");
    }
    if let Some(hash) = &require.image_hash {
        let _ = write!(text, " with sha256 {}", hex::encode(hash));
    }
    text
}
