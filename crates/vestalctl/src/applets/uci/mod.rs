//! Called under the name `uci`: reads and changes the files of `/etc/config`, with the command line, the output and the
//! exit codes of libuci's `uci`.
//!
//! The language and the changes are those of the crate `uci`; `store` has the files. This file has the commands.

mod batch;
mod store;
mod trouble;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    process::ExitCode,
};

use uci::{
    Address, MAX_FILE_BYTES, Mode, Show,
    edit::{Change, apply},
    export, get, merge, parse, parse_all, show, show_option, show_section,
};

use self::batch::{Batch, Line};
pub(super) use self::{store::Store, trouble::Trouble};
use super::{
    complain,
    words::{Word, Words},
};
use crate::output::Output;

const USAGE: &str = "\
Usage: uci [<options>] <command> [<arguments>]

Commands:
\tbatch
\texport     [<config>]
\timport     [<config>]
\tchanges    [<config>]
\tcommit     [<config>]
\tadd        <config> <section-type>
\tadd_list   <config>.<section>.<option>=<string>
\tdel_list   <config>.<section>.<option>=<string>
\tshow       [<config>[.<section>[.<option>]]]
\tget        <config>.<section>[.<option>]
\tset        <config>.<section>[.<option>]=<value>
\tdelete     <config>[.<section>[[.<option>][=<id>]]]
\trename     <config>.<section>[.<option>]=<name>
\trevert     <config>[.<section>[.<option>]]
\treorder    <config>.<section>=<position>

Options:
\t-c <path>  set the search path for config files (default: /etc/config)
\t-C <path>  set the search path for config override files (default: /var/run/uci)
\t-d <str>   set the delimiter for list values in uci show
\t-f <file>  use <file> as input instead of stdin
\t-m         when importing, merge data into an existing package
\t-n         name unnamed sections on export
\t-N         don't name unnamed sections (default)
\t-p <path>  add a search path for config change files
\t-P <path>  add a search path for config change files and use as default
\t-t <path>  set save path for config change files
\t-q         quiet mode (don't print error messages)
\t-s         force strict mode (stop on parser errors, default)
\t-S         disable strict mode
\t-X         do not use extended syntax on 'show'
";

/// The command line, without the command.
#[derive(Default)]
struct Uci {
    store: Store,
    delimiter: Option<String>,
    input: Option<OsString>,
    merge: bool,
    named: bool,
    generated_names: bool,
    quiet: bool,
    /// `-P`: what is changed stays a change.
    never_commit: bool,
    /// `-S`: what is left out of a file is told.
    warn: bool,
    in_batch: bool,
}

pub(super) fn run(args: &[OsString]) -> ExitCode {
    let Some((mut uci, words)) = options(args) else {
        complain(USAGE.trim_end());
        return ExitCode::SUCCESS;
    };
    let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    let code = uci.command(&words);
    if code == Trouble::Usage.code() {
        complain(USAGE.trim_end());
    }
    ExitCode::from(code)
}

/// The options, and the command; `None`: there is none, or an option is not known.
fn options(args: &[OsString]) -> Option<(Uci, &[OsString])> {
    let mut uci = Uci::default();
    let mut words = Words::new(args, "c:C:d:f:mnNp:P:qsSt:X");
    for word in words.by_ref() {
        let Word::Option(letter, argument) = word else { return None };
        match letter {
            b'c' => uci.store.config_dir = argument.into(),
            b'C' => uci.store.override_dir = argument.into(),
            b'd' => uci.delimiter = Some(argument.to_string_lossy().into_owned()),
            b'f' => uci.input = Some(argument),
            b'm' => uci.merge = true,
            b'n' => uci.named = true,
            b'N' => uci.named = false,
            b'p' => uci.store.read_deltas_of(&argument),
            b'P' => {
                uci.store.save_in(&argument);
                uci.never_commit = true;
            }
            b'q' => uci.quiet = true,
            b's' => uci.store.mode = Mode::Strict,
            b'S' => {
                uci.store.mode = Mode::Lenient;
                uci.warn = true;
            }
            b't' => uci.store.save_in(&argument),
            _ => uci.generated_names = true,
        }
    }
    let words = words.rest();
    (!words.is_empty()).then_some((uci, words))
}

impl Uci {
    /// Runs a command; its exit code.
    fn command(&mut self, words: &[Vec<u8>]) -> u8 {
        let Some((name, arguments)) = words.split_first() else { return Trouble::Usage.code() };
        let name = String::from_utf8_lossy(name).to_lowercase();
        let Ok(arguments) = arguments
            .iter()
            .map(|argument| std::str::from_utf8(argument))
            .collect::<Result<Vec<_>, _>>()
        else {
            return self.failed(&Trouble::Invalid, 1);
        };
        let done = match &*name {
            "batch" if !self.in_batch => return self.batch(),
            "show" | "changes" | "export" | "commit" => return self.packages(&name, &arguments),
            "add" => {
                return match self.add(&arguments) {
                    Ok(()) => 0,
                    Err(trouble) => self.failed(&trouble, trouble.code()),
                };
            }
            "import" => self.import(&arguments),
            "help" => {
                complain(USAGE.trim_end());
                return 0;
            }
            _ => self.section(&name, &arguments),
        };
        match done {
            Ok(()) => 0,
            Err(Trouble::Usage) => Trouble::Usage.code(),
            Err(trouble) => self.failed(&trouble, 1),
        }
    }

    fn failed(&self, trouble: &Trouble, code: u8) -> u8 {
        let text = trouble.text();
        if !self.quiet && !text.is_empty() {
            complain(&format!("uci: {text}"));
        }
        code
    }

    /// Text on standard output.
    fn print(text: &str) -> Result<(), Trouble> {
        Output::text(text).map_err(|_| Trouble::Io)
    }

    fn load(&self, name: &str) -> Result<store::Loaded, Trouble> {
        let loaded = self.store.load(name)?;
        self.warn(&loaded.warnings);
        Ok(loaded)
    }

    fn warn(&self, warnings: &[uci::Problem]) {
        for warning in warnings.iter().filter(|_| self.warn) {
            complain(&trouble::parse_error(warning));
        }
    }

    fn how(&self) -> Show<'_> {
        let delimiter = self.delimiter.as_deref().unwrap_or(" ");
        Show { generated_names: self.generated_names, delimiter }
    }

    /// `show`, `changes`, `export`, `commit`: of one package, or of each.
    fn packages(&self, name: &str, arguments: &[&str]) -> u8 {
        let run = |what: &str| self.package(name, what);
        match arguments {
            [] => match self.store.names() {
                Ok(names) => {
                    for package in &names {
                        if let Err(trouble) = run(package) {
                            self.failed(&trouble, 1);
                        }
                    }
                    0
                }
                Err(trouble) => self.failed(&trouble, 1),
            },
            [what] => match run(what) {
                Ok(()) => 0,
                Err(trouble) => self.failed(&trouble, 1),
            },
            _ => Trouble::Usage.code(),
        }
    }

    fn package(&self, command: &str, what: &str) -> Result<(), Trouble> {
        let (file, address) = address(what)?;
        if command == "commit" {
            if self.never_commit {
                return self.load(&file).map(|_| ());
            }
            self.warn(&self.store.commit(&file)?);
            return Ok(());
        }
        let loaded = self.load(&file)?;
        let package = &loaded.package;
        let found = package.find(&address)?;
        match command {
            "changes" => Self::print(&uci::delta::print_changes(&package.name, &loaded.deltas)),
            "export" => Self::print(&export(package, self.named)),
            _ if !found.complete => Err(Trouble::NotFound),
            _ => Self::print(&match (found.section, found.option) {
                (Some(section), Some(option)) => show_option(package, section, option, &self.how()),
                (Some(section), None) => show_section(package, section, &self.how()),
                _ => show(package, &self.how()),
            }),
        }
    }

    fn add(&self, arguments: &[&str]) -> Result<(), Trouble> {
        let [package, kind] = arguments else { return Err(Trouble::Usage) };
        let mut loaded = self.load(package)?;
        let delta = apply(&mut loaded.package, &Change::Add { kind: (*kind).to_owned() })?;
        let name = delta.as_ref().map(|delta| delta.section.clone()).unwrap_or_default();
        self.store.save(&loaded, delta.as_slice())?;
        Self::print(&format!("{name}\n"))
    }

    /// The commands that take one address.
    fn section(&self, command: &str, arguments: &[&str]) -> Result<(), Trouble> {
        let change: fn(Address) -> Change = match command {
            "get" | "revert" => Change::Set,
            "set" => Change::Set,
            "add_list" => Change::AddList,
            "del_list" => Change::DelList,
            "del" | "delete" => Change::Delete,
            "ren" | "rename" => Change::Rename,
            "reorder" => Change::Reorder,
            _ => return Err(Trouble::Usage),
        };
        let [what] = arguments else { return Err(Trouble::Usage) };
        let (file, address) = address(what)?;
        let mut loaded = self.load(&file)?;
        match command {
            "get" | "revert" if address.value.is_some() => Err(Trouble::Silent),
            "del" | "delete" if !address.value.as_deref().is_none_or(begins_with_number) => {
                Err(Trouble::Silent)
            }
            "get" => self.get(&loaded, &address),
            "revert" => {
                // A section is kept under its own name, however it is called here.
                let found = loaded.package.find(&address)?.section;
                let section = found.map(|section| &section.name).or(address.section.as_ref());
                let section = section.map(String::as_str);
                self.store.revert(&loaded.package.name, section, address.option.as_deref())
            }
            "reorder"
                if loaded.package.find(&address)?.section.is_none() || address.value.is_none() =>
            {
                Err(Trouble::NotFound)
            }
            _ => {
                let delta = apply(&mut loaded.package, &change(address))?;
                self.store.save(&loaded, delta.as_slice())
            }
        }
    }

    fn get(&self, loaded: &store::Loaded, address: &Address) -> Result<(), Trouble> {
        let found = loaded.package.find(address)?;
        if !found.complete {
            return Err(Trouble::NotFound);
        }
        match (found.option, found.section) {
            (Some(option), _) => {
                Self::print(&format!("{}\n", get(&option.value, self.how().delimiter)))
            }
            (None, Some(section)) => Self::print(&format!("{}\n", section.kind)),
            (None, None) => Ok(()),
        }
    }

    fn import(&self, arguments: &[&str]) -> Result<(), Trouble> {
        let name = match arguments {
            [] if self.merge => return Err(Trouble::Usage),
            [] => None,
            [name] => Some(*name),
            _ => return Err(Trouble::Usage),
        };
        let text = self.input()?;
        if let (true, Some(name)) = (self.merge, name)
            && let Ok(mut loaded) = self.load(name)
        {
            let (deltas, warnings) = merge(&mut loaded.package, &text, self.store.mode)?;
            self.warn(&warnings);
            return self.store.save(&loaded, &deltas);
        }
        let (packages, warnings) = match name {
            Some(name) => {
                let parsed = parse(name, &text, self.store.mode)?;
                (vec![parsed.package], parsed.warnings)
            }
            None => parse_all(&text, self.store.mode)?,
        };
        self.warn(&warnings);
        packages.iter().try_for_each(|package| self.store.import(package))
    }

    /// What stands on standard input, or in the file that is given instead.
    fn input(&self) -> Result<Vec<u8>, Trouble> {
        let from: Box<dyn io::Read> = match &self.input {
            Some(file) => Box::new(File::open(file).map_err(|error| {
                if !self.quiet {
                    complain(&format!("uci: {}", super::reason(&error)));
                }
                Trouble::Silent
            })?),
            None => Box::new(io::stdin().lock()),
        };
        let mut text = Vec::new();
        from.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut text)?;
        Ok(text)
    }

    /// Runs commands, each on its own: one that fails stops none.
    fn batch(&mut self) -> u8 {
        let text = match self.input() {
            Ok(text) if text.len() <= MAX_FILE_BYTES => text,
            Ok(_) => return self.failed(&Trouble::Io, 1),
            Err(trouble) => return self.failed(&trouble, 1),
        };
        self.in_batch = true;
        for line in Batch::new(&text) {
            let words = match line {
                Line::Words(words) => words,
                Line::TooMany => {
                    self.say("Too many arguments");
                    continue;
                }
                Line::Unterminated => {
                    self.failed(&Trouble::Parse(None), 1);
                    continue;
                }
            };
            let Some(name) = words.first() else { continue };
            if name.eq_ignore_ascii_case(b"exit") {
                break;
            }
            if self.command(&words) == Trouble::Usage.code() {
                self.say("Unknown command");
            }
        }
        0
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            complain(text);
        }
    }
}

/// An item of a list is named by its number.
fn begins_with_number(text: &str) -> bool {
    let text = text.trim_start();
    text.strip_prefix(['+', '-'])
        .unwrap_or(text)
        .starts_with(|letter: char| letter.is_ascii_digit())
}

/// The package's name or file, and what is meant in it: `/path/to/file.section.option` is allowed too.
fn address(what: &str) -> Result<(String, Address), Trouble> {
    let path = what.split(['.', '=']).next().unwrap_or_default();
    let Some((_, name)) = path.rsplit_once('/').filter(|_| path.starts_with('/')) else {
        let address = Address::parse(what)?;
        return Ok((address.package.clone(), address));
    };
    let address = Address::parse(&format!("{name}{}", &what[path.len()..]))?;
    Ok((path.to_owned(), address))
}

/// For property tests: reads any bytes as a batch, which must end.
#[cfg(test)]
pub(super) fn exercise(bytes: &[u8]) {
    assert!(Batch::new(bytes).count() <= bytes.len() + 1);
}

/// For property tests: reads any text as an address.
#[cfg(test)]
pub(super) fn exercise_address(text: &str) {
    if let Ok((file, address)) = address(text) {
        assert!(file.ends_with(&address.package), "{text:?}: {file:?} {address:?}");
    }
}
