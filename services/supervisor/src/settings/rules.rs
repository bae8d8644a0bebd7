//! How the configuration of a service has to be written: procd's `validate`, what a script checked by itself (`checked`), and
//! `[[validate]]` of a file.

use serde_json::{Map, Value, json};

/// Most rule sets in one of these lists of a service.
pub(crate) const RULES_MAX: usize = 64;

/// The rules for the sections of one type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rules {
    pub(crate) package: String,
    /// What follows `config` in the file.
    pub(crate) kind: String,
    /// By option, the expression that its value must follow.
    pub(crate) options: Vec<(String, String)>,
    /// Read without the quirks of upstream's language.
    pub(crate) strict: bool,
}

impl Rules {
    /// Those of a message. What lacks a part is left out, and so is what is no text in it.
    pub(super) fn of_message(given: Option<&[Value]>) -> Vec<Self> {
        given.into_iter().flatten().take(RULES_MAX).filter_map(Self::of_procd).collect()
    }

    fn of_procd(given: &Value) -> Option<Self> {
        let text = |key: &str| given.get(key)?.as_str().map(str::to_owned);
        let options = given.get("data")?.as_object()?;
        let options = options
            .iter()
            .filter_map(|(option, rule)| Some((option.clone(), rule.as_str()?.to_owned())))
            .collect();
        Some(Self { package: text("package")?, kind: text("type")?, options, strict: false })
    }

    /// As procd's `list` shows it.
    pub(crate) fn shown(&self) -> Value {
        let rules: Map<String, Value> =
            self.options.iter().map(|(option, rule)| (option.clone(), json!(rule))).collect();
        json!({ "package": self.package, "type": self.kind, "rules": rules })
    }
}
