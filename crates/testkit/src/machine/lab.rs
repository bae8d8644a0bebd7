//! Commands for a shell in the guest, over its second serial line: `integration-tests/tests/vm/overlay/usr/lib/lab/shell` is the other end.
//!
//! A request is `NUMBER COMMAND`, escaped for the shell's `printf %b`. Its answer is the output, each line after `@NUMBER:`, and
//! `@NUMBER=CODE` at the end; so a late answer is never taken for another one. The shell says `@ready BOOT` when it begins.

use std::{cell::Cell, fmt::Write as _, time::Duration};

use super::line::{Line, Silence};

/// The shell in the guest of one machine.
pub(super) struct Lab {
    line: Line,
    asked: Cell<u64>,
    /// Up to here what the shell said was read.
    seen: Cell<usize>,
}

/// Why a command has no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The shell began anew meanwhile: it was killed, or the machine booted again.
    Restarted,
    /// QEMU has hung up.
    Ended,
    Late,
}

impl From<Silence> for NoAnswer {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Ended => Self::Ended,
            Silence::Late => Self::Late,
        }
    }
}

impl Lab {
    pub(super) fn new(line: Line) -> Self {
        Self { line, asked: Cell::new(0), seen: Cell::new(0) }
    }

    /// Waits until a shell begins that nobody has waited for yet; returns the boot's identity.
    pub(super) fn until_ready(&self, limit: Duration) -> Result<String, Silence> {
        let from = self.seen.get();
        let (boot, length) = self.line.until(from, limit, ready)?;
        self.seen.set(from + length);
        Ok(boot)
    }

    /// Sends a command and does not wait.
    pub(super) fn send(&self, command: &str) -> u64 {
        let number = self.asked.get() + 1;
        self.asked.set(number);
        self.line.say(&format!("{number} {}\n", escaped(command)));
        number
    }

    /// Exit code and output of a command.
    pub(super) fn run(&self, command: &str, limit: Duration) -> Result<(i32, String), NoAnswer> {
        // A shell that began since the last answer is the one that we ask.
        let from = self.line.length();
        let number = self.send(command);
        let answered = self.line.until(from, limit, |text| {
            if let Some((answer, length)) = answer(text, number) {
                return Some(Ok((answer, length)));
            }
            ready(text).map(|_| Err(NoAnswer::Restarted))
        });
        let (answer, length) = answered??;
        self.seen.set(from + length);
        Ok(answer)
    }

    /// Everything that was said.
    pub(super) fn text(&self) -> String {
        self.line.text(0)
    }
}

/// The first line that says that a shell begins, and where it ends.
fn ready(text: &str) -> Option<(String, usize)> {
    lines(text).find_map(|(line, end)| Some((line.strip_prefix("@ready ")?.to_owned(), end)))
}

/// The whole answer to this request, and where it ends.
fn answer(text: &str, number: u64) -> Option<((i32, String), usize)> {
    let (output, code) = (format!("@{number}:"), format!("@{number}="));
    let mut said = Vec::new();
    for (line, end) in lines(text) {
        if let Some(code) = line.strip_prefix(&code) {
            return Some(((code.parse().ok()?, said.join("\n")), end));
        }
        said.extend(line.strip_prefix(&output).map(str::to_owned));
    }
    None
}

/// Whole lines, each with where it ends.
fn lines(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let mut end = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        end += line.len();
        Some((line.strip_suffix('\n')?.trim_end_matches('\r'), end))
    })
}

/// As `printf %b` reads it: what could mean anything to a shell or a terminal is given by its number.
fn escaped(command: &str) -> String {
    let mut text = String::new();
    for octet in command.bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                text.push(char::from(octet));
            }
            _ => write!(text, "\\0{octet:03o}").expect("a string takes everything"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_another_requests_answer_and_from_half_of_one() {
        let text = "@1:late\n@1=0\n@2:one\n@2:\n@2:two\n@2=3\n";
        assert_eq!(answer(text, 2), Some(((3, "one\n\ntwo".to_owned()), text.len())));
        assert_eq!(answer("@2:one\n@2=", 2), None);
        assert_eq!(answer(text, 12), None);
    }

    #[test]
    fn a_shell_that_begins_is_seen_once_its_line_is_whole() {
        assert_eq!(ready("noise\n@ready 1234-5"), None);
        assert_eq!(ready("noise\r\n@ready 1234-5\r\n"), Some(("1234-5".to_owned(), 22)));
    }

    #[test]
    fn nothing_that_a_shell_or_a_terminal_understands_travels_as_it_is() {
        assert_eq!(
            escaped("echo 'a' > /tmp/x\n"),
            "echo\\0040\\0047a\\0047\\0040\\0076\\0040/tmp/x\\0012"
        );
    }
}
