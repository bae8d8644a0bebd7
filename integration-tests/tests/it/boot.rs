//! How a device booted, and why: `system boot`, and what the boot before left behind.

use rustix::process::Signal;
use serde_json::Value;
use testkit::{Device, until};

use crate::{
    pid_one::{start_as_pid_one, until_end},
    support::{demo, is_root, kill},
};

const READY_BY_NOTIFY: &str = "[readiness]\nnotify = true\n";

fn blame(device: &Device) -> Value {
    device.json(&["boot", "blame"])
}

fn until_all_ready(device: &Device) -> Value {
    until("everything is ready", || {
        let boot = blame(device);
        boot["all_ready_ms"].is_u64().then_some(boot)
    })
}

#[test]
fn boot_blame_has_every_service_and_survives_the_supervisor() {
    let mut device = Device::new();
    device.define("web", &(demo(&["notify=READY=1"]) + READY_BY_NOTIFY));
    device.define("once", "command = [\"true\"]\noneshot = true\n");
    device.define("top", &format!("{}requires = [\"web\"]\n", demo(&[])));
    device.define("later", &format!("{}autostart = false\n", demo(&[])));
    device.start();
    let boot = until_all_ready(&device);
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{boot}"));
    let services = boot["services"].as_array().unwrap();
    let mut names: Vec<&str> = services.iter().map(|one| one["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["once", "top", "web"]);
    for one in services {
        let (spawned, ready) = (number(&one["spawned_ms"]), number(&one["ready_ms"]));
        assert!(number(&boot["supervisor_ms"]) <= spawned && spawned <= ready, "{boot}");
        assert_eq!(number(&one["took_ms"]), ready - spawned);
        assert!(ready <= number(&boot["all_ready_ms"]), "{boot}");
    }
    // Times count from the keeper's start, and nobody asks why a device that is not ours was booted.
    assert_eq!(boot["keeper_ms"], 0);
    assert_eq!((&boot["kernel_ms"], &boot["reset"]), (&Value::Null, &Value::Null));

    let supervisor = device.supervisor_pid();
    kill(supervisor, Signal::KILL);
    until("another supervisor", || (device.supervisor_pid() != supervisor).then_some(()));
    device.until_state("web", "ready");
    device.ctl_ok(&["service", "start", "later"]);
    device.ctl_ok(&["service", "restart", "web"]);
    assert_eq!(blame(&device), boot);
    let chain = device.json(&["boot", "chain"]);
    let chain: Vec<_> = chain["chain"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert!(chain == ["web", "top"] || chain == ["once"], "{chain:?}");

    // Another keeper in the same folder, with nothing running, is another boot.
    device.stop();
    device.start();
    let next = until_all_ready(&device);
    assert_eq!(next["keeper_ms"], 0);
    assert_ne!(next["services"], boot["services"]);
    for one in next["services"].as_array().unwrap() {
        assert!(next["supervisor_ms"].as_u64() <= one["spawned_ms"].as_u64(), "{next}");
    }
    device.stop();
}

#[test]
fn a_service_that_is_never_ready_is_named() {
    let mut device = Device::new();
    device.define("hung", &(demo(&[]) + READY_BY_NOTIFY));
    device.start();
    device.until_state("hung", "starting");
    let boot = blame(&device);
    assert_eq!((&boot["all_ready_ms"], &boot["waits_for"][0]), (&Value::Null, &"hung".into()));
    assert!(device.ctl_ok(&["boot", "blame"]).contains("not ready yet: hung"));
    device.stop();
}

/// Boots the device as PID 1, looks why, and lets `end` end it.
fn boots(device: &mut Device, boot_id: &str, end: impl FnOnce(&Device, i32)) -> (String, String) {
    let file = device.folder().join("boot_id");
    std::fs::write(&file, boot_id).unwrap();
    device.set_env("VESTAL_BOOT_ID", file.to_str().unwrap());
    let mut namespace = start_as_pid_one(device);
    let boot = until_all_ready(device);
    let text = |key: &str| boot["reset"][key].as_str().unwrap_or_default().to_owned();
    end(device, i32::try_from(namespace.id()).unwrap());
    until_end(&mut namespace);
    (text("cause"), text("detail"))
}

#[test]
fn the_next_boot_knows_who_ended_the_one_before_and_why() {
    if !is_root("a keeper as PID 1") {
        return;
    }
    let mut device = Device::new();
    device.define("web", &demo(&[]));
    let reboot = |device: &Device, _| {
        device.ctl_ok(&["system", "reboot", "--reason", "new firmware"]);
    };
    let (cause, _) = boots(&mut device, "one", reboot);
    assert_eq!(cause, "first");
    let (cause, detail) = boots(&mut device, "two", |device, unshare| {
        until("the boot is noted", || {
            let noted = std::fs::read_to_string(device.run_dir().join("state/supervisor/boot"));
            noted.is_ok_and(|text| text.contains("running")).then_some(())
        });
        kill(unshare, Signal::KILL);
    });
    assert_eq!(cause, "ordered");
    assert!(detail.starts_with("reboot: new firmware (user 0, "), "{detail}");
    let critical = "critical = { restarts = 1, window = \"60s\", action = \"reboot\" }\n";
    let (cause, _) = boots(&mut device, "three", |device, _| {
        device.define("frail", &format!("{}{critical}", demo(&[])));
        device.ctl_ok(&["service", "reread"]);
        // Pids are the namespace's own: only the device may signal them.
        let first = device.until_pid("frail");
        device.ctl_ok(&["service", "signal", "frail", "KILL"]);
        until("it is restarted", || Some(device.until_pid("frail")).filter(|pid| *pid != first));
        device.ctl_ok(&["service", "signal", "frail", "KILL"]);
    });
    assert_eq!(cause, "power");
    let (cause, detail) = boots(&mut device, "four", reboot);
    assert_eq!(cause, "critical");
    assert!(detail.contains("service frail crashed"), "{detail}");
}
