//! The object `heartbeat`: forwards calls to the loop, which knows everything and answers.

use std::future::Future;

use endpoint::{Incoming, Serve};
use protocol::{
    failure::{Code, Failure},
    heartbeat,
    objects::Description,
};
use tokio::sync::mpsc;

pub(super) struct Forward {
    pub(super) inbox: mpsc::Sender<Incoming>,
}

impl Serve for Forward {
    fn describe(&self) -> Description {
        heartbeat::description()
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
