//! A record of the log as one line.

use protocol::log::{Record, Source};

use super::priority;
use crate::stamp;

/// The instance of a service that names none.
const ONLY: &str = "instance1";

/// When it was said: `2026-11-22T04:05:20.123Z`, or seconds since the start of the device.
pub(crate) fn time(record: &Record, monotonic: bool) -> String {
    if monotonic { seconds(record.monotonic_us) } else { stamp::full(record.realtime_us) }
}

/// `TIME PRIORITY WHO[PID]: TEXT`, without what colours it.
pub(crate) fn text(record: &Record, monotonic: bool) -> String {
    let who = who(record);
    let priority = priority::name(record.priority);
    format!("{} {priority:<7} {who}: {}", time(record, monotonic), said(record))
}

/// `HH:MM:SS.mmm TEXT`, where it is clear who says it.
#[cfg(feature = "top")]
pub(crate) fn brief(record: &Record) -> String {
    format!("{} {}", stamp::short(record.realtime_us), said(record))
}

/// As OpenWrt's logread prints it.
pub(crate) fn openwrt(record: &Record, seconds_too: bool) -> String {
    let facility = match record.source {
        Source::Kernel => "kern",
        Source::Call | Source::Syslog => "user",
        Source::Log => "syslog",
        Source::Stdout | Source::Stderr | Source::Unknown => "daemon",
    };
    let seconds = if seconds_too {
        format!("[{}.{:03}] ", record.realtime_us / 1_000_000, record.realtime_us / 1000 % 1000)
    } else {
        String::new()
    };
    let (time, priority) = (stamp::ctime(record.realtime_us), priority::name(record.priority));
    format!("{time} {seconds}{facility}.{priority} {}: {}", who(record), said(record))
}

/// Service, instance where it is not the only one, and pid.
fn who(record: &Record) -> String {
    let mut who = match (&record.service, record.source) {
        (Some(service), _) => service.clone(),
        (None, Source::Kernel) => "kernel".to_owned(),
        (None, Source::Log) => "log".to_owned(),
        (None, _) => "unknown".to_owned(),
    };
    if let Some(instance) = record.instance.as_deref().filter(|instance| *instance != ONLY) {
        who.push('/');
        who.push_str(instance);
    }
    if let Some(pid) = record.pid {
        who.push_str(&format!("[{pid}]"));
    }
    printable(&who)
}

/// The text; what does not end here is marked, and so is what is missing.
fn said(record: &Record) -> String {
    let mut text = printable(&record.text);
    if record.more {
        text.push_str(" ...");
    }
    if record.dropped > 0 {
        let blank = if text.is_empty() { "" } else { " " };
        text.push_str(&format!("{blank}({} lines dropped)", record.dropped));
    }
    text
}

/// The log escapes what a terminal must not get; this holds should it not.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\t' {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}

/// `[   12.345678]`, as the kernel prints it.
fn seconds(us: u64) -> String {
    format!("[{:5}.{:06}]", us / 1_000_000, us % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            sequence: 7,
            realtime_us: 1_795_320_320_123_000,
            monotonic_us: 12_345_678,
            boot: "0123abcd".into(),
            source: Source::Stdout,
            service: Some("web".into()),
            instance: Some("instance1".into()),
            pid: Some(99),
            priority: 6,
            text: "ready".into(),
            more: false,
            dropped: 0,
        }
    }

    #[test]
    fn a_record_is_time_priority_who_and_text() {
        assert_eq!(text(&record(), false), "2026-11-22T04:05:20.123Z info    web[99]: ready");
        let other = Record { instance: Some("front".into()), pid: None, ..record() };
        assert_eq!(text(&other, true), "[   12.345678] info    web/front: ready");
    }

    #[test]
    fn long_lines_and_gaps_are_marked() {
        let long = Record { more: true, ..record() };
        assert!(text(&long, false).ends_with("ready ..."));
        let gap = Record { dropped: 12, text: String::new(), ..record() };
        assert!(text(&gap, false).ends_with(": (12 lines dropped)"));
    }

    #[test]
    fn escapes_stay_and_the_terminal_gets_none() {
        let odd = Record { text: "a\\x1b[1m\tb\u{1b}[2J".into(), ..record() };
        assert!(text(&odd, false).ends_with("a\\x1b[1m\tb\\u{1b}[2J"));
    }

    #[test]
    fn logread_prints_as_openwrt_does() {
        let line = "Sun Nov 22 04:05:20 2026 daemon.info web[99]: ready";
        assert_eq!(openwrt(&record(), false), line);
        let kernel =
            Record { source: Source::Kernel, service: None, instance: None, pid: None, ..record() };
        assert_eq!(
            openwrt(&kernel, true),
            "Sun Nov 22 04:05:20 2026 [1795320320.123] kern.info kernel: ready"
        );
    }
}
