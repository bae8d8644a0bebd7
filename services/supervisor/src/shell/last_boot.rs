//! Why the boot before this one ended: a small file that survives the reboot says how far it had come, and the watchdog's
//! driver whether it was him. Only PID 1 keeps it. A torn file, or one that can't be read, is no reason for anything.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use protocol::{
    keeper::ShutdownKind,
    system::{Cause, Reset},
};
use serde::{Deserialize, Serialize};

use crate::{machine::Ending, settings::files::read_text};

const NAME: &str = "boot";
const FILE_MAX: u64 = 64 << 10;

/// What the file says: whose boot it is about, and whether that was told to end.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Kept {
    boot_id: String,
    state: State,
    /// `reboot`, `poweroff`, `halt`, `exit`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<Cause>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Running,
    Ended,
}

/// The file, and who writes it. A disk that hangs holds up neither the boot nor, for long, the end.
#[derive(Debug)]
pub(super) struct LastBoot {
    folder: PathBuf,
    boot_id: String,
    /// Closed when the last write is over.
    writing: Option<Receiver<()>>,
}

impl LastBoot {
    /// The file in `STATE_DIR/supervisor`.
    pub(super) fn new(state: &Path, boot_id: String) -> Self {
        Self { folder: state.join("supervisor"), boot_id, writing: None }
    }

    /// Why the boot before this one ended; before [`LastBoot::running`].
    pub(super) fn reset(&self, by_watchdog: bool) -> Reset {
        reset(read(&self.folder.join(NAME)), &self.boot_id, by_watchdog)
    }

    /// From now on an end that nobody announces is a crash.
    pub(super) fn running(&mut self) {
        self.write(Kept {
            boot_id: self.boot_id.clone(),
            state: State::Running,
            kind: String::new(),
            cause: None,
            reason: String::new(),
        });
    }

    /// Everything is being stopped, because of this.
    pub(super) fn ended(&mut self, kind: ShutdownKind, ending: &Ending) {
        self.write(Kept {
            boot_id: self.boot_id.clone(),
            state: State::Ended,
            kind: format!("{kind:?}").to_lowercase(),
            cause: Some(ending.cause),
            reason: ending.reason.clone(),
        });
    }

    /// Waits until what was to be written is written.
    pub(super) fn finish(&mut self, limit: Duration) {
        if let Some(writing) = self.writing.take()
            && writing.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
        {
            tracing::error!(
                "{}: not written within {} s, so the next boot will not know why this one ended",
                self.folder.join(NAME).display(),
                limit.as_secs()
            );
        }
    }

    /// Beside the loop, one after the other.
    fn write(&mut self, kept: Kept) {
        let (over, writing) = channel();
        let before = self.writing.replace(writing);
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || {
            // Nothing is ever sent: it ends when the write before has ended.
            let _ = before.map(|before| before.recv());
            if let Err(error) = replace(&folder, &kept) {
                tracing::error!(
                    "{}: {error}; the next boot will not know why this one ended",
                    folder.join(NAME).display()
                );
            }
            drop(over);
        });
    }
}

fn read(path: &Path) -> Result<Option<Kept>, String> {
    match read_text(path, FILE_MAX) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(kept) => Ok(Some(kept)),
            Err(error) => Err(format!("{}: {error}", path.display())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Either the old or the new content is there, whatever happens.
fn replace(folder: &Path, kept: &Kept) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let fresh = folder.join(format!(".{NAME}"));
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(&fresh, folder.join(NAME))?;
    File::open(folder)?.sync_all()
}

fn reset(found: Result<Option<Kept>, String>, boot_id: &str, by_watchdog: bool) -> Reset {
    let watchdog = "the hardware watchdog has reset the machine";
    let kept = match found {
        Ok(Some(kept)) => kept,
        Ok(None) | Err(_) if by_watchdog => {
            let detail = watchdog.to_owned();
            return Reset { cause: Cause::Watchdog, detail, previous_boot_id: None };
        }
        Ok(None) => return Reset { cause: Cause::First, ..Reset::default() },
        Err(detail) => return Reset { cause: Cause::Unknown, detail, previous_boot_id: None },
    };
    let (cause, detail) = match kept.state {
        State::Ended if by_watchdog => (
            kept.cause.unwrap_or(Cause::Ordered),
            // Some drivers keep the bit until it is cleared, so it proves nothing here.
            format!("{}; {watchdog}, so the end may have hung", said(&kept)),
        ),
        State::Ended => (kept.cause.unwrap_or(Cause::Ordered), said(&kept)),
        State::Running if by_watchdog => (Cause::Watchdog, watchdog.to_owned()),
        State::Running if kept.boot_id == boot_id => (
            Cause::Power,
            "it ended without being told to, on a kernel that ran on: a container that was killed"
                .to_owned(),
        ),
        State::Running => (
            Cause::Power,
            "it lost its power or crashed: nobody had told it to end, and no watchdog says that it was him"
                .to_owned(),
        ),
    };
    Reset { cause, detail, previous_boot_id: Some(kept.boot_id) }
}

fn said(kept: &Kept) -> String {
    match kept.reason.is_empty() {
        true => kept.kind.clone(),
        false => format!("{}: {}", kept.kind, kept.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn critical() -> Ending {
        Ending { cause: Cause::Critical, reason: "service web crashed".to_owned() }
    }

    fn cause(folder: &Path, boot_id: &str, by_watchdog: bool) -> (Cause, String, Option<String>) {
        let file = LastBoot::new(folder, boot_id.to_owned());
        let Reset { cause, detail, previous_boot_id } = file.reset(by_watchdog);
        (cause, detail, previous_boot_id)
    }

    #[tokio::test]
    async fn the_next_boot_knows_how_far_the_one_before_had_come() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        assert_eq!(cause(state, "one", false), (Cause::First, String::new(), None));
        assert_eq!(cause(state, "one", true).0, Cause::Watchdog);

        let mut file = LastBoot::new(state, "one".to_owned());
        file.running();
        file.finish(LIMIT);
        let (power, detail, previous) = cause(state, "two", false);
        assert_eq!((power, previous.as_deref()), (Cause::Power, Some("one")));
        assert!(detail.contains("lost its power"), "{detail}");
        assert_eq!(cause(state, "two", true).0, Cause::Watchdog);
        assert!(cause(state, "one", false).1.contains("a container that was killed"));

        file.ended(ShutdownKind::Reboot, &critical());
        file.finish(LIMIT);
        let (ended, detail, _) = cause(state, "two", false);
        assert_eq!((ended, &*detail), (Cause::Critical, "reboot: service web crashed"));
        let (ended, detail, _) = cause(state, "two", true);
        assert_eq!(ended, Cause::Critical);
        assert!(detail.ends_with("so the end may have hung"), "{detail}");
    }

    #[tokio::test]
    async fn the_last_word_counts_however_fast_they_follow() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LastBoot::new(folder.path(), "one".to_owned());
        for _ in 0..50 {
            file.running();
            file.ended(ShutdownKind::Poweroff, &critical());
        }
        file.finish(LIMIT);
        assert_eq!(cause(folder.path(), "two", false).0, Cause::Critical);
        let names = fs::read_dir(folder.path().join("supervisor")).unwrap();
        assert_eq!(names.count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn a_torn_file_and_one_that_is_no_file_are_no_reason_for_anything() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = LastBoot::new(folder.path(), "one".to_owned());
        file.running();
        file.finish(LIMIT);
        let path = folder.path().join("supervisor/boot");
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let (unknown, detail, _) = cause(folder.path(), "two", false);
            assert_eq!(unknown, Cause::Unknown, "{length} bytes");
            assert!(detail.contains("supervisor/boot: "), "{detail}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(cause(folder.path(), "two", false).0, Cause::Unknown);
        // What can't be replaced holds up nobody.
        file.ended(ShutdownKind::Reboot, &critical());
        file.finish(LIMIT);
    }
}
