//! Images that are not written: whatever was prepared is taken back, and no target runs.

use std::fs;

use protocol::autorun::State;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use testkit::until;

use crate::device::{Device, is_invalid};

const SETTINGS: &str = r#"
unmount = ["/data"]
swapoff = ["/dev/vda5"]
guard = ["/dev/vda2"]
prepare-timeout = "300ms"
"#;

fn device(rest: &str) -> Device {
    let device = Device::new(&format!("{SETTINGS}{rest}"));
    device.script("logo", "true", "");
    device.target("player", "service = \"player\"\n");
    device.supervisor().runs.push("player");
    device
}

/// Hibernates, which fails, and leaves nothing behind. Why.
fn fails(device: &mut Device) -> String {
    device.start();
    let failure = device.hibernate().join().unwrap().unwrap_err();
    let status = device.status();
    assert_eq!(status.state, State::Cold);
    assert_eq!(status.reason.as_deref(), Some(&*failure.text));
    assert!(device.ran().is_empty());
    assert!(!device.at("run/autorun/plan").exists());
    assert!(!device.at("run/autorun/current").exists());
    assert!(is_invalid(&device.record()));
    failure.text
}

const BACK: [&str; 6] = [
    "unmount /data",
    "freeze /var",
    "swapoff /dev/vda5",
    "swapon /dev/vda5",
    "thaw /var",
    "mount /data",
];

#[test]
fn a_kernel_that_refuses_to_sleep_gets_everything_back() {
    let mut device = device("");
    let state = device.at("fake/sys/power/state.written");
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    let why = fails(&mut device);
    assert!(why.contains("write disk to /sys/power/state: Is a directory"), "{why}");
    assert_eq!(device.calls(), BACK);
    assert_eq!(device.supervisor().asked, ["stop player", "start player"]);
}

#[test]
fn what_would_fail_is_found_before_anything_is_stopped() {
    for (file, text, expected) in [
        ("sys/power/resume", "0:0\n", "no boot would find the image"),
        ("sys/power/state", "freeze mem\n", "and not disk"),
        ("sys/power/disk", "[disabled]\n", "hibernation is disabled"),
        ("sys/power/image_size", "999999999999\n", ""),
        ("proc/swaps", "Filename\n/dev/vda1 partition 1024 0 -2\n", "has 1 MiB free"),
        (
            "proc/swaps",
            "Filename\n/dev/vda7 partition 524284 0 -2\n",
            "no active swap is on /dev/vda1",
        ),
    ] {
        let mut device = device("");
        fs::write(device.at("fake").join(file), text).unwrap();
        if expected.is_empty() {
            device.start();
            let check: protocol::autorun::Check = device.call("check", json!({})).unwrap();
            assert_eq!(check.problems, Vec::<String>::new(), "only what is used must fit");
            continue;
        }
        let why = fails(&mut device);
        assert!(why.contains(expected), "{why}");
        assert!(device.calls().is_empty() && device.supervisor().asked.is_empty());
    }
}

#[test]
fn a_file_system_that_is_busy_is_told_with_who_holds_it() {
    let mut device = device("");
    fs::write(device.at("fake/fail/unmount"), "EBUSY").unwrap();
    let process = device.at("fake/proc/77");
    fs::create_dir(&process).unwrap();
    fs::write(process.join("comm"), "recorder\n").unwrap();
    std::os::unix::fs::symlink("/data/films", process.join("cwd")).unwrap();
    let why = fails(&mut device);
    assert!(why.contains("/data is busy: held by recorder (77)"), "{why}");
    assert_eq!(device.supervisor().asked, ["stop player", "start player"]);
}

#[test]
fn a_file_system_that_can_t_be_frozen_leaves_none_frozen() {
    let mut device = device("");
    fs::write(device.at("fake/fail/freeze"), "no such thing").unwrap();
    let why = fails(&mut device);
    assert!(why.contains("/var can't be frozen: no such thing"), "{why}");
    assert_eq!(device.calls(), ["unmount /data", "freeze /var", "mount /data"]);
}

#[test]
fn a_supervisor_that_can_t_freeze_is_told_apart_and_what_was_stopped_is_started() {
    let mut device = device("");
    device.target("screen", "service = \"screen\"\nbefore-image = \"freeze\"\n");
    device.supervisor().lacks = vec!["freeze", "thaw"];
    device.supervisor().runs.push("screen");
    let why = fails(&mut device);
    assert!(why.contains("this supervisor has no service.freeze"), "{why}");
    assert_eq!(device.supervisor().asked, ["stop player", "start player"]);
}

#[test]
fn nobody_who_must_be_asked_may_be_silent() {
    let mut device = device("wait-for = [\"recorder\"]\n");
    let why = fails(&mut device);
    assert!(why.contains("no answer within 300 ms from recorder"), "{why}");
    assert!(device.calls().is_empty());
}

#[test]
fn what_is_frozen_is_thawed_in_the_next_life() {
    let mut device = device("");
    device.target(
        "screen",
        "service = \"screen\"\nbefore-image = \"freeze\"\non-resume = \"none\"\n",
    );
    device
        .target("radio", "service = \"radio\"\nbefore-image = \"freeze\"\non-resume = \"none\"\n");
    // The radio does not run, so that there is nothing to freeze.
    device.supervisor().runs.push("screen");
    device.start();
    let slept = device.hibernate();
    device.until_off();
    device.resume();
    slept.join().unwrap().unwrap();
    device.ended();
    let asked = ["stop player", "freeze screen", "thaw screen", "start player"];
    assert_eq!(device.supervisor().asked, asked);
}

#[test]
fn an_engine_that_is_killed_while_armed_leaves_a_plan_that_the_next_one_takes_back() {
    let mut device = device("");
    device.start();
    let slept = device.hibernate();
    device.until_off();
    device.kill();
    drop(slept);
    device.start();
    let status = device.until_state(State::Cold);
    assert!(status.reason.unwrap().contains("killed while it was armed"));
    assert_eq!(device.calls(), BACK);
    assert!(is_invalid(&device.record()) && device.ran().is_empty());
}

#[test]
fn a_step_that_is_done_after_it_was_given_up_is_taken_back_then() {
    let mut device = device("step-timeout = \"200ms\"\n");
    let gate = device.at("fake/slow/unmount");
    mknodat(CWD, &gate, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let why = fails(&mut device);
    assert!(why.contains("unmount /data: it took longer than 200 ms"), "{why}");
    assert_eq!(device.calls(), ["unmount /data"]);
    fs::write(gate, "go\n").unwrap();
    until("it is mounted again", || {
        (device.calls() == ["unmount /data", "mount /data"]).then_some(())
    });
}

#[test]
fn a_journal_is_found_by_its_partitions_label() {
    let mut device = device("");
    let settings = format!("{SETTINGS}journal = \"/dev/disk/by-partlabel/autorun\"\n");
    fs::write(device.at("etc/autorun.toml"), settings).unwrap();
    device.start();
    let check: protocol::autorun::Check = device.call("check", json!({})).unwrap();
    assert!(check.problems[0].contains("No such file"), "{check:?}");
    let class = device.at("fake/sys/class/block/vda4");
    fs::create_dir_all(&class).unwrap();
    fs::write(class.join("uevent"), "MAJOR=254\nDEVNAME=vda4\nPARTNAME=autorun\n").unwrap();
    fs::write(device.at("fake/dev/vda4"), [0; 8192]).unwrap();
    let check: protocol::autorun::Check = device.call("check", json!({})).unwrap();
    assert_eq!(check.problems, Vec::<String>::new());
}

#[test]
fn who_is_asked_before_an_image_may_agree_or_refuse() {
    for (reason, text) in [(None, None), (Some("it records"), Some("recorder: it records"))] {
        let mut device = Device::new("wait-for = [\"recorder\"]\nprepare-timeout = \"60s\"\n");
        device.start();
        let slept = device.hibernate();
        device.until_state(State::Arming);
        let answer = json!({ "name": "recorder", "reason": reason });
        until("it is waited for", || {
            let _: serde_json::Value = device.call("prepared", &answer).unwrap();
            (device.status().state != State::Arming).then_some(())
        });
        match text {
            Some(text) => assert!(slept.join().unwrap().unwrap_err().text.contains(text)),
            None => {
                device.until_off();
                device.resume();
                assert_eq!(slept.join().unwrap().unwrap().ordinal, 1);
            }
        }
    }
}

#[test]
fn a_service_that_is_to_come_to_rest_answers_first_and_is_frozen_then() {
    let mut device = Device::new("prepare-timeout = \"60s\"\n");
    device.target("screen", "service = \"screen\"\nbefore-image = \"quiesce\"\n");
    device.supervisor().runs.push("screen");
    device.start();
    let slept = device.hibernate();
    device.until_state(State::Arming);
    assert!(device.supervisor().asked.is_empty());
    until("it is waited for", || {
        let _: serde_json::Value = device.call("prepared", json!({ "name": "screen" })).unwrap();
        (device.status().state != State::Arming).then_some(())
    });
    device.until_off();
    device.resume();
    slept.join().unwrap().unwrap();
    device.ended();
    assert_eq!(device.supervisor().asked, ["freeze screen", "thaw screen", "start screen"]);
}
