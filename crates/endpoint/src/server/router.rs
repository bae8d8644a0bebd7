//! The table of objects: which queue a call goes to, or why it goes to none.

use std::{
    future::{Future, poll_fn},
    sync::{Arc, RwLock},
};

use protocol::{
    failure::{Code, Failure},
    hello::{OBJECT_NAME_MAX, OBJECTS_MAX, Object},
    message::Call,
    objects::{
        DESCRIBE, Description, ENDPOINT, GATE, LOG_LEVEL, MONITOR, OBJECTS, Served, nearest,
    },
    registry::Policy,
};
use tokio::sync::watch;

use super::{
    incoming::Incoming,
    link::{Link, State},
    queue::{Limits, Queue, Refusal},
    rules::{Ruling, Stance},
};

/// How many calls a worker takes in a row before the connections get their turn.
const WORK: usize = 64;
/// The endpoint's own methods.
const OWN: [&str; 5] = [OBJECTS, DESCRIBE, GATE, MONITOR, LOG_LEVEL];

/// An object: its description, and what it does when called. One call at a time; a handler that wants more of them
/// keeps the [`super::Responder`] and answers later.
pub trait Serve: Send + 'static {
    /// Asked once, when the object is added.
    fn describe(&self) -> Description;
    /// Carries out one call. Only described methods get here.
    fn call(&mut self, call: Incoming) -> impl Future<Output = ()> + Send;
}

/// Why an object can't be added.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddError {
    #[error("object {0} is served already")]
    Taken(String),
    #[error("the name {0:?} is empty or longer than {OBJECT_NAME_MAX} bytes")]
    Name(String),
    #[error("{OBJECTS_MAX} objects are served already, no more are allowed")]
    Full,
}

pub(super) struct Router {
    table: RwLock<Table>,
    limits: Limits,
    /// Rises when an exported object comes or goes.
    changes: watch::Sender<u64>,
}

struct Table {
    slots: Vec<Slot>,
    /// What new objects are judged by.
    policy: Arc<Policy>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    object: Option<Arc<Target>>,
}

/// A served object.
pub(crate) struct Target {
    pub(super) name: String,
    /// Only this very process sees it.
    local: bool,
    description: Description,
    hash: u64,
    methods: Vec<Arc<str>>,
    stance: Stance,
    pub(super) queue: Queue<Incoming>,
}

/// Where a call goes.
pub(super) enum Route {
    /// To this object's queue; the method's place in its list.
    Object(Arc<Target>, usize),
    /// It is answered here, with this JSON.
    Introspection(Vec<u8>),
    /// One of the endpoint's methods that do something.
    Endpoint(&'static str),
}

/// Who looks at the table: local objects are there for this very process only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum View {
    Exported,
    All,
}

impl View {
    pub(super) fn of(pid: i32) -> Self {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        if pid == own { Self::All } else { Self::Exported }
    }

    fn shows(self, object: &Target) -> bool {
        self == Self::All || !object.local
    }
}

impl Router {
    pub(super) fn new(limits: Limits, policy: Policy) -> Self {
        let table = Table { slots: Vec::new(), policy: Arc::new(policy) };
        Self { table: RwLock::new(table), limits, changes: watch::Sender::new(0) }
    }

    pub(super) fn add<S: Serve>(
        &self,
        name: &str,
        handler: S,
        local: bool,
    ) -> Result<(), AddError> {
        if name.is_empty() || name.len() > OBJECT_NAME_MAX {
            return Err(AddError::Name(name.to_owned()));
        }
        let description = handler.describe();
        let methods = description.methods.iter().map(|method| method.name.as_str().into());
        let methods = methods.collect();
        let mut table = self.write();
        let Table { slots, policy } = &mut *table;
        if slots.iter().filter_map(|slot| slot.object.as_ref()).any(|o| o.name == name) {
            return Err(AddError::Taken(name.to_owned()));
        }
        let free = slots.iter().position(|slot| slot.object.is_none());
        let at = match free {
            Some(at) => at,
            None if slots.len() >= OBJECTS_MAX => return Err(AddError::Full),
            None => {
                slots.push(Slot::default());
                slots.len() - 1
            }
        };
        let object = Arc::new(Target {
            name: name.to_owned(),
            local,
            hash: description.hash(),
            methods,
            description,
            stance: Stance::new(&policy.rules, name),
            queue: Queue::new(self.limits),
        });
        slots[at].generation += 1;
        slots[at].object = Some(Arc::clone(&object));
        tokio::spawn(work(object, handler));
        drop(table);
        self.changed(local);
        Ok(())
    }

    /// Calls that wait are answered `gone`; the running one goes on. `false` where there is no such object.
    pub(super) fn remove(&self, name: &str) -> bool {
        let mut table = self.write();
        let found = table
            .slots
            .iter_mut()
            .find(|slot| slot.object.as_ref().is_some_and(|object| object.name == name));
        let Some(object) = found.and_then(|slot| slot.object.take()) else { return false };
        drop(table);
        object.withdraw();
        self.changed(object.local);
        true
    }

    fn changed(&self, local: bool) {
        if !local {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn set_policy(&self, policy: Arc<Policy>) {
        let mut table = self.write();
        for object in table.slots.iter().filter_map(|slot| slot.object.as_ref()) {
            object.stance.set(&policy.rules, &object.name);
        }
        table.policy = policy;
    }

    pub(super) fn epoch(&self) -> u64 {
        self.read().policy.epoch
    }

    /// The object of this name, or all.
    pub(super) fn targets(&self, name: Option<&str>) -> Result<Vec<Arc<Target>>, Failure> {
        let table = self.read();
        let all = table.slots.iter().filter_map(|slot| slot.object.as_ref());
        let Some(name) = name else { return Ok(all.map(Arc::clone).collect()) };
        if let Some(object) = all.clone().find(|object| object.name == name) {
            return Ok(vec![Arc::clone(object)]);
        }
        let near = nearest(name, all.map(|object| &*object.name));
        let near = near.map(|near| format!(", did you mean {near:?}?")).unwrap_or_default();
        Err(Failure::new(Code::NotFound, format!("no object {name:?} is served here{near}")))
    }

    pub(super) fn served(&self, view: View) -> Vec<Served> {
        let table = self.read();
        let rows = table.slots.iter().enumerate().filter_map(|(token, slot)| {
            let object = slot.object.as_ref().filter(|object| view.shows(object))?;
            Some(Served {
                name: object.name.clone(),
                token: u32::try_from(token).ok()?,
                generation: slot.generation,
                interface: object.description.interface.clone(),
                version: object.description.version,
                hash: object.hash,
            })
        });
        rows.collect()
    }

    /// Finds the method that is called.
    pub(super) fn route(&self, call: &Call<'_>, pid: i32) -> Result<Route, Failure> {
        if call.token == ENDPOINT {
            return self.own_method(call.method, pid);
        }
        let table = self.read();
        let slot = usize::try_from(call.token).ok().and_then(|token| table.slots.get(token));
        // A local object is not there for others, whatever they guess.
        let hidden = |object: &Arc<Target>| object.local && View::of(pid) != View::All;
        let Some(slot) = slot.filter(|slot| !slot.object.as_ref().is_some_and(hidden)) else {
            let text = format!("token {} names no object of this endpoint", call.token);
            return Err(not_started(Code::NotFound, text));
        };
        let Some(object) = slot.object.as_ref().filter(|_| slot.generation == call.generation)
        else {
            let text = format!(
                "generation {} of token {} is gone; look the object up again",
                call.generation, call.token
            );
            return Err(not_started(Code::Gone, text));
        };
        if let Some(at) = object.methods.iter().position(|known| **known == *call.method) {
            return Ok(Route::Object(Arc::clone(object), at));
        }
        if call.method == DESCRIBE {
            return json(&object.description).map(Route::Introspection);
        }
        let names = object.methods.iter().map(|name| &**name);
        Err(unknown_method(&object.name, call.method, names))
    }

    /// The object that a call means, if it is there.
    pub(super) fn name(&self, token: u32, generation: u32) -> Option<String> {
        let table = self.read();
        let slot = table.slots.get(usize::try_from(token).ok()?)?;
        let object = slot.object.as_ref().filter(|_| slot.generation == generation)?;
        Some(object.name.clone())
    }

    fn own_method(&self, method: &str, pid: i32) -> Result<Route, Failure> {
        let view = View::of(pid);
        match OWN.into_iter().find(|own| *own == method) {
            Some(OBJECTS) => json(&self.served(view)).map(Route::Introspection),
            Some(DESCRIBE) => {
                let table = self.read();
                let all = table.slots.iter().filter_map(|slot| slot.object.as_ref());
                let all = all.filter(|object| view.shows(object)).map(|object| {
                    let described = serde_json::to_value(&object.description);
                    (object.name.clone(), described.unwrap_or_default())
                });
                json(&all.collect::<serde_json::Map<_, _>>()).map(Route::Introspection)
            }
            Some(method) => Ok(Route::Endpoint(method)),
            None => Err(unknown_method("the endpoint", method, OWN)),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().expect("nothing panics while it holds the table")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().expect("nothing panics while it holds the table")
    }
}

impl Target {
    pub(super) fn method(&self, at: usize) -> &Arc<str> {
        &self.methods[at]
    }

    pub(super) fn judge(&self, link: &Link, state: &State, at: usize) -> Ruling {
        self.stance.judge(link, state, &self.name, &self.methods[at])
    }

    /// Queues a call; a full or closed queue answers at once. `false` where it was full.
    pub(super) fn push(&self, connection: u64, uid: u32, call: Incoming) -> bool {
        let pushed = match self.queue.push(connection, uid, call) {
            // Behind a closed gate those may lie whose callers have gone.
            Err((Refusal::Full(_), call)) if self.queue.is_held() => {
                drop(self.queue.prune(|call| call.responder.is_open()));
                self.queue.push(connection, uid, call)
            }
            pushed => pushed,
        };
        match pushed {
            Ok(()) => true,
            Err((Refusal::Full(limit), call)) => {
                let text = format!("{limit} calls of {} wait already; try again later", self.name);
                call.responder.fail(busy(text, 50));
                false
            }
            Err((Refusal::Closed, call)) => {
                call.responder.fail(self.gone());
                true
            }
        }
    }

    /// Takes no more calls; those that wait are answered `gone`.
    pub(super) fn withdraw(&self) {
        for call in self.queue.close() {
            call.responder.fail(self.gone());
        }
    }

    fn gone(&self) -> Failure {
        not_started(Code::Gone, format!("object {} was withdrawn", self.name))
    }
}

/// The worker of one object. It ends when the object is withdrawn.
async fn work<S: Serve>(object: Arc<Target>, mut handler: S) {
    /// A handler that panicked must not leave callers waiting for it.
    struct Withdraw<'a>(&'a Target);
    impl Drop for Withdraw<'_> {
        fn drop(&mut self) {
            self.0.withdraw();
        }
    }

    let guard = Withdraw(&object);
    let mut taken = 0;
    while let Some(mut call) = poll_fn(|cx| object.queue.poll_pop(cx)).await {
        call.responder.run(&object);
        // What was cancelled or timed out in the queue is not begun.
        if call.responder.is_open() {
            handler.call(call).await;
        }
        taken += 1;
        if taken % WORK == 0 {
            tokio::task::yield_now().await;
        }
    }
    drop(guard);
}

/// A refusal that time cures; the call was not begun.
pub(super) fn busy(text: String, retry_after_ms: u64) -> Failure {
    let details = serde_json::json!({ "retry_after_ms": retry_after_ms, "not_started": true });
    Failure::new(Code::Busy, text).with_details(details)
}

/// A failure of a call that was not begun: who gets it may repeat the call, whatever it does.
pub(super) fn not_started(code: Code, text: String) -> Failure {
    Failure::new(code, text).with_details(serde_json::json!({ "not_started": true }))
}

fn unknown_method<'a>(
    object: &str,
    method: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Failure {
    let near = nearest(method, known).map(|name| format!(", did you mean {name:?}?"));
    let text = format!("{object} has no method {method:?}{}", near.unwrap_or_default());
    Failure::new(Code::UnknownMethod, text)
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|error| Failure::new(Code::Failed, error.to_string()))
}

/// A row of Welcome.
pub(super) fn row(served: &Served) -> Object<'_> {
    Object {
        name: &served.name,
        token: served.token,
        generation: served.generation,
        interface: &served.interface,
        version: served.version,
        hash: served.hash,
    }
}
