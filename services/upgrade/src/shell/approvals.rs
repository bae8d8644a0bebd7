//! What root on the device itself approved: files in `STATE_DIR/upgrade/approved`, which only the writer's user can put there.
//! The network side may say that root calls, and is not believed: an order that only root may give counts where there is a file
//! that names it by the SHA-256 of its data. An approval counts once, and not beyond a restart of the writer.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::PathBuf,
};

use bundle::{hex, sha256};
use protocol::{
    failure::{Code, Failure},
    upgrade::Approval,
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, open, statat, unlinkat};

use super::store::{Folder, sync};

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Approvals(PathBuf);

impl Approvals {
    /// Makes the folder, or empties it: what was approved to a writer that is gone is forgotten.
    ///
    /// # Errors
    /// Where it can't be made or emptied, or others could put something there.
    pub(crate) fn open(state: &Folder) -> io::Result<Self> {
        let path = state.path().join(Approval::FOLDER);
        let told =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => sync(state.path()).map_err(told)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(told(error)),
        }
        let about = fs::symlink_metadata(&path).map_err(told)?;
        if !(about.is_dir() && about.uid() == own_uid() && about.mode() & 0o077 == 0) {
            let text = "is no folder that only the writer's user can open; remove it, and vestal-upgrade makes it";
            return Err(told(io::Error::other(text)));
        }
        for entry in fs::read_dir(&path).map_err(told)? {
            fs::remove_file(entry.map_err(told)?.path()).map_err(told)?;
        }
        Ok(Self(path))
    }

    /// Takes the approval of these bytes away, and with it the right to use it again.
    ///
    /// # Errors
    /// Where there is none, with the cure; then the order is not to be carried out.
    pub(crate) fn take(&self, approval: Approval, data: &[u8]) -> Result<(), Failure> {
        let name = approval.file(&hex::encode(&sha256(data)));
        self.take_file(&name).map_err(|error| {
            let (path, command) = (self.0.join(&name), approval.command());
            let why = match error.kind() {
                ErrorKind::NotFound => "is not there".to_owned(),
                _ => error.to_string(),
            };
            let text = format!(
                "root on the device itself must approve this, and {} {why}: use {command} as root there, with the --state-dir of vestal-upgrade",
                path.display()
            );
            Failure::new(Code::Denied, text)
        })
    }

    fn take_file(&self, name: &str) -> io::Result<()> {
        // What the folder is was looked at when it was opened; it may have been replaced since.
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = File::from(open(&self.0, flags, Mode::empty())?);
        let about = folder.metadata()?;
        if about.uid() != own_uid() || about.mode() & 0o077 != 0 {
            return Err(io::Error::other("counts for nothing: others can open its folder"));
        }
        let about = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_plain = FileType::from_raw_mode(about.st_mode as RawMode) == FileType::RegularFile;
        if !is_plain || about.st_uid != own_uid() {
            return Err(io::Error::other("is no plain file of the writer's user"));
        }
        unlinkat(&folder, name, AtFlags::empty())?;
        folder.sync_all()
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
