//! Events that other processes publish, over a connection of their own, which is made again whenever it ends.

use std::{path::PathBuf, sync::Arc, time::Duration};

use protocol::{
    failure::{Code, Failure},
    registry::Subscribe,
};
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::{
    arrival::{Backoff, Place},
    inbox::Inbox,
    line::Line,
};
use crate::{client::Event, error::CallError};

/// How long the registry may take to answer `subscribe`.
const ANSWER: Duration = Duration::from_secs(10);
/// Events that wait, where the subscriber doesn't say how many.
const QUEUE: u32 = 256;

/// Events of the patterns that were asked for. Dropped, it ends.
///
/// An event whose [`Event::is_gap`] holds says that the registry was away meanwhile.
pub struct Subscription {
    inbox: Arc<Inbox>,
    active: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("active", &*self.active.borrow())
            .finish_non_exhaustive()
    }
}

impl Subscription {
    pub(super) fn new(subscribe: Subscribe, registry: PathBuf, place: Arc<Place>) -> Self {
        let limit = usize::try_from(subscribe.queue.unwrap_or(QUEUE)).unwrap_or(usize::MAX);
        let inbox = Arc::new(Inbox::new(limit, subscribe.overflow.unwrap_or_default()));
        let (told, active) = watch::channel(false);
        let task = Task { subscribe, registry, place, inbox: Arc::clone(&inbox), active: told };
        let task = tokio::spawn(task.run()).abort_handle();
        Self { inbox, active, task }
    }

    /// The next event. Events that came are not lost when this is not awaited to its end.
    ///
    /// # Errors
    /// Why no more come: the registry refuses the subscription, or this side is too slow and wanted
    /// [`protocol::registry::Overflow::Disconnect`]. Then it is over.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        self.inbox.next().await
    }

    /// Returns once the registry has taken the subscription: what is published from now on comes.
    ///
    /// # Errors
    /// `timeout`, or why the registry refuses it.
    pub async fn active(&mut self, within: Duration) -> Result<(), Failure> {
        match tokio::time::timeout(within, self.active.wait_for(|active| *active)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self.inbox.why_ended().unwrap_or_else(|| {
                Failure::new(Code::Cancelled, "the runtime of this subscription ends")
            })),
            Err(_) => {
                let text = format!("the registry did not take the subscription within {within:?}");
                Err(Failure::new(Code::Timeout, text))
            }
        }
    }
}

struct Task {
    subscribe: Subscribe,
    registry: PathBuf,
    place: Arc<Place>,
    inbox: Arc<Inbox>,
    active: watch::Sender<bool>,
}

impl Task {
    async fn run(self) {
        let mut backoff = Backoff::new(&self.place);
        loop {
            let line = match self.begin(&mut backoff).await {
                Ok(line) => line,
                Err(failure) => return self.inbox.end(failure),
            };
            let began = Instant::now();
            self.inbox.resumed();
            self.active.send_replace(true);
            line.ended().await;
            self.active.send_replace(false);
            self.inbox.interrupted();
            backoff.ended(began.elapsed()).await;
        }
    }

    /// A line that is subscribed, however long that takes.
    async fn begin(&self, backoff: &mut Backoff) -> Result<Line, Failure> {
        loop {
            let inbox = Arc::clone(&self.inbox);
            if let Ok(line) = Line::open(&self.registry, move |event| inbox.push(event)).await {
                match line.call("subscribe", &self.subscribe, ANSWER).await {
                    Ok(_) => {
                        backoff.rest();
                        return Ok(line);
                    }
                    Err(CallError::Refused(failure)) if failure.code == Code::Busy => {
                        tokio::time::sleep(super::retry_after(&failure)).await;
                    }
                    Err(CallError::Refused(failure)) => return Err(failure),
                    // Whatever else it was, another connection may do better.
                    Err(_) => {}
                }
            }
            backoff.pause().await;
        }
    }
}
