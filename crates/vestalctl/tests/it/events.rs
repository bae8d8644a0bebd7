//! Events, objects that come, the registry's own words, and the tap.

use serde_json::{Value, json};

use crate::{
    bus,
    fake::{Fake, command, run},
};

#[test]
fn objects_are_found_through_the_registry_first() {
    let fake = Fake::with_bus();
    // No table knows the camera.
    assert_eq!(fake.ctl(&["call", "camera", "snap"]).json(), json!({ "picture": 1 }));
    fake.ctl(&["call", "camrea", "snap"]).fails(3, "did you mean \"camera\"?");
    // The registry does not know this one; the table does.
    fake.bus.with(|told| told.rows.retain(|row| row.object.name != "system"));
    assert_eq!(fake.ctl(&["system", "reboot"]).code, 0);
}

#[test]
fn a_registry_that_hangs_does_not_hide_the_supervisor() {
    let fake = Fake::start();
    let path = fake.run_dir().join("registry.sock");
    let _silent = std::os::unix::net::UnixListener::bind(path).unwrap();
    let reply = fake.ctl(&["call", "system", "board", "--timeout", "5s"]);
    assert_eq!(reply.code, 0, "{reply:?}");
}

#[test]
fn list_shows_who_serves_what() {
    let fake = Fake::with_bus();
    let reply = fake.ctl(&["list"]);
    assert_eq!(reply.stdout, "registry\nservice\nsystem\nlog\ncamera\n");
    let listed = fake.ctl(&["list", "-v", "*mera"]).stdout;
    let expected = format!(
        "camera (vestal.camera 1.2, 0000000000000abc)\n  at {}, handle 3.5, pid {} (it), user root\n  snap()  takes a picture\n",
        fake.run_dir().join("cam.sock").display(),
        std::process::id(),
    );
    let listed = listed.replace(&format!("({})", comm()), "(it)");
    assert_eq!(listed, expected);
    let listed = fake.ctl(&["--json", "list", "-v", "camera"]).json();
    let camera = &listed["camera"];
    assert_eq!((&camera["handle"], &camera["version"]), (&json!("3.5"), &json!("1.2")));
    assert_eq!(camera["methods"][0]["name"], "snap");
    fake.ctl(&["list", "none"]).fails(3, "nobody serves");
}

/// What the kernel calls this test.
fn comm() -> String {
    std::fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned()
}

#[test]
fn a_provider_that_does_not_answer_is_listed_all_the_same() {
    let fake = Fake::with_bus();
    fake.bus.serve(bus::row(fake.run_dir(), "ghost", "ghost", 9));
    let listed = fake.ctl(&["list", "-v", "ghost"]).stdout;
    assert!(listed.contains("does not say what it offers"), "{listed}");
}

#[test]
fn listen_shows_what_was_retained_and_what_comes() {
    let fake = Fake::with_bus();
    let reply = fake.ctl(&["listen", "cam.*", "-n", "1"]);
    assert_eq!(reply.code, 0, "{reply:?}");
    assert!(reply.stdout.ends_with(" cam.state {\"on\":true}\n"), "{reply:?}");
    let mut listening =
        fake.start_ctl("vestalctl", &["--json", "listen", "--no-retained", "-n", "2"]);
    fake.bus.until(|told| told.subscribes() == 2);
    fake.bus.publish("a", &json!([1]));
    fake.bus.publish("b", &Value::Null);
    let line: Value = serde_json::from_str(&listening.line()).unwrap();
    assert_eq!((&line["topic"], &line["data"]), (&json!("a"), &json!([1])));
    let line: Value = serde_json::from_str(&listening.line()).unwrap();
    assert_eq!((&line["topic"], &line["data"]), (&json!("b"), &json!(null)));
    assert_eq!((listening.line().as_str(), listening.code()), ("", 0));
}

#[test]
fn listen_ends_with_its_time() {
    let fake = Fake::with_bus();
    let reply = fake.ctl(&["listen", "--no-retained", "none", "--timeout", "100ms"]);
    assert_eq!((reply.code, &*reply.stdout), (0, ""), "{reply:?}");
    let reply = fake.ctl(&["listen", "--no-retained", "none", "-n", "1", "--timeout", "100ms"]);
    reply.fails(5, "0 of 1 events");
}

#[test]
fn without_a_registry_events_are_out_of_reach() {
    let fake = Fake::start();
    for args in [&["listen"][..], &["publish", "a"], &["registry", "status"]] {
        fake.ctl(args).fails(4, "no registry runs here");
    }
    // Its socket is there, but nobody behind it.
    let path = fake.run_dir().join("registry.sock");
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    fake.ctl(&["listen"]).fails(4, "`vestalctl status registry` says why");
}

#[test]
fn publish_says_how_many_listen() {
    let fake = Fake::with_bus();
    assert_eq!(fake.ctl(&["publish", "a.b"]).stdout, "nobody listens to this topic now\n");
    let mut listening = fake.start_ctl("vestalctl", &["listen", "--no-retained", "-n", "1"]);
    fake.bus.until_subscribed();
    assert_eq!(fake.ctl(&["publish", "a.b", "[1]"]).stdout, "sent to 1 subscriber\n");
    assert!(listening.line().ends_with(" a.b [1]"));
    let answer = fake.ctl(&["--json", "publish", "a.b", "{}"]).json();
    assert!(answer["subscribers"].is_u64(), "{answer}");
    fake.ctl(&["publish", "service.exit"]).fails(1, "only the owner of service");
    fake.ctl(&["publish", "a", "{"]).fails(2, "no JSON");
}

#[test]
fn a_retained_event_is_kept_while_its_publisher_stays() {
    let fake = Fake::with_bus();
    let reply = fake.ctl(&["publish", "a", "{}", "--retain", "--for", "50ms"]);
    assert_eq!(reply.code, 0);
    assert!(reply.stderr.contains("kept while this runs"), "{reply:?}");
    assert!(fake.bus.with(|told| told.published[0].retain));
    assert_eq!(fake.ctl(&["publish", "a", "--for", "1s"]).code, 2);
}

#[test]
fn wait_for_ends_when_everything_is_there() {
    let fake = Fake::with_bus();
    assert_eq!(fake.ctl(&["wait-for", "camera", "log"]).stdout, "");
    let mut waiting = fake.start_ctl("vestalctl", &["--json", "wait-for", "camera", "late"]);
    fake.bus.until(|told| told.waits() == 1);
    fake.bus.serve(bus::row(fake.run_dir(), "late", "late", 9));
    assert_eq!((waiting.line().as_str(), waiting.code()), ("{", 0));
    let reply = fake.ctl(&["wait-for", "camera", "none", "--timeout", "100ms"]);
    reply.fails(5, "nobody served none within 100ms");
}

#[test]
fn the_suites_own_objects_are_waited_for_without_a_registry() {
    let fake = Fake::start();
    assert_eq!(fake.ctl(&["wait-for", "service", "--timeout", "5s"]).code, 0);
    fake.ctl(&["wait-for", "service", "log", "--timeout", "100ms"]).fails(5, "nobody served log");
}

#[test]
fn the_registry_shows_its_counts_and_its_rules() {
    let fake = Fake::with_bus();
    let status = fake.ctl(&["registry", "status"]).stdout;
    assert!(status.contains("objects    5\n") && status.contains("policy     4\n"), "{status}");
    let last: Vec<_> = status.lines().last().unwrap().split_whitespace().collect();
    assert_eq!((last[0], last[last.len() - 2], last[last.len() - 1]), ("1", "7", "service.*"));
    let policy = fake.ctl(&["registry", "policy", "camera"]).stdout;
    assert!(policy.starts_with("VERDICT  VERB  OBJECT OR TOPIC  METHODS"), "{policy}");
    assert!(policy.contains("service heartbeat") && policy.contains("built in"), "{policy}");
    assert!(policy.ends_with(
        "\nepoch 4\nproblem: camera.toml:7: unknown key\nstill by older rules: 1 endpoint (3.5)\n"
    ));
    assert_eq!(fake.ctl(&["--json", "registry", "policy"]).json()["epoch"], 4);
}

#[test]
fn the_tap_shows_calls_and_events() {
    let fake = Fake::with_bus();
    let mut monitor =
        fake.start_ctl("vestalctl", &["--json", "monitor", "camera.*", "door", "-n", "1000"]);
    fake.bus.until_subscribed();
    let (mut call, mut event) = (None, None);
    while call.is_none() || event.is_none() {
        // The tap begins some time after the subscription: what is called before is not seen.
        assert_eq!(fake.ctl(&["call", "camera", "snap"]).code, 0);
        fake.bus.publish("door", &json!({}));
        let line: Value = serde_json::from_str(&monitor.line()).unwrap();
        if line["topic"] == "door" { event = Some(line) } else { call = Some(line) }
    }
    let call = call.unwrap();
    assert_eq!((&call["object"], &call["method"]), (&json!("camera"), &json!("snap")), "{call}");
    assert_eq!((&call["outcome"], &call["args_bytes"]), (&json!("done"), &json!(2)), "{call}");
}

#[test]
fn a_tap_of_nothing_is_out_of_reach() {
    let folder = tempfile::tempdir().unwrap();
    let reply = run(&mut command(folder.path(), "vestalctl", &["monitor"]), "");
    assert_eq!(reply.code, 4, "{reply:?}");
    assert!(reply.stderr.contains("no socket in the run directory"), "{reply:?}");
}

#[test]
fn a_service_is_replaced_and_both_pids_are_told() {
    let fake = Fake::start();
    let reply = fake.ctl(&["service", "replace", "live"]);
    assert_eq!(
        (reply.code, &*reply.stdout, &*reply.stderr),
        (0, "live/instance1: pid 500 before, pid 501 now\n", "")
    );
    let told = fake.ctl(&["--json", "service", "replace", "live"]).json();
    let instance = json!({ "instance": "instance1", "old_pid": 501, "new_pid": 502 });
    assert_eq!(told, json!({ "name": "live", "instances": [instance] }));
    fake.ctl(&["service", "replace", "web"]).fails(1, "the old one still runs");
}
