//! What is refused, with its reason and its cure; and that what runs is untouched, and the next push works.

use std::{fs, path::PathBuf, process::Command};

use bundle::Kind;
use serde_json::{Value, json};

use crate::{
    installs::application,
    support::{Device, Pushed, Writer, bundle, noise},
};

fn refused(writer: &mut Writer, bytes: &[u8]) -> (String, Value) {
    match writer.push(bytes, None, u64::MAX) {
        (Pushed::Refused(failure), _) => (failure["text"].as_str().unwrap().to_owned(), failure),
        (other, _) => panic!("{other:?}"),
    }
}

#[test]
fn a_slot_that_is_too_small_or_taken_is_refused_and_the_next_push_works() {
    let device = application();
    let mut writer = device.writer();
    writer.until_ready();
    let image = noise(2, (1 << 20) + 1);
    let large = bundle("2", 2, &[("application", Kind::Image, &image)]);
    let (text, _) = refused(&mut writer, &large);
    assert!(text.contains("slot B of application has 1048576 bytes"), "{text}");
    assert_eq!(writer.status()["state"], "idle");
    fs::write(device.path("app-b"), noise(9, 1 << 20)).unwrap();
    let locked = fs::File::open(device.path("app-b")).unwrap();
    rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let small = bundle("2", 2, &[("application", Kind::Image, &image[..5000])]);
    let (text, _) = refused(&mut writer, &small);
    assert!(text.contains("app-b: is locked by another program; end that one first"), "{text}");
    drop(locked);
    writer.install(&small);
    writer.until_state(&["confirmed"]);
    writer.end();
}

#[test]
fn a_stranger_s_bundle_and_a_changed_chunk_are_refused_before_a_byte_is_written() {
    let device = application();
    let before = noise(9, 1 << 20);
    fs::write(device.path("app-b"), &before).unwrap();
    let mut writer = device.writer();
    writer.until_ready();
    let image = noise(2, 300_000);
    let bytes = bundle("2", 2, &[("application", Kind::Image, &image)]);
    let mut unsigned = bytes.clone();
    unsigned[60] ^= 1;
    let (_, failure) = refused(&mut writer, &unsigned);
    assert!(failure["details"]["reason"].is_string(), "{failure}");
    assert_eq!(fs::read(device.path("app-b")).unwrap(), before);
    let begin = json!({ "begin": { "flags": 0 } });
    let head = bundle::Header::parse(bytes.first_chunk().unwrap()).unwrap();
    let offer = &bytes[..usize::try_from(head.index_at()).unwrap()];
    let (outcome, _) = writer.ask(&begin, offer).unwrap();
    let session = outcome["Ok"]["session"].as_u64().unwrap();
    let chunk = json!({ "chunk": { "session": session, "component": 0, "chunk": 0 } });
    let (outcome, _) = writer.ask(&chunk, b"not what was signed").unwrap();
    assert!(outcome["Err"].is_object(), "{outcome}");
    let (outcome, _) = writer.ask(&begin, offer).unwrap();
    assert_eq!(outcome["Err"]["code"], "busy", "{outcome}");
    assert_eq!(fs::read(device.path("app-b")).unwrap(), before);
    writer.answer(&json!({ "leave": { "session": session } }));
    writer.install(&bytes);
    writer.until_state(&["confirmed"]);
    writer.end();
}

#[test]
fn a_device_without_settings_says_so_and_goes_on() {
    let device = Device::new("");
    fs::remove_file(device.path("config/upgrade.toml")).unwrap();
    let mut writer = device.writer();
    writer.until_ready();
    let status = writer.status();
    assert!(status["reason"].as_str().unwrap().contains("there is no upgrade.toml"), "{status}");
    let (text, _) = refused(&mut writer, &bundle("2", 2, &[("x", Kind::Image, b"x")]));
    assert!(text.contains("there is no upgrade.toml"), "{text}");
    assert_eq!(writer.answer(&json!("history")), json!([]));
    assert_eq!(writer.answer(&json!("device"))["product"], "");
    writer.end();
}

/// Unmounted at the end, whatever happens.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_state_directory_that_is_full_is_told_and_tried_again() {
    let device = application();
    let state = device.path("state");
    let place = state.to_str().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none", place]).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("left out: only root can mount a disk that is full");
        return;
    }
    let _unmount = Mounted(state.clone());
    let _ = fs::write(state.join("ballast"), vec![1; 60 << 10]);
    let bytes = bundle("2", 2, &[("application", Kind::Image, &noise(2, 5000))]);
    let mut writer = device.writer();
    writer.until_ready();
    let (text, _) = refused(&mut writer, &bytes);
    assert!(text.contains("free some space on the disk of the state directory"), "{text}");
    fs::remove_file(state.join("ballast")).unwrap();
    testkit::until("the writer has tried again", || {
        matches!(writer.push(&bytes, None, u64::MAX), (Pushed::Done, _)).then_some(())
    });
    writer.until_state(&["confirmed"]);
    writer.end();
}

#[test]
fn operators_and_the_keyring_are_told_to_the_network_side() {
    let device = application();
    let mut writer = device.writer();
    writer.until_ready();
    let told = writer.answer(&json!("device"));
    assert_eq!((&told["product"], &told["keyring"]), (&json!("demo"), &json!(1)));
    let operator = bundle::hex::encode(crate::support::key(5).public().octets());
    assert_eq!(told["operators"], json!([operator]));
    writer.end();
}

#[test]
fn without_its_descriptor_the_writer_says_who_starts_it() {
    let device = Device::new("");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vestal-upgrade"));
    let output = command.arg("--writer").arg("--run-dir").arg(device.path("run")).output().unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("start vestal-upgrade, which starts its writer"), "{told}");
}
