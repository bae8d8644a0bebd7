//! The small files of a host in the run directory: the last exported state, and the last words of a host that ended itself.
//! They are for the next host of the same boot, so they are replaced whole, but not brought to a disk.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use daemon::files::{open_plain, read_text};

use crate::host::machine::states;

const STATE: &str = "state";
const FRESH: &str = "state.new";
const LAST_WORDS: &str = "last-words";
const WORDS_MAX: u64 = 4096;

/// Makes `RUN_DIR/driver/NAME`, where nobody else has to look into.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)
}

pub(super) fn write_state(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = folder.join(FRESH);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&fresh)?;
    io::Write::write_all(&mut file, bytes)?;
    fs::rename(&fresh, folder.join(STATE))
}

/// The file of the state; nothing where there is none.
pub(super) fn read_state(folder: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match open_plain(&folder.join(STATE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(states::FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > states::FILE_MAX {
        return Err(io::Error::other(format!("longer than {} bytes", states::FILE_MAX)));
    }
    Ok(Some(bytes))
}

/// Why this process is about to end itself.
pub(super) fn write_last_words(folder: &Path, words: &str) -> io::Result<()> {
    fs::write(folder.join(LAST_WORDS), words)
}

/// What the host before had to say, once.
pub(super) fn take_last_words(folder: &Path) -> Option<String> {
    let path = folder.join(LAST_WORDS);
    let words = read_text(&path, WORDS_MAX).ok()?;
    // It is told once; a file that can't be removed would be told again, and does no other harm.
    let _ = fs::remove_file(&path);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_replaced_whole_and_none_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("driver/can0");
        make_folder(&at).unwrap();
        assert_eq!(read_state(&at).unwrap(), None);
        write_state(&at, b"first, and longer").unwrap();
        write_state(&at, b"second").unwrap();
        assert_eq!(read_state(&at).unwrap().as_deref(), Some(&b"second"[..]));
    }

    #[test]
    fn last_words_are_told_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(take_last_words(folder.path()), None);
        write_last_words(folder.path(), "a call hangs").unwrap();
        assert_eq!(take_last_words(folder.path()).as_deref(), Some("a call hangs"));
        assert_eq!(take_last_words(folder.path()), None);
    }
}
