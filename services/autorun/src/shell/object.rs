//! The object `autorun`: forwards calls to the loop, and says what is meant by their arguments.

use std::future::Future;

use endpoint::{Code, Failure, Incoming, Serve};
use protocol::{
    autorun::{self, Sleep},
    name::Name,
    objects::Description,
};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::{
    machine::{Request, Samples},
    settings::BackEnd,
};

pub(super) struct Forward {
    pub(super) inbox: mpsc::Sender<Incoming>,
}

#[derive(Deserialize)]
struct Sleeps {
    kind: Sleep,
    #[serde(default)]
    back_end: Option<String>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Sleep,
}

#[derive(Deserialize)]
struct Targets {
    #[serde(default)]
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Prepared {
    name: Name,
    #[serde(default)]
    reason: Option<String>,
}

impl Serve for Forward {
    fn describe(&self) -> Description {
        autorun::description()
    }

    fn call(&mut self, call: Incoming) -> impl Future<Output = ()> + Send {
        let inbox = self.inbox.clone();
        async move {
            if let Err(mpsc::error::SendError(call)) = inbox.send(call).await {
                let failure = Failure::new(Code::Gone, "the engine is stopping; call again");
                call.responder.fail(failure);
            }
        }
    }
}

/// What is asked; `now` is how the clocks stand.
pub(super) fn request(call: &Incoming, now: impl FnOnce() -> Samples) -> Result<Request, Failure> {
    Ok(match &*call.method {
        "check" => Request::Check,
        "arm" => Request::Arm,
        "disarm" => Request::Disarm,
        "status" => Request::Status,
        "sleep" => {
            let Sleeps { kind, back_end } = call.parse()?;
            Request::Sleep { kind, back_end: back_end.as_deref().map(back_end_of).transpose()? }
        }
        "notify_post" => {
            let Kind { kind } = call.parse()?;
            Request::NotifyPost { kind, clocks: now() }
        }
        "run" => {
            let Targets { targets } = call.parse()?;
            Request::Run { targets }
        }
        "invalidate" => {
            let Reason { reason } = call.parse()?;
            Request::Invalidate { reason }
        }
        "prepared" => {
            let Prepared { name, reason } = call.parse()?;
            Request::Prepared { name, reason }
        }
        method => {
            let text = format!("{method} is described but not served");
            return Err(Failure::new(Code::UnknownMethod, text));
        }
    })
}

fn back_end_of(word: &str) -> Result<BackEnd, Failure> {
    match word {
        "auto" => Ok(BackEnd::Auto),
        "snapshot" => Ok(BackEnd::Snapshot),
        "sysfs" => Ok(BackEnd::Sysfs),
        "exec" => Ok(BackEnd::Exec),
        "none" => Ok(BackEnd::None),
        other => {
            let text =
                format!("back_end {other:.32?} is not known: auto, snapshot, sysfs, exec or none");
            Err(Failure::new(Code::InvalidArgument, text))
        }
    }
}
