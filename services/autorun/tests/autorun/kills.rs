//! The engine is killed while targets run; the next one goes on in the same life.

use std::{collections::BTreeMap, fs};

use protocol::autorun::{State, Target};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use testkit::until;

use crate::device::Device;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Targets that each wait until they are let go on: one after another.
fn device(idempotent: bool) -> Device {
    let device = Device::new("linger = \"stay\"\nfreeze-mounted = false\n");
    for (at, name) in NAMES.iter().enumerate() {
        let gate = device.at(name);
        mknodat(CWD, &gate, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let after = at.checked_sub(1).map(|before| format!("after = [{:?}]\n", NAMES[before]));
        let rest = format!("{}idempotent = {idempotent}\n", after.unwrap_or_default());
        device.script(name, &format!("read x < {}", gate.display()), &rest);
    }
    device
}

fn until_ran(device: &Device, count: usize) {
    until("the next one runs", || (device.ran().len() >= count).then_some(()));
}

fn open(device: &Device, name: &str) {
    fs::write(device.at(name), "go\n").unwrap();
}

fn wake(device: &mut Device) {
    device.start();
    let slept = device.hibernate();
    device.until_off();
    device.resume();
    slept.join().unwrap().unwrap();
}

fn states(device: &Device) -> BTreeMap<String, Target> {
    let status = device.until_state(State::Done);
    status.targets.into_iter().map(|row| (row.name, row.state)).collect()
}

#[test]
fn wherever_it_is_killed_no_target_runs_twice_and_what_began_is_doubtful() {
    for killed in 0..NAMES.len() {
        let mut device = device(false);
        wake(&mut device);
        for name in &NAMES[..killed] {
            until_ran(&device, NAMES.iter().position(|it| it == name).unwrap() + 1);
            open(&device, name);
        }
        until_ran(&device, killed + 1);
        device.kill();
        device.start();
        for (at, name) in NAMES.iter().enumerate().skip(killed + 1) {
            until_ran(&device, at + 1);
            open(&device, name);
        }
        let states = states(&device);
        for (at, name) in NAMES.iter().enumerate() {
            let expected = if at == killed { Target::Doubtful } else { Target::Done };
            assert_eq!(states[*name], expected, "{name}, killed in {}", NAMES[killed]);
        }
        assert_eq!(device.ran(), NAMES);
        assert_eq!(device.record().ordinal, 1);
    }
}

#[test]
fn what_may_run_twice_runs_again_and_what_the_killed_engine_left_of_it_is_gone() {
    let mut device = device(true);
    wake(&mut device);
    until_ran(&device, 1);
    open(&device, "a");
    until_ran(&device, 2);
    device.kill();
    device.start();
    until_ran(&device, 3);
    until("only one of them runs", || {
        let mut left = testkit::processes_of(&device.at("run"));
        left.retain(|process| process.command.starts_with("/bin/sh"));
        (left.len() == 1).then_some(())
    });
    let status = until("all have run", || {
        NAMES.iter().for_each(|name| open_if_wanted(&device, name));
        let status = device.status();
        (status.state == State::Done).then_some(status)
    });
    assert!(status.targets.iter().all(|row| row.state == Target::Done));
    // That `a` had ended may not have been written down any more.
    let ran = device.ran();
    let again = ran.iter().skip(2).filter(|name| *name != "a");
    assert_eq!(again.collect::<Vec<_>>(), ["b", "c", "d"]);
    assert!(ran.iter().filter(|name| *name == "a").count() <= 2);
}

/// Lets it go on if it waits.
fn open_if_wanted(device: &Device, name: &str) {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK;
    if let Ok(gate) = rustix::fs::open(device.at(name), flags, Mode::empty()) {
        let _ = rustix::io::write(&gate, b"go\n");
    }
}

#[test]
fn wherever_it_is_killed_between_the_resume_and_the_first_target_the_life_goes_on_once() {
    let settings = "linger = \"stay\"\nunmount = [\"/data\"]\nswapoff = [\"/dev/vda5\"]\nguard = [\"/dev/vda2\"]\n";
    for point in ["reseed", "clock", "swapon", "thaw", "mount"] {
        let mut device = Device::new(settings);
        device.script("logo", "true", "");
        device.start();
        let slept = device.hibernate();
        device.until_off();
        fs::write(device.at("fake/kill").join(point), "").unwrap();
        device.resume();
        device.until_killed();
        drop(slept);
        device.start();
        device.until_state(State::Done);
        assert_eq!(device.ran(), ["logo"], "killed at {point}");
        assert_eq!(device.record().ordinal, 1, "killed at {point}");
        let mounts = fs::read_to_string(device.at("fake/proc/self/mountinfo")).unwrap();
        let swaps = fs::read_to_string(device.at("fake/proc/swaps")).unwrap();
        assert!(mounts.contains(" /data ") && swaps.contains("/dev/vda5 "), "killed at {point}");
        assert!(device.calls().contains(&"thaw /var".to_owned()), "killed at {point}");
    }
}
