//! Which ends are answered by a respawn, and when it is given up.

use std::fs;

use rustix::process::Signal;
use testkit::{Device, until};

use crate::support::{demo, device_with, kill, lines};

#[test]
fn never_means_that_a_crash_is_the_end_and_always_that_a_good_end_is_none() {
    let mut device = Device::new();
    let runs = device.folder().join("runs");
    device.define("never", &(demo(&["exit=1"]) + "respawn = \"never\"\n"));
    device.define("killed", &(demo(&[]) + "respawn = \"never\"\n"));
    device.define(
        "always",
        &(demo(&[&format!("append={}", runs.display()), "exit=0"]) + "respawn = \"always\"\n"),
    );
    device.define("fine", &demo(&["exit=0"]));
    device.start();
    let killed = device.until_pid("killed");
    kill(killed, Signal::KILL);
    let seen = device.until_state("never", "failed");
    assert_eq!((&seen["exit_code"], &seen["generation"]), (&1.into(), &1.into()), "{seen}");
    let seen = device.until_state("killed", "failed");
    assert_eq!((&seen["exit_code"], &seen["restarts"]), (&137.into(), &0.into()), "{seen}");
    until("it is run again and again", || (lines(&runs).len() >= 3).then_some(()));
    // The default: a good end is the end.
    assert_eq!(device.until_state("fine", "done")["generation"], 1);
}

#[test]
fn after_max_restarts_it_is_held_with_its_reason_and_an_order_begins_anew() {
    let respawn = "respawn = { policy = \"always\", max-restarts = 2 }\n";
    let device = device_with(&[("bad", demo(&["exit=9"]) + respawn)]);
    let seen = device.until_state("bad", "held");
    assert_eq!(seen["generation"], 3, "one start and two restarts: {seen}");
    assert!(seen["last_exit"].as_str().unwrap().contains("exit 9"), "{seen}");
    crate::support::replace_supervisor(&device);
    let seen = device.until_state("bad", "held");
    assert_eq!(seen["generation"], 3, "held is not forgotten: {seen}");
    device.ctl_ok(&["service", "start", "--no-wait", "bad"]);
    until("it is held after as many runs again", || {
        let seen = device.instance("bad", "instance1");
        (seen["state"] == "held" && seen["generation"] == 6).then_some(())
    });
}

/// procd's message for one service of one instance.
fn message(name: &str, steps: &[&str], more: &str) -> String {
    let program = testkit::binary("vestal-demo");
    let command: Vec<String> = std::iter::once(program.display().to_string())
        .chain(steps.iter().map(|step| (*step).to_owned()))
        .collect();
    format!(
        "{{\"name\":\"{name}\",\"instances\":{{\"instance1\":{{\"command\":{command:?}{more}}}}}}}"
    )
}

#[test]
fn procds_triple_gives_up_after_its_retries_and_is_forgiven_by_a_start() {
    let device = device_with(&[]);
    let text = message("bad", &["exit=4"], ",\"respawn\":[\"3600\",\"0\",\"2\"]");
    device.ctl_ok(&["call", "service", "set", &text]);
    let seen = device.until_state("bad", "held");
    assert_eq!(seen["generation"], 3, "the third short run is one too many: {seen}");
    device.ctl_ok(&["service", "start", "--no-wait", "bad"]);
    until("it has as many again", || {
        let seen = device.instance("bad", "instance1");
        (seen["state"] == "held" && seen["generation"] == 6).then_some(())
    });
}

#[test]
fn procds_message_without_respawn_starts_once_and_with_it_again_after_a_good_end() {
    let mut device = Device::new();
    let runs = device.folder().join("runs");
    device.start();
    device.ctl_ok(&["call", "service", "set", &message("once", &["exit=1"], "")]);
    let append = format!("append={}", runs.display());
    let again = message("again", &[&append, "exit=0"], ",\"respawn\":[\"0\",\"0\",\"5\"]");
    device.ctl_ok(&["call", "service", "set", &again]);
    until("it runs again and again", || (lines(&runs).len() >= 8).then_some(()));
    let seen = device.until_state("once", "failed");
    assert_eq!((&seen["running"], &seen["exit_code"]), (&false.into(), &1.into()), "{seen}");
    device.ctl_ok(&["service", "delete", "again"]);
}

#[test]
fn a_critical_service_restarts_those_that_require_it() {
    let mut device = Device::new();
    let gate = device.folder().join("gate");
    let script = format!("test -e {} && rm {0} && exit 3; sleep 1000 & wait", gate.display());
    device.define(
        "base",
        &format!("command = [\"sh\", \"-c\", {script:?}]\ncritical = {{ restarts = 1, window = \"1m\", action = \"restart\" }}\n"),
    );
    device.define("app", &(demo(&[]) + "requires = [\"base\"]\n"));
    device.start();
    let app = device.until_pid("app");
    let base = device.until_pid("base");
    // Once is forgiven, and the next run crashes by itself.
    fs::write(&gate, "").unwrap();
    kill(base, Signal::KILL);
    crate::support::until_other_pid(&device, "app", app);
    assert!(device.console().contains("service.critical"), "{}", device.console());
}

#[test]
fn a_supervisor_that_failed_ten_times_finds_its_services_running_and_leaves_them() {
    let mut device = Device::new();
    let programs = crate::adoption::own_programs(&device);
    device.use_programs(&programs);
    device.define("web", &demo(&[]));
    device.start();
    let web = device.until_pid("web");
    let supervisor = programs.join("vestal-supervisor");
    let good = fs::read(&supervisor).unwrap();
    crate::adoption::replace(&supervisor, b"#!/bin/sh\nexit 1\n");
    kill(device.supervisor_pid(), Signal::KILL);
    // From the eleventh start on the keeper asks for the rescue set, which is not for a device on which something runs.
    until("it failed often", || {
        (device.console().matches("ended with exit code 1").count() >= 11).then_some(())
    });
    crate::adoption::replace(&supervisor, &good);
    until("a supervisor answers", || device.ctl(&["status"]).status.success().then_some(()));
    assert_eq!(device.until_pid("web"), web);
    assert_eq!(device.instance("web", "instance1")["state"], "ready");
}
