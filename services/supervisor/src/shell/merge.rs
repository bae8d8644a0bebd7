//! Definitions that came by message: how a later message changes an earlier one, and back to a service after a restart.
//!
//! Merging is done on what was sent, not on what became of it: the journal keeps the merged text, and a new supervisor, which
//! may be a newer version, reads it again.

use protocol::{
    failure::{Code, Failure},
    name::Name,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::definitions::Definitions;
use crate::settings::{Service, Source, procd, toml};

/// A definition as somebody sent it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) enum Message {
    /// procd's `service set`.
    Procd(Map<String, Value>),
    /// A definition file's text; `file` is what errors call it.
    Toml { file: String, text: String },
}

/// `set` replaces, `add` keeps what isn't named.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum How {
    Set,
    Add,
}

impl Message {
    /// Reads the arguments of `service set` and `service add`.
    pub(crate) fn parse(args: Value) -> Result<(Name, Self), Failure> {
        let invalid = |text: String| Failure::new(Code::InvalidArgument, text);
        let Value::Object(mut args) = args else {
            return Err(invalid("a definition is a table".to_owned()));
        };
        let Some(Value::String(name)) = args.get("name") else {
            return Err(invalid("`name`: a service needs a name, a text".to_owned()));
        };
        let name = Name::new(name.clone()).map_err(|error| invalid(format!("`name`: {error}")))?;
        let Some(text) = args.remove("toml") else { return Ok((name, Self::Procd(args))) };
        let Value::String(text) = text else {
            return Err(invalid("`toml`: the definition's text is wanted".to_owned()));
        };
        let file = match args.remove("file") {
            Some(Value::String(file)) => file,
            _ => format!("{name}.toml"),
        };
        Ok((name, Self::Toml { file, text }))
    }

    /// The instances that this message names by itself.
    pub(crate) fn instances(&self) -> Vec<String> {
        match self {
            Self::Procd(message) => match message.get("instances") {
                Some(Value::Object(instances)) => instances.keys().cloned().collect(),
                _ => Vec::new(),
            },
            Self::Toml { text, .. } => match text
                .parse::<::toml::Table>()
                .ok()
                .and_then(|mut text| text.remove("instances"))
            {
                Some(::toml::Value::Table(instances)) => instances.keys().cloned().collect(),
                _ => vec!["instance1".to_owned()],
            },
        }
    }

    /// This message as if it had never named that instance.
    pub(crate) fn without(mut self, instance: &Name) -> Self {
        match &mut self {
            Self::Procd(message) => {
                if let Some(Value::Object(instances)) = message.get_mut("instances") {
                    instances.remove(instance.as_str());
                }
            }
            Self::Toml { text, .. } => {
                if let Ok(mut table) = text.parse::<::toml::Table>()
                    && let Some(::toml::Value::Table(instances)) = table.get_mut("instances")
                {
                    instances.remove(instance.as_str());
                    *text = table.to_string();
                }
            }
        }
        self
    }

    /// This message on top of an earlier one.
    ///
    /// # Errors
    /// Where the two forms can't be mixed.
    pub(crate) fn onto(self, earlier: Option<&Self>, how: How) -> Result<Self, Failure> {
        match (self, earlier) {
            (new, None) => Ok(new),
            (Self::Procd(new), Some(Self::Procd(old))) => {
                Ok(Self::Procd(procd_onto(new, old, how)))
            }
            (new @ Self::Toml { .. }, Some(_)) if how == How::Set => Ok(new),
            // Without instances of its own procd's set changes nothing that another form said.
            (new @ Self::Procd(_), Some(Self::Toml { .. })) if how == How::Set => Ok(new),
            (Self::Toml { file, text }, Some(Self::Toml { text: old, .. })) => {
                Ok(Self::Toml { text: toml_onto(&text, old)?, file })
            }
            _ => Err(Failure::new(
                Code::Unsupported,
                "add: this service was defined in another form (TOML and procd's message don't mix); \
                 give the whole definition with `service set`",
            )),
        }
    }

    /// The service that this message means.
    ///
    /// # Errors
    /// `invalid-argument` with every problem of the text.
    pub(crate) fn read(&self, name: &Name, definitions: &Definitions) -> Result<Service, Failure> {
        let context = definitions.context();
        match self {
            Self::Procd(message) => {
                let message = procd::read(&Value::Object(message.clone()), context)?;
                Ok(message.over(definitions.of_files(name)))
            }
            Self::Toml { file, text } => {
                toml::read(text, file.as_ref(), name, Source::Message, context)
                    .map(|read| read.service)
                    .map_err(|problems| {
                        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
                        Failure::new(Code::InvalidArgument, lines.join("; "))
                            .with_details(serde_json::json!({ "problems": lines }))
                    })
            }
        }
    }
}

/// procd's rules: a key that isn't given stays as it was; `add` keeps the instances that aren't named.
fn procd_onto(
    mut new: Map<String, Value>,
    old: &Map<String, Value>,
    how: How,
) -> Map<String, Value> {
    let mut merged = old.clone();
    if let (How::Add, Some(Value::Object(added))) = (how, new.get("instances")) {
        let mut instances = match old.get("instances") {
            Some(Value::Object(instances)) => instances.clone(),
            _ => Map::new(),
        };
        instances.extend(added.clone());
        new.insert("instances".to_owned(), Value::Object(instances));
    }
    // "only at creation" (service.c): a later autostart is not looked at.
    new.remove("autostart");
    merged.extend(new);
    merged
}

/// The older text with the newer one's instances beside its own; other keys come from the newer one.
fn toml_onto(new: &str, old: &str) -> Result<String, Failure> {
    let parse = |text: &str| {
        text.parse::<::toml::Table>().map_err(|error| {
            Failure::new(Code::InvalidArgument, error.to_string().trim().to_owned())
        })
    };
    let (mut merged, mut new) = (parse(old)?, parse(new)?);
    let added = match new.remove("instances") {
        Some(::toml::Value::Table(added)) => added,
        _ => ::toml::Table::new(),
    };
    merged.extend(new);
    let instances =
        merged.entry("instances").or_insert_with(|| ::toml::Value::Table(::toml::Table::new()));
    if let ::toml::Value::Table(instances) = instances {
        instances.extend(added);
    }
    Ok(merged.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn procd(value: Value) -> Message {
        Message::parse(value).unwrap().1
    }

    #[test]
    fn add_keeps_the_instances_that_are_not_named_and_set_does_not() {
        let old = procd(json!({"name": "a", "instances": {"x": {"command": ["/x"]}}}));
        let new = || procd(json!({"name": "a", "instances": {"y": {"command": ["/y"]}}}));
        let Message::Procd(added) = new().onto(Some(&old), How::Add).unwrap() else { panic!() };
        assert_eq!(added["instances"].as_object().unwrap().len(), 2);
        let Message::Procd(set) = new().onto(Some(&old), How::Set).unwrap() else { panic!() };
        assert_eq!(set["instances"], json!({"y": {"command": ["/y"]}}));
    }

    #[test]
    fn a_key_that_is_not_given_stays() {
        let old = procd(json!({"name": "a", "instances": {"x": {}}, "data": {"k": 1}}));
        let new = procd(json!({"name": "a", "triggers": []}));
        let Message::Procd(merged) = new.onto(Some(&old), How::Set).unwrap() else { panic!() };
        assert_eq!(
            Value::Object(merged),
            json!({"name": "a", "instances": {"x": {}}, "data": {"k": 1}, "triggers": []})
        );
    }

    #[test]
    fn toml_definitions_are_added_to_by_instance() {
        let old = "[instances.a]\ncommand = [\"/a\"]\n";
        let merged = toml_onto("[instances.b]\ncommand = [\"/b\"]\n", old).unwrap();
        let table: ::toml::Table = merged.parse().unwrap();
        assert_eq!(table["instances"].as_table().unwrap().len(), 2);
    }

    #[test]
    fn a_deleted_instance_leaves_either_form() {
        let name = Name::new("a").unwrap();
        let old = procd(json!({"name": "s", "instances": {"a": {}, "b": {}}}));
        assert_eq!(old.without(&name).instances(), ["b"]);
        let text = "[instances.a]\ncommand = [\"/a\"]\n[instances.b]\ncommand = [\"/b\"]\n";
        let old = Message::Toml { file: "s.toml".into(), text: text.into() };
        assert_eq!(old.without(&name).instances(), ["b"]);
    }

    #[test]
    fn the_two_forms_do_not_mix() {
        let old = Message::Toml { file: "a.toml".into(), text: String::new() };
        let new = procd(json!({"name": "a"}));
        assert_eq!(new.onto(Some(&old), How::Add).unwrap_err().code, Code::Unsupported);
    }

    #[test]
    fn a_message_without_a_name_is_refused() {
        assert!(Message::parse(json!({"name": 5})).unwrap_err().text.contains("`name`"));
        assert!(Message::parse(json!([])).is_err());
    }
}
