//! Definitions that are wrong cost only themselves; those that change, change only what they must.

use std::{fs, os::unix::fs::PermissionsExt as _};

use testkit::{Device, until};

use crate::support::{demo, device_with};

#[test]
fn row_15_bad_files_cost_only_themselves_and_are_named_with_line_and_cure() {
    let mut device = Device::new();
    device.define("good", &demo(&[]));
    device.define("typo", &(demo(&[]) + "respwan = \"never\"\n"));
    device.define("half", "command = [\"/bin/tr");
    device.define("cycle-a", &(demo(&[]) + "after = [\"cycle-b\"]\n"));
    device.define("cycle-b", &(demo(&[]) + "after = [\"cycle-a\"]\n"));
    device.define("needy", &(demo(&[]) + "requires = [\"nobody\"]\n"));
    device.start();
    device.until_pid("good");
    let report = device.json(&["call", "service", "report"]);
    let problems: Vec<&str> =
        report["problems"].as_array().unwrap().iter().filter_map(|text| text.as_str()).collect();
    let says = |words: &[&str]| {
        problems.iter().any(|problem| words.iter().all(|word| problem.contains(word)))
    };
    assert!(says(&["typo.toml:2", "respwan", "respawn"]), "{problems:#?}");
    assert!(says(&["half.toml:1"]), "{problems:#?}");
    assert!(says(&["cycle-a", "cycle-b"]), "{problems:#?}");
    assert!(says(&["needy", "nobody"]), "{problems:#?}");
    for bad in ["typo", "half", "cycle-a", "cycle-b", "needy"] {
        assert!(device.processes(bad).is_empty(), "{bad} was started");
    }
}

#[test]
fn row_15_a_file_that_becomes_bad_keeps_its_last_good_definition() {
    let device = device_with(&[("web", demo(&[]))]);
    let pid = device.until_pid("web");
    device.define("web", "command = 5\n");
    device.ctl_ok(&["service", "reread"]);
    assert_eq!(device.until_pid("web"), pid);
    let supervisor = device.supervisor_pid();
    crate::support::kill(supervisor, rustix::process::Signal::KILL);
    until("another supervisor", || (device.supervisor_pid() != supervisor).then_some(()));
    assert_eq!(device.until_pid("web"), pid);
    let status = device.ctl_ok(&["status"]);
    assert!(status.contains("web.toml:1"), "{status}");
}

#[test]
fn row_15_an_unreadable_file_is_told_and_the_others_start() {
    let mut device = Device::of_an_ordinary_user();
    device.define("good", &demo(&[]));
    device.define("secret", &demo(&[]));
    let path = device.folder().join("etc/services.d/secret.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    device.start();
    device.until_pid("good");
    let report = device.json(&["call", "service", "report"]).to_string();
    assert!(report.contains("secret.toml"), "{report}");
}

#[test]
fn only_what_changed_is_restarted() {
    let device = device_with(&[("same", demo(&[])), ("other", demo(&[])), ("policy", demo(&[]))]);
    let before = ["same", "other", "policy"].map(|name| device.until_pid(name));
    device.define("other", &demo(&["say=new"]));
    device.define("policy", &(demo(&[]) + "respawn = \"never\"\n# a comment\n"));
    device.define("fresh", &demo(&[]));
    device.ctl_ok(&["service", "reread"]);
    device.until_pid("fresh");
    let other =
        until("other restarts", || Some(device.until_pid("other")).filter(|pid| *pid != before[1]));
    assert_ne!(other, before[1]);
    assert_eq!((device.until_pid("same"), device.until_pid("policy")), (before[0], before[2]));
    fs::remove_file(device.folder().join("etc/services.d/same.toml")).unwrap();
    device.ctl_ok(&["service", "reread"]);
    until("same is gone", || device.processes("same").is_empty().then_some(()));
}

#[test]
fn procds_message_adds_replaces_and_deletes_instances() {
    let device = device_with(&[]);
    let program = testkit::binary("vestal-demo");
    let call = |method: &str, instances: &str| {
        let message = format!("{{\"name\":\"multi\",\"instances\":{{{instances}}}}}");
        device.ctl_ok(&["call", "service", method, &message]);
    };
    let instance = |name: &str| format!("\"{name}\":{{\"command\":[{program:?},\"say={name}\"]}}");
    call("add", &instance("a"));
    call("add", &instance("b"));
    let listed = || {
        let list = device.json(&["service", "list", "multi"]);
        let instances = list["multi"]["instances"].as_object().cloned().unwrap_or_default();
        instances
            .into_iter()
            .filter(|(_, seen)| seen["running"] == true)
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    until("both run", || (listed() == ["a", "b"]).then_some(()));
    call("set", &instance("b"));
    until("a is gone", || (listed() == ["b"]).then_some(()));
    device.ctl_ok(&["call", "service", "delete", "{\"name\":\"multi\"}"]);
    until("the service is gone", || {
        device.json(&["service", "list"]).get("multi").is_none().then_some(())
    });
    assert!(device.processes("multi").is_empty());
}

#[test]
fn check_says_what_is_wrong_without_a_running_device() {
    let device = Device::new();
    device.define("camera", "command = [\"/bin/true\"]\nrespwan = 5\n");
    let path = device.folder().join("etc/services.d/camera.toml");
    let reply = device.ctl(&["service", "check", path.to_str().unwrap()]);
    assert_eq!(reply.status.code(), Some(2), "{reply:?}");
    let said = reply.stdout + &reply.stderr;
    assert!(said.contains("camera.toml:2") && said.contains("respawn"), "{said}");
    fs::write(&path, "command = [\"/bin/true\"]\n").unwrap();
    assert!(device.ctl(&["service", "check", path.to_str().unwrap()]).status.success());
}
