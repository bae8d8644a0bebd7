//! What is asked of the supervisor: to start and to release services on demand. Without one nothing is started.

use std::{path::Path, time::Duration};

use endpoint::{CallError, CallOptions, Client, Code, Failure, Options};
use protocol::{
    name::Name,
    service::{Activate, Activated, Release},
};

/// How long an answer may take; starting itself takes as long as it takes.
const ANSWER: Duration = Duration::from_secs(10);

/// The way to the supervisor's socket.
#[derive(Clone)]
pub(super) struct SupervisorLine(Client);

impl SupervisorLine {
    pub(super) fn new(run_dir: &Path) -> Self {
        // Where nobody listens there is no supervisor, and waiting would not make one.
        let options = Options { patience: Duration::ZERO, ..Options::default() };
        Self(Client::new(run_dir.join("supervisor.sock"), options))
    }

    pub(super) async fn activate(&self, object: &str) -> Result<Activated, Failure> {
        let args = Activate { object: object.to_owned() };
        let options = CallOptions { deadline: ANSWER, ..CallOptions::safe() };
        match self.0.call("service", "activate", &args, options).await {
            Ok(answer) => answer.parse().map_err(|error| {
                Failure::new(
                    Code::Failed,
                    format!("the supervisor's answer is not understood: {error}"),
                )
            }),
            Err(CallError::Refused(failure)) => Err(failure),
            Err(error @ CallError::Unreachable { .. }) => {
                Err(Failure::new(Code::NotFound, error.to_string()))
            }
            Err(error) => Err(Failure::new(Code::Failed, error.to_string())),
        }
    }

    pub(super) async fn release(&self, service: Name) {
        let options = CallOptions { deadline: ANSWER, ..CallOptions::safe() };
        let args = Release { name: service.clone() };
        if let Err(error) = self.0.call("service", "release", &args, options).await {
            tracing::warn!("service {service} is idle, but can't be released: {error}");
        }
    }
}
