//! Makes lines of what a service printed. Says how much of the input it has used: the beginning of a line stays where it is
//! (in the pipe) until its end is there, so that nothing is held here that could be lost.
//!
//! The same input gives the same lines, however it is cut into pieces.

use protocol::log::TEXT_MAX;

/// One line, or as much of a long one as fits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Line {
    /// 0 to 7, as the line said in its first bytes, `<N>`; `None` where it said nothing.
    pub(crate) priority: Option<u8>,
    pub(crate) text: String,
    /// The line goes on.
    pub(crate) more: bool,
}

/// What becomes of the beginning of a line whose end is not there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rest {
    /// It is left, and comes again with what follows.
    Stays,
    /// It is used now, and goes on later: whoever prints must not wait.
    Continues,
    /// It is used now, and nothing follows.
    Ends,
}

/// One stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lines {
    /// The next bytes continue a line of this priority.
    continues: Option<Option<u8>>,
    /// Whether `<N>` at the beginning of a line is a priority.
    plain: bool,
}

impl Lines {
    /// For streams whose lines carry no priority of their own.
    pub(crate) fn plain() -> Self {
        Self { continues: None, plain: true }
    }

    /// Calls `line` for each line, and answers how many bytes were used.
    pub(crate) fn take(&mut self, input: &[u8], rest: Rest, mut line: impl FnMut(Line)) -> usize {
        let mut used = 0;
        while used < input.len() {
            let Some((length, found)) = self.next(&input[used..], rest) else { break };
            used += length;
            line(found);
        }
        if rest == Rest::Ends {
            self.continues = None;
        }
        used
    }

    /// The next line of an input that isn't empty, and its bytes with its end.
    fn next(&mut self, input: &[u8], rest: Rest) -> Option<(usize, Line)> {
        let (priority, mut at) = match self.continues {
            Some(priority) => (priority, 0),
            None if self.plain => (None, 0),
            None => prefix(input, rest)?,
        };
        let mut text = String::new();
        while let Some(unit) = Unit::first(&input[at..], rest != Rest::Stays) {
            if unit == Unit::End {
                self.continues = None;
                return Some((at + 1, Line { priority, text, more: false }));
            }
            if text.len() + unit.length() > TEXT_MAX {
                self.continues = Some(priority);
                return Some((at, Line { priority, text, more: true }));
            }
            at += unit.write(&mut text);
        }
        match rest {
            Rest::Stays => None,
            Rest::Continues => {
                self.continues = Some(priority);
                Some((at, Line { priority, text, more: true }))
            }
            Rest::Ends => {
                self.continues = None;
                Some((at, Line { priority, text, more: false }))
            }
        }
    }
}

/// The priority at the beginning of a line, and its length. `None`: more bytes are needed to know.
fn prefix(input: &[u8], rest: Rest) -> Option<(Option<u8>, usize)> {
    match input {
        [b'<', digit @ b'0'..=b'7', b'>', ..] => Some((Some(digit - b'0'), 3)),
        [b'<'] | [b'<', b'0'..=b'7'] if rest == Rest::Stays => None,
        _ => Some((None, 0)),
    }
}

/// What a text is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unit {
    Char(char),
    /// No UTF-8, or a control character: written as `\xNN`, byte by byte.
    Escaped([u8; 2], usize),
    End,
}

impl Unit {
    /// The first of the input. `None`: it is empty, or holds the beginning of a character and `all` of it is not there.
    fn first(input: &[u8], all: bool) -> Option<Self> {
        let first = *input.first()?;
        if first.is_ascii() {
            return Some(match first {
                b'\n' => Self::End,
                b'\t' | b' '..=b'~' => Self::Char(char::from(first)),
                _ => Self::Escaped([first, 0], 1),
            });
        }
        let head = &input[..input.len().min(4)];
        let valid = match std::str::from_utf8(head) {
            Ok(text) => text,
            Err(error) if error.valid_up_to() > 0 => {
                std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) if error.error_len().is_none() && !all => return None,
            Err(_) => "",
        };
        Some(match valid.chars().next() {
            None => Self::Escaped([first, 0], 1),
            // The second half of the control characters (U+0080 to U+009F) has two bytes.
            Some(control) if control.is_control() => Self::Escaped([input[0], input[1]], 2),
            Some(char) => Self::Char(char),
        })
    }

    /// Bytes of text.
    fn length(self) -> usize {
        match self {
            Self::Char(char) => char.len_utf8(),
            Self::Escaped(_, count) => 4 * count,
            Self::End => 0,
        }
    }

    /// Appends it; how many bytes of the input it was.
    fn write(self, text: &mut String) -> usize {
        match self {
            Self::Char(char) => {
                text.push(char);
                char.len_utf8()
            }
            Self::Escaped(bytes, count) => {
                for byte in &bytes[..count] {
                    const DIGITS: &[u8; 16] = b"0123456789abcdef";
                    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
                    text.extend(['\\', 'x', digit(byte >> 4), digit(byte & 15)]);
                }
                count
            }
            Self::End => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(priority: Option<u8>, text: &str, more: bool) -> Line {
        Line { priority, text: text.to_owned(), more }
    }

    /// All lines of pieces that come one after the other; what is not used comes again with the next piece.
    fn lines(pieces: &[&[u8]], end: Rest) -> Vec<Line> {
        let (mut lines, mut waiting, mut found) = (Lines::default(), Vec::new(), Vec::new());
        for piece in pieces {
            waiting.extend_from_slice(piece);
            let used = lines.take(&waiting, Rest::Stays, |line| found.push(line));
            waiting.drain(..used);
        }
        let used = lines.take(&waiting, end, |line| found.push(line));
        assert!(end == Rest::Stays || used == waiting.len());
        found
    }

    #[test]
    fn a_line_is_there_when_its_end_is() {
        assert_eq!(lines(&[b"hel"], Rest::Stays), []);
        let found = lines(&[b"hel", b"lo\n\nwor"], Rest::Stays);
        assert_eq!(found, [line(None, "hello", false), line(None, "", false)]);
    }

    #[test]
    fn a_last_line_without_end_is_kept_when_nothing_follows() {
        assert_eq!(lines(&[b"bye"], Rest::Ends), [line(None, "bye", false)]);
        assert_eq!(lines(&[b"a\xc3"], Rest::Ends), [line(None, "a\\xc3", false)]);
        assert_eq!(lines(&[b""], Rest::Ends), []);
    }

    #[test]
    fn a_number_in_angle_brackets_is_the_priority_of_its_line() {
        let found = lines(&[b"<3>bad\n<", b"7>low\n<8>no\n<3\nx<1>\n<2>"], Rest::Ends);
        let texts = [
            line(Some(3), "bad", false),
            line(Some(7), "low", false),
            line(None, "<8>no", false),
            line(None, "<3", false),
            line(None, "x<1>", false),
            line(Some(2), "", false),
        ];
        assert_eq!(found, texts);
        let mut plain = Vec::new();
        Lines::plain().take(b"<3>text\n", Rest::Stays, |line| plain.push(line));
        assert_eq!(plain, [line(None, "<3>text", false)]);
    }

    #[test]
    fn what_is_no_text_is_escaped() {
        let found = lines(
            &[b"\x1b[1mtab\there\x7f \xff\xfe \xc2\x85 \xed\xa0\x80 \xf0\x9f\x94\xa5\r\n"],
            Rest::Stays,
        );
        let text = "\\x1b[1mtab\there\\x7f \\xff\\xfe \\xc2\\x85 \\xed\\xa0\\x80 \u{1f525}\\x0d";
        assert_eq!(found, [line(None, text, false)]);
    }

    #[test]
    fn a_long_line_becomes_pieces_that_say_so_and_keep_its_priority() {
        let long = [&b"<2>"[..], &vec![b'x'; TEXT_MAX], b"<5>rest\n<6>next\n"].concat();
        let found = lines(&[&long], Rest::Stays);
        let first = line(Some(2), &"x".repeat(TEXT_MAX), true);
        let rest = line(Some(2), "<5>rest", false);
        assert_eq!(found, [first, rest, line(Some(6), "next", false)]);
        let exact = [&vec![b'x'; TEXT_MAX][..], b"\n"].concat();
        assert_eq!(lines(&[&exact], Rest::Stays), [line(None, &"x".repeat(TEXT_MAX), false)]);
    }

    #[test]
    fn a_beginning_that_must_not_wait_is_used_and_goes_on() {
        let mut machine = Lines::default();
        let mut found = Vec::new();
        assert_eq!(machine.take(b"<4>begin", Rest::Continues, |line| found.push(line)), 8);
        machine.take(b"<3>end\n<3>new\n", Rest::Stays, |line| found.push(line));
        let begin = line(Some(4), "begin", true);
        let end = line(Some(4), "<3>end", false);
        assert_eq!(found, [begin, end, line(Some(3), "new", false)]);
    }

    proptest! {
        #[test]
        fn the_cutting_of_the_input_changes_nothing(
            input in prop::collection::vec(
                prop_oneof![
                    4 => any::<u8>().prop_map(|byte| vec![byte]),
                    4 => "[<0-9>a-z\n]{1,6}".prop_map(String::into_bytes),
                    2 => "\\PC{1,4}".prop_map(String::into_bytes),
                    1 => (TEXT_MAX - 2..TEXT_MAX + 3).prop_map(|length| vec![b'x'; length]),
                    1 => (TEXT_MAX / 2 - 2..TEXT_MAX / 2 + 2).prop_map(|length| "ü".repeat(length).into_bytes()),
                ],
                0..12,
            ).prop_map(|parts| parts.concat()),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &input[cut[0]..cut[1]]).collect();
            let whole = lines(&[&input], Rest::Ends);
            prop_assert_eq!(&lines(&pieces, Rest::Ends), &whole);
            prop_assert!(whole.iter().all(|line| line.text.len() <= TEXT_MAX));
        }

        #[test]
        fn plain_text_is_kept_byte_for_byte(text in "[ -~\t]{0,80}") {
            let input = format!("<6>{text}\n");
            prop_assert_eq!(lines(&[input.as_bytes()], Rest::Stays), [line(Some(6), &text, false)]);
        }
    }
}
