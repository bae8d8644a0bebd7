//! One copy of a daemon a run directory: flock(2) on `RUN_DIR/NAME.lock`, with the holder's pid inside.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

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
        let path = run.join(format!("{name}.lock"));
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            let pid = if pid.is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
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
}
