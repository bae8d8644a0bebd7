//! An answer that is taken in pieces, as they come.

use std::{path::PathBuf, time::Duration};

use protocol::failure::Code;
use tokio::time::{Instant, timeout_at};

use super::{
    Received, Subject,
    connection::{Outcome, Pending, Progress},
};
use crate::error::CallError;

/// An answer in pieces. Dropped before its end it is cancelled.
pub struct Stream {
    pub(super) path: PathBuf,
    pub(super) pending: Pending,
    pub(super) object: String,
    pub(super) method: String,
    pub(super) after: Duration,
    pub(super) until: Instant,
    pub(super) answer: Option<Received>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("object", &self.object).finish_non_exhaustive()
    }
}

impl Stream {
    /// The next bytes, `None` at the end. The pieces are not the ones that were sent: bytes that came together are one.
    ///
    /// # Errors
    /// As [`Client::call`]; a stream is never repeated.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        if self.answer.is_some() {
            return Ok(None);
        }
        let subject = Subject {
            object: &self.object,
            method: &self.method,
            after: self.after,
            until: self.until,
        };
        let progress = timeout_at(self.until, self.pending.next()).await;
        match progress.map_err(|_| subject.timeout())? {
            Progress::Chunks(bytes) => Ok(Some(bytes)),
            Progress::Outcome(Outcome::Done(received)) => {
                self.answer = Some(received);
                Ok(None)
            }
            Progress::Outcome(Outcome::Joined(fds)) => {
                self.answer = Some(Received { result: Vec::new(), fds });
                Ok(None)
            }
            Progress::Outcome(Outcome::Refused(failure)) if failure.code != Code::Timeout => {
                Err(failure.into())
            }
            Progress::Outcome(Outcome::Refused(_)) => Err(subject.timeout()),
            Progress::Outcome(Outcome::Ended { end, .. }) => Err(CallError::Lost {
                path: self.path.clone(),
                object: self.object.clone(),
                method: self.method.clone(),
                reason: end.to_string(),
            }),
        }
    }

    /// The result beside the pieces, once [`Stream::next`] returned `None`.
    #[must_use]
    pub fn answer(self) -> Option<Received> {
        self.answer
    }
}
