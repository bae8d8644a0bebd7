//! The manager's side of a driver's host: the few calls that only a manager makes. Never waits without an end, but for `settled`.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use endpoint::{CallError, CallOptions, Client, Options};
use protocol::driver::{Report, Rollback, Settled, Status, Upgrade};
use serde::{Serialize, de::DeserializeOwned};

/// How long a host may take to say how it stands: it answers beside the driver.
const STATUS: Duration = Duration::from_secs(2);
/// How long loading, the gate and the conversion of the state may take, beyond the time to drain.
const REPLACE: Duration = Duration::from_secs(30);
const CUSE: Duration = Duration::from_secs(5);
/// The answers are short.
const RESULT_MAX: usize = 1 << 20;

/// A way to the host of one driver, whether it runs or not.
pub(super) struct Host {
    client: Client,
    object: String,
}

/// What a host was asked, and the descriptors that came with the answer.
type Answered<T> = Result<(T, Vec<OwnedFd>), CallError>;

impl Host {
    pub(super) fn new(run: &Path, name: &str) -> Self {
        let options =
            Options { patience: Duration::ZERO, result_max: RESULT_MAX, ..Options::default() };
        Self {
            client: Client::new(run.join(format!("driver.{name}.sock")), options),
            object: format!("driver/{name}"),
        }
    }

    pub(super) async fn status(&self) -> Result<Status, CallError> {
        let options = CallOptions { deadline: STATUS, ..CallOptions::safe() };
        Ok(self.call("status", &(), options).await?.0)
    }

    /// Gives it new code. Where this ends without an answer nobody knows what was done: `status` tells.
    pub(super) async fn replace(
        &self,
        object: BorrowedFd<'_>,
        upgrade: &Upgrade,
        drain: Duration,
    ) -> Result<Report, CallError> {
        #[derive(Serialize)]
        struct Replace<'u> {
            replacement: &'u Upgrade,
        }
        let fds = [object];
        let options =
            CallOptions { deadline: REPLACE + drain, fds: &fds, ..CallOptions::default() };
        Ok(self.call("replace", &Replace { replacement: upgrade }, options).await?.0)
    }

    pub(super) async fn rollback(
        &self,
        rollback: &Rollback,
        drain: Duration,
    ) -> Result<Report, CallError> {
        let options = CallOptions { deadline: REPLACE + drain, ..CallOptions::default() };
        Ok(self.call("rollback", rollback, options).await?.0)
    }

    /// Answers when no version is on probation.
    pub(super) async fn settled(&self) -> Result<Settled, CallError> {
        let options = CallOptions { deadline: Duration::MAX, ..CallOptions::default() };
        Ok(self.call("settled", &(), options).await?.0)
    }

    /// Gives it `/dev/cuse`, or asks for a copy of the one it has; `None` where it has none.
    pub(super) async fn cuse(
        &self,
        device: Option<&OwnedFd>,
    ) -> Result<Option<OwnedFd>, CallError> {
        let fds: Vec<_> = device.iter().map(|device| device.as_fd()).collect();
        let options = CallOptions { deadline: CUSE, fds: &fds, ..CallOptions::default() };
        let (_, mut fds) = self.call::<serde_json::Value>("cuse", &(), options).await?;
        Ok(fds.pop())
    }

    /// What a canary needs to be tried out with: the state of now and the last calls. `None` where the host gives none.
    pub(super) async fn trial(&self) -> Option<OwnedFd> {
        let options = CallOptions { deadline: STATUS, ..CallOptions::safe() };
        let answered = self.call::<serde_json::Value>("trial", &(), options).await;
        answered.ok().and_then(|(_, mut fds)| fds.pop())
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        args: &(impl Serialize + ?Sized),
        options: CallOptions<'_>,
    ) -> Answered<T> {
        let answer = self.client.call(&self.object, method, args, options).await?;
        let value = answer.parse().map_err(|error| CallError::Violation {
            path: self.client.path().to_owned(),
            text: format!("its answer to {method} is not understood: {error}"),
        })?;
        Ok((value, answer.fds))
    }
}
