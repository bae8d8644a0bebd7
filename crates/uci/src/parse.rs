//! The UCI language: commands into packages. What libuci takes is taken, with the same result; NUL bytes and what isn't UTF-8
//! are refused.

use crate::{
    Delta, MAX_FILE_BYTES, MAX_OPTIONS, MAX_SECTIONS, MAX_VALUES, Operation, Package, Problem,
    Section, Value, is_kind, is_name, is_package_name, problem::text, reader::Reader,
};

/// So many warnings of a file are kept: a person reads the first ones.
const MAX_WARNINGS: usize = 100;

/// How errors are taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// The first one ends the reading (`uci`, `uci -s`).
    #[default]
    Strict,
    /// A line with an error is a warning; what was read of it stays (`uci -S`, and so `config_load`).
    Lenient,
}

/// What was read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Parsed {
    pub package: Package,
    /// In lenient mode, the first 100.
    pub warnings: Vec<Problem>,
}

/// Reads the file of one package; `package` lines in it are ignored, as libuci does.
///
/// # Errors
/// The text isn't UCI, isn't UTF-8, or is over a limit.
pub fn parse(name: &str, bytes: &[u8], mode: Mode) -> Result<Parsed, Problem> {
    let mut parser = Parser::new(bytes, mode)?;
    parser.package = Some(Package::new(name));
    parser.run()?;
    Ok(Parsed { package: parser.package.unwrap_or_default(), warnings: parser.warnings })
}

/// Reads what `uci export` prints: several packages, each behind its `package NAME` (`uci import` without a name).
///
/// # Errors
/// As [`parse`], and a package that comes twice.
pub fn parse_all(bytes: &[u8], mode: Mode) -> Result<(Vec<Package>, Vec<Problem>), Problem> {
    let mut parser = Parser::new(bytes, mode)?;
    parser.many = true;
    parser.run()?;
    parser.finished.extend(parser.package);
    Ok((parser.finished, parser.warnings))
}

/// Reads a text into a package that is there (`uci -m import NAME`): the deltas that `uci changes` lists then, and warnings.
///
/// # Errors
/// As [`parse`]; the package is then as before.
pub fn merge(
    package: &mut Package,
    bytes: &[u8],
    mode: Mode,
) -> Result<(Vec<Delta>, Vec<Problem>), Problem> {
    let mut parser = Parser::new(bytes, mode)?;
    let values = |section: &Section| -> usize {
        section.options.iter().map(|option| option.value.items().len()).sum()
    };
    parser.values = package.sections.iter().map(values).sum();
    parser.package = Some(package.clone());
    parser.recorded = Some(Vec::new());
    parser.run()?;
    *package = parser.package.unwrap_or_default();
    Ok((parser.recorded.unwrap_or_default(), parser.warnings))
}

/// An error costs a line, or the whole file.
enum Fault {
    Line(Problem),
    File(Problem),
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Line(problem)
    }
}

struct Parser<'a> {
    reader: Reader<'a>,
    mode: Mode,
    /// `package` lines begin a package.
    many: bool,
    finished: Vec<Package>,
    package: Option<Package>,
    /// The section that options belong to.
    section: Option<usize>,
    values: usize,
    recorded: Option<Vec<Delta>>,
    warnings: Vec<Problem>,
}

impl<'a> Parser<'a> {
    fn new(bytes: &'a [u8], mode: Mode) -> Result<Self, Problem> {
        Ok(Self {
            reader: Reader::new(text(bytes, MAX_FILE_BYTES)?),
            mode,
            many: false,
            finished: Vec::new(),
            package: None,
            section: None,
            values: 0,
            recorded: None,
            warnings: Vec::new(),
        })
    }

    fn run(&mut self) -> Result<(), Problem> {
        while self.reader.next_line() {
            match self.line() {
                Ok(()) => {}
                Err(Fault::Line(problem)) if self.mode == Mode::Lenient => {
                    if self.warnings.len() < MAX_WARNINGS {
                        self.warnings.push(problem);
                    }
                }
                Err(Fault::Line(problem) | Fault::File(problem)) => return Err(problem),
            }
        }
        Ok(())
    }

    /// The commands of a line.
    fn line(&mut self) -> Result<(), Fault> {
        self.reader.skip_blanks();
        while let Some(word) = self.reader.word() {
            let command = match word.text {
                "p" | "package" => Self::package,
                "c" | "config" => Self::config,
                "o" | "option" => Self::option,
                "l" | "list" => Self::list,
                comment if comment.starts_with('#') => return Ok(()),
                other => {
                    let other = other.trim_end();
                    return Err(self.wrong(format!(
                        "{other:?} is no command: write config, option, list, package or # before a comment"
                    )));
                }
            };
            if word.last {
                return Err(self.wrong(format!("{} without a name", word.text)));
            }
            command(self)?;
        }
        Ok(())
    }

    fn package(&mut self) -> Result<(), Fault> {
        let name = self.required("package")?;
        if !is_package_name(&name) {
            return Err(self
                .wrong(format!("{name:?} is no name of a package: letters, digits, _ and - are")));
        }
        self.end_of_command()?;
        if self.many {
            self.finished.extend(self.package.take());
            self.section = None;
            if self.finished.iter().any(|package| package.name == name) {
                let text = format!("package {name:?} comes a second time: join the two");
                return Err(Fault::File(self.reader.problem(text)));
            }
            self.package = Some(Package::new(name));
        }
        Ok(())
    }

    fn config(&mut self) -> Result<(), Fault> {
        if self.package.is_none() {
            return Err(self.wrong("config before the first package: write package NAME first"));
        }
        let kind = self.required("config")?;
        if !is_kind(&kind) {
            return Err(self.wrong(format!(
                "{kind:?} is no type of a section: printable ASCII without blanks is"
            )));
        }
        let name = self.reader.argument()?.into_owned();
        if !name.is_empty() && !is_name(&name) {
            return Err(
                self.wrong(format!("{name:?} is no name of a section: letters, digits and _ are"))
            );
        }
        self.end_of_command()?;
        self.open(kind, (!name.is_empty()).then_some(name))
    }

    /// Opens a section: one of that name again, or a new one.
    fn open(&mut self, kind: String, name: Option<String>) -> Result<(), Fault> {
        let Some(package) = &mut self.package else { return Ok(()) };
        let operation = if name.is_some() { Operation::Change } else { Operation::Add };
        let there = name
            .as_ref()
            .and_then(|name| package.sections.iter().position(|section| section.name == *name));
        let index = if let Some(index) = there {
            let section = &mut package.sections[index];
            if section.kind == kind {
                self.section = Some(index);
                return Ok(());
            }
            if self.mode == Mode::Strict {
                let text = format!(
                    "section {:?} is of type {:?} already, not {kind:?}: use one type or another name",
                    section.name, section.kind
                );
                return Err(self.wrong(text));
            }
            section.retype(kind);
            index
        } else {
            if package.sections.len() >= MAX_SECTIONS {
                let text =
                    format!("more sections than the limit of {MAX_SECTIONS}: split the file");
                return Err(Fault::File(self.reader.problem(text)));
            }
            package.push(kind, name)
        };
        self.section = Some(index);
        if let Some(recorded) = &mut self.recorded {
            let section = &package.sections[index];
            recorded.push(Delta {
                operation,
                section: section.name.clone(),
                option: None,
                value: Some(section.kind.clone()),
            });
        }
        Ok(())
    }

    fn option(&mut self) -> Result<(), Fault> {
        self.assign(Operation::Change)
    }

    fn list(&mut self) -> Result<(), Fault> {
        self.assign(Operation::ListAdd)
    }

    fn assign(&mut self, operation: Operation) -> Result<(), Fault> {
        let word = if operation == Operation::ListAdd { "list" } else { "option" };
        let Some(index) = self.section else {
            return Err(
                self.wrong(format!("{word} before the first section: write config TYPE first"))
            );
        };
        let name = self.required(word)?;
        if !is_name(&name) {
            return Err(
                self.wrong(format!("{name:?} is no name of an option: letters, digits and _ are"))
            );
        }
        let value = self.reader.argument()?;
        self.end_of_command()?;
        let Some(package) = &mut self.package else { return Ok(()) };
        let section = &mut package.sections[index];
        let there = section.option(&name);
        if operation == Operation::Change {
            // An empty option says nothing, not even that an earlier one doesn't count.
            let same =
                |option: &crate::Opt| matches!(&option.value, Value::Text(text) if *text == value);
            if value.is_empty() || there.is_some_and(same) {
                return Ok(());
            }
        }
        let limit = if there.is_none() && section.options.len() >= MAX_OPTIONS {
            Some(("options in a section", MAX_OPTIONS))
        } else {
            self.values += 1;
            (self.values > MAX_VALUES).then_some(("values", MAX_VALUES))
        };
        if let Some((what, limit)) = limit {
            let text = format!("more {what} than the limit of {limit}: split the file");
            return Err(Fault::File(self.reader.problem(text)));
        }
        if let Some(recorded) = &mut self.recorded {
            recorded.push(Delta {
                operation,
                section: section.name.clone(),
                option: Some(name.clone()),
                value: Some(value.clone().into_owned()),
            });
        }
        if operation == Operation::ListAdd {
            section.add_item(&name, value.into_owned());
        } else {
            section.set(&name, value.into_owned());
        }
        Ok(())
    }

    /// An argument that must be there.
    fn required(&mut self, word: &str) -> Result<String, Fault> {
        let argument = self.reader.argument()?;
        if argument.is_empty() {
            let what = if word == "config" { "type" } else { "name" };
            return Err(self.wrong(format!("{word} without a {what}")));
        }
        Ok(argument.into_owned())
    }

    /// In strict mode nothing more may come before the end of the command. libuci skips one argument in lenient mode, and takes
    /// what follows for a command.
    fn end_of_command(&mut self) -> Result<(), Fault> {
        let extra = self.reader.argument()?;
        if !extra.is_empty() && self.mode == Mode::Strict {
            return Err(self.wrong(format!(
                "{extra:?} is one argument too many: put quotes around a value with blanks"
            )));
        }
        Ok(())
    }

    fn wrong(&self, text: impl Into<String>) -> Fault {
        Fault::Line(self.reader.problem(text))
    }
}
