//! However much comes from however many, what is kept is bounded, and those who are well stay well.

use std::time::Duration;

use core::net::SocketAddr;

use protocol::heartbeat::{Body, MESSAGE_LENGTH, Message, ResultCode, State};

use super::device::{Device, PERIOD, expected, local};
use crate::settings::{Limits, Rules};

fn open_to_all(unexpected: usize) -> Device {
    let limits = Limits { unexpected, ..Limits::default() };
    Device::with(Rules { allow_unexpected: true, limits, ..Rules::default() })
}

#[test]
fn a_hundred_thousand_connections_leave_the_living_alone_and_no_trace() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    for port in 0..100_000_u32 {
        let port = u16::try_from(port % 60_000).unwrap();
        device.open(local(port));
        if port % 1_000 == 0 {
            device.live(&mut talker, 1);
        }
    }
    assert!(device.told.is_empty());
    let counters = device.broker.counters();
    assert!(counters.sessions_evicted > 90_000 / 2, "{counters:?}");
    device.live(&mut talker, 10);
    let counters = device.broker.counters();
    assert_eq!(counters.sessions, counters.sessions_evicted + counters.sessions_timed_out + 1);
    assert_eq!(device.closed.len(), 100_000);
    // Somebody honest gets through in the middle of it.
    device.expect(expected(8, 1));
    for port in 0..2_000 {
        device.open(local(port));
    }
    assert_eq!(device.try_register(local(1), (8, 1), Some(super::device::KEY)).0, ResultCode::Ok);
}

#[test]
fn ten_thousand_application_ids_are_answered_and_forgotten() {
    let mut device = open_to_all(64);
    let mut admitted = 0;
    for id in 0..10_000 {
        let (code, _) = device.try_register(local(1), (id, 0), None);
        admitted += u32::from(code == ResultCode::Ok);
        assert!(matches!(code, ResultCode::Ok | ResultCode::Limit));
    }
    assert_eq!(admitted, 64);
    assert_eq!(device.broker.rows(device.now).len(), 64);
    device.sent.clear();
    // Those who fell silent make room.
    device.advance(PERIOD * 4);
    assert_eq!(device.try_register(local(1), (-1, 0), None).0, ResultCode::Ok);
    assert_eq!(device.broker.rows(device.now).len(), 64);
}

#[test]
fn connections_of_one_foreign_address_are_limited_and_those_of_others_are_not() {
    let mut device = Device::new();
    let at = |host: u8, port: u16| SocketAddr::from(([10, 0, 0, host], port));
    for port in 0..40 {
        device.open(at(1, port));
    }
    assert_eq!(device.broker.counters().sessions_refused, 8);
    device.open(at(2, 1));
    assert_eq!(device.broker.counters().sessions_refused, 8);
    device.advance(Duration::from_secs(5));
    device.open(at(1, 1));
    assert_eq!(device.broker.counters().sessions_refused, 8);
}

#[test]
fn more_applications_than_allowed_are_refused_with_the_limit() {
    let limits = Limits { applications: 3, ..Limits::default() };
    let mut device = Device::with(Rules { limits, ..Rules::default() });
    for id in 0..4 {
        device.expect(expected(id, 1));
    }
    assert!(device.failures[0].contains("3 applications"), "{:?}", device.failures);
    // The known ones may begin anew.
    device.expect(expected(2, 2));
    assert_eq!(device.failures.len(), 1);
}

#[test]
fn one_without_a_key_can_not_drown_the_events_of_others() {
    let mut device = open_to_all(4);
    for _ in 0..100 {
        let (_, mut talker) = device.try_register(local(1), (5, 0), None);
        device.bye(&mut talker);
        device.event(crate::machine::Event::Ended { session: talker.session, retransmitted: 0 });
        device.advance(Duration::from_millis(10));
    }
    assert!(device.events.len() <= 10, "{:?}", device.events);
    assert!(device.broker.counters().notices_suppressed >= 190);
}

#[test]
fn nothing_is_answered_with_more_than_came() {
    let mut device = Device::new();
    device.expect(expected(7, 1));
    let session = device.open(local(1));
    let body = Body::Register { pid: 0, period_ms: 0 };
    let register = Message { app_id: 7, generation: 1, body }.encode(None);
    let hello = Message { app_id: 7, generation: 1, body: Body::Hello }.encode(None);
    for octets in
        [&register[..], &hello, b"x", &[1; MESSAGE_LENGTH], &[0; 1_000], &register, &hello]
    {
        let before = device.sent.len();
        device.say(session, octets);
        let answered = (device.sent.len() - before) * MESSAGE_LENGTH;
        assert!(answered <= octets.len(), "{answered} for {}", octets.len());
    }
    assert_eq!(device.state(7), State::Expected);
}

#[test]
fn the_schedule_does_not_grow_with_what_was() {
    let mut device = Device::new();
    let mut talker = device.running(7);
    for _ in 0..1_000 {
        let session = device.open(local(9));
        device.event(crate::machine::Event::Ended { session, retransmitted: 0 });
        device.wake();
    }
    device.report(&mut talker);
    assert!(device.broker.schedule.len() < 200);
}
