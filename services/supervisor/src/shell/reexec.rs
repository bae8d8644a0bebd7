//! Replacing the supervisor by the binary on disk: the new one is tried first, then we leave and the keeper starts it.
//!
//! Nothing has to be carried over by exec: the keeper hands everything to the next supervisor, as after a crash.

use std::{ffi::OsString, process::Stdio, time::Duration};

use daemon::places::Places;
use tokio::{io::AsyncReadExt as _, process::Command, sync::mpsc};

use super::{Inbound, definitions::Definitions, journal::Journal, start::programs};

/// How long the new binary may take to read the state.
const TRIAL_TIME: Duration = Duration::from_secs(5);
/// As much is kept of what it says.
const WORDS_MAX: u64 = 16 * 1024;

/// Lets the binary on disk read the state, without changing anything and beside the loop; it comes back as
/// [`Inbound::Tried`].
pub(crate) fn try_binary(definitions: &Definitions, id: u64, inbox: mpsc::Sender<Inbound>) {
    let arguments = definitions.arguments();
    tokio::spawn(async move {
        let result = tried(arguments).await;
        // Nobody listens where the supervisor is leaving anyway.
        let _ = inbox.send(Inbound::Tried { id, result }).await;
    });
}

/// Why it must not be started, if so.
async fn tried(arguments: Vec<OsString>) -> Result<(), String> {
    let binary = programs().map_err(|error| format!("{error:#}"))?.join("vestal-supervisor");
    let refused = |why: String| {
        format!("{} is not started: {why}; the running supervisor stays", binary.display())
    };
    let mut child = Command::new(&binary)
        .arg("--check-state")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| refused(error.to_string()))?;
    let Some(stderr) = child.stderr.take() else {
        return Err(refused("its output can't be read".to_owned()));
    };
    let mut said = Vec::new();
    let mut stderr = stderr.take(WORDS_MAX);
    let ended = async { tokio::join!(stderr.read_to_end(&mut said), child.wait()).1 };
    match tokio::time::timeout(TRIAL_TIME, ended).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            Err(refused(format!("{status}: {}", String::from_utf8_lossy(&said).trim())))
        }
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(refused(format!("it did not read the state within {TRIAL_TIME:?}"))),
    }
}

/// `--check-state`: can this binary read what the running supervisor remembers?
///
/// # Errors
/// Where it can't.
pub(crate) fn check_state(places: &Places) -> anyhow::Result<()> {
    Journal::check(&places.run.join("supervisor"))?;
    println!("the state in {} can be read", places.run.display());
    Ok(())
}
