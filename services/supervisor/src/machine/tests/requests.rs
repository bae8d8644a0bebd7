//! Requests: definitions that change, starts and stops that overtake each other, replies.

use protocol::failure::Code;

use super::*;

fn message(text: &str, change: impl FnOnce(&mut Service)) -> Arc<Service> {
    with(text, |service| {
        service.source = Source::Message;
        change(service);
    })
}

fn set(device: &mut Device, service: Arc<Service>) {
    let id = device.request(Request::Set { service });
    device.calm();
    assert_eq!(device.answer(id), Some(Ok(())));
}

#[test]
fn a_start_during_a_stop_follows_it() {
    let mut device = Device::with([plain("web")]);
    device.done();
    let stop = device.request(Request::Stop { name: name("web"), instance: None, wait: true });
    let start = device.request(Request::Start { name: name("web"), instance: None, wait: true });
    assert_eq!(device.answer(stop), Some(Err(Code::Cancelled)));
    device.calm();
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
    assert_eq!(device.answer(start), Some(Ok(())));
}

#[test]
fn a_waiting_start_is_cancelled_by_a_stop() {
    let mut device = Device::with([notifying("web", |service| service.autostart = false)]);
    let start = device.start("web", true);
    assert_eq!(device.answer(start), None);
    let stop = device.stop("web", true);
    assert_eq!(device.answer(start), Some(Err(Code::Cancelled)));
    assert_eq!(device.answer(stop), Some(Ok(())));
}

#[test]
fn a_waiting_start_hears_of_a_crash() {
    let mut device = Device::with([notifying("web", |service| service.autostart = false)]);
    let start = device.start("web", true);
    device.crash("web");
    device.crash("web");
    assert_eq!(device.answer(start), Some(Err(Code::Failed)));
}

#[test]
fn restarts_that_come_together_are_one() {
    let mut device = Device::with([plain("web")]);
    device.done();
    let ids = [0; 3].map(|_| {
        device.request(Request::Restart { name: name("web"), instance: None, wait: true })
    });
    device.calm();
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
    assert!(ids.iter().all(|id| device.answer(*id) == Some(Ok(()))));
}

#[test]
fn who_ignores_the_stop_signal_is_killed_with_its_tree() {
    let mut device = Device::with([plain("web")]);
    device.keeper.slots.get_mut(&0).unwrap().stubborn = true;
    let stop = device.stop("web", true);
    device.done();
    device.advance(4 * SECOND);
    assert_eq!(device.answer(stop), None);
    device.advance(2 * SECOND);
    assert_eq!(device.done(), ["signal web 9 tree", "release web"]);
    assert_eq!(device.answer(stop), Some(Ok(())));
    assert!(device.machine.view(None)[0].reason.starts_with("killed"));
}

#[test]
fn set_restarts_only_for_a_changed_process() {
    let mut device = Device::with([]);
    set(&mut device, message("web", |_| {}));
    assert_eq!(device.done(), ["spawn web"]);
    set(&mut device, message("web", |_| {}));
    set(&mut device, message("web", |service| main(service).policy.stop_timeout = 9 * SECOND));
    assert_eq!(device.done(), [""; 0]);
    set(&mut device, message("web", |service| main(service).process.stdout = true));
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
}

/// procd's `file`: what was in it when the message was read.
fn with_file(content: u8) -> Arc<Service> {
    message("web", |service| {
        main(service).process.files = [("/etc/web".into(), [content; 32])].into();
    })
}

#[test]
fn set_restarts_for_a_changed_file_but_a_new_supervisor_does_not() {
    let mut device = Device::with([]);
    set(&mut device, with_file(1));
    device.done();
    set(&mut device, with_file(2));
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
    // The file changes, and the supervisor reads the remembered message again.
    device.messages.insert(name("web"), with_file(3));
    device.take_over();
    device.calm();
    assert_eq!(device.done(), [""; 0]);
    // The process still has the second content; now somebody asks.
    set(&mut device, with_file(3));
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
    device.messages.insert(name("web"), with_file(4));
    device.take_over();
    device.calm();
    set(&mut device, with_file(3));
    assert_eq!(device.done(), [""; 0]);
}

#[test]
fn a_reload_signal_replaces_the_restart_and_the_old_one_counts() {
    let mut device = Device::with([]);
    set(&mut device, message("web", |service| main(service).policy.reload = Reload::Signal(1)));
    device.done();
    set(&mut device, message("web", |service| main(service).process.stdout = true));
    assert_eq!(device.done(), ["signal web 1"]);
    set(&mut device, message("web", |_| {}));
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
}

#[test]
fn set_ends_what_it_does_not_name_and_add_keeps_it() {
    let two = |names: [&str; 2]| {
        message("web", |service| {
            service.instances = names.map(|text| (name(text), Box::new(instance()))).into();
        })
    };
    let mut device = Device::with([]);
    set(&mut device, two(["a", "b"]));
    let add = device.request(Request::Add { service: two(["b", "c"]) });
    device.calm();
    assert_eq!(device.answer(add), Some(Ok(())));
    assert_eq!(device.machine.view(None).len(), 3);
    set(&mut device, two(["c", "d"]));
    let names: Vec<String> =
        device.machine.view(None).iter().map(|view| view.instance.to_string()).collect();
    assert_eq!(names, ["c", "d"]);
    // The lowest free slot is used again.
    set(&mut device, two(["c", "e"]));
    assert!(device.machine.view(None).iter().all(|view| view.slot.slot < 4));
}

#[test]
fn a_delete_followed_by_a_set_starts_the_new_one_after_the_old_one() {
    let mut device = Device::with([]);
    set(&mut device, message("web", |_| {}));
    device.done();
    let delete = device.request(Request::Delete { name: name("web"), instance: None, wait: true });
    let service = message("web", |service| main(service).process.stdout = true);
    device.request(Request::Set { service });
    device.calm();
    assert_eq!(device.answer(delete), Some(Err(Code::Cancelled)));
    assert_eq!(device.done(), ["signal web 15", "spawn web"]);
}

#[test]
fn a_deleted_service_is_gone_when_its_process_is() {
    let mut device = Device::with([plain("web")]);
    let id = device.request(Request::Delete { name: name("web"), instance: None, wait: true });
    assert_eq!(device.answer(id), None);
    device.calm();
    assert_eq!(device.answer(id), Some(Ok(())));
    assert_eq!(device.state("web"), "gone");
    assert_eq!(device.journal.last(), Some(&Record::Forgotten { slot: 0 }));
}

#[test]
fn unconfirmed_instances_end_with_the_update() {
    let one = |text: &str| {
        message("web", |service| service.instances = [(name(text), Box::new(instance()))].into())
    };
    let mut device = Device::with([]);
    set(&mut device, one("a"));
    device.request(Request::Add { service: one("b") });
    device.request(Request::UpdateStart { name: name("web") });
    device.request(Request::Add { service: one("b") });
    device.request(Request::UpdateComplete { name: name("web") });
    device.calm();
    let left = device.machine.view(None);
    assert_eq!((left.len(), left[0].instance.as_str()), (1, "b"));
}

#[test]
fn requests_that_make_no_sense_say_why() {
    let broken = with("broken", |service| main(service).errors = vec!["no user x".to_owned()]);
    let lonely = with("lonely", |service| service.requires = vec![name("nobody")]);
    let mut device = Device::with([plain("web"), broken, lonely]);
    let start = device.start("nobody", false);
    assert_eq!(device.answer(start), Some(Err(Code::NotFound)));
    let start = device.start("broken", false);
    assert_eq!(device.answer(start), Some(Err(Code::Failed)));
    let start = device.start("lonely", true);
    assert_eq!(device.answer(start), Some(Err(Code::Failed)));
    assert_eq!((device.state("broken"), device.state("lonely")), ("failed", "waiting"));
    let signal = |signal| Request::Signal { name: Some(name("web")), instance: None, signal };
    let ids = [device.request(signal(0)), device.request(signal(1))];
    assert_eq!(ids.map(|id| device.answer(id)), [Some(Err(Code::InvalidArgument)), Some(Ok(()))]);
    device.stop("web", false);
    let dead = device.request(signal(1));
    assert_eq!(device.answer(dead), Some(Err(Code::NotFound)));
}

#[test]
fn reload_signals_runs_a_command_or_restarts() {
    let how = |text: &str, reload| with(text, |service| main(service).policy.reload = reload);
    let command = Reload::Command(vec!["/bin/true".to_owned()]);
    let mut device = Device::with([how("s", Reload::Signal(1)), how("c", command), plain("r")]);
    device.done();
    for text in ["s", "c", "r"] {
        let id = device.request(Request::Reload { name: name(text), instance: None, wait: true });
        device.calm();
        assert_eq!(device.answer(id).is_some(), text != "c");
    }
    assert_eq!(device.done(), ["signal s 1", "reload c", "signal r 15", "spawn r"]);
    let (slot, generation) = (device.slot("c"), 1);
    device.event(Event::ReloadDone { slot, generation, ok: false });
    assert_eq!(device.answer(2), Some(Err(Code::Failed)));
}

#[test]
fn changed_files_restart_what_changed_and_forget_what_vanished() {
    let mut device = Device::with([plain("a"), plain("b"), plain("c")]);
    device.stop("c", false);
    device.done();
    device.files = vec![with("a", |service| main(service).process.stdout = true), plain("c")];
    device.event(Event::Definitions { services: device.files.clone() });
    device.calm();
    let done = device.done();
    assert!(done.contains(&"signal a 15".to_owned()) && done.contains(&"spawn a".to_owned()));
    assert!(done.contains(&"signal b 15".to_owned()) && done.contains(&"forget 1".to_owned()));
    assert_eq!(device.state("c"), "stopped");
}
