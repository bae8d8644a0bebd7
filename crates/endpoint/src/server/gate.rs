//! Closed gates: calls wait before an object instead of failing, what runs is waited for, and the gate opens again
//! however the one who closed it ends.

use std::{sync::Arc, time::Duration};

use protocol::failure::Failure;
use tokio::time::Instant;

use super::{
    Shared,
    router::{Target, busy},
};

/// Longest a call can wait at a gate.
const HOLD_MAX: Duration = Duration::from_secs(3600);
/// When a call that waited too long may come again.
const RETRY_MS: u64 = 1000;

/// The gate of one object, or of all, closed. It opens when this is dropped.
#[derive(Debug)]
#[must_use = "the gate opens when this is dropped"]
pub struct ClosedGate {
    targets: Vec<Arc<Target>>,
    closer: u64,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl ClosedGate {
    /// Closes the gate of one object, or of all that are served now.
    pub(super) fn new(
        shared: &Arc<Shared>,
        object: Option<&str>,
        hold: Duration,
    ) -> Result<Self, Failure> {
        let targets = shared.router.targets(object)?;
        let closer = shared.next_closer();
        for target in &targets {
            if target.queue.close_gate(closer, hold.min(HOLD_MAX)) {
                tokio::spawn(turn_away(Arc::clone(shared), Arc::clone(target)));
            }
        }
        Ok(Self { targets, closer })
    }

    /// Returns when no call runs any more: none that a handler got has its answer still to come.
    pub async fn drained(&self) {
        for target in &self.targets {
            target.queue.idle().await;
        }
    }

    /// Returns when somebody else has opened it.
    pub async fn opened(&self) {
        for target in &self.targets {
            target.queue.opened(self.closer).await;
        }
    }

    /// Lets the calls that wait go on, in their order.
    pub fn open(self) {
        drop(self);
    }
}

impl Drop for ClosedGate {
    fn drop(&mut self) {
        for target in &self.targets {
            target.queue.open_gate(Some(self.closer));
        }
    }
}

/// Answers who has waited too long, until the gate is open.
async fn turn_away(shared: Arc<Shared>, target: Arc<Target>) {
    loop {
        let change = target.queue.change();
        let (late, next) = target.queue.late(Instant::now());
        for call in late {
            shared.counters.count_busy();
            let text = format!(
                "the gate of {} is closed, and the call waited as long as it may; try again later",
                target.name
            );
            call.responder.fail(busy(text, RETRY_MS));
        }
        let Some(next) = next else { return };
        tokio::select! {
            () = change => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}
