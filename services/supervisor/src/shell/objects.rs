//! What the supervisor serves: the objects `service` and `system`, as `protocol` describes them, forwarded to the loop.

use std::future::Future;

use endpoint::{Incoming, Serve};
use protocol::{
    failure::{Code, Failure},
    objects::Description,
};
use tokio::sync::mpsc;

use super::Inbound;

/// Which object a call is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Object {
    Service,
    System,
}

/// Hands calls to the loop, which knows everything and answers.
pub(crate) struct Forward {
    pub(crate) object: Object,
    pub(crate) inbox: mpsc::Sender<Inbound>,
}

impl Serve for Forward {
    fn describe(&self) -> Description {
        match self.object {
            Object::Service => protocol::service::description(),
            Object::System => protocol::system::description(),
        }
    }

    fn call(&mut self, call: Incoming) -> impl Future<Output = ()> + Send {
        let (inbox, object) = (self.inbox.clone(), self.object);
        async move {
            let forwarded = inbox.send(Inbound::Call { object, call }).await;
            if let Err(mpsc::error::SendError(Inbound::Call { call, .. })) = forwarded {
                let text = "the supervisor is being replaced; call again";
                call.responder.fail(Failure::new(Code::Gone, text));
            }
        }
    }
}
