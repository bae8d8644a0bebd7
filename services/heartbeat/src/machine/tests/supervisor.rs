//! What is agreed with the supervisor: whom to expect, and that it hears of every miss.

use std::time::Duration;

use protocol::heartbeat::{Expect, ResultCode, State};

use super::device::{Device, GRACE, KEY, PERIOD, expected, local};

#[test]
fn a_miss_is_told_until_the_supervisor_has_heard_it() {
    let mut device = Device::new();
    device.running(7);
    device.advance(PERIOD * 3);
    for tries in 1..=20 {
        assert_eq!(device.told.len(), tries);
        let missed = device.told[tries - 1].clone();
        device.answer(&missed, false);
        device.advance(Duration::from_secs(5));
    }
    let missed = device.told.last().unwrap().clone();
    assert!(missed.age_ms > 90_000, "the age goes on: {missed:?}");
    device.answer(&missed, true);
    device.advance(GRACE);
    assert_eq!((device.told.len(), device.broker.counters().told), (21, 1));
}

#[test]
fn telling_ends_when_nobody_wants_to_know_and_begins_again_with_the_next_supervisor() {
    let mut device = Device::new();
    device.running(7);
    device.advance(PERIOD * 3);
    let mut tries = 0;
    while let Some(missed) = device.told.pop() {
        tries += 1;
        assert!(tries < 200, "it never ends");
        device.answer(&missed, false);
        device.advance(Duration::from_secs(5));
    }
    assert!(tries > 100, "{tries}");
    assert_eq!(device.broker.counters().untold, 1);
    device.expect(expected(7, 1));
    assert_eq!(device.told.len(), 1);
    let missed = device.told[0].clone();
    device.answer(&missed, true);
    device.advance(GRACE);
    assert_eq!(device.told.len(), 1);
}

#[test]
fn one_that_came_back_before_the_supervisor_could_be_told_is_not_told_any_more() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    device.advance(PERIOD * 3);
    let missed = device.told[0].clone();
    device.answer(&missed, false);
    device.report(&mut talker);
    device.live(&mut talker, 10);
    assert_eq!(device.told.len(), 1);
}

#[test]
fn a_thousand_misses_are_told_a_few_at_a_time() {
    let mut device = Device::new();
    for id in 0..1_000 {
        device.running(id);
    }
    device.advance(PERIOD * 3);
    assert_eq!(device.told.len(), 16);
    let mut at = 0;
    while let Some(missed) = device.told.get(at).cloned() {
        device.answer(&missed, true);
        at += 1;
    }
    assert_eq!(at, 1_000);
}

#[test]
fn said_again_it_changes_the_terms_and_keeps_the_life() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    device.expect(Expect { misses: 10, ..expected(7, 1) });
    device.expect(expected(7, 0));
    device.advance(PERIOD * 9);
    assert!(device.told.is_empty());
    device.report(&mut talker);
    assert_eq!((device.row(7).reports, device.row(7).misses), (2, 10));
    // Shorter terms count at once as well.
    device.expect(Expect { misses: 2, ..expected(7, 1) });
    device.advance(PERIOD * 2);
    assert_eq!(device.told.len(), 1);
}

#[test]
fn a_new_generation_begins_a_new_life_and_the_old_key_dies() {
    let mut device = Device::new();
    let mut old = device.running(7);
    device.advance(PERIOD * 3);
    device.expect(Expect { key: Some("08".repeat(16)), ..expected(7, 2) });
    assert_eq!((device.state(7), device.row(7).reports), (State::Expected, 0));
    assert_eq!(device.closed, [old.session]);
    device.report(&mut old);
    assert_eq!(device.try_register(local(1), (7, 1), Some(KEY)).0, ResultCode::WrongGeneration);
    assert_eq!(device.try_register(local(1), (7, 2), Some(KEY)).0, ResultCode::BadTag);
    let new = protocol::heartbeat::Key([8; 16]);
    assert_eq!(device.try_register(local(1), (7, 2), Some(new)).0, ResultCode::Ok);
    // The answer to what was told of the old one changes nothing.
    let missed = device.told[0].clone();
    device.answer(&missed, false);
    device.advance(PERIOD);
    assert_eq!(device.told.len(), 1);
}

#[test]
fn forgetting_ends_the_watch_but_not_that_of_a_later_generation() {
    let mut device = Device::new();
    let talker = device.running(7);
    device.forget(7, 0);
    assert_eq!(device.row(7).generation, 1);
    device.forget(7, 1);
    assert!(device.broker.rows(device.now).is_empty());
    assert_eq!(device.closed, [talker.session]);
    device.advance(GRACE);
    assert!(device.told.is_empty());
}

#[test]
fn an_application_of_the_configuration_comes_back_when_the_supervisor_forgets_its_own() {
    let mut rules = crate::settings::Rules::default();
    rules.apps.insert(7, crate::settings::App::default());
    let mut device = Device::with(rules);
    device.expect(expected(7, 1));
    assert!(device.row(7).authenticated);
    device.forget(7, 1);
    assert!(!device.row(7).authenticated);
}

#[test]
fn terms_that_can_not_be_kept_are_refused_and_a_key_is_never_in_the_answer() {
    let mut device = Device::new();
    for (expect, part) in [
        (Expect { period_ms: 1, ..expected(7, 1) }, "outside 50 to 3600000 ms"),
        (Expect { misses: 0, ..expected(7, 1) }, "0 misses"),
        (Expect { misses: 256, ..expected(7, 1) }, "256 misses"),
        (Expect { key: Some("f00dg".into()), ..expected(7, 1) }, "5 characters"),
        (Expect { key: Some("+7".repeat(16)), ..expected(7, 1) }, "32 characters"),
    ] {
        device.expect(expect);
        let failure = device.failures.pop().unwrap();
        assert!(failure.contains(part) && !failure.contains("f00d"), "{failure}");
    }
    assert!(device.broker.rows(device.now).is_empty());
}

#[test]
fn who_speaks_by_sd_notify_is_listed_and_timed_elsewhere() {
    let mut device = Device::new();
    device.expect(Expect { key: None, period_ms: 0, misses: 0, ..expected(7, 1) });
    device.advance(GRACE * 10);
    assert_eq!(device.state(7), State::Expected);
    assert!(device.told.is_empty());
    assert_eq!(device.try_register(local(1), (7, 1), None).0, ResultCode::UnknownApplication);
}
