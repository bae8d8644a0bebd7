//! `vestal keyring create|sign|show`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use bundle::{
    Code, Keyring, MANIFEST_MAX, Role, RoleKeys, Roles, SIGNATURE, SIGNATURES_MAX, Signatures,
};
use serde::Serialize;

use crate::{
    cli::{KeyringCreate, KeyringSign},
    error::Error,
    files, keys,
    output::Output,
};

/// What is told of a keyring.
#[derive(Serialize)]
struct Shown {
    version: u64,
    roles: Vec<ShownRole>,
    signed_by: Vec<String>,
    /// Would a device without a keyring believe it?
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
}

#[derive(Serialize)]
struct ShownRole {
    role: &'static str,
    threshold: u32,
    keys: Vec<String>,
}

pub(crate) fn create(out: Output, given: &KeyringCreate) -> Result<(), Error> {
    let role = |threshold, paths: &[PathBuf]| -> Result<Option<RoleKeys>, Error> {
        let keys = paths.iter().map(|path| keys::public(path)).collect::<Result<Vec<_>, _>>()?;
        Ok((!keys.is_empty()).then(|| RoleKeys::new(threshold, &keys)))
    };
    let root = role(given.root_threshold, &given.root)?;
    let roles = Roles {
        root: root
            .ok_or_else(|| Error::failed("a keyring without root keys: name some with --root"))?,
        bundle: role(given.bundle_threshold, &given.bundle)?,
        operator: role(1, &given.operator)?,
        recovery: role(given.recovery_threshold, &given.recovery)?,
    };
    let keyring = Keyring { version: given.keyring_version, roles };
    keyring.check().map_err(|refusal| Error::failed(refusal.text))?;
    let bytes = keyring.encode();
    // Signatures of another keyring would only confuse.
    let beside = files::beside(&given.output, "sig");
    if beside.exists() {
        let text = "signatures of another keyring: move them and their keyring away, or choose another name";
        return Err(Error::file(&beside, text));
    }
    files::write_new(&given.output, &bytes, files::PUBLIC)?;
    tell(out, &keyring, &bytes, &Signatures::default())
}

pub(crate) fn sign(out: Output, given: &KeyringSign) -> Result<(), Error> {
    let (bytes, keyring) = read(&given.file)?;
    let mut signatures = signatures(&given.file)?;
    for key in keys::secrets(&given.key)? {
        let id = key.public().id();
        if let Some(owner) = keyring.owner(id).filter(|owner| *owner != Role::Root) {
            let text =
                format!("key {id} has role {}, and only root keys sign keyrings", owner.name());
            return Err(Error::file(&given.file, text));
        }
        signatures
            .add(Keyring::sign(&bytes, &key))
            .map_err(|refusal| Error::file(&given.file, refusal.text))?;
    }
    files::write(&files::beside(&given.file, "sig"), &signatures.encode())?;
    tell(out, &keyring, &bytes, &signatures)
}

pub(crate) fn show(out: Output, file: &Path) -> Result<(), Error> {
    let (bytes, keyring) = read(file)?;
    tell(out, &keyring, &bytes, &signatures(file)?)
}

/// A keyring that was named on the command line, and so is believed.
pub(crate) fn read(file: &Path) -> Result<(Vec<u8>, Keyring), Error> {
    let bytes = files::read(file, MANIFEST_MAX as u64)?;
    let keyring = Keyring::parse(&bytes).map_err(|refusal| Error::file(file, refusal.text))?;
    Ok((bytes, keyring))
}

/// Those beside a file; none where there is no such file.
pub(crate) fn signatures(file: &Path) -> Result<Signatures, Error> {
    let path = files::beside(file, "sig");
    if !path.exists() {
        return Ok(Signatures::default());
    }
    let bytes = files::read(&path, (SIGNATURES_MAX * SIGNATURE) as u64)?;
    Signatures::parse(&bytes).map_err(|refusal| Error::file(&path, refusal.text))
}

fn tell(
    out: Output,
    keyring: &Keyring,
    bytes: &[u8],
    signatures: &Signatures,
) -> Result<(), Error> {
    let role = |role: Role| {
        let keys = keyring.role(role)?;
        let ids = keys.keys().map(|key| key.id().to_string()).collect();
        Some(ShownRole { role: role.name(), threshold: keys.threshold, keys: ids })
    };
    let whole = Keyring::verify_first(bytes, &signatures.encode());
    let missing = whole.err().map(|refusal| match refusal.code {
        Code::Unsigned => "no signature: vestal keyring sign adds one".to_owned(),
        _ => refusal.text,
    });
    let shown = Shown {
        version: keyring.version,
        roles: Role::ALL.into_iter().filter_map(role).collect(),
        signed_by: signatures.entries().iter().map(|entry| entry.key.to_string()).collect(),
        complete: missing.is_none(),
        missing,
    };
    out.either(&shown, || {
        let mut text = format!("keyring version {}\n", shown.version);
        for row in &shown.roles {
            let of = format!("{} of {}", row.threshold, row.keys.len());
            let _ = writeln!(text, "  {:<9} {of:<8} {}", row.role, row.keys.join(" "));
        }
        if !shown.signed_by.is_empty() {
            let _ = writeln!(text, "signed by {}", shown.signed_by.join(" "));
        }
        if let Some(missing) = &shown.missing {
            let _ = writeln!(text, "not complete: {missing}");
        }
        text
    })
}
