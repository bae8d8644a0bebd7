//! Under the name `ubus`: its output byte for byte, its words, its exit codes.

use std::process::Command;

use crate::fake::{Fake, command, run};

#[test]
fn answers_are_indented_with_tabs_or_not_at_all() {
    let fake = Fake::start();
    let reply = fake.ubus(&["call", "system", "board"]);
    let expected = "{\n\t\"kernel\": \"6.18\",\n\t\"release\": {\n\t\t\"version\": \"1\"\n\t}\n}\n";
    assert_eq!((reply.code, &*reply.stdout), (0, expected));
    let reply = fake.ubus(&["-S", "call", "system", "board"]);
    assert_eq!(reply.stdout, "{\"kernel\":\"6.18\",\"release\":{\"version\":\"1\"}}\n");
    let reply = fake.ubus(&["call", "service", "list", r#"{"name":"none"}"#]);
    assert_eq!(reply.stdout, "{\n\t\n}\n");
    let reply = fake.ubus(&["call", "service", "nothing"]);
    assert_eq!((reply.code, &*reply.stdout), (0, ""));
}

#[test]
fn objects_are_listed_one_a_line_or_with_their_signature() {
    let fake = Fake::start();
    assert_eq!(fake.ubus(&["list"]).stdout, "service\nsystem\n");
    assert_eq!(fake.ubus(&["list", "sys*"]).stdout, "system\n");
    let reply = fake.ubus(&["list", "-v", "service"]);
    assert!(
        reply.stdout.starts_with("'service' @00000001\n\t\"set\":{\"name\":\"String\"}\n"),
        "{reply:?}"
    );
    assert!(reply.stdout.contains("\t\"state\":{\"name\":\"String\",\"spawn\":\"Boolean\"}\n"));
    let reply = fake.ubus(&["list", "none"]);
    assert_eq!((reply.code, &*reply.stderr), (4, "Command failed: Not found\n"));
}

#[test]
fn a_failed_call_exits_with_the_status_below_256() {
    let fake = Fake::start();
    let message = r#"{"name":"nobody"}"#;
    let reply = fake.ubus(&["call", "service", "start", message]);
    let expected = format!("Command failed: ubus call service start {message} (Not found)\n");
    assert_eq!((reply.code, &*reply.stderr), (252, &*expected));
    let reply = fake.ubus(&["call", "service", "start", r#"{"name":"secret"}"#]);
    assert_eq!(reply.code, 250);
    let reply = fake.ubus(&["call", "service", "list", "[]"]);
    assert_eq!(reply.code, 244);
    assert!(reply.stderr.ends_with("(Parsing message data failed)\n"), "{reply:?}");
    // Simplified output says nothing and exits with the status itself.
    let reply = fake.ubus(&["-S", "call", "service", "start", message]);
    assert_eq!((reply.code, &*reply.stderr), (4, ""));
}

#[test]
fn an_object_that_nobody_serves_is_not_found_before_it_is_called() {
    let fake = Fake::start();
    for path in ["nothing", "service/none"] {
        let reply = fake.ubus(&["call", path, "list"]);
        assert_eq!((reply.code, &*reply.stderr), (4, "Command failed: Not found\n"));
    }
}

#[test]
fn a_call_that_takes_too_long_ends_with_status_7() {
    let reply = Fake::start().ubus(&["-t", "1", "call", "service", "stop"]);
    assert_eq!(reply.code, 249);
    assert!(reply.stderr.ends_with("(Request timed out)\n"), "{reply:?}");
}

#[test]
fn without_a_bus_it_says_so_and_exits_with_255() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["list"][..], &["call", "service", "list"], &["-s", "/nonexistent", "list"]] {
        let reply = run(&mut command(folder.path(), "ubus", args), "");
        assert_eq!((reply.code, &*reply.stderr), (255, "Failed to connect to ubus\n"), "{args:?}");
    }
}

#[test]
fn wrong_usage_shows_the_usage() {
    let fake = Fake::start();
    for (args, code) in [(&[][..], 1), (&["-x"], 1), (&["call", "service"], 254), (&["fly"], 254)] {
        let reply = fake.ubus(args);
        assert_eq!(reply.code, code, "{args:?}");
        assert!(reply.stderr.starts_with("Usage: ubus "), "{reply:?}");
    }
}

#[test]
fn another_socket_can_be_named_and_a_link_is_enough() {
    let fake = Fake::start();
    let link = fake.run_dir().join("ubus");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vestalctl"), &link).unwrap();
    let socket = fake.run_dir().join("supervisor.sock");
    let mut command = Command::new(link);
    command.env_clear().arg("-s").arg(socket).args(["call", "system", "board"]);
    assert_eq!(run(&mut command, "").code, 0);
}

#[test]
fn events_are_sent_and_listened_to() {
    let fake = Fake::with_bus();
    let mut listening = fake.start_ctl("ubus", &["-S", "listen", "cam.*", "door"]);
    fake.bus.until_subscribed();
    let reply = fake.ubus(&["send", "cam.moved", r#"{"by":2}"#]);
    assert_eq!((reply.code, &*reply.stdout), (0, ""), "{reply:?}");
    assert_eq!(listening.line(), "{ \"cam.moved\": {\"by\":2} }");
    assert_eq!(fake.ubus(&["send", "door"]).code, 0);
    assert_eq!(listening.line(), "{ \"door\": {} }");
    let reply = fake.ubus(&["send", "door", "x"]);
    assert_eq!((reply.code, &*reply.stderr), (12, "Command failed: Parsing message data failed\n"));
    let reply = fake.ubus(&["send", "service.exit"]);
    assert_eq!((reply.code, &*reply.stderr), (6, "Command failed: Permission denied\n"));
}

#[test]
fn a_subscription_leaves_the_objects_name_out() {
    let fake = Fake::with_bus();
    let mut subscribed = fake.start_ctl("ubus", &["subscribe", "camera"]);
    fake.bus.until_subscribed();
    fake.bus.publish("camera.moved", &serde_json::json!({}));
    assert_eq!(subscribed.line(), "{ \"moved\": {");
    let reply = fake.ubus(&["subscribe", "none"]);
    assert_eq!((reply.code, &*reply.stderr), (4, "Command failed: Not found\n"));
}

#[test]
fn waiting_ends_when_the_objects_are_there_or_the_time_is_over() {
    let fake = Fake::with_bus();
    assert_eq!(fake.ubus(&["wait_for", "camera", "log"]).code, 0);
    let reply = fake.ubus(&["-t", "1", "wait_for", "camera", "none"]);
    assert_eq!((reply.code, &*reply.stderr), (7, "Command failed: Request timed out\n"));
}

#[test]
fn what_has_no_meaning_here_exits_with_2() {
    let reply = Fake::with_bus().ubus(&["-m", "invoke", "monitor"]);
    assert_eq!((reply.code, reply.stderr.contains("-m and -M")), (2, true), "{reply:?}");
}

#[test]
fn monitor_prints_calls_and_events() {
    let fake = Fake::with_bus();
    let mut monitor = fake.start_ctl("ubus", &["monitor"]);
    fake.bus.until_subscribed();
    let call = loop {
        // The tap begins some time after the subscription: what is called before is not seen.
        assert_eq!(fake.ubus(&["call", "camera", "snap"]).code, 0);
        fake.bus.publish("door", &serde_json::json!({}));
        let line = monitor.line();
        if line.contains("\"snap\"") {
            break line;
        }
    };
    assert!(call.starts_with("-> ") && call.contains("\"outcome\":\"done\""), "{call}");
}
