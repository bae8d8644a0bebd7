//! What is remembered of the boot, and the rescue set.

use protocol::keeper::Exit;

use super::*;
use crate::settings::{Critical, CriticalAction};

/// First start and first readiness after the start of the device, in seconds.
fn times(device: &Device) -> Vec<(String, u64, Option<u64>)> {
    let seconds = |at: Moment| at.since(Moment(1_000_000_000)).as_secs();
    let booted = device.machine.booted().into_iter();
    booted
        .map(|one| (one.service.to_string(), seconds(one.spawned_at), one.ready_at.map(seconds)))
        .collect()
}

fn all_ready(device: &Device) -> Option<u64> {
    let at = device.machine.boot().unwrap().all_ready_at;
    at.map(|at| at.since(Moment(1_000_000_000)).as_secs())
}

fn waits_for(device: &Device) -> Vec<String> {
    device.machine.boot_waits_for().iter().map(ToString::to_string).collect()
}

#[test]
fn the_boot_is_over_when_everything_that_it_wanted_was_ready_or_done_once() {
    let once = with("once", |service| main(service).process.oneshot = true);
    let later = with("later", |service| service.autostart = false);
    let slow = notifying("slow", |service| {
        service.after = vec![name("once")];
        main(service).process.readiness.timeout = None;
    });
    let mut device = Device::with([once, later, slow, plain("plain")]);
    assert_eq!(waits_for(&device), ["once", "slow"]);
    device.advance(2 * SECOND);
    device.end("once", Exit::Code(0));
    assert_eq!((waits_for(&device), all_ready(&device)), (vec!["slow".to_owned()], None));
    device.advance(3 * SECOND);
    assert_eq!(device.heard("system.ready"), 0);
    device.ready("slow");
    assert_eq!((all_ready(&device), device.heard("system.ready")), (Some(5), 1));

    // What comes afterwards is not of the boot, and it is over only once.
    device.advance(SECOND);
    device.start("later", false);
    device.crash("plain");
    device.advance(SECOND);
    device.crash("slow");
    device.advance(SECOND);
    device.ready("slow");
    let expected = [("once", 0, Some(2)), ("plain", 0, Some(0)), ("slow", 2, Some(5))];
    assert_eq!(times(&device), expected.map(|(name, at, ready)| (name.to_owned(), at, ready)));
    assert_eq!((all_ready(&device), device.heard("system.ready")), (Some(5), 1));
}

#[test]
fn restarts_until_the_first_readiness_are_part_of_a_start_and_the_supervisor_may_die() {
    let mut device = Device::with([notifying("web", |_| {})]);
    device.advance(SECOND);
    device.crash("web");
    device.advance(SECOND);
    device.take_over();
    device.calm();
    device.advance(SECOND);
    assert_eq!(all_ready(&device), None);
    device.ready("web");
    device.take_over();
    device.calm();
    device.advance(9 * SECOND);
    device.crash("web");
    device.advance(SECOND);
    device.ready("web");
    device.take_over();
    device.calm();
    assert_eq!(times(&device), [("web".to_owned(), 0, Some(3))]);
    assert_eq!((all_ready(&device), device.heard("system.ready")), (Some(3), 1));
}

#[test]
fn what_nobody_wants_any_more_is_not_waited_for() {
    let mut device = Device::with([notifying("web", |_| {}), notifying("gone", |_| {})]);
    device.advance(SECOND);
    device.stop("web", false);
    assert_eq!(all_ready(&device), None);
    device.request(Request::Delete { name: name("gone"), instance: None, wait: false });
    device.calm();
    assert_eq!((waits_for(&device).len(), all_ready(&device)), (0, Some(1)));
}

#[test]
fn a_service_that_never_works_keeps_the_boot_open_and_is_named() {
    let held = with("held", |service| {
        main(service).policy.respawn = Respawn::Never;
        main(service).process.readiness.kind = ReadinessKind::Notify;
    });
    let mut device = Device::with([held, plain("web")]);
    device.crash("held");
    device.advance(100 * SECOND);
    assert_eq!((waits_for(&device), all_ready(&device)), (vec!["held".to_owned()], None));
}

#[test]
fn another_boot_in_the_same_folder_forgets_the_times_of_the_one_before() {
    let mut device = Device::with([plain("web"), with("off", |service| service.autostart = false)]);
    device.start("off", false);
    device.stop("off", false);
    device.advance(50 * SECOND);
    device.keeper.slots.clear();
    let journal = std::mem::take(&mut device.journal);
    device.machine = Supervisor::new(device.now);
    device.machine.restore(journal);
    let boot = BootRecord { supervisor_at: Some(device.now), ..BootRecord::default() };
    device.machine.boot_began(boot);
    let services = device.files.clone();
    device.machine.handle_event(Event::Definitions { services }, device.now);
    device.machine.handover_complete(device.now);
    device.perform();
    device.calm();
    assert_eq!(times(&device), [("web".to_owned(), 50, Some(50))]);
    // Nor does the journal remember them.
    let begun = std::mem::take(&mut device.journal);
    let stale = begun.iter().any(|record| match record {
        Record::Instance(record) => record.first.spawned_at == Some(Moment(1_000_000_000)),
        _ => false,
    });
    assert!(!stale, "{begun:?}");
    assert!(
        begun
            .iter()
            .any(|record| matches!(record, Record::Instance(it) if it.service == name("off")))
    );
}

#[test]
fn a_replaced_instance_keeps_the_times_of_its_first_process() {
    let mut device = Device::with([notifying("web", |_| {})]);
    device.advance(SECOND);
    device.ready("web");
    device.advance(9 * SECOND);
    device.request(Request::Replace { name: name("web"), instance: None, wait: false });
    device.calm();
    let candidate = *device.keeper.slots.keys().max().unwrap();
    let generation = device.keeper.slots[&candidate].state.generation;
    device.event(Event::Notify { slot: candidate, generation, notice: Notice::Ready });
    device.calm();
    assert_eq!(device.slot("web"), candidate, "it took over");
    assert_eq!(times(&device), [("web".to_owned(), 0, Some(1))]);
}

#[test]
fn the_end_says_who_wanted_it_and_why() {
    let mut device = Device::with([plain("web")]);
    device.event(shutdown(ShutdownKind::Reboot));
    device.event(shutdown(ShutdownKind::Poweroff));
    let [(kind, ending)] = &device.endings[..] else { panic!("{:?}", device.endings) };
    assert_eq!(
        (*kind, ending.cause, &*ending.reason),
        (ShutdownKind::Reboot, Cause::Ordered, "a test asks")
    );
    let (_, told) = device.topics.iter().find(|(topic, _)| *topic == "system.shutdown").unwrap();
    assert_eq!((&told["cause"], &told["reason"]), (&"ordered".into(), &"a test asks".into()));
}

fn critical(text: &str) -> Arc<Service> {
    with(text, |service| {
        main(service).policy.critical =
            Some(Critical { restarts: 0, window: 60 * SECOND, action: CriticalAction::Rescue });
    })
}

#[test]
fn a_critical_service_leaves_only_the_rescue_set_and_so_does_every_next_supervisor() {
    let log = || with("log", |service| service.core = true);
    let mut device = Device::with([log(), critical("web"), plain("other")]);
    device.rescue_set = vec![log(), plain("shell")];
    device.take_over();
    device.calm();
    device.request(Request::Set { service: with("sent", |it| it.source = Source::Message) });
    device.calm();
    device.done();
    device.crash("web");
    device.advance(10 * SECOND);
    assert_eq!(device.left, None, "no reboot");
    assert!(device.endings.is_empty());
    let reason = "service web crashed more than 0 times within 60 s (the last time: signal 11)";
    assert_eq!(device.machine.boot().unwrap().rescue.as_deref(), Some(reason));
    let state =
        |device: &Device| ["log", "shell", "web", "other", "sent"].map(|it| device.state(it));
    assert_eq!(state(&device), ["ready", "ready", "gone", "gone", "gone"]);
    let (_, told) = device.topics.iter().find(|(topic, _)| *topic == "service.critical").unwrap();
    assert!(told["text"].as_str().unwrap().contains("a shell on the console"), "{told}");
    device.done();
    device.take_over();
    device.calm();
    device.advance(100 * SECOND);
    assert_eq!(state(&device), ["ready", "ready", "gone", "gone", "gone"]);
    assert_eq!(device.done(), [""; 0], "the log was not disturbed");
    assert_eq!(device.machine.boot().unwrap().rescue.as_deref(), Some(reason));
}

#[test]
fn a_boot_that_ends_with_the_rescue_set_was_never_ready() {
    let mut device = Device::with([critical("web"), notifying("slow", |_| {})]);
    device.rescue_set = vec![plain("shell")];
    device.take_over();
    device.calm();
    device.crash("web");
    device.advance(100 * SECOND);
    assert_eq!((all_ready(&device), device.heard("system.ready")), (None, 0));
}
