//! An image of the machine's memory goes with the kernel and the file systems that were there when it was taken. Before one of
//! them is written the autorun engine is told that its image must not be resumed any more; where that is not certain, nothing is
//! written. An engine that does not answer is stopped and its program does it alone: a device must not need a working engine for
//! the upgrade that mends it.

use std::{env, ffi::OsString, io, time::Duration};

use daemon::places::Places;
use endpoint::{Bus, CallError, CallOptions, Code};
use protocol::{name::Name, service::Order};
use serde::Serialize;
use tokio::runtime::Handle;

use super::program::ask;

/// The engine may have to be started, and to wait for its medium.
const CALL: Duration = Duration::from_secs(30);
/// The supervisor kills it long before.
const STOP: Duration = Duration::from_secs(60);
/// For its program alone.
const ALONE: Duration = Duration::from_secs(30);

/// The way to the engine, for a thread that waits for it.
pub(crate) struct Images {
    bus: Bus,
    runtime: Handle,
    /// Where the engine's program finds its settings and its lock.
    places: Vec<String>,
}

#[derive(Serialize)]
struct Invalidate<'t> {
    reason: &'t str,
}

/// What the engine says.
#[derive(Debug)]
enum Answer {
    /// There is no image that could be resumed.
    Void,
    /// It will not, for a reason of its own.
    Refused(CallError),
    /// Nothing that could be believed.
    Silent(CallError),
}

impl Images {
    /// To be called in the runtime that carries the calls.
    pub(crate) fn new(bus: Bus, places: &Places) -> Self {
        let folders = [("--run-dir", Some(&places.run)), ("--config-dir", places.config.as_ref())];
        let given = folders.into_iter().filter_map(|(option, folder)| Some((option, folder?)));
        let words = |(option, folder): (&str, &std::path::PathBuf)| {
            [option.to_owned(), folder.to_string_lossy().into_owned()]
        };
        Self { bus, runtime: Handle::current(), places: given.flat_map(words).collect() }
    }

    /// # Errors
    /// Where an image may be there that can still be resumed.
    pub(crate) fn invalidate(&self, reason: &str) -> io::Result<()> {
        self.runtime.block_on(async {
            // It may be done twice.
            let options = CallOptions { deadline: CALL, ..CallOptions::safe() };
            let args = Invalidate { reason };
            let call = self.bus.call("autorun", "invalidate", &args, options);
            match understood(call.await.map(drop)) {
                Answer::Void => Ok(()),
                Answer::Refused(why) => Err(io::Error::other(why)),
                Answer::Silent(why) => {
                    tracing::warn!("{why}; its image is invalidated without it");
                    let done = self.without_the_engine(reason).await;
                    done.map_err(|again| {
                        io::Error::other(format!("{why}; and without it: {again}"))
                    })
                }
            }
        })
    }

    /// It can't write its journal over ours: it is stopped, and its program takes the lock that only one of them has.
    async fn without_the_engine(&self, reason: &str) -> Result<(), String> {
        // Where it is not the supervisor's, the lock will tell.
        let stopped = self.order("stop").await;
        let done = self.alone(reason).await;
        if let Err(why) = self.order("start").await {
            tracing::warn!("start the autorun engine again: {why}");
        }
        match (done, stopped) {
            (Err(why), Err(before)) => Err(format!("{why}; stop it: {before}")),
            (done, _) => done,
        }
    }

    async fn order(&self, method: &str) -> Result<(), CallError> {
        let name = Name::new("autorun").expect("letters only");
        let order = Order { name, instance: None, wait: method == "stop" };
        let options = CallOptions { deadline: STOP, ..CallOptions::safe() };
        self.bus.call("service", method, &order, options).await.map(drop)
    }

    async fn alone(&self, reason: &str) -> Result<(), String> {
        // By its own name: the file may hold other programs as well.
        let own = env::current_exe().map_err(|error| format!("find the own program: {error}"))?;
        let program = OsString::from(own.with_file_name("vestal-autorun"));
        let mut args = vec!["--invalidate".to_owned(), reason.to_owned()];
        args.extend(self.places.iter().cloned());
        ask(&program.to_string_lossy(), &args, ALONE).await
    }
}

/// Where nobody takes images there is none, and without a journal there is none for more than one life.
fn understood(outcome: Result<(), CallError>) -> Answer {
    match outcome {
        Ok(()) => Answer::Void,
        Err(CallError::Refused(failure))
            if matches!(failure.code, Code::NotFound | Code::Unsupported) =>
        {
            Answer::Void
        }
        Err(CallError::Unreachable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Answer::Void
        }
        Err(error @ (CallError::Refused(_) | CallError::Invalid { .. })) => Answer::Refused(error),
        Err(error) => Answer::Silent(error),
    }
}

#[cfg(test)]
mod tests {
    use endpoint::Failure;

    use super::*;

    #[test]
    fn only_where_there_is_no_engine_its_silence_is_consent() {
        let unreachable = |kind: io::ErrorKind| CallError::Unreachable {
            path: "/run/autorun.sock".into(),
            source: kind.into(),
        };
        let refused = |code| CallError::Refused(Failure::new(code, "no"));
        let timeout = CallError::Timeout {
            object: "autorun".to_owned(),
            method: "invalidate".to_owned(),
            after: CALL,
        };
        let void = |outcome| matches!(understood(outcome), Answer::Void);
        assert!(void(Ok(())) && void(Err(unreachable(io::ErrorKind::NotFound))));
        assert!(void(Err(refused(Code::NotFound))) && void(Err(refused(Code::Unsupported))));
        for code in [Code::Failed, Code::Denied, Code::UnknownMethod, Code::Busy] {
            assert!(matches!(understood(Err(refused(code))), Answer::Refused(_)));
        }
        for silent in [
            timeout,
            unreachable(io::ErrorKind::ConnectionRefused),
            unreachable(io::ErrorKind::PermissionDenied),
        ] {
            assert!(matches!(understood(Err(silent)), Answer::Silent(_)));
        }
    }
}
