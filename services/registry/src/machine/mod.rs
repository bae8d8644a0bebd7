//! Who serves what, who may own, find and publish it, and who has to hear of it. Pure: events and the time come in, actions
//! go out; no tokio, no clock, no file, no socket.
//!
//! The shell calls one `handle_*`, carries out [`Registry::poll_action`] until it is empty, then sleeps until
//! [`Registry::next_deadline`].
//!
//! ```text
//!             register, proved            connection or process ends
//!   nothing ------------------> Registered -------------------------> departed: the handle is kept for its nonce
//!                                 ^     ^                                 |
//!          registers again, proved|     +---------------------------------+
//!                                 |            registers again, proved
//!   state file of the last ----> Reserved ----> nothing, after 5 seconds
//!   registry
//! ```

mod access;
mod activation;
mod broadcast;
mod contract;
mod endpoints;
mod limits;
mod lookups;
mod names;
mod policy;
mod registration;
mod restore;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use protocol::{
    failure::{Code, Failure},
    registry::{Handle, Policy, Register},
    time::Moment,
};

use self::{
    access::{Bucket, Known, Parked},
    activation::Activation,
    broadcast::{Retained, Subscription},
    endpoints::{Endpoint, Entry},
    lookups::Waiter,
};
pub(crate) use self::{
    contract::{Action, Answer, CallId, Caller, Connection, Event, Publication, Refusal, Request},
    restore::{Own, Saved},
};

/// All endpoints, objects, rules, subscriptions and retained values.
pub(crate) struct Registry {
    /// Where the sockets of the suite's own daemons are.
    run_dir: String,
    own_uid: u32,
    /// The next handle.
    next: Handle,
    endpoints: BTreeMap<Handle, Endpoint>,
    objects: BTreeMap<String, Entry>,
    /// Endpoints that left, oldest first: handle, hash of the nonce, user.
    departed: VecDeque<(Handle, String, u32)>,
    /// Objects of the suite that were lost a moment ago; lookups wait for the next owner until then.
    lately: BTreeMap<String, Moment>,
    connections: BTreeMap<Connection, Client>,
    /// Those of them that subscribed or watch.
    listeners: BTreeSet<Connection>,
    /// Registrations whose socket is being tried.
    proving: BTreeMap<CallId, (Connection, Register)>,
    waiters: BTreeMap<CallId, Waiter>,
    activations: BTreeMap<String, Activation>,
    retained: BTreeMap<Arc<str>, Retained>,
    retained_bytes: usize,
    published: u64,
    policy: Arc<Policy>,
    /// The rules on calls as a lookup is judged by them: without methods.
    lookup_rules: Vec<protocol::policy::Rule>,
    problems: Vec<String>,
    /// What [`Registry::saved`] says has changed.
    unsaved: bool,
    refusals: Bucket,
    deadlines: BTreeSet<(Moment, Due)>,
    actions: VecDeque<Action>,
}

/// A connection that called at least once.
struct Client {
    caller: Caller,
    handle: Option<Handle>,
    registering: bool,
    identity: Known,
    parked: Vec<Parked>,
    subscriptions: Vec<Subscription>,
    /// Patterns of objects that are watched.
    watches: Vec<String>,
}

/// What a deadline is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Due {
    /// A reservation ends.
    Reserved(Handle),
    /// A caller waits no longer.
    Waiter(CallId),
    /// Nobody has used the endpoint for so long.
    Idle(Handle),
    /// It should have applied the rules.
    Push(Handle),
    /// The next owner of a lost object didn't come.
    Lost(String),
    /// What was started doesn't serve the object.
    Activation(String),
}

impl Registry {
    pub(crate) fn handle_event(&mut self, event: Event, now: Moment) {
        match event {
            Event::Call { call, connection, deadline, request } => {
                self.called(call, connection, deadline, request, now);
            }
            Event::Closed { connection } => self.closed(connection, now),
            Event::Proved { call, outcome } => self.proved(call, outcome, now),
            Event::Identified { connection, outcome } => self.identified(connection, outcome, now),
            Event::Activated { object, outcome } => self.activated(&object, outcome, now),
            Event::Policy { rules, problems } => self.policy_read(rules, problems, now),
        }
        self.save();
    }

    pub(crate) fn handle_timeout(&mut self, now: Moment) {
        while let Some((at, _)) = self.deadlines.first()
            && *at <= now
            && let Some((_, due)) = self.deadlines.pop_first()
        {
            match due {
                Due::Reserved(handle) => self.reservation_ended(handle, now),
                Due::Waiter(call) => self.waiter_overdue(call),
                Due::Idle(handle) => self.idle_too_long(handle, now),
                Due::Push(handle) => self.push_again(handle, now),
                Due::Lost(object) => self.lost_for_good(&object, now),
                Due::Activation(object) => self.activation_overdue(&object, now),
            }
        }
        self.save();
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Must come before the first call of a connection; later ones change nothing.
    pub(crate) fn connected(&mut self, connection: Connection, caller: impl FnOnce() -> Caller) {
        self.connections.entry(connection).or_insert_with(|| Client {
            caller: caller(),
            handle: None,
            registering: false,
            identity: Known::Nothing,
            parked: Vec::new(),
            subscriptions: Vec::new(),
            watches: Vec::new(),
        });
    }

    fn called(
        &mut self,
        call: CallId,
        connection: Connection,
        deadline: Option<Moment>,
        request: Request,
        now: Moment,
    ) {
        if !self.connections.contains_key(&connection) {
            return;
        }
        match request {
            Request::Register(register) => self.register(call, connection, register),
            Request::Offer(offer) => self.offer(call, connection, offer.objects, now),
            Request::Withdraw(withdraw) => self.withdraw(call, connection, &withdraw.names, now),
            Request::Applied(applied) => self.applied(call, connection, applied.epoch),
            Request::Usage(usage) => self.used(call, connection, usage.connections, now),
            Request::Lookup(lookup) => self.lookup(call, connection, deadline, lookup, now),
            Request::List(matching) => {
                let rows = self.rows(matching.pattern.as_deref());
                self.reply(call, Ok(Answer::List(rows)));
            }
            Request::Watch(matching) => self.watch(call, connection, matching.pattern),
            Request::Wait(wait) => self.wait(call, connection, deadline, wait.objects),
            Request::Publish(publication) => self.publish(call, connection, publication, now),
            Request::Subscribe(subscribe) => self.subscribe(call, connection, subscribe),
            Request::Unsubscribe(wanted) => self.unsubscribe(call, connection, &wanted.patterns),
            Request::Policy(of) => {
                let state = self.policy_state(of.object.as_deref());
                self.reply(call, Ok(Answer::Policy(Box::new(state))));
            }
        }
    }

    fn closed(&mut self, connection: Connection, now: Moment) {
        let Some(client) = self.connections.remove(&connection) else { return };
        self.listeners.remove(&connection);
        self.proving.retain(|_, (of, _)| *of != connection);
        self.waiters.retain(|_, waiter| waiter.connection != connection);
        self.forget_retained_of(connection);
        if let Some(handle) = client.handle {
            self.died(handle, now);
        }
    }

    fn save(&mut self) {
        if std::mem::take(&mut self.unsaved) {
            self.actions.push_back(Action::Save);
        }
    }

    /// Answers, after what the answer promises is on file.
    fn reply(&mut self, call: CallId, result: Result<Answer, Failure>) {
        self.save();
        self.actions.push_back(Action::Reply { call, result });
    }

    fn refuse(&mut self, call: CallId, code: Code, text: impl Into<String>) {
        self.reply(call, Err(Failure::new(code, text)));
    }

    /// Whether quotas of users don't count for it.
    fn is_trusted(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid
    }

    fn caller(&self, connection: Connection) -> Caller {
        self.connections.get(&connection).map(|client| client.caller.clone()).unwrap_or_default()
    }
}

/// A limit that was met, by name and value.
fn limit(what: &str, of: Option<u32>, limit: usize, cure: &str) -> Failure {
    let whose = of.map(|uid| format!(" of user {uid}")).unwrap_or_default();
    Failure::new(Code::Limit, format!("{what}{whose} are limited to {limit}; {cure}"))
}

/// A call that was not begun for want of room; it may be tried again.
fn busy(text: impl Into<String>, retry_after_ms: u64) -> Failure {
    let details = serde_json::json!({ "retry_after_ms": retry_after_ms, "not_started": true });
    Failure::new(Code::Busy, text).with_details(details)
}
