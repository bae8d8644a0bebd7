//! Who may own, publish and find what; and the supervisor's word on who somebody is, asked for only where it decides.

use protocol::{
    config,
    failure::{Code, Failure},
    objects::served_by,
    policy::{Facts, Identity, Judgement, Rule, Verb, judge},
    time::Moment,
};

use super::{
    Action, CallId, Connection, Refusal, Registry, busy,
    contract::{Caller, Request},
    limits::{PARKED_MAX, REFUSALS_PER_SECOND},
    registration::Admission,
};

/// What is known of the process behind a connection, besides what the kernel says.
#[derive(Clone, Debug)]
pub(super) enum Known {
    Nothing,
    /// The supervisor was asked.
    Asked,
    Identity(Identity),
    /// It could not be found out, for this one attempt.
    Failed(String),
}

/// A call that waits for the supervisor's word.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) call: CallId,
    pub(super) what: ParkedCall,
}

#[derive(Debug)]
pub(super) enum ParkedCall {
    /// From the beginning.
    Request { deadline: Option<Moment>, request: Request },
    /// A registration whose socket is proved already.
    Admission(Admission),
}

/// An outcome.
#[derive(Debug)]
pub(super) enum Access {
    Allowed,
    Denied(Denial),
    /// The supervisor has to say who it is.
    Ask,
}

/// What was denied to somebody, in words.
#[derive(Debug)]
pub(super) struct Denial {
    why: Why,
    text: String,
}

#[derive(Debug)]
enum Why {
    /// The one that stands here.
    Rule(String),
    /// Nothing allows it.
    NoRule,
    /// Some rule may allow or deny it, and nobody can say.
    Undecided,
}

impl Denial {
    fn by_default(text: String) -> Access {
        Access::Denied(Self { why: Why::NoRule, text })
    }
}

/// How many refusals may be told, by the second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    second: u64,
    told: u32,
    suppressed: u64,
}

impl Bucket {
    /// How many were left out before this one; `None` where this one is left out too.
    fn take(&mut self, now: Moment) -> Option<u64> {
        let second = now.0 / 1_000_000_000;
        if second != self.second {
            (self.second, self.told) = (second, 0);
        }
        if self.told >= REFUSALS_PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Known {
    /// What rules are judged with; `None` is undecided.
    fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Identity(identity) => Some(identity),
            Self::Nothing | Self::Asked | Self::Failed(_) => None,
        }
    }
}

impl Registry {
    /// May it register an object under this name, served at `socket`?
    pub(super) fn may_own(&self, connection: Connection, name: &str, socket: &str) -> Access {
        let caller = self.caller(connection);
        let trusted = self.is_trusted(caller.uid);
        let short = served_by(name);
        if let Some(short) = &short {
            let place = format!("{}/{short}.sock", self.run_dir);
            if place != socket {
                let text = format!(
                    "{name} belongs to what listens on {place}, not to what listens on {socket}"
                );
                return Denial::by_default(text);
            }
        }
        match self.judged(connection, &self.policy.rules, Verb::Own, name, trusted) {
            // Only a deny is of interest for the suite's names: nobody can be allowed them by a file.
            Access::Allowed if short.is_some() && !trusted => {}
            Access::Denied(Denial { why: Why::NoRule, .. }) => {}
            decided => return decided,
        }
        // The process of a service may own what is named like the service.
        let service = match self.known(connection) {
            Known::Identity(identity) => identity.service.as_deref().unwrap_or_default(),
            Known::Nothing | Known::Asked => return Access::Ask,
            Known::Failed(why) => {
                let text = format!("{name}: who this process is could not be found out: {why}");
                return Access::Denied(Denial { why: Why::Undecided, text });
            }
        };
        let below = |owner: &str| {
            name.strip_prefix(owner).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let allowed = match &short {
            Some(short) => service == *short,
            None => !service.is_empty() && below(service),
        };
        if allowed {
            return Access::Allowed;
        }
        let is = match service {
            "" => "of no service".to_owned(),
            service => format!("of service {service}"),
        };
        let text = format!(
            "user {} (pid {}, {is}) may not own {name}; a rule with verb = \"own\" in policy.d can allow it",
            caller.uid, caller.pid
        );
        Denial::by_default(text)
    }

    /// May it publish under this topic?
    pub(super) fn may_publish(&self, connection: Connection, topic: &str) -> Access {
        let caller = self.caller(connection);
        let trusted = self.is_trusted(caller.uid);
        let access = self.judged(connection, &self.policy.rules, Verb::Publish, topic, trusted);
        let Some(name) = self.topic_owner(topic) else {
            return access;
        };
        // A deny holds for owners too, and while one can't be decided nothing is said.
        match access {
            Access::Allowed | Access::Denied(Denial { why: Why::NoRule, .. }) => {}
            decided => return decided,
        }
        let handle = self.connections.get(&connection).and_then(|client| client.handle);
        let owner = self.objects.get(&name).map(|entry| entry.handle);
        if handle.is_some() && handle == owner {
            return Access::Allowed;
        }
        let text = match owner.filter(|_| name != "registry").and_then(|h| self.endpoints.get(&h)) {
            Some(owner) => format!(
                "topics under {name} are for its owner (pid {}), who publishes on the connection it registered on",
                owner.pid
            ),
            None => format!("{topic} is for the owner of {name} only"),
        };
        Denial::by_default(text)
    }

    /// The object whose owner alone publishes this topic: the longest name that stands before a dot.
    fn topic_owner(&self, topic: &str) -> Option<String> {
        let ends = topic.match_indices('.').map(|(at, _)| at).rev();
        for end in ends {
            let name = &topic[..end];
            match name {
                "object" | "endpoint" | "policy" => return Some("registry".to_owned()),
                // procd's names for what the supervisor tells.
                "instance" | "event" => return Some("service".to_owned()),
                // The supervisor reloads, so it is the one that finds a configuration invalid.
                "config" if topic == config::INVALID => return Some("service".to_owned()),
                _ if self.objects.contains_key(name) || served_by(name).is_some() => {
                    return Some(name.to_owned());
                }
                _ => {}
            }
        }
        None
    }

    /// May it find the object? Whoever may call any method of it may.
    pub(super) fn may_look_up(&self, connection: Connection, name: &str) -> Access {
        let caller = self.caller(connection);
        let owner = self.objects.get(name).and_then(|entry| self.endpoints.get(&entry.handle));
        let trusted = caller.uid == 0
            || owner.map_or(self.is_trusted(caller.uid), |owner| owner.uid == caller.uid);
        self.judged(connection, &self.lookup_rules, Verb::Call, name, trusted)
    }

    fn judged(
        &self,
        connection: Connection,
        rules: &[Rule],
        verb: Verb,
        what: &str,
        trusted: bool,
    ) -> Access {
        let Some(client) = self.connections.get(&connection) else { return Access::Ask };
        let Caller { pid, uid, gid, groups } = &client.caller;
        let identity = client.identity.identity();
        let facts = Facts { uid: *uid, gid: *gid, groups, trusted, identity };
        let word = match verb {
            Verb::Call => "call",
            Verb::Own => "own",
            Verb::Publish => "publish",
        };
        match judge(rules, verb, what, None, &facts) {
            Judgement::Allowed => Access::Allowed,
            Judgement::Denied(Some(rule)) => {
                let source = &rule.source;
                let text =
                    format!("user {uid} (pid {pid}) may not {word} {what}: {source} says so");
                Access::Denied(Denial { why: Why::Rule(source.clone()), text })
            }
            Judgement::Denied(None) => Denial::by_default(format!(
                "no rule allows user {uid} (pid {pid}) to {word} {what}"
            )),
            Judgement::Undecided => match &client.identity {
                Known::Failed(why) => {
                    let text = format!(
                        "whether user {uid} (pid {pid}) may {word} {what} could not be found out: {why}"
                    );
                    Access::Denied(Denial { why: Why::Undecided, text })
                }
                _ => Access::Ask,
            },
        }
    }

    fn known(&self, connection: Connection) -> &Known {
        self.connections.get(&connection).map_or(&Known::Nothing, |client| &client.identity)
    }

    /// Keeps a call until the supervisor has said who it is from.
    pub(super) fn park(&mut self, call: CallId, connection: Connection, what: ParkedCall) {
        let Some(client) = self.connections.get_mut(&connection) else { return };
        if client.parked.len() >= PARKED_MAX {
            let text =
                format!("{PARKED_MAX} calls wait already until it is known who this process is");
            return self.reply(call, Err(busy(text, 100)));
        }
        client.parked.push(Parked { call, what });
        self.ask_who(connection);
    }

    /// Asks the supervisor, once.
    pub(super) fn ask_who(&mut self, connection: Connection) {
        if let Some(client) = self.connections.get_mut(&connection)
            && matches!(client.identity, Known::Nothing)
        {
            client.identity = Known::Asked;
            self.actions.push_back(Action::Identify { connection });
        }
    }

    pub(super) fn identified(
        &mut self,
        connection: Connection,
        outcome: Result<Identity, String>,
        now: Moment,
    ) {
        let Some(client) = self.connections.get_mut(&connection) else { return };
        client.identity = match outcome {
            Ok(identity) => Known::Identity(identity),
            Err(why) => Known::Failed(why),
        };
        let handle = client.handle;
        for Parked { call, what } in std::mem::take(&mut client.parked) {
            match what {
                ParkedCall::Request { deadline, request } => {
                    self.called(call, connection, deadline, request, now);
                }
                ParkedCall::Admission(admission) => self.admit(call, connection, admission, now),
            }
        }
        if let Some(handle) = handle {
            self.review(handle, now);
        }
        // The next call may have more luck.
        if let Some(client) = self.connections.get_mut(&connection)
            && matches!(client.identity, Known::Failed(_))
        {
            client.identity = Known::Nothing;
        }
    }

    /// The answer to somebody who may not, and a line for the audit.
    pub(super) fn denied(
        &mut self,
        connection: Connection,
        verb: &'static str,
        what: &str,
        Denial { why, text }: Denial,
        now: Moment,
    ) -> Failure {
        let rule = match why {
            Why::Rule(source) => Some(source),
            Why::NoRule => None,
            // It may be known the next time: whoever asks must not take this for a no.
            Why::Undecided => {
                let details = serde_json::json!({ "retry_after_ms": 1000, "not_started": true });
                return Failure::new(Code::Busy, text).with_details(details);
            }
        };
        let mut failure = Failure::new(Code::Denied, text.clone());
        if let Some(rule) = &rule {
            failure = failure.with_details(serde_json::json!({ "rule": rule }));
        }
        if let Some(suppressed) = self.refusals.take(now) {
            let Caller { pid, uid, .. } = self.caller(connection);
            let what = what.to_owned();
            let refusal = Refusal { verb, what, pid, uid, rule, text, suppressed };
            self.tell("policy.denied", &refusal);
            self.actions.push_back(Action::Audit(refusal));
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_told_in_part_and_counted() {
        let mut bucket = Bucket::default();
        let second = |second: u64| Moment(second * 1_000_000_000);
        let told = (0..100).filter_map(|_| bucket.take(second(5))).count();
        assert_eq!(told, 20);
        assert_eq!(bucket.take(second(6)), Some(80));
        assert_eq!(bucket.take(second(6)), Some(0));
    }
}
