//! A process's way to all others: calls by name, events, who is there, and being found.
//!
//! The registry is asked where an object is; calls then go straight there, and go on when the registry is gone. Without
//! a registry the suite's own objects are found by their sockets' names. Nothing here waits without an end: calls
//! end by their deadline, and what goes on (subscriptions, watches, registrations) ends when it is dropped.

mod arrival;
mod calls;
mod inbox;
mod line;
mod lives;
mod publish;
mod publisher;
mod registration;
mod session;
mod subscription;
mod watching;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol::{
    failure::Failure,
    policy::Identity,
    registry::{Found, Subscribe, Wait},
    service::Identify as IdentifyArgs,
};
use serde::Serialize;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use self::{
    arrival::{Backoff, Place},
    calls::Slot,
    line::Line,
    publish::Outgoing,
    publisher::{Publisher, Way},
};
pub use self::{
    lives::Lives,
    registration::{NO_REGISTRY, Registration, State},
    subscription::Subscription,
    watching::{Change, Watch},
};
use crate::{
    client::{CallOptions, Client, FAR, Options},
    error::CallError,
    server::{Identify, Server},
};

/// The registry's object, and the name of its socket.
const REGISTRY: &str = "registry";
/// How long the supervisor may take to say who a process is.
const IDENTIFY: Duration = Duration::from_secs(5);

/// Finds and calls objects, publishes and hears events, and makes this process an endpoint. One a process; clones are the
/// same bus. Needs a running tokio runtime.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

struct Shared {
    run_dir: PathBuf,
    registry: PathBuf,
    options: Options,
    /// For lookups; one attempt to connect.
    asking: Client,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    place: Arc<Place>,
    outgoing: Arc<Outgoing>,
    way: watch::Sender<Way>,
    publisher: Mutex<Option<AbortHandle>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Ok(Some(publisher)) = self.publisher.get_mut().map(|task| task.take()) {
            publisher.abort();
        }
    }
}

impl Bus {
    /// The bus of a run directory. Connects when it is needed. [`Options::patience`] is how long a call waits for an
    /// endpoint, or for the registry, that can't be reached.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>, options: Options) -> Self {
        let run_dir = run_dir.into();
        let registry = run_dir.join("registry.sock");
        let once = Options { patience: Duration::ZERO, ..options.clone() };
        let shared = Shared {
            asking: Client::new(&registry, once),
            slots: Mutex::default(),
            place: Arc::new(Place::new(&registry)),
            outgoing: Arc::default(),
            way: watch::Sender::new(Way::default()),
            publisher: Mutex::default(),
            run_dir,
            registry,
            options,
        };
        Self { shared: Arc::new(shared) }
    }

    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.shared.run_dir
    }

    /// Publishes an event: never waits, and goes out in order as soon as the registry takes it. At most 1,024 events and
    /// 1 MiB wait; what is too much is dropped, the oldest first, counted and logged. After a restart of the registry an
    /// event may come twice.
    ///
    /// `retain`: the value is also sent to whoever subscribes later, until this process ends or publishes another or
    /// `null`; it is published again to a registry that was restarted. At most 256 topics and 1 MiB.
    ///
    /// # Errors
    /// What can never be sent: no topic, data that is no JSON or too long, too much retained.
    pub fn publish<T: Serialize + ?Sized>(
        &self,
        topic: &str,
        data: &T,
        retain: bool,
    ) -> Result<(), Failure> {
        if self.shared.outgoing.push(topic, data, retain)? {
            tracing::warn!(topic, "too many events wait for the registry, the oldest are dropped");
        }
        self.shared.start_publisher();
        Ok(())
    }

    /// Returns `true` when everything that was published has been sent or refused, `false` when `within` has passed before.
    pub async fn flush(&self, within: Duration) -> bool {
        tokio::time::timeout(within, self.shared.outgoing.idle()).await.is_ok()
    }

    /// Events of these patterns from now on, over a connection of its own; it is subscribed again whenever the registry
    /// comes back. [`Subscription::active`] says when the registry has taken it.
    #[must_use]
    pub fn subscribe(&self, subscribe: Subscribe) -> Subscription {
        let shared = &self.shared;
        Subscription::new(subscribe, shared.registry.clone(), Arc::clone(&shared.place))
    }

    /// The objects whose name the pattern (`*` for any characters) holds, and every change of them.
    #[must_use]
    pub fn watch(&self, pattern: &str) -> Watch {
        let shared = &self.shared;
        Watch::new(pattern, shared.registry.clone(), Arc::clone(&shared.place))
    }

    /// Waits until all these objects are there.
    ///
    /// # Errors
    /// `timeout`, or why the registry refuses to say.
    pub async fn wait_for(
        &self,
        objects: &[&str],
        within: Duration,
    ) -> Result<Vec<Found>, CallError> {
        let wait = Wait { objects: objects.iter().map(|name| (*name).to_owned()).collect() };
        let until = Instant::now() + within.min(FAR);
        let waited = tokio::time::timeout_at(until, async {
            let mut backoff = Backoff::new(&self.shared.place);
            loop {
                if let Ok(line) = Line::open(&self.shared.registry, |_| {}).await {
                    backoff.rest();
                    let left = until.saturating_duration_since(Instant::now());
                    match line.ask("wait", &wait, left).await {
                        // The deadline, which is told with the objects' names.
                        Err(CallError::Timeout { .. }) => std::future::pending().await,
                        Err(CallError::Lost { .. } | CallError::Unreachable { .. }) => {}
                        outcome => return outcome,
                    }
                }
                backoff.pause().await;
            }
        });
        let timed_out = |_| CallError::Timeout {
            object: objects.join(", "),
            method: "being there".to_owned(),
            after: within,
        };
        waited.await.map_err(timed_out)?
    }

    /// Makes this process an endpoint that others find: all objects that `server` exports, now and later. `socket` is where
    /// it listens, absolute. The registration ends when it is dropped.
    #[must_use]
    pub fn register(
        &self,
        server: &Server,
        socket: impl Into<PathBuf>,
        policy: crate::RetryPolicy,
    ) -> Registration {
        Registration::new(Arc::clone(&self.shared), server.clone(), socket.into(), policy)
    }

    /// Asks the supervisor who a process is: for `Settings::identify` of the server.
    #[must_use]
    pub fn identify(&self) -> Identify {
        let path = self.shared.run_dir.join("supervisor.sock");
        let client = Client::new(path, self.shared.options.clone());
        Arc::new(move |caller, process| {
            let client = client.clone();
            Box::pin(async move {
                let fds: Vec<_> = process.iter().map(std::os::fd::AsFd::as_fd).collect();
                let args = IdentifyArgs { pid: Some(caller.pid) };
                let options = CallOptions { deadline: IDENTIFY, fds: &fds, ..CallOptions::safe() };
                let answer = client.call("service", "identify", &args, options).await;
                let answer = answer.map_err(|error| match error {
                    CallError::Refused(failure) => failure,
                    other => failed(format!("the supervisor was asked who calls: {other}")),
                })?;
                answer.parse::<Identity>().map_err(|error| {
                    failed(format!("the supervisor's answer who calls is not understood: {error}"))
                })
            })
        })
    }
}

impl Shared {
    fn start_publisher(&self) {
        let mut task = self.publisher.lock().expect("nothing panics while it holds the task");
        if task.is_none() {
            let publisher = Publisher {
                outgoing: Arc::clone(&self.outgoing),
                way: self.way.subscribe(),
                registry: self.registry.clone(),
                place: Arc::clone(&self.place),
            };
            *task = Some(tokio::spawn(publisher.run()).abort_handle());
        }
    }
}

fn failed(text: String) -> Failure {
    Failure::new(protocol::failure::Code::Failed, text)
}

/// How long to wait after `busy`: what the failure says, within reason.
fn retry_after(failure: &Failure) -> Duration {
    let said = failure.details.as_ref().and_then(|details| details["retry_after_ms"].as_u64());
    Duration::from_millis(said.unwrap_or(100).clamp(10, 5_000))
}
