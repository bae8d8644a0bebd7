//! Words and arguments of a UCI text. Quoting is libuci's, with what follows from its cutting up of each line in place: a `;`
//! directly behind a bare word ends the line, behind a quote or a blank only the command.

use std::borrow::Cow;

use crate::Problem;

/// A place in a text, and the line around it. A quoted argument may draw in more lines.
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Nothing of this line counts from here on.
    end: usize,
    next_line: usize,
    line: usize,
    line_start: usize,
    /// Line and column of the last word or argument.
    mark: (usize, usize),
}

/// A word of a command, and whether the file ends with it.
pub(crate) struct Word<'a> {
    pub(crate) text: &'a str,
    pub(crate) last: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, end: 0, next_line: 0, line: 0, line_start: 0, mark: (1, 1) }
    }

    /// Goes on to the next line; false at the end of the text.
    pub(crate) fn next_line(&mut self) -> bool {
        if self.next_line == self.text.len() {
            return false;
        }
        self.at = self.next_line;
        self.line += 1;
        self.line_start = self.at;
        let newline = self.text.as_bytes()[self.at..].iter().position(|&byte| byte == b'\n');
        self.end = newline.map_or(self.text.len(), |newline| self.at + newline + 1);
        self.next_line = self.end;
        true
    }

    /// What is wrong with the last word or argument.
    pub(crate) fn problem(&self, text: impl Into<String>) -> Problem {
        let (line, column) = self.mark;
        Problem::new(line, column, text)
    }

    fn set_mark(&mut self) {
        self.mark = (self.line, self.at - self.line_start + 1);
    }

    /// The next byte of the line.
    pub(crate) fn peek(&self) -> Option<u8> {
        (self.at < self.end).then(|| self.text.as_bytes()[self.at])
    }

    pub(crate) fn skip_blanks(&mut self) {
        while self.peek().is_some_and(is_blank) {
            self.at += 1;
        }
    }

    /// The word up to the next blank or tab; other white space belongs to it.
    pub(crate) fn word(&mut self) -> Option<Word<'a>> {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let rest = &self.text[self.at..self.end];
        if rest.is_empty() {
            return None;
        }
        self.set_mark();
        let length = rest.find([' ', '\t']);
        let text = &rest[..length.unwrap_or(rest.len())];
        if let Some(length) = length {
            self.at += length + 1;
        }
        Some(Word { text, last: length.is_none() })
    }

    /// The next argument, empty where there is none: libuci doesn't tell `''` from nothing.
    pub(crate) fn argument(&mut self) -> Result<Cow<'a, str>, Problem> {
        self.skip_blanks();
        self.set_mark();
        if self.peek() == Some(b';') {
            self.at += 1;
            return Ok(Cow::Borrowed(""));
        }
        let mut argument = Cow::Borrowed("");
        let mut bare = true;
        while let Some(byte) = self.peek() {
            match byte {
                b'#' => self.end = self.at,
                b';' => {
                    if bare {
                        self.end = self.at;
                    }
                    break;
                }
                b'\'' => {
                    bare = false;
                    self.single_quoted(&mut argument)?;
                }
                b'"' => {
                    bare = false;
                    self.double_quoted(&mut argument)?;
                }
                b'\\' => {
                    bare = false;
                    self.escape(&mut argument);
                }
                _ => self.take(&mut argument, |byte| {
                    is_blank(byte) || matches!(byte, b'#' | b';' | b'\'' | b'"' | b'\\')
                }),
            }
            if self.peek().is_some_and(is_blank) {
                self.at += 1;
                break;
            }
        }
        Ok(argument)
    }

    fn single_quoted(&mut self, argument: &mut Cow<'a, str>) -> Result<(), Problem> {
        self.at += 1;
        loop {
            self.take(argument, |byte| byte == b'\'');
            if self.peek().is_some() {
                self.at += 1;
                return Ok(());
            }
            if !self.next_line() {
                return Err(self.problem("the file ends inside of '...': close the quote"));
            }
        }
    }

    fn double_quoted(&mut self, argument: &mut Cow<'a, str>) -> Result<(), Problem> {
        self.at += 1;
        loop {
            self.take(argument, |byte| matches!(byte, b'"' | b'\\'));
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => self.escape(argument),
                None if self.next_line() => {}
                None => {
                    return Err(self.problem("the file ends inside of \"...\": close the quote"));
                }
            }
        }
    }

    /// A backslash: the next character as it is, or the next line where this one ends.
    fn escape(&mut self, argument: &mut Cow<'a, str>) {
        self.at += 1;
        let rest = &self.text[self.at..self.end];
        if matches!(rest, "" | "\n" | "\r\n") {
            self.at = self.end;
            self.next_line();
        } else {
            let length = rest.chars().next().map_or(0, char::len_utf8);
            self.at += length;
            add(argument, &rest[..length]);
        }
    }

    /// Takes what stands before the first byte that ends it. Such a byte is ASCII, so characters stay whole.
    fn take(&mut self, argument: &mut Cow<'a, str>, ends: impl Fn(u8) -> bool) {
        let rest = &self.text[self.at..self.end];
        let length = rest.bytes().position(ends).unwrap_or(rest.len());
        self.at += length;
        add(argument, &rest[..length]);
    }
}

/// White space as C's `isspace` has it.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Adds a piece. An argument of one piece isn't copied.
fn add<'a>(argument: &mut Cow<'a, str>, piece: &'a str) {
    if argument.is_empty() {
        *argument = Cow::Borrowed(piece);
    } else if !piece.is_empty() {
        argument.to_mut().push_str(piece);
    }
}
