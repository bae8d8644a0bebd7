//! What `validate_data` prints and returns, byte for byte. It prints nothing itself.

use super::{
    Mode, Outcome, Rules, Shown, Verdict, World, evaluate, parse,
    section::{SectionRule, syntax_error},
};
use crate::{Package, Problem};

/// The exit code of upstream's `return -1`.
const FAILED: u8 = 255;

/// What a call of `validate_data` writes and returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// For the shell to evaluate.
    pub stdout: String,
    /// One line for each check.
    pub stderr: String,
    /// The exit code.
    pub code: u8,
}

/// `validate_data TYPE VALUE`.
#[must_use]
pub fn value_report(expression: &str, value: &str, mode: Mode, world: &dyn World) -> Report {
    let (stdout, refused) = match parse::parse(expression, mode) {
        Ok(ops) => (String::new(), evaluate(&ops, mode, value, world).err().map(|no| no.allowed)),
        Err(fault) if value.is_empty() => (String::new(), Some(fault.text)),
        Err(fault) => (syntax_error(&fault), Some(fault.text)),
    };
    let mut stderr = format!("{expression} - {value} = {}", refused.is_none());
    if let (Some(why), Mode::Strict) = (&refused, mode) {
        stderr.push_str(": allowed is ");
        stderr.push_str(why);
    }
    stderr.push('\n');
    let stdout = if mode == Mode::Strict { String::new() } else { stdout };
    Report { stdout, stderr, code: u8::from(refused.is_some()) }
}

/// `validate_data PACKAGE TYPE SECTION RULES...`. Without the package it fails and prints nothing; without the section the
/// defaults count.
///
/// # Errors
/// As [`Rules::parse`].
pub fn section_report<T: AsRef<str>>(
    (name, package): (&str, Option<&Package>),
    section: &str,
    rules: &[T],
    mode: Mode,
    world: &dyn World,
) -> Result<Report, Problem> {
    let rules = Rules::parse(rules, mode)?;
    let Some(package) = package else {
        return Ok(Report { stdout: String::new(), stderr: String::new(), code: FAILED });
    };
    Ok(Report::of(&rules.check(name, section, package.section(section), world)))
}

impl Report {
    /// What the outcomes of a section's rules make together.
    #[must_use]
    pub fn of(outcomes: &[Outcome]) -> Self {
        let failed = outcomes.iter().any(|outcome| outcome.verdict == Verdict::Invalid);
        Self {
            stdout: outcomes.iter().map(|outcome| outcome.stdout.as_str()).collect(),
            stderr: outcomes.iter().map(|outcome| outcome.stderr.as_str()).collect(),
            code: if failed { FAILED } else { 0 },
        }
    }
}

/// `validate_data PACKAGE TYPE '' RULES...`: the commands that put the rules into the service's message.
///
/// # Errors
/// As [`Rules::parse`].
pub fn registration<T: AsRef<str>>(
    package: &str,
    kind: &str,
    rules: &[T],
    mode: Mode,
) -> Result<String, Problem> {
    let rules = Rules::parse(rules, mode)?;
    let string = |name: &str, value: &str| match mode {
        Mode::Compatible => format!("json_add_string \"{name}\" \"{value}\"; "),
        Mode::Strict => format!("json_add_string {} {}; ", quoted(name), quoted(value)),
    };
    let mut text = String::from("json_add_object; ");
    text.push_str(&string("package", package));
    text.push_str(&string("type", kind));
    text.push_str("json_add_object \"data\"; ");
    for SectionRule { option, expression, .. } in rules.iter() {
        if let Some(expression) = expression {
            text.push_str(&string(option, expression));
        }
    }
    text.push_str("json_close_object; json_close_object; ");
    Ok(text)
}

/// A value for the shell: texts in quotes, numbers bare. What upstream shows bare is quoted all the same if the shell would
/// read more than a word in it.
#[must_use]
pub fn shell_value(shown: &Shown) -> String {
    match shown {
        Shown::Bool(text) => (*text).to_owned(),
        Shown::Number(text) if is_bare(text) => text.clone(),
        Shown::Text(text) | Shown::Number(text) => quoted(text),
    }
}

/// `option=value; ` for a value that is not empty.
pub(super) fn assignment(option: &str, shown: &Shown) -> String {
    format!("{option}={}; ", shell_value(shown))
}

pub(super) fn unset(option: &str) -> String {
    format!("unset -v {option}; ")
}

fn is_bare(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-' | b'_'))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}
