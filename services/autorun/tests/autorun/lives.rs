//! One image, many lives.

use std::{collections::BTreeSet, fs, os::unix::fs::FileTypeExt as _};

use protocol::autorun::{Check, State, Status, Target};
use serde_json::json;
use testkit::until;
use vestal_autorun::journal::Stage;

use crate::device::{Device, is_invalid};

const SETTINGS: &str = r#"
unmount = ["/data"]
swapoff = ["/dev/vda5"]
guard = ["/dev/vda2"]
"#;

#[test]
fn an_engine_that_starts_cold_runs_nothing_and_says_who_would_write_an_image() {
    let mut device = Device::new(SETTINGS);
    device.script("logo", "true", "");
    device.start();
    let status = device.status();
    assert_eq!((status.state, status.ordinal, &*status.back_end), (State::Cold, None, "auto"));
    let socket = fs::metadata(device.at("run/autorun.sock")).unwrap();
    assert!(socket.file_type().is_socket());
    let check: Check = device.call("check", json!({})).unwrap();
    assert_eq!(check.problems, Vec::<String>::new());
    assert!(
        check.notes[0].starts_with("back end sysfs: /sys/power/state offers disk"),
        "{check:?}"
    );
    assert!(device.ran().is_empty() && device.calls().is_empty());
}

#[test]
fn each_life_of_an_image_runs_every_target_once_and_in_order() {
    let mut device = Device::new(SETTINGS);
    device.script("logo", "true", "phase = \"early\"\n");
    device.script("board", "true", "phase = \"ui\"\nafter = [\"net\"]\n");
    device.script("net", "true", "phase = \"ui\"\n");
    device.target("player", "service = \"player\"\non-resume = \"restart\"\n");
    device.supervisor().runs.push("player");
    let blank = device.journal();
    let mut last = blank.clone();
    let mut image = None;
    let (mut runs, mut seeds) = (BTreeSet::new(), BTreeSet::new());
    for life in 1..=3_u64 {
        // What is in memory when the image is taken is the same each time; what is on the device is not.
        device.set_journal(&blank);
        device.start();
        let slept = device.hibernate();
        device.until_off();
        let armed = device.record();
        assert_eq!((armed.stage, armed.ordinal), (Stage::Armed, 0));
        assert_eq!(*image.get_or_insert(armed.image), armed.image);
        if life > 1 {
            device.set_journal(&last);
        }
        device.resume();
        let slept = slept.join().unwrap().unwrap();
        assert_eq!(slept.ordinal, life);
        assert_eq!(device.ended().code(), Some(0));
        assert!(device.is_quiet());
        let record = device.record();
        assert_eq!((record.stage, record.ordinal, record.image), (Stage::Done, life, armed.image));
        assert!(runs.insert(slept.run) && seeds.insert(record.seed));
        last = device.journal();
        device.reset();
    }
    let once = ["logo", "net", "board"];
    assert_eq!(device.ran(), [once, once, once].concat());
    let asked = ["stop player", "restart player"];
    assert_eq!(device.supervisor().asked, [asked, asked, asked].concat());
    let before = ["unmount /data", "freeze /var", "swapoff /dev/vda5"];
    let after = ["clock 1700000000", "swapon /dev/vda5", "thaw /var", "mount /data"];
    let life = |ordinal: u32| {
        let reseed = format!("reseed {ordinal}");
        let words = before.into_iter().map(str::to_owned).chain([reseed]);
        words.chain(after.map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(device.calls(), [life(1), life(2), life(3)].concat());
}

#[test]
fn an_engine_that_stays_says_what_ran() {
    let mut device = Device::new("linger = \"stay\"\nfreeze-mounted = false\n");
    device.script("logo", "true", "");
    device.script("broken", "exit 3", "");
    device.start();
    let slept = device.hibernate();
    device.until_off();
    device.resume();
    slept.join().unwrap().unwrap();
    let status = device.until_state(State::Done);
    let rows: Vec<_> = status.targets.iter().map(|row| (&*row.name, row.state)).collect();
    assert_eq!(rows, [("broken", Target::Failed), ("logo", Target::Done)]);
    assert_eq!(status.targets[0].text.as_deref(), Some("exit status 3"));
    assert!(!device.at("run/autorun/plan").exists());
    assert!(device.at("run/autorun/current").exists());
    let first = device.record().image;
    until("its last record is written", || device.call::<Status>("arm", json!({})).ok());
    let slept = device.hibernate();
    device.until_off();
    assert!(!device.at("run/autorun/current").exists(), "the image would bring back an old life");
    device.resume();
    assert_eq!(slept.join().unwrap().unwrap().ordinal, 1);
    assert_ne!(device.record().image, first);
}

#[test]
fn a_disk_that_was_changed_after_the_image_means_a_cold_reboot_before_anything_is_written() {
    let mut device = Device::new(SETTINGS);
    device.script("logo", "true", "");
    device.start();
    let slept = device.hibernate();
    device.until_off();
    fs::write(device.at("fake/dev/vda2"), [8; 8192]).unwrap();
    device.resume();
    let failure = slept.join().unwrap().unwrap_err();
    assert!(failure.text.contains("/dev/vda2 was changed"), "{failure}");
    until("it reboots", || device.calls().contains(&"reboot".to_owned()).then_some(()));
    assert!(device.ran().is_empty());
    let written = ["thaw", "mount", "swapon"];
    assert!(!device.calls().iter().any(|call| written.iter().any(|it| call.starts_with(it))));
    assert!(is_invalid(&device.record()));
}

#[test]
fn an_image_that_was_invalidated_is_not_resumed() {
    let mut device = Device::new("");
    device.script("logo", "true", "");
    device.start();
    let slept = device.hibernate();
    device.until_off();
    let image = device.journal();
    device.resume();
    slept.join().unwrap().unwrap();
    device.ended();
    assert_eq!(device.ran(), ["logo"]);
    // A cold boot, on which an update asks for it; then somebody resumes the old image all the same.
    device.reset();
    device.start();
    let done: Result<serde_json::Value, _> =
        device.call("invalidate", json!({ "reason": "an update" }));
    done.unwrap();
    device.kill();
    let invalid = device.journal();
    assert!(is_invalid(&device.record()));
    device.reset();
    device.set_journal(&image);
    device.start();
    let slept = device.hibernate();
    device.until_off();
    device.set_journal(&invalid);
    device.resume();
    let failure = slept.join().unwrap().unwrap_err();
    assert!(failure.text.contains("not to be resumed"), "{failure}");
    until("it reboots", || device.calls().contains(&"reboot".to_owned()).then_some(()));
    assert_eq!(device.ran(), ["logo"]);
}

#[test]
fn without_an_engine_its_program_invalidates_the_image_and_beside_one_it_does_not() {
    let mut device = Device::new("linger = \"stay\"\n");
    device.start();
    let slept = device.hibernate();
    device.until_off();
    device.resume();
    slept.join().unwrap().unwrap();
    device.until_state(State::Done);
    let invalidate = |device: &Device| {
        let output = device.command().args(["--invalidate", "an update"]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, told) = invalidate(&device);
    assert!(!done && told.contains("another vestal-autorun"), "{told}");
    assert!(!is_invalid(&device.record()));
    device.kill();
    let (done, told) = invalidate(&device);
    assert!(done && is_invalid(&device.record()), "{told}");
    // An engine that goes on in this life doesn't bring it back.
    device.start();
    device.until_state(State::Done);
    let done: Result<serde_json::Value, _> =
        device.call("invalidate", json!({ "reason": "another update" }));
    done.unwrap();
    assert!(is_invalid(&device.record()));
}

#[test]
fn after_a_suspend_only_targets_of_every_wake_up_run() {
    let mut device = Device::new("linger = \"stay\"\nfreeze-mounted = false\n");
    device.script("logo", "true", "");
    device.script("lease", "true", "idempotent = true\non-any-wake = true\n");
    device.start();
    let _: Status = device.call("notify_post", json!({ "kind": "suspend" })).unwrap();
    until("the lease is renewed", || (device.ran() == ["lease"]).then_some(()));
    assert_eq!(device.status().state, State::Cold);
}

#[test]
fn a_vendors_program_may_write_the_image_and_its_failure_is_told() {
    for (exec, works) in [("/bin/true", true), ("/bin/false", false)] {
        let mut device =
            Device::new(&format!("back-end = \"exec\"\nexec = [{exec:?}]\nlinger = \"stay\"\n"));
        device.script("logo", "true", "");
        device.start();
        let slept = device.hibernate().join().unwrap();
        if works {
            assert_eq!(slept.unwrap().ordinal, 1);
            device.until_state(State::Done);
            assert_eq!(device.ran(), ["logo"]);
        } else {
            assert!(slept.unwrap_err().text.contains("ended with 1"));
            assert_eq!(device.status().state, State::Cold);
            assert!(device.ran().is_empty() && is_invalid(&device.record()));
        }
    }
}

#[test]
fn what_another_boot_left_in_a_run_directory_that_outlives_it_runs_nothing() {
    let mut device = Device::new("freeze-mounted = false\n");
    device.script("logo", "kill -9 $PPID; sleep 1000", "idempotent = true\n");
    device.start();
    let slept = device.hibernate();
    device.until_off();
    device.resume();
    device.until_killed();
    drop(slept);
    assert!(device.at("run/autorun/current").exists());
    fs::write(device.at("fake/proc/sys/kernel/random/boot_id"), "second\n").unwrap();
    device.start();
    assert_eq!(device.status().state, State::Cold);
    assert_eq!(device.ran(), ["logo"]);
}

#[test]
fn thirty_targets_keep_their_levels_whatever_some_of_them_do() {
    let mut device = Device::new("linger = \"stay\"\nfreeze-mounted = false\nparallel = 8\n");
    let phases = ["early", "ui", "late"];
    for (level, phase) in phases.iter().enumerate() {
        for at in 0..10 {
            let script = match (level, at) {
                (_, 3) => "kill -9 $$",
                (_, 7) => "exec sleep 1000",
                _ => "true",
            };
            let rest = format!("phase = {phase:?}\nlimit = {{ hard = \"300ms\" }}\n");
            device.script(&format!("{phase}{at}"), script, &rest);
        }
    }
    device.start();
    let slept = device.hibernate();
    device.until_off();
    device.resume();
    slept.join().unwrap().unwrap();
    let status = device.until_state(State::Done);
    for row in &status.targets {
        let expected = match row.name.chars().last() {
            Some('3') => Target::Failed,
            Some('7') => Target::TimedOut,
            _ => Target::Done,
        };
        assert_eq!(row.state, expected, "{row:?}");
    }
    let ran = device.ran();
    assert_eq!(ran.iter().collect::<BTreeSet<_>>().len(), 30);
    let levels = ran.iter().map(|name| phases.iter().position(|phase| name.starts_with(phase)));
    assert!(levels.is_sorted() && ran.len() == 30, "{ran:?}");
}

#[test]
fn a_suspend_stops_nothing_and_counts_nothing() {
    let mut device = Device::new("linger = \"stay\"\nunmount = [\"/data\"]\n");
    device.script("logo", "true", "");
    device.script("lease", "true", "idempotent = true\non-any-wake = true\n");
    // No image is to be written, so nothing has to have room for one.
    fs::write(device.at("fake/sys/power/resume"), "0:0\n").unwrap();
    device.start();
    let slept = device.sleep("suspend");
    let said = fs::read_to_string(device.at("fake/sys/power/state.written")).unwrap();
    assert_eq!(said, "mem");
    assert_eq!(slept.join().unwrap().unwrap().ordinal, 0);
    until("the lease is renewed", || (device.ran() == ["lease"]).then_some(()));
    assert_eq!(device.calls(), ["reseed 0"]);
    assert_eq!(device.record().sequence, 0);
}
