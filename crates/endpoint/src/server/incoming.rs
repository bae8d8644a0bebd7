//! A call as its handler sees it, and the ways to answer.

use std::{future::poll_fn, os::fd::OwnedFd, sync::Arc};

use protocol::{
    failure::{Code, Failure},
    frame::{FDS_MAX, PAYLOAD_MAX},
    message::Reply,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{
    link::{Caller, Link},
    peer::Peer,
    router::Target,
};

/// A call that waits for its answer.
#[derive(Debug)]
pub struct Incoming {
    /// One of the methods the object described; others never get here.
    pub method: Arc<str>,
    /// JSON, or raw bytes where the method says so.
    pub args: Vec<u8>,
    /// Descriptors that came with the call.
    pub fds: Vec<OwnedFd>,
    pub responder: Responder,
}

impl Incoming {
    /// Reads the arguments; nothing at all, or `null`, is an empty table.
    ///
    /// # Errors
    /// `invalid-argument` naming the member and what is wrong with it: hand it to [`Responder::fail`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        parse(&self.method, &self.args)
    }

    #[must_use]
    pub fn caller(&self) -> Caller {
        self.responder.caller()
    }
}

fn parse<T: DeserializeOwned>(method: &str, args: &[u8]) -> Result<T, Failure> {
    let args = if matches!(args, b"" | b"null") { b"{}" } else { args };
    let mut json = serde_json::Deserializer::from_slice(args);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("`{path}`: ") };
        invalid(method, &format!("{place}{}", error.inner()))
            .with_details(serde_json::json!({ "path": path }))
    })?;
    json.end().map_err(|error| invalid(method, &error.to_string()))?;
    Ok(value)
}

fn invalid(method: &str, text: &str) -> Failure {
    Failure::new(Code::InvalidArgument, format!("arguments of {method}: {text}"))
}

/// The right to answer one call, once. May be kept and used later; dropped without an answer it answers `failed`.
pub struct Responder {
    link: Arc<Link>,
    id: u32,
    serial: u64,
    deadline: Option<Instant>,
    answered: bool,
    /// The object that runs the call.
    running: Option<Arc<Target>>,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder")
            .field("id", &self.id)
            .field("caller", &self.link.caller)
            .finish_non_exhaustive()
    }
}

impl Responder {
    pub(super) fn new(link: Arc<Link>, id: u32, serial: u64, deadline: Option<Instant>) -> Self {
        Self { link, id, serial, deadline, answered: false, running: None }
    }

    /// The call was taken from the object's queue.
    pub(super) fn run(&mut self, object: &Arc<Target>) {
        self.running = Some(Arc::clone(object));
    }

    #[must_use]
    pub fn caller(&self) -> Caller {
        self.link.caller
    }

    /// When the caller gets `timeout` instead of an answer; `None` is never.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn is_call(&self, id: u32, serial: u64) -> bool {
        (self.id, self.serial) == (id, serial)
    }

    pub(super) fn is_open(&self) -> bool {
        self.link.is_open(self.id, self.serial)
    }

    /// The connection, to send events to this caller.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer::new(Arc::clone(&self.link))
    }

    /// Returns when nobody waits for the answer any more: cancelled, timed out, disconnected.
    pub async fn cancelled(&self) {
        poll_fn(|cx| self.link.poll_over(self.id, self.serial, cx)).await;
    }

    /// Answers with a value as JSON.
    pub fn reply<T: Serialize + ?Sized>(self, value: &T) {
        self.reply_with(value, Vec::new());
    }

    /// Answers with a value as JSON, and descriptors beside it (at most 16).
    pub fn reply_with<T: Serialize + ?Sized>(self, value: &T, fds: Vec<OwnedFd>) {
        match serde_json::to_vec(value) {
            Ok(json) => self.send(json, fds),
            Err(error) => self.fail(Failure::new(
                Code::Failed,
                format!("the result cannot be written as JSON: {error}"),
            )),
        }
    }

    /// Answers with bytes as they are.
    pub fn reply_bytes(self, result: Vec<u8>) {
        self.send(result, Vec::new());
    }

    /// Answers that it was not done.
    pub fn fail(mut self, failure: Failure) {
        self.refuse(&failure);
    }

    /// Answers with either.
    pub fn finish<T: Serialize>(self, outcome: Result<T, Failure>) {
        match outcome {
            Ok(value) => self.reply(&value),
            Err(failure) => self.fail(failure),
        }
    }

    /// Begins an answer in pieces; the caller's credit says how fast.
    #[must_use]
    pub fn chunks(self) -> Chunks {
        Chunks { responder: self }
    }

    fn send(mut self, result: Vec<u8>, fds: Vec<OwnedFd>) {
        let Ok(count) = u8::try_from(fds.len())
            .map_err(|_| ())
            .and_then(|count| if usize::from(count) <= FDS_MAX { Ok(count) } else { Err(()) })
        else {
            let text = format!("{} descriptors in an answer, at most {FDS_MAX} fit", fds.len());
            return self.refuse(&Failure::new(Code::Failed, text));
        };
        if result.len() <= PAYLOAD_MAX {
            self.answered = true;
            let reply = Reply::Done { fds: count, result: &result };
            self.link.answer(self.id, self.serial, reply, fds);
            return;
        }
        if !self.link.takes_chunks(self.id, self.serial) {
            let text = format!(
                "the result has {} bytes, a frame holds {PAYLOAD_MAX}, and the caller gave no credit for chunks",
                result.len()
            );
            return self.refuse(&Failure::new(Code::Limit, text));
        }
        // Longer than a frame: chunks, at the caller's pace, by a task of its own.
        tokio::spawn(async move {
            let mut chunks = self.chunks();
            if chunks.send(&result).await.is_ok() {
                chunks.join(fds, count);
            }
        });
    }

    fn refuse(&mut self, failure: &Failure) {
        if self.answered {
            return;
        }
        self.answered = true;
        self.link.fail(self.id, self.serial, failure);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.answered {
            let text = "the service dropped the call without an answer; its log may say why";
            self.refuse(&Failure::new(Code::Failed, text));
        }
        if let Some(object) = self.running.take() {
            object.queue.ended();
        }
    }
}

/// An answer in pieces.
#[derive(Debug)]
pub struct Chunks {
    responder: Responder,
}

/// The caller doesn't wait any more: stop sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the caller does not wait any more")]
pub struct Ended;

impl Chunks {
    /// Sends bytes, cut into chunks as needed; waits for the caller's credit.
    ///
    /// # Errors
    /// Once the call is cancelled, timed out, or its connection is gone.
    pub async fn send(&mut self, mut data: &[u8]) -> Result<(), Ended> {
        let Responder { link, id, serial, .. } = &self.responder;
        while !data.is_empty() {
            let sent = poll_fn(|cx| link.poll_chunk(*id, *serial, data, cx)).await;
            let Some(sent) = sent else {
                self.responder.answered = true;
                return Err(Ended);
            };
            data = &data[sent..];
        }
        Ok(())
    }

    /// Returns when nobody waits for the answer any more.
    pub async fn cancelled(&self) {
        self.responder.cancelled().await;
    }

    /// Ends the answer with a result of its own (JSON).
    pub fn finish<T: Serialize + ?Sized>(self, value: &T) {
        self.responder.reply(value);
    }

    /// Ends the answer with a failure.
    pub fn fail(self, failure: Failure) {
        self.responder.fail(failure);
    }

    /// The chunks were the result.
    fn join(mut self, fds: Vec<OwnedFd>, count: u8) {
        let Responder { link, id, serial, answered, .. } = &mut self.responder;
        *answered = true;
        link.answer(*id, *serial, Reply::Joined { fds: count }, fds);
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Args {
        name: String,
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        port: u16,
    }

    #[test]
    fn nothing_and_null_are_an_empty_table() {
        assert_eq!(parse::<Args>("m", b"").unwrap().name, "");
        assert_eq!(parse::<Args>("m", b"null").unwrap().name, "");
    }

    #[test]
    fn a_wrong_member_is_named_with_its_path() {
        let args = br#"{"name":"x","inner":[{"port":1},{"port":70000}]}"#;
        let failure = parse::<Args>("listen", args).unwrap_err();
        assert_eq!(failure.code, Code::InvalidArgument);
        assert!(failure.text.contains("`inner[1].port`"), "{failure}");
        assert!(failure.text.contains("70000"), "{failure}");
        let ports: Vec<u16> = parse::<Args>("m", br#"{"inner":[{"port":9}]}"#)
            .unwrap()
            .inner
            .iter()
            .map(|i| i.port)
            .collect();
        assert_eq!(ports, [9]);
    }

    #[test]
    fn bytes_behind_the_arguments_are_refused() {
        assert!(parse::<Args>("m", b"{} {}").is_err());
    }
}
