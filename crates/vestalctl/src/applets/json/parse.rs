//! Reads JSON. More than the standard allows, as json-c does, since scripts write it: single quotes, comments, a comma
//! too many, `True`. Never recurses deeper than [`DEPTH_MAX`].

use std::collections::HashMap;

use super::Json;

/// Deepest nesting; json-c's.
const DEPTH_MAX: usize = 32;

/// Why a text is no JSON.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::applets) struct Problem {
    /// The byte at which it was noticed.
    pub(in crate::applets) at: usize,
    pub(in crate::applets) text: &'static str,
}

/// The first value of a text; what follows it is left alone.
pub(in crate::applets) fn document(text: &[u8]) -> Result<Json, Problem> {
    Reader { text, at: 0 }.value(0)
}

/// All values of a text, one after the other.
pub(in crate::applets) fn documents(text: &[u8]) -> Result<Vec<Json>, Problem> {
    let mut reader = Reader { text, at: 0 };
    let mut values = Vec::new();
    loop {
        reader.blank()?;
        if reader.peek().is_none() {
            return Ok(values);
        }
        values.push(reader.value(0)?);
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        // C programs see no further than the first NUL.
        self.text.get(self.at).copied().filter(|byte| *byte != 0)
    }

    fn wrong<T>(&self, text: &'static str) -> Result<T, Problem> {
        let text = if self.peek().is_none() { "unexpected end of data" } else { text };
        Err(Problem { at: self.at, text })
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Blanks and comments.
    fn blank(&mut self) -> Result<(), Problem> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => self.at += 1,
                Some(b'/') => self.comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn comment(&mut self) -> Result<(), Problem> {
        let rest = &self.text[self.at..];
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            let end = rest[2..].windows(2).position(|two| two == b"*/");
            match end {
                Some(end) => end + 4,
                None => return Err(Problem { at: self.at, text: "unexpected end of data" }),
            }
        } else {
            return self.wrong("expected comment");
        };
        self.at += length;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Json, Problem> {
        self.blank()?;
        if depth >= DEPTH_MAX {
            return self.wrong("nesting too deep");
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(quote @ (b'"' | b'\'')) => self.string(quote).map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, Problem> {
        self.at += 1;
        let mut elements = Vec::new();
        loop {
            self.blank()?;
            if self.take(b']') {
                return Ok(Json::Array(elements));
            }
            elements.push(self.value(depth + 1)?);
            self.blank()?;
            if !self.take(b',') && self.peek() != Some(b']') {
                return self.wrong("array value separator ',' expected");
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, Problem> {
        self.at += 1;
        let mut members = Vec::new();
        loop {
            self.blank()?;
            if self.take(b'}') {
                return Ok(Json::Object(unique(members)));
            }
            let Some(quote @ (b'"' | b'\'')) = self.peek() else {
                return self.wrong("quoted object property name expected");
            };
            let name = self.string(quote)?;
            self.blank()?;
            if !self.take(b':') {
                return self.wrong("object property name separator ':' expected");
            }
            members.push((name, self.value(depth + 1)?));
            self.blank()?;
            if !self.take(b',') && self.peek() != Some(b'}') {
                return self.wrong("object value separator ',' expected");
            }
        }
    }

    /// A string; the reader stands at its first quote.
    fn string(&mut self, quote: u8) -> Result<Vec<u8>, Problem> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let Some(byte) = self.peek() else { return self.wrong("") };
            self.at += 1;
            match byte {
                b'\\' => self.escape(&mut text)?,
                _ if byte == quote => return Ok(text),
                _ => text.push(byte),
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), Problem> {
        let byte = match self.peek() {
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'u') => return self.unicode(text),
            _ => return self.wrong("invalid string sequence"),
        };
        self.at += 1;
        text.push(byte);
        Ok(())
    }

    /// `uXXXX`, with the second half of a pair where there is one; half a pair is a replacement character.
    fn unicode(&mut self, text: &mut Vec<u8>) -> Result<(), Problem> {
        let Some(first) = self.four_digits(self.at) else {
            return self.wrong("invalid string sequence");
        };
        self.at += 5;
        let mut code = first;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
            let second =
                self.four_digits(self.at + 1).filter(|code| (0xdc00..0xe000).contains(code));
            if let Some(second) = second {
                self.at += 6;
                code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            }
        }
        let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    /// The code of `uXXXX` at this place.
    fn four_digits(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at + 1..at + 5)?;
        let digits = std::str::from_utf8(digits).ok()?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16).ok().filter(|_| plain)
    }

    fn number(&mut self) -> Result<Json, Problem> {
        let rest = &self.text[self.at..];
        if rest.len() > 1
            && rest[1..].to_ascii_lowercase().starts_with(b"infinity")
            && rest[0] == b'-'
        {
            self.at += 9;
            return Ok(Json::Double { value: f64::NEG_INFINITY, text: None });
        }
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        let text = String::from_utf8_lossy(&rest[..length]).into_owned();
        let number = if text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            text.parse().ok().map(|value| Json::Double { value, text: Some(text) })
        } else {
            whole(&text)
        };
        let Some(number) = number else { return self.wrong("number expected") };
        self.at += length;
        Ok(number)
    }

    fn word(&mut self) -> Result<Json, Problem> {
        let words = [
            ("null", Json::Null),
            ("true", Json::Bool(true)),
            ("false", Json::Bool(false)),
            ("nan", Json::Double { value: f64::NAN, text: None }),
            ("infinity", Json::Double { value: f64::INFINITY, text: None }),
        ];
        for (word, value) in words {
            let written = self.text.get(self.at..self.at + word.len());
            if written.is_some_and(|written| written.eq_ignore_ascii_case(word.as_bytes())) {
                self.at += word.len();
                return Ok(value);
            }
        }
        self.wrong("unexpected character")
    }
}

/// Digits with or without a minus sign.
fn whole(text: &str) -> Option<Json> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Too long for 128 bits is beyond the bounds in any case.
    let number = digits.parse().unwrap_or(i128::MAX);
    let number = if digits.len() < text.len() { -number } else { number };
    Some(Json::Int(number.clamp(i128::from(i64::MIN), i128::from(u64::MAX))))
}

/// Of members with one name the last value counts, at the place of the first.
fn unique(members: Vec<(Vec<u8>, Json)>) -> Vec<(Vec<u8>, Json)> {
    let mut places: HashMap<Vec<u8>, usize> = HashMap::with_capacity(members.len());
    let mut kept: Vec<(Vec<u8>, Json)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        match places.get(&name) {
            Some(place) => kept[*place].1 = value,
            None => {
                places.insert(name.clone(), kept.len());
                kept.push((name, value));
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applets::json::spaced;

    fn shown(text: &str) -> String {
        match document(text.as_bytes()) {
            Ok(value) => String::from_utf8(spaced(&value)).unwrap(),
            Err(problem) => format!("{}: {}", problem.at, problem.text),
        }
    }

    #[test]
    fn what_scripts_write_is_read() {
        assert_eq!(
            shown("{'verbose':true,'name':'web',}"),
            "{ \"verbose\": true, \"name\": \"web\" }"
        );
        assert_eq!(shown("[1,2,] trailing"), "[ 1, 2 ]");
        assert_eq!(shown("/* a */ TRUE // b"), "true");
        assert_eq!(shown("{\"a\":1,\"b\":2,\"a\":3}"), "{ \"a\": 3, \"b\": 2 }");
        assert_eq!(
            shown("[99999999999999999999,-99999999999999999999]"),
            "[ 18446744073709551615, -9223372036854775808 ]"
        );
        assert_eq!(shown("[2.50, 1e3]"), "[ 2.50, 1e3 ]");
        assert_eq!(shown("\"\\u00e4\\ud83d\\ude00\\ud800/\""), "\"ä😀\u{fffd}\\/\"");
    }

    #[test]
    fn what_is_no_json_says_where() {
        assert_eq!(shown(""), "0: unexpected end of data");
        assert_eq!(shown("{\"a\""), "4: unexpected end of data");
        assert_eq!(shown("{a:1}"), "1: quoted object property name expected");
        assert_eq!(shown("[1 2]"), "3: array value separator ',' expected");
        assert_eq!(shown("x"), "0: unexpected character");
        assert_eq!(shown("/* a"), "0: unexpected end of data");
        assert_eq!(shown("\"\\x\""), "2: invalid string sequence");
        assert_eq!(shown("--1"), "0: number expected");
    }

    #[test]
    fn nesting_has_a_limit() {
        assert!(document(&[b'['; 100_000]).unwrap_err().text.contains("too deep"));
        assert!(document(format!("{}{}", "[".repeat(32), "]".repeat(32)).as_bytes()).is_ok());
    }

    #[test]
    fn a_log_of_values_is_read_one_by_one() {
        assert_eq!(documents(b"{\"a\":1}\n{\"b\":2} 3\n").unwrap().len(), 3);
        assert!(documents(b" \n").unwrap().is_empty());
        assert!(documents(b"{\"a\":1} x").is_err());
    }
}
