//! One copy of a daemon a run directory: flock(2) on `RUN_DIR/NAME.lock`, with the holder's pid inside.
//!
//! Only its owner may open the file: whoever can read a file can lock it, and would keep the daemon from starting again.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags, flock};
use thiserror::Error;

/// Longest pid that is read from a lock file, with its line end.
const PID_LENGTH: u64 = 16;

/// Holds the lock as long as it lives; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] File);

/// Why the lock could not be had.
#[derive(Debug, Error)]
pub enum LockError {
    #[error("another vestal-{name} (pid {pid}) runs on {}; stop it, or give another --run-dir", .run.display())]
    Held { name: String, pid: String, run: PathBuf },
    #[error("lock {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Lock {
    /// Takes the lock of the daemon `name` below `run`, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] names the process that has it.
    pub fn take(run: &Path, name: &str) -> Result<Self, LockError> {
        Self::with(run, name, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes it as soon as its holder has ended. Blocks the thread.
    ///
    /// # Errors
    /// As [`Lock::take`], but never [`LockError::Held`].
    pub fn wait(run: &Path, name: &str) -> Result<Self, LockError> {
        Self::with(run, name, FlockOperation::LockExclusive)
    }

    fn with(run: &Path, name: &str, operation: FlockOperation) -> Result<Self, LockError> {
        let path = run.join(format!("{name}.lock"));
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(failed)?;
        // The file may be there already, with a mode that somebody else gave it.
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        if let Err(error) = flock(&file, operation) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut pid = Vec::new();
            file.take(PID_LENGTH).read_to_end(&mut pid).map_err(failed)?;
            let pid = match String::from_utf8_lossy(&pid).trim() {
                "" => "unknown".to_owned(),
                pid => pid.to_owned(),
            };
            return Err(LockError::Held { name: name.to_owned(), pid, run: run.to_owned() });
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_copy_is_refused_and_told_who_runs() {
        let run = std::env::temp_dir().join(format!("vestal-lock-{}", std::process::id()));
        std::fs::create_dir_all(&run).unwrap();
        let first = Lock::take(&run, "test").unwrap();
        let error = Lock::take(&run, "test").unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(first);
        Lock::take(&run, "test").unwrap();
        std::fs::remove_dir_all(&run).unwrap();
    }

    #[test]
    fn nobody_else_can_open_the_lock_and_hold_it() {
        let run = std::env::temp_dir().join(format!("vestal-lock-mode-{}", std::process::id()));
        std::fs::create_dir_all(&run).unwrap();
        let path = run.join("test.lock");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let _lock = Lock::take(&run, "test").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(&run).unwrap();
    }

    #[test]
    fn a_symbolic_link_in_the_locks_place_is_not_followed() {
        let run = std::env::temp_dir().join(format!("vestal-lock-link-{}", std::process::id()));
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join("precious"), "precious").unwrap();
        std::os::unix::fs::symlink(run.join("precious"), run.join("test.lock")).unwrap();
        assert!(Lock::take(&run, "test").is_err());
        assert_eq!(std::fs::read_to_string(run.join("precious")).unwrap(), "precious");
        std::fs::remove_dir_all(&run).unwrap();
    }
}
