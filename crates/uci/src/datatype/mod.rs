//! The validation language of `validate_data` and `uci_validate_section`: rules, and whether a value follows one. Pure: what
//! a type must see of files or of other packages it asks of a [`World`]. It must never panic, whatever it is given.
//!
//! An expression is a comma list of atoms, one of which the value must match: a number, `'text'` or `"text"`, or a type with
//! or without arguments, such as `or(port,"auto")`. There are two readers. [`Mode::Compatible`] does what upstream does, so
//! that OpenWrt's scripts see no difference. [`Mode::Strict`] is for definitions of our own.
//!
//! | point | `Compatible` | `Strict` |
//! |---|---|---|
//! | atoms, depth | 30 beside the implied `or` | 64, 16 deep |
//! | an empty item, a missing or wrong argument | ignored; the type then refuses everything | an error with its column |
//! | an open parenthesis, a lone `\` at the end | the last item is dropped | an error |
//! | a comma or parenthesis inside of quotes | ends the text (`\,` does not) | belongs to the text |
//! | `'abc'` | matches `abc` and `abc'` | matches `abc` |
//! | `not(t)` | refuses everything, unless another type has matched before | accepts what `t` refuses |
//! | `list(t)` of blanks only | as whatever matched before | refused |
//! | whole numbers | as `strtol`: blanks and `+` before, `0x`, `010` is 8; cut to 32 bits | decimal or `0x`, 64 bits; no `010` |
//! | `integer` `uinteger` | not limited in size | 64 bits |
//! | bounds (`min`, `string`, ...) | cut to 32 bits; outside of them the nearest, as on ARM | whole, at most 2^53 |
//! | `float` `ufloat`, number atoms | as `strtod`: hexadecimal, `inf`, `nan`; `ufloat` accepts -0.5 | decimal and finite; not negative |
//! | `ufloat` past 32 bits | as on ARM (accepted; also `inf` and `nan`) | accepted |
//! | `bool` in capitals | valid, but shown as nothing | shown as 0 or 1 |
//! | `port` `portrange` | -1, ` 80`, `0-` and whatever is 0..65535 when cut to 32 bits, or negative | digits, 0 to 65535 |
//! | prefix of `cidr` | may be empty or negative | digits |
//! | `netmask6` `ipmask6` | whole bytes only (/64, not /65) | any prefix |
//! | `hostname` | last label up to 255, no limit in all | labels up to 63, 253 in all |
//! | `uciname` `phonedigit` `string` after `neg` | may be empty | refuse an empty text, but for `string` |
//! | `regex("a\|b")` | `^a\|b$`: begins with a or ends with b | the whole value is a or b |
//! | a pattern that cannot be read | refuses everything | an error with its column |
//! | the text of `uci("p","s","o")` | with its backslashes | without |
//! | an invalid default | is exported, exit code 0 | invalid |
//! | a list option | the last element decides, invalid ones are left out | all must be valid |
//! | a rule without expression, the same option twice | told of on stderr; evaluated twice | an error |
//! | `opt:expr:a:b` | the default is `a` | the default is `a:b` |
//! | registration | an expression with quotes loses them in the shell | quoted |
//!
//! Both differ from upstream in this: `integer(1:200)` and `uinteger(1:200)` mean from 1 to 200 (upstream cuts such a rule at
//! the colon and then refuses every value); a value that is shown bare is quoted all the same if the shell would read more
//! than a word in it (upstream lets `list(or(uinteger,string))` run commands); a `list` may be inside of a `list` (upstream
//! reads freed memory then); `macaddr` is six groups of one or two hexadecimal digits (what C libraries accept beyond that
//! differs); a text with a NUL byte, one of more than 64 KiB and for `regex` one of more than 4 KiB are refused. Lengths are in bytes.
//!
//! `regex` takes POSIX extended expressions in the C locale, byte by byte. See [`ere`] for what is not the same.

mod address;
mod allowed;
mod command;
pub mod ere;
mod evaluate;
mod function;
mod number;
mod parse;
mod section;
#[cfg(test)]
mod tests;
mod word;

use std::fmt;

pub use self::{
    command::{Report, registration, section_report, shell_value, value_report},
    section::{Outcome, Rules, Verdict},
};
use self::{evaluate::Walk, parse::Op};
use crate::Problem;

/// Longest value that is looked at, in bytes.
pub const VALUE_MAX: usize = 64 * 1024;
/// Longest expression, in bytes.
pub const EXPRESSION_MAX: usize = 4096;
/// Most rules of one section.
pub const RULES_MAX: usize = 256;

/// How the language is read; the module's table has every difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As upstream, with its quirks.
    Compatible,
    /// Without them; what is doubtful in a rule is an error.
    Strict,
}

/// What a path is, after following links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An ordinary file.
    Regular,
    /// A folder.
    Directory,
    /// A block or character device.
    Device,
    /// A socket, a pipe or something else.
    Other,
}

/// What types see of the world outside of the value.
pub trait World: fmt::Debug {
    /// What is at `path`; `None` if there is nothing or it can't be seen.
    fn kind(&self, path: &str) -> Option<FileKind>;
    /// The value of an option, or the elements of a list; empty if there is no such option.
    fn values(&self, package: &str, section: &str, option: &str) -> Vec<String>;
    /// The names of all sections of a type, the generated ones included; empty if there is no such package.
    fn sections(&self, package: &str, kind: &str) -> Vec<String>;
}

/// A world without files and packages: types that look for some refuse everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmptyWorld;

impl World for EmptyWorld {
    fn kind(&self, _path: &str) -> Option<FileKind> {
        None
    }

    fn values(&self, _package: &str, _section: &str, _option: &str) -> Vec<String> {
        Vec::new()
    }

    fn sections(&self, _package: &str, _kind: &str) -> Vec<String> {
        Vec::new()
    }
}

/// A valid value in the form in which it is exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Any text; quoted in the shell.
    Text(String),
    /// A number as it was written; bare in the shell.
    Number(String),
    /// `0` or `1`; empty for `TRUE` and the like in [`Mode::Compatible`].
    Bool(&'static str),
}

impl Shown {
    /// The text that is exported, without quotes.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(text) => text,
            Self::Bool(text) => text,
        }
    }
}

/// Why a value is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The value, cut where it is long.
    pub value: String,
    /// What would be allowed, in plain words: `a whole number from 1 to 200`.
    pub allowed: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} is not allowed; allowed is {}", self.value, self.allowed)
    }
}

impl std::error::Error for Refusal {}

/// An expression that was read.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
    mode: Mode,
    ops: Vec<Op>,
}

impl Rule {
    /// Reads an expression.
    ///
    /// # Errors
    /// Where it does not follow the language, or is larger than the limits.
    pub fn parse(expression: &str, mode: Mode) -> Result<Self, Problem> {
        let ops = parse::parse(expression, mode).map_err(|fault| fault.problem(expression, 0))?;
        Ok(Self { text: expression.to_owned(), mode, ops })
    }

    /// Whether `value` follows the rule, and how it is shown then. An empty value never does.
    ///
    /// # Errors
    /// What would be allowed.
    pub fn check(&self, value: &str, world: &dyn World) -> Result<Shown, Refusal> {
        evaluate(&self.ops, self.mode, value, world)
    }

    /// What the rule allows, in plain words.
    #[must_use]
    pub fn allowed(&self) -> String {
        allowed::describe(&self.ops)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// For the fuzz target: reads `expression` in both modes and checks `value` against it.
#[must_use]
pub fn exercise(expression: &str, value: &str) -> [bool; 2] {
    [Mode::Compatible, Mode::Strict].map(|mode| {
        value_report(expression, value, mode, &EmptyWorld).code == 0
            && Rule::parse(expression, mode).is_ok_and(|rule| {
                rule.check(value, &EmptyWorld).is_ok() && !rule.allowed().is_empty()
            })
    })
}

fn evaluate(ops: &[Op], mode: Mode, value: &str, world: &dyn World) -> Result<Shown, Refusal> {
    let usable = !value.is_empty() && value.len() <= VALUE_MAX && !value.contains('\0');
    if usable && let Some(shown) = Walk::new(ops, mode, world).run(value) {
        return Ok(shown);
    }
    Err(Refusal { value: allowed::shortened(value), allowed: allowed::describe(ops) })
}
