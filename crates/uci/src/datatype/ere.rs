//! POSIX extended regular expressions as C libraries read them in the C locale: byte by byte, `.` and `[^x]` match a newline.
//! Matching takes time in proportion to the text, whatever the pattern.
//!
//! Not the same as in C libraries: there are no back-references (`\1`), no collating elements of more than one letter and no
//! equivalence classes of another locale; a repetition counts to 255 at most; a repetition with nothing before it (`*a`,
//! `^*`) is an error; a `)` too many is a letter. `\w \W \s \S \d \D \b \B \< \> \n \t \r` are known as in musl.

use std::fmt::Write as _;

use regex_lite::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
const PATTERN_MAX: usize = 4096;
const DEPTH_MAX: usize = 50;
/// POSIX's `RE_DUP_MAX`.
const REPEAT_MAX: u32 = 255;
/// Memory that a pattern may take once its repetitions are written out.
const COMPILED_MAX: usize = 128 * 1024;

/// A pattern that was read.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Reads a pattern that may match anywhere in a text.
    ///
    /// # Errors
    /// What can't be read, with its byte, or that it grows too large.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        Self::build(pattern, "", "")
    }

    /// Reads a pattern that must match the whole of a text.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn whole(pattern: &str) -> Result<Self, String> {
        Self::build(pattern, r"\A(?:", r")\z")
    }

    /// Whether the pattern matches.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        if text.is_ascii() { self.0.is_match(text) } else { self.0.is_match(&by_bytes(text)) }
    }

    fn build(pattern: &str, before: &str, after: &str) -> Result<Self, String> {
        if pattern.len() > PATTERN_MAX {
            let length = pattern.len();
            return Err(format!("a pattern of {length} bytes; at most {PATTERN_MAX} are read"));
        }
        let translated = Translation::new(pattern.as_bytes()).run()?;
        RegexBuilder::new(&format!("{before}{translated}{after}"))
            .dot_matches_new_line(true)
            .size_limit(COMPILED_MAX)
            .build()
            .map(Self)
            .map_err(|_| format!("the pattern {pattern:?} is too large: repeat or nest less"))
    }
}

/// From one notation to the other.
struct Translation<'a> {
    pattern: &'a [u8],
    place: usize,
    out: String,
    /// Where the open groups begin in `out`.
    open: Vec<usize>,
    /// Where that begins in `out` which a repetition would repeat.
    last: Option<usize>,
}

impl<'a> Translation<'a> {
    const fn new(pattern: &'a [u8]) -> Self {
        Self { pattern, place: 0, out: String::new(), open: Vec::new(), last: None }
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.pattern.get(self.place).copied();
        self.place += usize::from(byte.is_some());
        byte
    }

    fn wrong(&self, what: &str) -> String {
        format!("pattern, byte {}: {what}", self.place)
    }

    fn run(mut self) -> Result<String, String> {
        while let Some(byte) = self.next() {
            match byte {
                b'(' => {
                    if self.open.len() >= DEPTH_MAX {
                        return Err(self.wrong(&format!("more than {DEPTH_MAX} open groups")));
                    }
                    self.open.push(self.out.len());
                    self.out.push_str("(?:");
                    self.last = None;
                }
                b')' if !self.open.is_empty() => {
                    self.last = self.open.pop();
                    self.out.push(')');
                }
                b'|' => {
                    self.out.push('|');
                    self.last = None;
                }
                b'*' | b'+' | b'?' => self.repeat(&char::from(byte).to_string())?,
                b'{' => {
                    let counts = self.counts()?;
                    self.repeat(&counts)?;
                }
                b'^' => self.assertion(r"\A"),
                b'$' => self.assertion(r"\z"),
                b'.' => self.atom("."),
                b'[' => {
                    let class = self.bracket()?;
                    self.atom(&class);
                }
                b'\\' => self.escape()?,
                byte => self.atom(&literal(byte)),
            }
        }
        if self.open.is_empty() { Ok(self.out) } else { Err(self.wrong("a group is not closed")) }
    }

    fn atom(&mut self, text: &str) {
        self.last = Some(self.out.len());
        self.out.push_str(text);
    }

    fn assertion(&mut self, text: &str) {
        self.last = None;
        self.out.push_str(text);
    }

    /// Repeats the last atom. It is put into a group: `a+?` repeats twice here and is not the "lazy" of other notations.
    fn repeat(&mut self, how: &str) -> Result<(), String> {
        let Some(start) = self.last else {
            return Err(self.wrong("there is nothing to repeat"));
        };
        self.out.insert_str(start, "(?:");
        self.out.push(')');
        self.out.push_str(how);
        Ok(())
    }

    /// What follows a `{`.
    fn counts(&mut self) -> Result<String, String> {
        let rest = &self.pattern[self.place..];
        let end = rest.iter().position(|&byte| byte == b'}');
        let inner = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        // A comma in an expression of upstream's is written with a backslash, which glibc takes here.
        let inner = inner.map(|inner| inner.replacen("\\,", ",", 1));
        let count = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|count| digits && *count <= REPEAT_MAX)
        };
        let counts = inner.as_deref().and_then(|inner| match inner.split_once(',') {
            None => count(inner).map(|exact| format!("{{{exact}}}")),
            Some(("", most)) => count(most).map(|most| format!("{{0,{most}}}")),
            Some((least, "")) => count(least).map(|least| format!("{{{least},}}")),
            Some((least, most)) => count(least)
                .zip(count(most))
                .filter(|(least, most)| least <= most)
                .map(|(least, most)| format!("{{{least},{most}}}")),
        });
        match (counts, end) {
            (Some(counts), Some(end)) => {
                self.place += end + 1;
                Ok(counts)
            }
            _ => Err(self.wrong(&format!("expected is {{a,b}} with numbers up to {REPEAT_MAX}"))),
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        let Some(byte) = self.next() else {
            return Err(self.wrong("nothing follows the last backslash"));
        };
        match byte {
            b'1'..=b'9' => return Err(self.wrong("back-references are not known")),
            b'w' => self.atom("[0-9A-Za-z_]"),
            b'W' => self.atom("[^0-9A-Za-z_]"),
            b's' => self.atom(r"[\x09-\x0D\x20]"),
            b'S' => self.atom(r"[^\x09-\x0D\x20]"),
            b'd' => self.atom("[0-9]"),
            b'D' => self.atom("[^0-9]"),
            b'n' => self.atom(r"\x0A"),
            b't' => self.atom(r"\x09"),
            b'r' => self.atom(r"\x0D"),
            b'b' => self.assertion(r"\b"),
            b'B' => self.assertion(r"\B"),
            b'<' => self.assertion(r"\b{start}"),
            b'>' => self.assertion(r"\b{end}"),
            byte => self.atom(&literal(byte)),
        }
        Ok(())
    }

    /// What follows a `[`.
    fn bracket(&mut self) -> Result<String, String> {
        let mut set = [false; 256];
        let negated = self.pattern.get(self.place) == Some(&b'^');
        self.place += usize::from(negated);
        let mut first = true;
        loop {
            let Some(byte) = self.next() else {
                return Err(self.wrong("a bracket is not closed"));
            };
            if byte == b']' && !first {
                break;
            }
            first = false;
            let Some(low) = self.element(byte, &mut set)? else { continue };
            let range = self.pattern.get(self.place) == Some(&b'-')
                && self.pattern.get(self.place + 1).is_some_and(|&byte| byte != b']');
            let mut high = low;
            if range {
                self.place += 1;
                let byte = self.next().unwrap_or_default();
                match self.element(byte, &mut set)? {
                    Some(end) if end >= low => high = end,
                    _ => return Err(self.wrong("a range in brackets ends before it begins")),
                }
            }
            set[usize::from(low)..=usize::from(high)].fill(true);
        }
        Ok(class(&set, negated))
    }

    /// One letter of a bracket; a class such as `[:alpha:]` goes into `set`.
    fn element(&mut self, byte: u8, set: &mut [bool; 256]) -> Result<Option<u8>, String> {
        let sign = match self.pattern.get(self.place) {
            Some(&sign @ (b':' | b'.' | b'=')) if byte == b'[' => sign,
            _ => return Ok(Some(byte)),
        };
        let rest = &self.pattern[self.place + 1..];
        let Some(end) = rest.windows(2).position(|pair| pair == [sign, b']']) else {
            return Err(self.wrong("a class in brackets is not closed"));
        };
        let name = &rest[..end];
        self.place += end + 3;
        if sign != b':' {
            return match name {
                &[letter] => Ok(Some(letter)),
                _ => Err(self.wrong("a collating element is not a single letter")),
            };
        }
        let belongs: fn(&u8) -> bool = match name {
            b"alpha" => u8::is_ascii_alphabetic,
            b"digit" => u8::is_ascii_digit,
            b"alnum" => u8::is_ascii_alphanumeric,
            b"upper" => u8::is_ascii_uppercase,
            b"lower" => u8::is_ascii_lowercase,
            b"xdigit" => u8::is_ascii_hexdigit,
            b"punct" => u8::is_ascii_punctuation,
            b"graph" => u8::is_ascii_graphic,
            b"cntrl" => u8::is_ascii_control,
            b"blank" => |byte| matches!(byte, b' ' | b'\t'),
            b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
            b"print" => |byte| matches!(byte, b' '..=b'~'),
            _ => return Err(self.wrong("there is no class of that name")),
        };
        for byte in 0..=u8::MAX {
            set[usize::from(byte)] |= belongs(&byte);
        }
        Ok(None)
    }
}

/// A letter for each byte: the engine below knows letters only.
fn by_bytes(text: &str) -> String {
    text.bytes().map(char::from).collect()
}

fn literal(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() {
        char::from(byte).to_string()
    } else {
        format!(r"\x{byte:02X}")
    }
}

/// The set in the other notation, as ranges.
fn class(set: &[bool; 256], negated: bool) -> String {
    let mut out = String::from(if negated { "[^" } else { "[" });
    let mut byte = 0;
    while byte < set.len() {
        let length = set[byte..].iter().take_while(|&&member| member).count();
        if length > 0 {
            let _ = write!(out, r"\x{byte:02X}-\x{:02X}", byte + length - 1);
        }
        byte += length + 1;
    }
    out.push(']');
    out
}
