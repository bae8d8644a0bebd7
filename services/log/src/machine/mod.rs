//! What becomes of what arrives: bytes in, entries for the store out. Decides which lines are kept and what is said of those
//! that aren't. Reads no clock, opens nothing.
//!
//! ```text
//! a service's pipe ---> lines ----+
//! a syslog datagram --> syslog ---+--> rate ---> entries
//! a call of `write` --------------+      |
//! the kernel ------- > kernel ----(no limit)--> entries
//! ```

pub(crate) mod kernel;
pub(crate) mod lines;
pub(crate) mod rate;
pub(crate) mod syslog;

use std::{collections::BTreeMap, sync::Arc};

use protocol::{
    log::{Source, Write},
    time::Moment,
};

use self::{
    lines::{Line, Lines, Rest},
    rate::{Dropped, Limiter, Rates},
};
use crate::store::record::Entry;

/// Longest tag of a `write`.
const TAG_MAX: usize = 64;
/// What `write` gives a text without a priority: notice.
const NOTICE: u8 = 5;
/// What the log's own remarks have: warning.
const WARNING: u8 = 4;

/// What a person may choose, of what is decided here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Choices {
    pub(crate) rates: Rates,
    /// Of a line that names none.
    pub(crate) stdout_priority: u8,
    pub(crate) stderr_priority: u8,
}

/// The two clocks, read once for all that arrived together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) monotonic: Moment,
    pub(crate) realtime_us: u64,
}

/// Who prints.
#[derive(Clone, Debug)]
pub(crate) struct Printer {
    pub(crate) service: Arc<str>,
    pub(crate) instance: Arc<str>,
    /// 0 while it doesn't run.
    pub(crate) pid: i32,
    pub(crate) source: Source,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Intake {
    choices: Choices,
    limiter: Limiter,
}

impl Now {
    /// The time of day at another moment, as far as the clock was not set in between.
    pub(crate) fn at(self, moment: Moment) -> Self {
        let since = u64::try_from(self.monotonic.since(moment).as_micros()).unwrap_or(u64::MAX);
        Self { monotonic: moment, realtime_us: self.realtime_us.saturating_sub(since) }
    }

    /// An entry of this time, with nothing in it yet.
    pub(crate) fn entry(self, source: Source, priority: u8) -> Entry {
        Entry {
            realtime_us: self.realtime_us,
            monotonic_us: self.monotonic.0 / 1000,
            source,
            service: None,
            instance: None,
            pid: None,
            priority,
            text: String::new(),
            more: false,
            dropped: 0,
        }
    }

    /// A remark of the log's own.
    pub(crate) fn remark(self, text: String) -> Entry {
        Entry { text, ..self.entry(Source::Log, WARNING) }
    }
}

impl Intake {
    pub(crate) fn new(choices: Choices) -> Self {
        Self { limiter: Limiter::new(choices.rates.clone()), choices }
    }

    /// The configuration was read again.
    pub(crate) fn set(&mut self, choices: Choices) {
        self.limiter.set(choices.rates.clone());
        self.choices = choices;
    }

    /// A service printed. Answers the entries, and how many bytes they used.
    pub(crate) fn printed(
        &mut self,
        printer: &Printer,
        lines: &mut Lines,
        input: &[u8],
        rest: Rest,
        now: Now,
    ) -> (Vec<Entry>, usize) {
        let default = match printer.source {
            Source::Stderr => self.choices.stderr_priority,
            _ => self.choices.stdout_priority,
        };
        let mut entries = Vec::new();
        let used = lines.take(input, rest, |line| {
            if self.admit(&printer.service, now, &mut entries) {
                entries.push(Entry {
                    service: Some(Arc::clone(&printer.service)),
                    instance: Some(Arc::clone(&printer.instance)),
                    pid: (printer.pid > 0).then_some(printer.pid),
                    text: line.text,
                    more: line.more,
                    ..now.entry(printer.source, line.priority.unwrap_or(default))
                });
            }
        });
        (entries, used)
    }

    /// A datagram came to the syslog socket; `sender` is what the kernel says of it: pid and user.
    pub(crate) fn datagram(
        &mut self,
        datagram: &[u8],
        sender: Option<(i32, u32)>,
        now: Now,
    ) -> Vec<Entry> {
        let message = syslog::parse(datagram);
        let of = sender.map_or_else(|| "unknown".to_owned(), |(_, uid)| uid.to_string());
        let sender = (sender.map(|(pid, _)| pid).or(message.pid), format!("syslog of user\n{of}"));
        let blank = Entry {
            service: message.tag.map(Arc::from),
            pid: sender.0,
            ..now.entry(Source::Syslog, message.priority)
        };
        self.text(message.text, &blank, &sender.1.into(), now)
    }

    /// Somebody called `write`. An empty answer: the rate limit took all of it.
    pub(crate) fn written(&mut self, write: Write, pid: i32, uid: u32, now: Now) -> Vec<Entry> {
        let tag = write.tag.filter(|tag| !tag.is_empty()).map(|mut tag| {
            tag.truncate(tag.floor_char_boundary(TAG_MAX));
            tag.retain(|letter| !letter.is_control());
            tag.into()
        });
        let priority = write.priority.unwrap_or(NOTICE).min(7);
        let blank = Entry {
            service: tag,
            pid: (pid > 0).then_some(pid),
            ..now.entry(Source::Call, priority)
        };
        self.text(write.text.as_bytes(), &blank, &format!("write of user\n{uid}").into(), now)
    }

    /// Senders that were silenced and print nothing since: what they lost.
    pub(crate) fn handle_timeout(&mut self, now: Now) -> Vec<Entry> {
        self.limiter.due(now.monotonic).iter().map(|dropped| note(dropped, now)).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.limiter.next_deadline()
    }

    /// Lines that the rate limits dropped, by sender.
    pub(crate) fn dropped(&self) -> BTreeMap<String, u64> {
        let counts = self.limiter.dropped();
        counts.map(|(sender, lines)| (sender.replace('\n', " "), lines)).collect()
    }

    /// A text of its own, which may have several lines.
    fn text(&mut self, text: &[u8], blank: &Entry, sender: &Arc<str>, now: Now) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut take = |line: Line| {
            if self.admit(sender, now, &mut entries) {
                entries.push(Entry { text: line.text, more: line.more, ..blank.clone() });
            }
        };
        if text.is_empty() {
            take(Line { priority: None, text: String::new(), more: false });
        } else {
            Lines::plain().take(text, Rest::Ends, take);
        }
        entries
    }

    fn admit(&mut self, sender: &Arc<str>, now: Now, entries: &mut Vec<Entry>) -> bool {
        let (kept, dropped) = self.limiter.admit(sender, now.monotonic);
        entries.extend(dropped.map(|dropped| note(&dropped, now)));
        kept
    }
}

/// Says what a rate limit dropped. A sender that is no service has a line end in its name, which no service's can have.
fn note(dropped: &Dropped, now: Now) -> Entry {
    let Dropped { sender, lines, rate } = dropped;
    let service = (!sender.contains('\n')).then(|| Arc::clone(sender));
    let text = format!(
        "{lines} lines of {} were dropped: more than {} a second, and {} at once; `rate` in log.toml changes that",
        sender.replace('\n', " "),
        rate.per_second,
        rate.burst
    );
    Entry { service, dropped: *lines, ..now.remark(text) }
}

#[cfg(test)]
mod tests;
