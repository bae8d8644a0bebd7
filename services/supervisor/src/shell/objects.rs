//! What the supervisor serves: the objects `service` and `system`, described for `vestalctl list -v`, and forwarded to the loop.

use std::future::Future;

use endpoint::{Incoming, Serve};
use protocol::{
    failure::{Code, Failure},
    objects::{ArgumentKind as Kind, Description},
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
            Object::Service => service(),
            Object::System => system(),
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

fn service() -> Description {
    const NAME: (&str, Kind, bool) = ("name", Kind::String, true);
    const SOME_NAME: (&str, Kind, bool) = ("name", Kind::String, false);
    const INSTANCE: (&str, Kind, bool) = ("instance", Kind::String, false);
    const WAIT: (&str, Kind, bool) = ("wait", Kind::Boolean, false);
    let definition = [
        NAME,
        ("script", Kind::String, false),
        ("instances", Kind::Table, false),
        ("triggers", Kind::Array, false),
        ("validate", Kind::Array, false),
        ("autostart", Kind::Boolean, false),
        ("data", Kind::Table, false),
        ("toml", Kind::String, false),
        ("file", Kind::String, false),
    ];
    let one = [NAME, INSTANCE, WAIT];
    Description::new("vestal.service", 1)
        .method(
            "set",
            &definition,
            "create or replace a service: procd's message, or a definition in `toml`",
            "",
        )
        .method("add", &definition, "as set, but keep the instances that are not named", "")
        .method(
            "list",
            &[SOME_NAME, ("verbose", Kind::Boolean, false)],
            "services and their instances",
            "procd's table",
        )
        .method("delete", &one, "stop and forget a service, or one instance", "")
        .method(
            "signal",
            &[SOME_NAME, INSTANCE, ("signal", Kind::Integer, false)],
            "signal the main processes (default 1, HUP)",
            "",
        )
        .method("state", &[NAME, ("spawn", Kind::Boolean, true)], "start or stop all instances", "")
        .method("start", &one, "start a service and what it requires", "")
        .method("stop", &one, "stop a service and what requires it", "")
        .method("restart", &one, "stop, then start", "")
        .method("reload", &one, "reload by signal or command; restart where there is neither", "")
        .method(
            "update_start",
            &[NAME],
            "begin an update: what is not added again is stopped at its end",
            "",
        )
        .method("update_complete", &[NAME], "end an update", "")
        .method(
            "get_data",
            &[SOME_NAME, INSTANCE, ("type", Kind::String, false)],
            "free data of services and instances",
            "tables by service",
        )
        .method(
            "set_data",
            &[NAME, ("data", Kind::Table, true)],
            "replace a service's free data",
            "",
        )
        .method(
            "watchdog",
            &[
                NAME,
                ("instance", Kind::String, true),
                ("mode", Kind::Integer, false),
                ("timeout", Kind::Integer, false),
            ],
            "keep an instance's watchdog alive, or change it",
            "name, instance, mode, timeout",
        )
        .method("reread", &[], "read the definition files again", "problems")
        .method(
            "report",
            &[],
            "what is wrong with definitions, and who runs",
            "problems, skipped, supervisor, keeper, endpoint",
        )
}

fn system() -> Description {
    Description::new("vestal.system", 1)
        .method("board", &[], "kernel, host, processor, release", "procd's table")
        .method("info", &[], "clock, load, memory", "procd's table")
        .method(
            "watchdog",
            &[
                ("frequency", Kind::Integer, false),
                ("timeout", Kind::Integer, false),
                ("magicclose", Kind::Boolean, false),
                ("stop", Kind::Boolean, false),
            ],
            "the hardware watchdog",
            "status, timeout, frequency, magicclose",
        )
        .method(
            "signal",
            &[("pid", Kind::Integer, true), ("signum", Kind::Integer, true)],
            "send a signal to a process",
            "",
        )
        .method(
            "reboot",
            &[],
            "stop everything, then reboot (where the keeper is PID 1)",
            "what will happen",
        )
        .method(
            "poweroff",
            &[],
            "stop everything, then power off (where the keeper is PID 1)",
            "what will happen",
        )
        .method(
            "halt",
            &[],
            "stop everything, then halt (where the keeper is PID 1)",
            "what will happen",
        )
        .method(
            "reexec",
            &[("what", Kind::String, true)],
            "replace `supervisor` or `keeper` by the binary on disk",
            "",
        )
}
