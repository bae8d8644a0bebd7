//! What `vestal-exec` makes of a process, read back from the process itself.

use std::{fs, os::unix::fs::PermissionsExt as _};

use protocol::keeper::{
    Exit, Outcome, Phase, Request, Stage,
    plan::{ExecSettings, Executor, Plan},
};

use crate::{
    PASSIVE,
    device::{self, Device},
};

/// Runs one script with these settings and returns how it ended; `None` where there is no executor.
fn run(device: &Device, script: &str, settings: ExecSettings) -> Option<Exit> {
    let mut plan: Plan = device.plan(0, script);
    plan.executor = Some(Executor { path: device::executor()?, settings });
    let mut supervisor = device.supervisor();
    supervisor.define(0, &plan, PASSIVE);
    assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected: 0 }), Outcome::Done);
    Some(supervisor.wait(0, |state| state.phase == Phase::Idle && state.exit_generation == 1).exit)
}

fn status(text: &str, field: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_executor_applies_its_settings_and_tells_what_it_cannot() {
    let Some(executor) = device::executor() else { return };
    let device = Device::start();
    let mut supervisor = device.supervisor();
    let mut plan =
        device.plan(0, "ulimit -n > limits; umask >> limits; ls /proc/self/fd | wc -l >> limits");
    let settings = ExecSettings {
        limits: vec![(7, 77, 77)],
        umask: Some(0o27),
        nice: Some(3),
        no_new_privileges: true,
        ..ExecSettings::default()
    };
    plan.executor = Some(Executor { path: executor.clone(), settings });
    supervisor.define(0, &plan, PASSIVE);
    assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected: 0 }), Outcome::Done);
    supervisor.wait(0, |state| state.exit == Exit::Code(0));
    // Standard descriptors, the lock, and the folder that ls reads.
    assert_eq!(device.read("limits"), "77\n0027\n5\n");

    plan.programs = vec!["/none".into()];
    supervisor.define(0, &plan, PASSIVE);
    assert_eq!(supervisor.ask(&Request::Spawn { slot: 0, expected: 1 }), Outcome::Done);
    let state = supervisor.wait(0, |state| state.exit_generation == 2);
    assert_eq!(state.exit, Exit::SpawnFailed { stage: Stage::Exec, errno: 2 });
}

#[test]
fn an_ordinary_user_has_its_groups_and_only_the_capabilities_that_it_was_left() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let device = Device::start();
    fs::set_permissions(device.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    const BIND: u64 = 1 << 10;
    let settings = ExecSettings {
        uid: Some(54_321),
        gid: Some(54_322),
        groups: Some(vec![111, 222]),
        capabilities: Some(BIND),
        no_new_privileges: true,
        oom_score_adj: Some(321),
        ..ExecSettings::default()
    };
    let script = "cat /proc/self/status > status; cat /proc/self/oom_score_adj > oom";
    let Some(exit) = run(&device, script, settings) else { return };
    assert_eq!(exit, Exit::Code(0));
    let text = device.read("status");
    assert_eq!(status(&text, "Uid"), "54321 54321 54321 54321");
    assert_eq!(status(&text, "Gid"), "54322 54322 54322 54322");
    assert_eq!(status(&text, "Groups"), "111 222");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(&text, set), format!("{BIND:016x}"), "{set}");
    }
    assert_eq!(status(&text, "NoNewPrivs"), "1");
    assert_eq!(status(&text, "SigBlk"), "0".repeat(16), "nothing is blocked");
    // The two signals that belong to the C library are whoever's started the test.
    let ignored = u64::from_str_radix(&status(&text, "SigIgn"), 16).unwrap();
    assert_eq!(ignored & !(3 << 31), 0, "nothing is ignored, not even SIGPIPE");
    assert_eq!(device.read("oom"), "321\n");
}

#[test]
fn root_without_capabilities_can_do_nothing_that_root_can() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let device = Device::start();
    let settings = ExecSettings { capabilities: Some(0), ..ExecSettings::default() };
    let script = "cat /proc/self/status > status";
    let Some(exit) = run(&device, script, settings) else { return };
    assert_eq!(exit, Exit::Code(0));
    let text = device.read("status");
    assert_eq!(
        (status(&text, "CapEff"), status(&text, "CapBnd")),
        ("0".repeat(16), "0".repeat(16))
    );
}

#[test]
fn read_only_paths_cannot_be_written_by_the_service_and_can_by_everybody_else() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let device = Device::start();
    fs::create_dir(device.path("fixed")).unwrap();
    let fixed = device.path("fixed").to_str().unwrap().to_owned();
    let settings = ExecSettings { read_only_paths: vec![fixed], ..ExecSettings::default() };
    let script = "touch fixed/x 2>/dev/null && exit 1; echo > free && exit 7";
    let Some(exit) = run(&device, script, settings) else { return };
    assert_eq!(exit, Exit::Code(7));
    fs::write(device.path("fixed/x"), "").unwrap();
}

#[test]
fn a_read_only_path_that_is_not_there_is_told_with_its_stage() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let device = Device::start();
    let settings =
        ExecSettings { read_only_paths: vec!["/none".into()], ..ExecSettings::default() };
    let Some(exit) = run(&device, "true", settings) else { return };
    assert_eq!(exit, Exit::SpawnFailed { stage: Stage::Namespaces, errno: 2 });
}
