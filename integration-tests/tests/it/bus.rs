//! The processes of the suite find each other through the registry, and any of them may be killed or replaced meanwhile.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;
use testkit::{Device, binary, until};

use crate::{
    load::Load,
    support::{kill, until_other_pid},
};

/// A definition that serves the object of its own name.
pub(crate) fn object(name: &str) -> String {
    let program = binary("vestal-demo-object");
    format!(
        "command = [{program:?}, {name:?}]\nrespawn = \"always\"\n\
         readiness = {{ notify = true }}\n\
         [[sockets]]\nname = \"control\"\nlisten = \"run:{name}.sock\"\nmode = \"0666\"\n"
    )
}

/// A device with the core daemons, and an object for each name; everything is there.
pub(crate) fn suite(names: &[&str]) -> Device {
    let mut device = Device::with_core();
    for name in names {
        device.define(name, &object(name));
    }
    device.start();
    let all = [&["wait-for", "service", "system", "registry", "log"], names].concat();
    device.ctl_ok(&all);
    device
}

fn names(device: &Device) -> Vec<String> {
    let listed = device.json(&["list"]);
    let mut names: Vec<String> =
        listed.as_object().expect("a table by name").keys().cloned().collect();
    names.sort();
    names
}

#[test]
fn the_suites_objects_and_those_of_applications_are_found_by_name() {
    let device = suite(&["camera"]);
    let names = names(&device);
    for name in ["camera", "log", "registry", "service", "system"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    let pid = device.json(&["call", "camera", "pid"])["pid"].as_i64();
    assert_eq!(pid, Some(device.until_pid("camera").into()));
}

#[test]
fn each_daemon_of_the_suite_is_killed_under_ten_thousand_calls_a_second_and_no_call_fails() {
    let device = suite(&["camera"]);
    let load = Load::start(&device.run_dir(), "camera");
    load.until_more(2_000);
    for _ in 0..3 {
        for name in ["registry", "log"] {
            let pid = device.until_pid(name);
            kill(pid, Signal::KILL);
            load.until_more(2_000);
            until_other_pid(&device, name, pid);
        }
        crate::support::replace_supervisor(&device);
        load.until_more(2_000);
    }
    device.ctl_ok(&["wait-for", "service", "system", "registry", "log", "camera"]);
    let outcome = load.finish();
    assert!(outcome.failures.is_empty(), "{outcome:?}");
    assert!(outcome.done > 18_000, "{outcome:?}");
}

#[test]
fn a_registry_that_was_killed_knows_every_endpoint_by_its_old_handle_and_tells_of_no_death() {
    let device = suite(&["camera", "door"]);
    let handles = |device: &Device| -> Vec<Value> {
        ["camera", "door", "log", "service"]
            .map(|name| {
                device.json(&["call", "registry", "lookup", &format!(r#"{{"object":{name:?}}}"#)])
                    ["handle"]
                    .take()
            })
            .to_vec()
    };
    let before = handles(&device);
    let mut watcher = Listener::start(&device, &["endpoint.died", "object.remove"]);
    for _ in 0..3 {
        let pid = device.until_pid("registry");
        kill(pid, Signal::KILL);
        until_other_pid(&device, "registry", pid);
        device.ctl_ok(&["wait-for", "service", "system", "log", "camera", "door"]);
        assert_eq!(handles(&device), before);
    }
    device.ctl_ok(&["publish", "marker", "{}"]);
    kill(device.until_pid("door"), Signal::KILL);
    // That the line was interrupted is told, and is no news.
    let news = (0..100).map(|_| watcher.next()).find(|line| !line.contains("\"gap\":true"));
    let news = news.expect("three interruptions make three gaps");
    assert!(news.contains("door"), "the first news is of the door's own death: {news}");
}

/// `vestalctl listen`, running.
pub(crate) struct Listener {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Listener {
    pub(crate) fn start(device: &Device, patterns: &[&str]) -> Self {
        let mut child = device
            .command("vestalctl")
            .args(["--json", "listen", "--no-retained"])
            .args(patterns)
            .stdout(Stdio::piped())
            .spawn()
            .expect("vestalctl is executable");
        let lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        until("the registry knows the listener", || {
            let status = device.json(&["registry", "status"]);
            let subscribers = status["subscribers"].as_array().cloned().unwrap_or_default();
            let found = subscribers.iter().any(|one| {
                patterns.iter().all(|pattern| {
                    one["patterns"].as_array().is_some_and(|all| all.iter().any(|p| p == pattern))
                })
            });
            found.then_some(())
        });
        Self { child, lines }
    }

    pub(crate) fn next(&mut self) -> String {
        self.lines.next().expect("it listens on").expect("it prints text")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python(device: &Device) -> Command {
    let client = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/vestal.py");
    let mut python = Command::new("python3");
    python.arg(client).env("VESTAL_RUN_DIR", device.run_dir()).stdout(Stdio::piped());
    python
}

#[test]
fn a_peer_written_from_the_document_alone_calls_listens_and_serves() {
    let device = suite(&["camera"]);
    let called = python(&device).args(["call", "camera", "pid"]).output().unwrap();
    let answer: Value = serde_json::from_slice(&called.stdout).unwrap();
    assert_eq!(answer["pid"].as_i64(), Some(device.until_pid("camera").into()));

    let mut listening = python(&device).args(["listen", "greeting.*"]).spawn().unwrap();
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "listening");
    device.ctl_ok(&["publish", "greeting.morning", r#"{"n":1}"#]);
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(event, serde_json::json!(["greeting.morning", 0, { "n": 1 }]));
    listening.kill().unwrap();
    listening.wait().unwrap();

    let socket = device.folder().join("python.sock");
    let mut serving =
        python(&device).args(["serve", "snake", socket.to_str().unwrap()]).spawn().unwrap();
    let mut lines = BufReader::new(serving.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), r#"[{"name": "snake"}]"#);
    let answer = device.json(&["call", "snake", "greet", r#"{"name":"you"}"#]);
    assert_eq!(answer["text"], "hello you");
    let listed = device.ctl_ok(&["list", "-v", "snake"]);
    assert!(listed.contains("greet"), "{listed}");
    serving.kill().unwrap();
    serving.wait().unwrap();
    let gone = device.ctl(&["call", "snake", "greet", r#"{"name":"you"}"#]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
}

#[test]
fn the_python_peer_has_at_most_two_hundred_lines() {
    let text = include_str!("../../python/vestal.py");
    assert!(text.lines().count() <= 200);
}
