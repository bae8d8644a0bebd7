//! What services want done when something happens: every action of a file's triggers, procd's language in messages, raw
//! triggers, and who waits for whom.

use std::fs;

use serde_json::{Value, json};
use testkit::{Device, alive, until};

use crate::{
    applications::Events,
    support::{applet, demo, is_root, lines, until_other_pid},
};

/// A device of supervisor and registry, for events by hand.
fn device(definitions: &[(&str, String)]) -> Device {
    let mut device = Device::with_core();
    for name in ["log", "heartbeat", "config", "upgrade", "driver", "autorun"] {
        device.define(name, "command = [\"off\"]\nenabled = false\n");
    }
    for (name, text) in definitions {
        device.define(name, text);
    }
    device.start();
    device.ctl_ok(&["wait-for", "service", "registry"]);
    device
}

fn event(device: &Device, kind: &str, data: Value) {
    device.ctl_ok(&["event", kind, &data.to_string()]);
}

#[track_caller]
fn ubus(device: &Device, words: &[&str]) -> String {
    let reply = applet(device, "ubus", words);
    assert!(reply.status.success(), "{words:?}: {reply:?}\n{}", device.console());
    reply.stdout
}

/// A shell's command that adds a line with these words to a file of the test.
fn say(device: &Device, name: &str, words: &str) -> Value {
    let file = device.folder().join(name);
    json!(["run_script", "/bin/sh", "-c", format!("echo {words} >> {}", file.display())])
}

fn said(device: &Device, name: &str) -> Vec<String> {
    lines(&device.folder().join(name))
}

#[track_caller]
fn until_said(device: &Device, name: &str, wanted: &[&str]) {
    until(&format!("{name} has {wanted:?}"), || (said(device, name) == wanted).then_some(()));
}

#[test]
fn a_file_s_triggers_reload_restart_signal_and_run() {
    let mut device = Device::new();
    let file = device.folder().join("signals");
    let script = format!(
        "trap 'echo hup >> {0}' HUP; trap 'echo usr1 >> {0}' USR1; echo start >> {0}; \
         while :; do sleep 1000 & wait; done",
        file.display()
    );
    let run = format!("echo $0 >> {}", file.display());
    device.define(
        "camera",
        &format!(
            "command = [\"/bin/sh\", \"-c\", {script:?}]\nreload = {{ signal = \"HUP\" }}\n\
             [[triggers]]\nevent = \"a.reload\"\n\
             [[triggers]]\nevent = \"a.signal\"\nsignal = \"USR1\"\n\
             [[triggers]]\nevent = \"a.run\"\nrun = [\"/bin/sh\", \"-c\", {run:?}, \"ran\"]\n\
             [[triggers]]\nevent = \"a.restart\"\naction = \"restart\"\ndelay = \"10ms\"\n"
        ),
    );
    device.start();
    until_said(&device, "signals", &["start"]);
    let pid = device.until_pid("camera");
    event(&device, "a.reload", json!({}));
    until_said(&device, "signals", &["start", "hup"]);
    event(&device, "a.signal", json!({}));
    until_said(&device, "signals", &["start", "hup", "usr1"]);
    event(&device, "a.run", json!({}));
    until_said(&device, "signals", &["start", "hup", "usr1", "ran"]);
    assert!(alive(pid));
    event(&device, "a.restart", json!({}));
    until_other_pid(&device, "camera", pid);
    until_said(&device, "signals", &["start", "hup", "usr1", "ran", "start"]);
}

#[test]
fn a_trigger_starts_nothing_that_nobody_wants() {
    let triggers = "[[triggers]]\nevent = \"a\"\naction = \"restart\"\n\
                    [[triggers]]\nevent = \"b\"\naction = \"reload\"\n";
    let device = device(&[("camera", format!("{}{triggers}", demo(&[])))]);
    device.until_pid("camera");
    device.ctl_ok(&["service", "stop", "camera"]);
    let mut events = Events::start(&device, &["service.trigger"]);
    for kind in ["a", "b"] {
        event(&device, kind, json!({}));
        assert_eq!(events.next()["data"]["event"], kind);
    }
    assert!(device.processes("camera").is_empty());
}

#[test]
fn patterns_compare_what_stands_before_the_star_and_strict_ones_each_part() {
    let trigger = |pattern: &str, rest: &str, word: &str, device: &Device| {
        let file = device.folder().join(word);
        let run = format!("echo x >> {}", file.display());
        format!("[[triggers]]\nevent = {pattern:?}\n{rest}\nrun = [\"/bin/sh\", \"-c\", {run:?}]\n")
    };
    let mut device = Device::new();
    for (name, pattern, rest) in [
        ("prefix", "interface.*", ""),
        ("strict", "interface.*", "strict = true"),
        ("up", "interface.*.up", "strict = true"),
        ("wan", "interface.*", "interface = \"wan\""),
        ("last", "interface.end", ""),
    ] {
        let text = format!("{}{}", demo(&[]), trigger(pattern, rest, name, &device));
        device.define(name, &text);
    }
    device.start();
    for (kind, interface) in [
        ("interfaceXY", "lan"),
        ("interface.lan.up", "lan"),
        ("interface.wan.down", "wan"),
        ("other", "wan"),
    ] {
        event(&device, kind, json!({ "interface": interface }));
        // Each is over before the next: what is wanted twice while it waits is done once.
        until("nothing is left to do", || {
            let list = ubus(&device, &["call", "service", "list", r#"{"verbose":true}"#]);
            let list: Value = serde_json::from_str(&list).ok()?;
            let busy = list.as_object()?.values().any(|service| service.get("queue").is_some());
            (!busy).then_some(())
        });
    }
    event(&device, "interface.end", json!({}));
    until_said(&device, "last", &["x"]);
    for (name, times) in [("prefix", 4), ("strict", 3), ("up", 1), ("wan", 1)] {
        until(&format!("{name} ran {times} times"), || {
            (said(&device, name).len() == times).then_some(())
        });
    }
}

#[test]
fn procds_language_in_a_message_decides_and_fills_in() {
    let device = device(&[]);
    let say = |words: &str| say(&device, "said", words);
    let message = json!({
        "name": "hello",
        "instances": { "instance1": { "command": [testkit::binary("vestal-demo")] } },
        "triggers": [
            ["config.change", ["if", ["eq", "package", "hello"], say("hello"), say("other")], 1],
            ["t.case", ["case", "way", { "in": say("in-%name%"), "out": say("out-%%") }]],
            ["t.regex", ["if", ["and", ["regex", "name", "^eth[0-9]"], ["not", ["has", "x"]]], say("eth")]],
            ["t.or", ["if", ["or", ["eq", "a", ["1", "2"]], ["isdir", "/nowhere"]], say("or")]],
            ["t.stop", [say("first"), ["return"], say("never")]],
            ["t.raw", [say("raw")], 5],
            ["t.wrong", ["if", ["within", "a"], say("never"), say("never")]],
            ["done", [say("done")]],
        ],
    });
    ubus(&device, &["call", "service", "set", &message.to_string()]);
    let mut wanted = Vec::new();
    for (kind, data, word) in [
        ("config.change", json!({ "package": "hello" }), "hello"),
        ("config.change", json!({ "package": "x" }), "other"),
        ("t.case", json!({ "way": "in", "name": "wan" }), "in-wan"),
        ("t.case", json!({ "way": "out" }), "out-%"),
        ("t.regex", json!({ "name": "eth0" }), "eth"),
        ("t.or", json!({ "a": "2" }), "or"),
        ("t.stop", json!({}), "first"),
        ("t.raw", json!({}), "raw"),
    ] {
        let data = json!({ "type": kind, "data": data }).to_string();
        ubus(&device, &["call", "service", "event", &data]);
        wanted.push(word);
        until_said(&device, "said", &wanted);
    }
    for (kind, data) in [
        ("t.case", json!({ "way": "through" })),
        ("t.regex", json!({ "name": "eth0", "x": "1" })),
        ("t.regex", json!({ "name": "lo" })),
        ("t.or", json!({ "a": "3" })),
        ("t.wrong", json!({ "a": "1" })),
        ("t.ra", json!({})),
        ("done", json!({})),
    ] {
        event(&device, kind, data);
    }
    wanted.push("done");
    until_said(&device, "said", &wanted);
    let listed = ubus(&device, &["call", "service", "list", r#"{"name":"hello","verbose":true}"#]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["hello"]["triggers"], message["triggers"]);
}

#[test]
fn free_data_and_instances_that_change_are_events_of_their_own() {
    let device = device(&[]);
    let instance =
        |data: Value| json!({ "command": [testkit::binary("vestal-demo")], "data": data });
    let set = |name: &str, message: Value| {
        let mut message = message;
        message["name"] = json!(name);
        ubus(&device, &["call", "service", "set", &message.to_string()]);
    };
    set(
        "watcher",
        json!({ "instances": {}, "triggers": [
            ["service.data.update", ["if", ["eq", "name", "mdns"], say(&device, "said", "%name%")]],
        ] }),
    );
    set("hello", json!({ "instances": { "one": instance(json!({ "mdns": 1, "other": 1 })) } }));
    until_said(&device, "said", &["mdns"]);
    set("hello", json!({ "instances": { "one": instance(json!({ "mdns": 1, "other": 2 })) } }));
    set("hello", json!({ "instances": { "one": instance(json!({ "mdns": 2, "other": 2 })) } }));
    until_said(&device, "said", &["mdns", "mdns"]);
}

#[test]
fn a_slow_script_delays_no_other_service_and_what_comes_meanwhile_is_done_once_more() {
    let go = |device: &Device, name: &str| device.folder().join(name);
    let message = |name: &str, triggers: Value| {
        json!({ "name": name, "instances": {}, "triggers": triggers }).to_string()
    };
    let device = device(&[]);
    let (begun, gate) = (go(&device, "begun"), go(&device, "gate"));
    let slow = format!(
        "echo x >> {}; while [ ! -e {} ]; do sleep 0.02; done",
        begun.display(),
        gate.display()
    );
    let run = json!([["tick", [["run_script", "/bin/sh", "-c", slow]]]]);
    ubus(&device, &["call", "service", "set", &message("slow", run)]);
    let run = json!([["tick", [say(&device, "quick", "x")]]]);
    ubus(&device, &["call", "service", "set", &message("quick", run)]);
    for round in 1..=3 {
        event(&device, "tick", json!({}));
        until("the quick one ran", || (said(&device, "quick").len() == round).then_some(()));
    }
    until("the slow one has begun", || (said(&device, "begun") == ["x"]).then_some(()));
    fs::write(gate, "").unwrap();
    until("it was done once more", || (said(&device, "begun").len() == 2).then_some(()));
    event(&device, "tick", json!({}));
    until("the quick one ran", || (said(&device, "quick").len() == 4).then_some(()));
    until("and again", || (said(&device, "begun").len() == 3).then_some(()));
}

#[test]
fn how_a_script_ended_is_told_and_what_it_prints_is_logged() {
    let device = device(&[]);
    let script = |text: &str| json!([["run_script", "/bin/sh", "-c", text]]);
    let message = json!({ "name": "hello", "instances": {}, "triggers": [
        ["good", script("echo from the script")],
        ["bad", script("exit 3")],
        ["killed", script("kill -KILL $$")],
        ["missing", [["run_script", "/no/such/program"]]],
    ] });
    ubus(&device, &["call", "service", "set", &message.to_string()]);
    let mut events = Events::start(&device, &["service.trigger"]);
    for (kind, result) in
        [("good", "exit 0"), ("bad", "exit 3"), ("killed", "signal 9"), ("missing", "not started")]
    {
        event(&device, kind, json!({}));
        let told = events.next()["data"].take();
        assert_eq!((&told["service"], &told["event"]), (&json!("hello"), &json!(kind)));
        assert!(told["result"].as_str().is_some_and(|text| text.starts_with(result)), "{told}");
    }
    until("what it printed is in the log", || {
        device.console().contains("from the script").then_some(())
    });
}

#[test]
fn an_ordinary_user_raises_no_events() {
    if !is_root("another user") {
        return;
    }
    let device = device(&[]);
    let output = device
        .in_environment("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(testkit::binary("vestalctl"))
        .args(["event", "config.change", r#"{"package":"hello"}"#])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(told.contains("service.event") || told.contains("event"), "{told}");
}

#[test]
fn a_watched_file_restarts_when_its_content_is_another_and_only_then() {
    let device = device(&[]);
    let file = device.folder().join("settings");
    fs::write(&file, "one\n").unwrap();
    let message = json!({ "name": "hello", "instances": { "instance1": {
        "command": [testkit::binary("vestal-demo")], "file": [&file],
    } } })
    .to_string();
    let set = || drop(ubus(&device, &["call", "service", "set", &message]));
    set();
    let pid = device.until_pid("hello");
    // Written again with what it said, and another file in its place.
    fs::write(&file, "one\n").unwrap();
    set();
    let fresh = device.folder().join("fresh");
    fs::write(&fresh, "one\n").unwrap();
    fs::rename(fresh, &file).unwrap();
    set();
    assert!(alive(pid));
    assert_eq!(device.until_pid("hello"), pid);
    fs::write(&file, "two\n").unwrap();
    set();
    let second = until_other_pid(&device, "hello", pid);
    fs::remove_file(&file).unwrap();
    set();
    until_other_pid(&device, "hello", second);
}
