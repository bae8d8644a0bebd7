//! JSON as the programs of OpenWrt read and print it: strings of any bytes, numbers that keep how they were written,
//! more forgiving than the standard. Pure: no file, no clock.

mod parse;
mod print;

pub(super) use self::{
    parse::{document, documents},
    print::{indented, spaced},
};

/// Any JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// From the lowest `i64` to the highest `u64`; what is beyond is cut to these.
    Int(i128),
    Double {
        value: f64,
        /// How it was written.
        text: Option<String>,
    },
    Text(Vec<u8>),
    Array(Vec<Self>),
    /// In the order of their first appearance, each name once.
    Object(Vec<(Vec<u8>, Self)>),
}

impl Json {
    /// The member of an object.
    pub(super) fn member(&self, name: &[u8]) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find_map(|(key, member)| (key == name).then_some(member))
    }

    /// What json-c calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) => "int",
            Self::Double { .. } => "double",
            Self::Text(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

/// A whole number as far as 64 bits with a sign hold it.
pub(super) fn clamped(number: i128) -> i64 {
    let bounds = (i128::from(i64::MIN), i128::from(i64::MAX));
    i64::try_from(number.clamp(bounds.0, bounds.1)).unwrap_or_default()
}

/// A text as C programs see it: up to its first NUL, which no shell variable can hold.
pub(super) fn c_text(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}
