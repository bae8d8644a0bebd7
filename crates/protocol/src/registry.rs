//! The `registry` object: arguments and replies of its methods, and the topics it sends by itself.
//!
//! An endpoint registers on a connection of its own and keeps it: its end is the endpoint's death. The registry proves
//! the named socket by connecting to it and reading the same nonce in Welcome.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    objects::{ArgumentKind as Kind, Description, Served, version},
    policy::Rule,
};

/// Longest data of one published event, in bytes.
pub const DATA_MAX: usize = 64 << 10;
/// Most patterns one connection may subscribe to.
pub const PATTERNS_MAX: usize = 64;
/// Sent to a registered connection, with [`Policy`], whenever the rules change.
pub const POLICY_TOPIC: &str = "registry.policy";

/// The number of an endpoint, never used again: boot of the registry's state, then a count. 0.0 is the registry itself.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Handle {
    pub epoch: u32,
    pub number: u32,
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

impl std::str::FromStr for Handle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('.').and_then(|(epoch, number)| {
            Some(Self { epoch: epoch.parse().ok()?, number: number.parse().ok()? })
        });
        parsed.ok_or_else(|| format!("{text:?} is no handle: two numbers with a dot, as 3.17"))
    }
}

impl Serialize for Handle {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Handle {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `register`: this connection's process is an endpoint. Once a connection.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Register {
    /// Absolute path of the socket it listens on.
    pub socket: String,
    /// The nonce of its Welcome, in 32 hexadecimal digits.
    pub nonce: String,
    /// The handle it had before this registry, or this connection, ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<Handle>,
    /// All objects it exports now.
    pub objects: Vec<Served>,
}

/// What `register` answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Registered {
    pub handle: Handle,
    pub objects: Vec<Outcome>,
    pub policy: Policy,
}

/// What became of one object.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Outcome {
    pub name: String,
    /// Why it is not registered; the others of the batch are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<crate::failure::Failure>,
}

/// The rules in force, whole.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Policy {
    /// Rises with every change.
    pub epoch: u64,
    pub rules: Vec<Rule>,
}

/// `offer`: more objects of a registered endpoint, or the same ones with new tokens. Answers a list of [`Outcome`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Offer {
    pub objects: Vec<Served>,
}

/// `withdraw`: these are served no longer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Withdraw {
    pub names: Vec<String>,
}

/// `applied`: the endpoint judges by this epoch's rules now.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Applied {
    pub epoch: u64,
}

/// `usage`: how many connections the endpoint has, besides its own to the registry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Usage {
    pub connections: u64,
}

/// `lookup`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lookup {
    pub object: String,
    /// Name of the interface that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Lowest version, as [`version`] makes it; another major one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Content the caller was built against; compared where the versions are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<u64>,
    /// Start the service that serves it, if it is to be started on demand. Default true.
    #[serde(default = "yes")]
    pub activate: bool,
}

impl Default for Lookup {
    fn default() -> Self {
        let object = String::new();
        Self { object, interface: None, version: None, hash: None, activate: yes() }
    }
}

fn yes() -> bool {
    true
}

/// What `lookup` answers, and a row of `list` and `watch`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Found {
    /// The object's name is in here.
    #[serde(flatten)]
    pub object: Served,
    pub handle: Handle,
    pub socket: String,
    pub pid: i32,
    pub uid: u32,
}

/// `list` and `watch`: objects whose name the pattern holds; without it all.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Matching {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// `wait`: answered when all of them are there.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Wait {
    pub objects: Vec<String>,
}

/// `publish`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Publish {
    pub topic: String,
    #[serde(default)]
    pub data: Value,
    /// Kept, and sent to whoever subscribes later, until the publisher ends; null data forgets it.
    #[serde(default)]
    pub retain: bool,
}

/// What `publish` answers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Published {
    pub subscribers: u64,
}

/// `subscribe`: events go to this connection. Patterns add up; an event that several hold comes once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Subscribe {
    pub patterns: Vec<String>,
    /// Only events that the owner of this object published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Also what was retained before.
    #[serde(default = "yes")]
    pub retained: bool,
    /// How many events may wait for this connection (1 to 4096); 256 at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// What happens when more want to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
}

impl Default for Subscribe {
    fn default() -> Self {
        Self { patterns: Vec::new(), sender: None, retained: yes(), queue: None, overflow: None }
    }
}

/// What happens to a subscriber that is too slow. In each case it is told how many it lost, and nobody else waits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    #[default]
    DropOldest,
    DropNew,
    Disconnect,
}

/// `unsubscribe`: these patterns no longer; without patterns none at all.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Unsubscribe {
    #[serde(default)]
    pub patterns: Vec<String>,
}

/// `policy`: the rules; with an object only those that speak of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyOf {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

/// What `policy` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PolicyState {
    #[serde(flatten)]
    pub policy: Policy,
    /// Files that could not be read, with line and reason: the rules from before them stay.
    pub problems: Vec<String>,
    /// Endpoints that still judge by older rules.
    pub behind: Vec<Handle>,
}

/// What `status` answers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Status {
    pub endpoints: u64,
    pub objects: u64,
    pub retained: u64,
    pub published: u64,
    pub epoch: u64,
    pub subscribers: Vec<Subscriber>,
}

/// One connection that subscribed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Subscriber {
    pub pid: i32,
    pub uid: u32,
    pub patterns: Vec<String>,
    pub waiting: u64,
    pub lost: u64,
}

/// What the object offers.
#[must_use]
pub fn description() -> Description {
    const SOME_PATTERN: (&str, Kind, bool) = ("pattern", Kind::String, false);
    const OBJECTS: (&str, Kind, bool) = ("objects", Kind::Array, true);
    let lookup = [
        ("object", Kind::String, true),
        ("interface", Kind::String, false),
        ("version", Kind::Integer, false),
        ("hash", Kind::Integer, false),
        ("activate", Kind::Boolean, false),
    ];
    let register = [
        ("socket", Kind::String, true),
        ("nonce", Kind::String, true),
        ("handle", Kind::String, false),
        OBJECTS,
    ];
    let subscribe = [
        ("patterns", Kind::Array, true),
        ("sender", Kind::String, false),
        ("retained", Kind::Boolean, false),
        ("queue", Kind::Integer, false),
        ("overflow", Kind::String, false),
    ];
    let publish = [
        ("topic", Kind::String, true),
        ("data", Kind::Any, false),
        ("retain", Kind::Boolean, false),
    ];
    Description::new("vestal.registry", version(1, 0))
        .method("register", &register, "this connection is an endpoint", "handle, objects, policy")
        .method("offer", &[OBJECTS], "more objects of this endpoint", "an outcome for each")
        .method("withdraw", &[("names", Kind::Array, true)], "served no longer", "")
        .method("applied", &[("epoch", Kind::Integer, true)], "rules of this epoch hold", "")
        .method("usage", &[("connections", Kind::Integer, true)], "how busy the endpoint is", "")
        .method("lookup", &lookup, "where an object is served", "handle, socket, token, ...")
        .method("list", &[SOME_PATTERN], "what is served", "a list as of lookup")
        .method("watch", &[SOME_PATTERN], "as list, then object.add and object.remove", "a list")
        .method("wait", &[OBJECTS], "answer when all of them are there", "a list as of lookup")
        .method("publish", &publish, "an event for all who subscribed", "subscribers")
        .method("subscribe", &subscribe, "send events to this connection", "")
        .method("unsubscribe", &[("patterns", Kind::Array, false)], "send them no longer", "")
        .method("policy", &[("object", Kind::String, false)], "the rules", "epoch, rules, ...")
        .method("status", &[], "counts, and who is too slow", "endpoints, subscribers, ...")
        .event("object.add")
        .event("object.remove")
        .event("endpoint.died")
        .event("policy.changed")
        .event("policy.denied")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_read_as_it_is_written() {
        let handle = Handle { epoch: 3, number: 17 };
        assert_eq!(serde_json::to_string(&handle).unwrap(), r#""3.17""#);
        assert_eq!("3.17".parse(), Ok(handle));
        assert!("3".parse::<Handle>().is_err());
        assert!("3.x".parse::<Handle>().is_err());
    }

    #[test]
    fn what_is_left_out_means_the_same_in_json_and_in_rust() {
        let lookup: Lookup = serde_json::from_str(r#"{"object":"camera"}"#).unwrap();
        assert_eq!(lookup, Lookup { object: "camera".into(), ..Lookup::default() });
        assert!(lookup.activate);
        let subscribe: Subscribe = serde_json::from_str(r#"{"patterns":["*"]}"#).unwrap();
        assert_eq!(subscribe, Subscribe { patterns: vec!["*".into()], ..Subscribe::default() });
        assert!(subscribe.retained);
    }
}
