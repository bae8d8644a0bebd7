//! Runs an instance's reload command, as the instance's user, with a time limit, beside the loop.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, sync::mpsc};

use super::{Inbound, prepare::Prepared};

/// Starts the command; its end comes back as [`Inbound::ReloadDone`].
pub(crate) fn run(
    prepared: &Prepared,
    slot: u32,
    generation: u32,
    command: Vec<String>,
    timeout: Duration,
    inbox: mpsc::Sender<Inbound>,
) {
    let process = &prepared.settings().process;
    let name = format!("{}.{}", prepared.service.name, prepared.instance);
    let mut child = Command::new(command.first().map_or("", String::as_str));
    child
        .args(command.iter().skip(1))
        .env_clear()
        .envs(prepared.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&process.directory)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(user) = &process.user {
        child.uid(user.uid).gid(user.gid);
    }
    tokio::spawn(async move {
        let ended = tokio::time::timeout(timeout, child.status()).await;
        let ok = match ended {
            Ok(Ok(status)) if status.success() => true,
            Ok(Ok(status)) => {
                tracing::warn!("{name}: its reload command ended with {status}");
                false
            }
            Ok(Err(error)) => {
                tracing::warn!("{name}: its reload command can't be started: {error}");
                false
            }
            Err(_) => {
                tracing::warn!("{name}: its reload command was killed after {timeout:?}");
                false
            }
        };
        // Nobody listens where the supervisor is leaving.
        let _ = inbox.send(Inbound::ReloadDone { slot, generation, ok }).await;
    });
}
