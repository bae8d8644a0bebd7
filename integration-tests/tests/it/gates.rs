//! Gates over the wire: calls wait at a closed one, and it opens again when whoever closed it is gone.

use std::{
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use endpoint::{CallOptions, Code};
use serde_json::json;
use testkit::within;

use crate::{
    bus::suite,
    peers::{Background, LONG, ask, failure, within as deadline},
};

#[test]
fn a_gate_holds_calls_until_it_is_opened_or_its_closer_ends() {
    let device = suite(&["camera", "door"]);
    let background = Background::start();
    let socket = device.run_dir().join("camera.sock");
    let bus = background.bus(&device.run_dir());
    background.run(ask(&bus, "camera", "pid", json!({})));
    let mut answered = 1;
    for ending in ["opened", "disconnected"] {
        let closer = background.client(&socket);
        let close = json!({ "object": "camera", "closed": true, "hold_ms": 60_000 });
        background.run(closer.call("", "_gate", &close, deadline(LONG))).unwrap();
        let held: Vec<_> = (0..20)
            .map(|_| {
                let bus = bus.clone();
                background.spawn(async move { ask(&bus, "camera", "pid", json!({})).await })
            })
            .collect();
        // Other objects are not behind it; and what was asked meanwhile still waits.
        (0..20).for_each(|_| drop(background.run(ask(&bus, "door", "pid", json!({})))));
        let passed = within(Duration::from_millis(500), || {
            held.iter().any(|call| call.is_finished()).then_some(())
        });
        assert!(passed.is_none(), "a call passed the closed gate");
        if ending == "opened" {
            let open = json!({ "object": "camera", "closed": false });
            background.run(closer.call("", "_gate", &open, deadline(LONG))).unwrap();
        } else {
            drop(closer);
        }
        background.run(async {
            for call in held {
                assert!(call.await.unwrap()["pid"].is_i64(), "{ending}");
            }
        });
        answered += 20;
        assert_eq!(device.json(&["call", "camera", "count"])["calls"], answered);
        answered += 1;
    }
    // Who waits too long at it is told so.
    let closer = background.client(&socket);
    let close = json!({ "closed": true, "hold_ms": 100 });
    background.run(closer.call("", "_gate", &close, deadline(LONG))).unwrap();
    let options = CallOptions { wait_when_busy: false, ..deadline(LONG) };
    let refused = failure(background.run(bus.call("camera", "pid", &(), options)));
    assert_eq!(refused.code, Code::Busy, "{refused}");
}

#[test]
fn a_gate_closed_by_a_killed_process_is_open_again() {
    let device = suite(&["camera"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let code = "import sys, vestal\nc = vestal.Client(sys.argv[1])\n\
                c.call('', '_gate', {'closed': True, 'hold_ms': 60000})\n\
                print('closed', flush=True)\nsys.stdin.read()\n";
    let mut python = Command::new("python3")
        .args(["-c", code])
        .arg(device.run_dir().join("camera.sock"))
        .env("PYTHONPATH", script)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    python.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let background = Background::start();
    let bus = background.bus(&device.run_dir());
    let held = background.spawn(async move { ask(&bus, "camera", "pid", json!({})).await });
    let passed = within(Duration::from_millis(500), || held.is_finished().then_some(()));
    assert!(passed.is_none(), "the gate is closed");
    python.kill().unwrap();
    python.wait().unwrap();
    background.run(held).unwrap();
}
