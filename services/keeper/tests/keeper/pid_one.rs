//! PID 1 of a namespace that somebody made for it (root only): whatever it needs is there, and it leaves the machine alone.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use protocol::keeper::{Outcome, Request, ShutdownKind, Watchdog};

use crate::{
    PASSIVE,
    device::{Device, until},
};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("a keeper as PID 1: not tried, only root may make namespaces");
    }
    root
}

/// A file for a watchdog: every feeding is one byte more. It takes no time-out, and is open all the same.
fn watchdog_in_a_file(device: &Device) -> String {
    let (file, devices) = (device.path("watchdog"), device.path("dev"));
    fs::write(&file, "").unwrap();
    fs::create_dir(&devices).unwrap();
    format!(
        "set -e\nmount --rbind /dev '{devices}'\nmount -t tmpfs dev /dev\nfor name in null zero full random urandom; do\n  ln -s '{devices}/'$name /dev/$name\ndone\nln -s '{file}' /dev/watchdog",
        devices = devices.display(),
        file = file.display(),
    )
}

#[test]
fn a_keeper_that_feeds_the_watchdog_is_replaced_and_the_next_one_feeds_it_on() {
    if !is_root() {
        return;
    }
    let mut device = Device::start_as_pid_one(watchdog_in_a_file);
    let mut supervisor = device.supervisor();
    let pid = supervisor.run(1, &device.plan(1, "exec sleep 1000"), PASSIVE).pid;
    let feed = |run, frequency_s| {
        let (magic_close, timeout_s, lease_s) = (true, 600, 600);
        Request::Watchdog(Watchdog { run, magic_close, timeout_s, frequency_s, lease_s })
    };
    let fed = || fs::metadata(device.path("watchdog")).unwrap().len();
    let not_a_watchdog = Outcome::Errno(rustix::io::Errno::NOTTY.raw_os_error());
    assert_eq!(supervisor.ask(&feed(true, 300)), not_a_watchdog);
    until("its first feeding", || fed() == 1);
    for round in 1..4 {
        assert_eq!(supervisor.ask(&Request::Reexec), Outcome::Done, "round {round}");
        assert_eq!(supervisor.ask(&Request::Starts), Outcome::Count(round + 1));
        // Once by the old one before it went, once by the new one: long before the next feeding would be due.
        until("its feeding by both", || fed() == 1 + 2 * u64::from(round));
    }
    // The settings went along: from now on it is fed each second.
    assert_eq!(supervisor.ask(&feed(true, 1)), not_a_watchdog);
    assert_eq!(supervisor.ask(&Request::Reexec), Outcome::Done);
    let before = fed();
    until("its feeding each second", || fed() >= before + 3);
    // Whoever closes it closes the one that was opened first.
    assert_eq!(supervisor.ask(&feed(false, 1)), Outcome::Done);
    assert_eq!(fs::read(device.path("watchdog")).unwrap().last(), Some(&b'V'));
    assert_eq!(supervisor.wait(1, |_| true).pid, pid);
    let off = Request::Shutdown { kind: ShutdownKind::Poweroff, exit_code: 0 };
    assert_eq!(supervisor.ask(&off), Outcome::Done);
    supervisor.exit(0);
    device.wait_keeper();
}

#[test]
fn pid_one_of_a_container_mounts_nothing_and_leaves_out_words_that_it_does_not_know() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Whoever says twice that it is to end is in a hurry: the second supervisor ends the keeper, and so the namespace.
    let supervisor = format!(
        "#!/bin/sh\ncat /proc/self/mountinfo > {}\ncat /proc/self/oom_score_adj > {}\nkill -USR2 1\nexit 2\n",
        path("mounts.after"),
        path("score.after")
    );
    fs::write(path("supervisor"), supervisor).unwrap();
    fs::set_permissions(path("supervisor"), fs::Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "cat /proc/self/mountinfo > {}; cat /proc/self/oom_score_adj > {}; exec {} splash --run-dir {} single",
        path("mounts.before"),
        path("score.before"),
        env!("CARGO_BIN_EXE_vestal-keeper"),
        path("run"),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script])
        .env("VESTAL_SUPERVISOR", path("supervisor"))
        .output()
        .expect("util-linux is there");
    let text = String::from_utf8_lossy(&output.stderr);
    for word in ["splash", "single"] {
        let told = format!("keeper: the word {word} is not known here: left out\n");
        assert!(text.contains(&told), "{text}");
    }
    let read = |name: &str| fs::read_to_string(path(name)).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(read("mounts.after"), read("mounts.before"));
    assert_eq!(read("score.after"), read("score.before"), "children are as killable as before");
}
