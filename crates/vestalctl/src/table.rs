//! Columns for people. What a service says about itself is shown, never obeyed: control characters come out escaped.

use std::fmt::Write as _;

/// How a cell looks on a terminal.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Paint {
    #[default]
    Plain,
    Good,
    Waiting,
    Bad,
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

/// A header and rows of as many cells.
pub(crate) struct Table {
    /// Title, and whether its cells stand at the right.
    columns: Vec<(&'static str, bool)>,
    rows: Vec<Vec<Cell>>,
}

impl Cell {
    pub(crate) fn painted(text: &str, paint: Paint) -> Self {
        Self { text: clean(text), paint }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::painted(text.as_ref(), Paint::Plain)
    }
}

impl Table {
    /// Titles; one that begins with `>` has its cells at the right.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let column = |title: &&'static str| match title.strip_prefix('>') {
            Some(title) => (title, true),
            None => (*title, false),
        };
        Self { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, each ended; none has blanks at its end.
    pub(crate) fn render(&self, colour: bool) -> String {
        let header: Vec<_> = self.columns.iter().map(|(title, _)| Cell::from(title)).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&header]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for (number, row) in [&header].into_iter().chain(&self.rows).enumerate() {
            let mut line = String::new();
            for ((cell, width), (_, right)) in row.iter().zip(&widths).zip(&self.columns) {
                let code = match cell.paint {
                    _ if !colour => None,
                    Paint::Plain => (number == 0).then_some("1"),
                    Paint::Good => Some("32"),
                    Paint::Waiting => Some("33"),
                    Paint::Bad => Some("31"),
                };
                let blanks = " ".repeat(width - cell.text.chars().count());
                if *right {
                    line.push_str(&blanks);
                }
                match code {
                    Some(code) if !cell.text.is_empty() => {
                        let _ = write!(line, "\x1b[{code}m{}\x1b[0m", cell.text);
                    }
                    _ => line.push_str(&cell.text),
                }
                if !*right {
                    line.push_str(&blanks);
                }
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// One line without control characters: a line break becomes `; `, others are escaped.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for (number, line) in text.trim_end().lines().enumerate() {
        if number > 0 {
            clean.push_str("; ");
        }
        for letter in line.chars() {
            if letter.is_control() {
                clean.extend(letter.escape_default());
            } else {
                clean.push(letter);
            }
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let mut table = Table::new(&["NAME", ">PID", "NOTE"]);
        table.row(["ü".into(), "7".into(), "".into()]);
        table.row(["web".into(), "1234".into(), "up".into()]);
        assert_eq!(table.render(false), "NAME   PID  NOTE\nü        7\nweb   1234  up\n");
    }

    #[test]
    fn colour_does_not_move_the_columns() {
        let mut table = Table::new(&["STATE", "PID"]);
        table.row([Cell::painted("up", Paint::Good), "1".into()]);
        let text = table.render(true);
        assert_eq!(text, "\x1b[1mSTATE\x1b[0m  \x1b[1mPID\x1b[0m\n\x1b[32mup\x1b[0m     1\n");
    }

    #[test]
    fn a_service_cannot_send_control_characters_to_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc\r\n"), "a\\u{1b}[31mb; c");
    }
}
