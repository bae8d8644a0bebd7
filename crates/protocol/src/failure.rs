//! The one error type that crosses a socket: a code to branch on, a sentence for a person, optional details.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Why a call was not carried out. `text` says what, why and what to do, in lower case without a full stop.
#[derive(Clone, Debug, Deserialize, Eq, Error, PartialEq, Serialize)]
#[error("{text}")]
pub struct Failure {
    pub code: Code,
    pub text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Stable codes; new ones are added at the end.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// No such object, service, instance or file.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// A queue or a resource is taken; try again later (`details.retry_after_ms`).
    Busy,
    /// An argument is missing, of the wrong type or out of range.
    InvalidArgument,
    /// The object has no such method.
    UnknownMethod,
    /// The deadline passed.
    Timeout,
    /// The process or generation that was meant is no longer there.
    Gone,
    /// This build or this peer can't do it.
    Unsupported,
    /// A named limit was met.
    Limit,
    /// The caller took it back.
    Cancelled,
    /// It was tried and did not work.
    Failed,
    /// A code of a newer peer.
    #[serde(other)]
    Unknown,
}

impl Failure {
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), details: None }
    }

    /// Adds what a program may want to know besides the code.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

impl Code {
    /// The code as it travels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Denied => "denied",
            Self::Busy => "busy",
            Self::InvalidArgument => "invalid-argument",
            Self::UnknownMethod => "unknown-method",
            Self::Timeout => "timeout",
            Self::Gone => "gone",
            Self::Unsupported => "unsupported",
            Self::Limit => "limit",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// ubus' numeric status (libubus `enum ubus_msg_status`), for the `ubus` applet.
    #[must_use]
    pub fn ubus_status(self) -> u8 {
        match self {
            Self::InvalidArgument => 2,
            Self::UnknownMethod => 3,
            Self::NotFound => 4,
            Self::Denied => 6,
            Self::Timeout | Self::Cancelled => 7,
            Self::Unsupported => 8,
            Self::Failed | Self::Unknown => 9,
            Self::Gone => 10,
            Self::Busy | Self::Limit => 11,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_as_it_is_named() {
        for code in [Code::NotFound, Code::InvalidArgument, Code::UnknownMethod, Code::Cancelled] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn a_code_of_a_newer_peer_is_read_as_unknown() {
        let failure: Failure =
            serde_json::from_str(r#"{"code":"too-hot","text":"cool it","more":1}"#).unwrap();
        assert_eq!(failure.code, Code::Unknown);
    }
}
