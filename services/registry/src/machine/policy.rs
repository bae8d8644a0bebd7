//! The rules in force: who has them, what changes when they change.

use std::sync::Arc;

use protocol::{
    policy::{Rule, Verb, Verdict, matches},
    registry::{Handle, POLICY_TOPIC, Policy, PolicyState},
    time::Moment,
};

use super::{
    Action, Answer, CallId, Connection, Due, Registry,
    access::Access,
    broadcast::json,
    limits::{PUSH_AGAIN, PUSHES_MAX},
};

impl Registry {
    /// The files say this now.
    pub(super) fn policy_read(&mut self, rules: Vec<Rule>, problems: Vec<String>, now: Moment) {
        let changed = rules != self.policy.rules;
        if !changed && problems == self.problems {
            return;
        }
        self.problems = problems;
        if changed {
            self.lookup_rules = for_lookups(&rules);
            self.policy = Arc::new(Policy { epoch: self.policy.epoch + 1, rules });
            self.unsaved = true;
            self.actions.push_back(Action::Enforce(Arc::clone(&self.policy)));
            self.push_to_all(now);
            self.review_all(now);
        }
        let data = serde_json::json!({ "epoch": self.policy.epoch, "problems": self.problems });
        self.tell("policy.changed", &data);
    }

    fn push_to_all(&mut self, now: Moment) {
        let mut to = Vec::new();
        for (handle, endpoint) in &mut self.endpoints {
            if let Some(connection) = endpoint.connection() {
                endpoint.pushes = 1;
                to.push(connection);
                self.deadlines.insert((now + PUSH_AGAIN, Due::Push(*handle)));
            }
        }
        self.push(to);
    }

    fn push(&mut self, to: Vec<Connection>) {
        if !to.is_empty() {
            let data = json(&*self.policy);
            self.actions.push_back(Action::Send { to, topic: POLICY_TOPIC.into(), data });
        }
    }

    /// An endpoint that has not said that it judges by these rules gets them once more: its queue of events may have been full.
    pub(super) fn push_again(&mut self, handle: Handle, now: Moment) {
        let epoch = self.policy.epoch;
        let Some(endpoint) = self.endpoints.get_mut(&handle) else { return };
        let Some(connection) = endpoint.connection() else { return };
        if endpoint.applied >= epoch || endpoint.pushes >= PUSHES_MAX {
            return;
        }
        endpoint.pushes += 1;
        self.deadlines.insert((now + PUSH_AGAIN, Due::Push(handle)));
        self.push(vec![connection]);
    }

    pub(super) fn applied(&mut self, call: CallId, connection: Connection, epoch: u64) {
        let Some(handle) = self.registered(call, connection, "applied") else { return };
        if let Some(endpoint) = self.endpoints.get_mut(&handle) {
            // Nobody has applied what was never sent.
            endpoint.applied = epoch.min(self.policy.epoch);
        }
        self.reply(call, Ok(Answer::Nothing));
    }

    /// Whoever may not own what it owns loses it, and lookups that wait are judged anew.
    fn review_all(&mut self, now: Moment) {
        let handles: Vec<Handle> = self.endpoints.keys().copied().collect();
        for handle in handles {
            self.review(handle, now);
        }
        let mut objects: Vec<String> =
            self.waiters.values().filter_map(super::Waiter::object).collect();
        objects.dedup();
        for object in objects {
            self.look_again(&object, now);
        }
    }

    /// Takes the names away that the endpoint may not own any more.
    pub(super) fn review(&mut self, handle: Handle, now: Moment) {
        let Some(endpoint) = self.endpoints.get(&handle) else { return };
        let Some(connection) = endpoint.connection() else { return };
        let socket = endpoint.socket.clone();
        let names: Vec<String> = endpoint.names.iter().cloned().collect();
        for name in names {
            match self.may_own(connection, &name, &socket) {
                Access::Allowed => {}
                Access::Ask => self.ask_who(connection),
                Access::Denied(denial) => {
                    self.denied(connection, "own", &name, denial, now);
                    self.drop_object(&name, now);
                }
            }
        }
    }

    pub(super) fn policy_state(&self, object: Option<&str>) -> PolicyState {
        let about = |rule: &&Rule| object.is_none_or(|object| matches(&rule.what, object));
        let rules = self.policy.rules.iter().filter(about).cloned().collect();
        let behind = self.endpoints.iter().filter(|(_, endpoint)| {
            endpoint.connection().is_some() && endpoint.applied < self.policy.epoch
        });
        PolicyState {
            policy: Policy { epoch: self.policy.epoch, rules },
            problems: self.problems.clone(),
            behind: behind.map(|(handle, _)| *handle).collect(),
        }
    }
}

/// Rules on calls for somebody who only wants to know where the object is: any method that is allowed is a reason to,
/// and only a deny of all methods a reason against.
pub(super) fn for_lookups(rules: &[Rule]) -> Vec<Rule> {
    let whole =
        |rule: &Rule| rule.methods.is_empty() || rule.methods.iter().any(|method| method == "*");
    rules
        .iter()
        .filter(|rule| rule.verb == Verb::Call && (rule.verdict == Verdict::Allow || whole(rule)))
        .map(|rule| Rule { methods: Vec::new(), ..rule.clone() })
        .collect()
}
