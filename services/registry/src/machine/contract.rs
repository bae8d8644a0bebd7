//! What goes into the machine and what comes out of it.

use std::sync::Arc;

use protocol::{
    failure::Failure,
    name::Name,
    policy::{Identity, Rule},
    registry::{
        Applied, Found, Lookup, Matching, Offer, Outcome, Overflow, Policy, PolicyOf, PolicyState,
        Published, Register, Registered, Subscribe, Unsubscribe, Usage, Wait, Withdraw,
    },
    service::Activated,
    time::Moment,
};
use serde::Serialize;

/// A connection, by the number that the server gave it.
pub(crate) type Connection = u64;
/// A call that waits for its answer.
pub(crate) type CallId = u64;

/// Who calls, as the kernel says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Caller {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Arc<[u32]>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Somebody calls; after `deadline` nobody waits for the answer.
    Call { call: CallId, connection: Connection, deadline: Option<Moment>, request: Request },
    /// The connection is gone, or the process behind it.
    Closed { connection: Connection },
    /// The socket of a [`Action::Prove`] was tried.
    Proved { call: CallId, outcome: Result<(), String> },
    /// The supervisor said who is behind a connection, or couldn't be asked.
    Identified { connection: Connection, outcome: Result<Identity, String> },
    /// The supervisor started what serves an object, or has nothing to start.
    Activated { object: String, outcome: Result<Activated, Failure> },
    /// The policy files were read.
    Policy { rules: Vec<Rule>, problems: Vec<String> },
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Register(Register),
    Offer(Offer),
    Withdraw(Withdraw),
    Applied(Applied),
    Usage(Usage),
    Lookup(Lookup),
    List(Matching),
    Watch(Matching),
    Wait(Wait),
    Publish(Publication),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    Policy(PolicyOf),
}

/// An event that somebody publishes; its data is JSON that nobody looks into.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    pub(crate) topic: String,
    pub(crate) data: Arc<[u8]>,
    pub(crate) retain: bool,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// [`super::Registry::saved`] must be on file before the next reply goes out.
    Save,
    Reply {
        call: CallId,
        result: Result<Answer, Failure>,
    },
    /// An event for these connections.
    Send {
        to: Vec<Connection>,
        topic: Arc<str>,
        data: Arc<[u8]>,
    },
    /// Connect to the socket and compare the nonce of Welcome.
    Prove {
        call: CallId,
        socket: String,
        nonce: [u8; 16],
    },
    /// Ask the supervisor who is behind a connection.
    Identify {
        connection: Connection,
    },
    /// How many events may wait for a connection.
    Queue {
        connection: Connection,
        limit: usize,
        overflow: Overflow,
    },
    /// Ask the supervisor to start what serves the object.
    Activate {
        object: String,
    },
    /// Tell the supervisor that nobody uses the service.
    Release {
        service: Name,
    },
    /// The rules for the registry's own object.
    Enforce(Arc<Policy>),
    /// For the audit log.
    Audit(Refusal),
}

/// What is answered to whom asked.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    Nothing,
    Registered(Box<Registered>),
    Outcomes(Vec<Outcome>),
    Found(Box<Found>),
    List(Vec<Found>),
    Published(Published),
    Policy(Box<PolicyState>),
}

/// Something that the policy refused.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Refusal {
    /// `own`, `publish` or `lookup`.
    pub(crate) verb: &'static str,
    /// The object's name, or the topic.
    pub(crate) what: String,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    /// Where the rule stands; absent: no rule allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rule: Option<String>,
    pub(crate) text: String,
    /// How many refusals before this one were not told, because there were too many.
    pub(crate) suppressed: u64,
}
