//! Prints JSON, byte for byte as json-c and libubox do. Does not read.

use super::{Json, c_text, clamped};

/// On one line with blanks, as json-c does.
pub(in crate::applets) fn spaced(value: &Json) -> Vec<u8> {
    let mut text = Vec::new();
    write_spaced(&mut text, value);
    text
}

fn write_spaced(text: &mut Vec<u8>, value: &Json) {
    match value {
        Json::Null => text.extend_from_slice(b"null"),
        Json::Bool(true) => text.extend_from_slice(b"true"),
        Json::Bool(false) => text.extend_from_slice(b"false"),
        Json::Int(number) => text.extend_from_slice(number.to_string().as_bytes()),
        Json::Double { text: Some(written), .. } => text.extend_from_slice(written.as_bytes()),
        Json::Double { value, text: None } => text.extend_from_slice(double(*value).as_bytes()),
        Json::Text(letters) => quoted(text, letters, Escapes::JsonC),
        Json::Array(elements) => {
            text.push(b'[');
            for (number, element) in elements.iter().enumerate() {
                text.extend_from_slice(if number == 0 { b" " } else { b", " });
                write_spaced(text, element);
            }
            text.extend_from_slice(b" ]");
        }
        Json::Object(members) => {
            text.push(b'{');
            for (number, (name, member)) in members.iter().enumerate() {
                text.extend_from_slice(if number == 0 { b" " } else { b", " });
                quoted(text, c_text(name), Escapes::JsonC);
                text.extend_from_slice(b": ");
                write_spaced(text, member);
            }
            text.extend_from_slice(b" }");
        }
    }
}

/// A tab a level, as libubox does.
pub(in crate::applets) fn indented(value: &Json) -> Vec<u8> {
    let mut text = Vec::new();
    write_indented(&mut text, value, 0);
    text
}

fn write_indented(text: &mut Vec<u8>, value: &Json, depth: usize) {
    match value {
        Json::Int(number) => text.extend_from_slice(clamped(*number).to_string().as_bytes()),
        Json::Double { value, .. } => text.extend_from_slice(format!("{value:.6}").as_bytes()),
        Json::Text(letters) => quoted(text, c_text(letters), Escapes::Libubox),
        Json::Array(elements) => {
            text.push(b'[');
            line(text, depth + 1);
            for (number, element) in elements.iter().enumerate() {
                separate(text, number, depth + 1);
                write_indented(text, element, depth + 1);
            }
            line(text, depth);
            text.push(b']');
        }
        Json::Object(members) => {
            text.push(b'{');
            line(text, depth + 1);
            for (number, (name, member)) in members.iter().enumerate() {
                separate(text, number, depth + 1);
                quoted(text, c_text(name), Escapes::Libubox);
                text.extend_from_slice(b": ");
                write_indented(text, member, depth + 1);
            }
            line(text, depth);
            text.push(b'}');
        }
        Json::Null | Json::Bool(_) => write_spaced(text, value),
    }
}

fn line(text: &mut Vec<u8>, depth: usize) {
    text.push(b'\n');
    text.resize(text.len() + depth, b'\t');
}

/// What stands before all but the first of several.
fn separate(text: &mut Vec<u8>, number: usize, depth: usize) {
    if number > 0 {
        text.push(b',');
        line(text, depth);
    }
}

/// What is escaped beside quotes, backslashes and control characters.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Escapes {
    /// Slashes, and form feeds by a letter.
    JsonC,
    Libubox,
}

fn quoted(text: &mut Vec<u8>, letters: &[u8], escapes: Escapes) {
    text.push(b'"');
    for letter in letters {
        match letter {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *letter]),
            b'/' if escapes == Escapes::JsonC => text.extend_from_slice(b"\\/"),
            0x0c if escapes == Escapes::JsonC => text.extend_from_slice(b"\\f"),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\t' => text.extend_from_slice(b"\\t"),
            b'\r' => text.extend_from_slice(b"\\r"),
            8 => text.extend_from_slice(b"\\b"),
            0..b' ' => text.extend_from_slice(format!("\\u{letter:04x}").as_bytes()),
            _ => text.push(*letter),
        }
    }
    text.push(b'"');
}

/// A number as C's `%.17g` writes it, with a point in any case.
fn double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:.16e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..17).contains(&exponent) {
        let places = usize::try_from(16 - exponent).unwrap_or_default();
        let plain = format!("{value:.places$}");
        let plain = if plain.contains('.') { plain.trim_end_matches('0') } else { &plain };
        let plain = plain.trim_end_matches('.');
        return if plain.contains('.') { plain.to_owned() } else { format!("{plain}.0") };
    }
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_c_writes_them() {
        let written = [0.1, 1.0, -2.5, 1e20, 1.5e-7, 123_456_789.125, 0.0, 1e17, 1e16].map(double);
        let expected = [
            "0.10000000000000001",
            "1.0",
            "-2.5",
            "1e+20",
            "1.4999999999999999e-07",
            "123456789.125",
            "0.0",
            "1e+17",
            "10000000000000000.0",
        ];
        assert_eq!(written, expected);
    }
}
