//! What a UCI file says: a package of sections of options. Order counts everywhere; names are looked up as libuci does, the
//! first one wins.

use crate::address::{Address, Refused};

/// One file of `/etc/config`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Package {
    pub name: String,
    pub sections: Vec<Section>,
    /// So many sections were ever made, deleted ones too: libuci numbers generated names by it.
    pub(crate) made: usize,
}

/// One `config TYPE [NAME]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    /// A generated one (`cfg01b61d`) where the section is anonymous.
    pub name: String,
    pub anonymous: bool,
    /// What follows `config`.
    pub kind: String,
    pub options: Vec<Opt>,
}

/// One `option`, or the `list` lines of one name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Opt {
    pub name: String,
    pub value: Value,
}

/// What an option holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    Text(String),
    List(Vec<String>),
}

/// What an address leads to, as far as it leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found<'a> {
    pub section: Option<&'a Section>,
    pub option: Option<&'a Opt>,
    /// Everything that the address names is there.
    pub complete: bool,
}

impl Package {
    /// A package without sections.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), sections: Vec::new(), made: 0 }
    }

    /// The section of that name; generated names count.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// What the address leads to. The name of the package isn't looked at.
    ///
    /// # Errors
    /// The section is neither a name nor `@type[index]`.
    pub fn find(&self, address: &Address) -> Result<Found<'_>, Refused> {
        let Some(wanted) = &address.section else {
            return Ok(Found { section: None, option: None, complete: true });
        };
        let section = self.position(wanted)?.map(|index| &self.sections[index]);
        let option = match (section, &address.option) {
            (Some(section), Some(name)) => section.option(name),
            _ => None,
        };
        let complete = section.is_some() && (address.option.is_none() || option.is_some());
        Ok(Found { section, option, complete })
    }

    /// How `uci show` calls the sections, in their order: by name, anonymous ones as `@type[index]`.
    #[must_use]
    pub fn references(&self) -> Vec<String> {
        let mut counts: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
        let mut references = Vec::with_capacity(self.sections.len());
        for section in &self.sections {
            let index = counts.entry(&section.kind).or_default();
            references.push(if section.anonymous {
                format!("@{}[{index}]", section.kind)
            } else {
                section.name.clone()
            });
            *index += 1;
        }
        references
    }

    /// Where the section is that a name or `@type[index]` means.
    pub(crate) fn position(&self, wanted: &str) -> Result<Option<usize>, Refused> {
        if is_name(wanted) {
            return Ok(self.sections.iter().position(|section| section.name == wanted));
        }
        let (kind, index) = crate::address::extended(wanted)?;
        let of_kind = || {
            (0..self.sections.len())
                .filter(|&at| kind.is_none_or(|kind| self.sections[at].kind == kind))
        };
        Ok(match usize::try_from(index) {
            Ok(index) => of_kind().nth(index),
            Err(_) => usize::try_from(index.unsigned_abs())
                .ok()
                .and_then(|back| of_kind().nth_back(back - 1)),
        })
    }

    /// Adds a section at the end.
    pub(crate) fn push(&mut self, kind: String, name: Option<String>) -> usize {
        self.made += 1;
        let anonymous = name.is_none();
        let name = name.unwrap_or_else(|| generated_name(self.made, &kind));
        self.sections.push(Section { name, anonymous, kind, options: Vec::new() });
        self.sections.len() - 1
    }
}

impl Section {
    /// The option of that name.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&Opt> {
        self.options.iter().find(|option| option.name == name)
    }

    pub(crate) fn option_mut(&mut self, name: &str) -> Option<&mut Opt> {
        self.options.iter_mut().find(|option| option.name == name)
    }

    /// Sets an option, where it stands or at the end.
    pub(crate) fn set(&mut self, name: &str, value: String) {
        match self.option_mut(name) {
            Some(option) => option.value = Value::Text(value),
            None => self.options.push(Opt { name: name.to_owned(), value: Value::Text(value) }),
        }
    }

    /// Gives it another type. libuci makes a section with a name of it where the length differs.
    pub(crate) fn retype(&mut self, kind: String) {
        self.anonymous &= self.kind.len() == kind.len();
        self.kind = kind;
    }

    /// Adds an item to a list; a text becomes the list's first item.
    pub(crate) fn add_item(&mut self, name: &str, item: String) {
        let Some(option) = self.option_mut(name) else {
            self.options.push(Opt { name: name.to_owned(), value: Value::List(vec![item]) });
            return;
        };
        match &mut option.value {
            Value::List(items) => items.push(item),
            Value::Text(text) => option.value = Value::List(vec![std::mem::take(text), item]),
        }
    }
}

impl Value {
    /// The items of a list, or the text as the only one.
    #[must_use]
    pub fn items(&self) -> &[String] {
        match self {
            Self::Text(text) => std::slice::from_ref(text),
            Self::List(items) => items,
        }
    }
}

/// What sections and options may be called.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What packages may be called.
#[must_use]
pub fn is_package_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !text.is_empty() && text.bytes().all(allowed)
}

/// What may follow `config`: printable ASCII.
#[must_use]
pub fn is_kind(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The name of an anonymous section. libuci hashes the type only: a section has no options yet when it is named.
fn generated_name(ordinal: usize, kind: &str) -> String {
    let hash = kind
        .bytes()
        .fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(byte)));
    format!("cfg{ordinal:02x}{:04x}", hash & 0xffff)
}
