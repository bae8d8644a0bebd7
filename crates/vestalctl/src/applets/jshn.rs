//! Called under the name `jshn`: JSON to commands of the shell, and back from the variables that these commands set.
//! It reads the environment and one file at most.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::ExitCode,
};

use super::{
    complain,
    json::{Json, c_text, clamped, document, indented, spaced},
    words::{Word, Words},
};
use crate::output::Output;

/// The largest message that is read from a file.
const MESSAGE_MAX: u64 = 16 << 20;
/// The deepest nesting of a message that is put together.
const DEPTH_MAX: usize = 32;
/// The most values of a message that is put together. Variables may name one another in a ring.
const VALUES_MAX: usize = 1 << 20;

/// Exit codes of the original, which are no promise of ours elsewhere.
const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const NO_FILE: u8 = 3;
const NOT_FORMATTED: u8 = 255;

/// How a message is printed.
#[derive(Clone, Copy, Default)]
struct Style {
    no_newline: bool,
    indent: bool,
}

pub(super) fn run(args: &[OsString]) -> ExitCode {
    let mut prefix = OsString::new();
    let mut style = Style::default();
    // The first option that does something is the last one that counts.
    for word in Words::new(args, "p:nir:R:o:w") {
        match word {
            Word::Option(b'p', text) => prefix = text,
            Word::Option(b'n', _) => style.no_newline = true,
            Word::Option(b'i', _) => style.indent = true,
            Word::Option(b'r', text) => return ended(parse(text.as_bytes())),
            Word::Option(b'R', file) => return ended(parse_file(Path::new(&file))),
            Word::Option(b'w', _) => {
                return ended(format(&prefix, style).and_then(|text| print(&text)));
            }
            Word::Option(b'o', file) => {
                let written =
                    format(&prefix, style).and_then(|text| write(Path::new(&file), &text));
                return ended(written);
            }
            Word::Option(..) | Word::Wrong(_) => break,
        }
    }
    complain("Usage: jshn [-n] [-i] -r <message>|-R <file>|-o <file>|-p <prefix>|-w");
    ExitCode::from(USAGE)
}

/// An exit code and what is said beside it.
type End = (u8, String);

fn ended(end: Result<(), End>) -> ExitCode {
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            complain(&text);
            ExitCode::from(code)
        }
    }
}

fn print(text: &[u8]) -> Result<(), End> {
    Output::bytes(text).map_err(|error| (REFUSED, error.text))
}

fn write(file: &Path, text: &[u8]) -> Result<(), End> {
    // As the original: a script may name a device or a pipe here.
    fs::write(file, text).map_err(|_| (NO_FILE, format!("Error opening {}", file.display())))
}

fn parse_file(file: &Path) -> Result<(), End> {
    let shown = file.display();
    let mut text = Vec::new();
    let opened = File::open(file).map_err(|_| (NO_FILE, format!("Error opening {shown}")))?;
    opened
        .take(MESSAGE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|_| (NO_FILE, format!("Error reading {shown}")))?;
    if text.len() as u64 > MESSAGE_MAX {
        return Err((NO_FILE, format!("Error reading {shown}: longer than {MESSAGE_MAX} bytes")));
    }
    parse(&text)
}

fn parse(text: &[u8]) -> Result<(), End> {
    let Ok(Json::Object(members)) = document(text) else {
        return Err((REFUSED, "Failed to parse message data".to_owned()));
    };
    let mut commands = b"json_init;\n".to_vec();
    for (name, member) in &members {
        add(&mut commands, name, member);
    }
    print(&commands)
}

/// The command that adds a value.
fn add(commands: &mut Vec<u8>, name: &[u8], value: &Json) {
    commands.extend_from_slice(b"json_add_");
    commands.extend_from_slice(value.kind().as_bytes());
    commands.extend_from_slice(b" '");
    let plain = |byte: &u8| if byte.is_ascii_alphanumeric() { *byte } else { b'_' };
    commands.extend(c_text(name).iter().map(plain));
    commands.push(b'\'');
    match value {
        Json::Object(members) => {
            commands.extend_from_slice(b";\n");
            members.iter().for_each(|(name, member)| add(commands, name, member));
            commands.extend_from_slice(b"json_close_object");
        }
        Json::Array(elements) => {
            commands.extend_from_slice(b";\n");
            for (number, element) in elements.iter().enumerate() {
                add(commands, number.to_string().as_bytes(), element);
            }
            commands.extend_from_slice(b"json_close_array");
        }
        Json::Text(text) => {
            commands.extend_from_slice(b" '");
            for byte in c_text(text) {
                let byte = std::slice::from_ref(byte);
                commands.extend_from_slice(if byte == b"'" { b"'\\''" } else { byte });
            }
            commands.push(b'\'');
        }
        Json::Bool(value) => commands.extend_from_slice(if *value { b" 1" } else { b" 0" }),
        Json::Int(number) => {
            commands.extend_from_slice(format!(" {}", clamped(*number)).as_bytes())
        }
        Json::Double { value, .. } => commands.extend_from_slice(c_double(*value).as_bytes()),
        Json::Null => {}
    }
    commands.extend_from_slice(b";\n");
}

/// As C's `%lf`.
fn c_double(value: f64) -> String {
    match value {
        _ if value.is_nan() => " nan".to_owned(),
        _ => format!(" {value:.6}"),
    }
}

/// The message that the variables hold.
fn format(prefix: &OsStr, style: Style) -> Result<Vec<u8>, End> {
    let variables: HashMap<OsString, OsString> = std::env::vars_os().collect();
    let mut builder = Builder { variables: &variables, prefix: prefix.as_bytes(), values: 0 };
    let message = builder.members(b"J_V", 0).map(Json::Object);
    let message = message.map_err(|text| (NOT_FORMATTED, text))?;
    let mut text = if style.indent { indented(&message) } else { spaced(&message) };
    if !style.no_newline {
        text.push(b'\n');
    }
    Ok(text)
}

/// Puts a message together: the variable `K_TABLE` lists the names in a table, `TABLE_NAME` is a value (or the table of
/// what is inside), `T_TABLE_NAME` its type, `N_TABLE_NAME` its name where that is no name for a variable.
struct Builder<'a> {
    variables: &'a HashMap<OsString, OsString>,
    prefix: &'a [u8],
    values: usize,
}

impl<'a> Builder<'a> {
    fn variable(&self, parts: &[&[u8]]) -> Option<&'a [u8]> {
        let name = [self.prefix, &parts.concat()].concat();
        self.variables.get(OsStr::from_bytes(&name)).map(|value| value.as_bytes())
    }

    /// What is in a table, with names.
    fn members(&mut self, table: &[u8], depth: usize) -> Result<Vec<(Vec<u8>, Json)>, String> {
        if depth >= DEPTH_MAX {
            return Err(format!(
                "the variables nest deeper than {DEPTH_MAX} levels; does a table hold itself?"
            ));
        }
        let keys = self.variable(&[b"K_", table]).unwrap_or_default();
        let mut members: Vec<(Vec<u8>, Json)> = Vec::new();
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        for key in keys.split(|byte| *byte == b' ').filter(|key| !key.is_empty()) {
            let value = self.variable(&[table, b"_", key]);
            let kind = self.variable(&[b"T_", table, b"_", key]);
            let (Some(value), Some(kind)) = (value, kind) else { continue };
            self.values += 1;
            if self.values > VALUES_MAX {
                return Err(format!(
                    "the variables hold more than {VALUES_MAX} values; does a table hold itself?"
                ));
            }
            let Some(value) = self.value(kind, value, depth)? else { continue };
            let name = self.variable(&[b"N_", table, b"_", key]).unwrap_or(key);
            match places.get(name) {
                Some(place) => members[*place].1 = value,
                None => {
                    places.insert(name, members.len());
                    members.push((name.to_vec(), value));
                }
            }
        }
        Ok(members)
    }

    /// Elements have numbers for names, and each its own.
    fn value(&mut self, kind: &[u8], text: &[u8], depth: usize) -> Result<Option<Json>, String> {
        Ok(Some(match kind {
            b"object" => Json::Object(self.members(text, depth + 1)?),
            b"array" => {
                let members = self.members(text, depth + 1)?;
                Json::Array(members.into_iter().map(|(_, value)| value).collect())
            }
            b"string" => Json::Text(text.to_vec()),
            b"int" => Json::Int(i128::from(clamped(leading_whole(text)))),
            b"double" => Json::Double { value: leading_double(text), text: None },
            b"boolean" => Json::Bool(leading_whole(text) != 0),
            b"null" => Json::Null,
            _ => return Ok(None),
        }))
    }
}

/// The number that a text begins with, as C's atoll(3); 0 where there is none.
fn leading_whole(text: &[u8]) -> i128 {
    let text = text.trim_ascii_start();
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let number = digits.fold(0_i128, |number, digit| {
        number.saturating_mul(10).saturating_add(i128::from(digit - b'0'))
    });
    if negative { -number } else { number }
}

/// The number that a text begins with, as C's strtod(3) reads decimal ones; 0 where there is none.
fn leading_double(text: &[u8]) -> f64 {
    let text = text.trim_ascii_start();
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let length = text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
    (1..=text.len()).rev().find_map(|length| text[..length].parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(variables: &[(&str, &str)]) -> Result<String, String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut builder = Builder { variables: &variables, prefix: b"x", values: 0 };
        let message = builder.members(b"J_V", 0)?;
        Ok(String::from_utf8(spaced(&Json::Object(message))).unwrap())
    }

    #[test]
    fn tables_that_hold_themselves_are_refused() {
        let ring = [("xK_J_V", "a"), ("xJ_V_a", "J_V"), ("xT_J_V_a", "object")];
        assert!(built(&ring).unwrap_err().contains("deeper than 32 levels"));
        // Without a limit this one would hold 2 to the power of 31 values.
        let twice = [
            ("xK_J_V", "a b"),
            ("xJ_V_a", "J_V"),
            ("xT_J_V_a", "object"),
            ("xJ_V_b", "J_V"),
            ("xT_J_V_b", "object"),
        ];
        assert!(built(&twice).is_err());
    }

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        assert_eq!(leading_whole(b" -12x"), -12);
        assert_eq!(leading_whole(b"x"), 0);
        assert_eq!(
            clamped(leading_whole(b"999999999999999999999999999999999999999999999")),
            i64::MAX
        );
        assert_eq!(leading_double(b"1.5e3kg"), 1500.0);
        assert_eq!(leading_double(b"1e"), 1.0);
        assert_eq!(leading_double(b"-"), 0.0);
    }
}
