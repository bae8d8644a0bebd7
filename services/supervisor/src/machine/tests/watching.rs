//! Readiness, time-outs, watchdogs.

use std::time::Duration;

use super::*;

#[test]
fn a_service_that_is_never_ready_has_crashed() {
    let mut device = Device::with([notifying("web", |_| {})]);
    device.done();
    device.advance(11 * SECOND);
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
    assert_eq!(device.machine.view(None)[0].reason, "timeout");
}

#[test]
fn an_extension_moves_the_deadline() {
    let mut device = Device::with([notifying("web", |_| {})]);
    device.notify("web", Notice::ExtendTimeout(30 * SECOND));
    device.done();
    device.advance(29 * SECOND);
    assert_eq!(device.done(), [""; 0]);
    device.advance(2 * SECOND);
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
}

#[test]
fn a_ready_word_of_an_older_generation_is_ignored() {
    let mut device = Device::with([notifying("web", |_| {})]);
    device.crash("web");
    device.event(Event::Notify { slot: 0, generation: 1, notice: Notice::Ready });
    assert_eq!(device.state("web"), "starting");
    device.ready("web");
    assert_eq!(device.state("web"), "ready");
}

#[test]
fn what_has_to_be_probed_is_probed_once_a_generation() {
    let mut device = Device::with([with("web", |service| {
        main(service).process.readiness.kind = ReadinessKind::Unix("/run/web".into());
    })]);
    assert_eq!(device.done(), ["spawn web", "probe web"]);
    device.ready("web");
    device.crash("web");
    assert_eq!(device.done(), ["spawn web", "probe web"]);
}

#[test]
fn reloading_ends_with_readiness_or_with_a_time_out() {
    let mut device = Device::with([notifying("web", |_| {})]);
    device.ready("web");
    device.notify("web", Notice::Reloading);
    assert_eq!(device.state("web"), "reloading");
    device.ready("web");
    assert_eq!(device.state("web"), "ready");
    device.notify("web", Notice::Reloading);
    device.done();
    device.advance(31 * SECOND);
    assert_eq!(device.spawned(), ["spawn web"]);
}

fn watched(text: &str) -> Arc<Service> {
    with(text, |service| main(service).process.watchdog = Some(2 * SECOND))
}

#[test]
fn a_missed_watchdog_aborts_then_kills_then_respawns() {
    let mut device = Device::with([watched("web")]);
    device.keeper.slots.get_mut(&0).unwrap().stubborn = true;
    for _ in 0..10 {
        device.advance(SECOND);
        device.notify("web", Notice::Watchdog);
    }
    device.done();
    device.advance(3 * SECOND);
    assert_eq!(device.done(), ["signal web 6"]);
    device.advance(2 * SECOND);
    assert_eq!(device.done(), ["signal web 9 tree", "spawn web"]);
    assert_eq!(device.machine.view(None)[0].reason, "watchdog");
}

#[test]
fn a_clock_that_jumps_forward_kills_nobody_at_once() {
    let mut device = Device::with([watched("web")]);
    device.done();
    device.jump(3600 * SECOND);
    assert_eq!(device.done(), [""; 0]);
    assert_eq!(device.heard("service.late"), 1);
    device.notify("web", Notice::Watchdog);
    device.advance(Duration::from_millis(1900));
    assert_eq!(device.done(), [""; 0]);
    device.advance(SECOND);
    assert_eq!(device.spawned(), ["spawn web"]);
}

#[test]
fn a_watched_instance_is_never_answered_by_the_keeper_alone() {
    let mut device = Device::with([watched("web")]);
    for _ in 0..70 {
        device.advance(SECOND);
        device.notify("web", Notice::Watchdog);
    }
    assert_eq!(device.keeper.slots[&0].disposition.armed_after_ms, None);
}

#[test]
fn procds_watchdog_sets_a_period_and_keeps_alive() {
    let mut device = Device::with([plain("web")]);
    let pet = |mode, timeout_s| Request::Watchdog {
        name: name("web"),
        instance: name("instance1"),
        mode,
        timeout_s,
    };
    device.request(pet(Some(1), Some(3)));
    device.done();
    for _ in 0..5 {
        device.advance(2 * SECOND);
        device.request(pet(None, None));
    }
    assert_eq!(device.done(), [""; 0]);
    device.advance(4 * SECOND);
    assert_eq!(device.spawned(), ["spawn web"]);
    device.take_over();
    device.calm();
    assert_eq!(device.machine.view(None)[0].watchdog_mode, Some(1));
    device.request(pet(Some(0), None));
    device.advance(60 * SECOND);
    assert_eq!(device.spawned(), [""; 0]);
}
