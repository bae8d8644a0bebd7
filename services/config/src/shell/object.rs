//! The object `config`: calls go to the loop, which answers them when it can.

use std::time::Duration;

use endpoint::{Code, Failure, Incoming, Responder, Serve};
use protocol::{
    config::{Apply, Revert, Selected},
    objects::Description,
};
use tokio::sync::mpsc;

use crate::machine::Ask;

/// Calls that wait for the loop; more wait at the endpoint.
pub(super) const CALLS: usize = 64;

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Wanted {
    Ask(Ask),
    Show(Option<String>),
    Validate(Option<String>),
}

pub(super) type Call = (Wanted, Responder);

pub(super) struct ConfigObject {
    calls: mpsc::Sender<Call>,
}

impl ConfigObject {
    pub(super) fn new() -> (Self, mpsc::Receiver<Call>) {
        let (calls, receiver) = mpsc::channel(CALLS);
        (Self { calls }, receiver)
    }
}

impl Serve for ConfigObject {
    fn describe(&self) -> Description {
        protocol::config::description()
    }

    async fn call(&mut self, call: Incoming) {
        let wanted = match wanted(&call) {
            Ok(wanted) => wanted,
            Err(failure) => return call.responder.fail(failure),
        };
        // Where the loop has ended the caller is answered by the call's end.
        let _ = self.calls.send((wanted, call.responder)).await;
    }
}

fn wanted(call: &Incoming) -> Result<Wanted, Failure> {
    let package = || call.parse::<Selected>().map(|selected| selected.package);
    Ok(match &*call.method {
        "reload" => Wanted::Ask(Ask::Reload(package()?)),
        "status" => Wanted::Ask(Ask::Status),
        "show" => Wanted::Show(package()?),
        "validate" => Wanted::Validate(package()?),
        "diff" => Wanted::Ask(Ask::Diff(package()?)),
        "apply" => {
            Wanted::Ask(Ask::Apply(Duration::from_millis(call.parse::<Apply>()?.confirm_ms)))
        }
        "confirm" => Wanted::Ask(Ask::Confirm),
        "revert" => Wanted::Ask(Ask::Revert(call.parse::<Revert>()?.package)),
        // The endpoint lets only described methods through.
        method => return Err(Failure::new(Code::UnknownMethod, format!("no method {method}"))),
    })
}
