//! What a command sends, prints, and exits with.

use std::{os::unix::net::UnixListener, process::Stdio};

use serde_json::json;

use crate::fake::{Fake, command, run};

#[test]
fn status_shows_instances_problems_and_no_control_characters() {
    let reply = Fake::start().ctl(&["status"]);
    assert_eq!((reply.code, &*reply.stderr), (0, ""));
    let lines: Vec<_> = reply.stdout.lines().collect();
    assert!(lines[0].starts_with("SERVICE  INSTANCE  STATE"), "{lines:?}");
    assert!(lines[1].contains("ready") && lines[1].contains("4m10s"), "{lines:?}");
    assert!(lines[1].ends_with("evil \\u{1b}[31m"), "{lines:?}");
    assert!(lines[2].contains("held") && lines[2].ends_with("exit 3"), "{lines:?}");
    assert!(lines[3].starts_with("idle"), "{lines:?}");
    assert!(reply.stdout.ends_with("problem: a.toml:4: unknown key \"x\"\nnot installed: log\n"));
    assert!(!reply.stdout.contains('\u{1b}'));
}

#[test]
fn status_as_json_has_what_the_kernel_knows() {
    let status = Fake::start().ctl(&["--json", "status", "web"]).json();
    assert_eq!(status["services"].as_array().unwrap().len(), 2);
    assert!(status["services"][0]["memory_bytes"].as_u64().unwrap() > 0);
    assert_eq!(status["services"][1]["note"], "exit 3");
    assert_eq!(status["keeper"], json!({ "pid": 1, "pid_one": true }));
}

#[test]
fn status_of_an_unknown_service_exits_with_3_and_a_suggestion() {
    Fake::start().ctl(&["status", "wbe"]).fails(3, "did you mean \"web\"?");
}

#[test]
fn every_printing_command_prints_json() {
    let fake = Fake::start();
    for args in [
        &["status"][..],
        &["service", "list"],
        &["service", "list", "-v", "web"],
        &["service", "reread"],
        &["service", "get-data", "web"],
        &["service", "start", "web"],
        &["system", "board"],
        &["system", "info"],
        &["system", "watchdog", "--timeout", "60"],
        &["system", "reboot"],
        &["boot", "blame"],
        &["boot", "chain"],
        &["list"],
        &["list", "-v"],
        &["call", "service", "list"],
        &["supervisor", "reexec"],
        &["keeper", "reexec"],
    ] {
        let reply = fake.ctl(&[&["--json"], args].concat());
        assert!(reply.json().is_object(), "{args:?}: {reply:?}");
    }
}

#[test]
fn service_list_of_an_unknown_name_is_empty_as_with_procd() {
    let fake = Fake::start();
    assert_eq!(fake.ctl(&["--json", "service", "list", "none"]).json(), json!({}));
    assert_eq!(fake.ctl(&["service", "list", "none"]).stdout.lines().count(), 1);
    let listed = fake.ctl(&["service", "list", "web"]).stdout;
    let words: Vec<_> = listed.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(words, ["web", "b", "no", "-", "/bin/web"]);
}

#[test]
fn what_is_refused_exits_with_1_and_one_line() {
    let reply = Fake::start().ctl(&["service", "start", "secret"]);
    reply.fails(1, "vestalctl: service.start is for root; ask root");
}

#[test]
fn what_is_not_there_exits_with_3() {
    let fake = Fake::start();
    fake.ctl(&["service", "start", "nobody"]).fails(3, "no service of that name");
    fake.ctl(&["call", "service", "strat"]).fails(3, "start");
    fake.ctl(&["call", "sevice", "list"]).fails(3, "did you mean \"service\"?");
    fake.ctl(&["list", "none"]).fails(3, "nobody serves");
    fake.ctl(&["service", "set", "/nonexistent/x.toml"]).fails(3, "open /nonexistent/x.toml");
}

#[test]
fn wrong_usage_exits_with_2() {
    let fake = Fake::start();
    for args in [
        &["frobnicate"][..],
        &["service", "start"],
        &["service", "signal", "web", "TRM"],
        &["service", "start", "web", "--timeout", "0"],
        &["call", "service", "list", "{"],
        &["service", "set", "-"],
    ] {
        let reply = fake.ctl(args);
        assert_eq!((reply.code, &*reply.stdout), (2, ""), "{args:?}: {reply:?}");
        assert!(!reply.stderr.is_empty());
    }
}

#[test]
fn a_daemon_that_is_not_there_exits_with_4() {
    let folder = tempfile::tempdir().unwrap();
    let status = |run_dir| run(&mut command(run_dir, "vestalctl", &["status"]), "");
    status(folder.path()).fails(4, "supervisor.sock");
    let missing = folder.path().join("missing");
    status(&missing).fails(4, "does not exist");
    assert!(!missing.exists());
    drop(UnixListener::bind(folder.path().join("supervisor.sock")).unwrap());
    status(folder.path()).fails(4, "the daemon that made this socket is gone");
    run(&mut command(folder.path(), "vestalctl", &["list"]), "").fails(4, "cannot reach");
}

#[test]
fn a_daemon_that_does_not_answer_exits_with_5() {
    let fake = Fake::start();
    let reply = fake.ctl(&["service", "stop", "web", "--timeout", "100ms"]);
    reply.fails(5, "stop of web took longer than 100ms");
    fake.ctl(&["call", "service", "stop", "{}", "--timeout", "100ms"]).fails(5, "did not answer");
    // One that accepts and says nothing at all.
    let folder = tempfile::tempdir().unwrap();
    let _silent = UnixListener::bind(folder.path().join("supervisor.sock")).unwrap();
    let args = ["call", "service", "list", "{}", "--timeout", "100ms"];
    run(&mut command(folder.path(), "vestalctl", &args), "").fails(5, "did not answer");
}

#[test]
fn orders_wait_unless_told_otherwise() {
    let fake = Fake::start();
    assert_eq!(fake.ctl(&["--json", "service", "start", "web"]).json(), json!({ "wait": true }));
    let args = ["--json", "service", "start", "web", "--no-wait"];
    assert_eq!(fake.ctl(&args).json(), json!({ "wait": false }));
}

#[test]
fn definitions_are_sent_by_what_they_are() {
    let fake = Fake::start();
    let toml = fake.file("cam.toml", "command = [\"x\"]\n");
    let toml = toml.to_str().unwrap();
    let sent = fake.ctl(&["--json", "service", "set", toml]).json();
    assert_eq!(sent, json!({ "name": "cam", "toml": "command = [\"x\"]\n", "file": toml }));
    let message = r#"{"name":"web","instances":{}}"#;
    let sent = fake.ctl_with_input(&["--json", "service", "add", "-"], message).json();
    assert_eq!(sent, json!({ "name": "web", "instances": {} }));
    let args = ["--json", "service", "set", "-", "--name", "cam"];
    let sent = fake.ctl_with_input(&args, "enabled = false\n").json();
    assert_eq!(sent, json!({ "name": "cam", "toml": "enabled = false\n", "file": "-" }));
}

#[test]
fn signals_and_switches_are_sent_in_procds_words() {
    let fake = Fake::start();
    let sent = fake.ctl(&["--json", "service", "signal", "web", "a", "SIGUSR1"]).json();
    assert_eq!(sent, json!({ "name": "web", "instance": "a", "signal": 10 }));
    let sent = fake.ctl(&["--json", "service", "state", "web", "false"]).json();
    assert_eq!(sent, json!({ "name": "web", "spawn": false }));
    let sent = fake.ctl(&["--json", "system", "signal", "7", "HUP"]).json();
    assert_eq!(sent, json!({ "pid": 7, "signum": 1 }));
    let sent = fake.ctl(&["--json", "system", "watchdog", "--magic-close", "--stop"]).json();
    assert_eq!(sent, json!({ "magicclose": true, "stop": true }));
}

#[test]
fn people_get_texts() {
    let fake = Fake::start();
    assert_eq!(fake.ctl(&["system", "board"]).stdout, "kernel: 6.18\nrelease:\n  version: 1\n");
    assert_eq!(fake.ctl(&["system", "reboot"]).stdout, "stopping everything, then reboot\n");
    assert_eq!(fake.ctl(&["service", "reread"]).stdout, "a.toml:4: unknown key \"x\"\n");
    assert_eq!(fake.ctl(&["list"]).stdout, "service\nsystem\n");
    let listed = fake.ctl(&["list", "-v", "serv*"]).stdout;
    assert!(listed.starts_with("service (vestal.service 0.1, "), "{listed}");
    assert!(listed.contains(", not registered\n  set(name: string)  does it\n"), "{listed}");
    assert!(
        listed.contains("  state(name: string, spawn: boolean)")
            && listed.ends_with("  event service.start\n")
    );
}

#[test]
fn call_prints_raw_answers_as_they_are() {
    let fake = Fake::start();
    assert_eq!(fake.ctl(&["call", "service", "raw"]).stdout, "\u{1}raw");
    let reply = fake.ctl(&["call", "service", "nothing"]);
    assert_eq!((reply.code, &*reply.stdout), (0, ""));
}

#[test]
fn a_reexec_waits_for_the_next_supervisor() {
    let reply = Fake::start().ctl(&["supervisor", "reexec"]);
    assert_eq!(reply.stdout, "supervisor: pid 101 before, 103 now\n");
}

#[test]
fn a_reader_who_left_is_no_error() {
    let fake = Fake::start();
    let mut child = command(fake.run_dir(), "vestalctl", &["status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn check_passes_files_and_places_on_and_the_exit_code_back() {
    let fake = Fake::start();
    let checker = fake.file("vestal-supervisor", "#!/bin/sh\necho \"$@\"\necho bad >&2\nexit 2\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(checker, mode).unwrap();
    // A copy of the program elsewhere has no supervisor beside it and takes the one in PATH.
    let copy = fake.run_dir().join("bin");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_vestalctl"), copy.join("vestalctl")).unwrap();
    let check = |args: &[&str]| {
        let mut command = std::process::Command::new(copy.join("vestalctl"));
        command.args(args).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", fake.run_dir().display()));
        run(&mut command, "")
    };
    let reply = check(&["service", "check", "--config-dir", "/c", "a.toml", "b.toml"]);
    assert_eq!(
        (reply.code, &*reply.stdout, &*reply.stderr),
        (2, "--config-dir /c --check a.toml b.toml\n", "bad\n")
    );
    let reply = check(&["--json", "service", "check", "a.toml"]);
    let said: serde_json::Value = serde_json::from_str(&reply.stdout).unwrap();
    assert_eq!(reply.code, 2);
    assert_eq!(said, json!({ "ok": false, "lines": ["--check a.toml"], "errors": ["bad"] }));
}

#[test]
fn a_boot_is_shown_with_its_cause_and_the_slowest_first() {
    let fake = Fake::start();
    let text = fake.ctl(&["boot", "blame"]).stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "reset: power: it lost its power");
    assert_eq!(lines[1], "keeper 0.010s + services 0.490s = 0.500s until everything was ready");
    assert!(lines[4].contains("web") && lines[5].contains("log"), "{text}");
    let chain = fake.ctl(&["--json", "boot", "chain"]).json();
    assert_eq!(
        (&chain["chain"][0]["name"], &chain["chain"][1]["name"]),
        (&json!("log"), &json!("web"))
    );
}

#[test]
fn a_reason_for_a_reboot_reaches_the_supervisor() {
    let reply = Fake::start().ctl(&["system", "reboot", "--reason", "new firmware"]);
    assert_eq!(reply.stdout, "stopping everything, then reboot: new firmware\n");
}
