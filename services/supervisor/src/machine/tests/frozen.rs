//! Instances that are kept from running, and a machine that slept.

use protocol::{
    failure::Code,
    heartbeat::{Missed, Reason},
    keeper::Exit,
};

use super::*;
use crate::settings::OnDemand;

fn freeze(device: &mut Device, service: &str) -> u64 {
    let limit = Some(2 * SECOND);
    let id = device.request(Request::Freeze { name: name(service), instance: None, limit });
    device.calm();
    id
}

fn thaw(device: &mut Device, service: &str) {
    let id = device.request(Request::Thaw { name: name(service), instance: None });
    device.calm();
    assert_eq!(device.answer(id), Some(Ok(())));
}

fn watched(text: &str) -> Arc<Service> {
    with(text, |service| main(service).process.watchdog = Some(2 * SECOND))
}

fn reporting(text: &str) -> Arc<Service> {
    with(text, |service| main(service).process.app_id = Some(7))
}

#[test]
fn a_frozen_instance_owes_no_sign_of_life_and_has_a_whole_period_when_it_thaws() {
    let mut device = Device::with([watched("web")]);
    device.done();
    let id = freeze(&mut device, "web");
    assert_eq!((device.answer(id), device.done()), (Some(Ok(())), vec!["freeze web".to_owned()]));
    assert_eq!(device.state("web"), "frozen");
    device.advance(3600 * SECOND);
    assert_eq!(device.done(), [""; 0]);
    // What it had said just before may be read only now.
    device.notify("web", Notice::Watchdog);
    device.advance(10 * SECOND);
    assert_eq!(device.done(), [""; 0]);
    thaw(&mut device, "web");
    assert_eq!((device.state("web"), device.done()), ("ready", vec!["thaw web".to_owned()]));
    device.advance(Duration::from_millis(1900));
    assert_eq!(device.done(), [""; 0]);
    device.advance(SECOND);
    assert_eq!(device.done()[0], "signal web 6", "and then it is watched as before");
    assert_eq!((device.heard("service.freeze"), device.heard("service.thaw")), (1, 1));
}

#[test]
fn the_time_to_become_ready_waits_while_it_is_frozen() {
    let mut device = Device::with([notifying("web", |_| {})]);
    device.advance(9 * SECOND);
    device.done();
    freeze(&mut device, "web");
    device.advance(60 * SECOND);
    thaw(&mut device, "web");
    device.advance(Duration::from_millis(900));
    assert_eq!(device.done(), ["freeze web", "thaw web"]);
    device.advance(SECOND);
    assert_eq!(device.done()[0], "signal web 15");
}

#[test]
fn a_missed_heartbeat_of_what_is_frozen_is_no_news_and_the_broker_is_told_of_both_ends() {
    let mut device = Device::with([reporting("camera")]);
    device.done();
    freeze(&mut device, "camera");
    assert!(device.machine.is_frozen(device.slot("camera")));
    let missed = Missed { app_id: 7, generation: 1, age_ms: 9000, reason: Reason::Silent };
    device.event(Event::Missed(missed.clone()));
    assert_eq!(device.done(), ["expect camera", "freeze camera"]);
    thaw(&mut device, "camera");
    assert_eq!(device.done(), ["thaw camera", "expect camera"]);
    device.event(Event::Missed(missed));
    device.calm();
    assert!(device.done().contains(&"signal camera 9 tree".to_owned()));
}

#[test]
fn who_stops_or_restarts_it_thaws_it_first() {
    let mut device = Device::with([plain("web")]);
    for restart in [false, true] {
        freeze(&mut device, "web");
        device.done();
        let (name, instance, wait) = (name("web"), None, true);
        let id = device.request(match restart {
            false => Request::Stop { name, instance, wait },
            true => Request::Restart { name, instance, wait },
        });
        device.calm();
        assert_eq!(device.answer(id), Some(Ok(())));
        assert_eq!(device.done()[..2], ["thaw web", "signal web 15"]);
        device.start("web", true);
        assert_eq!(device.state("web"), "ready");
        device.done();
    }
    freeze(&mut device, "web");
    device.event(shutdown(ShutdownKind::Poweroff));
    device.calm();
    assert!(device.left.is_some(), "nothing waits for what is frozen");
}

#[test]
fn what_ends_while_it_is_frozen_is_thawed_before_the_next_one_is_spawned() {
    let mut device = Device::with([plain("web")]);
    device.advance(70 * SECOND);
    assert!(device.keeper.slots[&0].disposition.armed_after_ms.is_some(), "the keeper answers");
    device.done();
    freeze(&mut device, "web");
    device.end("web", Exit::Signal { signal: 9, core: false });
    assert_eq!(device.done(), ["freeze web", "thaw web", "spawn web"]);
    assert_eq!(device.state("web"), "ready");
}

#[test]
fn what_does_not_freeze_in_time_runs_again_and_all_that_was_to_be_frozen_with_it() {
    let two = with("web", |service| {
        service.instances.insert(name("other"), Box::new(instance()));
    });
    let mut device = Device::with([two]);
    device.done();
    device.freezer = None;
    let id = freeze(&mut device, "web");
    assert_eq!((device.answer(id), device.state("web")), (None, "ready"));
    // One of the two is frozen at once, the other hangs.
    let slot = device.slot("web");
    device.event(Event::Frozen { slot, generation: 1, result: Ok(Means::Group) });
    assert_eq!((device.answer(id), device.state("web")), (None, "frozen"));
    device.advance(3 * SECOND);
    assert_eq!(device.answer(id), Some(Err(Code::Failed)));
    assert!(device.replies[&id].as_ref().unwrap_err().text.contains("runs again"));
    let thawed = |log: &[String]| log.iter().filter(|entry| *entry == "thaw web").count();
    assert_eq!((thawed(&device.done()), device.state("web")), (2, "ready"));
    assert!(device.keeper.slots.values().all(|there| !there.kept));
    // A late word about it is nobody's any more.
    device.event(Event::Frozen { slot, generation: 1, result: Ok(Means::Group) });
    assert_eq!(device.state("web"), "ready");
}

#[test]
fn what_is_not_there_or_must_not_be_frozen_is_refused_with_a_reason() {
    let core = with("log", |service| service.core = true);
    let mut device = Device::with([plain("web"), core]);
    device.stop("web", true);
    for service in ["web", "log"] {
        let id = freeze(&mut device, service);
        assert_eq!(device.answer(id), Some(Err(Code::Failed)), "{service}");
    }
    let id = freeze(&mut device, "nobody");
    assert_eq!(device.answer(id), Some(Err(Code::NotFound)));
    thaw(&mut device, "log");
    device.start("web", true);
    freeze(&mut device, "web");
    let (name, instance) = (name("web"), None);
    let id = device.request(Request::Reload { name, instance, wait: true });
    assert_eq!(device.answer(id), Some(Err(Code::Failed)), "what is frozen reads nothing");
}

#[test]
fn the_next_supervisor_knows_what_is_frozen_and_keeps_it_so() {
    let mut device = Device::with([watched("web")]);
    freeze(&mut device, "web");
    device.done();
    device.take_over();
    device.calm();
    assert_eq!((device.done(), device.state("web")), (vec!["freeze web".to_owned()], "frozen"));
    device.advance(60 * SECOND);
    assert_eq!(device.done(), [""; 0]);
    thaw(&mut device, "web");
    device.take_over();
    device.calm();
    assert_eq!((device.done(), device.state("web")), (vec!["thaw web".to_owned()], "ready"));
}

#[test]
fn what_was_frozen_and_ended_while_no_supervisor_lived_is_thawed_before_it_is_spawned() {
    let mut device = Device::with([plain("web")]);
    freeze(&mut device, "web");
    device.done();
    device.keeper.end_unseen(0, Exit::Signal { signal: 9, core: false }, device.now);
    device.take_over();
    device.calm();
    assert_eq!(device.done(), ["thaw web", "spawn web"]);
}

#[test]
fn a_supervisor_that_dies_anywhere_leaves_nothing_frozen_that_nobody_knows_of() {
    for cut in 0..12 {
        let mut device = Device::with([watched("web")]);
        device.cut_after = Some(cut);
        freeze(&mut device, "web");
        let id = device.request(Request::Thaw { name: name("web"), instance: None });
        device.calm();
        let kept = device.keeper.slots[&0].kept;
        assert_eq!(kept, device.state("web") == "frozen", "cut after {cut}");
        assert!(!kept || device.answer(id).is_none(), "cut after {cut}: it was promised to run");
        device.cut_after = None;
        thaw(&mut device, "web");
        assert!(!device.keeper.slots[&0].kept && device.runs("web"), "cut after {cut}");
    }
}

#[test]
fn after_a_sleep_everybody_has_a_whole_period_to_show_that_he_lives() {
    for told in [true, false] {
        let mut device = Device::with([watched("web")]);
        device.done();
        // The clock doesn't count the sleep: the deadline is as near as it was.
        device.advance(Duration::from_millis(1900));
        if told {
            device.event(Event::Resumed);
        }
        device.advance(Duration::from_millis(1900));
        let aborted = device.done().contains(&"signal web 6".to_owned());
        assert_eq!(aborted, !told, "the event, and nothing else, makes the difference");
        device.advance(SECOND);
        assert_eq!(device.spawned(), ["spawn web"], "and who stays silent is missed all the same");
    }
}

#[test]
fn a_sleep_neither_watches_what_is_not_ready_nor_thaws_what_is_frozen() {
    let unready = notifying("new", |service| main(service).process.watchdog = Some(SECOND));
    let mut device = Device::with([unready, watched("web")]);
    freeze(&mut device, "web");
    device.done();
    device.event(Event::Resumed);
    device.advance(5 * SECOND);
    assert_eq!((device.done(), device.state("web")), (vec![], "frozen"));
}

#[test]
fn what_has_done_its_work_rests_until_it_is_looked_for_and_a_crash_is_respawned() {
    let engine = with("engine", |service| {
        service.on_demand =
            Some(OnDemand { objects: vec!["engine".to_owned()], idle_timeout: None });
    });
    let mut device = Device::with([engine]);
    assert_eq!((device.spawned(), device.state("engine")), (vec!["spawn engine".into()], "ready"));
    device.crash("engine");
    assert_eq!((device.spawned(), device.state("engine")), (vec!["spawn engine".into()], "ready"));
    for _ in 0..2 {
        device.end("engine", Exit::Code(0));
        assert_eq!((device.spawned(), device.state("engine")), (vec![], "on demand"));
        device.take_over();
        device.calm();
        assert_eq!(device.spawned(), [""; 0], "nor does the next supervisor start it");
        device.request(Request::Activate { name: name("engine") });
        device.calm();
        assert_eq!(device.spawned(), ["spawn engine"]);
    }
}
