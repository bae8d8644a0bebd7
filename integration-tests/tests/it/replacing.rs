//! Live replacement: the program on disk takes a running one's place, and callers see no more than a pause.

use testkit::{Device, until};

use crate::{bus::suite, load::Load, support::lines};

fn replace(device: &Device, name: &str) -> i32 {
    let old = device.until_pid(name);
    device.ctl_ok(&["service", "replace", name]);
    let new = device.until_pid(name);
    assert_ne!(new, old, "{name}");
    until("the old process is gone", || (!testkit::alive(old)).then_some(()));
    new
}

#[test]
fn a_service_is_replaced_under_ten_thousand_calls_a_second_and_no_call_fails() {
    let device = suite(&["camera"]);
    let load = Load::start(&device.run_dir(), "camera");
    load.until_more(2_000);
    for _ in 0..3 {
        replace(&device, "camera");
        load.until_more(2_000);
    }
    let outcome = load.finish();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert!(outcome.done > 8_000, "{outcome:?}");
    let restarts = &device.instance("camera", "instance1")["restarts"];
    assert!(restarts.is_null() || restarts == 0, "a replacement is no crash: {restarts}");
}

#[test]
fn every_daemon_of_the_suite_is_replaced_and_goes_on_where_the_other_left_off() {
    let device = suite(&["camera"]);
    let load = Load::start(&device.run_dir(), "camera");
    load.until_more(1_000);
    for name in ["registry", "log"] {
        replace(&device, name);
        load.until_more(1_000);
    }
    for what in ["supervisor", "keeper"] {
        device.ctl_ok(&[what, "reexec"]);
        load.until_more(1_000);
    }
    device.ctl_ok(&["wait-for", "service", "system", "registry", "log", "camera"]);
    let outcome = load.finish();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
}

#[test]
fn a_program_that_does_not_become_ready_leaves_the_old_one_alone() {
    let mut device = Device::with_core();
    let switch = device.folder().join("broken");
    let seen = device.folder().join("seen");
    let script = format!(
        "echo $$ >> {}; [ -e {} ] && exit 7; exec {:?} door",
        seen.display(),
        switch.display(),
        testkit::binary("vestal-demo-object"),
    );
    device.define(
        "door",
        &format!(
            "command = [\"sh\", \"-c\", {script:?}]\nreadiness = {{ notify = true }}\n\
             [[sockets]]\nname = \"control\"\nlisten = \"run:door.sock\"\nmode = \"0666\"\n"
        ),
    );
    device.start();
    device.ctl_ok(&["wait-for", "door"]);
    let pid = device.until_pid("door");
    std::fs::write(&switch, "").unwrap();
    let refused = device.ctl(&["service", "replace", "door"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("exit") && refused.stderr.contains('7'), "{refused:?}");
    assert_eq!(lines(&seen).len(), 2, "the new program was tried once");
    assert_eq!(device.until_pid("door"), pid);
    device.ctl_ok(&["call", "door", "pid"]);
}
