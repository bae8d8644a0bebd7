//! What is wrong with a text, and where. Texts are UTF-8 without NUL; what isn't is refused here, before anything reads it.

use std::fmt::{self, Display, Formatter};

/// What is wrong with a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// In bytes, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl Problem {
    /// A problem at a known place.
    #[must_use]
    pub fn new(line: usize, column: usize, text: impl Into<String>) -> Self {
        Self { line, column, text: text.into() }
    }

    /// A problem at an offset in a text.
    #[must_use]
    pub fn at(bytes: &[u8], offset: usize, text: impl Into<String>) -> Self {
        let before = &bytes[..offset.min(bytes.len())];
        let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Self::new(line, before.len() - start + 1, text)
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.text)
    }
}

impl std::error::Error for Problem {}

/// A file of at most `limit` bytes as text.
pub(crate) fn text(bytes: &[u8], limit: usize) -> Result<&str, Problem> {
    if bytes.len() > limit {
        let length = bytes.len();
        return Err(Problem::new(
            1,
            1,
            format!("{length} bytes exceed the limit of {limit}: split the file"),
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let offset = error.valid_up_to();
        Problem::at(
            bytes,
            offset,
            format!(
                "byte 0x{:02x} is not UTF-8: save the file as UTF-8",
                bytes.get(offset).copied().unwrap_or_default()
            ),
        )
    })?;
    match bytes.iter().position(|&byte| byte == 0) {
        Some(offset) => {
            Err(Problem::at(bytes, offset, "byte 0x00 in a text: the file is binary or damaged"))
        }
        None => Ok(text),
    }
}
