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
fn row_10_a_clock_that_jumps_forward_kills_nobody_at_once() {
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
fn row_10_a_suspended_machine_keeps_back_off_and_watchdog_as_they_were() {
    // What crashed three times waits for its respawn, what is watched was quiet while the machine was suspended.
    let mut device = Device::with([watched("web"), plain("bad")]);
    for _ in 0..3 {
        device.crash("bad");
        device.advance(Duration::from_millis(500));
        device.notify("web", Notice::Watchdog);
    }
    device.crash("bad");
    assert_eq!(device.state("bad"), "pausing");
    device.done();
    let before = device.machine.view(Some(&name("bad")))[0].respawns;
    device.jump(8 * 3600 * SECOND);
    assert_eq!(device.done(), ["spawn bad"], "due at once, and nobody is killed");
    device.crash("bad");
    assert_eq!(device.machine.view(Some(&name("bad")))[0].respawns, before + 1, "not forgiven");
    assert_eq!(device.state("bad"), "pausing", "and its delay goes on growing");
    device.notify("web", Notice::Watchdog);
    assert_eq!(device.state("web"), "ready");
    assert_eq!(device.machine.view(Some(&name("web")))[0].restarts, 0);
}

#[test]
fn row_09_a_starved_machine_excuses_a_missed_watchdog_three_times_and_says_so() {
    let mut device = Device::with([watched("web")]);
    device.done();
    device.starved = true;
    device.advance(7 * SECOND);
    assert_eq!(device.done(), [""; 0]);
    assert_eq!(device.heard("service.late"), 3);
    let excuses = |(topic, data): &(&str, serde_json::Value)| {
        (*topic == "service.late").then(|| data["excuses"].as_u64())
    };
    let told: Vec<_> = device.topics.iter().filter_map(excuses).collect();
    assert_eq!(told, [Some(1), Some(2), Some(3)]);
    device.advance(2 * SECOND);
    assert_eq!(device.spawned(), ["spawn web"], "a fourth silence is a hang");
    assert_eq!(device.machine.view(None)[0].reason, "watchdog");
}

#[test]
fn a_sign_of_life_after_an_excuse_forgives_and_a_machine_that_is_well_again_excuses_nobody() {
    let mut device = Device::with([watched("web")]);
    device.starved = true;
    for _ in 0..4 {
        device.advance(5 * SECOND);
        device.notify("web", Notice::Watchdog);
    }
    device.done();
    device.starved = false;
    device.advance(3 * SECOND);
    assert_eq!(device.spawned(), ["spawn web"]);
}

#[test]
fn an_answer_about_the_machine_that_nobody_waits_for_changes_nothing() {
    let mut device = Device::with([watched("web"), plain("app")]);
    device.done();
    for slot in 0..3 {
        device.event(Event::Pressure { slot, starved: false });
    }
    assert_eq!(device.done(), [""; 0]);
    device.starved = true;
    device.notify("web", Notice::WatchdogTrigger);
    assert_eq!(device.done()[0], "signal web 6", "who says that it hangs is believed");
}

#[test]
fn row_17_a_kill_for_want_of_memory_is_called_oom_and_no_crash_by_signal() {
    let mut device = Device::with([plain("hog")]);
    let slot = device.slot("hog");
    device.keeper.slots.get_mut(&slot).unwrap().state.oom = true;
    device.end("hog", protocol::keeper::Exit::Signal { signal: 9, core: false });
    assert_eq!(device.machine.view(None)[0].reason, "oom");
    let told = device.topics.iter().rev().find(|(topic, _)| *topic == "service.exit").unwrap();
    assert_eq!((&told.1["reason"], &told.1["exit_code"]), (&"oom".into(), &137.into()));
    device.end("hog", protocol::keeper::Exit::Signal { signal: 9, core: false });
    assert_eq!(device.machine.view(None)[0].reason, "signal 9", "the next kill is told by itself");
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
