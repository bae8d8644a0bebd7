//! Stopping everything.

use protocol::{
    failure::Code,
    keeper::{Phase, ShutdownKind},
};

use super::*;

fn signals(device: &mut Device) -> Vec<String> {
    let mut done = device.done();
    done.retain(|entry| entry.starts_with("signal"));
    done
}

#[test]
fn everything_stops_in_the_reverse_order() {
    let mut device = Device::with([
        with("core", |service| service.core = true),
        with("early", |service| service.start = 10),
        with("late", |service| service.start = 90),
        with("top", |service| service.after = vec![name("early")]),
    ]);
    device.done();
    device.event(shutdown(ShutdownKind::Poweroff));
    let start = device.request(Request::Start { name: name("top"), instance: None, wait: false });
    assert_eq!(device.answer(start), Some(Err(Code::Cancelled)));
    device.calm();
    let order = signals(&mut device);
    let at = |text: &str| order.iter().position(|entry| entry.contains(text)).unwrap();
    assert!(at("top") < at("early") && at("late") < at("early") && at("early") < at("core"));
    assert_eq!(device.left, Some((ShutdownKind::Poweroff, 0)));
}

#[test]
fn a_deadline_ends_the_shutdown_whatever_hangs() {
    let mut device = Device::with([plain("web"), plain("hung")]);
    for slot in device.keeper.slots.values_mut() {
        slot.state.phase = Phase::Emptying;
        slot.state.pid = 0;
    }
    device.keeper.changed.extend([0, 1]);
    device.calm();
    device.event(shutdown(ShutdownKind::Reboot));
    device.calm();
    device.advance(59 * SECOND);
    assert_eq!(device.left, None);
    device.advance(2 * SECOND);
    assert_eq!(device.left, Some((ShutdownKind::Reboot, 0)));
    assert_eq!(device.machine.next_deadline(), None);
}

#[test]
fn what_cannot_be_killed_is_not_waited_for_and_not_doubled() {
    let mut device = Device::with([plain("web")]);
    device.keeper.slots.get_mut(&0).unwrap().state.phase = Phase::Unkillable;
    device.keeper.changed.insert(0);
    device.calm();
    let stop = device.stop("web", true);
    assert_eq!(device.answer(stop), Some(Err(Code::Failed)));
    device.done();
    device.start("web", false);
    assert_eq!(device.spawned(), [""; 0]);
    device.event(shutdown(ShutdownKind::Reboot));
    assert!(device.left.is_some());
}

#[test]
fn waiting_callers_are_told_when_the_device_goes_down() {
    let mut device = Device::with([notifying("web", |service| service.autostart = false)]);
    let start = device.start("web", true);
    device.event(shutdown(ShutdownKind::Exit));
    device.calm();
    assert_eq!(device.answer(start), Some(Err(Code::Cancelled)));
    assert_eq!(device.left, Some((ShutdownKind::Exit, 0)));
}
