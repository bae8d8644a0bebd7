//! Start order, relations, conflicts.

use protocol::keeper::Exit;

use super::*;
use crate::settings::Condition;

#[test]
fn lower_numbers_are_spawned_first_but_not_waited_for() {
    let number = |text: &str, start| notifying(text, |service| service.start = start);
    let mut device = Device::with([number("c", 30), number("a", 10), number("b", 20)]);
    assert_eq!(device.spawned(), ["spawn a", "spawn b", "spawn c"]);
}

#[test]
fn explicit_relations_wait_for_readiness() {
    let device = &mut Device::with([
        notifying("base", |_| {}),
        with("after", |service| service.after = vec![name("base")]),
        with("unknown", |service| service.after = vec![name("nobody")]),
    ]);
    assert_eq!(device.spawned(), ["spawn base", "spawn unknown"]);
    device.ready("base");
    assert_eq!(device.spawned(), ["spawn after"]);
}

#[test]
fn applications_wait_for_the_core_but_not_for_ever() {
    let core = notifying("core", |service| {
        service.core = true;
        main(service).process.readiness.timeout = None;
    });
    let mut device = Device::with([core.clone(), plain("app")]);
    assert_eq!(device.spawned(), ["spawn core"]);
    device.ready("core");
    assert_eq!(device.spawned(), ["spawn app"]);

    let mut device = Device::with([core, plain("app")]);
    device.done();
    device.advance(11 * SECOND);
    assert_eq!(device.spawned(), ["spawn app"]);
}

#[test]
fn a_respawning_dependency_leaves_its_dependents_alone_and_a_held_one_stops_them() {
    let base = with("base", |service| {
        main(service).policy.respawn =
            Respawn::Backoff { when: RespawnWhen::OnFailure, max_restarts: Some(1) };
    });
    let top = with("top", |service| service.requires = vec![name("base")]);
    let wants = with("wants", |service| service.wants = vec![name("base")]);
    let mut device = Device::with([base, top, wants]);
    device.done();
    device.crash("base");
    assert_eq!(device.done(), ["spawn base"]);
    device.crash("base");
    assert_eq!(device.done(), ["release base", "signal top 15", "release top"]);
    assert!(device.runs("wants"));
    assert_eq!(device.state("top"), "waiting");
    device.start("base", false);
    assert_eq!(device.spawned(), ["spawn base", "spawn top"], "it starts again with it");
}

#[test]
fn a_start_pulls_what_is_required_and_a_stop_ends_the_requirers_first() {
    let quiet = |text: &str, requires: &[&str]| {
        with(text, |service| {
            service.autostart = false;
            service.requires = requires.iter().map(|other| name(other)).collect();
        })
    };
    let mut device = Device::with([quiet("a", &[]), quiet("b", &["a"]), quiet("c", &["b"])]);
    assert_eq!(device.spawned(), [""; 0]);
    let id = device.start("c", true);
    assert_eq!(device.answer(id), Some(Ok(())));
    assert_eq!(device.spawned(), ["spawn a", "spawn b", "spawn c"]);
    device.stop("a", true);
    let mut done = device.done();
    done.retain(|entry| entry.starts_with("signal"));
    assert_eq!(done, ["signal c 15", "signal b 15", "signal a 15"]);
}

#[test]
fn starting_one_of_two_that_exclude_each_other_stops_the_other_one() {
    let mut device =
        Device::with([with("a", |service| service.conflicts = vec![name("b")]), with("b", |_| {})]);
    assert_eq!(device.spawned(), ["spawn a"]);
    device.start("b", false);
    assert_eq!(device.done(), ["signal a 15", "release a", "spawn b"]);
    device.start("a", false);
    assert_eq!(device.spawned(), ["spawn a"]);
    assert!(!device.runs("b"));
}

#[test]
fn a_finished_oneshot_counts_as_ready() {
    let setup = with("setup", |service| main(service).process.oneshot = true);
    let app = with("app", |service| service.requires = vec![name("setup")]);
    let mut device = Device::with([setup, app]);
    assert_eq!(device.spawned(), ["spawn setup"]);
    device.end("setup", Exit::Code(0));
    assert_eq!(device.spawned(), ["spawn app"]);
    assert_eq!(device.state("setup"), "done");
}

#[test]
fn an_unmet_condition_is_done_without_a_run() {
    let condition = Condition::PathExists { path: "/dev/none".into(), negate: false };
    let mut device = Device::with([
        with("a", |service| service.conditions = vec![condition]),
        with("b", |service| service.requires = vec![name("a")]),
    ]);
    assert_eq!(device.done(), ["check 0"]);
    device.event(Event::Checked { slot: 0, holds: Err("/dev/none does not exist".to_owned()) });
    assert_eq!(device.done(), ["spawn b"]);
    assert_eq!(device.state("a"), "done");
    device.start("a", false);
    device.event(Event::Checked { slot: 0, holds: Ok(()) });
    assert_eq!(device.spawned(), ["spawn a"]);
}

#[test]
fn services_that_wait_for_each_other_start_all_the_same() {
    let mut device = Device::with([
        with("a", |service| service.requires = vec![name("b")]),
        with("b", |service| service.requires = vec![name("a")]),
    ]);
    assert_eq!(device.spawned().len(), 2);
    device.event(shutdown(ShutdownKind::Exit));
    device.calm();
    assert!(device.left.is_some());
}

#[test]
fn a_thousand_services_start_in_order_and_nothing_is_asked_twice() {
    let mut device =
        Device::with((0..1000).map(|n| with(&format!("s{n}"), |service| service.start = 1000 - n)));
    let spawned = device.spawned();
    assert_eq!(spawned.len(), 1000);
    assert_eq!(spawned[0], "spawn s999");
    assert_eq!(spawned[999], "spawn s0");
}

/// Crashes until it waits for a delayed respawn.
fn loop_crashing(device: &mut Device, service: &str) {
    while device.state(service) != "pausing" {
        device.crash(service);
    }
}

/// What is said of it, the service that is waited for, and what happens to it.
type Case<'a> = (&'a str, Arc<Service>, &'a dyn Fn(&mut Device));

#[test]
fn who_only_comes_after_another_goes_on_when_that_ones_start_failed_once() {
    let base = |change: &dyn Fn(&mut Service)| notifying("base", change);
    let no_respawn = |service: &mut Service| main(service).policy.respawn = Respawn::Never;
    let missing = Exit::SpawnFailed { stage: protocol::keeper::Stage::Exec, errno: 2 };
    let cases: [Case; 7] = [
        ("crashed", base(&|_| {}), &|device| device.crash("base")),
        ("timed out", base(&|_| {}), &|device| device.advance(11 * SECOND)),
        ("could not be executed", base(&|_| {}), &|device| device.end("base", missing)),
        ("failed", base(&no_respawn), &|device| device.crash("base")),
        ("ended", base(&|_| {}), &|device| device.end("base", Exit::Code(0))),
        ("was stopped", base(&|_| {}), &|device| {
            device.stop("base", false);
        }),
        ("was refused", base(&|_| {}), &|device| {
            device.end(
                "base",
                Exit::SpawnFailed { stage: protocol::keeper::Stage::Clone, errno: 11 },
            );
        }),
    ];
    for (case, base, happens) in cases {
        let mut device = Device::with([
            base,
            with("after", |service| service.after = vec![name("base")]),
            with("wants", |service| service.wants = vec![name("base")]),
            with("requires", |service| service.requires = vec![name("base")]),
        ]);
        assert_eq!(device.spawned(), ["spawn base"], "{case}");
        happens(&mut device);
        assert_eq!(["after", "wants"].map(|text| device.state(text)), ["ready"; 2], "{case}");
        assert_eq!(device.state("requires"), "waiting", "{case}");
    }
}

#[test]
fn who_comes_after_one_that_was_never_wanted_does_not_wait() {
    let quiet = notifying("base", |service| service.autostart = false);
    let after = with("after", |service| service.after = vec![name("base")]);
    let mut device = Device::with([quiet, after]);
    assert_eq!(device.spawned(), ["spawn after"]);
}

#[test]
fn a_respawn_waits_for_nobody_it_only_comes_after() {
    let mut device = Device::with([
        notifying("base", |_| {}),
        with("after", |service| service.after = vec![name("base")]),
        with("wants", |service| service.wants = vec![name("base")]),
    ]);
    device.ready("base");
    device.crash("base");
    assert_eq!(device.state("base"), "starting");
    device.done();
    device.crash("after");
    device.crash("wants");
    assert_eq!(device.spawned(), ["spawn after", "spawn wants"]);
    device.crash("base");
    device.crash("after");
    device.advance(SECOND);
    assert!(device.runs("after"), "base is {}", device.state("base"));
}

#[test]
fn a_respawn_waits_for_a_required_service_that_is_just_respawning() {
    let mut device = Device::with([
        notifying("base", |_| {}),
        with("top", |service| service.requires = vec![name("base")]),
    ]);
    device.ready("base");
    device.crash("base");
    device.done();
    device.crash("top");
    assert_eq!(device.spawned(), [""; 0]);
    device.ready("base");
    assert_eq!(device.spawned(), ["spawn top"]);
}

#[test]
fn a_crash_loop_elsewhere_holds_no_respawn_back_across_a_change_of_the_supervisor() {
    let mut device =
        Device::with([plain("base"), with("after", |service| service.after = vec![name("base")])]);
    loop_crashing(&mut device, "base");
    loop_crashing(&mut device, "after");
    device.take_over();
    device.calm();
    device.done();
    device.advance(Duration::from_millis(200));
    assert!(device.spawned().contains(&"spawn after".to_owned()));
}

#[test]
fn a_respawn_waits_neither_for_numbers_nor_for_the_core() {
    let core = notifying("core", |service| {
        service.core = true;
        main(service).process.readiness.timeout = None;
    });
    let mut device = Device::with([core, plain("app")]);
    device.ready("core");
    assert!(device.runs("app"));
    device.take_over();
    device.calm();
    device.crash("core");
    device.done();
    device.crash("app");
    assert_eq!(device.spawned(), ["spawn app"]);
}
