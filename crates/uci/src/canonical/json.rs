//! What a JSON file says: one entry for each value, objects in the order of their keys. The reader is strict (RFC 8259), refuses
//! keys that come twice, and keeps numbers digit by digit: no program's rounding hides a change.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Entry, MAX_DEPTH, MAX_ENTRIES,
    path::{push_index, push_key},
};
use crate::Problem;

/// The name of what isn't inside of anything.
const ROOT: &str = ".";

pub(super) fn entries(text: &str) -> Result<Vec<Entry>, Problem> {
    let mut reader = Reader { text, at: 0, values: 0 };
    let root = reader.value(0)?;
    reader.skip_blanks();
    if reader.at < text.len() {
        return Err(reader.problem("more behind the end of the value"));
    }
    let mut entries = Vec::new();
    walk(root, &mut String::new(), &mut entries);
    Ok(entries)
}

/// A value as it is read; objects are sorted already.
enum Node {
    Leaf(Value),
    Array(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

impl Node {
    fn leaf(self) -> Value {
        match self {
            Self::Leaf(value) => value,
            Self::Array(items) => Value::Array(items.into_iter().map(Self::leaf).collect()),
            Self::Object(_) => Value::Object(Map::new()),
        }
    }
}

fn walk(node: Node, path: &mut String, entries: &mut Vec<Entry>) {
    let length = path.len();
    match node {
        Node::Object(members) if !members.is_empty() => {
            for (key, member) in members {
                push_key(path, &key);
                walk(member, path, entries);
                path.truncate(length);
            }
        }
        Node::Array(items) if items.iter().any(|item| !matches!(item, Node::Leaf(_))) => {
            for (index, item) in items.into_iter().enumerate() {
                push_index(path, index);
                walk(item, path, entries);
                path.truncate(length);
            }
        }
        other => {
            let name = if path.is_empty() { ROOT.to_owned() } else { path.clone() };
            entries.push(Entry { name, value: other.leaf() });
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    values: usize,
}

impl Reader<'_> {
    fn value(&mut self, depth: usize) -> Result<Node, Problem> {
        self.values += 1;
        if self.values > MAX_ENTRIES {
            return Err(self
                .problem(format!("more values than the limit of {MAX_ENTRIES}: split the file")));
        }
        if depth > MAX_DEPTH {
            return Err(self.problem(format!("deeper than the limit of {MAX_DEPTH}")));
        }
        self.skip_blanks();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Node::Leaf(Value::String(self.string()?))),
            Some(b'-' | b'0'..=b'9') => Ok(Node::Leaf(self.number()?)),
            Some(_) => self.word(),
            None => Err(self.problem("a value is missing: the file ends here")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node, Problem> {
        self.at += 1;
        let mut members = BTreeMap::new();
        self.skip_blanks();
        if self.take(b'}') {
            return Ok(Node::Object(members));
        }
        loop {
            self.skip_blanks();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.problem("a key in double quotes is missing"));
            }
            let key = self.string()?;
            self.skip_blanks();
            if !self.take(b':') {
                return Err(self.problem("a colon is missing between key and value"));
            }
            let value = self.value(depth + 1)?;
            if members.contains_key(&key) {
                let text = format!("key {key:?} comes a second time: keep one of them");
                return Err(Problem::at(self.text.as_bytes(), start, text));
            }
            members.insert(key, value);
            self.skip_blanks();
            if self.take(b'}') {
                return Ok(Node::Object(members));
            }
            if !self.take(b',') {
                return Err(self.problem("a comma or } is missing"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node, Problem> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_blanks();
        if self.take(b']') {
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_blanks();
            if self.take(b']') {
                return Ok(Node::Array(items));
            }
            if !self.take(b',') {
                return Err(self.problem("a comma or ] is missing"));
            }
        }
    }

    /// The quotes are found here, what stands between them is left to `serde_json`.
    fn string(&mut self) -> Result<String, Problem> {
        let rest = &self.text.as_bytes()[self.at..];
        let mut length = 1;
        loop {
            match rest.get(length) {
                Some(b'"') => break,
                Some(b'\\') => length += 2,
                Some(_) => length += 1,
                None => return Err(self.problem("the file ends inside of \"...\"")),
            }
        }
        let written = &self.text[self.at..=self.at + length];
        let string = serde_json::from_str(written)
            .map_err(|_| self.problem(format!("{written} is no string of JSON")))?;
        self.at += length + 1;
        Ok(string)
    }

    fn number(&mut self) -> Result<Value, Problem> {
        let rest = &self.text[self.at..];
        let sign = |byte: u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.bytes().position(|byte| !sign(byte)).unwrap_or(rest.len());
        let written = &rest[..length];
        let number = number(written)
            .ok_or_else(|| self.problem(format!("{written} is no number of JSON")))?;
        self.at += length;
        Ok(number)
    }

    fn word(&mut self) -> Result<Node, Problem> {
        let words = [("null", Value::Null), ("true", true.into()), ("false", false.into())];
        for (word, value) in words {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(Node::Leaf(value));
            }
        }
        Err(self
            .problem("no value of JSON: an object, array, string, number, true, false or null is"))
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn problem(&self, text: impl Into<String>) -> Problem {
        Problem::at(self.text.as_bytes(), self.at, text)
    }
}

/// A number by its worth: `1`, `1.0` and `10e-1` are one. What doesn't fit 64 bits exactly is an object with its digits, which no
/// other entry's value is.
fn number(written: &str) -> Option<Value> {
    let (negative, rest) = match written.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, written),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
        None => (rest, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (mantissa, ""),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    if whole.is_empty() || leading_zero || !digits(whole) || !digits(fraction) {
        return None;
    }
    // worth = 0.DIGITS x 10^point, without zeros at either end.
    let all = [whole, fraction].concat();
    let significant = all.trim_start_matches('0');
    let zeros = i64::try_from(all.len() - significant.len()).ok()?;
    let point = i64::try_from(whole.len()).ok()?.checked_add(exponent)?.checked_sub(zeros)?;
    let significant = significant.trim_end_matches('0');
    if significant.is_empty() {
        return Some(Value::from(0));
    }
    Some(exact(negative, significant, point))
}

/// An exponent: at least one digit, and not more than 64 bits hold.
fn exponent_of(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn exact(negative: bool, significant: &str, point: i64) -> Value {
    let sign = if negative { "-" } else { "" };
    let length = significant.len();
    if let Ok(point) = usize::try_from(point)
        && point >= length
        && point <= 20
    {
        let whole = format!("{sign}{significant}{}", "0".repeat(point - length));
        let fits = whole.parse::<i64>().map(Value::from).ok();
        if let Some(value) = fits.or_else(|| whole.parse::<u64>().map(Value::from).ok()) {
            return value;
        }
    }
    let written = format!("{sign}0.{significant}e{point}");
    let float: Option<f64> = written.parse().ok();
    // A double of at most 15 digits in the usual range comes back as the same digits.
    match float.and_then(serde_json::Number::from_f64) {
        Some(number) if length <= 15 && (-300..=300).contains(&point) => Value::Number(number),
        _ => serde_json::json!({ "number": written }),
    }
}
