//! The table of endpoints and objects: what is there, how it changes, and who hears of it.

use std::collections::BTreeSet;

use protocol::{
    name::Name,
    objects::{Served, served_by},
    policy::matches,
    registry::{Found, Handle, Status, Subscriber},
    time::Moment,
};
use serde::Serialize;

use super::{
    Connection, Due, Registry,
    limits::{DEPARTED_MAX, OBJECTS_MAX, RESERVED_FOR, SUCCESSOR_WITHIN},
};

/// A process that serves objects.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) life: Life,
    /// Where it listens.
    pub(super) socket: String,
    /// SHA-256 of the nonce, in hexadecimal digits.
    pub(super) nonce: String,
    pub(super) pid: i32,
    pub(super) uid: u32,
    pub(super) names: BTreeSet<String>,
    /// The epoch that it said it judges by.
    pub(super) applied: u64,
    /// How often it was sent the rules in force.
    pub(super) pushes: u32,
    /// Its connections besides the one to us.
    pub(super) connections: u64,
    pub(super) on_demand: Option<OnDemand>,
    /// When it is released, unless somebody uses it.
    pub(super) idle_at: Option<Moment>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Life {
    /// The registry itself.
    Own,
    Registered(Connection),
    /// Known from the last registry; it has until then to come back.
    Reserved(Moment),
}

/// It was started by a lookup, and may be stopped when it is idle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct OnDemand {
    pub(super) service: Name,
    pub(super) idle: Option<std::time::Duration>,
}

/// An object, and whose it is.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) handle: Handle,
    pub(super) served: Served,
}

/// `object.remove`.
#[derive(Serialize)]
struct Removed<'a> {
    name: &'a str,
    handle: Handle,
}

/// `endpoint.died`.
#[derive(Serialize)]
struct Died<'a> {
    handle: Handle,
    socket: &'a str,
    pid: i32,
    uid: u32,
    objects: &'a BTreeSet<String>,
}

impl Endpoint {
    pub(super) fn connection(&self) -> Option<Connection> {
        match self.life {
            Life::Registered(connection) => Some(connection),
            Life::Own | Life::Reserved(_) => None,
        }
    }

    /// It can be called now, as far as is known.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self.life, Life::Reserved(_))
    }
}

impl Registry {
    /// A handle that nobody had.
    pub(super) fn new_handle(&mut self) -> Handle {
        self.unsaved = true;
        let handle = self.next;
        self.next = match handle.number.checked_add(1) {
            Some(number) => Handle { number, ..handle },
            None => Handle { epoch: handle.epoch.wrapping_add(1), number: 1 },
        };
        handle
    }

    /// The row of an object, as lookup and list tell it.
    pub(super) fn row(&self, name: &str) -> Option<Found> {
        let entry = self.objects.get(name)?;
        let endpoint = self.endpoints.get(&entry.handle)?;
        Some(Found {
            object: entry.served.clone(),
            handle: entry.handle,
            socket: endpoint.socket.clone(),
            pid: endpoint.pid,
            uid: endpoint.uid,
        })
    }

    /// The rows of all objects that the pattern holds.
    pub(super) fn rows(&self, pattern: Option<&str>) -> Vec<Found> {
        let holds = |name: &str| pattern.is_none_or(|pattern| matches(pattern, name));
        self.objects.keys().filter(|name| holds(name)).filter_map(|name| self.row(name)).collect()
    }

    /// Notes an object as served by this endpoint, and tells who watches; nothing where it is the same as before.
    pub(super) fn set_object(&mut self, handle: Handle, served: Served) -> bool {
        let name = served.name.clone();
        let before = self.objects.get(&name);
        let moved = before.is_none_or(|before| before.handle != handle);
        if !moved && before.is_some_and(|before| before.served == served) {
            return false;
        }
        if let Some(before) = before.filter(|before| before.handle != handle) {
            let owner = before.handle;
            if let Some(owner) = self.endpoints.get_mut(&owner) {
                owner.names.remove(&name);
            }
        }
        self.unsaved = true;
        self.objects.insert(name.clone(), Entry { handle, served });
        if let Some(endpoint) = self.endpoints.get_mut(&handle) {
            endpoint.names.insert(name.clone());
        }
        self.found_again(&name);
        self.started(&name, handle);
        if let Some(row) = self.row(&name) {
            self.tell_watchers("object.add", &name, &row);
        }
        true
    }

    /// Serves it no longer.
    pub(super) fn drop_object(&mut self, name: &str, now: Moment) {
        let Some(entry) = self.objects.remove(name) else { return };
        self.unsaved = true;
        if let Some(endpoint) = self.endpoints.get_mut(&entry.handle) {
            endpoint.names.remove(name);
        }
        if served_by(name).is_some() {
            // What belongs to the suite is surely started again.
            self.await_next(name, now + RESERVED_FOR);
        }
        self.tell_watchers("object.remove", name, &Removed { name, handle: entry.handle });
    }

    /// Lookups of it wait until then.
    fn await_next(&mut self, name: &str, until: Moment) {
        if self.lately.len() < OBJECTS_MAX || self.lately.contains_key(name) {
            self.found_again(name);
            self.lately.insert(name.to_owned(), until);
            self.deadlines.insert((until, Due::Lost(name.to_owned())));
        }
    }

    /// Nobody waits for its next owner any more.
    pub(super) fn found_again(&mut self, name: &str) {
        if let Some(until) = self.lately.remove(name) {
            self.deadlines.remove(&(until, Due::Lost(name.to_owned())));
        }
    }

    /// Its connection ended, or its process, or its reservation.
    pub(super) fn died(&mut self, handle: Handle, now: Moment) {
        let Some(endpoint) = self.endpoints.remove(&handle) else { return };
        self.unsaved = true;
        self.set_idle(handle, endpoint.idle_at, None);
        for name in &endpoint.names {
            self.drop_object(name, now);
            if !self.lately.contains_key(name) {
                // One that takes its place, as in a live replacement, registers about now.
                self.await_next(name, now + SUCCESSOR_WITHIN);
            }
        }
        let Endpoint { socket, nonce, pid, uid, names, .. } = endpoint;
        self.tell("endpoint.died", &Died { handle, socket: &socket, pid, uid, objects: &names });
        if self.departed.len() >= DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back((handle, nonce, uid));
    }

    /// Moves the deadline after which an unused endpoint is released.
    pub(super) fn set_idle(
        &mut self,
        handle: Handle,
        before: Option<Moment>,
        after: Option<Moment>,
    ) {
        if let Some(before) = before {
            self.deadlines.remove(&(before, Due::Idle(handle)));
        }
        if let Some(after) = after {
            self.deadlines.insert((after, Due::Idle(handle)));
        }
        if let Some(endpoint) = self.endpoints.get_mut(&handle) {
            endpoint.idle_at = after;
        }
    }

    /// Counts; who subscribed, in the order of the connections that come with it.
    pub(crate) fn status(&self) -> (Status, Vec<Connection>) {
        let mut listening: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, client)| !client.subscriptions.is_empty())
            .collect();
        listening.sort_by_key(|(connection, _)| **connection);
        let subscribers = listening.iter().map(|(_, client)| Subscriber {
            pid: client.caller.pid,
            uid: client.caller.uid,
            patterns: client.subscriptions.iter().map(|one| one.pattern.clone()).collect(),
            waiting: 0,
            lost: 0,
        });
        let status = Status {
            endpoints: self.endpoints.len() as u64,
            objects: self.objects.len() as u64,
            retained: self.retained.len() as u64,
            published: self.published,
            epoch: self.policy.epoch,
            subscribers: subscribers.collect(),
        };
        (status, listening.into_iter().map(|(connection, _)| *connection).collect())
    }
}
