//! Small files, read and written so that neither a FIFO nor a power cut does harm.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

pub(crate) use daemon::files::{open_plain, read_text};

/// The first `limit` bytes of a text, as far as they are UTF-8.
pub(crate) fn read_beginning(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open_plain(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Replaces files of one folder, made if need be, so that of each either the old or the new content is there, whatever
/// happens. All are written, then synced once, then renamed: a thousand files cost two flushes, not two thousand.
pub(super) fn replace(folder: &Path, files: &[(OsString, String)]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let fresh = |name: &OsString| {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        folder.join(hidden)
    };
    for (name, text) in files {
        fs::write(fresh(name), text)?;
    }
    let opened = File::open(folder)?;
    rustix::fs::syncfs(&opened)?;
    for (name, _) in files {
        fs::rename(fresh(name), folder.join(name))?;
    }
    opened.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_its_folder_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/x.toml");
        let replace = |text: &str| {
            let file = (OsString::from("x.toml"), text.to_owned());
            replace(path.parent().unwrap(), &[file]).unwrap();
        };
        replace("one");
        replace("two");
        assert_eq!(read_text(&path, 3).unwrap(), "two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_long_or_no_plain_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "1234").unwrap();
        assert!(read_text(&path, 3).unwrap_err().to_string().contains("longer than 3 bytes"));
        assert!(read_text(folder.path(), 9).is_err());
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
        assert!(read_text(&fifo, 9).unwrap_err().to_string().contains("plain"));
        assert!(read_beginning(&fifo, 9).unwrap_err().to_string().contains("plain"));
        assert_eq!(read_beginning(&path, 3).unwrap(), "123");
    }
}
