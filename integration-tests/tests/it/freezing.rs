//! Services that are kept from running and let go again, by cgroup where the device has one, else by signals; and what a resume
//! of the machine does to those who watch.

use std::{fs, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use testkit::{Device, until, within};

use crate::{
    applications::{add, count, device as with_broker, example, reports, row, until_reports},
    bus::suite,
    support::{demo, device_with, kill, ordinary_device_with, replace_supervisor, until_other_pid},
};

/// Three of its periods: who were not frozen would be missed.
const LONG_SILENCE: Duration = Duration::from_secs(2);

/// Ready, with a child, and alive every 100 ms.
fn watched() -> String {
    demo(&["child", "notify=READY=1", "pet=100"])
        + "readiness = { notify = true }\nwatchdog = \"600ms\"\nstop-timeout = \"60s\"\n"
}

fn freeze(device: &Device) -> Value {
    device.json(&["service", "freeze", "web"])
}

fn seen(device: &Device) -> Value {
    device.instance("web", "instance1")
}

/// State letters of its processes.
fn states(device: &Device) -> Vec<char> {
    device.processes("web").iter().map(|process| process.state).collect()
}

/// What its cgroup says of it; nothing without one.
fn frozen_group(pid: i32) -> Option<bool> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let events = fs::read_to_string(format!("{mount}/{group}/cgroup.events")).ok()?;
    group.contains("/web/").then(|| events.contains("frozen 1"))
}

/// Nothing of it runs, by the kernel's word.
#[track_caller]
fn is_frozen(device: &Device, means: &Value) {
    let pid = i32::try_from(seen(device)["pid"].as_i64().unwrap()).unwrap();
    match means.as_str().unwrap() {
        "cgroup" => assert_eq!(frozen_group(pid), Some(true)),
        "signals" => assert_eq!(states(device), ['T', 'T']),
        other => panic!("{other}"),
    }
}

fn frozen_and_thawed(device: &Device, means: Option<&str>) {
    device.until_state("web", "ready");
    let pid = device.until_pid("web");
    until("its child is there", || (states(device).len() == 2).then_some(()));
    let has_group = frozen_group(pid).is_some();
    let answer = freeze(device);
    let expected = means.unwrap_or(if has_group { "cgroup" } else { "signals" });
    assert_eq!(
        (&answer["means"], &answer["instances"][0]),
        (&expected.into(), &"instance1".into())
    );
    is_frozen(device, &answer["means"]);
    let status = device.ctl_ok(&["status", "web"]);
    assert!(status.contains("frozen"), "{status}");
    // Nobody takes its silence amiss, and the next supervisor neither.
    for another in [false, true] {
        if another {
            replace_supervisor(device);
            device.until_state("web", "frozen");
        }
        let touched = within(LONG_SILENCE, || (seen(device)["state"] != "frozen").then_some(()));
        assert!(touched.is_none(), "{}", seen(device));
        is_frozen(device, &answer["means"]);
    }
    let reload = device.ctl(&["service", "reload", "web"]);
    assert!(reload.stderr.contains("thaw it first"), "{reload:?}");
    device.ctl_ok(&["service", "thaw", "web"]);
    device.until_state("web", "ready");
    until("all of it runs", || (!states(device).contains(&'T')).then_some(()));
    assert_ne!(frozen_group(pid), Some(true));
    let missed = within(LONG_SILENCE, || (seen(device)["pid"] != pid).then_some(()));
    assert!(missed.is_none(), "it lives and says so");
    assert_eq!((&seen(device)["restarts"], &seen(device)["missed"]), (&0.into(), &Value::Null));
}

#[test]
fn a_frozen_service_runs_on_where_it_was_whoever_supervises() {
    frozen_and_thawed(&device_with(&[("web", watched())]), None);
}

#[test]
fn without_a_cgroup_of_its_own_all_its_processes_are_stopped_by_signals() {
    frozen_and_thawed(&ordinary_device_with(&[("web", watched())]), Some("signals"));
}

fn ended_while_frozen(device: &Device) {
    device.until_state("web", "ready");
    // It would not hear SIGTERM, and have a minute for it.
    let first = device.until_pid("web");
    freeze(device);
    device.ctl_ok(&["service", "restart", "web", "--timeout", "20s"]);
    let second = until_other_pid(device, "web", first);
    freeze(device);
    kill(second, Signal::KILL);
    until_other_pid(device, "web", second);
    device.until_state("web", "ready");
    until("nothing of it is stopped", || {
        (!states(device).contains(&'T') && frozen_group(device.until_pid("web")) != Some(true))
            .then_some(())
    });
    freeze(device);
    device.ctl_ok(&["service", "stop", "web", "--timeout", "20s"]);
    assert!(device.processes("web").is_empty());
    let refused = device.ctl(&["service", "freeze", "web"]);
    assert!(refused.stderr.contains("not running"), "{refused:?}");
}

#[test]
fn what_is_ended_while_it_is_frozen_ends_at_once_and_what_follows_it_runs() {
    ended_while_frozen(&device_with(&[("web", watched())]));
}

#[test]
fn the_same_holds_for_what_signals_have_stopped() {
    ended_while_frozen(&ordinary_device_with(&[("web", watched())]));
}

#[test]
fn whole_trees_that_fork_all_the_time_are_stopped_by_signals() {
    let script = "while :; do (sleep 0.01; :) & (:) & wait; done";
    let web = format!("command = [\"sh\", \"-c\", {script:?}]\n");
    let device = ordinary_device_with(&[("web", web)]);
    device.until_pid("web");
    for _ in 0..10 {
        assert_eq!(freeze(&device)["means"], "signals");
        let states = states(&device);
        assert!(
            !states.is_empty() && states.iter().all(|state| "TZX".contains(*state)),
            "{states:?}"
        );
        device.ctl_ok(&["service", "thaw", "web"]);
        device.until_state("web", "ready");
    }
}

#[test]
fn an_application_that_is_frozen_misses_no_heartbeat_and_reports_on_when_it_thaws() {
    let device = with_broker();
    add(&device, "web", &reports(&example(&device), 7, None, "period = \"300ms\"\nmisses = 3\n"));
    let before = until_reports(&device, 7, 3);
    freeze(&device);
    let missed = within(LONG_SILENCE, || (count(&device, "machine/missed") > 0).then_some(()));
    assert!(missed.is_none(), "{:?}", row(&device, 7));
    device.ctl_ok(&["service", "thaw", "web"]);
    let after = until_reports(&device, 7, row(&device, 7).unwrap().reports + 3);
    assert_eq!((after.pid, after.generation), (before.pid, before.generation));
    assert_eq!(count(&device, "machine/missed"), 0);
    assert_eq!((&seen(&device)["restarts"], &seen(&device)["missed"]), (&0.into(), &Value::Null));
}

#[test]
fn the_broker_and_the_supervisor_hear_that_the_machine_was_resumed() {
    // Only the engine may say so: this plays it.
    let device = suite(&["autorun"]);
    device.ctl_ok(&["wait-for", "heartbeat"]);
    until("they and the upgrade agent have subscribed", || {
        let subscribers = device.json(&["registry", "status"])["subscribers"].to_string();
        (subscribers.matches("autorun.resumed").count() == 3).then_some(())
    });
    let before = count(&device, "machine/stalls");
    let event = r#"{"topic":"autorun.resumed","data":{"kind":"hibernate","generation":1,"run":"ab","ordinal":1,"off_ms":0}}"#;
    device.ctl_ok(&["call", "autorun", "publish", event]);
    until("the broker has heard it", || (count(&device, "machine/stalls") > before).then_some(()));
    until("the supervisor has heard it", || {
        device.console().contains("every watchdog begins anew").then_some(())
    });
}

#[test]
fn an_engine_whose_work_is_done_rests_until_somebody_looks_for_it_and_a_crash_is_respawned() {
    let program = testkit::binary("vestal-demo-object");
    let shipped = include_str!("../../../configs/core/autorun.toml");
    let definition = shipped
        .replace(r#"["${VESTAL_BIN_DIR}/vestal-autorun"]"#, &format!("[{program:?}, \"autorun\"]"));
    assert!(definition.contains("demo-object"), "{definition}");
    let mut device = Device::with_core();
    device.define("autorun", &definition);
    device.start();
    device.ctl_ok(&["wait-for", "autorun"]);
    let first = device.until_pid("autorun");
    kill(first, Signal::KILL);
    let mut pid = until_other_pid(&device, "autorun", first);
    for _ in 0..2 {
        device.until_state("autorun", "ready");
        // It ends with 0.
        kill(pid, Signal::TERM);
        device.until_state("autorun", "on demand");
        replace_supervisor(&device);
        device.until_state("autorun", "on demand");
        let next = device.json(&["call", "autorun", "pid"])["pid"].as_i64().unwrap();
        pid = device.until_pid("autorun");
        assert_eq!(next, i64::from(pid));
    }
}
