//! A registry, a log and a camera beside the fake supervisor, each on its own socket, that say what the tests need.

use std::{
    os::unix::net::UnixListener,
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

use endpoint::{Code, Description, Failure, Incoming, Peer, Responder, Serve, Server, Settings};
use protocol::{
    log::{Record, Select, Source, Write},
    objects::{Served, version},
    policy,
    registry::{
        Found, Handle, Lookup, Matching, Policy, PolicyState, Publish, Published, Status,
        Subscribe, Subscriber, Wait,
    },
};
use serde_json::{Value, json};

use crate::fake::LIMIT;

/// What the fakes know and were told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) rows: Vec<Found>,
    subscribers: Vec<(Peer, Subscribe)>,
    waiting: Vec<(Responder, Vec<String>)>,
    pub(crate) published: Vec<Publish>,
    pub(crate) selects: Vec<Select>,
    pub(crate) written: Vec<Write>,
}

impl Told {
    /// How many subscribed so far.
    pub(crate) fn subscribes(&self) -> usize {
        self.subscribers.len()
    }

    /// How many wait for objects.
    pub(crate) fn waits(&self) -> usize {
        self.waiting.len()
    }
}

#[derive(Clone, Default)]
pub(crate) struct Shared {
    told: Arc<(Mutex<Told>, Condvar)>,
}

impl Shared {
    pub(crate) fn with<T>(&self, ask: impl FnOnce(&mut Told) -> T) -> T {
        let result = ask(&mut self.told.0.lock().unwrap());
        self.told.1.notify_all();
        result
    }

    /// Waits until something has been told.
    pub(crate) fn until(&self, is_so: impl Fn(&Told) -> bool) {
        let (told, changed) = &*self.told;
        let waited =
            changed.wait_timeout_while(told.lock().unwrap(), LIMIT, |told| !is_so(told)).unwrap();
        assert!(!waited.1.timed_out(), "it was not told within {LIMIT:?}");
    }

    pub(crate) fn until_subscribed(&self) {
        self.until(|told| !told.subscribers.is_empty());
    }

    /// An event to all who subscribed.
    pub(crate) fn publish(&self, topic: &str, data: &Value) -> u64 {
        self.with(|told| {
            let wants = |subscribe: &Subscribe| {
                subscribe.patterns.iter().any(|pattern| policy::matches(pattern, topic))
            };
            let all = told.subscribers.iter().filter(|(_, subscribe)| wants(subscribe));
            let data = serde_json::to_vec(data).unwrap();
            all.map(|(peer, _)| u64::from(peer.event(topic, data.clone()))).sum()
        })
    }

    /// One more object.
    pub(crate) fn serve(&self, row: Found) {
        self.with(|told| {
            told.rows.push(row);
            let there = |name: &String| told.rows.iter().any(|row| row.object.name == *name);
            for (responder, wanted) in std::mem::take(&mut told.waiting) {
                if wanted.iter().all(there) {
                    responder.reply(&told.rows);
                } else {
                    told.waiting.push((responder, wanted));
                }
            }
        });
    }
}

/// A row of the registry: served by this very process.
pub(crate) fn row(run_dir: &Path, object: &str, short: &str, number: u32) -> Found {
    let interface = format!("vestal.{object}");
    let object = Served {
        name: object.to_owned(),
        token: 0,
        generation: 1,
        interface,
        version: version(1, 2),
        hash: 0xabc,
    };
    let socket = run_dir.join(format!("{short}.sock")).display().to_string();
    let pid = i32::try_from(std::process::id()).unwrap();
    Found { object, handle: Handle { epoch: 3, number }, socket, pid, uid: 0 }
}

/// Serves all of them, on the runtime of the caller.
pub(crate) fn serve(run_dir: &Path, shared: &Shared) -> Vec<Server> {
    for (number, (object, short)) in (1..).zip([
        ("registry", "registry"),
        ("service", "supervisor"),
        ("system", "supervisor"),
        ("log", "log"),
        ("camera", "cam"),
    ]) {
        shared.serve(row(run_dir, object, short, number));
    }
    let at = |short: &str| {
        let listener = UnixListener::bind(run_dir.join(format!("{short}.sock"))).unwrap();
        let level = |wanted: Option<&str>| match wanted {
            Some("loud") => Err("loud is no level; use debug".to_owned()),
            wanted => Ok(wanted.unwrap_or("info").to_owned()),
        };
        let settings = Settings { log_level: Some(Arc::new(level)), ..Settings::default() };
        (Server::new(settings).unwrap(), listener)
    };
    let (registry, listener) = at("registry");
    registry.add("registry", Registry(shared.clone())).unwrap();
    registry.listen(listener).unwrap();
    let (log, listener) = at("log");
    log.add("log", Log(shared.clone())).unwrap();
    log.listen(listener).unwrap();
    let (camera, listener) = at("cam");
    camera.add("camera", Camera).unwrap();
    camera.listen(listener).unwrap();
    vec![registry, log, camera]
}

struct Registry(Shared);

impl Registry {
    fn answer(&self, call: &Incoming) -> Result<Value, Failure> {
        let absent = || Failure::new(Code::NotFound, "the registry knows no such object");
        self.0.with(|told| match &*call.method {
            "lookup" => {
                let wanted: Lookup = call.parse()?;
                let found = told.rows.iter().find(|row| row.object.name == wanted.object);
                Ok(json!(found.ok_or_else(absent)?))
            }
            "list" => {
                let Matching { pattern } = call.parse()?;
                let pattern = pattern.unwrap_or_else(|| "*".to_owned());
                let is_meant = |row: &&Found| policy::matches(&pattern, &row.object.name);
                Ok(json!(told.rows.iter().filter(is_meant).collect::<Vec<_>>()))
            }
            "subscribe" => {
                let wanted: Subscribe = call.parse()?;
                let peer = call.responder.peer();
                if wanted.retained {
                    let _ = peer.event("cam.state", br#"{"on":true}"#.to_vec());
                }
                told.subscribers.push((peer, wanted));
                Ok(Value::Null)
            }
            "policy" => Ok(json!(PolicyState {
                policy: Policy { epoch: 4, rules: policy::built_in() },
                problems: vec!["camera.toml:7: unknown key".into()],
                behind: vec![Handle { epoch: 3, number: 5 }],
            })),
            "status" => {
                let slow = Subscriber {
                    pid: 1,
                    patterns: vec!["service.*".into()],
                    waiting: 2,
                    lost: 7,
                    ..Subscriber::default()
                };
                let rows = told.rows.len() as u64;
                let subscribers = vec![slow];
                Ok(json!(Status { objects: rows, epoch: 4, subscribers, ..Status::default() }))
            }
            _ => Err(absent()),
        })
    }
}

impl Serve for Registry {
    fn describe(&self) -> Description {
        protocol::registry::description()
    }

    async fn call(&mut self, call: Incoming) {
        match &*call.method {
            "wait" => {
                let Wait { objects } = call.parse().unwrap();
                self.0.with(|told| {
                    let there =
                        |name: &String| told.rows.iter().any(|row| row.object.name == *name);
                    if objects.iter().all(there) {
                        call.responder.reply(&told.rows);
                    } else {
                        told.waiting.push((call.responder, objects));
                    }
                });
            }
            "publish" => {
                let event: Publish = call.parse().unwrap();
                if event.topic == "service.exit" {
                    let text = "only the owner of service publishes service.*";
                    return call.responder.fail(Failure::new(Code::Denied, text));
                }
                let subscribers = self.0.publish(&event.topic, &event.data);
                self.0.with(|told| told.published.push(event));
                call.responder.reply(&Published { subscribers });
            }
            _ => {
                let answer = self.answer(&call);
                call.responder.finish(answer);
            }
        }
    }
}

struct Log(Shared);

fn record(sequence: u64, text: &str) -> Record {
    Record {
        sequence,
        realtime_us: 1_795_320_320_123_000 + sequence,
        monotonic_us: 12_345_678,
        boot: "0123abcd".into(),
        source: Source::Stdout,
        service: Some("web".into()),
        instance: Some("instance1".into()),
        pid: Some(99),
        priority: 6,
        text: text.into(),
        more: false,
        dropped: 0,
    }
}

impl Serve for Log {
    fn describe(&self) -> Description {
        protocol::log::description()
    }

    /// `read` gives two records. The first `follow` gives two and ends; the next gives what came after, and stays.
    async fn call(&mut self, call: Incoming) {
        match &*call.method {
            "write" => {
                let write: Write = call.parse().unwrap();
                self.0.with(|told| told.written.push(write));
                call.responder.reply(&Value::Null);
            }
            "status" => call.responder.reply(&json!({ "next_sequence": 100 })),
            method => {
                let select: Select = call.parse().unwrap();
                let after = select.after.unwrap_or(0);
                let follow = method == "follow";
                self.0.with(|told| told.selects.push(select));
                let mut chunks = call.responder.chunks();
                let texts = ["one", "two \\x1b[1m", "three"];
                let all = (1..).zip(texts).map(|(sequence, text)| record(sequence, text));
                let end = if after == 0 { 2 } else { 3 };
                let wanted = all.filter(|r| r.sequence > after && r.sequence <= end);
                for record in wanted {
                    let line = serde_json::to_string(&record).unwrap() + "\n";
                    if chunks.send(line.as_bytes()).await.is_err() {
                        return;
                    }
                }
                match (follow, after) {
                    (false, _) => chunks.finish(&Value::Null),
                    (true, 0) => chunks.fail(Failure::new(Code::Gone, "the log is replaced")),
                    (true, _) => chunks.cancelled().await,
                }
            }
        }
    }
}

struct Camera;

impl Serve for Camera {
    fn describe(&self) -> Description {
        Description::new("demo.camera", version(1, 2)).method("snap", &[], "takes a picture", "")
    }

    async fn call(&mut self, call: Incoming) {
        call.responder.reply(&json!({ "picture": 1 }));
    }
}
