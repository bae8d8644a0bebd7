//! What services print: bounded on disk, and kept while no supervisor lives.

use std::fs;

use rustix::process::Signal;
use testkit::{Device, until};

use crate::{
    adoption::{own_programs, replace},
    support::{demo, device_with, kill, printed, until_printed},
};

#[test]
fn five_megabytes_of_output_leave_two_files_of_a_bounded_size() {
    let script = "yes 0123456789012345678901234567890123456789 | head -c 5000000; echo; echo the end; exec sleep 1000";
    let device = device_with(&[("talk", format!("command = [\"sh\", \"-c\", {script:?}]\n"))]);
    until_printed(&device, "talk", "the end", 1);
    let folder = device.run_dir().join("state/supervisor/log");
    let mut sizes: Vec<(String, u64)> = fs::read_dir(&folder)
        .unwrap()
        .map(Result::unwrap)
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .filter(|(name, _)| name.starts_with("talk."))
        .collect();
    sizes.sort();
    let names: Vec<&str> = sizes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["talk.instance1.log", "talk.instance1.log.1"]);
    // A file is closed by the read that fills it: 256 KiB and at most one stamped pipe.
    assert!(sizes.iter().all(|(_, size)| *size < 400 * 1024), "{sizes:?}");
    assert!(sizes[1].1 >= 256 * 1024, "{sizes:?}");
}

#[test]
fn what_is_printed_while_no_supervisor_lives_is_in_the_log_of_the_next_one() {
    let mut device = Device::new();
    let programs = own_programs(&device);
    device.use_programs(&programs);
    let [gate, done] = ["gate", "done"].map(|name| device.folder().join(name));
    let steps = [
        "say=before",
        &format!("until={}", gate.display()),
        "lines=7000",
        &format!("append={}", done.display()),
    ];
    device.define("talk", &demo(&steps));
    device.start();
    let pid = device.until_pid("talk");
    until_printed(&device, "talk", "before", 1);
    let supervisor = programs.join("vestal-supervisor");
    let good = fs::read(&supervisor).unwrap();
    replace(&supervisor, b"#!/bin/sh\nexit 1\n");
    kill(device.supervisor_pid(), Signal::KILL);
    // More than a pipe holds, so that the keeper has to take it before the service can go on.
    fs::write(&gate, "").unwrap();
    until("all is printed", || done.exists().then_some(()));
    replace(&supervisor, &good);
    until("a supervisor answers", || device.ctl(&["status"]).status.success().then_some(()));
    until_printed(&device, "talk", "line 6999", 1);
    let kept = printed(&device, "talk");
    let expected = std::iter::once("before".to_owned())
        .chain((0..7000).map(|number| format!("line {number}")));
    assert!(kept.into_iter().eq(expected), "every line once, in its order");
    assert_eq!(device.until_pid("talk"), pid);
}
