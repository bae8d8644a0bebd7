//! The object `driver/NAME`: the calls of the tasks go to the core and are answered when it answers; what the manager and
//! people ask for is in [`super::control`].

use std::{path::Path, sync::Arc};

use endpoint::{Incoming, Serve};
use protocol::{
    driver::{Answer, Head, Open, Opened, host_description},
    failure::{Code, Failure},
    objects::Description,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    control::Control, owners::Owners, start::Started, waiting::Waiting, workshop::Workshop,
};
use crate::host::{
    core::{AGAIN, Core, Outcome, Owner, Request},
    machine::handles::wait_of,
};

pub(super) struct HostObject {
    core: Core,
    owners: Arc<Owners>,
    shop: Arc<Workshop>,
    control: Control,
}

#[derive(Deserialize)]
struct Close {
    handle: u64,
}

impl HostObject {
    pub(super) fn new(started: &Started, run: &Path) -> Self {
        Self {
            core: started.core.clone(),
            owners: Arc::clone(&started.owners),
            shop: Arc::clone(&started.shop),
            control: Control::new(started, run),
        }
    }

    fn open(&self, call: Incoming) {
        let owner = self.owners.of(&call.responder.peer(), &self.shop.desk);
        let (open, owner) = match (call.parse::<Open>(), owner) {
            (Ok(open), Ok(owner)) => (open, owner),
            (Err(failure), _) | (_, Err(failure)) => return call.responder.fail(failure),
        };
        let responder = call.responder;
        self.core.open(owner, open.flags & !driver_abi::REOPEN, move |opened| match opened {
            Ok(handle) => responder.reply(&Opened { result: 0, handle }),
            Err(AGAIN) => responder.fail(ends()),
            Err(result) => responder.reply(&Opened { result, handle: 0 }),
        });
    }

    fn close(&self, call: Incoming) {
        let close = match call.parse::<Close>() {
            Ok(close) => close,
            Err(failure) => return call.responder.fail(failure),
        };
        let (owner, responder) = (owner(&call), call.responder);
        self.core.close(owner, close.handle, move |result| {
            responder.reply(&json!({ "result": result }));
        });
    }

    fn data(&self, call: Incoming) {
        let Some((head, data)) = Head::parse(&call.args) else {
            let text = format!(
                "{}: {} bytes are no head; it has {}",
                call.method,
                call.args.len(),
                protocol::driver::HEAD
            );
            return call.responder.fail(Failure::new(Code::InvalidArgument, text));
        };
        let (owner, request) = (owner(&call), request(&call.method, &head, data));
        let waiting = Waiting::new(call.responder);
        let waits = Arc::clone(&waiting);
        let done = move |outcome| {
            let Some(responder) = waits.take() else { return };
            let Outcome { result, data } = outcome;
            if result == AGAIN {
                return responder.fail(ends());
            }
            responder.reply_bytes(Answer { result, data: &data }.encode());
        };
        let ticket = self.core.submit(owner, head.handle, head.sequence, request, done);
        waiting.attend(self.core.clone(), ticket);
    }
}

impl Serve for HostObject {
    fn describe(&self) -> Description {
        host_description()
    }

    async fn call(&mut self, call: Incoming) {
        if self.shop.desk.lock().stopping {
            return call.responder.fail(ends());
        }
        match &*call.method {
            "open" => self.open(call),
            "close" => self.close(call),
            "read" | "write" | "ioctl" | "poll" | "call" => self.data(call),
            _ => self.control.call(call),
        }
    }
}

/// The caller makes it again, at the next host.
fn ends() -> Failure {
    let text = "this host of the driver ends, and nothing was done; call again";
    Failure::new(Code::Gone, text).with_details(json!({ "not_started": true }))
}

/// Who calls; the core knows the handles of a process by its pid, and forgets them when it ends.
fn owner(call: &Incoming) -> Owner {
    Owner::Process { pid: call.caller().pid, start: 0 }
}

fn request(method: &str, head: &Head, data: &[u8]) -> Request {
    let length = usize::try_from(head.length).unwrap_or(usize::MAX);
    let argument = data.to_vec();
    match method {
        "read" => Request::Read { length },
        "write" => Request::Write { data: argument },
        "poll" => Request::Poll { events: head.word, wait: wait_of(head.length) },
        "ioctl" => Request::Ioctl { command: head.word, argument, room: length },
        _ => Request::Own { number: head.word, argument, room: length },
    }
}
