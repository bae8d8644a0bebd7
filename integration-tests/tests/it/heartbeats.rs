//! A C program that hangs is noticed, killed, started again and registered again, and whoever reports is left in peace: also
//! where every fifth datagram is lost, and whatever anybody else sends.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use protocol::heartbeat::State;
use rustix::process::Signal;
use serde_json::Value;
use testkit::{Device, alive, until};

use crate::{
    applications::{
        Events, MARKER, add, broker, count, device, example, reports, row, rows, until_reports,
    },
    c_interface::compile,
    relay::{Faults, Relay},
    support::{demo, kill, until_other_pid},
};

const QUICK: &str = "period = \"300ms\"\nmisses = 3\n";

fn seen(device: &Device, service: &str) -> Value {
    device.instance(service, "instance1")
}

/// Waits until the supervisor has ended it for want of heartbeats at least so often.
#[track_caller]
fn until_ended_for_it(device: &Device, service: &str, times: u64) -> Value {
    until(&format!("{service} is ended because it hangs"), || {
        let seen = seen(device, service);
        let why = seen["last_exit"].as_str().unwrap_or_default().contains("heartbeat");
        (why && seen["restarts"].as_u64() >= Some(times)).then_some(seen)
    })
}

#[test]
fn a_c_program_that_is_frozen_is_noticed_killed_started_again_and_registered_again() {
    let device = device();
    let mut events = Events::start(&device, &["heartbeat.*"]);
    add(&device, "camera", &reports(&example(&device), 7, None, QUICK));
    let before = until_reports(&device, 7, 5);
    let first = device.until_pid("camera");
    assert_eq!(before.pid, u32::try_from(first).ok());
    assert!(before.authenticated && before.period_ms == 300, "{before:?}");
    kill(first, Signal::STOP);
    let second = until_other_pid(&device, "camera", first);
    assert!(!alive(first));
    let after = until(&format!("{second} reports"), || {
        row(&device, 7).filter(|row| row.pid == u32::try_from(second).ok() && row.reports > 0)
    });
    assert!(after.generation > before.generation, "{before:?} {after:?}");
    let ended = until_ended_for_it(&device, "camera", 1);
    assert_eq!((&ended["restarts"], &ended["missed"]), (&1.into(), &1.into()), "{ended}");
    for (topic, generation) in [
        ("heartbeat.registered", before.generation),
        ("heartbeat.missed", before.generation),
        ("heartbeat.registered", after.generation),
    ] {
        let event = events.next();
        assert_eq!((&event["topic"], &event["data"]["app_id"]), (&topic.into(), &7.into()));
        assert_eq!(event["data"]["generation"], generation, "{event}");
    }
}

#[test]
fn with_every_fifth_datagram_lost_nobody_is_alarmed_and_who_is_frozen_is_noticed_all_the_same() {
    const APPLICATIONS: i32 = 8;
    const REPORTS: u64 = 150;
    let device = device();
    let relay = Relay::start(broker(&device));
    relay.set(Faults::FIFTH);
    let program = example(&device);
    let name = |app_id: i32| format!("camera{app_id}");
    for app_id in 1..=APPLICATIONS {
        // They report every 100 ms.
        let terms = "period = \"500ms\"\nmisses = 5\n";
        device.define(&name(app_id), &reports(&program, app_id, Some(relay.port), terms));
    }
    device.ctl_ok(&["service", "reread"]);
    for app_id in 1..=APPLICATIONS {
        until_reports(&device, app_id, REPORTS);
    }
    for app_id in 1..=APPLICATIONS {
        let seen = seen(&device, &name(app_id));
        assert_eq!((&seen["restarts"], &seen["generation"]), (&0.into(), &1.into()), "{seen}");
    }
    assert_eq!(count(&device, "machine/missed"), 0, "a false alarm");
    let record = relay.record();
    for to_broker in [true, false] {
        let way = record.iter().filter(|one| one.to_broker == to_broker);
        let (sent, lost) = (way.clone().count(), way.filter(|one| one.lost).count());
        assert!(lost * 6 > sent, "{lost} of {sent} were lost");
    }
    let first = device.until_pid(&name(1));
    kill(first, Signal::STOP);
    let second = until_other_pid(&device, &name(1), first);
    until("it reports again", || {
        row(&device, 1).filter(|row| row.pid == u32::try_from(second).ok() && row.reports > 0)
    });
    until_ended_for_it(&device, &name(1), 1);
    assert_eq!(count(&device, "machine/missed"), 1);
}

#[test]
fn a_line_that_is_cut_is_an_alarm() {
    let device = device();
    let relay = Relay::start(broker(&device));
    add(&device, "camera", &reports(&example(&device), 7, Some(relay.port), QUICK));
    until_reports(&device, 7, 3);
    relay.set(Faults::CUT);
    until_ended_for_it(&device, "camera", 1);
}

#[test]
fn where_only_an_event_is_wanted_a_hang_and_its_end_are_told_and_nothing_is_killed() {
    let device = device();
    let terms = format!("{QUICK}on-miss = \"event\"\n");
    add(&device, "camera", &reports(&example(&device), 7, None, &terms));
    until_reports(&device, 7, 3);
    let mut events = Events::start(&device, &["heartbeat.*"]);
    let pid = device.until_pid("camera");
    kill(pid, Signal::STOP);
    let missed = events.next();
    let what = (&missed["topic"], &missed["data"]["reason"]);
    assert_eq!(what, (&"heartbeat.missed".into(), &"silent".into()));
    until("the supervisor counts it", || (seen(&device, "camera")["missed"] == 1).then_some(()));
    kill(pid, Signal::CONT);
    assert_eq!(events.next()["topic"], "heartbeat.recovered");
    let seen = seen(&device, "camera");
    assert_eq!((&seen["pid"], &seen["restarts"]), (&pid.into(), &0.into()), "{seen}");
    assert_eq!(row(&device, 7).unwrap().state, State::Recovered);
}

/// A program that hangs in the way of this word.
fn hangs(device: &Device, app_id: i32, how: &str, heartbeat: &str) -> String {
    let program = compile("integration-tests/c/hangs.c", device.folder());
    format!(
        "command = [{program:?}, \"{app_id}\", {how:?}]\n[heartbeat]\napp-id = {app_id}\n{heartbeat}"
    )
}

#[test]
fn where_a_signal_is_wanted_it_is_the_one_of_a_core_dump() {
    let device = device();
    let mut exits = Events::start(&device, &["service.exit"]);
    let terms = format!("{QUICK}on-miss = \"signal\"\n");
    add(&device, "camera", &hangs(&device, 7, "silent", &terms));
    until_ended_for_it(&device, "camera", 1);
    let exit = exits.next();
    // 128 and SIGABRT.
    assert_eq!(
        (&exit["data"]["service"], &exit["data"]["exit_code"]),
        (&"camera".into(), &134.into())
    );
}

#[test]
fn who_reports_without_progress_and_who_never_registers_are_restarted_too() {
    let device = device();
    let mut events = Events::start(&device, &["heartbeat.missed"]);
    let still = hangs(&device, 7, "still", "period = \"300ms\"\nprogress = \"500ms\"\n");
    add(&device, "still", &still);
    let about = |event: Value| (event["data"]["service"].clone(), event["data"]["reason"].clone());
    assert_eq!(about(events.next()), ("still".into(), "no-progress".into()));
    until_ended_for_it(&device, "still", 1);
    device.ctl_ok(&["service", "stop", "still"]);
    let mut events = Events::start(&device, &["heartbeat.missed"]);
    let mute = demo(&[]) + "[heartbeat]\napp-id = 8\nperiod = \"300ms\"\ngrace = \"500ms\"\n";
    add(&device, "mute", &mute);
    assert_eq!(about(events.next()), ("mute".into(), "never-registered".into()));
    until_ended_for_it(&device, "mute", 1);
}

#[test]
fn who_is_stopped_on_purpose_is_not_missed_however_long_that_takes() {
    let device = device();
    // Told to end it reports no more, and is killed long after its deadline.
    let deaf = "stop-timeout = \"3s\"\n".to_owned() + &hangs(&device, 7, "deaf", QUICK);
    add(&device, "camera", &deaf);
    until_reports(&device, 7, 3);
    let mut events = Events::start(&device, &["heartbeat.missed", "service.missed", MARKER]);
    let pid = device.until_pid("camera");
    device.ctl_ok(&["service", "stop", "camera"]);
    assert!(!alive(pid));
    until("it is forgotten", || rows(&device).is_empty().then_some(()));
    events.assert_none(&device);
    device.ctl_ok(&["service", "start", "camera"]);
    until_reports(&device, 7, 3);
    assert_eq!(count(&device, "machine/missed"), 0);
}

#[test]
fn a_hang_that_asks_for_a_reboot_ends_a_keeper_that_is_not_pid_one_with_one() {
    let mut device = device();
    let terms = format!("{QUICK}on-miss = \"reboot\"\n");
    add(&device, "vital", &hangs(&device, 7, "silent", &terms));
    assert_eq!(device.wait().code(), Some(1), "{}", device.console());
}

#[test]
fn a_critical_service_that_hangs_again_and_again_reboots_the_device() {
    let mut device = device();
    let critical = "critical = { restarts = 1, window = \"1m\", action = \"reboot\" }\n";
    add(&device, "vital", &(critical.to_owned() + &hangs(&device, 7, "silent", QUICK)));
    assert_eq!(device.wait().code(), Some(1), "{}", device.console());
}

#[test]
fn watchdogs_and_heartbeats_stand_in_one_list_and_in_the_status() {
    let device = device();
    add(&device, "camera", &reports(&example(&device), 7, None, QUICK));
    let steps = ["notify=READY=1", "pet=50"];
    add(&device, "dog", &(demo(&steps) + "watchdog = \"30s\"\nreadiness = { notify = true }\n"));
    until_reports(&device, 7, 3);
    device.until_state("dog", "ready");
    let listed = device.json(&["heartbeat", "list"]);
    let row = |service: &str| {
        let all = listed.as_array().unwrap();
        all.iter().find(|row| row["service"] == service).unwrap_or_else(|| panic!("{listed}"))
    };
    let (camera, dog) = (row("camera"), row("dog"));
    assert_eq!((&camera["sign"], &camera["state"]), (&"heartbeat".into(), &"alive".into()));
    assert_eq!((&dog["sign"], &dog["state"]), (&"watchdog".into(), &"alive".into()), "{dog}");
    assert_eq!((&camera["period_ms"], &dog["period_ms"]), (&300.into(), &30_000.into()));
    assert_eq!(dog["pid"], device.until_pid("dog"));
    assert!(camera["round_trip_us"].is_u64() && camera["jitter_us"].is_u64(), "{camera}");
    let shown = device.ctl_ok(&["heartbeat", "list"]);
    assert!(shown.contains("camera") && shown.contains("dog"), "{shown}");
    let shown = device.ctl_ok(&["status"]);
    assert!(shown.contains("alive"), "{shown}");
}

/// All regular files below a folder, but for those that `skip` names.
fn files(folder: &Path, skip: &dyn Fn(&Path) -> bool, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if skip(&path) {
            continue;
        }
        if kind.is_dir() {
            files(&path, skip, found);
        } else if kind.is_file() {
            found.push((path.display().to_string(), fs::read(path).unwrap_or_default()));
        }
    }
}

#[test]
fn a_key_is_nowhere_but_in_its_pipe_and_in_the_supervisors_journal() {
    let mut device = Device::with_core();
    device.keeper_args(&["--log-level", "trace"]);
    device.start();
    device.ctl_ok(&["wait-for", "service", "heartbeat", "log"]);
    let mut events = Events::start(&device, &["*"]);
    // It keeps what it was handed where only this test looks.
    let taken = tempfile::tempdir().unwrap();
    let block = taken.path().join("key");
    let script = format!("head -c 44 <&$GMI_KEY_FD > {block:?}; exec sleep 1000");
    let definition = |app_id| {
        format!(
            "command = [\"sh\", \"-c\", {script:?}]\n[heartbeat]\napp-id = {app_id}\nperiod = \"1s\"\n"
        )
    };
    add(&device, "thief", &definition(7));
    let take = |old: &[u8]| {
        until("the key was handed over", || {
            fs::read(&block).ok().filter(|octets| octets.len() == 44 && octets != old)
        })
    };
    let first = take(&[]);
    kill(device.until_pid("thief"), Signal::KILL);
    let second = take(&first);
    until("the broker expects it", || row(&device, 7));
    let mut texts = Vec::new();
    let journal = device.run_dir().join("supervisor");
    files(device.folder(), &|path| path.starts_with(&journal), &mut texts);
    assert!(texts.len() > 10, "the device's folder is not empty");
    for process in testkit::processes_of(&device.run_dir()) {
        for name in ["environ", "cmdline"] {
            let path = format!("/proc/{}/{name}", process.pid);
            texts.push((path.clone(), fs::read(path).unwrap_or_default()));
        }
    }
    for args in [
        &["status"][..],
        &["--json", "status"],
        &["--json", "service", "list"],
        &["--json", "heartbeat", "list"],
        &["call", "heartbeat", "list"],
        &["call", "heartbeat", "status"],
        &["log"],
    ] {
        texts.push((format!("{args:?}"), device.ctl(args).stdout.into_bytes()));
    }
    device.ctl_ok(&["publish", MARKER, "{}"]);
    let mut last = false;
    while !last {
        let event = events.next();
        last = event["topic"] == MARKER;
        texts.push(("an event".to_owned(), event.to_string().into_bytes()));
    }
    for block in [first, second] {
        let key = &block[28..];
        let hex: String = key.iter().map(|octet| format!("{octet:02x}")).collect();
        // As octets, as text of either case, as Rust and JSON print octets.
        let decimal = format!("{key:?}");
        let inner = decimal.trim_matches(['[', ']']);
        let needles = [
            key.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            inner.replace(' ', "").into_bytes(),
            inner.to_owned().into_bytes(),
        ];
        for (place, text) in &texts {
            for needle in &needles {
                let found = text.windows(needle.len()).any(|part| part == needle);
                assert!(!found, "a key is in {place}");
            }
        }
    }
    // What the supervisor keeps for its successor is its own.
    let mut kept = Vec::new();
    files(&journal, &|_| false, &mut kept);
    for (path, _) in &kept {
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path} has mode {mode:o}");
    }
}
