//! An image of the machine's memory goes with the kernel and the file systems that were there when it was taken. Before one of
//! them is written the autorun engine is told that its image must not be resumed any more; where that is not certain, nothing is
//! written.

use std::{io, time::Duration};

use endpoint::{Bus, CallError, CallOptions, Code};
use serde::Serialize;
use tokio::runtime::Handle;

/// The engine may have to be started, and to wait for its medium.
const CALL: Duration = Duration::from_secs(30);

/// The way to the engine, for a thread that waits for it.
pub(crate) struct Images {
    bus: Bus,
    runtime: Handle,
}

#[derive(Serialize)]
struct Invalidate<'t> {
    reason: &'t str,
}

impl Images {
    /// To be called in the runtime that carries the calls.
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, runtime: Handle::current() }
    }

    /// # Errors
    /// Where an image may be there that can still be resumed.
    pub(crate) fn invalidate(&self, reason: &str) -> io::Result<()> {
        // It may be done twice.
        let options = CallOptions { deadline: CALL, ..CallOptions::safe() };
        let args = Invalidate { reason };
        let call = self.bus.call("autorun", "invalidate", &args, options);
        self.runtime.block_on(async { settled(call.await.map(drop)) })
    }
}

/// Where nobody takes images there is none.
fn settled(outcome: Result<(), CallError>) -> io::Result<()> {
    let absent = |error: &CallError| match error {
        CallError::Refused(failure) => failure.code == Code::NotFound,
        CallError::Unreachable { source, .. } => {
            matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        }
        _ => false,
    };
    match outcome {
        Err(error) if !absent(&error) => Err(io::Error::other(error)),
        _ => Ok(()),
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
        assert!(settled(Ok(())).is_ok());
        for absent in [
            unreachable(io::ErrorKind::NotFound),
            unreachable(io::ErrorKind::ConnectionRefused),
            refused(Code::NotFound),
        ] {
            assert!(settled(Err(absent)).is_ok());
        }
        let timeout = CallError::Timeout {
            object: "autorun".to_owned(),
            method: "invalidate".to_owned(),
            after: CALL,
        };
        for present in [
            unreachable(io::ErrorKind::PermissionDenied),
            refused(Code::Failed),
            refused(Code::Denied),
            refused(Code::UnknownMethod),
            refused(Code::Busy),
            timeout,
        ] {
            assert!(settled(Err(present)).is_err());
        }
    }
}
