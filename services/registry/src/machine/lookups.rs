//! Finding objects, and waiting for those that are not there yet.

use protocol::{
    failure::{Code, Failure},
    objects::{Wanted, nearest},
    registry::{Found, Lookup},
    time::Moment,
};

use super::{
    Answer, CallId, Connection, Due, Registry, Request,
    access::{Access, ParkedCall},
    limit,
    limits::{PATTERNS_MAX, WAIT_NAMES_MAX, WAITING_MAX, user},
    names::{check_name, check_pattern},
};

/// A call that waits for objects.
pub(super) struct Waiter {
    pub(super) connection: Connection,
    pub(super) deadline: Option<Moment>,
    pub(super) want: Want,
}

pub(super) enum Want {
    One(Lookup),
    All(Vec<String>),
}

impl Waiter {
    /// What is looked up.
    pub(super) fn object(&self) -> Option<String> {
        match &self.want {
            Want::One(lookup) => Some(lookup.object.clone()),
            Want::All(_) => None,
        }
    }
}

impl Registry {
    pub(super) fn lookup(
        &mut self,
        call: CallId,
        connection: Connection,
        deadline: Option<Moment>,
        lookup: Lookup,
        now: Moment,
    ) {
        if let Err(failure) = check_name(&lookup.object) {
            return self.reply(call, Err(failure));
        }
        match self.may_look_up(connection, &lookup.object) {
            Access::Allowed => {}
            Access::Denied(denial) => {
                let failure = self.denied(connection, "lookup", &lookup.object, denial, now);
                return self.reply(call, Err(failure));
            }
            Access::Ask => {
                let request = Request::Lookup(lookup);
                let parked = ParkedCall::Request { deadline, request };
                return self.park(call, connection, parked);
            }
        }
        if let Some(found) = self.find(&lookup) {
            self.touch(&lookup.object, now);
            return self.reply(call, found.map(|found| Answer::Found(Box::new(found))));
        }
        let coming =
            self.objects.contains_key(&lookup.object) || self.lately.contains_key(&lookup.object);
        if !coming && !lookup.activate {
            let failure = self.not_found(&lookup.object);
            return self.reply(call, Err(failure));
        }
        let (object, activate) = (lookup.object.clone(), lookup.activate);
        if !self.keep_waiting(call, connection, deadline, Want::One(lookup)) {
            return;
        }
        if !self.objects.contains_key(&object) && activate {
            self.activate(&object);
        }
    }

    /// The object if it is there, or why it won't do.
    fn find(&self, lookup: &Lookup) -> Option<Result<Found, Failure>> {
        let entry = self.objects.get(&lookup.object)?;
        if !self.endpoints.get(&entry.handle)?.is_there() {
            return None;
        }
        let Lookup { interface, version, hash, .. } = lookup;
        let wanted = Wanted { interface: interface.as_deref(), version: *version, hash: *hash };
        let found = self.row(&lookup.object)?;
        Some(wanted.check(&entry.served).map(|()| found))
    }

    pub(super) fn not_found(&self, object: &str) -> Failure {
        let near = nearest(object, self.objects.keys().map(String::as_str));
        let hint = near.map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
        Failure::new(Code::NotFound, format!("no object {object:?} is registered{hint}"))
    }

    pub(super) fn wait(
        &mut self,
        call: CallId,
        connection: Connection,
        deadline: Option<Moment>,
        objects: Vec<String>,
    ) {
        if objects.len() > WAIT_NAMES_MAX {
            let failure = limit("objects of one wait", None, WAIT_NAMES_MAX, "wait in parts");
            return self.reply(call, Err(failure));
        }
        if let Some(failure) = objects.iter().find_map(|name| check_name(name).err()) {
            return self.reply(call, Err(failure));
        }
        match self.all(&objects) {
            Some(rows) => self.reply(call, Ok(Answer::List(rows))),
            None => {
                self.keep_waiting(call, connection, deadline, Want::All(objects));
            }
        }
    }

    /// The rows of all of them, if they are there.
    fn all(&self, objects: &[String]) -> Option<Vec<Found>> {
        let there = |name: &String| {
            let row = self.row(name)?;
            self.endpoints.get(&row.handle).filter(|endpoint| endpoint.is_there())?;
            Some(row)
        };
        objects.iter().map(there).collect()
    }

    /// Keeps the call until its objects are there; `false` where too many wait.
    fn keep_waiting(
        &mut self,
        call: CallId,
        connection: Connection,
        deadline: Option<Moment>,
        want: Want,
    ) -> bool {
        let uid = self.caller(connection).uid;
        let of_user = |waiter: &&Waiter| self.caller(waiter.connection).uid == uid;
        if self.waiters.len() >= WAITING_MAX {
            let failure = limit("calls that wait for an object", None, WAITING_MAX, "cancel one");
            self.reply(call, Err(failure));
            return false;
        }
        if !self.is_trusted(uid) && self.waiters.values().filter(of_user).count() >= user::WAITING {
            let what = "calls that wait for an object";
            self.reply(call, Err(limit(what, Some(uid), user::WAITING, "cancel one")));
            return false;
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, Due::Waiter(call)));
        }
        self.waiters.insert(call, Waiter { connection, deadline, want });
        true
    }

    /// Answers whoever waits for what is there now. What is allowed is judged anew: the rules may have changed.
    pub(super) fn wake_waiters(&mut self, now: Moment) {
        let ready = |(call, waiter): (&CallId, &Waiter)| {
            let there = match &waiter.want {
                Want::One(lookup) => self.find(lookup).is_some(),
                Want::All(objects) => self.all(objects).is_some(),
            };
            there.then_some(*call)
        };
        let ready: Vec<CallId> = self.waiters.iter().filter_map(ready).collect();
        for call in ready {
            let Some(waiter) = self.take_waiter(call) else { continue };
            match waiter.want {
                Want::One(lookup) => {
                    self.lookup(call, waiter.connection, waiter.deadline, lookup, now);
                }
                Want::All(objects) => {
                    self.wait(call, waiter.connection, waiter.deadline, objects);
                }
            }
        }
    }

    fn take_waiter(&mut self, call: CallId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&call)?;
        if let Some(deadline) = waiter.deadline {
            self.deadlines.remove(&(deadline, Due::Waiter(call)));
        }
        Some(waiter)
    }

    /// The lookups of this object begin again, because what they waited for won't come.
    pub(super) fn look_again(&mut self, object: &str, now: Moment) {
        for (call, connection, deadline, lookup) in self.take_lookups(object) {
            self.lookup(call, connection, deadline, lookup, now);
        }
    }

    /// The lookups of this object are answered so.
    pub(super) fn fail_lookups(&mut self, object: &str, failure: &Failure) {
        for (call, ..) in self.take_lookups(object) {
            self.reply(call, Err(failure.clone()));
        }
    }

    fn take_lookups(&mut self, object: &str) -> Vec<(CallId, Connection, Option<Moment>, Lookup)> {
        let of_object = |(call, waiter): (&CallId, &Waiter)| match &waiter.want {
            Want::One(lookup) if lookup.object == object => Some(*call),
            _ => None,
        };
        let calls: Vec<CallId> = self.waiters.iter().filter_map(of_object).collect();
        let taken = calls.into_iter().filter_map(|call| {
            let waiter = self.take_waiter(call)?;
            match waiter.want {
                Want::One(lookup) => Some((call, waiter.connection, waiter.deadline, lookup)),
                Want::All(_) => None,
            }
        });
        taken.collect()
    }

    /// Somebody still waits for this object by a lookup.
    pub(super) fn is_looked_up(&self, object: &str) -> bool {
        self.waiters
            .values()
            .any(|waiter| matches!(&waiter.want, Want::One(lookup) if lookup.object == object))
    }

    /// The server tells the caller that it is too late.
    pub(super) fn waiter_overdue(&mut self, call: CallId) {
        let Some(waiter) = self.waiters.remove(&call) else { return };
        let text = match &waiter.want {
            Want::One(lookup) => format!("{} did not appear in time", lookup.object),
            Want::All(objects) => {
                let missing: Vec<&str> = objects
                    .iter()
                    .filter(|name| !self.objects.contains_key(*name))
                    .map(String::as_str)
                    .collect();
                format!("not there in time: {}", missing.join(", "))
            }
        };
        self.refuse(call, Code::Timeout, text);
    }

    /// `list`, and from now on what changes in it.
    pub(super) fn watch(&mut self, call: CallId, connection: Connection, pattern: Option<String>) {
        let pattern = pattern.unwrap_or_else(|| "*".to_owned());
        if let Err(failure) = check_pattern(&pattern) {
            return self.reply(call, Err(failure));
        }
        if let Err(failure) = self.room_for_patterns(connection, 1) {
            return self.reply(call, Err(failure));
        }
        let rows = self.rows(Some(&pattern));
        if let Some(client) = self.connections.get_mut(&connection)
            && !client.watches.contains(&pattern)
        {
            client.watches.push(pattern);
            self.listeners.insert(connection);
        }
        self.reply(call, Ok(Answer::List(rows)));
    }

    /// Whether the connection, its user and all together may have so many patterns more.
    pub(super) fn room_for_patterns(
        &self,
        connection: Connection,
        more: usize,
    ) -> Result<(), Failure> {
        const PER_CONNECTION: usize = protocol::registry::PATTERNS_MAX;

        let of = |client: &super::Client| client.subscriptions.len() + client.watches.len();
        let Some(client) = self.connections.get(&connection) else { return Ok(()) };
        if of(client) + more > PER_CONNECTION {
            let cure = "use a pattern with * that holds several topics";
            return Err(limit("patterns of one connection", None, PER_CONNECTION, cure));
        }
        let uid = client.caller.uid;
        let all = || self.connections.values();
        if !self.is_trusted(uid)
            && all().filter(|client| client.caller.uid == uid).map(of).sum::<usize>() + more
                > user::PATTERNS
        {
            return Err(limit("patterns", Some(uid), user::PATTERNS, "unsubscribe some"));
        }
        if all().map(of).sum::<usize>() + more > PATTERNS_MAX {
            return Err(limit("patterns of all connections", None, PATTERNS_MAX, "try later"));
        }
        Ok(())
    }
}
