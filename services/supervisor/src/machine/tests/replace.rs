//! Live replacement: both processes are there for a while, and in the end exactly one, whoever dies when.

use protocol::{
    failure::Code,
    keeper::{Exit, Phase},
};

use super::*;

/// Two slots: 0 is the old process, 1 the new one.
const OLD: u32 = 0;
const NEW: u32 = 1;

fn replace(device: &mut Device, service: &str) -> u64 {
    let request = Request::Replace { name: name(service), instance: None, wait: true };
    let id = device.request(request);
    device.calm();
    id
}

fn say(device: &mut Device, slot: u32, notice: Notice) {
    let generation = device.keeper.slots[&slot].state.generation;
    device.event(Event::Notify { slot, generation, notice });
    device.calm();
}

fn end(device: &mut Device, slot: u32) {
    device.keeper.end(slot, Exit::Code(3), device.now);
    device.calm();
}

/// One notifying service, ready.
fn web() -> Device {
    let mut device = Device::with([notifying("web", |_| {})]);
    device.ready("web");
    device.done();
    device
}

fn slots(device: &Device) -> Vec<u32> {
    device.keeper.slots.keys().copied().collect()
}

fn text(device: &Device, id: u64) -> String {
    device.replies[&id].clone().unwrap_err().text
}

#[test]
fn the_old_process_is_stopped_only_when_the_new_one_is_ready() {
    let mut device = web();
    let id = replace(&mut device, "web");
    assert_eq!(device.done(), ["spawn web"]);
    assert_eq!((device.state("web"), device.slot("web")), ("ready", OLD));
    device.advance(5 * SECOND);
    assert_eq!((device.answer(id), device.done()), (None, vec![]));

    say(&mut device, NEW, Notice::Ready);
    assert_eq!(device.done(), ["signal web 15", "forget 0"]);
    assert_eq!(device.answer(id), Some(Ok(())));
    assert_eq!((device.state("web"), device.slot("web")), ("ready", NEW));
    assert_eq!(slots(&device), [NEW]);
}

#[test]
fn a_new_process_that_ends_is_told_and_the_old_one_was_never_touched() {
    let mut device = web();
    let id = replace(&mut device, "web");
    end(&mut device, NEW);
    assert!(text(&device, id).contains("exit 3"), "{}", text(&device, id));
    assert_eq!(device.done(), ["spawn web", "forget 1"]);
    device.advance(100 * SECOND);
    assert_eq!((device.done(), device.state("web")), (vec![], "ready"));
    assert_eq!(device.machine.view(None)[0].restarts, 0);
}

#[test]
fn a_new_process_that_is_not_ready_in_time_is_stopped() {
    let mut device = web();
    let id = replace(&mut device, "web");
    device.advance(11 * SECOND);
    assert_eq!(device.answer(id), Some(Err(Code::Failed)));
    assert!(text(&device, id).contains("timeout"), "{}", text(&device, id));
    assert_eq!(device.done(), ["spawn web", "signal web 15", "forget 1"]);
    assert_eq!((device.state("web"), slots(&device)), ("ready", vec![OLD]));
}

#[test]
fn a_new_process_that_cannot_be_spawned_is_told() {
    let mut device = web();
    let request = Request::Replace { name: name("web"), instance: None, wait: true };
    let id = device.request(request);
    device.keeper.slots.get_mut(&NEW).unwrap().state.phase = Phase::Idle;
    device.keeper.slots.get_mut(&NEW).unwrap().state.generation = 0;
    device.keeper.changed.clear();
    device.event(Event::SpawnRefused { slot: NEW, errno: 12 });
    assert_eq!(device.answer(id), Some(Err(Code::Failed)));
    device.calm();
    assert_eq!((device.state("web"), slots(&device)), ("ready", vec![OLD]));
}

#[test]
fn a_process_that_says_nothing_is_believed_after_a_second() {
    for change in [ReadinessKind::Exec, ReadinessKind::Unix("/run/x.sock".into())] {
        let mut device = Device::with([with("web", |service| {
            main(service).process.readiness.kind = change.clone();
        })]);
        device.ready("web");
        device.done();
        let id = replace(&mut device, "web");
        device.advance(SECOND / 2);
        assert_eq!((device.done(), device.answer(id)), (vec!["spawn web".into()], None));
        device.advance(SECOND);
        assert_eq!(device.done(), ["signal web 15", "forget 0"], "{change:?}");
        assert_eq!(device.answer(id), Some(Ok(())));
    }
}

#[test]
fn an_old_process_that_dies_meanwhile_is_inherited_and_not_started_again() {
    let mut device = web();
    let id = replace(&mut device, "web");
    end(&mut device, OLD);
    assert_eq!(device.done(), ["spawn web", "forget 0"]);
    assert_eq!((device.state("web"), device.answer(id)), ("starting", None));
    say(&mut device, NEW, Notice::Ready);
    assert_eq!((device.state("web"), device.answer(id)), ("ready", Some(Ok(()))));
    assert_eq!(device.machine.view(None)[0].restarts, 1);
    // From here on it is an instance like any other.
    device.crash("web");
    assert_eq!(device.done(), ["spawn web"]);
}

#[test]
fn an_inherited_instance_that_says_nothing_is_ready_when_it_runs() {
    let mut device = Device::with([plain("web")]);
    let id = replace(&mut device, "web");
    end(&mut device, OLD);
    assert_eq!((device.state("web"), device.answer(id)), ("ready", Some(Ok(()))));
}

#[test]
fn the_keeper_answers_no_crash_of_either_while_both_are_there() {
    let mut device = web();
    device.advance(70 * SECOND);
    let armed = |device: &Device, slot: u32| {
        let told = device.keeper.slots[&slot].disposition;
        told.armed_after_ms.or(told.alone_after_ms).is_some()
    };
    assert!(armed(&device, OLD));
    replace(&mut device, "web");
    assert!(!armed(&device, OLD) && !armed(&device, NEW));
    say(&mut device, NEW, Notice::Ready);
    assert!(armed(&device, NEW));
}

#[test]
fn what_cannot_run_twice_or_does_not_run_is_refused_with_the_reason() {
    let stopped = with("stopped", |service| service.autostart = false);
    let file = with("file", |service| main(service).process.pidfile = Some("/run/x.pid".into()));
    let once = with("once", |service| main(service).process.oneshot = true);
    let mut device = Device::with([stopped, file, once, notifying("slow", |_| {})]);
    device.done();
    for (service, why) in [
        ("stopped", "start it"),
        ("file", "/run/x.pid"),
        ("once", "nothing to replace"),
        ("slow", "wait until it is ready"),
        ("supervisor", "vestalctl supervisor reexec"),
        ("nothing", "there is no service"),
    ] {
        let id = replace(&mut device, service);
        let text = text(&device, id);
        assert!(text.contains(why), "{service}: {text}");
    }
    assert_eq!(device.done(), [""; 0]);
}

#[test]
fn a_second_replacement_waits_for_its_turn() {
    let mut device = web();
    replace(&mut device, "web");
    let second = replace(&mut device, "web");
    assert_eq!(device.answer(second), Some(Err(Code::Busy)));
    say(&mut device, NEW, Notice::Ready);
    let third = replace(&mut device, "web");
    assert_eq!(device.slot("web"), NEW);
    say(&mut device, OLD, Notice::Ready);
    assert_eq!(device.answer(third), Some(Ok(())));
    assert_eq!((device.slot("web"), slots(&device)), (OLD, vec![OLD]));
}

#[test]
fn what_else_is_asked_meanwhile_counts() {
    type Ask = fn(&mut Device);
    let asks: [(&str, Ask, &str); 4] = [
        (
            "stop",
            |device| {
                device.stop("web", false);
            },
            "stopped",
        ),
        (
            "restart",
            |device| {
                let (name, instance) = (name("web"), None);
                device.request(Request::Restart { name, instance, wait: false });
            },
            "starting",
        ),
        (
            "delete",
            |device| {
                let (name, instance) = (name("web"), None);
                device.request(Request::Delete { name, instance, wait: false });
            },
            "gone",
        ),
        (
            "redefine",
            |device| {
                let louder = notifying("web", |service| main(service).process.stdout = true);
                device.event(Event::Definitions { services: vec![louder] });
            },
            "starting",
        ),
    ];
    for (what, ask, state) in asks {
        let mut device = web();
        let id = replace(&mut device, "web");
        ask(&mut device);
        device.calm();
        assert_eq!(device.answer(id), Some(Err(Code::Cancelled)), "{what}");
        assert_eq!(device.state("web"), state, "{what}");
        assert!(!device.keeper.slots.contains_key(&NEW), "{what}");
    }
}

#[test]
fn a_shutdown_ends_both() {
    let mut device = web();
    replace(&mut device, "web");
    device.event(shutdown(ShutdownKind::Exit));
    device.calm();
    assert!(device.left.is_some());
    let running = device.keeper.slots.values().filter(|slot| slot.state.phase != Phase::Idle);
    assert_eq!(running.count(), 0);
}

#[test]
fn an_old_process_that_does_not_end_is_killed_and_one_that_cannot_be_killed_is_told() {
    let mut device = web();
    device.keeper.slots.get_mut(&OLD).unwrap().frozen = true;
    let id = replace(&mut device, "web");
    say(&mut device, NEW, Notice::Ready);
    device.advance(20 * SECOND);
    assert_eq!(device.done(), ["spawn web", "signal web 15", "signal web 9 tree"]);
    assert_eq!(device.answer(id), Some(Err(Code::Failed)));
    assert_eq!((device.state("web"), device.slot("web")), ("ready", NEW));
}

#[test]
fn what_belongs_to_the_instance_goes_over_to_the_new_process() {
    let mut device = Device::with([notifying("web", |service| {
        main(service).process.watchdog = Some(30 * SECOND);
    })]);
    device.ready("web");
    device.crash("web");
    device.ready("web");
    replace(&mut device, "web");
    say(&mut device, NEW, Notice::Ready);
    let view = &device.machine.view(None)[0];
    assert_eq!((view.restarts, view.slot.slot, view.running), (1, NEW, true));
    // Its own signs of life count, and their absence too.
    device.advance(20 * SECOND);
    device.notify("web", Notice::Watchdog);
    device.advance(20 * SECOND);
    assert_eq!(device.state("web"), "ready");
    device.done();
    device.advance(11 * SECOND);
    assert_eq!(device.done()[0], "signal web 6");
}

#[test]
fn nobody_who_requires_it_notices() {
    let mut device = Device::with([
        notifying("base", |_| {}),
        with("app", |service| service.requires = vec![name("base")]),
    ]);
    device.ready("base");
    device.done();
    let slot = device.keeper.slots.keys().max().unwrap() + 1;
    replace(&mut device, "base");
    say(&mut device, slot, Notice::Ready);
    let done = device.done();
    assert!(done.iter().all(|what| !what.contains("app")), "{done:?}");
    assert_eq!((device.state("base"), device.state("app")), ("ready", "ready"));
}

#[test]
fn a_supervisor_that_dies_before_the_switch_keeps_the_old_one_and_after_it_the_new_one() {
    for (switched, kept) in [(false, OLD), (true, NEW)] {
        let mut device = web();
        device.keeper.slots.get_mut(&OLD).unwrap().stubborn = true;
        replace(&mut device, "web");
        if switched {
            say(&mut device, NEW, Notice::Ready);
        }
        device.keeper.slots.get_mut(&OLD).unwrap().stubborn = false;
        device.done();
        device.take_over();
        device.calm();
        assert_eq!(device.done(), ["signal web 15".to_owned(), format!("forget {}", 1 - kept)]);
        assert_eq!((device.state("web"), device.slot("web")), ("ready", kept));
        assert_eq!(device.spawned(), [""; 0]);
        // Nothing of it is remembered: the next one finds an ordinary instance.
        device.take_over();
        device.calm();
        assert_eq!((device.done(), slots(&device)), (vec![], vec![kept]));
    }
}

#[test]
fn a_candidate_that_is_all_that_is_left_is_kept() {
    let mut device = web();
    replace(&mut device, "web");
    let now = device.now;
    device.keeper.end_unseen(OLD, Exit::Code(1), now);
    device.done();
    device.take_over();
    device.calm();
    assert_eq!((device.done(), device.slot("web")), (vec!["forget 0".to_owned()], NEW));
    say(&mut device, NEW, Notice::Ready);
    assert_eq!(device.state("web"), "ready");
}

#[test]
fn both_dead_while_nobody_lived_leave_one_that_is_started_again() {
    for switched in [false, true] {
        let mut device = web();
        device.keeper.slots.get_mut(&OLD).unwrap().stubborn = true;
        replace(&mut device, "web");
        if switched {
            say(&mut device, NEW, Notice::Ready);
        }
        let now = device.now;
        device.keeper.end_unseen(OLD, Exit::Code(1), now);
        device.keeper.end_unseen(NEW, Exit::Code(1), now);
        device.take_over();
        device.calm();
        device.advance(SECOND);
        assert_eq!(device.machine.view(None).len(), 1);
        let running =
            device.keeper.slots.values().filter(|slot| slot.state.phase == Phase::Running);
        assert_eq!(running.count(), 1, "{:?}", device.log);
    }
}

/// A replacement that works and one that fails, cut off after every action in turn.
#[test]
fn a_supervisor_killed_at_any_action_of_a_replacement_leaves_exactly_one_process() {
    for works in [true, false] {
        let mut cut = 0;
        loop {
            let mut device = web();
            device.cut_after = Some(cut);
            replace(&mut device, "web");
            if device.keeper.slots.contains_key(&NEW) {
                match works {
                    true => say(&mut device, NEW, Notice::Ready),
                    false => end(&mut device, NEW),
                }
            }
            let reached = device.cut_after.take().is_none();
            device.calm();
            device.advance(100 * SECOND);
            if device.state("web") != "ready" {
                device.ready("web");
            }
            assert_eq!(slots(&device).len(), 1, "cut at {cut}: {:?}", device.log);
            assert_eq!(device.state("web"), "ready", "cut at {cut}: {:?}", device.log);
            assert!(device.runs("web"), "cut at {cut}: {:?}", device.log);
            if !reached {
                break;
            }
            cut += 1;
        }
        assert!(cut > 5, "{cut} actions");
    }
}
