//! Called under the name `jsonfilter`: prints the parts of a JSON document that an expression selects, for scripts.
//!
//! `expression` reads what is asked for, `matcher` finds it, this file reads the document and prints.

mod expression;
mod matcher;
mod posix;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::ExitCode,
};

use self::expression::{Expression, Mistake};
use super::{
    complain,
    json::{Json, c_text, clamped, document, documents, spaced},
    reason,
    words::{Word, Words},
};
use crate::output::Output;

/// The largest document.
const DOCUMENT_MAX: u64 = 64 << 20;

/// Exit codes of the original.
const NO_MATCH: u8 = 1;
const NO_FILE: u8 = 125;
const NO_JSON: u8 = 126;

const USAGE: &str = "\
Usage: jsonfilter [-a] [-q] [-l limit] [-F separator] [-i file | -s json] {-t expression | -e expression}...

  -a             the document is a sequence of values; take them as an array
  -e expression  print the values
  -t expression  print the types of the values
  -e VAR=expr    print `export VAR=...; ` for a shell's eval
  -F separator   between the values of an export
  -i file        read this file instead of standard input
  -l limit       print so many values at most
  -q             print no errors
  -s json        the document itself

Expressions begin with @ or $: @.name, @['any name'], @[0], @[-1], @[*], @[0,2], @[@.up=true].name;
filters know = != < <= > >= ~ (a regular expression: /x/ basic, /x/e extended, /x/i any case) && || ! ( ).
";

/// What is printed of what matches.
#[derive(Clone, Copy, Eq, PartialEq)]
enum What {
    Values,
    Types,
}

struct Options {
    quiet: bool,
    sequence: bool,
    file: Option<OsString>,
    text: Option<OsString>,
    asked: Vec<Asked>,
}

/// One `-e` or `-t`, with the limit and separator that stood before it.
struct Asked {
    what: What,
    expression: OsString,
    separator: Vec<u8>,
    limit: usize,
}

pub(super) fn run(args: &[OsString]) -> ExitCode {
    let Some(options) = options(args) else {
        return match Output::text(USAGE) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    };
    let say = |text: &str| {
        if !options.quiet {
            complain(text);
        }
    };
    if options.asked.is_empty() {
        return ExitCode::SUCCESS;
    }
    let document = match read(&options) {
        Ok(document) => document,
        Err((code, text)) => {
            say(&text);
            return ExitCode::from(code);
        }
    };
    let mut code = ExitCode::SUCCESS;
    let mut printed = Vec::new();
    for asked in &options.asked {
        let found = match Expression::parse(asked.expression.as_bytes()) {
            Ok(expression) => filter(&mut printed, &document, &expression, asked),
            Err(mistake) => {
                say(&explained(&mistake, asked));
                false
            }
        };
        if !found {
            code = ExitCode::from(NO_MATCH);
        }
    }
    match Output::bytes(&printed) {
        Ok(()) => code,
        Err(error) => {
            say(&error.text);
            ExitCode::FAILURE
        }
    }
}

/// `None`: help is asked for.
fn options(args: &[OsString]) -> Option<Options> {
    let mut options =
        Options { quiet: false, sequence: false, file: None, text: None, asked: Vec::new() };
    let (mut separator, mut limit) = (b" ".to_vec(), i32::MAX);
    for word in Words::new(args, "ahi:s:e:t:F:l:q") {
        // What is not known was always overlooked here.
        let Word::Option(letter, argument) = word else { continue };
        match letter {
            b'a' => options.sequence = true,
            b'h' => return None,
            b'i' => options.file = Some(argument),
            b's' => options.text = Some(argument),
            b'F' if !argument.is_empty() => separator = argument.as_bytes().to_vec(),
            b'l' => limit = argument.to_str().and_then(|text| text.parse().ok()).unwrap_or(0),
            b'q' => options.quiet = true,
            b'e' | b't' => options.asked.push(Asked {
                what: if letter == b't' { What::Types } else { What::Values },
                expression: argument,
                separator: separator.clone(),
                limit: usize::try_from(limit).unwrap_or(0),
            }),
            _ => {}
        }
    }
    (!args.is_empty()).then_some(options)
}

fn read(options: &Options) -> Result<Json, (u8, String)> {
    let mut text = Vec::new();
    if let Some(given) = &options.text {
        text = given.as_bytes().to_vec();
    } else {
        let from: Box<dyn io::Read> = match &options.file {
            Some(file) => {
                let shown = Path::new(file).display();
                let opened = File::open(file).map_err(|error| {
                    (NO_FILE, format!("Failed to open {shown}: {}", reason(&error)))
                })?;
                Box::new(opened)
            }
            None => Box::new(io::stdin().lock()),
        };
        let unread = |error| (NO_JSON, format!("Failed to parse JSON data: {error}"));
        from.take(DOCUMENT_MAX + 1).read_to_end(&mut text).map_err(unread)?;
        if text.len() as u64 > DOCUMENT_MAX {
            let text = format!("Failed to parse JSON data: longer than {DOCUMENT_MAX} bytes");
            return Err((NO_JSON, text));
        }
    }
    let read = if options.sequence { documents(&text).map(Json::Array) } else { document(&text) };
    let read = match read {
        // The original can't tell `null` from nothing at all.
        Ok(Json::Null) => Err("success".to_owned()),
        read => read.map_err(|problem| format!("{} at byte {}", problem.text, problem.at)),
    };
    read.map_err(|text| (NO_JSON, format!("Failed to parse JSON data: {text}")))
}

/// Prints what matches; whether anything but `null` did.
fn filter(printed: &mut Vec<u8>, document: &Json, expression: &Expression, asked: &Asked) -> bool {
    let found = matcher::all(expression, document);
    if found.is_empty() {
        return false;
    }
    let shown = found.iter().copied().take(asked.limit);
    match (asked.what, &expression.variable) {
        (What::Types, variable) => {
            let kinds: Vec<_> = shown.map(Json::kind).collect();
            // The original separates before it looks at its limit.
            let more = if found.len() > asked.limit && !kinds.is_empty() { "\\ " } else { "" };
            let kinds = format!("{}{more}", kinds.join("\\ "));
            match variable {
                Some(variable) => printed.extend(format!("export {variable}={kinds}; ").bytes()),
                None => printed.extend(format!("{kinds}\n").bytes()),
            }
        }
        (What::Values, Some(variable)) => {
            printed.extend(format!("export {variable}=").bytes());
            let mut export = Export { printed, separator: &asked.separator, written: 0 };
            shown.for_each(|value| export.value(value));
            printed.extend_from_slice(b"; ");
        }
        (What::Values, None) => {
            for value in shown {
                match value {
                    Json::Null => continue,
                    Json::Text(text) => printed.extend_from_slice(c_text(text)),
                    _ => printed.extend_from_slice(&spaced(value)),
                }
                printed.push(b'\n');
            }
        }
    }
    found.iter().any(|value| **value != Json::Null)
}

/// Writes the words of an `export`.
struct Export<'a> {
    printed: &'a mut Vec<u8>,
    separator: &'a [u8],
    written: usize,
}

impl Export<'_> {
    fn value(&mut self, value: &Json) {
        match value {
            Json::Object(members) => {
                for (name, _) in members.iter().filter(|(_, member)| *member != Json::Null) {
                    self.text(name);
                }
            }
            Json::Array(elements) => {
                for number in 0..elements.len() {
                    self.word(number.to_string().as_bytes());
                }
            }
            Json::Bool(value) => self.word(if *value { b"1" } else { b"0" }),
            Json::Int(number) => self.word(clamped(*number).to_string().as_bytes()),
            Json::Double { value, .. } => self.word(format!("{value:.6}").as_bytes()),
            Json::Text(text) => self.text(text),
            Json::Null => {}
        }
    }

    fn text(&mut self, text: &[u8]) {
        let mut word = b"'".to_vec();
        for byte in c_text(text) {
            let byte = std::slice::from_ref(byte);
            word.extend_from_slice(if byte == b"'" { b"'\"'\"'" } else { byte });
        }
        word.push(b'\'');
        self.word(&word);
    }

    /// Between words stand the bytes of the separator in turn.
    fn word(&mut self, word: &[u8]) {
        if let Some(before) = self.written.checked_sub(1) {
            match self.separator[before % self.separator.len()] {
                b'"' => self.printed.extend_from_slice(b"'\"'"),
                b'\'' => self.printed.extend_from_slice(b"\"'\""),
                b' ' => self.printed.extend_from_slice(b"\\ "),
                byte => self.printed.push(byte),
            }
        }
        self.written += 1;
        self.printed.extend_from_slice(word);
    }
}

fn explained(mistake: &Mistake, asked: &Asked) -> String {
    let shown = asked.expression.to_string_lossy();
    let pointer = "-".repeat(mistake.at);
    format!("Syntax error: {}\nIn expression {shown}\nNear here ----{pointer}^", mistake.text)
}

/// For property tests: what an expression selects; `None`: it is none.
#[cfg(test)]
pub(super) fn exercise(expression: &[u8], document: &Json) -> Option<Vec<Json>> {
    let expression = Expression::parse(expression).ok()?;
    Some(matcher::all(&expression, document).into_iter().cloned().collect())
}
