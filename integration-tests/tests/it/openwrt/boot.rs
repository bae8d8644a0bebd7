//! Boot and shutdown with the links in `etc/rc.d`.

use std::{fs, process::Stdio};

use rustix::process::Signal;
use testkit::{Device, until};

use super::{Ran, Root, configs, each_shell};

fn rcs(root: &Root, words: &[&str]) -> Ran {
    let program = configs().join("lib/vestal/rcS").display().to_string();
    let mut command = root.command(&[&[program.as_str()], words].concat());
    command.env("RC_TIMEOUT", "20");
    root.ran(command)
}

#[test]
fn scripts_run_in_the_order_of_their_names_and_their_lines_are_marked() {
    each_shell(|root| {
        for (name, text) in [
            ("S20second", "echo \"two $1\"; echo oops >&2; exit 3"),
            ("S100first", "echo \"one $1\"; printf 'no end'"),
            ("S99third", "echo three; [ \"$PATH\" ]"),
            ("K10never", "echo wrong"),
        ] {
            root.program(
                &format!("etc/rc.d/{name}"),
                &format!("#!/bin/sh\necho {name} >> \"$FAKES/order\"\n{text}\n"),
            );
        }
        root.write("etc/rc.d/S50not-a-program", "echo wrong\n");
        let ran = rcs(root, &["S", "boot"]);
        assert_eq!(root.read("fakes/order"), "S100first\nS20second\nS99third\n");
        // A line may come while the next script runs already, but none is lost.
        let mut lines: Vec<&str> = ran.printed.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "S100first: no end",
                "S100first: one boot",
                "S20second: oops",
                "S20second: two boot",
                "S99third: three",
                "rcS: S20second boot: ended with 3",
            ]
        );
        assert_eq!((ran.code, ran.errors.as_str()), (Some(1), ""));
        assert_eq!(rcs(root, &["K", "shutdown"]).printed, "K10never: wrong\n");
    });
}

#[test]
fn a_script_that_takes_too_long_is_stopped_and_the_next_one_runs() {
    each_shell(|root| {
        root.program("etc/rc.d/S10slow", "#!/bin/sh\nexec sleep 600\n");
        root.program("etc/rc.d/S20next", "#!/bin/sh\necho next\n");
        let program = configs().join("lib/vestal/rcS").display().to_string();
        let mut command = root.command(&[&program, "S", "boot"]);
        command.env("RC_TIMEOUT", "1");
        let ran = root.ran(command);
        assert!(ran.printed.contains("rcS: S10slow boot: stopped after 1 s"), "{ran:?}");
        assert!(ran.printed.contains("S20next: next"), "{ran:?}");
        assert_eq!(ran.code, Some(1));
    });
}

/// Old scripts leave their daemons in the background, with the script's output still open.
#[test]
fn what_a_script_leaves_in_the_background_is_not_waited_for() {
    each_shell(|root| {
        root.program("etc/rc.d/S10daemon", "#!/bin/sh\nsleep 600 &\necho $! > \"$FAKES/pid\"\n");
        root.program("etc/rc.d/S20next", "#!/bin/sh\necho next > \"$FAKES/next\"\n");
        let program = configs().join("lib/vestal/rcS").display().to_string();
        let mut command = root.command(&[&program, "S", "boot"]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("the shell starts");
        let status = until("it ends", || child.try_wait().expect("it is our child"));
        root.shell("kill \"$(cat \"$FAKES/pid\")\"");
        assert!(status.success());
        assert_eq!(root.read("fakes/next"), "next\n");
    });
}

#[test]
fn what_holds_runs_the_last_scripts_when_it_is_told_to_stop() {
    each_shell(|root| {
        root.program("etc/rc.d/K10last", "#!/bin/sh\necho \"$1\" > \"$FAKES/last\"\n");
        let program = configs().join("lib/vestal/rcS").display().to_string();
        let mut child = root.command(&[&program, "hold"]).spawn().expect("the shell starts");
        let pid = i32::try_from(child.id()).expect("a pid");
        until("it can be told", || catches(pid, Signal::TERM).then_some(()));
        assert!(!root.path("fakes/last").exists());
        crate::support::kill(pid, Signal::TERM);
        let status = until("it ends", || child.try_wait().expect("it is our child"));
        assert!(status.success());
        assert_eq!(root.read("fakes/last"), "shutdown\n");
    });
}

/// The process has a handler for the signal, by proc_pid_status(5).
fn catches(pid: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
    let caught = caught.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    caught.is_some_and(|caught| caught & (1 << (signal.as_raw() - 1)) != 0)
}

#[test]
fn the_definitions_that_boot_a_device_are_valid() {
    let device = Device::new();
    let files: Vec<String> = fs::read_dir(configs().join("services.d"))
        .expect("it is shipped")
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .collect();
    assert_eq!(files.len(), 2);
    let arguments: Vec<&str> =
        ["service", "check"].into_iter().chain(files.iter().map(String::as_str)).collect();
    device.ctl_ok(&arguments);
}
