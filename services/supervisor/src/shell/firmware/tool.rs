//! Runs `vestalctl upgrade install` beside the loop. An installation outlives the supervisor that began it: what it prints goes
//! to files, and who it is and for what it was begun is written beside them, so that the next supervisor tells its end.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use daemon::places::Places;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, copy, sink},
    process::{Child, Command},
};

use super::{
    super::{scripts, start::programs},
    said::{Outcome, Verdict},
};
use crate::{
    machine::{Ended, ScriptProcess},
    settings::files::{open_plain, read_text},
};

/// How long a look at a bundle may take.
const LOOK_TIME: Duration = Duration::from_secs(60);
/// How long an installation may take; vestalctl itself gives up earlier, and says why.
const INSTALL_TIME: Duration = Duration::from_secs(2 * 3600);
/// As much is kept of what is said on standard error, and looked at of the end of standard output.
const WORDS_MAX: u64 = 16 * 1024;
/// A record holds a path and three numbers.
const RECORD_MAX: u64 = 64 * 1024;
const RECORD: &str = "sysupgrade.json";
/// One line a second while it lasts.
const OUTPUT: &str = "sysupgrade.out";
const ERRORS: &str = "sysupgrade.err";

/// The program, and where it finds the agent.
pub(super) struct Tool {
    program: PathBuf,
    places: Places,
}

/// An installation that was accepted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Record {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) uid: u32,
    pub(super) process: ScriptProcess,
}

/// An installation that runs.
pub(super) struct Running {
    pub(super) record: Record,
    child: Child,
    folder: PathBuf,
}

impl Tool {
    /// # Errors
    /// Where our own folder can't be found.
    pub(super) fn new(places: &Places) -> anyhow::Result<Self> {
        Ok(Self { program: programs()?.join("vestalctl"), places: places.clone() })
    }

    fn install(&self, flags: &[&str], path: &str) -> Command {
        let mut command = scripts::command(&self.program, &self.places);
        command.args(["--json", "upgrade", "install"]).args(flags).args(["--", path]);
        command
    }

    /// Whether the agent would take this bundle. Ends with the future.
    pub(super) async fn look(&self, path: &str, allow_unsigned: bool) -> Verdict {
        let flags: &[&str] =
            if allow_unsigned { &["--dry-run", "--allow-unsigned"] } else { &["--dry-run"] };
        let mut command = self.install(flags, path);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Verdict::of(&Ended::NotStarted(error.to_string()), ""),
        };
        let stderr = child.stderr.take();
        let reading = async {
            let mut said = Vec::new();
            if let Some(mut stderr) = stderr {
                // What can't be read was not said.
                let _ = (&mut stderr).take(WORDS_MAX).read_to_end(&mut said).await;
                let _ = copy(&mut stderr, &mut sink()).await;
            }
            said
        };
        let (said, ended) = tokio::join!(reading, scripts::wait(child, LOOK_TIME));
        Verdict::of(&ended, &String::from_utf8_lossy(&said))
    }

    /// Begins an installation.
    ///
    /// # Errors
    /// Where it could not be begun.
    pub(super) fn begin(
        &self,
        method: &str,
        path: &str,
        uid: u32,
        allow_unsigned: bool,
    ) -> io::Result<Running> {
        let folder = folder(&self.places);
        let flags: &[&str] = if allow_unsigned { &["--allow-unsigned"] } else { &[] };
        let mut command = self.install(flags, path);
        command.stdout(emptied(&folder.join(OUTPUT))?).stderr(emptied(&folder.join(ERRORS))?);
        let child = command.spawn().map_err(|error| {
            let program = self.program.display();
            io::Error::new(error.kind(), format!("start {program}: {error}"))
        })?;
        let process = scripts::process_of(&child)
            .ok_or_else(|| io::Error::other("vestalctl ended before it was looked at"))?;
        let (method, path) = (method.to_owned(), path.to_owned());
        let record = Record { method, path, uid, process };
        if let Err(error) = record.keep(&folder) {
            tracing::warn!(
                "{}: {error}; a supervisor that takes over now won't tell how it ends",
                folder.join(RECORD).display()
            );
        }
        Ok(Running { record, child, folder })
    }
}

impl Running {
    /// Returns when it has ended.
    pub(super) async fn end(self) -> Outcome {
        let ended = scripts::wait(self.child, INSTALL_TIME).await;
        outcome(Some(&ended), &self.folder)
    }
}

impl Record {
    /// What the supervisor before this one has accepted, and nobody has told the end of.
    pub(super) fn left(places: &Places) -> Option<Self> {
        let path = folder(places).join(RECORD);
        let text = match read_text(&path, RECORD_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!("{}: {error}; it counts as absent", path.display());
                return None;
            }
        };
        // Another version's: the upgrade agent's history has it all the same.
        serde_json::from_str(&text).ok()
    }

    /// Returns when the installation has ended that a supervisor before this one began.
    pub(super) async fn end(&self, places: &Places) -> Outcome {
        scripts::outlast(self.process, INSTALL_TIME).await;
        outcome(None, &folder(places))
    }

    /// Its end was told.
    pub(super) fn forget(places: &Places) {
        let path = folder(places).join(RECORD);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}: {error}; the end of it will be told again", path.display());
            }
            _ => {}
        }
    }

    /// On tmpfs, which a power cut empties anyway: nothing is flushed.
    fn keep(&self, folder: &Path) -> io::Result<()> {
        let path = folder.join(RECORD);
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(fresh, path)
    }
}

fn folder(places: &Places) -> PathBuf {
    places.run.join("supervisor")
}

fn emptied(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn outcome(ended: Option<&Ended>, folder: &Path) -> Outcome {
    let [output, errors] = [OUTPUT, ERRORS].map(|name| {
        let path = folder.join(name);
        end_of(&path).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}", path.display());
            String::new()
        })
    });
    Outcome::of(ended, &output, &errors)
}

/// The last words of a file.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = open_plain(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(WORDS_MAX)))?;
    let mut words = Vec::new();
    file.take(WORDS_MAX).read_to_end(&mut words)?;
    Ok(String::from_utf8_lossy(&words).into_owned())
}
