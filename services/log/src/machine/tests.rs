use std::{collections::HashMap, time::Duration};

use super::*;
use crate::machine::rate::Rate;

const START: Now = Now { monotonic: Moment(5_000_000_000), realtime_us: 1_700_000_000_000_000 };

fn later(seconds: u64) -> Now {
    let monotonic = START.monotonic + Duration::from_secs(seconds);
    Now { monotonic, realtime_us: START.realtime_us + seconds * 1_000_000 }
}

fn intake(rate: Option<Rate>) -> Intake {
    let rates = Rates { default: rate, services: HashMap::new() };
    Intake::new(Choices { rates, stdout_priority: 6, stderr_priority: 4 })
}

fn web(source: Source) -> Printer {
    Printer { service: "web".into(), instance: "instance1".into(), pid: 7, source }
}

fn print(intake: &mut Intake, source: Source, text: &str, now: Now) -> Vec<Entry> {
    intake.printed(&web(source), &mut Lines::default(), text.as_bytes(), Rest::Stays, now).0
}

#[test]
fn a_printed_line_has_its_service_times_and_the_priority_of_its_stream() {
    let mut intake = intake(None);
    let out = print(&mut intake, Source::Stdout, "hello\n<3>bad\n", START);
    let expected = Entry {
        realtime_us: START.realtime_us,
        monotonic_us: 5_000_000,
        source: Source::Stdout,
        service: Some("web".into()),
        instance: Some("instance1".into()),
        pid: Some(7),
        priority: 6,
        text: "hello".to_owned(),
        more: false,
        dropped: 0,
    };
    assert_eq!(out[0], expected);
    assert_eq!(out[1].priority, 3);
    assert_eq!(print(&mut intake, Source::Stderr, "x\n", START)[0].priority, 4);
}

#[test]
fn what_a_rate_limit_drops_is_told_under_the_services_name() {
    let mut intake = intake(Some(Rate { per_second: 2, burst: 2 }));
    assert_eq!(print(&mut intake, Source::Stdout, "1\n2\n3\n4\n", START).len(), 2);
    let again = print(&mut intake, Source::Stdout, "5\n", later(1));
    let [note, line] = &again[..] else { panic!("{again:?}") };
    assert_eq!((note.source, note.service.as_deref(), note.dropped), (Source::Log, Some("web"), 2));
    assert!(note.text.starts_with("2 lines of web were dropped"), "{}", note.text);
    assert_eq!(line.text, "5");
    assert_eq!(intake.dropped(), BTreeMap::from([("web".to_owned(), 2)]));
}

#[test]
fn a_flood_that_ends_is_told_without_another_line() {
    let mut intake = intake(Some(Rate { per_second: 2, burst: 2 }));
    print(&mut intake, Source::Stdout, "1\n2\n3\n", START);
    assert_eq!(intake.next_deadline(), Some(later(1).monotonic));
    assert_eq!(intake.handle_timeout(START), []);
    assert_eq!(intake.handle_timeout(later(1))[0].dropped, 1);
    assert_eq!(intake.next_deadline(), None);
}

#[test]
fn a_datagram_becomes_a_line_each_with_what_the_kernel_says_of_the_sender() {
    let mut intake = intake(None);
    let entries = intake.datagram(b"<11>cron[4]: one\ntwo", Some((99, 1000)), START);
    let seen: Vec<_> =
        entries.iter().map(|entry| (entry.priority, entry.pid, entry.text.as_str())).collect();
    assert_eq!(seen, [(3, Some(99), "one"), (3, Some(99), "two")]);
    assert_eq!(entries[0].service.as_deref(), Some("cron"));
    assert_eq!(intake.datagram(b"<11>cron[4]: one", None, START)[0].pid, Some(4));
}

#[test]
fn one_users_flood_by_syslog_silences_no_other_user_and_no_service() {
    let mut intake = intake(Some(Rate { per_second: 1, burst: 1 }));
    let sent =
        |intake: &mut Intake, uid| intake.datagram(b"<6>web: x", Some((1, uid)), START).len();
    assert_eq!((sent(&mut intake, 7), sent(&mut intake, 7), sent(&mut intake, 8)), (1, 0, 1));
    assert_eq!(print(&mut intake, Source::Stdout, "x\n", START).len(), 1);
    assert!(intake.dropped().contains_key("syslog of user 7"));
    assert_eq!(intake.handle_timeout(later(1))[0].service, None);
}

#[test]
fn a_written_text_has_its_tag_and_its_callers_pid() {
    let mut intake = intake(None);
    let write = |text: &str, tag: Option<&str>| Write {
        text: text.to_owned(),
        priority: Some(9),
        tag: tag.map(str::to_owned),
    };
    let entries = intake.written(write("", Some(&"\u{7}ü".repeat(100))), 12, 0, START);
    assert_eq!((entries[0].priority, entries[0].pid, &*entries[0].text), (7, Some(12), ""));
    assert!(entries[0].service.as_deref().unwrap().chars().all(|letter| letter == 'ü'));
    assert_eq!(intake.written(write("a\nb", None), 0, 0, START).len(), 2);
}

#[test]
fn the_time_of_day_of_an_earlier_moment_is_earlier() {
    let then = later(10).at(later(4).monotonic);
    assert_eq!((then.realtime_us, then.monotonic), (later(4).realtime_us, later(4).monotonic));
}
