//! The texts that libuci prints: `uci export`, the file that a commit writes, `uci show` and `uci get`, byte for byte.

use std::borrow::Cow;

use crate::package::{Opt, Package, Section, Value};

/// How `uci show` is asked to print.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Show<'a> {
    /// Anonymous sections by their generated names, not as `@type[index]` (`-X`).
    pub generated_names: bool,
    /// Between the items of a list (`-d`).
    pub delimiter: &'a str,
}

impl Default for Show<'_> {
    fn default() -> Self {
        Self { generated_names: false, delimiter: " " }
    }
}

/// `uci export`; with the generated names of anonymous sections, if asked (`-n`).
#[must_use]
pub fn export(package: &Package, named: bool) -> String {
    format!("package {}\n{}", package.name, file_text(package, named))
}

/// What a commit writes: `uci export` without the name of the package.
#[must_use]
pub fn file_text(package: &Package, named: bool) -> String {
    let mut out = String::new();
    for section in &package.sections {
        out.push_str("\nconfig ");
        out.push_str(&escaped(&section.kind));
        if named || !section.anonymous {
            out.push(' ');
            quote(&mut out, &section.name);
        }
        out.push('\n');
        for option in &section.options {
            let word = if matches!(option.value, Value::Text(_)) { "option" } else { "list" };
            for item in option.value.items() {
                out.push('\t');
                out.push_str(word);
                out.push(' ');
                out.push_str(&option.name);
                out.push(' ');
                quote(&mut out, item);
                out.push('\n');
            }
        }
    }
    out.push('\n');
    out
}

/// `uci show PACKAGE`.
#[must_use]
pub fn show(package: &Package, how: &Show<'_>) -> String {
    let mut out = String::new();
    let references = if how.generated_names { Vec::new() } else { package.references() };
    for (index, section) in package.sections.iter().enumerate() {
        let reference = references.get(index).unwrap_or(&section.name);
        print_section(&mut out, package, section, reference, how);
    }
    out
}

/// `uci show PACKAGE.SECTION`: with the section's own name, generated or not, as libuci does.
#[must_use]
pub fn show_section(package: &Package, section: &Section, how: &Show<'_>) -> String {
    let mut out = String::new();
    print_section(&mut out, package, section, &section.name, how);
    out
}

/// `uci show PACKAGE.SECTION.OPTION`.
#[must_use]
pub fn show_option(package: &Package, section: &Section, option: &Opt, how: &Show<'_>) -> String {
    let mut out = String::new();
    print_option(&mut out, package, &section.name, option, how);
    out
}

/// `uci get PACKAGE.SECTION.OPTION`, without the newline: bare, but items of a list that hold blanks are quoted.
#[must_use]
pub fn get(value: &Value, delimiter: &str) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::List(items) => {
            let mut out = String::new();
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(delimiter);
                }
                if item.contains([' ', '\t', '\r', '\n']) {
                    quote(&mut out, item);
                } else {
                    out.push_str(item);
                }
            }
            out
        }
    }
}

fn print_section(
    out: &mut String,
    package: &Package,
    section: &Section,
    reference: &str,
    how: &Show<'_>,
) {
    for part in [&package.name, ".", reference, "=", &section.kind, "\n"] {
        out.push_str(part);
    }
    for option in &section.options {
        print_option(out, package, reference, option, how);
    }
}

fn print_option(
    out: &mut String,
    package: &Package,
    reference: &str,
    option: &Opt,
    how: &Show<'_>,
) {
    for part in [&package.name, ".", reference, ".", &option.name, "="] {
        out.push_str(part);
    }
    for (index, item) in option.value.items().iter().enumerate() {
        if index > 0 {
            out.push_str(how.delimiter);
        }
        quote(out, item);
    }
    out.push('\n');
}

/// A value between single quotes.
pub(crate) fn quote(out: &mut String, value: &str) {
    out.push('\'');
    out.push_str(&escaped(value));
    out.push('\'');
}

fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains('\'') {
        Cow::Owned(value.replace('\'', r"'\''"))
    } else {
        Cow::Borrowed(value)
    }
}
