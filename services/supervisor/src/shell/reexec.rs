//! Replacing the supervisor by the binary on disk: the new one is tried first, then we leave and the keeper starts it.
//!
//! Nothing has to be carried over by exec: the keeper hands everything to the next supervisor, as after a crash.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::Duration,
};

use daemon::places::Places;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{definitions::Definitions, journal::Journal, start::programs};

/// How long the new binary may take to read the state.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// Lets the binary on disk read the journal and the definitions, without changing anything.
///
/// # Errors
/// Why it must not be started.
pub(crate) fn probe(definitions: &Definitions) -> Result<(), String> {
    let binary = programs().map_err(|error| format!("{error:#}"))?.join("vestal-supervisor");
    let refused = |why: String| {
        format!("{} is not started: {why}; the running supervisor stays", binary.display())
    };
    let mut child = Command::new(&binary)
        .arg("--check-state")
        .args(definitions.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| refused(error.to_string()))?;
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(refused("its output can't be read".to_owned()));
    };
    // The end of its output is the end of the process, and can be waited for with a limit.
    let limit = Timespec::try_from(PROBE_TIME).ok();
    let ended = poll(&mut [PollFd::new(&stdout, PollFlags::HUP)], limit.as_ref());
    if ended != Ok(1) {
        // It is our own child and can't be reused as a pid before we wait for it.
        let _ = child.kill();
        let _ = child.wait();
        return Err(refused(format!("it did not read the state within {PROBE_TIME:?}")));
    }
    let status = child.wait().map_err(|error| refused(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    // What it said is worth having; that it said nothing readable is no second error.
    let _ = stderr.read_to_string(&mut text);
    Err(refused(format!("{status}: {}", text.trim())))
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
