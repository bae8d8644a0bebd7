//! How the command line and delta files name a thing: `package.section.option=value`, with `@type[index]` for a section.

use crate::package::{is_kind, is_name, is_package_name};

/// `package[.section[.option]][=value]`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Address {
    pub package: String,
    /// A name, or `@type[index]`.
    pub section: Option<String>,
    pub option: Option<String>,
    pub value: Option<String>,
}

/// Why an address or a change isn't taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// It isn't written as it should be.
    #[error("{0}")]
    Syntax(String),
    /// What it names isn't there.
    #[error("{0}")]
    NotFound(String),
    /// It can't be done with what it names.
    #[error("{0}")]
    Invalid(String),
}

impl Refused {
    /// What `uci` prints for it: scripts look for these words.
    #[must_use]
    pub fn libuci_text(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "Parse error",
            Self::NotFound(_) => "Entry not found",
            Self::Invalid(_) => "Invalid argument",
        }
    }
}

impl Address {
    /// Reads an address. Whether a section's name is `@type[index]` or nonsense shows when it is looked up.
    ///
    /// # Errors
    /// A part isn't a name, or the value holds control characters.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let (path, value) = match text.split_once('=') {
            Some((path, value)) => (path, Some(value)),
            None => (text, None),
        };
        let mut parts = path.split('.');
        let package = parts.next().unwrap_or_default();
        let (section, option) = (parts.next(), parts.next());
        let refuse = |text: String| Err(Refused::Syntax(text));
        if parts.next().is_some() {
            return refuse(format!(
                "{path:?} has more than three parts: write package.section.option"
            ));
        }
        if !is_package_name(package) {
            return refuse(format!(
                "{package:?} is no name of a package: letters, digits, _ and - are"
            ));
        }
        if let Some(option) = option.filter(|option| !is_name(option)) {
            return refuse(format!(
                "{option:?} is no name of an option: letters, digits and _ are"
            ));
        }
        if let Some(byte) = value.and_then(|value| value.bytes().find(control)) {
            return refuse(format!("byte 0x{byte:02x} in the value: only text can be set"));
        }
        Ok(Self {
            package: package.to_owned(),
            section: section.map(str::to_owned),
            option: option.map(str::to_owned),
            value: value.map(str::to_owned),
        })
    }

    /// The section is given as `@type[index]`, or as nothing that is a name.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.section.as_deref().is_some_and(|section| !is_name(section))
    }
}

/// Control characters that no value may hold.
fn control(byte: &u8) -> bool {
    *byte < 32 && !matches!(byte, b'\t' | b'\n' | b'\r')
}

/// `@type[index]`: the type, if one is given, and the index, from the end where it is negative.
pub(crate) fn extended(section: &str) -> Result<(Option<&str>, i64), Refused> {
    let refuse = || {
        Refused::Invalid(format!(
            "{section:?} is no section: write a name, @type[index] or @[index]"
        ))
    };
    let inner = section.strip_prefix('@').and_then(|rest| rest.strip_suffix(']'));
    let (kind, index) = inner.and_then(|inner| inner.split_once('[')).ok_or_else(refuse)?;
    let index = decimal(index).ok_or_else(refuse)?;
    match kind {
        "" => Ok((None, index)),
        kind if is_kind(kind) => Ok((Some(kind), index)),
        _ => Err(refuse()),
    }
}

/// A whole text as strtol reads it: blanks and a sign before the digits; nothing is 0.
fn decimal(text: &str) -> Option<i64> {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if text.is_empty() {
        return Some(0);
    }
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let far = if digits.starts_with('-') { i64::from(i32::MIN) } else { i64::from(i32::MAX) };
    Some(digits.parse().unwrap_or(far))
}
