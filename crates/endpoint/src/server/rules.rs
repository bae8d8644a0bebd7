//! The rules in force, sorted by object, and what they say of a call. Every refusal is counted, told and audited; what
//! can't be decided yet is never taken for allowed.

use std::sync::{
    Arc, RwLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use protocol::{
    failure::{Code, Failure},
    policy::{Facts, Judgement, Rule, Verb, Verdict, judge, matches},
};

use super::link::{Caller, Link, State};

/// The rules that speak of one object.
#[derive(Default)]
pub(crate) struct Stance {
    rules: RwLock<Arc<Said>>,
    /// One of them denies: even root and our own user must be judged.
    denies: AtomicBool,
}

#[derive(Default)]
struct Said {
    rules: Vec<Rule>,
    /// Whether one of them asks for groups.
    groups: bool,
}

/// What the rules say of a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ruling {
    Allowed,
    /// By the rule from here; `None`: no rule allows it.
    Denied(Option<String>),
    /// What the process is decides.
    Undecided,
}

impl Stance {
    pub(super) fn new(rules: &[Rule], object: &str) -> Self {
        let stance = Self::default();
        stance.set(rules, object);
        stance
    }

    pub(super) fn set(&self, rules: &[Rule], object: &str) {
        let about =
            rules.iter().filter(|rule| rule.verb == Verb::Call && matches(&rule.what, object));
        let rules: Vec<Rule> = about.cloned().collect();
        let denies = rules.iter().any(|rule| rule.verdict == Verdict::Deny);
        let groups = rules.iter().any(|rule| !rule.who.groups.is_empty());
        let mut said = self.rules.write().expect("nothing panics while it holds the rules");
        *said = Arc::new(Said { rules, groups });
        self.denies.store(denies, Relaxed);
    }

    /// Judges a call of one of the object's methods. The lock of the connection is held, so that rules which change now
    /// find the call either judged by them or open, to be judged again.
    pub(super) fn judge(&self, link: &Link, state: &State, object: &str, method: &str) -> Ruling {
        if link.trusted && !self.denies.load(Relaxed) {
            return Ruling::Allowed;
        }
        let said = Arc::clone(&self.rules.read().expect("nothing panics while it holds the rules"));
        let groups = if said.groups { link.groups(state.stream()) } else { Some(Arc::default()) };
        let Some(groups) = groups else {
            return Ruling::Denied(Some("the kernel does not tell the caller's groups".to_owned()));
        };
        let facts = Facts {
            uid: link.caller.uid,
            gid: link.caller.gid,
            groups: &groups,
            trusted: link.trusted,
            identity: state.identity.as_deref(),
        };
        match judge(&said.rules, Verb::Call, object, Some(method), &facts) {
            Judgement::Allowed => Ruling::Allowed,
            Judgement::Denied(rule) => Ruling::Denied(rule.map(|rule| rule.source.clone())),
            Judgement::Undecided => Ruling::Undecided,
        }
    }
}

/// Why a call is refused.
pub(super) enum Reason {
    /// By the rule from here; `None`: no rule allows it.
    Rule(Option<String>),
    /// What the process is decides, and this is why it isn't known.
    Unidentified(String),
}

impl Reason {
    pub(super) fn nobody_to_ask() -> Self {
        Self::Unidentified("the supervisor could not be asked".to_owned())
    }

    /// For the audit log.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Rule(source) => source.as_deref().unwrap_or("no rule allows it"),
            Self::Unidentified(_) => "the process is not identified",
        }
    }
}

/// The answer to a call that the rules refuse.
pub(super) fn refusal(
    caller: Caller,
    object: &str,
    method: &str,
    reason: &Reason,
    began: bool,
) -> Failure {
    let mut details = serde_json::json!({ "not_started": !began });
    let why = match reason {
        Reason::Rule(Some(source)) => {
            details["rule"] = source.as_str().into();
            format!("by {source}")
        }
        Reason::Rule(None) => {
            "no rule allows it, and without one only root and the service's own user may".to_owned()
        }
        Reason::Unidentified(text) => format!("what its process is must be known first: {text}"),
    };
    let Caller { pid, uid, .. } = caller;
    let text = format!("{object}.{method} is denied to user {uid} (pid {pid}): {why}");
    Failure::new(Code::Denied, text).with_details(details)
}
