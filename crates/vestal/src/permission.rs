//! `vestal permission create|sign`: lets one device take one bundle below its rollback floor, once.

use std::path::Path;

use bundle::{PERMISSION_MAX, Permission, Reader, Signatures, hex, sha256};
use serde::Serialize;

use crate::{
    cli::{PermissionCreate, PermissionSign},
    error::Error,
    files, keyring, keys,
    output::Output,
    remote,
};

/// What is told of a permission.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    permission: Permission,
    signed_by: Vec<String>,
}

pub(crate) fn create(out: Output, given: &PermissionCreate) -> Result<(), Error> {
    let keys = keys::secrets(&given.key)?;
    let path = &given.bundle;
    let reader = Reader::open(files::open(path)?).map_err(|error| Error::file(path, error))?;
    let components = &reader.manifest().components;
    let found = match (&given.component, &components[..]) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(name), _) => components.iter().find(|component| component.id == *name),
    };
    let Some(component) = found else {
        let names: Vec<&str> = components.iter().map(|component| component.id.as_str()).collect();
        let text = format!("name one of its components with --component: {}", names.join(", "));
        return Err(Error::file(path, text));
    };
    let permission = Permission {
        component: component.id.clone(),
        device: remote::fingerprint(&given.device)?,
        manifest: sha256(reader.manifest_bytes()),
        to_index: component.rollback_index,
    };
    let bytes = permission.encode();
    // Signatures of another permission would only confuse.
    let beside = files::beside(&given.output, "sig");
    if beside.exists() {
        let text = "signatures of another permission: move them and their permission away, or choose another name";
        return Err(Error::file(&beside, text));
    }
    let mut signatures = Signatures::default();
    for key in &keys {
        add(&mut signatures, &bytes, key, &beside)?;
    }
    files::write_new(&given.output, &bytes, files::PUBLIC)?;
    if !keys.is_empty() {
        files::write(&beside, &signatures.encode())?;
    }
    tell(out, permission, &signatures)
}

pub(crate) fn sign(out: Output, given: &PermissionSign) -> Result<(), Error> {
    let bytes = files::read(&given.file, PERMISSION_MAX as u64)?;
    let permission = serde_json::from_slice(&bytes)
        .map_err(|error| Error::file(&given.file, format!("not a permission: {error}")))?;
    let beside = files::beside(&given.file, "sig");
    let mut signatures = keyring::signatures(&given.file)?;
    for key in keys::secrets(&given.key)? {
        add(&mut signatures, &bytes, &key, &beside)?;
    }
    files::write(&beside, &signatures.encode())?;
    tell(out, permission, &signatures)
}

fn add(
    signatures: &mut Signatures,
    bytes: &[u8],
    key: &bundle::SecretKey,
    path: &Path,
) -> Result<(), Error> {
    let added = signatures.add(Permission::sign(bytes, key));
    added.map_err(|refusal| Error::file(path, refusal.text))
}

fn tell(out: Output, permission: Permission, signatures: &Signatures) -> Result<(), Error> {
    let signed_by = signatures.entries().iter().map(|entry| entry.key.to_string()).collect();
    let shown = Shown { permission, signed_by };
    out.either(&shown, || {
        let Permission { component, device, manifest, to_index } = &shown.permission;
        let signed = match &shown.signed_by[..] {
            [] => "not signed: vestal permission sign adds a signature".to_owned(),
            ids => format!("signed by {}", ids.join(" ")),
        };
        format!(
            "{component} may go down to rollback index {to_index}, once\n  device {}\n  bundle {}\n{signed}\n",
            hex::encode(device),
            hex::encode(&manifest[..8])
        )
    })
}
