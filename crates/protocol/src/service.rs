//! Arguments of the `service` object's methods. procd's methods keep procd's shapes; `start`, `stop`, `restart` and
//! `reload` are ours. Unknown keys are ignored, as everywhere in what a peer sends; optional keys of the wrong type
//! count as absent, as procd does it. The reply of `list` is built by the supervisor and has no type here.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    name::Name,
    objects::{ArgumentKind as Kind, Description, version},
};

/// What the object offers.
#[must_use]
pub fn description() -> Description {
    const NAME: (&str, Kind, bool) = ("name", Kind::String, true);
    const SOME_NAME: (&str, Kind, bool) = ("name", Kind::String, false);
    const INSTANCE: (&str, Kind, bool) = ("instance", Kind::String, false);
    const WAIT: (&str, Kind, bool) = ("wait", Kind::Boolean, false);
    let definition = [
        NAME,
        ("script", Kind::String, false),
        ("instances", Kind::Table, false),
        ("triggers", Kind::Array, false),
        ("validate", Kind::Array, false),
        ("autostart", Kind::Boolean, false),
        ("data", Kind::Table, false),
        ("toml", Kind::String, false),
        ("file", Kind::String, false),
    ];
    let one = [NAME, INSTANCE, WAIT];
    Description::new("vestal.service", version(1, 0))
        .method(
            "set",
            &definition,
            "create or replace a service: procd's message, or a definition in `toml`",
            "",
        )
        .method("add", &definition, "as set, but keep the instances that are not named", "")
        .method(
            "list",
            &[SOME_NAME, ("verbose", Kind::Boolean, false)],
            "services and their instances",
            "procd's table",
        )
        .method("delete", &one, "stop and forget a service, or one instance", "")
        .method(
            "signal",
            &[SOME_NAME, INSTANCE, ("signal", Kind::Integer, false)],
            "signal the main processes (default 1, HUP)",
            "",
        )
        .method("state", &[NAME, ("spawn", Kind::Boolean, true)], "start or stop all instances", "")
        .method("start", &one, "start a service and what it requires", "")
        .method("stop", &one, "stop a service and what requires it", "")
        .method("restart", &one, "stop, then start", "")
        .method("reload", &one, "reload by signal or command; restart where there is neither", "")
        .method(
            "freeze",
            &[NAME, INSTANCE, ("timeout_ms", Kind::Integer, false)],
            "keep a service from running, with all that it has in memory",
            "Frozen",
        )
        .method("thaw", &[NAME, INSTANCE], "let it run again", "")
        .method(
            "update_start",
            &[NAME],
            "begin an update: what is not added again is stopped at its end",
            "",
        )
        .method("update_complete", &[NAME], "end an update", "")
        .method(
            "get_data",
            &[SOME_NAME, INSTANCE, ("type", Kind::String, false)],
            "free data of services and instances",
            "tables by service",
        )
        .method(
            "set_data",
            &[NAME, ("data", Kind::Table, true)],
            "replace a service's free data",
            "",
        )
        .method(
            "watchdog",
            &[
                NAME,
                ("instance", Kind::String, true),
                ("mode", Kind::Integer, false),
                ("timeout", Kind::Integer, false),
            ],
            "keep an instance's watchdog alive, or change it",
            "name, instance, mode, timeout",
        )
        .method(
            "event",
            &[("type", Kind::String, true), ("data", Kind::Table, true)],
            "something happened: run what services want run then",
            "",
        )
        .method(
            "validate",
            &[
                ("package", Kind::String, false),
                ("type", Kind::String, false),
                ("service", Kind::String, false),
            ],
            "the rules by which services want their configuration to be written",
            "rules by package, type and option",
        )
        .method("replace", &one, "start the program on disk beside the old one, then switch", "")
        .method(
            "identify",
            &[("pid", Kind::Integer, false), ("process", Kind::Descriptor, false)],
            "which service a process belongs to, and what it runs",
            "service, instance, executable",
        )
        .method(
            "activate",
            &[("object", Kind::String, true)],
            "start the service that serves an object on demand",
            "service, idle_ms",
        )
        .method("release", &[NAME], "stop a service that was started on demand", "")
        .method(
            "missed",
            &[
                ("app_id", Kind::Integer, true),
                ("generation", Kind::Integer, true),
                ("age_ms", Kind::Integer, true),
                ("reason", Kind::String, true),
            ],
            "the heartbeat broker: an application did not report in time",
            "",
        )
        .method(
            "pipes",
            &[],
            "drain what services print, from now on, as long as it is read",
            "lines",
        )
        .method(
            "ring",
            &[("stored", Kind::Integer, false)],
            "what services printed while nobody drained",
            "raw parts",
        )
        .method("reread", &[], "read the definition files again", "problems")
        .method(
            "report",
            &[],
            "what is wrong with definitions, and who runs",
            "problems, skipped, supervisor, keeper, endpoint",
        )
        .event("service.start")
        .event("service.ready")
        .event("service.exit")
        .event("service.respawn")
        .event("service.fail")
        .event("service.stop")
        .event("service.missed")
        .event("service.late")
        .event("service.unkillable")
        .event("service.freeze")
        .event("service.thaw")
        .event("service.critical")
        .event("service.trigger")
        .event("event.trigger")
        .event("instance.start")
        .event("instance.stop")
        .event("instance.respawn")
        .event("instance.fail")
}

/// `list`. Without a name: all services.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct List {
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(default, deserialize_with = "or_default")]
    pub verbose: bool,
}

/// `start`, `stop`, `restart`, `reload`, `delete`; `update_start` and `update_complete` look at the name only.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Order {
    pub name: Name,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<Name>,
    /// Answer when it is done (ready, or stopped), not when it is accepted.
    #[serde(default, deserialize_with = "or_default")]
    pub wait: bool,
}

/// `freeze`: answered when nothing of it runs any more. What doesn't stop in time is the reason why all of it runs again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Freeze {
    pub name: Name,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<Name>,
    /// 5 s if absent, at most a minute.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What `freeze` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Frozen {
    /// `cgroup`, or `signals` where there is no cgroup that may be written: SIGSTOP to each process, of which one that leaves
    /// its session and its parent may not be found.
    pub means: String,
    pub instances: Vec<Name>,
}

/// `signal`. Without a name: all services, as with procd.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Signal {
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<Name>,
    /// Number of the signal; SIGHUP if absent.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// `state`: switches a service off and on again without forgetting it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct State {
    pub name: Name,
    pub spawn: bool,
}

/// `get_data`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GetData {
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<Name>,
    #[serde(
        default,
        rename = "type",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub kind: Option<String>,
}

/// `set_data`: replaces the data of a service or of one instance.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SetData {
    pub name: Name,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<Name>,
    pub data: Map<String, Value>,
}

/// `event`: something happened that services may have triggers for. Answered when what is to be done can't be forgotten any
/// more, not when it is done.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Event {
    /// `config.change`, `interface.up` ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Its texts are what conditions of triggers look at.
    pub data: Map<String, Value>,
}

/// `validate`. What is given must be as it says; without anything: all rules.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Validate {
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    #[serde(
        default,
        rename = "type",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub kind: Option<String>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
}

/// What `validate` answers: package to type to option to rule, of all services together.
pub type Rules = BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>;

/// `watchdog`: each call is a sign of life.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Watchdog {
    pub name: Name,
    pub instance: Name,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// What `watchdog` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WatchdogReply {
    pub name: Name,
    pub instance: Name,
    pub mode: u32,
    pub timeout: u32,
}

/// `identify`: the process behind a pidfd beside the call (SO_PEERPIDFD), else this pid. Answers a [`crate::policy::Identity`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Identify {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// `activate`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Activate {
    pub object: String,
}

/// What `activate` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Activated {
    pub service: Name,
    /// Stop it (`release`) when nobody has used it so long; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
}

/// `release`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Release {
    pub name: Name,
}

/// One line of the answer to `pipes`: an instance whose output is drained by the caller now, or no longer.
/// The first lines are all there are, then changes, for as long as the caller reads. Its end gives the pipes back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pipes {
    pub slot: u32,
    pub service: Name,
    pub instance: Name,
    pub generation: u32,
    /// 0 while it doesn't run.
    pub pid: i32,
    /// FIFOs, absolute; absent where that stream isn't kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub err: Option<String>,
    /// Drain what is left, then close them: the instance is forgotten.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// `ring`: what was printed while nobody drained. Answers parts ([`ring_parts`]), nothing at all where there is nothing more.
/// A part is answered again until the caller says that it is stored, with its id, in the next call.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ring {
    /// Forget the part of this id, and all with a lower one.
    #[serde(default)]
    pub stored: u64,
}

/// The head of one part of the answer to `ring`: one line of JSON, behind which so many bytes of a [`crate::keeper::ring`] follow.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RingPart {
    /// Counts up; never 0.
    pub id: u64,
    pub bytes: usize,
    /// Whose text it is: what the slots in the ring stand for.
    pub slots: Vec<RingSlot>,
}

/// One slot of a ring.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RingSlot {
    pub slot: u32,
    pub service: Name,
    pub instance: Name,
}

/// Appends a part to the answer of `ring`.
pub fn push_ring_part(answer: &mut Vec<u8>, id: u64, slots: Vec<RingSlot>, memory: &[u8]) {
    let head = RingPart { id, bytes: memory.len(), slots };
    let json = serde_json::to_vec(&head).expect("a head holds only texts and numbers");
    answer.extend_from_slice(&json);
    answer.push(b'\n');
    answer.extend_from_slice(memory);
}

/// Takes the answer of `ring` apart.
///
/// # Errors
/// Where a head is no JSON line, or more bytes are announced than there are.
pub fn ring_parts(mut answer: &[u8]) -> Result<Vec<(RingPart, &[u8])>, String> {
    let mut parts = Vec::new();
    while !answer.is_empty() {
        let end = answer.iter().position(|byte| *byte == b'\n');
        let Some(end) = end else { return Err("a part's head has no line end".to_owned()) };
        let head: RingPart = serde_json::from_slice(&answer[..end])
            .map_err(|error| format!("the head of a part: {error}"))?;
        let rest = &answer[end + 1..];
        let Some((memory, rest)) = rest.split_at_checked(head.bytes) else {
            return Err(format!("{} bytes were announced, {} came", head.bytes, rest.len()));
        };
        parts.push((head, memory));
        answer = rest;
    }
    Ok(parts)
}

/// Absent or of another type: `None`.
pub(crate) fn lenient<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    Ok(serde_json::from_value(Value::deserialize(from)?).ok())
}

/// Absent or of another type: the default.
pub(crate) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    lenient(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_wrong_type_count_as_absent_and_unknown_ones_are_ignored() {
        let json = r#"{"name":"web","instance":7,"wait":"yes","colour":"red"}"#;
        let order: Order = serde_json::from_str(json).unwrap();
        assert_eq!((order.instance, order.wait), (None, false));
    }

    #[test]
    fn parts_of_a_ring_are_taken_apart_as_they_were_put_together() {
        let name = |text: &str| Name::new(text).unwrap();
        let slot = RingSlot { slot: 3, service: name("web"), instance: name("i") };
        let mut answer = Vec::new();
        push_ring_part(&mut answer, 1, vec![slot.clone()], b"\n{}");
        push_ring_part(&mut answer, 2, Vec::new(), b"");
        let parts = ring_parts(&answer).unwrap();
        let first = RingPart { id: 1, bytes: 3, slots: vec![slot] };
        let second = RingPart { id: 2, bytes: 0, slots: Vec::new() };
        assert_eq!(parts, [(first, &b"\n{}"[..]), (second, &b""[..])]);
        assert_eq!(ring_parts(b"").unwrap(), []);
        for length in 1..answer.len() {
            // Cut anywhere but between the parts, it is refused.
            let _ = ring_parts(&answer[..length]);
        }
        assert!(ring_parts(&answer[..answer.len() - 1]).is_err());
        let lie = br#"{"id":1,"bytes":18446744073709551615,"slots":[]}"#;
        assert!(ring_parts(&[&lie[..], b"\nabc"].concat()).unwrap_err().contains("3 came"));
    }

    #[test]
    fn an_event_needs_a_type_and_data_and_validate_needs_nothing() {
        let event: Event =
            serde_json::from_str(r#"{"type":"config.change","data":{"package":"p","n":1}}"#)
                .unwrap();
        assert_eq!((&*event.kind, &event.data["package"]), ("config.change", &Value::from("p")));
        for poor in [r#"{"type":"x"}"#, r#"{"data":{}}"#, r#"{"type":1,"data":{}}"#] {
            assert!(serde_json::from_str::<Event>(poor).is_err(), "{poor}");
        }
        let all: Validate = serde_json::from_str(r#"{"package":1}"#).unwrap();
        assert_eq!(all, Validate::default());
    }

    #[test]
    fn an_impossible_name_is_an_error() {
        assert!(serde_json::from_str::<Order>(r#"{"name":""}"#).is_err());
    }

    #[test]
    fn a_missing_name_is_an_error_that_names_it() {
        let error = serde_json::from_str::<Order>("{}").unwrap_err().to_string();
        assert!(error.contains("`name`"), "{error}");
    }
}
