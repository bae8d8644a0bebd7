//! The endpoint's own methods that do something: gates, the tap, the log's level. For root and our own user only, whatever
//! the rules say, because they concern the process and not one of its objects.

use std::{sync::Arc, time::Duration};

use protocol::{
    failure::{Code, Failure},
    objects::{GATE, Gate, LOG_LEVEL, LogLevel, MONITOR},
};

use super::{Server, Shared, gate::ClosedGate, incoming::Incoming};

/// How long a call may wait at a gate, where the closer doesn't say.
const HOLD: Duration = Duration::from_secs(10);
/// How long the running calls may take.
const DRAIN: Duration = Duration::from_secs(5);

/// Carries out one of them; the caller was seen to be allowed.
pub(super) fn answer(shared: &Arc<Shared>, call: Incoming) {
    let shared = Arc::clone(shared);
    match &*call.method {
        GATE => match call.parse() {
            Ok(gate) => move_gate(&shared, gate, call),
            Err(failure) => call.responder.fail(failure),
        },
        MONITOR => {
            tokio::spawn(async move { shared.monitor.stream(call.responder).await });
        }
        LOG_LEVEL => {
            let level = call.parse().and_then(|args: LogLevel| log_level(&shared, &args));
            call.responder.finish(level);
        }
        // Dropped without an answer it fails; the router knows no other method.
        _ => {}
    }
}

fn move_gate(shared: &Arc<Shared>, wanted: Gate, call: Incoming) {
    let object = wanted.object.as_deref();
    if !wanted.closed {
        let server = Server { shared: Arc::clone(shared) };
        return call.responder.finish(server.open_gate(object));
    }
    let millis =
        |ms: Option<u32>, default| ms.map_or(default, |ms| Duration::from_millis(u64::from(ms)));
    match ClosedGate::new(shared, object, millis(wanted.hold_ms, HOLD)) {
        Ok(gate) => {
            tokio::spawn(keep_closed(gate, millis(wanted.drain_ms, DRAIN), call));
        }
        Err(failure) => call.responder.fail(failure),
    }
}

/// The gate stays closed until somebody opens it, or the connection ends that had it closed.
async fn keep_closed(gate: ClosedGate, within: Duration, call: Incoming) {
    let responder = call.responder;
    let peer = responder.peer();
    tokio::select! {
        drained = tokio::time::timeout(within, gate.drained()) => {
            if drained.is_err() {
                gate.open();
                let text = format!("calls still run after {within:?}; the gate is open again");
                return responder.fail(Failure::new(Code::Timeout, text));
            }
        }
        () = responder.cancelled() => return,
    }
    responder.reply(&());
    tokio::select! {
        () = gate.opened() => {}
        () = peer.closed() => {}
    }
}

fn log_level(shared: &Shared, wanted: &LogLevel) -> Result<LogLevel, Failure> {
    let Some(set) = &shared.settings.log_level else {
        let text = "this process does not let its log level be changed while it runs";
        return Err(Failure::new(Code::Unsupported, text));
    };
    match set(wanted.level.as_deref()) {
        Ok(level) => Ok(LogLevel { level: Some(level) }),
        Err(text) => Err(Failure::new(Code::InvalidArgument, text)),
    }
}
