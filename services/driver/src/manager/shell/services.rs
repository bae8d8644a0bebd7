//! The hosts as services of the supervisor: what defines one, and the few orders that the manager gives. A host outlives its
//! manager, so nothing is ordered that stands already.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, time::Duration};

use daemon::files::read_text;
use endpoint::{CallError, CallOptions, Client};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::{manager::machine::privilege, record::hash_of, settings::Driver};

/// What the services of hosts are called, before the driver's name.
const PREFIX: &str = "driver.";
/// What comes from where the supervisor may have a lot to do first, as at boot.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often one host may stop for an order before it is answered.
const STOP: Duration = Duration::from_secs(60);
/// Of real-time priority, that a host may have while the gate is closed.
const PRIORITY: u32 = 10;
/// A status file has some 1,500 bytes.
const STATUS_MAX: u64 = 64 << 10;

/// The supervisor.
pub(super) struct Services {
    client: Client,
}

/// A definition, and by what it is told from another one.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Definition {
    toml: String,
    digest: String,
}

impl Definition {
    /// `user` is a name or a number; `None`: the host runs as the manager does. `hurried`: it may be given real-time priority.
    pub(super) fn new(name: &str, driver: &Driver, user: Option<&str>, hurried: bool) -> Self {
        let mut toml = format!(
            "command = [\"${{VESTAL_BIN_DIR}}/vestal-driver\", \"--host\", \"{name}\"]\nrespawn = \"always\"\n\
             fd-store = 4\n"
        );
        if let Some(user) = user {
            let _ = writeln!(toml, "user = \"{user}\"\nno-new-privileges = true");
        }
        if hurried {
            // Without it a caller that is preempted inside the driver would hold everybody up for long.
            let _ = writeln!(toml, "limits = {{ rtprio = {PRIORITY} }}");
        }
        // Another setting needs another process: a host reads them when it starts.
        let digest = hash_of(format!("{toml}{driver:?}").as_bytes());
        let _ = write!(
            toml,
            "env = {{ VESTAL_DRIVER_SETTINGS = \"{digest}\" }}\ndata = {{ definition = \"{digest}\" }}\n\
             [readiness]\nnotify = true\ntimeout = \"30s\"\n\
             [[sockets]]\nname = \"control\"\nlisten = \"run:driver.{name}.sock\"\nmode = \"0666\"\n"
        );
        Self { toml, digest }
    }
}

/// Whether a service may have a limit of real-time priority: a container's root may be unable to give one.
pub(super) fn may_hurry() -> bool {
    let limit = getrlimit(Resource::Rtprio).maximum;
    let status = read_text(Path::new("/proc/self/status"), STATUS_MAX).unwrap_or_default();
    let may_raise =
        privilege::Status::parse(&status).is_some_and(|status| status.may_raise_limits());
    may_raise || limit.is_none_or(|limit| limit >= u64::from(PRIORITY))
}

impl Services {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// The hosts that are defined, by driver, with the digests of their definitions.
    pub(super) async fn hosts(&self) -> Result<BTreeMap<String, String>, CallError> {
        let answer = self.call("list", &json!({})).await?;
        let Value::Object(services) = answer else { return Ok(BTreeMap::new()) };
        let host = |(service, listed): (String, Value)| {
            let name = service.strip_prefix(PREFIX)?.to_owned();
            let digest = listed["data"]["definition"].as_str().unwrap_or_default().to_owned();
            Some((name, digest))
        };
        Ok(services.into_iter().filter_map(host).collect())
    }

    /// Defines and starts a host; nothing where it is defined so already, stopped or not.
    pub(super) async fn define(
        &self,
        name: &str,
        definition: &Definition,
    ) -> Result<(), CallError> {
        if self.hosts().await?.get(name) == Some(&definition.digest) {
            return Ok(());
        }
        let args = json!({ "name": service(name), "toml": definition.toml });
        self.call("set", &args).await.map(drop)
    }

    pub(super) async fn start(&self, name: &str) -> Result<(), CallError> {
        self.call("start", &json!({ "name": service(name), "wait": true })).await.map(drop)
    }

    /// Returns when nothing of it runs any more.
    pub(super) async fn stop(&self, name: &str) -> Result<(), CallError> {
        self.call("stop", &json!({ "name": service(name), "wait": true })).await.map(drop)
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), CallError> {
        self.call("delete", &json!({ "name": service(name), "wait": true })).await.map(drop)
    }

    async fn call(&self, method: &str, args: &Value) -> Result<Value, CallError> {
        let deadline = if matches!(method, "stop" | "delete" | "start") { STOP } else { DEADLINE };
        // Each of them may be said twice.
        let options = CallOptions { deadline, ..CallOptions::safe() };
        let answer = self.client.call("service", method, args, options).await?;
        Ok(answer.parse().unwrap_or(Value::Null))
    }
}

fn service(name: &str) -> String {
    format!("{PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    fn driver(more: &str) -> Driver {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("[drivers.can0]\nobject = \"/x.so\"\n{more}");
        std::fs::write(folder.path().join(settings::FILE), text).unwrap();
        settings::load(Some(folder.path())).unwrap().drivers.remove("can0").unwrap()
    }

    #[test]
    fn a_definition_changes_with_the_settings_and_with_nothing_else() {
        let of = |more: &str| Definition::new("can0", &driver(more), Some("875"), true);
        assert_eq!(of(""), of("threads = 4\n"));
        assert_ne!(of("").digest, of("threads = 5\n").digest);
        assert!(of("").toml.contains(&of("").digest));
    }

    #[test]
    fn without_root_nothing_is_asked_for_that_only_root_can_have() {
        let with = Definition::new("can0", &driver(""), Some("875"), true).toml;
        let without = Definition::new("can0", &driver(""), None, false).toml;
        for key in ["user = ", "limits = "] {
            assert!(with.contains(key) && !without.contains(key), "{key}");
        }
    }
}
