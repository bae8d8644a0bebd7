//! Names of services and instances, checked when they are made.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name, in bytes. procd has no limit; ours keeps socket and cgroup paths legal after escaping.
pub const NAME_MAX: usize = 64;

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NameError {
    /// Nothing was given.
    #[error("the name is empty")]
    Empty,
    /// More than [`NAME_MAX`] bytes.
    #[error("the name has {0} bytes, at most {NAME_MAX} are allowed")]
    Long(usize),
    /// A control character or NUL.
    #[error("the name holds the control character {0:?}")]
    Control(char),
}

/// A service's or an instance's name. Any printable text (procd's users write "i ü"); see [`Name::escaped`] for paths.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

impl Name {
    /// # Errors
    /// Where the text is empty, too long or holds a control character.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        match text.len() {
            0 => return Err(NameError::Empty),
            long if long > NAME_MAX => return Err(NameError::Long(long)),
            _ => {}
        }
        match text.chars().find(|c| c.is_control()) {
            Some(control) => Err(NameError::Control(control)),
            None => Ok(Self(text.into_boxed_str())),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one path component: ASCII letters, digits, `-`, `_`, `@` and inner dots stay, every other byte becomes `%XX`.
    #[must_use]
    pub fn escaped(&self) -> String {
        let mut path = String::with_capacity(self.0.len());
        for (at, byte) in self.0.bytes().enumerate() {
            let plain =
                byte.is_ascii_alphanumeric() || b"-_@".contains(&byte) || (byte == b'.' && at > 0);
            if plain {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
        path
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_one_safe_path_component() {
        let escaped = |text: &str| Name::new(text).unwrap().escaped();
        assert_eq!(escaped("web@1.2"), "web@1.2");
        assert_eq!(escaped("i ü"), "i%20%C3%BC");
        assert_eq!(escaped("../x"), "%2E.%2Fx");
    }

    #[test]
    fn a_bad_name_is_refused_with_its_reason() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("a\nb"), Err(NameError::Control('\n')));
        assert_eq!(Name::new("x".repeat(65)), Err(NameError::Long(65)));
    }
}
