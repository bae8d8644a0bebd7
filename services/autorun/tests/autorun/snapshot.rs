//! An image on a device of its own: written by the engine's child, resumed by the initramfs, which both are programs of this
//! test; a file stands for the device, and another one for what the kernel gives and takes.

use std::{fs, os::unix::fs::FileExt as _, process::Command};

use protocol::autorun::{Check, State};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use testkit::until;
use vestal_autorun::{
    image::{Head, STREAM, TRIES_MAX, Verdict, room},
    journal::{Record, Stage},
};

use crate::device::{Device, is_invalid};

const SIZE: u64 = STREAM + (128 << 20);
/// More than a part that is written at a time, and no whole number of blocks.
const LENGTH: usize = (1 << 20) + 5_000;
const SETTINGS: &str = "freeze-mounted = false\nswapoff = [\"/dev/vda1\", \"/dev/vda5\"]\n";

/// With an image's device that was never written, and the power off when it has to be.
fn device(back_end: &str) -> Device {
    let device = Device::new("");
    let (journal, image) = (device.at("journal"), device.at("image"));
    let text =
        format!("journal = {journal:?}\nimage = {image:?}\nback-end = {back_end:?}\n{SETTINGS}");
    fs::write(device.at("etc/autorun.toml"), text).unwrap();
    fs::File::create(image).unwrap().set_len(SIZE).unwrap();
    fs::write(device.at("fake/dev/snapshot"), stream()).unwrap();
    fs::write(device.at("fake/dev/snapshot.written"), "").unwrap();
    let power = device.at("fake/slow/poweroff");
    mknodat(CWD, power, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    device.script("logo", "true", "");
    device
}

fn stream() -> Vec<u8> {
    (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn head(device: &Device) -> Option<Head> {
    let file = fs::File::open(device.at("image")).unwrap();
    let heads = [0, 4096].map(|at| {
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, at).unwrap();
        Head::decode(&block, room(SIZE)).ok()
    });
    heads.into_iter().flatten().max_by_key(|head| head.sequence)
}

/// Writes the image, and switches off.
fn hibernated(device: &mut Device) -> std::thread::JoinHandle<Result<(), String>> {
    device.start();
    let slept = device.hibernate();
    until("the image is written", || device.calls().contains(&"poweroff".to_owned()).then_some(()));
    std::thread::spawn(move || {
        slept.join().unwrap().map(|_| ()).map_err(|failure| failure.text.to_string())
    })
}

/// The power comes back, and the engine goes on in the image.
fn wake(device: &Device) {
    fs::write(device.at("fake/slow/poweroff"), "\n").unwrap();
}

/// What the initramfs does and hears.
fn ask(device: &Device, option: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vestal-autorun"));
    command.env("VESTAL_RUN_DIR", device.at("run")).env("VESTAL_CONFIG_DIR", device.at("etc"));
    command.env("VESTAL_AUTORUN_FAKE", device.at("fake"));
    let output = command.arg(option).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// The machine boots cold; why.
fn cold(device: &Device) -> String {
    fs::write(device.at("fake/dev/snapshot.written"), "").unwrap();
    let (code, said) = ask(device, "--restore-image");
    assert_eq!(code, Some(0));
    assert!(!device.calls().contains(&"snapshot restore".to_owned()), "{said}");
    said
}

#[test]
fn an_image_is_written_to_its_device_and_resumed_from_there_until_its_lives_are_done_no_more() {
    let mut device = device("snapshot");
    let slept = hibernated(&mut device);
    let expected = Head {
        sequence: 1,
        length: LENGTH as u64,
        digest: Sha256::digest(stream()).into(),
        tries: 0,
        verdict: Verdict::Good,
        image: device.record().image,
    };
    assert_eq!(head(&device), Some(expected.clone()));
    assert_eq!(device.record().stage, Stage::Armed);
    let written = fs::read(device.at("image")).unwrap();
    let at = usize::try_from(STREAM).unwrap();
    assert!(written[at..at + LENGTH] == stream());
    drop(written);
    // The initramfs of the next boot.
    assert_eq!(ask(&device, "--restore-image"), (Some(0), String::new()));
    assert!(fs::read(device.at("fake/dev/snapshot.written")).unwrap() == stream());
    let calls = device.calls();
    assert!(calls.ends_with(&["snapshot freeze".to_owned(), "snapshot restore".to_owned()]));
    assert_eq!(head(&device).map(|head| head.tries), Some(1));
    // What the image has in memory goes on.
    wake(&device);
    slept.join().unwrap().unwrap();
    assert_eq!(device.ended().code(), Some(0));
    assert_eq!(device.ran(), ["logo"]);
    let head_now = head(&device).unwrap();
    assert_eq!((head_now.tries, head_now.verdict), (0, Verdict::Good));
    assert_eq!(device.record().stage, Stage::Done);

    // From now on each life ends before it is done.
    for tries in 1..=TRIES_MAX {
        assert_eq!(ask(&device, "--restore-image"), (Some(0), String::new()));
        assert_eq!(head(&device).map(|head| head.tries), Some(tries));
    }
    fs::write(device.at("fake/calls"), "").unwrap();
    for _ in 0..2 {
        let said = cold(&device);
        assert!(said.starts_with("autorun: cold boot: ") && said.contains("2 times"), "{said}");
        assert!(is_invalid(&Record { stage: Stage::Cold, ..device.record() }));
    }
    device.reset();
    device.start();
    let status = device.status();
    let reason = status.reason.unwrap_or_default();
    assert!(status.state == State::Cold && reason.contains("2 times"), "{reason}");
}

#[test]
fn a_stream_that_was_changed_is_never_resumed() {
    let mut device = device("auto");
    let slept = hibernated(&mut device);
    let file = fs::OpenOptions::new().write(true).open(device.at("image")).unwrap();
    file.write_all_at(&[1], STREAM + LENGTH as u64 - 1).unwrap();
    fs::write(device.at("fake/calls"), "").unwrap();
    let said = cold(&device);
    assert!(said.contains("is not what was written"), "{said}");
    assert!(device.calls().is_empty(), "it was frozen: {:?}", device.calls());
    assert_eq!(device.record().image, [0; 32]);
    assert!(cold(&device).contains("is not what was written"));
    // The engine that is in the image, and was resumed by somebody else, doesn't run either.
    wake(&device);
    assert!(slept.join().unwrap().unwrap_err().contains("not to be resumed any more"));
    assert!(device.ran().is_empty());
}

#[test]
fn what_is_not_the_image_of_the_journal_is_not_resumed() {
    let mut device = device("snapshot");
    assert!(cold(&device).contains("there is none"));
    let slept = hibernated(&mut device);
    let journal = device.journal();
    let other = Record { image: [7; 32], sequence: 99, ..device.record() };
    for (record, expected) in [
        (Some(other.clone()), "the journal is about another one"),
        (Some(Record { image: [0; 32], ..other }), "not to be resumed any more"),
        (None, "the journal is blank"),
    ] {
        let block = record.map_or([0; 4096], |record| *record.encode());
        device.set_journal(&[block, [0; 4096]].concat());
        let said = cold(&device);
        assert!(said.contains(expected), "{said}");
        assert_eq!(head(&device).map(|head| head.tries), Some(0));
    }
    device.set_journal(&[b"VAUTORN1".as_slice(), &[1; 8184]].concat());
    assert!(cold(&device).contains("checksum is wrong"));
    // A device that is shorter than the stream.
    device.set_journal(&journal);
    let file = fs::OpenOptions::new().write(true).open(device.at("image")).unwrap();
    file.set_len(STREAM + 4096).unwrap();
    assert!(cold(&device).contains("there is room for 4096"));
    // Settings that ask for something else, or for nothing.
    let settings = fs::read_to_string(device.at("etc/autorun.toml")).unwrap();
    fs::write(device.at("etc/autorun.toml"), settings.replace("\"snapshot\"", "\"sysfs\""))
        .unwrap();
    assert_eq!(cold(&device), "");
    fs::write(device.at("etc/autorun.toml"), "imag = 1").unwrap();
    assert!(cold(&device).contains("unknown key"), "{}", cold(&device));
    fs::remove_file(device.at("etc/autorun.toml")).unwrap();
    assert_eq!(cold(&device), "");
    device.kill();
    wake(&device);
    drop(slept);
}

#[test]
fn an_image_that_is_not_written_leaves_none_and_everything_as_it_was() {
    for (fails, expected) in [("snapshot", "stand still: no"), ("poweroff", "power off: no")] {
        let mut device = device("snapshot");
        // An image from before.
        let block = Head {
            sequence: 1,
            length: 1,
            digest: [1; 32],
            tries: 0,
            verdict: Verdict::Good,
            image: [9; 32],
        }
        .encode();
        let file = fs::OpenOptions::new().write(true).open(device.at("image")).unwrap();
        file.write_all_at(&*block, 0).unwrap();
        fs::remove_file(device.at("fake/slow/poweroff")).unwrap();
        fs::write(device.at("fake/fail").join(fails), "no").unwrap();
        device.start();
        let failure = device.hibernate().join().unwrap().unwrap_err();
        assert!(failure.text.contains(expected), "{}", failure.text);
        assert_eq!(head(&device), None, "{fails}");
        assert_eq!(device.status().state, State::Cold);
        assert!(is_invalid(&device.record()) && device.ran().is_empty());
        assert!(device.calls().contains(&"swapon /dev/vda5".to_owned()));
    }
}

#[test]
fn what_would_keep_the_image_from_being_written_is_told_before() {
    let problem = |device: &mut Device| {
        device.start();
        let check: Check = device.call("check", json!({})).unwrap();
        check.problems.join("; ")
    };
    let mut without = device("snapshot");
    fs::remove_file(without.at("fake/dev/snapshot")).unwrap();
    assert!(problem(&mut without).contains("CONFIG_HIBERNATION_SNAPSHOT_DEV"));
    let mut gone = device("snapshot");
    fs::remove_file(gone.at("image")).unwrap();
    assert!(problem(&mut gone).contains("No such file"));
    let mut small = device("snapshot");
    fs::File::create(small.at("image")).unwrap().set_len(STREAM + (9 << 20)).unwrap();
    assert!(problem(&mut small).contains("has room for 9 MiB, and the image needs about 100"));
    let mut disabled = device("snapshot");
    fs::write(disabled.at("fake/sys/power/disk"), "[disabled]\n").unwrap();
    assert!(problem(&mut disabled).contains("hibernation is disabled"));
    let mut swapping = device("snapshot");
    let swaps = "Filename\n/dev/zram0 partition 1 0 5\n/dev/vda9 partition 2048 0 -3\n";
    fs::write(swapping.at("fake/proc/swaps"), swaps).unwrap();
    assert!(problem(&mut swapping).contains("the swap /dev/vda9 is a part"));
    // Where another back end is left it is taken, and says why.
    let mut auto = device("auto");
    fs::remove_file(auto.at("fake/dev/snapshot")).unwrap();
    auto.start();
    let check: Check = auto.call("check", json!({})).unwrap();
    assert!(check.problems.is_empty(), "{check:?}");
    assert!(check.notes[0].starts_with("back end sysfs: not snapshot: /dev/snapshot"), "{check:?}");
}

#[test]
fn a_swap_is_resumed_from_only_where_the_journal_does_not_say_no() {
    let device = device("sysfs");
    let may = |device: &Device| {
        let (code, said) = ask(device, "--may-resume");
        assert_eq!(code == Some(1), said.starts_with("autorun: nothing is resumed"), "{said}");
        said
    };
    // Nobody has armed it by this journal.
    assert_eq!(may(&device), "");
    let armed = Record { image: [7; 32], sequence: 9, stage: Stage::Armed, ..Record::default() };
    let write = |record: &Record| {
        device.set_journal(&[*record.encode(), [0; 4096]].concat());
    };
    write(&armed);
    assert_eq!(may(&device), "");
    let there = Head {
        sequence: 1,
        length: 1,
        digest: [1; 32],
        tries: 0,
        verdict: Verdict::Good,
        image: [7; 32],
    };
    let file = fs::OpenOptions::new().write(true).open(device.at("image")).unwrap();
    file.write_all_at(&*there.encode(), 0).unwrap();
    assert!(may(&device).contains("the journal's image is on "));
    file.write_all_at(&[0; 8], 0).unwrap();
    write(&Record { image: [0; 32], ..armed });
    assert!(may(&device).contains("no image is to be resumed any more"));
    device.set_journal(&[b"VAUTORN1".as_slice(), &[1; 8184]].concat());
    assert!(may(&device).contains("checksum is wrong"));
    fs::write(device.at("etc/autorun.toml"), "journal = 1").unwrap();
    assert!(may(&device).contains("journal"));
    fs::write(device.at("etc/autorun.toml"), "").unwrap();
    assert_eq!(may(&device), "");
    fs::remove_file(device.at("etc/autorun.toml")).unwrap();
    assert_eq!(may(&device), "");
}
