//! Sends a bundle: makes the calls that the sender asks for, and takes a transfer up again that was broken off. The device
//! then wants only what it does not have.

use std::{
    io::{Read, Seek},
    time::Duration,
};

use bundle::{
    Reader,
    push::{Call, Outcome, Sender, Sent, Step},
};
use endpoint::{CallError, CallOptions, Client, Code};
use protocol::upgrade::{Progress, Status};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::error::Error;

/// Tries in a row that bring nothing further.
const TRIES: u32 = 6;
/// Tries in all, however little each brings.
const ALL_TRIES: u32 = 100;
/// Pause before the next try; it doubles up to the last.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long one chunk may take to be written.
const CALL: Duration = Duration::from_secs(120);
/// How long everything may take to be read back and verified.
const FINISH: Duration = Duration::from_secs(3600);
/// While nothing is answered the device is asked how it stands, so that the connection is not taken for a dead one.
const QUIET: Duration = Duration::from_secs(1);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// As in `protocol::upgrade`.
    pub(super) flags: u32,
    pub(super) activate: Option<bool>,
}

/// Hears how far it is: what was sent, and what the device says while it verifies.
pub(super) type Heard<'h> = dyn FnMut(Sent, Option<&Progress>) + 'h;

/// Sends what `open` opens, each time from its beginning.
///
/// # Errors
/// A bundle that can't be read, a device that refuses it, or one that can't be reached again and again.
pub(super) async fn send<R: Read + Seek>(
    client: &Client,
    open: impl AsyncFn() -> Result<Reader<R>, Error>,
    order: Order,
    heard: &mut Heard<'_>,
) -> Result<Outcome, Error> {
    let (mut tries, mut all, mut pause) = (0, 0, PAUSE);
    loop {
        let mut sender = Sender::new(open().await?, order.flags, order.activate);
        let stopped = match drive(client, &mut sender, heard).await {
            Ok(outcome) => return Ok(outcome),
            Err(stopped) => stopped,
        };
        if sender.sent().chunks > 0 {
            (tries, pause) = (0, PAUSE);
        }
        (tries, all) = (tries + 1, all + 1);
        if !stopped.passes(all > 1 || sender.sent().chunks > 0)
            || tries >= TRIES
            || all >= ALL_TRIES
        {
            return Err(stopped.into());
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Why a transfer stopped.
enum Stopped {
    Call(CallError),
    Other(Error),
}

impl Stopped {
    /// Whether it helps to begin again. Where something was sent already, `busy` is our own lost connection.
    fn passes(&self, begun: bool) -> bool {
        match self {
            Self::Call(CallError::Lost { .. }) => true,
            Self::Call(CallError::Refused(failure)) => match failure.code {
                Code::Gone => true,
                Code::Busy => begun,
                _ => false,
            },
            Self::Call(CallError::Unreachable { .. } | CallError::Timeout { .. }) => begun,
            Self::Call(_) | Self::Other(_) => false,
        }
    }
}

impl From<Stopped> for Error {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Call(error) => super::error(error),
            Stopped::Other(error) => error,
        }
    }
}

async fn drive<R: Read + Seek>(
    client: &Client,
    sender: &mut Sender<R>,
    heard: &mut Heard<'_>,
) -> Result<Outcome, Stopped> {
    let wrong = |text: String| Stopped::Other(Error::failed(text));
    let mut calls = JoinSet::new();
    loop {
        heard(sender.sent(), None);
        match sender.next_step().map_err(|error| wrong(error.to_string()))? {
            Step::Done(outcome) => return Ok(outcome),
            Step::Call(call) => {
                calls.spawn(made(client.clone(), call));
            }
            Step::Wait => match timeout(QUIET, calls.join_next()).await {
                Ok(Some(Ok((id, answer)))) => {
                    let answer = answer.map_err(Stopped::Call)?;
                    let taken = sender.answered(id, &answer);
                    taken.map_err(|refusal| wrong(refusal.to_string()))?;
                }
                Ok(_) => {
                    return Err(wrong("no call is under way, and none is to be made".to_owned()));
                }
                Err(_) => heard(sender.sent(), progress(client).await.as_ref()),
            },
        }
    }
}

async fn made(client: Client, call: Call) -> (u64, Result<Vec<u8>, CallError>) {
    let deadline = if call.method == "finish" { FINISH } else { CALL };
    let options = CallOptions { deadline, ..CallOptions::default() };
    let answer = client.call_bytes("upgrade", call.method, &call.args, options).await;
    (call.id, answer.map(|received| received.result))
}

async fn progress(client: &Client) -> Option<Progress> {
    let options = CallOptions { deadline: 5 * QUIET, ..CallOptions::default() };
    let answer = client.call("upgrade", "status", &serde_json::json!({}), options).await.ok()?;
    answer.parse::<Status>().ok()?.progress
}
