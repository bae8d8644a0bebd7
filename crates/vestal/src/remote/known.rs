//! The devices whose keys are known: `devices.json` in `XDG_CONFIG_HOME/vestal`, or in `~/.config/vestal`.

use std::{collections::BTreeMap, env, io, path::PathBuf};

use bundle::PublicKey;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Exit},
    files,
};

const FILE: &str = "devices.json";
const OPERATOR: &str = "operator.key";
/// Thousands of devices fit.
const FILE_MAX: u64 = 4 << 20;

/// What the file says.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    /// By `host:port`.
    pub(super) devices: BTreeMap<String, Pinned>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pinned {
    pub(super) key: PublicKey,
}

/// Where the file and the operator's key are.
fn folder() -> Result<PathBuf, Error> {
    let absolute = |name: &str| {
        let path = PathBuf::from(env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let config = config.ok_or_else(|| {
        Error::failed("there is no place for known devices: set HOME, or XDG_CONFIG_HOME")
    })?;
    Ok(config.join("vestal"))
}

/// The operator's key where none was named.
pub(super) fn operator() -> Result<PathBuf, Error> {
    Ok(folder()?.join(OPERATOR))
}

impl Known {
    /// Nothing is known where there is no file.
    pub(super) fn load() -> Result<Self, Error> {
        let path = folder()?.join(FILE);
        let bytes = match files::read(&path, FILE_MAX) {
            Err(error) if error.exit == Exit::NotFound => return Ok(Self::default()),
            bytes => bytes?,
        };
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::file(&path, format!("{error}; repair it, or move it away and trust anew"))
        })
    }

    pub(super) fn save(&self) -> Result<(), Error> {
        let folder = folder()?;
        files::secret_folder(&folder)?;
        let path = folder.join(FILE);
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::io("write", &path, &io::Error::other(error)))?;
        bytes.push(b'\n');
        files::write(&path, &bytes)
    }

    /// # Errors
    /// How to make it known.
    pub(super) fn pinned(&self, device: &str) -> Result<PublicKey, Error> {
        let known = self.devices.get(device).map(|pinned| pinned.key);
        known.ok_or_else(|| {
            let text = format!("the key of {device} is not known: vestal trust add {device}");
            Error::new(Exit::NotFound, text)
        })
    }
}
