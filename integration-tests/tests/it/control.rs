//! Orders and procd's methods on running services: reload, signals, data, updates, a definition that changes.

use std::fs;

use rustix::process::Signal;
use serde_json::json;
use testkit::{Device, alive, until};

use crate::support::{demo, device_with, kill, lines, until_printed};

/// A shell that prints which signals it gets.
fn listener(signals: &[&str]) -> Vec<String> {
    let traps: String =
        signals.iter().map(|name| format!("trap 'echo got {name}' {name}; ")).collect();
    let script = format!("{traps}echo listening; while :; do sleep 1000 & wait; done");
    ["sh", "-c", &script].map(str::to_owned).to_vec()
}

fn command(words: &[String]) -> String {
    format!("command = {words:?}\n")
}

#[test]
fn reload_is_the_signal_of_the_definition_and_signal_any_other() {
    let text = command(&listener(&["HUP", "USR1"])) + "reload = { signal = \"HUP\" }\n";
    let device = device_with(&[("web", text)]);
    let pid = device.until_pid("web");
    until_printed(&device, "web", "listening", 1);
    device.ctl_ok(&["service", "reload", "web"]);
    until_printed(&device, "web", "got HUP", 1);
    device.ctl_ok(&["service", "signal", "web", "USR1"]);
    until_printed(&device, "web", "got USR1", 1);
    device.ctl_ok(&["service", "signal", "web", "instance1", "10"]);
    until_printed(&device, "web", "got USR1", 2);
    assert_eq!(device.until_pid("web"), pid);
    assert!(!device.ctl(&["service", "signal", "web", "NOPE"]).status.success());
    assert_eq!(device.ctl(&["service", "signal", "nobody", "HUP"]).status.code(), Some(3));
}

#[test]
fn reload_by_command_is_waited_for_and_its_failure_is_told() {
    let mut device = Device::new();
    let (log, bad) = (device.folder().join("log"), device.folder().join("bad"));
    let script =
        format!("echo $VESTAL_SERVICE $COLOUR >> {}; ! test -e {}", log.display(), bad.display());
    device.define(
        "web",
        &(demo(&[])
            + "env = { COLOUR = \"red\" }\n"
            + &format!("reload = {{ command = [\"sh\", \"-c\", {script:?}] }}\n")),
    );
    device.start();
    let pid = device.until_pid("web");
    device.ctl_ok(&["service", "reload", "web"]);
    assert_eq!(lines(&log), ["web red"]);
    fs::write(&bad, "").unwrap();
    let reply = device.ctl(&["service", "reload", "web"]);
    assert_eq!(reply.status.code(), Some(1), "{reply:?}");
    assert_eq!(device.until_pid("web"), pid, "a failed reload is no reason to restart");
}

#[test]
fn without_a_reload_of_its_own_a_service_is_restarted() {
    let device = device_with(&[("web", demo(&[]))]);
    let pid = device.until_pid("web");
    device.ctl_ok(&["service", "reload", "web"]);
    assert!(!alive(pid));
    assert_ne!(device.until_pid("web"), pid);
    device.ctl_ok(&["service", "stop", "web"]);
    assert!(!device.ctl(&["service", "reload", "web"]).status.success(), "nothing to reload");
}

#[test]
fn procds_reload_signal_is_sent_instead_of_a_restart() {
    let mut device = Device::new();
    let file = device.folder().join("settings");
    fs::write(&file, "one").unwrap();
    device.start();
    let message = |signal: bool| {
        let mut instance = json!({ "command": listener(&["HUP"]), "stdout": true, "file": [file] });
        if signal {
            instance["reload_signal"] = json!(1);
        }
        json!({ "name": "web", "instances": { "instance1": instance } }).to_string()
    };
    let set = |signal| drop(device.ctl_ok(&["call", "service", "set", &message(signal)]));
    set(true);
    let pid = device.until_pid("web");
    until_printed(&device, "web", "listening", 1);
    set(true);
    fs::write(&file, "two").unwrap();
    set(true);
    until_printed(&device, "web", "got HUP", 1);
    assert_eq!(device.until_pid("web"), pid);
    // Without one a change of the file restarts it.
    set(false);
    fs::write(&file, "three").unwrap();
    set(false);
    crate::support::until_other_pid(&device, "web", pid);
}

#[test]
fn procds_watchdog_is_switched_on_and_answered_and_its_silence_restarts() {
    let device = device_with(&[]);
    let program = testkit::binary("vestal-demo");
    let message =
        json!({ "name": "web", "instances": { "a": { "command": [program], "respawn": [] } } });
    device.ctl_ok(&["call", "service", "set", &message.to_string()]);
    until("it runs", || device.instance("web", "a")["pid"].as_i64());
    let call = |more: serde_json::Value| {
        let mut args = json!({ "name": "web", "instance": "a" });
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        device.json(&["call", "service", "watchdog", &args.to_string()])
    };
    let expected = |mode: u32, timeout: u32| json!({ "name": "web", "instance": "a", "mode": mode, "timeout": timeout });
    assert_eq!(call(json!({ "mode": 1, "timeout": 300 })), expected(1, 300));
    assert_eq!(call(json!({})), expected(1, 300));
    assert_eq!(device.instance("web", "a")["watchdog"], json!({ "mode": 1, "timeout": 300 }));
    assert_eq!(call(json!({ "timeout": 1 })), expected(1, 1));
    until("its silence ends it", || {
        let seen = device.instance("web", "a");
        seen["last_exit"].as_str().is_some_and(|text| text.contains("watchdog")).then_some(())
    });
    assert_eq!(call(json!({ "mode": 0 }))["mode"], 0);
}

#[test]
fn an_update_stops_what_was_not_added_again() {
    let device = device_with(&[]);
    let program = testkit::binary("vestal-demo");
    let message = |names: &[&str]| {
        let instances: serde_json::Map<_, _> = names
            .iter()
            .map(|name| ((*name).to_owned(), json!({ "command": [program] })))
            .collect();
        json!({ "name": "multi", "instances": instances }).to_string()
    };
    device.ctl_ok(&["call", "service", "set", &message(&["a", "b"])]);
    let pid = |name: &str| device.instance("multi", name)["pid"].as_i64();
    let (a, b) = until("both run", || Some((pid("a")?, pid("b")?)));
    device.ctl_ok(&["service", "update-start", "multi"]);
    device.ctl_ok(&["call", "service", "add", &message(&["a", "c"])]);
    until("the new one runs", || pid("c"));
    assert_eq!((pid("a"), pid("b")), (Some(a), Some(b)), "nothing is stopped before the end");
    device.ctl_ok(&["service", "update-complete", "multi"]);
    until("b is gone", || device.instance("multi", "b").is_null().then_some(()));
    assert_eq!(pid("a"), Some(a), "unchanged, so not restarted");
    assert_eq!(device.processes("multi").len(), 2);
}

#[test]
fn data_is_kept_changed_and_filtered_without_a_restart() {
    let device = device_with(&[("file", demo(&[]))]);
    let program = testkit::binary("vestal-demo");
    let message = json!({
        "name": "web", "data": { "firewall": [1], "mdns": { "port": 80 } },
        "instances": { "a": { "command": [program], "data": { "mdns": "x" } } },
    });
    device.ctl_ok(&["call", "service", "set", &message.to_string()]);
    let pid = until("it runs", || device.instance("web", "a")["pid"].as_i64());
    let data =
        |args: serde_json::Value| device.json(&["call", "service", "get_data", &args.to_string()]);
    let all = json!({ "web": { "*": { "firewall": [1], "mdns": { "port": 80 } }, "a": { "mdns": "x" } } });
    assert_eq!(data(json!({})), all);
    let of_type = json!({ "web": { "*": { "mdns": { "port": 80 } }, "a": { "mdns": "x" } } });
    assert_eq!(data(json!({ "type": "mdns" })), of_type);
    assert_eq!(data(json!({ "name": "file" })), json!({}));
    let change = json!({ "name": "web", "data": { "mdns": 2 } }).to_string();
    device.ctl_ok(&["call", "service", "set_data", &change]);
    let changed = json!({ "web": { "*": { "mdns": 2 }, "a": { "mdns": "x" } } });
    assert_eq!(data(json!({})), changed);
    crate::support::replace_supervisor(&device);
    assert_eq!(data(json!({})), changed, "it outlives the supervisor");
    assert_eq!(device.instance("web", "a")["pid"], pid);
    let of_file = json!({ "name": "file", "data": {} }).to_string();
    let reply = device.ctl(&["call", "service", "set_data", &of_file]);
    assert!(!reply.status.success() && reply.stderr.contains("definition file"), "{reply:?}");
}

#[test]
fn hang_up_of_keeper_or_supervisor_reads_the_definitions_again() {
    let device = device_with(&[("web", demo(&[]))]);
    let web = device.until_pid("web");
    for (name, pid) in [("one", device.keeper_pid()), ("two", device.supervisor_pid())] {
        device.define(name, &demo(&[]));
        kill(pid, Signal::HUP);
        device.until_pid(name);
    }
    assert_eq!(device.until_pid("web"), web);
}

#[test]
fn state_switches_a_service_off_and_on_and_a_definition_by_message_is_deleted_for_good() {
    let device = device_with(&[("web", demo(&[]))]);
    device.until_pid("web");
    device.ctl_ok(&["service", "state", "web", "false"]);
    until("it is stopped", || device.processes("web").is_empty().then_some(()));
    device.ctl_ok(&["service", "state", "web", "true"]);
    device.until_pid("web");
    let program = testkit::binary("vestal-demo");
    let message = json!({ "name": "gone", "instances": { "a": { "command": [program] } } });
    device.ctl_ok(&["call", "service", "set", &message.to_string()]);
    until("it runs", || device.instance("gone", "a")["pid"].as_i64());
    device.ctl_ok(&["service", "delete", "gone"]);
    assert!(device.processes("gone").is_empty());
    crate::support::replace_supervisor(&device);
    assert!(device.json(&["service", "list"]).get("gone").is_none());
}
