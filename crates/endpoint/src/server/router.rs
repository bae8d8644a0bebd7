//! The table of objects: which queue a call goes to, or why it goes to none.

use std::{
    future::{Future, poll_fn},
    sync::{Arc, RwLock},
};

use protocol::{
    failure::{Code, Failure},
    hello::{OBJECT_NAME_MAX, OBJECTS_MAX, Object},
    message::Call,
    objects::{DESCRIBE, Description, ENDPOINT, OBJECTS, Served, nearest},
};

use super::{
    incoming::Incoming,
    queue::{Limits, Queue, Refusal},
};

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
    slots: RwLock<Vec<Slot>>,
    limits: Limits,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    object: Option<Arc<Target>>,
}

/// A served object.
pub(super) struct Target {
    pub(super) name: String,
    description: Description,
    hash: u64,
    methods: Vec<Arc<str>>,
    queue: Queue<Incoming>,
}

/// Where a call goes.
pub(super) enum Route {
    /// To this object's queue.
    Object(Arc<Target>, Arc<str>),
    /// It is answered here, with this JSON.
    Introspection(Vec<u8>),
}

impl Router {
    pub(super) fn new(limits: Limits) -> Self {
        Self { slots: RwLock::default(), limits }
    }

    pub(super) fn add<S: Serve>(&self, name: &str, handler: S) -> Result<(), AddError> {
        if name.is_empty() || name.len() > OBJECT_NAME_MAX {
            return Err(AddError::Name(name.to_owned()));
        }
        let description = handler.describe();
        let methods = description.methods.iter().map(|method| method.name.as_str().into());
        let object = Arc::new(Target {
            name: name.to_owned(),
            hash: description.hash(),
            methods: methods.collect(),
            description,
            queue: Queue::new(self.limits),
        });
        let mut slots = self.write();
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
        slots[at].generation += 1;
        slots[at].object = Some(Arc::clone(&object));
        tokio::spawn(work(object, handler));
        Ok(())
    }

    /// Calls that wait are answered `gone`; the running one goes on. `false` where there is no such object.
    pub(super) fn remove(&self, name: &str) -> bool {
        let mut slots = self.write();
        let found = slots
            .iter_mut()
            .find(|slot| slot.object.as_ref().is_some_and(|object| object.name == name));
        let Some(object) = found.and_then(|slot| slot.object.take()) else { return false };
        drop(slots);
        object.withdraw();
        true
    }

    pub(super) fn served(&self) -> Vec<Served> {
        let slots = self.read();
        let rows = slots.iter().enumerate().filter_map(|(token, slot)| {
            let object = slot.object.as_ref()?;
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
    pub(super) fn route(&self, call: &Call<'_>) -> Result<Route, Failure> {
        if call.token == ENDPOINT {
            return self.introspect(call.method).map(Route::Introspection);
        }
        let slots = self.read();
        let slot = usize::try_from(call.token).ok().and_then(|token| slots.get(token));
        let Some(slot) = slot else {
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
        if let Some(method) = object.methods.iter().find(|known| ***known == *call.method) {
            return Ok(Route::Object(Arc::clone(object), Arc::clone(method)));
        }
        if call.method == DESCRIBE {
            return json(&object.description).map(Route::Introspection);
        }
        let names = object.methods.iter().map(|name| &**name);
        Err(unknown_method(&object.name, call.method, names))
    }

    fn introspect(&self, method: &str) -> Result<Vec<u8>, Failure> {
        match method {
            OBJECTS => json(&self.served()),
            DESCRIBE => {
                let slots = self.read();
                let all = slots.iter().filter_map(|slot| slot.object.as_ref());
                let all = all.map(|object| {
                    let described = serde_json::to_value(&object.description);
                    (object.name.clone(), described.unwrap_or_default())
                });
                json(&all.collect::<serde_json::Map<_, _>>())
            }
            other => Err(unknown_method("the endpoint", other, [OBJECTS, DESCRIBE])),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Slot>> {
        self.slots.read().expect("nothing panics while it holds the table")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Slot>> {
        self.slots.write().expect("nothing panics while it holds the table")
    }
}

impl Target {
    /// Queues a call; a full or closed queue answers at once. `false` where it was full.
    pub(super) fn push(&self, connection: u64, uid: u32, call: Incoming) -> bool {
        match self.queue.push(connection, uid, call) {
            Ok(()) => true,
            Err((Refusal::Full(limit), call)) => {
                let text = format!("{limit} calls of {} wait already; try again later", self.name);
                let details = serde_json::json!({ "retry_after_ms": 50, "not_started": true });
                call.responder.fail(Failure::new(Code::Busy, text).with_details(details));
                false
            }
            Err((Refusal::Closed, call)) => {
                call.responder.fail(self.gone());
                true
            }
        }
    }

    fn withdraw(&self) {
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
    while let Some(call) = poll_fn(|cx| object.queue.poll_pop(cx)).await {
        // What was cancelled or timed out in the queue is not begun.
        if call.responder.is_open() {
            handler.call(call).await;
        }
    }
    drop(guard);
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
