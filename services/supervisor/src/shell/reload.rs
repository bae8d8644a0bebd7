//! Runs an instance's reload command, as the instance's user, with a time limit, beside the loop.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{Inbound, prepared::Prepared};

/// Starts the command; its end comes back as [`Inbound::ReloadDone`].
pub(crate) fn run(
    prepared: &Prepared,
    slot: u32,
    generation: u32,
    command: Vec<String>,
    timeout: Duration,
    inbox: mpsc::Sender<Inbound>,
) {
    let name = format!("{}.{}", prepared.service.name, prepared.instance);
    let mut child = prepared.command(&command);
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
