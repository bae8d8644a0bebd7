//! The supervisor dies, at every action, and the next one goes on.

use protocol::keeper::{Exit, Phase};

use super::*;

#[test]
fn what_runs_runs_on() {
    let mut device = Device::with([plain("a"), notifying("b", |_| {}), notifying("c", |_| {})]);
    device.ready("b");
    device.done();
    device.take_over();
    device.calm();
    assert_eq!(device.done(), [""; 0]);
    assert_eq!(["a", "b", "c"].map(|text| device.state(text)), ["ready", "ready", "starting"]);
    device.advance(11 * SECOND);
    assert_eq!(device.spawned(), [""; 0], "it may have said that it is ready");
    assert_eq!(device.state("c"), "ready");
}

#[test]
fn what_was_stopped_stays_stopped_and_what_was_held_stays_held() {
    let held = with("held", |service| {
        main(service).policy.respawn =
            Respawn::Backoff { when: RespawnWhen::OnFailure, max_restarts: Some(0) };
    });
    let mut device = Device::with([plain("stopped"), held]);
    device.stop("stopped", false);
    device.crash("held");
    device.take_over();
    device.calm();
    assert_eq!((device.state("stopped"), device.state("held")), ("stopped", "held"));
}

#[test]
fn ends_while_nobody_lived_are_counted() {
    let mut device = Device::with([plain("a"), plain("b")]);
    let now = device.now;
    for _ in 0..3 {
        device.keeper.end_unseen(0, Exit::Code(1), now);
    }
    device.keeper.end_unseen(1, Exit::Code(0), now);
    device.done();
    device.take_over();
    device.calm();
    assert_eq!(device.done(), [""; 0]);
    assert_eq!((device.state("a"), device.state("b")), ("ready", "done"));
    assert_eq!(device.machine.view(Some(&name("a")))[0].restarts, 3);
}

#[test]
fn what_no_definition_names_is_stopped_and_forgotten() {
    let mut device = Device::with([plain("a"), plain("b")]);
    device.files.remove(0);
    device.journal.clear();
    device.done();
    device.take_over();
    device.calm();
    assert_eq!(device.done(), ["signal unknown-0 15", "forget 0"]);
    assert_eq!(device.state("b"), "ready");
}

#[test]
fn what_runs_of_a_definition_that_cannot_be_read_any_more_is_left_alone() {
    let mut device = Device::with([plain("a"), plain("b")]);
    device.files.remove(0);
    device.unreadable.push(name("a"));
    device.done();
    for _ in 0..2 {
        device.take_over();
        device.calm();
        assert_eq!(device.done(), [""; 0]);
        assert_eq!((device.state("a"), device.state("b")), ("ready", "ready"));
    }
    device.unreadable.clear();
    device.files.insert(0, plain("a"));
    device.take_over();
    device.calm();
    assert_eq!(device.done(), [""; 0], "read again, and still the same process");
}

#[test]
fn a_definition_that_changed_meanwhile_restarts_its_instance() {
    let mut device = Device::with([plain("a"), plain("b")]);
    device.files[0] = with("a", |service| main(service).process.stdout = true);
    device.done();
    device.take_over();
    device.calm();
    assert_eq!(device.done(), ["signal a 15", "spawn a"]);
}

/// A day in the life of three services, cut off after every action in turn.
#[test]
fn a_supervisor_killed_at_any_action_ends_where_it_would_have() {
    let mut cut = 0;
    loop {
        let mut device = Device::with([]);
        device.cut_after = Some(cut);
        a_day(&mut device);
        let reached = device.cut_after.is_none();
        assert_eq!(device.keeper.slots.len(), 2, "cut at {cut}: {:?}", device.log);
        for slot in device.keeper.slots.values() {
            assert_eq!(slot.state.phase, Phase::Running, "cut at {cut}: {:?}", device.log);
        }
        assert_eq!(
            ["a", "b", "c"].map(|text| device.runs(text)),
            [true, true, false],
            "cut at {cut}"
        );
        if !reached {
            break;
        }
        cut += 1;
    }
    assert!(cut > 100, "{cut} actions");
}

fn a_day(device: &mut Device) {
    device.files = vec![
        plain("a"),
        with("b", |service| service.requires = vec![name("a")]),
        with("c", |service| service.after = vec![name("b")]),
    ];
    device.event(Event::Definitions { services: device.files.clone() });
    device.calm();
    device.crash("a");
    device.advance(70 * SECOND);
    let slot = device.slot("a");
    device.keeper.end(slot, Exit::Code(1), device.now);
    device.calm();
    device.files[0] = with("a", |service| main(service).process.stdout = true);
    device.event(Event::Definitions { services: device.files.clone() });
    device.calm();
    device.stop("a", false);
    device.request(Request::Restart { name: name("b"), instance: None, wait: false });
    device.calm();
    device.request(Request::Delete { name: name("c"), instance: None, wait: false });
    device.calm();
    device.start("b", false);
    // A caller whose request was lost with the supervisor asks again.
    device.start("a", false);
    device.request(Request::Delete { name: name("c"), instance: None, wait: false });
    device.calm();
    device.advance(100 * SECOND);
}

#[test]
fn a_word_that_a_dead_supervisor_may_have_heard_costs_nobody_its_life() {
    let mut device = Device::with([notifying("web", |_| {})]);
    // It says READY, and the supervisor dies before it has noted it: the next one is not told again.
    device.take_over();
    device.calm();
    let slot = device.slot("web");
    assert_eq!(device.state("web"), "starting");
    device.advance(10 * SECOND);
    device.calm();
    assert_eq!((device.state("web"), device.slot("web")), ("ready", slot));
    // The next one of it is asked to say so as ever.
    device.crash("web");
    device.done();
    device.advance(60 * SECOND);
    device.calm();
    assert_ne!(device.state("web"), "ready");
}
