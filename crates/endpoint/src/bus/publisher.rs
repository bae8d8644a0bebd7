//! The task that sends what was published: over the connection this process is registered by, so that the registry
//! knows whose event it is, or over one of its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use protocol::failure::{Code, Failure};
use tokio::{sync::watch, time::Instant};

use super::{
    arrival::{Backoff, Place},
    line::Line,
    publish::{Outgoing, Queued, Settled},
};
use crate::error::CallError;

/// How long the registry may take to take an event.
const ANSWER: Duration = Duration::from_secs(10);
/// How often an event is tried that the registry is too busy for.
const BUSY_MAX: u32 = 20;
/// Over what events are sent.
#[derive(Clone, Default)]
pub(crate) enum Way {
    /// A connection of their own: nobody registers.
    #[default]
    Own,
    /// This process registers, and isn't registered now: they wait.
    Registering,
    Line(Arc<Line>),
}

pub(crate) struct Publisher {
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) way: watch::Receiver<Way>,
    pub(crate) registry: PathBuf,
    pub(crate) place: Arc<Place>,
}

impl Publisher {
    /// Sends for as long as the bus is there, which ends this task.
    pub(crate) async fn run(mut self) {
        // What the last line ended with.
        let mut left: Option<Queued> = None;
        let mut backoff = Backoff::new(&self.place);
        while let Some(line) = self.line(&mut backoff).await {
            let began = Instant::now();
            let mut way = self.way.clone();
            let there = tokio::select! {
                () = self.send_all(&line, &mut left) => true,
                () = line.ended() => true,
                changed = way.changed() => changed.is_ok(),
            };
            if !there {
                return;
            }
            // The next registry knows none of it; this is also what a line of our own is opened for.
            self.outgoing.resend_retained();
            if let Some(queued) = left.take() {
                left = self.outgoing.is_current(&queued).then_some(queued);
            }
            backoff.ended(began.elapsed()).await;
        }
    }

    /// The line to send over, once there is something to be sent or the way is one that stands anyway. `None`: the bus is gone.
    async fn line(&mut self, backoff: &mut Backoff) -> Option<Arc<Line>> {
        let mut ended: Option<Arc<Line>> = None;
        loop {
            let way = self.way.borrow_and_update().clone();
            match way {
                Way::Line(line) => {
                    let again = ended.as_ref().is_some_and(|ended| Arc::ptr_eq(ended, &line));
                    if !again && !line.has_ended() {
                        return Some(line);
                    }
                    ended = Some(line);
                    self.way.changed().await.ok()?;
                }
                Way::Registering => self.way.changed().await.ok()?,
                Way::Own => {
                    let mut changed = self.way.clone();
                    tokio::select! {
                        line = self.own(backoff) => return Some(line),
                        changed = changed.changed() => changed.ok()?,
                    }
                }
            }
        }
    }

    /// A connection of its own, made when there is something to be sent.
    async fn own(&self, backoff: &mut Backoff) -> Arc<Line> {
        self.outgoing.work().await;
        loop {
            if let Ok(line) = Line::open(&self.registry, |_| {}).await {
                backoff.rest();
                return Arc::new(line);
            }
            backoff.pause().await;
        }
    }

    /// Sends, until it is stopped. What is in flight is in `left`.
    async fn send_all(&self, line: &Line, left: &mut Option<Queued>) {
        let mut refused = Refused::default();
        loop {
            // The retained values are older than what the last line left, but those that are newer stay newer.
            let queued = match left.take().or_else(|| self.outgoing.next()) {
                Some(queued) => left.insert(queued),
                None => {
                    self.outgoing.work().await;
                    continue;
                }
            };
            let how = match self.send(line, queued).await {
                Sent::Taken => Settled::Sent,
                Sent::Refused(failure) => {
                    refused.tell(&queued.topic, &failure);
                    Settled::Refused
                }
                // Its end stops this.
                Sent::Lost => return std::future::pending().await,
            };
            if let Some(queued) = left.take() {
                self.outgoing.settle(queued, how);
            }
            let dropped = self.outgoing.take_dropped();
            if dropped > 0 {
                tracing::warn!(dropped, "events were dropped while the registry took none");
            }
        }
    }

    async fn send(&self, line: &Line, queued: &Queued) -> Sent {
        let mut tried = 0;
        loop {
            tried += 1;
            let failure = match line.call_bytes("publish", &queued.args, ANSWER).await {
                Ok(_) => return Sent::Taken,
                Err(CallError::Refused(failure)) => failure,
                Err(CallError::Timeout { .. }) => Failure::new(
                    Code::Busy,
                    format!("the registry did not answer within {ANSWER:?}"),
                ),
                Err(CallError::Invalid { text, .. }) => {
                    return Sent::Refused(Failure::new(Code::InvalidArgument, text));
                }
                Err(CallError::Lost { .. } | CallError::Unreachable { .. }) => return Sent::Lost,
                Err(error) => return Sent::Refused(Failure::new(Code::Failed, error.to_string())),
            };
            if failure.code != Code::Busy || tried >= BUSY_MAX {
                return Sent::Refused(failure);
            }
            tokio::time::sleep(super::retry_after(&failure)).await;
        }
    }
}

enum Sent {
    Taken,
    Refused(Failure),
    Lost,
}

/// Tells of refused events, once for a run of the same refusals.
#[derive(Default)]
struct Refused {
    last: Option<(String, Failure)>,
}

impl Refused {
    fn tell(&mut self, topic: &str, failure: &Failure) {
        let same = |(before, why): &(String, Failure)| before == topic && why == failure;
        if !self.last.as_ref().is_some_and(same) {
            tracing::warn!(topic, reason = %failure, "the registry refused an event");
            self.last = Some((topic.to_owned(), failure.clone()));
        }
    }
}
