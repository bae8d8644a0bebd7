//! What is booted is not written under an image of the machine that can still be resumed.

use std::{fs, os::unix::net::UnixListener};

use bundle::Kind;
use endpoint::{Code, Failure};
use serde_json::json;

use crate::support::{Device, Pushed, bundle, noise};

/// A boot script in two files; the second is written first.
const BOOT: &str = r#"
[components.boot]
slots = [{ path = "DIR/boot-a", size = "64KiB" }, { path = "DIR/boot-b", size = "64KiB" }]
activate = "mirror"
"#;

/// A socket of an engine that is gone.
fn nobody(device: &Device) {
    UnixListener::bind(device.path("run/autorun.sock")).unwrap();
}

#[test]
fn an_engine_that_refuses_keeps_the_slots_as_they_are_and_one_that_agrees_or_is_not_there_does_not()
{
    let device = Device::new(BOOT);
    fs::write(device.path("boot-a"), noise(1, 64 << 10)).unwrap();
    fs::write(device.path("boot-b"), noise(1, 64 << 10)).unwrap();
    let mut writer = device.writer();
    writer.until_ready();
    let image = |version| noise(version, 60_000);
    let carried = |version: u64| {
        bundle(&version.to_string(), version, &[("boot", Kind::Image, &image(version))])
    };
    let holds =
        |version: u64| fs::read(device.path("boot-b")).unwrap().starts_with(&image(version));

    let (_server, engine) = device.autorun();
    engine.0.lock().unwrap().1 = Some(Failure::new(Code::Failed, "the journal can't be written"));
    match writer.push(&carried(2), None, u64::MAX) {
        (Pushed::Refused(failure), 0) => {
            let text = failure["text"].as_str().unwrap();
            assert!(text.contains("the journal can't be written"), "{failure}");
        }
        (other, sent) => panic!("{other:?} after {sent} chunks"),
    }
    assert!(engine.0.lock().unwrap().0 == 1 && !holds(2));
    assert_eq!(writer.status()["state"], "idle");

    engine.0.lock().unwrap().1 = None;
    writer.install(&carried(3));
    writer.until_state(&["confirmed"]);
    assert!(engine.0.lock().unwrap().0 == 3 && holds(3));
    writer.end();

    // The socket is still there, and nobody behind it: the engine's program is asked, which can't say so either.
    fs::remove_file(device.path("run/autorun.sock")).unwrap();
    nobody(&device);
    device.install_autorun("#!/bin/sh\nexit 1\n");
    let mut writer = device.writer();
    writer.until_ready();
    match writer.push(&carried(4), None, u64::MAX) {
        (Pushed::Refused(failure), 0) => {
            assert!(failure["text"].as_str().unwrap().contains("and without it"), "{failure}");
        }
        (other, sent) => panic!("{other:?} after {sent} chunks"),
    }
    assert!(!holds(4));
    fs::remove_file(device.path("run/autorun.sock")).unwrap();
    writer.install(&carried(5));
    let status = writer.until_state(&["confirmed"]);
    assert!(holds(5), "{status}");
    assert_eq!(writer.answer(&json!("history")).as_array().unwrap().len(), 2);
    writer.end();
}

#[test]
fn an_engine_that_does_not_answer_is_stopped_and_its_program_invalidates_the_image_alone() {
    let device = Device::new(BOOT);
    for slot in ["boot-a", "boot-b"] {
        fs::write(device.path(slot), noise(1, 64 << 10)).unwrap();
    }
    device.supervisor.add("autorun");
    let told = device.path("told");
    device.install_autorun(&format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display()));
    nobody(&device);
    let mut writer = device.writer();
    writer.until_ready();
    writer.install(&bundle("2", 2, &[("boot", Kind::Image, &noise(2, 60_000))]));
    writer.until_state(&["confirmed"]);
    let folder = |name| device.path(name).display().to_string();
    let (run, config) = (folder("run"), folder("config"));
    let once =
        format!("--invalidate version 2 is installed --run-dir {run} --config-dir {config}\n");
    assert_eq!(fs::read_to_string(told).unwrap(), once.repeat(2));
    let asked = ["service.stop autorun", "service.start autorun"].repeat(2);
    assert_eq!(device.supervisor.calls(), asked);
    writer.end();
}
