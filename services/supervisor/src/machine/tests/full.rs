//! More instances than the keeper has slots.

use protocol::{failure::Code, keeper::SLOTS_MAX};

use super::*;

/// As many instances as there are slots, at most 256 a service.
fn many() -> Vec<Arc<Service>> {
    let names: Vec<u32> = (0..SLOTS_MAX).collect();
    let services = names.chunks(256).enumerate().map(|(n, numbers)| {
        let named = |number: &u32| (name(&format!("i{number:04}")), Box::new(instance()));
        with(&format!("many{n}"), |service| service.instances = numbers.iter().map(named).collect())
    });
    services.collect()
}

fn many_and(service: &Arc<Service>) -> Vec<Arc<Service>> {
    let mut services = many();
    services.push(service.clone());
    services
}

fn check_left_out(device: &mut Device, text: &str) {
    assert_eq!(device.state(text), "failed");
    let view = device.machine.view(Some(&name(text))).remove(0);
    assert!(view.detail.contains("no room"), "{}", view.detail);
    assert!(device.heard("service.fail") >= 1);
    let start = device.start(text, true);
    assert_eq!(device.answer(start), Some(Err(Code::Limit)));
}

#[test]
fn what_finds_no_slot_at_boot_is_shown_and_gets_one_later() {
    let late = with("late", |service| service.start = 90);
    let mut device = Device::with(many_and(&late));
    check_left_out(&mut device, "late");
    device.request(Request::Delete { name: name("many0"), instance: None, wait: false });
    device.calm();
    let mut services = many_and(&late);
    services.remove(0);
    device.event(Event::Definitions { services });
    device.calm();
    assert_eq!(device.state("late"), "ready");
}

#[test]
fn what_finds_no_slot_when_files_are_read_again_is_shown_and_forgotten_with_its_file() {
    let mut device = Device::with(many());
    device.event(Event::Definitions { services: many_and(&plain("late")) });
    check_left_out(&mut device, "late");
    device.event(Event::Definitions { services: many() });
    assert_eq!(device.state("late"), "gone");
}
