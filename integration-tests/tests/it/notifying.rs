//! What a service says of itself through its notify socket, one assignment of sd_notify(3) after the other.

use std::fs;

use rustix::process::Signal;
use testkit::{Device, alive, until};

use crate::support::{
    demo, device_with, kill, ordinary_device_with, printed, replace_supervisor, until_other_pid,
    until_printed,
};

const READY_BY_NOTIFY: &str = "[readiness]\nnotify = true\n";

#[test]
fn stored_descriptors_come_back_after_every_death_and_only_as_many_as_allowed() {
    let steps =
        ["stored=door", "store=door:a key", "barrier", "env=LISTEN_FDNAMES", "notify=READY=1"];
    let text = demo(&steps) + "fd-store = 2\n" + READY_BY_NOTIFY;
    for device in
        [device_with(&[("keeps", text.clone())]), ordinary_device_with(&[("keeps", text)])]
    {
        device.until_state("keeps", "ready");
        until_printed(&device, "keeps", "LISTEN_FDNAMES=", 1);
        assert_eq!(printed(&device, "keeps")[..2], ["stored door: nothing", "barrier passed"]);
        // Each run stores one more under the same name; the third finds its store full.
        let first = device.until_pid("keeps");
        kill(first, Signal::KILL);
        let second = until_other_pid(&device, "keeps", first);
        until_printed(&device, "keeps", "stored door: a key", 1);
        until_printed(&device, "keeps", "LISTEN_FDNAMES=door", 1);
        device.until_state("keeps", "ready");
        replace_supervisor(&device);
        kill(second, Signal::KILL);
        until_printed(&device, "keeps", "stored door: a key", 2);
        until_printed(&device, "keeps", "LISTEN_FDNAMES=door:door", 1);
        until("the third one is refused", || {
            device.console().contains("fd-store is full").then_some(())
        });
    }
}

#[test]
fn a_removed_descriptor_does_not_come_back_and_the_others_do() {
    let steps = [
        "stored=a",
        "stored=b",
        "store=a:one",
        "store=b:two",
        "notify=FDSTOREREMOVE=1\nFDNAME=a",
        "barrier",
        "notify=READY=1",
    ];
    let device = device_with(&[("forgets", demo(&steps) + "fd-store = 8\n" + READY_BY_NOTIFY)]);
    device.until_state("forgets", "ready");
    kill(device.until_pid("forgets"), Signal::KILL);
    until_printed(&device, "forgets", "stored b: two", 1);
    assert!(!printed(&device, "forgets").contains(&"stored a: one".to_owned()));
}

#[test]
fn a_service_without_a_store_keeps_nothing_and_is_told_so() {
    let device = device_with(&[(
        "poor",
        demo(&["store=door:x", "barrier", "notify=READY=1"]) + READY_BY_NOTIFY,
    )]);
    device.until_state("poor", "ready");
    until("it is told", || device.console().contains("fd-store is full").then_some(()));
    let first = device.until_pid("poor");
    kill(first, Signal::KILL);
    until_other_pid(&device, "poor", first);
}

#[test]
fn the_process_that_a_service_names_is_the_one_that_is_watched() {
    let text = demo(&["hand-over", "notify=READY=1"]) + READY_BY_NOTIFY;
    for device in
        [device_with(&[("forks", text.clone())]), ordinary_device_with(&[("forks", text)])]
    {
        device.until_state("forks", "ready");
        let all =
            until("both run", || Some(device.processes("forks")).filter(|all| all.len() == 2));
        let child = all.iter().find(|one| one.command.starts_with("vestal-demo-child")).unwrap();
        let parent = all.iter().find(|one| one.pid != child.pid).unwrap().pid;
        let named = |device: &Device| device.instance("forks", "instance1")["pid"] == child.pid;
        until("the child is the main process", || named(&device).then_some(()));
        kill(parent, Signal::KILL);
        until("the first process is gone", || (!alive(parent)).then_some(()));
        device.ctl_ok(&["service", "list"]);
        assert!(named(&device) && alive(child.pid), "nothing restarts");
        replace_supervisor(&device);
        assert!(named(&device), "the next supervisor knows it too");
        kill(child.pid, Signal::KILL);
        until_other_pid(&device, "forks", child.pid);
        assert_eq!(device.instance("forks", "instance1")["restarts"], 1);
    }
}

#[test]
fn a_named_main_process_that_dies_takes_the_first_one_with_it() {
    let device =
        device_with(&[("forks", demo(&["hand-over", "notify=READY=1"]) + READY_BY_NOTIFY)]);
    device.until_state("forks", "ready");
    let first = until("both run", || Some(device.processes("forks")).filter(|all| all.len() == 2));
    let child = first.iter().find(|one| one.command.starts_with("vestal-demo-child")).unwrap().pid;
    until("the child is the main process", || {
        (device.instance("forks", "instance1")["pid"] == child).then_some(())
    });
    kill(child, Signal::KILL);
    until("two new ones run", || {
        let now = device.processes("forks");
        (now.len() == 2 && now.iter().all(|one| first.iter().all(|old| old.pid != one.pid)))
            .then_some(())
    });
}

#[test]
fn a_process_that_hands_over_and_waits_for_the_barrier_may_leave() {
    let mut device = Device::new();
    let names: Vec<String> = (0..8).map(|number| format!("forks{number}")).collect();
    for name in &names {
        // The store only because a service without one, and without readiness, has no notify socket.
        device.define(name, &(demo(&["hand-over", "barrier", "exit=0"]) + "fd-store = 1\n"));
    }
    device.start();
    for name in &names {
        let child = until("only the child is left", || {
            let all = device.processes(name);
            (all.len() == 1 && all[0].command.starts_with("vestal-demo-child")).then(|| all[0].pid)
        });
        let seen = until("it is the main process", || {
            Some(device.instance(name, "instance1")).filter(|seen| seen["pid"] == child)
        });
        assert_eq!((&seen["state"], &seen["generation"]), (&"ready".into(), &1.into()), "{seen}");
    }
}

#[test]
fn a_stranger_can_not_be_named_as_main_process() {
    let device = device_with(&[("victim", demo(&[]))]);
    let victim = device.until_pid("victim");
    for (name, pid) in [("liar", victim), ("fool", 1), ("dreamer", i32::MAX)] {
        let claim = format!("notify=MAINPID={pid}");
        device.define(name, &(demo(&[&claim, "notify=READY=1"]) + READY_BY_NOTIFY));
    }
    device.ctl_ok(&["service", "reread"]);
    for name in ["liar", "fool", "dreamer"] {
        let seen = device.until_state(name, "ready");
        assert_eq!(seen["pid"], device.processes(name)[0].pid, "{seen}");
    }
    kill(victim, Signal::KILL);
    until_other_pid(&device, "victim", victim);
    assert_eq!(device.instance("liar", "instance1")["restarts"], 0);
}

#[test]
fn status_errno_and_reloading_are_shown_as_they_are_said() {
    let device = Device::new();
    let [begin, end] = ["begin", "end"].map(|name| device.folder().join(name));
    let steps = [
        "notify=READY=1\nSTATUS=ten cameras\nERRNO=5",
        &format!("until={}", begin.display()),
        "notify=RELOADING=1",
        &format!("until={}", end.display()),
        "notify=READY=1\nSTATUS=eleven",
    ];
    let mut device = device;
    device.define("eyes", &(demo(&steps) + READY_BY_NOTIFY));
    device.start();
    device.until_state("eyes", "ready");
    until("both are shown", || {
        let seen = device.instance("eyes", "instance1");
        (seen["status"] == "ten cameras" && seen["errno"] == 5).then_some(())
    });
    let shown = device.ctl_ok(&["status", "eyes"]);
    assert!(shown.contains("ten cameras"), "{shown}");
    fs::write(begin, "").unwrap();
    let reloading = device.until_state("eyes", "reloading");
    assert_eq!(reloading["ready"], true, "it still serves: {reloading}");
    fs::write(end, "").unwrap();
    until("it is ready again", || {
        let seen = device.instance("eyes", "instance1");
        (seen["state"] == "ready" && seen["status"] == "eleven").then_some(())
    });
    assert_eq!(device.instance("eyes", "instance1")["restarts"], 0);
}

#[test]
fn a_start_that_takes_longer_and_says_so_is_waited_for() {
    let mut device = Device::new();
    let gate = device.folder().join("gate");
    let until_gate = format!("until={}", gate.display());
    let readiness = "[readiness]\nnotify = true\ntimeout = \"2s\"\n";
    let long = ["notify=EXTEND_TIMEOUT_USEC=60000000", &until_gate, "notify=READY=1"];
    device.define("long", &(demo(&long) + readiness));
    device.define("short", &(demo(&[&until_gate, "notify=READY=1"]) + readiness));
    device.start();
    let long = device.until_pid("long");
    until("the one that said nothing is restarted", || {
        (device.instance("short", "instance1")["restarts"].as_u64() > Some(0)).then_some(())
    });
    assert_eq!(device.instance("long", "instance1")["state"], "starting");
    fs::write(gate, "").unwrap();
    assert_eq!(device.until_state("long", "ready")["pid"], long);
}

#[test]
fn who_says_that_its_watchdog_is_missed_is_restarted_at_once() {
    let mut device = Device::new();
    let gate = device.folder().join("gate");
    let steps = ["notify=READY=1", &format!("until={}", gate.display()), "notify=WATCHDOG=trigger"];
    device.define("hangs", &(demo(&steps) + READY_BY_NOTIFY));
    device.start();
    device.until_state("hangs", "ready");
    let pid = device.until_pid("hangs");
    fs::write(&gate, "").unwrap();
    until("it is restarted for that", || {
        let seen = device.instance("hangs", "instance1");
        let reason = seen["last_exit"].as_str().unwrap_or_default().to_owned();
        (seen["restarts"].as_u64() > Some(0) && reason.contains("watchdog")).then_some(())
    });
    assert!(!alive(pid));
}

#[test]
fn a_watchdog_period_that_a_service_asks_for_counts() {
    let steps = ["notify=READY=1\nWATCHDOG_USEC=300000"];
    let device = device_with(&[("asks", demo(&steps) + READY_BY_NOTIFY)]);
    until("its silence is noticed", || {
        let seen = device.instance("asks", "instance1");
        let reason = seen["last_exit"].as_str().unwrap_or_default().to_owned();
        (seen["restarts"].as_u64() > Some(0) && reason.contains("watchdog")).then_some(())
    });
}
