//! The object `upgrade` as an endpoint serves it: says who calls, and leaves the rest to the desk.

use std::sync::Arc;

use endpoint::{Incoming, Serve};
use protocol::{
    failure::{Code, Failure},
    objects::Description,
};

use super::{
    desk::{Caller, Desk},
    link::From,
};

/// Whose calls these are.
pub(super) enum Callers {
    /// Processes of this device; `root` is the user that counts as root.
    Local { root: u32 },
    /// One operator.
    Operator { fingerprint: String },
}

pub(super) struct UpgradeObject {
    pub(super) desk: Arc<Desk>,
    pub(super) callers: Callers,
    /// Of the server, among all servers of this process.
    pub(super) server: u64,
}

impl UpgradeObject {
    fn caller(&self, call: &Incoming) -> Caller {
        let from = match &self.callers {
            Callers::Local { root } => {
                let uid = call.caller().uid;
                From { who: format!("uid {uid}"), local_root: uid == 0 || uid == *root }
            }
            Callers::Operator { fingerprint } => {
                From { who: fingerprint.clone(), local_root: false }
            }
        };
        Caller { from, line: (self.server, call.responder.peer().id()) }
    }
}

impl Serve for UpgradeObject {
    fn describe(&self) -> Description {
        protocol::upgrade::description()
    }

    async fn call(&mut self, call: Incoming) {
        let caller = self.caller(&call);
        if &*call.method == "chunk" {
            return self.desk.chunk(caller, call);
        }
        tokio::spawn(Arc::clone(&self.desk).answer(caller, call));
    }
}

/// Stands in the object's place where there are too many sessions, so that a host is told why.
pub(super) struct Full {
    pub(super) sessions: usize,
}

impl Serve for Full {
    fn describe(&self) -> Description {
        protocol::upgrade::description()
    }

    async fn call(&mut self, call: Incoming) {
        let text = format!(
            "{} hosts are connected already, which is as many as this device serves; try again later",
            self.sessions
        );
        let details = serde_json::json!({ "retry_after_ms": 5000 });
        call.responder.fail(Failure::new(Code::Busy, text).with_details(details));
    }
}
