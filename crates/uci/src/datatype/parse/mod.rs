//! From the text of an expression to a flat list of operations, in which what belongs to a type follows it. Both readers
//! make the same list; neither looks at values.

mod compatible;
mod strict;

use super::{EXPRESSION_MAX, Mode, ere::Pattern, function::Function, number};
use crate::Problem;

/// One atom.
#[derive(Debug, Clone)]
pub(super) struct Op {
    pub(super) atom: Atom,
    /// Where the list goes on after all that belongs to the atom.
    pub(super) next: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Atom {
    Number(f64),
    Text(Text),
    /// `integer(1:200)`.
    Within {
        low: i64,
        high: i64,
    },
    Call {
        function: Function,
        arguments: usize,
    },
}

/// A quoted text.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// As it was written, between the quotes.
    pub(super) raw: String,
    /// Without the backslashes.
    pub(super) plain: String,
    pub(super) quote: char,
    /// Where the text is the argument of `regex` and can be read.
    pub(super) pattern: Option<Pattern>,
}

impl Text {
    fn new(raw: &str, quote: char) -> Self {
        Self { raw: raw.to_owned(), plain: plain(raw), quote, pattern: None }
    }
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Offset in bytes.
    pub(super) at: usize,
    pub(super) text: String,
    /// How upstream puts it; it says so on stdout.
    pub(super) upstream: &'static str,
}

const TOO_LONG: &str = "expression too long";
const UNKNOWN: &str = "unrecognized function";
const UNTERMINATED: &str = "unterminated string";
const END: &str = "unexpected EOF";
const AFTER_NAME: &str = "expected '(' or EOF after function label";
const AFTER_LITERAL: &str = "expected ',' after literal";

impl Fault {
    fn new(at: usize, text: impl Into<String>, upstream: &'static str) -> Self {
        Self { at, text: text.into(), upstream }
    }

    /// The problem with its place in `whole`, in which the expression starts at `start`.
    pub(super) fn problem(&self, whole: &str, start: usize) -> Problem {
        Problem::at(whole.as_bytes(), start + self.at, self.text.clone())
    }
}

/// Reads an expression. The first operation is the implied `or`.
pub(super) fn parse(expression: &str, mode: Mode) -> Result<Vec<Op>, Fault> {
    if expression.len() > EXPRESSION_MAX {
        let text = format!(
            "an expression of {} bytes; at most {EXPRESSION_MAX} are read",
            expression.len()
        );
        return Err(Fault::new(EXPRESSION_MAX, text, TOO_LONG));
    }
    if let Some(at) = expression.find('\0') {
        return Err(Fault::new(at, "a NUL byte in an expression", END));
    }
    match mode {
        Mode::Compatible => compatible::parse(expression),
        Mode::Strict => strict::parse(expression),
    }
}

/// `low:high` at the beginning of `text` up to a `)`: both, and the length up to the parenthesis.
pub(super) fn colon_range(text: &str) -> Option<(i64, i64, usize)> {
    let end = text.find(')')?;
    let (low, high) = text[..end].split_once(':')?;
    Some((number::decimal_whole(low.trim())?, number::decimal_whole(high.trim())?, end))
}

/// Whether `text` may be before the `(` of a range with a colon.
pub(super) fn is_integer(name: &str) -> bool {
    matches!(Function::by_name(name), Some(Function::Integer | Function::Uinteger))
}

/// The range to be used for `name(low:high)`; `uinteger` has nothing below 0.
fn within(name: &str, low: i64, high: i64) -> Atom {
    let unsigned = name == Function::Uinteger.name();
    Atom::Within { low: if unsigned { low.max(0) } else { low }, high }
}

/// Blanks of C's `isspace`.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

const fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn plain(raw: &str) -> String {
    let mut plain = String::with_capacity(raw.len());
    let mut escaped = false;
    for letter in raw.chars() {
        if letter == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        plain.push(letter);
    }
    plain
}
