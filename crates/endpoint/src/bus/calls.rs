//! Calls by an object's name: where it is, is remembered until it doesn't do any more.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use protocol::{
    failure::Code,
    objects::{Wanted, served_by},
    registry::{Found, Lookup},
};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{Bus, REGISTRY, Shared, arrival::Backoff};
use crate::{
    client::{CallOptions, Client, FAR, Options, Received, Stream, to_args, was_not_started},
    error::CallError,
};

/// Most objects whose place is remembered.
const SLOTS_MAX: usize = 1024;
/// How long the registry may take to answer Hello, and then a lookup, where there is another way to find the object.
const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);
/// How long an endpoint that is there may take to offer what the registry says it does.
const SETTLE: Duration = Duration::from_millis(250);
/// The pause before an object is looked up again; doubles up to the second.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What is known of one object.
#[derive(Default)]
pub(super) struct Slot {
    route: Mutex<Option<Arc<Route>>>,
    /// Held while it is looked up, so that many calls make one lookup.
    finding: tokio::sync::Mutex<()>,
}

/// Where an object is, until another route takes its place.
struct Route {
    client: Client,
}

impl Slot {
    fn route(&self) -> MutexGuard<'_, Option<Arc<Route>>> {
        self.route.lock().expect("nothing panics while it holds a route")
    }
}

impl Bus {
    /// Calls an object, wherever it is, with a value as arguments (JSON); `&()` for none. As [`Client::call`].
    ///
    /// # Errors
    /// [`CallError`] says what to do about each.
    pub async fn call<A: Serialize + ?Sized>(
        &self,
        object: &str,
        method: &str,
        args: &A,
        options: CallOptions<'_>,
    ) -> Result<Received, CallError> {
        let args = to_args(object, method, args)?;
        self.call_bytes(object, method, &args, options).await
    }

    /// Calls with bytes as they are. As [`Client::call_bytes`].
    ///
    /// # Errors
    /// [`CallError`] says what to do about each.
    pub async fn call_bytes(
        &self,
        object: &str,
        method: &str,
        args: &[u8],
        options: CallOptions<'_>,
    ) -> Result<Received, CallError> {
        let mut search = Search::new(&self.shared, object, method, &options)?;
        loop {
            let route = search.found().await?;
            let options = CallOptions { deadline: search.left(), ..options };
            match route.client.call_bytes(object, method, args, options).await {
                Ok(answer) => return Ok(answer),
                Err(error) => search.after(route, error).await?,
            }
        }
    }

    /// Calls and takes the answer in pieces. As [`Client::call_stream`].
    ///
    /// # Errors
    /// [`CallError`] says what to do about each.
    pub async fn call_stream(
        &self,
        object: &str,
        method: &str,
        args: &[u8],
        options: CallOptions<'_>,
    ) -> Result<Stream, CallError> {
        let mut search = Search::new(&self.shared, object, method, &options)?;
        loop {
            let route = search.found().await?;
            let options = CallOptions { deadline: search.left(), ..options };
            match route.client.call_stream(object, method, args, options).await {
                Ok(answer) => return Ok(answer),
                Err(error) => search.after(route, error).await?,
            }
        }
    }

    /// Asks the registry where an object is, and whose.
    ///
    /// # Errors
    /// As [`Bus::call`] of the registry.
    pub async fn lookup(
        &self,
        object: &str,
        wanted: &Wanted<'_>,
        within: Duration,
    ) -> Result<Found, CallError> {
        let lookup = lookup(object, wanted);
        let options = CallOptions { deadline: within, ..CallOptions::safe() };
        let answer = self.call(REGISTRY, "lookup", &lookup, options).await?;
        answer.parse().map_err(|error| self.shared.not_understood(&error))
    }
}

impl Shared {
    fn slot(&self, object: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().expect("nothing panics while it holds the table");
        if let Some(slot) = slots.get(object) {
            return Arc::clone(slot);
        }
        if slots.len() >= SLOTS_MAX {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(object.to_owned()).or_default())
    }

    /// A client of that socket: the one in use, if there is one.
    fn client(&self, path: &Path) -> Client {
        let slots = self.slots.lock().expect("nothing panics while it holds the table");
        let used = slots.values().find_map(|slot| {
            let route = slot.route();
            route.as_ref().map(|route| &route.client).filter(|c| c.path() == path).cloned()
        });
        drop(slots);
        used.unwrap_or_else(|| {
            let options = Options { patience: Duration::ZERO, ..self.options.clone() };
            Client::new(path, options)
        })
    }

    fn not_understood(&self, error: &serde_json::Error) -> CallError {
        let text = format!("its answer to lookup is not understood: {error}");
        CallError::Violation { path: self.registry.clone(), text }
    }

    /// Asks where an object is. `hasty`: there is another way to find it.
    async fn look_up(
        &self,
        object: &str,
        wanted: &Wanted<'_>,
        left: Duration,
        hasty: bool,
    ) -> Result<PathBuf, CallError> {
        let (connect, answer) =
            if hasty { (CONNECT.min(left), ANSWER.min(left)) } else { (left, left) };
        self.asking.nonce(connect).await?;
        let options = CallOptions { deadline: answer, ..CallOptions::safe() };
        let found = self.asking.call(REGISTRY, "lookup", &lookup(object, wanted), options).await?;
        let found: Found = found.parse().map_err(|error| self.not_understood(&error))?;
        if !found.socket.starts_with('/') {
            let text = format!("it says {object} is at {:?}, which is not absolute", found.socket);
            return Err(CallError::Violation { path: self.registry.clone(), text });
        }
        Ok(found.socket.into())
    }
}

fn lookup(object: &str, wanted: &Wanted<'_>) -> Lookup {
    Lookup {
        object: object.to_owned(),
        interface: wanted.interface.map(str::to_owned),
        version: wanted.version,
        hash: wanted.hash,
        activate: true,
    }
}

/// One call on its way to its object.
struct Search<'a> {
    shared: &'a Shared,
    object: &'a str,
    method: &'a str,
    wanted: Wanted<'a>,
    after: Duration,
    until: Instant,
    slot: Arc<Slot>,
    /// What didn't do.
    stale: Option<Arc<Route>>,
    /// When a call failed first; it is not tried for longer than this allows.
    failing: Option<Instant>,
    patience: Duration,
    pause: Duration,
}

impl<'a> Search<'a> {
    fn new(
        shared: &'a Shared,
        object: &'a str,
        method: &'a str,
        options: &CallOptions<'a>,
    ) -> Result<Self, CallError> {
        if object.is_empty() {
            let text = "the endpoint itself has no name to be found by".to_owned();
            return Err(CallError::Invalid {
                object: String::new(),
                method: method.to_owned(),
                text,
            });
        }
        Ok(Self {
            shared,
            object,
            method,
            wanted: options.wanted,
            after: options.deadline,
            until: Instant::now() + options.deadline.min(FAR),
            slot: shared.slot(object),
            stale: None,
            failing: None,
            patience: shared.options.patience,
            pause: PAUSE,
        })
    }

    /// What is left of the deadline.
    fn left(&self) -> Duration {
        if self.after >= FAR {
            return self.after;
        }
        self.until.saturating_duration_since(Instant::now())
    }

    /// The remembered route, if it isn't the one that didn't do; else another one.
    async fn route(&mut self) -> Result<Arc<Route>, CallError> {
        if let Some(route) = self.remembered() {
            return Ok(route);
        }
        let slot = Arc::clone(&self.slot);
        let finding = timeout_at(self.until, slot.finding.lock()).await;
        let _finding = finding.map_err(|_| self.timeout())?;
        if let Some(route) = self.remembered() {
            return Ok(route);
        }
        let path = self.find().await?;
        let client = match &self.stale {
            // Its connection, and those who make it, stay.
            Some(stale) if stale.client.path() == path => stale.client.clone(),
            _ => self.shared.client(&path),
        };
        let route = Arc::new(Route { client });
        *slot.route() = Some(Arc::clone(&route));
        Ok(route)
    }

    fn remembered(&self) -> Option<Arc<Route>> {
        let route = self.slot.route().clone()?;
        let stale = self.stale.as_ref().is_some_and(|stale| Arc::ptr_eq(stale, &route));
        (!stale).then_some(route)
    }

    /// The registry's answer; what else is known, where it can't be reached.
    async fn find(&self) -> Result<PathBuf, CallError> {
        if self.object == REGISTRY {
            return Ok(self.shared.registry.clone());
        }
        let table =
            served_by(self.object).map(|short| self.shared.run_dir.join(format!("{short}.sock")));
        let before = self.stale.as_ref().map(|stale| stale.client.path().to_owned());
        let other = before.or_else(|| table.clone());
        let mut backoff = Backoff::new(&self.shared.place);
        let give_up = Instant::now() + self.shared.options.patience.min(FAR);
        loop {
            let hasty = other.is_some();
            let found = self.shared.look_up(self.object, &self.wanted, self.left(), hasty).await;
            match (found, &other) {
                (Ok(path), _) => return Ok(path),
                // A daemon of the suite may serve before it is registered, and nobody else can have its socket.
                (Err(CallError::Refused(failure)), _) => match table {
                    Some(table) if failure.code == Code::NotFound => return Ok(table),
                    _ => return Err(failure.into()),
                },
                (Err(_), Some(path)) => return Ok(path.clone()),
                (Err(error), None) if Instant::now() >= give_up => return Err(error),
                (Err(_), None) => {
                    let paused = timeout_at(self.until.min(give_up), backoff.pause()).await;
                    if paused.is_err() && Instant::now() >= self.until {
                        return Err(self.timeout());
                    }
                }
            }
        }
    }

    /// A route, looked for as long as there may be one.
    async fn found(&mut self) -> Result<Arc<Route>, CallError> {
        loop {
            let error = match self.route().await {
                Ok(route) => return Ok(route),
                Err(error) => error,
            };
            let again = match &error {
                // Where it was before it may just be restarted.
                CallError::Refused(failure) if failure.code == Code::NotFound => {
                    self.stale.is_some()
                }
                CallError::Refused(failure) => failure.code == Code::Busy,
                _ => false,
            };
            self.pause(error, again).await?;
        }
    }

    /// A call failed on this route. It is made again, which `Ok` says, only where it was not begun.
    async fn after(&mut self, route: Arc<Route>, error: CallError) -> Result<(), CallError> {
        self.stale = Some(route);
        let again = match &error {
            CallError::Unreachable { .. } => true,
            CallError::Refused(failure) if was_not_started(failure) => {
                // It is there: what it doesn't offer now it will hardly offer later.
                self.patience = self.patience.min(SETTLE);
                matches!(failure.code, Code::NotFound | Code::Gone | Code::Unsupported)
            }
            _ => false,
        };
        self.pause(error, again).await
    }

    /// Waits before the next attempt, if there is to be one.
    async fn pause(&mut self, error: CallError, again: bool) -> Result<(), CallError> {
        if matches!(error, CallError::Timeout { .. }) {
            return Err(self.timeout());
        }
        let now = Instant::now();
        let failing = *self.failing.get_or_insert(now);
        if !again || now + self.pause > failing + self.patience.min(FAR) {
            return Err(error);
        }
        let paused = timeout_at(self.until, tokio::time::sleep(self.pause)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        paused.map_err(|_| self.timeout())
    }

    fn timeout(&self) -> CallError {
        CallError::Timeout {
            object: self.object.to_owned(),
            method: self.method.to_owned(),
            after: self.after,
        }
    }
}
