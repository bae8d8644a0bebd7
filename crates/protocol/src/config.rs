//! The `config` object: what is watched, what changed, and what the suite's events about it hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    name::Name,
    objects::{ArgumentKind as Kind, Description, version},
};

/// Topic of a [`Change`]. Only the watcher publishes it, after the supervisor has taken it.
pub const CHANGE: &str = "config.change";
/// Topic of an [`Unreadable`].
pub const ERROR: &str = "config.error";
/// Topic of an [`Invalid`]. The supervisor publishes it: it is the one that reloads, and so the one that validates.
pub const INVALID: &str = "config.invalid";

/// What the object offers.
#[must_use]
pub fn description() -> Description {
    const PACKAGE: (&str, Kind, bool) = ("package", Kind::String, false);
    Description::new("vestal.config", version(1, 0))
        .method(
            "reload",
            &[PACKAGE],
            "compare now, and announce what changed",
            "announced, unchanged, errors",
        )
        .method("status", &[], "what is watched, and how it stands", "mode, packages, apply")
        .method(
            "show",
            &[PACKAGE],
            "what the file says, without how it is written",
            "entries by package",
        )
        .method(
            "diff",
            &[PACKAGE],
            "what changed since it was last announced",
            "changes by package",
        )
        .method(
            "validate",
            &[PACKAGE],
            "check against the rules of the services",
            "a list of what is invalid",
        )
        .method(
            "apply",
            &[("confirm_ms", Kind::Integer, true)],
            "reload, and go back unless `confirm` comes in time",
            "as reload",
        )
        .method("confirm", &[], "keep what was applied", "")
        .method(
            "revert",
            &[("package", Kind::String, true)],
            "put the last announced content back",
            "",
        )
        .event(CHANGE)
        .event(ERROR)
        .event(INVALID)
}

/// `reload`, `show`, `diff` and `validate`. Without a package: all.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Selected {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
}

/// `revert`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Revert {
    pub package: String,
}

/// `apply`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Apply {
    pub confirm_ms: u64,
}

/// What `reload` and `apply` answer, when every change was taken by the supervisor.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Reloaded {
    pub announced: Vec<Change>,
    /// So many packages say what they said before.
    pub unchanged: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Unreadable>,
}

/// What a package says now that it did not say before. The data of `config.change`, and of the `service.event` of that type.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Change {
    pub package: String,
    /// Names of what has another value now: `section.option` with UCI, a path with dots elsewhere.
    #[serde(default)]
    pub changed: Vec<String>,
    #[serde(default)]
    pub added: Vec<String>,
    #[serde(default)]
    pub removed: Vec<String>,
    /// SHA-256 of the canonical form in hexadecimal digits; empty where the file is gone.
    #[serde(default)]
    pub digest: String,
    /// The lists were cut: there are more names than fit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// It may have been taken before: its acknowledgement was lost. Whoever took this digest last does nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// A file that can't be read or parsed; what it said last stays in force.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Unreadable {
    pub package: String,
    pub file: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub text: String,
}

/// A value that a service's rules don't allow: it was not reloaded.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Invalid {
    pub service: Name,
    pub package: String,
    pub file: String,
    pub section: String,
    pub option: String,
    pub rule: String,
    /// Absent where the option is missing, and where not everybody may read the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What would be allowed.
    pub text: String,
}

/// What `status` answers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    pub mode: Mode,
    pub packages: Vec<Package>,
    /// An `apply` that waits for `confirm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<Applying>,
    /// What a person should know: a folder that is away, a change that the supervisor doesn't take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Whether a file that changes is announced by itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    #[default]
    Automatic,
    /// Only by `reload`.
    Manual,
}

/// One watched file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Package {
    pub package: String,
    pub file: String,
    pub format: String,
    /// Of what was last announced.
    pub digest: String,
    pub state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Unreadable>,
}

/// How a file stands against what was announced.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It says what was announced.
    Current,
    /// It says something else, which was not announced yet.
    Changed,
    /// It can't be read; what was announced stays in force.
    Error,
    #[serde(other)]
    Unknown,
}

/// An `apply` that waits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Applying {
    pub packages: Vec<String>,
    pub left_ms: u64,
}

/// What `show` answers for a package: name to value, in the order of the canonical form.
pub type Entries = serde_json::Map<String, serde_json::Value>;
/// What `show` answers.
pub type Shown = BTreeMap<String, Entries>;
/// What `diff` answers.
pub type Differences = Vec<Change>;
