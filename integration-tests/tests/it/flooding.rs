//! One caller without manners beside others: it is slowed down, they are not.

use testkit::Device;

use crate::{
    bus::suite,
    parts::Part,
    support::{is_root, lines},
};

/// Two users who may call the camera.
fn camera_for_two() -> Device {
    let device = suite(&["camera"]);
    let folder = device.folder().join("etc/policy.d");
    std::fs::create_dir_all(&folder).unwrap();
    let rule = "[[allow]]\nobject = \"camera\"\nusers = [1000, 1001]\n";
    std::fs::write(folder.join("camera.toml"), rule).unwrap();
    testkit::until("the rule holds everywhere", || {
        let state = device.json(&["registry", "policy"]);
        let behind = state["behind"].as_array().is_some_and(|behind| !behind.is_empty());
        (state["rules"].to_string().contains("camera.toml") && !behind).then_some(())
    });
    device
}

#[test]
fn a_flooding_caller_is_told_busy_and_when_to_come_back_and_another_ones_calls_all_succeed() {
    if !is_root("a flood by another user") {
        return;
    }
    let device = camera_for_two();
    let mut flood = Part::start("flood", &device.run_dir(), "camera", Some(1000));
    assert_eq!(flood.next(), "begun");
    let mut steady = Part::start("steady", &device.run_dir(), "camera", Some(1001));
    let failed = steady.next();
    assert_eq!(failed, serde_json::json!([]), "the other one's calls");
    let counts = flood.next();
    let of = |kind: &str| counts[kind].as_u64().unwrap_or_default();
    eprintln!("the flood: {counts}");
    assert_eq!(of("done") + of("busy"), 20_000, "nothing else happens to it: {counts}");
    assert!(of("done") >= 1_500, "its burst passes: {counts}");
    assert!(of("busy") > of("done"), "most of it does not: {counts}");
    // And root is not behind either of them.
    device.ctl_ok(&["call", "camera", "pid"]);
}

#[test]
fn a_flood_of_lookups_and_of_events_by_one_user_keeps_nobody_from_finding_and_hearing() {
    if !is_root("a flood by another user") {
        return;
    }
    let device = camera_for_two();
    let mut heard = crate::bus::Listener::start(&device, &["calm.*"]);
    // Every connection the user may have, and each does nothing but ask.
    let storm = "import sys, threading, vestal\n\
        def ask():\n\
        \x20   try:\n\
        \x20       c = vestal.Client(sys.argv[1])\n\
        \x20       while True:\n\
        \x20           try: c.call('registry', 'lookup', {'object': 'camera'})\n\
        \x20           except RuntimeError as e: busy.append(e)\n\
        \x20   except OSError: pass\n\
        busy = []\n\
        for _ in range(16): threading.Thread(target=ask, daemon=True).start()\n\
        print('begun', flush=True)\n\
        sys.stdin.read()\n";
    let said = device.folder().join("storm");
    let mut python = std::process::Command::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups", "/usr/bin/env", "python3", "-c"])
        .arg(storm)
        .arg(device.run_dir().join("registry.sock"))
        .env("PYTHONPATH", std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::fs::File::create(&said).unwrap())
        .spawn()
        .unwrap();
    testkit::until("the storm has begun", || (!lines(&said).is_empty()).then_some(()));
    for number in 0..50 {
        let found = device.json(&["call", "registry", "lookup", r#"{"object":"camera"}"#]);
        assert!(found["socket"].is_string());
        device.ctl_ok(&["publish", "calm.number", &number.to_string()]);
        let line = heard.next();
        assert!(line.contains(&format!("\"data\":{number}")), "{line}");
    }
    assert!(python.try_wait().unwrap().is_none(), "it still goes on");
    python.kill().unwrap();
    python.wait().unwrap();
}
