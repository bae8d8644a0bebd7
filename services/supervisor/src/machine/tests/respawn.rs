//! Ends and what follows from them.

use std::time::Duration;

use protocol::keeper::{Exit, Phase, ShutdownKind, Stage};

use super::*;
use crate::settings::{Critical, CriticalAction};

#[test]
fn the_first_crash_is_answered_at_once_and_the_second_after_a_delay() {
    let mut device = Device::with([plain("web")]);
    assert_eq!(device.spawned(), ["spawn web"]);
    device.crash("web");
    assert_eq!(device.spawned(), ["spawn web"]);
    device.crash("web");
    assert_eq!(device.spawned(), [""; 0]);
    assert_eq!(device.state("web"), "pausing");
    device.advance(Duration::from_millis(120));
    assert_eq!(device.spawned(), ["spawn web"]);
    assert_eq!(device.heard("instance.respawn"), 2);
}

#[test]
fn a_minute_of_readiness_arms_the_keeper_and_forgives_the_past() {
    let mut device = Device::with([plain("web")]);
    device.crash("web");
    device.crash("web");
    device.advance(70 * SECOND);
    let slot = device.slot("web");
    assert_eq!(device.keeper.slots[&slot].disposition.armed_after_ms, Some(0));
    device.done();
    device.crash("web");
    assert_eq!(device.spawned(), [""; 0], "the keeper answered alone");
    assert_eq!(device.state("web"), "ready");
    assert_eq!(device.machine.view(None)[0].restarts, 3);
    assert_eq!(device.keeper.slots[&slot].disposition.armed_after_ms, None);
    device.advance(61 * SECOND);
    assert_eq!(device.keeper.slots[&slot].disposition.armed_after_ms, Some(0));
}

#[test]
fn a_crash_that_the_keeper_answers_is_counted_once_even_if_it_takes_time() {
    let mut device = Device::with([plain("web")]);
    device.advance(70 * SECOND);
    device.keeper.slots.get_mut(&0).unwrap().messy = true;
    device.done();
    device.crash("web");
    assert_eq!((device.state("web"), device.machine.view(None)[0].restarts), ("ready", 1));
    assert_eq!((device.spawned(), device.heard("service.exit")), (vec![], 1));
}

#[test]
fn a_stop_cancels_the_keepers_own_respawn() {
    let mut device = Device::with([with("p", |service| {
        main(service).policy.respawn = Respawn::Procd { threshold: 0, timeout: 5, retry: 5 };
    })]);
    device.advance(70 * SECOND);
    device.keeper.slots.get_mut(&0).unwrap().messy = true;
    device.keeper.end(0, Exit::Code(0), device.now);
    for _ in 0..2 {
        device.keeper.step(0, device.now);
        device.deliver_one(0);
        if device.keeper.slots[&0].state.phase == Phase::Waiting {
            break;
        }
    }
    let stop = device.stop("p", true);
    assert_eq!((device.state("p"), device.answer(stop)), ("stopped", Some(Ok(()))));
    assert!(!device.runs("p"));
}

#[test]
fn an_idle_device_has_nothing_to_wake_up_for() {
    let mut device = Device::with((0..20).map(|n| plain(&format!("s{n}"))));
    device.advance(61 * SECOND);
    assert_eq!(device.machine.next_deadline(), None);
}

#[test]
fn a_clean_end_is_done_unless_it_is_always_respawned() {
    let always = with("always", |service| {
        main(service).policy.respawn =
            Respawn::Backoff { when: RespawnWhen::Always, max_restarts: None };
    });
    let mut device = Device::with([plain("once"), always]);
    device.done();
    device.end("once", Exit::Code(0));
    device.end("always", Exit::Code(0));
    assert_eq!(device.spawned(), ["spawn always"]);
    assert_eq!(device.state("once"), "done");
}

#[test]
fn procd_respawns_clean_ends_too_and_gives_up_after_its_retries() {
    let mut device = Device::with([with("p", |service| {
        main(service).policy.respawn = Respawn::Procd { threshold: 3600, timeout: 5, retry: 5 };
    })]);
    for _ in 0..6 {
        device.end("p", Exit::Code(0));
        device.advance(6 * SECOND);
    }
    assert_eq!(device.spawned().len(), 6);
    assert_eq!(device.state("p"), "held");
    assert_eq!(device.heard("instance.fail"), 1);
    device.start("p", false);
    device.end("p", Exit::Code(0));
    device.advance(6 * SECOND);
    assert_eq!(device.spawned().len(), 2, "an explicit start forgives");
}

#[test]
fn a_service_that_restarts_too_often_is_held_and_its_sockets_are_closed() {
    let mut device = Device::with([with("web", |service| {
        main(service).policy.respawn =
            Respawn::Backoff { when: RespawnWhen::OnFailure, max_restarts: Some(1) };
    })]);
    device.crash("web");
    device.crash("web");
    assert_eq!(device.state("web"), "held");
    assert_eq!(device.done(), ["spawn web", "spawn web", "release web"]);
}

#[test]
fn a_program_that_is_missing_is_looked_for_slowly() {
    let mut device = Device::with([plain("web")]);
    device.done();
    device.end("web", Exit::SpawnFailed { stage: Stage::Exec, errno: 2 });
    device.advance(4 * SECOND);
    assert_eq!(device.spawned(), [""; 0]);
    device.advance(2 * SECOND);
    assert_eq!(device.spawned(), ["spawn web"]);
    device.end("web", Exit::SpawnFailed { stage: Stage::Exec, errno: 2 });
    let view = &device.machine.view(None)[0];
    let reason = "cannot execute /bin/true: No such file or directory (os error 2)";
    assert_eq!((view.state, &*view.reason), ("pausing", reason));
    assert!(view.detail.contains(reason));
}

#[test]
fn a_spawn_that_fails_says_where_and_why() {
    let mut device = Device::with([with("web", |service| {
        main(service).policy.respawn = Respawn::Never;
    })]);
    device.end("web", Exit::SpawnFailed { stage: Stage::User, errno: 1 });
    let view = &device.machine.view(None)[0];
    let reason = "cannot set up user: Operation not permitted (os error 1)";
    assert_eq!((view.state, &*view.detail), ("failed", reason));
}

#[test]
fn a_full_process_table_is_not_a_crash() {
    let mut device = Device::with([with("web", |service| {
        main(service).policy.respawn =
            Respawn::Backoff { when: RespawnWhen::OnFailure, max_restarts: Some(0) };
    })]);
    device.done();
    for _ in 0..8 {
        device.end("web", Exit::SpawnFailed { stage: Stage::Clone, errno: 11 });
        device.advance(6 * SECOND);
    }
    assert_eq!(device.spawned().len(), 8);
    assert_eq!(device.machine.view(None)[0].restarts, 0);
}

#[test]
fn a_refused_spawn_is_tried_again() {
    let mut device = Device::with([]);
    device.keeper.changed.clear();
    device.files = vec![plain("web")];
    device.machine.handle_event(Event::Definitions { services: device.files.clone() }, device.now);
    while device.machine.poll_action().is_some() {}
    device.event(Event::SpawnRefused { slot: 0, errno: 11 });
    assert_eq!(device.spawned(), [""; 0]);
    device.advance(SECOND);
    assert_eq!(device.spawned(), ["spawn web"]);
}

#[test]
fn crashing_too_often_within_the_window_reboots() {
    let mut device = Device::with([with("web", |service| {
        main(service).policy.critical =
            Some(Critical { restarts: 2, window: 60 * SECOND, action: CriticalAction::Reboot });
    })]);
    for _ in 0..3 {
        device.advance(SECOND);
        device.crash("web");
    }
    assert_eq!(device.left, Some((ShutdownKind::Reboot, 1)));
}

#[test]
fn as_many_restarts_as_are_allowed_do_not_escalate() {
    let critical = |text: &str, restarts, action| {
        with(text, |service| {
            main(service).policy.critical =
                Some(Critical { restarts, window: 60 * SECOND, action });
        })
    };
    let mut device = Device::with([critical("web", 2, CriticalAction::Rescue)]);
    for crash in 1..=3 {
        assert_eq!((device.left, device.heard("service.critical")), (None, 0), "crash {crash}");
        // A program that ends before the keeper's first report of it.
        device.end("web", Exit::Code(3));
        device.advance(SECOND);
    }
    assert_eq!(device.left, Some((ShutdownKind::Reboot, 1)));
    let (_, told) = device.topics.iter().find(|(topic, _)| *topic == "service.critical").unwrap();
    assert_eq!(told["action"], "rescue");
    assert!(told["text"].as_str().unwrap().contains("for PID 1 only"), "{told}");
}

#[test]
fn a_critical_service_that_is_never_respawned_escalates_at_its_crash() {
    let mut device = Device::with([with("web", |service| {
        main(service).policy.respawn = Respawn::Never;
        main(service).policy.critical =
            Some(Critical { restarts: 0, window: 60 * SECOND, action: CriticalAction::Reboot });
    })]);
    device.crash("web");
    assert_eq!(device.left, Some((ShutdownKind::Reboot, 1)));
}

#[test]
fn a_critical_group_is_restarted_together() {
    let base = with("base", |service| {
        main(service).policy.critical =
            Some(Critical { restarts: 0, window: 60 * SECOND, action: CriticalAction::Restart });
    });
    let top = with("top", |service| service.requires = vec![name("base")]);
    let mut device = Device::with([base, top]);
    device.done();
    device.crash("base");
    device.advance(SECOND);
    assert_eq!(device.spawned(), ["spawn base", "spawn top"]);
}

#[test]
fn the_whole_system_respawns_fifty_times_a_second() {
    let mut device = Device::with((0..200).map(|n| plain(&format!("s{n}"))));
    for round in 0..2 {
        for n in 0..200 {
            let slot = device.slot(&format!("s{n}"));
            device.keeper.end(slot, Exit::Code(1), device.now);
        }
        device.calm();
        assert!(round == 1 || device.spawned().len() == 400, "first respawns are not delayed");
    }
    device.advance(SECOND);
    let first = device.spawned().len();
    assert!((50..=110).contains(&first), "{first} delayed respawns in the first second");
    device.advance(4 * SECOND);
    assert_eq!(first + device.spawned().len(), 200);
}
