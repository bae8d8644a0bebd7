//! Arguments of the `service` object's methods. procd's methods keep procd's shapes; `start`, `stop`, `restart` and
//! `reload` are ours. Unknown keys are ignored, as everywhere in what a peer sends; optional keys of the wrong type
//! count as absent, as procd does it. The reply of `list` is built by the supervisor and has no type here.

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// `set` and `add`: a definition in procd's shape. What is inside `instances` is read by the supervisor's settings.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Set {
    pub name: String,
    /// Where procd.sh says the definition comes from; kept for nothing but its owner's eyes.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Absent: the instances stay as they are. Empty: all are stopped.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instances: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub triggers: Option<Vec<Value>>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub validate: Option<Vec<Value>>,
    /// True if absent; counts only when the service is new.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub data: Option<Map<String, Value>>,
}

/// `list`. Without a name: all services.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct List {
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub verbose: bool,
}

/// `delete`, `update_start`, `update_complete`: a service, or (`delete`) one instance of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Target {
    pub name: String,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// `start`, `stop`, `restart`, `reload`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Order {
    pub name: String,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Answer when it is done (ready, or stopped), not when it is accepted.
    #[serde(default, deserialize_with = "or_default")]
    pub wait: bool,
}

/// `signal`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Signal {
    pub name: String,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Number of the signal; SIGHUP if absent.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// `state`: switches a service off and on again without forgetting it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct State {
    pub name: String,
    pub spawn: bool,
}

/// `event`: runs the triggers for it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    pub data: Map<String, Value>,
}

/// `validate`: the rules that services gave for a package.
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
    pub service: Option<String>,
}

/// `get_data`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GetData {
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
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
    pub name: String,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    pub data: Map<String, Value>,
}

/// `watchdog`: each call is a sign of life.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Watchdog {
    pub name: String,
    pub instance: String,
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Seconds.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// What `watchdog` answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WatchdogReply {
    pub name: String,
    pub instance: String,
    pub mode: u32,
    pub timeout: u32,
}

/// `missed`: the heartbeat broker says that an application is silent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Missed {
    /// The application's id in `GMI_DaemonInit`.
    pub app_id: u32,
    /// Heartbeats missed in a row.
    #[serde(default, deserialize_with = "or_default")]
    pub misses: u32,
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
        let set: Set = serde_json::from_str(
            r#"{"name":"web","script":7,"instances":{"a":{}},"autostart":"yes","colour":"red"}"#,
        )
        .unwrap();
        assert_eq!(set.script, None);
        assert_eq!(set.autostart, None);
        assert!(set.instances.unwrap().contains_key("a"));
    }

    #[test]
    fn a_missing_name_is_an_error_that_names_it() {
        let error = serde_json::from_str::<Order>("{}").unwrap_err().to_string();
        assert!(error.contains("`name`"), "{error}");
    }

    #[test]
    fn absent_instances_differ_from_an_empty_table() {
        let absent: Set = serde_json::from_str(r#"{"name":"web"}"#).unwrap();
        let empty: Set = serde_json::from_str(r#"{"name":"web","instances":{}}"#).unwrap();
        assert_eq!(absent.instances, None);
        assert_eq!(empty.instances, Some(Map::new()));
    }
}
