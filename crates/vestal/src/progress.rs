//! How far a long command is, in one line on a terminal; nothing where nobody looks.

use std::io::{self, IsTerminal as _, Write as _};

use daemon::clock;
use protocol::time::Moment;

use crate::output::size;

/// A line is drawn at most so often.
const INTERVAL_MS: u128 = 100;
const BAR: usize = 30;

/// One line on stderr. Wiped when it is dropped.
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    begin: Moment,
    /// Nothing: no terminal.
    drawn: Option<Moment>,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        let begin = clock::now();
        Self { what, total, begin, drawn: io::stderr().is_terminal().then_some(begin) }
    }

    pub(crate) fn reach(&mut self, done: u64) {
        let now = clock::now();
        let Some(drawn) = &mut self.drawn else { return };
        if now.since(*drawn).as_millis() < INTERVAL_MS {
            return;
        }
        *drawn = now;
        let text = line(self.what, done, self.total, now.since(self.begin).as_millis());
        // A terminal that is gone changes nothing about the work.
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, total: u64, ms: u128) -> String {
    let share = |of: usize| {
        let filled = u128::from(done.min(total)) * of as u128 / u128::from(total.max(1));
        usize::try_from(filled).unwrap_or(of)
    };
    let filled = share(BAR);
    let rate = u64::try_from(u128::from(done) * 1000 / ms.max(1)).unwrap_or(u64::MAX);
    let left = total.saturating_sub(done) / rate.max(1);
    format!(
        "{what} [{}{}] {:>3} % of {}, {}/s, {}:{:02} left",
        "#".repeat(filled),
        " ".repeat(BAR - filled),
        share(100),
        size(total),
        size(rate),
        left / 60,
        left % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_share_rate_and_remaining_time() {
        let shown = line("build", 50 << 20, 100 << 20, 500);
        let bar = format!("[{}{}]", "#".repeat(15), " ".repeat(15));
        assert_eq!(shown, format!("build {bar}  50 % of 100.0 MiB, 100.0 MiB/s, 0:00 left"));
        assert!(line("build", 0, 0, 0).contains("0 %"));
        assert!(line("build", u64::MAX, u64::MAX, 0).contains("100 %"));
    }
}
