//! `RUN_DIR/registry/state`: what the next registry has to know, replaced as a whole and for nobody else to read.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::machine::Saved;

/// A device's is some tens of kilobytes.
const MAX: u64 = 16 << 20;

/// The file; written often, read once.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    /// It could not be written, and that was said.
    failing: bool,
}

impl StateFile {
    pub(super) fn new(run_dir: &Path) -> Self {
        let folder = run_dir.join("registry");
        match DirBuilder::new().mode(0o750).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                tracing::warn!("make {}: {error}", folder.display());
            }
            _ => {}
        }
        Self { path: folder.join("state"), failing: false }
    }

    /// What the last registry left; nothing where there was none, or where it makes no sense.
    pub(super) fn read(&self) -> Option<Saved> {
        let opened = OpenOptions::new().read(true).custom_flags(no_link()).open(&self.path);
        let mut text = Vec::new();
        let read = opened.and_then(|file| file.take(MAX).read_to_end(&mut text));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("read {}: {error}; handles are numbered anew", self.path.display());
                return None;
            }
        }
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                let path = self.path.display();
                tracing::warn!("{path} is not understood: {error}; handles are numbered anew");
            })
            .ok()
    }

    /// Replaces it. No fsync: the run directory doesn't outlive the kernel that has these bytes already.
    pub(super) fn write(&mut self, saved: &Saved) {
        match self.replace(saved) {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                let path = self.path.display();
                tracing::error!(
                    "write {path}: {error}; a restart of the registry would be noticed"
                );
            }
            Err(_) => {}
        }
    }

    fn replace(&self, saved: &Saved) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(no_link())
            .open(&new)?;
        file.write_all(&serde_json::to_vec(saved)?)?;
        fs::rename(&new, &self.path)
    }
}

fn no_link() -> i32 {
    OFlags::NOFOLLOW.bits().cast_signed()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_for_nobody_else_to_read() {
        let run = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(run.path());
        assert_eq!(file.read(), None);
        let saved: Saved =
            serde_json::from_value(json!({ "next": "7.8", "policy": 3, "endpoints": [] })).unwrap();
        file.write(&saved);
        assert_eq!(StateFile::new(run.path()).read(), Some(saved));
        let mode = fs::metadata(run.path().join("registry/state")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_torn_or_foreign_file_counts_as_none() {
        let run = tempfile::tempdir().unwrap();
        let file = StateFile::new(run.path());
        for text in ["", "{", "{\"next\": \"7\"}"] {
            fs::write(run.path().join("registry/state"), text).unwrap();
            assert_eq!(file.read(), None, "{text}");
        }
    }
}
