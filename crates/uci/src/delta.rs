//! Delta files (`/tmp/.uci/PACKAGE`): what was set and not committed yet, one change a line, applied in order.

use crate::{
    Address, MAX_FILE_BYTES, MAX_VALUES, Package, Problem, Refused,
    edit::{self, Target},
    is_name,
    print::quote,
    problem::text,
    reader::Reader,
};

/// What is done; the sign before its line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// `+`: an anonymous section, by its generated name.
    Add,
    /// `-`: a section, an option, or an item of a list by its index.
    Remove,
    /// No sign: a section's type, or an option's value.
    Change,
    /// `@`
    Rename,
    /// `^`
    Reorder,
    /// `|`
    ListAdd,
    /// `~`
    ListDelete,
}

impl Operation {
    const ALL: [(&'static str, Self); 6] = [
        ("+", Self::Add),
        ("-", Self::Remove),
        ("@", Self::Rename),
        ("^", Self::Reorder),
        ("|", Self::ListAdd),
        ("~", Self::ListDelete),
    ];

    fn sign(self) -> &'static str {
        Self::ALL.iter().find(|(_, operation)| *operation == self).map_or("", |(sign, _)| sign)
    }
}

/// One line of a delta file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delta {
    pub operation: Operation,
    pub section: String,
    pub option: Option<String>,
    pub value: Option<String>,
}

/// Reads the delta file of a package. Lines that can't be read are left out, as libuci does, and come back as warnings.
///
/// # Errors
/// It isn't UTF-8, or is over a limit.
pub fn parse_delta(package: &str, bytes: &[u8]) -> Result<(Vec<Delta>, Vec<Problem>), Problem> {
    let mut reader = Reader::new(text(bytes, MAX_FILE_BYTES)?);
    let (mut deltas, mut warnings) = (Vec::new(), Vec::new());
    while reader.next_line() {
        reader.skip_blanks();
        if reader.peek().is_none() {
            continue;
        }
        if deltas.len() + warnings.len() >= MAX_VALUES {
            return Err(reader.problem(format!(
                "more changes than the limit of {MAX_VALUES}: commit or revert them"
            )));
        }
        match line(package, &mut reader) {
            Ok(delta) => deltas.push(delta),
            Err(problem) => warnings.push(problem),
        }
    }
    Ok((deltas, warnings))
}

fn line(package: &str, reader: &mut Reader<'_>) -> Result<Delta, Problem> {
    let argument = reader.argument()?;
    if reader.peek().is_some() {
        return Err(reader.problem("a change has one argument: put quotes around the value"));
    }
    let signed = Operation::ALL
        .iter()
        .find_map(|&(sign, operation)| Some((argument.strip_prefix(sign)?, operation)));
    let (path, operation) = signed.unwrap_or((&argument, Operation::Change));
    let address = Address::parse(path).map_err(|refused| reader.problem(refused.to_string()))?;
    if address.package != package {
        let other = &address.package;
        return Err(
            reader.problem(format!("a change of package {other:?} in the file of {package:?}"))
        );
    }
    let Address { section, option, value, .. } = address;
    let Some(section) = section.filter(|section| is_name(section)) else {
        return Err(reader.problem("a change must name a section, not @type[index]"));
    };
    let (given, named) = (value.is_some(), option.is_some());
    let wrong = match operation {
        Operation::Remove => None,
        _ if !given => Some("the value is missing"),
        Operation::Reorder if named => Some("an option has no position"),
        Operation::Rename if !value.as_deref().is_some_and(is_name) => {
            Some("the new name may hold letters, digits and _ only")
        }
        Operation::ListAdd | Operation::ListDelete if !named => Some("the option is missing"),
        _ => None,
    };
    match wrong {
        Some(wrong) => Err(reader.problem(wrong)),
        None => Ok(Delta { operation, section, option, value }),
    }
}

/// The text of a delta file.
#[must_use]
pub fn print_delta(package: &str, deltas: &[Delta]) -> String {
    let mut out = String::new();
    for delta in deltas {
        out.push_str(delta.operation.sign());
        push_path(&mut out, package, delta);
        match &delta.value {
            None if delta.operation == Operation::Remove => {}
            value => {
                out.push('=');
                quote(&mut out, value.as_deref().unwrap_or_default());
            }
        }
        out.push('\n');
    }
    out
}

/// `uci changes`.
#[must_use]
pub fn print_changes(package: &str, deltas: &[Delta]) -> String {
    let mut out = String::new();
    for delta in deltas {
        if delta.operation == Operation::Remove {
            out.push('-');
        }
        push_path(&mut out, package, delta);
        if delta.operation != Operation::Remove {
            out.push_str(match delta.operation {
                Operation::ListAdd => "+=",
                Operation::ListDelete => "-=",
                _ => "=",
            });
            quote(&mut out, delta.value.as_deref().unwrap_or_default());
        }
        out.push('\n');
    }
    out
}

fn push_path(out: &mut String, package: &str, delta: &Delta) {
    for part in [package, ".", &delta.section] {
        out.push_str(part);
    }
    if let Some(option) = &delta.option {
        out.push('.');
        out.push_str(option);
    }
}

impl Delta {
    /// Whether `uci revert pkg[.section[.option]]` takes it back.
    #[must_use]
    pub fn is_within(&self, section: Option<&str>, option: Option<&str>) -> bool {
        section.is_none_or(|section| self.section == section)
            && option.is_none_or(|option| self.option.as_deref() == Some(option))
    }
}

/// Does again what a delta says. libuci leaves out what is refused and goes on with the next.
///
/// # Errors
/// What it names isn't there any more, or it can't be done.
pub fn apply_delta(package: &mut Package, delta: &Delta) -> Result<(), Refused> {
    let address = Address {
        package: package.name.clone(),
        section: Some(delta.section.clone()),
        option: delta.option.clone(),
        value: delta.value.clone(),
    };
    let section = package.position(&delta.section)?;
    let target = Target { address: &address, section };
    match delta.operation {
        Operation::Remove => edit::delete(package, &target)?,
        Operation::Rename => edit::rename(package, &target)?,
        Operation::Reorder => edit::reorder(package, &target)?,
        Operation::ListAdd => edit::add_list(package, &target)?,
        Operation::ListDelete => edit::del_list(package, &target)?,
        Operation::Change | Operation::Add => edit::set(package, &target)?,
    };
    if delta.operation == Operation::Add
        && delta.option.is_none()
        && let Some(index) = package.position(&delta.section)?
    {
        package.sections[index].anonymous = true;
    }
    Ok(())
}
