//! One connection to the registry, which is never made again: what was said on it ends with it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{failure::Code, failure::Failure, objects::Wanted};
use serde::Serialize;
use tokio::{sync::watch, time::timeout};

use crate::{
    client::{
        Collected, Event, Received, collect,
        connection::{Connection, OpenError, Outcome, Question, SendError, WINDOW},
        turned_away,
    },
    error::CallError,
};

/// Longest answer of the registry that is taken.
const RESULT_MAX: usize = 16 << 20;

/// A connection to the registry. Dropped, it is closed.
pub(crate) struct Line {
    path: PathBuf,
    connection: std::sync::Arc<Connection>,
    /// Its sender goes when the connection ends.
    end: watch::Receiver<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.connection.retire();
    }
}

impl Line {
    /// One try: connects and shakes hands, 5 seconds at most. `deliver` gets the events.
    pub(crate) async fn open(
        path: &Path,
        deliver: impl Fn(Event) + Send + 'static,
    ) -> Result<Self, CallError> {
        let (alive, end) = watch::channel(());
        let deliver = Box::new(move |event| {
            // Held until the connection has ended.
            let _ = &alive;
            deliver(event);
        });
        match Connection::open(path, deliver).await {
            Ok(connection) => Ok(Self { path: path.to_owned(), connection, end }),
            Err(OpenError::Io(source)) => {
                Err(CallError::Unreachable { path: path.to_owned(), source })
            }
            Err(OpenError::Ended(end)) => Err(turned_away(path, end).unwrap_or_else(|error| error)),
        }
    }

    /// Returns when the connection has ended.
    pub(crate) async fn ended(&self) {
        let mut end = self.end.clone();
        while end.changed().await.is_ok() {}
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.has_changed().is_err()
    }

    /// Calls the registry.
    pub(crate) async fn call<A: Serialize + ?Sized>(
        &self,
        method: &str,
        args: &A,
        within: Duration,
    ) -> Result<Received, CallError> {
        let args = serde_json::to_vec(args)
            .map_err(|error| self.invalid(method, format!("the arguments are no JSON: {error}")))?;
        self.call_bytes(method, &args, within).await
    }

    /// Calls the registry with JSON as it is.
    pub(crate) async fn call_bytes(
        &self,
        method: &str,
        args: &[u8],
        within: Duration,
    ) -> Result<Received, CallError> {
        let target = self.connection.find(super::REGISTRY, &Wanted::default());
        let target = target.ok_or_else(|| {
            let text = format!("{} serves no registry", self.path.display());
            Failure::new(Code::NotFound, text)
        })??;
        let question = Question {
            target,
            method,
            args,
            deadline_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX).max(1),
            credit: WINDOW,
            fds: Vec::new(),
        };
        let mut pending = self.connection.send(question).map_err(|error| match error {
            SendError::Ended => self.lost(method, "it ended before".to_owned()),
            SendError::Congested => {
                Failure::new(Code::Busy, "too many calls wait for the registry").into()
            }
            SendError::Invalid(text) => self.invalid(method, text),
        })?;
        let collected = timeout(within, collect(&mut pending, RESULT_MAX)).await;
        match collected.map_err(|_| timed_out(method, within))? {
            Collected::Done(received) => Ok(received),
            Collected::Outcome(Outcome::Refused(failure)) if failure.code == Code::Timeout => {
                Err(timed_out(method, within))
            }
            Collected::Outcome(Outcome::Refused(failure)) => Err(failure.into()),
            Collected::Outcome(Outcome::Ended { end, .. }) => {
                Err(self.lost(method, end.to_string()))
            }
            Collected::Outcome(_) | Collected::TooLong => Err(CallError::Violation {
                path: self.path.clone(),
                text: format!("its answer to {method} is both whole and in pieces, or too long"),
            }),
        }
    }

    /// Calls the registry and reads the answer.
    pub(crate) async fn ask<A, R>(
        &self,
        method: &str,
        args: &A,
        within: Duration,
    ) -> Result<R, CallError>
    where
        A: Serialize + ?Sized,
        R: serde::de::DeserializeOwned,
    {
        self.call(method, args, within).await?.parse().map_err(|error| CallError::Violation {
            path: self.path.clone(),
            text: format!("its answer to {method} is not understood: {error}"),
        })
    }

    fn lost(&self, method: &str, reason: String) -> CallError {
        let (object, method) = (super::REGISTRY.to_owned(), method.to_owned());
        CallError::Lost { path: self.path.clone(), object, method, reason }
    }

    fn invalid(&self, method: &str, text: String) -> CallError {
        let (object, method) = (super::REGISTRY.to_owned(), method.to_owned());
        CallError::Invalid { object, method, text }
    }
}

fn timed_out(method: &str, after: Duration) -> CallError {
    let (object, method) = (super::REGISTRY.to_owned(), method.to_owned());
    CallError::Timeout { object, method, after }
}
