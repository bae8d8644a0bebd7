//! The broker's own absence is nobody's fault: a start, a stall, a suspend, a jump of time.

use std::time::Duration;

use protocol::{heartbeat::State, time::Moment};

use super::device::{Device, PERIOD, expected};
use crate::{machine::Event, settings::Rules};

const MS: Duration = Duration::from_millis(1);
/// What everybody has after an absence: period times misses, and a second.
const AFTER: Duration = Duration::from_secs(4);

#[test]
fn a_broker_that_was_stalled_blames_nobody_and_gives_a_whole_silence_more() {
    let mut device = Device::new();
    let mut well: Vec<_> = (0..100).map(|id| device.running(id)).collect();
    device.running(200);
    device.stall(Duration::from_secs(5));
    device.timeout();
    assert!(device.told.is_empty());
    assert_eq!(device.broker.counters().stalls, 1);
    for _ in 0..3 {
        device.advance(PERIOD);
        well.iter_mut().for_each(|talker| device.report(talker));
    }
    device.advance(PERIOD - MS);
    assert!(device.told.is_empty());
    device.advance(MS);
    let told: Vec<i32> = device.told.iter().map(|missed| missed.app_id).collect();
    assert_eq!(told, [200]);
}

#[test]
fn a_resume_puts_every_deadline_off() {
    let mut device = Device::new();
    device.running(7);
    device.advance(PERIOD * 3 - MS);
    device.event(Event::Resumed);
    device.advance(AFTER - MS);
    assert!(device.told.is_empty());
    device.advance(MS);
    assert_eq!(device.told.len(), 1);
}

#[test]
fn a_broker_that_is_stalled_again_and_again_misses_a_silent_one_all_the_same() {
    let mut device = Device::new();
    device.running(7);
    for _ in 0..20 {
        device.stall(Duration::from_secs(5));
        device.timeout();
    }
    assert_eq!(device.told.len(), 1);
    assert_eq!(device.broker.counters().excused, 8);
}

#[test]
fn a_short_delay_is_no_excuse_for_those_who_report_seldom() {
    let mut device = Device::new();
    device.running(7);
    device.advance(PERIOD * 3 - MS);
    device.stall(MS * 300);
    device.timeout();
    assert_eq!(device.told.len(), 1);
}

#[test]
fn what_came_during_a_stall_is_heard_before_anybody_is_blamed() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    device.advance(PERIOD * 2);
    device.stall(PERIOD + MS * 100);
    device.report(&mut talker);
    device.timeout();
    assert!(device.told.is_empty());
    assert_eq!(device.state(7), State::Alive);
}

#[test]
fn a_broker_that_starts_gives_those_who_run_already_the_time_to_come_back() {
    let mut device = Device::new();
    let start = device.now;
    device.broker = crate::machine::Broker::new(Rules::default(), [4; 16], start);
    device.expect(protocol::heartbeat::Expect { grace_ms: 100, ..expected(7, 1) });
    device.advance(AFTER - MS);
    assert!(device.told.is_empty());
    device.advance(MS);
    assert_eq!(device.told.len(), 1);
    // Later on the grace is what the definition says.
    device.advance(Duration::from_secs(120));
    device.expect(protocol::heartbeat::Expect { grace_ms: 100, ..expected(8, 1) });
    device.advance(MS * 100);
    assert_eq!(device.told.len(), 2);
}

#[test]
fn half_a_year_of_uptime_wraps_nothing() {
    let mut device = Device::new();
    let days = |days: u64| Duration::from_secs(days * 86_400);
    for day in [49, 50, 248, 249, 500] {
        device.now = Moment(0) + days(day) + Duration::from_millis(u64::from(u32::MAX));
        device.event(Event::Resumed);
        device.forget(7, u32::MAX);
        device.told.clear();
        let mut talker = device.running(7);
        device.live(&mut talker, 10);
        assert!(device.told.is_empty(), "day {day}");
        device.advance(PERIOD * 3);
        assert_eq!(device.told.len(), 1, "day {day}");
    }
}
