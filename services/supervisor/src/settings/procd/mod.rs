//! The compatible reader: the message of `service set` and `add`, taken as procd takes it. What it doesn't know or can't
//! use is dropped and listed, an instance that can't be started stays with its errors. Variables are not filled in.

mod attributes;
mod instance;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use protocol::{
    failure::{Code, Failure},
    name::Name,
};
use serde_json::Value;

use self::attributes::Attributes;
use super::{
    Service, Source,
    context::Context,
    rules::Rules,
    toml::{CORE, START_DEFAULT},
};

/// Most instances in one message.
const INSTANCES_MAX: usize = 256;

/// A message that was read, and which of its keys were there: a missing one leaves what it names as it is.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) service: Service,
    pub(crate) has_instances: bool,
    has_triggers: bool,
    has_validate: bool,
    has_checked: bool,
    has_data: bool,
}

impl Message {
    /// The definition after `set`: what the message doesn't mention stays as it was. With `add` the instances that
    /// aren't named stay too; that is the machine's to do.
    pub(crate) fn over(self, old: Option<&Service>) -> Service {
        let Some(old) = old else { return self.service };
        let mut new = self.service;
        if !self.has_instances {
            new.instances = old.instances.clone();
        }
        if !self.has_triggers {
            new.triggers = old.triggers.clone();
        }
        if !self.has_validate {
            new.validate = old.validate.clone();
        }
        if !self.has_checked {
            new.checked = old.checked.clone();
        }
        if !self.has_data {
            new.data = old.data.clone();
        }
        Service {
            // procd looks at the key when it creates a service, never again.
            autostart: old.autostart,
            start: old.start,
            stop: old.stop,
            after: old.after.clone(),
            requires: old.requires.clone(),
            wants: old.wants.clone(),
            conflicts: old.conflicts.clone(),
            conditions: old.conditions.clone(),
            ..new
        }
    }
}

/// Reads one message.
///
/// # Errors
/// A missing or impossible name, a message that is no table, too many instances.
pub(crate) fn read(message: &Value, context: &Context) -> Result<Message, Failure> {
    let invalid = |text: String| Failure::new(Code::InvalidArgument, text);
    let Some(message) = message.as_object() else {
        return Err(invalid(
            "the message is not a table; send {\"name\": ..., \"instances\": {...}}".to_owned(),
        ));
    };
    let Some(name) = message.get("name").and_then(Value::as_str) else {
        return Err(invalid("key \"name\" is missing or not a text".to_owned()));
    };
    let name = Name::new(name).map_err(|error| invalid(format!("key \"name\": {error}")))?;
    let mut ignored = Vec::new();
    let mut keys = Attributes::new("", message, &mut ignored);
    for known in ["name", "script"] {
        keys.skip(known);
    }
    let tables = keys.table("instances");
    let triggers = keys.array("triggers");
    let validate = keys.array("validate");
    // Our own: procd has no such key.
    let checked = keys.array("checked");
    let data = keys.table("data");
    let autostart = keys.boolean("autostart");
    keys.finish();

    let mut instances = BTreeMap::new();
    let count = tables.map_or(0, serde_json::Map::len);
    if count > INSTANCES_MAX {
        let text = format!("{count} instances of {name}, at most {INSTANCES_MAX} are allowed");
        return Err(Failure::new(Code::Limit, text));
    }
    for (key, value) in tables.into_iter().flatten() {
        let prefix = format!("instances.{key}.");
        match (Name::new(key.clone()), value.as_object()) {
            (Ok(instance), Some(table)) => {
                let keys = Attributes::new(&prefix, table, &mut ignored);
                let core = CORE.contains(&name.as_str());
                instances.insert(instance, Box::new(instance::read(keys, context, core)));
            }
            (Err(error), _) => ignored.push(format!("instances.{key}: {error}")),
            (_, None) => ignored.push(format!("instances.{key}: not a table")),
        }
    }
    let service = Service {
        source: Source::Message,
        autostart: autostart.unwrap_or(true),
        start: START_DEFAULT,
        stop: None,
        after: Vec::new(),
        requires: Vec::new(),
        wants: Vec::new(),
        conflicts: Vec::new(),
        conditions: Vec::new(),
        on_demand: None,
        core: CORE.contains(&name.as_str()),
        name,
        instances,
        data: data.cloned().unwrap_or_default(),
        triggers: triggers.map(<[Value]>::to_vec).unwrap_or_default(),
        validate: Rules::of_message(validate),
        checked: Rules::of_message(checked),
        ignored,
    };
    Ok(Message {
        service,
        has_instances: tables.is_some(),
        has_triggers: triggers.is_some(),
        has_validate: validate.is_some(),
        has_checked: checked.is_some(),
        has_data: data.is_some(),
    })
}
