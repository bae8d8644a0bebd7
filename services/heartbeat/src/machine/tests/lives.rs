//! The life of an application that says the truth: from its first word to its last.

use std::time::Duration;

use protocol::heartbeat::{Reason, ResultCode, State};

use super::device::{Device, GRACE, KEY, PERIOD, expected, local};
use crate::{machine::Event, settings::Rules};

const MS: Duration = Duration::from_millis(1);

#[test]
fn an_application_is_expected_registers_reports_and_leaves() {
    let mut device = Device::new();
    device.expect(expected(7, 1));
    assert_eq!(device.state(7), State::Expected);
    let mut talker = device.register(7, 1);
    assert_eq!(device.state(7), State::Registered);
    assert_eq!(device.verified, [talker.session]);
    device.report(&mut talker);
    assert_eq!(device.state(7), State::Alive);
    device.live(&mut talker, 100);
    let row = device.row(7);
    assert_eq!((row.reports, row.pid, row.authenticated), (101, Some(99), true));
    assert_eq!((row.period_ms, row.misses, row.age_ms), (1_000, 3, Some(0)));
    device.bye(&mut talker);
    assert_eq!(device.state(7), State::Gone);
    device.advance(GRACE);
    assert_eq!(device.events, [("heartbeat.registered", 7), ("heartbeat.gone", 7)]);
    assert!(device.told.is_empty());
}

#[test]
fn silence_is_missed_at_the_period_times_the_misses_and_not_before() {
    let mut device = Device::new();
    device.running(7);
    device.advance(PERIOD);
    assert_eq!(device.state(7), State::Alive);
    device.advance(MS);
    assert_eq!(device.state(7), State::Late);
    device.advance(PERIOD * 2 - MS * 2);
    assert!(device.told.is_empty());
    device.advance(MS);
    assert_eq!(device.state(7), State::Missed);
    assert_eq!((device.told[0].age_ms, device.told[0].reason), (3_000, Reason::Silent));
    device.advance(GRACE);
    assert_eq!(device.told.len(), 1);
}

#[test]
fn a_report_after_the_deadline_is_a_recovery() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    device.advance(PERIOD * 4);
    device.report(&mut talker);
    assert_eq!(device.state(7), State::Recovered);
    device.live(&mut talker, 1);
    assert_eq!(device.state(7), State::Alive);
    let topics: Vec<_> = device.events.iter().map(|(topic, _)| *topic).collect();
    assert_eq!(topics, ["heartbeat.registered", "heartbeat.missed", "heartbeat.recovered"]);
    // It is watched as before.
    device.advance(PERIOD * 3);
    assert_eq!(device.state(7), State::Missed);
}

#[test]
fn who_never_registers_is_missed_when_its_grace_is_over() {
    let mut device = Device::new();
    device.expect(expected(7, 1));
    device.advance(GRACE - MS);
    assert_eq!(device.state(7), State::Expected);
    device.advance(MS);
    assert_eq!(device.told[0].reason, Reason::NeverRegistered);
    device.register(7, 1);
    assert_eq!(device.state(7), State::Recovered);
}

#[test]
fn a_beating_thread_beside_a_stuck_one_is_missed_and_a_new_connection_does_not_help() {
    let mut device = Device::new();
    device.expect(protocol::heartbeat::Expect { progress_ms: 5_000, ..expected(7, 1) });
    let mut talker = device.register(7, 1);
    device.live(&mut talker, 20);
    assert_eq!(device.state(7), State::Alive);
    talker.progress -= 1;
    let stuck = |device: &mut Device, talker: &mut super::device::Talker, periods| {
        for _ in 0..periods {
            device.advance(PERIOD);
            talker.counter += 1;
            device.say(talker.session, &talker.report());
        }
    };
    talker.progress += 1;
    stuck(&mut device, &mut talker, 4);
    assert_eq!(device.state(7), State::Alive);
    stuck(&mut device, &mut talker, 2);
    assert_eq!(device.told[0].reason, Reason::NoProgress);
    let (counter, progress) = (talker.counter, talker.progress);
    let mut talker = device.register(7, 1);
    (talker.counter, talker.progress) = (counter, progress);
    stuck(&mut device, &mut talker, 3);
    assert_eq!((device.state(7), device.told.len()), (State::Missed, 1));
    device.report(&mut talker);
    assert_eq!(device.state(7), State::Recovered);
}

#[test]
fn credit_belongs_to_the_generation_and_not_to_the_connection() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    // The transport is reset: nothing is started anew, nothing is put off.
    device.advance(PERIOD);
    device.event(Event::Ended { session: talker.session, retransmitted: 4 });
    assert_eq!(device.state(7), State::Alive);
    device.advance(PERIOD);
    // A connection alone, and a challenge, are no sign of life.
    let session = device.open(local(4_001));
    device.hello(session, 7, 1);
    device.advance(PERIOD - MS);
    assert!(device.told.is_empty());
    device.advance(MS);
    assert_eq!(device.told.len(), 1);
    // The counter goes on as well, whatever the connection.
    let counter = talker.counter;
    talker = device.register(7, 1);
    talker.counter = counter - 1;
    device.report(&mut talker);
    assert_eq!(device.broker.counters().replayed, 1);
    device.report(&mut talker);
    assert_eq!(device.row(7).reports, 2);
    assert_eq!(device.row(7).retransmitted, 4);
}

#[test]
fn a_new_connection_takes_over_and_the_old_one_is_closed() {
    let mut device = Device::new();
    let mut old = device.running(7);
    let mut new = device.register(7, 1);
    assert_eq!(device.closed, [old.session]);
    device.report(&mut old);
    assert_eq!(device.broker.counters().out_of_place, 1);
    new.counter = 1;
    device.report(&mut new);
    assert_eq!(device.row(7).reports, 2);
    // Nobody is told twice that it is there.
    assert_eq!(device.events, [("heartbeat.registered", 7)]);
}

#[test]
fn a_peer_that_began_anew_on_the_same_connection_must_register_again() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    device.event(Event::Opened { session: talker.session, from: local(4_000) });
    device.report(&mut talker);
    assert_eq!(device.broker.counters().out_of_place, 1);
    assert_eq!(device.row(7).reports, 1);
}

#[test]
fn the_adaptive_detector_follows_the_application_and_phi_is_always_shown() {
    let mut device = Device::new();
    let mut fixed = device.running(7);
    device.expect(protocol::heartbeat::Expect { adaptive: true, ..expected(8, 1) });
    let mut adaptive = device.register(8, 1);
    device.report(&mut adaptive);
    for _ in 0..50 {
        device.advance(PERIOD);
        device.report(&mut fixed);
        device.report(&mut adaptive);
    }
    device.advance(PERIOD * 2);
    // A clockwork that is silent for two periods is hung; three misses are still allowed to the other one.
    assert_eq!((device.state(7), device.state(8)), (State::Late, State::Missed));
    assert!(device.row(7).phi.unwrap() > 8.0 && device.row(7).jitter_us.unwrap() < 1_000);
}

#[test]
fn an_application_of_the_configuration_may_come_without_a_key_and_the_supervisor_is_not_told() {
    let mut rules = Rules::default();
    rules.apps.insert(5, crate::settings::App::default());
    let mut device = Device::with(rules);
    let (code, mut talker) = device.try_register(local(1), (5, 0), None);
    assert_eq!(code, ResultCode::Ok);
    assert!(device.verified.is_empty());
    device.report(&mut talker);
    device.advance(PERIOD * 4);
    assert_eq!((device.state(5), device.row(5).authenticated), (State::Missed, false));
    assert!(device.told.is_empty());
    assert_eq!(device.events.last(), Some(&("heartbeat.missed", 5)));
    // Not with a key that we can't check, not from elsewhere.
    assert_eq!(device.try_register(local(2), (5, 0), Some(KEY)).0, ResultCode::BadTag);
    let far = "10.0.0.9:77".parse().unwrap();
    assert_eq!(device.try_register(far, (5, 0), None).0, ResultCode::UnknownApplication);
}

#[test]
fn a_device_with_a_key_of_the_configuration_comes_from_afar_and_counts_from_one_after_a_restart() {
    let mut rules = Rules::default();
    rules.apps.insert(5, crate::settings::App { key: Some(KEY), ..Default::default() });
    let mut device = Device::with(rules);
    for life in 1..3 {
        let from = "10.0.0.9:77".parse().unwrap();
        let (code, mut talker) = device.try_register(from, (5, 0), Some(KEY));
        assert_eq!(code, ResultCode::Ok);
        device.report(&mut talker);
        assert_eq!(device.row(5).reports, life);
    }
}

#[test]
fn all_that_a_peer_of_plain_reliable_udp_says_is_a_report() {
    let mut rules = Rules::default();
    let legacy = crate::settings::Legacy { address: "10.0.0.8".parse().unwrap(), port: None };
    rules.apps.insert(5, crate::settings::App { legacy: Some(legacy), ..Default::default() });
    let mut device = Device::with(rules);
    let session = device.open("10.0.0.8:5000".parse().unwrap());
    // Its transport alone is no sign of life, however long it stands.
    device.advance(GRACE);
    assert_eq!(device.state(5), State::Expected);
    for _ in 0..10 {
        device.say(session, b"HB000000");
        device.advance(PERIOD);
    }
    let row = device.row(5);
    assert_eq!((row.state, row.reports, row.authenticated), (State::Alive, 10, false));
    device.advance(PERIOD * 2);
    assert_eq!(device.state(5), State::Missed);
    // Not from elsewhere.
    let session = device.open("10.0.0.9:5000".parse().unwrap());
    device.say(session, b"HB000000");
    assert_eq!((device.broker.counters().malformed, device.row(5).reports), (1, 10));
}

#[test]
fn ten_thousand_who_are_well_cost_a_look_for_each_deadline_and_no_more() {
    let mut device = Device::new();
    let mut talkers: Vec<_> = (0..10_000).map(|id| device.running(id)).collect();
    let mut woken = 0;
    for _ in 0..30 {
        for talker in &mut talkers {
            device.report(talker);
        }
        let end = device.now + PERIOD;
        while let Some(when) = device.broker.next_deadline().filter(|when| *when <= end) {
            device.now = when;
            woken += 1;
            device.wake();
        }
        device.now = end;
    }
    // All are due at the same moments here: after two periods or three, and once for the handshakes.
    assert!(woken <= 15, "{woken}");
    assert!(device.told.is_empty());
}
