//! Services that run only while somebody uses what they serve.

use protocol::failure::Code;

use super::*;
use crate::settings::OnDemand;

fn camera(change: impl FnOnce(&mut Service)) -> Arc<Service> {
    with("camera", |service| {
        let (objects, idle_timeout) = (vec!["camera".to_owned()], Some(30 * SECOND));
        service.on_demand = Some(OnDemand { objects, idle_timeout });
        service.autostart = false;
        change(service);
    })
}

fn ask(device: &mut Device, request: Request) -> Option<Result<(), Code>> {
    let id = device.request(request);
    device.calm();
    device.answer(id)
}

fn activate(device: &mut Device) -> Option<Result<(), Code>> {
    ask(device, Request::Activate { name: name("camera") })
}

fn release(device: &mut Device) {
    assert_eq!(ask(device, Request::Release { name: name("camera") }), Some(Ok(())));
}

#[test]
fn it_is_started_when_somebody_looks_for_its_object_and_stopped_when_it_is_released() {
    let mut device = Device::with([camera(|_| {})]);
    assert_eq!((device.state("camera"), device.done()), ("on demand", vec![]));
    assert!(device.machine.activated_by("microphone").is_none());
    assert_eq!(device.machine.activated_by("camera").unwrap().name, name("camera"));
    for _ in 0..2 {
        assert_eq!(activate(&mut device), Some(Ok(())));
        assert_eq!(activate(&mut device), Some(Ok(())));
        assert_eq!(device.spawned(), ["spawn camera"]);
        release(&mut device);
        assert_eq!(device.done(), ["signal camera 15", "release camera"]);
        assert_eq!(device.state("camera"), "on demand");
    }
}

#[test]
fn what_it_requires_comes_with_it() {
    let base = with("base", |service| service.autostart = false);
    let mut device = Device::with([base, camera(|s| s.requires = vec![name("base")])]);
    activate(&mut device);
    assert_eq!(device.spawned(), ["spawn base", "spawn camera"]);
}

#[test]
fn what_a_person_started_or_others_require_is_not_released() {
    let mut device = Device::with([camera(|_| {})]);
    activate(&mut device);
    device.start("camera", false);
    release(&mut device);
    assert_eq!(device.state("camera"), "ready");

    let app = with("app", |service| service.requires = vec![name("camera")]);
    let mut device = Device::with([camera(|_| {}), app]);
    assert_eq!(device.state("app"), "ready");
    release(&mut device);
    assert_eq!(device.state("camera"), "ready");
}

#[test]
fn the_next_supervisor_knows_what_was_started_on_demand() {
    let mut device = Device::with([camera(|_| {})]);
    activate(&mut device);
    device.take_over();
    device.calm();
    assert_eq!(device.state("camera"), "ready");
    release(&mut device);
    assert_eq!(device.state("camera"), "on demand");
    device.take_over();
    device.calm();
    assert_eq!(device.state("camera"), "on demand");
}

#[test]
fn one_that_was_given_up_is_not_started_by_everybody_who_looks() {
    let mut device = Device::with([camera(|service| {
        main(service).policy.respawn =
            Respawn::Backoff { when: RespawnWhen::OnFailure, max_restarts: Some(0) };
    })]);
    activate(&mut device);
    device.crash("camera");
    assert_eq!(device.state("camera"), "held");
    device.done();
    assert_eq!(activate(&mut device), Some(Err(Code::Failed)));
    assert_eq!(device.done(), [""; 0]);
}
