//! The supervisor and the keeper are killed and replaced; what runs, runs on, and nothing runs twice.

use std::{fs, path::PathBuf};

use rustix::process::Signal;
use testkit::{Device, alive, processes_of, until};

use crate::support::{demo, device_with, kill, ordinary_device_with};

fn several(count: usize) -> Vec<(String, String)> {
    (0..count).map(|number| (format!("s{number}"), demo(&[]))).collect()
}

fn start_several(mut device: Device, count: usize) -> (Device, Vec<i32>) {
    for (name, text) in several(count) {
        device.define(&name, &text);
    }
    device.start();
    let pids = (0..count).map(|number| device.until_pid(&format!("s{number}"))).collect();
    (device, pids)
}

fn pids(device: &Device, count: usize) -> Vec<i32> {
    (0..count).map(|number| device.until_pid(&format!("s{number}"))).collect()
}

#[test]
fn a_killed_supervisor_is_replaced_and_no_service_notices() {
    let (device, before) = start_several(Device::new(), 10);
    for _ in 0..5 {
        let supervisor = device.supervisor_pid();
        kill(supervisor, Signal::KILL);
        until("another supervisor", || (device.supervisor_pid() != supervisor).then_some(()));
        assert_eq!(pids(&device, 10), before);
    }
    assert!(before.iter().all(|pid| alive(*pid)));
}

#[test]
fn a_service_that_dies_while_no_supervisor_lives_is_healed_all_the_same() {
    let (device, before) = start_several(Device::new(), 3);
    let supervisor = device.supervisor_pid();
    kill(supervisor, Signal::STOP);
    kill(before[1], Signal::KILL);
    kill(supervisor, Signal::KILL);
    let after =
        until("s1 runs again", || Some(device.until_pid("s1")).filter(|pid| *pid != before[1]));
    assert!(alive(after));
    assert_eq!((device.until_pid("s0"), device.until_pid("s2")), (before[0], before[2]));
}

#[test]
fn a_keeper_that_is_not_pid_one_adopts_everything_after_its_own_death() {
    for device in [Device::new(), Device::of_an_ordinary_user()] {
        let (mut device, before) = start_several(device, 10);
        for _ in 0..3 {
            device.kill_keeper();
            until("its supervisor leaves", || {
                let left = processes_of(&device.run_dir());
                left.iter()
                    .all(|process| !process.command.contains("vestal-supervisor"))
                    .then_some(())
            });
            assert!(before.iter().all(|pid| alive(*pid)), "services survive the keeper");
            device.start();
            assert_eq!(pids(&device, 10), before);
            let demos = processes_of(&device.run_dir())
                .into_iter()
                .filter(|process| process.service.is_some());
            assert_eq!(demos.count(), 10, "nothing is doubled");
        }
        // What was adopted is still looked after.
        kill(before[4], Signal::KILL);
        until("s4 is healed", || Some(device.until_pid("s4")).filter(|pid| *pid != before[4]));
    }
}

#[test]
fn a_service_that_died_with_the_keeper_is_started_once_by_the_next_one() {
    let (mut device, before) = start_several(Device::new(), 4);
    device.kill_keeper();
    kill(before[2], Signal::KILL);
    until("it is gone", || (!alive(before[2])).then_some(()));
    device.start();
    let after = until("s2 runs", || Some(device.until_pid("s2")).filter(|pid| *pid != before[2]));
    assert_eq!(device.processes("s2").len(), 1);
    assert!(alive(after));
    assert_eq!(device.until_pid("s0"), before[0]);
}

#[test]
fn the_keeper_is_re_executed_a_hundred_times_and_nothing_notices() {
    let (device, before) = start_several(Device::new(), 10);
    let (keeper, supervisor) = (device.keeper_pid(), device.supervisor_pid());
    for _ in 0..100 {
        device.ctl_ok(&["keeper", "reexec"]);
    }
    assert_eq!((device.keeper_pid(), device.supervisor_pid()), (keeper, supervisor));
    assert_eq!(pids(&device, 10), before);
    kill(before[0], Signal::KILL);
    until("it still reaps and heals", || {
        Some(device.until_pid("s0")).filter(|pid| *pid != before[0])
    });
}

#[test]
fn the_supervisor_is_replaced_on_request() {
    let device = ordinary_device_with(&[("web", demo(&[]))]);
    let (web, supervisor) = (device.until_pid("web"), device.supervisor_pid());
    device.ctl_ok(&["supervisor", "reexec"]);
    assert_ne!(device.supervisor_pid(), supervisor);
    assert_eq!(device.until_pid("web"), web);
}

/// The suite's programs in a folder of their own, so that a test may replace them.
pub(crate) fn own_programs(device: &Device) -> PathBuf {
    let folder = device.folder().join("bin");
    fs::create_dir(&folder).unwrap();
    for name in ["vestal-keeper", "vestal-supervisor", "vestal-exec", "vestalctl", "vestal-demo"] {
        copy(&testkit::binary(name), &folder.join(name));
    }
    folder
}

/// By another process: what this one has open for writing, a child of a test beside it has too until it executes, and a
/// program that is open for writing can't be executed ("text file busy").
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").args([from, to]).status().unwrap();
    assert!(status.success(), "copy {from:?} to {to:?}: {status}");
}

/// Replaces a program as an upgrade does: the running one keeps its file.
pub(crate) fn replace(path: &std::path::Path, with: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    let (text, fresh) = (path.with_extension("text"), path.with_extension("new"));
    fs::write(&text, with).unwrap();
    copy(&text, &fresh);
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&fresh, path).unwrap();
}

#[test]
fn row_19_a_broken_binary_on_disk_is_refused_and_the_running_one_stays() {
    let mut device = Device::new();
    let programs = own_programs(&device);
    device.use_programs(&programs);
    device.define("web", &demo(&[]));
    device.start();
    let (web, supervisor, keeper) =
        (device.until_pid("web"), device.supervisor_pid(), device.keeper_pid());
    for (name, what) in [("vestal-supervisor", "supervisor"), ("vestal-keeper", "keeper")] {
        let good = fs::read(programs.join(name)).unwrap();
        for bad in [&b"#!/bin/sh\necho broken >&2\nexit 1\n"[..], &good[..4096], b""] {
            replace(&programs.join(name), bad);
            let reply = device.ctl(&[what, "reexec"]);
            assert_eq!(reply.status.code(), Some(1), "{reply:?}");
        }
        replace(&programs.join(name), &good);
    }
    assert_eq!(
        (device.until_pid("web"), device.supervisor_pid(), device.keeper_pid()),
        (web, supervisor, keeper)
    );
    device.ctl_ok(&["supervisor", "reexec"]);
    device.ctl_ok(&["keeper", "reexec"]);
    assert_eq!(device.until_pid("web"), web);
}

#[test]
fn a_second_keeper_and_a_supervisor_without_a_keeper_refuse_with_two() {
    let device = device_with(&[]);
    let second = device.command("vestal-keeper").output().unwrap();
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(2), "{text}");
    assert!(text.contains(&device.keeper_pid().to_string()), "{text}");
    let alone = device.command("vestal-supervisor").output().unwrap();
    assert_eq!(alone.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&alone.stderr).contains("vestal-keeper"));
}
