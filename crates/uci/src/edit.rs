//! What the commands of `uci` do to a package, and the delta that each leaves. Two are refused that libuci takes and loses at
//! the next reading: a name or a type that no file may hold, and a new section called `@type[index]`.

use crate::{
    Address, Delta, MAX_OPTIONS, MAX_SECTIONS, Operation, Package, Refused, Value, is_kind, is_name,
};

/// One command. The package's name in an address isn't looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// `uci set pkg.section=type`, `uci set pkg.section.option=value`; an empty value deletes.
    Set(Address),
    /// `uci add pkg type`: the delta tells the generated name.
    Add { kind: String },
    /// `uci add_list pkg.section.option=item`.
    AddList(Address),
    /// `uci del_list pkg.section.option=item`.
    DelList(Address),
    /// `uci delete pkg.section[.option][=index]`.
    Delete(Address),
    /// `uci rename pkg.section[.option]=name`.
    Rename(Address),
    /// `uci reorder pkg.section=position`.
    Reorder(Address),
}

/// Does it. Nothing where nothing had to be changed.
///
/// # Errors
/// What it names isn't there, or it can't be done; the package is then as before.
pub fn apply(package: &mut Package, change: &Change) -> Result<Option<Delta>, Refused> {
    let (address, edit): (&Address, Edit) = match change {
        Change::Add { kind } => return add(package, kind).map(Some),
        Change::Set(address) => (address, set),
        Change::AddList(address) => (address, add_list),
        Change::DelList(address) => (address, del_list),
        Change::Delete(address) => (address, delete),
        Change::Rename(address) => (address, rename),
        Change::Reorder(address) => (address, reorder),
    };
    let section = match &address.section {
        Some(section) => package.position(section)?,
        None => None,
    };
    // The index counts with lists only, but the command refuses what is none with anything.
    if let (Change::Delete(_), Some(value)) = (change, &address.value)
        && !value.is_empty()
        && leading_number(value).is_none()
    {
        return Err(no_index(value));
    }
    edit(package, &Target { address, section })
}

type Edit = fn(&mut Package, &Target<'_>) -> Result<Option<Delta>, Refused>;

/// An address, and the section that it leads to.
pub(crate) struct Target<'a> {
    pub(crate) address: &'a Address,
    pub(crate) section: Option<usize>,
}

impl Target<'_> {
    fn section(&self) -> Result<usize, Refused> {
        self.section.ok_or_else(|| match &self.address.section {
            Some(section) => Refused::Invalid(format!("there is no section {section:?}")),
            None => Refused::Invalid("a section must be named: package.section".into()),
        })
    }

    fn value(&self) -> Result<&str, Refused> {
        let missing = || Refused::Invalid("a value is missing: write =value behind it".into());
        self.address.value.as_deref().ok_or_else(missing)
    }

    /// The section's index and, where an option is named, the option's: all of it is there.
    fn complete(&self, package: &Package) -> Result<(usize, Option<usize>), Refused> {
        let Some(name) = &self.address.section else {
            return Err(Refused::Invalid("a section must be named: package.section".into()));
        };
        let missing =
            |what: &str, name: &str| Refused::NotFound(format!("there is no {what} {name:?}"));
        let section = self.section.ok_or_else(|| missing("section", name))?;
        let Some(name) = &self.address.option else { return Ok((section, None)) };
        let options = &package.sections[section].options;
        let option = options.iter().position(|option| option.name == *name);
        Ok((section, Some(option.ok_or_else(|| missing("option", name))?)))
    }

    fn delta(&self, package: &Package, operation: Operation, section: usize) -> Delta {
        Delta {
            operation,
            section: package.sections[section].name.clone(),
            option: self.address.option.clone(),
            value: self.address.value.clone(),
        }
    }
}

fn add(package: &mut Package, kind: &str) -> Result<Delta, Refused> {
    check_kind(kind)?;
    check_room(package)?;
    let index = package.push(kind.to_owned(), None);
    Ok(Delta {
        operation: Operation::Add,
        section: package.sections[index].name.clone(),
        option: None,
        value: Some(kind.to_owned()),
    })
}

pub(crate) fn set(package: &mut Package, target: &Target<'_>) -> Result<Option<Delta>, Refused> {
    let value = target.value()?;
    let Some(name) = &target.address.section else {
        return Err(Refused::Invalid("a section must be named: package.section".into()));
    };
    let Some(option) = &target.address.option else {
        return set_section(package, target, name, value);
    };
    let index = target.section()?;
    let section = &mut package.sections[index];
    match section.option(option).map(|option| &option.value) {
        None if value.is_empty() => return Ok(None),
        Some(_) if value.is_empty() => return delete(package, target),
        Some(Value::Text(text)) if text == value => return Ok(None),
        None if section.options.len() >= MAX_OPTIONS => {
            return Err(Refused::Invalid(format!(
                "more options in section {name:?} than the limit of {MAX_OPTIONS}"
            )));
        }
        _ => section.set(option, value.to_owned()),
    }
    Ok(Some(target.delta(package, Operation::Change, index)))
}

fn set_section(
    package: &mut Package,
    target: &Target<'_>,
    name: &str,
    kind: &str,
) -> Result<Option<Delta>, Refused> {
    match target.section {
        Some(_) if kind.is_empty() => delete(package, target),
        None if kind.is_empty() => Ok(None),
        Some(index) => {
            check_kind(kind)?;
            let section = &mut package.sections[index];
            if section.kind == kind {
                return Ok(None);
            }
            section.retype(kind.to_owned());
            Ok(Some(target.delta(package, Operation::Change, index)))
        }
        None => {
            check_kind(kind)?;
            check_room(package)?;
            if !is_name(name) {
                return Err(Refused::Invalid(format!("there is no section {name:?}")));
            }
            let index = package.push(kind.to_owned(), Some(name.to_owned()));
            Ok(Some(target.delta(package, Operation::Change, index)))
        }
    }
}

pub(crate) fn add_list(
    package: &mut Package,
    target: &Target<'_>,
) -> Result<Option<Delta>, Refused> {
    let index = target.section()?;
    let value = target.value()?;
    let Some(option) = &target.address.option else {
        return Err(Refused::Invalid("an option must be named: package.section.option".into()));
    };
    let section = &mut package.sections[index];
    if section.option(option).is_none() && section.options.len() >= MAX_OPTIONS {
        return Err(Refused::Invalid(format!(
            "more options in section {:?} than the limit of {MAX_OPTIONS}",
            section.name
        )));
    }
    section.add_item(option, value.to_owned());
    Ok(Some(target.delta(package, Operation::ListAdd, index)))
}

pub(crate) fn del_list(
    package: &mut Package,
    target: &Target<'_>,
) -> Result<Option<Delta>, Refused> {
    let index = target.section()?;
    let value = target.value()?;
    let section = &mut package.sections[index];
    let option = target.address.option.as_ref().and_then(|name| section.option_mut(name));
    let Some(Value::List(items)) = option.map(|option| &mut option.value) else {
        return Ok(None);
    };
    items.retain(|item| item != value);
    Ok(Some(target.delta(package, Operation::ListDelete, index)))
}

pub(crate) fn delete(package: &mut Package, target: &Target<'_>) -> Result<Option<Delta>, Refused> {
    let (index, option) = target.complete(package)?;
    let mut delta = target.delta(package, Operation::Remove, index);
    let value = target.address.value.as_deref().filter(|value| !value.is_empty());
    let section = &mut package.sections[index];
    if let (Some(value), Some(option)) = (value, option)
        && let Value::List(items) = &mut section.options[option].value
    {
        let item = leading_number(value).ok_or_else(|| no_index(value))?;
        let Some(item) = usize::try_from(item).ok().filter(|&item| item < items.len()) else {
            return Ok(None);
        };
        items.remove(item);
        return Ok(Some(delta));
    }
    match option {
        Some(option) => drop(section.options.remove(option)),
        None => drop(package.sections.remove(index)),
    }
    delta.value = None;
    Ok(Some(delta))
}

pub(crate) fn rename(package: &mut Package, target: &Target<'_>) -> Result<Option<Delta>, Refused> {
    let (index, option) = target.complete(package)?;
    let name = target.value()?;
    if !is_name(name) {
        return Err(Refused::Invalid(format!("{name:?} is no name: letters, digits and _ are")));
    }
    let delta = target.delta(package, Operation::Rename, index);
    let section = &mut package.sections[index];
    match option {
        Some(option) => name.clone_into(&mut section.options[option].name),
        None => {
            name.clone_into(&mut section.name);
            section.anonymous = false;
        }
    }
    Ok(Some(delta))
}

pub(crate) fn reorder(
    package: &mut Package,
    target: &Target<'_>,
) -> Result<Option<Delta>, Refused> {
    let (Some(from), Some(value)) = (target.section, &target.address.value) else {
        return Err(Refused::NotFound("a section and =position are needed".into()));
    };
    let position = leading_number(value).unwrap_or(0);
    let last = package.sections.len() - 1;
    let to = usize::try_from(position.max(0)).unwrap_or(last).min(last);
    if from == to {
        return Ok(None);
    }
    let section = package.sections.remove(from);
    package.sections.insert(to, section);
    let mut delta = target.delta(package, Operation::Reorder, to);
    (delta.option, delta.value) = (None, Some(position.to_string()));
    Ok(Some(delta))
}

/// The number that a text begins with, as C reads it; far ones are cut to what an `int` holds.
fn leading_number(text: &str) -> Option<i32> {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let length = digits.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if length == 0 {
        return None;
    }
    let number = digits[..length].parse().unwrap_or(i32::MAX);
    Some(if negative { -number } else { number })
}

fn no_index(value: &str) -> Refused {
    Refused::Invalid(format!("{value:?} is no index: write the number of a list's item"))
}

fn check_kind(kind: &str) -> Result<(), Refused> {
    if is_kind(kind) {
        return Ok(());
    }
    Err(Refused::Invalid(format!(
        "{kind:?} is no type of a section: printable ASCII without blanks is"
    )))
}

fn check_room(package: &Package) -> Result<(), Refused> {
    if package.sections.len() < MAX_SECTIONS {
        return Ok(());
    }
    Err(Refused::Invalid(format!("more sections than the limit of {MAX_SECTIONS}")))
}
