//! Processes that SIGKILL does not end.

use protocol::{failure::Code, keeper::Exit};

use super::*;

/// A device whose `web` hangs in the kernel.
fn frozen() -> Device {
    let mut device =
        Device::with([plain("web"), with("after", |service| service.after = vec![name("web")])]);
    freeze(&mut device, true);
    device.done();
    device
}

fn freeze(device: &mut Device, frozen: bool) {
    let slot = device.slot("web");
    device.keeper.slots.get_mut(&slot).unwrap().frozen = frozen;
}

fn thaw(device: &mut Device) {
    freeze(device, false);
    device.end("web", Exit::Signal { signal: 9, core: false });
}

#[test]
fn a_stop_that_does_not_end_is_said_once_and_ends_the_waiting() {
    let mut device = frozen();
    let stop = device.stop("web", true);
    device.advance(14 * SECOND);
    assert_eq!((device.state("web"), device.answer(stop)), ("stopping", None));
    device.advance(2 * SECOND);
    assert_eq!((device.state("web"), device.answer(stop)), ("unkillable", Some(Err(Code::Failed))));
    assert!(!device.machine.view(Some(&name("web")))[0].detail.is_empty());
    let again = device.stop("web", true);
    assert_eq!(device.answer(again), Some(Err(Code::Failed)));
    device.advance(3600 * SECOND);
    assert_eq!(device.heard("service.unkillable"), 1);
    assert_eq!(device.done(), ["signal web 15", "signal web 9 tree"]);
    thaw(&mut device);
    assert_eq!(device.state("web"), "stopped");
}

#[test]
fn a_restart_happens_when_the_old_process_ends_at_last() {
    let mut device = frozen();
    let restart = Request::Restart { name: name("web"), instance: None, wait: true };
    let id = device.request(restart);
    device.advance(20 * SECOND);
    assert_eq!((device.state("web"), device.answer(id)), ("unkillable", Some(Err(Code::Failed))));
    device.request(Request::Restart { name: name("after"), instance: None, wait: false });
    device.calm();
    assert_eq!(device.state("after"), "ready", "nobody waits for it");
    assert!(!device.spawned().contains(&"spawn web".to_owned()), "no second copy");
    thaw(&mut device);
    assert_eq!((device.state("web"), device.spawned()), ("ready", vec!["spawn web".to_owned()]));
    device.stop("web", false);
    assert_eq!(device.state("web"), "stopped");
}

#[test]
fn a_supervisor_that_comes_later_finds_it_out_again() {
    let mut device = frozen();
    device.stop("web", false);
    device.advance(20 * SECOND);
    device.take_over();
    device.calm();
    device.advance(20 * SECOND);
    assert_eq!(device.state("web"), "unkillable");
    thaw(&mut device);
    assert_eq!(device.state("web"), "stopped");
}

#[test]
fn a_shutdown_does_not_wait_for_it() {
    let mut device = frozen();
    device.event(shutdown(ShutdownKind::Exit));
    device.calm();
    device.advance(16 * SECOND);
    assert!(device.left.is_some());
}
