//! Watches whether a new version is healthy: what is critical and the services of the component are ready and stay so, their
//! heartbeats are alive, and the device's own command says so. Decides nothing but that.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use daemon::clock;
use endpoint::{Bus, CallOptions};
use protocol::{
    heartbeat::{Row, State},
    time::Moment,
};
use serde_json::Value;

use super::{
    loaded::{Loaded, Trouble},
    program::ask,
    services::{Services, instances, list},
};
use crate::engine::contract::{Observe, Use};

/// How long the device's command may take, each time.
const COMMAND: Duration = Duration::from_secs(10);
const HEARTBEATS: Duration = Duration::from_secs(5);

/// Generation and respawns, by service and instance: as long as they stay the same, nothing was restarted.
type Runs = BTreeMap<String, (u64, u64)>;

/// Who watches.
#[derive(Clone)]
pub(crate) struct Observer {
    pub(crate) bus: Bus,
    pub(crate) loaded: Arc<Loaded>,
    /// Services of each component.
    pub(crate) services: Vec<Vec<String>>,
    /// Program and arguments; empty: none.
    pub(crate) command: Vec<String>,
    /// Between two looks.
    pub(crate) every: Duration,
}

impl Observer {
    /// Returns once it was healthy for long enough.
    ///
    /// # Errors
    /// What was wrong when the time was over, or what will never be right again.
    pub(crate) async fn observe(&self, what: &Observe) -> Result<(), String> {
        let begun = clock::now();
        let mut healthy: Option<(Moment, Runs)> = None;
        loop {
            let looked = self.look(&what.uses).await;
            let now = clock::now();
            let trouble = match (looked, healthy.take()) {
                (Ok(runs), Some((since, known))) if runs == known => {
                    let trouble = format!("it was healthy for {:?} only", now.since(since));
                    healthy = Some((since, known));
                    trouble
                }
                (Ok(runs), before) => {
                    let trouble = before
                        .map_or("it became healthy late".to_owned(), |(_, known)| {
                            format!("{} was restarted", changed(&known, &runs))
                        });
                    healthy = Some((now, runs));
                    trouble
                }
                (Err(Trouble::Final(trouble)), _) => return Err(trouble),
                (Err(Trouble::Yet(trouble)), _) => trouble,
            };
            if healthy.as_ref().is_some_and(|(since, _)| now.since(*since) >= what.stable) {
                return Ok(());
            }
            if now.since(begun) >= what.timeout {
                let (stable, timeout) = (what.stable, what.timeout);
                return Err(format!("not healthy for {stable:?} within {timeout:?}: {trouble}"));
            }
            tokio::time::sleep(self.every).await;
        }
    }

    async fn look(&self, uses: &[Use]) -> Result<Runs, Trouble> {
        let services = self.look_at_services(uses).await;
        for using in uses {
            match (self.loaded.look(using).await, &services) {
                // What may still become well is told where nothing else is wrong.
                (Err(Trouble::Yet(_)), Err(_)) | (Ok(()), _) => {}
                (Err(trouble), _) => return Err(trouble),
            }
        }
        services.map_err(Trouble::Yet)
    }

    async fn look_at_services(&self, uses: &[Use]) -> Result<Runs, String> {
        let listed = list(&self.bus).await?;
        let ours = |service: &str| {
            let mut lists = uses.iter().filter_map(|using| self.services.get(using.slot.component));
            lists.any(|services| services.iter().any(|name| name == service))
        };
        let runs = ready(&listed, ours)?;
        if listed.get("heartbeat").is_some_and(is_wanted) {
            self.heartbeats(&runs).await?;
        }
        if let Some((program, args)) = self.command.split_first() {
            ask(program, args, COMMAND).await?;
        }
        Ok(runs)
    }

    async fn heartbeats(&self, runs: &Runs) -> Result<(), String> {
        let options = CallOptions { deadline: HEARTBEATS, ..CallOptions::safe() };
        let answer = self.bus.call("heartbeat", "list", &(), options).await;
        let answer = answer.map_err(|error| format!("ask for heartbeats: {error}"))?;
        let rows = answer.parse::<Vec<Row>>();
        let rows = rows.map_err(|error| format!("what the heartbeat broker says: {error}"))?;
        for row in rows {
            let (Some(service), Some(instance)) = (&row.service, &row.instance) else { continue };
            let name = format!("{service}/{instance}");
            let wrong = match row.state {
                State::Expected => "has not reported yet",
                State::Missed => "missed its heartbeats",
                _ => continue,
            };
            if runs.contains_key(&name) {
                return Err(format!("{name} {wrong}"));
            }
        }
        Ok(())
    }
}

fn is_wanted(service: &Value) -> bool {
    instances(service).any(|(_, instance)| instance["desired"] == "up")
}

/// Whether everything that counts is ready, and which runs of it these are.
fn ready(listed: &Services, ours: impl Fn(&str) -> bool) -> Result<Runs, String> {
    let mut runs = Runs::new();
    for (service, entry) in listed {
        for (instance, state) in instances(entry) {
            let critical = !matches!(state["critical"], Value::Null | Value::Bool(false));
            // What somebody has stopped on purpose says nothing.
            if !(critical || ours(service)) || state["desired"] != "up" {
                continue;
            }
            let name = format!("{service}/{instance}");
            if state["ready"] != true && state["state"] != "done" {
                return Err(format!(
                    "{name} is {}",
                    state["state"].as_str().unwrap_or("not ready")
                ));
            }
            if state["health"] == "missed" {
                return Err(format!("{name} missed its watchdog"));
            }
            let number = |key: &str| state[key].as_u64().unwrap_or(0);
            runs.insert(name, (number("generation"), number("restarts")));
        }
    }
    Ok(runs)
}

/// The first instance that is not the same run any more.
fn changed<'r>(known: &'r Runs, now: &'r Runs) -> &'r str {
    let differs = |(name, run): &(&String, &(u64, u64))| known.get(*name) != Some(*run);
    let gone = || known.keys().find(|name| !now.contains_key(*name));
    let found = now.iter().find(differs).map(|(name, _)| name).or_else(gone);
    found.map_or("a service", String::as_str)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use endpoint::{Description, Incoming, Serve, Server, Settings};
    use serde_json::json;

    use super::*;
    use crate::engine::contract::{Letter, SlotId};

    /// A supervisor, or a heartbeat broker, whose `list` answers by how often it was asked.
    struct Listed(Description, fn(u64) -> Value, Arc<AtomicU64>);

    impl Serve for Listed {
        fn describe(&self) -> Description {
            self.0.clone()
        }

        async fn call(&mut self, call: Incoming) {
            let answer = (self.1)(self.2.fetch_add(1, Relaxed));
            call.responder.finish(Ok(answer));
        }
    }

    /// Observes what these answer, often; for at most so many milliseconds.
    async fn observed(
        services: fn(u64) -> Value,
        heartbeats: fn(u64) -> Value,
        [stable, timeout]: [u64; 2],
    ) -> (Result<(), String>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let mut servers = Vec::new();
        for (name, socket, description, answer) in [
            ("service", "supervisor.sock", protocol::service::description(), services),
            ("heartbeat", "heartbeat.sock", protocol::heartbeat::description(), heartbeats),
        ] {
            let server = Server::new(Settings::default()).unwrap();
            let asked = if name == "service" { Arc::clone(&asked) } else { Arc::default() };
            server.add(name, Listed(description, answer, asked)).unwrap();
            let path = folder.path().join(socket);
            server.listen(std::os::unix::net::UnixListener::bind(path).unwrap()).unwrap();
            servers.push(server);
        }
        let bus = Bus::new(folder.path(), endpoint::Options::default());
        let store = crate::shell::store::Folder::open(folder.path()).unwrap();
        let kernel = Arc::new(crate::shell::loaded::Linux::default());
        let loaded = Loaded::new(bus.clone(), Vec::new(), store, "boot".to_owned(), kernel);
        let observer = Observer {
            bus,
            loaded: Arc::new(loaded),
            services: vec![vec!["app".to_owned()]],
            command: Vec::new(),
            every: Duration::from_millis(5),
        };
        let [stable, timeout] = [stable, timeout].map(Duration::from_millis);
        let slot = SlotId { component: 0, letter: Letter::B };
        let uses = vec![Use { slot, fact: None, other: None, first: false, permitted: false }];
        let what = Observe { number: 1, uses, stable, timeout };
        let verdict = observer.observe(&what).await;
        (verdict, asked.load(Relaxed))
    }

    fn app(ready: bool, restarts: u64) -> Value {
        let state = if ready { "ready" } else { "starting" };
        let app = json!({ "desired": "up", "ready": ready, "state": state, "restarts": restarts });
        let broker = json!({ "instances": { "instance1": { "desired": "up", "ready": true } } });
        json!({ "app": { "instances": { "main": app } }, "heartbeat": broker })
    }

    fn beat(state: &str) -> Value {
        json!([{
            "app_id": 7, "service": "app", "instance": "main", "generation": 1, "state": state, "authenticated": true,
            "period_ms": 1000, "misses": 3, "reports": 9, "status": 0, "progress": 0, "retransmitted": 0,
        }])
    }

    #[tokio::test]
    async fn what_becomes_ready_and_stays_so_is_healthy() {
        let (verdict, asked) =
            observed(|asked| app(asked > 3, 0), |_| beat("alive"), [20, 60_000]).await;
        assert_eq!(verdict, Ok(()));
        assert!(asked > 5, "{asked}");
    }

    #[tokio::test]
    async fn what_is_restarted_again_and_again_is_not() {
        let (verdict, _) = observed(|asked| app(true, asked), |_| beat("alive"), [100, 300]).await;
        let told = verdict.unwrap_err();
        assert!(
            told.contains("not healthy for 100ms within 300ms: app/main was restarted"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn a_missed_heartbeat_and_one_that_never_came_are_unhealthy() {
        let (verdict, _) = observed(|_| app(true, 0), |_| beat("missed"), [0, 50]).await;
        assert!(verdict.unwrap_err().contains("app/main missed its heartbeats"));
        let (verdict, _) = observed(|_| app(true, 0), |_| beat("expected"), [0, 50]).await;
        assert!(verdict.unwrap_err().contains("app/main has not reported yet"));
    }

    fn services(app: Value) -> Services {
        let core = json!({ "desired": "up", "ready": true, "critical": true, "state": "ready" });
        let listed = json!({
            "core": { "instances": { "instance1": core } },
            "app": { "instances": { "main": app } },
            "broken": { "instances": { "x": { "desired": "up", "ready": false, "state": "held" } } },
        });
        listed.as_object().unwrap().clone()
    }

    #[test]
    fn only_what_is_critical_or_of_the_component_counts() {
        let app = json!({ "desired": "up", "ready": false, "state": "starting" });
        let listed = services(app);
        assert_eq!(ready(&listed, |name| name == "app").unwrap_err(), "app/main is starting");
        assert_eq!(ready(&listed, |_| false).unwrap().len(), 1);
        let stopped = services(json!({ "desired": "down", "ready": false, "state": "stopped" }));
        assert!(ready(&stopped, |name| name == "app").is_ok());
        let done = services(json!({ "desired": "up", "ready": false, "state": "done" }));
        assert!(ready(&done, |name| name == "app").is_ok());
        let hung = json!({ "desired": "up", "ready": true, "state": "ready", "health": "missed" });
        assert!(ready(&services(hung), |name| name == "app").unwrap_err().contains("watchdog"));
    }

    #[test]
    fn a_respawn_is_seen_even_if_it_is_ready_again() {
        let app = |restarts| json!({ "desired": "up", "ready": true, "generation": 3, "restarts": restarts });
        let runs = |restarts| ready(&services(app(restarts)), |name| name == "app").unwrap();
        assert_ne!(runs(0), runs(1));
        assert_eq!(changed(&runs(0), &runs(1)), "app/main");
    }
}
