//! The small files of `STATE_DIR/upgrade`: each replaced whole, durable when the call returns.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use daemon::files::open_plain;
use rustix::fs::{FlockOperation, flock};

use super::devices::Plain;
use crate::{disk::Store, engine::contract::Record, records::RECORDS};

const LOCK: &str = "writer.lock";

/// The folder. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// # Errors
    /// Where it can't be made.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(path)
            .map_err(|error| told(path, &error))?;
        Ok(Self(path.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The right to write slots: one process at a time has it, for as long as it keeps the file.
    ///
    /// # Errors
    /// Another one has it.
    pub(crate) fn lock(&self) -> io::Result<File> {
        let path = self.0.join(LOCK);
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| told(&path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(error) => {
                let text =
                    format!("{}: another writer is at work: {error}; end it first", path.display());
                Err(io::Error::new(ErrorKind::WouldBlock, text))
            }
        }
    }

    /// A file of two records, made with its full length where there is none, so that a full disk can't stop it later.
    ///
    /// # Errors
    /// Where it can't be made or opened.
    pub(crate) fn record(&self, record: Record) -> io::Result<Plain> {
        let name = match record {
            Record::Journal => "journal",
            Record::Active => "active",
            Record::Floor => "floor",
        };
        let path = self.0.join(name);
        let open = || {
            let mut options = OpenOptions::new();
            let file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            let length = file.metadata()?.len();
            if length < RECORDS {
                // Real zeros, not a hole: their place on the disk is taken now.
                let missing = usize::try_from(RECORDS - length).unwrap_or(0);
                std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; missing], length)?;
                file.sync_all()?;
                sync(&self.0)?;
            }
            Plain::new(file)
        };
        open().map_err(|error| told(&path, &error))
    }
}

impl Store for Folder {
    fn read(&mut self, name: &str, limit: usize) -> io::Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        let file = match open_plain(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(told(&path, &error)),
        };
        let mut bytes = Vec::new();
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        file.take(most.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| told(&path, &error))?;
        match bytes.len() > limit {
            true => Err(told(&path, &io::Error::other(format!("longer than {limit} bytes")))),
            false => Ok(Some(bytes)),
        }
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, new) = (self.0.join(name), self.0.join(format!(".{name}.new")));
        let write = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync(&self.0)
        };
        write().map_err(|error| {
            // What is half written would take the room that is missing.
            let _ = fs::remove_file(&new);
            told(&path, &error)
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Ok(()) => sync(&self.0),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(told(&path, &error)),
        }
    }
}

/// Makes what was renamed, made or removed in a folder durable.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    let cure = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; free some space on the disk of the state directory"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "; the state directory must be on a disk that can be written"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("{}: {error}{cure}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk as _;

    #[test]
    fn a_file_is_replaced_whole_read_within_its_limit_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Folder::open(&folder.path().join("upgrade")).unwrap();
        assert_eq!(store.read("x", 10).unwrap(), None);
        store.replace("x", b"first one").unwrap();
        store.replace("x", b"second").unwrap();
        assert_eq!(store.read("x", 10).unwrap().as_deref(), Some(&b"second"[..]));
        let told = store.read("x", 5).unwrap_err().to_string();
        assert!(told.contains("/upgrade/x: longer than 5 bytes"), "{told}");
        store.remove("x").unwrap();
        store.remove("x").unwrap();
        assert_eq!(store.read("x", 10).unwrap(), None);
        assert_eq!(fs::read_dir(&store.0).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn records_have_their_room_from_the_beginning_and_one_that_was_cut_is_completed() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        fs::write(folder.path().join("journal"), [7; 100]).unwrap();
        let mut disk = store.record(Record::Journal).unwrap();
        assert_eq!(disk.len(), RECORDS);
        let mut bytes = [1; 101];
        assert_eq!(disk.read_at(0, &mut bytes).unwrap(), 101);
        assert_eq!((bytes[99], bytes[100]), (7, 0));
    }

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        let first = store.lock().unwrap();
        assert!(store.lock().unwrap_err().to_string().contains("another writer"));
        drop(first);
        store.lock().unwrap();
    }
}
