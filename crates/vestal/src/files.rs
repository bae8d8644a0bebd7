//! Files: read up to a limit, and written so that a name never stands for half a file.

use std::{
    fs::{DirBuilder, File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use daemon::files::open_plain;
use tempfile::NamedTempFile;

use crate::error::Error;

/// A file that others may read.
pub(crate) const PUBLIC: u32 = 0o666;
/// A file for its owner alone.
pub(crate) const SECRET: u32 = 0o600;

/// A whole file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    open(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read", path, &error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::file(path, format!("longer than {limit} bytes, which no such file is")));
    }
    Ok(bytes)
}

/// A plain file.
pub(crate) fn open(path: &Path) -> Result<File, Error> {
    open_plain(path).map_err(|error| Error::io("open", path, &error))
}

/// The folder that a path's file is in.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// `FILE.sig` of `FILE`, `FILE.pub` of `FILE`.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// A file that gets its name in [`Draft::keep`]; without it, it is removed again (a killed program leaves `.vestal-*`).
pub(crate) struct Draft {
    file: NamedTempFile,
    path: PathBuf,
}

impl Draft {
    /// Beside the file that it will be. `mode` as in open(2): the umask is taken off.
    pub(crate) fn new(path: &Path, mode: u32) -> Result<Self, Error> {
        let file = tempfile::Builder::new()
            .prefix(".vestal-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder(path))
            .map_err(|error| Error::io("create a file beside", path, &error))?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// In place of what has the name now.
    pub(crate) fn keep(self) -> Result<(), Error> {
        self.sync()?;
        let Self { file, path } = self;
        file.persist(&path).map_err(|error| Error::io("write", &path, &error.error))?;
        sync_folder(&path)
    }

    /// Only where nothing has the name.
    pub(crate) fn keep_new(self) -> Result<(), Error> {
        self.sync()?;
        let Self { file, path } = self;
        file.persist_noclobber(&path).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => Error::file(
                &path,
                "is there already and is not overwritten: choose another name, or move it away",
            ),
            _ => Error::io("write", &path, &error.error),
        })?;
        sync_folder(&path)
    }

    fn sync(&self) -> Result<(), Error> {
        self.file.as_file().sync_all().map_err(|error| Error::io("write", &self.path, &error))
    }
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = folder(path);
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Error::io("write", folder, &error))
}

/// Writes a small file, in place of the one that is there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut draft = Draft::new(path, PUBLIC)?;
    draft.file().write_all(bytes).map_err(|error| Error::io("write", path, &error))?;
    draft.keep()
}

/// Writes a small file where there is none.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut draft = Draft::new(path, mode)?;
    draft.file().write_all(bytes).map_err(|error| Error::io("write", path, &error))?;
    draft.keep_new()
}

/// A file without a name, beside the one that is being made: as large as that one, and so on the same disk.
pub(crate) fn scratch(path: &Path) -> Result<File, Error> {
    tempfile::tempfile_in(folder(path))
        .map_err(|error| Error::io("create a file beside", path, &error))
}

/// Makes a folder for its owner alone; one that is there stays as it is.
pub(crate) fn secret_folder(path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Error::io("make the folder", path, &error))
}
