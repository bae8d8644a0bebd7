//! `vestal keygen`: a key, or a whole set for development.

use std::path::Path;

use bundle::{Keyring, RoleKeys, Roles, SecretKey, Signatures, hex};
use serde::Serialize;

use crate::{
    cli::Keygen,
    error::Error,
    files::{self, PUBLIC},
    keys,
    output::Output,
};

/// What was made.
#[derive(Serialize)]
struct Made {
    file: String,
    id: String,
    fingerprint: String,
}

pub(crate) fn run(out: Output, given: &Keygen) -> Result<(), Error> {
    let made = match (&given.file, &given.dev) {
        (Some(file), _) => vec![made(file, &keys::make(file)?)],
        (None, Some(folder)) => set(folder)?,
        (None, None) => Vec::new(),
    };
    out.either(&made, || {
        made.iter().map(|made| format!("{}: key {}\n", made.file, made.id)).collect()
    })
}

fn made(file: &Path, key: &SecretKey) -> Made {
    let public = key.public();
    Made {
        file: file.display().to_string(),
        id: public.id().to_string(),
        fingerprint: hex::encode(&public.fingerprint()),
    }
}

/// A key of each role, `keyring.json` and its signatures.
fn set(folder: &Path) -> Result<Vec<Made>, Error> {
    files::secret_folder(folder)?;
    let mut rows = Vec::new();
    let mut make = |name: &str| {
        let path = folder.join(name);
        let key = keys::make(&path)?;
        rows.push(made(&path, &key));
        Ok::<_, Error>(key)
    };
    let (root, bundle) = (make("root.key")?, make("bundle.key")?);
    let (operator, recovery) = (make("operator.key")?, make("recovery.key")?);
    let one = |key: &SecretKey| RoleKeys::new(1, &[key.public()]);
    let roles = Roles {
        bundle: Some(one(&bundle)),
        operator: Some(one(&operator)),
        recovery: Some(one(&recovery)),
        root: one(&root),
    };
    let keyring = Keyring { version: 1, roles }.encode();
    let mut signatures = Signatures::default();
    let path = folder.join("keyring.json");
    signatures
        .add(Keyring::sign(&keyring, &root))
        .map_err(|refusal| Error::file(&path, refusal))?;
    files::write_new(&path, &keyring, PUBLIC)?;
    files::write_new(&files::beside(&path, "sig"), &signatures.encode(), PUBLIC)?;
    Ok(rows)
}
