//! What a hostile service, an ordinary local user or a missing file must not be able to do to the supervisor.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use rustix::process::Signal;
use testkit::{Device, alive, until};

use crate::support::{demo, device_with, is_root, kill, lines};

/// Kills the supervisor and waits for the next one.
fn replace_supervisor(device: &Device) {
    let before = device.supervisor_pid();
    kill(before, Signal::KILL);
    until("another supervisor", || (device.supervisor_pid() != before).then_some(()));
    until("it answers", || device.ctl(&["status"]).status.success().then_some(()));
}

#[test]
fn a_pid_file_is_not_written_through_a_link_in_its_place() {
    let mut device = Device::new();
    let precious = device.folder().join("precious");
    fs::write(&precious, "precious").expect("the scratch folder is ours");
    let pidfile = device.folder().join("web.pid");
    symlink(&precious, &pidfile).expect("the scratch folder is ours");
    device.define("web", &format!("{}pidfile = {pidfile:?}\n", demo(&[])));
    device.start();
    let pid = device.until_pid("web");
    until("the pid file is there", || (lines(&pidfile) == [pid.to_string()]).then_some(()));
    assert_eq!(fs::read_to_string(&precious).expect("nobody removed it"), "precious");
}

#[test]
fn a_pipe_in_the_place_of_a_pid_file_keeps_nobody_waiting() {
    let mut device = Device::new();
    let pidfile = device.folder().join("web.pid");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pidfile, rustix::fs::Mode::RWXU)
        .expect("the scratch folder is ours");
    device.define("web", &format!("{}pidfile = {pidfile:?}\n", demo(&[])));
    device.start();
    let pid = device.until_pid("web");
    until("the pid file is there", || (lines(&pidfile) == [pid.to_string()]).then_some(()));
}

#[test]
fn an_environment_file_that_is_gone_costs_a_running_service_nothing() {
    let mut device = Device::new();
    let (file, go) = (device.folder().join("web.env"), device.folder().join("go"));
    fs::write(&file, "A=1\n").expect("the scratch folder is ours");
    let steps = [format!("until={}", go.display()), "say=late".to_owned()];
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    device.define("web", &format!("{}env-files = [{file:?}]\n", demo(&steps)));
    device.start();
    let pid = device.until_pid("web");
    fs::remove_file(&file).expect("it was just made");
    replace_supervisor(&device);
    fs::write(&go, "").expect("the scratch folder is ours");
    let log = device.run_dir().join("state/supervisor/log/web.instance1.log");
    until("what it says is kept", || {
        lines(&log).iter().any(|line| line.ends_with("late")).then_some(())
    });
    assert!(alive(pid));
}

#[test]
fn an_environment_file_that_is_a_pipe_keeps_nobody_waiting() {
    let mut device = Device::new();
    let file = device.folder().join("web.env");
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU)
        .expect("the scratch folder is ours");
    device.define("web", &format!("{}env-files = [{file:?}]\n", demo(&[])));
    device.define("other", &demo(&[]));
    device.start();
    device.until_pid("other");
    until("it is said", || device.console().contains("not a plain file").then_some(()));
}

#[test]
fn a_flood_of_notifications_delays_nobody_and_costs_no_new_plans() {
    let bomb = "FDSTOREREMOVE=1\nFDNAME=x\n".repeat(100);
    let notify = format!("notify={bomb}");
    let steps: Vec<&str> = std::iter::repeat_n(notify.as_str(), 50).collect();
    let text = format!("{}watchdog = \"60s\"\nfd-store = 4\n", demo(&steps));
    let device = device_with(&[("flood", text), ("web", demo(&[]))]);
    let supervisor = device.supervisor_pid();
    device.until_pid("flood");
    device.until_pid("web");
    assert_eq!(device.supervisor_pid(), supervisor);
}

#[test]
fn locks_are_nobody_elses_and_sockets_are_everybodys() {
    let device = device_with(&[]);
    let mode = |name: &str| {
        let found = fs::symlink_metadata(device.run_dir().join(name)).expect("it is there");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode("supervisor.lock"), 0o600);
    assert_eq!(mode("supervisor.sock"), 0o666);
}

#[test]
fn a_probes_command_has_no_more_rights_than_its_service() {
    if !is_root("a_probes_command_has_no_more_rights_than_its_service") {
        return;
    }
    let mut device = Device::new();
    let shared = device.folder().join("shared");
    fs::create_dir(&shared).expect("the scratch folder is ours");
    for folder in [device.folder(), &shared] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("it is ours");
    }
    let mark = shared.join("mark");
    let text = format!(
        "user = \"nobody\"\n{}\n[readiness]\ncommand = [\"/bin/touch\", {mark:?}]\n",
        demo(&[])
    );
    // The demo service lies in a folder that not everybody may look into.
    let text = text.replace(&demo(&[]), "command = [\"/bin/sleep\", \"1000\"]\n");
    device.define("web", &text);
    device.start();
    device.until_state("web", "ready");
    assert_ne!(fs::metadata(&mark).expect("the probe made it").uid(), 0);
}

#[test]
fn a_set_that_is_refused_does_not_come_back_with_the_next_supervisor() {
    let device = device_with(&[]);
    // None is too large by itself; together they need more slots than there are.
    let set = |name: &str| {
        let instances: serde_json::Map<_, _> = (0..250)
            .map(|number| (format!("i{number}"), serde_json::json!({ "command": ["/bin/true"] })))
            .collect();
        let message =
            serde_json::json!({ "name": name, "autostart": false, "instances": instances });
        device.ctl(&["call", "service", "set", &message.to_string()])
    };
    for number in 0..8 {
        let filler = set(&format!("filler{number}"));
        assert!(filler.status.success(), "{filler:?}");
    }
    let refused = set("many");
    assert!(refused.stderr.contains("are free"), "{refused:?}");
    // Room again for a few: what is added now is added to nothing, neither now nor later to what was refused.
    device.ctl_ok(&["service", "delete", "filler0"]);
    let one = r#"{"name": "many", "instances": {"one": {"command": ["/bin/sleep", "1000"]}}}"#;
    device.ctl_ok(&["call", "service", "add", one]);
    replace_supervisor(&device);
    let found = device.json(&["service", "list"]);
    let instances = found["many"]["instances"].as_object().expect("it was accepted");
    assert_eq!(instances.keys().collect::<Vec<_>>(), ["one"]);
}
