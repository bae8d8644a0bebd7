//! The calling side: many calls at once over one connection, which is made again when it ends.
//!
//! A call is repeated only where that can't do harm: it was never read by the other side, the other side said that it
//! was not begun, or the caller marked it as safe to repeat.

mod connecting;
pub(crate) mod connection;
mod options;
mod stream;
mod window;

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol::{
    failure::{Code, Failure},
    frame::FDS_MAX,
    objects::{ENDPOINT, OBJECTS, Wanted, nearest},
};
use serde::Serialize;
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, timeout_at},
};

pub(crate) use self::connecting::turned_away;
pub use self::{
    connecting::Dial,
    options::{CallOptions, Event, Options, Received},
    stream::Stream,
};
use self::{
    connection::{Connection, Outcome, Pending, Progress, Question, SendError, WINDOW},
    window::Window,
};
use crate::error::CallError;

/// First pause between two attempts to connect; it doubles up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A deadline nobody lives to see; what `Duration::MAX` becomes.
pub(crate) const FAR: Duration = Duration::from_secs(86_400 * 365);

/// Calls the objects of one endpoint. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    dial: Option<Dial>,
    options: Options,
    /// The one in use.
    connection: Mutex<Option<Arc<Connection>>>,
    /// Held while connecting, so that many calls make one connection.
    connecting: tokio::sync::Mutex<()>,
    events: broadcast::Sender<Event>,
    made: watch::Sender<u64>,
    window: Window,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Ok(Some(connection)) = self.connection.get_mut().map(|kept| kept.take()) {
            connection.retire();
        }
    }
}

/// Who is asked what, for errors.
#[derive(Clone, Copy)]
struct Subject<'a> {
    object: &'a str,
    method: &'a str,
    after: Duration,
    until: Instant,
}

impl Client {
    /// Connects at the first call.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, options: Options) -> Self {
        Self::made(path.into(), None, options)
    }

    /// Connects as `dial` does it, at the first call and whenever a connection has ended; `name` is what errors call the
    /// other side. Its peer must not be given descriptors.
    #[must_use]
    pub fn over(name: impl Into<PathBuf>, dial: Dial, options: Options) -> Self {
        Self::made(name.into(), Some(dial), options)
    }

    fn made(path: PathBuf, dial: Option<Dial>, options: Options) -> Self {
        let (events, _) = broadcast::channel(options.events.max(1));
        let shared = Shared {
            path,
            dial,
            options,
            connection: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            events,
            made: watch::Sender::new(0),
            window: Window::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Calls with a value as arguments (JSON); `&()` for none.
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

    /// Calls with bytes as they are: JSON that exists already, or raw bytes where the method says so.
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
        let subject = Subject::new(object, method, options.deadline);
        let mut backoff = BACKOFF;
        let window = &self.shared.window;
        // What the server said when its queue was full says more than that time is up.
        let mut busy = None;
        loop {
            let Ok(place) = timeout_at(subject.until, window.enter()).await else {
                return Err(busy.unwrap_or_else(|| subject.timeout()));
            };
            let mut pending = self.begin(subject, args, &options).await?;
            let collected = collect(&mut pending, self.shared.options.result_max);
            let outcome =
                timeout_at(subject.until, collected).await.map_err(|_| subject.timeout())?;
            match self.judge(subject, outcome, options.safe_to_repeat) {
                Verdict::Over(Err(CallError::Refused(failure)))
                    if options.wait_when_busy && asks_for_patience(&failure) =>
                {
                    window.refused(place);
                    busy = Some(CallError::Refused(failure));
                }
                Verdict::Over(result) => {
                    window.ended(place);
                    return result;
                }
                Verdict::Again => {
                    window.ended(place);
                    subject.pause(&mut backoff).await?;
                }
            }
        }
    }

    /// Calls and takes the answer in pieces, as they come.
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
        let subject = Subject::new(object, method, options.deadline);
        let pending = self.begin(subject, args, &options).await?;
        Ok(Stream {
            path: self.shared.path.clone(),
            pending,
            object: object.to_owned(),
            method: method.to_owned(),
            after: options.deadline,
            until: subject.until,
            answer: None,
        })
    }

    /// Events that the server sends to this client from now on. Who subscribes on the server must do so again for
    /// each new connection: see [`Client::connections`].
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// How many connections were made so far; changes with each.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.shared.made.subscribe()
    }

    /// The objects the endpoint serves, by name.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn objects(&self) -> Result<Vec<protocol::objects::Served>, CallError> {
        let subject = Subject::new("the endpoint", OBJECTS, CallOptions::default().deadline);
        let connection = self.connected(subject).await?;
        self.refresh(&connection, subject).await
    }

    /// The nonce of the endpoint's Welcome, by which the registry proves a socket. Connects if need be.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn nonce(&self, within: Duration) -> Result<[u8; 16], CallError> {
        let subject = Subject::new("the endpoint", "nonce", within);
        let connection = self.connected(subject).await?;
        Ok(connection.nonce().expect("a connection is used only once it was welcomed"))
    }

    /// Connects, finds the object and puts the call on its way, all before the deadline.
    async fn begin(
        &self,
        subject: Subject<'_>,
        args: &[u8],
        options: &CallOptions<'_>,
    ) -> Result<Pending, CallError> {
        if options.fds.len() > FDS_MAX {
            let text = format!("{} descriptors, at most {FDS_MAX} fit", options.fds.len());
            return Err(subject.invalid(text));
        }
        let mut backoff = BACKOFF;
        loop {
            let connection = self.connected(subject).await?;
            let target = self.target(&connection, subject, &options.wanted).await?;
            let fds = options.fds.iter().map(BorrowedFd::try_clone_to_owned);
            let fds = fds
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| subject.invalid(format!("duplicate a descriptor: {error}")))?;
            let question = Question {
                target,
                method: subject.method,
                args,
                deadline_ms: subject.deadline_ms(),
                credit: WINDOW,
                fds,
            };
            match connection.send(question) {
                Ok(pending) => return Ok(pending),
                Err(SendError::Invalid(text)) => return Err(subject.invalid(text)),
                Err(SendError::Congested) => {
                    let text = "too many calls wait for a server that does not read";
                    return Err(Failure::new(Code::Busy, text).into());
                }
                // It ended a moment ago; nothing was sent.
                Err(SendError::Ended) => subject.pause(&mut backoff).await?,
            }
        }
    }

    /// Token and generation of the object; asks again where Welcome didn't name it.
    async fn target(
        &self,
        connection: &Arc<Connection>,
        subject: Subject<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<(u32, u32), CallError> {
        if subject.object.is_empty() {
            return Ok((ENDPOINT, 0));
        }
        if let Some(Ok(target)) = connection.find(subject.object, wanted) {
            return Ok(target);
        }
        self.refresh(connection, subject).await?;
        let found = connection.find(subject.object, wanted).ok_or_else(|| {
            let names = connection.object_names();
            let near = nearest(subject.object, names.iter().map(String::as_str));
            let hint = near.map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
            let path = self.shared.path.display();
            let text = format!("{path} serves no object {:?}{hint}", subject.object);
            CallError::Refused(not_started(Failure::new(Code::NotFound, text)))
        })?;
        found.map_err(|failure| CallError::Refused(not_started(failure)))
    }

    /// Asks for the objects as they are now. A connection that ends meanwhile leaves the old list.
    async fn refresh(
        &self,
        connection: &Arc<Connection>,
        subject: Subject<'_>,
    ) -> Result<Vec<protocol::objects::Served>, CallError> {
        let question = Question {
            target: (ENDPOINT, 0),
            method: OBJECTS,
            args: b"",
            deadline_ms: subject.deadline_ms(),
            credit: WINDOW,
            fds: Vec::new(),
        };
        let Ok(mut pending) = connection.send(question) else { return Ok(Vec::new()) };
        let collected = collect(&mut pending, self.shared.options.result_max);
        let outcome = timeout_at(subject.until, collected).await.map_err(|_| subject.timeout())?;
        match self.judge(subject, outcome, true) {
            Verdict::Again => Ok(Vec::new()),
            Verdict::Over(answer) => {
                let served: Vec<protocol::objects::Served> =
                    answer?.parse().map_err(|error| CallError::Violation {
                        path: self.shared.path.clone(),
                        text: format!("its list of objects is not understood: {error}"),
                    })?;
                connection.learn(served.clone());
                Ok(served)
            }
        }
    }

    /// Whether an answer ends the call, or the call is made again.
    fn judge(&self, subject: Subject<'_>, outcome: Collected, safe: bool) -> Verdict {
        let lost = |reason| CallError::Lost {
            path: self.shared.path.clone(),
            object: subject.object.to_owned(),
            method: subject.method.to_owned(),
            reason,
        };
        match outcome {
            Collected::Done(received) => Verdict::Over(Ok(received)),
            Collected::Outcome(Outcome::Refused(failure)) => {
                if failure.code == Code::Gone && was_not_started(&failure) {
                    // Its object was replaced, or its process leaves: look again, on a new connection.
                    if let Some(connection) = self.kept().take() {
                        connection.retire();
                    }
                    return Verdict::Again;
                }
                if failure.code == Code::Timeout {
                    return Verdict::Over(Err(subject.timeout()));
                }
                Verdict::Over(Err(CallError::Refused(failure)))
            }
            Collected::Outcome(Outcome::Ended { unread, end }) => {
                if unread || safe {
                    return Verdict::Again;
                }
                Verdict::Over(Err(lost(end.to_string())))
            }
            Collected::Outcome(_) => Verdict::Over(Err(CallError::Violation {
                path: self.shared.path.clone(),
                text: "it answered with both chunks and a result".to_owned(),
            })),
            Collected::TooLong => {
                let limit = self.shared.options.result_max;
                let text = format!("the result exceeds the limit of {limit} bytes");
                Verdict::Over(Err(Failure::new(Code::Limit, text).into()))
            }
        }
    }
}

enum Verdict {
    Over(Result<Received, CallError>),
    Again,
}

/// A whole answer.
pub(crate) enum Collected {
    Done(Received),
    Outcome(Outcome),
    TooLong,
}

/// Says that a call was not begun, so that whoever gets this may repeat it.
/// Arguments as JSON.
pub(crate) fn to_args<A: Serialize + ?Sized>(
    object: &str,
    method: &str,
    args: &A,
) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(args).map_err(|error| CallError::Invalid {
        object: object.to_owned(),
        method: method.to_owned(),
        text: format!("the arguments are no JSON: {error}"),
    })
}

/// The server has no room for this call at the moment, and has not begun it.
fn asks_for_patience(failure: &Failure) -> bool {
    failure.code == Code::Busy && was_not_started(failure)
}

fn not_started(failure: Failure) -> Failure {
    failure.with_details(serde_json::json!({ "not_started": true }))
}

/// Whether who refused says that the call was not begun.
pub(crate) fn was_not_started(failure: &Failure) -> bool {
    failure.details.as_ref().is_some_and(|details| details["not_started"] == true)
}

/// Puts chunks together until the answer is there.
pub(crate) async fn collect(pending: &mut Pending, limit: usize) -> Collected {
    let mut result = Vec::new();
    loop {
        match pending.next().await {
            Progress::Chunks(chunks) if result.len() + chunks.len() > limit => {
                return Collected::TooLong;
            }
            Progress::Chunks(chunks) => result.extend_from_slice(&chunks),
            Progress::Outcome(Outcome::Joined(fds)) => {
                return Collected::Done(Received { result, fds });
            }
            // A stream read as a whole: its bytes, then a result of its own that says nothing more.
            Progress::Outcome(Outcome::Done(received)) => {
                if result.is_empty() {
                    return Collected::Done(received);
                }
                return Collected::Done(Received { result, fds: received.fds });
            }
            Progress::Outcome(outcome) => return Collected::Outcome(outcome),
        }
    }
}

impl<'a> Subject<'a> {
    fn new(object: &'a str, method: &'a str, after: Duration) -> Self {
        Self { object, method, after, until: Instant::now() + after.min(FAR) }
    }

    /// What is left, for the server; the largest number is for ever.
    fn deadline_ms(&self) -> u32 {
        if self.after >= FAR {
            return u32::MAX;
        }
        let left = self.until.saturating_duration_since(Instant::now()).as_millis();
        u32::try_from(left).unwrap_or(u32::MAX).max(1)
    }

    fn timeout(&self) -> CallError {
        CallError::Timeout {
            object: self.object.to_owned(),
            method: self.method.to_owned(),
            after: self.after,
        }
    }

    fn invalid(&self, text: String) -> CallError {
        let (object, method) = (self.object.to_owned(), self.method.to_owned());
        CallError::Invalid { object, method, text }
    }

    /// Waits a little longer each time.
    async fn pause(&self, backoff: &mut Duration) -> Result<(), CallError> {
        let paused = timeout_at(self.until, tokio::time::sleep(*backoff)).await;
        *backoff = (*backoff * 2).min(BACKOFF_MAX);
        paused.map_err(|_| self.timeout())
    }
}
