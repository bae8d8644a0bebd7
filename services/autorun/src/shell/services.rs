//! Services, by the supervisor's object `service`. Every call has a limit; what was done and then failed is taken back.

use std::time::Duration;

use endpoint::{CallError, CallOptions, Client, Code};
use protocol::name::Name;
use serde_json::{Value, json};

use crate::{machine::Outcome, settings::BeforeImage};

/// Milliseconds; the supervisor allows no more.
const FREEZE_MAX: u64 = 60_000;

/// The supervisor, for one piece of work.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) client: Client,
    pub(super) limit: Duration,
}

impl Services {
    /// Before the image.
    pub(super) async fn put_away(&self, name: &Name, how: BeforeImage) -> Result<Outcome, String> {
        // What doesn't run is neither stopped nor frozen, and brought back in no life.
        if how == BeforeImage::Keep || !self.runs(name).await? {
            return Ok(Outcome::Already);
        }
        match how {
            BeforeImage::Keep => Ok(Outcome::Already),
            BeforeImage::Stop => {
                match self.call("stop", &json!({ "name": name, "wait": true })).await {
                    Ok(()) => Ok(Outcome::Done),
                    Err(why) => {
                        let again = self.start(name).await.err();
                        Err(with(why, again))
                    }
                }
            }
            BeforeImage::Freeze | BeforeImage::Quiesce => {
                // So that the supervisor gives up first, and says what doesn't stop.
                let limit = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
                let limit = (limit / 10 * 9).min(FREEZE_MAX);
                let freeze = json!({ "name": name, "timeout_ms": limit });
                match self.call("freeze", &freeze).await {
                    Ok(()) => Ok(Outcome::Done),
                    Err(why) => {
                        // It may be half frozen; a supervisor that can't freeze has nothing to thaw.
                        let _ = self.call("thaw", &json!({ "name": name })).await;
                        Err(why)
                    }
                }
            }
        }
    }

    /// After it, or where there was none.
    pub(super) async fn bring_back(
        &self,
        name: &Name,
        how: BeforeImage,
    ) -> Result<Outcome, String> {
        match how {
            BeforeImage::Keep => return Ok(Outcome::Already),
            BeforeImage::Stop => self.start(name).await?,
            BeforeImage::Freeze | BeforeImage::Quiesce => {
                self.call("thaw", &json!({ "name": name })).await?;
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) async fn start(&self, name: &Name) -> Result<(), String> {
        self.call("start", &json!({ "name": name, "wait": true })).await
    }

    pub(super) async fn restart(&self, name: &Name) -> Result<(), String> {
        self.call("restart", &json!({ "name": name, "wait": true })).await
    }

    pub(super) async fn signal(&self, name: &Name, signal: i32) -> Result<(), String> {
        self.call("signal", &json!({ "name": name, "signal": signal })).await
    }

    /// Whether any instance has a process, or is to have one soon.
    async fn runs(&self, name: &Name) -> Result<bool, String> {
        let options = CallOptions { deadline: self.limit, ..CallOptions::safe() };
        let list = self.client.call("service", "list", &json!({ "name": name }), options).await;
        let list = list.map_err(|error| told("list", name.as_str(), error))?;
        let list: Value = list.parse().map_err(|error| format!("service.list: {error}"))?;
        let service = &list[name.as_str()];
        if service.is_null() {
            return Err(format!("there is no service {name}; see vestalctl service list"));
        }
        let instances = service["instances"].as_object();
        let runs =
            |it: &Value| it["running"] == true || it["desired"] == "up" && it["state"] != "done";
        Ok(instances.into_iter().flat_map(|all| all.values()).any(runs))
    }

    async fn call(&self, method: &str, args: &Value) -> Result<(), String> {
        let options = CallOptions { deadline: self.limit, ..CallOptions::default() };
        let name = args["name"].as_str().unwrap_or_default();
        let answer = self.client.call("service", method, args, options).await;
        answer.map(drop).map_err(|error| told(method, name, error))
    }
}

fn told(method: &str, name: &str, error: CallError) -> String {
    match error {
        CallError::Refused(failure) if failure.code == Code::UnknownMethod => {
            format!("{name}: this supervisor has no service.{method}; use before-image = \"stop\"")
        }
        error => format!("{method} {name}: {error}"),
    }
}

fn with(why: String, again: Option<String>) -> String {
    again.map_or(why.clone(), |again| format!("{why}; and then: {again}"))
}
