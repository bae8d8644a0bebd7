//! Says when the policy folder may have changed, by inotify. Reads no file.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

/// Room for some events; more are read in turn.
const BUFFER: usize = 4096;

/// Watches the folder, and the one above it for the case that the folder itself comes or goes.
#[derive(Debug)]
pub(super) struct Watcher {
    inotify: AsyncFd<OwnedFd>,
    folder: PathBuf,
    /// Of the folder above.
    above: Option<i32>,
}

impl Watcher {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let inotify = super::watched(inotify)?;
        let mut watcher = Self { inotify, folder: folder.to_owned(), above: None };
        watcher.look();
        Ok(watcher)
    }

    /// Watches what is there now; what isn't can't be watched.
    fn look(&mut self) {
        let entries = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        let contents = WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB;
        let inotify = self.inotify.get_ref();
        self.above =
            self.folder.parent().and_then(|above| inotify::add_watch(inotify, above, entries).ok());
        // Absent is no error: the folder above tells when it comes.
        let _ = inotify::add_watch(inotify, &self.folder, entries | contents);
    }

    /// Returns when something changed.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let relevant = drain(self.inotify.get_ref(), &self.folder, self.above);
            ready.clear_ready();
            drop(ready);
            if relevant? {
                self.look();
                return Ok(());
            }
        }
    }
}

/// Takes all events; whether one of them is about the folder.
fn drain(inotify: &OwnedFd, folder: &Path, above: Option<i32>) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut relevant = false;
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| name.to_bytes());
                let own = folder.file_name().map(std::ffi::OsStr::as_encoded_bytes);
                // The folder above has other things in it.
                relevant |= Some(event.wd()) != above || name == own;
            }
            Err(Errno::WOULDBLOCK) => return Ok(relevant),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    async fn changes(watcher: &mut Watcher) -> bool {
        tokio::time::timeout(Duration::from_secs(10), watcher.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_folder_that_comes_and_its_files_are_seen_and_its_neighbours_are_not() {
        let config = tempfile::tempdir().unwrap();
        let folder = config.path().join("policy.d");
        let mut watcher = Watcher::new(&folder).unwrap();
        fs::write(config.path().join("other.toml"), "").unwrap();
        fs::create_dir(&folder).unwrap();
        assert!(changes(&mut watcher).await);
        fs::write(folder.join("a.toml"), "").unwrap();
        assert!(changes(&mut watcher).await);
        fs::remove_file(folder.join("a.toml")).unwrap();
        assert!(changes(&mut watcher).await);
        fs::write(config.path().join("third.toml"), "").unwrap();
        let seen = tokio::time::timeout(Duration::from_millis(50), watcher.changed()).await;
        assert!(seen.is_err(), "a neighbour is no change");
    }
}
