//! The few special files that an instance needs, made so that nobody who owns their folder can misuse our rights.

use std::{
    fs, io,
    io::Write as _,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, chown},
    },
    path::Path,
};

use rustix::fs::{CWD, FileType, MemfdFlags, Mode, SealFlags, mknodat};

/// A FIFO that belongs to the service, so that it may open `/dev/stdout` itself.
pub(crate) fn make_fifo(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_fifo() => {}
        Ok(_) => {
            fs::remove_file(path)?;
            mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        }
        Err(_) => mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
    }
    match owner {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

/// Makes a file anew in the place of whatever is there: its folder may be the service's own, who could have put a symbolic link
/// to any file of the system there, or a pipe that nobody reads.
pub(crate) fn write_anew(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::File::create_new(path)?.write_all(text.as_bytes())
}

/// A memfd that nobody can change any more.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let memfd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = fs::File::from(memfd);
    file.write_all(bytes)?;
    let memfd = OwnedFd::from(file);
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memfd, seals)?;
    Ok(memfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_never_written_through_what_is_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let pidfile = folder.path().join("a.pid");
        std::os::unix::fs::symlink(&precious, &pidfile).unwrap();
        write_anew(&pidfile, "1\n").unwrap();
        write_anew(&pidfile, "2\n").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&pidfile).unwrap(), "2\n");
        let fifo = folder.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        write_anew(&fifo, "3\n").unwrap();
        assert_eq!(fs::read_to_string(&fifo).unwrap(), "3\n");
    }
}
