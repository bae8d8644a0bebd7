//! Services that start when somebody looks for their object, and services that are ready when theirs is registered.

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::json;
use testkit::{Device, until, within};

use crate::{
    bus::object,
    peers::{Background, ask},
    support::lines,
};

const CALLERS: usize = 50;

fn demand(name: &str, idle: &str) -> String {
    object(name).replace("respawn = \"always\"\n", "")
        + &format!("[on-demand]\nobjects = [{name:?}]\nidle-timeout = {idle:?}\n")
}

#[test]
fn a_service_on_demand_starts_at_the_first_call_and_stops_when_nobody_is_connected() {
    let mut device = Device::with_core();
    device.define("lazy", &demand("lazy", "1s"));
    device.start();
    device.ctl_ok(&["wait-for", "registry", "log"]);
    let running = || device.instance("lazy", "instance1")["pid"].as_i64();
    assert_eq!(running(), None, "it waits to be asked for");
    let background = Background::start();
    let mut pids = BTreeSet::new();
    for _ in 0..2 {
        let bus = background.bus(&device.run_dir());
        let first = background.run(ask(&bus, "lazy", "pid", json!({})))["pid"].as_i64().unwrap();
        assert!(testkit::alive(i32::try_from(first).unwrap()));
        // As long as somebody is connected it stays, however long nothing is called.
        let gone = within(Duration::from_secs(3), || running().is_none().then_some(()));
        assert!(gone.is_none(), "it was stopped under its caller");
        assert_eq!(background.run(ask(&bus, "lazy", "pid", json!({})))["pid"], first);
        drop(bus);
        until("it is stopped", || running().is_none().then_some(()));
        pids.insert(first);
    }
    assert_eq!(pids.len(), 2);
    let looked =
        device.ctl(&["call", "registry", "lookup", r#"{"object":"lazy","activate":false}"#]);
    assert_eq!(looked.status.code(), Some(3), "{looked:?}");
    assert_eq!(running(), None);
}

#[test]
fn many_callers_of_a_service_on_demand_start_it_once() {
    let mut device = Device::with_core();
    let starts = device.folder().join("starts");
    let program = testkit::binary("vestal-demo-object");
    let script = format!("echo $$ >> {}; exec {program:?} lazy", starts.display());
    let definition = demand("lazy", "none").replace(
        &format!("command = [{program:?}, \"lazy\"]"),
        &format!("command = [\"sh\", \"-c\", {script:?}]"),
    );
    device.define("lazy", &definition);
    device.start();
    let background = Background::start();
    let calls: Vec<_> = (0..CALLERS)
        .map(|_| {
            let bus = background.bus(&device.run_dir());
            background.spawn(async move { ask(&bus, "lazy", "pid", json!({})).await })
        })
        .collect();
    let pids: BTreeSet<String> = background.run(async {
        let mut pids = BTreeSet::new();
        for call in calls {
            pids.insert(call.await.unwrap().to_string());
        }
        pids
    });
    assert_eq!(pids.len(), 1, "{pids:?}");
    assert_eq!(lines(&starts).len(), 1);
}

#[test]
fn a_service_is_ready_when_its_object_is_registered_and_not_before() {
    let mut device = Device::with_core();
    let gate = device.folder().join("gate");
    let program = testkit::binary("vestal-demo-object");
    let script =
        format!("until [ -e {} ]; do sleep 0.05; done; exec {program:?} door", gate.display());
    let definition = object("door")
        .replace(&format!("[{program:?}, \"door\"]"), &format!("[\"sh\", \"-c\", {script:?}]"))
        .replace("{ notify = true }", "{ object = \"door\" }");
    device.define("door", &definition);
    device.define("after", "command = [\"sleep\", \"1000\"]\nrequires = [\"door\"]\n");
    device.start();
    device.ctl_ok(&["wait-for", "registry"]);
    device.until_pid("door");
    assert_ne!(device.instance("door", "instance1")["state"], "ready");
    assert!(device.processes("after").is_empty());
    fs::write(&gate, "").unwrap();
    device.until_state("door", "ready");
    device.until_pid("after");
    device.ctl_ok(&["call", "door", "pid"]);
}
