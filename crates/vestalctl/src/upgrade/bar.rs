//! How far an installation is: one line on a terminal, one line of JSON a second with `--json`, else nothing.

use std::io::{self, IsTerminal as _, Write as _};

use bundle::push::Sent;
use daemon::clock;
use protocol::{
    time::Moment,
    upgrade::{Progress, State},
};
use serde::Serialize;

use crate::{error::Error, output::Output, units};

const BAR: usize = 30;
/// Milliseconds between two lines on a terminal, and of JSON.
const DRAW_MS: u128 = 100;
const TELL_MS: u128 = 1000;

/// Wiped from the terminal when it is dropped.
pub(super) struct Bar {
    json: bool,
    terminal: bool,
    begin: Moment,
    /// Settled before anything was sent: what was there already says nothing about the rate.
    before: Option<u64>,
    last: Option<Moment>,
}

/// A line of JSON.
#[derive(Debug, Serialize)]
struct Line {
    state: State,
    done: u64,
    total: u64,
    /// Stored bytes that were sent.
    sent: u64,
    rate: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_s: Option<u64>,
}

impl Bar {
    pub(super) fn new(out: Output) -> Self {
        let terminal = !out.json && io::stderr().is_terminal();
        Self { json: out.json, terminal, begin: clock::now(), before: None, last: None }
    }

    pub(super) fn heard(&mut self, sent: Sent, device: Option<&Progress>) {
        let now = clock::now();
        let interval = if self.json { TELL_MS } else { DRAW_MS };
        let is_due = self.last.is_none_or(|last| now.since(last).as_millis() >= interval);
        if !(self.json || self.terminal) || !is_due || sent.total == 0 {
            return;
        }
        self.last = Some(now);
        let line = self.line(sent, device, now.since(self.begin).as_millis());
        if self.terminal {
            // A terminal that is gone changes nothing about the work.
            let _ = write!(io::stderr(), "\r\x1b[K{}", drawn(&line));
        } else {
            // Nor does a reader who left.
            let _ = json_line(&line);
        }
    }

    /// Everything was sent, and the device reads it back.
    pub(super) fn verifies(&mut self, device: Option<&Progress>) {
        if let Some(progress) = device {
            let sent = Sent { settled: progress.total, total: progress.total, ..Sent::default() };
            self.heard(sent, device);
        }
    }

    fn line(&mut self, sent: Sent, device: Option<&Progress>, ms: u128) -> Line {
        let (state, done, total) = match device {
            Some(progress) if sent.settled >= sent.total || progress.state == State::Verifying => {
                (progress.state, progress.done, progress.total)
            }
            _ => (State::Receiving, sent.settled, sent.total),
        };
        let before = *self.before.get_or_insert(sent.settled);
        let moved = u128::from(sent.settled.saturating_sub(before));
        let rate = u64::try_from(moved * 1000 / ms.max(1)).unwrap_or(u64::MAX);
        let remaining_s = (state == State::Receiving && rate > 0)
            .then(|| sent.total.saturating_sub(sent.settled) / rate);
        Line { state, done, total, sent: sent.sent, rate, remaining_s }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.terminal && self.last.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn drawn(line: &Line) -> String {
    let share = |of: usize| {
        let filled = u128::from(line.done.min(line.total)) * of as u128;
        usize::try_from(filled / u128::from(line.total.max(1))).unwrap_or(of)
    };
    let filled = share(BAR);
    let mut text = format!(
        "{} [{}{}] {:>3} % of {}",
        super::show::name(line.state),
        "#".repeat(filled),
        " ".repeat(BAR - filled),
        share(100),
        units::size(line.total)
    );
    if let Some(left) = line.remaining_s {
        let rate = units::size(line.rate);
        text.push_str(&format!(", {rate}/s, {}:{:02} left", left / 60, left % 60));
    }
    text
}

/// One line of JSON.
pub(super) fn json_line<T: Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::failed(format!("write the result as JSON: {error}")))?;
    Output::text(&format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar() -> Bar {
        Bar { json: false, terminal: false, begin: Moment(0), before: None, last: None }
    }

    #[test]
    fn a_line_shows_share_rate_and_remaining_time() {
        let mut bar = bar();
        let sent = |settled| Sent { settled, total: 100 << 20, sent: 7, chunks: 1 };
        // A quarter was there already: it says nothing about the rate.
        bar.line(sent(25 << 20), None, 1);
        let shown = drawn(&bar.line(sent(50 << 20), None, 500));
        let boxes = format!("[{}{}]", "#".repeat(15), " ".repeat(15));
        assert_eq!(shown, format!("receiving {boxes}  50 % of 100 MiB, 50 MiB/s, 0:01 left"));
    }

    #[test]
    fn while_the_device_verifies_its_own_progress_is_shown() {
        let mut bar = bar();
        let sent = Sent { settled: 10, total: 10, ..Sent::default() };
        let progress =
            Progress { state: State::Verifying, done: 3, total: 4, ..Progress::default() };
        let shown = drawn(&bar.line(sent, Some(&progress), 500));
        assert!(shown.starts_with("verifying"), "{shown}");
        assert!(shown.contains("75 % of 4 B"), "{shown}");
    }
}
