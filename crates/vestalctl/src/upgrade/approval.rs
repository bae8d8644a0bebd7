//! Approves what only root may ask for, by a file in the state directory: the agent's writer does not take the word of the process
//! that hears us, which hears the network too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use bundle::{hex, sha256};
use daemon::{options::Options, places::Places};
use protocol::upgrade::{self, Status};
use serde_json::json;

use super::ask;
use crate::{
    bus::{Bus, How},
    cli::Common,
    error::Error,
};

/// A file that says that root wants this; gone when it is dropped, whether the writer has used it or not.
pub(super) struct Approval<'b> {
    bus: &'b Bus,
    file: PathBuf,
    fresh: PathBuf,
}

impl<'b> Approval<'b> {
    /// Finds out where the agent looks; nothing is approved yet.
    ///
    /// # Errors
    /// There is no place for its state.
    pub(super) fn of(
        bus: &'b Bus,
        common: &Common,
        what: upgrade::Approval,
        data: &[u8],
    ) -> Result<Self, Error> {
        let mut options = Options::default();
        options.run_dir.clone_from(&common.run_dir);
        options.state_dir.clone_from(&common.state_dir);
        let places = Places::locate(&options).map_err(|error| Error::usage(error.to_string()))?;
        let folder = places.state.join("upgrade").join(upgrade::Approval::FOLDER);
        let name = what.file(&hex::encode(&sha256(data)));
        let fresh = folder.join(format!(".{name}.{}", std::process::id()));
        Ok(Self { bus, file: folder.join(name), fresh })
    }

    /// Approves it once more. Where the agent has no such folder it is asked all the same, and says what is wrong.
    ///
    /// # Errors
    /// Only root may.
    pub(super) async fn give(&self) -> Result<(), Error> {
        // Once it answers, its writer has made the folder, or emptied it. Where it doesn't, the call itself will say so.
        let _ = ask::<_, Status>(self.bus, "status", &json!({}), How::READ).await;
        match self.write() {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let path = self.file.display();
                let cure = match error.kind() {
                    ErrorKind::PermissionDenied => "; only root on the device may approve this",
                    _ => "",
                };
                Err(Error::failed(format!("approve it by {path}: {error}{cure}")))
            }
            _ => Ok(()),
        }
    }

    fn write(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.fresh)?;
        file.sync_all()?;
        fs::rename(&self.fresh, &self.file)?;
        self.file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

impl Drop for Approval<'_> {
    fn drop(&mut self) {
        for path in [&self.fresh, &self.file] {
            // The writer has taken it most of the time; where it can't be taken away it is forgotten at the agent's next start.
            let _ = fs::remove_file(path);
        }
    }
}
