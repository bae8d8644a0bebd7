//! Cuts the text of `uci batch` into commands and words, as libuci's reader does: quotes, backslashes, comments; `;`
//! ends a command, and what follows it in its line is lost.

/// The commands that are left.
pub(super) struct Batch<'a> {
    text: &'a [u8],
}

/// Words in one command; no command has more.
const WORDS_MAX: usize = 3;

/// What stands in a line.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Line {
    Words(Vec<Vec<u8>>),
    TooMany,
    /// A quote that does not end.
    Unterminated,
}

impl<'a> Batch<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text }
    }

    fn peek(&self) -> Option<u8> {
        self.text.first().copied()
    }

    fn skip(&mut self) {
        self.text = self.text.get(1..).unwrap_or_default();
    }

    /// Goes behind the end of the line.
    fn skip_line(&mut self) {
        let end = self.text.iter().position(|byte| *byte == b'\n');
        self.text = end.and_then(|end| self.text.get(end + 1..)).unwrap_or_default();
    }

    /// A word; `None`: the quote does not end.
    fn word(&mut self) -> Option<Vec<u8>> {
        let mut word = Vec::new();
        while let Some(byte) = self.peek() {
            match byte {
                b'\'' | b'"' => self.quoted(&mut word, byte)?,
                b'\\' => self.escaped(&mut word),
                b'#' | b';' => break,
                _ if is_blank(byte) => break,
                _ => {
                    word.push(byte);
                    self.skip();
                }
            }
        }
        Some(word)
    }

    fn quoted(&mut self, word: &mut Vec<u8>, quote: u8) -> Option<()> {
        self.skip();
        loop {
            match self.peek()? {
                byte if byte == quote => {
                    self.skip();
                    return Some(());
                }
                b'\\' if quote == b'"' => self.escaped(word),
                byte => {
                    word.push(byte);
                    self.skip();
                }
            }
        }
    }

    /// What follows a backslash; the end of a line is nothing.
    fn escaped(&mut self, word: &mut Vec<u8>) {
        self.skip();
        let line_end =
            [b"\n".as_slice(), b"\r\n"].into_iter().find(|end| self.text.starts_with(end));
        if let Some(end) = line_end {
            self.text = &self.text[end.len()..];
        } else if let Some(byte) = self.peek() {
            word.push(byte);
            self.skip();
        }
    }
}

fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

impl Iterator for Batch<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        if self.text.is_empty() {
            return None;
        }
        let mut words = Vec::new();
        loop {
            match self.peek() {
                None => break,
                Some(b'\n' | b'#' | b';') => {
                    self.skip_line();
                    break;
                }
                Some(byte) if is_blank(byte) => self.skip(),
                Some(_) => match self.word() {
                    None => {
                        self.text = &[];
                        return Some(Line::Unterminated);
                    }
                    // An empty word ends the command.
                    Some(word) if word.is_empty() => {
                        self.skip_line();
                        break;
                    }
                    Some(word) => words.push(word),
                },
            }
        }
        Some(if words.len() > WORDS_MAX { Line::TooMany } else { Line::Words(words) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Vec<String>> {
        Batch::new(text.as_bytes())
            .map(|line| match line {
                Line::Words(words) => {
                    words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect()
                }
                other => vec![format!("{other:?}")],
            })
            .collect()
    }

    #[test]
    fn commands_are_lines_of_words() {
        assert_eq!(
            read("set a.b.c='x y'\nget  a.b\n"),
            [vec!["set", "a.b.c=x y"], vec!["get", "a.b"]]
        );
        assert_eq!(read("set a=\"b\\\"c\"d # e\n"), [["set", "a=b\"cd"]]);
        assert_eq!(read("commit a; get b\nget c"), [["commit", "a"], ["get", "c"]]);
        assert_eq!(read("set a='1\n2'\n"), [["set", "a=1\n2"]]);
        assert_eq!(read("set a=1\\\n2\n\n"), [vec!["set", "a=12"], vec![]]);
    }

    #[test]
    fn what_can_not_be_read_is_told() {
        assert_eq!(read("set a='b\nget c"), [["Unterminated"]]);
        assert_eq!(read("a b c d\nadd b c"), [vec!["TooMany"], vec!["add", "b", "c"]]);
    }
}
