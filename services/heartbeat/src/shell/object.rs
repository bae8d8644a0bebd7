//! The object `heartbeat`: forwards calls to the loop, which knows everything and answers.

use std::future::Future;

use endpoint::{Incoming, Serve};
use protocol::{
    failure::{Code, Failure},
    heartbeat,
    objects::{Description, version},
};
use tokio::sync::mpsc;

pub(super) struct Forward {
    pub(super) inbox: mpsc::Sender<Incoming>,
}

impl Serve for Forward {
    /// `status` is the broker's own; the minor version says that there is more than the contract asks for.
    fn describe(&self) -> Description {
        let mut description = heartbeat::description();
        if !description.has("status") {
            description.version = version(1, 1);
            description = description.method(
                "status",
                &[],
                "what was received, and what was ignored and why",
                "listen, sessions, machine, transport",
            );
        }
        description
    }

    fn call(&mut self, call: Incoming) -> impl Future<Output = ()> + Send {
        let inbox = self.inbox.clone();
        async move {
            if let Err(mpsc::error::SendError(call)) = inbox.send(call).await {
                let failure = Failure::new(Code::Gone, "the broker is stopping; call again");
                call.responder.fail(failure);
            }
        }
    }
}
