//! A registration that stands: tells the registry of every change until their line ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    objects::Served,
    registry::{Applied, Offer, Outcome, Policy, Usage, Withdraw},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::line::Line;
use crate::{client::Received, error::CallError, server::Server};

/// How long the registry may take to answer; it connects back to prove a socket, which may take 5 seconds.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// How often a name is tried that another process has.
const TAKEN: Duration = Duration::from_secs(1);
/// How often the registry is told something that it is too busy for, before all is registered anew.
const BUSY_MAX: u32 = 20;

/// Names that this endpoint doesn't get, and why.
#[derive(Clone, Default)]
pub(super) struct Refusals {
    names: Arc<Mutex<BTreeMap<String, Failure>>>,
}

impl Refusals {
    pub(super) fn all(&self) -> BTreeMap<String, Failure> {
        self.lock().clone()
    }

    /// What became of everything that is offered.
    pub(super) fn begin(&self, offered: &[Served], outcomes: Vec<Outcome>) {
        self.lock().retain(|name, _| offered.iter().any(|served| served.name == *name));
        self.note(outcomes);
    }

    /// Keeps, and logs once, why objects are not registered.
    fn note(&self, outcomes: Vec<Outcome>) {
        let mut names = self.lock();
        for Outcome { name, failure } in outcomes {
            let Some(failure) = failure else {
                if names.remove(&name).is_some() {
                    tracing::info!(object = %name, "registered after all");
                }
                continue;
            };
            if names.get(&name).is_none_or(|before| before.code != failure.code) {
                tracing::error!(object = %name, reason = %failure, "not registered");
            }
            names.insert(name, failure);
        }
    }

    fn forget(&self, gone: &[String]) {
        let mut names = self.lock();
        gone.iter().for_each(|name| drop(names.remove(name)));
    }

    /// What may be free by now; all of it where the rules are others.
    fn worth_trying(&self, other_rules: bool) -> Vec<String> {
        let names = self.lock();
        let worth = names.iter().filter(|(_, failure)| other_rules || is_taken(failure));
        worth.map(|(name, _)| name.clone()).collect()
    }

    fn has_taken(&self) -> bool {
        self.lock().values().any(is_taken)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Failure>> {
        self.names.lock().expect("nothing panics while it holds the names")
    }
}

/// The name is another process's, or there are too many, which may end.
fn is_taken(failure: &Failure) -> bool {
    matches!(failure.code, Code::Busy | Code::Limit)
}

/// The state of things when the registration began.
pub(super) struct Begun {
    /// The newest rules that were pushed and not applied.
    pub(super) pushed: watch::Receiver<Option<Vec<u8>>>,
    pub(super) changes: watch::Receiver<u64>,
    /// Of the rules that are applied.
    pub(super) epoch: u64,
}

/// A registration that stands until its line ends.
pub(super) struct Session {
    line: Arc<Line>,
    server: Server,
    refused: Refusals,
    begun: Begun,
    /// As the registry was told.
    offered: BTreeMap<String, Served>,
    /// Whether anybody is connected, as the registry was told.
    busy: Option<bool>,
}

/// The line is of no use any more.
pub(super) struct Over;

impl Session {
    pub(super) fn new(
        line: Arc<Line>,
        server: Server,
        refused: Refusals,
        begun: Begun,
        offered: Vec<Served>,
    ) -> Self {
        let offered = offered.into_iter().map(|served| (served.name.clone(), served)).collect();
        Self { line, server, refused, begun, offered, busy: None }
    }

    pub(super) fn line(&self) -> Arc<Line> {
        Arc::clone(&self.line)
    }

    /// Tells the registry of every change until the line is of no use any more.
    pub(super) async fn keep(mut self) -> Over {
        let mut usage = self.server.usage();
        if let Err(over) = self.applied().await {
            return over;
        }
        let mut retry = Instant::now() + TAKEN;
        loop {
            if let Err(over) = self.tell_all(&mut usage).await {
                return over;
            }
            let taken = self.refused.has_taken();
            tokio::select! {
                pushed = self.begun.pushed.changed() => {
                    if pushed.is_err() || self.apply().await.is_err() {
                        return Over;
                    }
                }
                // These two end with the server, of which this has a clone.
                _ = self.begun.changes.changed() => {}
                _ = usage.changed() => {}
                () = sleep_until(retry), if taken => {
                    retry = Instant::now() + TAKEN;
                    self.offer_again(false);
                }
            }
        }
    }

    async fn tell_all(&mut self, usage: &mut watch::Receiver<usize>) -> Result<(), Over> {
        self.offer_changes().await?;
        let connections = *usage.borrow_and_update();
        self.tell_usage(connections).await
    }

    /// Applies what was pushed, and says so.
    async fn apply(&mut self) -> Result<(), Over> {
        let pushed = self.begun.pushed.borrow_and_update().clone();
        let Some(data) = pushed else { return Ok(()) };
        let policy: Policy = serde_json::from_slice(&data).map_err(|error| {
            tracing::error!(%error, "the registry's rules are not understood");
            Over
        })?;
        // Older ones came before those that the answer to `register` brought.
        if policy.epoch > self.begun.epoch {
            self.begun.epoch = policy.epoch;
            self.server.set_policy(Arc::new(policy));
            self.offer_again(true);
        }
        self.applied().await
    }

    async fn applied(&self) -> Result<(), Over> {
        self.tell("applied", &Applied { epoch: self.begun.epoch }).await.map(drop)
    }

    /// Offers what is new or was forgotten, and withdraws what is gone.
    async fn offer_changes(&mut self) -> Result<(), Over> {
        self.begun.changes.mark_unchanged();
        let now: BTreeMap<_, _> =
            self.server.objects().into_iter().map(|served| (served.name.clone(), served)).collect();
        let gone = self.offered.keys().filter(|name| !now.contains_key(*name));
        let names: Vec<String> = gone.cloned().collect();
        if !names.is_empty() {
            self.refused.forget(&names);
            self.tell("withdraw", &Withdraw { names }).await?;
        }
        let fresh = now.values().filter(|served| self.offered.get(&served.name) != Some(served));
        let objects: Vec<Served> = fresh.cloned().collect();
        self.offered = now;
        if objects.is_empty() {
            return Ok(());
        }
        let Some(answer) = self.tell("offer", &Offer { objects }).await? else { return Ok(()) };
        let outcomes = answer.parse().map_err(|error| {
            tracing::error!(%error, "the registry's answer to offer is not understood");
            Over
        })?;
        self.refused.note(outcomes);
        Ok(())
    }

    /// What was refused is offered again: all of it, or what was taken.
    fn offer_again(&mut self, other_rules: bool) {
        for name in self.refused.worth_trying(other_rules) {
            self.offered.remove(&name);
        }
    }

    /// Says whether anybody is connected, where that has changed.
    async fn tell_usage(&mut self, connections: usize) -> Result<(), Over> {
        let busy = connections > 0;
        if self.busy.replace(busy) == Some(busy) {
            return Ok(());
        }
        let connections = u64::try_from(connections).unwrap_or(u64::MAX);
        self.tell("usage", &Usage { connections }).await.map(drop)
    }

    /// Calls the registry; `None` where it refused, which is logged.
    async fn tell<A: serde::Serialize>(
        &self,
        method: &str,
        args: &A,
    ) -> Result<Option<Received>, Over> {
        for _ in 0..BUSY_MAX {
            match self.line.call(method, args, ANSWER).await {
                Ok(received) => return Ok(Some(received)),
                Err(CallError::Refused(failure)) if failure.code == Code::Busy => {
                    sleep(super::retry_after(&failure)).await;
                }
                Err(CallError::Refused(failure)) => {
                    tracing::error!(method, reason = %failure, "the registry refuses");
                    return Ok(None);
                }
                Err(error) => {
                    tracing::debug!(method, %error, "the registry can't be told");
                    return Err(Over);
                }
            }
        }
        tracing::error!(method, "the registry is too busy to be told");
        Err(Over)
    }
}
