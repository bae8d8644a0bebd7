//! What the engine leaves in `RUN_DIR/autorun`, on tmpfs, for an engine that comes after it in the same life: `current` (a
//! record, with its seed: 0600), `plan`, and `kept` (how mounts were, and superblocks). Each is replaced whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use daemon::files::open_plain;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::mounts::Mounted;
use crate::{
    journal::{RECORD, Record},
    machine::Plan,
};

const TEXT_MAX: u64 = 1 << 20;

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Notes(PathBuf);

/// What is needed to take something back, or to compare.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Kept {
    /// How what was unmounted had been mounted.
    pub(super) mounts: Vec<Mounted>,
    /// Device, and SHA-256 of its first block.
    pub(super) superblocks: Vec<(PathBuf, [u8; 32])>,
}

impl Notes {
    /// What an earlier boot has left, where the run directory outlives one, is no life of this one: it is forgotten. An image
    /// has the boot with it.
    pub(super) fn open(run: &Path, boot: &str) -> Result<Self, String> {
        let folder = run.join("autorun");
        match fs::DirBuilder::new().mode(0o750).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("{}: {error}", folder.display()));
            }
            _ => {}
        }
        let notes = Self(folder);
        if notes.read("boot")?.as_deref() != Some(boot.as_bytes()) {
            for name in ["current", "plan", "kept"] {
                notes.remove(name)?;
            }
            notes.replace("boot", boot.as_bytes())?;
        }
        Ok(notes)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    /// The record of the life that is under way.
    pub(super) fn current(&self) -> Result<Option<Record>, String> {
        let Some(bytes) = self.read("current")? else { return Ok(None) };
        let told = |why: &str| format!("{}: {why}", self.0.join("current").display());
        let block: [u8; RECORD] =
            bytes.try_into().map_err(|_| told("it has not the length of a record"))?;
        Record::decode(&block).map(Some).map_err(|why| told(&why.to_string()))
    }

    pub(super) fn save_current(&self, record: &Record) -> Result<(), String> {
        self.replace("current", &*record.encode())
    }

    pub(super) fn forget_current(&self) -> Result<(), String> {
        self.remove("current")
    }

    pub(super) fn plan(&self) -> Result<Option<Plan>, String> {
        self.json("plan")
    }

    pub(super) fn save_plan(&self, plan: Option<&Plan>) -> Result<(), String> {
        match plan {
            Some(plan) => self.replace_json("plan", plan),
            None => self.remove("plan"),
        }
    }

    pub(super) fn kept(&self) -> Result<Kept, String> {
        Ok(self.json("kept")?.unwrap_or_default())
    }

    pub(super) fn save_kept(&self, kept: &Kept) -> Result<(), String> {
        self.replace_json("kept", kept)
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let told = |why| format!("{}: {why}", self.0.join(name).display());
        serde_json::from_slice(&bytes).map(Some).map_err(told)
    }

    fn replace_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), String> {
        let json = serde_json::to_vec(value).map_err(|error| format!("{name}: {error}"))?;
        self.replace(name, &json)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        use io::Read as _;
        let path = self.0.join(name);
        let mut bytes = Vec::new();
        match open_plain(&path).and_then(|file| file.take(TEXT_MAX).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let path = self.0.join(name);
        let fresh = self.0.join(format!(".{name}.new"));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&fresh)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|error| format!("{}: {error}", path.display()))
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", path.display()))
            }
            _ => Ok(()),
        }
    }
}
