//! Applications that are kept from running, and another life of an image of the machine.

use std::time::Duration;

use protocol::heartbeat::{Expect, Reason, State};

use super::device::{Device, GRACE, PERIOD, Talker, expected};
use crate::machine::Event;

const MS: Duration = Duration::from_millis(1);

fn freeze(device: &mut Device, frozen: bool) {
    device.expect(Expect { frozen, ..expected(7, 1) });
}

/// A second after its last report it misses nothing, and at the end of its silence it is missed.
fn is_watched_from_now_on(device: &mut Device) {
    device.advance(PERIOD * 3 - MS);
    assert!(device.told.is_empty());
    device.advance(MS);
    assert_eq!(device.told.len(), 1);
}

fn nearly_missed() -> (Device, Talker) {
    let mut device = Device::new();
    let talker = device.running(7);
    device.advance(PERIOD * 3 - MS);
    (device, talker)
}

#[test]
fn another_life_gives_everybody_his_whole_silence_again_however_often_he_was_excused() {
    let (mut device, _) = nearly_missed();
    for _ in 0..20 {
        device.event(Event::BornAgain);
        device.advance(PERIOD * 3 - MS);
        assert!(device.told.is_empty());
    }
    device.event(Event::BornAgain);
    is_watched_from_now_on(&mut device);
}

#[test]
fn another_life_gives_the_whole_grace_and_the_whole_time_for_progress_again() {
    let mut device = Device::new();
    device.expect(expected(7, 1));
    device.advance(GRACE - MS);
    device.event(Event::BornAgain);
    device.advance(GRACE - MS);
    assert!(device.told.is_empty());
    device.advance(MS);
    assert_eq!(device.told.pop().unwrap().reason, Reason::NeverRegistered);
    device.expect(Expect { progress_ms: 10_000, ..expected(8, 1) });
    let mut talker = device.register(8, 1);
    let stuck = |device: &mut Device, talker: &mut Talker, times: u32| {
        for _ in 0..times {
            device.advance(PERIOD);
            talker.progress = 0;
            device.report(talker);
        }
    };
    stuck(&mut device, &mut talker, 10);
    device.event(Event::BornAgain);
    stuck(&mut device, &mut talker, 9);
    assert!(device.told.is_empty());
    stuck(&mut device, &mut talker, 2);
    assert_eq!(device.told.pop().unwrap().reason, Reason::NoProgress);
}

#[test]
fn who_was_missed_before_the_sleep_is_still_missed_after_it() {
    let mut device = Device::new();
    device.running(7);
    device.advance(PERIOD * 3);
    device.event(Event::BornAgain);
    assert_eq!((device.state(7), device.told.len()), (State::Missed, 1));
}

#[test]
fn who_is_frozen_misses_nothing_and_is_watched_from_the_beginning_when_he_runs_again() {
    let (mut device, mut talker) = nearly_missed();
    freeze(&mut device, true);
    device.advance(GRACE * 100);
    // The supervisor says it again when it is another one.
    freeze(&mut device, true);
    device.advance(PERIOD * 3 - MS);
    device.event(Event::BornAgain);
    device.advance(GRACE);
    assert!(device.told.is_empty() && device.state(7) == State::Alive, "{:?}", device.row(7));
    freeze(&mut device, false);
    device.advance(PERIOD * 3 - MS);
    assert!(device.told.is_empty());
    device.report(&mut talker);
    assert_eq!(device.state(7), State::Alive, "on the same connection as before");
    is_watched_from_now_on(&mut device);
}

#[test]
fn a_miss_of_which_the_supervisor_had_not_heard_is_forgotten_by_freezing_and_told_again_after_it() {
    let mut device = Device::new();
    device.running(7);
    device.advance(PERIOD * 3);
    let missed = device.told.pop().unwrap();
    device.answer(&missed, false);
    freeze(&mut device, true);
    device.advance(GRACE);
    assert!(device.told.is_empty(), "nobody is told of what it can't help");
    freeze(&mut device, false);
    assert_eq!(device.state(7), State::Registered);
    is_watched_from_now_on(&mut device);
}

#[test]
fn one_that_was_frozen_before_its_broker_was_born_is_not_waited_for() {
    let mut device = Device::new();
    freeze(&mut device, true);
    device.advance(GRACE * 10);
    assert!(device.told.is_empty());
    freeze(&mut device, false);
    device.advance(GRACE);
    assert_eq!(device.told.pop().unwrap().reason, Reason::NeverRegistered);
}
