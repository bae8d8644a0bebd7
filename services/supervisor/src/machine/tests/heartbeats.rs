//! Heartbeats that the broker misses, and what is decided about them and about watchdogs.

use protocol::{
    heartbeat::{Missed, Reason},
    keeper::ShutdownKind,
};
use settings::{Critical, CriticalAction, OnMiss};

use super::*;

const APP: i32 = 7;

fn reporting(on_miss: OnMiss) -> Arc<Service> {
    with("cam", |service| {
        main(service).process.app_id = Some(APP);
        main(service).policy.heartbeat.on_miss = on_miss;
    })
}

fn miss(device: &mut Device, generation: u32) {
    let reason = Reason::Silent;
    device.event(Event::Missed(Missed { app_id: APP, generation, age_ms: 3000, reason }));
    device.calm();
}

fn misses(device: &Device) -> u32 {
    device.machine.view(Some(&name("cam")))[0].misses
}

#[test]
fn missed_heartbeats_kill_the_tree_and_respawn_as_a_failure() {
    let mut device = Device::with([reporting(OnMiss::Restart)]);
    device.done();
    miss(&mut device, 1);
    assert_eq!(device.done(), ["signal cam 9 tree", "spawn cam"]);
    let view = &device.machine.view(None)[0];
    assert_eq!((&*view.reason, view.restarts, view.misses), ("heartbeat", 1, 1));
    assert!(!view.missing, "the new start has missed nothing");
    let told = device.topics.iter().find(|(topic, _)| *topic == "service.missed").unwrap();
    assert_eq!((&told.1["sign"], &told.1["missed"]), (&"heartbeat".into(), &"silent".into()));
    assert_eq!((&told.1["action"], &told.1["age_ms"]), (&"restart".into(), &3000.into()));
}

#[test]
fn a_miss_of_an_older_start_or_of_another_application_is_no_news() {
    let mut device = Device::with([reporting(OnMiss::Restart), plain("web")]);
    device.crash("cam");
    device.done();
    miss(&mut device, 1);
    let (app_id, reason) = (8, Reason::Silent);
    device.event(Event::Missed(Missed { app_id, generation: 2, age_ms: 0, reason }));
    assert_eq!((device.done(), misses(&device)), (vec![], 0));
    miss(&mut device, 2);
    assert_eq!((device.done(), misses(&device)), (vec!["signal cam 9 tree".to_owned()], 1));
}

#[test]
fn one_that_is_being_stopped_or_has_ended_misses_nothing() {
    let mut device = Device::with([reporting(OnMiss::Restart)]);
    device.keeper.slots.get_mut(&0).unwrap().stubborn = true;
    device.done();
    device.request(Request::Stop { name: name("cam"), instance: None, wait: false });
    assert_eq!(device.unexpected[&0], 1, "the broker is told before the process is");
    miss(&mut device, 1);
    assert_eq!((device.done(), misses(&device)), (vec!["signal cam 15".to_owned()], 0));
    device.advance(6 * SECOND);
    miss(&mut device, 1);
    assert_eq!(misses(&device), 0);
}

#[test]
fn a_signal_leaves_time_for_a_core_dump_and_then_kills() {
    let mut device = Device::with([reporting(OnMiss::Signal(6))]);
    device.keeper.slots.get_mut(&0).unwrap().stubborn = true;
    device.done();
    miss(&mut device, 1);
    assert_eq!(device.done(), ["signal cam 6"]);
    miss(&mut device, 1);
    assert!(!device.unexpected.contains_key(&0), "it is shown as missed until it has ended");
    device.advance(2 * SECOND);
    assert_eq!(device.done(), ["signal cam 9 tree", "spawn cam"]);
    assert_eq!((misses(&device), device.unexpected[&0]), (1, 1));
}

#[test]
fn what_is_frozen_is_thawed_so_that_it_hears_the_signal() {
    let mut device = Device::with([reporting(OnMiss::Signal(6))]);
    let there = device.keeper.slots.get_mut(&0).unwrap();
    (there.stubborn, there.state.suspended) = (true, true);
    device.keeper.changed.insert(0);
    device.calm();
    device.done();
    miss(&mut device, 1);
    assert_eq!(device.done(), ["signal cam 6", "signal cam 18"]);
}

#[test]
fn an_event_is_only_told() {
    let mut device = Device::with([reporting(OnMiss::Event)]);
    device.done();
    miss(&mut device, 1);
    miss(&mut device, 1);
    assert_eq!((device.done(), misses(&device)), (vec![], 2));
    assert_eq!(device.heard("service.missed"), 2);
    assert!(!device.machine.view(None)[0].missing, "nobody would tell when it is well again");
    device.take_over();
    assert_eq!(misses(&device), 2, "the next supervisor knows of them");
}

#[test]
fn a_reboot_stops_everything_first() {
    let mut device = Device::with([reporting(OnMiss::Reboot), plain("web")]);
    device.done();
    miss(&mut device, 1);
    assert_eq!(device.left, Some((ShutdownKind::Reboot, 1)));
}

#[test]
fn a_critical_instance_that_misses_too_often_escalates() {
    let mut device = Device::with([with("cam", |service| {
        let main = main(service);
        main.process.app_id = Some(APP);
        let (restarts, window) = (2, 60 * SECOND);
        main.policy.critical = Some(Critical { restarts, window, action: CriticalAction::Reboot });
    })]);
    for generation in 1..=2 {
        miss(&mut device, generation);
        device.advance(SECOND);
    }
    assert_eq!(device.left, None);
    miss(&mut device, 3);
    assert_eq!(device.left, Some((ShutdownKind::Reboot, 1)));
    assert_eq!(device.heard("service.critical"), 1);
}

#[test]
fn a_missed_watchdog_is_decided_the_same_way() {
    let watched = |on_miss| {
        with("cam", |service| {
            main(service).process.watchdog = Some(2 * SECOND);
            main(service).policy.watchdog_miss = on_miss;
        })
    };
    let mut device = Device::with([watched(OnMiss::Restart)]);
    device.done();
    device.advance(3 * SECOND);
    assert_eq!(device.done(), ["signal cam 9 tree", "spawn cam"]);
    let mut device = Device::with([watched(OnMiss::Event)]);
    device.done();
    device.advance(30 * SECOND);
    assert_eq!((device.done(), misses(&device)), (vec![], 1), "once a silence");
    assert!(device.machine.view(None)[0].missing);
    device.notify("cam", Notice::Watchdog);
    assert!(!device.machine.view(None)[0].missing);
    device.advance(3 * SECOND);
    assert_eq!(misses(&device), 2);
    let mut device = Device::with([watched(OnMiss::Reboot)]);
    device.notify("cam", Notice::WatchdogTrigger);
    assert_eq!(device.left, Some((ShutdownKind::Reboot, 1)));
}

#[test]
fn only_the_supervisor_starts_what_needs_a_key() {
    let mut device = Device::with([reporting(OnMiss::Restart)]);
    device.advance(120 * SECOND);
    let disposition = device.keeper.slots[&0].disposition;
    assert_eq!((disposition.armed_after_ms, disposition.alone_after_ms), (None, None));
    assert!(!disposition.on_success);
}

#[test]
fn another_number_restarts_and_other_terms_are_told_to_the_broker() {
    let mut device = Device::with([reporting(OnMiss::Restart)]);
    device.done();
    let set = |change: &dyn Fn(&mut Service)| {
        let mut service = (*reporting(OnMiss::Restart)).clone();
        change(&mut service);
        Request::Set { service: Arc::new(service) }
    };
    device.request(set(&|service| main(service).policy.heartbeat.misses = 9));
    device.calm();
    assert_eq!(device.done(), ["expect cam"]);
    device.request(set(&|service| main(service).process.app_id = Some(8)));
    device.calm();
    assert_eq!(device.done(), ["signal cam 15", "spawn cam"]);
}

#[test]
fn two_processes_of_one_number_are_refused() {
    let mut device = Device::with([reporting(OnMiss::Restart)]);
    let id = device.request(Request::Replace { name: name("cam"), instance: None, wait: true });
    let failure = device.replies[&id].clone().unwrap_err();
    assert!(failure.text.contains("application 7"), "{failure}");
}
