//! A registry with as little in it as these tests need. It lives in a thread with a runtime of its own, so that it can die
//! as a killed process does: every socket closes, and nobody is told why.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use endpoint::{
    Client, Code, Description, Failure, Incoming, Options, Peer, Responder, Serve, Server, Settings,
};
use protocol::{
    objects::{Served, Wanted},
    policy,
    registry::{
        Applied, Found, Handle, Lookup, Matching, Offer, Outcome, POLICY_TOPIC, Policy, Publish,
        Published, Register, Registered, Subscribe, Usage, Wait, Withdraw,
    },
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::SOON;

/// What a test sees of the registry, and tells it; it outlives the registry's death.
#[derive(Default)]
pub(crate) struct Notes {
    /// Handles it gives are of this epoch, and old ones are given again only where `forgetful` is not set.
    pub(crate) epoch: u32,
    pub(crate) forgetful: bool,
    /// Names it refuses, and why.
    pub(crate) refuse: BTreeMap<String, Failure>,
    /// What each `register` presented.
    pub(crate) registered: Vec<Option<Handle>>,
    pub(crate) published: Vec<Publish>,
    /// Whether the publisher of each was registered on the same connection.
    pub(crate) owned: Vec<bool>,
    pub(crate) applied: Vec<u64>,
    pub(crate) usage: Vec<u64>,
    pub(crate) lookups: u64,
    pub(crate) subscriptions: u64,
    /// Tells no watch of these objects, as if they had not registered again yet.
    pub(crate) hide: Vec<String>,
    peers: Vec<Peer>,
    policy: Policy,
}

pub(crate) type Shared = Arc<Mutex<Notes>>;

pub(crate) fn lock(notes: &Shared) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap()
}

/// A running registry.
pub(crate) struct Registry {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Registry {
    pub(crate) fn start(run_dir: &Path, notes: &Shared) -> Self {
        let path = run_dir.join("registry.sock");
        let _ = std::fs::remove_file(&path);
        Self::listening(UnixListener::bind(path).unwrap(), notes)
    }

    pub(crate) fn listening(listener: UnixListener, notes: &Shared) -> Self {
        let (stop, stopped) = oneshot::channel();
        let notes = Arc::clone(notes);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::new(Settings::default()).unwrap();
                lock(&notes).peers.clear();
                server.add("registry", Fake::new(notes)).unwrap();
                server.listen(listener).unwrap();
                let _ = stopped.await;
            });
        });
        Self { stop, thread }
    }

    /// Dies, as by SIGKILL. The socket's file stays.
    pub(crate) fn kill(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// Changes the rules, and pushes them to all who registered.
pub(crate) fn push_policy(notes: &Shared, epoch: u64) {
    let mut notes = lock(notes);
    notes.policy = Policy { epoch, rules: policy::built_in() };
    let data = serde_json::to_vec(&notes.policy).unwrap();
    for peer in &notes.peers {
        peer.event(POLICY_TOPIC, data.clone());
    }
}

struct Fake {
    notes: Shared,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    next: u32,
    /// Rows, and the connection that registered them.
    rows: BTreeMap<String, (u64, Found)>,
    endpoints: BTreeMap<u64, (Handle, String)>,
    subscribers: Vec<(Peer, Subscribe)>,
    watchers: Vec<(Peer, Matching)>,
    waiting: Vec<(Responder, Wait)>,
    retained: BTreeMap<String, Value>,
}

impl Fake {
    fn new(notes: Shared) -> Self {
        Self { notes, table: Arc::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap()
    }

    /// Proves the socket, then registers; its end withdraws everything.
    fn register(&self, call: Incoming) {
        let register: Register = call.parse().unwrap();
        let (notes, table) = (Arc::clone(&self.notes), Arc::clone(&self.table));
        tokio::spawn(async move {
            let client = Client::new(&register.socket, Options::default());
            let nonce = client.nonce(SOON).await.unwrap();
            let nonce: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(nonce, register.nonce, "the socket is not the endpoint's");
            drop(client);
            let peer = call.responder.peer();
            let registered = {
                let mut notes = lock(&notes);
                let mut table = table.lock().unwrap();
                notes.registered.push(register.handle);
                table.next += 1;
                let fresh = Handle { epoch: notes.epoch, number: table.next };
                let handle = register.handle.filter(|_| !notes.forgetful).unwrap_or(fresh);
                table.endpoints.insert(peer.id(), (handle, register.socket));
                notes.peers.push(peer.clone());
                let objects = table.offer(&notes, &peer, register.objects);
                Registered { handle, objects, policy: notes.policy.clone() }
            };
            call.responder.reply(&registered);
            peer.closed().await;
            let mut table = table.lock().unwrap();
            let gone = table.rows.iter().filter(|(_, (owner, _))| *owner == peer.id());
            let gone: Vec<String> = gone.map(|(name, _)| name.clone()).collect();
            table.withdraw(&gone);
        });
    }

    fn publish(&self, call: Incoming) {
        let publish: Publish = call.parse().unwrap();
        let mut table = self.table();
        let mut notes = lock(&self.notes);
        if let Some(failure) = notes.refuse.get(&publish.topic) {
            return call.responder.fail(failure.clone());
        }
        notes.owned.push(table.endpoints.contains_key(&call.responder.peer().id()));
        if publish.retain {
            table.retained.insert(publish.topic.clone(), publish.data.clone());
        }
        let data = serde_json::to_vec(&publish.data).unwrap();
        for (peer, subscribe) in &table.subscribers {
            if subscribe.patterns.iter().any(|p| policy::matches(p, &publish.topic)) {
                peer.event(&publish.topic, data.clone());
            }
        }
        notes.published.push(publish);
        call.responder.reply(&Published { subscribers: 0 });
    }

    fn subscribe(&self, call: Incoming) {
        let subscribe: Subscribe = call.parse().unwrap();
        let peer = call.responder.peer();
        if subscribe.patterns.len() > protocol::registry::PATTERNS_MAX {
            return call.responder.fail(Failure::new(Code::Limit, "too many patterns"));
        }
        let mut table = self.table();
        for (topic, data) in &table.retained {
            if subscribe.patterns.iter().any(|pattern| policy::matches(pattern, topic)) {
                peer.event(topic, serde_json::to_vec(data).unwrap());
            }
        }
        table.subscribers.push((peer, subscribe));
        lock(&self.notes).subscriptions += 1;
        call.responder.reply(&());
    }
}

impl Table {
    fn offer(&mut self, notes: &Notes, peer: &Peer, objects: Vec<Served>) -> Vec<Outcome> {
        let (handle, socket) = self.endpoints[&peer.id()].clone();
        let (pid, uid) = (peer.caller().pid, peer.caller().uid);
        let mut outcomes = Vec::new();
        for object in objects {
            let name = object.name.clone();
            let failure = notes.refuse.get(&name).cloned();
            if failure.is_none() {
                let found = Found { object, handle, socket: socket.clone(), pid, uid };
                if !notes.hide.contains(&name) {
                    self.tell("object.add", &name, &serde_json::to_value(&found).unwrap());
                }
                self.rows.insert(name.clone(), (peer.id(), found));
            }
            outcomes.push(Outcome { name, failure });
        }
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, wait)| self.has(wait));
        self.waiting = waiting;
        let ready: Vec<(Responder, Wait)> = ready;
        ready.into_iter().for_each(|(responder, _)| responder.reply(&self.list("*")));
        outcomes
    }

    fn withdraw(&mut self, names: &[String]) {
        for name in names {
            if let Some((_, found)) = self.rows.remove(name) {
                let data = json!({"name": name, "handle": found.handle, "reason": "test"});
                self.tell("object.remove", name, &data);
            }
        }
    }

    fn tell(&self, topic: &str, name: &str, data: &Value) {
        for (peer, matching) in &self.watchers {
            if policy::matches(matching.pattern.as_deref().unwrap_or("*"), name) {
                peer.event(topic, serde_json::to_vec(data).unwrap());
            }
        }
    }

    fn has(&self, wait: &Wait) -> bool {
        wait.objects.iter().all(|name| self.rows.contains_key(name))
    }

    fn list(&self, pattern: &str) -> Vec<Found> {
        let rows = self.rows.values().map(|(_, found)| found.clone());
        rows.filter(|found| policy::matches(pattern, &found.object.name)).collect()
    }

    fn look_up(&self, lookup: &Lookup) -> Result<Found, Failure> {
        let Some((_, found)) = self.rows.get(&lookup.object) else {
            return Err(Failure::new(Code::NotFound, format!("no object {}", lookup.object)));
        };
        let (interface, version) = (lookup.interface.as_deref(), lookup.version);
        Wanted { interface, version, hash: lookup.hash }.check(&found.object)?;
        Ok(found.clone())
    }
}

impl Serve for Fake {
    fn describe(&self) -> Description {
        protocol::registry::description()
    }

    async fn call(&mut self, call: Incoming) {
        let peer = call.responder.peer();
        match &*call.method {
            "register" => self.register(call),
            "offer" => {
                let offer: Offer = call.parse().unwrap();
                let outcomes = self.table().offer(&lock(&self.notes), &peer, offer.objects);
                call.responder.reply(&outcomes);
            }
            "withdraw" => {
                self.table().withdraw(&call.parse::<Withdraw>().unwrap().names);
                call.responder.reply(&());
            }
            "applied" => {
                lock(&self.notes).applied.push(call.parse::<Applied>().unwrap().epoch);
                call.responder.reply(&());
            }
            "usage" => {
                lock(&self.notes).usage.push(call.parse::<Usage>().unwrap().connections);
                call.responder.reply(&());
            }
            "lookup" => {
                lock(&self.notes).lookups += 1;
                let outcome = self.table().look_up(&call.parse().unwrap());
                call.responder.finish(outcome);
            }
            "watch" => {
                let matching: Matching = call.parse().unwrap();
                let mut table = self.table();
                let mut rows = table.list(matching.pattern.as_deref().unwrap_or("*"));
                rows.retain(|found| !lock(&self.notes).hide.contains(&found.object.name));
                table.watchers.push((peer, matching));
                call.responder.reply(&rows);
            }
            "wait" => {
                let wait: Wait = call.parse().unwrap();
                let mut table = self.table();
                if table.has(&wait) {
                    return call.responder.reply(&table.list("*"));
                }
                table.waiting.push((call.responder, wait));
            }
            "publish" => self.publish(call),
            "subscribe" => self.subscribe(call),
            other => unreachable!("no test calls {other}"),
        }
    }
}

/// Where the fixtures of one test live.
pub(crate) struct Device {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) notes: Shared,
}

impl Device {
    pub(crate) fn new() -> Self {
        let notes = Notes { epoch: 1, ..Notes::default() };
        Self { directory: tempfile::tempdir().unwrap(), notes: Arc::new(Mutex::new(notes)) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn registry(&self) -> Registry {
        Registry::start(self.directory.path(), &self.notes)
    }

    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        lock(&self.notes)
    }
}
