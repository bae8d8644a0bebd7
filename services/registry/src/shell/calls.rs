//! Turns calls into requests, and connections into callers.

use std::{borrow::Cow, future::Future, sync::Arc};

use endpoint::{Code, Failure, Incoming, Peer, Serve};
use protocol::{
    objects::Description,
    registry::{self, Publish},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::Inbound;
use crate::machine::{Caller, Publication, Request};

/// Hands calls to the loop, which knows everything and answers.
pub(super) struct Forward(pub(super) mpsc::Sender<Inbound>);

impl Serve for Forward {
    fn describe(&self) -> Description {
        registry::description()
    }

    fn call(&mut self, call: Incoming) -> impl Future<Output = ()> + Send {
        let inbox = self.0.clone();
        async move {
            let forwarded = inbox.send(Inbound::Call(call)).await;
            if let Err(mpsc::error::SendError(Inbound::Call(call))) = forwarded {
                call.responder.fail(leaving());
            }
        }
    }
}

/// The registry is being replaced; nothing was done.
pub(super) fn leaving() -> Failure {
    let details = serde_json::json!({ "not_started": true });
    Failure::new(Code::Gone, "the registry is being replaced; call again").with_details(details)
}

/// What the kernel says of a connection.
pub(super) fn caller(peer: &Peer) -> Caller {
    let endpoint::Caller { pid, uid, gid, .. } = peer.caller();
    Caller { pid, uid, gid, groups: peer.groups().unwrap_or_default() }
}

/// What is asked.
pub(super) fn request(call: &Incoming) -> Result<Request, Failure> {
    Ok(match &*call.method {
        "register" => Request::Register(call.parse()?),
        "offer" => Request::Offer(call.parse()?),
        "withdraw" => Request::Withdraw(call.parse()?),
        "applied" => Request::Applied(call.parse()?),
        "usage" => Request::Usage(call.parse()?),
        "lookup" => Request::Lookup(call.parse()?),
        "list" => Request::List(call.parse()?),
        "watch" => Request::Watch(call.parse()?),
        "wait" => Request::Wait(call.parse()?),
        "publish" => Request::Publish(publication(call)?),
        "subscribe" => Request::Subscribe(call.parse()?),
        "unsubscribe" => Request::Unsubscribe(call.parse()?),
        "policy" => Request::Policy(call.parse()?),
        other => {
            let text =
                format!("{other} is described but not served; this is a mistake in the registry");
            return Err(Failure::new(Code::UnknownMethod, text));
        }
    })
}

/// [`Publish`], whose data is not looked into.
#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    retain: bool,
}

fn publication(call: &Incoming) -> Result<Publication, Failure> {
    match serde_json::from_slice::<Raw<'_>>(&call.args) {
        Ok(Raw { topic, data, retain }) => {
            let data: Arc<[u8]> = data.map_or("null", RawValue::get).as_bytes().into();
            Ok(Publication { topic: topic.into_owned(), data, retain })
        }
        // Says what is wrong as all other methods do.
        Err(error) => match call.parse::<Publish>() {
            Err(failure) => Err(failure),
            Ok(_) => {
                Err(Failure::new(Code::InvalidArgument, format!("arguments of publish: {error}")))
            }
        },
    }
}
